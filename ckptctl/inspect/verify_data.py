"""Every byte of a bundle: checksums, and values that no training makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, DType, Entry
from ckptctl.bundle.checksum import crc32c
from ckptctl.errors import CkptctlError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.inspect.stats import decode
from ckptctl.running import Report, ignore

__all__ = ["ABSURD", "TensorsTask", "Told"]

#: Beyond what any training makes: uninitialised rows are near 1e38 (DeepRec #1023).
ABSURD = 1e30


@dataclass
class Told:
    """What a task found: findings, and the tensors that it could not trust.

    Attributes
    ----------
    damaged
        Names of tensors whose bytes are wrong: what they mean need not be looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    keys: int = 0
    tensors: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class TensorsTask:
    """Reads tensors once: their checksums, and NaN, infinities and absurd values."""

    data: BundleData
    tensors: tuple[tuple[str, Entry], ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(entry.size for _, entry in self.tensors)

    def run(self, report: Report = ignore) -> Told:
        """Return what was found; damage of one tensor does not keep the others unread."""
        told = Told()
        for name, entry in self.tensors:
            told.tensors += 1
            told.nbytes += entry.size
            try:
                if _has_floats(entry.dtype):
                    told.findings += self._floats(name, entry, report)
                else:
                    self.data.check_tensor(name, entry, report)
            except (CkptctlError, OSError) as error:
                told.findings.append(of_error(error, self.data.shard_path(entry.shard)))
                told.damaged.add(name)
        return told

    def _floats(self, name: str, entry: Entry, report: Report) -> Iterator[Finding]:
        """Check a tensor of floats; its values are looked at while they are in the cache."""
        file = self.data.data_file(name, entry)
        kind = entry.dtype.numpy
        width = kind.itemsize
        step = max(knobs.PIECE_BYTES // width, 1) * width
        buffer = np.empty(min(step, entry.size), np.uint8)
        crc = 0
        odd = _Odd()
        for at in range(0, entry.size, step):
            piece = buffer[: min(step, entry.size - at)]
            if file.readinto(entry.offset + at, piece.data) != len(piece):
                raise self.data.past_end(name, entry, entry.offset + at)
            crc = crc32c(piece.data, crc)
            odd.look(entry.dtype, piece.view(kind), at // width)
            report(len(piece))
        self.data.compare_crc(name, entry, crc)
        per_row = entry.elements // entry.rows if entry.rows else 1
        where = (self.data.shard_path(entry.shard), name)
        for code, count, first in odd.found():
            what = "NaN or infinite" if code == "CK060" else f"beyond {ABSURD:g}"
            row = first // max(per_row, 1)
            yield Finding(
                code,
                f"{count} of {entry.elements} elements are {what}, the first in row {row}",
                *where,
                entry.offset + first * width,
                "finite numbers of a trained model",
                str(count),
            )


class _Odd:
    """Counts NaN, infinities and absurd values."""

    def __init__(self) -> None:
        self._counts = [0, 0]
        self._first = [0, 0]

    def look(self, dtype: DType, values: np.ndarray, at: int) -> None:
        numbers = decode(dtype, values)
        if numbers is None or not len(numbers):
            return
        # Both are false for NaN; two passes over what is in the cache. The numbers of float16
        # end below what is absurd: there the limit itself would be infinite.
        limit = min(ABSURD, float(np.finfo(numbers.dtype).max))
        if numbers.max() <= limit and numbers.min() >= -limit:
            return
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(numbers)
            wrong = [~finite, finite & (np.abs(numbers) > limit)]
        for which, mask in enumerate(wrong):
            hits = np.flatnonzero(mask)
            if len(hits):
                if not self._counts[which]:
                    self._first[which] = at + int(hits[0])
                self._counts[which] += len(hits)

    def found(self) -> Iterator[tuple[str, int, int]]:
        """Return code, count and first element of what was seen."""
        for code, count, first in zip(("CK060", "CK061"), self._counts, self._first, strict=True):
            if count:
                yield code, count, first


def _has_floats(dtype: DType) -> bool:
    return dtype.name in ("float16", "bfloat16", "float32", "float64")
