"""How two states, or two bundles, differ: the library behind `ckptctl diff`.

The document
------------
``a``, ``b``
    What was compared (`Target.document`).
``identical``
    Whether nothing differs.
``tables``
    A list by name; each: name, kind, `in` (`both`, `a`, `b`), keys [in a, in b], `differs`
    (words for another kind, dim, dtype or key_dtype; empty where rows were compared),
    `slots_added`, `slots_removed`, `columns_added`, `columns_removed` (freqs and versions, of
    admitted and of filtered keys, that only one side keeps), changed (whether anything of all
    that differs), and members: name, slot, differs (whether anything of it does), and

    new, gone, changed, unchanged
        Keys. A row changed if a bit of its value did, or with a tolerance an element by more.
    not_finite
        Of the changed, those of finite numbers in a that have a NaN or an infinity in b; they
        are left out of the numbers below.
    newly_admitted, newly_filtered
        Of the new, those that were filtered in a; of the gone, those filtered in b.
    filtered
        Of the filtered keys, beside those two: new, gone, and moved (another freq or version).
    l2, max, cosine
        min, quantiles and max, over the changed keys, of the norm of the change, of its
        largest element, and of the cosine between old and new row; `l2.total` of all.
    freqs, versions
        moved (how many keys), and min, quantiles and max of the difference.
    top
        The keys that changed most: key, l2, norm [a, b].
    by_bucket, by_freq
        Where changes are: in ranges of 50 buckets, and by freq in b in powers of two.
    norms
        Histograms of the norms of all rows: edges, before, after, and coarse, whether the
        norms lie too close together to be told apart in the usual number of bars. Primaries
        only, and null where they were not asked for.
``tensors``
    added, removed, retyped, reshaped, uncovered, changed (lists), unchanged (a number). Of what
    changed: elements, not_finite, l2, max, norm [a, b] and relative (`compare_values`).
    Uncovered are those of which other slices are missing in a than in b, or in one alone: a and
    b say which, and what is there is not compared.
``notes``
    What a user should know.

Quantiles are within 1% (`inspect.sketch`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ckptctl.errors import NotFoundError
from ckptctl.inspect.diff_aligned import aligned, compare_aligned
from ckptctl.inspect.diff_rows import Lines, RowsDiff
from ckptctl.inspect.diff_same import Compared, NewTask, SameFull, SameTask, same_full
from ckptctl.inspect.diff_tensors import compare_tensors
from ckptctl.inspect.diff_words import not_finite
from ckptctl.inspect.parts import ColumnName
from ckptctl.inspect.tensors import lacking_slices, skipped_rows
from ckptctl.inspect.view import MemberView, TableView, View
from ckptctl.inspect.walk import walk_quad
from ckptctl.running import Report, Task, ignore

__all__ = ["Diff", "Differing", "diff"]

_HOW = ("added", "removed")
_COLUMNS: tuple[ColumnName, ...] = ("freqs", "versions", "freqs_filtered", "versions_filtered")

#: Receives each line of `--json-lines` as it is found.
Differing = Callable[[dict[str, object]], None]


class Diff:
    """What differs; see the module for the fields."""

    def __init__(self, a: dict[str, object], b: dict[str, object]) -> None:
        self.a = a
        self.b = b
        self.tables: list[dict[str, Any]] = []
        self.tensors: dict[str, Any] = {}
        self.notes: list[str] = []

    @property
    def identical(self) -> bool:
        """Whether nothing differs."""
        changed = any(value for name, value in self.tensors.items() if name != "unchanged")
        return not changed and not any(table["changed"] for table in self.tables)

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "a": self.a,
            "b": self.b,
            "identical": self.identical,
            "tables": self.tables,
            "tensors": self.tensors,
            "notes": self.notes,
        }


def diff(
    a: View,
    b: View,
    *,
    table: str | None = None,
    tolerance: float = 0.0,
    top: int = 10,
    norms: bool = True,
    each: Differing | None = None,
) -> Diff:
    """Compare two views: rows by key, other tensors by name.

    Both are read once, front to back, and checked; memory does not follow the tables.

    Parameters
    ----------
    table
        Only the table, or tensor, of this name.
    tolerance
        Largest difference of an element that counts as none.
    top
        How many of the keys that changed most are named, for each table and slot.
    norms
        Whether the norms of all rows are counted, also of those that did not change: a fifth
        of the time.
    each
        Told of each row and tensor that differs, before all is checked.

    Raises
    ------
    NotFoundError
        Neither has a table or tensor of that name.
    DamageError
        Something that was read contradicts itself.
    """
    found = Diff(a.target.document(), b.target.document())
    ours = {item.name: item for item in a.tables}
    theirs = {item.name: item for item in b.tables}
    tensors_a = {item.name: item for item in a.tensors}
    tensors_b = {item.name: item for item in b.tensors}
    if table is not None:
        known = sorted({*ours, *theirs, *tensors_a, *tensors_b})
        if table not in known:
            from difflib import get_close_matches

            near = get_close_matches(table, known, n=3)
            raise NotFoundError(
                f"neither has a table or tensor {table!r}",
                file=b.target.prefix,
                remedy=f"did you mean {' or '.join(near)}?" if near else "ckptctl show lists them",
            )
        for items in (ours, theirs, tensors_a, tensors_b):
            for name in [name for name in items if name != table]:
                del items[name]
    for name in sorted({*ours, *theirs}):
        work = _Tables(ours.get(name), theirs.get(name), b.runner, tolerance, top, norms, each)
        found.tables.append(work.run(name))
    b.runner.progress.start("comparing tensors", sum(t.nbytes for t in tensors_b.values()))
    found.tensors = compare_tensors(tensors_a, tensors_b, tolerance)
    if each is not None:
        for what in ("added", "removed", "retyped", "reshaped", "uncovered", "changed"):
            for item in found.tensors[what]:
                each({"tensor": item["name"], "change": what, **item})
    members = [member for own in found.tables for member in own["members"]]
    odd = not_finite(members, "row") + not_finite(found.tensors["changed"], "element")
    found.notes += [f"b: {words}" for words in odd]
    for view, where, own in ((a, "a", tensors_a), (b, "b", tensors_b)):
        notes = (*view.notes, *lacking_slices(own.values()), *skipped_rows(own.values()))
        found.notes += [f"{where}: {note}" for note in notes]
    return found


class _Tables(NamedTuple):
    """The comparison of one table."""

    a: TableView | None
    b: TableView | None
    runner: Any
    tolerance: float
    top: int
    norms: bool
    each: Differing | None

    def run(self, name: str) -> dict[str, Any]:
        a, b = self.a, self.b
        one = b or a
        assert one is not None
        members: list[dict[str, Any]] = []
        if a and b:
            a.share(b)
            b.share(a)
        found: dict[str, Any] = {
            "name": name,
            "kind": one.kind,
            "in": "both" if a and b else "a" if a else "b",
            "keys": [_keys(a), _keys(b)],
            "differs": _unlike(a, b) if a and b else [],
            "slots_added": sorted({*_slots(b)} - {*_slots(a)}),
            "slots_removed": sorted({*_slots(a)} - {*_slots(b)}),
            "columns_added": [],
            "columns_removed": [],
            "members": members,
        }
        if a and b and not found["differs"]:
            theirs = {member.slot: member for member in b.members}
            pairs = [(own, theirs[own.slot]) for own in a.members if own.slot in theirs]
            for (member, _), rows in zip(pairs, self._members(name, pairs), strict=True):
                document = {"name": member.name, "slot": member.slot, **rows.document()}
                members.append(document | {"differs": rows.differs})
            found["columns_added"] = _lacking(a.primary, b.primary)
            found["columns_removed"] = _lacking(b.primary, a.primary)
        elif self.each is not None:
            self.each({"table": name, "change": found["differs"] or f"only in {found['in']}"})
        found["changed"] = bool(
            found["in"] != "both"
            or found["differs"]
            or any(found[f"{what}_{how}"] for what in ("slots", "columns") for how in _HOW)
            or any(member["differs"] for member in members)
        )
        return found

    def _members(
        self, table: str, pairs: Sequence[tuple[MemberView, MemberView]]
    ) -> list[RowsDiff]:
        totals = [self._empty(table, b) for _, b in pairs]
        parts = [_parts(a, b) for a, b in pairs]
        nbytes = sum(_nbytes(*pair) for own in parts for pair in own)
        self.runner.progress.start(f"comparing {table}", nbytes)
        if self.each is not None:  # lines come in order, from one thread
            for total, own in zip(totals, parts, strict=True):
                for x, y in own:
                    task = _Part(x, y, self._empty(table, y))
                    total.merge(task.run(self.runner.progress.advance)[0])
            return totals
        for label, (counted, checksums) in self.runner.map(self._tasks(table, parts)):
            totals[label.member].merge(counted)
            if label.same is not None and not isinstance(label.task, _Part):
                label.same.add(label.task, checksums)
        return totals

    def _tasks(
        self, table: str, parts: Sequence[Sequence[tuple[MemberView, MemberView]]]
    ) -> Iterator[tuple[_Label, Task[Compared]]]:
        # All members at once, so that no core waits between them: part by part, since the
        # members of a part share what is known of its rows.
        for own in zip(*parts, strict=True):
            first: SameFull | None = None
            for member, (x, y) in enumerate(own):
                same = None
                if len(x.parts) == 1:
                    same = same_full(x.parts[0], y.parts[0], _columns(y), first)
                if same is None:
                    part = _Part(x, y, self._empty(table, y))
                    yield _Label(member, part), part
                    continue
                first = first or same
                for task in same.tasks(partial(self._empty, table, y)):
                    yield _Label(member, task, same), task

    def _empty(self, table: str, member: MemberView) -> RowsDiff:
        lines: Lines | None = None
        if self.each is not None:
            each = self.each

            def lines(found: Iterator[dict[str, object]]) -> None:
                for line in found:
                    each({"table": table, "member": member.name, **line})

        norms = self.norms and not member.slot
        return RowsDiff(member.dtype, self.tolerance, self.top, norms, lines)


class _Part(NamedTuple):
    """A task: parts that hold the same keys, of both sides."""

    a: MemberView
    b: MemberView
    counted: RowsDiff

    @property
    def nbytes(self) -> int:
        return _nbytes(self.a, self.b)

    def run(self, report: Report = ignore) -> Compared:
        if self.counted.lines is None and aligned(self.a, self.b):
            compare_aligned(self.a, self.b, _columns(self.b), self.counted, report)
            return self.counted, {}
        size = self.a.dtype.size * self.a.dim + 8
        for rows in walk_quad(self.a, self.b, _columns(self.b)):
            self.counted.add(*rows)
            report(size * (len(rows[0]) + len(rows[1])))
        return self.counted, {}


class _Label(NamedTuple):
    """What a task is part of."""

    member: int
    task: _Part | SameTask | NewTask
    same: SameFull | None = None


def _nbytes(a: MemberView, b: MemberView) -> int:
    return (a.dtype.size * a.dim + 8) * (a.rows + b.rows)


def _columns(member: MemberView) -> tuple[ColumnName, ...]:
    # The slots hold the same freqs and versions.
    return ("values",) if member.slot else ("values", "freqs", "versions")


def _parts(a: MemberView, b: MemberView) -> Sequence[tuple[MemberView, MemberView]]:
    """Return what can be compared apart: parts, where both sides have as many."""
    if len(a.parts) != len(b.parts):
        return [(a, b)]
    pairs = zip(a.parts, b.parts, strict=True)
    return [(a._replace(parts=(x,)), b._replace(parts=(y,))) for x, y in pairs]


def _unlike(a: TableView, b: TableView) -> list[str]:
    """Return why the rows of two tables of one name cannot be compared."""
    words: list[tuple[str, object, object]] = [
        ("kind", a.kind, b.kind),
        ("dim", a.dim, b.dim),
        ("key_dtype", a.key_dtype.name, b.key_dtype.name),
    ]
    theirs = {slot: sets[0].values for _, slot, sets in b.shapes}
    for _, slot, sets in a.shapes:
        own, other = sets[0].values, theirs.get(slot)
        if other is not None:
            words.append((f"{slot} dtype".strip(), own.dtype.name, other.dtype.name))
            if slot and a.dim == b.dim:
                words.append((f"dim of {slot}", [*own.shape[1:]], [*other.shape[1:]]))
    return [f"{what}: {old} becomes {new}" for what, old, new in words if old != new]


def _lacking(a: MemberView, b: MemberView) -> list[str]:
    """Return the columns that the rows of b have, and those of a have not."""
    return [name for name in _COLUMNS if _keeps(a, name) is False and _keeps(b, name)]


def _keeps(member: MemberView, name: ColumnName) -> bool | None:
    """Return whether the rows of a member have a column; None where there are no rows."""
    away = name.endswith("_filtered")
    filled = [part for part in member.parts if (part.filtered if away else part.rows)]
    return any(part.column(name) is not None for part in filled) if filled else None


def _keys(table: TableView | None) -> int | None:
    return None if table is None else table.primary.rows


def _slots(table: TableView | None) -> Sequence[str]:
    return () if table is None else table.slots
