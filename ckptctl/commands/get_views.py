"""How `ckptctl get` draws rows and histories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.output import Column, Page
from ckptctl.output.format import escape, one_line

if TYPE_CHECKING:
    import numpy as np

    from ckptctl.inspect.history import History
    from ckptctl.inspect.lookup import Lookup
    from ckptctl.inspect.scalar import Scalar

__all__ = ["HistoryView", "RowsView", "ScalarView"]

#: Where a row stands: people read paths once, below the table.
_PLACE = {
    True: (Column("file:offset", missing=""),),
    False: (Column("file", "name"), Column("offset", "number")),
}


class RowsView(NamedTuple):
    """Rows as they were found."""

    found: Lookup

    def document(self) -> Mapping[str, object]:
        """Return the fields of the JSON document."""
        return self.found.document()

    def text(self, page: Page) -> None:
        """Draw it."""
        page.line(*(() if page.terminal else ("target",)), self.found.words, style="bold")
        files: dict[str, int] = {}
        with page.table(_columns(page)) as rows:
            place = [None] * len(_PLACE[page.terminal])
            for row in self.found.rows:
                if not row.cells:
                    rows.add(row.key, row.state, None, row.freq, row.version, None, *place)
                for slot, cell in row.cells.items():
                    facts = (row.freq, row.version) if not slot else (None, None)
                    values = _values(cell.value, page)
                    number = files.setdefault(cell.file, len(files) + 1)
                    at = [f"{number}:{cell.offset}"] if page.terminal else [cell.file, cell.offset]
                    rows.add(row.key, row.state, slot or None, *facts, values, *at)
                for slot in row.lacks:
                    rows.add(row.key, row.state, slot, None, None, None, *place)
        _footer(page, files, self.found.checked)


class ScalarView(NamedTuple):
    """The value of a scalar."""

    found: Scalar

    def document(self) -> Mapping[str, object]:
        """Return the fields of the JSON document."""
        return self.found.document()

    def text(self, page: Page) -> None:
        """Draw it, for people with all its digits too."""
        from ckptctl.inspect.lookup_rows import in_words

        cell = self.found.cell
        page.line(*(() if page.terminal else ("target",)), self.found.words, style="bold")
        at = [f"1:{cell.offset}"] if page.terminal else [cell.file, cell.offset]
        with page.table(_columns(page)) as rows:
            (word,) = in_words(cell.value)
            rows.add(None, "scalar", None, None, None, escape(word) or None, *at)
        _footer(page, {cell.file: 1}, self.found.checked)


def _columns(page: Page) -> tuple[Column, ...]:
    return (
        Column("key", "number"),
        Column("state"),
        Column("slot", missing=""),
        Column("freq", "count"),
        Column("version", "count"),
        Column("value", "text", missing=""),
        *_PLACE[page.terminal],
    )


def _footer(page: Page, files: Mapping[str, int], checked: bool) -> None:
    if page.terminal:
        for file, number in files.items():
            page.line(f"file {number}: {one_line(file)}", style="dim")
        if not checked:
            page.line("not checked against checksums; --check does", style="dim")


class HistoryView(NamedTuple):
    """What became of keys."""

    found: History

    def document(self) -> Mapping[str, object]:
        """Return the fields of the JSON document."""
        return self.found.document()

    def text(self, page: Page) -> None:
        """Draw it."""
        columns = (
            Column("key", "number"),
            Column("step", "number"),
            Column("in"),
            Column("change"),
            Column("L2", "real"),
            Column("max", "real", spare=2),
            Column("freq", "count"),
            Column("version", "count", spare=1),
            Column("value", "text", missing=""),
        )
        with page.table(columns) as rows:
            for key, moments in self.found.keys.items():
                for each in moments:
                    cell = each.row.cells.get("")
                    values = None if cell is None else _values(cell.value, page)
                    moved = (each.kind, each.change, each.l2, each.max)
                    rows.add(key, each.step, *moved, each.row.freq, each.row.version, values)
        for missed in self.found.failed:
            step = "-" if missed.step is None else str(missed.step)
            page.line("failed", step, missed.kind, missed.reason)


def _values(row: np.ndarray[Any, Any], page: Page) -> str | None:
    """Return a row: all digits for programs, five and the first elements for people."""
    if not row.size:
        return None
    if not page.terminal:
        from ckptctl.inspect.lookup_rows import in_words

        return " ".join(in_words(row))
    values = row.reshape(-1)[:16].tolist()
    shown = " ".join(f"{value:.5g}" for value in values)
    return shown + (f" ... ({row.size})" if row.size > 16 else "")
