"""`make bench`: what is in a full, against `tf.train.list_variables`, as whole processes."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from bench.goals import said
from bench.measure import Contender
from bench.report import MB, document, table
from bench.room import CKPTCTL, FULL, files, make_chain, options, run_rounds


def listings(chosen: argparse.Namespace, where: str) -> dict[str, Contender]:
    """Return the ways of listing what is in one full."""
    directory = chosen.dir / where
    full = str(directory / FULL)
    indexes = [path for path in files(directory) if path.suffix in {".index", ""}]
    every = files(directory)
    found = {
        "ls": Contender("ls", [*CKPTCTL, "ls", str(directory)], indexes),
        "show": Contender("show", [*CKPTCTL, "show", full], every),
        "tensors": Contender("show --tensors", [*CKPTCTL, "show", full, "--tensors"], every),
    }
    if not chosen.no_tensorflow:
        code = f"import tensorflow as tf; print(tf.train.list_variables({full!r}))"
        command = [sys.executable, "-c", code]
        found["tensorflow"] = Contender("tf.train.list_variables", command, indexes)
    return found


def figures(found: dict[str, Contender], case: str) -> dict[str, float]:
    own = {name: each for name, each in found.items() if name != "tensorflow"}
    judged = {f"questions memory/{each.name}, {case}": each.peak / MB for each in own.values()}
    if "tensorflow" in found:
        whole = found["tensorflow"].wall
        judged |= {f"list/{each.name}/{case}": whole / each.wall for each in own.values()}
    return judged


def main() -> None:
    chosen = options("questions")
    make_chain(chosen)
    groups: dict[str, dict[str, Contender]] = {}
    judged: dict[str, float] = {}
    for where, what in (
        ("chain", f"{chosen.keys:,} keys"),
        ("many", f"{chosen.tensors:,} tensors"),
    ):
        found = listings(chosen, where)
        run_rounds(found, chosen.dir / "out", chosen.rounds, min(chosen.prime_gb, 0.5))
        groups[f"what is in a full of {what}"] = found
        judged |= figures(found, what)
        print(f"\n## What is in a full of {what}\n\n{table(found, next(iter(found)))}")
    print("", *said(judged), sep="\n")
    told: dict[str, object] = {"keys": chosen.keys, "tensors": chosen.tensors}
    chosen.json.write_text(json.dumps(document(groups, told, judged), indent=1) + "\n")
    shutil.rmtree(chosen.dir / "out")
    if not chosen.keep:
        shutil.rmtree(chosen.dir)


if __name__ == "__main__":
    main()
