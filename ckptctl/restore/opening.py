"""Opening a checkpoint: its names read in the one way that its offset tensors allow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.errors import CkptctlError, TableError
from ckptctl.restore.keys import read_offsets
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import (
    BUCKETS,
    Catalogue,
    EvSet,
    RowSet,
    find_tables,
    is_slot_name,
    part_components,
)

__all__ = ["bucket_rows", "check_fits", "misfit", "open_bundle"]

#: Keys of a part that are compared one by one, to tell a slot from a table: more of them that
#: agree in each bucket are no accident.
_FEW_KEYS = 10_000


def open_bundle(
    prefix: str, increment: bool, storage: Storage = LOCAL, *, damaged: bool = False
) -> tuple[BundleReader, Catalogue]:
    """Return a checkpoint and what its names mean; reads its index and offset tensors.

    And few keys of what may be a slot, where no optimizer of DeepRec names it.

    One that is `damaged` may lack shards and have any bytes in the others.

    Raises
    ------
    DamageError
        The index or a shard contradicts itself.
    AmbiguousError
        Two components of a name may be its part.
    """
    reader = BundleReader(prefix, storage)
    if not damaged:
        reader.check_shards()
    # Which names are EVs does not depend on how their parts are read.
    found = find_tables(reader.tensors, increment=increment)
    slots = [member.slot for table in found.tables for member in table.members[1:]]
    if all(map(is_slot_name, slots)) and not any(map(part_components, found.ev_sets)):
        return reader, found
    strays_of = partial(_strays_known if damaged else _strays, reader, found.ev_sets)
    return reader, find_tables(
        reader.tensors,
        increment=increment,
        strays_of=strays_of,
        same_keys=partial(_same_keys, reader),
    )


def bucket_rows(reader: BundleReader, ev: EvSet) -> np.ndarray:
    """Return int64[1000]: the rows in each bucket, by offset; all 0 without an offset tensor."""
    suffix = "-incr_partition_offset" if ev.incremental else "-partition_offset"
    if ev.problem or suffix not in ev.entries or not ev.rows:
        return np.zeros(BUCKETS, np.int64)
    return np.diff(read_offsets(reader, ev, suffix, ev.rows))


def misfit(reader: BundleReader, own: EvSet | RowSet) -> TableError | None:
    """Return why the tensors of a set cannot be read as rows, None where they can."""
    if not own.problem:
        return None
    return TableError(
        f"columns of a table do not fit: {own.problem}",
        file=reader.index_path,
        tensor=own.name,
        offset=own.keys.offset,
        remedy="use another step",
    )


def check_fits(reader: BundleReader, own: EvSet | RowSet) -> None:
    """Raise `TableError` where the tensors of a set cannot be read as rows."""
    error = misfit(reader, own)
    if error is not None:
        raise error


def _strays(
    reader: BundleReader, sets: Mapping[str, EvSet], name: str, part: int, parts: int
) -> tuple[int, int]:
    rows = bucket_rows(reader, sets[name])
    total = int(rows.sum())
    return total - int(rows[part::parts].sum()), total


def _strays_known(
    reader: BundleReader, sets: Mapping[str, EvSet], name: str, part: int, parts: int
) -> tuple[int, int]:
    with suppress(CkptctlError, OSError):
        return _strays(reader, sets, name, part, parts)
    return 0, 0


def _same_keys(reader: BundleReader, pairs: Sequence[tuple[EvSet, EvSet]]) -> bool:
    """Return whether EVs have the keys of others, as far as that can be told cheaply."""
    with suppress(CkptctlError, OSError):  # what cannot be read is told by who needs it
        for one, other in pairs:
            if (bucket_rows(reader, one) != bucket_rows(reader, other)).any():
                return False
        few = [pair for pair in pairs if 0 < pair[0].rows <= _FEW_KEYS]
        suffix = "-sparse_incr_keys" if pairs[0][0].incremental else "-keys"
        keys = [np.sort(reader.read(ev.name + suffix)) for ev in (few[0] if few else ())]
        return all(np.array_equal(keys[0], each) for each in keys)
    return True
