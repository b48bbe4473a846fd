"""crc32c as TensorFlow stores it: masked, so that checksums of checksums stay useful."""

from __future__ import annotations

from functools import cache, lru_cache

from fastcrc.crc32 import iscsi as _iscsi

from ckptctl.storage.base import Buffer

__all__ = ["EMPTY_MASKED", "combine", "crc32c", "mask", "unmask"]

_MASK_DELTA = 0xA282EAD8


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Return the crc32c of `data`, continued from the checksum `crc` of what came before."""
    return _iscsi(data, crc) if crc else _iscsi(data)


def combine(first: int, second: int, length: int) -> int:
    """Return the crc32c of two byte strings in a row from those of each.

    `length` is that of the second, in bytes. A checksum is a remainder of polynomials over
    GF(2), and bytes that follow multiply it by a power of x.
    """
    return _times(_power(8 * length), first) ^ second


#: Castagnoli's polynomial, x^31 in the lowest bit as in all numbers here.
_POLYNOMIAL = 0x82F63B78
_ONE = 1 << 31


def _times(a: int, b: int) -> int:
    """Return the product of two polynomials, modulo Castagnoli's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = (a << 1) & 0xFFFFFFFF
        b = (b >> 1) ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _square(times: int) -> int:
    """Return x, squared so many times."""
    if not times:
        return _ONE >> 1
    root = _square(times - 1)
    return _times(root, root)


@lru_cache(maxsize=256)
def _power(exponent: int) -> int:
    power = _ONE
    for bit in range(exponent.bit_length()):
        if exponent >> bit & 1:
            power = _times(power, _square(bit))
    return power


def mask(crc: int) -> int:
    """Return the stored form of a checksum (leveldb's `crc32c::Mask`)."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the checksum of a stored form."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


#: What TensorFlow stores for a tensor without bytes.
EMPTY_MASKED = mask(0)
