"""Writes the chain that is measured: `python -m bench.chain DIR --keys N ...`.

A full at step 1000 and an increment at step 1100 in DeepRec's layout: the table `emb` with
an Adagrad slot in 2 parts, one a shard. Keys are unique, a tenth of the increment's are new.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ckptctl.bundle import BundleWriter, dtype_by_name

BUCKETS, PARTS, DIM = 1000, 2, 16
FULL_STEP, INCREMENT_STEP = 1000, 1100
NEW = 0.1


def per_bucket(total: int) -> int:
    return max(1, total // BUCKETS)


def full_keys(bucket: int, keys: int) -> np.ndarray:
    """Return the keys of a bucket, in no order, as a full has them."""
    count = per_bucket(keys)
    numbers = np.random.default_rng(bucket).permutation(2 * count)[:count]
    return bucket + BUCKETS * numbers.astype(np.int64)


def increment_keys(bucket: int, keys: int, changed: int) -> np.ndarray:
    """Return the keys of a bucket, ascending, as an increment has them."""
    count = per_bucket(changed)
    new = max(1, round(count * NEW))
    known = full_keys(bucket, keys)[: count - new]
    # Never among the full's keys: those stop at twice their number.
    fresh = bucket + BUCKETS * (2 * per_bucket(keys) + np.arange(new, dtype=np.int64) * 3)
    return np.sort(np.concatenate([known, fresh]))


def buckets(part: int) -> range:
    return range(part, BUCKETS, PARTS)


def offsets(part: int, sizes: dict[int, int]) -> np.ndarray:
    counts = [sizes[b] if b % PARTS == part else 0 for b in range(BUCKETS)]
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def write_rows(writer: BundleWriter, name: str, rows: dict[int, int], part: int) -> None:
    """Stream random rows bucket by bucket, so that memory stays small."""
    random = np.random.default_rng(len(name))
    total = sum(rows.values())
    with writer.stream(name, dtype_by_name("float32"), (total, DIM), shard=part) as sink:
        for count in rows.values():
            sink.write(random.random((count, DIM), np.float32))


def write_columns(
    writer: BundleWriter, columns: dict[str, np.ndarray], member: str, part: int
) -> None:
    for column, array in columns.items():
        writer.add(f"{member}-{column}", array, shard=part)


def members(part: int) -> Iterator[str]:
    yield f"emb/part_{part}"
    yield f"emb/part_{part}/Adagrad"


def write_dense(writer: BundleWriter, step: int) -> None:
    kernel = np.random.default_rng(step).random((256, 64), np.float32)
    writer.add("dense/kernel", kernel)
    writer.add("global_step", np.array(step, np.int64))


def write_full(prefix: Path, keys: int, with_columns: bool) -> None:
    none = np.zeros(0, np.int64)
    with BundleWriter(str(prefix), PARTS) as writer:
        for part in range(PARTS):
            found = {b: full_keys(b, keys) for b in buckets(part)}
            rows = {b: len(k) for b, k in found.items()}
            joined = np.concatenate(list(found.values()))
            column = np.full(len(joined), 7, np.int64) if with_columns else none
            for member in members(part):
                writer.add(f"{member}-keys", joined, shard=part)
                write_rows(writer, f"{member}-values", rows, part)
                rest = {"versions": column, "freqs": column}
                rest |= {"keys_filtered": none, "versions_filtered": none, "freqs_filtered": none}
                rest["partition_offset"] = offsets(part, rows)
                rest["partition_filter_offset"] = np.zeros(BUCKETS + 1, np.int32)
                write_columns(writer, rest, member, part)
        write_dense(writer, FULL_STEP)


def write_increment(prefix: Path, keys: int, changed: int, with_columns: bool) -> None:
    with BundleWriter(str(prefix), PARTS) as writer:
        for part in range(PARTS):
            found = {b: increment_keys(b, keys, changed) for b in buckets(part)}
            rows = {b: len(k) for b, k in found.items()}
            joined = np.concatenate(list(found.values()))
            column = np.full(len(joined), 9 if with_columns else 0, np.int64)
            for member in members(part):
                writer.add(f"{member}-incr_partition_offset", offsets(part, rows), shard=part)
                writer.add(f"{member}-sparse_incr_keys", joined, shard=part)
                write_rows(writer, f"{member}-sparse_incr_values", rows, part)
                rest = {"sparse_incr_versions": column, "sparse_incr_freqs": column}
                write_columns(writer, rest, member, part)
        write_dense(writer, INCREMENT_STEP)


def write_state(prefix: Path) -> None:
    """Write the state file beside a prefix."""
    text = f'model_checkpoint_path: "{prefix.name}"\n'
    (prefix.parent / "checkpoint").write_text(text + f"all_{text}".replace("path:", "paths:"))


def write_many(directory: Path, tensors: int) -> None:
    """Write a full of many small tensors, for listing."""
    directory.mkdir(parents=True)
    prefix = directory / f"model.ckpt-{FULL_STEP}"
    with BundleWriter(str(prefix)) as writer:
        for i in range(tensors):
            writer.add(f"tower_{i % 7}/layer_{i:06d}/kernel", np.zeros(4, np.float32))
        writer.add("global_step", np.array(FULL_STEP, np.int64))
    write_state(prefix)


def write_chain(chain: Path, full: Path, changed: int, options: argparse.Namespace) -> None:
    """Write a chain of a full, linked where it lies elsewhere, and one increment."""
    increment = chain / ".incremental_checkpoint" / f"incremental_model.ckpt-{INCREMENT_STEP}"
    increment.parent.mkdir(parents=True)
    own = chain / full.name
    for path in full.parent.glob(f"{full.name}.*") if full != own else ():
        (chain / path.name).hardlink_to(path)
    write_state(own)
    write_increment(increment, options.keys, changed, options.columns)
    write_state(increment)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--changed", type=int, help="keys of the increment of `chain`")
    parser.add_argument("--shares", type=float, nargs="+", default=[], help="of `share-X` each")
    parser.add_argument("--columns", action="store_true")
    parser.add_argument("--tensors", type=int, help="tensors of the full `many`")
    options = parser.parse_args()
    chain = options.directory / "chain"
    full = chain / f"model.ckpt-{FULL_STEP}"
    full.parent.mkdir(parents=True)
    write_full(full, options.keys, options.columns)
    if options.changed:
        write_chain(chain, full, options.changed, options)
    for share in options.shares:
        changed = round(options.keys * share)
        write_chain(options.directory / f"share-{share:g}", full, changed, options)
    if options.tensors:
        write_many(options.directory / "many", options.tensors)


if __name__ == "__main__":
    main()
