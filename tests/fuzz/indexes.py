"""Indexes behind their checksums: a fuzzer cannot guess a crc32c, so it is put right for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress

from ckptctl.bundle import table
from ckptctl.bundle.checksum import crc32c, mask
from ckptctl.bundle.coding import decode_varint
from ckptctl.bundle.table import FOOTER_BYTES, MAGIC, TRAILER_BYTES, IndexTable, build_table
from ckptctl.errors import CkptctlError
from tests.fuzz.files import Files

__all__ = ["entries_of", "index_of", "repaired", "repaired_strings"]

Pairs = list[tuple[bytes, bytes]]


def repaired(data: bytes) -> bytes:
    """Return the index with its magic number and the checksum of every block that it names."""
    if len(data) < FOOTER_BYTES:
        return data
    out = bytearray(data)
    struct.pack_into("<Q", out, len(out) - 8, MAGIC)
    footer = bytes(out[-FOOTER_BYTES:])
    try:
        meta, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
    except ValueError:
        return bytes(out)
    for value in _values(out[index[0] : index[0] + index[1]]):
        with suppress(ValueError):
            _seal(out, _handle(value, 0)[0])
    _seal(out, meta)
    _seal(out, index)
    return bytes(out)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = decode_varint(data, at)
    length, at = decode_varint(data, at)
    return (offset, length), at


def _seal(out: bytearray, handle: tuple[int, int]) -> None:
    start, length = handle
    end = start + length + 1
    if end + TRAILER_BYTES - 1 <= len(out) - FOOTER_BYTES:
        struct.pack_into("<I", out, end, mask(crc32c(bytes(out[start:end]))))


def _values(block: bytes) -> Iterator[bytes]:
    """Return what look like values of a block, as far as it can be read."""
    at = 0
    try:
        while at < len(block) - 8:
            _, at = decode_varint(block, at)
            fresh, at = decode_varint(block, at)
            length, at = decode_varint(block, at)
            yield bytes(block[at + fresh : at + fresh + length])
            at += fresh + length
    except ValueError:
        return


def entries_of(data: bytes) -> Pairs | None:
    """Return the keys and values of an index, None where it cannot be read."""
    try:
        return list(IndexTable("it", Files({"it": repaired(data)})).items())
    except CkptctlError:
        return None


def index_of(pairs: Pairs, block_bytes: int = table.BLOCK_BYTES) -> bytes:
    """Return an index of these entries, whatever they say, in blocks of about that length."""
    before, table.BLOCK_BYTES = table.BLOCK_BYTES, block_bytes
    try:
        return build_table(sorted(dict(pairs).items()))
    finally:
        table.BLOCK_BYTES = before


def repaired_strings(data: bytes, elements: int) -> tuple[bytes, int]:
    """Return the data of a string tensor with its two checksums, and the second of these."""
    crc = at = 0
    try:
        for _ in range(elements):
            length, at = decode_varint(data, at)
            crc = crc32c(struct.pack("<I" if length < 1 << 32 else "<Q", length), crc)
    except ValueError:
        return data, 0
    stored = struct.pack("<I", mask(crc))
    body = data[at + 4 :]
    return data[:at] + stored + body, mask(crc32c(body, crc32c(stored, crc)))
