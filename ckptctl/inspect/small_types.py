"""What a byte of a type that NumPy lacks stands for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ckptctl.bundle import DType

__all__ = ["integers", "values_of_bytes"]

#: Bits of exponent and mantissa, bias, and which codes are no finite numbers (OCP 8-bit
#: floating point, and the variants of it that XLA knows as FNUZ and B11).
_FLOATS = {
    "float8_e5m2": (5, 2, 15, "ieee"),
    "float8_e4m3fn": (4, 3, 7, "last"),
    "float8_e4m3fnuz": (4, 3, 8, "zero"),
    "float8_e4m3b11fnuz": (4, 3, 11, "zero"),
    "float8_e5m2fnuz": (5, 2, 16, "zero"),
    "float4_e2m1fn": (2, 1, 1, "none"),
}
_INTEGERS = {"int4": (4, True), "uint4": (4, False), "int2": (2, True), "uint2": (2, False)}


@lru_cache
def values_of_bytes(name: str) -> np.ndarray | None:
    """Return the value of each byte, float32[256] or int8[256]; None for all other types.

    Of types of less than a byte the lower bits count.
    """
    codes = np.arange(256)
    if name in _INTEGERS:
        bits, signed = _INTEGERS[name]
        low = codes & ((1 << bits) - 1)
        half = 1 << (bits - 1)
        return np.asarray((low ^ half) - half if signed else low).astype(np.int8)
    if name not in _FLOATS:
        return None
    exponent_bits, mantissa_bits, bias, odd = _FLOATS[name]
    exponent = (codes >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = codes & ((1 << mantissa_bits) - 1)
    sign = np.where(codes >> (exponent_bits + mantissa_bits) & 1, -1.0, 1.0)
    normal = exponent > 0  # else it has no leading 1, and the exponent of the least that has
    fraction = mantissa / (1 << mantissa_bits) + normal
    found = sign * np.ldexp(fraction, np.maximum(exponent, 1) - bias)
    most = (1 << exponent_bits) - 1
    if odd == "ieee":
        found = np.where(exponent == most, np.where(mantissa, np.nan, sign * np.inf), found)
    elif odd == "last":
        found = np.where(codes & 0x7F == 0x7F, np.nan, found)
    elif odd == "zero":  # where others have -0
        found = np.where(codes == 0x80, np.nan, found)
    return np.asarray(found).astype(np.float32)


def integers(dtype: DType, chunk: np.ndarray) -> np.ndarray:
    """Return elements with integers of less than a byte as TensorFlow reads them.

    It stores them in a byte each, of which their lower bits count; all else stays as it is.
    """
    if dtype.name not in _INTEGERS:
        return chunk
    values = values_of_bytes(dtype.name)
    assert values is not None
    return values[chunk.view(np.uint8)].view(dtype.numpy)
