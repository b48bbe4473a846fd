"""Every byte of a bundle: checksums, and values that no training makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, DType, Entry
from ckptctl.bundle.checksum import combine, crc32c
from ckptctl.errors import CkptctlError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.inspect.stats import decode
from ckptctl.running import Report, ignore

__all__ = ["ABSURD", "Seen", "Span", "TensorsTask", "Together", "Told", "spans"]

#: Beyond what any training makes: uninitialised rows are near 1e38 (DeepRec #1023).
ABSURD = 1e30
#: The code that is NaN in floats of 8 bits without infinities and -0, and stands for nothing else.
_ONE_NAN = 0x80
#: The largest number of each type that is not absurd, and its bits as an integer, of complex
#: ones those of a part; or `_ONE_NAN`. All floats of 4 bits are numbers.
_LIMITS = {
    "float16": (65504.0, 0x7BFF),
    "bfloat16": (ABSURD, 0x7149),
    "float32": (ABSURD, 0x7149F2CA),
    "float64": (ABSURD, 0x46293E5939A08CEA),
    "complex64": (ABSURD, 0x7149F2CA),
    "complex128": (ABSURD, 0x46293E5939A08CEA),
    "float8_e5m2": (57344.0, 0x7B),
    "float8_e4m3fn": (448.0, 0x7E),
    "float8_e4m3fnuz": (240.0, _ONE_NAN),
    "float8_e4m3b11fnuz": (30.0, _ONE_NAN),
    "float8_e5m2fnuz": (57344.0, _ONE_NAN),
}
#: Bytes that are read, checked and looked at while they are in the L2 cache (bench.md).
_PIECE_BYTES = 1 << 19


class Span(NamedTuple):
    """Some bytes of a tensor, from `first` to before `last`; `number` tells tensors apart."""

    number: int
    name: str
    entry: Entry
    first: int
    last: int

    @property
    def nbytes(self) -> int:
        """How many."""
        return self.last - self.first


def spans(tensors: Iterable[tuple[str, Entry]]) -> Iterator[Span]:
    """Return the tensors, large ones in spans that several threads can read side by side."""
    for number, (name, entry) in enumerate(tensors):
        # The checksum of strings and variants does not run over their bytes as they are stored.
        step = knobs.TASK_BYTES if entry.dtype.size else entry.size
        for at in range(0, entry.size, step or 1):
            yield Span(number, name, entry, at, min(at + step, entry.size))
        if not entry.size:
            yield Span(number, name, entry, 0, 0)


class Seen:
    """What one span of a tensor showed: its checksum and odd values, or why it was not read."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self.crc = 0
        self.odd: _Odd | None = None
        self.error: Finding | None = None


class Told:
    """What a task found: findings, and the tensors that it could not trust.

    Attributes
    ----------
    damaged
        Names of tensors whose bytes are wrong: what they mean need not be looked at.
    checked
        Tensors by name that were compared with their checksums while their meaning was
        looked at.
    rests_on
        Names of tensors: if one of them is damaged, the rest of this tells nothing.
    seen
        Spans of tensors, of which other tasks may have read others.
    """

    def __init__(self, rests_on: frozenset[str] = frozenset()) -> None:
        self.findings: list[Finding] = []
        self.damaged: set[str] = set()
        self.checked: dict[str, Entry] = {}
        self.rests_on = rests_on
        self.seen: list[Seen] = []
        self.keys = 0
        self.tensors = 0
        self.nbytes = 0


class TensorsTask(NamedTuple):
    """Reads tensors once: their checksums, and NaN, infinities and absurd values."""

    data: BundleData
    spans: tuple[Span, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return sum(span.nbytes for span in self.spans)

    @property
    def begins(self) -> bool:
        """Whether no other task has begun the first of the tensors."""
        return not self.spans[0].first

    def run(self, report: Report = ignore) -> Told:
        """Return what was found; damage of one tensor does not keep the others unread."""
        told = Told()
        buffer = np.empty(min(_PIECE_BYTES, knobs.PIECE_BYTES, self.nbytes), np.uint8)
        for span in self.spans:
            told.tensors += not span.first
            told.nbytes += span.nbytes
            seen = Seen(span)
            try:
                if span.entry.dtype.size:
                    self._read(seen, buffer, report)
                else:
                    self.data.check_tensor(span.name, span.entry, report)
            except (CkptctlError, OSError) as error:
                seen.error = of_error(error, self.data.shard_path(span.entry.shard))
            told.seen.append(seen)
        return told

    def _read(self, seen: Seen, buffer: np.ndarray, report: Report) -> None:
        """Check a span; its values are looked at while they are in the cache."""
        _, name, entry, first, last = seen.span
        file = self.data.data_file(name, entry)
        width = entry.dtype.numpy.itemsize
        odd = seen.odd = _Odd(entry.dtype) if entry.dtype.name in _LIMITS else None
        step = max(len(buffer) // width * width, width)
        if len(buffer) < step:
            buffer = np.empty(step, np.uint8)
        crc = 0
        # Some 6 us of Python a piece are a tenth of what its bytes take: nothing is made anew.
        piece = buffer[:step]
        view = piece.data
        for at in range(first, last, step):
            if last - at < step:
                piece = buffer[: last - at]
                view = piece.data
            if file.readinto(entry.offset + at, view) != len(view):
                raise self.data.past_end(name, entry, entry.offset + at)
            crc = crc32c(view, crc)
            if odd is not None:
                odd.look(piece, at // width)
            report(len(view))
        seen.crc = crc


class Together:
    """Puts the spans of tensors together, whatever the order in which they were read."""

    def __init__(self, data: BundleData) -> None:
        self._data = data
        self._waiting: dict[int, list[Seen]] = {}

    def add(self, told: Told) -> None:
        """Turn the spans of tensors that are all there now into findings."""
        for seen in told.seen:
            number, name, entry, _, _ = seen.span
            own = self._waiting.setdefault(number, [])
            own.append(seen)
            if sum(each.span.nbytes for each in own) < entry.size:
                continue
            del self._waiting[number]
            own.sort(key=lambda each: each.span.first)
            damage = self._damage(name, entry, own)
            if damage is None:
                told.findings += self._odd(name, entry, own)
            else:
                told.findings.append(damage)
                told.damaged.add(name)
        told.seen.clear()

    def _damage(self, name: str, entry: Entry, own: list[Seen]) -> Finding | None:
        """Return why a tensor cannot be trusted, or None."""
        for seen in own:
            if seen.error is not None:
                return seen.error
        crc = own[0].crc
        for seen in own[1:]:
            crc = combine(crc, seen.crc, seen.span.nbytes)
        try:
            if entry.dtype.size:  # strings and variants were checked as they were read
                self._data.compare_crc(name, entry, crc)
        except CkptctlError as error:
            return of_error(error, self._data.shard_path(entry.shard))
        return None

    def _odd(self, name: str, entry: Entry, own: list[Seen]) -> Iterator[Finding]:
        odd = own[0].odd
        if odd is None:
            return
        for seen in own[1:]:
            odd.merge(seen.odd)
        per_row = entry.elements // entry.rows if entry.rows else 1
        for code, count, first in odd.found():
            what = "NaN or infinite" if code == "CK060" else f"beyond {ABSURD:g}"
            row = first // max(per_row, 1)
            yield Finding(
                code,
                f"{count} of {entry.elements} elements are {what}, the first in row {row}",
                self._data.shard_path(entry.shard),
                name,
                entry.offset + first * entry.dtype.size,
                "finite numbers of a trained model",
                str(count),
            )


class _Odd:
    """Counts NaN, infinities and absurd values of a tensor.

    Attributes
    ----------
    counts, first
        How many elements are not finite, and how many absurd; and the first of each.
    """

    def __init__(self, dtype: DType) -> None:
        self.counts = [0, 0]
        self.first = [0, 0]
        self._dtype = dtype
        # Numbers of 16 and 8 bits end below what is absurd: there the limit is their last one.
        self._limit, self._most = _LIMITS.get(dtype.name, (ABSURD, 0))
        self._parts = 2 if dtype.numpy.kind == "c" else 1
        size = dtype.size // self._parts
        self._signed, self._unsigned = np.dtype(f"<i{size}"), np.dtype(f"<u{size}")
        self._least = self._most | 1 << (8 * size - 1)

    def look(self, piece: np.ndarray, at: int) -> None:
        """Look at elements, as uint8, of which the first is element `at` of the tensor."""
        if self._is_sound(piece):
            return
        numbers = decode(self._dtype, piece.view(self._dtype.numpy))
        numbers = numbers.view(numbers.real.dtype).reshape(-1, self._parts)
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(numbers)
            wrong = [~finite, finite & (np.abs(numbers) > self._limit)]
        for which, mask in enumerate(wrong):
            hits = np.flatnonzero(mask.any(axis=1))
            if len(hits):
                if not self.counts[which]:
                    self.first[which] = at + int(hits[0])
                self.counts[which] += len(hits)

    def _is_sound(self, piece: np.ndarray) -> bool:
        # As integers, numbers of one sign stand in the order of their size, with the infinities
        # and NaN at the end, and negative ones behind the others if there is no sign. So one
        # pass over what is in the cache will do where none is negative, as in a slot of Adagrad.
        signed = piece.view(self._signed)
        if self._most == _ONE_NAN:
            return bool(np.minimum.reduce(signed) > -_ONE_NAN)
        largest = int(np.maximum.reduce(piece.view(self._unsigned)))
        return largest <= self._most or (
            largest <= self._least and bool(np.maximum.reduce(signed) <= self._most)
        )

    def merge(self, after: _Odd | None) -> None:
        """Take over what was seen of elements that come after these."""
        assert after is not None  # a span that was read has one
        for which, count in enumerate(after.counts):
            if count and not self.counts[which]:
                self.first[which] = after.first[which]
            self.counts[which] += count

    def found(self) -> Iterator[tuple[str, int, int]]:
        """Return code, count and first element of what was seen."""
        for code, count, first in zip(("CK060", "CK061"), self.counts, self.first, strict=True):
            if count:
                yield code, count, first
