"""Which tensors of a bundle are tables with their parts and members, and which are plain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptctl.bundle import Entry
from ckptctl.errors import AmbiguousError
from ckptctl.tables.names import PartComponent, is_slot_name, part_components
from ckptctl.tables.sets import EvSet, RowSet, find_full_sets, find_increment_sets

__all__ = ["Catalogue", "SamePairs", "Table", "TableMember", "find_tables", "join_slots"]

#: (Name of an EV, part, parts) -> how many of its rows lie in buckets (key % 1000) of other
#: parts than that, and how many rows it has.
Strays = Callable[[str, int, int], tuple[int, int]]

#: Pairs of EVs, one of each part -> whether they have the same keys.
SamePairs = Callable[[Sequence[tuple["EvSet", "EvSet"]]], bool]

#: Of so many rows one may lie in a bucket of another part: a PS skips such a row.
_STRAY_SHARE = 100


class TableMember(NamedTuple):
    """The primary of a table, or one of its slots, over all parts.

    Attributes
    ----------
    name
        Name without the part: `emb`, `emb/Adagrad`.
    slot
        "" for the primary, else the slot's name: `Adagrad`.
    parts
        The EVs, in order of their part number; one that is missing from an increment is None.
    """

    name: str
    slot: str
    parts: tuple[EvSet | None, ...]

    @property
    def sets(self) -> tuple[EvSet, ...]:
        """The EVs that are there."""
        return tuple(part for part in self.parts if part is not None)

    @property
    def rows(self) -> int:
        """Admitted keys in all parts."""
        return sum(part.rows for part in self.sets)


class Table(NamedTuple):
    """An EmbeddingVariable with its parts and its members, the primary first."""

    name: str
    members: tuple[TableMember, ...]

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self.members[0].parts)

    @property
    def primary(self) -> TableMember:
        """The member that holds the weights."""
        return self.members[0]

    @property
    def rows(self) -> int:
        """Admitted keys of the primary in all parts."""
        return self.primary.rows


class Catalogue(NamedTuple):
    """The tensors of one bundle, sorted by what they are.

    Attributes
    ----------
    tables
        The EVs, in order of name.
    ev_sets
        Every EV by its own name, part and slot included.
    rows
        Rows of normal variables (increments only), by name.
    plain
        Names of all other tensors, in key order.
    """

    tables: tuple[Table, ...]
    ev_sets: Mapping[str, EvSet]
    rows: Mapping[str, RowSet]
    plain: tuple[str, ...]
    entries: Mapping[str, Entry]

    @property
    def keys(self) -> int:
        """Admitted keys of all tables."""
        return sum(table.rows for table in self.tables)


def find_tables(
    entries: Mapping[str, Entry],
    *,
    increment: bool = False,
    strays_of: Strays | None = None,
    same_keys: SamePairs | None = None,
) -> Catalogue:
    """Sort the tensors of a bundle by what they are, from names and shapes alone.

    Parameters
    ----------
    entries
        Tensor name to entry, in key order.
    increment
        Whether the bundle is an increment.
    strays_of
        Returns how many rows of an EV lie in buckets of other parts than a given one, and how
        many it has. With it, a component `part_<i>` counts as a part only if the rows of each
        part lie in buckets of that part, all but one in a hundred; of two such readings the
        one without any stray row counts. Without it, names decide and a doubtful name is read
        in the way that has more parts.
    same_keys
        Returns whether an EV has the keys of another, part by part. With it, one that no optimizer
        of DeepRec names is a slot only if it has those of its primary.

    Raises
    ------
    AmbiguousError
        With `strays_of`: two components of a name may be its part.
    """
    rows: dict[str, RowSet] = {}
    if increment:
        sets, rows = find_increment_sets(entries)
    else:
        sets = find_full_sets(entries)
    claimed = {name + suffix for name, ev in sets.items() for suffix in ev.entries}
    for name in rows:
        claimed |= {f"{name}-sparse_incr_keys", f"{name}-sparse_incr_values"}
    members = _group_parts(sets, strays_of)
    unlike = [ev for parts in members.values() if len(parts) > 1 for ev in _unlike(parts)]
    if unlike:
        sets |= {ev.name: ev for ev in unlike}
        members = {
            whole: tuple(part and sets[part.name] for part in parts)
            for whole, parts in members.items()
        }
    return Catalogue(
        tables=_group_members(members, same_keys),
        ev_sets=sets,
        rows=rows,
        plain=tuple(name for name in entries if name not in claimed),
        entries=entries,
    )


def _group_parts(
    sets: Mapping[str, EvSet], strays_of: Strays | None
) -> dict[str, tuple[EvSet | None, ...]]:
    """Return the parts of each EV under its name without the part."""
    groups: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    components = {name: part_components(name) for name in sets}
    for name, found in components.items():
        for component in found:
            groups[component[0], component[2]][component.number] = name
    strays = {
        where: _stray_rows(group, strays_of)
        for where, group in groups.items()
        if len(group) > 1 and strays_of is not None
    }
    doubted = {where for where, (out, rows) in strays.items() if out * _STRAY_SHARE > rows}
    doubted |= {where for where, group in groups.items() if _are_towers(where, group, sets)}
    clean = {where for where, (out, _) in strays.items() if not out}
    chosen: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, found in components.items():
        part = _part_of(name, found, sets, groups, doubted, clean, strict=strays_of is not None)
        if part is None:
            chosen[name].append((0, name))
        else:
            chosen[part.whole].append((part.number, name))
    return {
        whole: tuple(sets.get(names.get(number, "")) for number in range(max(names) + 1))
        for whole, names in ((whole, dict(parts)) for whole, parts in chosen.items())
    }


def _part_of(
    name: str,
    components: Iterable[PartComponent],
    sets: Mapping[str, EvSet],
    groups: Mapping[tuple[str, str], Mapping[int, str]],
    doubted: Collection[tuple[str, str]],
    clean: Collection[tuple[str, str]],
    *,
    strict: bool,
) -> PartComponent | None:
    incremental = sets[name].incremental
    candidates = []
    for component in components:
        group = groups[component[0], component[2]]
        # An increment may lack the sets of a part; which row goes where is decided by its key.
        complete = max(group) + 1 == len(group) or (incremental and max(group) < 1 << 16)
        doubtful = (component[0], component[2]) in doubted
        if complete and not doubtful and component.whole and component.whole not in sets:
            candidates.append((len(group), component))
    real = [component for parts, component in candidates if parts > 1]
    lone = [component for _, component in candidates if _ends_with_part(component, sets)]
    if len(real) > 1 and strict:
        best = [component for component in real if (component[0], component[2]) in clean]
        real = best if len(best) == 1 else real
    if len(real) > 1 and strict:
        raise AmbiguousError(
            "two components of the name may be its part",
            tensor=name,
            expected="one component part_<i> whose numbers and buckets fit",
            found=" and ".join(f"part_{c.number} of {c.whole}" for c in real),
        )
    if real:
        return real[0]
    return lone[-1] if lone else None


def _ends_with_part(component: PartComponent, sets: Mapping[str, EvSet]) -> bool:
    """Return whether a name ends with its part, or with its part and a slot.

    So DeepRec writes it. Without other parts that would show it, `part_0/emb` is a scope.
    """
    before, number, after = component
    primary = "/".join(filter(None, (before, f"part_{number}")))
    return not after or primary in sets or is_slot_name(after)


def _are_towers(
    where: tuple[str, str], group: Mapping[int, str], sets: Mapping[str, EvSet]
) -> bool:
    """Return whether `part_0/emb` and `part_1/emb` are tables: of another dim, or other types.

    Where DeepRec would write a part, they are parts, and damaged.
    """
    kinds = [sets[name].kind for name in group.values()] if len(group) > 1 else []
    return any(kind != kinds[0] for kind in kinds) and not any(
        _ends_with_part(PartComponent((where[0], number, where[1])), sets) for number in group
    )


def _unlike(parts: Iterable[EvSet | None]) -> Iterator[EvSet]:
    """Return the parts that are not like the first one, with that as their problem."""
    there = [part for part in parts if part is not None and not part.problem]
    for ev in there[1:]:
        wanted = there[0].kind
        for what, found in ev.kind.items():
            if found != wanted[what]:
                problem = f"{what} {found} where {there[0].name} has {wanted[what]}"
                yield ev._replace(problem=problem)
                break


def _stray_rows(group: Mapping[int, str], strays_of: Strays) -> tuple[int, int]:
    """Return how many rows lie in buckets of other parts than their own, and how many there are."""
    parts = max(group) + 1
    found = [strays_of(name, number, parts) for number, name in group.items()]
    return sum(out for out, _ in found), sum(rows for _, rows in found)


def join_slots(full: Catalogue, increments: Iterable[Catalogue]) -> Catalogue:
    """Return a full with those tables joined that have no rows, and whose rows are a slot's.

    Without rows nothing tells a slot that no optimizer of DeepRec names from a table. All of the
    increments that have rows of the two have to say so; where the full has rows, its word counts.
    """
    tables = {table.name: table for table in full.tables if not table.rows}
    told = [
        (
            {member.name: table.name for table in each.tables for member in table.members[1:]},
            {member.name for table in each.tables for member in table.members if member.rows},
        )
        for each in (increments if tables else ())
    ]
    joined: dict[str, list[TableMember]] = defaultdict(list)
    for name, table in tables.items():
        primary, _, slot = name.rpartition("/")
        says = [slots.get(name) == primary for slots, rows in told if rows & {name, primary}]
        if (
            primary in tables
            and len(table.members) == 1
            and says
            and all(says)
            and _fits(slot, table.primary.parts, tables[primary].primary.parts)
        ):
            joined[primary].append(TableMember(name, slot, table.primary.parts))
    gone = {member.name for members in joined.values() for member in members}
    return full._replace(
        tables=tuple(
            Table(table.name, (table.primary, *sorted((*table.members[1:], *joined[table.name]))))
            for table in full.tables
            if table.name not in gone
        )
    )


def _group_members(
    members: Mapping[str, tuple[EvSet | None, ...]], same_keys: SamePairs | None
) -> tuple[Table, ...]:
    """Join slots with their primaries."""
    split = [name.rpartition("/") for name in members]
    with_slots = {primary for primary, _, slot in split if is_slot_name(slot)}
    slots: dict[str, list[TableMember]] = defaultdict(list)
    primaries: dict[str, TableMember] = {}
    for name in sorted(members):
        primary, _, slot = name.rpartition("/")
        parts = members[name]
        own = primaries.get(primary)
        if own is not None and (
            _has_key_type(parts, own.parts)
            if is_slot_name(slot)
            else name not in with_slots and _is_slot(slot, parts, own.parts, same_keys)
        ):
            slots[primary].append(TableMember(name, slot, parts))
        else:
            primaries[name] = TableMember(name, "", parts)
    return tuple(
        Table(name, (primary, *slots[name])) for name, primary in sorted(primaries.items())
    )


def _is_slot(
    slot: str,
    parts: Sequence[EvSet | None],
    primary: Sequence[EvSet | None],
    same_keys: SamePairs | None,
) -> bool:
    """Return whether an EV called `<primary>/<slot>` is a slot and not a table in a scope.

    Asked where no optimizer of DeepRec has such slots. One has the keys of its primary, and so
    as many rows in each part; no rows at all say nothing.
    """
    pairs = _pairs(parts, primary)
    return (
        any(a.rows for a, _ in pairs)
        and all(a.rows == b.rows and _columns(a) == _columns(b) for a, b in pairs)
        and _fits(slot, parts, primary)
        and (same_keys is None or same_keys(pairs))
    )


def _fits(slot: str, parts: Sequence[EvSet | None], primary: Sequence[EvSet | None]) -> bool:
    """Return whether an EV may be a slot by its name, which ends with the slot's, and its shape."""
    return (
        len(parts) == len(primary)
        and _has_key_type(parts, primary)
        and all(a.name == f"{b.name}/{slot}" and a.dim == b.dim for a, b in _pairs(parts, primary))
    )


def _has_key_type(parts: Sequence[EvSet | None], primary: Sequence[EvSet | None]) -> bool:
    return all(a.keys.dtype == b.keys.dtype for a, b in _pairs(parts, primary))


def _pairs(
    parts: Sequence[EvSet | None], primary: Sequence[EvSet | None]
) -> list[tuple[EvSet, EvSet]]:
    return [(a, b) for a, b in zip(parts, primary, strict=False) if a and b]


def _columns(ev: EvSet) -> dict[str, int]:
    """Return the rows of the columns that one table has and another has not."""
    return {s: e.rows for s, e in ev.entries.items() if s.endswith(("-versions", "-freqs"))}
