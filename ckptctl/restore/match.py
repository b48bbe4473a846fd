"""Which tensor of an increment belongs to which of the full (check 5 of `restore.md`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ckptctl.bundle import BundleReader, Entry, TensorSlice, dtype_by_name
from ckptctl.bundle.checksum import EMPTY_MASKED
from ckptctl.errors import AmbiguousError, TableError, UnprovenError
from ckptctl.restore.options import RestoreOptions
from ckptctl.tables import BUCKETS, Catalogue, EvSet, RowSet, TableMember, part_components
from ckptctl.tables.sets import FULL_SUFFIXES

__all__ = [
    "IncomingSet",
    "Matched",
    "MemberPlan",
    "PlainPlan",
    "RowsPlan",
    "TablePlan",
    "data_entry",
    "match",
    "order_slices",
]

#: Names that ckptctl itself writes: never copied, never asked of an increment.
OWN_NAMES = "ckptctl/"

#: (index of the increment, EV, its part number, its number of parts)
IncomingSet = tuple[int, EvSet, int, int]


@dataclass(frozen=True)
class MemberPlan:
    """One member of a table: the full's parts, and what increments bring to them."""

    name: str
    slot: str
    parts: tuple[EvSet, ...]
    incoming: tuple[IncomingSet, ...]


@dataclass(frozen=True)
class TablePlan:
    """A table of the full with what increments bring; `added` if the full lacks it."""

    name: str
    members: tuple[MemberPlan, ...]
    added: bool = False

    @property
    def num_parts(self) -> int:
        """Number of parts of the full."""
        return len(self.members[0].parts)


@dataclass(frozen=True)
class RowsPlan:
    """A normal variable, or a slice of it, of which increments replace rows.

    `source` is -1 when the other rows are the full's, else the increment that holds the
    variable whole.
    """

    name: str
    slice: TensorSlice | None
    source: int
    entry: Entry
    incoming: tuple[tuple[int, RowSet], ...]


@dataclass(frozen=True)
class PlainPlan:
    """A tensor that is taken whole: from the full (-1) or from an increment."""

    name: str
    source: int
    added: bool = False


@dataclass
class Matched:
    """What a state is made of, tensor family by tensor family, and what was noticed."""

    tables: list[TablePlan] = field(default_factory=list)
    rows: list[RowsPlan] = field(default_factory=list)
    plain: list[PlainPlan] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def match(
    full: BundleReader,
    full_tables: Catalogue,
    increments: Sequence[tuple[BundleReader, Catalogue]],
    options: RestoreOptions,
) -> Matched:
    """Say where each tensor of the state comes from.

    Raises
    ------
    UnprovenError
        Tensors, tables or parts of the increment do not match the full's.
    TableError
        A table that no PS could have saved: columns that do not fit each other, another
        key type, dtype or dim than the full's.
    AmbiguousError
        Two readings of a name fit.
    """
    return _Matcher(full, full_tables, increments, options).run()


def order_slices(reader: BundleReader, name: str, entry: Entry) -> list[TensorSlice]:
    """Return the slices of a tensor in order along the one axis that is cut.

    Rows of a part are counted in the slice's own coordinates, whichever axis that is.

    Raises
    ------
    UnprovenError
        It is cut along two axes, or its slices overlap or leave gaps.
    """
    boxes = [slice_.resolve(entry.shape) for slice_ in entry.slices]
    axes = [
        axis
        for axis, size in enumerate(entry.shape)
        if any(box[axis] != (0, size) for box in boxes)
    ]
    if len(axes) > 1:
        raise UnprovenError(
            "a variable cut along two axes takes no sparse rows",
            file=reader.index_path,
            tensor=name,
            expected="slices along one axis",
            found=f"slices along axes {axes}",
        )
    axis = axes[0] if axes else 0
    order = sorted(range(len(boxes)), key=lambda at: (boxes[at][axis], at))
    end = 0
    for at in order:
        start, length = boxes[at][axis]
        if start != end:
            raise UnprovenError(
                "slices of a variable overlap or leave gaps",
                file=reader.index_path,
                tensor=name,
                expected=f"a slice from {end}",
                found=f"one from {start}",
            )
        end = start + length
    return [entry.slices[at] for at in order]


def data_entry(reader: BundleReader, name: str, slice_: TensorSlice | None) -> Entry:
    """Return the entry that owns the bytes of a tensor, or of the slice with the same box."""
    entry = reader.entry(name)
    if slice_ is None:
        return entry
    box = slice_.resolve(entry.shape)
    own = next((s for s in entry.slices if s.resolve(entry.shape) == box), slice_)
    return reader.slice_entry(name, own)


class _Matcher:
    def __init__(
        self,
        full: BundleReader,
        full_tables: Catalogue,
        increments: Sequence[tuple[BundleReader, Catalogue]],
        options: RestoreOptions,
    ) -> None:
        self.full = full
        self.catalogue = full_tables
        self.increments = increments
        self.options = options
        self.result = Matched()
        self.members: dict[str, TableMember] = {
            member.name: member for table in full_tables.tables for member in table.members
        }
        self.member_of = {ev.name: m.name for m in self.members.values() for ev in m.sets}
        self.used: list[set[str]] = [set() for _ in increments]

    def run(self) -> Matched:
        for ev in self.catalogue.ev_sets.values():
            _check_problem(self.full, ev)
        incoming, foreign = self._incoming_sets()
        for table in self.catalogue.tables:
            plans = [self._member(m, incoming.get(m.name, [])) for m in table.members]
            self._note_missing(table.name, plans)
            self.result.tables.append(TablePlan(table.name, tuple(plans)))
        sparse = self._incoming_rows()
        for name in self.catalogue.plain:
            if not name.startswith(OWN_NAMES):
                self._plain(name, sparse.pop(name, []))
        self._strangers(foreign)
        return self.result

    # Tables ------------------------------------------------------------------------------

    def _incoming_sets(
        self,
    ) -> tuple[dict[str, list[IncomingSet]], dict[str, list[IncomingSet]]]:
        """Return the increments' EVs by member of the full, and those of no member."""
        found: dict[str, list[IncomingSet]] = defaultdict(list)
        foreign: dict[str, list[IncomingSet]] = defaultdict(list)
        for number, (reader, catalogue) in enumerate(self.increments):
            for table in catalogue.tables:
                for member in table.members:
                    for part, ev in enumerate(member.parts):
                        if ev is None:
                            continue
                        _check_problem(reader, ev)
                        target, own_part, own_parts = self._target(ev, member, part, reader)
                        item = (number, ev, own_part, own_parts)
                        (foreign if target is None else found)[target or member.name].append(item)
                        self.used[number] |= {ev.name + suffix for suffix in ev.entries}
        return found, foreign

    def _target(
        self, ev: EvSet, member: TableMember, part: int, reader: BundleReader
    ) -> tuple[str | None, int, int]:
        """Return the full's member that an increment's EV belongs to, its part and parts."""
        whole = self.member_of.get(ev.name)
        readings = [c for c in part_components(ev.name) if c.whole in self.members]
        if whole is None and ev.name in self.members:
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
        for other, catalogue in self.increments:
            if other is reader:
                yield from catalogue.ev_sets

    def _member(self, member: TableMember, incoming: Sequence[IncomingSet]) -> MemberPlan:
        parts = member.sets
        if len(parts) != len(member.parts):
            raise TableError(
                "a part of the table is missing",
                file=self.full.index_path,
                tensor=member.name,
                expected=f"{len(member.parts)} parts",
                found=f"{len(parts)}",
            )
        for number, ev, _, _ in incoming:
            reader = self.increments[number][0]
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

    def _note_missing(self, table: str, plans: Sequence[MemberPlan]) -> None:
        if not self.increments:
            return
        for plan in plans:
            last = len(self.increments) - 1
            if not any(item[0] == last for item in plan.incoming):
                self.result.notes.append(
                    f"{plan.name}: no rows in {self.increments[last][0].prefix}, "
                    f"it keeps those it had"
                )
        parts = {len(plan.parts) for plan in plans}
        if len(parts) > 1:
            raise TableError(
                "members of a table with different numbers of parts",
                file=self.full.index_path,
                tensor=table,
                found=", ".join(f"{plan.name}: {len(plan.parts)}" for plan in plans),
            )

    # Normal variables --------------------------------------------------------------------

    def _incoming_rows(self) -> dict[str, list[tuple[int, int, RowSet]]]:
        """Return (increment, part, rows) by tensor of the full."""
        found: dict[str, list[tuple[int, int, RowSet]]] = defaultdict(list)
        plain = {name: self.catalogue.entries[name] for name in self.catalogue.plain}
        for number, (reader, catalogue) in enumerate(self.increments):
            for rows in catalogue.rows.values():
                if rows.problem:
                    raise TableError(rows.problem, file=reader.index_path, tensor=rows.name)
                target = _rows_target(rows.name, plain, reader)
                if target is not None:
                    found[target[0]].append((number, target[1], rows))
                    self.used[number] |= {
                        f"{rows.name}-sparse_incr_keys",
                        f"{rows.name}-sparse_incr_values",
                    }
        return found

    def _plain(self, name: str, rows: Sequence[tuple[int, int, RowSet]]) -> None:
        entry = self.catalogue.entries[name]
        last = len(self.increments) - 1
        source = -1
        for number, (reader, catalogue) in enumerate(self.increments):
            theirs = catalogue.entries.get(name)
            if theirs is None or entry.is_hash_table:
                continue
            self.used[number].add(name)
            self._check_same(name, entry, theirs, reader)
            source = number
        # Rows that are older than a whole copy of the variable say nothing any more.
        rows = [item for item in rows if item[0] > source]
        if rows:
            self._rows(name, entry, source, rows)
            return
        absent = last >= 0 and source != last and not entry.is_hash_table
        if absent and not self.options.keep_missing:
            reader = self.increments[last][0]
            raise UnprovenError(
                "the increment lacks a tensor of the full",
                file=reader.index_path,
                tensor=name,
                expected=f"{entry.dtype.name} {list(entry.shape)}, as in {self.full.prefix}",
                found="nothing of that name: a PS could not restore it either",
                remedy="use another step, or --keep-missing to keep the full's value",
            )
        if absent:
            self.result.notes.append(f"{name}: not in the increment, kept as it was")
        self.result.plain.append(PlainPlan(name, source))

    def _check_same(self, name: str, ours: Entry, theirs: Entry, reader: BundleReader) -> None:
        def refuse(what: str, expected: object, found: object) -> UnprovenError:
            return UnprovenError(
                f"{what} differs from the full's",
                file=reader.index_path,
                tensor=name,
                expected=expected,
                found=found,
                remedy="the increment belongs to another model: use another step",
            )

        if ours.dtype != theirs.dtype:
            raise refuse("dtype", ours.dtype.name, theirs.dtype.name)
        if ours.slices or theirs.slices:
            if ours.shape != theirs.shape:
                raise refuse("shape of a sliced tensor", list(ours.shape), list(theirs.shape))
            mine, other = (
                sorted(s.resolve(ours.shape) for s in entry.slices) for entry in (ours, theirs)
            )
            if mine != other:
                raise refuse("slicing", f"{len(mine)} slices", f"{len(other)} others")
        elif ours.shape != theirs.shape:
            self.result.notes.append(
                f"{name}: shape {list(ours.shape)} becomes {list(theirs.shape)}"
            )

    def _rows(
        self, name: str, entry: Entry, source: int, rows: Sequence[tuple[int, int, RowSet]]
    ) -> None:
        slices = order_slices(self.full, name, entry) if entry.slices else []
        parts = len(slices) or 1
        for number in sorted({item[0] for item in rows}):
            have = {part for at, part, _ in rows if at == number}
            if max(have) + 1 != parts:
                raise UnprovenError(
                    "rows for another number of parts than the full's slices",
                    file=self.increments[number][0].index_path,
                    tensor=name,
                    expected=f"parts 0 to {parts - 1}",
                    found=f"parts {sorted(have)}",
                )
            if len(have) != parts and not self.options.keep_missing:
                raise UnprovenError(
                    "rows of some parts are missing",
                    file=self.increments[number][0].index_path,
                    tensor=name,
                    expected=f"parts 0 to {parts - 1}",
                    found=f"parts {sorted(have)}",
                    remedy="use another step, or --keep-missing to keep the full's rows there",
                )
        reader = self.full if source < 0 else self.increments[source][0]
        for part in range(parts):
            own_slice = slices[part] if slices else None
            own = data_entry(reader, name, own_slice)
            incoming = tuple((number, item) for number, at, item in rows if at == part)
            for number, item in incoming:
                self._check_rows(name, own, item, self.increments[number][0])
            self.result.rows.append(RowsPlan(name, own_slice, source, own, incoming))

    def _check_rows(self, name: str, own: Entry, rows: RowSet, reader: BundleReader) -> None:
        if own.dtype != rows.values.dtype or own.shape[1:] != rows.values.shape[1:]:
            raise TableError(
                "rows do not fit the variable",
                file=reader.index_path,
                tensor=f"{rows.name}-sparse_incr_values",
                expected=f"{own.dtype.name} rows of {list(own.shape[1:])}, as {name}",
                found=f"{rows.values.dtype.name} rows of {list(rows.values.shape[1:])}",
            )

    # What the full lacks -----------------------------------------------------------------

    def _strangers(self, foreign: Mapping[str, Sequence[IncomingSet]]) -> None:
        last = len(self.increments) - 1
        if last < 0:
            return
        reader, catalogue = self.increments[last]
        unknown = [
            name
            for name in catalogue.entries
            if name not in self.used[last] and not name.startswith(OWN_NAMES)
        ]
        lost = [name for name in catalogue.rows if f"{name}-sparse_incr_keys" in unknown]
        if lost:
            raise UnprovenError(
                "rows of a variable that the full lacks",
                file=reader.index_path,
                tensor=lost[0],
                expected="a tensor of that name in the full",
                found="none: rows alone are no variable",
            )
        if (unknown or foreign) and not self.options.add_new:
            raise UnprovenError(
                "the increment has tensors that the full lacks",
                file=reader.index_path,
                tensor=next(iter(foreign), None) or unknown[0],
                expected=f"tensors of {self.full.prefix}",
                found=f"{len(unknown) + len(foreign)} unknown",
                remedy="use another step, or --add-new to add them",
            )
        for name in unknown:
            self.result.plain.append(PlainPlan(name, last, added=True))
            self.result.notes.append(f"{name}: added from the increment")
        by_table = {
            member.name: (table.name, member.slot)
            for _, other in self.increments
            for table in other.tables
            for member in table.members
        }
        tables: dict[str, list[MemberPlan]] = defaultdict(list)
        for name in sorted(foreign, key=lambda item: by_table[item]):
            table, slot = by_table[name]
            sets = foreign[name]
            parts = tuple(_empty_set(name, sets, part) for part in range(sets[-1][3]))
            tables[table].append(MemberPlan(name, slot, parts, tuple(sets)))
        for name, members in tables.items():
            self.result.tables.append(TablePlan(name, tuple(members), added=True))
            self.result.notes.append(f"{name}: table added from the increment")


def _check_problem(reader: BundleReader, ev: EvSet) -> None:
    if ev.problem:
        raise TableError(
            f"columns of a table do not fit: {ev.problem}",
            file=reader.index_path,
            tensor=ev.name,
            offset=ev.keys.offset,
            remedy="use another step",
        )


def _rows_target(
    name: str, plain: Mapping[str, Entry], reader: BundleReader
) -> tuple[str, int] | None:
    """Return the full's tensor that rows belong to, and the number of the slice."""
    readings = [(name, 0)] if name in plain and not plain[name].slices else []
    for component in part_components(name):
        entry = plain.get(component.whole)
        # A variable in one part is stored without slices (BundleWriter::AddSlice).
        if entry is not None and (entry.slices or component.number == 0):
            readings.append((component.whole, component.number))
    if len(readings) > 1:
        raise AmbiguousError(
            "two variables of the full may be meant",
            file=reader.index_path,
            tensor=name,
            found=" and ".join(f"{whole} (part {part})" for whole, part in readings),
        )
    return readings[0] if readings else None


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
