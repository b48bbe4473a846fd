"""Check 1: the keys of each cumulative increment contain those of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from ckptctl.bundle import BundleData, BundleReader
from ckptctl.chain import Checkpoint, ProvenPairs
from ckptctl.errors import UnprovenError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.join import read_incoming
from ckptctl.restore.match import match
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.plans import Matched
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import BUCKETS, Catalogue, EvSet, find_tables

__all__ = ["check_nested"]

#: Keys of one increment that are compared together.
_KEYS = 1 << 22


def check_nested(
    base: str,
    series: Sequence[Checkpoint],
    proven: ProvenPairs,
    storage: Storage = LOCAL,
    *,
    remember: bool = True,
    progress: Progress = NO_PROGRESS,
) -> None:
    """Prove that no increment of a series lost keys of the one before.

    Streams keys, some buckets at a time. What is among the `proven` pairs is not looked at
    again; with `remember`, what is proven now is added to them.

    Raises
    ------
    UnprovenError
        Keys are missing: a full or a recorder was lost in between.
    """
    pairs = [pair for pair in pairwise(series) if (pair[0].prefix, pair[1].prefix) not in proven]
    if pairs:
        total = sum(_key_bytes(before, after) for before, after in pairs)
        progress.start("comparing increments", total)
    for before, after in pairs:
        pair = (before.prefix, after.prefix)
        missing, where = _missing_keys(base, *pair, storage)
        progress.advance(_key_bytes(before, after))
        if missing:
            raise UnprovenError(
                f"{after.name} lacks keys of {before.name}: a full or a recorder was lost between",
                file=after.prefix,
                tensor=where,
                expected=f"every key of {before.prefix}",
                found=f"{missing} keys missing",
                remedy="--increments last for what a DeepRec PS would hold, "
                "or --increments all for each key's newest row",
            )
        if remember:
            proven.add(pair)


def _key_bytes(before: Checkpoint, after: Checkpoint) -> int:
    return 8 * (before.contents.keys + after.contents.keys)


def _missing_keys(base: str, before: str, after: str, storage: Storage) -> tuple[int, str]:
    with (
        BundleReader(base, storage) as full,
        BundleReader(before, storage) as one,
        BundleReader(after, storage) as two,
    ):
        missing, first = 0, ""
        for name, count in _compare(_match(full, one, two), (one, two)):
            missing += count
            first = first or (name if count else "")
        return missing, first


def _match(full: BundleReader, one: BundleReader, two: BundleReader) -> Matched:
    lenient = RestoreOptions(keep_missing=True, add_new=True)
    changes: list[tuple[BundleReader, Catalogue]] = [
        (reader, find_tables(reader.tensors, increment=True)) for reader in (one, two)
    ]
    for reader, catalogue in changes:
        for ev in catalogue.ev_sets.values():
            reader.check_tensor(ev.name, ev.keys)
        for rows in catalogue.rows.values():
            reader.check_tensor(rows.name, rows.keys)
    return match(full, find_tables(full.tensors), changes, lenient)


def _compare(
    matched: Matched, readers: tuple[BundleReader, BundleReader]
) -> Iterator[tuple[str, int]]:
    for table in matched.tables:
        for member in table.members:
            sets: tuple[list[tuple[BundleData, EvSet, int, int]], ...] = ([], [])
            for number, ev, part, parts in member.incoming:
                sets[number].append((readers[number], ev, part, parts))
            rows = max(sum(ev.rows for _, ev, _, _ in own) for own in sets)
            pieces = min(BUCKETS, rows // _KEYS + 1)
            missing = 0
            for piece in range(pieces):
                old, new = (read_incoming([own], piece, pieces).keys for own in sets)
                missing += int(np.count_nonzero(~np.isin(old, new)))
            yield member.name, missing
    for plan in matched.rows:
        keys = [np.empty(0, np.int64), np.empty(0, np.int64)]
        for number, rows_set in plan.incoming:
            name = f"{rows_set.name}-sparse_incr_keys"
            keys[number] = readers[number].read_entry(name, rows_set.keys)
        # A variable that the newer one holds whole lacks nothing.
        whole = plan.source == 1
        yield plan.name, 0 if whole else int(np.count_nonzero(~np.isin(keys[0], keys[1])))
