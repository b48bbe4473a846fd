"""The keys that increments bring to one member of one part of the full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.errors import TableError
from ckptctl.restore.keys import bucket_of, check_keys, most_together, read_keys, read_offsets
from ckptctl.tables import BUCKETS, EvSet

__all__ = [
    "Generation",
    "IncomingKeys",
    "IncomingReader",
    "count_buckets",
    "groups",
    "key_twice",
    "read_incoming",
    "same_bytes",
    "same_keys",
    "sources_of",
]

_NONE = np.empty(0, np.int64)
_NO_STARTS = np.zeros(BUCKETS + 1, np.int64)
_NO_STARTS.flags.writeable = False

#: The sets of one increment: (data, EV, its part number, its number of parts).
Generation = Sequence[tuple[BundleData, EvSet, int, int]]


class IncomingKeys(NamedTuple):
    """The keys that increments bring to one member of one part, ready to join.

    Attributes
    ----------
    keys
        int64[n], unique, by bucket and then ascending.
    starts
        int64[1001]: where the keys of each bucket start, and the end.
    tensor_of, row_of
        int[n]: which source set, and which of its rows, each key stands in.
    sources
        The source sets: (data, EV).
    skipped
        Rows outside their part or bucket, left out as a PS does.
    """

    keys: np.ndarray = _NONE
    starts: np.ndarray = _NO_STARTS
    tensor_of: np.ndarray = _NONE
    row_of: np.ndarray = _NONE
    sources: Sequence[tuple[BundleData, EvSet]] = ()
    skipped: int = 0

    def counts(self, chosen: np.ndarray) -> np.ndarray:
        """Return how many keys of each bucket are `chosen` (bool[n]): int64[1000]."""
        return np.diff(np.searchsorted(np.flatnonzero(chosen), self.starts))


def read_incoming(
    generations: Sequence[Generation],
    part: int,
    num_parts: int,
    alike: tuple[Sequence[Generation], IncomingKeys] | None = None,
) -> IncomingKeys:
    """Return the keys of one part out of increments, whatever parts these have.

    Parameters
    ----------
    generations
        For each increment, oldest first. A key of a newer increment wins over an older one.
    part, num_parts
        The part of the full, and the number of its parts: keys with
        `key % 1000 % num_parts == part` are taken (EmbeddingVar restore of DeepRec).
    alike
        The generations of another member and what they bring: where the same keys stand here
        byte for byte, its arrays are shared.

    Raises
    ------
    TableError
        A key twice in one increment, or one that no PS can save.
    """
    if alike is not None and same_keys(generations, alike[0]):
        return alike[1]._replace(sources=sources_of(generations))
    reader = IncomingReader(generations, part, num_parts)
    total = int(reader.counts.sum())
    keys = np.empty(total, np.int64)
    starts = np.zeros(BUCKETS + 1, np.int64)
    tensor_of, row_of = np.empty(total, reader.tensor_type), np.empty(total, reader.row_type)
    end = 0
    for first, last in groups(reader.counts):
        found = reader.read(first, last)
        begin, end = end, end + len(found.keys)
        keys[begin:end] = found.keys
        tensor_of[begin:end], row_of[begin:end] = found.tensor_of, found.row_of
        starts[first + 1 : last + 1] = found.starts[first + 1 : last + 1] + begin
    return IncomingKeys(
        keys[:end], starts, tensor_of[:end], row_of[:end], reader.sources, reader.skipped
    )


class IncomingReader:
    """Reads the keys that increments bring to one member of one part, some buckets at a time.

    Parameters
    ----------
    generations, part, num_parts
        As for `read_incoming`, with the same errors.

    Attributes
    ----------
    counts
        int64[1000]: the most keys that each bucket can bring.
    sources
        The sets that bring rows: (data, EV).
    skipped
        Rows outside their part or bucket, as far as they were met.
    tensor_type, row_type
        NumPy types that hold the numbers of sources, and of their rows.
    """

    def __init__(self, generations: Sequence[Generation], part: int, num_parts: int) -> None:
        self._readers = [
            _Source(age, data, ev, own_part, own_parts, part, num_parts)
            for age, generation in enumerate(generations)
            for data, ev, own_part, own_parts in generation
            if ev.rows
        ]
        self.counts = np.zeros(BUCKETS, np.int64)
        for reader in self._readers:
            self.counts += reader.counts
        self.sources = sources_of(generations)
        self.skipped = sum(reader.strays for reader in self._readers)
        self.tensor_type = np.min_scalar_type(len(self._readers))
        rows = max((reader.ev.rows for reader in self._readers), default=0)
        self.row_type = np.min_scalar_type(rows)

    def read(self, first: int, last: int) -> IncomingKeys:
        """Return the keys of buckets [first, last), the newest row of each."""
        if not self._readers:
            return IncomingKeys()
        keys, bucket, tensor_of, row_of, skipped = _read_group(self._readers, first, last)
        self.skipped += skipped
        starts = np.searchsorted(bucket, np.arange(BUCKETS + 1))
        return IncomingKeys(
            keys,
            starts,
            tensor_of.astype(self.tensor_type),
            row_of.astype(self.row_type),
            self.sources,
            skipped,
        )


def sources_of(generations: Sequence[Generation]) -> list[tuple[BundleData, EvSet]]:
    """Return the sets that bring rows, numbered as `IncomingKeys.tensor_of` has them."""
    return [(data, ev) for generation in generations for data, ev, _, _ in generation if ev.rows]


def count_buckets(generations: Sequence[Generation], part: int, num_parts: int) -> np.ndarray:
    """Return what `IncomingReader.counts` says, int64[1000]: offsets are read, and no key."""
    counts = np.zeros(BUCKETS, np.int64)
    for generation in generations:
        for data, ev, own_part, own_parts in generation:
            offsets = read_offsets(data, ev, "-incr_partition_offset", ev.rows)
            own = np.arange(own_part, BUCKETS, own_parts)
            wanted = own[own % num_parts == part]
            counts[wanted] += np.diff(offsets)[wanted]
    return counts


def groups(counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Return (first, behind the last) of buckets that bring about `most_together` keys."""
    ends = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < BUCKETS:
        last = int(np.searchsorted(ends, ends[first] + most_together(), side="right")) - 1
        last = min(max(last, first + 1), BUCKETS)
        yield first, last
        first = last


class _Source:
    """One set of an increment, of which some buckets belong to a part of the full."""

    def __init__(
        self,
        age: int,
        data: BundleData,
        ev: EvSet,
        own_part: int,
        own_parts: int,
        part: int,
        num_parts: int,
    ) -> None:
        self.age = age
        self.data = data
        self.ev = ev
        self.offsets = read_offsets(data, ev, "-incr_partition_offset", ev.rows)
        own = np.arange(own_part, BUCKETS, own_parts)
        # So that each source counts its strays once.
        first = part == own_part % num_parts
        self.strays = _check_strays(data, ev, self.offsets, own) if first else 0
        self.wanted = own[own % num_parts == part]
        self.counts = np.zeros(BUCKETS, np.int64)
        self.counts[self.wanted] = np.diff(self.offsets)[self.wanted]


#: Keys by bucket and then ascending, their buckets, sources and rows; and rows left out.
_Group: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]"


def _read_group(readers: Sequence[_Source], first: int, last: int) -> _Group:
    keys, bucket, tensor_of, row_of = _read_buckets(readers, first, last)
    legal = bucket_of(keys) == bucket
    skipped = len(keys) - int(np.count_nonzero(legal))
    if skipped:
        keys, bucket, tensor_of, row_of = (
            each[legal] for each in (keys, bucket, tensor_of, row_of)
        )
    step = np.diff(bucket)
    if ((step > 0) | ((step == 0) & (keys[1:] > keys[:-1]))).all():
        return keys, bucket, tensor_of, row_of, skipped
    order = np.argsort(keys)
    again = keys[order]
    if (again[1:] == again[:-1]).any():  # the newest of each key is to stand last
        order = np.argsort(keys, kind="stable")
    order = order[np.argsort(bucket[order].astype(np.uint16), kind="stable")]
    keys, bucket, row_of, tensor_of = keys[order], bucket[order], row_of[order], tensor_of[order]
    same = np.flatnonzero(keys[1:] == keys[:-1])
    if len(same):
        age_of = np.array([reader.age for reader in readers])[tensor_of]
        twice = same[age_of[same + 1] == age_of[same]]
        if len(twice):
            reader = readers[int(tensor_of[twice[0]])]
            raise key_twice(reader.data, reader.ev, int(keys[twice[0]]))
        keep = np.ones(len(keys), bool)
        keep[same] = False
        keys, bucket, row_of, tensor_of = keys[keep], bucket[keep], row_of[keep], tensor_of[keep]
    return keys, bucket, tensor_of, row_of, skipped


def same_keys(generations: Sequence[Generation], others: Sequence[Generation]) -> bool:
    """Return whether two members bring the same keys in the same order, byte for byte."""
    if [len(each) for each in generations] != [len(each) for each in others]:
        return False
    for generation, other in zip(generations, others, strict=True):
        for (data, ev, *place), (_, their_ev, *their_place) in zip(generation, other, strict=True):
            if place != their_place:
                return False
            for suffix in ("-incr_partition_offset", "-sparse_incr_keys") if ev.rows else ():
                if not same_bytes(data, ev, their_ev, suffix):
                    return False
            if ev.rows != their_ev.rows:
                return False
    return True


def same_bytes(data: BundleData, ev: EvSet, other: EvSet, suffix: str) -> bool:
    """Return whether a tensor of two EVs of a bundle is the same, byte for byte; unchecked."""
    one, two = ev.entries.get(suffix), other.entries.get(suffix)
    if one is None or two is None:
        return one is two
    if (one.dtype, one.shape, one.crc) != (two.dtype, two.shape, two.crc):
        return False
    first, second = (
        data.data_file(each.name + suffix, entry) for each, entry in ((ev, one), (other, two))
    )
    for at in range(0, one.size, knobs.PIECE_BYTES):
        size = min(knobs.PIECE_BYTES, one.size - at)
        if first.pread(one.offset + at, size) != second.pread(two.offset + at, size):
            return False
    return True


def key_twice(data: BundleData, ev: EvSet, key: int) -> TableError:
    """Return the error of a key that stands twice."""
    return TableError(
        "a key twice in one member",
        file=data.shard_path(ev.keys.shard),
        tensor=ev.name,
        offset=ev.keys.offset,
        expected="each key once",
        found=f"key {key} twice or more",
    )


def _check_strays(data: BundleData, ev: EvSet, offsets: np.ndarray, own: np.ndarray) -> int:
    """Return how many rows lie outside the buckets of their part; check their keys."""
    counts = np.diff(offsets)
    counts[own] = 0
    foreign = np.flatnonzero(counts)
    ranges = [(int(offsets[bucket]), int(offsets[bucket + 1])) for bucket in foreign]
    if offsets[-1] < ev.rows:
        ranges.append((int(offsets[-1]), ev.rows))
    for first, last in ranges:
        for at in range(first, last, knobs.JOIN_KEYS):
            stop = min(at + knobs.JOIN_KEYS, last)
            check_keys(data, ev, read_keys(data, ev.name, ev.keys, at, stop))
    return sum(last - first for first, last in ranges)


def _read_buckets(
    readers: Sequence[_Source], first: int, last: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return keys of buckets [first, last), buckets (by offset), sources and rows; checked.

    By source and then in the order of the rows. A thousand increments bring a few hundred keys
    each, so that a source costs a read and little else.
    """
    wanted = [
        reader.wanted[slice(*np.searchsorted(reader.wanted, (first, last)))] for reader in readers
    ]
    of_each = list(zip(readers, wanted, strict=True))
    count = np.concatenate([reader.counts[own] for reader, own in of_each])
    used = np.flatnonzero(count)
    count = count[used]
    begin = np.concatenate([reader.offsets[own] for reader, own in of_each])[used]
    place = np.concatenate(wanted)[used]
    source = np.repeat(np.arange(len(readers), dtype=np.int32), [len(own) for own in wanted])[used]
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    # Buckets of one source that follow each other are read at once.
    breaks = (source[1:] != source[:-1]) | (begin[1:] != begin[:-1] + count[:-1])
    runs = np.flatnonzero(np.concatenate([[True], breaks])) if total else _NONE
    keys = np.empty(total, np.int64)
    starts = ends[runs] - count[runs]
    stops = np.append(starts[1:], total)[: len(runs)]
    for own, row, at, end in zip(source[runs], begin[runs], starts, stops, strict=True):
        data, ev = readers[own].data, readers[own].ev
        keys[at:end] = read_keys(data, ev.name, ev.keys, int(row), int(row + end - at))
    rows = np.arange(total)
    rows += np.repeat(begin - (ends - count), count)
    tensor_of = np.repeat(source, count)
    bad = np.flatnonzero((keys < 0) & (bucket_of(keys) != 0)) if total and keys.min() < 0 else _NONE
    if len(bad):
        reader = readers[int(tensor_of[bad[0]])]
        check_keys(reader.data, reader.ev, keys[tensor_of == tensor_of[bad[0]]])
    return keys, np.repeat(place, count), tensor_of, rows
