"""What the parts of `make bench` share: where files lie, chains, and rounds of contenders."""

from __future__ import annotations

import argparse
import json
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from bench.measure import Contender, free_gigabytes, prime

__all__ = [
    "CKPTCTL",
    "FULL",
    "HERE",
    "INCREMENT",
    "copies",
    "files",
    "make",
    "make_chain",
    "options",
    "run_rounds",
    "size",
    "small",
    "startups",
]

HERE = Path(__file__).parent
CKPTCTL = [sys.executable, "-m", "ckptctl"]
FULL, INCREMENT = "model.ckpt-1000", ".incremental_checkpoint/incremental_model.ckpt-1100"


def make(directory: Path, facts: str, *arguments: object) -> None:
    """Have `bench.chain` write into a directory, unless it has written the same there."""
    mark = directory / "made"
    if mark.exists() and mark.read_text() == facts:
        return
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.chain", str(directory), *map(str, arguments)]
    subprocess.run(command, check=True)
    mark.write_text(facts)


def small(directory: Path, *arguments: object) -> Path:
    """Have `bench.small` write a chain of small checkpoints; return its directory."""
    command = [sys.executable, "-m", "bench.small", str(directory), *map(str, arguments)]
    subprocess.run(command, check=True)
    return directory


def options(part: str) -> argparse.Namespace:
    """Return the options of a part that asks about one chain."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--keys", type=int, default=10_000_000, help="keys of the full")
    parser.add_argument("--changed", type=int, help="keys of the increment; default: a 20th")
    parser.add_argument("--columns", action="store_true", help="with freqs and versions")
    parser.add_argument("--tensors", type=int, default=10_000, help="tensors of the listed bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / f"results-{part}.json")
    parser.add_argument("--prime-gb", type=float, help="default: 4, or half of what is free")
    parser.add_argument("--no-tensorflow", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the chain for the next run")
    chosen = parser.parse_args()
    chosen.changed = chosen.changed or chosen.keys // 20
    chosen.prime_gb = chosen.prime_gb or min(4.0, free_gigabytes() / 2)
    # A directory of its own: it is removed afterwards, and the one given is not ours.
    chosen.dir = chosen.dir.resolve() / "ckptctl-bench" / "asked"
    return chosen


def make_chain(chosen: argparse.Namespace) -> None:
    """Write that chain, unless the one of these sizes is there already."""
    sizes = ["--keys", chosen.keys, "--changed", chosen.changed, "--tensors", chosen.tensors]
    facts = [*sizes, *["--columns"] * chosen.columns]
    make(chosen.dir, json.dumps(facts), *facts)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def size(directory: Path) -> int:
    return sum(path.stat().st_size for path in files(directory))


def startups(directory: Path) -> dict[str, Contender]:
    """Return what takes no time but to start, and a merge of a chain of next to nothing."""
    tiny = directory / "tiny"
    make(tiny, "1000", "--keys", 1000, "--changed", 1000, "--tensors", 1)
    merge = [*CKPTCTL, "merge", str(tiny / "chain"), "-q", "-o", str(directory / "out" / "tiny")]
    return {
        "python": Contender("python -c pass", [sys.executable, "-c", "pass"], []),
        "version": Contender("ckptctl --version", [*CKPTCTL, "--version"], []),
        "merge": Contender("ckptctl merge, 1,000 keys", merge, files(tiny)),
    }


def copies(chain: Path, out: Path) -> dict[str, Contender]:
    """Return what a merge has to beat: the same bytes, moved by cp and cat."""
    full = sorted(chain.glob(f"{FULL}.*"))
    recent = shlex.quote(str(chain / ".incremental_checkpoint"))
    copied = shlex.join(str(out / path.name) for path in full)
    steps = f"cp {shlex.join(map(str, full))} {shlex.quote(str(out))} && sync {copied}"
    steps += f" && find {recent} -type f -exec cat {{}} + > /dev/null"
    both, read = ["sh", "-c", steps], ["sh", "-c", f"{steps} && cat {copied} > /dev/null"]
    sources = files(chain)
    return {
        "cp": Contender("cp full, sync, cat increment", both, sources),
        "cp+cat": Contender("cp full, sync, cat increment, cat copy", read, sources),
    }


def run_rounds(contenders: dict[str, Contender], out: Path, rounds: int, prime_gb: float) -> None:
    """Run every contender once a round, in another order each time."""
    turns = list(contenders.values())
    shuffle = random.Random(1).shuffle
    for number in range(1, rounds + 1):
        shuffle(turns)
        for each in turns:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            prime(each, prime_gb)
            each.run(out)
            said = f"round {number}: {each.name}: {each.seconds[-1]:.2f} s"
            print(said, file=sys.stderr, flush=True)
