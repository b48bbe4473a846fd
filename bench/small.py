"""Writes chains of many small checkpoints: `python -m bench.small DIR --fulls ... `.

In a process of its own, so that the one that measures loads no NumPy.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ckptctl.bundle import BundleWriter

Array = np.ndarray[Any, Any]

INCREMENTS = ".incremental_checkpoint"
BUCKETS = 1000


def columns(keys: Array, full: bool) -> dict[str, Array]:
    """Return the tensors of the table `emb`."""
    keys = keys[np.argsort(keys % BUCKETS, kind="stable")]
    counts = np.bincount(keys % BUCKETS, minlength=BUCKETS)
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    none, column = np.zeros(0, np.int64), np.ones(len(keys), np.int64)
    found: dict[str, Array] = {"keys": keys, "values": np.ones((len(keys), 4), np.float32)}
    found |= {"freqs": column, "versions": column}
    if full:
        found |= {f"{name}_filtered": none for name in ("keys", "freqs", "versions")}
        found |= {"partition_offset": offset}
        found |= {"partition_filter_offset": np.zeros(BUCKETS + 1, np.int32)}
    else:
        found = {f"sparse_incr_{name}": array for name, array in found.items()}
        found["incr_partition_offset"] = offset
    return found


def write_table(prefix: Path, step: int, keys: Array, *, full: bool, rest: int) -> None:
    """Write a small table `emb` and so many small tensors."""
    with BundleWriter(str(prefix)) as writer:
        for name, array in columns(keys, full).items():
            writer.add(f"emb-{name}", array)
        for number in range(rest):
            writer.add(f"tower/layer_{number:03d}/kernel", np.full(4, step, np.float32))
        writer.add("global_step", np.array(step, np.int64))


def write_state(room: Path, names: list[str]) -> None:
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    (room / "checkpoint").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--fulls", type=int, nargs="+", required=True, help="their steps")
    parser.add_argument("--after", type=int, default=0, help="the step before the increments")
    parser.add_argument("--increments", type=int, required=True, help="how many")
    parser.add_argument("--rest", type=int, default=0, help="small tensors in each")
    parser.add_argument("--old", action="store_true", help="dated to yesterday")
    given = parser.parse_args()
    room = given.directory
    (room / INCREMENTS).mkdir(parents=True)
    for step in given.fulls:
        prefix = room / f"model.ckpt-{step}"
        write_table(prefix, step, np.arange(1000), full=True, rest=given.rest)
    names = []
    for number in range(given.increments):
        step = given.after + 1 + number
        names.append(f"incremental_model.ckpt-{step}")
        keys = np.arange(10 + number % 1000)
        write_table(room / INCREMENTS / names[-1], step, keys, full=False, rest=given.rest)
    write_state(room / INCREMENTS, names)
    write_state(room, [f"model.ckpt-{step}" for step in given.fulls])
    if given.old:
        for path in room.rglob("*"):
            os.utime(path, (time.time() - 86400,) * 2)


if __name__ == "__main__":
    main()
