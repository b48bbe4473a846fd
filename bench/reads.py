"""`make bench`: what only reads, against `cat` and against our own checked read.

`verify --data` of a chain on all cores with cold files, against `cat` of the same; on one core
with warm files; `diff` of its two states against reading both and comparing checksums; `get` of
1,000 keys.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from bench.goals import said
from bench.measure import Contender
from bench.report import MB, document, table
from bench.room import (
    CKPTCTL,
    FULL,
    INCREMENT,
    files,
    make_chain,
    options,
    run_rounds,
    size,
    startups,
)


def contenders(chosen: argparse.Namespace, tiny: Path) -> dict[str, Contender]:
    chain = chosen.dir / "chain"
    data = files(chain)
    verify = [*CKPTCTL, "verify", "--data", "-q"]
    cat = ["sh", "-c", f"cat {shlex.join(map(str, data))} > /dev/null"]
    both = [str(chain / name) for name in (FULL, FULL, INCREMENT)]
    read = [sys.executable, "-m", "bench.read"]
    cores = str(os.cpu_count() or 1)
    diff = [*CKPTCTL, "diff", "1000", "1100", "-C", str(chain)]
    get = [*CKPTCTL, "get", "emb", "--keys-from", str(chosen.dir / "asked.txt"), "-C", str(chain)]
    return {
        "python": Contender("python -c pass", [sys.executable, "-c", "pass"], []),
        "start": Contender("verify --data, 1,000 keys", [*verify, str(tiny)], files(tiny)),
        "cat": Contender("cat, files cold", cat, data, cold=True),
        "cold": Contender("verify --data, files cold", [*verify, str(chain)], data, cold=True),
        "warm": Contender("verify --data -j 1, files warm", [*verify, str(chain), "-j", "1"], data),
        "read": Contender("checked read of both states, one core", [*read, "1", *both], data),
        "cores": Contender("checked read of both states, all cores", [*read, cores, *both], data),
        "diff": Contender("diff of both states", diff, data),
        "norms": Contender("diff --json of both states", [*diff, "--json"], data),
        "get": Contender("get of 1,000 keys", [*get, "--format", "csv"], data),
    }


def figures(found: dict[str, Contender], nbytes: int) -> dict[str, float]:
    start = found["start"].wall
    # A chain so small that its checking drowns in the start-up tells nothing.
    cold, warm = (max(found[name].wall - start, 1e-3) for name in ("cold", "warm"))
    memory = ("cold", "warm", "diff", "get")
    peaks = {f"questions memory/{found[name].name}": found[name].peak / MB for name in memory}
    return peaks | {
        "verify/cold": found["cat"].wall / cold,
        "verify/warm": nbytes / 1e9 / warm,
        "diff/read on all cores": found["diff"].wall / found["cores"].wall,
        "diff/read on one core": found["diff"].wall / found["read"].wall,
        "diff with norms/read on all cores": found["norms"].wall / found["cores"].wall,
        "diff with norms/read on one core": found["norms"].wall / found["read"].wall,
        "get/files warm": found["get"].wall,
    }


def main() -> None:
    chosen = options("reads")
    make_chain(chosen)
    startups(chosen.dir)  # writes the chain of next to nothing
    found = contenders(chosen, chosen.dir / "tiny" / "chain")
    run_rounds(found, chosen.dir / "out", chosen.rounds, chosen.prime_gb)
    nbytes = size(chosen.dir / "chain")
    judged = figures(found, nbytes)
    print(f"\n## What only reads: {nbytes / 1e9:.2f} GB\n")
    print(table(found, "cat"), "", *said(judged), sep="\n")
    told = {"keys": chosen.keys, "changed": chosen.changed, "rounds": chosen.rounds}
    chosen.json.write_text(json.dumps(document({"reads": found}, told, judged), indent=1) + "\n")
    shutil.rmtree(chosen.dir / "out")
    if not chosen.keep:
        shutil.rmtree(chosen.dir)


if __name__ == "__main__":
    main()
