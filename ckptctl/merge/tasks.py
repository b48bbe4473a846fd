"""The pieces of a merge's work: independent, picklable, run by any executor."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.bundle.checksum import EMPTY_MASKED, crc32c, mask
from ckptctl.errors import ChangedError, TensorChecksumError
from ckptctl.restore import (
    CopyJob,
    MemberState,
    PartJob,
    RowsJob,
    RowsState,
)
from ckptctl.restore.column import copy_checked, view_bytes
from ckptctl.restore.member import Kept
from ckptctl.running import Report, ignore
from ckptctl.storage import Readable, Storage, Writable

__all__ = [
    "CopyTask",
    "FlushTask",
    "MemberTask",
    "PendingData",
    "Place",
    "RowsTask",
    "SideTask",
    "Written",
]


class PendingData(BundleData):
    """The data shards of a bundle that is not yet committed."""

    def __reduce__(self) -> tuple[object, ...]:
        return (PendingData, (self.prefix, self.num_shards, self.storage))

    def shard_path(self, shard: int) -> str:
        """Return the path of a data shard under its temporary."""
        return os.path.join(self.prefix, f"data-{shard:05d}-of-{self.num_shards:05d}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of the result goes: its index key, data shard and byte offset."""

    key: bytes
    shard: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    """What was written under a key: the masked crc32c of its bytes."""

    key: bytes
    crc: int


@dataclass(frozen=True)
class SideTask:
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


@dataclass(frozen=True)
class FlushTask:
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


@dataclass(frozen=True)
class MemberTask:
    """Writes the tensors of one member of one part."""

    job: PartJob
    member: int
    dropped: bytes
    target: PendingData
    places: tuple[tuple[str, Place], ...]
    kept: Kept | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return sum(place.size for _, place in self.places)

    def run(self, report: Report = ignore) -> list[Written]:
        """Return what was written."""
        import numpy as np

        state = MemberState(
            self.job,
            self.member,
            np.frombuffer(self.dropped, np.int64),
            kept=self.kept,
            report=lambda _: report(0),  # a sign of life; the bytes were counted before
        )
        out = _Output(self.target, report)
        for suffix, place in self.places:
            if suffix in ("-partition_offset", "-partition_filter_offset"):
                out.write(place, [view_bytes(state.offsets(suffix))])
            else:
                out.write(place, state.column(suffix).pieces())
        return out.close()


@dataclass(frozen=True)
class RowsTask:
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


@dataclass(frozen=True)
class CopyTask:
    """Writes tensors that are taken as they are."""

    items: tuple[tuple[CopyJob, Place], ...]
    target: PendingData

    @property
    def nbytes(self) -> int:
        """Bytes that are written."""
        return sum(place.size for _, place in self.items)

    def run(self, report: Report = ignore) -> list[Written]:
        """Return what was written; the stored checksums are those of the sources."""
        out = _Output(self.target, report)
        for job, place in self.items:
            job.data.check_encoded(job.name, job.entry)
            out.write(place, copy_checked(job.data, job.name, job.entry), job.entry.crc)
        return out.close()


class _Output:
    """Writes pieces to the shards of a pending bundle."""

    def __init__(self, target: PendingData, report: Report) -> None:
        self._target = target
        self._report = report
        self._written: list[Written] = []
        self._files: dict[int, Writable] = {}

    def write(self, place: Place, pieces: Iterable[memoryview], crc: int | None = None) -> None:
        file = self._files.get(place.shard)
        if file is None:
            path = self._target.shard_path(place.shard)
            file = self._files[place.shard] = self._target.storage.open_write(path)
        at = place.offset
        running = 0
        for piece in pieces:
            file.pwrite(at, piece)
            if crc is None:
                running = crc32c(piece, running)
            at += len(piece)
            self._report(len(piece))
        if at != place.offset + place.size:
            raise AssertionError(f"{place}: {at - place.offset} bytes were written")
        masked = mask(running) if place.size else EMPTY_MASKED
        self._written.append(Written(place.key, masked if crc is None else crc))

    def close(self) -> list[Written]:
        for file in self._files.values():
            file.close()
        return self._written
