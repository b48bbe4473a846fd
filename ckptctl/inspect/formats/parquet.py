"""Parquet: one file a member, one row group a range of buckets.

Columns: `key`, `value` (a list of fixed size, in the type of the tensor), `freq` and `version`
where the table keeps them. The schema's metadata says what it is (`ckptctl.table` and so on).
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ckptctl.errors import DependencyError
from ckptctl.inspect.formats.sources import Array, Source
from ckptctl.running import Report, ignore
from ckptctl.storage import Storage, Writable

__all__ = ["COLUMNS", "ParquetTask", "need_pyarrow"]

#: Word of an array -> name of the column.
COLUMNS = {"keys": "key", "values": "value", "freqs": "freq", "versions": "version"}


def need_pyarrow() -> None:
    """Raise `DependencyError` without pyarrow."""
    if importlib.util.find_spec("pyarrow") is None:
        raise DependencyError(
            "Parquet needs the package pyarrow", remedy="pip install 'ckptctl[parquet]'"
        )


class _Sink(io.RawIOBase):
    """A file of a storage as pyarrow wants it, written front to back."""

    def __init__(self, file: Writable) -> None:
        self._file = file
        self._at = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._file.pwrite(self._at, view)
        self._at += len(view)
        return len(view)

    def tell(self) -> int:
        return self._at


@dataclass(frozen=True)
class ParquetTask:
    """Writes a source to a file that must not exist, and fsyncs it."""

    path: str
    source: Source
    metadata: Mapping[str, str]
    storage: Storage

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.source.nbytes

    def run(self, report: Report = ignore) -> int:
        """Return the bytes of the file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        arrays = {word: each for word, each in self.source.arrays.items() if _width(each)}
        schema = pa.schema(
            [pa.field(COLUMNS[word], _type(each), nullable=False) for word, each in arrays.items()],
            {f"ckptctl.{key}": text for key, text in self.metadata.items()},
        )
        self.storage.create(self.path, 0)
        file = self.storage.open_write(self.path)
        try:
            sink = _Sink(file)
            # Keys and weights hardly repeat; numbers of steps and of sightings do.
            repeated = [COLUMNS[word] for word in ("freqs", "versions") if word in arrays]
            with pq.ParquetWriter(sink, schema, use_dictionary=repeated) as writer:
                for chunk in self.source.chunks():
                    columns = [_column(each, chunk[word]) for word, each in arrays.items()]
                    table = pa.Table.from_arrays(columns, schema=schema)
                    writer.write_table(table, row_group_size=max(1, len(table)))
                    report(sum(array.nbytes for array in chunk.values()))
            file.fsync()
            return sink.tell()
        finally:
            file.close()


def _width(array: Array) -> int:
    return prod(array.shape[1:])


def _type(array: Array) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(array.kind)
    if len(array.shape) == 1:
        return kind
    return pa.list_(pa.field("element", kind, nullable=False), _width(array))


def _column(array: Array, chunk: np.ndarray) -> Any:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(chunk).reshape(-1))
    if len(array.shape) == 1:
        return flat
    return pa.FixedSizeListArray.from_arrays(flat, type=_type(array))
