"""Where each row of a result comes from: runs of the full's rows, and rows of increments."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["RowMap"]

_NONE = np.empty(0, np.int64)


@dataclass(frozen=True)
class RowMap:
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
        int64[changes], ascending: result rows that come from an increment.
    incoming
        int64[changes]: which incoming row each of them takes.
    """

    old_rows: int
    rows: int
    starts: np.ndarray
    source: np.ndarray
    changed: np.ndarray
    incoming: np.ndarray

    @classmethod
    def build(
        cls,
        old_rows: int,
        *,
        deleted: np.ndarray,
        insert_at: np.ndarray,
        insert_count: np.ndarray,
        inserted: np.ndarray,
        replaced_rows: np.ndarray,
        replaced_by: np.ndarray,
    ) -> RowMap:
        """Return the map of a tensor that loses, gains and changes rows.

        Parameters
        ----------
        old_rows
            Rows of the full's tensor.
        deleted
            Ascending rows of the full that go.
        insert_at, insert_count
            Ascending rows of the full before which so many new rows stand.
        inserted
            Incoming row of each new row, in result order.
        replaced_rows, replaced_by
            Rows of the full that change, and the incoming row of each.
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

        old_first = starts[:-1][source >= 0]
        at = np.searchsorted(run_start, replaced_rows, side="right") - 1
        replaced_out = (
            old_first[at] + (replaced_rows - run_start[at]) if len(replaced_rows) else replaced_rows
        )
        fresh = source < 0
        fresh_starts, fresh_lengths = starts[:-1][fresh], lengths[fresh]
        before = np.cumsum(fresh_lengths) - fresh_lengths
        inserted_out = np.arange(len(inserted), dtype=np.int64) + np.repeat(
            fresh_starts - before, fresh_lengths
        )
        changed = np.concatenate([replaced_out, inserted_out]).astype(np.int64)
        incoming = np.concatenate([replaced_by, inserted]).astype(np.int64)
        by_row = np.argsort(changed, kind="stable")
        return cls(old_rows, int(starts[-1]), starts, source, changed[by_row], incoming[by_row])

    @property
    def untouched(self) -> bool:
        """Whether the result is the full's tensor, row for row."""
        return self.old_rows == self.rows and len(self.source) == 1 and not len(self.changed)

    @classmethod
    def patch(
        cls,
        rows: int,
        replaced_rows: np.ndarray = _NONE,
        replaced_by: np.ndarray = _NONE,
    ) -> RowMap:
        """Return the map of a tensor of which only single rows change, or none."""
        none = _NONE
        return cls.build(
            rows,
            deleted=none,
            insert_at=none,
            insert_count=none,
            inserted=none,
            replaced_rows=replaced_rows,
            replaced_by=replaced_by,
        )

    @classmethod
    def without(cls, rows: int, deleted: np.ndarray) -> RowMap:
        """Return the map of a tensor that only loses rows."""
        none = np.empty(0, np.int64)
        return cls.build(
            rows,
            deleted=deleted,
            insert_at=none,
            insert_count=none,
            inserted=none,
            replaced_rows=none,
            replaced_by=none,
        )

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
        begin, length = begin[kept], length[kept]
        return begin, length, source[kept] + begin - self.starts[first:last][kept]

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
