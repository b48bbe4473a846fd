"""NumPy's `.npy` and `.npz`: a header and bytes; and an uncompressed ZIP64 of such files.

::

    .npz   local header, name, sizes (ZIP64 extra), .npy header, elements    for each array
           central directory
           ZIP64 end record, its locator, end record

`numpy.load` needs no pickle for them.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ckptctl.inspect.formats.flat import Layout
from ckptctl.inspect.formats.names import check_distinct
from ckptctl.inspect.formats.sources import Array, Source

__all__ = ["LONGEST_NAME", "NpyLayout", "NpzLayout", "npy_header"]

#: Bytes of a name that a ZIP has room for, `.npy` left out.
LONGEST_NAME = 0xFFFF - len(".npy")
_FLAGS = 1 << 11  # names are UTF-8
_VERSION = 45  # of ZIP, the first with ZIP64
_DATE = (1 << 5) | 1  # 1980-01-01: the same state gives the same bytes
_NONE = 0xFFFFFFFF
_LOCAL = struct.Struct("<4s5H3I2H")
_LOCAL_SIZES = struct.Struct("<2H2Q")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_CENTRAL_SIZES = struct.Struct("<2H3Q")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")


def npy_header(array: Array) -> bytes:
    """Return what stands ahead of the elements in a `.npy` file."""
    stream = io.BytesIO()
    facts = {
        "shape": array.shape,
        "fortran_order": False,
        "descr": np.lib.format.dtype_to_descr(array.kind),
    }
    np.lib.format.write_array_header_1_0(stream, facts)
    return stream.getvalue()


class NpyLayout(Layout):
    """A `.npy` file of the only array of a source."""

    def __init__(self, source: Source) -> None:
        ((word, array),) = source.arrays.items()
        self._header = npy_header(array)
        self.places = [{word: len(self._header)}]
        self.size = len(self._header) + array.nbytes

    def frame(self, crcs: Sequence[Mapping[str, int]]) -> Iterator[tuple[int, bytes]]:
        """Return the header."""
        yield 0, self._header


class _File:
    """One array in the archive."""

    def __init__(self, name: str, array: Array, at: int) -> None:
        self.name = f"{name}.npy".encode()
        self.at = at
        self.header = npy_header(array)
        self.size = len(self.header) + array.nbytes
        ahead = _LOCAL.size + len(self.name) + _LOCAL_SIZES.size + len(self.header)
        self.place = at + ahead
        self.end = self.place + array.nbytes
        self.crc = 0

    def local(self) -> bytes:
        """Return what stands ahead of the elements."""
        sizes = _LOCAL_SIZES.pack(1, 16, self.size, self.size)
        fixed = (b"PK\3\4", _VERSION, _FLAGS, 0, 0, _DATE, self.crc, _NONE, _NONE)
        return _LOCAL.pack(*fixed, len(self.name), len(sizes)) + self.name + sizes + self.header

    def central(self) -> bytes:
        """Return its entry in the directory."""
        sizes = _CENTRAL_SIZES.pack(1, 24, self.size, self.size, self.at)
        made = (3 << 8) | _VERSION  # on Unix, where the mode below means something
        fixed = (b"PK\1\2", made, _VERSION, _FLAGS, 0, 0, _DATE, self.crc, _NONE, _NONE)
        rest = (len(self.name), len(sizes), 0, 0, 0, 0o100644 << 16, _NONE)
        return _CENTRAL.pack(*fixed, *rest) + self.name + sizes


class NpzLayout(Layout):
    """A `.npz` file of all arrays of some sources.

    Parameters
    ----------
    sources
        What is written.
    names
        Of each source: the name of each array (`archive_name`).

    Raises
    ------
    AmbiguousError
        Two arrays would have one name.
    """

    def __init__(self, sources: Sequence[Source], names: Sequence[Mapping[str, str]]) -> None:
        # NumPy answers to a name with and without `.npy`.
        check_distinct((name for own in names for name in own.values()), also=".npy")
        self._files: list[dict[str, _File]] = []
        at = 0
        for source, own in zip(sources, names, strict=True):
            files = {}
            for word, array in source.arrays.items():
                files[word] = _File(own[word], array, at)
                at = files[word].end
            self._files.append(files)
        self._directory = at
        self.places = [{word: file.place for word, file in own.items()} for own in self._files]
        # The checksum of a file in the archive begins with its header.
        self.seeds = [
            {word: zlib.crc32(file.header) for word, file in own.items()} for own in self._files
        ]
        self.size = at + len(self._tail())

    def frame(self, crcs: Sequence[Mapping[str, int]]) -> Iterator[tuple[int, bytes]]:
        """Return the headers and the directory."""
        for own, found in zip(self._files, crcs, strict=True):
            for word, file in own.items():
                file.crc = found[word]
                yield file.at, file.local()
        yield self._directory, self._tail()

    def _tail(self) -> bytes:
        entries = [file.central() for own in self._files for file in own.values()]
        directory = b"".join(entries)
        end = self._directory + len(directory)
        count = len(entries)
        facts = (b"PK\6\6", 44, (3 << 8) | _VERSION, _VERSION, 0, 0, count, count)
        return (
            directory
            + _END64.pack(*facts, len(directory), self._directory)
            + _LOCATOR.pack(b"PK\6\7", 0, end, 1)
            + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, _NONE, _NONE, 0)
        )
