"""The rows of some keys, and where each comes from: the library behind `ckptctl get`.

Only the key columns and the rows asked for are read. A checksum covers a whole tensor, so
what is shown is unchecked, unless `check` asks for those tensors to be read as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import NotFoundError, RefusedError
from ckptctl.inspect.stats import decode
from ckptctl.inspect.tensors import Piece, TensorView
from ckptctl.inspect.view import MemberView, PartView, RawPart, StatePart, TableView, View
from ckptctl.restore import CopyJob, RowsState
from ckptctl.restore.column import row_bytes
from ckptctl.restore.columns import OPTIONAL_COLUMNS
from ckptctl.restore.join import bucket_of, is_in
from ckptctl.tables import is_slot_name

__all__ = ["Cell", "Found", "Lookup", "look_up", "tables_of"]


#: Tensors from which rows were read, each once.
Used: TypeAlias = "dict[tuple[int, str], tuple[BundleData, str, Entry]]"


@dataclass(frozen=True)
class Cell:
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


@dataclass
class Found:
    """What is known of one key.

    Attributes
    ----------
    state
        `admitted` (or a row of a variable), `filtered`, or `unknown`.
    freq, version
        None where the table does not keep them.
    cells
        Member by its slot ("" the primary) to its row; a slot may lack one (DeepRec #1023).
    """

    key: int
    state: str = "unknown"
    freq: int | None = None
    version: int | None = None
    cells: dict[str, Cell] = field(default_factory=dict)

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
            "slots": {slot: cell.document() for slot, cell in self.cells.items() if slot},
        }


@dataclass
class Lookup:
    """The answer: one `Found` for each key, in the order asked."""

    target: dict[str, object]
    words: str
    table: str
    rows: list[Found]
    checked: bool
    notes: list[str] = field(default_factory=list)

    @property
    def unknown(self) -> list[int]:
        """Keys that are neither admitted nor filtered."""
        return [row.key for row in self.rows if row.state == "unknown"]

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "target": self.target,
            "table": self.table,
            "checked": self.checked,
            "rows": [row.document() for row in self.rows],
            "notes": self.notes,
        }


def tables_of(view: View) -> list[str]:
    """Return the names that `look_up` takes: tables, and variables that have rows."""
    names = [table.name for table in view.tables]
    return sorted([*names, *(each.name for each in view.tensors if _has_rows(each))])


def look_up(view: View, table: str, keys: Iterable[int], *, check: bool = False) -> Lookup:
    """Return the rows of keys.

    Parameters
    ----------
    table
        A table, or a normal variable, whose keys are its global row numbers.
    keys
        In any order; one that is asked for twice is answered twice.
    check
        Read each tensor that a row comes from as a whole, and compare its checksum.

    Raises
    ------
    NotFoundError
        There is no such table.
    DamageError
        A key column, or with `check` a tensor, does not match its checksum.
    """
    asked = list(keys)
    inside = [key for key in asked if -(1 << 63) <= key < 1 << 63]
    wanted = np.unique(np.array(inside, np.int64))
    found = {int(key): Found(int(key)) for key in wanted}
    used: Used = {}
    own = view.table(table)
    if own is not None:
        _in_table(own, wanted, found, used)
    else:
        tensors = {each.name: each for each in view.tensors}
        variable = tensors.get(table)
        if variable is None or not _has_rows(variable):
            near = get_close_matches(table, tables_of(view), n=3)
            raise NotFoundError(
                f"no table {table!r}" if variable is None else f"{table!r} has no rows",
                file=view.target.prefix,
                remedy=f"did you mean {' or '.join(near)}?" if near else "ckptctl show lists them",
            )
        _in_variable(variable, "", found, used)
        for name, slot in _slots(table, tensors):
            if tensors[name].shape[:1] == variable.shape[:1]:
                _in_variable(tensors[name], slot, found, used)
    if check:
        view.runner.progress.start("checking", sum(entry.size for _, _, entry in used.values()))
        for data, name, entry in used.values():
            data.check_tensor(name, entry, view.runner.progress.advance)
    rows = [found.get(key, Found(key)) for key in asked]
    return Lookup(view.target.document(), view.target.words, table, rows, check, list(view.notes))


def _in_table(
    table: TableView,
    wanted: np.ndarray,
    found: dict[int, Found],
    used: Used,
) -> None:
    """Look keys up in the parts that they belong to."""
    own = bucket_of(wanted) % table.num_parts if table.kind == "table" else wanted * 0
    for member in table.members:
        for number, part in enumerate(member.parts):
            keys = wanted[own == number]
            if len(keys):
                _in_part(part, member, keys, found, used)


def _in_part(
    part: PartView,
    member: MemberView,
    keys: np.ndarray,
    found: dict[int, Found],
    used: Used,
) -> None:
    for key, place in _places(part, keys):
        row = found[key]
        value, file, offset = place.read("values", used)
        row.cells[member.slot] = Cell(value, file, offset, place.data.prefix)
        if not member.slot:
            row.state = "admitted"
            row.freq, row.version = (
                place.number(what, part, used) for what in ("freqs", "versions")
            )
    if not member.slot:
        missing = np.array([key for key in keys.tolist() if not found[key].cells], np.int64)
        if len(missing) and part.filtered:
            _filtered(part, missing, found)


@dataclass(frozen=True)
class _Place:
    """A row of an EV in some bundle."""

    data: BundleData
    name: str
    entries: Any
    row: int
    head: str

    def read(self, column: str, used: Used) -> tuple[np.ndarray, str, int]:
        """Return the row of a column, its file and its offset."""
        name = f"{self.name}{self.head}{column}"
        return _read(self.data, name, self.entries[f"{self.head}{column}"], self.row, used)

    def number(
        self,
        column: str,
        part: PartView,
        used: Used,
    ) -> int | None:
        """Return a freq or version, None where the table does not keep it."""
        entry = self.entries.get(f"{self.head}{column}")
        if isinstance(part, StatePart) and f"-{column}" not in part.state.job.present:
            return None
        if entry is None or not entry.rows:
            return 0 if isinstance(part, StatePart) and f"-{column}" in OPTIONAL_COLUMNS else None
        return int(self.read(column, used)[0].reshape(-1)[0])


def _places(part: PartView, keys: np.ndarray) -> Iterator[tuple[int, _Place]]:
    """Return the keys that a part has, and where."""
    if isinstance(part, StatePart):
        state = part.state
        incoming, old = state.locate(keys)
        for key, new, row in zip(keys.tolist(), incoming.tolist(), old.tolist(), strict=True):
            if new >= 0:
                data, ev, at = state.source_of(new)
                yield key, _Place(data, ev.name, ev.entries, at, "-sparse_incr_")
            elif row >= 0:
                ev = state.ev
                yield key, _Place(state.job.full, ev.name, ev.entries, row, "-")
        return
    assert isinstance(part, RawPart)
    column = part.column("keys")
    if column is None:
        return
    stream = column.stream()
    for at in range(0, column.rows, knobs.JOIN_KEYS):
        own = stream.take(min(knobs.JOIN_KEYS, column.rows - at))
        own = own.view(column.entry.dtype.numpy).reshape(-1).astype(np.int64)
        for hit in np.flatnonzero(is_in(own, keys)).tolist():
            place = _Place(part.reader, part.name, part.entries, at + hit, part.head)
            yield int(own[hit]), place
    stream.finish()


def _filtered(part: PartView, missing: np.ndarray, found: dict[int, Found]) -> None:
    """Look for filtered keys, with their freqs and versions."""
    keys = part.column("keys_filtered")
    if keys is None:
        return
    others = {"freq": part.column("freqs_filtered"), "version": part.column("versions_filtered")}
    for at in range(0, keys.rows, knobs.JOIN_KEYS):
        stop = min(at + knobs.JOIN_KEYS, keys.rows)
        own = keys.read(at, stop).view(keys.entry.dtype.numpy).reshape(-1).astype(np.int64)
        for hit in np.flatnonzero(is_in(own, missing)).tolist():
            row = found[int(own[hit])]
            row.state = "filtered"
            for what, column in others.items():
                if column is not None and column.rows:
                    number = column.read(at + hit, at + hit + 1).view("<i8")
                    setattr(row, what, int(number.reshape(-1)[0]))


def _in_variable(
    tensor: TensorView,
    slot: str,
    found: dict[int, Found],
    used: Used,
) -> None:
    """Look rows up in a normal variable; a key is its global row number."""
    if len(tensor.pieces) > 1 and not tensor.cut_in_rows:
        raise RefusedError("a variable that is cut inside its rows", tensor=tensor.name)
    for piece in tensor.pieces:
        first, length = 0, tensor.shape[0]
        if piece.slice is not None:
            first, length = piece.slice.resolve(tensor.shape)[0]
        state = None if isinstance(piece.made, CopyJob) else RowsState(piece.made)
        for key, row in found.items():
            if first <= key < first + length:
                row.state = "admitted"
                row.cells[slot] = _cell(piece, state, key - first, used)


def _cell(
    piece: Piece,
    state: RowsState | None,
    row: int,
    used: Used,
) -> Cell:
    made = piece.made
    data = made.data if isinstance(made, CopyJob) else made.base
    name = made.name if isinstance(made, CopyJob) else made.plan.name
    entry = piece.entry
    source = state.source_of(row) if state is not None else None
    if source is not None:
        data, rows, row = source
        name, entry = f"{rows.name}-sparse_incr_values", rows.values
    value, file, offset = _read(data, name, entry, row, used)
    return Cell(value, file, offset, data.prefix)


def _read(
    data: BundleData,
    name: str,
    entry: Entry,
    row: int,
    used: Used,
) -> tuple[np.ndarray, str, int]:
    width = row_bytes(entry)
    offset = entry.offset + row * width
    raw = data.data_file(name, entry).pread(offset, width)
    if len(raw) != width:
        raise data.past_end(name, entry, offset + len(raw))
    used.setdefault((id(data), name + str(entry.offset)), (data, name, entry))
    value = np.frombuffer(raw, entry.dtype.numpy)
    numbers = decode(entry.dtype, value)
    return (value if numbers is None else numbers), data.shard_path(entry.shard), offset


def _slots(name: str, tensors: dict[str, TensorView]) -> Iterator[tuple[str, str]]:
    for other in sorted(tensors):
        variable, _, last = other.rpartition("/")
        if variable == name and is_slot_name(last) and _has_rows(tensors[other]):
            yield other, last


def _has_rows(tensor: TensorView) -> bool:
    return tensor.numeric and len(tensor.shape) >= 1 and bool(tensor.pieces)


def _number(x: object) -> object:
    if isinstance(x, float) and not np.isfinite(x):
        return str(x)
    return [x.real, x.imag] if isinstance(x, complex) else x
