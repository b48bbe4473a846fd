"""The tensors of a state or a bundle that are no part of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from ckptctl.bundle import BundleReader, Entry, TensorSlice
from ckptctl.bundle.slices import decode_slice_key
from ckptctl.errors import RefusedError
from ckptctl.restore import CopyJob, MemberTensor, RowsJob, RowsState, State
from ckptctl.restore.column import copy_checked
from ckptctl.restore.plans import OWN_NAMES
from ckptctl.restore.rows import beyond_end

__all__ = [
    "Piece",
    "TensorView",
    "box_words",
    "bundle_tensors",
    "lacking_slices",
    "skipped_rows",
    "state_tensors",
]

#: Most bytes of a tensor that is cut along several axes, to be put together in memory.
_MOST_BYTES = 1 << 30
#: How many gaps between slices are named.
_MOST_BOXES = 4


class Piece(NamedTuple):
    """A whole tensor, or one slice of it, and where its bytes come from."""

    slice: TensorSlice | None
    entry: Entry
    made: CopyJob | RowsJob

    @property
    def file(self) -> str:
        """Data shard that holds it, or most of its rows."""
        data = self.made.data if isinstance(self.made, CopyJob) else self.made.base
        return data.shard_path(self.entry.shard)

    def chunks(self, skipped: Callable[[int], None]) -> Iterator[np.ndarray]:
        """Return the elements as flat arrays; the last step checks them.

        `skipped` is told how many incoming rows lie beyond its end.
        """
        made = self.made
        kind = self.entry.dtype.numpy
        if isinstance(made, CopyJob):
            pieces: Iterable[memoryview] = copy_checked(made.data, made.name, made.entry)
        else:
            state = RowsState(made)
            skipped(state.skipped)
            column = state.column()
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


class TensorView:
    """One tensor that is no part of a table.

    Attributes
    ----------
    name
        Its name.
    dtype, shape
        Of the whole tensor.
    is_hash_table
        One of DeepRec's hash tables: its bytes are carried, never decoded.
    skipped
        Incoming rows beyond its slices, left out as a PS does: known when `flat` was read,
        or `count_skipped` asked.
    """

    __slots__ = (
        *("_pieces", "_reader", "dtype", "entry"),
        *("is_hash_table", "name", "shape", "skipped"),
    )

    def __init__(
        self,
        reader: BundleReader,
        name: str,
        entry: Entry,
        pieces: tuple[Piece, ...] | None = None,
    ) -> None:
        self.name = name
        self.entry = entry
        self.dtype = entry.dtype
        self.shape = entry.shape
        self.is_hash_table = entry.is_hash_table
        self.skipped = 0
        self._reader = reader
        self._pieces = pieces  # made when they are asked for where the tensor is not cut

    @property
    def source(self) -> str:
        """Prefix of the bundle that holds it, or most of its rows."""
        return self._reader.prefix

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The tensor, or its slices in the order of their offsets; none if it only lists them."""
        if self._pieces is None:
            made = CopyJob(self._reader, self.name, self.entry)
            self._pieces = (Piece(None, self.entry, made),)
        return self._pieces

    @property
    def nbytes(self) -> int:
        """Bytes in data shards."""
        if self._pieces is None:
            return self.entry.size
        return sum(piece.entry.size for piece in self._pieces)

    @property
    def elements(self) -> int:
        """Elements of the whole tensor."""
        return prod(self.shape)

    @property
    def shards(self) -> tuple[int, ...]:
        """Data shards that hold it, ascending."""
        if self._pieces is None:
            return (self.entry.shard,)
        return tuple(sorted({piece.entry.shard for piece in self._pieces}))

    @property
    def offset(self) -> int | None:
        """Where its bytes begin in its data shard, if they are in one piece."""
        if self._pieces is None:
            return self.entry.offset
        return self._pieces[0].entry.offset if len(self._pieces) == 1 else None

    @property
    def slices(self) -> int:
        """Number of slices that it is cut in."""
        if self._pieces is None:
            return 0
        return sum(piece.slice is not None for piece in self._pieces)

    @property
    def covered(self) -> bool:
        """Whether all of its elements are there: slices may be missing."""
        if self._pieces is None or self.is_hash_table:
            return True
        return sum(piece.entry.elements for piece in self._pieces) == self.elements

    @property
    def held(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """The boxes of (start, length) that are there: neighbours are one where one axis is cut."""
        if self.covered:
            return (self._whole,)
        boxes = [piece.slice.resolve(self.shape) for piece in self.pieces if piece.slice]
        axis = self._cut_axis(boxes)
        if axis is None:
            return tuple(boxes)
        joined: list[tuple[tuple[int, int], ...]] = []
        for box in boxes:
            start, length = box[axis]
            if joined and sum(joined[-1][axis]) == start:
                start, before = joined.pop()[axis]
                length += before
            joined.append((*box[:axis], (start, length), *box[axis + 1 :]))
        return tuple(joined)

    @property
    def missing(self) -> str:
        """What slices that are missing held, in words; "" where all is there."""
        if self.covered:
            return ""
        held = self.held
        axis = self._cut_axis(held)
        if axis is None:
            there = sum(piece.entry.elements for piece in self.pieces)
            return f"{self.elements - there} of {self.elements} elements"
        ends = [0, *(sum(box[axis]) for box in held)]
        starts = [*(box[axis][0] for box in held), self.shape[axis]]
        gaps = [(at, start - at) for at, start in zip(ends, starts, strict=True) if start > at]
        around = self._whole
        boxes = [box_words((*around[:axis], gap, *around[axis + 1 :])) for gap in gaps]
        more = f" and {len(boxes) - _MOST_BOXES} more" if len(boxes) > _MOST_BOXES else ""
        return ", ".join(boxes[:_MOST_BOXES]) + more

    def _cut_axis(self, boxes: Sequence[tuple[tuple[int, int], ...]]) -> int | None:
        """Return the one axis along which boxes are less than the whole; None: there are more."""
        whole = self._whole
        axes = {
            at
            for box in boxes
            for at, (own, full) in enumerate(zip(box, whole, strict=True))
            if own != full
        }
        return axes.pop() if len(axes) == 1 else None

    @property
    def numeric(self) -> bool:
        """Whether `flat` gives its elements as numbers."""
        return not self.is_hash_table and self.dtype.size > 0

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number or one string."""
        readable = self.numeric or (self.dtype.name == "string" and not self.is_hash_table)
        return readable and not self.shape

    @property
    def too_large(self) -> bool:
        """Whether `flat` refuses it: it is cut along several axes, and above 1 GiB."""
        return not self.cut_in_rows and self.elements * self.dtype.size > _MOST_BYTES

    def flat(self) -> Iterator[np.ndarray]:
        """Return the elements in row-major order as flat arrays, checked.

        Where slices are missing (`covered`) there are fewer, or zeros among them.
        bfloat16 and 8-bit floats come as unsigned integers of their width.

        Raises
        ------
        RefusedError
            Strings, variants and hash tables have no numbers; a tensor above 1 GiB that is
            cut along several axes would not fit.
        """
        if not self.numeric:
            raise RefusedError(f"{self.dtype.name} has no numbers", tensor=self.name)
        self.skipped = 0
        if not self.cut_in_rows:
            yield self._assembled()
            return
        yield from self._each()

    def present(self) -> Iterator[np.ndarray]:
        """Return the elements that are there as `flat` does, slice by slice in their order.

        So none is refused for its size, and none is made up where slices are missing.
        """
        self.skipped = 0
        yield from self._each()

    def _each(self) -> Iterator[np.ndarray]:
        for piece in self.pieces:
            yield from piece.chunks(self._skip)

    def count_skipped(self) -> None:
        """Learn of `skipped` from the row numbers alone."""
        self.skipped = 0
        for piece in self.pieces if self._pieces is not None else ():
            if isinstance(piece.made, RowsJob):
                self._skip(RowsState(piece.made).skipped)

    def _skip(self, rows: int) -> None:
        self.skipped += rows

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
            own = [np.empty(0, self.dtype.numpy), *piece.chunks(self._skip)]
            array[box] = np.concatenate(own).reshape(array[box].shape)
        return array.reshape(-1)


def skipped_rows(tensors: Iterable[TensorView]) -> list[str]:
    """Say of which tensors incoming rows were skipped, as far as that is known."""
    return [beyond_end(each.name, each.skipped) for each in tensors if each.skipped]


def lacking_slices(tensors: Iterable[TensorView]) -> list[str]:
    """Say of which tensors slices are missing, and in which file."""
    return [
        f"{each.source}.index: slices of {each.name} are missing ({each.missing}): "
        "only what is there counts"
        for each in tensors
        if not each.covered
    ]


def box_words(box: Sequence[tuple[int, int]]) -> str:
    """Return a slice as Python writes it: `[0:10, 0:4]`."""
    return f"[{', '.join(f'{start}:{start + length}' for start, length in box)}]"


def state_tensors(state: State) -> tuple[TensorView, ...]:
    """Return the tensors of a state, by name."""
    views: list[TensorView] = []
    others = []
    for plan in state.plain:
        reader = state.data(plan.source)
        entry = reader.tensors[plan.name]
        if entry.slices or entry.is_hash_table:
            others.append(plan)
        else:
            views.append(TensorView(reader, plan.name, entry))
    found: dict[str, list[Piece]] = {}
    for tensor, _ in state.loose(others):
        assert not isinstance(tensor.made, MemberTensor)
        slice_ = decode_slice_key(tensor.key)[1] if tensor.key[:1] == b"\0" else None
        found.setdefault(tensor.name, []).append(Piece(slice_, tensor.entry, tensor.made))
    sources = {plan.name: plan.source for plan in others}
    sources |= {plan.name: plan.source for plan in state.rows}
    for name, entry in state.full.tensors.items():
        if entry.is_hash_table and name not in state.catalogue.ev_sets:
            found.setdefault(name, [])
    views += [_view(state.data(sources.get(name, -1)), name, found[name]) for name in found]
    return _by_name(views)


def bundle_tensors(reader: BundleReader, names: Iterable[str]) -> tuple[TensorView, ...]:
    """Return tensors of a bundle as they are, by name."""
    own = [name for name in names if not name.startswith(OWN_NAMES)]
    entries = [(name, reader.tensors[name]) for name in own]
    views = [TensorView(reader, name, entry) for name, entry in entries if entry.has_data]
    pieces: dict[str, list[Piece]] = {name: [] for name, entry in entries if not entry.has_data}
    for _, name, slice_, entry in reader.slice_keys():
        if name in pieces:
            pieces[name].append(Piece(slice_, entry, CopyJob(reader, name, entry)))
    views += [_view(reader, name, found) for name, found in pieces.items()]
    return _by_name(views)


def _by_name(views: list[TensorView]) -> tuple[TensorView, ...]:
    return tuple(sorted(views, key=attrgetter("name")))


def _view(reader: BundleReader, name: str, pieces: list[Piece]) -> TensorView:
    entry = reader.entry(name)
    if not entry.is_hash_table:
        pieces.sort(key=lambda piece: piece.slice.resolve(entry.shape) if piece.slice else ())
    return TensorView(reader, name, entry, tuple(pieces))
