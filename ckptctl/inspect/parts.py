"""One member of one part of a table: of a state, or of a bundle as it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Literal

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.restore import MemberState
from ckptctl.restore.column import Column
from ckptctl.restore.columns import OPTIONAL_COLUMNS
from ckptctl.restore.keys import read_offsets
from ckptctl.restore.rowmap import RowMap
from ckptctl.tables import EvSet, RowSet

__all__ = ["ColumnName", "PartView", "RawPart", "StatePart"]

ColumnName = Literal[
    "keys", "values", "freqs", "versions", "keys_filtered", "freqs_filtered", "versions_filtered"
]


class PartView(ABC):
    """One member of one part of a table.

    Attributes
    ----------
    name
        Name of the EV: part and slot included.
    rows, filtered
        Admitted and filtered keys.
    """

    name: str

    @property
    @abstractmethod
    def rows(self) -> int:
        """Admitted keys."""

    @property
    def filtered(self) -> int:
        """Filtered keys."""
        return 0

    @property
    @abstractmethod
    def offsets(self) -> np.ndarray | None:
        """int64[1001]: first row of each bucket; None without buckets.

        Rows from the last offset on lie in no bucket.
        """

    @property
    def filtered_offsets(self) -> np.ndarray | None:
        """The same of the filtered keys."""
        return None

    @abstractmethod
    def column(self, name: ColumnName) -> Column | None:
        """Return one column, None where the table does not keep it."""

    @abstractmethod
    def shape(self, suffix: str) -> tuple[int, ...]:
        """Return the shape of one of its tensors."""


class StatePart(PartView):
    """A part of a table of a state; its keys were surveyed."""

    def __init__(self, state: MemberState) -> None:
        self.state = state
        self.name = state.ev.name

    @property
    def rows(self) -> int:
        """Admitted keys."""
        return self.state.rowmap.rows

    @property
    def filtered(self) -> int:
        """Filtered keys."""
        return self.state.filtered_map.rows

    @cached_property
    def offsets(self) -> np.ndarray | None:
        """First row of each bucket."""
        if "-partition_offset" not in self.state.ev.entries:
            return None
        return self.state.offsets("-partition_offset").astype(np.int64)

    @cached_property
    def filtered_offsets(self) -> np.ndarray | None:
        """The same of the filtered keys."""
        if "-partition_filter_offset" not in self.state.ev.entries:
            return None
        return self.state.offsets("-partition_filter_offset").astype(np.int64)

    def shape(self, suffix: str) -> tuple[int, ...]:
        """Return the shape of one of its tensors."""
        return self.state.shape(suffix)

    def column(self, name: ColumnName) -> Column | None:
        """Return one column, None where there is none."""
        suffix = f"-{name}"
        if suffix not in self.state.ev.entries:
            return None
        if suffix in OPTIONAL_COLUMNS and suffix not in self.state.job.present:
            return None
        if suffix.endswith("_filtered") and not self.state.ev.entries[suffix].rows:
            return None
        return self.state.column(suffix)


class RawPart(PartView):
    """Rows of a bundle as they stand there: of a full, or of an increment.

    Attributes
    ----------
    reader, own
        The bundle, and the tensors of the part.
    head
        What suffixes begin with: `-` in a full, `-sparse_incr_` in an increment.
    """

    def __init__(self, reader: BundleReader, own: EvSet | RowSet) -> None:
        self.name = own.name
        self.reader = reader
        self.own = own
        self.entries = own.entries
        self.head = "-sparse_incr_" if "-sparse_incr_keys" in self.entries else "-"

    @property
    def rows(self) -> int:
        """Admitted keys."""
        return self.own.rows

    @property
    def filtered(self) -> int:
        """Filtered keys."""
        entry = self.entries.get("-keys_filtered")
        return entry.rows if entry is not None else 0

    @cached_property
    def offsets(self) -> np.ndarray | None:
        """First row of each bucket."""
        full = self.head == "-"
        return self._offsets("-partition_offset" if full else "-incr_partition_offset", self.rows)

    @cached_property
    def filtered_offsets(self) -> np.ndarray | None:
        """The same of the filtered keys."""
        return self._offsets("-partition_filter_offset", self.filtered)

    def _offsets(self, suffix: str, rows: int) -> np.ndarray | None:
        if not isinstance(self.own, EvSet) or suffix not in self.entries:
            return None
        return read_offsets(self.reader, self.own, suffix, rows)

    def shape(self, suffix: str) -> tuple[int, ...]:
        """Return the shape of one of its tensors."""
        return self.entries[suffix].shape

    def column(self, name: ColumnName) -> Column | None:
        """Return one column, None where there is none."""
        suffix = f"{self.head}{name}"
        entry = self.entries.get(suffix)
        if entry is None or (not entry.rows and self.rows):
            return None
        untouched = RowMap.build(entry.rows)
        return Column(self.reader, self.name + suffix, entry, untouched, None)
