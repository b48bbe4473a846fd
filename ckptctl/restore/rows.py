"""A normal variable of which increments replace rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ckptctl.bundle import BundleData
from ckptctl.errors import TableError
from ckptctl.restore.column import Column, row_bytes
from ckptctl.restore.plans import RowsPlan
from ckptctl.restore.rowmap import RowMap
from ckptctl.restore.rows_brought import FileRows
from ckptctl.tables import RowSet

__all__ = ["RowsJob", "RowsState", "beyond_end", "row_numbers"]


def beyond_end(name: str, count: int) -> str:
    """Say that incoming rows of a variable were skipped."""
    return f"{name}: {count} incoming rows beyond its end were skipped"


def row_numbers(data: BundleData, rows: RowSet) -> np.ndarray:
    """Return the rows of a slice that an increment has, int64[rows]; raise `TableError`."""
    name = f"{rows.name}-sparse_incr_keys"
    keys = data.read_entry(name, rows.keys).astype(np.int64)
    ordered = np.sort(keys)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(ordered) and (ordered[0] < 0 or len(twice)):
        raise TableError(
            "row numbers that no PS can save",
            file=data.shard_path(rows.keys.shard),
            tensor=name,
            offset=rows.keys.offset,
            expected="each row once, none negative",
            found=f"row {twice[0]} twice" if len(twice) else f"row {ordered[0]}",
        )
    return keys


class RowsJob(NamedTuple):
    """One slice of a normal variable with its incoming rows, picklable.

    `base` holds the rows that nobody replaces; `increments` are the data of the increments,
    oldest first.
    """

    base: BundleData
    increments: tuple[BundleData, ...]
    plan: RowsPlan


class RowsState:
    """A slice of a normal variable at a step.

    Attributes
    ----------
    replaced
        Rows that come from an increment.
    skipped
        Incoming rows beyond the slice, left out as a PS does.
    """

    def __init__(self, job: RowsJob) -> None:
        self._job = job
        length = job.plan.entry.rows
        keys: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        self.skipped = 0
        for number, item in job.plan.incoming:
            own = row_numbers(job.increments[number], item)
            inside = own < length
            self.skipped += int(len(own) - np.count_nonzero(inside))
            keys.append(own[inside])
            rows.append(np.flatnonzero(inside))
        which = np.repeat(np.arange(len(keys)), [len(piece) for piece in keys])
        none = np.empty(0, np.int64)
        key = np.concatenate([none, *keys])
        row = np.concatenate([none, *rows])
        order = np.lexsort((which, key))
        newest = np.ones(len(order), bool)
        newest[:-1] = key[order][1:] != key[order][:-1]
        chosen = order[newest]
        self.replaced = len(chosen)
        self._map = RowMap.build(length).with_changes(key[chosen])
        self._which, self._row = which[chosen], row[chosen]

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the plan's incoming rows each row is, -1 for the base's, and its row."""
        which = np.full(len(rows), -1, np.int64)
        places = rows.astype(np.int64)
        changed = self._map.changed
        if len(changed):
            wanted = rows.astype(changed.dtype)
            at = np.minimum(np.searchsorted(changed, wanted), len(changed) - 1)
            hit = changed[at] == rows
            which[hit], places[hit] = self._which[at[hit]], self._row[at[hit]]
        return which, places

    def column(self) -> Column:
        """Return the slice as a stream."""
        plan = self._job.plan
        sources = [
            (self._job.increments[number], f"{item.name}-sparse_incr_values", item.values)
            for number, item in plan.incoming
        ]
        which = self._which if len(sources) > 1 else None
        source = FileRows(sources, which, self._row, row_bytes(plan.entry))
        return Column(self._job.base, plan.name, plan.entry, self._map, source)
