"""Reading a bundle: the index at once, tensors by byte range."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from functools import cached_property
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from ckptctl.bundle.data import BundleData
from ckptctl.bundle.entry import BundleHeader, Entry
from ckptctl.bundle.names import index_path, key_of
from ckptctl.bundle.slices import TensorSlice, decode_slice_key, encode_slice_key
from ckptctl.bundle.table import IndexTable
from ckptctl.errors import (
    EntryBoundsError,
    EntryError,
    HeaderError,
    MissingShardError,
    NotFoundError,
    RefusedError,
)
from ckptctl.storage import LOCAL, Storage

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BundleReader", "LostShard"]

#: Entries by tensor name, and by key those of the data of slices; all readers of an index have
#: the same, so nobody may change them.
_Parsed = tuple[Mapping[str, Entry], Mapping[bytes, Entry]]

#: What the indexes said that were parsed last, with their bytes: a merge opens the same ones
#: again and again, to scan, to prove, to plan, to write, and to look whether they have changed.
_recent: dict[str, tuple[bytes, _Parsed]] = {}
_lock = Lock()
#: Of so many indexes, and of so many bytes of them: an entry takes ten times what it has there.
_MOST_RECENT, _MOST_BYTES = 256, 8 << 20


def _remember(path: str, whole: bytes, found: _Parsed) -> None:
    with _lock:
        _recent.pop(path, None)
        _recent[path] = whole, found
        total = sum(len(raw) for raw, _ in _recent.values())
        while len(_recent) > _MOST_RECENT or total > _MOST_BYTES:
            total -= len(_recent.pop(next(iter(_recent)))[0])


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


class LostShard(NamedTuple):
    """A data shard that is missing or cut short.

    Attributes
    ----------
    shard
        Its number.
    size
        Bytes that are there.
    error
        What is wrong.
    """

    shard: int
    size: int
    error: MissingShardError | EntryBoundsError

    def had(self, entry: Entry) -> bool:
        """Return whether bytes of an entry went with it."""
        return entry.shard == self.shard and entry.has_data and entry.end > self.size


class BundleReader(BundleData):
    """A TF V2 bundle, open for reading.

    Opening reads the index and no data; `get` parses only the block that it needs. Data
    shards are opened when first read and closed by `close` or with the reader.

    Parameters
    ----------
    prefix
        Path without `.index`.
    storage
        Where the files lie.

    Raises
    ------
    NotFoundError
        No such index.
    DamageError
        The index contradicts itself; each kind of damage has a class of its own.
    """

    def __init__(self, prefix: str, storage: Storage = LOCAL) -> None:
        self.index_path = index_path(prefix)
        self._table = IndexTable(self.index_path, storage)
        raw = self._table.get(b"")
        if raw is None:
            raise HeaderError("bundle without its header", file=self.index_path)
        self.header = BundleHeader.decode(raw, self.index_path)
        super().__init__(prefix, self.header.num_shards, storage)

    def _decode(self, raw: bytes, name: str) -> Entry:
        return Entry.decode(raw, self.index_path, name, self.header.num_shards)

    @cached_property
    def _parsed(self) -> _Parsed:
        whole = self._table.whole
        known = _recent.get(self.index_path)
        if known is not None and known[0] == whole:  # byte for byte
            return known[1]
        found = self._parse()
        if whole is not None:
            _remember(self.index_path, whole, found)
        return found

    def _parse(self) -> _Parsed:
        keys, raws = self._table.pairs()
        first = bisect_left(keys, b"\x00")  # behind the header's key, the empty one
        behind = bisect_left(keys, b"\x01")  # the keys of slices come before all names
        names = [key.decode("utf-8", "surrogateescape") for key in keys[behind:]]
        path, shards = self.index_path, self.header.num_shards
        slices = Entry.decode_all(
            raws[first:behind], path, [*map(repr, keys[first:behind])], shards
        )
        entries = Entry.decode_all(raws[behind:], path, names, shards)
        tensors = dict(zip(names, entries, strict=True))
        of_slices = dict(zip(keys[first:behind], slices, strict=True))
        self._check_slices(tensors, of_slices)
        return MappingProxyType(tensors), MappingProxyType(of_slices)

    def _check_slices(self, tensors: Mapping[str, Entry], of_slices: Mapping[bytes, Entry]) -> None:
        """Raise `EntryError` for a slice that a tensor lists and that has no data."""
        sliced = [item for item in tensors.items() if item[1].slices and not item[1].is_hash_table]
        # What has data and is listed nowhere is told by `slice_keys`.
        if sum(len(entry.slices) for _, entry in sliced) == len(of_slices):
            return
        for name, entry in sliced:
            for slice_ in entry.slices:
                if encode_slice_key(key_of(name), slice_) not in of_slices:
                    raise self._without_data(name, slice_)

    def _without_data(self, name: str, slice_: TensorSlice) -> EntryError:
        return EntryError(
            "slice listed, its data not in the index",
            file=self.index_path,
            tensor=name,
            expected=f"an entry for slice {slice_}",
            found="none",
        )

    @cached_property
    def tensors(self) -> Mapping[str, Entry]:
        """Tensor name to entry, in key order, the data of slices left out; read only."""
        return self._parsed[0]

    def get(self, name: str) -> Entry | None:
        """Return the entry of a tensor, or None; does not parse the whole index."""
        if "_parsed" in self.__dict__:
            return self.tensors.get(name)
        # The empty name is the header's, and a leading zero byte that of slices' data.
        if not name or name[0] == "\0":
            return None
        try:
            raw = self._table.get(key_of(name))
        except UnicodeEncodeError:  # a lone surrogate that stands for no byte
            return None
        return None if raw is None else self._decode(raw, name)

    def entry(self, name: str) -> Entry:
        """Return the entry of a tensor; raise `NotFoundError` without one."""
        entry = self.get(name)
        if entry is None:
            raise NotFoundError(
                "no such tensor",
                file=self.index_path,
                tensor=name,
                remedy="ckptctl show --tensors lists what is there",
            )
        return entry

    def slice_entry(self, name: str, slice_: TensorSlice) -> Entry:
        """Return the entry of a slice's data; raise `EntryError` without one."""
        return self._slice_entry(name, slice_, self.entry(name))

    def _slice_entry(self, name: str, slice_: TensorSlice, full: Entry) -> Entry:
        raw = self._table.get(encode_slice_key(key_of(name), slice_))
        if raw is None:
            raise self._without_data(name, slice_)
        entry = self._decode(raw, name)
        if full.is_hash_table:  # of changing length: nothing that its shape could say
            return entry
        if entry.shape != slice_.shape(full.shape) or entry.dtype != full.dtype:
            raise EntryError(
                "data of a slice does not fit its tensor",
                file=self.index_path,
                tensor=name,
                expected=f"{full.dtype.name} {list(slice_.shape(full.shape))}",
                found=f"{entry.dtype.name} {list(entry.shape)}",
            )
        return entry

    def slice_keys(self) -> Iterator[tuple[bytes, str, TensorSlice, Entry]]:
        """Return (key, tensor name, slice, entry) of the data of all slices, in key order.

        Raises
        ------
        EntryError
            A key does not parse, or no tensor lists the slice.
        """
        listed: dict[str, frozenset[tuple[tuple[int, int], ...]]] = {}
        for key, entry in self._parsed[1].items():
            try:
                raw, slice_ = decode_slice_key(key)
            except ValueError as error:
                raise EntryError(
                    f"key of a slice: {error}", file=self.index_path, found=repr(key)[:200]
                ) from None
            name = _text(raw)
            full = self.tensors.get(name)
            if name not in listed:
                listed[name] = frozenset(s.extents for s in full.slices) if full else frozenset()
            if not (full and full.is_hash_table) and slice_.extents not in listed[name]:
                raise EntryError(
                    "data of a slice that no tensor lists",
                    file=self.index_path,
                    tensor=name,
                    expected="an entry that lists it",
                    found=f"slice {slice_}",
                )
            yield key, name, slice_, entry

    def data_entries(self) -> Iterator[tuple[bytes, str, Entry]]:
        """Return (key, tensor name, entry) of everything that owns bytes, in key order."""
        for key, name, _, entry in self.slice_keys():
            yield key, name, entry
        for name, entry in self.tensors.items():
            if entry.has_data:
                yield key_of(name), name, entry

    def shard_needs(self) -> list[int]:
        """Return the bytes that the entries need of each data shard."""
        tensors, slices = self._parsed
        needs = [0] * self.header.num_shards
        for entries in (tensors, slices):
            for entry in entries.values():
                if not entry.slices and entry.end > needs[entry.shard] and entry.has_data:
                    needs[entry.shard] = entry.end
        return needs

    def check_shards(self) -> None:
        """Check that every data shard is there, with the bytes that its entries need.

        Raises
        ------
        MissingShardError, EntryBoundsError
        """
        for lost in self.lost_shards():
            raise lost.error

    def lost_shards(self) -> Iterator[LostShard]:
        """Return the data shards that are missing or cut short."""
        for shard, need in enumerate(self.shard_needs()):
            path = self.shard_path(shard)
            info = self.storage.stat(path)
            if info is None or not stat.S_ISREG(info.mode):
                error = MissingShardError(
                    "data shard missing",
                    file=path,
                    expected=f"{self.header.num_shards} shards, this one of >= {need} bytes",
                    found="no such file" if info is None else "not a regular file",
                    remedy="restore the file or use another step",
                )
                yield LostShard(shard, 0, error)
            elif info.size < need:
                _, name, entry = max(
                    (item for item in self.data_entries() if item[2].shard == shard),
                    key=lambda item: item[2].end,
                )
                yield LostShard(shard, info.size, self.past_end(name, entry, info.size))

    def read(self, name: str) -> np.ndarray:
        """Return a whole tensor, checked, its slices put together.

        For tensors that fit in memory. bfloat16 and 8-bit floats come as unsigned integers
        of their width, strings as an object array of bytes.
        """
        import numpy as np

        entry = self.entry(name)
        if entry.has_data:
            return self.read_entry(name, entry)
        if entry.is_hash_table:
            raise RefusedError("a DeepRec hash table has no plain value", tensor=name)
        kind = object if entry.dtype.size == 0 else entry.dtype.numpy
        data = [(s, self._slice_entry(name, s, entry)) for s in entry.slices]
        if sum(part.elements for _, part in data) != entry.elements:
            raise EntryError(
                "slices do not cover their tensor",
                file=self.index_path,
                tensor=name,
                expected=f"{entry.elements} elements",
                found=f"{sum(part.elements for _, part in data)}",
            )
        for _, part in data:
            self.data_file(name, part)  # before memory is taken for what may not be there
        array = self.reshape(name, entry, np.empty(entry.elements, dtype=kind))
        for slice_, part in data:
            box = tuple(slice(st, st + ln) for st, ln in slice_.resolve(entry.shape))
            array[box] = self.read_entry(name, part)
        return array

    def read_scalar_string(self, name: str, limit: int = 1 << 20) -> bytes:
        """Return a scalar string tensor of at most `limit` bytes, checked."""
        entry = self.entry(name)
        if entry.dtype.name != "string" or entry.shape or entry.size > limit:
            raise EntryError(
                "not a short scalar string",
                file=self.index_path,
                tensor=name,
                expected=f"string [] of <= {limit} bytes",
                found=f"{entry.dtype.name} {list(entry.shape)} of {entry.size} bytes",
            )
        items = list(self.iter_strings(name, entry))
        return items[0] if items else b""

    def __repr__(self) -> str:
        return f"BundleReader({os.fspath(self.prefix)!r})"
