"""One part of a table at a step: its keys surveyed, its columns as streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import TableError
from ckptctl.restore.arrivals import Arrivals
from ckptctl.restore.column import ArrayRows, Column, FileRows, RowSource, row_bytes
from ckptctl.restore.columns import OPTIONAL_COLUMNS
from ckptctl.restore.incoming import (
    Generation,
    IncomingKeys,
    read_incoming,
    same_bytes,
    sources_of,
)
from ckptctl.restore.join import KeyJoin, Twin, join_keys
from ckptctl.restore.keys import KeyReader, is_in, read_offsets
from ckptctl.restore.plans import TablePlan
from ckptctl.restore.rowmap import RowMap
from ckptctl.tables import EvSet

__all__ = ["OFFSETS", "Kept", "MemberState", "PartJob", "Survey", "survey_part"]

#: Suffixes of the tensors that bound the buckets of a full.
OFFSETS = ("-partition_offset", "-partition_filter_offset")
#: They are int32.
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

    def generations(self, member: int) -> list[Generation]:
        """Return the sets that each increment brings to a member of this part."""
        generations: list[list[tuple[BundleData, EvSet, int, int]]] = [[] for _ in self.increments]
        for number, ev, own_part, own_parts in self.table.members[member].incoming:
            generations[number].append((self.increments[number], ev, own_part, own_parts))
        return list(generations)

    def incoming(self, member: int) -> IncomingKeys:
        """Return the keys that the increments bring to a member of this part."""
        return read_incoming(self.generations(member), self.part, self.table.num_parts)

    def all_incoming(self) -> list[IncomingKeys]:
        """Return those of all members, which share what is the same."""
        first = self.incoming(0)
        alike = self.generations(0), first
        return [first] + [
            read_incoming(self.generations(member), self.part, self.table.num_parts, alike)
            for member in range(1, len(self.table.members))
        ]

    def join(
        self,
        member: int,
        incoming: IncomingKeys,
        *,
        validate: bool = True,
        report: Report | None = None,
        twins: Sequence[Twin] = (),
    ) -> KeyJoin:
        """Find those keys among the full's; see `join_keys`."""
        ev = self.table.members[member].parts[self.part]
        return join_keys(
            self.full,
            ev,
            self.part,
            self.table.num_parts,
            incoming,
            validate=validate,
            report=report,
            twins=twins,
        )

    def all_joins(
        self, incoming: Sequence[IncomingKeys], *, validate: bool, report: Report | None
    ) -> list[KeyJoin]:
        """Find the keys of all members; those with the same keys in the same rows share it."""
        found: dict[int, KeyJoin] = {}
        for member, own in enumerate(incoming):
            if member in found:
                continue
            twins = {
                other: Twin(self.full, self.table.members[other].parts[self.part])
                for other in range(member + 1, len(incoming))
                if other not in found
                and incoming[other].keys is own.keys
                and self._alike(member, other)
            }
            found[member] = self.join(
                member, own, validate=validate, report=report, twins=list(twins.values())
            )
            for other, twin in twins.items():
                if twin.same:
                    found[other] = found[member]
        return [found[member] for member in range(len(incoming))]

    def _alike(self, member: int, other: int) -> bool:
        """Return whether two members may hold the same keys in the same buckets."""
        one, two = (self.table.members[each].parts[self.part] for each in (member, other))
        if one.rows != two.rows or one.keys.dtype != two.keys.dtype:
            return False
        return same_bytes(self.full, one, two, "-partition_offset")


@dataclass(frozen=True)
class Kept:
    """What was found out of one member of a part.

    Attributes
    ----------
    arrivals
        What increments do to its rows.
    unfiltered
        Ascending rows of filtered keys that are admitted now.
    """

    arrivals: Arrivals
    unfiltered: np.ndarray


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
    kept
        What happens to the rows of each member, if that was to be kept.
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
    kept: tuple[Kept, ...] = ()

    def of_full(self, full: BundleData, sets: Sequence[EvSet]) -> Survey | None:
        """Return what a look at the full's keys alone tells; None where some are misplaced.

        `sets` are the members of the part.
        """
        if self.misplaced or not self.kept:
            return None
        kept = []
        for ev in sets:
            bounded = OFFSETS[0] in ev.entries
            offsets = read_offsets(full, ev, OFFSETS[0], ev.rows) if bounded else None
            kept.append(Kept(Arrivals.none(ev.rows, offsets), _NONE))
        return Survey(
            rows=tuple(ev.rows for ev in sets),
            filtered=tuple(ev.filtered for ev in sets),
            new=(0,) * len(sets),
            replaced=(0,) * len(sets),
            skipped=0,
            misplaced=0,
            dropped=_NONE,
            new_keys=0,
            unpaired=self.unpaired,
            kept=tuple(kept),
        )


def survey_part(
    job: PartJob, report: Report | None = None, *, keep: bool = False, validate: bool = True
) -> Survey:
    """Look at the keys of one part: how many rows will there be, and do they fit together.

    `report` is told of the bytes of the full as they are read, and may raise to stop. With
    `keep` the survey holds 13 to 18 bytes for each incoming key, which spares the writing a
    search.
    Without `validate` it does not look for keys that no PS can save or that stand twice.

    Raises
    ------
    TableError
        Rows that no PS could have saved, or a part of 2^31 rows or more.
    TensorChecksumError
        The keys of the full do not match their checksum.
    """
    incoming = job.all_incoming()
    joins = job.all_joins(incoming, validate=validate, report=report)
    dropped, new_keys = _unpaired(job, incoming, joins)
    admitted = cache(lambda: _union([keys.keys for keys in incoming], dropped))
    shared: dict[tuple[int, int], Arrivals] = {}
    for own, join in zip(incoming, joins, strict=True):
        at = id(own.keys), id(join)
        if at not in shared:
            shared[at] = Arrivals.build(own, join, dropped)
    states = [
        MemberState(
            job,
            member,
            dropped,
            arrivals=shared[id(incoming[member].keys), id(joins[member])],
            report=report and _sign_of_life(report),
            _admitted=admitted,
        )
        for member in range(len(incoming))
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
        new=tuple(state.arrivals.new for state in states),
        replaced=tuple(state.arrivals.replaced for state in states),
        skipped=sum(keys.skipped for keys in incoming),
        misplaced=sum(len(join.deleted) for join in joins),
        dropped=dropped,
        new_keys=new_keys,
        unpaired=tuple(join.old_rows for join in joins) if len(digests) > 1 else None,
        kept=tuple(Kept(state.arrivals, state.unfiltered) for state in states) if keep else (),
    )


def _sign_of_life(report: Report) -> Report:
    return lambda _: report(0)


def _union(keys: Sequence[np.ndarray], dropped: np.ndarray) -> np.ndarray:
    """Return the ascending keys that stand in any of the arrays and are not dropped."""
    first = keys[0]
    if all(other is first or np.array_equal(first, other) for other in keys[1:]):
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
    if all(keys.keys is first or np.array_equal(first, keys.keys) for keys in incoming[1:]):
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
    asked = IncomingKeys.of(keys)
    has = np.empty(len(keys), bool)
    has[asked.row_of] = job.join(member, asked, validate=False).found >= 0
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
    kept
        What the survey found out, if it kept it.
    report
        Called now and then while keys are read; may raise to stop.
    """

    def __init__(
        self,
        job: PartJob,
        member: int,
        dropped: np.ndarray = _NONE,
        *,
        kept: Kept | None = None,
        arrivals: Arrivals | None = None,
        report: Report | None = None,
        _admitted: Callable[[], np.ndarray] | None = None,
    ) -> None:
        self.job = job
        self.member = member
        self.dropped = dropped
        self._report = report
        self.kept = kept
        self._arrivals = arrivals if kept is None else kept.arrivals
        self.ev = job.table.members[member].parts[job.part]
        self._admitted = _admitted or self._all_admitted

    @cached_property
    def arrivals(self) -> Arrivals:
        """What increments do to the rows."""
        if self._arrivals is not None:
            return self._arrivals
        incoming = self.job.incoming(self.member)
        # The survey of the part has looked at the keys themselves.
        join = self.job.join(self.member, incoming, validate=False, report=self._report)
        return Arrivals.build(incoming, join, self.dropped)

    @property
    def rowmap(self) -> RowMap:
        """Where each admitted row comes from."""
        return self.arrivals.rowmap

    @cached_property
    def unfiltered(self) -> np.ndarray:
        """Ascending rows of filtered keys that are admitted now, by whichever member."""
        entry = self.ev.entries.get("-keys_filtered")
        if entry is None or not entry.rows:
            return _NONE
        if self.kept is not None:
            return self.kept.unfiltered
        return self._find_filtered(entry, self._admitted())

    def _all_admitted(self) -> np.ndarray:
        """Return the ascending keys that the increments admit, of whichever member."""
        members = range(len(self.job.table.members))
        others = [self.job.incoming(m).keys for m in members if m != self.member]
        return _union([self.arrivals.keys, *others], self.dropped)

    @cached_property
    def filtered_map(self) -> RowMap:
        """Which filtered rows stay: an admitted key leaves those of every member."""
        return RowMap.build(self.ev.filtered, deleted=self.unfiltered)

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
            moved = self.arrivals.offsets
            assert moved is not None  # a table in the old form has no such tensor
        else:
            old = read_offsets(self.job.full, self.ev, suffix, self.ev.filtered)
            moved = old - np.searchsorted(self.unfiltered, old)
        return moved.astype("<i4")

    def column(self, suffix: str) -> Column:
        """Return one of the member's columns as a stream."""
        entry = self.ev.entries[suffix]
        rowmap = self._map(suffix)
        source = self._source(suffix, entry) if len(rowmap.changed) else None
        return Column(self.job.full, self.ev.name + suffix, entry, rowmap, source)

    def _source(self, suffix: str, entry: Entry) -> RowSource:
        arrivals = self.arrivals
        if suffix == "-keys":
            return ArrayRows(arrivals.keys.astype(entry.dtype.numpy, copy=False))
        theirs = {"-values": "-sparse_incr_values", **OPTIONAL_COLUMNS}[suffix]
        tensors = [
            (data, ev.name + theirs, ev.entries[theirs])
            for data, ev in sources_of(self.job.generations(self.member))
        ]
        return FileRows(tensors, arrivals.tensor_of, arrivals.row_of, row_bytes(entry))
