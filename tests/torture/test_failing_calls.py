"""A disk that fails at any call: a clear error, nothing lost, and the next run ends the work.

ENOSPC, EDQUOT, EIO, EROFS and EACCES at each system call that changes something, EIO at each
that reads. A command may go on where it can do without (the cache, an owner that cannot be
given): then all of its work is done. Else it ends with the code that cli.md gives for it,
names a file, and leaves nothing that the next run does not clear away.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.cases import Report
from tests.torture.rack import Rack
from tests.torture.resident import Resident
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.tracing import Server

ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES")


@pytest.mark.torture
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_any_call_fails(
    scenario: Scenario, error: str, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    rack = Rack(scenario, server, resident, tmp_path)
    report = Report(rack.stage, __file__)
    report.run(rack.failures(error), rack.failed, rack.room)
    report.end()


@pytest.mark.torture
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_any_read_fails(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    rack = Rack(scenario, server, resident, tmp_path)
    report = Report(rack.stage, __file__)
    report.run(rack.failures("EIO", reading=True), rack.failed, rack.room)
    report.end()
