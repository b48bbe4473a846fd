"""One tensor of a state as a stream of pieces: the full's bytes with rows put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Protocol

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.bundle.checksum import crc32c
from ckptctl.restore.rowmap import RowMap

__all__ = [
    "Column",
    "ColumnStream",
    "FileRows",
    "RowSource",
    "copy_checked",
    "row_bytes",
    "view_bytes",
]


def view_bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array; `memoryview.cast` takes no empty ones."""
    return array.data.cast("B") if array.size else memoryview(b"")


def row_bytes(entry: Entry) -> int:
    """Return the bytes of one row: of all dimensions but the first."""
    return entry.dtype.size * prod(entry.shape[1:])


def copy_checked(data: BundleData, name: str, entry: Entry) -> Iterator[memoryview]:
    """Return the bytes of a tensor in pieces; the last step checks them.

    The checksum of strings and variants does not run over their bytes as they are stored:
    `BundleData.check_encoded` checks these.

    Raises
    ------
    TensorChecksumError
        The tensor does not match its checksum.
    """
    file = data.data_file(name, entry)
    buffer = memoryview(bytearray(min(knobs.PIECE_BYTES, entry.size)))
    crc = 0
    for at in range(entry.offset, entry.end, len(buffer) or 1):
        piece = buffer[: min(len(buffer), entry.end - at)]
        if file.readinto(at, piece) != len(piece):
            raise data.past_end(name, entry, file.size)
        crc = crc32c(piece, crc)
        yield piece
    if entry.dtype.size:
        data.compare_crc(name, entry, crc)


def records(rows: np.ndarray) -> np.ndarray:
    """Return uint8[rows, bytes] as one element a row, which NumPy moves seven times as fast."""
    width = rows.shape[1]
    kind = f"u{width}" if width in (1, 2, 4, 8) else f"V{width}"
    return rows.view(kind).reshape(len(rows))


class RowSource(Protocol):
    """Rows that increments bring, in the order of the result rows that take them."""

    def take(self, first: int, last: int, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows [first, last) into rows `at` of `out`, uint8[rows, row bytes]."""

    def cut(self, chosen: slice | np.ndarray) -> RowSource:
        """Return some rows alone, in the order given."""


class FileRows:
    """Incoming rows that lie in tensors of increments.

    Parameters
    ----------
    tensors
        (data, name, entry) of each source tensor.
    tensor_of
        int[incoming]: which of `tensors` holds each incoming row; None if there is but one.
    row_of
        int[incoming]: its row there.
    row_bytes
        Bytes of one row.
    """

    def __init__(
        self,
        tensors: Sequence[tuple[BundleData, str, Entry]],
        tensor_of: np.ndarray | None,
        row_of: np.ndarray,
        row_bytes: int,
    ) -> None:
        self._tensors = tensors
        self._tensor_of = tensor_of
        self._row_of = row_of
        self._row_bytes = row_bytes

    def take(self, first: int, last: int, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows [first, last) into rows `at` of `out`."""
        if last <= first or not self._row_bytes:
            return
        rows = self._row_of[first:last]
        if self._tensor_of is None:
            self._take(0, rows, out, at)
            return
        which = self._tensor_of[first:last]
        if (which == which[0]).all():
            self._take(int(which[0]), rows, out, at)
            return
        order = np.argsort(which, kind="stable")
        which, rows, at = which[order], rows[order], at[order]
        ends = [*(np.flatnonzero(which[1:] != which[:-1]) + 1).tolist(), len(which)]
        begin = 0
        for end in ends:
            self._take(int(which[begin]), rows[begin:end], out, at[begin:end])
            begin = end

    def cut(self, chosen: slice | np.ndarray) -> FileRows:
        """Return some rows alone, in the order given."""
        tensor_of = None if self._tensor_of is None else self._tensor_of[chosen]
        return FileRows(self._tensors, tensor_of, self._row_of[chosen], self._row_bytes)

    def _take(self, number: int, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        window = max(1, knobs.PIECE_BYTES // self._row_bytes)
        lowest, highest = int(rows.min()), int(rows.max())
        if highest - lowest < window:  # neighbours in the full are neighbours here: one bucket
            records(out)[at] = self._read(number, lowest, highest + 1)[rows - lowest]
            return
        order = np.argsort(rows, kind="stable")
        rows, at = rows[order], at[order]
        begin = 0
        while begin < len(rows):
            lowest = int(rows[begin])
            end = int(np.searchsorted(rows, lowest + window))
            piece = self._read(number, lowest, int(rows[end - 1]) + 1)
            records(out)[at[begin:end]] = piece[rows[begin:end] - lowest]
            begin = end

    def _read(self, number: int, first: int, last: int) -> np.ndarray:
        data, name, entry = self._tensors[number]
        file = data.data_file(name, entry)
        piece = np.empty((last - first, self._row_bytes), np.uint8)
        view = view_bytes(piece)
        if file.readinto(entry.offset + first * self._row_bytes, view) != len(view):
            raise data.past_end(name, entry, file.size)
        return records(piece)


class Column:
    """One tensor of a state whose rows come from a full and from increments.

    Parameters
    ----------
    data, name, entry
        The full's tensor, its first dimension the rows.
    rowmap
        Where each row of the result comes from.
    source
        The incoming rows that `rowmap` speaks of, in its order; None when it has none.
    width
        Bytes of one row, where that is not what the shape says.
    """

    def __init__(
        self,
        data: BundleData,
        name: str,
        entry: Entry,
        rowmap: RowMap,
        source: RowSource | None,
        *,
        width: int | None = None,
    ) -> None:
        self._data = data
        self._name = name
        self.entry = entry
        self.rowmap = rowmap
        self._source = source
        self.row_bytes = row_bytes(entry) if width is None else width

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self.rowmap.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return self.rowmap.rows * self.row_bytes

    @classmethod
    def whole(cls, data: BundleData, name: str, entry: Entry) -> Column:
        """Return a tensor that is taken as it is, each byte of it a row."""
        return cls(data, name, entry, RowMap.build(entry.size), None, width=1)

    def cut(self, start: int, stop: int) -> Column:
        """Return a column that knows no increments' rows but those of rows [start, stop)."""
        if self._source is None:
            return self
        first, last = self.rowmap.changes(start, stop)
        rowmap = replace(self.rowmap, changed=self.rowmap.changed[first:last])
        source = self._source.cut(slice(first, last))
        return Column(self._data, self._name, self.entry, rowmap, source, width=self.row_bytes)

    def check(self, crc: int) -> None:
        """Raise `TensorChecksumError` unless that is the crc32c of the full's tensor."""
        self._data.compare_crc(self._name, self.entry, crc)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) of the result as uint8[rows, row bytes], unchecked."""
        out = np.empty((stop - start, self.row_bytes), np.uint8)
        begin, length, source = self.rowmap.runs(start, stop)
        if len(begin):
            first, last = int(source[0]), int(source[-1] + length[-1])
            scratch = np.empty((last - first, self.row_bytes), np.uint8)
            self.read_old(first, scratch)
            _place(begin - start, length, source - first, scratch, out)
        self.change(start, stop, out)
        return out

    def brought(self, places: np.ndarray) -> np.ndarray:
        """Return the rows `changed[places]` of the row map as uint8[rows, row bytes], unchecked."""
        out = np.empty((len(places), self.row_bytes), np.uint8)
        if self._source is not None:
            self._source.cut(places).take(0, len(places), out, np.arange(len(places)))
        return out

    def pieces(self) -> Iterator[memoryview]:
        """Return the bytes of the result in pieces; the last step checks the full's tensor.

        A piece is valid until the next one is asked for.

        Raises
        ------
        TensorChecksumError
            The full's tensor does not match its checksum.
        """
        stream = self.stream()
        yield from stream.pieces()
        stream.finish()

    def stream(self, start: int = 0, stop: int | None = None) -> ColumnStream:
        """Return rows [start, stop) of the result front to back, in steps of the caller's."""
        return ColumnStream(self, start, self.rows if stop is None else stop)

    @property
    def step(self) -> int:
        """Rows of one piece."""
        return max(1, knobs.PIECE_BYTES // max(self.row_bytes, 1))

    def read_old(self, row: int, *views: np.ndarray, crc: int = 0) -> int:
        """Fill arrays with rows of the full's tensor from `row` on; return the crc32c so far."""
        buffers = [view_bytes(view) for view in views if view.size]
        if not buffers:
            return crc
        file = self._data.data_file(self._name, self.entry)
        size = sum(map(len, buffers))
        if file.readv(self.entry.offset + row * self.row_bytes, buffers) != size:
            raise self._data.past_end(self._name, self.entry, file.size)
        for buffer in buffers:
            crc = crc32c(buffer, crc)
        return crc

    def let_go(self, first: int, last: int) -> None:
        """Say that rows [first, last) of the full's tensor are not read again."""
        file = self._data.data_file(self._name, self.entry)
        file.let_go(self.entry.offset + first * self.row_bytes, (last - first) * self.row_bytes)

    def change(self, start: int, stop: int, out: np.ndarray) -> None:
        """Put what the increments bring into `out`, the rows [start, stop) of the result."""
        first, last = self.rowmap.changes(start, stop)
        if last > first and self._source is not None:
            self._source.take(first, last, out, self.rowmap.changed[first:last] - start)


class ColumnStream:
    """A range of a column's rows, front to back.

    Rows that come from an increment are read out of order, so unchecked: `survey_state`
    has checked their tensors before.

    Attributes
    ----------
    row
        The row that comes next.
    first, last
        Rows [first, last) of the full are read.
    crc
        Their crc32c, once `drain` has read them all.
    """

    def __init__(self, column: Column, start: int, stop: int) -> None:
        self._column = column
        self._map = column.rowmap
        self.first = self._cursor = self._map.old_before(start)
        self.last = self._map.old_rows if stop >= column.rows else self._map.old_before(stop)
        self._stop = stop
        self._plain = self._map.untouched
        self._buffer = self._scratch = np.empty((0, column.row_bytes), np.uint8)
        self.row = start
        self.crc = 0

    def pieces(self) -> Iterator[memoryview]:
        """Return the bytes that are left in pieces, each valid until the next is asked for."""
        while self.row < self._stop:
            yield view_bytes(self.take(min(self._column.step, self._stop - self.row)))

    def fill(self, out: np.ndarray) -> None:
        """Put the next rows into `out`, uint8[rows, row bytes]."""
        stop = self.row + len(out)
        if self._plain:
            self._skip_to(self.row)
            self._read(stop, out)
            self.row = stop
            return
        self._place_old(*self._map.runs(self.row, stop), out)
        self._column.change(self.row, stop, out)
        self.row = stop

    def take(self, rows: int) -> np.ndarray:
        """Return the next rows as uint8[rows, row bytes], valid until the next are taken."""
        if len(self._buffer) < rows:  # memory that is touched first is slow (bench.md)
            self._buffer = np.empty((rows, self._column.row_bytes), np.uint8)
        out = self._buffer[:rows]
        self.fill(out)
        return out

    def skip(self, rows: int) -> None:
        """Leave the next rows out; the full's bytes are read all the same, at the latest last."""
        self.row += rows

    def drain(self) -> None:
        """Read the rows of the full that are left."""
        self._skip_to(self.last)

    def finish(self) -> None:
        """Read the rows of the full that are left, and check its tensor: for a whole column.

        Raises
        ------
        TensorChecksumError
            The full's tensor does not match its checksum.
        """
        self.drain()
        self._column.check(self.crc)

    def _place_old(
        self, begin: np.ndarray, length: np.ndarray, source: np.ndarray, out: np.ndarray
    ) -> None:
        if not len(begin):
            return
        self._skip_to(int(source[0]))
        begin = begin - self.row
        ends = source + length
        if len(begin) <= _MANY_RUNS and (source[1:] == ends[:-1]).all():
            views = [
                out[at : at + rows]
                for at, rows in zip(begin.tolist(), length.tolist(), strict=True)
            ]
            self._read(int(ends[-1]), *views)
            return
        at = 0
        while at < len(begin):
            self._skip_to(int(source[at]))
            most = self._cursor + 2 * self._column.step
            end = max(at + 1, int(np.searchsorted(ends, most, side="right")))
            last = int(ends[end - 1])
            old = self._more(last - self._cursor)
            first = self._cursor
            self._read(last, old)
            _place(begin[at:end], length[at:end], source[at:end] - first, old, out)
            at = end

    def _skip_to(self, row: int) -> None:
        """Read rows that the result leaves out, for the checksum."""
        while self._cursor < row:
            last = min(row, self._cursor + 2 * self._column.step)
            self._read(last, self._more(last - self._cursor))

    def _more(self, rows: int) -> np.ndarray:
        if len(self._scratch) < rows:
            self._scratch = np.empty((rows, self._column.row_bytes), np.uint8)
        return self._scratch[:rows]

    def _read(self, last: int, *views: np.ndarray) -> None:
        self.crc = self._column.read_old(self._cursor, *views, crc=self.crc)
        self._cursor = last


#: Runs in one piece above which rows are moved by number, not run by run.
_MANY_RUNS = 64


def _place(
    begin: np.ndarray, length: np.ndarray, source: np.ndarray, old: np.ndarray, out: np.ndarray
) -> None:
    """Put runs of rows of `old`, which start at `source`, into `out` at `begin`."""
    if not out.shape[1]:
        return
    if len(begin) <= _MANY_RUNS:
        for at, rows, first in zip(begin.tolist(), length.tolist(), source.tolist(), strict=True):
            out[at : at + rows] = old[first : first + rows]
        return
    inside = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
    target = np.repeat(begin, length) + inside
    records(out)[target] = records(old)[np.repeat(source, length) + inside]
