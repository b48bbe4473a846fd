"""Directories locked by a lease, in a hurry; and leases of processes that are no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptctl.progress import Progress

ROOT = Path(__file__).parents[2]
TOKEN = "0123456789abcdef" * 2

#: A machine may stall for seconds: only what is meant to die does so in a hurry.
FORCED = {"CKPTCTL_LOCK": "lease"}
BUSY = FORCED | {"CKPTCTL_KNOB_LEASE_RENEW_SECONDS": "0.1"}
HASTY = BUSY | {"CKPTCTL_KNOB_LEASE_DEAD_SECONDS": "1"}

HOLD = """
import sys
from ckptctl.errors import CkptctlError
from ckptctl.storage.lock import directory_lock
with directory_lock(sys.argv[1]) as lock:
    print("held", flush=True)
    for line in sys.stdin:
        try:
            lock.check()
        except CkptctlError as error:
            print(type(error).__name__, error.exit_code, error.message, flush=True)
        else:
            print("ours", flush=True)
print("released", flush=True)
"""


class Loud(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


class Watched(Progress):
    def __init__(self) -> None:
        self.phases: list[str] = []
        self.signs = 0

    def start(self, phase: str, total: int | None = None) -> None:
        self.phases.append(phase)

    def advance(self, done: int) -> None:
        self.signs += 1


class Holder:
    """Another process that holds the lease until its stdin is closed."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)],
            cwd=ROOT,
            env=os.environ | env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def check(self) -> str:
        """Let it check its lease, and return what it says."""
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def holder(directory: Path, env: dict[str, str] | None = None) -> Iterator[Holder]:
    held = Holder(directory, HASTY if env is None else env)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def room(directory: Path) -> Path:
    return directory / ".ckptctl" / "lease"


def state(directory: Path) -> str:
    (name,) = (name for name in os.listdir(room(directory)) if not name.endswith(".json"))
    return name


def note(**facts: Any) -> dict[str, Any]:
    """Facts of a pod that ran elsewhere."""
    away = {"host": "pod-7", "pid": 7, "since": "2026-01-01T00:00:00+00:00"}
    return away | {"boot": "another", "namespaces": "x", "started": 1, "renew_s": 0.1} | facts


def leave(directory: Path, facts: Any = None, *, idle_s: float = 0.0, count: int = 3) -> None:
    """Leave a lease that nobody renews, last renewed so long ago."""
    home = room(directory)
    home.mkdir(parents=True, exist_ok=True)
    for path in home.iterdir():
        path.unlink()
    (home / f"held-{TOKEN}-{count}").touch()
    path = home / f"{TOKEN}.json"
    path.write_text(json.dumps(note() if facts is None else facts))
    when = time.time() - idle_s
    os.utime(path, (when, when))
