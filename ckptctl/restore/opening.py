"""Opening a checkpoint: its names read in the one way that its offset tensors allow."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.errors import CkptctlError
from ckptctl.restore.keys import read_offsets
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import BUCKETS, Catalogue, EvSet, find_tables, part_components

__all__ = ["bucket_rows", "open_bundle"]


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
