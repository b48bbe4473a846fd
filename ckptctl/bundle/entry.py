"""What an index says of one tensor, and of the bundle as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

from ckptctl.bundle.dtypes import DTYPES, DType
from ckptctl.bundle.plain import (
    entry_bytes,
    header_bytes,
    plain_entries,
    plain_entry,
    plain_header,
)
from ckptctl.bundle.slices import TensorSlice, find_overlap
from ckptctl.errors import EndiannessError, EntryError, HeaderError, ShapeSizeError

__all__ = ["BundleHeader", "Entry"]

#: TensorFlow's own limits (tensor_shape.h, and shard numbers have five digits).
MAX_RANK = 254
MAX_SHARDS = 99999
#: More parts than any variable has; each costs 2 bytes in a file and 200 in memory.
MAX_SLICES = 32768
_MAX_INT64 = (1 << 63) - 1


class BundleHeader(NamedTuple):
    """The entry under the empty key: BundleHeaderProto.

    `raw` holds the bytes as they were found, so that unknown fields survive.
    """

    num_shards: int
    producer: int = 1
    min_consumer: int = 0
    raw: bytes = b""

    @classmethod
    def decode(cls, raw: bytes, path: str) -> BundleHeader:
        """Return the header of the index at `path`; raise `HeaderError` or `EndiannessError`."""
        plain = plain_header(raw)
        if plain is not None and 1 <= plain[0] <= MAX_SHARDS:
            return cls(*plain, raw=raw)
        from google.protobuf.message import DecodeError

        from ckptctl.bundle.proto import BundleHeaderProto

        try:
            message = BundleHeaderProto.FromString(raw)
        except DecodeError:
            raise HeaderError("bundle header does not parse", file=path) from None
        if message.endianness != 0:
            raise EndiannessError(
                "bundle written on a big-endian machine",
                file=path,
                expected="little-endian data",
                found=f"endianness {message.endianness}",
                remedy="read and save it again with TensorFlow on a machine of that kind",
            )
        if not 1 <= message.num_shards <= MAX_SHARDS:
            raise HeaderError(
                "header with an impossible number of shards",
                file=path,
                expected=f"1 to {MAX_SHARDS}",
                found=message.num_shards,
            )
        if message.version.min_consumer > 1:
            raise HeaderError(
                "bundle of a newer format",
                file=path,
                expected="readable by version 1",
                found=f"min_consumer {message.version.min_consumer}",
            )
        return cls(message.num_shards, message.version.producer, message.version.min_consumer, raw)

    def encode(self) -> bytes:
        """Return the bytes that TensorFlow writes for this header."""
        if not self.raw or plain_header(self.raw) is not None:
            return header_bytes(self.num_shards, self.producer)
        from ckptctl.bundle.proto import BundleHeaderProto

        message = BundleHeaderProto.FromString(self.raw)
        message.num_shards = self.num_shards
        message.version.producer = self.producer
        return bytes(message.SerializeToString(deterministic=True))


# Not frozen, since that triples the time that one takes to make, and there are many. All
# readers of an index share them: nobody changes one, `moved` makes another.
@dataclass(slots=True)
class Entry:
    """What the index says of one tensor, or of one slice's data: BundleEntryProto.

    `offset` and `size` are in bytes of data shard `shard`; `crc` is the masked crc32c of
    those bytes (of their in-memory form for strings). A tensor that was saved in slices has
    `slices` and no bytes of its own. `raw` holds the bytes as they were found, so that
    unknown fields survive a rewrite.
    """

    dtype: DType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[TensorSlice, ...] = ()
    is_hash_table: bool = False
    raw: bytes = b""

    @property
    def rows(self) -> int:
        """Length of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def elements(self) -> int:
        """Number of elements of the whole tensor."""
        return prod(self.shape)

    @property
    def has_data(self) -> bool:
        """Whether the entry itself owns bytes of a data shard."""
        return not self.slices and not self.is_hash_table

    @property
    def end(self) -> int:
        """Byte of the shard behind the last one of this entry."""
        return self.offset + self.size

    @classmethod
    def decode(cls, raw: bytes, path: str, name: str, num_shards: int) -> Entry:
        """Return the entry called `name` of the index at `path`.

        Raises
        ------
        EntryError
            The message does not parse, or one of its fields makes no sense.
        ShapeSizeError
            The shape does not fit the size.
        """
        return cls.decode_all([raw], path, [name], num_shards)[0]

    @classmethod
    def decode_all(
        cls, raws: Sequence[bytes], path: str, names: Sequence[str], num_shards: int
    ) -> list[Entry]:
        """Return what `decode` says of each."""
        found = []
        for plain, raw, name in zip(plain_entries(raws), raws, names, strict=True):
            if plain is None:
                found.append(cls._decode_any(raw, path, name, num_shards))
                continue
            dtype, shape, nbytes, shard, offset, size, crc = plain
            entry = cls(dtype, shape, shard, offset, size, crc, (), False, raw)
            # The checks in one line for the many entries that pass them.
            if not (nbytes == size > 0 and shard < num_shards and offset <= _MAX_INT64 - size):
                entry._check(path, name, num_shards)
            found.append(entry)
        return found

    @classmethod
    def _decode_any(cls, raw: bytes, path: str, name: str, num_shards: int) -> Entry:
        from google.protobuf.message import DecodeError

        from ckptctl.bundle.proto import BundleEntryProto

        try:
            message = BundleEntryProto.FromString(raw)
        except DecodeError:
            raise EntryError("index entry does not parse", file=path, tensor=name) from None
        dims = message.shape.dim
        shape = tuple([dim.size for dim in dims[: MAX_RANK + 1]])
        slices = message.slices
        dtype = DTYPES.get(message.dtype)
        if dtype is None:
            raise EntryError(
                "entry of unknown dtype",
                file=path,
                tensor=name,
                expected="a type that TensorFlow stores",
                found=message.dtype,
            )
        if slices and len(slices) > MAX_SLICES:
            raise EntryError(
                "entry with absurdly many slices",
                file=path,
                tensor=name,
                expected=f"<= {MAX_SLICES}",
                found=len(slices),
            )
        entry = cls(
            dtype,
            shape,
            message.shard_id,
            message.offset,
            message.size,
            message.crc32c,
            tuple([_decode_slice(item) for item in slices]) if slices else (),
            message.is_hash_table,
            raw,
        )
        elements = prod(shape)
        if (
            len(shape) > MAX_RANK
            or message.shape.unknown_rank
            or (shape and min(shape) < 0)
            or elements > _MAX_INT64
        ):
            rank = "unknown rank" if message.shape.unknown_rank else f"{len(dims)} dimensions"
            raise EntryError(
                "entry with an impossible shape",
                file=path,
                tensor=name,
                expected=f"at most {MAX_RANK} dimensions, none negative, < 2^63 elements",
                found=f"{rank}: {_short(shape)}",
            )
        entry._check(path, name, num_shards)
        return entry

    def _check(self, path: str, name: str, num_shards: int) -> None:
        if self.has_data:
            if not 0 <= self.shard < num_shards:
                raise EntryError(
                    "entry in a shard that the header does not count",
                    file=path,
                    tensor=name,
                    expected=f"0 to {num_shards - 1}",
                    found=self.shard,
                )
            if self.offset < 0 or self.size < 0 or self.end > _MAX_INT64:
                raise EntryError(
                    "entry with an impossible offset or size",
                    file=path,
                    tensor=name,
                    found=f"offset {self.offset}, size {self.size}",
                )
            self._check_size(path, name)
        if self.slices and not self.is_hash_table:
            self._check_slices(path, name)

    def _check_slices(self, path: str, name: str) -> None:
        for slice_ in self.slices:
            if not slice_.fits(self.shape):
                raise EntryError(
                    "slice outside its tensor",
                    file=path,
                    tensor=name,
                    expected=f"inside {_short(self.shape)}",
                    found=str(slice_)[:200],
                )
        try:
            pair = find_overlap(self.slices, self.shape)
        except ValueError as error:
            raise EntryError(str(error), file=path, tensor=name) from None
        if pair is not None:
            raise EntryError(
                "slices overlap",
                file=path,
                tensor=name,
                expected="each element in one slice",
                found=f"{pair[0]} and {pair[1]}"[:200],
            )

    def _check_size(self, path: str, name: str) -> None:
        elements = self.elements
        if self.dtype.size:
            expected = elements * self.dtype.size
            if self.size == expected:
                return
        else:
            # A length byte an element and one checksum (strings) or one each (variants);
            # a tensor without elements may have the checksum or nothing.
            each, once = (1, 4) if self.dtype.name == "string" else (5, 0)
            expected = elements * each + once if elements else 0
            if self.size >= expected:
                return
        raise ShapeSizeError(
            "shape does not fit the size",
            file=path,
            tensor=name,
            offset=self.offset,
            expected=f"{expected} bytes for {self.dtype.name} {_short(self.shape)}",
            found=f"{self.size} bytes",
        )

    def moved(self, **changes: Any) -> Entry:
        """Return the entry with other `shape`, `shard`, `offset`, `size`, `crc` or `slices`."""
        return replace(self, **changes)

    def encode(self) -> bytes:
        """Return the bytes that TensorFlow writes for this entry, unknown fields kept."""
        if self.has_data and (not self.raw or plain_entry(self.raw) is not None):
            numbers = self.shard, self.offset, self.size, self.crc
            return entry_bytes(self.dtype, self.shape, *numbers)
        from ckptctl.bundle.proto import BundleEntryProto

        message = BundleEntryProto.FromString(self.raw)
        message.dtype = self.dtype.number
        if tuple(dim.size for dim in message.shape.dim) != self.shape or not self.raw:
            message.ClearField("shape")
            message.shape.SetInParent()
            for size in self.shape:
                message.shape.dim.add(size=size)
        message.shard_id = self.shard
        message.offset = self.offset
        message.size = self.size
        message.crc32c = self.crc
        if tuple(_decode_slice(item) for item in message.slices) != self.slices:
            message.ClearField("slices")
            for slice_ in self.slices:
                _encode_slice(slice_, message.slices.add())
        if self.is_hash_table:
            message.is_hash_table = True
        return bytes(message.SerializeToString(deterministic=True))


def _decode_slice(message: Any) -> TensorSlice:
    extents = tuple(
        (extent.start, extent.length) if extent.HasField("length") else (extent.start, -1)
        for extent in message.extent
    )
    hash_slice = (message.hash_slice_begin, message.hash_slice_length, message.hash_slice_size)
    return TensorSlice(extents, hash_slice)


def _encode_slice(slice_: TensorSlice, message: Any) -> None:
    for start, length in slice_.extents:
        extent = message.extent.add()
        extent.start = start
        if length != -1:  # TensorSlice::AsProto leaves whole dimensions unset
            extent.length = length
    begin, length, size = slice_.hash_slice
    message.hash_slice_begin, message.hash_slice_length = begin, length
    message.hash_slice_size = size


def _short(shape: tuple[int, ...]) -> str:
    shown = ",".join(map(str, shape[:8]))
    return f"[{shown}{',...' if len(shape) > 8 else ''}]"
