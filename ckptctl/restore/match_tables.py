"""Which EV of an increment belongs to which table of the full."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ckptctl.bundle import BundleReader, Entry, dtype_by_name
from ckptctl.bundle.checksum import EMPTY_MASKED
from ckptctl.errors import AmbiguousError, TableError, UnprovenError
from ckptctl.restore.opening import bucket_rows, check_fits
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.plans import IncomingSet, Increment, MemberPlan, TablePlan
from ckptctl.tables import BUCKETS, Catalogue, EvSet, Table, TableMember, part_components
from ckptctl.tables.sets import FULL_SUFFIXES

__all__ = ["TableMatcher"]

#: Rows outside their part that are skipped as a PS does, however few rows there are.
_FEW = 2


class TableMatcher:
    """Joins the EVs of increments with the tables of a full.

    Attributes
    ----------
    notes
        Members that keep the rows they had.
    incoming, foreign
        The increments' EVs by member of the full, and those of no member by their own.
    """

    def __init__(
        self, full: BundleReader, catalogue: Catalogue, increments: Sequence[Increment]
    ) -> None:
        self.notes: list[str] = []
        self._full = full
        self._increments = increments
        self._members = {m.name: m for table in catalogue.tables for m in table.members}
        self._member_of = {ev.name: m.name for m in self._members.values() for ev in m.sets}
        # The only EV of a member may be called like a part of another name: `part_0/emb`.
        self._alone = {
            m.sets[0].name: m.name for m in self._members.values() if len(m.parts) == 1 and m.sets
        }
        self._table_name = {m.name: table.name for table in catalogue.tables for m in table.members}
        #: Member that the full lacks -> (name of its table, slot).
        self._table_of: dict[str, tuple[str, str]] = {}
        for ev in catalogue.ev_sets.values():
            check_fits(full, ev)
        self.incoming, self.foreign = self._incoming_sets()

    def plan(self, table: Table, options: RestoreOptions) -> TablePlan:
        """Return a table of the full with what increments bring to it.

        Raises
        ------
        UnprovenError
            An increment has a part of some members alone.
        """
        plans = tuple(self._member(m, self.incoming.get(m.name, [])) for m in table.members)
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
        self._check_parts(table.name, plans, options)
        return TablePlan(table.name, plans)

    def _check_parts(
        self, table: str, plans: Sequence[MemberPlan], options: RestoreOptions
    ) -> None:
        """Note parts that increments lack, and refuse those that they have of some members alone.

        A recorder is made with the first gradient of its part, so a part may well have no set;
        that it had rows before, check 1 finds. But one gradient makes the recorders of all
        members: rows of some without the others are half of what was to be saved.
        """
        found: dict[int, dict[str, dict[int, IncomingSet]]] = defaultdict(dict)
        for plan in plans:
            for item in plan.incoming:
                found[item[0]].setdefault(plan.name, {})[item[2]] = item
        holes: dict[str, list[int]] = {}
        for number, members in found.items():
            known = {part: item for sets in members.values() for part, item in sets.items()}
            lacking = set(range(max(item[3] for item in known.values()))) - known.keys()
            if lacking:
                holes.setdefault(", ".join(map(str, sorted(lacking))), []).append(number)
            for name, sets in members.items():
                for part in sorted(known.keys() - sets.keys()):
                    self._check_half(name, part, number, members.values(), options)
        for parts, numbers in holes.items():
            where = self._increments[numbers[-1]][0].prefix
            more = f" and {len(numbers) - 1} before it" if len(numbers) > 1 else ""
            self.notes.append(f"{table}: no part {parts} in {where}{more}, it keeps its rows")

    def _check_half(
        self,
        name: str,
        part: int,
        number: int,
        members: Iterable[Mapping[int, IncomingSet]],
        options: RestoreOptions,
    ) -> None:
        """Refuse that one member lacks a part of which another brings rows."""
        reader = self._increments[number][0]
        beside = next((s[part][1] for s in members if part in s and s[part][1].rows), None)
        if beside is None:
            return
        if not options.keep_missing:
            raise UnprovenError(
                f"part {part} of one member is missing",
                file=reader.index_path,
                tensor=name,
                expected=f"rows beside the {beside.rows} of {beside.name}",
                found="no set of that part: only half of it was saved",
                remedy="use another step, or --keep-missing to keep the full's rows there",
            )
        self.notes.append(f"{name}: no part {part} in {reader.prefix}, it keeps its rows")

    def added(self, plans: Sequence[TablePlan]) -> list[TablePlan]:
        """Return the plans with the tables that the full lacks, as if it had them without rows.

        Raises
        ------
        UnprovenError
            A slot that the full lacks, where its table has rows: they would have none in it
            (DeepRec #1023).
        """
        ours = {plan.name: plan for plan in plans}
        new: dict[str, list[tuple[str, str, list[IncomingSet]]]] = defaultdict(list)
        for name in sorted(self.foreign, key=lambda item: self._table_of[item]):
            table, slot = self._table_of[name]
            sets = self.foreign[name]
            self._check_like(sets[-1][1], sets, "the newest increment's")
            new[table].append((name, slot, sets))
        for table, members in new.items():
            own = ours.get(table)
            if own is not None:
                self._check_no_rows(own, members)
                ours[table] = TablePlan(table, (*own.members, *_new_slots(own, members)))
            else:
                ours[table] = TablePlan(table, _new_members(members), added=True)
        return list(ours.values())

    def _check_no_rows(
        self, table: TablePlan, members: Sequence[tuple[str, str, list[IncomingSet]]]
    ) -> None:
        rows = sum(ev.rows for ev in table.members[0].parts)
        if rows:
            name, _, sets = members[0]
            raise UnprovenError(
                "a slot that the full lacks cannot be added to a table with rows",
                file=self._increments[sets[-1][0]][0].index_path,
                tensor=name,
                expected=f"the slots of {table.name} in {self._full.prefix}",
                found=f"{rows} keys of {table.name} would have no row in it: a PS then restores "
                "garbage there (DeepRec #1023)",
                remedy="use a full that was saved with this optimizer",
            )

    def _incoming_sets(
        self,
    ) -> tuple[dict[str, list[IncomingSet]], dict[str, list[IncomingSet]]]:
        """Return the increments' EVs by member of the full, and those of no member."""
        found: dict[str, list[IncomingSet]] = defaultdict(list)
        foreign: dict[str, list[IncomingSet]] = defaultdict(list)
        for number, (reader, catalogue) in enumerate(self._increments):
            own: dict[str, list[tuple[int, bool, EvSet]]] = defaultdict(list)
            most: dict[str, int] = {}
            for table in catalogue.tables:
                parts = max(len(member.parts) for member in table.members)
                name = table.name
                for member in table.members:
                    for part, ev in enumerate(member.parts):
                        if ev is None:
                            continue
                        check_fits(reader, ev)
                        target, own_part, named = self._target(ev, member, part, reader)
                        whole = target or member.name
                        if target is not None and not member.slot:
                            name = self._table_name[target]
                        elif target is None:
                            self._table_of[whole] = (name, member.slot)
                        own[whole].append((own_part, named, ev))
                        most[whole] = max(parts, most.get(whole, 0))
            for whole, sets in own.items():
                ours = self._members.get(whole)
                likely = [] if ours is None else [len(ours.parts)]
                parts = _count_parts(reader, sets, [*likely, most[whole]])
                home = foreign if ours is None else found
                home[whole] += [(number, ev, part, parts) for part, _, ev in sets]
        return found, foreign

    def _target(
        self, ev: EvSet, member: TableMember, part: int, reader: BundleReader
    ) -> tuple[str | None, int, bool]:
        """Return the full's member that an increment's EV belongs to, and which part of it.

        The last says whether the name has a component for the part.
        """
        if ev.name in self._member_of:
            whole = self._member_of[ev.name]
            number = [own.name for own in self._members[whole].sets].index(ev.name)
            return whole, number, ev.name != whole
        if ev.name in self._members:
            return ev.name, 0, False
        readings = {
            self._alone.get(c.whole, c.whole): c.number
            for c in part_components(ev.name)
            if c.whole in self._members or c.whole in self._alone
        }
        if len(readings) > 1:
            raise AmbiguousError(
                "two tables of the full may be meant",
                file=reader.index_path,
                tensor=ev.name,
                found=" and ".join(sorted(readings)),
            )
        for whole, number in readings.items():
            return whole, number, True
        return None, part, ev.name != member.name

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
        self._check_like(parts[0], incoming, "the full's")
        return MemberPlan(member.name, member.slot, parts, tuple(incoming))

    def _check_like(self, own: EvSet, incoming: Sequence[IncomingSet], whose: str) -> None:
        """Refuse rows of another kind; that parts of one member are alike is known by then."""
        ours = own.kind
        for number, ev, _, _ in incoming:
            for what, theirs in ev.kind.items():
                if theirs != ours[what]:
                    raise TableError(
                        f"{what} differs from {whose}",
                        file=self._increments[number][0].index_path,
                        tensor=ev.name,
                        expected=ours[what],
                        found=theirs,
                        remedy="the increment belongs to another model: use another step",
                    )


def _count_parts(
    reader: BundleReader, sets: Sequence[tuple[int, bool, EvSet]], likely: Sequence[int]
) -> int:
    """Return in how many parts an increment has a member: the reading that skips fewest rows.

    An increment may lack the sets of some parts, the last one's too. Rows of each set lie in
    the buckets of its part; a PS skips those that do not.

    Parameters
    ----------
    sets
        (part number, whether the name says so, EV).
    likely
        Numbers of parts to try first.
    """
    top = max(part for part, _, _ in sets) + 1
    if len(sets) == 1 and not sets[0][1]:
        return 1
    rows = {part: np.zeros(BUCKETS, np.int64) for part, _, _ in sets}
    for part, _, ev in sets:
        rows[part] += bucket_rows(reader, ev)
    total = sum(int(counts.sum()) for counts in rows.values())

    def strays(parts: int) -> int:
        return total - sum(int(n[part::parts].sum()) for part, n in rows.items())

    tried = {parts: strays(parts) for parts in [*likely, top] if parts >= top}
    best = min(tried, key=lambda parts: tried[parts])
    if tried[best]:  # a likely one still comes first among equals
        tried |= {parts: strays(parts) for parts in range(top, BUCKETS + 1)}
        best = min(tried, key=lambda parts: tried[parts])
    if _too_many(tried[best], total):
        part, _, ev = max(
            sets, key=lambda s: int(rows[s[0]].sum() - rows[s[0]][s[0] :: best].sum())
        )
        raise TableError(
            "rows outside their part: no number of parts fits",
            file=reader.index_path,
            tensor=ev.name,
            expected=f"rows of part {part} in buckets of that part",
            found=f"{tried[best]} of {total} rows elsewhere, even as one of {best} parts",
            remedy="use another step",
        )
    return best


def _too_many(strays: int, rows: int) -> bool:
    """Return whether these are more than single rows that a PS would skip."""
    return strays > max(_FEW, rows // 100)


def _new_members(
    members: Sequence[tuple[str, str, list[IncomingSet]]],
) -> tuple[MemberPlan, ...]:
    """Return the members of a table that the full lacks, all in as many parts."""
    last = max(item[0] for _, _, sets in members for item in sets)
    parts = max(
        item[3] for _, _, sets in members for item in sets if item[0] == last or len(members) == 1
    )
    return tuple(
        MemberPlan(
            name,
            slot,
            tuple(
                _empty_set(_part_name(name, slot, part, parts, members), sets[-1][1])
                for part in range(parts)
            ),
            tuple(sets),
        )
        for name, slot, sets in members
    )


def _new_slots(
    table: TablePlan, members: Sequence[tuple[str, str, list[IncomingSet]]]
) -> Iterator[MemberPlan]:
    """Return slots that a table of the full without rows gains, in its parts."""
    for name, slot, sets in members:
        parts = tuple(_empty_set(f"{ev.name}/{slot}", sets[-1][1]) for ev in table.members[0].parts)
        yield MemberPlan(name, slot, parts, tuple(sets))


def _part_name(
    name: str,
    slot: str,
    part: int,
    parts: int,
    members: Sequence[tuple[str, str, list[IncomingSet]]],
) -> str:
    """Return the name of one part of a member, as this or another part of the table has it."""
    for _, other, sets in members:
        for _, ev, number, _ in reversed(sets):
            for c in part_components(ev.name):
                if c.number == number and _without(c.whole, other) == _without(name, slot):
                    after = _without(c[2], other) if other else c[2]
                    return "/".join(filter(None, (c[0], f"part_{part}", after, slot)))
    return name if parts == 1 else f"{_without(name, slot)}/part_{part}" + (slot and f"/{slot}")


def _without(name: str, slot: str) -> str:
    return name[: -len(slot)].rstrip("/") if slot and name.endswith(slot) else name


def _empty_set(own: str, like: EvSet) -> EvSet:
    """Return an EV that the full lacks, with no rows."""
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
