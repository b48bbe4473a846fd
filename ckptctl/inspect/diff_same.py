"""Two states of one full: its rows are read once, and only those that increments bring differ.

A row that neither state takes from an increment is the same bytes in both, and not compared.
The full's columns are read front to back in ranges of rows, by several threads, and their
checksums put together at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle.checksum import combine
from ckptctl.inspect.diff_rows import RowsDiff
from ckptctl.inspect.parts import ColumnName, PartView, StatePart
from ckptctl.inspect.walk import MOST_ROWS, Rows, typed
from ckptctl.restore.column import view_bytes
from ckptctl.restore.find import Wanted
from ckptctl.restore.keys import is_in
from ckptctl.restore.rowmap import compact
from ckptctl.restore.rows_brought import records
from ckptctl.running import Report, ignore
from ckptctl.tables import BUCKETS

__all__ = ["Compared", "NewTask", "SameFull", "SameTask", "same_full"]

#: Bytes of a column that are read, checked and measured while they are in the L2 cache. Smaller
#: pieces are more Python, which two threads do not run at once.
_PIECE_BYTES = 1 << 20
#: Rows that are compared together, if not too many of them are replaced.
_BLOCK_ROWS = 1 << 18


class _Brought:
    """The rows that the increments of one state bring to a part.

    Attributes
    ----------
    rows
        int64, ascending: the full's rows that they replace.
    whole
        Whether all rows of the full are rows of the state.
    columns
        Those of the state.
    """

    def __init__(
        self, part: StatePart, names: Sequence[ColumnName], like: _Brought | None = None
    ) -> None:
        found = {name: part.column(name) for name in names}
        self.columns = {name: column for name, column in found.items() if column is not None}
        rowmap = self._rowmap = part.state.rowmap
        self._keys: np.ndarray
        self._new: np.ndarray
        self._places: np.ndarray
        self.rows: np.ndarray
        self.whole: bool
        if like is not None and like._rowmap is rowmap:  # the very keys, in the same rows
            self._keys, self._new, self._places = like._keys, like._new, like._places
            self.rows, self.whole = like.rows, like.whole
            return
        keys = part.column("keys")
        assert keys is not None  # every table has that column
        brought = typed(keys, keys.brought(np.arange(len(rowmap.changed))))
        self._keys = brought.astype(np.int64, copy=False)
        self._new = np.ones(len(rowmap.changed), bool)
        run = np.searchsorted(rowmap.starts, rowmap.changed.astype(np.int64), side="right") - 1
        source = rowmap.source[run]
        old = np.flatnonzero(source >= 0)
        self._new[old] = False
        self.rows = (source - rowmap.starts[run] + rowmap.changed)[old]
        self._places = compact(old, len(source))
        self.whole = rowmap.rows - (len(source) - len(old)) == rowmap.old_rows

    def span(self, first: int, last: int) -> slice:
        """Return which of `rows` lie in a range of the full's."""
        begin, end = np.searchsorted(self.rows, (first, last)).tolist()
        return slice(begin, end)

    def replace(
        self, rows: np.ndarray, old: dict[ColumnName, np.ndarray], keys: np.ndarray
    ) -> dict[ColumnName, np.ndarray]:
        """Return some rows of the full, ascending, as the state has them; put in their keys."""
        own = self.span(int(rows[0]), int(rows[-1]) + 1)
        columns = {name: column for name, column in old.items() if name in self.columns}
        if own.start == own.stop:
            return columns
        brought = self.take(self._places[own])
        if len(brought) == len(rows):
            keys[:] = brought.keys
            return brought.columns
        at = np.searchsorted(rows, self.rows[own])
        keys[at] = brought.keys
        for name, column in columns.items():
            columns[name] = column.copy()
            columns[name][at] = brought.columns[name]
        return columns

    def new(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys that the full lacks, ascending, and their places for `take`."""
        places = np.flatnonzero(self._new)
        keys = self._keys[places]
        order = np.argsort(keys)
        return keys[order], places[order]

    def take(self, places: np.ndarray) -> Rows:
        """Return rows that are brought."""
        read = {
            name: typed(column, column.brought(places)) for name, column in self.columns.items()
        }
        return Rows((0, BUCKETS + 1), self._keys[places], read)


#: Of each column that was read: checksum, and bytes.
Checksums = dict[ColumnName, tuple[int, int]]
#: What a task gives back.
Compared = tuple[RowsDiff, Checksums]


class SameFull:
    """One member of one part of two states of the same full.

    Attributes
    ----------
    columns
        The full's columns that are compared, or that what is told rests on.
    rows
        Rows of the full.
    """

    def __init__(
        self,
        a: StatePart,
        b: StatePart,
        names: Sequence[ColumnName],
        like: SameFull | None = None,
    ) -> None:
        self.parts = a, b
        self.a: _Brought = _Brought(a, names, None if like is None else like.a)
        self.b: _Brought = _Brought(b, names, None if like is None else like.b)
        self.columns = {**self.a.columns, **self.b.columns}
        self.rows = self._left = a.state.rowmap.old_rows
        self._crcs: dict[ColumnName, dict[int, tuple[int, int]]] = {n: {} for n in self.columns}

    @property
    def alike(self) -> bool:
        """Whether every row of the full is a row of both states, in all columns."""
        known = all(column.entry.rows == self.rows for column in self.columns.values())
        return known and self.a.whole and self.b.whole

    def touched(self, first: int, last: int) -> np.ndarray:
        """Return which of the full's rows [first, last) one of the states replaces, ascending."""
        a, b = (side.rows[side.span(first, last)] for side in (self.a, self.b))
        return _union(a, b) if len(a) and len(b) else a if len(a) else b

    def tasks(self, empty: Callable[[], RowsDiff]) -> Iterator[SameTask | NewTask]:
        """Return what compares all rows."""
        width = sum(column.row_bytes for column in self.columns.values())
        step = max(knobs.TASK_BYTES // max(width, 1), 1)
        for first in range(0, self.rows, step):
            yield SameTask(self, first, min(first + step, self.rows), empty())
        yield NewTask(self, empty())

    def add(self, task: SameTask | NewTask, found: Checksums) -> None:
        """Keep the checksums of a task; with the last one compare those of whole columns.

        Raises
        ------
        TensorChecksumError
        """
        for name, own in found.items():
            self._crcs[name][task.first] = own
        self._left -= task.last - task.first
        for name, column in self.columns.items() if found and not self._left else ():
            crc = 0
            for _, (own_crc, length) in sorted(self._crcs[name].items()):
                crc = combine(crc, own_crc, length)
            column.check(crc)


class SameTask(NamedTuple):
    """Reads rows [first, last) of the full once, and compares those that are replaced."""

    same: SameFull
    first: int
    last: int
    counted: RowsDiff

    @property
    def nbytes(self) -> int:
        """Bytes that are read, about."""
        columns = self.same.columns.values()
        return sum(column.row_bytes for column in columns) * (self.last - self.first)

    def run(self, report: Report = ignore) -> Compared:
        """Return what was counted, and the checksum of these rows of each column."""
        crcs: dict[ColumnName, int] = dict.fromkeys(self.same.columns, 0)
        first = self.first
        # One piece for all: memory that is asked for anew each time is slow (bench.md).
        widest = max((column.row_bytes for column in self.same.columns.values()), default=0)
        buffer = np.empty(max(min(_PIECE_BYTES, self.nbytes), widest), np.uint8)
        while first < self.last:
            last = min(first + _BLOCK_ROWS, self.last)
            touched = self.same.touched(first, last)
            if len(touched) > MOST_ROWS:
                last = int(touched[MOST_ROWS])
                touched = touched[:MOST_ROWS]
            self._compare(first, last, touched, crcs, buffer, report)
            first = last
        rows = self.last - self.first
        columns = self.same.columns.items()
        return self.counted, {n: (crcs[n], rows * column.row_bytes) for n, column in columns}

    def _compare(
        self,
        first: int,
        last: int,
        touched: np.ndarray,
        crcs: dict[ColumnName, int],
        buffer: np.ndarray,
        report: Report,
    ) -> None:
        old: dict[ColumnName, np.ndarray] = {}
        for name, column in self.same.columns.items():
            measure = name == "values" and self.counted.norms
            width = column.row_bytes
            kept = np.empty((len(touched), width), np.uint8)
            norms: list[np.ndarray] = []
            step = max(1, len(buffer) // max(width, 1))
            starts = range(first, last, step)
            edges = np.searchsorted(touched, [*starts, last]).tolist()
            for at, begin, end in zip(starts, edges, edges[1:], strict=False):
                rows = min(step, last - at)
                piece = buffer[: rows * width].reshape(rows, width)
                crcs[name] = column.read_old(at, view_bytes(piece), crc=crcs[name])
                if end > begin and width:
                    out = records(kept)[begin:end]
                    records(piece).take(touched[begin:end] - at, out=out, mode="clip")
                own = self.counted.norms_of(typed(column, piece)) if measure else None
                if own is not None:
                    norms.append(own)
                report(piece.nbytes)
            old[name] = typed(column, kept)
            if norms:
                every = np.concatenate(norms)
                if len(touched):
                    same = np.ones(last - first, bool)
                    same[touched - first] = False
                    every = every[same]
                self.counted.add_norms(every)
        self.counted.unchanged += last - first - len(touched)
        if len(touched):
            keys = np.empty(len(touched), np.int64)  # each is replaced by one of the two
            a, b = (side.replace(touched, old, keys) for side in (self.same.a, self.same.b))
            self.counted.add(Rows((0, BUCKETS + 1), keys, a), Rows((0, BUCKETS + 1), keys, b))


class NewTask(NamedTuple):
    """Compares the rows that the full lacks, and the keys that it has filtered."""

    same: SameFull
    counted: RowsDiff
    first: int = 0
    last: int = 0

    @property
    def nbytes(self) -> int:
        """Nothing that is told beforehand."""
        return 0

    def run(self, report: Report = ignore) -> Compared:
        """Return what was counted."""
        sides = self.same.a, self.same.b
        keys, places = zip(*(side.new() for side in sides), strict=True)
        together = _union(*keys)
        for first in range(0, len(together), MOST_ROWS):
            bounds = together[first], together[min(first + MOST_ROWS, len(together)) - 1]
            rows = []
            for side, own, at in zip(sides, keys, places, strict=True):
                begin = np.searchsorted(own, bounds[0])
                end = np.searchsorted(own, bounds[1], side="right")
                rows.append(side.take(at[begin:end]))
            self.counted.add(*rows)
            report(0)
        a, b = self.same.parts
        fresh = keys[1][~is_in(keys[1], keys[0])]
        lost = keys[0][~is_in(keys[0], keys[1])]
        admitted, filtered = _filtered(a, fresh, report), _filtered(b, lost, report)
        self.counted.admitted += admitted
        self.counted.filtered += filtered
        # Of the full's filtered rows, those that increments take from the one and not the other.
        ours, theirs = (part.state.kept.unfiltered for part in (a, b))
        self.counted.filtered_gone += int(np.count_nonzero(~is_in(theirs, ours))) - admitted
        self.counted.filtered_new += int(np.count_nonzero(~is_in(ours, theirs))) - filtered
        return self.counted, {}


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return what stands in either, ascending; NumPy's own imports masked arrays for it."""
    both = np.sort(np.concatenate([a, b]))
    first = np.ones(len(both), bool)
    np.not_equal(both[1:], both[:-1], out=first[1:])
    return both[first]


def _filtered(part: StatePart, keys: np.ndarray, report: Report) -> int:
    """Return how many of some keys are filtered in a state; its filtered keys are checked."""
    found = np.zeros(len(keys), bool)
    column = part.column("keys_filtered")
    if column is None:
        return 0
    stream, wanted = column.stream(), Wanted(keys)
    for at in range(0, column.rows, MOST_ROWS):
        own = typed(column, stream.take(min(MOST_ROWS, column.rows - at)))
        found[wanted.find(own.astype(np.int64))[0]] = True
        report(own.nbytes)
    stream.finish()
    return int(np.count_nonzero(found))


def same_full(
    a: PartView, b: PartView, names: Sequence[ColumnName], like: SameFull | None = None
) -> SameFull | None:
    """Return two parts as parts of one full; None if they are not, or rows of it are left out.

    `like` is another member of the part: what is known of its rows is not read again.
    """
    if not isinstance(a, StatePart) or not isinstance(b, StatePart):
        return None
    ours, theirs = a.state, b.state
    if ours.job.full.prefix != theirs.job.full.prefix or ours.ev != theirs.ev or not ours.ev.rows:
        return None
    found = SameFull(a, b, names, like)
    return found if found.alike else None
