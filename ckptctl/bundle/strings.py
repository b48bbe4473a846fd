"""String and variant tensors: lengths and checksums inside the data.

On disk a string tensor is ``varint64 length`` for each element, the masked crc32c of the
lengths, then the bytes of all elements. Its checksums run over each length as uint32 (as
uint64 from 2^32 on), not over the varints (tensor_bundle.cc, WriteStringTensor). A variant
tensor is ``varint64 length, bytes, masked crc32c so far`` for each element, each length
checked as uint64 (WriteVariantTensor).
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence

from ckptctl.bundle.checksum import crc32c, mask, unmask
from ckptctl.bundle.coding import decode_varint, encode_varint
from ckptctl.bundle.entry import Entry
from ckptctl.errors import StringTensorError, TensorChecksumError
from ckptctl.storage.base import Readable

__all__ = ["check_strings", "check_variants", "encode_strings", "iter_strings"]

_CHUNK = 1 << 16


def encode_strings(values: Iterable[bytes]) -> tuple[bytes, int]:
    """Return the data bytes of a string tensor and its masked crc32c."""
    items = list(values)
    crc = 0
    for item in items:
        crc = crc32c(_length_bytes(len(item)), crc)
    checksum = struct.pack("<I", mask(crc))
    crc = crc32c(checksum, crc)
    body = b"".join(items)
    lengths = b"".join(encode_varint(len(item)) for item in items)
    return lengths + checksum + body, mask(crc32c(body, crc))


def _length_bytes(length: int) -> bytes:
    return struct.pack("<I", length) if length < 1 << 32 else struct.pack("<Q", length)


class _Cursor:
    """Reads one entry front to back through a small buffer."""

    def __init__(self, file: Readable, entry: Entry) -> None:
        self._file = file
        self._at = entry.offset
        self._end = entry.end
        self._buffer = b""
        self._used = 0

    def _fill(self, need: int) -> bool:
        if len(self._buffer) - self._used < need and self._at < self._end:
            size = min(max(_CHUNK, need), self._end - self._at)
            fresh = self._file.pread(self._at, size)
            self._buffer = self._buffer[self._used :] + fresh
            self._at = self._at + len(fresh) if fresh else self._end
            self._used = 0
        return len(self._buffer) - self._used >= need

    @property
    def left(self) -> int:
        return len(self._buffer) - self._used + self._end - self._at

    def varint(self) -> int:
        self._fill(10)
        value, self._used = decode_varint(self._buffer, self._used)
        return value

    def take(self, count: int) -> bytes:
        if not self._fill(count):
            raise ValueError("data ends early")
        self._used += count
        return self._buffer[self._used - count : self._used]


def iter_strings(file: Readable, entry: Entry, path: str, name: str) -> Iterator[bytes]:
    """Return the elements of a string tensor; the last step checks the checksum.

    Memory: 8 bytes an element and one element at a time.
    """
    if not entry.size:
        return
    cursor = _Cursor(file, entry)
    try:
        lengths, crc = _read_lengths(cursor, entry, path, name)
        for length in lengths:
            item = cursor.take(length)
            crc = crc32c(item, crc)
            yield item
    except ValueError as error:
        raise _bad(entry, path, name, str(error)) from None
    _finish(cursor, crc, entry, path, name)


def check_strings(file: Readable, entry: Entry, path: str, name: str) -> None:
    """Check a string tensor against its checksums.

    Raises
    ------
    StringTensorError, TensorChecksumError
    """
    if not entry.size:
        return
    cursor = _Cursor(file, entry)
    try:
        lengths, crc = _read_lengths(cursor, entry, path, name)
        left = sum(lengths)
        while left:
            piece = cursor.take(min(left, _CHUNK))
            crc = crc32c(piece, crc)
            left -= len(piece)
    except ValueError as error:
        raise _bad(entry, path, name, str(error)) from None
    _finish(cursor, crc, entry, path, name)


def check_variants(file: Readable, entry: Entry, path: str, name: str) -> None:
    """Check a variant tensor against its checksums, its content untouched."""
    cursor = _Cursor(file, entry)
    crc = 0
    try:
        for _ in range(entry.elements if entry.size else 0):
            left = cursor.varint()
            crc = crc32c(struct.pack("<Q", left), crc)
            if left > cursor.left:
                raise ValueError(f"element of {left} bytes where {cursor.left} are left")
            while left:
                piece = cursor.take(min(left, _CHUNK))
                crc = crc32c(piece, crc)
                left -= len(piece)
            stored = cursor.take(4)
            _compare(struct.unpack("<I", stored)[0], crc, entry, path, name, "of an element")
            crc = crc32c(stored, crc)
    except ValueError as error:
        raise _bad(entry, path, name, str(error)) from None
    _finish(cursor, crc, entry, path, name)


def _read_lengths(cursor: _Cursor, entry: Entry, path: str, name: str) -> tuple[Sequence[int], int]:
    lengths = array("Q")
    crc = 0
    total = 0
    for _ in range(entry.elements):
        length = cursor.varint()
        total += length
        if total > cursor.left:
            raise ValueError(f"lengths add up to {total} bytes where {cursor.left} are left")
        lengths.append(length)
        crc = crc32c(_length_bytes(length), crc)
    stored = cursor.take(4)
    _compare(struct.unpack("<I", stored)[0], crc, entry, path, name, "of the lengths")
    return lengths, crc32c(stored, crc)


def _finish(cursor: _Cursor, crc: int, entry: Entry, path: str, name: str) -> None:
    if cursor.left:
        raise _bad(entry, path, name, f"{cursor.left} bytes after the last element")
    _compare(entry.crc, crc, entry, path, name, "of the tensor")


def _compare(stored: int, crc: int, entry: Entry, path: str, name: str, what: str) -> None:
    if unmask(stored) != crc:
        raise TensorChecksumError(
            f"checksum {what} does not match",
            file=path,
            tensor=name,
            offset=entry.offset,
            expected=f"crc32c {unmask(stored):#010x}",
            found=f"{crc:#010x}",
        )


def _bad(entry: Entry, path: str, name: str, message: str) -> StringTensorError:
    return StringTensorError(
        message, file=path, tensor=name, offset=entry.offset, found=f"{entry.size} bytes"
    )
