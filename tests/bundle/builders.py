"""Bundles to read, to damage and to doubt; what `docs/bundle-format.md` says, by hand.

Nothing here uses the encoders under test, so that a mistake cannot cancel itself out.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fastcrc
import numpy as np

from ckptctl.bundle import BundleReader, BundleWriter, TensorSlice
from ckptctl.errors import CkptctlError

MAGIC = 0xDB4775248B80FB57
FLOAT, INT32, STRING, INT64, VARIANT = 1, 3, 7, 9, 21
LENGTH_DELIMITED, FIXED32 = 2, 5

Box = Sequence[tuple[int, int]]


# Checksums and numbers


def masked(data: bytes) -> int:
    crc = fastcrc.crc32.iscsi(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative numbers take ten bytes
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


# Protocol messages


def field(number: int, value: int | bytes, *, fixed: bool = False) -> bytes:
    """Return one field of a message: a varint, a fixed32, or something with a length."""
    if isinstance(value, bytes):
        return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value
    if fixed:
        return varint(number << 3 | FIXED32) + struct.pack("<I", value) if value else b""
    return varint(number << 3) + varint(value) if value else b""


def header(shards: int = 1, *, endianness: int = 0, min_consumer: int = 0) -> bytes:
    version = field(1, 1) + field(2, min_consumer)
    return field(1, shards) + field(2, endianness) + field(3, version)


def shape(*dims: int) -> bytes:
    return field(2, b"".join(field(2, field(1, size)) for size in dims))


def extents(box: Box) -> bytes:
    """Return a TensorSliceProto; a length of -1 leaves both fields out."""
    parts = (field(1, start) + (b"\x10" + varint(n) if n >= 0 else b"") for start, n in box)
    return b"".join(field(1, part) for part in parts)


def entry(
    dtype: int = FLOAT,
    dims: Sequence[int] = (),
    *,
    shard: int = 0,
    offset: int = 0,
    size: int = 0,
    crc: int = 0,
    slices: Sequence[Box] = (),
    more: bytes = b"",
) -> bytes:
    """Return a BundleEntryProto; `more` is appended as it is."""
    out = field(1, dtype) + shape(*dims) + field(3, shard) + field(4, offset) + field(5, size)
    out += field(6, crc, fixed=True) + b"".join(field(7, extents(box)) for box in slices)
    return out + more


def of_data(dtype: int, dims: Sequence[int], data: bytes, offset: int = 0) -> bytes:
    """Return the entry of bytes that lie at `offset` of shard 0."""
    return entry(dtype, dims, offset=offset, size=len(data), crc=masked(data))


# The keys of slices, by the description of OrderedCode


def ordered(value: int) -> bytes:
    """Return a signed number in as many bytes as its length bits ask for."""
    for size in range(1, 10):
        if -(1 << (7 * size - 1)) <= value < 1 << (7 * size - 1):
            # The sign and `size` bits of length, then the number; all inverted if negative.
            ones = ((1 << size) - 1) << (8 * size - size)
            number = (ones ^ value) if value >= 0 else (ones ^ value) & ((1 << 8 * size) - 1)
            return number.to_bytes(size, "big")
    raise AssertionError("ten bytes are a matter for TensorFlow itself")


def slice_key(name: str, box: Box) -> bytes:
    escaped = name.encode().replace(b"\xff", b"\xff\x00").replace(b"\x00", b"\x00\xff")
    rank = bytes([1, len(box)]) if box else b"\x00"
    out = b"\x00" + escaped + b"\x00\x01" + rank
    return out + b"".join(ordered(start) + ordered(length) for start, length in box)


# The table


def block(pairs: Sequence[tuple[bytes, bytes]], restarts: Sequence[int] | None = None) -> bytes:
    """Return a block that shares no prefixes, with its restart points, without a trailer."""
    out = b"".join(b"\x00" + varint(len(k)) + varint(len(v)) + k + v for k, v in pairs)
    points = [0] if restarts is None else restarts
    return out + struct.pack(f"<{len(points) + 1}I", *points, len(points))


def trailer(data: bytes, kind: int = 0) -> bytes:
    return bytes([kind]) + struct.pack("<I", masked(data + bytes([kind])))


def handle(offset: int, length: int) -> bytes:
    return varint(offset) + varint(length)


def footer(meta: bytes, index: bytes, magic: int = MAGIC) -> bytes:
    return (meta + index).ljust(40, b"\x00") + struct.pack("<Q", magic)


def table(
    blocks: Sequence[tuple[bytes, bytes]],
    *,
    kind: int = 0,
    compress: Callable[[bytes], bytes] = bytes,
    change_handles: Callable[[list[bytes]], list[bytes]] = list,
) -> bytes:
    """Return an index of finished blocks, each with its separator.

    `change_handles` may replace the handles of data blocks before the index block is made.
    """
    out, handles = bytearray(), []
    for _, data in blocks:
        stored = compress(data)
        handles.append(handle(len(out), len(stored)))
        out += stored + trailer(stored, kind)
    meta = block([])
    meta_handle = handle(len(out), len(meta))
    out += meta + trailer(meta)
    separators = [separator for separator, _ in blocks]
    index = block(list(zip(separators, change_handles(handles), strict=False)))
    index_handle = handle(len(out), len(index))
    return bytes(out) + index + trailer(index) + footer(meta_handle, index_handle)


def index_of(pairs: Sequence[tuple[bytes, bytes]], head: bytes | None = None) -> bytes:
    """Return an index of one block: the header and these entries, in the order given."""
    every = [(b"", header() if head is None else head), *pairs]
    return table([(max(key for key, _ in every) + b"~", block(every))])


def forge(
    directory: Path,
    pairs: Sequence[tuple[bytes, bytes]],
    *shards: bytes,
    head: bytes | None = None,
) -> str:
    """Write a bundle of raw entries with every checksum right; return its prefix."""
    prefix = directory / "forged"
    count = max(len(shards), 1)
    Path(f"{prefix}.index").write_bytes(index_of(pairs, header(count) if head is None else head))
    for number, data in enumerate(shards):
        Path(f"{prefix}.data-{number:05d}-of-{count:05d}").write_bytes(data)
    return str(prefix)


# Whole bundles


def numbers(*dims: int, dtype: str = "f4") -> np.ndarray:
    return np.arange(np.prod(dims, dtype=int), dtype=dtype).reshape(dims)


def build_bundle(directory: Path, name: str = "model.ckpt-1", shards: int = 2) -> str:
    """Write a small bundle with a bit of everything; return its prefix."""
    prefix = str(directory / name)
    with BundleWriter(prefix, shards) as writer:
        writer.add("dense/kernel", numbers(2, 3) + 0.5)
        writer.add("global_step", np.int64(7).reshape(()))
        writer.add("half", numbers(3, dtype="u2"), dtype="bfloat16", shard=shards - 1)
        writer.add("flags", np.array([True, False]))
        writer.add("none", numbers(0, 4))
        writer.add("words", np.array([b"", b"ab", b"c" * 20], object), shard=shards - 1)
        for part, (start, length) in enumerate([(0, 2), (2, 1)]):
            rows = TensorSlice(((start, length), (0, 2)))
            writer.add_slice("w", (3, 2), rows, numbers(length, 2) + part, shard=part % shards)
    return prefix


def shard_file(prefix: str, shard: int = 0, shards: int = 2) -> Path:
    return Path(f"{prefix}.data-{shard:05d}-of-{shards:05d}")


def files_of(prefix: str) -> list[Path]:
    return sorted(Path(prefix).parent.glob(f"{Path(prefix).name}.*"))


def corrupt(path: Path, offset: int, xor: int) -> None:
    """Flip the bits `xor` of one byte of a file, in place."""
    with open(path, "r+b") as file:
        data = os.pread(file.fileno(), 1, offset)
        os.pwrite(file.fileno(), bytes([data[0] ^ xor]), offset)


def content(prefix: str) -> dict[str, object]:
    """Return all that a bundle says: types, shapes, slices, and every value checked."""
    with BundleReader(prefix) as reader:
        reader.check_shards()
        list(reader.data_entries())
        found: dict[str, object] = {"": reader.header}
        for name, item in reader.tensors.items():
            if item.is_hash_table:
                found[name] = item
                continue
            if item.dtype.name == "variant":
                reader.check_tensor(name, item)
                value: object = reader.data_file(name, item).pread(item.offset, item.size)
            else:
                array = reader.read(name)
                value = array.tolist() if array.dtype == object else array.tobytes()
            found[name] = (item.dtype.name, item.shape, item.slices, item.shard, value)
        return found


def outcome(prefix: str) -> dict[str, object] | CkptctlError:
    """Return what a bundle says, or the error that says why it says nothing."""
    try:
        return content(prefix)
    except CkptctlError as error:
        return error


@contextmanager
def bounded(seconds: float = 1.0, mebibytes: int = 200) -> Iterator[None]:
    """Fail if the body takes longer, or run it out of memory if it asks for more.

    Seconds are those of the processor, so that a busy machine fails nothing; what waits for
    something that never comes is stopped as well.
    """

    def stop(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds * 30} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (mebibytes << 20), hard))
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds * 30)
    began = time.process_time()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert time.process_time() - began < seconds
