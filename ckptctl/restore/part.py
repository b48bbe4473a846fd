"""One part of a table: what its keys, and those that increments bring, say of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.errors import TableError
from ckptctl.restore.arrivals import Arrivals, ArrivalsBuilder
from ckptctl.restore.incoming import (
    Generation,
    IncomingKeys,
    IncomingReader,
    count_buckets,
    groups,
    read_incoming,
    same_bytes,
    same_keys,
)
from ckptctl.restore.join import FullKeys, Twin
from ckptctl.restore.keys import KeyReader, bucket_offsets, is_in, most_together
from ckptctl.restore.plans import TablePlan
from ckptctl.running import Report, ignore
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["OFFSETS", "Kept", "PartJob", "Survey", "survey_part"]

#: Suffixes of the tensors that bound the buckets of a full.
OFFSETS = ("-partition_offset", "-partition_filter_offset")
#: They are int32.
MAX_ROWS = (1 << 31) - 1
_NONE = np.empty(0, np.int64)


class PartJob(NamedTuple):
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

    def all_incoming(self) -> list[IncomingKeys]:
        """Return the keys that the increments bring to each member, shared where they are equal."""
        parts = self.table.num_parts
        first = self.generations(0)
        found = [read_incoming(first, self.part, parts)]
        for member in range(1, len(self.table.members)):
            own = self.generations(member)
            found.append(read_incoming(own, self.part, parts, (first, found[0])))
        return found

    def ev(self, member: int) -> EvSet:
        """Return the tensors of a member of this part in the full."""
        return self.table.members[member].parts[self.part]

    def alike(self, member: int, other: int) -> bool:
        """Return whether two members hold the same keys in the same buckets, by all that is cheap.

        That increments bring them the same keys is sure then, and the full's are to be compared.
        """
        one, two = self.ev(member), self.ev(other)
        if _index_says(one) != _index_says(two):
            return False
        return same_bytes(self.full, one, two, "-partition_offset") and same_keys(
            self.generations(other), self.generations(member)
        )

    def leads(self) -> list[int]:
        """Return for each member the first with the same keys, as far as the indexes tell.

        Each of them holds what it found out of the incoming keys; the others share it.
        """
        first: dict[object, int] = {}
        leads = []
        for member in range(len(self.table.members)):
            brought = [
                (number, _index_says(ev), *place)
                for number, ev, *place in self.table.members[member].incoming
            ]
            leads.append(first.setdefault((_index_says(self.ev(member)), *brought), member))
        return leads

    def offsets(self, member: int) -> np.ndarray | None:
        """Read where the buckets of a member of the full begin; None for the old form."""
        return bucket_offsets(self.full, self.ev(member))

    def most_together(self) -> int:
        """Return the most incoming keys, of all members, that a survey looks at together.

        Where there are many, their offsets are read.
        """
        leads = sorted(set(self.leads()))
        total = sum(ev.rows for lead in leads for _, ev, *_ in self.table.members[lead].incoming)
        if total <= most_together():
            return total
        counts = np.array(
            [count_buckets(self.generations(x), self.part, self.table.num_parts) for x in leads]
        )
        offsets = [self.offsets(lead) for lead in leads]
        if not all(
            own is not None and own[-1] == self.ev(lead).rows
            for lead, own in zip(leads, offsets, strict=True)
        ):
            return int(counts.sum())
        return max(int(counts[:, first:last].sum()) for first, last in groups(counts.max(axis=0)))


def _index_says(ev: EvSet) -> tuple[object, ...]:
    """Return what the index tells of the keys of a set, and of their buckets."""
    suffixes = ("-incr_partition_offset",) if ev.incremental else ("-partition_offset",)
    entries = [ev.keys, *(ev.entries[suffix] for suffix in suffixes if suffix in ev.entries)]
    return tuple((entry.dtype, entry.shape, entry.crc) for entry in entries)


class Kept(NamedTuple):
    """What was found out of one member of a part.

    Attributes
    ----------
    arrivals
        What increments do to its rows.
    unfiltered
        Ascending rows of filtered keys that are admitted now.
    dropped
        int64, ascending: new keys without a row in every member, to be left out.
    """

    arrivals: Arrivals
    unfiltered: np.ndarray = _NONE
    dropped: np.ndarray = _NONE


class Survey(NamedTuple):
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
    new_keys
        Keys that are new in at least one member.
    unpaired
        Rows that the full's members have, where their key sets differ already (DeepRec
        #1023); None where they are equal.
    kept
        What happens to the rows of each member.
    """

    rows: tuple[int, ...]
    filtered: tuple[int, ...]
    new: tuple[int, ...]
    replaced: tuple[int, ...]
    skipped: int
    misplaced: int
    new_keys: int
    unpaired: tuple[int, ...] | None
    kept: tuple[Kept, ...] = ()

    @property
    def dropped(self) -> np.ndarray:
        """New keys that are left out, of all members."""
        return self.kept[0].dropped if self.kept else _NONE

    def of_full(self, full: BundleData, sets: Sequence[EvSet]) -> Survey | None:
        """Return what a look at the full's keys alone tells; None where some are misplaced.

        `sets` are the members of the part.
        """
        if self.misplaced:
            return None
        kept = [Kept(Arrivals.none(ev.rows, bucket_offsets(full, ev))) for ev in sets]
        return Survey(
            rows=tuple(ev.rows for ev in sets),
            filtered=tuple(ev.filtered for ev in sets),
            new=(0,) * len(sets),
            replaced=(0,) * len(sets),
            skipped=0,
            misplaced=0,
            new_keys=0,
            unpaired=self.unpaired,
            kept=tuple(kept),
        )


def survey_part(job: PartJob, report: Report = ignore, *, validate: bool = True) -> Survey:
    """Look at the keys of one part: how many rows will there be, and do they fit together.

    `report` is told of the bytes of the full as they are read, and may raise to stop. Without
    `validate` it does not look for keys that no PS can save or that stand twice. What is
    found takes 8 to 10 bytes for each incoming key, and the search some buckets at a time.

    Raises
    ------
    TableError
        Rows that no PS could have saved, or a part of 2^31 rows or more.
    TensorChecksumError
        The keys of the full do not match their checksum.
    """
    told = 0

    def first(size: int) -> None:
        nonlocal told
        told += size
        report(size)

    def rest(size: int) -> None:
        """Tell of bytes that were not read before: a part is not more than all of it."""
        nonlocal told
        again = min(told, size)
        told -= again
        report(size - again)

    try:
        return _Look(job, first, validate, together=True).survey()
    except _Differ:
        pass  # and what was held for it goes before there is more
    return _Look(job, rest, validate, together=False).survey()


class _Differ(Exception):
    """The keys of members differ that seemed to be the same: each is looked at for itself."""


class _Look:
    """A look at one part, bucket after bucket.

    Members with the same keys are led by the first of them: they are read along and compared.
    """

    def __init__(self, job: PartJob, report: Report, validate: bool, *, together: bool) -> None:
        self._job = job
        self._report = report
        members = range(len(job.table.members))
        self._leads = list(members)
        for member in members if together else ():
            leads = (lead for lead in range(member) if self._leads[lead] == lead)
            self._leads[member] = next((x for x in leads if job.alike(x, member)), member)
        parts = job.table.num_parts
        own = [member for member in members if self._leads[member] == member]
        self._readers = {
            lead: IncomingReader(job.generations(lead), job.part, parts) for lead in own
        }
        self._columns = {
            lead: FullKeys(
                job.full,
                job.ev(lead),
                job.part,
                parts,
                validate=validate,
                digest=len(own) > 1,
                report=report,
            )
            for lead in own
        }
        self._twins = {
            lead: [
                Twin(job.full, job.ev(member))
                for member in members
                if member != lead and self._leads[member] == lead
            ]
            for lead in own
        }
        self._builders = {
            lead: ArrivalsBuilder(self._columns[lead], self._readers[lead]) for lead in own
        }
        self._dropped = [_NONE]
        self._new_keys = 0
        #: What is admitted leaves the filtered rows.
        self._filtered = any(job.ev(member).filtered for member in members)
        self._admitted = [_NONE]

    def survey(self) -> Survey:
        for first, last in self._groups():
            self._look_at(first, last)
        for lead, column in self._columns.items():
            column.finish()
            for twin in self._twins[lead]:
                twin.finish()
        built = {lead: builder.build() for lead, builder in self._builders.items()}
        arrivals = [built[lead] for lead in self._leads]
        evs = [self._job.ev(member) for member in range(len(arrivals))]
        for ev, own in zip(evs, arrivals, strict=True):
            _check_rows(ev, own)
        admitted = np.sort(np.concatenate(self._admitted))
        dropped = np.sort(np.concatenate(self._dropped))
        kept = [
            Kept(own, self._unfiltered(ev, admitted), dropped)
            for ev, own in zip(evs, arrivals, strict=True)
        ]
        digests = {(column.rows, column.digest) for column in self._columns.values()}
        readers = [self._readers[lead] for lead in self._leads]
        return Survey(
            rows=tuple(own.rowmap.rows for own in arrivals),
            filtered=tuple(
                ev.filtered - len(each.unfiltered) for ev, each in zip(evs, kept, strict=True)
            ),
            new=tuple(own.new for own in arrivals),
            replaced=tuple(own.replaced for own in arrivals),
            skipped=sum(reader.skipped for reader in readers),
            misplaced=sum(self._builders[lead].misplaced for lead in self._leads),
            new_keys=self._new_keys,
            unpaired=tuple(ev.rows for ev in evs) if len(digests) > 1 else None,
            kept=tuple(kept),
        )

    def _groups(self) -> Iterator[tuple[int, int]]:
        if all(column.apart for column in self._columns.values()):
            counts = [reader.counts for reader in self._readers.values()]
            return groups(np.max(counts, axis=0))
        return iter([(0, BUCKETS)])

    def _look_at(self, first: int, last: int) -> None:
        incoming = {lead: reader.read(first, last) for lead, reader in self._readers.items()}
        joined = {}
        for lead, column in self._columns.items():
            twins = self._twins[lead]
            joined[lead] = column.join(incoming[lead], first, last, twins)
            if not all(twin.same for twin in twins):
                raise _Differ
        fresh = [_without(keys.keys, joined[lead][0]) for lead, keys in incoming.items()]
        dropped, new_keys = self._unpaired(list(incoming.values()), fresh)
        self._dropped.append(dropped)
        self._new_keys += new_keys
        for lead, builder in self._builders.items():
            builder.add(first, last, incoming[lead], *joined[lead], dropped)
        if self._filtered:
            self._admitted.append(_union([keys.keys for keys in incoming.values()], dropped))

    def _unpaired(
        self, incoming: Sequence[IncomingKeys], fresh: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, int]:
        """Return the new keys that would lack a row in some member, and how many keys are new."""
        first = incoming[0].keys
        if all(np.array_equal(first, keys.keys) for keys in incoming[1:]):
            same = all(np.array_equal(fresh[0], keys) for keys in fresh[1:])
            return _NONE, len(fresh[0]) if same else len(np.unique(np.concatenate(fresh)))
        from ckptctl.restore.asked import find_rows

        job = self._job
        new = np.unique(np.concatenate(fresh))
        lacking = np.zeros(len(new), bool)
        for lead, keys in zip(self._columns, incoming, strict=True):
            absent = ~np.isin(new, keys.keys)
            if absent.any():
                ev, parts = job.ev(lead), job.table.num_parts
                absent[absent] = find_rows(job.full, ev, job.part, parts, new[absent]) < 0
            lacking |= absent
        return new[lacking], len(new)

    def _unfiltered(self, ev: EvSet, admitted: np.ndarray) -> np.ndarray:
        """Return the ascending rows of the filtered keys that are admitted now."""
        entry = ev.entries.get("-keys_filtered")
        if entry is None or not entry.rows or not len(admitted):
            return _NONE
        reader = KeyReader(self._job.full, ev.name + "-keys_filtered", entry)
        found = [_NONE]
        for at in range(0, entry.rows, knobs.JOIN_KEYS):
            keys = reader.read(min(knobs.JOIN_KEYS, entry.rows - at))
            self._report(0)  # a sign of life: these bytes were not announced
            found.append(np.flatnonzero(is_in(keys, admitted)) + at)
        reader.finish()
        return np.concatenate(found)


def _without(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the keys at all other places."""
    others = np.ones(len(keys), bool)
    others[places] = False
    return keys[others]


def _check_rows(ev: EvSet, arrivals: Arrivals) -> None:
    if arrivals.rowmap.rows > MAX_ROWS:
        raise TableError(
            "a part with 2^31 rows or more",
            tensor=ev.name,
            expected=f"<= {MAX_ROWS} rows",
            found=arrivals.rowmap.rows,
            remedy="save the table in more parts",
        )


def _union(keys: Sequence[np.ndarray], dropped: np.ndarray) -> np.ndarray:
    """Return the keys that stand in any of the arrays, each once, and are not dropped."""
    first = keys[0]
    if all(np.array_equal(first, other) for other in keys[1:]):
        together = first
    else:
        together = np.unique(np.concatenate(keys))
    return together[~is_in(together, dropped)] if len(dropped) else together
