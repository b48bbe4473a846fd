"""Scans of directories that never were: checkpoints with given contents, without files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ckptctl.chain import (
    Chains,
    Checkpoint,
    Contents,
    Facts,
    Lineage,
    Merged,
    Removed,
    Scan,
    SparseRows,
    StateFile,
    find_chains,
    split_step,
)
from ckptctl.errors import DamageError, StateFileError, UnreadableError
from ckptctl.storage import FileInfo

DIRECTORY = "/ckpt"
INCREMENTS = "/ckpt/.incremental_checkpoint"
NEEDED = 100


@dataclass
class FakeSource:
    """A source that counts what is asked of it."""

    known: Facts
    content: Contents | DamageError
    step: int | None
    entered: bool = False
    saved: float | None = None
    asked: list[str] = field(default_factory=list)

    def facts(self) -> Facts:
        self.asked.append("facts")
        return self.known

    def contents(self) -> Contents:
        self.asked.append("contents")
        if isinstance(self.content, DamageError):
            raise self.content
        return self.content

    def global_step(self) -> int | None:
        self.asked.append("global_step")
        return self.step

    def mark(self) -> Mapping[str, object]:
        self.asked.append("mark")
        return {"listed": self.entered, "saved": self.saved}


def info(name: str, size: int = NEEDED, at: float = 0, **changes: object) -> FileInfo:
    facts = {
        "inode": 1,
        "device": 1,
        "mode": 0o100644,
        "uid": 0,
        "gid": 0,
        "is_dir": False,
        "is_symlink": False,
    }
    return FileInfo(name, size, int(at * 1e9), **(facts | changes))  # type: ignore[arg-type]


def rows(**tables: int | tuple[int, int]) -> dict[str, SparseRows]:
    """Return sparse tensors: rows, or (rows, shard), by name; `__` stands for `/`."""
    found = {}
    for name, value in tables.items():
        count, shard = value if isinstance(value, tuple) else (value, 0)
        name = name.replace("__", "/")
        pieces = [piece for piece in name.split("/") if not piece.startswith("part_")]
        found[name] = SparseRows(count, shard, "/".join(pieces))
    return found


def normal(count: int, shard: int = 0) -> SparseRows:
    return SparseRows(count, shard, normal=True)


def _checkpoint(
    kind: str,
    step: int,
    *,
    at: float | None = None,
    name: str | None = None,
    facts: Facts | None = None,
    sparse: Mapping[str, SparseRows] | None = None,
    dense: Mapping[str, tuple[int, ...]] | None = None,
    global_step: int | None = -1,
    damage: bool = False,
    late_damage: bool = False,
    missing: bool = False,
    short: bool = False,
    mark: bool = False,
    ours: bool = False,
    away: bool = False,
    entered: bool = False,
    saved: float | None = None,
) -> Checkpoint:
    base = "model.ckpt" if kind == "full" else "incremental_model.ckpt"
    name = name or f"{base}-{step}"
    parts = split_step(name)
    assert parts is not None
    if damage:
        facts = Facts(damage=DamageError("bad magic number", file=name), ours=ours)
    if away:
        facts = Facts(damage=UnreadableError("link that leads nowhere", file=name))
    contents: Contents | DamageError = Contents(
        tensors=5,
        tables=1,
        keys=10,
        sparse=rows(emb=10) if sparse is None else sparse,
        dense=dense or {},
        needs=(NEEDED,),
    )
    if late_damage:
        contents = DamageError("index block does not match its checksum", file=name)
    shard = info(f"{name}.data-00000-of-00001", NEEDED - 1 if short else NEEDED)
    return Checkpoint(
        kind=kind,  # type: ignore[arg-type]
        step=parts[1],
        base_name=parts[0],
        name=name,
        prefix=f"{DIRECTORY if kind == 'full' else INCREMENTS}/{name}",
        index=info(
            f"{name}.index",
            10,
            step if at is None else at,
            **({"mode": 0o120777, "is_symlink": True} if away else {}),
        ),
        source=FakeSource(
            facts or Facts(), contents, step if global_step == -1 else global_step, entered, saved
        ),
        shards=() if missing else (shard,),
        mark=info(f"{name}.ckptctl.json", 1) if mark else None,
    )


def full(step: int, **options: object) -> Checkpoint:
    """Return a full; without `at` it was written `step` seconds after the epoch."""
    return _checkpoint("full", step, **options)  # type: ignore[arg-type]


def other(step: int, **options: object) -> Checkpoint:
    """Return a bundle of another base name."""
    return _checkpoint("other", step, **({"name": f"model.ckpt-{step}"} | options))  # type: ignore[arg-type]


def merged(
    step: int,
    base: int,
    *,
    up_to: int | None = None,
    last: str | None = None,
    onto: int | None = None,
    **options: object,
) -> Checkpoint:
    """Return a full that ckptctl merged from `base`, written long after everything else.

    `last` is the id of the last increment in it, `onto` the full that they were applied to.
    """
    own = Merged(base, step if up_to is None else up_to, last_id=last, applied_to=onto)
    facts = Facts(merged=own)
    return full(step, facts=facts, mark=True, **({"at": 100_000 + step} | options))


def incr(
    step: int,
    *,
    base: int | None = None,
    previous: int | None = None,
    delta: bool = False,
    ids: tuple[str | None, str | None] = (None, None),
    line: str | None = None,
    **options: object,
) -> Checkpoint:
    """Return an increment; `base` gives it a lineage, `ids` its own and its predecessor's.

    `line` are those of all before it, a letter each.
    """
    facts = Facts()
    if base is not None:
        mode = "delta" if delta else "cumulative"
        told = None if line is None else "".join(each.ljust(8) for each in line)
        facts = Facts(lineage=Lineage(base, previous, mode, *ids, told))
    options = {"facts": facts} | options
    return _checkpoint("increment", step, **options)  # type: ignore[arg-type]


def state(
    kind: str, names: Iterable[int | str] | None, at: float, latest: int | str | None = None
) -> StateFile:
    """Return a state file that lists these steps; None: there is no file."""
    base = "model.ckpt" if kind == "full" else "incremental_model.ckpt"
    path = f"{DIRECTORY if kind == 'full' else INCREMENTS}/checkpoint"
    if names is None:
        return StateFile(path)
    listed = tuple(n if isinstance(n, str) else f"{base}-{n}" for n in names)
    if latest is None:
        last = listed[-1]
    else:
        last = latest if isinstance(latest, str) else f"{base}-{latest}"
    return StateFile(path, True, int(at * 1e9), listed, last)


ALL = object()


def build_scan(
    *checkpoints: Checkpoint,
    fulls: object = ALL,
    increments: object = ALL,
    named_full: int | str | None = None,
    named_increment: int | str | None = None,
    full_state_at: float | None = None,
    increment_state_at: float | None = None,
    removed: Iterable[Removed] = (),
    broken_state: bool = False,
) -> Scan:
    """Return a scan; the state files list everything by step unless told otherwise.

    `fulls` and `increments` are the steps (or names) that the state files list, in write
    order, None for no state file. State files were written 1 s after the newest that they
    list, unless told otherwise.
    """
    found = sorted(checkpoints, key=lambda item: (item.step, item.name))
    by_kind = {
        kind: tuple(item for item in found if item.kind == kind) for kind in ("full", "increment")
    }
    states = {}
    for kind, asked, named, at in (
        ("full", fulls, named_full, full_state_at),
        ("increment", increments, named_increment, increment_state_at),
    ):
        names = [item.name for item in by_kind[kind]] if asked is ALL else asked
        listed = names or None
        if at is None:
            in_list = [
                item.mtime_ns
                for item in by_kind[kind]
                if listed and (item.name in listed or item.step in listed)
                if kind == "increment" or item.merged is None
            ]
            at = max(in_list, default=0) / 1e9 + 1
        states[kind] = state(kind, listed, at, named)  # type: ignore[arg-type]
    if broken_state:
        path = f"{DIRECTORY}/checkpoint"
        states["full"] = StateFile(path, True, error=StateFileError("does not parse", file=path))
    return Scan(
        directory=DIRECTORY,
        fulls=by_kind["full"],
        increments=by_kind["increment"],
        full_state=states["full"],
        increment_state=states["increment"],
        increment_directory=INCREMENTS,
        others=tuple(item for item in found if item.kind == "other"),
        removed=tuple(removed),
    )


def chains_of(*checkpoints: Checkpoint, **options: object) -> Chains:
    """Return the chains of `build_scan(...)`; `assume_order` and nested pairs go to them."""
    own = {"assume_order", "failed_nested", "proven_nested"}
    known = {key: options.pop(key) for key in own & set(options)}
    return find_chains(build_scan(*checkpoints, **options), **known)  # type: ignore[arg-type]


def label(checkpoint: Checkpoint) -> str:
    """Return F100, M100 (merged) or I100."""
    if checkpoint.kind == "increment":
        return f"I{checkpoint.step}"
    return f"{'F' if checkpoint.merged is None else 'M'}{checkpoint.step}"


def statuses(chains: Chains) -> dict[str, str]:
    """Return the status of every full and increment by its label."""
    found = (*chains.scan.fulls, *chains.scan.increments)
    return {label(item): chains.status(item) for item in found}


def abandoned(chains: Chains) -> set[str]:
    """Return the labels of what is not live."""
    found = (*chains.scan.fulls, *chains.scan.increments)
    return {label(item) for item in found if not chains.is_live(item)}


def only(chains: Chains, step: int) -> Checkpoint:
    """Return the increment at a step."""
    found = chains.increment_at(step)
    assert found is not None
    return found
