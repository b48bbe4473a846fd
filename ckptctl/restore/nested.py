"""Check 1: the keys of each cumulative increment contain those of the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleReader, Entry
from ckptctl.chain import Chains, Checkpoint, ProvenPairs
from ckptctl.errors import DamageError, TableError, UnprovenError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.find import KeyTable
from ckptctl.restore.keys import (
    KeyReader,
    bucket_of,
    buckets_at,
    check_keys,
    in_slice,
    read_keys,
    read_offsets,
)
from ckptctl.restore.match_rows import RowsMatcher
from ckptctl.restore.match_tables import TableMatcher
from ckptctl.restore.opening import open_bundle
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.plans import Increment
from ckptctl.restore.select import LAST_OR_ALL, step_below
from ckptctl.running import Report
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["check_nested"]

#: Keys of one increment that are compared together: of a range of buckets, and of one bucket that
#: is larger, which is read again for each so many of its keys.
_KEYS, _BUCKET_KEYS = 1 << 17, 1 << 20
#: Each key is read twice: to check its column, then to compare it.
_BYTES = 8

_NONE = np.empty(0, np.int64)


def check_nested(
    base: str,
    series: Sequence[Checkpoint],
    proven: ProvenPairs,
    storage: Storage = LOCAL,
    *,
    progress: Progress = NO_PROGRESS,
    chains: Chains | None = None,
) -> None:
    """Prove that no increment of a series lost keys of the one before.

    Compares all keys of each member of a table, whatever part they stand in, some buckets
    at a time. Memory: `_KEYS` keys of each increment, of a larger bucket `_BUCKET_KEYS`, a
    table of their hashes, and the keys that stand outside their bucket. What is among the
    `proven` pairs is not looked at again; what is proven now is added to them.
    An error names the step below that the `chains` can restore.

    Raises
    ------
    UnprovenError
        Keys are missing: a full or a recorder was lost in between.
    """
    pairs = [pair for pair in pairwise(series) if (pair[0].prefix, pair[1].prefix) not in proven]
    if not pairs:
        return
    progress.start("comparing increments", sum(_key_bytes(*pair) for pair in pairs))
    with ExitStack() as stack:
        full = open_bundle(base, False, storage)
        stack.callback(full[0].close)
        for before, after in pairs:
            pair = (before.prefix, after.prefix)
            told = _Told(progress, _key_bytes(before, after))
            try:
                missing, where = _missing_keys(full, pair, storage, told.report)
            except DamageError as error:
                _name_a_way_out(error, series)
                raise
            told.finish()
            if missing:
                raise UnprovenError(
                    f"{after.name} lacks keys of {before.name}: a full or a recorder was lost "
                    "between",
                    file=after.prefix,
                    tensor=where,
                    expected=f"every key of {before.prefix}",
                    found=f"missing: {missing}",
                    remedy=step_below(chains, after.step, LAST_OR_ALL),
                )
            proven.add(pair)


def _key_bytes(before: Checkpoint, after: Checkpoint) -> int:
    rows = [rows.rows for item in (before, after) for rows in item.contents.sparse.values()]
    return 2 * _BYTES * sum(rows)


def _name_a_way_out(error: DamageError, series: Sequence[Checkpoint]) -> None:
    """Add that a PS, which restores the last increment alone, reads no damaged one before it."""
    file = error.file or ""
    if any(file.startswith(f"{before.prefix}.") for before in series[:-1]):
        own = f"{error.remedy}, or " if error.remedy else ""
        error.remedy = f"{own}--increments last for what a DeepRec PS would hold"


class _Told:
    """Progress over one pair: never more than was promised, in the end exactly that."""

    def __init__(self, progress: Progress, left: int) -> None:
        self.progress = progress
        self.left = left

    def report(self, done: int) -> None:
        done = min(done, self.left)
        self.left -= done
        self.progress.advance(done)

    def finish(self) -> None:
        self.report(self.left)


def _missing_keys(
    full: Increment, prefixes: tuple[str, str], storage: Storage, report: Report
) -> tuple[int, str]:
    """Return how many keys of a tensor the second increment lacks: the first that lacks some."""
    with ExitStack() as stack:
        changes: list[Increment] = []
        for prefix in prefixes:
            changes.append(open_bundle(prefix, True, storage))
            stack.callback(changes[-1][0].close)
        missing: Counter[str] = Counter()
        tables = TableMatcher(*full, changes)
        variables = RowsMatcher(*full, changes, RestoreOptions(keep_missing=True, add_new=True))
        for name, count in _held_whole(variables, changes):
            missing[name] += count
        for name, old, new in _columns(tables, variables, changes):
            missing[name] += _compare(_Keys(old, report), _Keys(new, report, strays=False))
        return next(((count, name) for name, count in missing.items() if count), (0, ""))


def _held_whole(variables: RowsMatcher, changes: Sequence[Increment]) -> Iterator[tuple[str, int]]:
    """Return the variables of which the first increment has all rows and the second only some.

    And how many are missing: for a PS, these are the full's again.
    """
    before, after = (catalogue.entries for _, catalogue in changes)
    for name, rows in variables.incoming.items():
        if name in before and name not in after:
            whole = before[name]
            shapes = [each.shape(whole.shape) for each in whole.slices] or [whole.shape]
            had = sum(shape[0] for shape in shapes if shape)
            missing = had - sum(item.rows for number, _, item in rows if number)
            if missing > 0:
                yield name, missing


class _Column(NamedTuple):
    """A column of keys; `ev` is None for the row numbers of a normal variable."""

    reader: BundleReader
    name: str
    entry: Entry
    ev: EvSet | None = None

    def offsets(self) -> np.ndarray:
        """Return int64[1001]; row numbers all lie in bucket 0."""
        if self.ev is not None:
            suffix = "-incr_partition_offset"
            return read_offsets(self.reader, self.ev, suffix, self.ev.rows)
        offsets = np.full(BUCKETS + 1, self.entry.rows, np.int64)
        offsets[0] = 0
        return offsets

    def home_of(self, keys: np.ndarray) -> np.ndarray:
        """Return where the keys belong."""
        return np.zeros(len(keys), np.int64) if self.ev is None else bucket_of(keys)


def _columns(
    tables: TableMatcher, variables: RowsMatcher, changes: Sequence[Increment]
) -> Iterator[tuple[str, list[_Column], list[_Column]]]:
    """Return the columns of both increments for each member and each slice of a variable."""
    for name, sets in (*tables.incoming.items(), *tables.foreign.items()):
        own: tuple[list[_Column], list[_Column]] = ([], [])
        for number, ev, _, _ in sets:
            column = _Column(changes[number][0], f"{ev.name}-sparse_incr_keys", ev.keys, ev)
            own[number].append(column)
        yield name, *own
    for name, rows in variables.incoming.items():
        if name in changes[1][1].entries:
            continue  # a variable that the newer one holds whole lacks nothing
        for part in sorted({item[1] for item in rows}):
            slices: tuple[list[_Column], list[_Column]] = ([], [])
            for number, at, item in rows:
                if at == part:
                    keys = f"{item.name}-sparse_incr_keys"
                    slices[number].append(_Column(changes[number][0], keys, item.keys))
            yield name, *slices


class _Keys:
    """All keys of some columns, by the bucket that they belong to.

    Without `strays`, those outside their bucket are left out: a PS skips their rows, so a
    newer increment that has a key there only has lost it.

    Attributes
    ----------
    counts
        int64[1000]: keys in each bucket, by offset.
    """

    def __init__(self, columns: Sequence[_Column], report: Report, *, strays: bool = True) -> None:
        self._columns = [(column, column.offsets()) for column in columns]
        self._report = report
        self.counts = np.zeros(BUCKETS, np.int64)
        found = [_NONE]
        for column, offsets in self._columns:
            self.counts += np.diff(offsets)
            outside = list(self._check(column, offsets))
            found += outside if strays else []
        self._strays = np.concatenate(found)
        self._homes = bucket_of(self._strays)

    def _check(self, column: _Column, offsets: np.ndarray) -> Iterator[np.ndarray]:
        """Check a column, and return the keys outside their bucket."""
        reader = KeyReader(column.reader, column.name, column.entry)
        rows = column.entry.rows
        strays = []
        problem = None
        for at in range(0, rows, knobs.JOIN_KEYS):
            keys = reader.read(min(knobs.JOIN_KEYS, rows - at))
            if column.ev is not None:
                try:
                    check_keys(column.reader, column.ev, keys)
                except TableError as error:  # or flipped bits, which is told first
                    problem = problem or error
                strays.append(keys[_outside(column, keys, at, offsets)])
            self._report(len(keys) * _BYTES)
        reader.finish()
        if problem is not None:
            raise problem
        return iter(strays)

    def read(self, first: int, last: int, number: int, slices: int) -> np.ndarray:
        """Return the keys that belong into buckets [first, last): one slice of them."""
        chosen = (self._homes >= first) & (self._homes < last)
        strays = self._strays[chosen]
        found = [strays[in_slice(strays, number, slices)]]
        for column, offsets in self._columns:
            begin, end = int(offsets[first]), int(offsets[last])
            for at in range(begin, end, knobs.JOIN_KEYS):
                stop = min(at + knobs.JOIN_KEYS, end)
                keys = read_keys(column.reader, column.name, column.entry, at, stop)
                kept = in_slice(keys, number, slices)
                if column.ev is not None:
                    kept &= ~_outside(column, keys, at, offsets)
                found.append(keys[kept])
                self._report(len(found[-1]) * _BYTES)
        return np.concatenate(found)


def _outside(column: _Column, keys: np.ndarray, at: int, offsets: np.ndarray) -> np.ndarray:
    """Return which keys, of the rows from `at` on, stand outside their bucket."""
    return np.asarray(np.repeat(*buckets_at(offsets, at, at + len(keys))) != column.home_of(keys))


def _compare(old: _Keys, new: _Keys) -> int:
    """Return how many keys of `old` are missing in `new`."""
    missing = 0
    table = KeyTable(_BUCKET_KEYS * 17 // 16)  # slices are of about so many keys
    for first, last, slices in _ranges(np.maximum(old.counts, new.counts)):
        for number in range(slices):
            keys = old.read(first, last, number, slices)
            table.fill(new.read(first, last, number, slices))
            missing += len(keys) - len(table.find(keys)[0])
    return missing


def _ranges(counts: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Return (first bucket, last bucket, slices) of ranges of about `_KEYS` keys."""
    ends = np.cumsum(counts)
    first = 0
    while first < BUCKETS:
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + _KEYS, side="right")), first + 1)
        yield first, last, max(1, -(-(int(ends[last - 1]) - before) // _BUCKET_KEYS))
        first = last
