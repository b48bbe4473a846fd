"""SIGKILL at each system call that changes something: nothing is lost, the next run ends it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.cases import Report
from tests.torture.rack import Rack
from tests.torture.resident import Resident
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.tracing import Server


@pytest.mark.torture
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_at_any_call(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    rack = Rack(scenario, server, resident, tmp_path)
    report = Report(rack.stage, __file__)
    report.run(rack.kills(), rack.killed, rack.room)
    report.end()
