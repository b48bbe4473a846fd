"""Runs whole processes and says how long they took and how much memory they had."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


@dataclass
class Contender:
    """One way of doing a job, and what each run of it took.

    What ckptctl remembers from run to run is in `cache`; without one a run knows nothing. The
    sources are in the page cache when it starts, or none of them is, with `cold`.
    """

    name: str
    command: list[str]
    sources: list[Path]
    cache: Path | None = None
    cold: bool = False
    seconds: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def wall(self) -> float:
        """Median seconds."""
        return median(self.seconds)

    @property
    def peak(self) -> int:
        """Median of the peak resident bytes."""
        return int(median(self.peaks))

    def run(self, directory: Path) -> None:
        """Run once, as a whole process, in `directory`."""
        # Without bytecode a run would mostly measure the compiling of its imports.
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment["XDG_CACHE_HOME"] = str(self.cache or directory / "cache")
        with open(directory / "log", "w+b") as log:
            begin = time.perf_counter()
            child = subprocess.Popen(
                self.command, stdout=log, stderr=log, cwd=directory, env=environment
            )
            _, status, usage = os.wait4(child.pid, 0)
            took = time.perf_counter() - begin
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                log.seek(0)
                sys.exit(f"{self.name} failed:\n{log.read().decode(errors='replace')}")
        self.seconds.append(took)
        self.peaks.append(usage.ru_maxrss * 1024)
        self.cpu.append(usage.ru_utime + usage.ru_stime)


def prime(contender: Contender, gigabytes: float) -> None:
    """Read the sources again, touch and free memory, and wait for writes of before."""
    os.sync()
    files = ["--cold"] * contender.cold + [str(path) for path in contender.sources]
    subprocess.run([sys.executable, "-m", "bench.prime", str(gigabytes), *files], check=True)


def free_gigabytes() -> float:
    """Return the memory that the machine could give."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    found = next(line for line in lines if line.startswith("MemAvailable"))
    return int(found.split()[1]) / (1 << 20)
