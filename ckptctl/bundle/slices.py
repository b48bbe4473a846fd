"""Slices of partitioned tensors, and the keys under which their data is stored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from ckptctl.bundle.coding import (
    decode_ordered_number,
    decode_ordered_string,
    decode_signed,
    encode_ordered_number,
    encode_ordered_string,
    encode_signed,
)

__all__ = ["TensorSlice", "decode_slice_key", "encode_slice_key", "find_overlap"]

#: Length of an extent that covers its whole dimension (TensorSlice::kFullExtent).
FULL = -1
#: Slices that no plane separates are compared pair by pair, so many and no more.
_MAX_TANGLED = 1000
#: Slices that are looked at, over all cuts.
_MAX_WORK = 1_000_000

_Box = tuple[tuple[int, int], ...]


class TensorSlice(NamedTuple):
    """A box of a tensor: (start, length) a dimension; length -1 is the whole dimension.

    `hash_slice` keeps DeepRec's (begin, length, size) of a hash table's slice.
    """

    extents: tuple[tuple[int, int], ...]
    hash_slice: tuple[int, int, int] = (0, 0, 0)

    def resolve(self, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Return (start, length) a dimension with whole dimensions spelled out."""
        return tuple(
            (0, size) if length == FULL else (start, length)
            for (start, length), size in zip(self.extents, shape, strict=True)
        )

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the slice lies inside a tensor of this shape.

        A whole dimension that does not start at 0 is none that TensorFlow builds
        (tensor_slice.cc, BuildTensorSlice).
        """
        return len(self.extents) == len(shape) and all(
            start == 0 if length == FULL else start >= 0 and length >= 0 and start + length <= size
            for (start, length), size in zip(self.extents, shape, strict=True)
        )

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the slice's own data."""
        return tuple(length for _, length in self.resolve(full))

    def __str__(self) -> str:
        return ":".join(
            "-" if each == (0, FULL) else f"{each[0]},{each[1]}" for each in self.extents
        )


def encode_slice_key(name: bytes, slice_: TensorSlice) -> bytes:
    """Return the index key of a slice's data (checkpoint::EncodeTensorNameSlice).

    The leading number 0 is a lone zero byte, so that these keys sort before all names.
    """
    out = encode_ordered_number(0) + encode_ordered_string(name)
    out += encode_ordered_number(len(slice_.extents))
    for start, length in slice_.extents:
        out += encode_signed(start) + encode_signed(length)
    return out


def decode_slice_key(key: bytes) -> tuple[bytes, TensorSlice]:
    """Return the name and slice of an index key; raise `ValueError` if it is none."""
    number, at = decode_ordered_number(key, 0)
    if number != 0:
        raise ValueError("not a slice key")
    name, at = decode_ordered_string(key, at)
    rank, at = decode_ordered_number(key, at)
    if rank > 254:
        raise ValueError(f"slice of {rank} dimensions")
    extents = []
    for _ in range(rank):
        start, at = decode_signed(key, at)
        length, at = decode_signed(key, at)
        extents.append((start, length))
    if at != len(key):
        raise ValueError("bytes after the slice")
    return name, TensorSlice(tuple(extents))


def find_overlap(
    slices: Sequence[TensorSlice], shape: tuple[int, ...]
) -> tuple[TensorSlice, TensorSlice] | None:
    """Return two slices that share an element of a tensor of this shape, or None.

    Planes that cut no slice separate them into ever smaller groups; partitioners cut along
    one axis, so that one sort is enough.

    Raises
    ------
    ValueError
        They lie in a way that would take absurdly long to look at.
    """
    boxes = [(slice_.resolve(shape), slice_) for slice_ in slices]
    groups = [[item for item in boxes if all(length for _, length in item[0])]]
    work = 0
    while groups:
        group = groups.pop()
        if len(group) < 2:
            continue
        for axis in range(len(shape)):
            work += len(group)
            if work > _MAX_WORK:
                raise ValueError("slices cut a tensor in an absurd way")
            parts = _cut(group, axis)
            if len(parts) > 1:
                groups += parts
                break
        else:
            if len(group) > _MAX_TANGLED:
                raise ValueError("slices cut a tensor in an absurd way")
            for (a, first), (b, second) in combinations(group, 2):
                if all(s < t + m and t < s + n for (s, n), (t, m) in zip(a, b, strict=True)):
                    return first, second
    return None


def _cut(group: list[tuple[_Box, TensorSlice]], axis: int) -> list[list[tuple[_Box, TensorSlice]]]:
    """Return the group in parts, cut by all planes across `axis` that cut no slice."""
    parts: list[list[tuple[_Box, TensorSlice]]] = []
    end = -1
    for item in sorted(group, key=lambda item: item[0][axis]):
        start, length = item[0][axis]
        if start >= end:
            parts.append([])
        parts[-1].append(item)
        end = max(end, start + length)
    return parts
