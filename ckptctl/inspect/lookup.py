"""The rows of some keys, and where each comes from: the library behind `ckptctl get`.

Only the keys that share a bucket with those asked for are read, and their rows: a thousand
keys cost the same whatever the size of the rows. A checksum covers a whole tensor, so what is
shown is unchecked, unless `check` asks for those tensors to be read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.arguments import whole_number
from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import NotFoundError, RefusedError, UsageError
from ckptctl.inspect.lookup_names import cut_inside, has_rows, in_slices, not_there, slots_of
from ckptctl.inspect.lookup_rows import Cells, Numbers, Reading
from ckptctl.inspect.parts import RawPart, StatePart
from ckptctl.inspect.tensors import TensorView
from ckptctl.inspect.view import TableView, View
from ckptctl.restore import CopyJob, RowsState
from ckptctl.restore.asked import Answer, AskTask, Places
from ckptctl.restore.column import row_bytes
from ckptctl.restore.find import Wanted
from ckptctl.restore.keys import bucket_of
from ckptctl.restore.state import State
from ckptctl.tables import EvSet, RowSet

__all__ = ["STATES", "Cell", "Found", "Lookup", "int64_keys", "look_up"]

#: What a key can be, by the number in `Lookup.state`.
STATES = ("unknown", "filtered", "admitted")


class Cell(NamedTuple):
    """The row of one member: its value, and where it stands.

    `offset` is in bytes of `file`; `checkpoint` is the prefix of the bundle.
    """

    value: np.ndarray
    file: str
    offset: int
    checkpoint: str

    def document(self) -> dict[str, object]:
        """Return it as JSON; NaN and infinities as words."""
        return {
            "value": [_number(x) for x in self.value.reshape(-1).tolist()],
            "file": self.file,
            "offset": self.offset,
            "checkpoint": self.checkpoint,
        }


class Found(NamedTuple):
    """What is known of one key.

    Attributes
    ----------
    state
        `admitted` (or a row of a variable), `filtered`, or `unknown`.
    freq, version
        None where the table does not keep them.
    cells
        Member by its slot ("" the primary) to its row.
    lacks
        Slots of the table without a row for a key that is admitted (DeepRec #1023).
    """

    key: int
    state: str
    freq: int | None
    version: int | None
    cells: dict[str, Cell]
    lacks: list[str]

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        primary = self.cells.get("")
        return {
            "key": self.key,
            "found": self.state != "unknown",
            "state": self.state,
            "freq": self.freq,
            "version": self.version,
            **(primary.document() if primary is not None else {"value": None}),
            "slots": {
                **{slot: cell.document() for slot, cell in self.cells.items() if slot},
                **dict.fromkeys(self.lacks),
            },
        }


@dataclass
class Lookup:
    """The answer, an array item for each key, in the order asked.

    Attributes
    ----------
    target, words
        What was looked at, and that in a line.
    keys
        int64[n].
    state
        uint8[n]: index into `STATES`.
    freqs, versions
        Of admitted and of filtered keys, where the table keeps them.
    cells
        The rows of each member by its slot, "" the primary's; one without any is left out.
    places
        (data shard, prefix of its bundle) that `cells` speak of.
    checked
        Whether all tensors that the answer rests on were compared with their checksums.
    notes
        What a user should know.
    slots
        Of the table, also one that has no row here.
    """

    target: dict[str, object]
    words: str
    table: str
    keys: np.ndarray
    state: np.ndarray
    freqs: Numbers
    versions: Numbers
    cells: dict[str, Cells]
    places: Sequence[tuple[str, str]]
    checked: bool
    notes: list[str] = field(default_factory=list)
    slots: Sequence[str] = ()

    @cached_property
    def rows(self) -> list[Found]:
        """The same as one object for each key."""
        found = [
            Found(key, STATES[state], freq, version, {}, [])
            for key, state, freq, version in zip(
                self.keys.tolist(),
                self.state.tolist(),
                self.freqs.list(),
                self.versions.list(),
                strict=True,
            )
        ]
        for slot, cells in self.cells.items():
            for at in np.flatnonzero(cells.there).tolist():
                file, checkpoint = self.places[int(cells.place[at])]
                cell = Cell(cells.values[at], file, int(cells.offset[at]), checkpoint)
                found[at].cells[slot] = cell
        for row in found if self.slots else ():
            if row.state == "admitted":
                row.lacks.extend(slot for slot in self.slots if slot not in row.cells)
        return found

    @property
    def unknown(self) -> list[int]:
        """Keys that are neither admitted nor filtered."""
        unknown: list[int] = self.keys[self.state == 0].tolist()
        return unknown

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "target": self.target,
            "table": self.table,
            "checked": self.checked,
            "rows": [row.document() for row in self.rows],
            "notes": self.notes,
        }


def look_up(
    view: View,
    table: str,
    keys: Iterable[int] | np.ndarray,
    *,
    check: bool = False,
    survey: bool = False,
) -> Lookup:
    """Return the rows of keys.

    Parameters
    ----------
    table
        A table, or a normal variable, whose keys are its global row numbers.
    keys
        int64, in any order; one that is asked for twice is answered twice.
    check
        Read each tensor that the answer rests on as a whole, and compare its checksum.
    survey
        Read all keys of the table, and what increments bring to it, and compare their
        checksums, but not those of the other rows. Part of `check`, and done where a key or
        the row of a slot is not found: rows that a PS skips are then told of in the notes.

    Raises
    ------
    NotFoundError
        There is no such table.
    UsageError
        A key beyond int64, or no whole number.
    TableError, EntryBoundsError, TensorChecksumError
        Damage that was met; with `check`, any in the tensors concerned.
    """
    asked = int64_keys(keys)
    wanted, of = np.unique(asked, return_inverse=True)
    asking = _Asking(view, wanted, check or survey)
    own = view.table(table)
    with ExitStack() as stack:
        if own is not None:
            asking.table(own)
        elif table in in_slices(view):
            asking.variables(table, stack.enter_context(_applied(view, table)), brought=True)
        else:
            asking.variables(table, view)
        if check:
            asking.reading.check(view.runner)
    return Lookup(
        view.target.document(),
        view.target.words,
        table,
        asked,
        asking.state[of],
        asking.freqs.take(of),
        asking.versions.take(of),
        {slot: cells.take(of) for slot, cells in asking.cells.items() if cells.there.any()},
        asking.reading.places,
        check,
        list(dict.fromkeys(view.notes)),
        own.slots if own is not None else (),
    )


def _applied(view: View, table: str) -> View:
    try:
        return view.applied()
    except NotFoundError as error:
        raise RefusedError(
            f"{error.message}, which says where each slice of the variable begins",
            file=error.file,
            tensor=table,
            remedy=f"{table}/part_0 and the like are the rows of one slice, in its own numbers",
        ) from error


def int64_keys(keys: Iterable[int] | np.ndarray) -> np.ndarray:
    """Return keys as int64[n]; raise `UsageError` for what can be none."""
    if isinstance(keys, np.ndarray) and keys.dtype.kind == "i":
        return keys.reshape(-1).astype(np.int64)
    try:
        return np.array([whole_number("key", key) for key in keys], np.int64)
    except OverflowError:
        raise UsageError("a key beyond int64", expected="-2^63 to 2^63 - 1") from None


class _Source(NamedTuple):
    """A set in some bundle: `head` and a column's name are the suffix of a tensor."""

    data: BundleData
    ev: EvSet | RowSet
    head: str


class _Asking:
    """Collects the answer for keys that ascend, each once."""

    def __init__(self, view: View, wanted: np.ndarray, survey: bool) -> None:
        self._view = view
        self._wanted = wanted
        self._survey = survey
        self.reading = Reading()
        self.state = np.zeros(len(wanted), np.uint8)
        self.freqs, self.versions = Numbers.none(len(wanted)), Numbers.none(len(wanted))
        self.cells: dict[str, Cells] = {}

    def table(self, table: TableView) -> None:
        """Look keys up in the parts that they belong to."""
        wanted = self._wanted
        part_of = bucket_of(wanted) % table.num_parts if table.kind == "table" else wanted * 0
        state = self._view.state
        if state is None:
            for number in range(table.num_parts):
                self._raw(table, number, np.flatnonzero(part_of == number))
            return
        number = self._view.tables.index(table)
        answers = None if self._survey else self._ask(state, number, part_of, None)
        if answers is None:
            parts = table.primary.parts
            dropped = [part.state.kept.dropped for part in parts if isinstance(part, StatePart)]
            answers = self._ask(state, number, part_of, dropped)
        for part, answer in sorted((answers or {}).items()):
            self._answered(table, state, number, part, np.flatnonzero(part_of == part), answer)
        admitted, none = self.state == 2, Cells.none(len(wanted))
        slots = [self.cells.get(slot, none).there for slot in table.slots]
        if (self.state == 0).any() or any((admitted & ~there).any() for there in slots):
            _ = table.members  # a survey notes rows that a PS skips, and members that differ

    def _ask(
        self, state: State, number: int, part_of: np.ndarray, dropped: list[np.ndarray] | None
    ) -> dict[int, Answer] | None:
        """Find the places; None where that takes a survey."""
        tasks = [
            (
                part,
                AskTask(
                    state.part_job(number, part),
                    self._wanted[part_of == part],
                    None if dropped is None else dropped[part],
                ),
            )
            for part in range(state.tables[number].num_parts)
            # What is dropped from one part says whether the state can be restored at all.
            if dropped is None or (part_of == part).any()
        ]
        found = dict(self._view.runner.map(tasks))
        known = {part: answer for part, answer in found.items() if answer is not None}
        return known if len(known) == len(found) else None

    def _answered(
        self,
        table: TableView,
        state: State,
        number: int,
        part: int,
        own: np.ndarray,
        answer: Answer,
    ) -> None:
        present = state.part_job(number, part).present
        for (_, slot, _), places in zip(table.shapes, answer.members, strict=True):
            if len(own):
                self._member(slot, own, places, present)
        filtered = np.flatnonzero(answer.filtered >= 0)
        ev = table.shapes[0][2][part]
        if not isinstance(ev, EvSet):
            return
        if "-keys_filtered" in ev.entries and ev.entries["-keys_filtered"].rows and len(own):
            name = ev.name + "-keys_filtered"  # that a key is unknown rests on it
            self.reading.use(state.full, name, ev.entries["-keys_filtered"])
        if not len(filtered):
            return
        self.state[own[filtered]] = 1
        rows = answer.filtered[filtered]
        for numbers, suffix in (
            (self.freqs, "-freqs_filtered"),
            (self.versions, "-versions_filtered"),
        ):
            entry = ev.entries.get(suffix)
            if entry is not None and entry.rows:
                read = self.reading.rows(state.full, ev.name + suffix, entry, rows)
                numbers.put(own[filtered], read[:, 0])

    def _member(self, slot: str, own: np.ndarray, places: Places, present: frozenset[str]) -> None:
        for at, (data, ev, is_increment) in enumerate(places.sources):
            here = np.flatnonzero(places.source_of == at)
            if not len(here):
                continue
            source = _Source(data, ev, "-sparse_incr_" if is_increment else "-")
            self._rows(slot, own[here], source, places.row_of[here])
            if slot:
                continue
            for numbers, name in ((self.freqs, "freqs"), (self.versions, "versions")):
                if f"-{name}" in present:
                    # A table keeps a column in all places or in none (restore.md, Columns).
                    numbers.put(own[here], 0)
                    self._numbers(numbers, name, own[here], source, places.row_of[here])

    def _rows(self, slot: str, own: np.ndarray, source: _Source, rows: np.ndarray) -> None:
        name = f"{source.head}values"
        self._slice(slot, own, (source.data, source.ev.name + name, source.ev.entries[name]), rows)

    def _slice(
        self, slot: str, own: np.ndarray, tensor: tuple[BundleData, str, Entry], rows: np.ndarray
    ) -> None:
        data, name, entry = tensor
        values = self.reading.rows(data, name, entry, rows)
        cells = self.cells.setdefault(slot, Cells.none(len(self._wanted)))
        offsets = entry.offset + rows * row_bytes(entry)
        cells.put(own, values, self.reading.place(data, entry), offsets)
        if not slot:
            self.state[own] = 2

    def _numbers(
        self, numbers: Numbers, what: str, own: np.ndarray, source: _Source, rows: np.ndarray
    ) -> None:
        name = f"{source.head}{what}"
        entry = source.ev.entries.get(name)
        if entry is not None and entry.rows:
            read = self.reading.rows(source.data, source.ev.name + name, entry, rows)
            numbers.put(own, read[:, 0])

    def _raw(self, table: TableView, number: int, own: np.ndarray) -> None:
        """Look keys up in an increment as it is: all its keys are read, and checked."""
        wanted = Wanted(self._wanted[own])
        for member in table.members if len(own) else ():
            part = member.parts[number]
            column = part.column("keys")
            assert isinstance(part, RawPart)
            if column is None:
                continue
            at, rows = [], []
            stream = column.stream()
            for first in range(0, column.rows, knobs.JOIN_KEYS):
                keys = stream.take(min(knobs.JOIN_KEYS, column.rows - first))
                keys = keys.view(column.entry.dtype.numpy).reshape(-1).astype(np.int64)
                hits, found = wanted.find(keys)
                at.append(own[hits])
                rows.append(found + first)
            stream.finish()
            if not sum(map(len, at)):
                continue
            source = _Source(part.reader, part.own, part.head)
            here, places = np.concatenate(at), np.concatenate(rows)
            self._rows(member.slot, here, source, places)
            if not member.slot:
                self._numbers(self.freqs, "freqs", here, source, places)
                self._numbers(self.versions, "versions", here, source, places)

    def variables(self, name: str, view: View, *, brought: bool = False) -> None:
        """Look rows up in a normal variable and its slots; a key is a global row number.

        Of those that were `brought` by an increment, or of all.
        """
        tensors = {each.name: each for each in view.tensors}
        variable = tensors.get(name)
        if variable is None or not has_rows(variable):
            raise not_there(self._view, name)
        self._variable(variable, "", brought)
        for other, slot in slots_of(name, tensors):
            if tensors[other].shape[:1] == variable.shape[:1]:
                self._variable(tensors[other], slot, brought)

    def _variable(self, tensor: TensorView, slot: str, only_brought: bool) -> None:
        if len(tensor.pieces) > 1 and not tensor.cut_in_rows:
            raise cut_inside(self._view, tensor)
        for piece in tensor.pieces:
            first, length = 0, tensor.shape[0]
            if piece.slice is not None:
                first, length = piece.slice.resolve(tensor.shape)[0]
            begin, end = np.searchsorted(self._wanted, (first, first + length))
            own = np.arange(begin, end)
            if not len(own):
                continue
            rows = self._wanted[begin:end] - first
            made = piece.made
            if isinstance(made, CopyJob):
                if not only_brought:
                    self._slice(slot, own, (made.data, made.name, piece.entry), rows)
                continue
            which, rows = RowsState(made).locate(rows)
            for at in np.unique(which).tolist():
                if at < 0 and only_brought:
                    continue
                here = np.flatnonzero(which == at)
                if at < 0:
                    taken = (made.base, made.plan.name, piece.entry)
                else:
                    number, brought = made.plan.incoming[at]
                    tensor_name = f"{brought.name}-sparse_incr_values"
                    taken = (made.increments[number], tensor_name, brought.values)
                self._slice(slot, own[here], taken, rows[here])


def _number(x: object) -> object:
    if isinstance(x, float) and not np.isfinite(x):
        return str(x)
    return [_number(x.real), _number(x.imag)] if isinstance(x, complex) else x
