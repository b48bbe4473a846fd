"""Rows at known places, read together; which tensors they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ckptctl import knobs
from ckptctl.bundle import BundleData, Entry
from ckptctl.inspect.stats import decode
from ckptctl.restore.column import row_bytes
from ckptctl.running import Runner

__all__ = ["Cells", "Numbers", "Reading", "in_words"]

#: Bytes between two rows that are read rather than left out.
_GAP = 8192


def in_words(values: np.ndarray) -> list[str]:
    """Return each number as the shortest word that gives it back in its own type.

    A Python float has the digits of a double: 0.42155465483665466 for the float32 0.42155465.
    """
    flat = values.reshape(-1)
    return [str(x) for x in (flat if values.dtype.kind in "fc" else flat.tolist())]


class Numbers(NamedTuple):
    """A number of each key; `there` says which keys have one."""

    values: np.ndarray
    there: np.ndarray

    @classmethod
    def none(cls, keys: int) -> Numbers:
        """Return no number for any key."""
        return cls(np.zeros(keys, np.int64), np.zeros(keys, bool))

    def put(self, at: np.ndarray, values: np.ndarray | int) -> None:
        """Set the numbers of keys."""
        self.values[at], self.there[at] = values, True

    def take(self, at: np.ndarray) -> Numbers:
        """Return the numbers of chosen keys, in their order."""
        return Numbers(self.values[at], self.there[at])

    def list(self) -> list[int | None]:
        """Return them with None where there is none."""
        pairs = zip(self.values.tolist(), self.there.tolist(), strict=True)
        return [value if there else None for value, there in pairs]


@dataclass
class Cells:
    """The rows of one member.

    Attributes
    ----------
    values
        [keys, elements of a row]; zeros where there is no row.
    there
        bool[keys]: keys with a row.
    place, offset
        Index into `Lookup.places`, and first byte there, of each row.
    """

    values: np.ndarray
    there: np.ndarray
    place: np.ndarray
    offset: np.ndarray

    @classmethod
    def none(cls, keys: int) -> Cells:
        """Return no row for any key; the first rows that are put tell their type."""
        zeros = np.zeros(keys, np.int64)
        return cls(np.zeros((keys, 0), np.float32), np.zeros(keys, bool), zeros, zeros.copy())

    def put(self, at: np.ndarray, values: np.ndarray, place: int, offset: np.ndarray) -> None:
        """Set the rows of keys."""
        if not self.there.any():
            self.values = np.zeros((len(self.there), values.shape[1]), values.dtype)
        self.values[at], self.there[at] = values, True
        self.place[at], self.offset[at] = place, offset

    def take(self, at: np.ndarray) -> Cells:
        """Return the rows of chosen keys, in their order."""
        return Cells(self.values[at], self.there[at], self.place[at], self.offset[at])


class Reading:
    """Reads rows, and remembers from which tensors.

    Attributes
    ----------
    places
        (data shard, prefix of its bundle) of all rows.
    """

    def __init__(self) -> None:
        self.places: list[tuple[str, str]] = []
        self._numbers: dict[tuple[str, str], int] = {}
        self._used: dict[tuple[str, str, int], tuple[BundleData, str, Entry]] = {}

    def use(self, data: BundleData, name: str, entry: Entry) -> None:
        """Remember a tensor that the answer rests on."""
        self._used.setdefault((data.prefix, name, entry.offset), (data, name, entry))

    def place(self, data: BundleData, entry: Entry) -> int:
        """Return the number of a data shard."""
        key = (data.shard_path(entry.shard), data.prefix)
        if key not in self._numbers:
            self._numbers[key] = len(self.places)
            self.places.append(key)
        return self._numbers[key]

    def rows(self, data: BundleData, name: str, entry: Entry, rows: np.ndarray) -> np.ndarray:
        """Return rows of a tensor as [rows, elements], decoded, unchecked."""
        self.use(data, name, entry)
        width = row_bytes(entry)
        if not width:
            return np.empty((len(rows), 0), np.float32)
        out = np.empty((len(rows), width), np.uint8)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        file = data.data_file(name, entry)
        begin = 0
        gaps = np.flatnonzero(np.diff(ordered) * width > _GAP) + 1
        ends = iter([*gaps.tolist(), len(ordered)])
        window = max(1, knobs.PIECE_BYTES // width)
        for group in ends:
            while begin < group:
                first = int(ordered[begin])
                end = min(group, int(np.searchsorted(ordered, first + window)))
                span = (int(ordered[end - 1]) + 1 - first) * width
                raw = file.pread(entry.offset + first * width, span)
                if len(raw) != span:
                    raise data.past_end(name, entry, file.size)
                piece = np.frombuffer(raw, np.uint8).reshape(-1, width)
                out[order[begin:end]] = piece[ordered[begin:end] - first]
                begin = end
        value = out.view(entry.dtype.numpy)
        return decode(entry.dtype, value)

    def check(self, runner: Runner) -> None:
        """Compare the checksum of each tensor that was used.

        Raises
        ------
        TensorChecksumError
        """
        used = self._used.values()
        runner.progress.start("checking", sum(entry.size for _, _, entry in used))
        for data, name, entry in used:
            data.check_tensor(name, entry, runner.progress.advance)
