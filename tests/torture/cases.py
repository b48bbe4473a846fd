"""Spoiling one call of a scenario after another, and checking the claims each time."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.torture.claims import Claims
from tests.torture.scenarios import Stage, command
from tests.torture.tracing import CHANGING, Call, Ended, Server, changes

#: `CKPTCTL_TORTURE=57 pytest ...` looks at one case again, and leaves its room behind.
ONLY = os.environ.get("CKPTCTL_TORTURE", "")
#: Calls around which something could be lost.
DANGEROUS = ("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir")


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


def recorded(server: Server, stage: Stage, room: Path) -> list[Call]:
    """Run a scenario once, whole, and return the calls that change something in its room."""
    stage.copy(room)
    names = [f"?{name}" for name in CHANGING]
    ended = server.run(room, command(stage.scenario.args, room), trace=names)
    assert ended.code == 0, ended.stderr
    return changes(ended.calls)


def spoilt(server: Server, stage: Stage, room: Path, case: Case) -> Ended:
    """Run a scenario with one call spoilt."""
    stage.copy(room)
    ended = server.run(
        room,
        command(stage.scenario.args, room),
        trace=[case.call.name],
        inject=case.injection,
        timeout=60,
    )
    assert not ended.hung, f"it hangs:\n{ended.stderr[-4000:]}"
    hit = [call for call in ended.calls if call.when == case.call.when]
    assert [(c.name, c.about) for c in hit] == [(case.call.name, case.call.about)], (
        f"another call was hit: {hit}"
    )
    return ended


def again(server: Server, stage: Stage, room: Path) -> Ended:
    """Run the command once more; where that is refused, what a user would do then."""
    scenario = stage.scenario
    ended = server.run(room, command(scenario.args, room))
    assert not ended.hung
    if scenario.refused and ended.code == 12:
        if scenario.again is None:  # the destination exists: all was done but the clean-up
            rest = ("prune", str(room / "out"), "--yes", "--min-age", "0s")
            ended = server.run(room, rest)
        else:
            ended = server.run(room, command(scenario.again, room))
    assert ended.code == 0, f"the second run ends with {ended.code}: {ended.stderr}"
    return ended


def spread(items: Sequence[Case], most: int) -> list[Case]:
    """Return about so many cases, half of them dangerous, both halves spread evenly."""
    risky = [case for case in items if case.call.name in DANGEROUS and ".ckptctl/" not in str(case)]
    chosen = {case.number: case for case in (*_evenly(risky, most // 2), *_evenly(items, most))}
    return [chosen[number] for number in sorted(chosen)][: most + most // 2]


def _evenly(items: Sequence[Case], most: int) -> list[Case]:
    if len(items) <= most:
        return list(items)
    return [items[at * (len(items) - 1) // max(1, most - 1)] for at in range(most)]


class Report:
    """Failures of many cases, told together: each with how to see it again."""

    def __init__(self, stage: Stage, test: str) -> None:
        self.stage = stage
        self.test = test
        self.failed: list[str] = []
        self.cases = 0

    def run(self, cases: Iterable[Case], one: object, room: Path) -> None:
        for case in cases:
            if ONLY and str(case.number) != ONLY:
                continue
            self.cases += 1
            try:
                one(case, room)  # type: ignore[operator]
            except Exception:  # noqa: BLE001 (all are told at the end)
                self.failed.append(f"{case}\n{self._how(case, room)}\n{traceback.format_exc()}")
                if len(self.failed) >= 20:
                    break

    def _how(self, case: Case, room: Path) -> str:
        words = " ".join(command(self.stage.scenario.args, room))
        return (
            f"  again:  CKPTCTL_TORTURE={case.number} pytest -m '' {self.test}"
            f" -k '{self.stage.scenario.name}'\n"
            f"  strace: strace -f -y -e trace={case.call.name} -e inject={case.injection}"
            f" -p PID, of `ckptctl {words}` that waits (see README.md)"
        )

    def end(self) -> None:
        print(f"{self.stage.scenario}: {self.cases} cases")
        assert not self.failed, f"{len(self.failed)} of {self.cases}:\n\n" + "\n\n".join(
            self.failed
        )


def claims_of(stage: Stage, resident: object) -> Claims:
    return Claims(stage, resident)  # type: ignore[arg-type]
