"""Finding an increment's keys among a part's keys, bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.errors import TableError
from ckptctl.restore.find import KeyTable, Wanted
from ckptctl.restore.incoming import IncomingKeys, key_twice
from ckptctl.restore.keys import (
    KeyReader,
    Narrow,
    again,
    bucket_offsets,
    check_keys,
    illegal,
    in_order,
    most_together,
)
from ckptctl.restore.rowmap import Runs, row_order
from ckptctl.restore.unique import Unique
from ckptctl.running import Report, ignore
from ckptctl.tables import BUCKETS, EvSet

__all__ = ["FullKeys", "Twin"]

_NONE = np.empty(0, np.int64)
#: Pieces of more keys, of large buckets, are sorted: a table of them is more than a plan tells.
_MOST_HASHED = 1 << 17


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
    `most_together` keys, the old form, more than a million rows behind the last
    bucket) is read again, see `Unique`. Memory: some pieces; up to 40 MB for a million rows
    behind the last bucket; and at the end 8 MiB for a million keys that are looked at together,
    up to 16 MiB of bits and as much of doubted keys where there are more.

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
        report: Report = ignore,
    ) -> None:
        self.offsets = bucket_offsets(data, ev)
        self.rows = ev.rows
        self._data, self._ev = data, ev
        self._place = part, num_parts, self.offsets
        self._report = report
        self._reader = KeyReader(data, f"{ev.name}-keys", ev.keys, digest=digest)
        self._unique = Unique(data, ev, *self._place, report) if validate else None
        self._table = KeyTable() if validate else None
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
    ) -> tuple[np.ndarray, np.ndarray, Runs]:
        """Look for incoming keys of buckets [first, last), which come next.

        Parameters
        ----------
        incoming
            Keys of these buckets.
        twins
            Members that may have the same keys; they are read along.

        Returns
        -------
        hits, rows
            int64[found]: which of the incoming keys the full has, and in which rows, ascending.
        deleted
            Rows that lie outside their part or bucket.
        """
        found, places = [_NONE], [_NONE]
        deleted: list[Runs] = []
        wanted, wanted_of = Wanted(_NONE), -1
        for stop, bucket_first, bucket_last, whole in _spans(self.offsets, self.rows, first, last):
            at = self._reader.row
            keys = self._reader.read(stop - at)
            followed = sum(twin.follow(keys) for twin in twins)
            self._report(keys.nbytes + followed)
            wrong = illegal(self._narrow, keys, at, *self._place)
            if wrong.any():
                deleted.append(Runs.where(wrong, at))
            low, high = 0, len(incoming.keys)
            if bucket_first < BUCKETS:
                low, high = incoming.starts[[bucket_first, bucket_last]].tolist()
            own, twice = incoming.keys[low:high], _NONE
            if whole and self._table is not None:
                hits, rows, twice = _match_once(self._table, keys, own, wrong)
            else:
                if wanted_of != bucket_first:  # once for all pieces
                    wanted = Wanted(_NONE)  # before there is another
                    wanted, wanted_of = Wanted(own), bucket_first
                hits, rows = wanted.find(keys, wrong)
            if not (rows[1:] > rows[:-1]).all():
                order = row_order(rows)
                hits, rows = hits[order], rows[order]
            try:
                if self._unique is not None:
                    check_keys(self._data, self._ev, keys)
                    self._unique.check(keys, at, wrong, twice)
            except TableError as error:  # told as flipped bits, at the end, if that is what it is
                self._problem = self._problem or error
            found.append(hits + low)
            places.append(rows + at)
        hits, rows = np.concatenate(found), np.concatenate(places)
        taken = np.zeros(len(incoming.keys), bool)
        taken[hits] = True
        if np.count_nonzero(taken) < len(hits):
            key = int(incoming.keys[again(np.sort(hits))[0]])
            self._problem = self._problem or key_twice(self._data, self._ev, key)
            hits = rows = _NONE
        return hits, rows, Runs.together(deleted)

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


def _match_once(
    table: KeyTable, keys: np.ndarray, wanted: np.ndarray, wrong: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what `Wanted.find` does, and the keys that stand twice; `wrong` rows do not."""
    if len(keys) > _MOST_HASHED:
        kept = keys[~wrong] if wrong.any() else keys
        return *Wanted(wanted).find(keys, wrong), again(in_order(kept))
    if not wrong.any():
        twice = table.fill(keys)
        return *table.find(wanted), twice
    legal = np.flatnonzero(~wrong)
    twice = table.fill(keys[legal])
    hits, rows = table.find(wanted)
    return hits, legal[rows], twice


def _spans(
    offsets: np.ndarray | None, rows: int, first: int, end: int
) -> Iterator[tuple[int, int, int, bool]]:
    """Return (end row, first bucket, last bucket, whole) of ranges of about `knobs.JOIN_KEYS` keys.

    Of buckets [first, end).

    A bucket of up to twice as many is one range, a larger one is several, none of them
    `whole`. Rows without a bucket (the old form, or what older releases put behind the last
    one) come last, in ranges of bucket 1000 that are not either.
    """
    while offsets is not None and first < end:
        begin = int(offsets[first])
        last = int(np.searchsorted(offsets, begin + knobs.JOIN_KEYS, side="right")) - 1
        last = min(max(last, first + 1), end)
        stop = int(offsets[last])
        whole = stop - begin <= most_together()
        step = max(stop - begin, 1) if whole else knobs.JOIN_KEYS
        for at in range(begin, stop, step):
            yield min(at + step, stop), first, last, whole
        first = last
    if end == BUCKETS:
        for at in range(0 if offsets is None else int(offsets[-1]), rows, knobs.JOIN_KEYS):
            yield min(at + knobs.JOIN_KEYS, rows), BUCKETS, BUCKETS, False
