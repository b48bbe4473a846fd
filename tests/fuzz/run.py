"""Coverage-guided fuzzing with atheris, all targets in turn: `make fuzz`.

    python -m tests.fuzz.run [--seconds 120] [--rounds 1] [--room DIR] [TARGET ...]

Each target runs in a process of its own, forked from one that has imported everything once. It
begins with the committed corpus and with what earlier runs left in `DIR/corpus`. A surprise ends
nothing: the first input of each kind is put into `DIR/found-<time>/<target>/` with its traceback,
and what kills a process (a hang, too much memory) is put there by libFuzzer. Exits 1 if anything
was found.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Seconds for one input, and MiB for a whole process.
TIMEOUT, RSS = 20, 1024
#: Address space: a length that is believed before it is checked is refused by the kernel.
ADDRESSES = 4 << 30
#: What is instrumented: us, and what parses text formats and JSON for us.
INSTRUMENTED = ["ckptctl", "google", "json"]


class Fuzzer:
    """One target under libFuzzer, in this process."""

    def __init__(self, name: str, target: Any, found: Path) -> None:
        self.name, self.target, self.found = name, target, found
        self.kinds: set[str] = set()

    def __call__(self, data: bytes) -> None:
        try:
            self.target.run(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            last = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__}-{Path(last.filename).stem}-{last.name}-{last.lineno}"
            if kind not in self.kinds:
                self.kinds.add(kind)
                (self.found / kind).write_bytes(data)
                (self.found / f"{kind}.txt").write_text(traceback.format_exc())

    def go(self, corpora: list[Path], seconds: int) -> None:
        """Fuzz; libFuzzer ends the process."""
        import atheris

        def mutate(data: bytes, most: int, seed: int) -> bytes:
            changed: bytes = self.target.mutate(data, most, random.Random(seed), atheris.Mutate)
            return changed

        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        arguments = [f"-max_total_time={seconds}", f"-max_len={self.target.longest}"]
        arguments += [f"-timeout={TIMEOUT}", f"-rss_limit_mb={RSS}", "-print_final_stats=1"]
        arguments += [f"-artifact_prefix={self.found}/", *map(str, corpora)]
        more = {} if self.target.mutate is None else {"custom_mutator": mutate}
        atheris.Setup([self.name, *arguments], self, **more)
        atheris.Fuzz()


def spawn(name: str, target: Any, room: Path, found: Path, seconds: int) -> tuple[int, int]:
    """Fuzz one target for so long; return executions and the edges that were reached."""
    corpus, place = room / "corpus" / name, found / name
    corpus.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    log = room / f"{name}.log"
    runs = edges = 0
    end = time.monotonic() + seconds
    while (left := round(end - time.monotonic())) > 0:
        child = os.fork()
        if child == 0:
            try:
                with open(log, "wb") as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                Fuzzer(name, target, place).go([corpus, HERE / "corpus" / name], left)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        said = log.read_text(errors="replace")
        done = sum(map(int, re.findall(r"stat::number_of_executed_units: +(\d+)", said)))
        runs += done
        edges = max([edges, *map(int, re.findall(r" cov: (\d+)", said))])
        if os.waitstatus_to_exitcode(status):
            (place / f"died-{time.time_ns()}.txt").write_text(said[-20_000:])
            if not done:  # it does not even begin
                break
    return runs, edges


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=120, help="for all targets and rounds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--room", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    import atheris

    said = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a line for each module
    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS
    os.dup2(said, 2)
    targets = {name: TARGETS[name] for name in options.targets or TARGETS}
    found = options.room / time.strftime("found-%Y%m%d-%H%M%S")
    part = options.seconds / sum(target.share for target in targets.values()) / options.rounds
    for number in range(options.rounds):
        for name, target in targets.items():
            share = max(1, round(part * target.share))
            runs, edges = spawn(name, target, options.room, found, share)
            now = time.strftime("%H:%M:%S")
            print(f"{now}\tround {number + 1}\t{name}\t{runs} runs\t{edges} edges", flush=True)
    every = sorted(path for path in found.rglob("*") if path.is_file())
    for path in every:
        print(f"found: {path}")
    return 1 if every else 0


if __name__ == "__main__":
    sys.exit(main())
