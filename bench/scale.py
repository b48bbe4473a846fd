"""`make bench-scale`: time and memory of a merge against size, shards, tensors and increments.

One chain at a time is written, merged in turns with `cp` and `cat` of the same bytes, and
removed. Each point is saved as it is measured, and a run goes on where the one before ended;
`--fresh` forgets them. A chain that does not fit on the disk is skipped, loudly.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.goals import said
from bench.measure import Contender, free_gigabytes
from bench.report import MB, document
from bench.room import CKPTCTL, HERE, copies, files, make, run_rounds, size
from bench.run import KEY_BYTES

__all__ = ["DIMENSIONS", "Point", "curves", "figures", "growth", "points"]

#: Rows that an increment touches: a fixed number, so that what grows is the full alone.
CHANGED, CHANGED_OF_MANY = 70_000, 10_000
#: What is varied, with its unit; sizes come from the options.
DIMENSIONS = {
    "size": "full, GB",
    "shards": "shards",
    "tensors": "tensors",
    "increments": "increments in the chain",
}
SHARDS, TENSORS = (1, 4, 16, 64), (10, 100, 1_000, 10_000, 100_000)
INCREMENTS = (1, 10, 100, 1_000)
EVEN = "even"


@dataclass(frozen=True)
class Point:
    """One chain: which curve it is a point of, and what it is like."""

    dimension: str
    curve: str
    at: float
    gb: float
    parts: int = 2
    dense: int = 0
    increments: int = 1
    deltas: bool = False
    lopsided: str = ""
    changed: int = CHANGED

    @property
    def keys(self) -> int:
        return round(self.gb * 1e9 / KEY_BYTES)

    def arguments(self) -> list[str]:
        """Return the arguments of `bench.chain`."""
        changed = min(self.changed, self.keys)
        sizes = {"keys": self.keys, "changed": changed, "parts": self.parts, "dense": self.dense}
        sizes |= {"increments": self.increments}
        found = [str(each) for name, value in sizes.items() for each in (f"--{name}", value)]
        return [*found, "--lopsided", self.lopsided, *["--deltas"] * self.deltas]

    def needs(self) -> float:
        """Return the bytes of disk that the chain and two results take at most."""
        rows = self.changed * self.increments * KEY_BYTES
        tensors = self.dense * (self.increments + 3) * 300
        return 2.1 * self.gb * 1e9 + 2.5 * rows + tensors + 5e8


def points(sizes: list[float], base: float, thin: int) -> Iterator[Point]:
    """Yield all points; of a series every `thin`-th alone, for a trial."""
    for gb in sizes:
        yield Point("size", EVEN, gb, gb)
        yield Point("size", "one table with 90%", gb, gb, lopsided="table")
        yield Point("size", "half in one bucket", gb, gb, lopsided="bucket")
    for parts in SHARDS[::thin]:
        yield Point("shards", EVEN, parts, base, parts=parts)
    for dense in TENSORS[::thin]:
        yield Point("tensors", EVEN, dense, base, dense=dense)
    for number in INCREMENTS[::thin]:
        same = Point("increments", "cumulative", number, base)
        same = replace(same, increments=number, changed=CHANGED_OF_MANY)
        yield same
        yield replace(same, curve="--increments all", deltas=True)


def contenders(point: Point, chain: Path, out: Path) -> dict[str, Contender]:
    # What does not fit into the page cache with its copy cannot be brought there.
    warm = files(chain) if 2.2 * point.gb < free_gigabytes() else []
    merge = [*CKPTCTL, "merge", str(chain), "-q", "-o", str(out / "merged")]
    merge += ["--increments", "all"] if point.deltas else []
    ours = Contender("merge", merge, warm)
    return {"merge": ours, "cp": Contender("cp", copies(chain, out)["cp+cat"].command, warm)}


def measure(point: Point, room: Path, rounds: int, prime_gb: float) -> dict[str, Any]:
    """Return what a point took; nothing is left of it."""
    free = shutil.disk_usage(room).free
    if free < point.needs():
        told = f"needs {point.needs() / 1e9:.0f} GB of disk, {free / 1e9:.0f} are free"
        print(f"!! SKIPPED {point}: {told}", file=sys.stderr)
        return {"skipped": told}
    chain = room / "scale"
    try:
        make(chain, "", *point.arguments())
        found = contenders(point, chain / "chain", room / "out")
        # The disk alone sets the pace of what is never in the page cache: one round will do.
        often = rounds if found["merge"].sources else max(1, rounds // 3)
        run_rounds(found, room / "out", often, prime_gb)
        return {
            "bytes": size(chain / "chain"),
            "merge_s": [round(s, 3) for s in found["merge"].seconds],
            "cpu_s": [round(s, 3) for s in found["merge"].cpu],
            "peak_mb": round(found["merge"].peak / MB, 1),
            "median_s": round(found["merge"].wall, 3),
            "cp_s": round(found["cp"].wall, 3),
        }
    finally:
        for each in (chain, room / "out"):
            shutil.rmtree(each, ignore_errors=True)


def growth(pairs: list[tuple[float, float]]) -> float:
    """Return the power of x that y grows with from one point to the next, where it is largest."""
    ordered = sorted(pairs)
    steps = [(x2 / x1, y2 / y1) for (x1, y1), (x2, y2) in pairwise(ordered)]
    return max(math.log(y) / math.log(x) for x, y in steps if x > 1)


def curves(measured: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the points that were measured of each dimension and curve, ascending."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in sorted(measured, key=lambda each: float(each["at"])):
        if "skipped" not in each:
            found.setdefault((each["dimension"], each["curve"]), []).append(each)
    return found


def figures(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Return how the time of each curve grows, and how the memory does with the full.

    Where the page cache ends, the time of `cp` grows faster than the bytes: with the size of the
    full, that of a merge is held against it.
    """
    found = {}
    for (dimension, curve), own in curves(measured).items():
        if len(own) < 2:
            continue
        if dimension == "size":
            ends = [(each["cp_s"], each["median_s"]) for each in (own[0], own[-1])]
            found[f"growth with cp/{curve}"] = growth(ends)
            found[f"flat/{curve}"] = own[-1]["peak_mb"] - own[0]["peak_mb"]
        else:
            pairs = [(each["at"], each["median_s"]) for each in own]
            found[f"growth/{dimension}/{curve}"] = growth(pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1.0, 6.0, 25.0])
    parser.add_argument("--base", type=float, default=1.0, help="GB where other things vary")
    parser.add_argument("--thin", type=int, default=1, help="every N-th point of a series alone")
    parser.add_argument("--only", nargs="+", choices=DIMENSIONS, default=[*DIMENSIONS])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / "results-scale.json")
    parser.add_argument("--prime-gb", type=float, default=min(4.0, free_gigabytes() / 2))
    parser.add_argument("--fresh", action="store_true", help="measure every point anew")
    chosen = parser.parse_args()
    room = chosen.dir.resolve() / "ckptctl-bench-scale"
    room.mkdir(parents=True, exist_ok=True)
    known: list[dict[str, Any]] = []
    if chosen.json.exists() and not chosen.fresh:
        known = json.loads(chosen.json.read_text())["points"]
    measured = []
    asked = points(chosen.sizes, chosen.base, chosen.thin)
    for point in sorted(asked, key=Point.needs):
        if point.dimension not in chosen.only:
            continue
        own = asdict(point)
        same = [each for each in known if own.items() <= each.items() and "skipped" not in each]
        if not same:
            print(f"{point.dimension}, {point.curve}: {point.at:g}", file=sys.stderr, flush=True)
            same = [own | measure(point, room, chosen.rounds, chosen.prime_gb)]
        measured.append(same[0])
        # Points of another run with other options stay, until `--fresh`.
        rest = [each for each in known if each not in measured]
        result = document({}, {"rounds": chosen.rounds}, figures(measured))
        result["points"] = measured + [each for each in rest if "skipped" not in each]
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print("\n## How time and memory grow\n", *said(figures(measured)), sep="\n")
    shutil.rmtree(room)


if __name__ == "__main__":
    main()
