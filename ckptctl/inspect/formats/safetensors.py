"""safetensors: the length of a header (8 bytes, little-endian), the header as JSON, the data.

The largest elements come first and the header is padded to 8 bytes, so that every array is
aligned for its type.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from ckptctl.inspect.formats.flat import Layout
from ckptctl.inspect.formats.names import check_distinct
from ckptctl.inspect.formats.sources import Source

__all__ = ["SAFETENSORS_DTYPES", "SafetensorsLayout"]

#: TensorFlow's type -> that of safetensors; quantised ones as the integers that they are.
SAFETENSORS_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "qint8": "I8",
    "quint8": "U8",
    "qint16": "I16",
    "quint16": "U16",
    "qint32": "I32",
    "int4": "I8",
    "uint4": "U8",
    "int2": "I8",
    "uint2": "U8",
}


class SafetensorsLayout(Layout):
    """A safetensors file of all arrays of some sources.

    Parameters
    ----------
    sources
        What is written; their types are in `SAFETENSORS_DTYPES`.
    names
        Of each source: the name of each array (`archive_name`).
    metadata
        What the header says beside it.

    Raises
    ------
    AmbiguousError
        Two arrays would have one name.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        names: Sequence[Mapping[str, str]],
        metadata: Mapping[str, str],
    ) -> None:
        arrays = [
            (own[word], number, word, array)
            for number, (source, own) in enumerate(zip(sources, names, strict=True))
            for word, array in source.arrays.items()
        ]
        check_distinct(["__metadata__", *(name for name, *_ in arrays)])
        arrays.sort(key=lambda each: -each[3].kind.itemsize)
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        at = 0
        relative: list[tuple[int, str, int]] = []
        for name, number, word, array in arrays:
            relative.append((number, word, at))
            header[name] = {
                "dtype": SAFETENSORS_DTYPES[array.dtype.name],
                "shape": list(array.shape),
                "data_offsets": [at, at + array.nbytes],
            }
            at += array.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        places: list[dict[str, int]] = [{} for _ in sources]
        for number, word, offset in relative:
            places[number][word] = len(self._header) + offset
        self.places = places
        self.size = len(self._header) + at

    def frame(self, crcs: Sequence[Mapping[str, int]]) -> Iterator[tuple[int, bytes]]:
        """Return the header."""
        yield 0, self._header
