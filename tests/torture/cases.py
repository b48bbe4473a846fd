"""Spoiling one call of a scenario after another, and checking the claims each time."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from tests.torture.scenarios import Stage, command
from tests.torture.tracing import Call

#: `CKPTCTL_TORTURE=57 pytest ...` looks at one case again, and leaves its room behind.
ONLY = os.environ.get("CKPTCTL_TORTURE", "")
#: A file to which failures are written when they are met.
LOG = os.environ.get("CKPTCTL_TORTURE_LOG", "")
#: Where the room of a case that failed is kept.
KEEP = os.environ.get("CKPTCTL_TORTURE_KEEP", "")
#: Of one scenario; the rest would say the same.
MOST_FAILURES = 20
#: Calls around which something could be lost.
DANGEROUS = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir")

_T = TypeVar("_T")


@dataclass
class Case:
    """One call of a command that is spoilt; `fault` is what strace injects there."""

    number: int
    call: Call
    fault: str

    def __str__(self) -> str:
        return f"case {self.number}: {self.fault} at {self.call}"

    @property
    def injection(self) -> str:
        return f"{self.call.name}:{self.fault}:when={self.call.when}"


def spread(items: Sequence[Case], most: int) -> list[Case]:
    """Return about so many cases, half of them dangerous, both halves spread evenly."""
    risky = [case for case in items if case.call.name in DANGEROUS and ".ckptctl/" not in str(case)]
    chosen = {case.number: case for case in (*evenly(risky, most // 2), *evenly(items, most))}
    return [chosen[number] for number in sorted(chosen)][: most + most // 2]


def evenly(items: Sequence[_T], most: int) -> list[_T]:
    if len(items) <= most:
        return list(items)
    return [items[at * (len(items) - 1) // max(1, most - 1)] for at in range(most)]


class Spoil(Protocol):
    """A case, or a power cut: what is done to a command, by number."""

    @property
    def number(self) -> int: ...


_S = TypeVar("_S", bound=Spoil)


class Report:
    """Failures of many cases, told together: each with how to see it again."""

    def __init__(self, stage: Stage, test: str) -> None:
        self.stage = stage
        self.test = test
        self.failed: list[str] = []
        self.cases = 0

    def run(self, cases: Iterable[_S], one: Callable[[_S], None], room: Path) -> None:
        """Run `one` for each case; go on after failures, but not for ever."""
        for case in cases:
            if ONLY and str(case.number) != ONLY:
                continue
            self.cases += 1
            try:
                one(case)
            except Exception:  # noqa: BLE001 (all are told at the end)
                self._tell(f"{case}\n{self._how(case, room)}\n{traceback.format_exc(limit=-3)}")
                if KEEP:
                    shutil.copytree(room, KEEP, symlinks=True)
                if len(self.failed) >= MOST_FAILURES:
                    break

    def _tell(self, failure: str) -> None:
        self.failed.append(failure)
        if LOG:
            with open(LOG, "a") as file:
                file.write(f"{self.stage.scenario}: {failure}\n\n")

    def _how(self, case: Spoil, room: Path) -> str:
        scenario = self.stage.scenario
        told = (
            f"  again: CKPTCTL_TORTURE={case.number} CKPTCTL_TORTURE_KEEP=/tmp/room "
            f"pytest -m torture -k {scenario.name} {self.test}"
        )
        if isinstance(case, Case):
            words = " ".join(command(scenario.args, room))
            told += (
                f"\n  strace: strace -f -y -e trace={case.call.name} -e inject={case.injection} "
                f"-p PID, where PID is about to be `ckptctl {words}`"
            )
        return told

    def end(self) -> None:
        """Fail if any case did."""
        summary = f"{self.stage.scenario}: {self.cases} cases, {len(self.failed)} failed"
        print(summary)
        if LOG:
            with open(LOG, "a") as file:
                file.write(f"{self.test} {summary}\n")
        told = "\n\n".join(self.failed)
        assert not self.failed, f"{summary}:\n\n{told}"
