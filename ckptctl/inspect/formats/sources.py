"""What is exported, piece by piece: members, filtered keys and tensors as streams of columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from ckptctl.bundle import DType, dtype_by_name
from ckptctl.inspect.parts import ColumnName
from ckptctl.inspect.small_types import integers
from ckptctl.inspect.tensors import TensorView
from ckptctl.inspect.view import MemberView, TableView
from ckptctl.inspect.walk import walk, walk_filtered

__all__ = [
    "INT64",
    "OPTIONAL",
    "Array",
    "BytesSource",
    "FilteredSource",
    "MemberSource",
    "Skipped",
    "Source",
    "StringSource",
    "TensorSource",
]

INT64 = dtype_by_name("int64")
UINT8 = dtype_by_name("uint8")
#: Columns of a member that not every table keeps.
OPTIONAL: tuple[ColumnName, ...] = ("freqs", "versions")
#: Bytes of strings that are put together.
_STRING_BYTES = 1 << 20


@dataclass(frozen=True)
class Array:
    """One array that is written.

    Attributes
    ----------
    dtype
        Type in the checkpoint.
    shape
        Of the array; the rows come first.
    kind
        NumPy's type of the bytes; of bfloat16 and smaller floats unsigned integers.
    """

    dtype: DType
    shape: tuple[int, ...]
    kind: np.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return prod(self.shape) * self.kind.itemsize


@dataclass(frozen=True)
class Skipped:
    """What a format cannot hold, and why."""

    name: str
    reason: str

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"name": self.name, "reason": self.reason}


class Source(ABC):
    """Something that is exported as a whole.

    Attributes
    ----------
    name
        Of the member, of the table whose filtered keys these are, or of the tensor.
    table, slot
        Of a member: "" for the primary's slot; None for tensors.
    arrays
        Its arrays, by the word that tells them apart ("keys", "values"; "" for a tensor's).
    """

    kind: ClassVar[str]
    name: str
    table: str | None = None
    slot: str | None = None
    arrays: dict[str, Array]

    @property
    def rows(self) -> int:
        """Rows of each array."""
        shape = next(iter(self.arrays.values())).shape
        return shape[0] if shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @abstractmethod
    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return the next rows of all arrays, again and again; the last step checks them."""

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        found: dict[str, object] = {"kind": self.kind, "name": self.name}
        if self.table is not None:
            found |= {"table": self.table, "slot": self.slot, "rows": self.rows}
        return found | {
            "bytes": self.nbytes,
            "arrays": {
                word: {"dtype": array.dtype.name, "shape": list(array.shape)}
                for word, array in self.arrays.items()
            },
        }


class MemberSource(Source):
    """The rows of a member, of all its parts; reads keys when its table was not surveyed yet."""

    kind = "member"

    def __init__(self, table: TableView, member: MemberView) -> None:
        self.name = member.name
        self.table, self.slot = table.name, member.slot
        self.member = member
        rows = member.rows
        sets = next(sets for _, slot, sets in table.shapes if slot == member.slot)
        values = sets[0].values
        keys = table.key_dtype
        self.arrays = {
            "keys": Array(keys, (rows,), keys.numpy),
            "values": Array(values.dtype, (rows, *values.shape[1:]), values.dtype.numpy),
        }
        filled = [part for part in member.parts if part.rows] or member.parts
        for name in OPTIONAL:
            if all(part.column(name) is not None for part in filled):
                self.arrays[name] = Array(INT64, (rows,), INT64.numpy)

    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return rows some buckets at a time, ascending by key in each step."""
        names: list[ColumnName] = [name for name in ("values", *OPTIONAL) if name in self.arrays]
        for rows in walk(self.member, names):
            if len(rows):
                found: dict[str, np.ndarray] = {"keys": rows.keys.astype(self.arrays["keys"].kind)}
                found.update({name: rows.columns[name] for name in names})
                found["values"] = integers(self.arrays["values"].dtype, found["values"])
                yield found


class FilteredSource(Source):
    """The keys of a table that a filter holds back; they have no values."""

    kind = "filtered"

    def __init__(self, table: TableView) -> None:
        self.name = table.name
        self.table, self.slot = table.name, ""
        self._member = member = table.primary
        self._key = table.key_dtype
        self.arrays = {"keys": Array(self._key, (member.filtered,), self._key.numpy)}
        filled = [part for part in member.parts if part.filtered]
        names: list[ColumnName] = ["freqs_filtered", "versions_filtered"]
        for name in names:
            columns = [part.column(name) for part in filled]
            # A column that is not kept is there with no rows.
            if all(
                column is not None and column.rows == part.filtered
                for column, part in zip(columns, filled, strict=True)
            ):
                word = name.removesuffix("_filtered")
                self.arrays[word] = Array(INT64, (member.filtered,), INT64.numpy)

    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return the keys as they stand."""
        for part in self._member.parts:
            if not part.filtered:
                continue
            for rows in walk_filtered(part):
                kept = [(word, each) for word, each in rows.columns.items() if word in self.arrays]
                yield {"keys": rows.keys.astype(self._key.numpy), **dict(kept)}


class TensorSource(Source):
    """A tensor of numbers."""

    kind = "tensor"

    def __init__(self, tensor: TensorView) -> None:
        self.name = tensor.name
        self._tensor = tensor
        self.arrays = {"": Array(tensor.dtype, tensor.shape, tensor.dtype.numpy)}

    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return its elements in row-major order."""
        for chunk in self._tensor.flat():
            yield {"": integers(self._tensor.dtype, chunk)}


class StringSource(Source):
    """A tensor of strings, each in the bytes of the longest."""

    kind = "tensor"

    def __init__(self, tensor: TensorView, longest: int) -> None:
        self.name = tensor.name
        self._tensor = tensor
        self.arrays = {"": Array(tensor.dtype, tensor.shape, np.dtype(f"S{max(1, longest)}"))}

    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return its elements in row-major order."""
        kind = self.arrays[""].kind
        most = max(1, _STRING_BYTES // kind.itemsize)
        batch: list[bytes] = []
        for text in self._tensor.strings():
            batch.append(text)
            if len(batch) == most:
                yield {"": np.array(batch, kind)}
                batch = []
        if batch:
            yield {"": np.array(batch, kind)}


class BytesSource(Source):
    """Bytes of ours, such as the manifest."""

    kind = "tensor"

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = data
        self.arrays = {"": Array(UINT8, (len(data),), UINT8.numpy)}

    def chunks(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Return them at once."""
        yield {"": np.frombuffer(self._data, np.uint8)}
