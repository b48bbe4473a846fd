"""Checkpoint directories made of images, and merging them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.merge import MergePlan, MergeResult, execute_merge, plan_merge
from ckptctl.restore import RestoreOptions
from tests.oracle.images import (
    Ev,
    Filtered,
    HashTable,
    Image,
    Row,
    Rows,
    Sliced,
    Tensor,
    assert_bundle,
    bucket_of,
    scalar,
    write_image,
)
from tests.oracle.rules import apply

INCREMENTS = ".incremental_checkpoint"
_OPTIONS = ("increments", "base", "assume_order", "keep_missing", "add_new", "drop_unpaired")
Thing = Any  # Ev, Rows, lists of them, or {name: Tensor}


def value(x: float, member: int = 0, dim: int = 2) -> bytes:
    """Return a row: the primary's is `x` in every column, slots add a quarter each."""
    return np.full(dim, x + member / 4, "<f4").tobytes()


def table(
    name: str,
    keys: Mapping[int, float] | Iterable[int] = (),
    *,
    parts: int | None = None,
    slots: Sequence[str] = ("Adagrad",),
    dim: int = 2,
    versions: int | None = None,
    freqs: int | None = None,
    filtered: Mapping[int, int] | Iterable[int] = (),
    shards: int = 1,
    lacking: Mapping[str, Iterable[int]] | None = None,
    incremental: bool = False,
    old: bool = False,
    **more: Any,
) -> list[Ev]:
    """Return the EVs of a table.

    `keys` are in file order (inside their buckets); with a mapping, their value, else the
    key itself. `lacking` names keys without a row in a member ("" the primary).
    """
    items = dict(keys) if isinstance(keys, Mapping) else {key: float(key) for key in keys}
    away = dict(filtered) if isinstance(filtered, Mapping) else dict.fromkeys(filtered, 1)
    columns = (versions or 0, freqs or 0)
    found = []
    for part in range(parts or 1):
        for at, slot in enumerate(("", *slots)):
            absent = set((lacking or {}).get(slot, ()))
            rows = [
                Row(None if old else bucket_of(key), key, value(x, at, dim), *columns)
                for key, x in items.items()
                if bucket_of(key) % (parts or 1) == part and key not in absent
            ]
            ev = Ev(
                name,
                slot,
                None if parts is None else part,
                parts or 1,
                dim,
                rows,
                [
                    Filtered(bucket_of(key), key, versions or 0, freq)
                    for key, freq in away.items()
                    if bucket_of(key) % (parts or 1) == part
                ],
                versions=versions is not None,
                freqs=freqs is not None,
                versions_filtered=versions is not None,
                incremental=incremental,
                old=old,
                shard=part % shards,
                **more,
            )
            found.append(ev.ordered())
    return found


def changes(name: str, keys: Mapping[int, float] | Iterable[int] = (), **more: Any) -> list[Ev]:
    """Return the EVs of a table in an increment."""
    return table(name, keys, incremental=True, **more)


def put(things: Thing, **fields: Any) -> list[Ev]:
    """Return EVs with fields replaced."""
    return [replace(ev, **fields) for ev in things]


def image(step: int, *things: Thing, **fields: Any) -> Image:
    """Return a checkpoint that holds these things, and `global_step`."""
    made = Image(step, **fields)
    for thing in things:
        for item in thing if isinstance(thing, list) else [thing]:
            if isinstance(item, Ev):
                made.evs.append(item)
            elif isinstance(item, Rows):
                made.rows.append(item)
            else:
                for name, tensor in item.items():
                    home = made.hashes if isinstance(tensor, HashTable) else made.plain
                    home[name] = tensor
    made.plain.setdefault("global_step", scalar("int64", step))
    return made


@dataclass
class Full(Image):
    """A full."""


@dataclass
class Increment(Image):
    """An increment."""


def full(step: int, *things: Thing, **fields: Any) -> Full:
    return Full(**vars(image(step, *things, **fields)))


def increment(step: int, *things: Thing, **fields: Any) -> Increment:
    return Increment(**vars(image(step, *things, **fields)))


@dataclass
class Chain:
    """A checkpoint directory and what is in it, by step."""

    directory: Path
    fulls: dict[int, Image] = field(default_factory=dict)
    increments: dict[int, Image] = field(default_factory=dict)
    pad: int = 0

    def full_prefix(self, step: int) -> Path:
        return self.directory / f"model.ckpt-{step:0{self.pad}d}"

    def increment_prefix(self, step: int) -> Path:
        return self.directory / INCREMENTS / f"incremental_model.ckpt-{step:0{self.pad}d}"

    def prefix(self, step: int) -> Path:
        return (self.increment_prefix if step in self.increments else self.full_prefix)(step)

    def add(self, *images: Image) -> None:
        """Write checkpoints, fulls and increments as their class says."""
        for item in images:
            if isinstance(item, Increment):
                self.increments[item.step] = item
                self.increment_prefix(item.step).parent.mkdir(exist_ok=True)
                write_image(item, self.increment_prefix(item.step))
            else:
                self.fulls[item.step] = item
                write_image(item, self.full_prefix(item.step))

    def list_all(self) -> None:
        """Write both state files, listing everything."""
        write_state(self.directory, [self.full_prefix(s).name for s in sorted(self.fulls)])
        if self.increments:
            names = [self.increment_prefix(step).name for step in sorted(self.increments)]
            write_state(self.directory / INCREMENTS, names)

    def plan(self, upto: int | None = None, output: object = None, **options: Any) -> MergePlan:
        """Plan a merge; restore options and others alike are named."""
        own = {name: options.pop(name) for name in _OPTIONS if name in options}
        return plan_merge(
            str(self.directory),
            upto,
            None if output is None else str(output),
            RestoreOptions(**own),
            **options,
        )

    def merge(
        self, upto: int | None = None, output: object = None, jobs: int = 1, **options: Any
    ) -> MergeResult:
        """Plan and execute."""
        return execute_merge(self.plan(upto, output, **options), jobs=jobs)

    def expect(self, base: int, *steps: int, **options: Any) -> Image:
        """Return what a full with these increments applied must be."""
        return apply(self.fulls[base], [self.increments[step] for step in steps], **options)

    def check(
        self, base: int, *steps: int, prefix: object = None, merged: bool = True, **options: Any
    ) -> None:
        """Fail unless the merged full is a full with these increments applied."""
        made = prefix if prefix is not None else self.full_prefix(steps[-1])
        state = self.expect(base, *steps, **options)
        assert_bundle(str(made), state, merged=merged, like=self.full_prefix(base))


def build_chain(directory: Path, *images: Image, listed: bool = True, pad: int = 0) -> Chain:
    """Write a checkpoint directory of fulls and increments, and its state files."""
    home = Path(directory) / "chain"
    home.mkdir()
    chain = Chain(home, pad=pad)
    chain.add(*images)
    if listed:
        chain.list_all()
    return chain


def write_state(
    room: Path, names: Sequence[str], *, latest: str | None = None, times: Sequence[float] = ()
) -> Path:
    """Write a state file as TensorFlow does."""
    lines = [f'model_checkpoint_path: "{latest or names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    lines += [f"all_model_checkpoint_timestamps: {time!r}" for time in times]
    path = Path(room) / "checkpoint"
    path.write_text("\n".join(lines) + "\n")
    return path


def listing(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """Name to (inode, size, mtime, mode) of all below; ckptctl's own room left out."""
    found = {}
    for path in sorted(Path(directory).rglob("*")):
        name = str(path.relative_to(directory))
        if name.split(os.sep)[0] == ".ckptctl":
            continue
        info = path.lstat()
        found[name] = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_mode)
    return found


def flip(path: Path, offset: int, bits: int = 1) -> None:
    """Flip bits of one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        old = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([old ^ bits]))


def rows_of(prefix: object, name: str) -> dict[int, float]:
    """Key to the first column of its value, all parts of a member, in file order."""
    member, _, slot = name.partition(":")
    pattern = re.compile(rf"{re.escape(member)}(/part_\d+)?{'/' + slot if slot else ''}-keys")
    found: dict[int, float] = {}
    with BundleReader(str(prefix)) as reader:
        for full_name in reader.tensors:
            if pattern.fullmatch(full_name):
                keys = reader.read(full_name).tolist()
                values = reader.read(full_name.removesuffix("-keys") + "-values")
                found |= zip(keys, values[:, 0].tolist(), strict=True)
    return found


def read(prefix: object, name: str) -> list[Any]:
    """A whole tensor as a list."""
    with BundleReader(str(prefix)) as reader:
        found: list[Any] = reader.read(name).tolist()
        return found


def mark_of(prefix: Path) -> dict[str, Any]:
    """Return the provenance file of a merged full."""
    found = json.loads(Path(f"{prefix}.ckptctl.json").read_text())
    assert isinstance(found, dict)
    return found


__all__ = [
    "INCREMENTS",
    "Chain",
    "Full",
    "Increment",
    "Sliced",
    "Tensor",
    "build_chain",
    "changes",
    "flip",
    "full",
    "image",
    "increment",
    "listing",
    "mark_of",
    "put",
    "read",
    "rows_of",
    "table",
    "value",
    "write_state",
]
