"""One tensor of a state as a stream of pieces: the full's bytes with rows put in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Protocol

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.bundle.checksum import crc32c
from ckptctl.restore.rowmap import RowMap

__all__ = [
    "ArrayRows",
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


class RowSource(Protocol):
    """Rows that increments bring, addressed by incoming row number."""

    def take(self, incoming: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows `incoming` into rows `at` of `out`, uint8[rows, row bytes]."""


class ArrayRows:
    """Incoming rows that lie in memory, such as keys."""

    def __init__(self, rows: np.ndarray) -> None:
        contiguous = np.ascontiguousarray(rows)
        self._rows = contiguous.view(np.uint8).reshape(len(rows), contiguous.dtype.itemsize)

    def take(self, incoming: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows `incoming` into rows `at` of `out`."""
        out[at] = self._rows[incoming]


class FileRows:
    """Incoming rows that lie in tensors of increments.

    Parameters
    ----------
    tensors
        (data, name, entry) of each source tensor.
    tensor_of
        intp[incoming]: which of `tensors` holds each incoming row.
    row_of
        int64[incoming]: its row there.
    row_bytes
        Bytes of one row.
    """

    def __init__(
        self,
        tensors: Sequence[tuple[BundleData, str, Entry]],
        tensor_of: np.ndarray,
        row_of: np.ndarray,
        row_bytes: int,
    ) -> None:
        self._tensors = tensors
        self._tensor_of = tensor_of
        self._row_of = row_of
        self._row_bytes = row_bytes

    def take(self, incoming: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows `incoming` into rows `at` of `out`."""
        which = self._tensor_of[incoming]
        rows = self._row_of[incoming]
        if len(self._tensors) == 1 or (which == which[0]).all():
            self._take(int(which[0]), rows, out, at)
            return
        for number in np.unique(which).tolist():
            chosen = which == number
            self._take(number, rows[chosen], out, at[chosen])

    def _take(self, number: int, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        data, name, entry = self._tensors[number]
        file = data.data_file(name, entry)
        width = self._row_bytes
        if len(rows) > 1 and (np.diff(rows) < 0).any():
            order = np.argsort(rows, kind="stable")
            rows, at = rows[order], at[order]
        window = max(1, knobs.PIECE_BYTES // max(width, 1))
        begin = 0
        while begin < len(rows):
            first = int(rows[begin])
            end = int(np.searchsorted(rows, first + window))
            span = int(rows[end - 1]) + 1 - first
            piece = np.empty((span, width), np.uint8)
            view = view_bytes(piece)
            if file.readinto(entry.offset + first * width, view) != len(view):
                raise data.past_end(name, entry, file.size)
            out[at[begin:end]] = piece[rows[begin:end] - first]
            begin = end


class Column:
    """One tensor of a state whose rows come from a full and from increments.

    Parameters
    ----------
    data, name, entry
        The full's tensor, its first dimension the rows.
    rowmap
        Where each row of the result comes from.
    source
        The incoming rows that `rowmap` speaks of; None when it has none.
    """

    def __init__(
        self,
        data: BundleData,
        name: str,
        entry: Entry,
        rowmap: RowMap,
        source: RowSource | None,
    ) -> None:
        self._data = data
        self._name = name
        self._entry = self.entry = entry
        self._map = rowmap
        self._source = source
        self.row_bytes = row_bytes(entry)

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return self._map.rows

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return self._map.rows * self.row_bytes

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows [start, stop) of the result as uint8[rows, row bytes], unchecked."""
        out = np.empty((stop - start, self.row_bytes), np.uint8)
        runs = self._map.runs(start, stop)
        if runs:
            first, last = runs[0][2], runs[-1][2] + runs[-1][1]
            scratch = np.empty((last - first, self.row_bytes), np.uint8)
            self.read_old(first, scratch)
            _place(runs, scratch, first, out, start)
        self._change(start, stop, out)
        return out

    def pieces(self) -> Iterator[memoryview]:
        """Return the bytes of the result in pieces; the last step checks the full's tensor.

        A piece is valid until the next one is asked for.

        Raises
        ------
        TensorChecksumError
            The full's tensor does not match its checksum.
        """
        if self._map.untouched:
            yield from copy_checked(self._data, self._name, self._entry)
            return
        step = self._step
        buffer = np.empty((min(step, max(self.rows, 1)), self.row_bytes), np.uint8)
        stream = self.stream()
        for start in range(0, self.rows, step):
            out = buffer[: min(step, self.rows - start)]
            stream.fill(out)
            yield view_bytes(out)
        stream.finish()

    def stream(self) -> ColumnStream:
        """Return the result's rows front to back, in steps of the caller's."""
        return ColumnStream(self)

    @property
    def _step(self) -> int:
        return max(1, knobs.PIECE_BYTES // max(self.row_bytes, 1))

    def read_old(self, row: int, out: np.ndarray, crc: int = 0) -> int:
        """Fill `out` with rows of the full's tensor; return the checksum continued."""
        if not out.size:
            return crc
        file = self._data.data_file(self._name, self._entry)
        view = view_bytes(out)
        if file.readinto(self._entry.offset + row * self.row_bytes, view) != len(view):
            raise self._data.past_end(self._name, self._entry, file.size)
        return crc32c(view, crc)

    def _change(self, start: int, stop: int, out: np.ndarray) -> None:
        changed = self._map.changed
        first, last = np.searchsorted(changed, (start, stop))
        if last > first and self._source is not None:
            self._source.take(self._map.incoming[first:last], out, changed[first:last] - start)


class ColumnStream:
    """The rows of a column, front to back; the last step checks the full's tensor.

    Rows that come from an increment are read out of order, so unchecked: `survey_state`
    has checked their tensors before.

    Attributes
    ----------
    row
        The row that comes next.
    """

    def __init__(self, column: Column) -> None:
        self._column = column
        self._old = _OldRows(column, 2 * column._step)
        self._buffer = np.empty((0, column.row_bytes), np.uint8)
        self.row = 0

    def fill(self, out: np.ndarray) -> None:
        """Put the next rows into `out`, uint8[rows, row bytes]."""
        stop = self.row + len(out)
        self._old.place(self._column._map.runs(self.row, stop), out, self.row)
        self._column._change(self.row, stop, out)
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

    def finish(self) -> None:
        """Read the full's rows that are left, and check its tensor.

        Raises
        ------
        TensorChecksumError
            The full's tensor does not match its checksum.
        """
        self._old.finish()


class _OldRows:
    """Reads the full's rows once, front to back, and puts them where they belong."""

    def __init__(self, column: Column, most: int) -> None:
        self._column = column
        self._most = most
        self._scratch = np.empty((0, column.row_bytes), np.uint8)
        self._cursor = 0
        self.crc = 0

    def place(self, runs: list[tuple[int, int, int]], out: np.ndarray, start: int) -> None:
        """Put the rows of `runs` into `out`, whose first row is result row `start`."""
        if len(runs) == 1 and runs[0][1] == len(out):
            self.skip_to(runs[0][2])
            self.crc = self._column.read_old(self._cursor, out, self.crc)
            self._cursor += len(out)
            return
        at = 0
        while at < len(runs):
            self.skip_to(runs[at][2])
            end = at + 1
            while end < len(runs) and runs[end][2] + runs[end][1] - self._cursor <= self._most:
                end += 1
            last = runs[end - 1][2] + runs[end - 1][1]
            old = self._read(last)
            _place(runs[at:end], old, last - len(old), out, start)
            at = end

    def skip_to(self, row: int) -> None:
        """Read rows that the result leaves out, for the checksum."""
        while self._cursor < row:
            self._read(min(row, self._cursor + self._most))

    def finish(self) -> None:
        """Read what is left, and check the full's tensor."""
        column = self._column
        self.skip_to(column._map.old_rows)
        column._data.compare_crc(column._name, column._entry, self.crc)

    def _read(self, last: int) -> np.ndarray:
        count = last - self._cursor
        if len(self._scratch) < count:
            self._scratch = np.empty((count, self._column.row_bytes), np.uint8)
        old = self._scratch[:count]
        self.crc = self._column.read_old(self._cursor, old, self.crc)
        self._cursor = last
        return old


def _place(
    runs: list[tuple[int, int, int]], old: np.ndarray, first: int, out: np.ndarray, start: int
) -> None:
    for begin, length, source in runs:
        out[begin - start : begin - start + length] = old[source - first : source - first + length]
