"""Rows that increments bring, read from their tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.restore.rowmap import row_order

__all__ = ["FileRows", "RowTaker", "records", "view_bytes"]

#: Pieces of rows that are gathered at a time where many tensors bring them.
_AHEAD = 3
#: How many times as many rows may be read for that, in one go.
_MOST_BESIDE = 3
#: Pieces of rows that are gathered at a time where they lie further apart than that.
_FAR = 8
#: Gaps to a window above which what lies in one is not read along.
_GAPS = 16


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
        while len(at):
            found = self.gather(last - len(at), last)
            records(out)[at[: len(found)]] = found
            at = at[len(found) :]

    def gather(self, first: int, last: int) -> np.ndarray:
        """Return the rows from `first` on as records, as many of [first, last) as are worth it.

        With one read a tensor where they lie together. Where they are few of those between the
        lowest and the highest, as in a bucket with many keys, all that lies between is read, in
        windows, for as many as may be held.
        """
        pieces = 1 if self._tensor_of is None else _AHEAD
        found = self._together(first, min(last, first + self._fit(pieces, knobs.JOIN_KEYS)))
        if found is None:
            found = self._apart(first, min(last, first + self._fit(_FAR, 2 * knobs.JOIN_KEYS)))
        return found

    def _fit(self, pieces: int, most: int) -> int:
        """Return how many rows so many pieces hold: at least one, at most `most`."""
        return max(1, min(pieces * knobs.PIECE_BYTES // self._row_bytes, most))

    def _together(self, first: int, last: int) -> np.ndarray | None:
        """Return [first, last), or None where they lie too far apart for one read a tensor."""
        if self._tensor_of is None:
            rows = self._row_of[first:last]
            low, high = int(rows.min()), int(rows.max())
            if high - low >= _MOST_BESIDE * len(rows):
                return None
            places = rows.astype(np.intp)
            places -= low
            return self._read(0, low, high + 1).take(places, mode="clip")
        order, rows, starts, numbers = self._by_tensor(first, last)
        lowest = np.minimum.reduceat(rows, starts)
        spans = np.maximum.reduceat(rows, starts) + 1 - lowest
        ends = np.cumsum(spans)
        if ends[-1] > _MOST_BESIDE * len(rows):
            return None
        together = np.empty((int(ends[-1]), self._row_bytes), np.uint8)
        reads = zip(numbers, lowest.tolist(), (ends - spans).tolist(), ends.tolist(), strict=True)
        for number, row, begin, end in reads:
            self._fill(number, row, together[begin:end])
        places = np.empty(len(rows), np.intp)
        places[order] = rows + np.repeat(ends - spans - lowest, np.diff(starts, append=len(rows)))
        return records(together).take(places, mode="clip")

    def _apart(self, first: int, last: int) -> np.ndarray:
        """Return [first, last) by as many reads as it takes."""
        found = np.empty((last - first, self._row_bytes), np.uint8)
        if self._tensor_of is None:
            self._take(0, self._row_of[first:last], found, np.arange(last - first))
        else:
            order, rows, starts, numbers = self._by_tensor(first, last)
            parts = np.split(rows, starts[1:]), np.split(order, starts[1:])
            for number, own, at in zip(numbers, *parts, strict=True):
                self._take(number, own, found, at)
        return records(found)

    def _by_tensor(
        self, first: int, last: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
        """Return the order of [first, last) by tensor, the rows, where each begins, and which."""
        assert self._tensor_of is not None
        which, rows = self._tensor_of[first:last], self._row_of[first:last].astype(np.intp)
        order = np.argsort(which, kind="stable")
        which = which[order]
        starts = np.flatnonzero(np.concatenate([[True], which[1:] != which[:-1]]))
        return order, rows[order], starts, which[starts].tolist()

    def cut(self, chosen: slice | np.ndarray) -> FileRows:
        """Return some rows alone, in the order given."""
        tensor_of = None if self._tensor_of is None else self._tensor_of[chosen]
        return FileRows(self._tensors, tensor_of, self._row_of[chosen], self._row_bytes)

    def ahead(self, first: int, last: int) -> RowTaker:
        """Return the rows [first, last) for who takes them front to back."""
        if not 0 < self._row_bytes <= knobs.PIECE_BYTES:
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
        order = row_order(rows)
        rows, at = rows[order].astype(np.intp, copy=False), at[order]
        # What lies between two buckets of a part may be rows of many others.
        ends = np.append(np.flatnonzero(np.diff(rows) > max(1, window // _GAPS)) + 1, len(rows))
        begin = 0
        while begin < len(rows):
            lowest = int(rows[begin])
            end = min(
                int(np.searchsorted(rows, lowest + window)),
                int(ends[np.searchsorted(ends, begin, side="right")]),
            )
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
    """Rows that are read ahead: a piece of the result takes a few of what one read brings.

    Those of a bucket lie side by side in an increment, in another order, and a piece is a part of a
    bucket, or of two. And one read a tensor and a piece would be a million of them for a thousand
    increments.
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
                self._rows = self._source.gather(first, self._last)
                self._first, self._end = first, first + len(self._rows)
            count = min(last, self._end) - first
            begin = first - self._first
            records(out)[places[:count]] = self._rows[begin : begin + count]
            places, first = places[count:], first + count
