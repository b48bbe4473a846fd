"""`make bench`, first part: merge against `cp` and `cat` of the same bytes, and TensorFlow.

All from one run: contenders take turns, the machine is primed before each step, whole
processes are timed, and medians and ratios are quoted. What `merge --no-verify` has to beat
copies the full, reads the increment and flushes the copy; what `merge` has to beat also reads
the copy back. This process stays small and loads no NumPy, because a child's peak memory
would include it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.goals import said
from bench.measure import Contender, free_gigabytes
from bench.report import MB, document, table
from bench.room import (
    CKPTCTL,
    FULL,
    HERE,
    INCREMENT,
    copies,
    files,
    make,
    run_rounds,
    size,
    startups,
)

#: Bytes of a key with its rows in the table and in its slot, and with freqs and versions.
KEY_BYTES, COLUMN_BYTES = 2 * (8 + 64), 2 * 16
SHARES = (0.001, 0.01, 0.05, 0.2)
WAYS = {"no-verify": ["--no-verify"], "verified": []}
#: A directory in memory: what is written there waits for no disk.
MEMORY = Path("/dev/shm")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--gb", type=float, nargs="+", default=[1.5, 6.0], help="of the fulls")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="rows touched")
    parser.add_argument("--columns", action="store_true", help="with freqs and versions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / "results-merge.json")
    parser.add_argument("--prime-gb", type=float, help="default: 4, or half of what is free")
    parser.add_argument("--no-tensorflow", action="store_true")
    parser.add_argument("--only", nargs="+", help="some of cp, cp+cat, no-verify, verified, ...")
    parser.add_argument("--keep", action="store_true", help="keep the chains for the next run")
    chosen = parser.parse_args()
    chosen.prime_gb = chosen.prime_gb or min(4.0, free_gigabytes() / 2)
    # A directory of its own: it is removed afterwards, and the one given is not ours.
    chosen.dir = chosen.dir.resolve() / "ckptctl-bench"
    return chosen


def make_chains(chosen: argparse.Namespace, gb: float) -> Path:
    """Write a full and a chain for each share, unless they are there already."""
    room: Path = chosen.dir / f"merge-{gb:g}"
    keys = round(gb * 1e9 / (KEY_BYTES + COLUMN_BYTES * chosen.columns))
    flags = ["--columns"] if chosen.columns else []
    shares = [f"{share:g}" for share in chosen.shares]
    print(f"{room}: {keys:,} keys, and increments of {', '.join(shares)}", file=sys.stderr)
    facts = json.dumps([keys, shares, chosen.columns])
    make(room, facts, "--keys", keys, "--shares", *shares, *flags)
    return room


def merges(chain: Path, out: Path) -> dict[str, Contender]:
    """Return the ways of making the merged full, and what each is held against."""
    sources = files(chain)
    merge = [*CKPTCTL, "merge", str(chain), "-q", "-o", str(out / "merged")]
    return copies(chain, out) | {
        way: Contender(shlex.join(["merge", *flags]), [*merge, *flags], sources)
        for way, flags in WAYS.items()
    }


def threaded(chain: Path, out: Path) -> dict[str, Contender]:
    """Return the merges on one thread and on two."""
    made = merges(chain, out)
    return {
        f"{way} -j {number}": Contender(
            f"{made[way].name} -j {number}",
            [*made[way].command, "-j", str(number)],
            made[way].sources,
        )
        for number in (1, 2)
        for way in WAYS
    }


def hardware(chain: Path, out: Path) -> dict[str, Contender]:
    """Return a bare copy of the full, and bare sums, on one thread and on two."""
    full = sorted(chain.glob(f"{FULL}.*"))
    found: dict[str, Contender] = {}
    for number in map(str, (1, 2)):
        command = [sys.executable, "-m", "bench.copy", number, str(out / "bare")]
        named = f"bare copy of the full, {number} threads"
        found[f"bare -j {number}"] = Contender(named, [*command, *map(str, full)], full)
        command = [sys.executable, "-m", "bench.sums", number]
        found[f"sums -j {number}"] = Contender(f"sums, {number} threads", command, [])
    return found


def tensorflow(chain: Path, out: Path) -> Contender:
    command = [sys.executable, str(HERE / "tf_merge.py")]
    command += [str(chain / FULL), str(chain / INCREMENT), str(out / "tf")]
    return Contender("TensorFlow: load, NumPy, SaveV2, fsync", command, files(chain))


def figures(found: dict[str, Contender], case: str, startup: float, keys: int) -> dict[str, float]:
    """Return what is judged of the merges of one chain."""
    result = {}
    for way, against in {"no-verify": "cp", "verified": "cp+cat"}.items():
        if {way, against} <= set(found):
            result[f"merge/{case}/{way}"] = found[way].wall / found[against].wall
            result[f"apart/{case}/{way}"] = (found[way].wall - startup) / found[against].wall
    for way in WAYS:
        if way in found:
            result[f"memory/{case}/{way}"] = (found[way].peak - 8 * keys) / MB
        if {way, "tensorflow"} <= set(found):
            result[f"tensorflow/{case}/{way}"] = found["tensorflow"].wall / found[way].wall
    return result


def speedups(
    found: dict[str, Contender], case: str, startup: float, where: str = ""
) -> dict[str, float]:
    """Return what the second thread gains, where there is a second core."""
    result = {}
    for way in WAYS if (os.cpu_count() or 1) > 1 else ():
        one, two = (found.get(f"{way} -j {number}") for number in (1, 2))
        if one is not None and two is not None:
            result[f"jobs/{case}/{way}{where}"] = one.wall / two.wall
            apart = (one.wall - startup) / (two.wall - startup)
            result[f"jobs apart/{case}/{way}{where}"] = apart
    for what, name in (("a copy", "bare"), ("sums", "sums")):
        both = [found[own].wall for own in (f"{name} -j 1", f"{name} -j 2") if own in found]
        if result and len(both) == 2:
            result[f"jobs of {what}/{case}{where}"] = both[0] / both[1]
    return result


def in_memory(chosen: argparse.Namespace, chain: Path) -> dict[str, Contender]:
    """Return the merges on one thread and on two, run with a result that waits for no disk."""
    there = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= 3 * size(chain)
    if not there or free_gigabytes() < 2.5 * size(chain) / 1e9:  # the full is read from memory too
        print(f"!! SKIPPED: no room in {MEMORY}", file=sys.stderr)
        return {}
    with tempfile.TemporaryDirectory(prefix="ckptctl-bench-", dir=MEMORY) as name:
        out = Path(name) / "out"
        found = threaded(chain, out) | hardware(chain, out)
        # As much as the result takes, too: it lies where the host would have to give memory.
        room = min(size(chain) / 1e9 + 1, free_gigabytes() / 2)
        run_rounds(found, out, chosen.rounds, max(room, chosen.prime_gb))
        return found


def check_result(chain: Path, out: Path, found: dict[str, Contender]) -> None:
    """Run ours and TensorFlow's once more and compare what they wrote."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in ("no-verify", "tensorflow"):
        subprocess.run(found[name].command, check=True, capture_output=True)
    command = [sys.executable, "-m", "bench.compare", str(out / "merged"), str(out / "tf")]
    subprocess.run(command, check=True)
    print(f"Both merges of {chain.name} hold the same tensors, by checksum.")


def main() -> None:
    chosen = options()
    out = chosen.dir / "out"
    chosen.dir.mkdir(parents=True, exist_ok=True)
    groups = {"startup": startups(chosen.dir)}
    run_rounds(groups["startup"], out, chosen.rounds, 0.1)
    bare = groups["startup"]["python"].wall
    judged = {
        f"startup/{each.name}": each.wall - bare
        for name, each in groups["startup"].items()
        if name != "python"
    }
    startup = groups["startup"]["merge"].wall
    print("## Start-up\n", table(groups["startup"], "python"), "", *said(judged), sep="\n")
    for gb in chosen.gb:
        room = make_chains(chosen, gb)
        # The share for whose merge jobs are compared; of the smallest full TensorFlow too.
        special, smallest = chosen.shares[len(chosen.shares) // 2], gb == min(chosen.gb)
        for share in chosen.shares:
            chain = room / f"share-{share:g}"
            found, inside = merges(chain, out), {}
            if share == special:
                found |= threaded(chain, out) | (hardware(chain, out) if smallest else {})
            if share == special and smallest and not chosen.no_tensorflow:
                found["tensorflow"] = tensorflow(chain, out)
            if chosen.only:
                found = {name: each for name, each in found.items() if name in chosen.only}
            run_rounds(found, out, chosen.rounds, chosen.prime_gb)
            keys = round(share * gb * 1e9 / (KEY_BYTES + COLUMN_BYTES * chosen.columns))
            case = f"{gb:g} GB/{100 * share:g}%"
            own = figures(found, case, startup, keys) | speedups(found, case, startup)
            if share == special and not chosen.only:
                inside = in_memory(chosen, chain)
                own |= speedups(inside, case, startup, ", result in memory")
            print(f"\n## Merge: full of {size(chain) / 1e9:.2f} GB, {share:.1%} touched\n")
            print(table(found, next(iter(found))), "", *said(own), sep="\n", flush=True)
            if {"tensorflow", "no-verify"} <= set(found):
                check_result(chain, out, found)
            groups[f"merge {gb:g} GB {share:g}"] = found
            if inside:
                groups[f"merge {gb:g} GB {share:g}, result in memory"] = inside
            judged |= own
            told = {k: v for k, v in vars(chosen).items() if k not in ("dir", "json")}
            chosen.json.write_text(json.dumps(document(groups, told, judged), indent=1) + "\n")
        shutil.rmtree(out, ignore_errors=True)
        if not chosen.keep:
            shutil.rmtree(room)


if __name__ == "__main__":
    main()
