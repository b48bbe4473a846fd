"""The state at a step: every tensor of it, and how each is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import NamedTuple

from ckptctl.bundle import BundleData, BundleReader, Entry, TensorSlice
from ckptctl.bundle.names import key_of
from ckptctl.bundle.slices import encode_slice_key
from ckptctl.restore.columns import present_columns
from ckptctl.restore.match import match
from ckptctl.restore.match_rows import data_entry
from ckptctl.restore.opening import open_bundle
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.part import PartJob
from ckptctl.restore.plans import (
    OWN_NAMES,
    IncomingSet,
    MemberPlan,
    PlainPlan,
    RowsPlan,
    TablePlan,
)
from ckptctl.restore.rows import RowsJob
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import Catalogue, join_slots

__all__ = ["CopyJob", "MemberTensor", "State", "StateTensor", "open_state"]


# Tuples, since there may be 100,000 of each.
class CopyJob(NamedTuple):
    """A tensor, or a slice's data, that is taken as it is, picklable."""

    data: BundleData
    name: str
    entry: Entry


class MemberTensor(NamedTuple):
    """One tensor of a member of a part: (table, part, member, suffix)."""

    table: int
    part: int
    member: int
    suffix: str


class StateTensor(NamedTuple):
    """One thing of a state that owns bytes.

    Attributes
    ----------
    key
        Its key in an index.
    name
        Name of the tensor.
    entry
        The entry that it is made from; shape, size, place and checksum are not yet those
        of the result.
    shard
        Data shard of the result.
    made
        How: copied, patched, or a table's.
    """

    key: bytes
    name: str
    entry: Entry
    shard: int
    made: CopyJob | RowsJob | MemberTensor


@dataclass
class State:
    """A model at a step: a full with increments applied, nothing read but indexes.

    Attributes
    ----------
    full
        The full.
    increments
        The increments that are applied, oldest first; none when the state is a full.
    tables, rows, plain
        Where the tensors come from.
    notes
        What a user should know of.
    """

    full: BundleReader
    increments: tuple[BundleReader, ...]
    catalogue: Catalogue
    tables: tuple[TablePlan, ...]
    rows: tuple[RowsPlan, ...]
    plain: tuple[PlainPlan, ...]
    notes: list[str]
    present: dict[str, frozenset[str]] = field(default_factory=dict)

    def close(self) -> None:
        """Close all files."""
        for reader in (self.full, *self.increments):
            reader.close()

    def data(self, source: int) -> BundleReader:
        """Return the full (-1) or an increment, by the `source` of a plan."""
        return self.full if source < 0 else self.increments[source]

    def part_job(self, table: int, part: int) -> PartJob:
        """Return what is needed to work on one part of a table."""
        plan = self.tables[table]
        if plan.name not in self.present:
            self.present[plan.name] = present_columns(plan, self.increments, self.full.index_path)
        parts = plan.num_parts
        members = tuple(
            MemberPlan(
                member.name,
                member.slot,
                member.parts,
                tuple(_may_meet(self._by_part[member.name], part, parts)),
            )
            for member in plan.members
        )
        return PartJob(
            self.full,
            self.increments,
            TablePlan(plan.name, members, plan.added),
            part,
            self.present[plan.name],
        )

    @cached_property
    def _by_part(self) -> dict[str, dict[int, dict[int, list[IncomingSet]]]]:
        """Member to number of parts to part to incoming sets."""
        found: dict[str, dict[int, dict[int, list[IncomingSet]]]] = {}
        for table in self.tables:
            for member in table.members:
                own = found.setdefault(member.name, {})
                for item in member.incoming:
                    own.setdefault(item[3], {}).setdefault(item[2], []).append(item)
        return found

    def tensors(self) -> list[StateTensor]:
        """Return everything that owns bytes, in the full's shards and order.

        What only an increment has comes last, one after the other over the shards.
        """
        old: list[StateTensor] = []
        new: list[StateTensor] = []
        for tensor, added in self._all_tensors():
            (new if added else old).append(tensor)
        shards = self.full.header.num_shards
        old.sort(key=lambda t: (t.shard, *self._place(t)))
        for at, tensor in enumerate(sorted(new, key=lambda t: t.key)):
            old.append(StateTensor(tensor.key, tensor.name, tensor.entry, at % shards, tensor.made))
        return old

    def _place(self, tensor: StateTensor) -> tuple[int, int, bytes]:
        """Return where the full holds what a result tensor stands for."""
        entry = self._full_places[tensor.key]
        return (entry.offset, entry.size, tensor.key)

    @cached_property
    def _full_places(self) -> dict[bytes, Entry]:
        return {key: entry for key, _, entry in self.full.data_entries()}

    def _all_tensors(self) -> Iterator[tuple[StateTensor, bool]]:
        for number, table in enumerate(self.tables):
            for part in range(table.num_parts):
                for at, member in enumerate(table.members):
                    ev = member.parts[part]
                    for suffix, entry in ev.entries.items():
                        made = MemberTensor(number, part, at, suffix)
                        name = ev.name + suffix
                        key = key_of(name)
                        # A table of the full may gain a slot while it has no rows.
                        added = key not in self._full_places
                        yield StateTensor(key, name, entry, entry.shard, made), added
        yield from self.loose(self.plain)

    def loose(self, plain: Iterable[PlainPlan]) -> Iterator[tuple[StateTensor, bool]]:
        """Return what is no part of a table, of `plain` only these; and whether it is new."""
        for plan in self.rows:
            job = RowsJob(self.data(plan.source), self.increments, plan)
            key, shard = self._where(plan.name, plan.slice)
            yield StateTensor(key, plan.name, plan.entry, shard, job), False
        for each in plain:
            yield from self._plain_tensors(each)
        for key, name, _, entry in self.full.slice_keys():
            if self.full.entry(name).is_hash_table:
                made_copy = CopyJob(self.full, name, entry)
                yield StateTensor(key, name, entry, entry.shard, made_copy), False

    def _plain_tensors(self, plain: PlainPlan) -> Iterator[tuple[StateTensor, bool]]:
        reader = self.data(plain.source)
        entry = (reader if plain.added else self.full).entry(plain.name)
        if entry.is_hash_table:
            return
        for slice_ in entry.slices or (None,):
            key, shard = self._where(plain.name, slice_)
            data = data_entry(reader, plain.name, slice_)
            made = CopyJob(reader, plain.name, data)
            yield StateTensor(key, plain.name, data, shard, made), plain.added

    def _where(self, name: str, slice_: TensorSlice | None) -> tuple[bytes, int]:
        key = key_of(name) if slice_ is None else encode_slice_key(key_of(name), slice_)
        place = self._full_places.get(key)
        return key, place.shard if place is not None else 0

    def whole_entries(self) -> dict[bytes, Entry]:
        """Return the entries that own no bytes: of sliced tensors and hash tables."""
        found = {
            key_of(name): entry
            for name, entry in self.full.tensors.items()
            if not entry.has_data and not name.startswith(OWN_NAMES)
        }
        for plain in self.plain:
            if plain.added:
                entry = self.data(plain.source).entry(plain.name)
                if not entry.has_data:
                    found[key_of(plain.name)] = entry
        return found


def open_state(
    full: str,
    increments: Sequence[str] = (),
    options: RestoreOptions | None = None,
    storage: Storage = LOCAL,
) -> State:
    """Return the state of a full with increments applied; reads indexes and offsets only.

    Parameters
    ----------
    full
        Prefix of the full.
    increments
        Prefixes of the increments to apply, oldest first. Of tensors that are taken whole
        the last one's count; of rows each key's newest.
    options
        Overrides of check 5.

    Raises
    ------
    DamageError
        An index or a shard contradicts itself.
    UnprovenError, TableError, AmbiguousError
        Check 5 of `restore.md` does not hold.
    """
    options = options or RestoreOptions()
    base, tables = open_bundle(full, False, storage)
    changes = [open_bundle(prefix, True, storage) for prefix in increments]
    tables = join_slots(tables, (catalogue for _, catalogue in changes))
    matched = match(base, tables, changes, options)
    return State(
        base,
        tuple(reader for reader, _ in changes),
        tables,
        tuple(matched.tables),
        tuple(matched.rows),
        tuple(matched.plain),
        matched.notes,
    )


def _may_meet(
    by_part: dict[int, dict[int, list[IncomingSet]]], part: int, parts: int
) -> Iterator[IncomingSet]:
    """Return the incoming sets that may share a bucket with `part` of `parts`."""
    for others, sets in by_part.items():
        step = gcd(parts, others)
        for other in range(part % step, others, step):
            yield from sets.get(other, ())
