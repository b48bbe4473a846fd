"""Progress: lines for a log, an erased bar for a person."""

from __future__ import annotations

import io
import json
import threading

import pytest

from ckptctl.output import open_output
from ckptctl.output.animation import AnimatedProgress
from ckptctl.output.lines import LineProgress
from ckptctl.progress import Deadline, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Moves only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_at_most_one_line_in_thirty_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, every=30, clock=clock)
    progress.start("writing", 10_000)
    for _ in range(100):
        clock.now += 1
        progress.advance(100)
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines == [
        "ckptctl: writing: 3.00 kB of 10.0 kB (30%), 100 B/s, 1m 10s left",
        "ckptctl: writing: 6.00 kB of 10.0 kB (60%), 100 B/s, 40 s left",
        "ckptctl: writing: 9.00 kB of 10.0 kB (90%), 100 B/s, 10 s left",
    ]


def test_what_takes_seconds_leaves_no_line() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, every=30, clock=clock)
    for phase in ("reading keys", "writing", "verifying"):
        progress.start(phase, 1000)
        clock.now += 9
        progress.advance(1000)
    progress.finish()
    assert stream.getvalue() == ""


def test_short_phases_one_after_another_still_give_a_sign_of_life() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, every=30, clock=clock)
    for number in range(7):
        progress.start(f"phase {number}")
        clock.now += 10
        progress.advance(500)
    assert stream.getvalue().splitlines() == [
        "ckptctl: phase 2: 500 B, 50 B/s",
        "ckptctl: phase 5: 500 B, 50 B/s",
    ]


def test_waiting_says_for_whom_and_how_long() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, every=30, clock=clock)
    progress.start("waiting for process 7 on host")
    for _ in range(7):
        clock.now += 10
        progress.advance(0)
    assert stream.getvalue().splitlines() == [
        "ckptctl: waiting for process 7 on host: 30 s",
        "ckptctl: waiting for process 7 on host: 1m 00s",
    ]


def test_a_warning_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    lines, terminal = io.StringIO(), Terminal()
    LineProgress(lines, every=30, clock=Clock()).warn("took\x1b[2J over")
    assert lines.getvalue() == "ckptctl: warning: took\\x1b[2J over\n"
    progress = AnimatedProgress(terminal)
    Deadline(1e9, progress).warn("before [0]")
    progress.start("writing", 100)
    progress.warn("while\x1b[2J [1]")
    progress.finish()
    text = terminal.getvalue()
    assert "ckptctl: warning: before [0]" in text
    assert "ckptctl: warning: while\\x1b[2J [1]" in text


def test_a_name_in_a_phase_writes_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    lines, clock, terminal = io.StringIO(), Clock(), Terminal()
    for progress in (LineProgress(lines, every=30, clock=clock), AnimatedProgress(terminal)):
        progress.start("comparing a\x1b[2J\nb", 100)
        clock.now += 60
        progress.advance(50)
        progress.finish()
    assert lines.getvalue().startswith("ckptctl: comparing a\\x1b[2J\\nb: 50 B")
    assert "comparing a\\x1b[2J\\nb" in terminal.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_document_keeps_what_was_warned_of(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stdout, stderr = io.StringIO(), Terminal() if terminal else io.StringIO()
    with open_output("test", json=True, stdout=stdout, stderr=stderr) as out:
        for message in ("one", "two"):
            out.progress().warn(message)
    assert json.loads(stdout.getvalue())["notices"] == ["one", "two"]
    assert ("warning: two" in stderr.getvalue()) == terminal


class Gone(io.StringIO):
    """A pipe whose reader went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_log_that_nobody_reads_stops_no_work() -> None:
    clock = Clock()
    progress = LineProgress(Gone(), every=30, clock=clock)
    progress.start("writing", 100)
    clock.now += 60
    progress.advance(50)
    with open_output("test", stdout=io.StringIO(), stderr=Gone()) as out:
        out.warn("careful")


def test_threads_lose_no_bytes() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = LineProgress(stream, every=30, clock=clock)
    progress.start("writing", 80_000)
    threads = [
        threading.Thread(target=lambda: [progress.advance(1) for _ in range(10_000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 30
    progress.advance(0)
    assert "80.0 kB of 80.0 kB (100%)" in stream.getvalue()


def test_an_animation_shows_phases_and_is_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    progress = AnimatedProgress(stream)
    progress.start("reading [0] keys", 1000)
    progress.advance(1000)
    progress.start("writing", None)
    progress.advance(10)
    progress.finish()
    progress.finish()
    text = stream.getvalue()
    assert "writing" in text
    assert text.endswith("\x1b[2K") or text.rstrip("\r\n").endswith("\x1b[2K")
    assert "\x1b[?25h" in text, "the cursor is given back"


def test_an_animation_that_never_started_writes_nothing() -> None:
    stream = Terminal()
    progress = AnimatedProgress(stream)
    progress.advance(5)
    progress.finish()
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("json", "terminal", "term", "kind"),
    [
        (False, True, "xterm", AnimatedProgress),
        (False, True, "dumb", LineProgress),
        (False, False, "xterm", LineProgress),
        (True, True, "xterm", AnimatedProgress),
        (True, False, "xterm", Progress),
    ],
)
def test_stderr_alone_decides_about_animation(
    json: bool, terminal: bool, term: str, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", term)
    stderr = Terminal() if terminal else io.StringIO()
    out = open_output("test", json=json, stdout=io.StringIO(), stderr=stderr)
    progress = out.progress()
    assert isinstance(progress, kind)
    assert isinstance(progress, AnimatedProgress | LineProgress) == (kind is not Progress)
