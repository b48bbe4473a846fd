"""Where the rows of some keys stand, without a look at all keys of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.restore.find import Wanted
from ckptctl.restore.incoming import IncomingKeys, key_twice
from ckptctl.restore.keys import bucket_of, bucket_offsets, is_in, read_keys
from ckptctl.restore.part import PartJob
from ckptctl.running import Report, ignore
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["Answer", "AskTask", "Places", "find_rows"]

#: Rows between two buckets that are read rather than left out.
_GAP = 4096
#: Keys of a piece that are looked for one by one.
_FEW = 64
_NONE = np.empty(0, np.int64)


class Places(NamedTuple):
    """Where the rows of keys come from, in one member of one part.

    Attributes
    ----------
    sources
        (data, EV, whether it is an increment's) of each place that rows come from.
    source_of
        int64[keys]: which of `sources` holds the row of each key; -1 for none.
    row_of
        int64[keys]: its row there.
    """

    sources: Sequence[tuple[BundleData, EvSet, bool]]
    source_of: np.ndarray
    row_of: np.ndarray


class Answer(NamedTuple):
    """Where the rows of keys of one part come from.

    Attributes
    ----------
    members
        In the order of the table.
    filtered
        int64[keys]: row among the filtered keys of the full's primary; -1 without one.
    """

    members: list[Places]
    filtered: np.ndarray


class AskTask(NamedTuple):
    """Finds keys of one part in all its members.

    Attributes
    ----------
    job
        The part.
    keys
        int64, ascending, each once, all of this part.
    dropped
        New keys that are left out, of the part's survey; None if there was none. Without it
        the task says None where only a survey can tell.
    """

    job: PartJob
    keys: np.ndarray
    dropped: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Nothing that is told beforehand."""
        return 0

    def run(self, report: Report = ignore) -> Answer | None:
        """Return the places in each member.

        Raises
        ------
        TableError
            A key that stands twice, or that no PS can save.
        """
        job = self.job
        members = range(len(job.table.members))
        incoming = job.all_incoming()
        first = incoming[0].keys
        same = all(own.keys is first or np.array_equal(first, own.keys) for own in incoming[1:])
        # What every member has brought along, no member lacks (rule 9).
        if self.dropped is None and not same:
            return None
        dropped = _NONE if self.dropped is None else self.dropped
        found = [self._places(member, incoming[member], dropped) for member in members]
        admitted = np.zeros(len(self.keys), bool)
        wanted = Wanted(self.keys)
        for own in incoming[: 1 if same else None]:
            admitted[wanted.find(own.keys)[0]] = True
        admitted &= ~is_in(self.keys, dropped)
        report(0)
        return Answer(found, self._filtered(~admitted & (found[0].source_of < 0)))

    def _filtered(self, wanted: np.ndarray) -> np.ndarray:
        """Return the rows of those keys that are wanted among the filtered ones."""
        found = np.full(len(self.keys), -1, np.int64)
        ev = self.job.table.members[0].parts[self.job.part]
        entry = ev.entries.get("-keys_filtered")
        if entry is None or not wanted.any():
            return found
        own = np.flatnonzero(wanted)
        asked = Wanted(self.keys[own])
        name = ev.name + "-keys_filtered"
        for at in range(0, entry.rows, knobs.JOIN_KEYS):
            stop = min(at + knobs.JOIN_KEYS, entry.rows)
            piece = read_keys(self.job.full, name, entry, at, stop)
            hits, rows = asked.find(piece)
            found[own[hits]] = rows + at
        return found

    def _places(self, member: int, incoming: IncomingKeys, dropped: np.ndarray) -> Places:
        job, keys = self.job, self.keys
        if not len(keys):
            return Places([], _NONE, _NONE)
        ev = job.table.members[member].parts[job.part]
        row_of = find_rows(job.full, ev, job.part, job.table.num_parts, keys)
        source_of = np.where(row_of >= 0, np.int64(len(incoming.sources)), np.int64(-1))
        brought, at = Wanted(keys).find(incoming.keys)
        # A row that the full has is replaced, whatever the other members lack.
        kept = (row_of[brought] >= 0) | ~is_in(keys[brought], dropped)
        brought, at = brought[kept], at[kept]
        source_of[brought] = incoming.tensor_of[at]
        row_of[brought] = incoming.row_of[at]
        sources = [(data, own, True) for data, own in incoming.sources]
        return Places([*sources, (job.full, ev, False)], source_of, row_of)


def find_rows(
    data: BundleData, ev: EvSet, part: int, num_parts: int, keys: np.ndarray
) -> np.ndarray:
    """Return the row of each of some keys in one part of a full, -1 without one.

    Reads, unchecked, the buckets of the keys and the rows behind the last bucket; all keys
    of a table in the old form. Rows outside their part or bucket are left out as a PS does.

    Parameters
    ----------
    keys
        int64, ascending, each once.

    Raises
    ------
    TableError
        One of the keys stands twice.
    """
    offsets = bucket_offsets(data, ev)
    found = np.full(len(keys), -1, np.int64)
    search = _Search(keys, part, num_parts, offsets)
    for at, own in _key_pieces(data, ev.name, ev.keys, offsets, keys):
        hits, rows = search.find(at, own)
        if not len(hits):
            continue
        ordered = np.sort(hits)
        again = np.concatenate([ordered[1:][ordered[1:] == ordered[:-1]], hits[found[hits] >= 0]])
        if len(again):
            raise key_twice(data, ev, int(keys[again[0]]))
        found[hits] = rows
    return found


class _Search:
    """Finds keys in pieces of a key column, each where a PS would take it from."""

    def __init__(
        self, keys: np.ndarray, part: int, num_parts: int, offsets: np.ndarray | None
    ) -> None:
        self._keys, self._part, self._num_parts = keys, part, num_parts
        self._wanted: Wanted | None = None
        self._offsets = offsets
        self._bound = 0 if offsets is None else int(offsets[-1])
        self._bucket = bucket_of(keys)
        inside = np.flatnonzero(self._bucket >= 0) if offsets is not None else _NONE
        self._order = inside[np.argsort(self._bucket[inside], kind="stable")]
        if offsets is not None:
            bucket = self._bucket[self._order]
            self._begin, self._end = offsets[bucket], offsets[bucket + 1]

    def find(self, at: int, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which keys stand in a piece that begins at row `at`, and in which rows."""
        stop = at + len(own)
        if self._offsets is not None and stop <= self._bound:
            first = int(np.searchsorted(self._end, at, side="right"))
            last = int(np.searchsorted(self._begin, stop))
            begin = np.maximum(self._begin[first:last], at) - at
            end = np.minimum(self._end[first:last], stop) - at
            # Few keys: each is compared with its bucket, which is faster than any hash.
            if last - first <= _FEW and int((end - begin).sum()) <= 8 * len(own):
                return self._compare(at, own, self._order[first:last], begin, end)
        self._wanted = self._wanted or Wanted(self._keys)
        hits, rows = self._wanted.find(own)
        rows = rows + at
        bucket = self._bucket[hits]
        legal = bucket % self._num_parts == self._part
        if self._offsets is not None:
            stands_in = np.searchsorted(self._offsets, rows, side="right") - 1
            legal &= (rows >= self._bound) | (stands_in == bucket)
        return hits[legal], rows[legal]

    def _compare(
        self, at: int, own: np.ndarray, which: np.ndarray, begin: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        hits: list[int] = []
        rows: list[int] = []
        wanted = zip(which.tolist(), self._keys[which], begin.tolist(), end.tolist(), strict=True)
        for number, key, first, last in wanted:
            for row in np.flatnonzero(own[first:last] == key).tolist():
                hits.append(number)
                rows.append(at + first + row)
        return np.array(hits, np.int64), np.array(rows, np.int64)


def _key_pieces(
    data: BundleData, name: str, entry: Entry, offsets: np.ndarray | None, keys: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Return (first row, keys) of what may hold some keys, a piece at a time."""
    for first, last in _ranges(entry.rows, offsets, bucket_of(keys)):
        for at in range(first, last, knobs.JOIN_KEYS):
            yield at, read_keys(data, name, entry, at, min(at + knobs.JOIN_KEYS, last))


def _ranges(
    rows: int, offsets: np.ndarray | None, buckets: np.ndarray
) -> Iterator[tuple[int, int]]:
    if offsets is None or not len(offsets):
        yield 0, rows
        return
    wanted = np.zeros(BUCKETS, bool)
    # C++'s remainder: a key below 0 stands in bucket 0 or in none.
    wanted[buckets[buckets >= 0]] = True
    buckets = np.flatnonzero(wanted)
    begin, end = offsets[buckets], offsets[buckets + 1]
    filled = end > begin
    begin = np.append(begin[filled], offsets[-1])
    end = np.append(end[filled], rows)
    apart = np.flatnonzero(begin[1:] > end[:-1] + _GAP) + 1
    firsts, lasts = np.append(0, apart), np.append(apart, len(begin)) - 1
    yield from zip(begin[firsts].tolist(), end[lasts].tolist(), strict=True)
