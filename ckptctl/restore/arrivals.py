"""What increments do to the rows of one member of one part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ckptctl.restore.incoming import IncomingKeys, IncomingReader
from ckptctl.restore.join import FullKeys
from ckptctl.restore.keys import is_in
from ckptctl.restore.rowmap import RowMap, Runs
from ckptctl.tables import BUCKETS

__all__ = ["Arrivals", "ArrivalsBuilder"]


class Arrivals(NamedTuple):
    """Rows that come from increments, in the order of the result; picklable.

    It takes 8 to 10 bytes a row, and members with the same keys share it.

    Attributes
    ----------
    rowmap
        Where each row of the result comes from.
    tensor_of, row_of
        int[changes]: which source set, and which of its rows; `tensor_of` is None if there is
        but one.
    offsets
        int64[1001] of the result, None for a table in the old form.
    new, replaced
        Keys that the full lacks, and that it has.
    """

    rowmap: RowMap
    tensor_of: np.ndarray | None
    row_of: np.ndarray
    offsets: np.ndarray | None
    new: int
    replaced: int

    @classmethod
    def none(cls, rows: int, offsets: np.ndarray | None) -> Arrivals:
        """Return what no increment does to a full's rows, all of them in their place."""
        return cls(RowMap.build(rows), None, np.empty(0, np.int64), offsets, 0, 0)


class ArrivalsBuilder:
    """Makes `Arrivals` from groups of buckets, one after the other.

    Parameters
    ----------
    column
        The keys of the full.
    reader
        What the increments bring.
    """

    def __init__(self, column: FullKeys, reader: IncomingReader) -> None:
        self._column = column
        self._deleted: list[Runs] = []
        self._counts = np.zeros(BUCKETS, np.int64)
        self._rows = self._end = self.new = 0
        most = int(reader.counts.sum())
        # What is not used of these was never touched, so it takes no memory.
        self._changed = np.empty(most, np.min_scalar_type(column.rows + most))
        self._row_of = np.empty(most, reader.row_type)
        several = len(reader.sources) > 1
        self._tensor_of = np.empty(most, reader.tensor_type) if several else None

    @property
    def misplaced(self) -> int:
        """Rows of the full outside their part or bucket."""
        return sum(runs.total for runs in self._deleted)

    def add(
        self,
        first: int,
        last: int,
        incoming: IncomingKeys,
        hits: np.ndarray,
        rows: np.ndarray,
        deleted: Runs,
        dropped: np.ndarray,
    ) -> None:
        """Take over what was found out about buckets [first, last).

        Parameters
        ----------
        incoming
            What the increments bring to them.
        hits, rows, deleted
            Of `FullKeys.join`.
        dropped
            Ascending new keys to leave out.
        """
        offsets = self._column.offsets
        new = np.ones(len(incoming.keys), bool)
        new[hits] = False
        if len(dropped):
            new &= ~is_in(incoming.keys, dropped)
        came = np.flatnonzero(new)
        counts = incoming.counts(new)
        self._counts += counts
        self._deleted.append(deleted)
        self.new += len(came)
        if offsets is None:  # behind all others, by key
            begin, end = 0, self._column.rows
            insert_at, insert_count = np.array([end]), np.array([len(came)])
            came = came[np.argsort(incoming.keys[came])]
        else:
            begin = int(offsets[first])
            end = self._column.rows if last == BUCKETS else int(offsets[last])
            insert_at, insert_count = offsets[first + 1 : last + 1] - begin, counts[first:last]
        group = RowMap.build(
            end - begin,
            deleted=deleted.moved(-begin),
            insert_at=insert_at,
            insert_count=insert_count,
        )
        places = np.concatenate([group.place_old(rows - begin), group.fresh_rows()])
        order = np.argsort(places, kind="stable")  # two runs, each ascending: they are merged
        chosen = np.concatenate([hits, came])[order]
        at, self._end = self._end, self._end + len(places)
        self._changed[at : self._end] = places[order] + self._rows
        self._row_of[at : self._end] = incoming.row_of[chosen]
        if self._tensor_of is not None:
            self._tensor_of[at : self._end] = incoming.tensor_of[chosen]
        self._rows += group.rows

    def build(self) -> Arrivals:
        """Return all of it, once every bucket was taken over."""
        column, end = self._column, self._end
        deleted = Runs.together(self._deleted)
        old = column.offsets
        rowmap = RowMap.build(
            column.rows,
            deleted=deleted,
            insert_at=old[1:] if old is not None else np.array([column.rows]),
            insert_count=self._counts if old is not None else np.array([self.new]),
        )
        offsets = None
        if old is not None:
            offsets = old - deleted.before(old)
            offsets[1:] += np.cumsum(self._counts)
        return Arrivals(
            rowmap.with_changes(self._changed[:end]),
            None if self._tensor_of is None else self._tensor_of[:end],
            self._row_of[:end],
            offsets,
            self.new,
            end - self.new,
        )
