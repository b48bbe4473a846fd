"""`make bench-guard`: five minutes that say whether something became much slower or larger.

A few of the figures of `make bench` are measured at the same sizes with fewer rounds. One fails
that is worse by half than its goal or, where the committed figure misses the goal, worse by half
than the committed figure. What fails is measured once more and has to fail again; seconds are
scaled by what bare Python takes here and took there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.goals import case_of, goal_of, number
from bench.results import HERE, Document, load

__all__ = ["ABSENT", "failures", "limit", "slower"]

#: What `.ci/run` takes for "could not be tried here".
ABSENT = 99
#: Bytes of disk that the largest part takes.
DISK = 6e9
#: How much worse than owed a figure may be.
MARGIN = 1.5
PYTHON = "python -c pass"

STEPS = {
    "merge": "bench.run --gb 1.5 --shares 0.05 --rounds 3 --prime-gb 1 --no-tensorflow",
    "reads": "bench.reads --rounds 3 --prime-gb 1",
    "start": "bench.start --rounds 3",
    "cron": "bench.cron --many 0 --rounds 3",
}


def limit(name: str, committed: dict[str, float], slower: float) -> float | None:
    """Return where a figure fails, or None where it never does."""
    goal = goal_of(name)
    if goal.bound is None or goal.noisy:
        return None
    worst = max if not goal.least else min
    owed = worst(goal.bound, committed.get(name, goal.bound))
    margin = MARGIN * (slower if goal.unit in ("s", "GB/s") else 1.0)
    return owed / margin if goal.least else owed * margin


def slower(here: Document, there: Document) -> float:
    """Return how many times as long bare Python takes here as it took there, at least 1."""

    def took(part: Document) -> float | None:
        groups: dict[str, Any] = part.get("results", {})
        found = [group[PYTHON]["median_s"] for group in groups.values() if PYTHON in group]
        return min(found, default=None)

    now, before = took(here), took(there)
    return max(1.0, now / before) if now and before else 1.0


def failures(measured: Document, committed: Document) -> dict[str, str]:
    """Return the figures of a part that fail, and what to say of each."""
    before: dict[str, float] = committed.get("figures", {})
    factor = slower(measured, committed)
    found = {}
    for name, value in measured["figures"].items():
        goal, most = goal_of(name), limit(name, before, factor)
        if most is None or (value >= most if goal.least else value <= most):
            continue
        old = f", committed {number(before[name])}" if name in before else ""
        found[name] = (
            f"{goal.what} [{case_of(name)}]: {number(value)} {goal.unit}, owed {goal.owed}{old}; "
            f"fails {'below' if goal.least else 'above'} {number(most)}"
        )
    return found


def measure(part: str, room: Path) -> Document:
    """Run a part in a directory; return what it left."""
    path = room / f"results-{part}.json"
    command = [sys.executable, "-m", *STEPS[part].split(), "--dir", str(room), "--json", str(path)]
    subprocess.run(command, check=True)
    found: Document = json.loads(path.read_text())
    return found


def main() -> int:
    committed = load()["parts"]
    build = HERE.parent / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ckptctl-guard-", dir=build) as name:
        room = Path(name)
        if shutil.disk_usage(room).free < DISK:
            print(f"less than {DISK / 1e9:g} GB of disk", file=sys.stderr)
            return ABSENT
        failed: list[str] = []
        for part in STEPS:
            own = committed.get(part, {})
            bad = failures(measure(part, room), own)
            if bad:
                print(*bad.values(), f"once more: {part}", sep="\n", flush=True)
                again = failures(measure(part, room), own)
                failed += [text for name, text in again.items() if name in bad]
    print("\n" + ("\n".join(f"FAILED: {text}" for text in failed) or "nothing became much worse"))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
