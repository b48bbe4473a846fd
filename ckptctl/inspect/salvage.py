"""What is whole of a damaged bundle: the rest is left out, and named.

Every tensor is read once and compared with its checksum. Of a part of a table that lost its
keys or values nothing is left; of one that lost another column, its rows without that column.
The slices of a variable that is cut are whole or not each by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ckptctl.bundle import BundleData, Entry
from ckptctl.errors import CkptctlError, DamageError
from ckptctl.inspect.formats.sources import Skipped
from ckptctl.inspect.tensors import Piece, TensorView, box_words
from ckptctl.inspect.view import TableView, View
from ckptctl.restore.keys import read_offsets
from ckptctl.running import Report, batches, ignore
from ckptctl.tables import EvSet, RowSet

__all__ = ["Whole", "leave_out_damaged"]

#: Ends of the suffixes without which a row is none.
_NEEDED = ("-keys", "-values", "_keys", "_values")
#: Suffix to the attribute of a set that counts the rows it bounds.
_OFFSETS = {
    "-partition_offset": "rows",
    "-incr_partition_offset": "rows",
    "-partition_filter_offset": "filtered",
}
#: Where the bytes of an entry are: shard and offset tell those of a name apart.
_Place = tuple[str, int, int]


class _LookTask(NamedTuple):
    """Checks tensors, and goes on after what is damaged."""

    data: BundleData
    tensors: tuple[tuple[str, Entry], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(entry.size for _, entry in self.tensors)

    def run(self, report: Report = ignore) -> dict[_Place, str]:
        """Return why tensors cannot be trusted, of those that cannot."""
        reasons = {_place(*each): self._reason(*each, report) for each in self.tensors}
        return {place: reason for place, reason in reasons.items() if reason is not None}

    def _reason(self, name: str, entry: Entry, report: Report) -> str | None:
        try:
            self.data.check_tensor(name, entry, report)
        except CkptctlError as error:
            return f"{error.message} ({error.file})"
        except OSError as error:  # a failing disk
            return f"{error.strerror} ({self.data.shard_path(entry.shard)})"
        return None


class Whole(NamedTuple):
    """What is whole, and what was left out: parts, columns, slices and tensors, and why."""

    tables: tuple[TableView, ...]
    tensors: tuple[TensorView, ...]
    left_out: tuple[Skipped, ...]


def leave_out_damaged(
    view: View, tables: Sequence[TableView], tensors: Sequence[TensorView]
) -> Whole:
    """Read tables and tensors of a view, and return what is whole of them; the view stays.

    Parameters
    ----------
    view
        Of a bundle, opened as `damaged`.
    tables, tensors
        What of it is meant.
    """
    entries = [
        (own.name + suffix, entry)
        for table in tables
        for _, _, sets in table.shapes
        for own in sets
        for suffix, entry in own.entries.items()
    ]
    entries += [(tensor.name, each.entry) for tensor in tensors for each in tensor.pieces]
    view.runner.progress.start("checking", sum(entry.size for _, entry in entries))
    tasks = ((None, _LookTask(view.reader, own)) for own in batches(entries, lambda x: x[1].size))
    damaged: dict[_Place, str] = {}
    for _, found in view.runner.map(tasks):
        damaged |= found
    look = _Look(view, damaged)
    whole = tuple(look.tables(tables)), tuple(look.tensors(tensors))
    return Whole(*whole, tuple(look.left_out))


class _Look:
    """Goes over what is in a view, and names what it leaves out."""

    def __init__(self, view: View, damaged: Mapping[_Place, str]) -> None:
        self.left_out: list[Skipped] = []
        self._view = view
        self._damaged = damaged

    def tables(self, tables: Sequence[TableView]) -> Iterator[TableView]:
        """Return the tables of which anything is left."""
        for table in tables:
            shapes = [(name, slot, tuple(self._parts(sets))) for name, slot, sets in table.shapes]
            kept = [shape for shape in shapes if shape[2]]
            if shapes[0][2]:
                yield TableView(table.name, table.kind, kept, self._view)
                continue
            for _, _, sets in kept:
                for own in sets:
                    self._leave(own.name, f"nothing is left of {table.name}, whose slot it is")

    def tensors(self, tensors: Sequence[TensorView]) -> Iterator[TensorView]:
        """Return the tensors that are whole, and of those that are not their whole slices."""
        for tensor in tensors:
            pieces = tensor.pieces
            reasons = [self._reason(tensor.name, piece.entry) for piece in pieces]
            if not any(reasons) and tensor.covered:
                yield tensor
                continue
            if not tensor.covered:
                self._leave(tensor.name, "slices of it are missing in the index")
            for piece, reason in zip(pieces, reasons, strict=True):
                name = _name(tensor, piece)
                if reason is not None:
                    self._leave(name, reason)
                else:
                    alone = (piece._replace(slice=None),)
                    yield TensorView(self._view.reader, name, piece.entry, alone)

    def _parts(self, sets: Sequence[EvSet | RowSet]) -> Iterator[EvSet | RowSet]:
        """Return what is left of the parts of a member."""
        like: EvSet | RowSet | None = None
        for own in sets:
            bad = {
                suffix: reason
                for suffix, entry in own.entries.items()
                if (reason := self._reason(own.name + suffix, entry)) is not None
            }
            lost = (
                [own.problem]
                if own.problem
                else [reason for suffix, reason in bad.items() if suffix.endswith(_NEEDED)]
            )
            if not lost and like is not None and _kind(own) != _kind(like):
                lost = [f"its rows are not like those of {like.name}"]
            if lost:
                self._leave(own.name, lost[0])
                continue
            like = like or own
            if isinstance(own, EvSet):
                bad |= {
                    suffix: reason
                    for suffix in _OFFSETS
                    if suffix in own.entries
                    and suffix not in bad
                    and (reason := self._offset_reason(own, suffix)) is not None
                }
                own = own._replace(
                    entries={suffix: e for suffix, e in own.entries.items() if suffix not in bad}
                )
            for suffix, reason in bad.items():
                self._leave(own.name + suffix, reason)
            yield own

    def _offset_reason(self, own: EvSet, suffix: str) -> str | None:
        """Return why offsets mean nothing, though they match their checksum, or None."""
        try:
            read_offsets(self._view.reader, own, suffix, getattr(own, _OFFSETS[suffix]))
        except DamageError as error:
            return error.message
        return None

    def _reason(self, name: str, entry: Entry) -> str | None:
        return self._damaged.get(_place(name, entry))

    def _leave(self, name: str, reason: str) -> None:
        self.left_out.append(Skipped(name, reason))


def _place(name: str, entry: Entry) -> _Place:
    return name, entry.shard, entry.offset


def _kind(own: EvSet | RowSet) -> tuple[object, ...]:
    """Return what rows of one member have in common."""
    return own.keys.dtype, own.values.dtype, own.values.shape[1:]


def _name(tensor: TensorView, piece: Piece) -> str:
    """Return what a slice is called that is exported alone: `name[0:10, 0:4]`."""
    if piece.slice is None or tensor.is_hash_table:
        return tensor.name
    return tensor.name + box_words(piece.slice.resolve(tensor.shape))
