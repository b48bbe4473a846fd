"""A disk that fails at any call: a clear error, nothing lost, and the next run ends it.

ENOSPC, EDQUOT, EIO, EROFS and EACCES at each system call that changes something, EIO at each
that reads. A command may go on where it can do without (the cache, an owner that cannot be
given): then all of its work is done. Else it ends with the code that cli.md gives for it,
names a file, and leaves nothing that the next run does not clear away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from tests.torture.cases import Case, Report, again, recorded, spoilt, spread
from tests.torture.claims import Claims
from tests.torture.resident import Resident
from tests.torture.scenarios import SCENARIOS, Scenario, stage
from tests.torture.tracing import Call, Server

HERE = "tests/torture/test_failing_calls.py"
ERRORS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EACCES")
#: Refused, damaged (what cannot be read is not known to be whole), or partly done.
CODES = {12, 4, 3}


def torture(
    scenario: Scenario,
    server: Server,
    resident: Resident | None,
    home: Path,
    errors: Sequence[str],
    *,
    reading: bool = False,
    most: int | None = None,
) -> None:
    made = stage(scenario, home / "before")
    claims = Claims(made, resident)
    calls = recorded(server, made, home / "room", reading=reading)
    numbered = list(enumerate(_thinned(calls)))
    cases = [
        Case(len(errors) * number + at, call, f"error={error}")
        for number, call in numbered
        for at, error in enumerate(errors)
    ]

    def one(case: Case, room: Path) -> None:
        ended = spoilt(server, made, room, case)
        assert "INJECTED" in ended.log
        assert "Traceback" not in ended.stderr, ended.stderr
        if ended.code == 0:
            claims.done(room)
            return
        assert ended.code in CODES, f"it ends with {ended.code}: {ended.stderr}"
        assert "error: " in ended.stderr
        assert str(room) in ended.stderr, f"no file is named: {ended.stderr}"
        claims.hold(room)
        again(server, made, room)
        claims.done(room)

    report = Report(made, HERE)
    report.run(spread(cases, most) if most else cases, one, home / "room")
    report.end()


def _thinned(calls: Sequence[Call]) -> Iterator[Call]:
    """Of a series of calls of a name on one file the first, one in the middle, and the last."""
    for _, series in groupby(calls, key=lambda call: (call.name, call.about)):
        own = list(series)
        yield from own if len(own) <= 3 else (own[0], own[len(own) // 2], own[-1])


@pytest.mark.torture
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_any_call_fails(
    scenario: Scenario, error: str, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    torture(scenario, server, resident if error == "EIO" else None, tmp_path, [error])


@pytest.mark.torture
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_any_read_fails(
    scenario: Scenario, server: Server, resident: Resident | None, tmp_path: Path
) -> None:
    torture(scenario, server, resident, tmp_path, ["EIO"], reading=True)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_some_calls_fail(scenario: Scenario, server: Server, tmp_path: Path) -> None:
    torture(scenario, server, None, tmp_path, ERRORS, most=4)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_some_reads_fail(scenario: Scenario, server: Server, tmp_path: Path) -> None:
    torture(scenario, server, None, tmp_path, ["EIO"], reading=True, most=4)
