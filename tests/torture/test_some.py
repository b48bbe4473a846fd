"""The short form of the suite: some calls of every scenario, the dangerous ones among them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.cases import Report, evenly, spread
from tests.torture.powerloss import record
from tests.torture.rack import Rack
from tests.torture.scenarios import SCENARIOS, Scenario
from tests.torture.tracing import CHANGING, STRACE, Server, changes, parse

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


# --- the harness itself -----------------------------------------------------------------


def test_a_kill_comes_before_the_call(server: Server, tmp_path: Path) -> None:
    rack = Rack(SCENARIOS[0], server, None, tmp_path)
    made = next(case for case in rack.kills() if case.call.name.startswith("mkdir"))
    rack.killed(made)  # and runs again
    rack.stage.copy(rack.room)
    ended = server.run(rack.room, rack.args, trace=[made.call.name], inject=made.injection)
    assert ended.code == -signal.SIGKILL
    assert made.call.about == "chain/.ckptctl"
    assert not (rack.room / "chain" / ".ckptctl").exists()


def test_the_server_is_the_command(server: Server, tmp_path: Path) -> None:
    """With tasks on one thread the same calls in the same order as a process with workers."""
    rack = Rack(SCENARIOS[0], server, None, tmp_path)
    rack.stage.copy(rack.room)
    names = ",".join(f"?{name}" for name in CHANGING)
    log = tmp_path / "log"
    command = [*STRACE, "-o", str(log), "-e", f"trace={names}", sys.executable, "-m", "ckptctl"]
    subprocess.run(
        [*command, *rack.args],
        env=server.env | {"XDG_CACHE_HOME": str(rack.room / "cache")},
        cwd=rack.room,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    real = changes(parse(log.read_text(errors="surrogateescape"), str(rack.room)))
    assert [(c.name, c.about) for c in real] == [(c.name, c.about) for c in rack.changing]


def test_what_was_not_flushed_may_be_lost(tmp_path: Path) -> None:
    """A rename that outlives the bytes of what it renamed, as the model must know it."""
    before = tmp_path / "before"
    before.mkdir()
    (before / "state").write_bytes(b"old")
    log = (
        '1 openat(AT_FDCWD</>, "/room/new", O_WRONLY|O_CREAT, 0666) = 3</room/new>\n'
        '1 write(3</room/new>, "fresh", 5) = 5\n'
        '1 rename("/room/new", "/room/state") = 0\n'
        "1 fsync(4</room>) = 0\n"
    )
    after = tmp_path / "after"
    after.mkdir()
    (after / "state").write_bytes(b"fresh")
    cuts = record(log, Path("/room"), before, after).cuts
    found = {cut.tree.get("state", (0, b"gone"))[1] for cut in cuts}
    assert found == {b"old", b"fresh", b"", bytes(5), b"fr"}
