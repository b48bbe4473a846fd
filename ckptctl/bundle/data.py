"""The data shards of a bundle: tensors by byte range, checked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

from ckptctl import knobs
from ckptctl.bundle.checksum import crc32c, unmask
from ckptctl.bundle.entry import Entry
from ckptctl.bundle.names import shard_path
from ckptctl.bundle.strings import check_strings, check_variants, iter_strings
from ckptctl.errors import (
    EntryBoundsError,
    EntryError,
    MissingShardError,
    NotFoundError,
    RefusedError,
    TensorChecksumError,
)
from ckptctl.storage import LOCAL, Readable, Storage

if TYPE_CHECKING:
    import numpy as np

_T = TypeVar("_T")

__all__ = ["BundleData"]

#: Bytes that are read and checked at a time: where nothing else is done, less is a tenth faster.
_CHECK_BYTES = 1 << 18


class _OpenFiles:
    """The files that all bundles hold open, the longest unused given up first.

    A thousand increments of 64 shards are more files than a process may open. One that is
    given up while a thread still reads it closes when that thread lets go of it.
    """

    def __init__(self) -> None:
        self._files: OrderedDict[tuple[object, int], Readable] = OrderedDict()
        self._lock = RLock()  # a finaliser may run inside any of these

    def get(self, key: tuple[object, int]) -> Readable | None:
        with self._lock:
            if key in self._files:
                self._files.move_to_end(key)
            return self._files.get(key)

    def put(self, key: tuple[object, int], file: Readable) -> None:
        with self._lock:
            self._files[key] = file
            while len(self._files) > knobs.MAX_OPEN_FILES:
                self._files.popitem(last=False)

    def forget(self, token: object) -> None:
        with self._lock:
            for key in list(self._files):
                if key[0] is token:
                    self._files.pop(key, None)


_OPEN = _OpenFiles()


class BundleData:
    """The data shards of a bundle, opened when first read; picklable.

    Parameters
    ----------
    prefix
        Path of the bundle, without `.index`.
    num_shards
        Number of data shards, as its header says.
    storage
        Where the files lie.
    """

    def __init__(self, prefix: str, num_shards: int, storage: Storage = LOCAL) -> None:
        self.prefix = prefix
        self.num_shards = num_shards
        self.storage = storage
        self._token = object()

    def __reduce__(self) -> tuple[object, ...]:
        # A reader travels as its data alone: the entries that a task needs go with the task.
        return (BundleData, (self.prefix, self.num_shards, self.storage))

    def __enter__(self: _T) -> _T:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the data shards."""
        _OPEN.forget(self._token)

    def __del__(self) -> None:
        if hasattr(self, "_token"):  # not after an error in a constructor
            self.close()

    def shard_path(self, shard: int) -> str:
        """Return the path of a data shard."""
        return shard_path(self.prefix, shard, self.num_shards)

    def past_end(self, name: str, entry: Entry, size: int) -> EntryBoundsError:
        """Return the error of an entry that ends behind a shard of `size` bytes."""
        return EntryBoundsError(
            "entry past the end of its data shard",
            file=self.shard_path(entry.shard),
            tensor=name,
            offset=entry.offset,
            expected=f">= {entry.end} bytes in the shard",
            found=f"{size} bytes",
            remedy="the shard was cut short: restore the file or use another step",
        )

    def file(self, shard: int) -> Readable:
        """Return a data shard, open for ranged reads."""
        file = _OPEN.get((self._token, shard))
        if file is None:
            try:
                file = self.storage.open(self.shard_path(shard))
            except NotFoundError:
                raise MissingShardError(
                    "data shard missing", file=self.shard_path(shard), found="no such file"
                ) from None
            _OPEN.put((self._token, shard), file)
        return file

    def data_file(self, name: str, entry: Entry) -> Readable:
        """Return the open shard of an entry, once its bytes are known to lie inside."""
        if not entry.has_data:
            raise EntryError(
                "entry owns no bytes",
                file=f"{self.prefix}.index",
                tensor=name,
                expected="the entry of a plain tensor or of a slice",
                found="a hash table" if entry.is_hash_table else f"{len(entry.slices)} slices",
            )
        file = self.file(entry.shard)
        if file.size < entry.end:
            raise self.past_end(name, entry, file.size)
        return file

    def check_tensor(
        self, name: str, entry: Entry, report: Callable[[int], None] | None = None
    ) -> None:
        """Check the bytes of one entry against its crc32c, in pieces.

        `report` is told of the bytes as they are read.

        Raises
        ------
        TensorChecksumError, StringTensorError, EntryBoundsError, MissingShardError
        """
        if not entry.dtype.size:
            self.check_encoded(name, entry)
            if report is not None:
                report(entry.size)
            return
        file = self.data_file(name, entry)
        crc = 0
        buffer = memoryview(bytearray(min(_CHECK_BYTES, knobs.PIECE_BYTES, entry.size)))
        for at in range(entry.offset, entry.end, len(buffer) or 1):
            piece = buffer[: min(len(buffer), entry.end - at)]
            if file.readinto(at, piece) != len(piece):
                raise self.past_end(name, entry, at)
            crc = crc32c(piece, crc)
            if report is not None:
                report(len(piece))
        self.compare_crc(name, entry, crc)

    def check_encoded(self, name: str, entry: Entry) -> None:
        """Check a tensor of strings or variants; one of any other type is left alone."""
        path = self.shard_path(entry.shard)
        if entry.dtype.name == "string":
            check_strings(self.data_file(name, entry), entry, path, name)
        elif entry.dtype.name == "variant":
            check_variants(self.data_file(name, entry), entry, path, name)

    def compare_crc(self, name: str, entry: Entry, crc: int) -> None:
        """Raise `TensorChecksumError` unless `crc` is what the index says of the bytes."""
        if unmask(entry.crc) != crc:
            raise TensorChecksumError(
                "tensor does not match its checksum",
                file=self.shard_path(entry.shard),
                tensor=name,
                offset=entry.offset,
                expected=f"crc32c {unmask(entry.crc):#010x} of {entry.size} bytes",
                found=f"{crc:#010x}",
                remedy="the file was damaged after it was written: restore it or use another step",
            )

    def read_entry(self, name: str, entry: Entry) -> np.ndarray:
        """Return the whole data of one entry, checked, in its shape."""
        import numpy as np

        if entry.dtype.name == "variant":
            raise RefusedError(
                "variants are passed through, not decoded", file=f"{self.prefix}.index", tensor=name
            )
        if entry.dtype.name == "string":
            items = list(self.iter_strings(name, entry))
            array = np.empty(len(items), dtype=object)
            array[:] = items
            return self.reshape(name, entry, array)
        data = self.data_file(name, entry).pread(entry.offset, entry.size)
        if len(data) != entry.size:  # cut short since it was opened
            raise self.past_end(name, entry, entry.offset + len(data))
        self.compare_crc(name, entry, crc32c(data))
        return self.reshape(name, entry, np.frombuffer(data, entry.dtype.numpy))

    def reshape(self, name: str, entry: Entry, array: np.ndarray) -> np.ndarray:
        """Return a flat array in the shape of an entry; raise `RefusedError` if NumPy cannot."""
        try:
            return array.reshape(entry.shape)
        except ValueError as error:  # TensorFlow knows more dimensions, and empty huge ones
            raise RefusedError(
                f"NumPy has no array of this shape: {error}",
                file=f"{self.prefix}.index",
                tensor=name,
            ) from None

    def iter_strings(self, name: str, entry: Entry) -> Iterator[bytes]:
        """Return the elements of a string tensor one by one; the last step checks them."""
        path = self.shard_path(entry.shard)
        return iter_strings(self.data_file(name, entry), entry, path, name)
