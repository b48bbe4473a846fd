"""Small files that a killed run of ours was about to rename into place, removed.

Marks, state files and the log of removals are replaced under the directory's lock only: whoever
holds it knows that a temporary of theirs has no writer any more, however young it is.
"""

from __future__ import annotations

import os

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import Scan
from ckptctl.chain.names import group_files
from ckptctl.chain.scan import INCREMENT_DIRECTORY, REMOVED_LOG
from ckptctl.errors import NotFoundError
from ckptctl.storage import Storage

__all__ = ["sweep_temporaries", "to_sweep"]

_OWN, _LOG = os.path.split(REMOVED_LOG)


def sweep_temporaries(directory: str, storage: Storage) -> None:
    """Remove the temporaries of our own small files, under the directory's lock.

    Others of that form (an HTML page that `show` writes there) are made without the lock and
    stay. `prune` names all of them, like everything that it removes, and heeds `--min-age`.
    """
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
            if ours and not entry.is_symlink and _under_the_lock(stem):
                storage.remove(os.path.join(home, entry.name))


def to_sweep(scan: Scan) -> tuple[str, ...]:
    """Return the names of what `sweep_temporaries` would remove."""
    return tuple(
        os.path.relpath(item.path, scan.directory)
        for item in scan.leftovers
        if item.reason == "atomic" and _under_the_lock(item.name)
    )


def _under_the_lock(stem: str) -> bool:
    return stem in ("checkpoint", _LOG) or stem.endswith(MARK_SUFFIX)
