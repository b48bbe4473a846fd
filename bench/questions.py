"""`make bench`, second part: the questions against TensorFlow and against a checked read.

As in `bench.run`, whole processes are timed in turns, and this one stays small.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import Contender
from bench.report import MB, document, table
from bench.room import CKPTCTL, FULL, INCREMENT, files, make_chain, options, run_rounds

# What the issue that made the questions owes.
LEAST_TF, LEAST_GBS, MOST_READ, MOST_MB = 15.0, 3.0, 2.0, 300
FULL_STEP, INCREMENT_STEP = 1000, 1100


def ckptctl(name: str, *args: object, sources: list[Path]) -> Contender:
    return Contender(f"ckptctl {name}", [*CKPTCTL, *map(str, args)], sources)


def listings(chosen: argparse.Namespace, where: str) -> dict[str, Contender]:
    """Return the ways of listing what is in one full."""
    directory = chosen.dir / where
    full = directory / FULL
    indexes = [path for path in files(directory) if path.suffix in {".index", ""}]
    found = {
        "ls": ckptctl("ls", "ls", directory, sources=indexes),
        "show": ckptctl("show", "show", full, sources=files(directory)),
        "tensors": ckptctl("show --tensors", "show", full, "--tensors", sources=files(directory)),
    }
    if not chosen.no_tensorflow:
        code = f"import tensorflow as tf; print(tf.train.list_variables({str(full)!r}))"
        command = [sys.executable, "-c", code]
        found["tensorflow"] = Contender("tf.train.list_variables", command, indexes)
    return found


def make_tiny(chosen: argparse.Namespace) -> Path:
    """Write a chain whose checking takes no time: what is left is the start-up."""
    room: Path = chosen.dir / "tiny"
    if not room.exists():
        command = [sys.executable, "-m", "bench.chain", str(room), "--keys", "1000"]
        subprocess.run([*command, "--changed", "1000", "--tensors", "1"], check=True)
    return room / "chain"


def readings(chosen: argparse.Namespace) -> dict[str, Contender]:
    """Return the ways of reading every byte: one core, all cores, and the start-up apart."""
    chain, tiny = chosen.dir / "chain", make_tiny(chosen)
    verify = ("--data", "-j", 1)
    sources = files(chain)
    both = [str(chain / name) for name in (FULL, FULL, INCREMENT)]
    cores = str(os.cpu_count() or 1)
    read = [sys.executable, "-m", "bench.read"]
    diff = ("diff", FULL_STEP, INCREMENT_STEP, "-C", chain)
    return {
        "startup": ckptctl("verify --data -j 1, 1,000 keys", "verify", tiny, *verify, sources=[]),
        "verify": ckptctl("verify --data -j 1", "verify", chain, *verify, sources=sources),
        "read": Contender("checked read of both states, one core", [*read, "1", *both], sources),
        "cores": Contender(
            f"checked read of both states, {cores} cores", [*read, cores, *both], sources
        ),
        "diff": ckptctl("diff of both states", *diff, sources=sources),
    }


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in files(directory))


def speed(chosen: argparse.Namespace, found: dict[str, Contender]) -> float:
    """Return the bytes a second that `verify --data` checks on one core, in units of 10^9."""
    more = size(chosen.dir / "chain") - size(chosen.dir / "tiny" / "chain")
    # A chain so small that its checking drowns in the start-up tells nothing.
    seconds = max(found["verify"].wall - found["startup"].wall, 1e-3)
    return more / 1e9 / seconds


def list_verdict(found: dict[str, Contender]) -> list[str]:
    lines = []
    for name in ("ls", "show", "tensors"):
        each = found[name]
        if "tensorflow" in found:
            ratio = found["tensorflow"].wall / each.wall
            lines.append(
                f"* {each.name}: {ratio:.1f} x as fast as TensorFlow (owed: >= {LEAST_TF:g})"
            )
        lines.append(memory(each))
    return lines


def read_verdict(chosen: argparse.Namespace, found: dict[str, Contender]) -> list[str]:
    gbs = speed(chosen, found)
    lines = [f"* verify --data: {gbs:.2f} GB/s a core, start-up apart (owed: >= {LEAST_GBS:g})"]
    for name in ("read", "cores"):
        ratio = found["diff"].wall / found[name].wall
        owed = f" (owed: <= {MOST_READ:g})" if name == "read" else ""
        lines.append(f"* diff: {ratio:.2f} x the {found[name].name}{owed}")
    return [*lines, memory(found["verify"]), memory(found["diff"])]


def memory(each: Contender) -> str:
    return f"* {each.name}: {each.peak / MB:.0f} MB at peak (owed: <= {MOST_MB})"


def main() -> None:
    chosen = options()
    make_chain(chosen)
    out = chosen.dir / "out"
    groups = {f"list {where}": listings(chosen, where) for where in ("chain", "many")}
    for found in groups.values():
        run_rounds(found, out, chosen.rounds, min(chosen.prime_gb, 0.5))
    reading = readings(chosen)
    run_rounds(reading, out, chosen.rounds, chosen.prime_gb)
    for where, what in (
        ("chain", f"{chosen.keys:,} keys"),
        ("many", f"{chosen.tensors:,} tensors"),
    ):
        found = groups[f"list {where}"]
        print(f"\n## What is in a full of {what}\n")
        print(table(found, "tensorflow" if "tensorflow" in found else "ls"), "", sep="\n")
        print(*list_verdict(found), sep="\n")
    print(f"\n## Every byte: {size(chosen.dir / 'chain') / 1e9:.2f} GB\n")
    print(table(reading, "read"), "", *read_verdict(chosen, reading), sep="\n")
    said = {k: str(v) if isinstance(v, Path) else v for k, v in vars(chosen).items()}
    del said["dir"], said["json"]
    result = document({**groups, "read": reading}, said)
    result["verify_gb_per_s"] = round(speed(chosen, reading), 3)
    path = chosen.json.with_name(f"{chosen.json.stem}-questions{chosen.json.suffix}")
    path.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    if not chosen.keep:
        shutil.rmtree(chosen.dir)


if __name__ == "__main__":
    main()
