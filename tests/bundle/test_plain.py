"""What is read without protobuf means what protobuf says, and comes to the same errors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptctl.bundle import DTYPES, BundleHeader, BundleReader, BundleWriter, DType, Entry, plain
from ckptctl.bundle.plain import (
    entry_bytes,
    header_bytes,
    plain_entry,
    plain_header,
)
from ckptctl.bundle.proto import BundleEntryProto, BundleHeaderProto
from ckptctl.errors import CkptctlError
from tests.bundle import builders as b

_NUMBERS = st.one_of(
    st.integers(0, 300),
    st.sampled_from([2**k + d for k in (14, 21, 28, 31, 32, 35, 42, 56, 62, 63) for d in (-1, 0)]),
).map(b.varint)
#: Numbers in forms that nobody writes, and of more than 64 bits.
_ODD = st.sampled_from([b"\x80\x00", b"\xff" * 9 + b"\x01", b"\xff" * 10 + b"\x01", b"\x80", b""])
_VARINT = st.one_of(_NUMBERS, _NUMBERS, _NUMBERS, _ODD)
_DIM = st.one_of(
    _VARINT.map(lambda size: b"\x08" + size),
    st.sampled_from([b"", b"\x12\x01a", b"\x08\x02\x12\x01a", b"\x08\x02\x08\x03", b"\x09"]),
)


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + b.varint(len(content)) + content


_SHAPE = st.lists(_DIM, max_size=3).map(lambda dims: b"".join(_sized(b"\x12", d) for d in dims))
_FIELDS = (
    _NUMBERS.map(lambda dtype: b"\x08" + dtype),
    _SHAPE.map(lambda shape: _sized(b"\x12", shape)),
    _VARINT.map(lambda shard: b"\x18" + shard),
    _VARINT.map(lambda offset: b"\x20" + offset),
    _VARINT.map(lambda size: b"\x28" + size),
    st.binary(min_size=4, max_size=4).map(lambda crc: b"\x35" + crc),
)


@st.composite
def entries(draw: st.DrawFn) -> bytes:
    """Entries as TensorFlow writes them, and what is one step away from one."""
    fields = [draw(field) for field in _FIELDS if draw(st.integers(0, 15))]
    if draw(st.integers(0, 7)):
        fields[:1] = [draw(st.sampled_from([b"\x08\x01", b"\x08\x09", b"\x08\x07", b"\x08\x14"]))]
    step = draw(st.integers(0, 9))
    if step == 0:
        fields.reverse()
    elif step == 1:
        fields += fields[-1:]
    elif step == 2:
        fields.append(draw(st.sampled_from([b.field(100, 1), b.field(900, 5), b.field(7, b"")])))
    raw = b"".join(fields)
    return raw[: draw(st.integers(0, len(raw)))] if step == 3 else raw


def _outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except CkptctlError as error:
        return type(error), str(error)


@given(entries(), st.sampled_from([1, 2, 300]))
@example(b.entry(b.FLOAT, (3, 5), shard=1, offset=2**40, size=60, crc=7), 2)
@example(b.entry(b.FLOAT, (0, 5), crc=7), 1)
@example(b"\x08\x01\x12\x82\x00\x12\x00", 1)  # a length in two bytes
@example(b"\x08\x01\x12\x04\x12\x05\x08\x01\x28\x04", 1)  # a dimension that runs out of its shape
@example(b"\x08\x01\x12\x05\x12\x03\x08\x01\x01\x28\x04", 1)  # a byte after its size
@example(b.entry(b.FLOAT, (1 << 62, 4), size=16), 1)
@example(b.entry(b.FLOAT, (1,), size=4) + b"\x28" + b.varint((1 << 64) - 1), 1)
@example(b"\x08\x01\x12\x00\x20" + b.varint((1 << 64) - 1) + b"\x28\x04", 1)
@example(b.entry(b.FLOAT, (1 << 61,), offset=1 << 62, size=1 << 63, crc=1), 1)
def test_an_entry_is_what_protobuf_says(raw: bytes, shards: int) -> None:
    args = (raw, "model.ckpt-1.index", "x", shards)
    assert _outcome(lambda: Entry.decode(*args)) == _outcome(lambda: Entry._decode_any(*args))


@given(st.lists(entries(), max_size=20))
@example([b.entry(b.FLOAT, (3,), size=12, crc=7), b"\x08\x01\x12\x00\x28" + b"\xff" * 9])
@example([b"\x08\x01\x12\x00\x35\x01", b.entry(b.FLOAT, (3,), size=12)])
@example([b"\x08\x01\x12\x00\x28\x04", b"\x35\x01\x02\x03\x04"])
@example([b"\x08\x01\x12\x00\x18" + b"\x80" * 4 + b"\x00\x28\x04"])
def test_many_entries_are_what_each_is(raws: list[bytes]) -> None:
    assert list(plain._together(raws)) == [plain_entry(raw) for raw in raws]


def test_a_large_index_is_what_each_entry_is(tmp_path: Path) -> None:
    with BundleWriter(str(tmp_path / "m")) as writer:
        for at in range(plain._SOME):
            writer.add(f"v{at:03d}", np.zeros(at % 7, np.float32))
    reader = BundleReader(str(tmp_path / "m"))
    one_by_one = {f"v{at:03d}": reader.get(f"v{at:03d}") for at in range(plain._SOME)}
    assert reader.tensors == one_by_one


@given(
    st.sampled_from(list(DTYPES.values())),
    st.lists(st.integers(0, 1 << 62), max_size=40).map(tuple),
    st.tuples(*(st.integers(0, (1 << bits) - 1) for bits in (31, 63, 63, 32))),
)
def test_an_entry_is_written_as_protobuf_writes_it(
    dtype: DType, shape: tuple[int, ...], numbers: tuple[int, int, int, int]
) -> None:
    raw = entry_bytes(dtype, shape, *numbers)
    message = BundleEntryProto.FromString(raw)
    assert message.SerializeToString(deterministic=True) == raw
    assert [message.dtype, *(dim.size for dim in message.shape.dim)] == [dtype.number, *shape]
    assert (message.shard_id, message.offset, message.size, message.crc32c) == numbers


@given(st.integers(1, 99999), st.integers(1, 1 << 30))
def test_a_header_is_written_as_protobuf_writes_it(shards: int, producer: int) -> None:
    raw = header_bytes(shards, producer)
    message = BundleHeaderProto.FromString(raw)
    assert message.SerializeToString(deterministic=True) == raw
    assert (message.num_shards, message.version.producer) == (shards, producer)


@pytest.mark.parametrize("dims", [(), (7,), (3, 0), (1 << 20, 64), (1,) * 30])
@pytest.mark.parametrize("offset", [0, 1, 127, 128, 1 << 20, 1 << 27, 1 << 28, (1 << 62) + 5])
def test_what_tensorflow_writes_is_plain(dims: tuple[int, ...], offset: int) -> None:
    raw = b.entry(b.INT64, dims, shard=offset % 300, offset=offset, size=offset % 999, crc=9)
    found = plain_entry(raw)
    assert found is not None
    assert found[1:] == (dims, 8 * prod(dims), offset % 300, offset, offset % 999, 9)


@given(st.binary(max_size=10))
@example(b"\x08\x02\x1a\x02\x08\x01")
@example(b"\x08\x80\x01\x1a\x02\x08\x00")
def test_a_header_is_what_protobuf_says(raw: bytes) -> None:
    found = plain_header(raw)
    if found is not None and found[0]:
        # A field that nobody knows is left to protobuf.
        slow = BundleHeader.decode(raw + b.field(900, 5), "i")
        assert (slow.num_shards, slow.producer, slow.min_consumer) == (*found, 0)


def test_reading_an_index_loads_no_protobuf(tmp_path: Path) -> None:
    prefix = str(tmp_path / "model.ckpt-1")
    with BundleWriter(prefix) as writer:
        writer.add("a", np.zeros((3, 4), np.float32))
        writer.add("b", np.array([b"text"]))
    script = (
        "import sys\nfrom ckptctl.bundle import BundleReader\n"
        f"assert BundleReader({prefix!r}).tensors\n"
        "print([name for name in ('google.protobuf', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"
