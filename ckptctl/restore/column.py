"""One tensor of a state as a stream of pieces: the full's bytes with rows put in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.bundle.checksum import crc32c
from ckptctl.restore.rowmap import RowMap
from ckptctl.restore.rows_brought import FileRows, RowTaker, records, view_bytes

__all__ = [
    "Column",
    "ColumnStream",
    "copy_checked",
    "row_bytes",
    "view_bytes",
]


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
        source: FileRows | None,
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
        rowmap = self.rowmap._replace(changed=self.rowmap.changed[first:last])
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
            self.read_old(first, view_bytes(scratch))
            _place(begin - start, length, source - first, scratch, out)
        self.change(start, stop, out, self._source)
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
        stream = self.stream(ahead=True)
        yield from stream.pieces()
        stream.finish()

    def stream(
        self, start: int = 0, stop: int | None = None, *, ahead: bool = False
    ) -> ColumnStream:
        """Return rows [start, stop) of the result front to back, in steps of the caller's.

        With `ahead`, rows that increments bring are gathered some MiB at a time, and held:
        for who has few such streams at a time.
        """
        return ColumnStream(self, start, self.rows if stop is None else stop, ahead=ahead)

    def brings(self, start: int, stop: int, *, ahead: bool) -> RowTaker | None:
        """Return what brings rows [start, stop) to who takes them front to back."""
        if self._source is None or not ahead:
            return self._source
        return self._source.ahead(*self.rowmap.changes(start, stop))

    @property
    def step(self) -> int:
        """Rows of one piece."""
        return max(1, knobs.PIECE_BYTES // max(self.row_bytes, 1))

    def read_old(self, row: int, *buffers: memoryview, crc: int = 0) -> int:
        """Fill buffers with rows of the full's tensor from `row` on; return the crc32c so far."""
        size = sum(map(len, buffers))
        if not size:
            return crc
        file = self._data.data_file(self._name, self.entry)
        if file.readv(self.entry.offset + row * self.row_bytes, buffers) != size:
            raise self._data.past_end(self._name, self.entry, file.size)
        for buffer in buffers:
            crc = crc32c(buffer, crc)
        return crc

    def let_go(self, first: int, last: int) -> None:
        """Say that rows [first, last) of the full's tensor are not read again."""
        file = self._data.data_file(self._name, self.entry)
        file.let_go(self.entry.offset + first * self.row_bytes, (last - first) * self.row_bytes)

    def change(self, start: int, stop: int, out: np.ndarray, source: RowTaker | None) -> None:
        """Put what a source brings into `out`, the rows [start, stop) of the result."""
        first, last = self.rowmap.changes(start, stop)
        if last > first and source is not None:
            source.take(first, last, out, self.rowmap.changed[first:last] - start)


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

    def __init__(self, column: Column, start: int, stop: int, *, ahead: bool) -> None:
        self._column = column
        self._map = column.rowmap
        self._source = column.brings(start, stop, ahead=ahead)
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
            self._read(stop, view_bytes(out))
            self.row = stop
            return
        self._place_old(self.row, stop, out)
        self._column.change(self.row, stop, out, self._source)
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

    def _place_old(self, start: int, stop: int, out: np.ndarray) -> None:
        """Put the full's rows among rows [start, stop) of the result into `out`."""
        few = self._map.few_runs(start, stop, _MANY_RUNS)
        if few is not None and all(a[2] + a[1] == b[2] for a, b in pairwise(few)):
            if few:
                self._skip_to(few[0][2])
                whole, width = view_bytes(out), self._column.row_bytes
                views = [
                    whole[(at - start) * width : (at - start + rows) * width] for at, rows, _ in few
                ]
                self._read(few[-1][2] + few[-1][1], *views)
            return
        begin, length, source = self._map.runs(start, stop)
        begin -= start
        ends = source + length
        at = 0
        while at < len(begin):
            self._skip_to(int(source[at]))
            most = self._cursor + 2 * self._column.step
            end = max(at + 1, int(np.searchsorted(ends, most, side="right")))
            last = int(ends[end - 1])
            old = self._more(last - self._cursor)
            first = self._cursor
            self._read(last, view_bytes(old))
            _place(begin[at:end], length[at:end], source[at:end] - first, old, out)
            at = end

    def _skip_to(self, row: int) -> None:
        """Read rows that the result leaves out, for the checksum."""
        while self._cursor < row:
            last = min(row, self._cursor + 2 * self._column.step)
            self._read(last, view_bytes(self._more(last - self._cursor)))

    def _more(self, rows: int) -> np.ndarray:
        if len(self._scratch) < rows:
            self._scratch = np.empty((rows, self._column.row_bytes), np.uint8)
        return self._scratch[:rows]

    def _read(self, last: int, *buffers: memoryview) -> None:
        self.crc = self._column.read_old(self._cursor, *buffers, crc=self.crc)
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
