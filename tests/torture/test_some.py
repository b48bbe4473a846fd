"""The short form of the suite: some calls of every scenario, the dangerous ones among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.cases import Report, evenly, spread
from tests.torture.rack import Rack
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.tracing import Server

ERRORS = ("ENOSPC", "EIO", "EACCES")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_some_calls(scenario: Scenario, server: Server, tmp_path: Path) -> None:
    rack = Rack(scenario, server, None, tmp_path)
    report = Report(rack.stage, __file__)
    report.run(spread(rack.kills(), 3), rack.killed, rack.room)
    report.run(spread(rack.failures(*ERRORS), 2), rack.failed, rack.room)
    report.run(evenly(rack.failures("EIO", reading=True), 1), rack.failed, rack.room)
    report.run(evenly(rack.power.cuts, 3), rack.cut, rack.room)
    report.end()
