"""Text: tables for a person at a terminal, tab-separated rows for everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import StringIO
from typing import TextIO

from ckptctl.output import format as fmt
from ckptctl.output.base import Column, Output, Page, Rows, Value, View
from ckptctl.progress import Progress

__all__ = ["PlainPage", "TextOutput"]


class TextOutput(Output):
    """Draws each view on a page as soon as it is shown."""

    def __init__(self, stdout: TextIO, stderr: TextIO, *, terminal: bool, animate: bool) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._terminal = terminal
        self._animate = animate
        self._page: Page | None = None
        self.form = "" if terminal else "text"

    def draw(self, view: View) -> str:
        """Return the lines of a view for a program."""
        stream = StringIO()
        view.text(PlainPage(stream))
        return stream.getvalue()

    def print(self, text: str) -> None:
        """Write the lines."""
        with self._losing():
            self._stdout.write(text)
            self._stdout.flush()

    def show(self, view: View) -> None:
        """Draw the view."""
        page = self._page or self._open_page()
        with self._losing():
            view.text(page)
            page.flush()

    def warn(self, *messages: str) -> None:
        """Write the warnings to stderr; that nobody reads them there is no failure."""
        for message in messages:
            with suppress(OSError):
                self._stderr.write(f"ckptctl: warning: {fmt.safe_text(message)}\n")
                self._stderr.flush()

    def progress(self) -> Progress:
        """Return a progress bar on a terminal, and lines elsewhere."""
        if self._animate:
            from ckptctl.output.animation import AnimatedProgress

            return AnimatedProgress(self._stderr)
        from ckptctl.output.lines import LineProgress

        return LineProgress(self._stderr)

    def _open_page(self) -> Page:
        if self._terminal:
            from ckptctl.output.terminal import TerminalPage

            self._page = TerminalPage(self._stdout)
        else:
            self._page = PlainPage(self._stdout)
        return self._page


class PlainPage(Page):
    """Lines of fields separated by tabs, never cut, never coloured.

    A missing value is `-`: the shell's `read` takes two tabs for one.
    """

    terminal = False

    def line(self, *fields: str, style: str = "", indent: int = 0) -> None:
        """Write the fields, whatever is in them; style and indent are for people."""
        self._stream.write("\t".join(map(fmt.one_line, fields)) + "\n")

    def table(self, columns: Sequence[Column], *, heading: bool = True) -> Rows:
        """Begin a table; each row is written when it is added."""
        if heading:
            self.line(*(column.name for column in columns))
        return _PlainRows(self, columns)


class _PlainRows(Rows):
    def __init__(self, page: PlainPage, columns: Sequence[Column]) -> None:
        self._page = page
        self._columns = columns

    def add(self, *values: Value, styles: Mapping[int, str] | None = None) -> None:
        cells = [
            value
            if value.__class__ is str
            else str(value)
            if value.__class__ is int
            else _plain(column, value)
            for column, value in zip(self._columns, values, strict=True)
        ]
        written = "".join(cells)
        # Nothing to escape in nearly all rows, of which there may be 100,000.
        if written.isprintable() and "\\" not in written:
            self._page.verbatim("\t".join(cells) + "\n")
            return
        pairs = zip(self._columns, values, strict=True)
        self._page.line(*(_plain(column, value) for column, value in pairs))

    def end(self) -> None:
        self._page.flush()


def _plain(column: Column, value: Value) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if column.kind == "share":
            return f"{value:.6g}"
        # An age or a size in whole units; anything else as it is.
        return str(round(value)) if column.kind == "age" else repr(value)
    if isinstance(value, int):
        return str(value)
    return fmt.escape(value) if column.kind == "name" else value
