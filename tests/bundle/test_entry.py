"""Entries, headers and types: every field read, and whatever else there is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ckptctl.bundle import DTYPES, BundleHeader, Entry, TensorSlice, dtype_by_name
from ckptctl.bundle.checksum import EMPTY_MASKED, crc32c, mask, unmask
from ckptctl.bundle.dtypes import dtype_of
from tests.bundle import builders as b

# Fields that nobody has yet: a number, bytes, and eight fixed bytes.
UNKNOWN = b.field(900, 5) + b.field(901, b"later") + b.varint(902 << 3 | 1) + b"8 bytes!"


def decode(raw: bytes, shards: int = 9) -> Entry:
    return Entry.decode(raw, "model.ckpt-1.index", "x", shards)


def hash_slice(begin: int, length: int, size: int) -> bytes:
    """Return a slice of one of DeepRec's hash tables, as an entry's field 7."""
    own = b.field(100, begin) + b.field(101, length) + b.field(102, size)
    return b.field(7, b.extents([(begin, length)]) + own)


def test_every_field() -> None:
    raw = b.entry(b.INT64, (3, 5), shard=2, offset=70_000, size=120, crc=0xDEADBEEF)
    entry = decode(raw)
    assert (entry.dtype.name, entry.shape, entry.shard) == ("int64", (3, 5), 2)
    assert (entry.offset, entry.size, entry.end) == (70_000, 120, 70_120)
    assert (entry.crc, entry.elements, entry.rows) == (0xDEADBEEF, 15, 3)
    assert entry.has_data
    assert entry.encode() == raw


def test_a_scalar_keeps_its_empty_shape() -> None:
    raw = b.entry(b.FLOAT, (), size=4)
    assert b"\x12\x00" in raw
    entry = decode(raw)
    assert (entry.shape, entry.elements, entry.rows) == ((), 1, 1)
    assert entry.encode() == raw
    assert Entry(dtype_by_name("float32"), (), size=4).encode() == raw


def test_nothing_has_no_size() -> None:
    raw = b.entry(b.FLOAT, (0, 4), offset=9, crc=EMPTY_MASKED)
    assert raw == bytes.fromhex("0801 1206 1200 1202 0804 2009 35 d8ea82a2".replace(" ", ""))
    assert decode(raw).encode() == raw


def test_slices() -> None:
    boxes = [[(0, 2), (0, -1)], [(2, 1), (0, -1)]]
    raw = b.entry(b.FLOAT, (3, 4), slices=boxes)
    entry = decode(raw)
    assert entry.slices == (TensorSlice(((0, 2), (0, -1))), TensorSlice(((2, 1), (0, -1))))
    assert not entry.has_data
    assert entry.encode() == raw
    assert [str(s) for s in entry.slices] == ["0,2:-", "2,1:-"]
    assert [s.shape(entry.shape) for s in entry.slices] == [(2, 4), (1, 4)]


def test_slices_are_written_as_tensorflow_does() -> None:
    """Whole dimensions say nothing; a start of 0 is left out, a length of 0 is not."""
    slices = (TensorSlice(((0, -1), (0, 0))), TensorSlice(((0, -1), (0, 2))))
    raw = Entry(dtype_by_name("float32"), (3, 4), slices=slices).encode()
    assert raw.endswith(bytes.fromhex("3a06 0a00 0a02 1000 3a06 0a00 0a02 1002".replace(" ", "")))
    assert decode(raw).slices == slices


def test_what_deeprec_adds() -> None:
    raw = b.entry(b.FLOAT, (0, 4)) + hash_slice(0, 32768, 65536) + hash_slice(32768, 32768, 65536)
    raw += b.field(100, 1)
    entry = decode(raw)
    assert entry.is_hash_table
    assert not entry.has_data
    assert [s.hash_slice for s in entry.slices] == [(0, 32768, 65536), (32768, 32768, 65536)]
    assert entry.encode() == raw
    again = Entry(entry.dtype, entry.shape, slices=entry.slices, is_hash_table=True)
    assert again.encode() == raw


@pytest.mark.parametrize("more", [UNKNOWN, b.field(100, 1) + UNKNOWN], ids=["tensor", "hash table"])
def test_unknown_fields_survive(more: bytes) -> None:
    dims = (2, 5)
    entry = decode(b.entry(b.FLOAT, dims, size=40, crc=7, more=more))
    assert entry.encode() == b.entry(b.FLOAT, dims, size=40, crc=7, more=more)
    moved = entry.moved(shape=(3, 5), shard=4, offset=99, size=60, crc=8)
    wanted = b.entry(b.FLOAT, (3, 5), shard=4, offset=99, size=60, crc=8, more=more)
    assert moved.encode() == wanted
    assert decode(wanted).moved(crc=9).encode()[-len(UNKNOWN) :] == UNKNOWN


def test_unknown_fields_inside_fields_survive() -> None:
    """In a dimension (its name), in a shape, in a slice and its extents."""
    dim = b.field(2, b.field(1, 3) + b.field(2, b"rows"))
    extent = b.field(1, b.field(1, 1) + b.field(2, 2) + UNKNOWN)
    raw = (
        b.field(1, b.FLOAT)
        + b.field(2, dim + UNKNOWN)
        + b.field(4, 1)
        + b.field(7, extent + UNKNOWN)
    )
    entry = decode(raw)
    assert entry.slices == (TensorSlice(((1, 2),)),)
    assert entry.encode() == raw
    assert entry.moved(offset=2).encode() == raw.replace(b.field(4, 1), b.field(4, 2))


def test_the_header() -> None:
    raw = bytes.fromhex("0802 1a020801".replace(" ", ""))
    header = BundleHeader.decode(raw, "i")
    assert (header.num_shards, header.producer, header.min_consumer) == (2, 1, 0)
    assert header.encode() == raw == BundleHeader(2).encode()


def test_a_header_keeps_what_it_does_not_know() -> None:
    raw = b.field(1, 3) + b.field(3, b.field(1, 1) + b.field(3, b"\5\6")) + UNKNOWN
    assert BundleHeader.decode(raw, "i").encode() == raw


def test_types_are_those_of_tensorflow(tf: ModuleType) -> None:
    for number in known_types() & set(DTYPES):
        dtype, theirs = DTYPES[number], tf.dtypes.as_dtype(number)
        assert theirs.name == dtype.name
        if dtype.size:
            assert (theirs.size, dtype.numpy.itemsize) == (dtype.size, dtype.size)


def test_no_type_is_missing(tf: ModuleType) -> None:
    """When this fails, TensorFlow has a new type: add it to the table."""
    resource = 20
    assert known_types() - set(DTYPES) == {resource}


def known_types() -> set[int]:
    """Return the types of this release, references to them left out."""
    from tensorflow.core.framework import types_pb2

    return {number for number in types_pb2.DataType.values() if 0 < number < 100}


def test_types_of_arrays() -> None:
    assert dtype_of(np.zeros(1, ">f4")).name == "float32"
    assert dtype_of(np.array([b"a"])).name == dtype_of(np.array(["a"])).name == "string"
    with pytest.raises(TypeError, match="datetime"):
        dtype_of(np.zeros(1, "M8[s]"))
    with pytest.raises(KeyError):
        dtype_by_name("float33")


def test_checksums_of_pieces_and_of_all() -> None:
    data = bytes(range(256)) * 9
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(data[7:], crc32c(data[:7])) == crc32c(data) == crc32c(memoryview(data))
    assert crc32c(b"", 5) == 5
    assert EMPTY_MASKED == 0xA282EAD8
    for crc in (0, 1, 0x7FFF, 0x8000, 0xFFFFFFFF, 0xE3069283):
        assert unmask(mask(crc)) == crc


TENSORFLOW_FIRST = """
import sys, tensorflow
from tensorflow.core.protobuf import tensor_bundle_pb2
from ckptctl.bundle import BundleReader
reader = BundleReader(sys.argv[1])
theirs = tensor_bundle_pb2.BundleEntryProto.FromString(reader.entry("dense/kernel").raw)
assert theirs.size == reader.entry("dense/kernel").size == 24
print(tensorflow.train.load_checkpoint(sys.argv[1]).get_tensor("dense/kernel").tolist())
"""


def test_in_one_process_with_tensorflow(tf: ModuleType, tmp_path: Path) -> None:
    """Ours was imported first, and in another process theirs is."""
    from tensorflow.core.protobuf import tensor_bundle_pb2

    prefix = b.build_bundle(tmp_path)
    raw = b.entry(b.INT64, (3, 5), shard=2, offset=70_000, size=120, crc=0xDEADBEEF)
    theirs = tensor_bundle_pb2.BundleEntryProto.FromString(raw)
    assert theirs.SerializeToString(deterministic=True) == raw == decode(raw).encode()
    run = [sys.executable, "-W", "ignore", "-c", TENSORFLOW_FIRST, prefix]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "[[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]\n", done.stderr[-3000:]
