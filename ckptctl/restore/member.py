"""One part of a table at a step: its keys surveyed, its columns as streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import TableError
from ckptctl.restore.column import ArrayRows, Column, FileRows, RowSource, row_bytes
from ckptctl.restore.columns import OPTIONAL_COLUMNS
from ckptctl.restore.join import IncomingKeys, KeyJoin, join_keys, read_incoming
from ckptctl.restore.keys import KeyReader, bucket_of, is_in, read_offsets
from ckptctl.restore.plans import TablePlan
from ckptctl.restore.rowmap import RowMap
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["MemberState", "PartJob", "Survey", "survey_part"]

#: Offset tensors are int32.
MAX_ROWS = (1 << 31) - 1
_NONE = np.empty(0, np.int64)

#: Told of bytes that were read; may raise to stop.
Report = Callable[[int], None]


@dataclass(frozen=True)
class PartJob:
    """One part of one table: all that is needed to work on it, picklable.

    Attributes
    ----------
    full, increments
        The data of the full and of the increments, oldest first.
    table
        The table; of its incoming sets only those that this part may take rows from.
    part
        Number of the part.
    present
        Optional columns that the table keeps.
    """

    full: BundleData
    increments: tuple[BundleData, ...]
    table: TablePlan
    part: int
    present: frozenset[str]

    def incoming(self, member: int) -> IncomingKeys:
        """Return the keys that the increments bring to a member of this part."""
        plan = self.table.members[member]
        generations: list[list[tuple[BundleData, EvSet, int, int]]] = [[] for _ in self.increments]
        for number, ev, own_part, own_parts in plan.incoming:
            generations[number].append((self.increments[number], ev, own_part, own_parts))
        return read_incoming(generations, self.part, self.table.num_parts)

    def join(
        self,
        member: int,
        incoming: IncomingKeys,
        *,
        validate: bool = True,
        report: Report | None = None,
    ) -> KeyJoin:
        """Find those keys among the full's; see `join_keys`."""
        ev = self.table.members[member].parts[self.part]
        parts = self.table.num_parts
        return join_keys(
            self.full, ev, self.part, parts, incoming, validate=validate, report=report
        )


@dataclass(frozen=True)
class Survey:
    """What a look at the keys of one part tells.

    Attributes
    ----------
    rows, filtered
        Rows of each member in the result, admitted and filtered.
    new, replaced
        Incoming keys of each member that the full lacks and has.
    skipped, misplaced
        Incoming rows, and rows of the full, outside their part or bucket: left out as a PS
        does.
    dropped
        int64, ascending: new keys without a row in every member, to be left out.
    new_keys
        Keys that are new in at least one member.
    unpaired
        Rows that the full's members have, where their key sets differ already (DeepRec
        #1023); None where they are equal.
    joins
        Where the keys of each member stand, if that was to be kept.
    """

    rows: tuple[int, ...]
    filtered: tuple[int, ...]
    new: tuple[int, ...]
    replaced: tuple[int, ...]
    skipped: int
    misplaced: int
    dropped: np.ndarray
    new_keys: int
    unpaired: tuple[int, ...] | None
    joins: tuple[KeyJoin, ...] = ()


def survey_part(
    job: PartJob, report: Report | None = None, *, keep: bool = False, validate: bool = True
) -> Survey:
    """Look at the keys of one part: how many rows will there be, and do they fit together.

    `report` is told of the bytes of the full as they are read, and may raise to stop. With
    `keep` the survey holds 8 bytes for each incoming key, which spares the writing a search.
    Without `validate` it does not look for keys that no PS can save or that stand twice.

    Raises
    ------
    TableError
        Rows that no PS could have saved, or a part of 2^31 rows or more.
    TensorChecksumError
        The keys of the full do not match their checksum.
    """
    members = range(len(job.table.members))
    incoming = [job.incoming(member) for member in members]
    joins = [
        job.join(member, incoming[member], validate=validate, report=report) for member in members
    ]
    dropped, new_keys = _unpaired(job, incoming, joins)
    admitted = lru_cache(maxsize=None)(lambda: _union([keys.keys for keys in incoming], dropped))
    states = [
        MemberState(
            job,
            member,
            dropped,
            report=report and _sign_of_life(report),
            _keys=(incoming[member], joins[member]),
            _admitted=admitted,
        )
        for member in members
    ]
    for state in states:
        if state.rowmap.rows > MAX_ROWS:
            raise TableError(
                "a part with 2^31 rows or more",
                tensor=state.ev.name,
                expected=f"<= {MAX_ROWS} rows",
                found=state.rowmap.rows,
                remedy="save the table in more parts",
            )
    digests = {(join.old_rows, join.digest) for join in joins}
    return Survey(
        rows=tuple(state.rowmap.rows for state in states),
        filtered=tuple(state.filtered_map.rows for state in states),
        new=tuple(int(np.count_nonzero(state.is_new)) for state in states),
        replaced=tuple(int(np.count_nonzero(join.found >= 0)) for join in joins),
        skipped=sum(keys.skipped for keys in incoming),
        misplaced=sum(len(join.deleted) for join in joins),
        dropped=dropped,
        new_keys=new_keys,
        unpaired=tuple(join.old_rows for join in joins) if len(digests) > 1 else None,
        joins=tuple(
            replace(join, unfiltered=state.unfiltered)
            for join, state in zip(joins, states, strict=True)
        )
        if keep
        else (),
    )


def _sign_of_life(report: Report) -> Report:
    return lambda _: report(0)


def _union(keys: Sequence[np.ndarray], dropped: np.ndarray) -> np.ndarray:
    """Return the ascending keys that stand in any of the arrays and are not dropped."""
    first = keys[0]
    if all(np.array_equal(first, other) for other in keys[1:]):
        together = np.sort(first)
    else:
        together = np.unique(np.concatenate(keys))
    return together[~is_in(together, dropped)] if len(dropped) else together


def _unpaired(
    job: PartJob, incoming: Sequence[IncomingKeys], joins: Sequence[KeyJoin]
) -> tuple[np.ndarray, int]:
    """Return the new keys that would lack a row in some member, and how many keys are new."""
    fresh = [keys.keys[join.found < 0] for keys, join in zip(incoming, joins, strict=True)]
    first = incoming[0].keys
    if all(np.array_equal(first, keys.keys) for keys in incoming[1:]):
        same = all(np.array_equal(fresh[0], keys) for keys in fresh[1:])
        return _NONE, len(fresh[0]) if same else len(np.unique(np.concatenate(fresh)))
    new = np.unique(np.concatenate(fresh))
    lacking = np.zeros(len(new), bool)
    for member, keys in enumerate(incoming):
        absent = ~np.isin(new, keys.keys)
        if absent.any():
            absent[absent] = ~_in_full(job, member, new[absent])
        lacking |= absent
    return new[lacking], len(new)


def _in_full(job: PartJob, member: int, keys: np.ndarray) -> np.ndarray:
    """Return which of the ascending `keys` the full's member has."""
    bucket = bucket_of(keys)
    order = np.lexsort((keys, bucket))
    asked = IncomingKeys(keys[order], bucket[order], order, order)
    has = np.empty(len(keys), bool)
    has[order] = job.join(member, asked, validate=False).found >= 0
    return has


class MemberState:
    """One member of one part of a table at a step.

    Nothing is read until it is asked for; keys are read once, then kept.

    Parameters
    ----------
    job
        The part.
    member
        Number of the member.
    dropped
        New keys to leave out, of the part's survey.
    join
        Where the keys stand, if the survey kept it.
    report
        Called now and then while keys are read; may raise to stop.
    """

    def __init__(
        self,
        job: PartJob,
        member: int,
        dropped: np.ndarray = _NONE,
        *,
        join: KeyJoin | None = None,
        report: Report | None = None,
        _keys: tuple[IncomingKeys, KeyJoin] | None = None,
        _admitted: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.job = job
        self.member = member
        self.dropped = dropped
        self._report = report
        self._join = join
        self.ev = job.table.members[member].parts[job.part]
        self._known = _keys
        self._admitted = _admitted or self._all_admitted

    @cached_property
    def _keys(self) -> tuple[IncomingKeys, KeyJoin]:
        if self._known is not None:
            return self._known
        incoming = self.job.incoming(self.member)
        if self._join is not None:
            return incoming, self._join
        # The survey of the part has looked at the keys themselves.
        join = self.job.join(self.member, incoming, validate=False, report=self._report)
        return incoming, join

    @cached_property
    def is_new(self) -> np.ndarray:
        """bool[incoming]: keys that get a row they did not have."""
        incoming, join = self._keys
        new = join.found < 0
        if len(self.dropped):
            new &= ~np.isin(incoming.keys, self.dropped)
        return new

    @cached_property
    def _new_counts(self) -> np.ndarray:
        incoming, _ = self._keys
        return np.bincount(incoming.bucket[self.is_new], minlength=BUCKETS).astype(np.int64)

    @cached_property
    def rowmap(self) -> RowMap:
        """Where each admitted row comes from."""
        incoming, join = self._keys
        new = np.flatnonzero(self.is_new)
        if join.offsets is None:
            new = new[np.argsort(incoming.keys[new], kind="stable")]
            insert_at, insert_count = np.array([join.old_rows]), np.array([len(new)])
        else:
            insert_at, insert_count = join.offsets[1:], self._new_counts
        replaced = np.flatnonzero(join.found >= 0)
        return RowMap.build(
            join.old_rows,
            deleted=join.deleted,
            insert_at=insert_at,
            insert_count=insert_count,
            inserted=new,
            replaced_rows=join.found[replaced],
            replaced_by=replaced,
        )

    @cached_property
    def unfiltered(self) -> np.ndarray:
        """Ascending rows of filtered keys that are admitted now, by whichever member."""
        entry = self.ev.entries.get("-keys_filtered")
        if entry is None or not entry.rows:
            return _NONE
        if self._join is not None and self._join.unfiltered is not None:
            return self._join.unfiltered
        return self._find_filtered(entry, self._admitted())

    def _all_admitted(self) -> np.ndarray:
        """Return the ascending keys that the increments admit, of whichever member."""
        own = {self.member: self._keys[0]}
        members = range(len(self.job.table.members))
        incoming = [(own[m] if m in own else self.job.incoming(m)).keys for m in members]
        return _union(incoming, self.dropped)

    @cached_property
    def filtered_map(self) -> RowMap:
        """Which filtered rows stay: an admitted key leaves those of every member."""
        return RowMap.without(self.ev.filtered, self.unfiltered)

    def _find_filtered(self, entry: Entry, admitted: np.ndarray) -> np.ndarray:
        """Return the ascending rows of the filtered keys that are admitted now."""
        if not len(admitted):
            return _NONE
        reader = KeyReader(self.job.full, self.ev.name + "-keys_filtered", entry)
        found = [_NONE]
        for at in range(0, entry.rows, knobs.JOIN_KEYS):
            keys = reader.read(min(knobs.JOIN_KEYS, entry.rows - at))
            if self._report is not None:
                self._report(0)
            found.append(np.flatnonzero(is_in(keys, admitted)) + at)
        reader.finish()
        return np.concatenate(found)

    def shape(self, suffix: str) -> tuple[int, ...]:
        """Return the shape of one of the member's tensors."""
        entry = self.ev.entries[suffix]
        if suffix in ("-partition_offset", "-partition_filter_offset"):
            return entry.shape
        return (self._map(suffix).rows, *entry.shape[1:])

    def _map(self, suffix: str) -> RowMap:
        if suffix.endswith("_filtered"):
            kept = self.ev.entries[suffix].rows
            return self.filtered_map if kept else RowMap.without(0, _NONE)
        if suffix in OPTIONAL_COLUMNS and suffix not in self.job.present:
            return RowMap.without(0, _NONE)
        return self.rowmap

    def offsets(self, suffix: str) -> np.ndarray:
        """Return a rebuilt offset tensor: int32[1001]."""
        if suffix == "-partition_offset":
            _, join = self._keys
            old, deleted, new = join.offsets, join.deleted, self._new_counts
            assert old is not None  # a table in the old form has no such tensor
        else:
            old = read_offsets(self.job.full, self.ev, suffix, self.ev.filtered)
            deleted, new = self.unfiltered, np.zeros(BUCKETS, np.int64)
        moved = old - np.searchsorted(deleted, old)
        moved[1:] += np.cumsum(new)
        return moved.astype("<i4")

    def column(self, suffix: str) -> Column:
        """Return one of the member's columns as a stream."""
        entry = self.ev.entries[suffix]
        rowmap = self._map(suffix)
        source = self._source(suffix, entry) if len(rowmap.changed) else None
        return Column(self.job.full, self.ev.name + suffix, entry, rowmap, source)

    def _source(self, suffix: str, entry: Entry) -> RowSource:
        incoming, _ = self._keys
        taken = self.rowmap.incoming
        if suffix == "-keys":
            return ArrayRows(incoming.keys[taken].astype(entry.dtype.numpy))
        theirs = {"-values": "-sparse_incr_values", **OPTIONAL_COLUMNS}[suffix]
        return FileRows(
            [(data, ev.name + theirs, ev.entries[theirs]) for data, ev in incoming.sources],
            incoming.tensor_of[taken],
            incoming.row_of[taken],
            row_bytes(entry),
        )
