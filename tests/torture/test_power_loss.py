"""A power cut at any moment, modelled: nothing is lost, and the next run ends the work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.torture.cases import Report, again, evenly
from tests.torture.claims import Claims
from tests.torture.powerloss import Cut, Recording, record
from tests.torture.resident import Resident
from tests.torture.scenarios import SCENARIOS, Scenario, Stage, command, stage
from tests.torture.tracing import CHANGING, Server

HERE = "tests/torture/test_power_loss.py"


def recorded(server: Server, made: Stage, home: Path) -> Recording:
    room = home / "room"
    made.copy(room)
    shutil.copytree(room, home / "laid-out", symlinks=True)
    ended = server.run(
        room,
        command(made.scenario.args, room),
        trace=[f"?{name}" for name in CHANGING],
        strings=1 << 24,
    )
    assert ended.code == 0
    shutil.copytree(room, home / "after", symlinks=True)
    return record(ended.log, room, home / "laid-out", home / "after")


def torture(
    scenario: Scenario, server: Server, resident: Resident | None, home: Path, most: int | None
) -> None:
    made = stage(scenario, home / "before")
    claims = Claims(made, resident)
    found = recorded(server, made, home)
    cuts = found.cuts if most is None else evenly(found.cuts, most)

    def one(cut: Cut, room: Path) -> None:
        found.lay_out(cut, room)
        claims.hold(room)
        again(server, made, room)
        claims.done(room)

    report = Report(made, HERE)
    report.run(cuts, one, home / "room")
    report.end()


@pytest.mark.torture
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_power_lost_at_any_moment(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    torture(scenario, server, resident, tmp_path, None)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_power_lost_at_some_moments(scenario: Scenario, server: Server, tmp_path: Path) -> None:
    torture(scenario, server, None, tmp_path, 6)
