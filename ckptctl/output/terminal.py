"""Rich tables for a person at a terminal.

Rich takes as long to load as reading a chain does: what needs none of it is written
before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ckptctl.output import format as fmt
from ckptctl.output.base import Column, Page, Rows, Value

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table
    from rich.text import Text

__all__ = ["TerminalPage", "open_console"]

_GAP = 2  # cells between two columns
_LEAST, _USUAL = 20, 80  # cells of a line: below the first one nothing can be read
_FOLDED = 12  # cells in which something long can still be read, line by line


def open_console(stream: TextIO) -> Console:
    """Return a console that takes text as it is: `[0]` is a name, not markup.

    NO_COLOR counts when it is not empty (no-color.org); FORCE_COLOR gives colour to a
    terminal that claims to have none.
    """
    from rich.console import Console

    return Console(
        file=stream,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=False,
        no_color=bool(os.environ.get("NO_COLOR")),
        width=_width(stream),
    )


def _width(stream: TextIO) -> int | None:
    """Return the terminal's own width where COLUMNS says what cannot be meant; None: ask rich."""
    said = os.environ.get("COLUMNS", "")
    if not said.isdigit() or int(said) >= _LEAST:
        return None
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


class TerminalPage(Page):
    """Draws on a terminal, within its width."""

    terminal = True

    @cached_property
    def _console(self) -> Console:
        return open_console(self._stream)

    def line(self, *fields: str, style: str = "", indent: int = 0) -> None:
        """Write the fields side by side; what does not fit continues below, indented."""
        words = "  ".join(map(fmt.one_line, fields))
        if not style and not indent:
            self._stream.write(words + "\n")
            return
        from rich.padding import Padding
        from rich.text import Text

        text = Text(words, style=style, overflow="fold")
        self._console.print(Padding(text, (0, 0, 0, indent)) if indent else text)

    def table(self, columns: Sequence[Column], *, heading: bool = True) -> Rows:
        """Begin a table; it is drawn when it ends."""
        return _TerminalRows(self._console, columns, heading)

    def gap(self) -> None:
        """Leave a line empty."""
        self._stream.write("\n")


class _TerminalRows(Rows):
    def __init__(self, console: Console, columns: Sequence[Column], heading: bool) -> None:
        self._console = console
        self._columns = columns
        self._heading = heading
        self._rows: list[list[Text]] = []

    def add(self, *values: Value, styles: Mapping[int, str] | None = None) -> None:
        from rich.text import Text

        cells = zip(self._columns, values, strict=True)
        self._rows.append(
            [
                Text(_human(column, value), style=(styles or {}).get(i, ""))
                for i, (column, value) in enumerate(cells)
            ]
        )

    def end(self) -> None:
        from rich.table import Table
        from rich.text import Text

        rooms = [
            max([column.room, *(row[i].cell_len for row in self._rows)])
            for i, column in enumerate(self._columns)
        ]
        kept = _that_fit(self._columns, rooms, self._console.width)
        natural = list(rooms)
        self._narrow(rooms, kept)
        table = Table(
            box=None,
            pad_edge=False,
            padding=(0, _GAP, 0, 0),
            show_header=self._heading,
            header_style="bold",
        )
        for i in kept:
            column = self._columns[i]
            table.add_column(
                _aligned(Text(column.name.replace("_", " ")), column, rooms[i]),
                no_wrap=not column.folds,
                overflow="fold",
                width=rooms[i] if column.folds and rooms[i] < natural[i] else None,
            )
        for row in self._rows:
            table.add_row(*(_aligned(row[i], self._columns[i], rooms[i]) for i in kept))
        # Where even these do not fit the terminal breaks the lines: nothing is lost.
        needed = sum(rooms[i] + _GAP for i in kept)
        self._console.print(_AsWide(table, max(self._console.width, needed)), crop=False)
        self._console.file.flush()

    def _narrow(self, rooms: list[int], kept: Sequence[int]) -> None:
        """Make columns narrower until they fit, what costs the reader least first."""
        excess = sum(rooms[i] + _GAP for i in kept) - _GAP - self._console.width
        # Rich before 14.2 counts a gap behind a last column that is given a width, too.
        excess += _GAP if excess > 0 else 0
        least = {
            i: max([len(self._columns[i].name), *(row[i].cell_len for row in self._rows)])
            for i in kept
            if not self._columns[i].folds
        }
        # Cells kept for other tables; then prose, which breaks between words; then names.
        for ours in (
            least,
            [i for i in kept if self._columns[i].kind == "text"],
            [i for i in kept if self._columns[i].kind == "name"],
        ):
            while excess > 0:
                free = [i for i in ours if rooms[i] > least.get(i, _FOLDED)]
                if not free:
                    break
                rooms[max(free, key=rooms.__getitem__)] -= 1
                excess -= 1


class _AsWide(NamedTuple):
    """A table drawn in a width of its own: rich heeds one only below that of the console."""

    table: Table
    width: int

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.table, options.update(width=self.width))


def _aligned(cell: Text, column: Column, room: int) -> Text:
    # Rich before 14.2 counts the gap twice when a column is given a least width.
    if not column.folds:
        cell.align("right" if column.right else "left", room)
    return cell


def _that_fit(columns: Sequence[Column], rooms: Sequence[int], width: int) -> list[int]:
    """Return the columns to show: those that may go leave until the rest fits."""
    kept = [i for i, column in enumerate(columns) if not column.program]
    while sum(rooms[i] + _GAP for i in kept) - _GAP > width:
        going = max(kept, key=lambda i: columns[i].spare)
        if columns[going].spare == 0:
            break
        kept.remove(going)
    return kept


def _human(column: Column, value: Value) -> str:
    if value is None:
        return column.missing
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return fmt.escape(value) if column.kind == "name" else fmt.one_line(value)
    if column.kind == "bytes":
        return fmt.bytes_(int(value))
    if column.kind == "count":
        return fmt.count(int(value))
    if column.kind == "age":
        return fmt.age(value)
    if column.kind == "real":
        return f"{value:.4g}"
    if column.kind == "share":
        return f"{value:.1%}"
    return str(value)
