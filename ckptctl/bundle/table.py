"""The index file: a sorted table of key to value (leveldb's format, TensorFlow's fork).

Byte map in `docs/bundle-format.md`. Sources: tensorflow/core/lib/io/{format,block,
block_builder,table_builder}.cc; leveldb doc/table_format.md.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain
from operator import gt

from ckptctl import knobs
from ckptctl.bundle.checksum import crc32c, mask, unmask
from ckptctl.bundle.coding import decode_varint, encode_varint
from ckptctl.errors import (
    BlockChecksumError,
    BlockFormatError,
    ChangedError,
    CompressedBlockError,
    DamageError,
    FooterError,
    KeyOrderError,
    MagicError,
)
from ckptctl.storage.base import Storage

__all__ = ["IndexTable", "build_table"]

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48  # two handles padded to 40 bytes, then the magic number
HANDLES_BYTES = 40
TRAILER_BYTES = 5  # compression type, masked crc32c of block and type
RESTART_INTERVAL = 16
BLOCK_BYTES = 262144  # tensorflow/core/lib/io/table_options.h
#: Longer than any block that TensorFlow writes: a block ends with the entry that fills it.
MAX_BLOCK_BYTES = 64 << 20
#: An index up to this long is read at once, a longer one block by block.
WHOLE_BYTES = 16 << 20
_PLAIN, _SNAPPY = 0, 1

#: Keys share at most what lies before them, 15 times up to TensorFlow's next restart point.
_SHARING = 16

_Handle = tuple[int, int]  # offset and length of a block
_Pairs = tuple[list[bytes], list[bytes]]


class _IndexFile:
    """The bytes of an index: all read at once if they are few, else as they are needed."""

    def __init__(self, path: str, storage: Storage) -> None:
        self._path = path
        self._file = storage.open(path)
        self.whole: bytes | None = None
        self.size = self._file.size
        keep = False
        try:
            if self.size > knobs.MAX_INDEX_BYTES:
                raise FooterError(
                    "index absurdly long",
                    file=path,
                    expected=f"<= {knobs.MAX_INDEX_BYTES} bytes",
                    found=self.size,
                )
            if self.size < FOOTER_BYTES:
                raise FooterError(
                    "index too short for its footer",
                    file=path,
                    offset=0,
                    expected=f">= {FOOTER_BYTES} bytes",
                    found=f"{self.size} bytes",
                    remedy="the file was cut short: restore it or use another step",
                )
            keep = self.size > WHOLE_BYTES
            if not keep:
                self.whole = self.read(0, self.size)
        finally:
            if not keep:
                self._file.close()

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes that lie inside the file as it was when it was opened."""
        if self.whole is not None:
            return self.whole[offset : offset + length]
        data = self._file.pread(offset, length)
        if len(data) != length:
            raise ChangedError(
                "index became shorter while it was being read",
                file=self._path,
                offset=offset,
                expected=f"{length} bytes",
                found=f"{len(data)} bytes",
            )
        return data


class IndexTable:
    """One index file, open for look-ups; blocks are read, checked and parsed when needed.

    Raises one of the `DamageError` family, naming file, offset, expected and found, for
    every way in which the bytes can contradict themselves.
    """

    def __init__(self, path: str, storage: Storage) -> None:
        self.path = path
        self._file = _IndexFile(path, storage)
        self.size = self._file.size
        meta, index = self._read_footer()
        self._separators, values = self._block(index)
        self._handles = [self._handle(value, 0, index[0], BlockFormatError)[0] for value in values]
        # No byte serves two blocks, so that work is bounded by the length of the file.
        at = 0
        for start, length in (*self._handles, meta, index):
            if start < at:
                raise BlockFormatError(
                    "index blocks overlap or lie out of order",
                    file=path,
                    offset=start,
                    expected=f">= {at}",
                    found=start,
                )
            at = start + length + TRAILER_BYTES
        self._block(meta)
        self._blocks: dict[int, _Pairs] = {}
        # The block of the last look-up: its number, content, offset, and restart points.
        self._recent: tuple[int, bytes, int, tuple[int, ...], int] | None = None

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None; parses one block, from one restart point."""
        number = bisect_left(self._separators, key)
        if number == len(self._separators):
            return None
        if number in self._blocks:
            keys, values = self._blocks[number]
            at = bisect_left(keys, key)
            return values[at] if at < len(keys) and keys[at] == key else None
        recent = self._recent
        if recent is None or recent[0] != number:
            data, base = self._contents(self._handles[number])
            recent = self._recent = (number, data, base, *self._restarts(data, base))
        _, data, base, restarts, end = recent
        low, high = 0, len(restarts) - 1
        while low < high:
            middle = (low + high + 1) // 2
            first = next(self._entries(data, base, restarts[middle], end), None)
            if first is not None and first[0] <= key:
                low = middle
            else:
                high = middle - 1
        for found, value in self._entries(data, base, restarts[low], end):
            if found >= key:
                return value if found == key else None
        return None

    @property
    def whole(self) -> bytes | None:
        """All bytes of the file as they were read; None if there are too many."""
        return self._file.whole

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Return all keys and values in order, checking that the keys ascend."""
        return zip(*self.pairs(), strict=True)

    def pairs(self) -> _Pairs:
        """Return all keys, and all values: what `items` pairs."""
        blocks = [self._pairs(number) for number in range(len(self._handles))]
        keys = list(chain.from_iterable(keys for keys, _ in blocks))
        return keys, list(chain.from_iterable(values for _, values in blocks))

    def __len__(self) -> int:
        return sum(len(self._pairs(number)[0]) for number in range(len(self._handles)))

    def _pairs(self, number: int) -> _Pairs:
        if number not in self._blocks:
            pairs = self._block(self._handles[number])
            keys = pairs[0]
            if keys:
                lower = self._separators[number - 1] if number else None
                if (lower is not None and keys[0] <= lower) or keys[-1] > self._separators[number]:
                    raise KeyOrderError(
                        "keys of a block lie outside its separators",
                        file=self.path,
                        offset=self._handles[number][0],
                        expected=f"in ({_shown(lower)}, {_shown(self._separators[number])}]",
                        found=f"{_shown(keys[0])} to {_shown(keys[-1])}",
                    )
            self._blocks[number] = pairs
        return self._blocks[number]

    def _read_footer(self) -> tuple[_Handle, _Handle]:
        at = self.size - FOOTER_BYTES
        footer = self._file.read(at, FOOTER_BYTES)
        (magic,) = struct.unpack_from("<Q", footer, HANDLES_BYTES)
        if magic != MAGIC:
            raise MagicError(
                "not a bundle index: bad magic number",
                file=self.path,
                offset=at + HANDLES_BYTES,
                expected=f"{MAGIC:#018x}",
                found=f"{magic:#018x}",
            )
        meta, used = self._handle(footer, 0, at, FooterError)
        index, used = self._handle(footer, used, at, FooterError)
        if any(footer[used:HANDLES_BYTES]):
            raise FooterError(
                "footer padding is not zero",
                file=self.path,
                offset=at + used,
                expected="zeros",
                found=footer[used:HANDLES_BYTES].hex(),
            )
        return meta, index

    def _handle(
        self, data: bytes, at: int, offset: int, error_class: type[DamageError]
    ) -> tuple[_Handle, int]:
        try:
            start, end = decode_varint(data, at)
            length, end = decode_varint(data, end)
            if data[at:end] != encode_varint(start) + encode_varint(length):
                raise ValueError("varint in a form that nobody writes")
        except ValueError as error:
            raise error_class(f"block handle: {error}", file=self.path, offset=offset) from None
        limit = self.size - FOOTER_BYTES - TRAILER_BYTES
        if start + length > limit:
            raise error_class(
                "block handle points past the end of the index",
                file=self.path,
                offset=offset,
                expected=f"<= {limit}",
                found=start + length,
            )
        return (start, length), end

    def _contents(self, handle: _Handle) -> tuple[bytes, int]:
        start, length = handle
        if length > MAX_BLOCK_BYTES:
            raise BlockFormatError(
                "index block absurdly long",
                file=self.path,
                offset=start,
                expected=f"<= {MAX_BLOCK_BYTES} bytes",
                found=f"{length} bytes",
            )
        stored_block = self._file.read(start, length + TRAILER_BYTES)
        kind, stored = struct.unpack_from("<BI", stored_block, length)
        actual = crc32c(memoryview(stored_block)[: length + 1])
        if unmask(stored) != actual:
            raise BlockChecksumError(
                "index block does not match its checksum",
                file=self.path,
                offset=start,
                expected=f"crc32c {unmask(stored):#010x}",
                found=f"{actual:#010x}",
                remedy="the file was damaged after it was written: restore it or use another step",
            )
        block = stored_block[:length]
        if kind == _SNAPPY:
            block = _decompress(block, self.path, start)
        elif kind != _PLAIN:
            raise CompressedBlockError(
                "index block of unknown compression",
                file=self.path,
                offset=start + length,
                expected="0 (none) or 1 (snappy)",
                found=kind,
            )
        return block, start

    def _block(self, handle: _Handle) -> _Pairs:
        data, base = self._contents(handle)
        _, end = self._restarts(data, base)
        keys: list[bytes] = []
        values: list[bytes] = []
        last = None
        for key, value in self._entries(data, base, 0, end):
            if last is not None and key <= last:
                raise KeyOrderError(
                    "duplicate key" if key == last else "keys do not ascend",
                    file=self.path,
                    tensor=key.decode("utf-8", "backslashreplace"),
                    offset=base,
                    expected=f"> {_shown(last)}",
                    found=_shown(key),
                )
            last = key
            keys.append(key)
            values.append(value)
        return keys, values

    def _restarts(self, data: bytes, base: int) -> tuple[tuple[int, ...], int]:
        if len(data) < 8:
            raise self._malformed("block too short for its restart points", base)
        (count,) = struct.unpack_from("<I", data, len(data) - 4)
        end = len(data) - 4 - 4 * count
        if count == 0 or end < 0:
            raise self._malformed(f"block with {count} restart points", base)
        restarts = struct.unpack_from(f"<{count}I", data, end)
        if restarts[0] != 0:
            raise self._malformed("first restart point is not 0", base)
        if any(map(gt, restarts, restarts[1:])):
            raise self._malformed("restart points do not ascend", base)
        if restarts[-1] > end:
            raise self._malformed("restart point past the end of the block", base)
        return restarts, end

    def _entries(self, data: bytes, base: int, at: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        key = b""
        # Shared bytes cost nothing in the file: a key of 1 MB shared a million times would.
        budget = _SHARING * len(data)
        while at < end:
            start = at
            shared, fresh, length = data[at], data[at + 1], data[at + 2]
            at += 3
            if (shared | fresh | length) >= 0x80:
                try:
                    shared, at = decode_varint(data, start)
                    fresh, at = decode_varint(data, at)
                    length, at = decode_varint(data, at)
                except ValueError as error:
                    raise self._malformed(f"entry: {error}", base + start) from None
            middle = at + fresh
            if shared > len(key) or middle + length > end:
                raise self._malformed("entry runs past the end of its block", base + start)
            budget -= shared
            if budget < 0:
                raise self._malformed("keys absurdly long", base + start)
            key = key[:shared] + data[at:middle]
            at = middle + length
            yield key, data[middle:at]

    def _malformed(self, message: str, offset: int) -> DamageError:
        return BlockFormatError(message, file=self.path, offset=offset)


def _shown(key: bytes | None) -> str:
    """Return a key for people; a key may be longer than anyone wants to read."""
    return repr(key) if key is None or len(key) <= 100 else f"{key[:100]!r}..."


def _decompress(block: bytes, path: str, offset: int) -> bytes:
    try:
        import cramjam
    except ImportError:
        raise CompressedBlockError(
            "index block compressed with snappy",
            file=path,
            offset=offset,
            expected="an uncompressed block, as TensorFlow writes",
            found="snappy",
            remedy="pip install 'ckptctl[snappy]'",
        ) from None
    try:
        length, _ = decode_varint(block, 0)
        # Snappy cannot grow data more than about 22 times: more is a bomb or damage.
        if length > min(MAX_BLOCK_BYTES, max(1024, 64 * len(block))):
            raise ValueError(f"claims {length} bytes from {len(block)}")
        return bytes(cramjam.snappy.decompress_raw(block))
    except (ValueError, cramjam.DecompressionError) as error:
        raise CompressedBlockError(
            f"snappy block does not decompress: {error}", file=path, offset=offset
        ) from None


def build_table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the index file of sorted, unique keys, byte for byte as TensorFlow writes it."""
    out = bytearray()
    index = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder()
    pending: tuple[bytes, bytes] | None = None  # last key and handle of a finished block
    last = None
    for key, value in items:
        if last is not None and key <= last:
            raise ValueError(f"keys not ascending: {last!r}, {key!r}")
        last = key
        if pending is not None:
            index.add(_separator(pending[0], key), pending[1])
            pending = None
        block.add(key, value)
        if block.size >= BLOCK_BYTES:
            pending = (key, _append_block(out, block))
            block = _BlockBuilder()
    if not block.empty:
        assert last is not None
        pending = (last, _append_block(out, block))
    meta = _append_block(out, _BlockBuilder())
    if pending is not None:
        index.add(_successor(pending[0]), pending[1])
    handles = meta + _append_block(out, index)
    out += handles.ljust(HANDLES_BYTES, b"\x00") + struct.pack("<Q", MAGIC)
    return bytes(out)


def _append_block(out: bytearray, block: _BlockBuilder) -> bytes:
    data = block.finish() + bytes([_PLAIN])
    handle = encode_varint(len(out)) + encode_varint(len(data) - 1)
    out += data + struct.pack("<I", mask(crc32c(data)))
    return handle


class _BlockBuilder:
    def __init__(self, restart_interval: int = RESTART_INTERVAL) -> None:
        self._interval = restart_interval
        self._data = bytearray()
        self._restarts = [0]
        self._since_restart = 0
        self._last = b""

    @property
    def empty(self) -> bool:
        return not self._data

    @property
    def size(self) -> int:
        """Bytes of the block if it were finished now."""
        return len(self._data) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._since_restart < self._interval:
            shared = _common(self._last, key)
        else:
            self._restarts.append(len(self._data))
            self._since_restart = 0
        self._data += encode_varint(shared) + encode_varint(len(key) - shared)
        self._data += encode_varint(len(value)) + key[shared:] + value
        self._last = key
        self._since_restart += 1

    def finish(self) -> bytes:
        restarts = [*self._restarts, len(self._restarts)]
        return bytes(self._data) + struct.pack(f"<{len(restarts)}I", *restarts)


def _common(a: bytes, b: bytes) -> int:
    limit = min(len(a), len(b))
    if a[:limit] == b[:limit]:
        return limit
    at = 0
    while a[at] == b[at]:
        at += 1
    return at


def _separator(start: bytes, limit: bytes) -> bytes:
    """Return a short key in [start, limit), as TensorFlow's `FindShortestSeparator`."""
    at = _common(start, limit)
    if at < min(len(start), len(limit)) and start[at] < 0xFF and start[at] + 1 < limit[at]:
        return start[:at] + bytes([start[at] + 1])
    return start


def _successor(key: bytes) -> bytes:
    """Return a short key at or above `key`, as TensorFlow's `FindShortSuccessor`."""
    for at, byte in enumerate(key):
        if byte != 0xFF:
            return key[:at] + bytes([byte + 1])
    return key
