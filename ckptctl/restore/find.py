"""Finding keys among keys."""

from __future__ import annotations

import numpy as np

from ckptctl.restore.keys import FACTOR, again, in_order

__all__ = ["KeyTable", "find_keys", "match"]

_NONE = np.empty(0, np.int64)


def find_keys(keys: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which of the `wanted` keys, each once, stand in `keys`, and at which rows.

    A byte filter over a multiplicative hash leaves few candidates, and a second table tells
    which key each may be: a binary search costs ten times as much, since branches guess wrong.
    """
    if not len(wanted) or not len(keys):
        return _NONE, _NONE
    bits = max(10, (len(wanted) * 32).bit_length())
    slot_of, slots = _slots(wanted, bits), _slots(keys, bits)
    table = np.zeros(1 << bits, bool)
    table[slot_of] = True
    candidates = np.flatnonzero(table.take(slots, mode="clip"))
    hit_keys = keys[candidates]
    if len(wanted) > _MOST_OWNERS:
        position = _search(hit_keys, wanted)
        hit = wanted[position] == hit_keys
        return position[hit], candidates[hit]
    numbers = np.arange(len(wanted), dtype=np.uint16)
    owner = np.empty(1 << bits, np.uint16)  # unset where the filter lets nothing through
    owner[slot_of] = numbers
    position = owner[slots[candidates]].astype(np.int64)
    hit = wanted[position] == hit_keys
    crowded = np.flatnonzero(owner[slot_of] != numbers)
    if len(crowded):  # keys whose slot another has
        rest = np.flatnonzero(~hit)
        position[rest] = crowded[_search(hit_keys[rest], wanted[crowded])]
        hit[rest] = wanted[position[rest]] == hit_keys[rest]
    return position[hit], candidates[hit]


#: Keys whose numbers fit into uint16.
_MOST_OWNERS = 1 << 16


def _search(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where in `wanted`, in any order, each key stands if it does."""
    order = None if (wanted[1:] >= wanted[:-1]).all() else np.argsort(wanted)
    ascending = wanted if order is None else wanted[order]
    at = np.minimum(np.searchsorted(ascending, keys), len(wanted) - 1)
    return at if order is None else order[at]


def _slots(keys: np.ndarray, bits: int) -> np.ndarray:
    """Return the upper bits of the product of keys and a factor that spreads them."""
    slots: np.ndarray = keys.view(np.uint64) * FACTOR
    slots >>= np.uint64(64 - bits)
    return slots.view(np.int64)


def match(keys: np.ndarray, wanted: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what `find_keys` does without the rows that are `wrong`."""
    hits, rows = find_keys(keys, wanted)
    if not wrong.any():
        return hits, rows
    kept = ~wrong[rows]
    return hits[kept], rows[kept]


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
