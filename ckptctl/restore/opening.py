"""Opening a checkpoint: its names read in the one way that its offset tensors allow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.errors import CkptctlError, TableError
from ckptctl.restore.keys import read_offsets
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import BUCKETS, Catalogue, EvSet, RowSet, find_tables, part_components

__all__ = ["bucket_rows", "misfit", "open_bundle"]


def open_bundle(
    prefix: str, increment: bool, storage: Storage = LOCAL, *, damaged: bool = False
) -> tuple[BundleReader, Catalogue]:
    """Return a checkpoint and what its names mean; reads its index and offset tensors.

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
    if not any(map(part_components, found.ev_sets)):
        return reader, found
    strays_of = partial(_strays_known if damaged else _strays, reader, found.ev_sets)
    return reader, find_tables(reader.tensors, increment=increment, strays_of=strays_of)


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
