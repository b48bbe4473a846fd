"""Numbers about the elements of a tensor, from one pass over it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ckptctl.bundle import DType
from ckptctl.inspect.sketch import Sketch
from ckptctl.inspect.small_types import values_of_bytes

__all__ = ["Stats", "decode", "finite", "gaps", "measure"]

#: Bars of the histogram of a tensor; it is coarse where the sketch can draw fewer.
BARS = 20
#: Up to this, and down to its inverse, squares and their sums fit into float64.
_LARGE = 1e140


class Stats:
    """Minimum, maximum, mean, deviation, norm and histogram of streamed numbers.

    NaN and infinities are counted, and left out of everything else. Mean and deviation are
    combined piece by piece (Chan, Golub, LeVeque), so they hold for any length; the norm is
    kept as scale times root, so squares do not overflow.

    Attributes
    ----------
    count
        Elements seen, NaN and infinities included.
    zeros
        Elements equal to 0.
    """

    def __init__(self) -> None:
        self.count = 0
        self.zeros = 0
        self.sketch = Sketch()
        self._finite = 0
        self._mean = 0.0
        self._moment = 0.0  # sum of squared distances from the mean
        self._scale = 0.0
        self._squares = 0.0  # of elements divided by the scale

    def add(self, values: np.ndarray) -> None:
        """Take numbers of any real type."""
        flat = values.reshape(-1)
        self.count += len(flat)
        self.zeros += len(flat) - int(np.count_nonzero(flat))
        self.sketch.add(flat)
        wide = flat.astype(np.float64)
        if flat.dtype.kind == "f" and not math.isfinite(float(flat.sum(dtype=np.float64))):
            wide = wide[np.isfinite(wide)]
        if not len(wide):
            return
        largest = float(max(wide.max(), -wide.min()))
        scale = max(largest, self._scale)
        if scale:
            own = wide if scale < _LARGE and scale > 1 / _LARGE else wide / scale
            squares = float(own @ own) * (1.0 if own is not wide else scale**-2)
            self._squares = self._squares * (self._scale / scale) ** 2 + squares
            self._scale = scale
        mean = float(wide.mean())
        if not math.isfinite(mean):  # a sum beyond what float64 holds
            mean = float((wide / len(wide)).sum())
        with np.errstate(over="ignore"):
            wide -= mean
            shift = mean - self._mean
            total = self._finite + len(wide)
            self._moment += float(wide @ wide) + shift * shift * self._finite * len(wide) / total
        self._mean += shift * len(wide) / total
        self._finite = total

    def document(self) -> dict[str, object]:
        """Return them as JSON; what is beyond float64 is null."""
        sketch = self.sketch
        found = {
            "min": sketch.min,
            "max": sketch.max,
            "mean": self._mean if self._finite else None,
            "std": math.sqrt(self._moment / self._finite) if self._finite else None,
            "l2": self._scale * math.sqrt(self._squares) if self._finite else None,
        }
        edges, counts = sketch.histogram(BARS)
        return {
            **{name: finite(value) for name, value in found.items()},
            "count": self.count,
            "zeros": self.zeros,
            "nan": sketch.nans,
            "inf": sketch.infinities,
            "histogram": {
                "edges": edges,
                "counts": counts,
                "coarse": len(counts) < BARS and sketch.min != sketch.max,
            },
        }


def measure(dtype: DType, chunks: Iterable[np.ndarray]) -> dict[str, object] | None:
    """Return the numbers of a tensor whose elements come in chunks; None for complex ones."""
    if dtype.name.startswith("complex"):
        return None
    stats = Stats()
    for chunk in chunks:
        stats.add(decode(dtype, chunk))
    return stats.document()


def decode(dtype: DType, chunk: np.ndarray) -> np.ndarray:
    """Return elements in a type in which NumPy knows their values.

    bfloat16 is the upper half of a float32; of what takes a byte or less each byte has its
    value.
    """
    if dtype.name == "bfloat16":
        upper: np.ndarray = chunk.astype(np.uint32) << np.uint32(16)
        return upper.view(np.float32)
    if dtype.size == 1:
        values = values_of_bytes(dtype.name)
        if values is not None:
            return values[chunk.view(np.uint8)]
    return chunk


def gaps(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the distance between numbers of one type, element by element, as float64.

    Integers are subtracted first: 2^60 and 2^60 + 100 are the same double.
    """
    if new.dtype.kind in "iu":
        high, low = np.maximum(old, new), np.minimum(old, new)
        return np.asarray(high.astype(np.uint64) - low.astype(np.uint64)).astype(np.float64)
    wide = np.complex128 if new.dtype.kind == "c" else np.float64
    return np.asarray(np.abs(new.astype(wide) - old.astype(wide)))


def finite(number: float | None) -> float | None:
    """Return a number as JSON has it: null for NaN and infinities."""
    return number if number is not None and math.isfinite(number) else None
