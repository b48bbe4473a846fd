"""Whether a table keeps versions and freqs: decided once for all its parts and members."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry, dtype_by_name
from ckptctl.bundle.checksum import EMPTY_MASKED
from ckptctl.errors import TableError
from ckptctl.restore.plans import TablePlan
from ckptctl.tables import EvSet

__all__ = ["OPTIONAL_COLUMNS", "column_present", "present_columns", "with_columns"]

#: Suffix in a full -> suffix in an increment.
OPTIONAL_COLUMNS = {
    "-versions": "-sparse_incr_versions",
    "-freqs": "-sparse_incr_freqs",
}


def column_present(
    suffix: str,
    full: Sequence[EvSet],
    incoming: Iterable[tuple[BundleData, EvSet]],
    file: str,
) -> bool:
    """Return whether a table has a column (`restore.md`, Columns).

    Parameters
    ----------
    suffix
        "-versions" or "-freqs".
    full
        Every part of every member in the full.
    incoming
        The sets of the increments; read only if the full has no key at all.
    file
        Index of the full.

    Raises
    ------
    TableError
        Some parts or members have the column and others, with keys, have not.
    """
    filled = [ev for ev in full if ev.rows]
    with_column = [ev for ev in filled if suffix in ev.entries and ev.entries[suffix].rows]
    if with_column and len(with_column) != len(filled):
        lacking = next(ev for ev in filled if ev not in with_column)
        raise TableError(
            f"some parts or members have {suffix[1:]} and others have not",
            file=file,
            tensor=lacking.name + suffix,
            expected=f"{lacking.rows} rows, as {with_column[0].name} has them",
            found="0 rows",
            remedy="the checkpoint was damaged or mixed: use another step",
        )
    if filled:
        return bool(with_column)
    return any(_any_nonzero(data, ev, OPTIONAL_COLUMNS[suffix]) for data, ev in incoming)


def present_columns(
    table: TablePlan, increments: Sequence[BundleData], file: str
) -> frozenset[str]:
    """Return the optional columns that a table keeps; errors as of `column_present`."""
    sets, incoming = _sets_of(table, increments)
    return frozenset(s for s in OPTIONAL_COLUMNS if column_present(s, sets, incoming, file))


def with_columns(table: TablePlan, increments: Sequence[BundleData], file: str) -> TablePlan:
    """Return a table whose parts without rows have a tensor for each column that it keeps.

    Such a part may lack it in the full, and rows come to it all the same.
    """
    sets, incoming = _sets_of(table, increments)
    lacking = [
        suffix
        for suffix in OPTIONAL_COLUMNS
        if any(suffix not in ev.entries and not ev.rows for ev in sets)
        and incoming
        and column_present(suffix, sets, incoming, file)
    ]
    if not lacking:
        return table
    empty = Entry(dtype_by_name("int64"), (0,), crc=EMPTY_MASKED)
    new = dict.fromkeys(lacking, empty)
    return table._replace(
        members=tuple(
            member._replace(
                parts=tuple(ev._replace(entries=new | dict(ev.entries)) for ev in member.parts)
            )
            for member in table.members
        )
    )


def _sets_of(
    table: TablePlan, increments: Sequence[BundleData]
) -> tuple[list[EvSet], list[tuple[BundleData, EvSet]]]:
    """Return every part of every member in the full, and the sets of the increments."""
    sets = [ev for member in table.members for ev in member.parts]
    incoming = [(increments[item[0]], item[1]) for m in table.members for item in m.incoming]
    return sets, incoming


def _any_nonzero(data: BundleData, ev: EvSet, suffix: str) -> bool:
    entry = ev.entries[suffix]
    file = data.data_file(ev.name + suffix, entry)
    for at in range(entry.offset, entry.end, knobs.PIECE_BYTES):
        size = min(knobs.PIECE_BYTES, entry.end - at)
        raw = file.pread(at, size)
        if len(raw) != size:
            raise data.past_end(ev.name + suffix, entry, file.size)
        if np.frombuffer(raw, np.uint8).any():
            return True
    return False
