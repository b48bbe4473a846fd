"""Files of arrays at places that are known before the first byte is written.

What is in `.npy`, `.npz` and safetensors files follows from shapes and types alone, so one
pass over a source fills all its arrays, several sources at a time.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ckptctl.errors import TableError
from ckptctl.inspect.formats.sources import Source
from ckptctl.restore.column import view_bytes
from ckptctl.running import Report, ignore
from ckptctl.storage import Storage, Writable

__all__ = ["FillTask", "Layout", "write_flat"]


class Layout(ABC):
    """Where each array of a file lies.

    Attributes
    ----------
    size
        Bytes of the file.
    places
        Of each source: where each of its arrays begins.
    seeds
        Of each source: where the CRC-32 of each of its arrays begins; None: none is needed.
    """

    size: int
    places: Sequence[Mapping[str, int]]
    seeds: Sequence[Mapping[str, int]] | None = None

    @abstractmethod
    def frame(self, crcs: Sequence[Mapping[str, int]]) -> Iterable[tuple[int, bytes]]:
        """Return what lies around the arrays, and where.

        Parameters
        ----------
        crcs
            CRC-32 of each array of each source; of no meaning without `seeds`.
        """


@dataclass(frozen=True)
class FillTask:
    """Writes the arrays of one source to their places."""

    file: Writable
    source: Source
    places: Mapping[str, int]
    seeds: Mapping[str, int] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.source.nbytes

    def run(self, report: Report = ignore) -> dict[str, int]:
        """Return the CRC-32 of each array."""
        at = dict(self.places)
        crcs = dict(self.seeds or {})
        for chunk in self.source.chunks():
            moved = 0
            for word, array in chunk.items():
                data = view_bytes(np.ascontiguousarray(array))
                if at[word] + len(data) > self._end(word):
                    raise self._other(word, at[word] + len(data))
                self.file.pwrite(at[word], data)
                if word in crcs:
                    crcs[word] = zlib.crc32(data, crcs[word])
                at[word] += len(data)
                moved += len(data)
            report(moved)
        for word, end in at.items():
            if end != self._end(word):
                raise self._other(word, end)
        return crcs

    def _end(self, word: str) -> int:
        return self.places[word] + self.source.arrays[word].nbytes

    def _other(self, word: str, end: int) -> TableError:
        return TableError(
            "its bytes are not those that its shape promises",
            tensor=self.source.name,
            expected=self.source.arrays[word].nbytes,
            found=end - self.places[word],
        )


def write_flat(
    path: str,
    layout: Layout,
    sources: Sequence[Source],
    storage: Storage,
    run: Callable[[Iterable[tuple[int, FillTask]]], Iterable[tuple[int, dict[str, int]]]],
) -> int:
    """Write a file that must not exist, and fsync it; return its bytes.

    Parameters
    ----------
    run
        Runs the tasks, in any order; see `Runner.map`.
    """
    storage.create(path, layout.size)
    file = storage.open_write(path)
    try:
        seeds = layout.seeds or [{}] * len(sources)
        tasks = (
            (number, FillTask(file, source, layout.places[number], seeds[number]))
            for number, source in enumerate(sources)
        )
        crcs = dict(run(tasks))
        for at, data in layout.frame([crcs[number] for number in range(len(sources))]):
            file.pwrite(at, data)
        file.fsync()
    finally:
        file.close()
    return layout.size
