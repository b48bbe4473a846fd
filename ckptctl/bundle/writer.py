"""Writing a bundle tensor by tensor, each in pieces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptctl.bundle.checksum import crc32c, mask
from ckptctl.bundle.commit import PendingBundle
from ckptctl.bundle.dtypes import DType, dtype_by_name, dtype_of
from ckptctl.bundle.entry import MAX_SHARDS, BundleHeader, Entry
from ckptctl.bundle.names import key_of
from ckptctl.bundle.slices import TensorSlice, encode_slice_key, find_overlap
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
        view = memoryview(piece)
        if not view.nbytes:  # `cast` takes no empty arrays
            return
        view = view.cast("B")
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
    ValueError
        A number of shards that no bundle has.
    """

    def __init__(self, prefix: str, num_shards: int = 1, storage: Storage = LOCAL) -> None:
        if not 1 <= num_shards <= MAX_SHARDS:
            raise ValueError(f"a bundle of {num_shards} data shards")
        if storage.stat(f"{prefix}.index", follow=False) is not None:
            raise ExistsError("bundle exists", file=f"{prefix}.index")
        self._pending = PendingBundle(prefix, num_shards, storage)
        self._files: list[Writable] = []
        self._ends = [0] * num_shards
        self._entries: dict[bytes, Entry] = {}
        self._busy: set[int] = set()
        self._closed = False
        try:
            self._pending.start()
            for path in map(self._pending.shard_temporary, range(num_shards)):
                storage.create(path, 0)
                self._files.append(storage.open_write(path))
        except BaseException:
            self.abort()
            raise

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
        """Add a tensor; `dtype` names a TensorFlow type that NumPy holds as another one.

        Raises
        ------
        ValueError
            The name is empty, starts with a zero byte, or was added before.
        TypeError
            TensorFlow has no such type, or the array does not hold its bytes.
        """
        key = key_of(name)
        _check_name(key)
        self._add(key, array, dtype, shard)

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
        """Add one slice of a tensor of `full_shape`.

        Raises
        ------
        ValueError
            The slice lies outside the tensor, was added before, or has another shape than
            the array.
        TypeError
            As `add`.
        """
        if not slice_.fits(full_shape) or slice_.shape(full_shape) != array.shape:
            raise ValueError(f"slice {slice_} of {full_shape} takes no array of {array.shape}")
        if slice_.shape(full_shape) == full_shape:  # as BundleWriter::AddSlice
            self.add(name, array, dtype=dtype, shard=shard)
            return
        key = key_of(name)
        kind = dtype_by_name(dtype) if dtype else dtype_of(array)
        full = self._entries.get(key)
        if full is None:
            _check_name(key)
            full = Entry(kind, full_shape)
        elif not full.slices or full.shape != full_shape or full.dtype != kind:
            raise ValueError(f"slice {slice_} does not fit what there is of {name}")
        self._add(encode_slice_key(key, slice_), array, kind.name, shard)
        self._entries[key] = full.moved(slices=(*full.slices, slice_))

    def stream(
        self, name: str, dtype: DType, shape: tuple[int, ...], *, shard: int = 0
    ) -> _Streaming:
        """Return a context manager whose `write` takes the bytes of a tensor in pieces.

        Raises
        ------
        ValueError
            As `add`; or another tensor of the same data shard is being written.
        TypeError
            Elements of this type have no fixed size.
        """
        if not dtype.size:
            raise TypeError(f"a tensor of type {dtype.name} cannot be written in pieces")
        key = key_of(name)
        _check_name(key)
        if shape and min(shape) < 0:
            raise ValueError(f"negative dimension in {shape}")
        entry = Entry(dtype, shape, shard)
        return _Streaming(self, key, entry.moved(size=entry.elements * dtype.size))

    def close(self) -> None:
        """Fsync the data and make the bundle exist; nothing happens when that was done.

        Raises
        ------
        ValueError
            Slices of a tensor overlap; nothing was left behind.
        """
        if self._closed:
            return
        try:
            if self._busy:
                raise ValueError("a tensor is still being written")
            self._check_slices()
            for file in self._files:
                file.fsync()
            self._close_files()
            header = BundleHeader(self._pending.num_shards)
            self._pending.commit(index_bytes(header, self._entries))
        except BaseException:
            self.abort()
            raise

    def _check_slices(self) -> None:
        for key, entry in self._entries.items():
            pair = find_overlap(entry.slices, entry.shape) if entry.slices else None
            if pair is not None:
                raise ValueError(f"slices {pair[0]} and {pair[1]} of {key!r} overlap")

    def abort(self) -> None:
        """Remove everything that was written; nothing happens after `close`."""
        self._close_files()
        self._pending.abort()

    def _close_files(self) -> None:
        self._closed = True
        for file in self._files:
            file.close()

    def _add(self, key: bytes, array: np.ndarray, dtype: str | None, shard: int) -> None:
        kind = dtype_by_name(dtype) if dtype else dtype_of(array)
        crc = None
        if kind.name == "string":
            data, crc = encode_strings([_string(item) for item in array.ravel().tolist()])
        elif kind.size:
            if array.dtype.name == kind.name != kind.numpy.name:  # of ml_dtypes
                array = array.view(kind.numpy)
            data = array.astype(kind.numpy, casting="no", copy=False).tobytes()
        else:
            raise TypeError(f"a tensor of type {kind.name} has no NumPy form")
        entry = Entry(kind, tuple(array.shape), shard, 0, len(data))
        with _Streaming(self, key, entry, crc) as sink:
            sink.write(data)

    def _claim(self, key: bytes, entry: Entry) -> Entry:
        """Return the entry with its place; no other tensor of its shard starts meanwhile."""
        if self._closed:
            raise ValueError("the bundle is closed")
        if key in self._entries:
            raise ValueError(f"duplicate tensor name: {key!r}")
        if not 0 <= entry.shard < len(self._files):
            raise ValueError(f"shard {entry.shard} of {len(self._files)}")
        if entry.shard in self._busy:
            raise ValueError(f"another tensor of shard {entry.shard} is being written")
        self._busy.add(entry.shard)
        return entry.moved(offset=self._ends[entry.shard])

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
        self._crc = crc

    def __enter__(self) -> TensorSink:
        self._entry = entry = self._writer._claim(self._key, self._entry)
        file = self._writer._files[entry.shard]
        self._sink = TensorSink(file, entry.offset, entry.size, self._crc)
        return self._sink

    def __exit__(self, kind: object, *_: object) -> None:
        self._writer._busy.discard(self._entry.shard)
        if kind is None:
            self._writer._record(self._key, self._entry.moved(crc=self._sink.finish()))


def _check_name(key: bytes) -> None:
    if key[:1] in (b"", b"\x00"):  # the header's, and those of slices' data
        raise ValueError(f"no name for a tensor: {key!r}")


def _string(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, (bytes, bytearray)):
        return bytes(item)
    raise TypeError(f"not a string: {item!r}")
