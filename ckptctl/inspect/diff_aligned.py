"""Two parts whose rows stand mostly in the same order: rows that are the same are passed over.

Two fulls of one run have most keys at the same place of the same bucket, the newer one others
behind them. Runs of equal keys are read side by side, in pieces that stay in the cache; what is
the same bits on both sides is counted there, and only the rest is matched by key.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ckptctl.inspect.diff_rows import RowsDiff, rows_differ
from ckptctl.inspect.parts import ColumnName, PartView
from ckptctl.inspect.view import MemberView
from ckptctl.inspect.walk import Rows, one_step_a_bucket, typed, walk_quad
from ckptctl.restore.column import view_bytes
from ckptctl.running import Report

__all__ = ["aligned", "compare_aligned"]

#: Bytes of values that are read, checked and compared while they are in the L2 cache.
_PIECE_BYTES = 3 << 18
#: Runs of equal keys among the rows of one step above which all are matched by key.
_MOST_RUNS = 64


def aligned(a: MemberView, b: MemberView) -> bool:
    """Return whether two members can be compared so: one part each, in buckets that fit."""
    if len(a.parts) != 1 or len(b.parts) != 1:
        return False
    return all(
        part.rows
        and one_step_a_bucket(part.rows, part.offsets)
        and one_step_a_bucket(part.filtered, part.filtered_offsets)
        for part in (a.parts[0], b.parts[0])
    )


def compare_aligned(
    a: MemberView,
    b: MemberView,
    columns: tuple[ColumnName, ...],
    counted: RowsDiff,
    report: Report,
) -> None:
    """Compare all rows of two members that are `aligned`; the last step checks them."""
    values = _Values(a.parts[0]), _Values(b.parts[0])
    light = tuple(name for name in columns if name != "values")
    for x, y, away_x, away_y in walk_quad(a, b, light):
        runs = _runs(x, y)
        if len(runs) > _MOST_RUNS:
            runs = []
        rest = _pass_over(x, y, runs, values, counted)
        counted.add(*rest, away_x, away_y)
        report(sum(own.row_bytes * len(rows) for own, rows in zip(values, (x, y), strict=True)))
    for own in values:
        own.finish()


class _Values:
    """The values of a part, front to back."""

    def __init__(self, part: PartView) -> None:
        column = part.column("values")
        assert column is not None  # a part has values
        self._column = column
        # Where no increment brings anything, rows are read as they stand: these are many steps.
        self._stream = None if column.rowmap.untouched else column.stream()
        self._row = self._crc = 0
        self.row_bytes = max(column.row_bytes, 1)
        self.step = max(1, _PIECE_BYTES // self.row_bytes)
        self._buffer = np.empty((self.step, column.row_bytes), np.uint8)

    def take(self, rows: int) -> np.ndarray:
        """Return the next rows, at most a step, valid until the next are taken."""
        out = self._buffer[:rows]
        if self._stream is not None:
            self._stream.fill(out)
        else:
            self._crc = self._column.read_old(self._row, view_bytes(out), crc=self._crc)
            self._row += rows
        return typed(self._column, out)

    def pieces(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """Return the next rows as (first row, rows)."""
        for at in range(first, last, self.step):
            yield at, self.take(min(self.step, last - at))

    def finish(self) -> None:
        """Compare the column with its checksum."""
        if self._stream is not None:
            self._stream.finish()
        else:
            self._column.check(self._crc)


class _Kept:
    """Rows of one step that are to be matched by key."""

    def __init__(self, rows: Rows, values: _Values) -> None:
        self._rows, self._values = rows, values
        self._which: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def keep(self, which: np.ndarray, values: np.ndarray) -> None:
        """Keep some rows, ascending over all calls."""
        self._which.append(which)
        self._found.append(values)

    def read(self, first: int, last: int) -> None:
        """Keep the rows that come next."""
        for at, piece in self._values.pieces(first, last):
            self.keep(np.arange(at, at + len(piece)), piece.copy())

    def rows(self) -> Rows:
        """Return them."""
        self._which.append(np.empty(0, np.intp))
        self._found.append(self._values.take(0))
        which = np.concatenate(self._which)
        columns = {name: column[which] for name, column in self._rows.columns.items()}
        columns["values"] = np.concatenate(self._found)
        return Rows(self._rows.buckets, self._rows.keys[which], columns)


def _runs(x: Rows, y: Rows) -> list[tuple[int, int, int]]:
    """Return (first row in x, in y, rows) of runs of equal keys from the start of buckets."""
    assert x.segments is not None
    assert y.segments is not None
    runs: list[tuple[int, int, int]] = []
    at_x = at_y = 0
    for in_x, in_y in zip(x.segments.tolist(), y.segments.tolist(), strict=True):
        rows = min(in_x, in_y)
        same = x.keys[at_x : at_x + rows] == y.keys[at_y : at_y + rows]
        if not same.all():
            rows = int(np.argmin(same))
        if runs and runs[-1][0] + runs[-1][2] == at_x and runs[-1][1] + runs[-1][2] == at_y:
            first_x, first_y, before = runs[-1]
            runs[-1] = first_x, first_y, before + rows
        elif rows:
            runs.append((at_x, at_y, rows))
        at_x, at_y = at_x + in_x, at_y + in_y
    return runs


def _pass_over(
    x: Rows,
    y: Rows,
    runs: list[tuple[int, int, int]],
    values: tuple[_Values, _Values],
    counted: RowsDiff,
) -> tuple[Rows, Rows]:
    """Count rows of runs that are the same bits in all columns; return the others."""
    kept = _Kept(x, values[0]), _Kept(y, values[1])
    end_x = end_y = 0
    norms: list[np.ndarray] = []
    for first_x, first_y, rows in [*runs, (len(x), len(y), 0)]:
        kept[0].read(end_x, first_x)
        kept[1].read(end_y, first_y)
        end_x, end_y = first_x + rows, first_y + rows
        moved = np.zeros(rows, bool)
        for name, column in x.columns.items():
            if name in y.columns:
                moved |= column[first_x:end_x] != y.columns[name][first_y:end_y]
        for at, piece in values[0].pieces(first_x, end_x):
            other = values[1].take(len(piece))
            differs = moved[at - first_x : at - first_x + len(piece)]
            if piece.size:
                differs = differs | rows_differ(piece, other)
            which = np.flatnonzero(differs)
            kept[0].keep(which + at, piece[which])
            kept[1].keep(which + at - first_x + first_y, other[which])
            counted.unchanged += len(piece) - len(which)
            own = counted.norms_of(piece) if counted.norms else None
            if own is not None:
                norms.append(own if not len(which) else own[~differs])
    if norms:
        counted.add_norms(np.concatenate(norms))
    return kept[0].rows(), kept[1].rows()
