"""One member of one part of a table at a step: its columns as streams."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from ckptctl.bundle import Entry
from ckptctl.restore.column import Column, row_bytes
from ckptctl.restore.columns import OPTIONAL_COLUMNS
from ckptctl.restore.incoming import sources_of
from ckptctl.restore.keys import read_offsets
from ckptctl.restore.part import OFFSETS, Kept, PartJob
from ckptctl.restore.rowmap import RowMap
from ckptctl.restore.rows_brought import FileRows

__all__ = ["MemberState"]

#: Suffix in a full -> suffix in an increment.
_BROUGHT = {"-keys": "-sparse_incr_keys", "-values": "-sparse_incr_values", **OPTIONAL_COLUMNS}


class MemberState:
    """One member of one part of a table at a step; picklable.

    Parameters
    ----------
    job
        The part.
    member
        Number of the member.
    kept
        What a survey of the part found out about it.
    """

    def __init__(self, job: PartJob, member: int, kept: Kept) -> None:
        self.job = job
        self.member = member
        self.kept = kept
        self.ev = job.ev(member)

    @property
    def rowmap(self) -> RowMap:
        """Where each admitted row comes from."""
        return self.kept.arrivals.rowmap

    @cached_property
    def filtered_map(self) -> RowMap:
        """Which filtered rows stay: an admitted key leaves those of every member."""
        return RowMap.build(self.ev.filtered, deleted=self.kept.unfiltered)

    def shape(self, suffix: str) -> tuple[int, ...]:
        """Return the shape of one of the member's tensors."""
        entry = self.ev.entries[suffix]
        if suffix in OFFSETS:
            return entry.shape
        return (self._map(suffix).rows, *entry.shape[1:])

    def _map(self, suffix: str) -> RowMap:
        if suffix.endswith("_filtered"):
            kept = self.ev.entries[suffix].rows
            return self.filtered_map if kept else RowMap.build(0)
        if suffix in OPTIONAL_COLUMNS and suffix not in self.job.present:
            return RowMap.build(0)
        return self.rowmap

    def offsets(self, suffix: str) -> np.ndarray:
        """Return a rebuilt offset tensor: int32[1001]."""
        if suffix == "-partition_offset":
            moved = self.kept.arrivals.offsets
            assert moved is not None  # a table in the old form has no such tensor
        else:
            old = read_offsets(self.job.full, self.ev, suffix, self.ev.filtered)
            moved = old - np.searchsorted(self.kept.unfiltered, old)
        return moved.astype("<i4")

    def column(self, suffix: str) -> Column:
        """Return one of the member's columns as a stream."""
        entry = self.ev.entries[suffix]
        rowmap = self._map(suffix)
        source = self._source(suffix, entry) if len(rowmap.changed) else None
        return Column(self.job.full, self.ev.name + suffix, entry, rowmap, source)

    def _source(self, suffix: str, entry: Entry) -> FileRows:
        arrivals = self.kept.arrivals
        theirs = _BROUGHT[suffix]
        tensors = [
            (data, ev.name + theirs, ev.entries[theirs])
            for data, ev in sources_of(self.job.generations(self.member))
        ]
        return FileRows(tensors, arrivals.tensor_of, arrivals.row_of, row_bytes(entry))
