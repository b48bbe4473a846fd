"""One way to look at a state and at a single bundle: tables with their rows, and tensors.

A view reads indexes when it is opened. What needs keys is read when it is first asked for,
one table at a time: the rows of a table of a state are known when its keys were surveyed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

from ckptctl.bundle import BundleReader, DType, Entry
from ckptctl.bundle.reader import LostShard
from ckptctl.chain import ProvenPairs, find_chains, find_changed, scan_directory
from ckptctl.chain.vanished import Meant
from ckptctl.errors import CkptctlError, NotFoundError, TableError, UsageError
from ckptctl.inspect.parts import ColumnName, PartView, RawPart, StatePart
from ckptctl.inspect.target import Target
from ckptctl.inspect.tensors import TensorView, bundle_tensors, state_tensors
from ckptctl.restore import MemberState, RestoreOptions, State, open_state
from ckptctl.restore.column import Column
from ckptctl.restore.nested import check_nested
from ckptctl.restore.opening import misfit, open_bundle
from ckptctl.restore.select import Selection
from ckptctl.restore.survey import Surveyed, judge, survey_state
from ckptctl.running import Runner
from ckptctl.storage import LOCAL, FileInfo, Storage
from ckptctl.tables import EvSet, RowSet

__all__ = ["MemberView", "TableTensor", "TableView", "View", "open_view"]


class MemberView(NamedTuple):
    """The primary of a table, or one of its slots.

    Attributes
    ----------
    name
        Name without the part.
    slot
        "" for the primary.
    dim
        Elements of a row.
    dtype
        Of the values.
    parts
        In order of their number.
    """

    name: str
    slot: str
    dim: int
    dtype: DType
    parts: tuple[PartView, ...]

    @property
    def rows(self) -> int:
        """Admitted keys in all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def filtered(self) -> int:
        """Filtered keys in all parts."""
        return sum(part.filtered for part in self.parts)

    def has(self, column: ColumnName) -> bool:
        """Return whether any part has a column."""
        return any(part.column(column) is not None for part in self.parts)


class TableTensor(NamedTuple):
    """One tensor of a table: of which member and part, its shape in the view."""

    member: int
    part: int
    name: str
    suffix: str
    shape: tuple[int, ...]
    entry: Entry

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return prod(self.shape) * self.entry.dtype.size


class TableView:
    """A table, or in an increment the rows of a normal variable.

    Attributes
    ----------
    name
        Name of the primary without the part.
    kind
        `table`, or `rows` of a normal variable: its keys are row numbers of a slice.
    """

    def __init__(
        self,
        name: str,
        kind: Literal["table", "rows"],
        shapes: Sequence[tuple[str, str, Sequence[EvSet | RowSet]]],
        view: View,
        number: int | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        #: (name, slot, sets) of each member, the primary first.
        self.shapes = shapes
        self._view = view
        self._number = number

    @property
    def slots(self) -> tuple[str, ...]:
        """Slots beside the primary."""
        return tuple(slot for _, slot, _ in self.shapes[1:])

    @property
    def num_parts(self) -> int:
        """Number of parts."""
        return len(self.shapes[0][2])

    @property
    def dim(self) -> int:
        """Elements of a row of the primary."""
        values = self.shapes[0][2][0].values
        return values.shape[1] if len(values.shape) == 2 else 0

    @property
    def key_dtype(self) -> DType:
        """Type of the keys."""
        return self.shapes[0][2][0].keys.dtype

    @property
    def problem(self) -> TableError | None:
        """Why its rows cannot be read, though its tensors can be listed; None if they can."""
        own = (each for _, _, sets in self.shapes for each in sets)
        return next(filter(None, (misfit(self._view.reader, each) for each in own)), None)

    def _check(self) -> None:
        problem = self.problem
        if problem is not None:
            raise problem

    @cached_property
    def members(self) -> tuple[MemberView, ...]:
        """The members with their rows; surveys the keys when first asked.

        Raises
        ------
        TableError
            Its tensors do not fit each other (`problem`).
        """
        self._check()
        surveyed = self._surveyed
        return tuple(
            MemberView(
                name,
                slot,
                sets[0].values.shape[1] if len(sets[0].values.shape) == 2 else 0,
                sets[0].values.dtype,
                tuple(self._part(at, part, surveyed) for part in range(len(sets))),
            )
            for at, (name, slot, sets) in enumerate(self.shapes)
        )

    @cached_property
    def _surveyed(self) -> Surveyed | None:
        return self._view.survey(self._number)

    def share(self, other: TableView) -> None:
        """Take over what another view of the same full finds of its keys.

        Nothing happens where an increment brings something here, or all is known already.
        """
        ours, theirs = self._view.state, other._view.state
        if ours is None or theirs is None or "_surveyed" in self.__dict__:
            return
        plan = ours.tables[self._number or 0]
        incoming = any(member.incoming for member in plan.members)
        if incoming or ours.full.prefix != theirs.full.prefix or self.shapes != other.shapes:
            return
        known = other._surveyed
        found = Surveyed({})
        for (_, part), survey in sorted(known.parts.items() if known is not None else ()):
            sets = [sets[part] for _, _, sets in self.shapes]
            own = survey.of_full(ours.full, [ev for ev in sets if isinstance(ev, EvSet)])
            if own is None:
                return
            found.parts[self._number or 0, part] = own
        judge(self.name, list(found.parts.values()), self._view.options, found)
        self._view.notes += found.warnings
        self._surveyed = found

    @property
    def primary(self) -> MemberView:
        """The member that holds the weights."""
        return self.members[0]

    @property
    def settled(self) -> bool:
        """Whether shapes tell the rows, since no increment is applied.

        Rows that a PS would skip, outside their part or bucket, are then still among them.
        """
        return self._view.state is None or not self._view.state.increments

    def tensors(self) -> Iterator[TableTensor]:
        """Return the tensors of all members and parts; surveys the keys unless `settled`."""
        for at, (_, _, sets) in enumerate(self.shapes):
            for part, own in enumerate(sets):
                for suffix, entry in own.entries.items():
                    shape = entry.shape
                    if not self.settled:
                        shape = self.members[at].parts[part].shape(suffix)
                    yield TableTensor(at, part, own.name + suffix, suffix, shape, entry)

    def columns(self, member: int, name: ColumnName) -> Iterator[Column]:
        """Return one column of each part of a member; surveys the keys unless `settled`.

        Raises
        ------
        TableError
            Its tensors do not fit each other (`problem`).
        """
        self._check()
        if not self.settled:
            for part in self.members[member].parts:
                found = part.column(name)
                if found is not None:
                    yield found
            return
        for own in self.shapes[member][2]:
            found = RawPart(self._view.reader, own).column(name)
            if found is not None and found.rows:
                yield found

    def _part(self, member: int, part: int, surveyed: Surveyed | None) -> PartView:
        state = self._view.state
        if state is not None and self._number is not None and surveyed is not None:
            survey = surveyed.parts[self._number, part]
            job = state.part_job(self._number, part)
            return StatePart(MemberState(job, member, survey.kept[member]))
        return RawPart(self._view.reader, self.shapes[member][2][part])


class View:
    """A state, or one bundle as it is; a context manager that closes its files.

    Nothing can be asked of it once it is closed.

    Attributes
    ----------
    target
        What is looked at.
    state
        None for an increment as it is.
    reader
        The full, or the increment.
    tables, tensors
        What is in it, by name; `tensors` are those that are no part of a table.
    notes
        What a user should know; grows while tables are surveyed.
    validate
        Whether tables that are surveyed from now on are looked at for keys that stand twice
        or that no PS can save. False at first: who only reads has `verify`.
    lost
        Of a `damaged` bundle: its data shards that are missing or cut short.
    """

    def __init__(
        self,
        target: Target,
        options: RestoreOptions,
        runner: Runner,
        storage: Storage = LOCAL,
        *,
        damaged: bool = False,
    ) -> None:
        self.target = target
        self.lost: tuple[LostShard, ...] = ()
        self.options = options
        self.runner = runner
        self.validate = False
        self.state: State | None = None
        self._storage = storage
        self._meant = _meant(target, storage)
        self._tables: tuple[TableView, ...] | None = None
        self.tensors: tuple[TensorView, ...]
        try:
            if damaged or target.kind == "increment":
                self._open_raw(target, storage, damaged=damaged)
            else:
                self._open_state(target, storage)
        except CkptctlError as error:
            self._tell_what_changed(error)
            raise

    def _open_state(self, target: Target, storage: Storage) -> None:
        chosen = target.selection
        full = target.prefix
        increments: tuple[str, ...] = ()
        if chosen is not None:
            full, increments = chosen.base.prefix, tuple(each.prefix for each in chosen.increments)
            chains = target.chains
            if chosen.to_prove and chains is not None:
                progress = self.runner.progress
                proven = ProvenPairs(chains.scan, keep=target.remember)
                check_nested(
                    full, chosen.to_prove, proven, storage, progress=progress, chains=chains
                )
        self.state = state = open_state(full, increments, self.options, storage)
        self.reader = state.full
        self.notes = [*(chosen.notes if chosen is not None else ()), *state.notes]
        self.tables = tuple(
            TableView(
                plan.name,
                "table",
                [(member.name, member.slot, member.parts) for member in plan.members],
                self,
                number,
            )
            for number, plan in enumerate(state.tables)
        )
        self.tensors = state_tensors(state)

    def _open_raw(self, target: Target, storage: Storage, *, damaged: bool) -> None:
        increment = target.kind == "increment"
        self.reader, catalogue = open_bundle(target.prefix, increment, storage, damaged=damaged)
        self.lost = tuple(self.reader.lost_shards()) if damaged else ()
        self.notes = []
        tables = [
            TableView(
                table.name,
                "table",
                [(member.name, member.slot, member.sets) for member in table.members],
                self,
            )
            for table in catalogue.tables
        ]
        tables += [
            TableView(name, "rows", [(name, "", (rows,))], self)
            for name, rows in catalogue.rows.items()
        ]
        self.tables = tuple(sorted(tables, key=lambda table: table.name))
        self.tensors = bundle_tensors(self.reader, catalogue.plain)

    @property
    def tables(self) -> tuple[TableView, ...]:
        """The tables, by name; raises `UsageError` once the view is closed."""
        if self._tables is None:
            raise UsageError(
                "the view is closed",
                file=self.target.prefix,
                remedy="ask while it is open, or open another one",
            )
        return self._tables

    @tables.setter
    def tables(self, tables: tuple[TableView, ...]) -> None:
        self._tables = tables

    def table(self, name: str) -> TableView | None:
        """Return the table of a name."""
        return next((table for table in self.tables if table.name == name), None)

    def survey(self, table: int | None) -> Surveyed | None:
        """Survey the keys of one table of a state; None for what needs none."""
        if self.state is None or table is None:
            return None
        surveyed = survey_state(
            self.state, self.runner, self.options, {table}, validate=self.validate
        )
        self.notes += surveyed.warnings
        return surveyed

    def applied(self) -> View:
        """Return the state that an increment makes of its base, proven or not.

        The base says where each slice of a variable begins, and its increment's rows do not.

        Raises
        ------
        NotFoundError
            No full is known to be its base.
        """
        target, options = self.target, self.options
        chains = target.chains
        if chains is None:
            home = os.path.normpath(os.path.join(os.path.dirname(target.prefix), os.pardir))
            chains = find_chains(scan_directory(home, self._storage), options.assume_order)
        name = os.path.basename(target.prefix)
        own = next((each for each in chains.scan.increments if each.name == name), None)
        base = None if own is None else chains.base_of(own).base
        if options.base is not None:
            base = chains.full_at(options.base)
        if own is None or base is None:
            raise NotFoundError(
                "no full is known to be the base of it",
                file=target.prefix,
                remedy="--base STEP, if you know the full that it was recorded on",
            )
        chosen = Selection(own.step, base, (own,), (), "to know its slices")
        state = Target(name, "state", chains.scan.directory, own.prefix, own.step, chains, chosen)
        lenient = replace(options, keep_missing=True, add_new=True)
        return View(state, lenient, self.runner, self._storage)

    def close(self) -> None:
        """Close all files, and forget the tables: with them goes what was found of their keys.

        They know the view, and it them; it would stay until Python looks for cycles.
        """
        self._tables = None
        if self.state is not None:
            self.state.close()
        self.reader.close()

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.close()
        if error is None or isinstance(error, CkptctlError):
            self._tell_what_changed(error)

    def _tell_what_changed(self, error: CkptctlError | None) -> None:
        """Raise `ChangedError` if a file was replaced while we looked, or is why we failed.

        One that is gone was read as a whole where nothing failed.
        """
        found = find_changed(self._meant, self._storage, gone=error is not None)
        if found is not None:
            raise found from error


class _Bundle(NamedTuple):
    """A bundle that was named by its path."""

    name: str
    files: tuple[tuple[str, FileInfo], ...]


def _meant(target: Target, storage: Storage) -> tuple[Meant, ...]:
    """Return what is read, as it was when it was chosen."""
    chosen = target.selection
    if chosen is not None:
        return chosen.members
    with suppress(NotFoundError), BundleReader(target.prefix, storage) as reader:
        paths = [reader.index_path, *map(reader.shard_path, range(reader.num_shards))]
        found = [(path, info) for path in paths if (info := storage.stat(path)) is not None]
        return (_Bundle(os.path.basename(target.prefix), tuple(found)),)
    return ()


def open_view(
    target: Target,
    options: RestoreOptions | None = None,
    runner: Runner | None = None,
    storage: Storage = LOCAL,
    *,
    damaged: bool = False,
) -> View:
    """Look at a target; reads indexes, and for the nested check keys of increments.

    Parameters
    ----------
    target
        From `find_target`, with the same options.
    runner
        Runs the reading of keys; its progress is told of it.
    damaged
        Look at a bundle as it is though it lacks shards, or parts of them: what is read of
        those raises then.

    Raises
    ------
    DamageError
        An index or a shard contradicts itself.
    UsageError
        A state cannot be `damaged`: a PS would not restore it.
    UnprovenError, AmbiguousError
        A check of the restore rules does not hold.
    """
    if damaged and target.selection is not None:
        raise UsageError(
            f"{target.text} is a state, and no PS restores one that is damaged",
            remedy=f"give the prefix of a bundle, such as {target.selection.base.prefix}",
        )
    options, runner = options or RestoreOptions(), runner or Runner()
    return View(target, options, runner, storage, damaged=damaged)
