"""Finding an increment's keys among a part's keys, bucket by bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.errors import TableError
from ckptctl.restore.incoming import IncomingKeys, key_twice
from ckptctl.restore.keys import (
    FACTOR,
    KeyReader,
    Narrow,
    again,
    bucket_of,
    check_keys,
    in_order,
    in_slice,
    read_keys,
    read_offsets,
)
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["FullKeys", "Twin", "find_keys"]

_NONE = np.empty(0, np.int64)


class Twin:
    """The keys of another member, read along while they are the same, row for row.

    Attributes
    ----------
    same
        Whether they were so far.
    """

    def __init__(self, data: BundleData, ev: EvSet) -> None:
        self._reader = KeyReader(data, f"{ev.name}-keys", ev.keys)
        self.same = True

    def follow(self, keys: np.ndarray) -> int:
        """Compare the next rows; return the bytes that were read for it."""
        if not self.same:
            return 0
        own = self._reader.read(len(keys))
        self.same = bool((own == keys).all())
        return own.nbytes

    def finish(self) -> None:
        """Check the column against its checksum, if it was read to its end."""
        if self.same:
            self._reader.finish()


class FullKeys:
    """The keys of one member of one part of the full, read once, front to back.

    They are read in pieces and checked: the column's crc32c, no key that no PS can save, no
    key twice. What does not fit in memory for that (a bucket of more than
    `4 * knobs.JOIN_KEYS` keys, the old form, more than `_UNIQUE_KEYS` rows behind the last
    bucket) is read again, see `_Unique`. Memory: some pieces, and `_UNIQUE_KEYS` keys where
    there are such rows.

    Parameters
    ----------
    data, ev
        The full, and the tensors of the member's part.
    part, num_parts
        The part, and the number of parts.
    validate
        Whether to look for keys that no PS can save or that stand twice.
    digest
        Whether to make one of the key set.
    report
        Told of the bytes as they are read; may raise to stop.

    Attributes
    ----------
    offsets
        int64[1001], or None for a table in the old form.
    rows
        Rows of the full.
    """

    def __init__(
        self,
        data: BundleData,
        ev: EvSet,
        part: int,
        num_parts: int,
        *,
        validate: bool = True,
        digest: bool = False,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self.offsets: np.ndarray | None = None
        if "-partition_offset" in ev.entries:
            self.offsets = read_offsets(data, ev, "-partition_offset", ev.rows)
        self.rows = ev.rows
        self._data, self._ev = data, ev
        self._place = part, num_parts, self.offsets
        self._report = report
        self._reader = KeyReader(data, f"{ev.name}-keys", ev.keys, digest=digest)
        self._unique = _Unique(data, ev, *self._place, report) if validate else None
        self._narrow = Narrow()
        self._problem: TableError | None = None

    @property
    def apart(self) -> bool:
        """Whether each bucket can be looked at apart: no row lies without one."""
        return self.offsets is not None and int(self.offsets[-1]) == self.rows

    @property
    def digest(self) -> int:
        """Of the key set, if asked for: equal sets, equal digests, whatever the order."""
        return self._reader.digest

    def join(
        self,
        incoming: IncomingKeys,
        first: int = 0,
        last: int = BUCKETS,
        twins: Sequence[Twin] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Look for incoming keys of buckets [first, last), which come next.

        Parameters
        ----------
        incoming
            Keys of these buckets.
        twins
            Members that may have the same keys; they are read along.

        Returns
        -------
        found
            int32[incoming]: row of the full that holds each key, or -1.
        deleted
            Rows that lie outside their part or bucket.
        """
        found = np.full(len(incoming.keys), -1, np.int32 if self.rows < 1 << 31 else np.int64)
        by_key: np.ndarray | None = None
        deleted: list[np.ndarray] = []
        for stop, bucket_first, bucket_last in _spans(self.offsets, self.rows, first, last):
            at = self._reader.row
            keys = self._reader.read(stop - at)
            followed = sum(twin.follow(keys) for twin in twins)
            if self._report is not None:
                self._report(keys.nbytes + followed)
            wrong = _illegal(self._narrow, keys, at, *self._place)
            if wrong.any():
                deleted.append(np.flatnonzero(wrong) + at)
            if self.offsets is None or bucket_first == BUCKETS:
                # All of them, piece after piece: once in order, they need not be sorted again.
                by_key = np.argsort(incoming.keys) if by_key is None else by_key
                hits, rows = _match(keys, incoming.keys[by_key], wrong)
                hits = by_key[hits]
            else:
                low, high = incoming.starts[[bucket_first, bucket_last]].tolist()
                hits, rows = _match(keys, incoming.keys[low:high], wrong)
                hits = hits + low
            try:
                if self._unique is not None:
                    check_keys(self._data, self._ev, keys)
                    self._unique.check(keys, at, wrong)
                twice = found[hits] >= 0
                if twice.any():
                    key = int(incoming.keys[hits[twice]][0])
                    raise key_twice(self._data, self._ev, key)
            except TableError as error:  # told as flipped bits, at the end, if that is what it is
                self._problem = self._problem or error
            found[hits] = rows + at
        return found, np.concatenate([_NONE, *deleted])

    def finish(self) -> None:
        """Check the column, once all of it was read.

        Raises
        ------
        TensorChecksumError, TableError
        """
        self._reader.finish()
        if self._problem is not None:
            raise self._problem
        if self._unique is not None:
            self._unique.finish()


def _illegal(
    narrow: Narrow,
    keys: np.ndarray,
    at: int,
    part: int,
    num_parts: int,
    offsets: np.ndarray | None,
) -> np.ndarray:
    """Return which keys, of the rows from `at` on, lie outside their part or bucket."""
    short = narrow(keys)
    own = bucket_of(keys) if short is None else short[1]
    if offsets is None or at >= offsets[-1]:
        return np.asarray(own % num_parts != part)
    stop = at + len(keys)
    first = int(np.searchsorted(offsets, at, side="right")) - 1
    last = min(int(np.searchsorted(offsets, stop, side="left")), BUCKETS)
    counts = np.diff(np.clip(offsets[first : last + 1], at, stop))
    buckets = np.arange(first, last)
    # No bucket of another part has rows that are in their place.
    places = np.where(buckets % num_parts == part, buckets, BUCKETS)
    bucket = np.repeat(places.astype(own.dtype), counts)
    if len(bucket) == len(own):
        return np.asarray(own != bucket)
    wrong = own % num_parts != part
    wrong[: len(bucket)] = own[: len(bucket)] != bucket
    return np.asarray(wrong)


#: Keys that are sorted together to find one that stands twice.
_UNIQUE_KEYS = 1 << 20
#: Most times that a column is read again for that.
_MOST_SLICES = 64


def _spans(
    offsets: np.ndarray | None, rows: int, first: int, end: int
) -> Iterator[tuple[int, int, int]]:
    """Return (end row, first bucket, last bucket) of ranges of about `knobs.JOIN_KEYS` keys.

    Of buckets [first, end).

    A bucket of up to four times as many is one range, a larger one is several.
    Rows without a bucket (the old form, or what older releases put behind the last one)
    come last, in ranges of bucket 1000.
    """
    while offsets is not None and first < end:
        begin = int(offsets[first])
        last = int(np.searchsorted(offsets, begin + knobs.JOIN_KEYS, side="right")) - 1
        last = min(max(last, first + 1), end)
        stop = int(offsets[last])
        step = min(stop - begin, _piece())
        for at in range(begin + step, stop + 1, step) if step else ():
            yield at, first, last
        if step and (stop - begin) % step:
            yield stop, first, last
        first = last
    if end == BUCKETS:
        for at in range(0 if offsets is None else int(offsets[-1]), rows, knobs.JOIN_KEYS):
            yield min(at + knobs.JOIN_KEYS, rows), BUCKETS, BUCKETS


def _piece() -> int:
    """Return the most keys that are read together."""
    return knobs.JOIN_KEYS * 4


class _Unique:
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
        report: Callable[[int], None] | None,
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
        self._tail = _NONE
        if self._everywhere:
            self._ranges = [(0, ev.rows)]
            return
        if offsets is not None:
            large = np.flatnonzero(np.diff(offsets) > _piece())
            self._ranges = [(int(offsets[at]), int(offsets[at + 1])) for at in large]
        if tail:
            self._tail = self._legal(bound, ev.rows, 0, 1)
            self._ranges.append((bound, ev.rows))

    def check(self, keys: np.ndarray, at: int, wrong: np.ndarray) -> None:
        """Raise `TableError` for a key that stands twice in this piece, or here and behind."""
        if self._everywhere:
            return
        kept = keys[~wrong] if wrong.any() else keys
        _check_unique(self._data, self._ev, kept)
        offsets = self._place[2]
        if len(self._tail) and offsets is not None and at < offsets[-1]:
            hits, _ = _match(keys, self._tail, wrong)
            if len(hits):
                raise key_twice(self._data, self._ev, int(self._tail[hits[0]]))

    def finish(self) -> None:
        """Raise `TableError` for a key that stands twice in what is read in several pieces.

        Reads it again, as many times as it has `_UNIQUE_KEYS` keys and 64 times at most, and
        each time sorts the keys whose hash falls into one slice.
        """
        for first, last in self._ranges:
            slices = min(-(-(last - first) // _UNIQUE_KEYS), _MOST_SLICES)
            for number in range(slices):
                keys = self._legal(first, last, number, slices)
                twice = np.flatnonzero(keys[1:] == keys[:-1])
                if len(twice):
                    raise key_twice(self._data, self._ev, int(keys[twice[0]]))

    def _legal(self, first: int, last: int, number: int, slices: int) -> np.ndarray:
        """Return the keys of a range that a PS takes, of one slice of hashes, ascending."""
        # One array that is filled: many small ones would leave holes in the heap.
        together = np.empty((last - first) // slices * 9 // 8 + 1, np.int64)
        count = 0
        for at in range(first, last, knobs.JOIN_KEYS):
            stop = min(at + knobs.JOIN_KEYS, last)
            keys = read_keys(self._data, self._ev.name, self._ev.keys, at, stop)
            wrong = _illegal(self._narrow, keys, at, *self._place)
            kept = keys[in_slice(keys, number, slices) & ~wrong]
            if count + len(kept) > len(together):  # hashes that are badly spread
                together = np.concatenate([together, np.empty(len(together) + len(kept), np.int64)])
            together[count : count + len(kept)] = kept
            count += len(kept)
            if self._report is not None:
                self._report(0)
        together = together[:count]
        together.sort()
        return together


def _check_unique(data: BundleData, ev: EvSet, keys: np.ndarray) -> None:
    """Raise `TableError` for a key that stands twice."""
    twice = again(in_order(keys))
    if len(twice):
        raise key_twice(data, ev, int(twice[0]))


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


def _match(
    keys: np.ndarray, wanted: np.ndarray, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same without the rows that are `wrong`."""
    hits, rows = find_keys(keys, wanted)
    if not wrong.any():
        return hits, rows
    kept = ~wrong[rows]
    return hits[kept], rows[kept]
