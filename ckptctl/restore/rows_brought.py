"""Rows that increments bring, read from their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry

__all__ = ["FileRows", "RowTaker", "records", "view_bytes"]

#: Pieces of rows that are gathered at a time where many increments bring them.
_AHEAD = 3
#: How many times as many rows may be read for that, in one go.
_MOST_BESIDE = 3


def view_bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of a contiguous array; `memoryview.cast` takes no empty ones."""
    return array.data.cast("B") if array.size else memoryview(b"")


def records(rows: np.ndarray) -> np.ndarray:
    """Return uint8[rows, bytes] as one element a row, which NumPy moves seven times as fast."""
    width = rows.shape[1]
    kind = f"u{width}" if width in (1, 2, 4, 8) else f"V{width}"
    return rows.view(kind).reshape(len(rows))


class RowTaker(Protocol):
    """Rows that increments bring, in the order of the result rows that take them."""

    def take(self, first: int, last: int, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows [first, last) into rows `at` of `out`, uint8[rows, row bytes]."""


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
        # NumPy goes by intp twice as fast as by anything shorter.
        at = at.astype(np.intp, copy=False)
        if self._tensor_of is None:
            self._take(0, self._row_of[first:last], out, at)
            return
        for begin in range(first, last, self.most):
            end = min(begin + self.most, last)
            records(out)[at[begin - first : end - first]] = self.gather(begin, end)

    @property
    def most(self) -> int:
        """The most rows that are gathered at a time."""
        return max(1, min(_AHEAD * knobs.PIECE_BYTES // self._row_bytes, knobs.JOIN_KEYS))

    def gather(self, first: int, last: int) -> np.ndarray:
        """Return the rows [first, last) of many tensors as records, with one read a tensor."""
        assert self._tensor_of is not None
        which, rows = self._tensor_of[first:last], self._row_of[first:last].astype(np.intp)
        order = np.argsort(which, kind="stable")
        which, rows = which[order], rows[order]
        starts = np.flatnonzero(np.concatenate([[True], which[1:] != which[:-1]]))
        numbers = which[starts].tolist()
        lowest = np.minimum.reduceat(rows, starts)
        spans = np.maximum.reduceat(rows, starts) + 1 - lowest
        ends = np.cumsum(spans)
        if ends[-1] > _MOST_BESIDE * len(rows):  # a few here and there
            found = np.empty((len(rows), self._row_bytes), np.uint8)
            for number, own, at in zip(
                numbers, np.split(rows, starts[1:]), np.split(order, starts[1:]), strict=True
            ):
                self._take(number, own, found, at)
            return records(found)
        together = np.empty((int(ends[-1]), self._row_bytes), np.uint8)
        reads = zip(numbers, lowest.tolist(), (ends - spans).tolist(), ends.tolist(), strict=True)
        for number, row, begin, end in reads:
            self._fill(number, row, together[begin:end])
        places = np.empty(len(rows), np.intp)
        places[order] = rows + np.repeat(ends - spans - lowest, np.diff(starts, append=len(rows)))
        return records(together).take(places, mode="clip")

    def cut(self, chosen: slice | np.ndarray) -> FileRows:
        """Return some rows alone, in the order given."""
        tensor_of = None if self._tensor_of is None else self._tensor_of[chosen]
        return FileRows(self._tensors, tensor_of, self._row_of[chosen], self._row_bytes)

    def ahead(self, first: int, last: int) -> RowTaker:
        """Return the rows [first, last) for who takes them front to back."""
        if self._tensor_of is None or not self._row_bytes or self.most < _AHEAD:
            return self
        return _Ahead(self, first, last)

    def _take(self, number: int, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        window = max(1, knobs.PIECE_BYTES // self._row_bytes)
        lowest, highest = int(rows.min()), int(rows.max())
        # Neighbours in the full are neighbours here: they lie in one bucket, or in a few.
        if highest - lowest < max(window, min(len(rows), 4 * window)):
            piece = self._read(number, lowest, highest + 1)
            places = np.subtract(rows, lowest, dtype=np.intp)
            records(out)[at] = piece.take(places, mode="clip")
            return
        order = np.argsort(rows, kind="stable")
        rows, at = rows[order].astype(np.intp, copy=False), at[order]
        begin = 0
        while begin < len(rows):
            lowest = int(rows[begin])
            end = int(np.searchsorted(rows, lowest + window))
            piece = self._read(number, lowest, int(rows[end - 1]) + 1)
            records(out)[at[begin:end]] = piece[rows[begin:end] - lowest]
            begin = end

    def _read(self, number: int, first: int, last: int) -> np.ndarray:
        piece = np.empty((last - first, self._row_bytes), np.uint8)
        self._fill(number, first, piece)
        return records(piece)

    def _fill(self, number: int, row: int, out: np.ndarray) -> None:
        """Fill `out` with rows of a tensor from `row` on."""
        data, name, entry = self._tensors[number]
        file = data.data_file(name, entry)
        view = view_bytes(out)
        if file.readinto(entry.offset + row * self._row_bytes, view) != len(view):
            raise data.past_end(name, entry, file.size)


class _Ahead:
    """Rows of many tensors, read ahead: a piece of the result takes a few of each.

    One read a tensor and a piece would be a million of them for a thousand increments.
    """

    def __init__(self, source: FileRows, first: int, last: int) -> None:
        self._source = source
        self._first = self._end = first
        self._last = last
        self._rows: np.ndarray | None = None

    def take(self, first: int, last: int, out: np.ndarray, at: np.ndarray) -> None:
        """Put the rows [first, last) into rows `at` of `out`."""
        places = at.astype(np.intp, copy=False)
        while first < last:
            if self._rows is None or first >= self._end:
                self._rows = None  # before there are others
                self._first, self._end = first, min(first + self._source.most, self._last)
                self._rows = self._source.gather(self._first, self._end)
            count = min(last, self._end) - first
            begin = first - self._first
            records(out)[places[:count]] = self._rows[begin : begin + count]
            places, first = places[count:], first + count
