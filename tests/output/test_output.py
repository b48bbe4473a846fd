"""Text and JSON siblings: one view, shown both ways."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from ckptctl.output import Column, Page, Value, open_output
from ckptctl.output.base import Kind
from ckptctl.output.terminal import TerminalPage, open_console
from ckptctl.output.text import PlainPage


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


NASTY = "t\x1b[31m\tab\nline"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@dataclass
class Some:
    """A view of one table."""

    columns: tuple[Column, ...]
    rows: list[tuple[Value, ...]] = field(default_factory=list)

    def document(self) -> Mapping[str, object]:
        return {"rows": self.rows}

    def text(self, page: Page) -> None:
        with page.table(self.columns) as rows:
            for row in self.rows:
                rows.add(*row)


VIEW = Some(
    (Column("name", "name"), Column("size", "bytes"), Column("age", "age"), Column("ok", "flag")),
    [(NASTY, 12_345_678, 3600.4, True), ("[0][bold]x特", None, None, False)],
)


def shown(view: Some, stdout: io.StringIO, **how: bool) -> str:
    with open_output("test", stdout=stdout, stderr=io.StringIO(), **how) as out:
        out.show(view)
    # Without the styles a line's length is its width.
    return re.sub(r"\x1b\[[0-9;]*m", "", stdout.getvalue())


def test_off_a_terminal_rows_are_tab_separated_and_exact() -> None:
    assert shown(VIEW, io.StringIO()).splitlines() == [
        "name\tsize\tage\tok",
        "t\\x1b[31m\\tab\\nline\t12345678\t3600\tyes",
        "[0][bold]x特\t-\t-\tno",
    ]


def test_on_a_terminal_numbers_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shown(VIEW, Terminal())
    assert "12.3 MB" in text
    assert "60m" in text
    assert "[0][bold]x" in text
    assert "\t" not in text


@pytest.mark.parametrize("columns", ["0", "1", "19", "0000"])
def test_a_width_that_cannot_be_meant_is_that_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 70, 0, 0))
    monkeypatch.setenv("COLUMNS", columns)
    with os.fdopen(slave, "w") as stream:
        assert open_console(stream).width == 70
    os.close(master)
    assert open_console(Terminal()).width == 80
    monkeypatch.setenv("COLUMNS", "20")
    assert open_console(Terminal()).width == 20


@pytest.mark.parametrize("kind", ["name", "word", "text"])
def test_no_cell_can_speak_to_the_terminal(kind: Kind) -> None:
    stream = Terminal()
    with TerminalPage(stream).table((Column("x", kind),), heading=False) as rows:
        rows.add(NASTY)
    assert r"t\x1b[31m\tab\nline" in stream.getvalue()
    assert "\x1b[31m" not in stream.getvalue()


@pytest.mark.parametrize("page_class", [PlainPage, TerminalPage])
def test_no_line_can_speak_to_the_terminal_or_become_two(
    page_class: type[PlainPage] | type[TerminalPage],
) -> None:
    stream = Terminal()
    page_class(stream).line("note", NASTY)
    assert stream.getvalue().count("\n") == 1
    assert r"t\x1b[31m\tab\nline" in stream.getvalue()


def test_rows_keep_names_apart_that_differ_by_an_escape() -> None:
    view = Some((Column("name", "name"),), [("a\nb",), ("a\\nb",)])
    assert shown(view, io.StringIO()).splitlines() == ["name", r"a\nb", r"a\\nb"]


def test_json_is_one_document_that_parses_and_is_ascii() -> None:
    text = shown(VIEW, io.StringIO(), json=True)
    assert text.isascii()
    assert text.count("\n") == 1
    document = json.loads(text)
    assert next(iter(document)) == "schema"
    assert document["schema"] == "ckptctl.test/1"
    assert document["rows"][0][0] == NASTY


def test_json_on_a_terminal_is_indented_but_never_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    view = Some((Column("name", "name"),), [("x" * 300,)])
    text = shown(view, Terminal(), json=True)
    assert "x" * 300 in text
    assert json.loads(text)["rows"] == [["x" * 300]]


def test_json_writes_nothing_when_the_command_fails() -> None:
    stdout = io.StringIO()

    def fail_late() -> None:
        with open_output("test", json=True, stdout=stdout, stderr=io.StringIO()) as out:
            out.show(VIEW)
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        fail_late()
    assert stdout.getvalue() == ""


def test_json_closed_early_is_not_written_twice() -> None:
    stdout = io.StringIO()
    with open_output("test", json=True, stdout=stdout, stderr=io.StringIO()) as out:
        out.show(VIEW)
        out.close()
        out.show(VIEW)
    assert stdout.getvalue().count("schema") == 1


def test_quiet_shows_and_warns_nothing() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    with open_output("test", quiet=True, stdout=stdout, stderr=stderr) as out:
        out.show(VIEW)
        out.warn("careful")
        out.progress().start("writing", 10)
    assert stdout.getvalue() == stderr.getvalue() == ""


def test_quiet_json_is_still_the_answer() -> None:
    assert json.loads(shown(VIEW, io.StringIO(), json=True, quiet=True))["rows"]


def test_a_warning_goes_to_stderr_with_its_control_characters_escaped() -> None:
    stderr = io.StringIO()
    with open_output("test", stdout=io.StringIO(), stderr=stderr) as out:
        out.warn("table \x1b[2J is odd")
    assert stderr.getvalue() == "ckptctl: warning: table \\x1b[2J is odd\n"


def test_under_json_stderr_is_left_to_the_error() -> None:
    stderr = io.StringIO()
    with open_output("test", json=True, stdout=io.StringIO(), stderr=stderr) as out:
        out.warn("careful")
        out.progress().start("writing", 10)
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_a_narrow_terminal_loses_spare_columns_and_no_digit(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = (
        Column("step", "number"),
        Column("keys", "count"),
        Column("tables", "number", spare=3),
        Column("name", "name", spare=2),
    )
    view = Some(columns, [(123_456, 1_234_567, 7, "model.ckpt-123456")])
    text = shown(view, Terminal())
    assert "123456" in text
    assert "1,234,567" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert ("tables" in text) <= ("name" in text)
    assert ("tables" in text) == (width >= 60)


@pytest.mark.parametrize("width", [20, 30, 40])
def test_what_fits_no_terminal_is_left_to_it_to_wrap(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = (
        Column("table", "name"),
        *(Column(what, "count") for what in ("new", "gone", "changed")),
        Column("bytes", "bytes"),
        Column("L2", "real"),
        Column("what", "text"),
    )
    row = ("emb/part_0_and_more", 1000, 23_456, 1_234_567, 12_345_678, 0.4216, "float32 [8, 4]")
    text = shown(Some(columns, [row]), Terminal())
    numbers = ("1,000", "23,456", "1,234,567", "12.3 MB", "0.4216")
    for whole in ("new", "gone", "changed", *numbers, "emb/part_0_a", "nd_more", "float32", "4]"):
        assert whole in text


def test_names_stay_whole_while_other_columns_have_idle_cells(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    columns = (
        Column("kind", width=20),
        Column("keys", "count"),
        Column("name", "name"),
        Column("because", "text"),
    )
    view = Some(columns, [("full", 7, "incremental_model.ckpt-1100", "a newer full covers it")])
    text = shown(view, Terminal())
    assert "incremental_model.ckpt-1100" in text
    assert max(map(len, text.splitlines())) <= 60
    assert "newer" in text


def test_a_column_for_programs_is_not_drawn() -> None:
    columns = (Column("step", "number"), Column("chain", "number", program=True))
    assert "chain" in shown(Some(columns, [(1, 2)]), io.StringIO())
    assert "chain" not in shown(Some(columns, [(1, 2)]), Terminal())


def test_tables_of_one_listing_line_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    columns = (Column("step", "number", width=9), Column("status", width=10), Column("n", "count"))
    ends = set()
    for row in ((1, "ok", 1), (123_456_789, "superseded", 12_345_678)):
        lines = shown(Some(columns, [row]), Terminal()).splitlines()
        ends |= {len(line.rstrip()) for line in lines}
    assert len(ends) == 1


@pytest.mark.parametrize("page_class", [PlainPage, TerminalPage])
def test_verbatim_text_is_not_touched(page_class: type[PlainPage] | type[TerminalPage]) -> None:
    stream = Terminal()
    page_class(stream).verbatim("[red]" + "x" * 200 + "\n")
    assert stream.getvalue() == "[red]" + "x" * 200 + "\n"


@pytest.mark.parametrize("variable", ["NO_COLOR", "TERM"])
def test_colour_can_be_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:

    def drawn() -> str:
        stream = Terminal()
        TerminalPage(stream).line("damaged", style="red")
        return stream.getvalue()

    assert "\x1b[31m" in drawn()
    monkeypatch.setenv(variable, "dumb" if variable == "TERM" else "1")
    assert drawn() == "damaged\n"


def test_force_color_colours_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stdout = io.StringIO()
    shown(VIEW, stdout)
    assert "\x1b" not in stdout.getvalue()
