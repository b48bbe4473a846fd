"""Coverage-guided fuzzing with atheris, all targets in turn: `make fuzz`.

    python -m tests.fuzz.run [--seconds 120] [--rounds 1] [--room DIR] [TARGET ...]

Each target runs in processes of its own, which begin with the committed corpus and with what
earlier rounds left in `DIR/corpus`. A surprise does not end a run: the first input of each kind
is put into `DIR/found/<target>/` with its traceback. What kills a process (a hang, too much
memory) is put there by libFuzzer. Exits 1 if anything was found.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import subprocess
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).parent
#: Seconds for one input, and MiB for a whole process.
TIMEOUT, RSS = 20, 1024
#: Address space: a length that is believed before it is checked is refused by the kernel.
ADDRESSES = 4 << 30
_BEGIN = 15  # seconds to import and to read the corpus, beyond what a run may take


def fuzz(name: str, room: str, arguments: list[str]) -> None:
    """Fuzz one target in this process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["ckptctl", "google", "json"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    found: set[str] = set()

    def one(data: bytes) -> None:
        try:
            target.run(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what we look for
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{type(error).__name__}-{Path(where.filename).stem}-{where.name}-{where.lineno}"
            if kind not in found:
                found.add(kind)
                place = Path(room, "found", name)
                place.mkdir(parents=True, exist_ok=True)
                (place / kind).write_bytes(data)
                (place / f"{kind}.txt").write_text(traceback.format_exc())

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        assert target.mutate is not None
        return target.mutate(data, most, random.Random(seed), atheris.Mutate)

    more = {"custom_mutator": mutate} if target.mutate is not None else {}
    atheris.Setup([name, *arguments], one, **more)
    atheris.Fuzz()


def spawn(name: str, room: Path, seconds: int) -> tuple[int, int]:
    """Fuzz one target for so long; return executions and the edges that were reached."""
    corpus, place = room / "corpus" / name, room / "found" / name
    corpus.mkdir(parents=True, exist_ok=True)
    place.mkdir(parents=True, exist_ok=True)
    from tests.fuzz.targets import TARGETS

    runs = edges = 0
    end = time.monotonic() + seconds
    while (left := int(end - time.monotonic())) > 0:
        own = [str(corpus), str(HERE / "corpus" / name), f"-max_total_time={left}"]
        limits = [f"-timeout={TIMEOUT}", f"-rss_limit_mb={RSS}", f"-artifact_prefix={place}/"]
        form = [f"-max_len={TARGETS[name].longest}", "-print_final_stats=1", "-verbosity=1"]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.run", "--one", name, "--room", str(room), "--"),
                *(*own, *limits, *form),
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            errors="replace",
            text=True,
            check=False,
        )
        runs += sum(map(int, re.findall(r"stat::number_of_executed_units: +(\d+)", done.stderr)))
        edges = max([edges, *map(int, re.findall(r" cov: (\d+)", done.stderr))])
        if done.returncode:
            (place / f"died-{time.time_ns()}.txt").write_text(done.stderr[-20_000:])
            if not runs:  # it does not even begin
                print(done.stderr[-4000:], file=sys.stderr)
                break
    return runs, edges


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=120, help="for all targets and rounds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--room", type=Path, default=Path("build/fuzz"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(sys.argv[1:])
    if options.one:
        fuzz(
            options.one,
            str(options.room),
            [each for each in options.targets + rest if each != "--"],
        )
        return 0
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    part = options.seconds / sum(TARGETS[name].share for name in names) / options.rounds
    for number in range(options.rounds):
        for name in names:
            runs, edges = spawn(name, options.room, max(1, round(part * TARGETS[name].share)))
            stamp = time.strftime("%H:%M:%S")
            print(f"{stamp}\tround {number + 1}\t{name}\t{runs} runs\t{edges} edges", flush=True)
    found = sorted(path for path in (options.room / "found").rglob("*") if path.is_file())
    for path in found:
        print(f"found: {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
