"""How a chain grew: bytes and keys of each checkpoint of a directory, table by table.

The document
------------
``directory``, ``taken``
    What was looked at, and when, in seconds since 1970.
``checkpoints``
    By step: kind (`full` or `increment`), step, name, mtime, bytes (of all its files), keys,
    and tables: name, keys, bytes (slots included).
``damaged``
    How many checkpoints were left out since their index or shards cannot be read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from ckptctl.chain import INCREMENT_DIRECTORY, Checkpoint, scan_directory
from ckptctl.errors import CkptctlError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.opening import open_bundle
from ckptctl.storage import LOCAL, Storage

__all__ = ["Growth", "grow", "growth_around"]


@dataclass
class Growth:
    """The checkpoints of a directory; see the module for the fields."""

    directory: str
    taken: float
    checkpoints: list[dict[str, Any]] = field(default_factory=list)
    damaged: int = 0

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return dict(self.__dict__)


def grow(directory: str, progress: Progress = NO_PROGRESS, storage: Storage = LOCAL) -> Growth:
    """Return what each checkpoint of a directory holds; reads indexes and offset tensors.

    Raises
    ------
    NotFoundError
        There is no such directory.
    """
    scan = scan_directory(directory, storage)
    found = Growth(directory, scan.taken_ns / 1e9)
    every = sorted((*scan.fulls, *scan.increments), key=lambda each: (each.step, each.kind))
    progress.start("reading indexes", sum(each.index.size for each in every))
    for each in every:
        try:
            found.checkpoints.append(_checkpoint(each, storage))
        except CkptctlError:
            found.damaged += 1
        progress.advance(each.index.size)
    return found


def growth_around(
    prefix: str, progress: Progress = NO_PROGRESS, storage: Storage = LOCAL
) -> Growth | None:
    """Return the growth of the chain directory a bundle lies in; None if it is in none."""
    directory = os.path.dirname(prefix) or "."
    if os.path.basename(os.path.abspath(directory)) == INCREMENT_DIRECTORY:
        directory = os.path.dirname(os.path.abspath(directory))
    scan = scan_directory(directory, storage)
    name = os.path.basename(prefix)
    if not any(each.name == name for each in (*scan.fulls, *scan.increments)):
        return None
    return grow(directory, progress, storage)


def _checkpoint(each: Checkpoint, storage: Storage) -> dict[str, Any]:
    _, catalogue = open_bundle(each.prefix, each.kind == "increment", storage)
    tables = [
        {
            "name": table.name,
            "keys": table.rows,
            "bytes": sum(
                entry.size
                for member in table.members
                for own in member.sets
                for entry in own.entries.values()
            ),
        }
        for table in catalogue.tables
    ]
    return {
        "kind": each.kind,
        "step": each.step,
        "name": each.name,
        "mtime": each.mtime_ns / 1e9,
        "bytes": each.bytes,
        "keys": catalogue.keys,
        "tables": tables,
    }
