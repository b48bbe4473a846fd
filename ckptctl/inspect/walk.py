"""The rows of a table bucket by bucket, of one view or of two side by side.

Memory: some 64 Ki rows of each side, whatever the size of a table or of a bucket. Each
column is read once, front to back, and checked against its checksum when it ends; what is
too large to be held together (a bucket of more than `MOST_ROWS` rows, tables without
buckets) is read again, a slice of the hash of its keys at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ckptctl import knobs
from ckptctl.inspect.parts import ColumnName, PartView
from ckptctl.inspect.view import MemberView
from ckptctl.restore.column import Column
from ckptctl.restore.keys import in_slice
from ckptctl.tables import BUCKETS

__all__ = [
    "Rows",
    "one_step_a_bucket",
    "typed",
    "walk",
    "walk_both",
    "walk_filtered",
    "walk_pair",
    "walk_quad",
]

#: Rows of one side that are held together.
MOST_ROWS = 1 << 16

#: Columns of admitted keys -> those of filtered ones.
_FILTERED: dict[ColumnName, ColumnName] = {
    "keys": "keys_filtered",
    "freqs": "freqs_filtered",
    "versions": "versions_filtered",
}


class Rows:
    """Some rows of a member.

    Attributes
    ----------
    buckets
        First bucket, and the one behind the last; (0, 1001) where keys decide otherwise.
    keys
        int64[n].
    columns
        Of the columns asked for those that the table keeps: `values` [n, dim] in the type of
        the tensor, `freqs` and `versions` int64[n].
    segments
        int64[parts * buckets]: how many of the rows, in order, lie in each bucket of each
        part; None where they were read by hash.
    """

    def __init__(
        self,
        buckets: tuple[int, int],
        keys: np.ndarray,
        columns: dict[ColumnName, np.ndarray] | None = None,
        segments: np.ndarray | None = None,
    ) -> None:
        self.buckets = buckets
        self.keys = keys
        self.columns = {} if columns is None else columns
        self.segments = segments

    def sorted(self) -> Rows:
        """Return the same rows, ascending by key."""
        order = np.argsort(self.keys, kind="stable")
        columns = {name: column[order] for name, column in self.columns.items()}
        return Rows(self.buckets, self.keys[order], columns)

    def __len__(self) -> int:
        return len(self.keys)


def walk(member: MemberView, columns: Sequence[ColumnName] = ("values",)) -> Iterator[Rows]:
    """Return all rows of a member, some buckets at a time; the last step checks them.

    In each step the rows ascend by key.

    Raises
    ------
    TensorChecksumError, TableError, EntryBoundsError
    """
    side = _Side(member, columns)
    for first, last, slices in _ranges(side.counts):
        for rows in side.read(first, last, slices):
            yield rows.sorted()
    side.finish()


def walk_pair(
    a: MemberView, b: MemberView, columns: Sequence[ColumnName] = ("values",)
) -> Iterator[tuple[Rows, Rows]]:
    """Return the rows of two members side by side, whatever their numbers of parts.

    A key that both have comes in the same step. They are valid until the next step: their
    memory is used again. The last step checks all rows.
    """
    for found in _walk_together([_Side(a, columns), _Side(b, columns)]):
        yield found[0], found[1]


def walk_quad(
    a: MemberView, b: MemberView, columns: Sequence[ColumnName] = ("values",)
) -> Iterator[tuple[Rows, Rows, Rows, Rows]]:
    """Return the rows of two members side by side, then the filtered keys of both.

    Those come with their own `freqs` and `versions`, as far as these are asked for. They are
    valid until the next step: their memory is used again.
    """
    away = [_FILTERED[name] for name in columns if name in _FILTERED]
    sides = [_Side(a, columns), _Side(b, columns)]
    sides += [_Side(member, away, filtered=True) for member in (a, b)]
    for found in _walk_together(sides):
        for rows in found[2:]:
            rows.columns = {
                name: rows.columns[stored]
                for name, stored in _FILTERED.items()
                if stored in rows.columns
            }
        yield found[0], found[1], found[2], found[3]


def walk_both(
    member: MemberView, columns: Sequence[ColumnName], filtered: Sequence[ColumnName]
) -> Iterator[tuple[Rows, Rows]]:
    """Return the admitted rows of a member, and the filtered keys of the same buckets."""
    sides = [_Side(member, columns), _Side(member, filtered, filtered=True)]
    for found in _walk_together(sides):
        yield found[0], found[1]


def _walk_together(sides: Sequence[_Side]) -> Iterator[tuple[Rows, ...]]:
    most = sides[0].counts
    for side in sides[1:]:
        most = np.maximum(most, side.counts)
    light = not any(side.has_values for side in sides)
    for first, last, slices in _ranges(most, light=light):
        yield from zip(*(side.read(first, last, slices) for side in sides), strict=True)
    for side in sides:
        side.finish()


def walk_filtered(part: PartView) -> Iterator[Rows]:
    """Return the filtered keys of a part as they stand, with `freqs` and `versions`."""
    streams = {
        name: (column, column.stream())
        for name, stored in _FILTERED.items()
        if (column := part.column(stored)) is not None
    }
    if "keys" not in streams:
        return
    total = streams["keys"][0].rows
    for at in range(0, total, MOST_ROWS):
        rows = min(MOST_ROWS, total - at)
        read = {
            name: typed(column, stream.take(rows)) for name, (column, stream) in streams.items()
        }
        yield Rows((0, BUCKETS + 1), read.pop("keys").astype(np.int64, copy=False), read)
    for _, stream in streams.values():
        stream.finish()


def _ranges(counts: np.ndarray, *, light: bool = False) -> Iterator[tuple[int, int, int]]:
    """Return (first bucket, last bucket, slices) of ranges of about `MOST_ROWS` rows.

    Rows without a bucket may have any key: then everything is one range. Each slice reads
    everything again, so slices of `light` rows, those without values, are larger.
    """
    if counts[BUCKETS]:
        yield 0, BUCKETS + 1, _slices(int(counts.sum()), light=light)
        return
    ends = np.concatenate([[0], np.cumsum(counts)])
    first = 0
    while first < BUCKETS:
        last = int(np.searchsorted(ends, ends[first] + _most(), side="right")) - 1
        last = min(max(last, first + 1), BUCKETS)
        rows = int(ends[last] - ends[first])
        if rows:
            yield first, last, _slices(rows, light=light)
        first = last


def one_step_a_bucket(rows: int, offsets: np.ndarray | None) -> bool:
    """Return whether no bucket is so large that its rows come a slice of hashes at a time."""
    if not rows:
        return True
    if offsets is None or int(offsets[-1]) != rows:
        return False
    return _slices(int(np.diff(offsets).max()), light=True) == 1


def _most() -> int:
    return min(MOST_ROWS, knobs.JOIN_KEYS)


def _slices(rows: int, *, light: bool) -> int:
    # A bucket somewhat above the size is cheaper to hold than to read twice.
    return 1 if rows <= 4 * _most() else -(-rows // (_most() * (16 if light else 1)))


class _Side:
    """A member's rows, read bucket after bucket from all its parts.

    Attributes
    ----------
    counts
        int64[1001]: rows in each bucket, and rows without one.
    has_values
        Whether rows come with their values.
    """

    def __init__(
        self, member: MemberView, columns: Sequence[ColumnName], *, filtered: bool = False
    ) -> None:
        self._parts = [
            _Part(part, columns, filtered=filtered)
            for part in member.parts
            if (part.filtered if filtered else part.rows)
        ]
        self.has_values = "values" in columns
        self.counts = np.zeros(BUCKETS + 1, np.int64)
        for part in self._parts:
            self.counts += np.diff(part.offsets)

    def read(self, first: int, last: int, slices: int) -> Iterator[Rows]:
        """Return the rows of some buckets, once for each slice of the hash of their keys."""
        for number in range(slices):
            read = [part.read(first, last, number, slices) for part in self._parts]
            yield _together((first, last), read)
        for part in self._parts:
            part.advance(last)

    def finish(self) -> None:
        """Check all columns against their checksums."""
        for part in self._parts:
            part.finish()


class _Part:
    def __init__(self, part: PartView, names: Sequence[ColumnName], *, filtered: bool) -> None:
        keys = part.column("keys_filtered" if filtered else "keys")
        assert keys is not None  # a part without rows is not walked
        self._columns: dict[ColumnName, Column] = {"keys": keys}
        for name in names:
            column = part.column(name)
            if column is not None:
                self._columns[name] = column
        self._streams = {name: column.stream() for name, column in self._columns.items()}
        own = part.filtered_offsets if filtered else part.offsets
        bounds = np.zeros(BUCKETS + 1, np.int64) if own is None else own
        #: int64[1002]: first row of each bucket, of what has none, and the end.
        self.offsets = np.concatenate([bounds, [part.filtered if filtered else part.rows]])

    def read(self, first: int, last: int, number: int, slices: int) -> Rows:
        begin, end = int(self.offsets[first]), int(self.offsets[last])
        if slices == 1:
            read = {
                name: typed(self._columns[name], stream.take(end - begin))
                for name, stream in self._streams.items()
            }
            counts = np.diff(self.offsets[first : last + 1])
            return Rows((first, last), read.pop("keys").astype(np.int64, copy=False), read, counts)
        found = []
        for at in range(begin, end, MOST_ROWS):
            stop = min(at + MOST_ROWS, end)
            keys = typed(self._columns["keys"], self._columns["keys"].read(at, stop))
            keys = keys.astype(np.int64)
            kept = np.flatnonzero(in_slice(keys, number, slices))
            columns: dict[ColumnName, np.ndarray] = {
                name: typed(column, column.read(at, stop)[kept])
                for name, column in self._columns.items()
                if name != "keys" and len(kept)
            }
            found.append(Rows((first, last), keys[kept], columns))
        return _together((first, last), found)

    def advance(self, bucket: int) -> None:
        """Leave what was read in slices behind; the streams pass it for its checksum."""
        row = int(self.offsets[bucket])
        for stream in self._streams.values():
            stream.skip(row - stream.row)

    def finish(self) -> None:
        for stream in self._streams.values():
            stream.finish()


def _together(buckets: tuple[int, int], pieces: Sequence[Rows]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    filled = [rows for rows in pieces if len(rows)]
    segments = [rows.segments for rows in pieces if rows.segments is not None]
    counts = np.concatenate(segments) if segments and len(segments) == len(pieces) else None
    if len(filled) < 2:
        one = filled[0] if filled else Rows(buckets, np.empty(0, np.int64))
        return Rows(buckets, one.keys, one.columns, counts)
    return Rows(
        buckets,
        np.concatenate([rows.keys for rows in filled]),
        {
            name: np.concatenate([rows.columns[name] for rows in filled])
            for name in filled[0].columns
            if all(name in rows.columns for rows in filled)
        },
        counts,
    )


def typed(column: Column, raw: np.ndarray) -> np.ndarray:
    """Return the bytes of rows in the type and shape of the tensor."""
    entry = column.entry
    if not raw.size:
        return np.empty((len(raw), *entry.shape[1:]), entry.dtype.numpy)
    return raw.view(entry.dtype.numpy).reshape(len(raw), *entry.shape[1:])
