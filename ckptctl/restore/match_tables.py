"""Which EV of an increment belongs to which table of the full."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from ckptctl.bundle import BundleReader, Entry, dtype_by_name
from ckptctl.bundle.checksum import EMPTY_MASKED
from ckptctl.errors import AmbiguousError, TableError
from ckptctl.restore.plans import IncomingSet, Increment, MemberPlan, TablePlan
from ckptctl.tables import BUCKETS, Catalogue, EvSet, Table, TableMember, part_components
from ckptctl.tables.sets import FULL_SUFFIXES

__all__ = ["TableMatcher"]


class TableMatcher:
    """Joins the EVs of increments with the tables of a full.

    Attributes
    ----------
    notes
        Members that keep the rows they had.
    foreign
        The increments' EVs that belong to no table of the full, by member.
    """

    def __init__(
        self, full: BundleReader, catalogue: Catalogue, increments: Sequence[Increment]
    ) -> None:
        self.notes: list[str] = []
        self._full = full
        self._increments = increments
        self._members = {m.name: m for table in catalogue.tables for m in table.members}
        self._member_of = {ev.name: m.name for m in self._members.values() for ev in m.sets}
        for ev in catalogue.ev_sets.values():
            _check_problem(full, ev)
        self._incoming, self.foreign = self._incoming_sets()

    def plan(self, table: Table) -> TablePlan:
        """Return a table of the full with what increments bring to it."""
        plans = tuple(self._member(m, self._incoming.get(m.name, [])) for m in table.members)
        if len({len(plan.parts) for plan in plans}) > 1:
            raise TableError(
                "members of a table with different numbers of parts",
                file=self._full.index_path,
                tensor=table.name,
                found=", ".join(f"{plan.name}: {len(plan.parts)}" for plan in plans),
            )
        last = len(self._increments) - 1
        self.notes += [
            f"{plan.name}: no rows in {self._increments[last][0].prefix}, it keeps those it had"
            for plan in plans
            if last >= 0 and not any(item[0] == last for item in plan.incoming)
        ]
        return TablePlan(table.name, plans)

    def added(self) -> list[TablePlan]:
        """Return the tables that the full lacks, as if it had them without rows."""
        by_table = {
            member.name: (table.name, member.slot)
            for _, other in self._increments
            for table in other.tables
            for member in table.members
        }
        tables: dict[str, list[MemberPlan]] = defaultdict(list)
        for name in sorted(self.foreign, key=lambda item: by_table[item]):
            table, slot = by_table[name]
            sets = self.foreign[name]
            parts = tuple(_empty_set(name, sets, part) for part in range(sets[-1][3]))
            tables[table].append(MemberPlan(name, slot, parts, tuple(sets)))
        return [TablePlan(name, tuple(plans), added=True) for name, plans in tables.items()]

    def _incoming_sets(
        self,
    ) -> tuple[dict[str, list[IncomingSet]], dict[str, list[IncomingSet]]]:
        """Return the increments' EVs by member of the full, and those of no member."""
        found: dict[str, list[IncomingSet]] = defaultdict(list)
        foreign: dict[str, list[IncomingSet]] = defaultdict(list)
        for number, (reader, catalogue) in enumerate(self._increments):
            for table in catalogue.tables:
                for member in table.members:
                    for part, ev in enumerate(member.parts):
                        if ev is None:
                            continue
                        _check_problem(reader, ev)
                        target, own_part, own_parts = self._target(ev, member, part, reader)
                        item = (number, ev, own_part, own_parts)
                        (foreign if target is None else found)[target or member.name].append(item)
        return found, foreign

    def _target(
        self, ev: EvSet, member: TableMember, part: int, reader: BundleReader
    ) -> tuple[str | None, int, int]:
        """Return the full's member that an increment's EV belongs to, its part and parts."""
        whole = self._member_of.get(ev.name)
        readings = [c for c in part_components(ev.name) if c.whole in self._members]
        if whole is None and ev.name in self._members:
            whole = ev.name
        if whole is None:
            wholes = {component.whole for component in readings}
            if len(wholes) > 1:
                raise AmbiguousError(
                    "two tables of the full may be meant",
                    file=reader.index_path,
                    tensor=ev.name,
                    found=" and ".join(sorted(wholes)),
                )
            whole = wholes.pop() if wholes else None
        if whole is None or whole == member.name:
            return whole, part, len(member.parts)
        # The increment alone reads the name another way: believe the full.
        component = next((c for c in readings if c.whole == whole), None)
        if component is None:
            return whole, 0, 1
        siblings = {
            c.number
            for name in self._ev_names(reader)
            for c in part_components(name)
            if (c[0], c[2]) == (component[0], component[2])
        }
        return whole, component.number, max(siblings) + 1

    def _ev_names(self, reader: BundleReader) -> Iterator[str]:
        for other, catalogue in self._increments:
            if other is reader:
                yield from catalogue.ev_sets

    def _member(self, member: TableMember, incoming: Sequence[IncomingSet]) -> MemberPlan:
        parts = member.sets
        if len(parts) != len(member.parts):
            raise TableError(
                "a part of the table is missing",
                file=self._full.index_path,
                tensor=member.name,
                expected=f"{len(member.parts)} parts",
                found=f"{len(parts)}",
            )
        for number, ev, _, _ in incoming:
            reader = self._increments[number][0]
            own = parts[0]
            for what, theirs, ours in (
                ("key type", ev.keys.dtype.name, own.keys.dtype.name),
                ("dtype", ev.values.dtype.name, own.values.dtype.name),
                ("dim", ev.dim, own.dim),
            ):
                if theirs != ours:
                    raise TableError(
                        f"{what} differs from the full's",
                        file=reader.index_path,
                        tensor=ev.name,
                        expected=ours,
                        found=theirs,
                        remedy="the increment belongs to another model: use another step",
                    )
        return MemberPlan(member.name, member.slot, parts, tuple(incoming))


def _check_problem(reader: BundleReader, ev: EvSet) -> None:
    if ev.problem:
        raise TableError(
            f"columns of a table do not fit: {ev.problem}",
            file=reader.index_path,
            tensor=ev.name,
            offset=ev.keys.offset,
            remedy="use another step",
        )


def _empty_set(name: str, sets: Sequence[IncomingSet], part: int) -> EvSet:
    """Return the EV of a table that the full lacks, with no rows."""
    by_part = {item[2]: item[1] for item in sets}
    like = sets[-1][1]
    own = by_part[part].name if part in by_part else f"{name}/part_{part}"
    int32, int64 = dtype_by_name("int32"), dtype_by_name("int64")
    entries = {}
    for suffix in FULL_SUFFIXES:
        dtype, shape = int64, [0]
        if suffix.endswith("offset"):
            dtype, shape = int32, [BUCKETS + 1]
        elif suffix in ("-keys", "-keys_filtered"):
            dtype = like.keys.dtype
        elif suffix == "-values":
            dtype, shape = like.values.dtype, [0, like.dim]
        entries[suffix] = Entry(dtype, tuple(shape), crc=EMPTY_MASKED)
    return EvSet(own, entries, incremental=False)
