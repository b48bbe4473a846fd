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
from pathlib import Path

from bench.goals import said
from bench.measure import Contender
from bench.report import document, table
from bench.room import CKPTCTL, HERE, run_rounds, small

INCREMENTS = ".incremental_checkpoint"
MANY = 10_000


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
    flags = ["--fulls", 0, number + 1, "--increments", number, "--old"]
    source = small(where / f"many-{number}", *flags)
    copy = where / "copy"
    prune = [*CKPTCTL, "prune", str(copy), "--yes", "-q"]
    remove = f"rm -r {copy}/{INCREMENTS} && sync {copy}"
    return {
        f"prune {number}": Linked(f"ckptctl prune of {number:,} increments", prune, source, copy),
        f"rm {number}": Linked(f"rm of the same {number:,}", ["sh", "-c", remove], source, copy),
    }


def without_state(where: Path) -> tuple[float, int]:
    """Return the milliseconds without a readable newest state file, and how often it was read."""
    flags = ["--fulls", 1, 2, 3, 1000, "--after", 1000, "--increments", 29, "--rest", 50, "--old"]
    command = [sys.executable, "-m", "bench.watch", str(small(where / "state", *flags))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    longest, looks = json.loads(done.stdout)
    return longest, looks


def idle(where: Path) -> dict[str, Contender]:
    """Return a run with nothing to do, which was once proven."""
    fulls = range(100, 1001, 100)
    flags = ["--after", 1000, "--increments", 100, "--rest", 500]
    chain = small(where / "idle", "--fulls", *fulls, *flags)
    command = [*CKPTCTL, "compact", str(chain), "--yes", "--min-increments", "1000"]
    cache = where / "cache"
    subprocess.run(command, check=True, env=os.environ | {"XDG_CACHE_HOME": str(cache)})
    return {
        "python": Contender("python -c pass", [sys.executable, "-c", "pass"], []),
        "compact": Contender("ckptctl compact, nothing to do", command, [], cache=cache),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--many", type=int, default=MANY, help="increments to prune; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / "results-cron.json")
    chosen = parser.parse_args()
    where = chosen.dir.resolve() / "ckptctl-bench-cron"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    groups = {"compact with nothing to do": idle(where)}
    run_rounds(groups["compact with nothing to do"], where / "out", chosen.rounds, 0.1)
    resting = groups["compact with nothing to do"]
    judged = {"compact/idle": resting["compact"].wall - resting["python"].wall}
    longest, looks = without_state(where)
    judged["state/unreadable"] = longest
    if chosen.many:
        fewer = max(chosen.many // 4, 1)
        gone = {**removals(where, fewer), **removals(where, chosen.many)}
        run_rounds(gone, where / "out", chosen.rounds, 0.1)
        groups["removing increments"] = gone
        many, few = gone[f"prune {chosen.many}"].wall, gone[f"prune {fewer}"].wall
        judged["prune/growth"] = many / few / (chosen.many / fewer)
        judged["prune/rm"] = many / gone[f"rm {chosen.many}"].wall
    for name, found in groups.items():
        print(f"\n## Cron: {name}\n", table(found, next(iter(found))), sep="\n")
    print("", *said(judged), f"* the state file was looked at {looks:,} times", sep="\n")
    result = document(groups, {"many": chosen.many, "looks": looks}, judged)
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(where)


if __name__ == "__main__":
    main()
