"""Small files that a killed run of ours was about to rename into place, removed.

But for a state file that a trainer wrote in the instant in which we replaced it: that is put back.

Marks, state files and the log of removals are replaced under the directory's lock only: whoever
holds it knows that a temporary of theirs has no writer any more, however young it is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import Scan
from ckptctl.chain.names import group_files
from ckptctl.chain.scan import INCREMENT_DIRECTORY, REMOVED_LOG, belongs_in_place
from ckptctl.errors import NotFoundError
from ckptctl.storage import Storage

__all__ = ["give_back_states", "sweep_temporaries", "to_sweep"]

_OWN, _LOG = os.path.split(REMOVED_LOG)
_PUT_BACK = "is that of the trainer again: a run of ckptctl was killed while it replaced it"


def give_back_states(directory: str, storage: Storage) -> list[str]:
    """Put back the state files that a killed run displaced; return what to tell.

    Under the directory's lock, and before anything is judged or rewritten.
    """
    told = []
    for stem, path in _temporaries(directory, storage):
        if stem == "checkpoint" and belongs_in_place(path, storage) and storage.give_back(path):
            home = os.path.dirname(path)
            storage.fsync_dir(home)
            told.append(f"{os.path.join(home, stem)} {_PUT_BACK}")
    return told


def sweep_temporaries(directory: str, storage: Storage) -> list[str]:
    """Remove the temporaries of our own small files, under the directory's lock.

    State files are given back before; what is to be told of them is returned. Others of that
    form (an HTML page that `show` writes there) are made without the lock and stay. `prune`
    names all of them, like everything that it removes, and heeds `--min-age`.
    """
    told = give_back_states(directory, storage)
    for stem, path in _temporaries(directory, storage):
        if _under_the_lock(stem):
            storage.remove(path)
    return told


def _temporaries(directory: str, storage: Storage) -> Iterator[tuple[str, str]]:
    """Return what our temporaries would have become, and their paths."""
    for name in ("", INCREMENT_DIRECTORY, _OWN):
        home = os.path.join(directory, name) if name else directory
        info = storage.stat(home, follow=not name)
        if info is None or not info.is_dir:  # nothing is removed through a symlink
            continue
        try:
            entries = storage.listdir(home or ".")
        except NotFoundError:
            continue
        for stem, entry, ours in group_files(entries).temporaries:
            if ours and not entry.is_symlink:
                yield stem, os.path.join(home, entry.name)


def to_sweep(scan: Scan) -> dict[str, str]:
    """Return the names of what `sweep_temporaries` would see to, and what becomes of each."""
    return {
        os.path.relpath(item.path, scan.directory): "put back" if item.displaced else "removed"
        for item in scan.leftovers
        if item.reason == "atomic" and _under_the_lock(item.name)
    }


def _under_the_lock(stem: str) -> bool:
    return stem in ("checkpoint", _LOG) or stem.endswith(MARK_SUFFIX)
