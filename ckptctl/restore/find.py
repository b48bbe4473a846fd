"""Finding keys among keys."""

from __future__ import annotations

import numpy as np

from ckptctl.restore.keys import FACTOR, again, in_order

__all__ = ["KeyTable", "Wanted"]

_NONE = np.empty(0, np.int64)


#: Keys whose numbers fit into uint16.
_MOST_OWNERS = 1 << 16
#: Keys of one slot that are looked at one by one; what is left is searched for.
_MOST_STEPS = 8
#: Slots that are counted together.
_STARTS = 1 << 16


class Wanted:
    """Keys to look for in pieces of others; what that takes is made once.

    Memory: up to 192 bytes a key of 64 Ki, 16 to 20 a key of more, and 32 while it is made.

    Parameters
    ----------
    keys
        int64, each once, in any order.
    """

    def __init__(self, keys: np.ndarray) -> None:
        self._table: _Few | _Many | None = None
        if len(keys):
            self._table = _Few(keys) if len(keys) <= _MOST_OWNERS else _Many(keys)

    def find(
        self, keys: np.ndarray, wrong: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which of the wanted keys stand in `keys`, and at which rows.

        Rows that are `wrong` do not count.
        """
        if self._table is None or not len(keys):
            return _NONE, _NONE
        hits, rows = self._table.find(keys)
        if wrong is None or not wrong.any():
            return hits, rows
        kept = ~wrong[rows]
        return hits[kept], rows[kept]


class _Few:
    """A byte filter over the hash leaves few candidates, a second table tells which key each is.

    A binary search costs ten times as much, since branches guess wrong.
    """

    def __init__(self, wanted: np.ndarray) -> None:
        self._wanted = wanted
        self._bits = max(10, (len(wanted) * 32).bit_length())
        slot_of = _slots(wanted, self._bits)
        self._filter = np.zeros(1 << self._bits, bool)
        self._filter[slot_of] = True
        numbers = np.arange(len(wanted), dtype=np.uint16)
        # Unset where the filter lets nothing through.
        self._owner = np.empty(1 << self._bits, np.uint16)
        self._owner[slot_of] = numbers
        crowded = np.flatnonzero(self._owner[slot_of] != numbers)  # whose slot another has
        self._crowded = crowded[np.argsort(wanted[crowded])]
        self._ascending = wanted[self._crowded]

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slots = _slots(keys, self._bits)
        candidates = np.flatnonzero(self._filter.take(slots, mode="clip"))
        hit_keys = keys[candidates]
        position = self._owner[slots[candidates]].astype(np.int64)
        hit = self._wanted[position] == hit_keys
        if len(self._crowded):
            rest = np.flatnonzero(~hit)
            at = np.searchsorted(self._ascending, hit_keys[rest])
            position[rest] = self._crowded[np.minimum(at, len(self._crowded) - 1)]
            hit[rest] = self._wanted[position[rest]] == hit_keys[rest]
        return position[hit], candidates[hit]


class _Many:
    """The keys by their hash, and where those of each slot begin.

    The hash of 64 bits is another for each key, since the factor is odd. A binary search among
    millions costs ten times as much; somebody who chose keys of one slot has to pay for it.
    """

    def __init__(self, wanted: np.ndarray) -> None:
        count = len(wanted)
        hashes: np.ndarray = wanted.view(np.uint64) * FACTOR
        # By 16 bits twice, the upper ones last: a fifth of the time of sorting by all 64 of them.
        digits, number = hashes.view(np.uint16).reshape(count, 4), np.min_scalar_type(count)
        order = np.argsort(digits[:, 2], kind="stable").astype(number)
        order = order[np.argsort(digits[:, 3][order], kind="stable")]
        hashes = hashes[order]
        del digits
        if not (hashes[1:] >= hashes[:-1]).all():  # a few are the same in these
            again = np.argsort(hashes, kind="stable")
            order, hashes = order[again], hashes[again]
        self._order = order
        self._hashes = hashes
        bits = count.bit_length()
        self._shift = np.uint64(64 - bits)
        self._starts = np.empty((1 << bits) + 1, self._order.dtype)
        before = -1
        for at in range(0, count, _STARTS):
            slots = (hashes[at : at + _STARTS] >> self._shift).view(np.int64)
            numbers = np.arange(at, at + len(slots))
            last = int(slots[-1])
            steps = np.diff(slots, prepend=before)
            self._starts[before + 1 : last + 1] = np.repeat(numbers, steps)
            before = last
        self._starts[before + 1 :] = count

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hashes: np.ndarray = keys.view(np.uint64) * FACTOR
        slots = (hashes >> self._shift).view(np.int64)
        at = self._starts.take(slots, mode="clip")
        slots += 1
        end = self._starts.take(slots, mode="clip")
        rows = np.flatnonzero(at < end)
        at, end, hashes = at[rows].astype(np.intp), end[rows], hashes[rows]
        hits, found = [], []
        for _ in range(_MOST_STEPS):
            there = self._hashes.take(at, mode="clip")
            same = np.flatnonzero(there == hashes)
            hits.append(at[same])
            found.append(rows[same])
            at += 1
            more = np.flatnonzero((there < hashes) & (at < end))
            rows, at, end, hashes = rows[more], at[more], end[more], hashes[more]
            if not len(rows):
                break
        at = np.searchsorted(self._hashes, hashes)
        same = np.flatnonzero(self._hashes.take(at, mode="clip") == hashes)
        hits.append(at[same])
        found.append(rows[same])
        return self._order.take(np.concatenate(hits)).astype(np.intp), np.concatenate(found)


def _slots(keys: np.ndarray, bits: int) -> np.ndarray:
    """Return the upper bits of the product of keys and a factor that spreads them."""
    slots: np.ndarray = keys.view(np.uint64) * FACTOR
    slots >>= np.uint64(64 - bits)
    return slots.view(np.int64)


#: Of hashes that have nothing to do with each other, nor with `FACTOR`, by which slices of keys are
#: chosen: keys that share a slot in one do not in the next. The last level sorts, so keys that
#: somebody chose cost no more than sorting them.
_FACTORS = (np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xD6E8FEB86659FD93), np.uint64(0))
#: So few keys are sorted at once.
_FEW = 512


class KeyTable:
    """The keys of a piece by their hash: which stand twice, and where any key stands.

    Each key writes its number into the slot of its hash, and reads it back. Where another's
    stands there the two are compared, and the keys that lost are looked at the same way among
    each other. That takes 4 ns a key of 64 Ki; to sort them takes 3 to 6 ns where NumPy has
    AVX-512 for it, and 20 to 35 elsewhere. Memory is used again from piece to piece: up to 40
    bytes a key of the largest.

    Parameters
    ----------
    most
        More keys are sorted, which takes 8 bytes a key, and to find some in them 16.
    level
        How many tables there are before this one.
    """

    def __init__(self, most: int = 1 << 18, level: int = 0) -> None:
        self._most = most
        self._factor = _FACTORS[level]
        self._bits = 0
        self._keys = self._lost = _NONE
        self._order: np.ndarray | None = None
        self._owner = self._numbers = np.empty(0, np.uint16)
        self._slots = np.empty(0, np.uint64)
        self._rest = KeyTable(most, level + 1) if level + 1 < len(_FACTORS) else None

    def fill(self, keys: np.ndarray) -> np.ndarray:
        """Take int64 keys; return each that stands there again, once for each time more."""
        self._keys = keys
        if self._rest is None or not _FEW < len(keys) <= self._most:
            self._bits, self._order = 0, None
            return again(in_order(keys))
        self._make_room(len(keys))
        slots, numbers = self._slots_of(keys), self._numbers[: len(keys)]
        self._owner[slots] = numbers
        owner = self._owner.take(slots, mode="clip")
        self._lost = np.flatnonzero(owner != numbers)
        lost = keys[self._lost]
        same = keys.take(owner[self._lost]) == lost
        if not same.any():
            return self._rest.fill(lost)
        self._lost = self._lost[~same]
        return np.concatenate([lost[same], self._rest.fill(lost[~same])])

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of some int64 keys were taken, and at which row; for each, one row."""
        if not len(self._keys) or not len(wanted):
            return _NONE, _NONE
        if not self._bits:
            if self._order is None:
                self._order = np.argsort(self._keys)
            ordered = self._keys[self._order]
            at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
            hits = np.flatnonzero(ordered[at] == wanted)
            return hits, self._order[at[hits]]
        assert self._rest is not None
        # A slot that nobody wrote to in this piece holds anything: hence "clip".
        rows = self._owner.take(self._slots_of(wanted), mode="clip").astype(np.intp)
        equal = self._keys.take(rows, mode="clip") == wanted
        hits, others = np.flatnonzero(equal), np.flatnonzero(~equal)
        more, among = self._rest.find(wanted[others])
        if not len(more):
            return hits, rows[hits]
        found = np.concatenate([hits, others[more]])
        return found, np.concatenate([rows[hits], self._lost[among]])

    def _make_room(self, count: int) -> None:
        short = count <= 1 << 16
        # Four to eight slots a key; of many half as many, which take as much memory as they do.
        self._bits = (count * (4 if short else 2)).bit_length()
        kind = np.uint16 if short else np.uint32
        if len(self._owner) < 1 << self._bits or self._owner.dtype != kind:
            self._owner = np.empty(1 << self._bits, kind)
        if len(self._numbers) < count or self._numbers.dtype != kind:
            self._numbers = np.arange(1 << (count - 1).bit_length(), dtype=kind)

    def _slots_of(self, keys: np.ndarray) -> np.ndarray:
        if len(keys) > len(self._slots):
            self._slots = np.empty(len(keys), np.uint64)
        slots = self._slots[: len(keys)]
        np.multiply(keys.view(np.uint64), self._factor, out=slots)
        slots >>= np.uint64(64 - self._bits)
        return slots.view(np.int64)
