"""What a bundle holds, in plain Python lists; writing it to files and comparing the two."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ckptctl.bundle import BundleReader, BundleWriter, TensorSlice, dtype_by_name
from ckptctl.bundle.checksum import crc32c
from ckptctl.bundle.proto import BundleEntryProto
from ckptctl.bundle.slices import decode_slice_key, encode_slice_key
from ckptctl.bundle.table import IndexTable, build_table
from ckptctl.storage import LOCAL

BUCKETS = 1000
MERGED = "ckptctl/merged"
LINEAGE = "ckptctl/lineage"
Extents = tuple[tuple[int, int], ...]


def bucket_of(key: int) -> int:
    """C++'s `key % 1000`."""
    rest = abs(key) % BUCKETS
    return -rest if key < 0 else rest


@dataclass
class Tensor:
    """A tensor that owns its bytes; strings are a list."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes | list[bytes]
    shard: int = 0


@dataclass
class Piece:
    """One slice of a tensor."""

    extents: Extents
    data: bytes
    shard: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(length for _, length in self.extents)


@dataclass
class Sliced:
    """A tensor in slices, in the order in which its entry lists them."""

    dtype: str
    shape: tuple[int, ...]
    pieces: list[Piece]


@dataclass
class HashTable:
    """DeepRec's `is_hash_table`: slices of (begin, length, size) with rows of their own."""

    dtype: str
    width: int
    pieces: list[tuple[tuple[int, int, int], bytes, int]]  # hash slice, rows, shard


class Row(NamedTuple):
    """A row of an EV. `place` is the bucket by offset; None: behind offset[1000]."""

    place: int | None
    key: int
    value: bytes
    version: int = 0
    freq: int = 0


class Filtered(NamedTuple):
    place: int
    key: int
    version: int = 0
    freq: int = 1


@dataclass
class Ev:
    """One member of one part of a table, in a full or an increment."""

    table: str
    slot: str
    part: int | None  # None: unpartitioned
    parts: int
    dim: int
    rows: list[Row]
    filtered: list[Filtered] = field(default_factory=list)
    versions: bool = False
    freqs: bool = False
    versions_filtered: bool = False
    key_type: str = "int64"
    value_type: str = "float32"
    old: bool = False
    incremental: bool = False
    shard: int = 0

    @property
    def number(self) -> int:
        return self.part or 0

    @property
    def name(self) -> str:
        part = "" if self.part is None else f"/part_{self.part}"
        return f"{self.table}{part}" + (f"/{self.slot}" if self.slot else "")

    @property
    def member(self) -> str:
        return f"{self.table}/{self.slot}" if self.slot else self.table

    def ordered(self) -> Ev:
        """Rows by bucket, those in one bucket as they were."""
        rows = sorted(self.rows, key=lambda r: BUCKETS if r.place is None else r.place)
        return replace(self, rows=rows, filtered=sorted(self.filtered, key=lambda f: f.place))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        keys = [row.key for row in self.rows]
        shape = (len(keys), self.dim)
        values = Tensor(self.value_type, shape, b"".join(row.value for row in self.rows))
        if self.incremental:
            yield "-incr_partition_offset", _offsets([row.place for row in self.rows])
            yield "-sparse_incr_keys", ints(self.key_type, keys)
            yield "-sparse_incr_values", values
            yield "-sparse_incr_versions", ints("int64", [row.version for row in self.rows])
            yield "-sparse_incr_freqs", ints("int64", [row.freq for row in self.rows])
            return
        away = self.filtered
        yield "-keys", ints(self.key_type, keys)
        yield "-values", values
        yield "-versions", ints("int64", [row.version for row in self.rows if self.versions])
        yield "-freqs", ints("int64", [row.freq for row in self.rows if self.freqs])
        yield "-keys_filtered", ints(self.key_type, [item.key for item in away])
        kept = away if self.versions_filtered else []
        yield "-versions_filtered", ints("int64", [item.version for item in kept])
        yield "-freqs_filtered", ints("int64", [item.freq for item in away])
        if not self.old:
            yield "-partition_offset", _offsets([row.place for row in self.rows])
            yield "-partition_filter_offset", _offsets([item.place for item in away])


@dataclass
class Rows:
    """Rows of a normal variable in an increment."""

    name: str  # name[/part_i][/Slot]
    dtype: str
    width: int
    rows: dict[int, bytes]
    key_type: str = "int64"
    shard: int = 0

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        data = b"".join(self.rows.values())
        shape = (len(self.rows), self.width)
        yield "-sparse_incr_keys", ints(self.key_type, list(self.rows))
        yield "-sparse_incr_values", Tensor(self.dtype, shape, data)


Edit = Callable[[bytes, Any], None]


@dataclass
class Image:
    """A whole checkpoint. `edits` change entries of the index once all is written."""

    step: int
    shards: int = 1
    evs: list[Ev] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    plain: dict[str, Tensor | Sliced] = field(default_factory=dict)
    hashes: dict[str, HashTable] = field(default_factory=dict)
    lineage: dict[str, object] | None = None
    raw: dict[str, Tensor | None] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor | Sliced]:
        """Everything by name, in file order; `raw` replaces, adds, or (None) leaves out."""
        found: dict[str, Tensor | Sliced] = {}
        for item in (*self.evs, *self.rows):
            for suffix, tensor in item.tensors():
                found[item.name + suffix] = replace(tensor, shard=item.shard)
        found |= self.plain
        if self.lineage is not None:
            found[LINEAGE] = string(json.dumps(self.lineage))
        for name, tensor in self.raw.items():
            if tensor is None:
                del found[name]
            else:
                found[name] = replace(tensor, shard=getattr(found.get(name), "shard", 0))
        return found


def ints(dtype: str, values: list[int]) -> Tensor:
    width = int(dtype[3:]) // 8
    data = b"".join(value.to_bytes(width, "little", signed=True) for value in values)
    return Tensor(dtype, (len(values),), data)


def scalar(dtype: str, value: int) -> Tensor:
    return replace(ints(dtype, [value]), shape=())


def string(*values: str | bytes, shape: tuple[int, ...] = ()) -> Tensor:
    items = [value.encode() if isinstance(value, str) else value for value in values]
    return Tensor("string", shape or (() if len(items) == 1 else (len(items),)), items)


def floats(*values: float, shape: tuple[int, ...] | None = None) -> Tensor:
    data = np.array(values, "<f4").tobytes()
    return Tensor("float32", (len(values),) if shape is None else shape, data)


def _offsets(places: list[int | None]) -> Tensor:
    counts = [0] * (BUCKETS + 1)
    for place in places:
        if place is not None:
            counts[place + 1] += 1
    for at in range(BUCKETS):
        counts[at + 1] += counts[at]
    return ints("int32", counts)


# --- to files -------------------------------------------------------------------------


def write_image(image: Image, prefix: str | os.PathLike[str]) -> None:
    """Write a bundle, byte for byte what the image says."""
    with BundleWriter(str(prefix), image.shards) as writer:
        for name, tensor in image.tensors().items():
            if isinstance(tensor, Tensor):
                array = _array(tensor.dtype, tensor.shape, tensor.data)
                writer.add(name, array, dtype=tensor.dtype, shard=tensor.shard)
                continue
            for piece in tensor.pieces:
                array = _array(tensor.dtype, piece.shape, piece.data)
                slice_ = TensorSlice(piece.extents)
                shape, shard = tensor.shape, piece.shard
                writer.add_slice(name, shape, slice_, array, dtype=tensor.dtype, shard=shard)
        for name, table in image.hashes.items():
            _write_hash_table(writer, name, table)
    edits = [_hash_edit(name, table) for name, table in image.hashes.items()] + image.edits
    if edits:
        edit_index(prefix, *edits)


def _array(dtype: str, shape: tuple[int, ...], data: bytes | list[bytes]) -> np.ndarray:
    if isinstance(data, list):
        array = np.empty(len(data), object)
        array[:] = data
        return array.reshape(shape)
    return np.frombuffer(data, dtype_by_name(dtype).numpy).reshape(shape)


def _write_hash_table(writer: BundleWriter, name: str, table: HashTable) -> None:
    whole = 1 << 40  # the entry's own shape is put right by the edit
    for (begin, _, _), data, shard in table.pieces:
        rows = len(data) // (dtype_by_name(table.dtype).size * table.width)
        array = _array(table.dtype, (rows, table.width), data)
        slice_ = TensorSlice(((begin, rows), (0, table.width)))
        writer.add_slice(name, (whole, table.width), slice_, array, dtype=table.dtype, shard=shard)


def _hash_key(name: str, hash_slice: tuple[int, int, int]) -> bytes:
    return encode_slice_key(name.encode(), TensorSlice((hash_slice[:2],)))


def _hash_edit(name: str, table: HashTable) -> Edit:
    def edit(key: bytes, message: Any) -> bytes | None:
        if key == name.encode():
            message.is_hash_table = True
            message.shape.dim[0].size = 0
            del message.slices[:]
            for begin, length, size in (piece[0] for piece in table.pieces):
                found = message.slices.add()
                found.hash_slice_begin = begin
                found.hash_slice_length = length
                found.hash_slice_size = size
        elif key[:1] == b"\0":
            owner, slice_ = decode_slice_key(key)
            if owner == name.encode():
                begin = slice_.extents[0][0]
                return _hash_key(name, next(p[0] for p in table.pieces if p[0][0] == begin))
        return None

    return edit


def edit_index(prefix: str | os.PathLike[str], *edits: Edit) -> None:
    """Change entries of an index in place; an edit may return another key for its entry."""
    path = f"{prefix}.index"
    items = []
    for key, value in IndexTable(path, LOCAL).items():
        if key:
            message = BundleEntryProto.FromString(value)
            for edit in edits:
                key = edit(key, message) or key
            value = message.SerializeToString(deterministic=True)
        items.append((key, value))
    Path(path).write_bytes(build_table(sorted(items)))


# --- from files -----------------------------------------------------------------------


def read_bytes(reader: BundleReader, entry: Any) -> bytes:
    with open(reader.shard_path(entry.shard), "rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def assert_bundle(
    prefix: str | os.PathLike[str],
    image: Image,
    *,
    merged: bool = True,
    like: str | os.PathLike[str] | None = None,
) -> None:
    """Fail unless the bundle is the image: names, types, shapes, bytes, places, checksums.

    With `like`, each tensor must lie in the shard and in the order of that bundle.
    """
    with BundleReader(str(prefix)) as reader:
        reader.check_shards()
        assert reader.header.num_shards == image.shards
        wanted = image.tensors()
        found = set(reader.tensors) - {MERGED}
        assert found == set(wanted) | set(image.hashes)
        assert (MERGED in reader.tensors) == merged
        for name, tensor in wanted.items():
            _assert_tensor(reader, name, tensor)
        for name, table in image.hashes.items():
            _assert_hash_table(reader, name, table)
        _assert_dense(reader)
        if like is not None:
            _assert_places(reader, like)
        for _, name, entry in reader.data_entries():
            reader.check_tensor(name, entry)


def _assert_tensor(reader: BundleReader, name: str, tensor: Tensor | Sliced) -> None:
    entry = reader.entry(name)
    assert (name, entry.dtype.name, entry.shape) == (name, tensor.dtype, tensor.shape)
    if isinstance(tensor, Tensor):
        assert not entry.slices
        assert (name, _stored(reader, name, entry)) == (name, tensor.data)
        return
    assert (name, [s.extents for s in entry.slices]) == (name, [p.extents for p in tensor.pieces])
    for piece in tensor.pieces:
        own = reader.slice_entry(name, TensorSlice(piece.extents))
        assert (name, piece.extents, read_bytes(reader, own)) == (name, piece.extents, piece.data)


def _stored(reader: BundleReader, name: str, entry: Any) -> bytes | list[bytes]:
    if entry.dtype.name == "string":
        return list(reader.iter_strings(name, entry))
    return read_bytes(reader, entry)


def _assert_hash_table(reader: BundleReader, name: str, table: HashTable) -> None:
    entry = reader.entry(name)
    assert entry.is_hash_table
    assert [s.hash_slice for s in entry.slices] == [piece[0] for piece in table.pieces]
    own = {key: item for key, owner, _, item in reader.slice_keys() if owner == name}
    assert {key: read_bytes(reader, item) for key, item in own.items()} == {
        _hash_key(name, hash_slice): data for hash_slice, data, _ in table.pieces
    }


def _by_place(reader: BundleReader) -> list[tuple[bytes, str, Any]]:
    return sorted(reader.data_entries(), key=lambda e: (e[2].shard, e[2].offset, e[2].size))


def _assert_dense(reader: BundleReader) -> None:
    """No gaps, nothing behind the last tensor."""
    ends = [0] * reader.num_shards
    for _, name, entry in _by_place(reader):
        assert (name, entry.offset) == (name, ends[entry.shard])
        ends[entry.shard] += entry.size
    sizes = [os.path.getsize(reader.shard_path(i)) for i in range(reader.num_shards)]
    assert sizes == ends


def _assert_places(reader: BundleReader, like: str | os.PathLike[str]) -> None:
    """Each tensor in the shard where `like` has it, in that order; our own mark is last.

    Tensors without bytes stand where the next one does: among these the order is free.
    """
    with BundleReader(str(like)) as other:
        places = {key: (e.shard, e.offset) for key, _, e in other.data_entries()}
    found = [(key, name, e.shard) for key, name, e in _by_place(reader) if e.size]
    ours = [places[key] for key, name, _ in found if name != MERGED]
    assert [shard for shard, _ in ours] == [s for _, name, s in found if name != MERGED]
    assert ours == sorted(ours)
    last = [name for _, name, shard in found if shard == 0]
    assert MERGED not in last[:-1]


def contents(prefix: str | os.PathLike[str]) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Name to (dtype, shape, checksum of the bytes) of all that owns bytes."""
    with BundleReader(str(prefix)) as reader:
        return {
            repr(key): (entry.dtype.name, entry.shape, crc32c(read_bytes(reader, entry)))
            for key, _, entry in reader.data_entries()
        }
