"""`make bench`: how long a command takes that has little to do, as a whole process.

On 10 fulls and 100 increments of 500 tensors, and on the index of 100,000 tensors; a `first`
run knows nothing from runs before it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from bench.goals import said
from bench.measure import Contender
from bench.report import document, table
from bench.room import CKPTCTL, FULL, HERE, make, run_rounds, small


def commands(chain: Path, many: Path) -> dict[str, list[str]]:
    full = str(many / FULL)
    return {
        "start/--help": ["--help"],
        "start/ls": ["ls", str(chain)],
        "start/show": ["show", "-C", str(chain)],
        "index/ls": ["ls", str(many)],
        "index/show": ["show", full],
        "index/show --tensors": ["show", full, "--tensors"],
    }


def contenders(where: Path) -> dict[str, Contender]:
    flags = ["--after", 1000, "--increments", 100, "--rest", 500]
    chain = small(where / "chain", "--fulls", *range(100, 1001, 100), *flags)
    make(where / "many", "100000", "--keys", 1000, "--tensors", 100_000)
    found = {"python": Contender("python -c pass", [sys.executable, "-c", "pass"], [])}
    for name, arguments in commands(chain, where / "many" / "many").items():
        shown = f"ckptctl {name.partition('/')[2]}"
        shown += ", 100,000 tensors" if name.startswith("index") else ""
        command = [*CKPTCTL, *arguments]
        found[name] = Contender(shown, command, [], cache=where / "cache")
        found[f"first {name}"] = Contender(f"{shown}, first", command, [])
    del found["first start/--help"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / "results-start.json")
    chosen = parser.parse_args()
    where = chosen.dir.resolve() / "ckptctl-bench-start"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    found = contenders(where)
    run_rounds(found, where / "out", chosen.rounds, 0.1)
    bare = found["python"].wall
    judged = {
        name: each.wall - (bare if "start/" in name else 0)
        for name, each in found.items()
        if name != "python"
    }
    print("\n## Little to do\n", table(found, "python"), "", *said(judged), sep="\n")
    result = document({"start": found}, {"rounds": chosen.rounds}, judged)
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(where)


if __name__ == "__main__":
    main()
