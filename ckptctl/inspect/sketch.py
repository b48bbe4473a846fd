"""Quantiles and histograms of streamed numbers, in memory of a fixed size."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["Sketch"]

#: Bits of the mantissa that tell bins apart: 128 bins an octave, so integers to 255 are exact.
_BITS = 7
_SHIFT = 52 - _BITS
#: Upper halves of float32s: of -0.0, of infinity, and what makes them numbers of float64's.
_HALF, _FLOAT_INF, _FLOAT_BIAS = 1 << 15, 0x7F80, (1023 - 127) << _BITS
#: Below so many numbers 65,536 counts cost more than they spare.
_FEW = 4096


class Sketch:
    """Counts numbers in bins of equal ratio; NaN and infinities are counted apart.

    A quantile is off by less than 1% of its value; minimum and maximum are exact. Zeros
    have a bin of their own, and so has each sign. Memory follows the range of exponents
    seen: 2 x 2,048 x 128 counts at most, some KB as a rule.

    Attributes
    ----------
    count
        Finite numbers seen.
    min, max
        Of the finite numbers; None before there is one. Of integers alone they are ints.
    nans, infinities
        How many.
    """

    def __init__(self) -> None:
        self.count = 0
        self.nans = 0
        self.infinities = 0
        self.min: float | None = None
        self.max: float | None = None
        self._bins = np.zeros(0, np.int64)
        self._whole = True  # only integers were seen
        self._first = 0  # the bin that `_bins[0]` counts
        self._halves: np.ndarray | None = None  # of float32s by their upper half

    def add(self, values: np.ndarray) -> None:
        """Count numbers of any real type and shape."""
        if values.dtype == np.float32 and values.size > _FEW:
            self._add_floats(np.ascontiguousarray(values).reshape(-1))
            return
        wide = values.reshape(-1).astype(np.float64)
        finite = np.isfinite(wide)
        if not finite.all():
            nans = int(np.count_nonzero(np.isnan(wide)))
            self.nans += nans
            self.infinities += int(len(wide) - np.count_nonzero(finite)) - nans
            wide = wide[finite]
        if not len(wide):
            return
        whole = values.dtype.kind in "iu"
        ends = values if whole else wide
        self._count(len(wide), ends.min().item(), ends.max().item(), whole)
        numbers = (np.abs(wide).view(np.int64) >> _SHIFT) + 1
        numbers[wide == 0] = 0
        numbers[wide < 0] *= -1
        first = int(numbers.min())
        self._add(first, np.bincount(numbers - first))

    def _add_floats(self, values: np.ndarray) -> None:
        """Count float32s by sign, exponent and seven bits of the mantissa: their upper half.

        Five times as fast as bins of float64, whose numbers follow from these at the end.
        """
        halves = np.bincount(values.view(np.uint16)[1::2], minlength=1 << 16)
        odd = int(halves[_FLOAT_INF:_HALF].sum() + halves[_HALF + _FLOAT_INF :].sum())
        small = int(halves[: 1 << _BITS].sum() + halves[_HALF : _HALF + (1 << _BITS)].sum())
        if odd or small > int(halves[0] + halves[_HALF]) or _tiny(values, halves):
            self.add(values.astype(np.float64))  # NaN, infinities and denormals: one by one
            return
        self._count(len(values), float(values.min()), float(values.max()), False)
        self._halves = halves if self._halves is None else self._halves + halves

    def _settle(self) -> None:
        """Turn what was counted by halves into bins."""
        halves, self._halves = self._halves, None
        if halves is None:
            return
        for sign, own in ((1, halves[:_HALF]), (-1, halves[_HALF:])):
            if own[0]:
                self._add(0, own[:1])
            used = np.flatnonzero(own[1:]) + 1
            if len(used):
                first, last = int(used[0]), int(used[-1])
                counts = own[first : last + 1]
                number = first + _FLOAT_BIAS + 1
                if sign > 0:
                    self._add(number, counts)
                else:
                    self._add(-(number + len(counts) - 1), counts[::-1])

    def merge(self, other: Sketch) -> None:
        """Take over what another sketch counted."""
        other._settle()
        self.nans += other.nans
        self.infinities += other.infinities
        if other.min is None or other.max is None:
            return
        self._count(other.count, other.min, other.max, other._whole)
        self._add(other._first, other._bins)

    def _count(self, count: int, low: float, high: float, whole: bool) -> None:
        self.count += count
        self.min = low if self.min is None else min(low, self.min)
        self.max = high if self.max is None else max(high, self.max)
        self._whole = self._whole and whole

    def _add(self, first: int, counts: np.ndarray) -> None:
        if not len(self._bins):
            self._first, self._bins = first, counts.astype(np.int64)
            return
        low = min(first, self._first)
        high = max(first + len(counts), self._first + len(self._bins))
        if low != self._first or high != self._first + len(self._bins):
            wider = np.zeros(high - low, np.int64)
            wider[self._first - low : self._first - low + len(self._bins)] = self._bins
            self._first, self._bins = low, wider
        self._bins[first - low : first - low + len(counts)] += counts

    def quantile(self, q: float) -> float | None:
        """Return the number below which a share `q` lies; None if nothing was seen."""
        if self.min is None or self.max is None:
            return None
        if q <= 0:
            return self.min
        if q >= 1:
            return self.max
        self._settle()
        rank = int(q * (self.count - 1)) + 1
        at = int(np.searchsorted(np.cumsum(self._bins), rank))
        return min(max(_middle(self._first + at), self.min), self.max)

    def histogram(self, bins: int) -> tuple[list[float], list[int]]:
        """Return the edges of up to `bins` bars of equal width, and the count of each.

        No bar is narrower than what the sketch tells apart: where all numbers lie close
        together for their size there are fewer bars, of equal numbers one.
        """
        if self.min is None or self.max is None:
            return [], []
        begins, ends, _ = self._spans()
        low, high = float(self.min), float(self.max)
        widest, span = float((ends - begins).max()), high - low
        if span <= bins * widest:
            bins = max(1, int(span / widest)) if widest else 1
        scale = 1 if math.isfinite(span) else 2
        edges = (np.linspace(low / scale, high / scale, bins + 1) * scale).tolist()
        return edges, self.histogram_of(edges)

    def histogram_of(self, edges: list[float]) -> list[int]:
        """Return the counts between given edges; a bin across some is spread evenly."""
        if self.min is None or self.max is None or len(edges) < 2:
            return [0] * max(len(edges) - 1, 0)
        begins, ends, counts = self._spans()
        above = np.cumsum(counts)
        places = np.stack([begins, ends], axis=1).reshape(-1)
        below = np.stack([above - counts, above], axis=1).reshape(-1)
        # What lies on an edge is above it; on the last one, below.
        at = np.array([*np.nextafter(edges[:-1], -np.inf), edges[-1]])
        found: list[int] = np.diff(np.rint(np.interp(at, places, below)).astype(np.int64)).tolist()
        return found

    def _spans(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where each bin in use begins and ends, ascending, and its count."""
        self._settle()
        used = np.flatnonzero(self._bins)
        numbers = used + self._first
        inner = np.maximum(np.abs(numbers) - 1, 0) << _SHIFT
        outer = np.where(numbers == 0, 0, inner + (1 << _SHIFT))
        near, far = inner.view(np.float64), outer.view(np.float64)
        if self._whole:
            far = np.where(far - near <= 1, np.ceil(near), far)  # of one integer
            near = np.ceil(near)
        begins, ends = np.where(numbers < 0, -far, near), np.where(numbers < 0, -near, far)
        low, high = np.float64(self.min or 0), np.float64(self.max or 0)
        return np.clip(begins, low, high), np.clip(ends, low, high), self._bins[used]


def _tiny(values: np.ndarray, halves: np.ndarray) -> bool:
    """Return whether the halves of zero count denormals too."""
    return int(halves[0] + halves[_HALF]) != len(values) - int(np.count_nonzero(values))


def _middle(number: int) -> float:
    """Return the middle of a bin; of one that holds one integer, that integer."""
    if number == 0:
        return 0.0
    low = (abs(number) - 1) << _SHIFT
    edges = np.array([low, low + (1 << _SHIFT)], np.int64).view(np.float64)
    begin, end = float(edges[0]), float(edges[1])
    # Of integers below 256 the lower edge is the number itself.
    middle = begin if begin >= 1 and end - begin <= 1 and begin == int(begin) else (begin + end) / 2
    return middle if number > 0 else -middle
