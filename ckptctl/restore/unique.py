"""No key twice in a part, whatever fits into memory of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.restore.find import KeyTable, Wanted
from ckptctl.restore.incoming import key_twice
from ckptctl.restore.keys import FACTOR, Narrow, again, illegal, most_together, read_keys
from ckptctl.running import Report
from ckptctl.tables import EvSet

__all__ = ["Unique", "most_memory"]

_NONE = np.empty(0, np.int64)
#: Keys that are sorted together to find one that stands twice.
_UNIQUE_KEYS = 1 << 20
#: Bits that tell which hashes were met, as a power of two: 16 MiB; and how many of them a key has.
_MOST_BITS, _BITS_A_KEY = 27, 8
#: Bytes that a key behind the last bucket takes, sorted and as one of `Wanted`.
_TAIL_MEMORY = 40


def most_memory(rows: int, offsets: np.ndarray | None) -> tuple[int, int]:
    """Return the bytes that `Unique` takes of a part of so many rows.

    Returns
    -------
    held, looking
        While the keys are read, and at the end.
    """
    bound = 0 if offsets is None else int(offsets[-1])
    tail = rows - bound
    everywhere = tail > (_UNIQUE_KEYS if bound else 0)
    largest = rows if everywhere or offsets is None else max(tail, int(np.diff(offsets).max()))
    if not everywhere and largest <= most_together() and not tail:
        return 0, 0
    if largest <= _UNIQUE_KEYS:
        return 0 if everywhere else tail * _TAIL_MEMORY, largest * 8
    bits = _bits_for(largest)
    return 0 if everywhere else tail * _TAIL_MEMORY, 2 * (1 << bits >> 3)


def _bits_for(count: int) -> int:
    """Return how many bits tell of so many keys which hashes were met, as a power of two."""
    return min(_MOST_BITS, max(4, (count * _BITS_A_KEY).bit_length()))


class Unique:
    """Looks for keys that stand twice, while the keys of a part are read in pieces.

    Rows outside their part or bucket do not count: a PS skips them. So a key can stand twice
    within its bucket, behind the last bucket, or once in each.
    """

    def __init__(
        self,
        data: BundleData,
        ev: EvSet,
        part: int,
        num_parts: int,
        offsets: np.ndarray | None,
        report: Report,
    ) -> None:
        self._data = data
        self._ev = ev
        self._place = (part, num_parts, offsets)
        self._narrow = Narrow()
        self._report = report
        bound = 0 if offsets is None else int(offsets[-1])
        tail = ev.rows - bound
        self._everywhere = tail > (_UNIQUE_KEYS if bound else 0)
        self._ranges: list[tuple[int, int]] = []
        self._tail = Wanted(_NONE)
        if self._everywhere:
            self._ranges = [(0, ev.rows)]
            return
        if offsets is not None:
            large = np.flatnonzero(np.diff(offsets) > most_together())
            self._ranges = [(int(offsets[at]), int(offsets[at + 1])) for at in large]
        if tail:
            self._tail = Wanted(self._legal(bound, ev.rows))
            self._ranges.append((bound, ev.rows))

    def check(self, keys: np.ndarray, at: int, wrong: np.ndarray, twice: np.ndarray) -> None:
        """Raise `TableError` for a key that stands twice in this piece, or here and behind.

        Behind the last bucket, and in pieces of a larger one, none need be known to stand
        `twice`: `finish` looks there.
        """
        if self._everywhere:
            return
        if len(twice):
            raise key_twice(self._data, self._ev, int(twice[0]))
        offsets = self._place[2]
        if offsets is not None and at < offsets[-1]:
            _, rows = self._tail.find(keys, wrong)
            if len(rows):
                raise key_twice(self._data, self._ev, int(keys[rows[0]]))

    def finish(self) -> None:
        """Raise `TableError` for a key that stands twice in what is read in several pieces.

        Up to `_UNIQUE_KEYS` keys are sorted. More are read again two times for each slice of
        16 Mi of them: once to see whose hash was met before, once to see which of those few
        keys stand twice. That takes 16 MiB of bits and as much of doubted keys. Where there are
        more of these than room, those that were met until then are looked at first.
        """
        for first, last in self._ranges:
            few = last - first <= _UNIQUE_KEYS
            twice = self._again(self._legal(first, last)) if few else self._twice(first, last)
            if twice is not None:
                raise key_twice(self._data, self._ev, twice)

    def _twice(self, first: int, last: int) -> int | None:
        """Return a key that stands twice in a range, if one does."""
        met = _Met(last - first)
        for number in range(met.slices):
            passed = 0
            while True:
                doubted, more = self._doubted(met, number, first, last, passed)
                twice = self._again(doubted)
                if twice is None and len(doubted):
                    twice = self._really_twice(met, number, first, last, doubted)
                if twice is not None:
                    return twice
                if not more:
                    break
                passed += len(doubted)
        return None

    def _doubted(
        self, met: _Met, number: int, first: int, last: int, passed: int
    ) -> tuple[np.ndarray, bool]:
        """Return keys of a slice whose hash was met before, ascending, and whether there are more.

        The first `passed` are left out. There is room for twice as many as chance brings: where
        it does not do, keys stand twice, and some of those are most likely among the first.
        """
        met.clear()
        held, more = 0, False
        for keys in self._pieces(first, last):
            keys, places = met.of_slice(keys, number)
            again = keys[met.add(places)]
            skipped = min(passed, len(again))
            passed -= skipped
            again = again[skipped:]
            room = len(met.doubted) - held
            more = len(again) > room
            again = again[:room]
            met.doubted[held : held + len(again)] = again
            held += len(again)
            if more:
                break
        doubted = met.doubted[:held]
        doubted.sort()
        return doubted, more

    def _really_twice(
        self, met: _Met, number: int, first: int, last: int, doubted: np.ndarray
    ) -> int | None:
        """Return one of the ascending keys of a slice that stands twice, if one does."""
        met.clear()
        for begin in range(0, len(doubted), knobs.JOIN_KEYS):
            met.mark(met.of_slice(doubted[begin : begin + knobs.JOIN_KEYS], number)[1])
        seen = np.zeros(len(doubted), bool)
        for piece in self._pieces(first, last):
            keys, places = met.of_slice(piece, number)
            keys = keys[met.has(places)]
            at = np.minimum(np.searchsorted(doubted, keys), len(doubted) - 1)
            at = np.sort(at[doubted[at] == keys])
            more = at[1:][at[1:] == at[:-1]]
            more = more if len(more) else at[seen[at]]
            if len(more):
                return int(doubted[more[0]])
            seen[at] = True
        return None

    def _again(self, ascending: np.ndarray) -> int | None:
        twice = again(ascending)
        return int(twice[0]) if len(twice) else None

    def _pieces(self, first: int, last: int) -> Iterator[np.ndarray]:
        """Return the keys of a range that a PS takes."""
        for at in range(first, last, knobs.JOIN_KEYS):
            stop = min(at + knobs.JOIN_KEYS, last)
            keys = read_keys(self._data, self._ev.name, self._ev.keys, at, stop)
            wrong = illegal(self._narrow, keys, at, *self._place)
            yield keys[~wrong] if wrong.any() else keys
            self._report(0)

    def _legal(self, first: int, last: int) -> np.ndarray:
        """Return the same together, ascending: for a range of few."""
        # One array that is filled: many small ones would leave holes in the heap.
        together = np.empty(last - first, np.int64)
        count = 0
        for keys in self._pieces(first, last):
            together[count : count + len(keys)] = keys
            count += len(keys)
        together = together[:count]
        together.sort()
        return together


class _Met:
    """Which hashes were met: a bit each, in memory of a fixed size.

    Nobody can choose keys whose hashes are the same: they are made with a random number.

    Attributes
    ----------
    slices
        How many times as many keys there are as it tells apart: those of a slice of hashes are
        looked at together.
    doubted
        int64[N], room for keys whose hash was met before, twice as many as chance brings. One array
        for all slices: many small ones would leave holes in the heap.
    """

    def __init__(self, count: int) -> None:
        self._bits = _bits_for(count)
        room = (1 << self._bits) // _BITS_A_KEY
        self.slices = -(-count // room)
        self.doubted = np.empty(max(1, room // 8), np.int64)
        self._table = KeyTable()
        self._bytes = np.zeros(1 << (self._bits - 3), np.uint8)
        self._factors = np.uint64(_random() | 1), np.uint64(_random() | 1)

    def clear(self) -> None:
        """Forget all."""
        self._bytes[:] = 0

    def of_slice(self, keys: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys of one slice, and the place of the hash of each."""
        spread = keys.view(np.uint64) * FACTOR
        # Twice: one factor alone, near a fraction of few digits, brings numbers in a row together.
        for factor in self._factors:
            spread ^= spread >> np.uint64(32)
            spread *= factor
        spread >>= np.uint64(32)
        spread *= np.uint64(self.slices)
        if self.slices > 1:
            kept = (spread >> np.uint64(32)) == number
            keys, spread = keys[kept], spread[kept]
        places = (spread & np.uint64(0xFFFFFFFF)) >> np.uint64(32 - self._bits)
        return keys, places.view(np.int64)

    def add(self, places: np.ndarray) -> np.ndarray:
        """Meet some; return which were met before, or stand here a second time."""
        before = self.has(places)
        twice = self._table.fill(places)
        if len(twice):
            twice = np.sort(twice)
            before |= twice[np.minimum(np.searchsorted(twice, places), len(twice) - 1)] == places
        self.mark(places)
        return before

    def mark(self, places: np.ndarray) -> None:
        """Meet some that need not be told apart."""
        while len(places):  # those that share a byte with a later one come again
            self._bytes[places >> 3] |= np.left_shift(1, places & 7).astype(np.uint8)
            places = places[~self.has(places)]

    def has(self, places: np.ndarray) -> np.ndarray:
        """Return which were met."""
        found = self._bytes[places >> 3] >> (places & 7).astype(np.uint8)
        return np.asarray((found & 1).astype(bool))


def _random() -> int:
    return int.from_bytes(os.urandom(8), "little")
