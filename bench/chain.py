"""Writes the chains that are measured: `python -m bench.chain DIR --keys N ...`.

A full at step 1000 and increments from step 1100 on in DeepRec's layout: the table `emb` with
an Adagrad slot in some parts, one a shard. Keys are unique, a tenth of an increment's are new.
Everything is written bucket by bucket, so that memory stays small at any size.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ckptctl.bundle import BundleWriter, dtype_by_name

Array = np.ndarray[Any, Any]

BUCKETS, DIM = 1000, 16
FULL_STEP, INCREMENT_STEP = 1000, 1100
NEW = 0.1
NONE = np.zeros(0, np.int64)
#: Random rows that are written over and over: what they hold makes no difference.
ROWS = np.random.default_rng(1).random((1 << 16, DIM), np.float32)


@dataclass(frozen=True)
class Shape:
    """What a chain is like; `lopsided` is '', 'table' or 'bucket'."""

    keys: int
    parts: int = 2
    columns: bool = False
    dense: int = 0
    lopsided: str = ""

    def tables(self) -> dict[str, int]:
        """Return the tables and how many keys each has: one may have 90% of them all."""
        if self.lopsided != "table":
            return {"emb": self.keys}
        rest = self.keys // 10
        return {"emb": self.keys - rest} | {f"small_{i}": rest // 9 for i in range(9)}

    def counts(self, keys: int) -> list[int]:
        """Return how many keys are in each bucket: one may have half of them all."""
        if self.lopsided != "bucket":
            return [max(1, keys // BUCKETS)] * BUCKETS
        return [keys // 2] + [max(1, keys // 2 // (BUCKETS - 1))] * (BUCKETS - 1)

    def buckets(self, part: int) -> range:
        return range(part, BUCKETS, self.parts)


def numbered(bucket: int, count: int, numbers: Array) -> Array:
    """Return the keys of these numbers in a bucket of `count`: distinct, and in no order."""
    bits = (4 * count + 2000).bit_length()
    mask, half = (1 << bits) - 1, bits // 2
    mixed = numbers.astype(np.int64)
    # Each step is a bijection of so many bits.
    for odd in (0x9E3779B1, 0x85EBCA6B):
        mixed = (mixed ^ mixed >> half) * odd & mask
    return bucket + BUCKETS * (mixed ^ mixed >> half)


def full_keys(bucket: int, count: int) -> Array:
    """Return the keys of a bucket, in no order, as a full has them."""
    return numbered(bucket, count, np.arange(count))


def increment_keys(bucket: int, count: int, changed: int, series: int) -> Array:
    """Return the keys of a bucket, ascending, as an increment has them."""
    new = max(1, round(changed * NEW))
    known = min(changed - new, count)
    stride = count // max(known, 1)
    numbers = np.arange(known) * stride + series % stride
    fresh = count + series * new + np.arange(new)
    return np.sort(numbered(bucket, count, np.concatenate([numbers, fresh])))


def offsets(shape: Shape, part: int, counts: list[int]) -> Array:
    own = [count if b % shape.parts == part else 0 for b, count in enumerate(counts)]
    return np.concatenate([[0], np.cumsum(own)]).astype(np.int32)


def stream(writer: BundleWriter, name: str, part: int, pieces: Iterator[Array], rows: int) -> None:
    """Write a tensor of keys or rows piece by piece."""
    first = next(pieces)
    shape = (rows, *first.shape[1:])
    with writer.stream(name, dtype_by_name(first.dtype.name), shape, shard=part) as sink:
        sink.write(first.data)
        for piece in pieces:
            sink.write(piece.data)


def random_rows(counts: list[int]) -> Iterator[Array]:
    for count in counts:
        for start in range(0, count, len(ROWS)):
            yield ROWS[: min(len(ROWS), count - start)]


def write_part(
    writer: BundleWriter,
    shape: Shape,
    names: dict[str, str],
    part: int,
    counts: list[int],
    keys: Callable[[int], Array],
    freqs: Array,
) -> None:
    """Write one part of a table and of its slot; `names` are the suffixes of the tensors."""
    own = [counts[b] for b in shape.buckets(part)]
    member = names["member"]
    for each in (member, f"{member}/Adagrad"):
        found = (keys(b) for b in shape.buckets(part))
        stream(writer, f"{each}-{names['keys']}", part, found, sum(own))
        stream(writer, f"{each}-{names['values']}", part, random_rows(own), sum(own))
        for column in ("versions", "freqs"):
            writer.add(f"{each}-{names[column]}", freqs, shard=part)
        writer.add(f"{each}-{names['offset']}", offsets(shape, part, counts), shard=part)


def write_dense(writer: BundleWriter, step: int, dense: int) -> None:
    kernel = np.random.default_rng(step).random((256, 64), np.float32)
    writer.add("dense/kernel", kernel)
    for number in range(dense):
        writer.add(f"tower/layer_{number:06d}/kernel", np.full(16, step, np.float32))
    writer.add("global_step", np.array(step, np.int64))


def members(shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Yield each part of each table: its name, number, and the keys of the whole table."""
    for table, keys in shape.tables().items():
        for part in range(shape.parts):
            yield (f"{table}/part_{part}" if shape.parts > 1 else table), part, keys


def write_full(prefix: Path, shape: Shape) -> None:
    with BundleWriter(str(prefix), shape.parts) as writer:
        for member, part, keys in members(shape):
            counts = shape.counts(keys)
            names = {c: c for c in ("keys", "values", "versions", "freqs")}
            names |= {"offset": "partition_offset", "member": member}
            rows = sum(counts[b] for b in shape.buckets(part))
            freqs = np.full(rows, 7, np.int64) if shape.columns else NONE

            def found(bucket: int, counts: list[int] = counts) -> Array:
                return full_keys(bucket, counts[bucket])

            write_part(writer, shape, names, part, counts, found, freqs)
            for each in (member, f"{member}/Adagrad"):
                for column in ("keys", "versions", "freqs"):
                    writer.add(f"{each}-{column}_filtered", NONE, shard=part)
                none = np.zeros(BUCKETS + 1, np.int32)
                writer.add(f"{each}-partition_filter_offset", none, shard=part)
        write_dense(writer, FULL_STEP, shape.dense)


def write_increment(prefix: Path, shape: Shape, share: float, series: int) -> None:
    """Write an increment of so many of the rows; one of another series touches others."""
    step = int(prefix.name.rpartition("-")[2])
    with BundleWriter(str(prefix), shape.parts) as writer:
        for member, part, keys in members(shape):
            counts = shape.counts(keys)
            changed = [max(1, round(count * share)) for count in counts]
            names = {c: f"sparse_incr_{c}" for c in ("keys", "values", "versions", "freqs")}
            names |= {"offset": "incr_partition_offset", "member": member}
            rows = sum(changed[b] for b in shape.buckets(part))
            freqs = np.full(rows, 9 if shape.columns else 0, np.int64)

            def found(
                bucket: int, counts: list[int] = counts, changed: list[int] = changed
            ) -> Array:
                return increment_keys(bucket, counts[bucket], changed[bucket], series)

            write_part(writer, shape, names, part, changed, found, freqs)
        write_dense(writer, step, shape.dense)


def write_state(prefixes: list[Path]) -> None:
    """Write the state file beside prefixes; the last is the newest."""
    lines = [f'model_checkpoint_path: "{prefixes[-1].name}"']
    lines += [f'all_model_checkpoint_paths: "{prefix.name}"' for prefix in prefixes]
    (prefixes[0].parent / "checkpoint").write_text("\n".join(lines) + "\n")


def write_many(directory: Path, tensors: int) -> None:
    """Write a full of many small tensors, for listing."""
    directory.mkdir(parents=True)
    prefix = directory / f"model.ckpt-{FULL_STEP}"
    with BundleWriter(str(prefix)) as writer:
        for i in range(tensors):
            writer.add(f"tower_{i % 7}/layer_{i:06d}/kernel", np.zeros(4, np.float32))
        writer.add("global_step", np.array(FULL_STEP, np.int64))
    write_state([prefix])


def write_chain(
    chain: Path, full: Path, shape: Shape, share: float, number: int = 1, deltas: bool = False
) -> None:
    """Write a chain of a full, linked where it lies elsewhere, and some increments."""
    room = chain / ".incremental_checkpoint"
    room.mkdir(parents=True)
    own = chain / full.name
    for path in full.parent.glob(f"{full.name}.*") if full != own else ():
        (chain / path.name).hardlink_to(path)
    steps = range(INCREMENT_STEP, INCREMENT_STEP + number)
    prefixes = [room / f"incremental_model.ckpt-{step}" for step in steps]
    for series, prefix in enumerate(prefixes):
        write_increment(prefix, shape, share, series if deltas else 0)
    write_state(prefixes)
    write_state([own])


def write_asked(path: Path, shape: Shape) -> None:
    """Write a key of each bucket of `emb`, one a line, for those who ask for keys."""
    counts = shape.counts(shape.tables()["emb"])
    keys = [full_keys(b, count)[b % count] for b, count in enumerate(counts)]
    path.write_text("".join(f"{key}\n" for key in keys))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--changed", type=int, help="keys of the increments of `chain`")
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of `share-X` each")
    parser.add_argument("--columns", action="store_true")
    parser.add_argument("--tensors", type=int, help="tensors of the full `many`")
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--dense", type=int, default=0, help="small tensors beside the tables")
    parser.add_argument("--lopsided", choices=("", "table", "bucket"), default="")
    parser.add_argument("--increments", type=int, default=1, help="how many `chain` has")
    parser.add_argument("--deltas", action="store_true", help="each touches other rows")
    given = parser.parse_args()
    shape = Shape(given.keys, given.parts, given.columns, given.dense, given.lopsided)
    chain = given.directory / "chain"
    full = chain / f"model.ckpt-{FULL_STEP}"
    full.parent.mkdir(parents=True)
    write_full(full, shape)
    write_asked(given.directory / "asked.txt", shape)
    if given.changed:
        share = given.changed / given.keys
        write_chain(chain, full, shape, share, given.increments, given.deltas)
    for share in given.shares:
        write_chain(given.directory / f"share-{share:g}", full, shape, share)
    if given.tensors:
        write_many(given.directory / "many", given.tensors)


if __name__ == "__main__":
    main()
