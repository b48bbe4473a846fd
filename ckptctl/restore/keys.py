"""Keys of a table as they are stored: read, checked, and told apart by bucket and hash."""

from __future__ import annotations

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.bundle.checksum import crc32c
from ckptctl.errors import TableError
from ckptctl.tables import BUCKETS, EvSet

__all__ = [
    "FACTOR",
    "KeyReader",
    "Narrow",
    "again",
    "bucket_of",
    "bucket_offsets",
    "buckets_at",
    "check_keys",
    "digest_of",
    "illegal",
    "in_order",
    "in_slice",
    "is_in",
    "most_together",
    "read_keys",
    "read_offsets",
]

#: 2^64 / golden ratio: multiplying by it spreads neighbouring keys.
FACTOR = np.uint64(0x9E3779B97F4A7C15)


def most_together() -> int:
    """Return the most keys that are held together: of a bucket, or that a group of them brings."""
    return 2 * knobs.JOIN_KEYS


def bucket_of(keys: np.ndarray) -> np.ndarray:
    """Return the bucket of each key: C++'s `key % 1000`, so not above 0 for negative keys."""
    wide = keys.astype(np.int64, copy=False)
    # NumPy's floor division by a constant is vectorised, its remainder is not; and memory that
    # is in the cache is used again.
    if not len(wide) or wide.min() >= 0:
        plain = wide.view(np.uint64)
        rest = np.floor_divide(plain, np.uint64(BUCKETS))
        rest *= np.uint64(BUCKETS)
        return np.asarray(np.subtract(plain, rest, out=rest).view(np.int64))
    signed = wide - wide // BUCKETS * BUCKETS
    return np.asarray(np.where((wide < 0) & (signed != 0), signed - BUCKETS, signed))


class Narrow:
    """Buckets of keys by uint32 where all fit: NumPy divides these four times as fast.

    Each call uses the memory of the one before again: what is asked for anew is slow (bench.md).
    """

    def __init__(self) -> None:
        self._keys = self._rest = np.empty(0, np.uint32)

    def __call__(self, keys: np.ndarray) -> np.ndarray | None:
        """Return the bucket of each key, until the next call; None where some are long."""
        if not len(keys) or int(np.maximum.reduce(keys.view(np.uint64))) >= 1 << 32:
            return None
        if len(keys) > len(self._keys):
            self._keys, self._rest = (np.empty(len(keys), np.uint32) for _ in range(2))
        own, rest = self._keys[: len(keys)], self._rest[: len(keys)]
        own[:] = keys
        np.floor_divide(own, np.uint32(BUCKETS), out=rest)
        rest *= np.uint32(BUCKETS)
        return np.subtract(own, rest, out=rest)


def illegal(
    narrow: Narrow,
    keys: np.ndarray,
    at: int,
    part: int,
    num_parts: int,
    offsets: np.ndarray | None,
) -> np.ndarray:
    """Return which keys, of the rows from `at` on, lie outside their part or bucket.

    There is at least one.
    """
    short = narrow(keys)
    own = bucket_of(keys) if short is None else short
    if offsets is None or at >= offsets[-1]:
        return np.asarray(own % num_parts != part)
    buckets, rows = buckets_at(offsets, at, at + len(keys))
    # No bucket of another part has rows that are in their place.
    places = np.where(buckets % num_parts == part, buckets, BUCKETS)
    wrong = own != np.repeat(places.astype(own.dtype), rows)
    if buckets[-1] == BUCKETS:  # behind the last bucket keys alone tell
        behind = slice(len(keys) - int(rows[-1]), None)
        wrong[behind] = own[behind] % num_parts != part
    return np.asarray(wrong)


def buckets_at(offsets: np.ndarray, at: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the buckets that hold rows [at, stop), not none, and how many of these each holds.

    Rows behind the last bucket lie in bucket 1000.
    """
    first = int(np.searchsorted(offsets, at, side="right")) - 1
    last = int(np.searchsorted(offsets, stop))
    rows = np.diff(np.maximum(offsets[first:last], at), append=stop)
    return np.arange(first, last), rows


def read_offsets(data: BundleData, ev: EvSet, suffix: str, rows: int) -> np.ndarray:
    """Return an offset tensor as int64[1001], checked to bound its buckets.

    Raises
    ------
    TableError
        The offsets do not start at 0, do not ascend, or pass the last row.
    """
    entry = ev.entries[suffix]
    if not rows and not entry.size:  # a table that the full lacks
        return np.zeros(BUCKETS + 1, np.int64)
    offsets = data.read_entry(ev.name + suffix, entry).astype(np.int64)
    if offsets[0] != 0 or (np.diff(offsets) < 0).any() or offsets[-1] > rows:
        raise TableError(
            "bucket offsets do not bound the rows",
            file=data.shard_path(entry.shard),
            tensor=ev.name + suffix,
            offset=entry.offset,
            expected=f"ascending from 0 to at most {rows}",
            found=f"{offsets[0]} to {offsets[-1]}"
            + ("" if (np.diff(offsets) >= 0).all() else ", not ascending"),
        )
    return offsets


def bucket_offsets(data: BundleData, ev: EvSet) -> np.ndarray | None:
    """Return where the buckets of an EV of a full begin, int64[1001]; None for the old form."""
    if "-partition_offset" not in ev.entries:
        return None
    return read_offsets(data, ev, "-partition_offset", ev.rows)


def read_keys(data: BundleData, name: str, entry: Entry, first: int, last: int) -> np.ndarray:
    """Return rows [first, last) of a key column as int64, unchecked."""
    file = data.data_file(name, entry)
    kind = entry.dtype.numpy
    size = (last - first) * kind.itemsize
    raw = file.pread(entry.offset + first * kind.itemsize, size)
    if len(raw) != size:
        raise data.past_end(name, entry, file.size)
    return np.frombuffer(raw, kind).astype(np.int64, copy=False)


def check_keys(data: BundleData, ev: EvSet, keys: np.ndarray) -> None:
    """Raise `TableError` for a negative key that is no multiple of 1000."""
    if len(keys) and keys.min() < 0:
        bad = keys[(keys < 0) & (bucket_of(keys) != 0)]
        if len(bad):
            raise TableError(
                "a key that no PS can save",
                file=data.shard_path(ev.keys.shard),
                tensor=ev.name,
                offset=ev.keys.offset,
                expected="keys >= 0, or multiples of 1000",
                found=f"{len(bad)} others, the first {bad[0]}",
            )


def is_in(values: np.ndarray, sorted_set: np.ndarray) -> np.ndarray:
    """Return which of `values` stand in an ascending array."""
    if not len(sorted_set):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(sorted_set, values), len(sorted_set) - 1)
    return np.asarray(sorted_set[at] == values)


def in_order(keys: np.ndarray) -> np.ndarray:
    """Return keys ascending; as uint32 where all fit, which NumPy sorts twice as fast."""
    if len(keys) and keys.view(np.uint64).max() < 1 << 32:
        keys = keys.astype(np.uint32)
        keys.sort()
        return keys
    return np.sort(keys)


def again(ordered: np.ndarray) -> np.ndarray:
    """Return each key that an ascending array has again, once for each time more."""
    twice = ordered[1:] == ordered[:-1]
    return ordered[1:][twice] if twice.any() else ordered[:0]


def in_slice(keys: np.ndarray, number: int, slices: int) -> np.ndarray:
    """Return which keys have a hash in one of `slices` equal slices."""
    if slices == 1:
        return np.ones(len(keys), bool)
    high = (keys.view(np.uint64) * FACTOR) >> np.uint64(32)
    return np.asarray((high * np.uint64(slices)) >> np.uint64(32) == number)


def digest_of(keys: np.ndarray) -> int:
    """Return a number of a set of keys; those of its pieces add up to it, modulo 2^64."""
    mixed = keys.view(np.uint64) * FACTOR
    return int((mixed ^ (mixed >> np.uint64(29))).sum(dtype=np.uint64))


class KeyReader:
    """Reads a key column front to back and checks it against its checksum.

    Attributes
    ----------
    row
        The row that comes next.
    digest
        Of the keys so far, if it was asked for.
    """

    def __init__(self, data: BundleData, name: str, entry: Entry, *, digest: bool = False) -> None:
        self._data = data
        self._name = name
        self._entry = entry
        self._kind = entry.dtype.numpy
        self._crc = 0
        self._mixed = digest
        self.row = 0
        self.digest = 0

    def read(self, rows: int) -> np.ndarray:
        """Return the next keys, as int64."""
        file = self._data.data_file(self._name, self._entry)
        width = self._kind.itemsize
        raw = file.pread(self._entry.offset + self.row * width, rows * width)
        if len(raw) != rows * width:
            raise self._data.past_end(self._name, self._entry, file.size)
        self._crc = crc32c(raw, self._crc)
        self.row += rows
        keys = np.frombuffer(raw, self._kind).astype(np.int64, copy=False)
        if self._mixed:
            self.digest = (self.digest + digest_of(keys)) % (1 << 64)
        return keys

    def finish(self) -> None:
        """Check the column against its checksum."""
        self._data.compare_crc(self._name, self._entry, self._crc)
