"""Which tensor of an increment belongs to which of the full (check 5 of `restore.md`)."""

from __future__ import annotations

from collections.abc import Sequence

from ckptctl.bundle import BundleReader, Entry
from ckptctl.errors import UnprovenError
from ckptctl.restore.columns import with_columns
from ckptctl.restore.match_rows import Incoming, RowsMatcher
from ckptctl.restore.match_tables import TableMatcher
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.plans import OWN_NAMES, Increment, Matched, PlainPlan
from ckptctl.tables import Catalogue

__all__ = ["match"]


def match(
    full: BundleReader,
    full_tables: Catalogue,
    increments: Sequence[Increment],
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


class _Matcher:
    def __init__(
        self,
        full: BundleReader,
        catalogue: Catalogue,
        increments: Sequence[Increment],
        options: RestoreOptions,
    ) -> None:
        self.full = full
        self.catalogue = catalogue
        self.increments = increments
        self.options = options
        self.result = Matched()
        self.tables = TableMatcher(full, catalogue, increments)
        self.variables = RowsMatcher(full, catalogue, increments, options)

    def run(self) -> Matched:
        self.result.tables += [
            self.tables.plan(table, self.options) for table in self.catalogue.tables
        ]
        self.result.notes += self.tables.notes
        plain = [name for name in self.catalogue.plain if not name.startswith(OWN_NAMES)]
        if not self.increments:
            self.result.plain += [PlainPlan(name, -1) for name in plain]
            return self.result
        for name in plain:
            self._plain(name, self.variables.incoming.get(name, []))
        self._add_unknown()
        readers = [reader for reader, _ in self.increments]
        index = self.full.index_path
        self.result.tables = [with_columns(each, readers, index) for each in self.result.tables]
        return self.result

    def _plain(self, name: str, rows: Sequence[Incoming]) -> None:
        entry = self.catalogue.entries[name]
        last = len(self.increments) - 1
        source = -1
        for number, (reader, catalogue) in enumerate(self.increments):
            theirs = catalogue.entries.get(name)
            if theirs is None or entry.is_hash_table:
                continue
            self._check_same(name, entry, theirs, reader)
            source = number
        # Rows that are older than a whole copy of the variable say nothing any more.
        rows = [item for item in rows if item[0] > source]
        if rows:
            self.result.rows += self.variables.plan(name, entry, source, rows)
            return
        absent = source != last and not entry.is_hash_table
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

    def _add_unknown(self) -> None:
        """Add what the full lacks, or refuse it."""
        known = self.catalogue.entries
        unknown = {
            name: number
            for number, (_, catalogue) in enumerate(self.increments)
            for name in catalogue.plain
            if name not in known and not name.startswith(OWN_NAMES)
        }
        foreign = self.tables.foreign
        if (unknown or foreign) and not self.options.add_new:
            name = next(iter(foreign), None) or next(iter(unknown))
            number = foreign[name][-1][0] if foreign else unknown[name]
            raise UnprovenError(
                "the increment has tensors that the full lacks",
                file=self.increments[number][0].index_path,
                tensor=name,
                expected=f"tensors of {self.full.prefix}",
                found=f"{len(unknown) + len(foreign)} unknown",
                remedy="use another step, or --add-new to add them",
            )
        self.result.plain += [PlainPlan(*item, added=True) for item in unknown.items()]
        self.result.notes += [f"{name}: added from the increment" for name in unknown]
        self.result.tables = self.tables.added(self.result.tables)
        self.result.notes += [f"{name}: added from the increment" for name in sorted(foreign)]
