"""Finding keys among keys."""

from __future__ import annotations

import numpy as np

from ckptctl.restore.keys import FACTOR

__all__ = ["find_keys", "match"]

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
