"""Where each row of a result comes from: runs of the full's rows, and rows of increments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["RowMap", "Runs", "compact", "row_order"]

_NONE = np.empty(0, np.int64)


def compact(numbers: np.ndarray, most: int) -> np.ndarray:
    """Return numbers from 0 to `most` in as few bytes as hold them."""
    return numbers.astype(np.min_scalar_type(most), copy=False)


def row_order(rows: np.ndarray) -> np.ndarray:
    """Return what puts rows in order: by 16 bits at a time, a quarter of the time of sorting."""
    most = int(rows.max(initial=0))
    if most >> 32:
        return np.argsort(rows, kind="stable")
    digits = rows.astype(np.uint32).view(np.uint16).reshape(-1, 2)
    order = np.argsort(digits[:, 0], kind="stable")
    if most >> 16:
        order = order[np.argsort(digits[:, 1][order], kind="stable")]
    return order


class Runs(NamedTuple):
    """Rows as ranges, ascending: of a damaged full all rows may be left out.

    Attributes
    ----------
    starts, ends
        int32 or int64[runs]: first row of each range, and behind its last. Some may touch.
    """

    starts: np.ndarray = _NONE
    ends: np.ndarray = _NONE

    @classmethod
    def where(cls, chosen: np.ndarray, at: int = 0) -> Runs:
        """Return the rows that are `chosen` (bool[n]), the first of which is row `at`."""
        edges = np.flatnonzero(np.diff(chosen.view(np.int8), prepend=0, append=0)) + at
        edges = edges.astype(np.int32 if at + len(chosen) < 1 << 31 else np.int64)
        return cls(edges[::2].copy(), edges[1::2].copy())

    @classmethod
    def of(cls, rows: np.ndarray) -> Runs:
        """Return ascending rows, each once."""
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        firsts = np.concatenate([[0], breaks]) if len(rows) else breaks
        return cls(rows[firsts], rows[np.append(firsts[1:], len(rows))[: len(firsts)] - 1] + 1)

    @classmethod
    def together(cls, runs: Sequence[Runs]) -> Runs:
        """Return runs that follow each other."""
        if not runs:
            return cls()
        return cls(*(np.concatenate(each) for each in zip(*runs, strict=True)))

    @property
    def total(self) -> int:
        """How many rows they are."""
        return int(self.ends.sum(dtype=np.int64) - self.starts.sum(dtype=np.int64))

    def moved(self, by: int) -> Runs:
        """Return them so many rows further on."""
        return Runs(self.starts + by, self.ends + by)

    def before(self, rows: np.ndarray) -> np.ndarray:
        """Return how many of them come before each of some rows."""
        ends = np.concatenate([[0], self.ends])
        found = np.concatenate([[0], np.cumsum(self.ends - self.starts, dtype=np.int64)])
        at = np.searchsorted(self.starts, rows)
        return np.asarray(found[at] - np.maximum(ends[at] - rows, 0))


class RowMap(NamedTuple):
    """The rows of one result tensor, in order, as runs.

    A run is either a range of the full's rows, in place, or room for rows that only an
    increment has. On top of that, single rows are replaced.

    Attributes
    ----------
    old_rows
        Rows of the full's tensor.
    rows
        Rows of the result.
    starts
        int64[runs + 1]: first result row of each run, then `rows`.
    source
        int64[runs]: first row of the full of each run, -1 for room for new rows.
    changed
        int[changes], ascending: result rows that come from an increment.
    """

    old_rows: int
    rows: int
    starts: np.ndarray
    source: np.ndarray
    changed: np.ndarray

    @classmethod
    def build(
        cls,
        old_rows: int,
        *,
        deleted: np.ndarray | Runs = _NONE,
        insert_at: np.ndarray = _NONE,
        insert_count: np.ndarray = _NONE,
    ) -> RowMap:
        """Return the map of a tensor that loses and gains rows; none is replaced.

        Parameters
        ----------
        old_rows
            Rows of the full's tensor.
        deleted
            Rows of the full that go: ascending, or as runs.
        insert_at, insert_count
            Ascending rows of the full before which so many new rows stand.
        """
        used = insert_count > 0
        insert_at, insert_count = insert_at[used], insert_count[used]
        gone = deleted if isinstance(deleted, Runs) else Runs.of(deleted)
        begin = np.concatenate([[0], gone.ends]).astype(np.int64, copy=False)
        end = np.append(gone.starts, old_rows).astype(np.int64, copy=False)
        kept = end > begin
        begin, end = begin[kept], end[kept]
        # A run is cut where new rows stand in it.
        run = np.searchsorted(end, insert_at, side="right")
        inside = run < len(end)
        inside[inside] = begin[run[inside]] < insert_at[inside]
        cuts = insert_at[inside]
        if len(cuts):
            cuts = cuts[np.concatenate([[True], np.diff(cuts) > 0])]
            begin = np.insert(begin, np.searchsorted(begin, cuts), cuts)
            end = np.insert(end, np.searchsorted(end, cuts), cuts)
        # One that starts there comes after them.
        places = np.searchsorted(begin, insert_at)
        lengths = np.insert(end - begin, places, insert_count)
        source = np.insert(begin, places, -1)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(old_rows, int(starts[-1]), starts, source, _NONE)

    def with_changes(self, changed: np.ndarray) -> RowMap:
        """Return the same map with rows that come from an increment: ascending."""
        return self._replace(changed=compact(changed, self.rows))

    def place_old(self, rows: np.ndarray) -> np.ndarray:
        """Return the result rows of ascending rows of the full, none of them deleted."""
        if len(self.source) == 1 and not self.source[0]:  # nothing before them came or went
            return rows
        old = self.source >= 0
        first, source = self.starts[:-1][old], self.source[old]
        ends = np.searchsorted(rows, source[1:])
        shift = np.repeat(first - source, np.diff(ends, prepend=0, append=len(rows)))
        return np.asarray(rows + shift)

    def fresh_rows(self) -> np.ndarray:
        """Return the ascending result rows that only increments have."""
        fresh = self.source < 0
        first, length = self.starts[:-1][fresh], np.diff(self.starts)[fresh]
        before = np.cumsum(length) - length
        rows = np.arange(int(length.sum()), dtype=np.int64)
        rows += np.repeat(first - before, length)
        return rows

    @property
    def untouched(self) -> bool:
        """Whether the result is the full's tensor, row for row."""
        return self.old_rows == self.rows and len(self.source) == 1 and not len(self.changed)

    def runs(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the old rows in a range of the result, run by run.

        Returns
        -------
        begin, length, source
            int64[runs]: first result row, rows, and first row of the full of each.
        """
        first = int(np.searchsorted(self.starts, start, side="right")) - 1
        last = int(np.searchsorted(self.starts, stop, side="left"))
        source = self.source[first:last]
        begin = np.maximum(self.starts[first:last], start)
        length = np.minimum(self.starts[first + 1 : last + 1], stop) - begin
        kept = (source >= 0) & (length > 0)
        if not kept.all():
            begin, length, source = begin[kept], length[kept], source[kept]
            return begin, length, source + begin - self.starts[first:last][kept]
        return begin, length, source + begin - self.starts[first:last]

    def few_runs(self, start: int, stop: int, most: int) -> list[tuple[int, int, int]] | None:
        """Return the same as tuples, for less; None where all runs may be more than `most`."""
        ends = np.searchsorted(self.starts, (start, stop)).tolist()
        first, last = max(ends[0] - 1, 0), ends[1]
        if last - first > most:
            return None
        starts = self.starts[first : last + 1].tolist()
        found = []
        for at, source in enumerate(self.source[first:last].tolist()):
            begin, end = max(starts[at], start), min(starts[at + 1], stop)
            if source >= 0 and end > begin:
                found.append((begin, end - begin, source + begin - starts[at]))
        return found

    def changes(self, start: int, stop: int) -> tuple[int, int]:
        """Return which of `changed` lie in a range of the result: the first, and behind it."""
        ends = np.array((start, stop), self.changed.dtype)
        first, last = np.searchsorted(self.changed, ends).tolist()
        return first, last

    def old_before(self, row: int) -> int:
        """Return how many rows of the full come before a result row, those left out as well."""
        if row <= 0:
            return 0
        if row >= self.rows:
            return self.old_rows
        run = int(np.searchsorted(self.starts, row, side="right")) - 1
        if self.source[run] >= 0:
            return int(self.source[run] + row - self.starts[run])
        later = np.flatnonzero(self.source[run:] >= 0)
        return int(self.source[run + later[0]]) if len(later) else self.old_rows
