"""A power cut at any moment, modelled: nothing is lost, and the next run ends the work.

`powerloss.py` says what the model covers and what not.
"""

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
def test_power_lost_at_any_moment(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    rack = Rack(scenario, server, resident, tmp_path)
    report = Report(rack.stage, __file__)
    report.run(rack.power.cuts, rack.cut, rack.room)
    report.end()
