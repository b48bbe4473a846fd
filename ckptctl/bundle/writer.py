"""Writing a bundle tensor by tensor, each in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptctl.bundle.checksum import crc32c, mask
from ckptctl.bundle.commit import PendingBundle
from ckptctl.bundle.dtypes import DType, dtype_by_name, dtype_of
from ckptctl.bundle.entry import BundleHeader, Entry
from ckptctl.bundle.slices import TensorSlice, encode_slice_key
from ckptctl.bundle.strings import encode_strings
from ckptctl.bundle.table import build_table
from ckptctl.errors import ExistsError
from ckptctl.storage import LOCAL, Storage, Writable
from ckptctl.storage.base import Buffer

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BundleWriter", "TensorSink", "index_bytes"]


def index_bytes(header: BundleHeader, entries: dict[bytes, Entry]) -> bytes:
    """Return the index of these entries, byte for byte as TensorFlow writes it."""
    items = [(b"", header.encode())]
    items += [(key, entries[key].encode()) for key in sorted(entries)]
    return build_table(items)


class TensorSink:
    """One tensor that is being written in pieces; see `BundleWriter.stream`."""

    def __init__(self, file: Writable, offset: int, size: int, crc: int | None) -> None:
        self._file = file
        self.offset = offset
        self.size = size
        self._crc = crc
        self._running = 0
        self._at = offset

    def write(self, piece: Buffer) -> None:
        """Append bytes; raise `ValueError` when they are more than the shape holds."""
        view = memoryview(piece).cast("B")
        if self._at + len(view) > self.offset + self.size:
            raise ValueError("more bytes than the shape holds")
        self._file.pwrite(self._at, view)
        if self._crc is None:
            self._running = crc32c(view, self._running)
        self._at += len(view)

    def finish(self) -> int:
        """Return the masked crc32c; raise `ValueError` when bytes are missing."""
        if self._at != self.offset + self.size:
            raise ValueError(f"{self.offset + self.size - self._at} bytes missing")
        return mask(self._running) if self._crc is None else self._crc


class BundleWriter:
    """Writes a TF V2 bundle; it exists once `close` returns.

    Tensors lie in the data shards in the order in which they are added. Leaving a `with`
    block by an exception removes everything that was written.

    Parameters
    ----------
    prefix
        Path without `.index`; its directory must exist, the bundle must not.
    num_shards
        Number of data shards.
    storage
        Where the files lie.

    Raises
    ------
    ExistsError
        There is a bundle at `prefix`.
    """

    def __init__(self, prefix: str, num_shards: int = 1, storage: Storage = LOCAL) -> None:
        if storage.stat(f"{prefix}.index", follow=False) is not None:
            raise ExistsError("bundle exists", file=f"{prefix}.index")
        self._pending = PendingBundle(prefix, num_shards, storage)
        self._pending.start([0] * num_shards)
        self._files = [
            storage.open_write(self._pending.shard_temporary(shard)) for shard in range(num_shards)
        ]
        self._ends = [0] * num_shards
        self._entries: dict[bytes, Entry] = {}

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(
        self,
        name: str,
        array: np.ndarray,
        *,
        dtype: str | None = None,
        shard: int = 0,
    ) -> None:
        """Add a tensor; `dtype` names a TensorFlow type that NumPy holds as another one."""
        self._add(_key(name), array, dtype, shard)

    def add_slice(
        self,
        name: str,
        full_shape: tuple[int, ...],
        slice_: TensorSlice,
        array: np.ndarray,
        *,
        dtype: str | None = None,
        shard: int = 0,
    ) -> None:
        """Add one slice of a tensor of `full_shape`."""
        if slice_.shape(full_shape) == full_shape:  # as BundleWriter::AddSlice
            self.add(name, array, dtype=dtype, shard=shard)
            return
        key = _key(name)
        entry = self._add(encode_slice_key(key, slice_), array, dtype, shard)
        full = self._entries.get(key) or Entry(entry.dtype, full_shape)
        if full.shape != full_shape or full.dtype != entry.dtype or slice_ in full.slices:
            raise ValueError(f"slice {slice_} does not fit the others of {name}")
        self._entries[key] = full.moved(slices=(*full.slices, slice_))

    def stream(
        self, name: str, dtype: DType, shape: tuple[int, ...], *, shard: int = 0
    ) -> _Streaming:
        """Return a context manager whose `write` takes the bytes of a tensor in pieces."""
        entry = Entry(dtype, shape, shard, self._ends[shard])
        entry = entry.moved(size=entry.elements * dtype.size)
        return _Streaming(self, _key(name), entry)

    def close(self) -> None:
        """Fsync the data and make the bundle exist."""
        for file in self._files:
            file.fsync()
            file.close()
        header = BundleHeader(self._pending.num_shards)
        try:
            self._pending.commit(index_bytes(header, self._entries))
        except BaseException:
            self._pending.abort()
            raise

    def abort(self) -> None:
        """Remove everything that was written."""
        for file in self._files:
            file.close()
        self._pending.abort()

    def _add(self, key: bytes, array: np.ndarray, dtype: str | None, shard: int) -> Entry:
        kind = dtype_by_name(dtype) if dtype else dtype_of(array)
        crc = None
        if kind.name == "string":
            items = (x.encode() if isinstance(x, str) else bytes(x) for x in array.ravel().tolist())
            data, crc = encode_strings(items)
        else:
            data = array.astype(kind.numpy, casting="no", copy=False).tobytes()
        entry = Entry(kind, tuple(array.shape), shard, self._ends[shard], len(data))
        with _Streaming(self, key, entry, crc) as sink:
            sink.write(data)
        return self._entries[key]

    def _claim(self, key: bytes, entry: Entry, crc: int | None) -> TensorSink:
        if not key or key in self._entries:
            raise ValueError(f"empty or duplicate tensor name: {key!r}")
        return TensorSink(self._files[entry.shard], entry.offset, entry.size, crc)

    def _record(self, key: bytes, entry: Entry) -> None:
        self._entries[key] = entry
        self._ends[entry.shard] = entry.end


class _Streaming:
    """Context manager of one tensor in pieces."""

    def __init__(
        self, writer: BundleWriter, key: bytes, entry: Entry, crc: int | None = None
    ) -> None:
        self._writer = writer
        self._key = key
        self._entry = entry
        self._sink = writer._claim(key, entry, crc)

    def __enter__(self) -> TensorSink:
        return self._sink

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._writer._record(self._key, self._entry.moved(crc=self._sink.finish()))


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
