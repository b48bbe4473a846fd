"""Where each row of a result comes from: runs of the full's rows, and rows of increments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["RowMap", "compact"]

_NONE = np.empty(0, np.int64)


def compact(numbers: np.ndarray, most: int) -> np.ndarray:
    """Return numbers from 0 to `most` in as few bytes as hold them."""
    return numbers.astype(np.min_scalar_type(most), copy=False)


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
        deleted: np.ndarray = _NONE,
        insert_at: np.ndarray = _NONE,
        insert_count: np.ndarray = _NONE,
    ) -> RowMap:
        """Return the map of a tensor that loses and gains rows; none is replaced.

        Parameters
        ----------
        old_rows
            Rows of the full's tensor.
        deleted
            Ascending rows of the full that go.
        insert_at, insert_count
            Ascending rows of the full before which so many new rows stand.
        """
        used = insert_count > 0
        insert_at, insert_count = insert_at[used], insert_count[used]
        edges = np.concatenate([[0], insert_at, deleted, deleted + 1, [old_rows]])
        edges = np.sort(edges.astype(np.int64))
        edges = edges[np.concatenate([[True], np.diff(edges) > 0])]
        run_start, run_length = edges[:-1], np.diff(edges)
        if len(deleted):
            kept = (
                run_start
                != deleted[np.minimum(np.searchsorted(deleted, run_start), len(deleted) - 1)]
            )
            run_start, run_length = run_start[kept], run_length[kept]
        # A run that starts where new rows stand comes after them.
        order = np.argsort(np.concatenate([insert_at * 2, run_start * 2 + 1]), kind="stable")
        lengths = np.concatenate([insert_count, run_length])[order].astype(np.int64)
        source = np.concatenate([np.full(len(insert_at), -1, np.int64), run_start])[order]
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
