"""`make bench`: merge against `cp` and TensorFlow, `ls` against `list_variables`.

All from one run: contenders take turns, the machine is primed before each step, whole
processes are timed, and medians and ratios are quoted. This process stays small and loads
no NumPy, because a child's peak memory would include it.
"""

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
from bench.report import MB, document, table

HERE = Path(__file__).parent
CKPTCTL = [sys.executable, "-m", "ckptctl"]
FULL, INCREMENT = "model.ckpt-1000", ".incremental_checkpoint/incremental_model.ckpt-1100"
# What the issue that made this harness owes: times cp, megabytes, times TensorFlow.
MOST_CP, MOST_MB, LEAST_TF = 3.0, 300, 10.0


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000, help="keys of the full")
    parser.add_argument("--changed", type=int, help="keys of the increment; default: a 20th")
    parser.add_argument("--columns", action="store_true", help="with freqs and versions")
    parser.add_argument("--tensors", type=int, default=10_000, help="tensors of the listed bundle")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=HERE.parent / "build")
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--prime-gb", type=float, help="default: 4, or half of what is free")
    parser.add_argument("--no-tensorflow", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the chain for the next run")
    chosen = parser.parse_args()
    chosen.changed = chosen.changed or chosen.keys // 20
    chosen.prime_gb = chosen.prime_gb or min(4.0, free_gigabytes() / 2)
    # A directory of its own: it is removed afterwards, and the one given is not ours.
    chosen.dir = chosen.dir.resolve() / "ckptctl-bench"
    return chosen


def make_chain(chosen: argparse.Namespace) -> None:
    """Write the chain, unless the one of these sizes is there already."""
    facts = json.dumps([chosen.keys, chosen.changed, chosen.columns, chosen.tensors])
    mark = chosen.dir / "made"
    if mark.exists() and mark.read_text() == facts:
        return
    shutil.rmtree(chosen.dir, ignore_errors=True)
    chosen.dir.mkdir(parents=True)
    command = [sys.executable, "-m", "bench.chain", str(chosen.dir)]
    command += ["--keys", str(chosen.keys), "--changed", str(chosen.changed)]
    command += ["--tensors", str(chosen.tensors)] + ["--columns"] * chosen.columns
    subprocess.run(command, check=True)
    mark.write_text(facts)


def files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def merges(chosen: argparse.Namespace) -> dict[str, Contender]:
    """Return the ways of making the merged full; each writes to `out/`."""
    chain = chosen.dir / "chain"
    out = chosen.dir / "out"
    sources = files(chain)
    full = sorted(chain.glob(f"{FULL}.*"))
    copies = [str(out / path.name) for path in full]
    copy = f"cp {shlex.join(map(str, full))} {shlex.quote(str(out))} && sync {shlex.join(copies)}"
    merge = [*CKPTCTL, "merge", str(chain), "-o", str(out / "merged")]
    found = {
        "cp": Contender("cp of the full, fsync", ["sh", "-c", copy], full),
        "merge": Contender("ckptctl merge --no-verify", [*merge, "--no-verify"], sources),
        "verified": Contender("ckptctl merge", merge, sources),
    }
    if not chosen.no_tensorflow:
        command = [sys.executable, str(HERE / "tf_merge.py")]
        command += [str(chain / FULL), str(chain / INCREMENT), str(out / "tf")]
        found["tensorflow"] = Contender("TensorFlow: load, NumPy, SaveV2, fsync", command, sources)
    return found


def listings(chosen: argparse.Namespace) -> dict[str, Contender]:
    """Return the ways of listing the chain, and a bundle of many tensors."""
    found = {}
    for where in ("chain", "many"):
        directory = chosen.dir / where
        sources = [path for path in files(directory) if path.suffix in {".index", ""}]
        what = "the chain" if where == "chain" else f"{chosen.tensors:,} tensors"
        command = [*CKPTCTL, "ls", str(directory)]
        found[f"ls {where}"] = Contender(f"ckptctl ls, {what}", command, sources)
        if not chosen.no_tensorflow:
            code = f"import tensorflow as tf; tf.train.list_variables({str(directory / FULL)!r})"
            command = [sys.executable, "-c", code]
            name = f"tf.train.list_variables, {what}"
            found[f"tf {where}"] = Contender(name, command, sources)
    return found


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


def check_result(chosen: argparse.Namespace, contenders: dict[str, Contender]) -> None:
    """Run ours and TensorFlow's once more and compare what they wrote."""
    out = chosen.dir / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    for name in ("merge", "tensorflow"):
        subprocess.run(contenders[name].command, check=True, capture_output=True)
    command = [sys.executable, "-m", "bench.compare", str(out / "merged"), str(out / "tf")]
    subprocess.run(command, check=True)
    print("Both merges hold the same tensors, by checksum.")


def verdict(found: dict[str, Contender]) -> list[str]:
    """Return what is owed beside what was measured."""
    lines = []
    for name, what in (("verified", "with verification"), ("merge", "without")):
        merge = found[name]
        lines.append(f"* {what}: {merge.wall / found['cp'].wall:.2f} x cp (owed: <= {MOST_CP:g})")
        lines.append(f"* {what}: {merge.peak / MB:.0f} MB at peak (owed: <= {MOST_MB})")
        if "tensorflow" in found:
            ratio = found["tensorflow"].wall / merge.wall
            lines.append(f"* {what}: {ratio:.1f} x as fast as TensorFlow (owed: >= {LEAST_TF:g})")
    return lines


def main() -> None:
    chosen = options()
    print(f"writing {chosen.keys:,} keys and an increment of {chosen.changed:,}", file=sys.stderr)
    make_chain(chosen)
    merging, listing = merges(chosen), listings(chosen)
    out = chosen.dir / "out"
    run_rounds(merging, out, chosen.rounds, chosen.prime_gb)
    # A listing reads little and takes little memory, so little primes it.
    run_rounds(listing, out, chosen.rounds, min(chosen.prime_gb, 0.5))
    print(
        f"\n## Merge: {chosen.keys:,} keys x 16 float32 with Adagrad, {chosen.changed:,} changed\n"
    )
    print(table(merging, "cp"), "", *verdict(merging), sep="\n")
    if "tensorflow" in merging:
        check_result(chosen, merging)
    print("\n## Listing\n")
    print(table(listing, "ls chain"))
    said = {k: str(v) if isinstance(v, Path) else v for k, v in vars(chosen).items()}
    del said["dir"], said["json"]
    groups = {"merge": merging, "ls": listing}
    chosen.json.write_text(json.dumps(document(groups, said), indent=1) + "\n")
    shutil.rmtree(chosen.dir / "out", ignore_errors=True)
    if not chosen.keep:
        shutil.rmtree(chosen.dir)


if __name__ == "__main__":
    main()
