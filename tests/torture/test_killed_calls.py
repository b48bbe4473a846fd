"""SIGKILL at each system call that changes something: nothing is lost, the next run ends it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.torture.cases import Case, Report, again, recorded, spoilt, spread
from tests.torture.claims import Claims
from tests.torture.resident import Resident
from tests.torture.scenarios import SCENARIOS, Scenario, stage
from tests.torture.tracing import Server

FAULT = "signal=KILL"
HERE = "tests/torture/test_killed_calls.py"


def torture(
    scenario: Scenario, server: Server, resident: Resident | None, home: Path, most: int | None
) -> None:
    made = stage(scenario, home / "before")
    claims = Claims(made, resident)
    calls = recorded(server, made, home / "room")
    claims.done(home / "room")
    cases = [Case(number, call, FAULT) for number, call in enumerate(calls)]

    def one(case: Case, room: Path) -> None:
        ended = spoilt(server, made, room, case)
        assert ended.code == -signal.SIGKILL
        claims.hold(room)
        again(server, made, room)
        claims.done(room)

    report = Report(made, HERE)
    report.run(spread(cases, most) if most else cases, one, home / "room")
    report.end()


@pytest.mark.torture
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_at_any_call(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    torture(scenario, server, resident, tmp_path, None)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_at_some_calls(scenario: Scenario, server: Server, tmp_path: Path) -> None:
    torture(scenario, server, None, tmp_path, 4)
