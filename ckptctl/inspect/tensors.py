"""The tensors of a state or a bundle that are no part of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from ckptctl.bundle import BundleReader, DType, Entry, TensorSlice
from ckptctl.bundle.slices import decode_slice_key
from ckptctl.errors import RefusedError
from ckptctl.restore import CopyJob, MemberTensor, RowsJob, RowsState, State
from ckptctl.restore.column import copy_checked
from ckptctl.restore.plans import OWN_NAMES

__all__ = ["Piece", "TensorView", "bundle_tensors", "state_tensors"]

#: Most bytes of a tensor that is cut along several axes, to be put together in memory.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Piece:
    """A whole tensor, or one slice of it, and where its bytes come from."""

    slice: TensorSlice | None
    entry: Entry
    made: CopyJob | RowsJob

    @property
    def file(self) -> str:
        """Data shard that holds it, or most of its rows."""
        data = self.made.data if isinstance(self.made, CopyJob) else self.made.base
        return data.shard_path(self.entry.shard)

    def chunks(self) -> Iterator[np.ndarray]:
        """Return the elements as flat arrays; the last step checks them."""
        made = self.made
        kind = self.entry.dtype.numpy
        if isinstance(made, CopyJob):
            pieces: Iterable[memoryview] = copy_checked(made.data, made.name, made.entry)
        else:
            column = RowsState(made).column()
            for number, rows in made.plan.incoming:  # these are read out of order
                name = f"{rows.name}-sparse_incr_values"
                made.increments[number].check_tensor(name, rows.values)
            pieces = column.pieces()
        width = kind.itemsize
        rest = b""
        for piece in pieces:
            # A piece need not end where an element does.
            whole = (len(rest) + len(piece)) // width * width
            raw = rest + bytes(piece) if rest else bytes(piece)
            rest = raw[whole:]
            if whole:
                yield np.frombuffer(raw[:whole] if rest else raw, kind)


@dataclass(frozen=True)
class TensorView:
    """One tensor that is no part of a table.

    Attributes
    ----------
    name
        Its name.
    dtype, shape
        Of the whole tensor.
    pieces
        The tensor, or its slices in the order of their offsets; none for a hash table
        that only lists slices.
    is_hash_table
        One of DeepRec's hash tables: its bytes are carried, never decoded.
    source
        Prefix of the bundle that holds it, or most of its rows.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    is_hash_table: bool
    source: str

    @property
    def nbytes(self) -> int:
        """Bytes in data shards."""
        return sum(piece.entry.size for piece in self.pieces)

    @property
    def elements(self) -> int:
        """Elements of the whole tensor."""
        return prod(self.shape)

    @property
    def shards(self) -> tuple[int, ...]:
        """Data shards that hold it, ascending."""
        return tuple(sorted({piece.entry.shard for piece in self.pieces}))

    @property
    def numeric(self) -> bool:
        """Whether `flat` gives its elements as numbers."""
        return not self.is_hash_table and self.dtype.size > 0

    @property
    def too_large(self) -> bool:
        """Whether `flat` refuses it: it is cut along several axes, and above 1 GiB."""
        return not self.cut_in_rows and self.elements * self.dtype.size > _MOST_BYTES

    def flat(self) -> Iterator[np.ndarray]:
        """Return the elements in row-major order as flat arrays, checked.

        bfloat16 and 8-bit floats come as unsigned integers of their width.

        Raises
        ------
        RefusedError
            Strings, variants and hash tables have no numbers; a tensor above 1 GiB that is
            cut along several axes would not fit.
        """
        if not self.numeric:
            raise RefusedError(f"{self.dtype.name} has no numbers", tensor=self.name)
        if not self.cut_in_rows:
            yield self._assembled()
            return
        for piece in self.pieces:
            yield from piece.chunks()

    def strings(self) -> Iterator[bytes]:
        """Return the elements of a string tensor one by one; the last step checks them."""
        for piece in self.pieces:
            made = piece.made
            if not isinstance(made, CopyJob) or self.dtype.name != "string":
                raise RefusedError(f"{self.dtype.name} has no strings", tensor=self.name)
            yield from made.data.iter_strings(made.name, made.entry)

    @property
    def cut_in_rows(self) -> bool:
        """Whether the slices one after the other are the tensor in row-major order."""
        return all(
            piece.slice is None or piece.slice.resolve(self.shape)[1:] == self._whole[1:]
            for piece in self.pieces
        )

    @property
    def _whole(self) -> tuple[tuple[int, int], ...]:
        return tuple((0, size) for size in self.shape)

    def _assembled(self) -> np.ndarray:
        if self.too_large:
            raise RefusedError(
                "a tensor cut along several axes is too large to be put together",
                tensor=self.name,
                expected=f"<= {_MOST_BYTES} bytes",
                found=self.elements * self.dtype.size,
            )
        array = np.zeros(self.shape, self.dtype.numpy)
        for piece in self.pieces:
            assert piece.slice is not None
            box = tuple(slice(st, st + ln) for st, ln in piece.slice.resolve(self.shape))
            own = [np.empty(0, self.dtype.numpy), *piece.chunks()]
            array[box] = np.concatenate(own).reshape(array[box].shape)
        return array.reshape(-1)


def state_tensors(state: State) -> tuple[TensorView, ...]:
    """Return the tensors of a state, by name."""
    found: dict[str, list[Piece]] = {}
    for tensor in state.tensors():
        if isinstance(tensor.made, MemberTensor):
            continue
        slice_ = decode_slice_key(tensor.key)[1] if tensor.key[:1] == b"\0" else None
        found.setdefault(tensor.name, []).append(Piece(slice_, tensor.entry, tensor.made))
    sources = {plan.name: plan.source for plan in state.plain}
    sources |= {plan.name: plan.source for plan in state.rows}
    for name, entry in state.full.tensors.items():
        if entry.is_hash_table and name not in state.catalogue.ev_sets:
            found.setdefault(name, [])
    views = []
    for name in sorted(found):
        source = sources.get(name, -1)
        reader = state.full if source < 0 else state.increments[source]
        views.append(_view(reader, name, found[name]))
    return tuple(views)


def bundle_tensors(reader: BundleReader, names: Iterable[str]) -> tuple[TensorView, ...]:
    """Return tensors of a bundle as they are, by name."""
    pieces: dict[str, list[Piece]] = {name: [] for name in names if not name.startswith(OWN_NAMES)}
    for _, name, slice_, entry in reader.slice_keys():
        if name in pieces:
            pieces[name].append(Piece(slice_, entry, CopyJob(reader, name, entry)))
    for name, own in pieces.items():
        entry = reader.entry(name)
        if entry.has_data:
            own.append(Piece(None, entry, CopyJob(reader, name, entry)))
    return tuple(_view(reader, name, pieces[name]) for name in sorted(pieces))


def _view(reader: BundleReader, name: str, pieces: list[Piece]) -> TensorView:
    entry = reader.entry(name)
    if not entry.is_hash_table:
        pieces.sort(key=lambda piece: piece.slice.resolve(entry.shape) if piece.slice else ())
    return TensorView(
        name, entry.dtype, entry.shape, tuple(pieces), entry.is_hash_table, reader.prefix
    )
