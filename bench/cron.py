"""`make bench`, third part: what cron does. Compact with nothing to do, prune of many, state file.

Each prune works on a copy of its own, made of hard links: what is timed is the removal, against
`rm` of the same files by name.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from bench.measure import Contender, prime
from bench.report import document, table
from ckptctl.bundle import BundleWriter, read_state

CKPTCTL = [sys.executable, "-m", "ckptctl"]
INCREMENTS = ".incremental_checkpoint"
FULLS, CHAIN, MANY = 10, 100, 10_000
#: Seconds that a run with nothing to do may take.
MOST_IDLE = 0.3
BUCKETS = 1000


def write_table(prefix: Path, step: int, keys: np.ndarray, *, full: bool, rest: int) -> None:
    """Write a small table `emb` and so many small tensors."""
    order = np.argsort(keys % BUCKETS, kind="stable")
    keys = keys[order]
    counts = np.bincount(keys % BUCKETS, minlength=BUCKETS)
    offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    none, column = np.zeros(0, np.int64), np.ones(len(keys), np.int64)
    columns = {"keys": keys, "values": np.ones((len(keys), 4), np.float32)}
    columns |= {"freqs": column, "versions": column}
    if full:
        columns |= {"keys_filtered": none, "freqs_filtered": none, "versions_filtered": none}
        columns |= {"partition_offset": offset}
        columns |= {"partition_filter_offset": np.zeros(BUCKETS + 1, np.int32)}
    else:
        columns = {f"sparse_incr_{name}": array for name, array in columns.items()}
        columns["incr_partition_offset"] = offset
    with BundleWriter(str(prefix)) as writer:
        for name, array in columns.items():
            writer.add(f"emb-{name}", array)
        for number in range(rest):
            writer.add(f"tower/layer_{number:03d}/kernel", np.full(4, step, np.float32))
        writer.add("global_step", np.array(step, np.int64))


def write_state(room: Path, names: list[str]) -> None:
    lines = [f'model_checkpoint_path: "{names[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{name}"' for name in names]
    (room / "checkpoint").write_text("\n".join(lines) + "\n")


def make(room: Path, fulls: list[int], increments: list[int], *, rest: int, old: bool) -> Path:
    """Write a chain, unless it is there; `old` dates it to yesterday."""
    if (room / "checkpoint").exists():
        return room
    (room / INCREMENTS).mkdir(parents=True)
    for step in fulls:
        write_table(room / f"model.ckpt-{step}", step, np.arange(1000), full=True, rest=rest)
    for number, step in enumerate(increments):
        prefix = room / INCREMENTS / f"incremental_model.ckpt-{step}"
        write_table(prefix, step, np.arange(10 + number % 1000), full=False, rest=rest)
    write_state(room / INCREMENTS, [f"incremental_model.ckpt-{step}" for step in increments])
    write_state(room, [f"model.ckpt-{step}" for step in fulls])
    if old:
        for path in room.rglob("*"):
            os.utime(path, (time.time() - 86400,) * 2)
    return room


class Linked(Contender):
    """Works on a copy that is made of links before each run."""

    def __init__(self, name: str, command: list[str], source: Path, copy: Path) -> None:
        super().__init__(name, command, [])
        self.source, self.copy = source, copy

    def run(self, directory: Path) -> None:
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.source, self.copy, copy_function=os.link)
        os.sync()
        super().run(directory)


def removals(where: Path, number: int) -> dict[str, Contender]:
    """Return the ways of removing so many increments that a full covers."""
    steps = list(range(1, number + 1))
    source = make(where / f"many-{number}", [0, number + 1], steps, rest=0, old=True)
    copy = where / "copy"
    prune = [*CKPTCTL, "prune", str(copy), "--yes", "-q"]
    remove = f"rm -r {copy}/{INCREMENTS} && sync {copy}"
    return {
        f"prune {number}": Linked(f"ckptctl prune of {number:,} increments", prune, source, copy),
        f"rm {number}": Linked(f"rm of the same {number:,}", ["sh", "-c", remove], source, copy),
    }


def without_state(where: Path) -> tuple[float, int]:
    """Return the longest time without a readable newest state file, and how often it was read.

    Somebody who starts to restore reads the file and the index that it names, over and over,
    while `compact` merges, lists and removes.
    """
    room = where / "state"
    shutil.rmtree(room, ignore_errors=True)
    make(room, [1, 2, 3, 1000], list(range(1001, 1030)), rest=50, old=True)
    ended = threading.Event()
    longest, looks = 0.0, 0

    def watch() -> None:
        nonlocal longest, looks
        since = None
        while not ended.is_set():
            now = time.perf_counter()
            state = read_state(str(room / "checkpoint"))
            fine = state is not None and (room / f"{Path(state.latest).name}.index").exists()
            since = None if fine else since or now
            longest = max(longest, time.perf_counter() - since if since is not None else 0.0)
            looks += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [*CKPTCTL, "compact", str(room), "--yes", "-q", "--keep-last", "1", "--min-age", "0s"]
    subprocess.run(command, check=True)
    ended.set()
    watcher.join()
    return longest, looks


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--many", type=int, default=MANY, help="increments to prune")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=Path(__file__).parent.parent / "build")
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results-cron.json")
    chosen = parser.parse_args()
    where = chosen.dir.resolve() / "ckptctl-bench-cron"
    out = where / "out"
    shutil.rmtree(where, ignore_errors=True)
    out.mkdir(parents=True)
    fulls = [100 * number for number in range(1, FULLS + 1)]
    chain = make(
        where / "idle", fulls, [fulls[-1] + n for n in range(1, CHAIN + 1)], rest=500, old=False
    )
    idle = {
        "python": Contender("python -c pass", [sys.executable, "-c", "pass"], []),
        "compact": Contender(
            "ckptctl compact, nothing to do",
            [*CKPTCTL, "compact", str(chain), "--yes", "--min-increments", "1000"],
            [],
        ),
    }
    fewer = max(chosen.many // 4, 1)
    gone = {**removals(where, fewer), **removals(where, chosen.many)}
    idle["compact"].run(out)  # proves once that each increment contains the one before
    idle["compact"].seconds.clear()
    idle["compact"].peaks.clear()
    for _ in range(chosen.rounds):
        for each in (*idle.values(), *gone.values()):
            prime(each, 0.1)
            each.run(out)
    longest, looks = without_state(where)
    print(f"\n## Cron: {FULLS} fulls, {CHAIN} increments of 500 tensors\n")
    print(table(idle, "python"), "", sep="\n")
    took = idle["compact"].wall - idle["python"].wall
    print(f"* compact with nothing to do: {took:.2f} s beyond Python (owed: <= {MOST_IDLE:g})")
    print("\n## Removing increments\n")
    print(table(gone, f"rm {chosen.many}"), "", sep="\n")
    many, few = gone[f"prune {chosen.many}"].wall, gone[f"prune {fewer}"].wall
    growth = many / few / (chosen.many / fewer)
    print(f"* prune: {growth:.2f} x the time an increment, for 4 x as many (owed: about 1)")
    print(f"* prune: {many / gone[f'rm {chosen.many}'].wall:.1f} x the time of rm")
    print(f"* no readable newest state file: {longest * 1e3:.1f} ms in {looks:,} looks (owed: 0)")
    result = document({"idle": idle, "removing": gone}, {"many": chosen.many})
    result["longest_without_state_s"] = longest
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(where)


if __name__ == "__main__":
    main()
