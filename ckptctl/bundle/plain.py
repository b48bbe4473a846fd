"""Headers and entries in the one form that TensorFlow writes, read without protobuf.

Listing reads tens of thousands of them, and loading protobuf takes as long as reading
10,000. Whatever is in another form (unknown fields, fields in another order or twice, slices,
numbers that no tensor has) is left to protobuf, which then says what it means: these two
never refuse anything.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING

from ckptctl.bundle.coding import encode_varint
from ckptctl.bundle.dtypes import DTYPES, DType

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "PlainEntry",
    "entry_bytes",
    "header_bytes",
    "plain_entries",
    "plain_entry",
    "plain_header",
]

#: dtype, shape, bytes that these take (0 for strings), shard, offset, size, checksum.
PlainEntry = tuple[DType, tuple[int, ...], int, int, int, int, int]

_MAX_INT64 = (1 << 63) - 1
#: Entries that are worth NumPy's calls, and those that are worth loading it.
_SOME, _MANY = 200, 30_000
#: Most ranks of tensors, and how many kinds of dtype and shape are known at a time.
_MOST_HEADS = 4096

# Numbers below 2^63, shards below 2^28; a field of 0 may be there or not.
_NUMBER = rb"([\x80-\xff]{0,8}[\x00-\x7f])"
_SHARD = rb"([\x80-\xff]{0,3}[\x00-\x7f])"
_TAIL = re.compile(
    rb"(?:\x18%b)?(?:\x20%b)?(?:\x28%b)?(?:\x35(.{4}))?" % (_SHARD, _NUMBER, _NUMBER), re.DOTALL
)
_match_tail = _TAIL.fullmatch
_HEADER = re.compile(rb"\x08%b\x1a\x02\x08([\x00-\x7f])" % _SHARD)

#: dtype and shape as they stand at the front of an entry, to what they mean.
_heads: dict[bytes, tuple[DType, tuple[int, ...], int]] = {}


def plain_header(raw: bytes) -> tuple[int, int] | None:
    """Return (number of shards, producer) of a BundleHeaderProto; None: ask protobuf."""
    found = _HEADER.fullmatch(raw)
    return None if found is None else (_number(found[1]), found[2][0])


def header_bytes(num_shards: int, producer: int) -> bytes:
    """Return the header that protobuf writes; all numbers are above 0."""
    version = _field(0x08, producer)
    return _field(0x08, num_shards) + b"\x1a" + encode_varint(len(version)) + version


def plain_entry(raw: bytes) -> PlainEntry | None:
    """Return what a BundleEntryProto says; None: ask protobuf.

    Nothing is checked but its form: neither that its size fits its shape, nor its shard.
    """
    head = raw[: raw[3] + 4] if len(raw) > 3 else b""
    known = _heads.get(head) or _learn(head)
    tail = _match_tail(raw, len(head))
    if known is None or tail is None:
        return None
    shard, offset, size, crc = tail.groups(b"\0")
    return (
        *known,
        shard[0] if len(shard) == 1 else _number(shard),
        offset[0] if len(offset) == 1 else _number(offset),
        size[0] if len(size) == 1 else _number(size),
        int.from_bytes(crc, "little"),
    )


def entry_bytes(
    dtype: DType, shape: tuple[int, ...], shard: int, offset: int, size: int, crc: int
) -> bytes:
    """Return the entry that protobuf writes; no number is negative."""
    sizes = [_field(0x08, dim) for dim in shape]
    dims = b"".join(b"\x12" + encode_varint(len(each)) + each for each in sizes)
    out = _field(0x08, dtype.number) + b"\x12" + encode_varint(len(dims)) + dims
    out += _field(0x18, shard) + _field(0x20, offset) + _field(0x28, size)
    return out + b"\x35" + crc.to_bytes(4, "little") if crc else out


def _field(tag: int, number: int) -> bytes:
    return bytes([tag]) + encode_varint(number) if number else b""


def plain_entries(raws: Sequence[bytes]) -> Iterator[PlainEntry | None]:
    """Return what `plain_entry` says of each; of many of them in a third of the time."""
    if len(raws) < (_SOME if "numpy" in sys.modules else _MANY):
        return map(plain_entry, raws)
    return _together(raws)


def _together(raws: Sequence[bytes]) -> Iterator[PlainEntry | None]:
    import numpy as np

    heads = [raw[: raw[3] + 4] if len(raw) > 3 else b"" for raw in raws]
    known = [_heads.get(head) or _learn(head) for head in heads]
    lengths = np.fromiter(map(len, raws), np.int64, len(raws))
    ends = np.cumsum(lengths)
    at = ends - lengths + np.fromiter(map(len, heads), np.int64, len(raws))
    # Looked at beyond its end is at most the last entry: a tag and the longest number.
    data = np.frombuffer(b"".join([*raws, bytes(16)]), np.uint8)
    found = []
    for tag, most in ((0x18, 4), (0x20, 9), (0x28, 9)):
        number, at = _numbers(data, at, ends, tag, most)
        found.append(number.tolist())
    here = (data[at] == 0x35) & (at < ends)
    crc = [data[np.where(here, at + byte, -1)] for byte in range(1, 5)]
    found.append(np.stack(crc, axis=1).view("<u4")[:, 0].tolist())
    plain = (at + 5 * here == ends).tolist()
    return (
        (*head, shard, offset, size, crc) if head is not None and ok else None
        for head, ok, shard, offset, size, crc in zip(known, plain, *found, strict=True)
    )


def _numbers(
    data: np.ndarray, at: np.ndarray, ends: np.ndarray, tag: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of at most so many bytes behind a tag, 0 without it, and their ends.

    One that is longer, or goes on behind the end of its entry, ends where no entry does.
    """
    import numpy as np

    more = (data[at] == tag) & (at < ends)
    at = at + more
    value = np.zeros(len(at), np.int64)
    for byte in range(most):
        found = data[at]
        value |= (found & 0x7F).astype(np.int64) * more << 7 * byte
        at = at + more
        more &= found >= 0x80
        if not more.any():
            break
    else:
        at = np.where(more, ends + 1, at)
    return value, at


def _learn(head: bytes) -> tuple[DType, tuple[int, ...], int] | None:
    known = _meaning(head) if len(head) > 3 else None
    if known is not None:
        if len(_heads) >= _MOST_HEADS:
            _heads.clear()
        _heads[head] = known
    return known


def _meaning(head: bytes) -> tuple[DType, tuple[int, ...], int] | None:
    """Return the dtype and shape that an entry begins with, and the bytes of such a tensor."""
    dtype = DTYPES.get(head[1])  # no type has a number of two bytes
    length = len(head) - 4
    if head[0] != 0x08 or head[2] != 0x12 or head[3] != length or length >= 0x80 or dtype is None:
        return None
    shape, at = [], 4
    while at < len(head):
        if head[at] != 0x12 or at + 1 == len(head):
            return None
        dim = head[at + 2 : at + 2 + head[at + 1]]
        size = dim[1:]
        if len(dim) != head[at + 1] or (dim and (dim[0] != 0x08 or not _is_number(size))):
            return None
        shape.append(_number(size) if dim else 0)
        at += 2 + len(dim)
    elements = prod(shape)
    return None if elements > _MAX_INT64 else (dtype, tuple(shape), elements * dtype.size)


def _is_number(raw: bytes) -> bool:
    return 0 < len(raw) <= 9 and raw[-1] < 0x80 and all(byte >= 0x80 for byte in raw[:-1])


def _number(raw: bytes) -> int:
    """Return a varint that is all of `raw`."""
    length = len(raw)
    if length == 1:
        return raw[0]
    if length == 2:
        return raw[0] & 0x7F | raw[1] << 7
    if length == 3:
        return raw[0] & 0x7F | (raw[1] & 0x7F) << 7 | raw[2] << 14
    value = int.from_bytes(raw, "little")
    found = value & 0x7F | value >> 1 & 0x3F80 | value >> 2 & 0x1FC000 | value >> 3 & 0xFE00000
    for at in range(4, length):
        found |= (raw[at] & 0x7F) << 7 * at
    return found
