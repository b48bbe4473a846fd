"""Slices of partitioned tensors, and the keys under which their data is stored."""

from __future__ import annotations

from dataclasses import dataclass

from ckptctl.bundle.coding import (
    decode_ordered_number,
    decode_ordered_string,
    decode_signed,
    encode_ordered_number,
    encode_ordered_string,
    encode_signed,
)

__all__ = ["TensorSlice", "decode_slice_key", "encode_slice_key"]

#: Length of an extent that covers its whole dimension (TensorSlice::kFullExtent).
FULL = -1


@dataclass(frozen=True, slots=True, order=True)
class TensorSlice:
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
        """Return whether the slice lies inside a tensor of this shape."""
        return len(self.extents) == len(shape) and all(
            start >= 0 and length >= 0 and start + length <= size
            for (start, length), size in zip(self.resolve(shape), shape, strict=True)
        )

    def shape(self, full: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the slice's own data."""
        return tuple(length for _, length in self.resolve(full))

    def __str__(self) -> str:
        return ":".join("-" if ln == FULL else f"{st},{ln}" for st, ln in self.extents)


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
