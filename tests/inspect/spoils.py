"""A whole chain, and one way to spoil it for each finding of `verify`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ckptctl.inspect.verify import Verified, execute_verify, plan_verify
from tests.bundle import builders
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    Increment,
    build_chain,
    changes,
    flip,
    full,
    increment,
    table,
    write_state,
)
from tests.oracle.images import (
    Filtered,
    Image,
    Piece,
    Row,
    Rows,
    Sliced,
    Tensor,
    edit_index,
    floats,
    ints,
    string,
    write_image,
)

KEYS = range(0, 3000, 7)
FULL = "model.ckpt-100"


def emb(keys: Any = KEYS, **more: Any) -> Any:
    facts = {"versions": 5, "freqs": 9, "filtered": {3: 1, 1004: 2}}
    return table("emb", keys, parts=2, **(facts | more))


PLAIN = {"dense": floats(*range(8), shape=(4, 2)), "words": string("ab", "c", shape=(2,))}


VAR = {"var": floats(*range(8), shape=(4, 2))}


def rows(*numbers: int, width: int = 2) -> Rows:
    return Rows("var", "float32", width, dict.fromkeys(numbers, b"\x00" * 4 * width))


def cut(tmp_path: Path) -> Chain:
    """A variable in eleven slices of three rows and one of two, in which there is no row 2."""
    sizes = [3] * 11 + [2]
    pieces = [Piece(((3 * part, size), (0, 2)), bytes(8 * size)) for part, size in enumerate(sizes)]
    ours = {"cut": Sliced("float32", (35, 2), sorted(pieces, key=str))}
    theirs = [Rows(f"cut/part_{part}", "float32", 2, {2: b"\1" * 8}) for part in range(len(sizes))]
    return build_chain(
        tmp_path,
        full(100, emb(), ours),
        increment(120, changes("emb", [7], parts=2, versions=6, freqs=9), *theirs),
    )


def whole(tmp_path: Path) -> Chain:
    return build_chain(
        tmp_path,
        full(100, emb(), PLAIN | VAR),
        increment(120, changes("emb", [7, 50], parts=2, versions=6, freqs=9), PLAIN, rows(1)),
        increment(
            140, changes("emb", [7, 50, 51], parts=2, versions=7, freqs=9), PLAIN, rows(1, 3)
        ),
    )


def look(directory: Path, **options: Any) -> Verified:
    chosen = {name: options.pop(name) for name in ("max_duration_s", "jobs") if name in options}
    return execute_verify(plan_verify(str(directory), **({"data": True} | options)), **chosen)


def codes(found: Verified) -> list[str]:
    return [finding.code for finding in found.findings]


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Give up root for a while: it may read everything."""
    for path in (directory.parent, directory):
        path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# --- the list of corruptions ----------------------------------------------------------


def of_index(change: Callable[[bytes], bytes]) -> Callable[[Chain], None]:
    def spoil(chain: Chain) -> None:
        path = Path(f"{chain.full_prefix(100)}.index")
        path.write_bytes(change(path.read_bytes()))

    return spoil


def of_entry(name: str, change: Callable[[Any], None]) -> Callable[[Chain], None]:
    def edit(key: bytes, message: Any) -> None:
        if key == name.encode():
            change(message)

    return lambda chain: edit_index(chain.full_prefix(100), edit)


def instead(chain: Chain, image: Image) -> None:
    """Write a checkpoint in the place of another."""
    home = chain.directory / INCREMENTS if isinstance(image, Increment) else chain.directory
    for path in home.glob(f"*-{image.step}.*"):
        path.unlink()
    chain.add(image)


def of_full(*things: Any, **fields: Any) -> Callable[[Chain], None]:
    return lambda chain: instead(chain, full(100, *things, VAR, **fields))


def of_increment(*things: Any, step: int = 140, **fields: Any) -> Callable[[Chain], None]:
    return lambda chain: instead(chain, increment(step, *things, **fields))


def of_byte(suffix: str, at: int = 0, step: int = 100) -> Callable[[Chain], None]:
    """Flip a byte of a tensor."""

    def spoil(chain: Chain) -> None:
        from ckptctl.bundle import BundleReader

        with BundleReader(str(chain.prefix(step))) as reader:
            entry = reader.entry(suffix)
            flip(Path(reader.shard_path(entry.shard)), entry.offset + at)

    return spoil


def evs(change: Callable[[Any], Any], slot: str = "", part: int = 0) -> list[Any]:
    """Return the table with one EV changed."""
    return [change(ev) if (ev.slot, ev.part) == (slot, part) else ev for ev in emb()]


def move_entry(message: Any) -> None:
    message.offset -= 4


def twins(chain: Chain) -> None:
    for path in chain.directory.glob(f"{FULL}.*"):
        shutil.copy(path, path.with_name(path.name.replace("-100", "-0100")))


def rolled_back(chain: Chain) -> None:
    write_image(full(300, emb(), PLAIN), chain.full_prefix(300))
    names = ["model.ckpt-300", "model.ckpt-100"]
    write_state(chain.directory, names)


def copied(chain: Chain) -> None:
    home = chain.directory.with_name("elsewhere")
    shutil.copytree(chain.directory, home)
    write_state(chain.directory, [str(home / FULL)])


def unproven(chain: Chain) -> None:
    write_state(chain.directory, [FULL, "model.ckpt-110"])


def idle_shard(chain: Chain) -> None:
    instead(chain, full(100, emb(shards=2), PLAIN | VAR, shards=2))
    for step in (120, 140):
        instead(chain, increment(step, changes("emb", [50], parts=2), PLAIN))


def unreadable(chain: Chain) -> None:
    next(chain.directory.glob(f"{FULL}.data*")).chmod(0)


SPOILS: dict[str, Callable[[Chain], None]] = {
    "CK001": of_index(lambda data: data[:20]),
    "CK002": of_index(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "CK003": of_index(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "CK004": of_index(lambda _: builders.table([(b"~", b"\xff" * 9)])),
    "CK005": of_index(
        lambda _: builders.index_of([(b"b", builders.of_data(1, [1], b"")), (b"a", b"")])
    ),
    "CK006": of_index(lambda _: builders.index_of([], head=builders.header(0))),
    "CK007": of_entry("dense", lambda m: setattr(m, "size", m.size - 4)),
    "CK008": lambda chain: next(chain.directory.glob(f"{FULL}.data*")).unlink(),
    "CK009": lambda chain: os.truncate(next(chain.directory.glob(f"{FULL}.data*")), 100),
    "CK010": of_entry("dense", move_entry),
    "CK011": lambda chain: (chain.directory / "checkpoint").write_text("nothing {"),
    "CK012": of_full(emb(), PLAIN, raw={"emb/part_0-versions": ints("int64", [1, 2])}),
    "CK013": lambda chain: instead(chain, full(100, emb()[:-1], PLAIN | VAR)),
    "CK014": of_full(
        emb(), PLAIN | {"cut": Sliced("float32", (3, 2), [Piece(((0, 2), (0, 2)), bytes(16))])}
    ),
    "CK015": of_full(
        emb(), PLAIN, table("narrow", [1, 2], filtered=[7], freqs=3, key_type="int32")
    ),
    "CK020": lambda chain: (chain.directory / "checkpoint").unlink(),
    "CK021": lambda chain: write_state(chain.directory, ["model.ckpt-50", FULL]) and None,
    "CK022": copied,
    "CK023": of_increment(
        changes("emb", [7, 50, 51], parts=2), PLAIN,
        lineage={"version": 1, "base_step": 90, "previous_step": None, "mode": "cumulative"},
    ),
    "CK024": of_increment(changes("emb", [7], parts=2), PLAIN, rows(1)),
    "CK025": rolled_back,
    "CK026": of_increment(changes("emb", [], parts=2), PLAIN),
    "CK027": unproven,
    "CK028": of_increment(changes("emb", [7], parts=2), PLAIN, step=50),
    "CK029": twins,
    "CK030": of_full(emb(), table("part_0/t", [1], parts=2), PLAIN),
    "CK031": lambda chain: (chain.directory / "model.ckpt-9_temp_00ff").mkdir(),
    "CK032": of_full(emb(), PLAIN, {"ckptctl/merged": string(json.dumps(
        {"version": 1, "base_step": 80, "up_to": 90, "mode": "cumulative"}))}),
    "CK033": idle_shard,
    "CK034": lambda chain: (chain.directory / ".ckptctl").mkdir()
    or ((chain.directory / ".ckptctl" / "removed.jsonl").write_text("nothing\n") and None),
    "CK035": lambda chain: (chain.directory / f"{FULL}.data-00000-of-00003").touch(),
    "CK036": lambda chain: write_state(chain.directory, [f"/gone/{FULL}"]) and None,
    "CK037": lambda chain: (chain.directory / "model.ckpt-50").touch()
    or (write_state(chain.directory, ["model.ckpt-50", FULL]) and None),
    "CK050": of_byte("emb/part_0-values"),
    "CK051": of_entry("words", lambda m: setattr(m, "size", m.size - 1)),
    "CK052": of_full(emb(), PLAIN, raw={
        "emb/part_0-partition_offset": Tensor("int32", (1001,), np.full(1001, 5, "<i4").tobytes())
    }),
    "CK053": of_full(evs(lambda ev: replace(ev, rows=[ev.rows[0], *ev.rows])), PLAIN),
    "CK054": of_full(
        evs(lambda ev: replace(ev, rows=[*ev.rows, Row(998, 4, b"\0" * 8, 1, 9)])), PLAIN
    ),
    "CK055": of_full(
        evs(lambda ev: replace(ev, rows=[Row(0, -3, b"\0" * 8, 1, 9), *ev.rows])), PLAIN
    ),
    "CK056": of_full(
        evs(lambda ev: replace(ev, filtered=[Filtered(14, 14, 1, 1)])), PLAIN
    ),
    "CK057": of_full(evs(lambda ev: replace(ev, versions=False), part=1), PLAIN),
    "CK058": of_full(
        evs(lambda ev: replace(ev, filtered=[Filtered(4, 1004, 1, 10)])), PLAIN
    ),
    "CK059": of_full(evs(lambda ev: replace(ev, rows=ev.rows[:-2]), slot="Adagrad"), PLAIN),
    "CK060": of_full(emb(), PLAIN | {"dense": floats(1.0, float("inf"), float("nan"))}),
    "CK061": of_full(emb({7: 1.0, 14: 3e38}), PLAIN),
    "CK062": of_increment(changes("emb", [7, 50, 51], parts=2), PLAIN, rows(-1, 3)),
    "CK063": of_increment(changes("emb", [7, 50, 51], parts=2), PLAIN, rows(1, 4)),
    "CK090": unreadable,
}  # fmt: skip
