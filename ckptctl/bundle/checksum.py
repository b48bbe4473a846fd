"""crc32c as TensorFlow stores it: masked, so that checksums of checksums stay useful."""

from __future__ import annotations

from fastcrc.crc32 import iscsi as _iscsi

from ckptctl.storage.base import Buffer

__all__ = ["EMPTY_MASKED", "crc32c", "mask", "unmask"]

_MASK_DELTA = 0xA282EAD8


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Return the crc32c of `data`, continued from the checksum `crc` of what came before."""
    return _iscsi(data, crc) if crc else _iscsi(data)


def mask(crc: int) -> int:
    """Return the stored form of a checksum (leveldb's `crc32c::Mask`)."""
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def unmask(masked: int) -> int:
    """Return the checksum of a stored form."""
    rotated = (masked - _MASK_DELTA) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


#: What TensorFlow stores for a tensor without bytes.
EMPTY_MASKED = mask(0)
