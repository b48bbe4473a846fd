"""The pieces of a merge's work: independent, picklable, run by any executor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.bundle.checksum import EMPTY_MASKED, combine, crc32c, mask
from ckptctl.errors import ChangedError, TensorChecksumError
from ckptctl.restore import (
    CopyJob,
    MemberState,
    RowsJob,
    RowsState,
)
from ckptctl.restore.column import Column, copy_checked, view_bytes
from ckptctl.running import Report, ignore
from ckptctl.storage import Readable, Storage, Writable

__all__ = [
    "CopyTask",
    "CreateTask",
    "FlushTask",
    "OffsetsTask",
    "Parts",
    "PendingData",
    "Place",
    "RangeTask",
    "RowsTask",
    "SideTask",
    "Written",
    "WrittenRange",
    "range_tasks",
]


class PendingData(BundleData):
    """The data shards of a bundle that is not yet committed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (PendingData, (self.prefix, self.num_shards, self.storage))

    def shard_path(self, shard: int) -> str:
        """Return the path of a data shard under its temporary."""
        return os.path.join(self.prefix, f"data-{shard:05d}-of-{self.num_shards:05d}")


class Place(NamedTuple):
    """Where a tensor of the result goes: its index key, data shard and byte offset."""

    key: bytes
    shard: int
    offset: int
    size: int


class Written(NamedTuple):
    """What was written under a key: the masked crc32c of its bytes."""

    key: bytes
    crc: int


class WrittenRange(NamedTuple):
    """What became of one range of a tensor.

    Attributes
    ----------
    number
        Which range of its tensor it is.
    size, crc
        Bytes that were written, and their crc32c.
    old_size, old_crc
        The same of the bytes of the full that were read for it.
    """

    number: int
    size: int
    crc: int
    old_size: int
    old_crc: int


class Parts:
    """Puts the ranges of one tensor together, in whatever order they are done."""

    def __init__(self, column: Column, key: bytes, count: int) -> None:
        self._column = column
        self._key = key
        self._left = count
        self._done: list[WrittenRange] = []

    def add(self, done: WrittenRange) -> Written | None:
        """Take one range; with the last one check the full's tensor, and return the whole.

        Raises
        ------
        TensorChecksumError
            The full's tensor does not match its checksum.
        """
        self._done.append(done)
        self._left -= 1
        if self._left:
            return None
        crc = old = 0
        for each in sorted(self._done, key=lambda each: each.number):
            crc = combine(crc, each.crc, each.size)
            old = combine(old, each.old_crc, each.old_size)
        self._column.check(old)
        return Written(self._key, mask(crc))


class SideTask(NamedTuple):
    """Copies one side file, flushes it, and reads it back if told to."""

    source: str
    target: str
    size: int
    storage: Storage
    verify: bool

    @property
    def nbytes(self) -> int:
        """Bytes that are moved."""
        return self.size

    def run(self, report: Report = ignore) -> None:
        """Return when the copy is on the disk; raise `ChangedError` for a short source."""
        source, out = self.storage.open(self.source), self.storage.open_write(self.target)
        try:
            crc = self._run_through(source, report, out)
            out.fsync()
        finally:
            source.close()
            out.close()
        if self.verify:
            copy = self.storage.open(self.target)
            try:
                if self._run_through(copy, lambda _: report(0)) != crc:
                    raise TensorChecksumError("copy differs from its source", file=self.target)
            finally:
                copy.close()

    def _run_through(self, file: Readable, report: Report, out: Writable | None = None) -> int:
        crc = 0
        for at in range(0, self.size, knobs.PIECE_BYTES):
            piece = file.pread(at, min(knobs.PIECE_BYTES, self.size - at))
            if len(piece) != min(knobs.PIECE_BYTES, self.size - at):
                raise ChangedError("a side file became shorter", file=self.source, offset=at)
            crc = crc32c(piece, crc)
            if out is not None:
                out.pwrite(at, piece)
            report(len(piece))
        return crc


class CreateTask(NamedTuple):
    """Creates one shard of a pending bundle, preallocated: in memory that takes its time."""

    target: PendingData
    shard: int
    size: int

    @property
    def nbytes(self) -> int:
        """Bytes that are moved: none."""
        return 0

    def run(self, report: Report = ignore) -> None:
        """Return when the shard is there; raise `OSError` where there is no room for it."""
        self.target.storage.create(self.target.shard_path(self.shard), self.size)


class FlushTask(NamedTuple):
    """Makes one shard of a pending bundle survive a power cut."""

    target: PendingData
    shard: int

    @property
    def nbytes(self) -> int:
        """Bytes that are moved: none."""
        return 0

    def run(self, report: Report = ignore) -> None:
        """Return when the shard is on the disk."""
        file = self.target.storage.open_write(self.target.shard_path(self.shard))
        file.fsync()
        file.close()


class RangeTask(NamedTuple):
    """Writes the rows [start, stop) of a column."""

    column: Column
    number: int
    start: int
    stop: int
    target: PendingData
    place: Place

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return (self.stop - self.start) * self.column.row_bytes

    def run(self, report: Report = ignore) -> WrittenRange:
        """Return what was written; what was read of the full is not yet checked."""
        width = self.column.row_bytes
        stream = self.column.stream(self.start, self.stop, ahead=True)
        out = _Output(self.target, report)
        at = self.place.offset + self.start * width
        crc = out.pieces(self.place.shard, at, self.nbytes, stream.pieces())
        out.close()
        stream.drain()
        # The result takes the place of the full in the page cache: memory that is in use is
        # had at once, and free memory, which a host may have taken back, is not (bench.md).
        self.column.let_go(stream.first, stream.last)
        read = (stream.last - stream.first) * width
        return WrittenRange(self.number, self.nbytes, crc, read, stream.crc)


def range_tasks(
    column: Column, target: PendingData, place: Place
) -> Iterator[tuple[Parts, RangeTask]]:
    """Return the tasks that write a column, `knobs.TASK_BYTES` each, and what joins them."""
    step = max(1, knobs.TASK_BYTES // max(column.row_bytes, 1))
    starts = range(0, column.rows, step) if column.rows else (0,)
    parts = Parts(column, place.key, len(starts))
    for number, start in enumerate(starts):
        stop = min(start + step, column.rows)
        yield parts, RangeTask(column.cut(start, stop), number, start, stop, target, place)


class OffsetsTask(NamedTuple):
    """Writes the tensors that bound the buckets of a member of a part."""

    state: MemberState
    places: tuple[tuple[str, Place], ...]
    target: PendingData

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return sum(place.size for _, place in self.places)

    def run(self, report: Report = ignore) -> list[Written]:
        """Return what was written."""
        out = _Output(self.target, report)
        for suffix, place in self.places:
            out.write(place, [view_bytes(self.state.offsets(suffix))])
        return out.close()


class RowsTask(NamedTuple):
    """Writes one slice of a normal variable with rows replaced."""

    job: RowsJob
    target: PendingData
    place: Place

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return self.place.size

    def run(self, report: Report = ignore) -> tuple[list[Written], int, int]:
        """Return what was written, the rows replaced and the rows skipped."""
        state = RowsState(self.job)
        out = _Output(self.target, report)
        out.write(self.place, state.column().pieces())
        return out.close(), state.replaced, state.skipped


class CopyTask(NamedTuple):
    """Writes tensors that are taken as they are."""

    items: tuple[tuple[CopyJob, Place], ...]
    target: PendingData

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return sum(place.size for _, place in self.items)

    def run(self, report: Report = ignore) -> list[Written]:
        """Return what was written; the stored checksums are those of the sources.

        Small tensors that are neighbours, as they were in the full, move together.
        """
        out = _Output(self.target, report)
        buffer = memoryview(bytearray(min(knobs.PIECE_BYTES, self.nbytes)))
        for items in _neighbours(self.items):
            if len(items) > 1:
                self._move(items, buffer, out)
                continue
            job, place = items[0]
            job.data.check_encoded(job.name, job.entry)
            out.write(place, copy_checked(job.data, job.name, job.entry), job.entry.crc)
        return out.close()

    def _move(
        self, items: Sequence[tuple[CopyJob, Place]], buffer: memoryview, out: _Output
    ) -> None:
        (first, place), (last, _) = items[0], items[-1]
        start, size = first.entry.offset, last.entry.end - first.entry.offset
        file = last.data.data_file(last.name, last.entry)
        if file.readinto(start, buffer[:size]) != size:
            raise last.data.past_end(last.name, last.entry, file.size)
        for job, own in items:
            begin = job.entry.offset - start
            crc = crc32c(buffer[begin : begin + job.entry.size])
            job.data.compare_crc(job.name, job.entry, crc)
            out.written(own.key, job.entry.crc)
        out.pieces(place.shard, place.offset, size, (buffer[:size],))


def _neighbours(
    items: Sequence[tuple[CopyJob, Place]],
) -> Iterator[Sequence[tuple[CopyJob, Place]]]:
    """Return runs of tensors that follow each other, in one file and in the result alike."""
    begin = 0
    for at in range(1, len(items) + 1):
        if at < len(items) and _follows(items[at - 1], items[at]):
            first, last = items[begin][0].entry, items[at][0].entry
            if last.end - first.offset <= knobs.PIECE_BYTES:
                continue
        yield items[begin:at]
        begin = at


def _follows(before: tuple[CopyJob, Place], after: tuple[CopyJob, Place]) -> bool:
    (one, place), (two, next_place) = before, after
    plain = one.entry.dtype.size and two.entry.dtype.size and one.entry.size and two.entry.size
    return (
        bool(plain)
        and one.data is two.data
        and (one.entry.shard, one.entry.end) == (two.entry.shard, two.entry.offset)
        and (place.shard, place.offset + place.size) == (next_place.shard, next_place.offset)
    )


class _Output:
    """Writes pieces to the shards of a pending bundle."""

    def __init__(self, target: PendingData, report: Report) -> None:
        self._target = target
        self._report = report
        self._written: list[Written] = []
        self._files: dict[int, Writable] = {}
        #: What the kernel was not yet told to bring to the disk: (from, to) of each shard.
        self._dirty: dict[int, tuple[int, int]] = {}

    def write(self, place: Place, pieces: Iterable[memoryview], crc: int | None = None) -> None:
        """Write a whole tensor; `crc` is its stored checksum, where that is known."""
        found = self.pieces(place.shard, place.offset, place.size, pieces)
        masked = mask(found) if place.size else EMPTY_MASKED
        self.written(place.key, masked if crc is None else crc)

    def written(self, key: bytes, crc: int) -> None:
        """Note the masked checksum of a tensor that was written."""
        self._written.append(Written(key, crc))

    def pieces(self, shard: int, at: int, size: int, pieces: Iterable[memoryview]) -> int:
        """Write `size` bytes at an offset of a shard; return their crc32c."""
        file = self._files.get(shard)
        if file is None:
            path = self._target.shard_path(shard)
            file = self._files[shard] = self._target.storage.open_write(path)
        begin, crc = at, 0
        for piece in pieces:
            file.pwrite(at, piece)
            crc = crc32c(piece, crc)
            self._flush(shard, at, at + len(piece), knobs.FLUSH_BYTES)
            at += len(piece)
            self._report(len(piece))
        if at != begin + size:
            raise AssertionError(f"{at - begin} bytes were written instead of {size}")
        return crc

    def _flush(self, shard: int, begin: int, end: int, least: int) -> None:
        """Tell the kernel of a range that was written, once it has `least` bytes."""
        first, last = self._dirty.get(shard, (begin, begin))
        if last != begin:
            self._files[shard].start_flush(first, last - first)
            first = begin
        if end - first >= least:
            self._files[shard].start_flush(first, end - first)
            first = end
        self._dirty[shard] = first, end

    def close(self) -> list[Written]:
        for shard, file in self._files.items():
            end = self._dirty.get(shard, (0, 0))[1]
            self._flush(shard, end, end, 0)
            file.close()
        return self._written
