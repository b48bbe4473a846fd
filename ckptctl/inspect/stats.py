"""Numbers about the elements of a tensor, from one pass over it."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ckptctl.bundle import DType
from ckptctl.inspect.sketch import Sketch

__all__ = ["Stats", "decode", "measure"]

#: Bars of the histogram of a tensor.
BARS = 20


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
        wide = values.reshape(-1).astype(np.float64)
        self.count += len(wide)
        self.zeros += len(wide) - int(np.count_nonzero(wide))
        self.sketch.add(wide)
        finite = np.isfinite(wide)
        if not finite.all():
            wide = wide[finite]
        if not len(wide):
            return
        largest = float(np.abs(wide).max())
        if largest:
            scale = max(largest, self._scale)
            self._squares *= (self._scale / scale) ** 2
            scaled = wide / scale
            self._squares += float(scaled @ scaled)
            self._scale = scale
        mean = float(wide.mean())
        if not math.isfinite(mean):  # a sum beyond what float64 holds
            mean = float((wide / len(wide)).sum())
        with np.errstate(over="ignore"):
            moment = float(np.square(wide - mean).sum())
            shift = mean - self._mean
            total = self._finite + len(wide)
            self._moment += moment + shift * shift * self._finite * len(wide) / total
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
            **{name: _or_none(value) for name, value in found.items()},
            "count": self.count,
            "zeros": self.zeros,
            "nan": sketch.nans,
            "inf": sketch.infinities,
            "histogram": {"edges": edges, "counts": counts},
        }


def measure(dtype: DType, chunks: Iterable[np.ndarray]) -> dict[str, object] | None:
    """Return the numbers of a tensor whose elements come in chunks; None for no numbers."""
    stats = Stats()
    for chunk in chunks:
        values = decode(dtype, chunk)
        if values is None:
            return None
        stats.add(values)
    return stats.document()


def decode(dtype: DType, chunk: np.ndarray) -> np.ndarray | None:
    """Return elements as real numbers; None for types that have none here.

    bfloat16 is the upper half of a float32. Floats of 8 and 4 bits, integers of less than a
    byte, and complex numbers are not decoded.
    """
    if dtype.name == "bfloat16":
        upper: np.ndarray = chunk.astype(np.uint32) << np.uint32(16)
        return upper.view(np.float32)
    if dtype.name.startswith(("float8", "float4", "complex", "int4", "uint4", "int2", "uint2")):
        return None
    return chunk


def _or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
