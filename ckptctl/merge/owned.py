"""The files of a directory's checkpoints and leftovers, and all of them in one number."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ckptctl.bundle.names import INNER_MARK
from ckptctl.chain.names import in_a_temporary
from ckptctl.errors import NotFoundError, RefusedError
from ckptctl.merge.prune_plan import PruneFile

if TYPE_CHECKING:
    from ckptctl.chain import Leftover, Scan
    from ckptctl.storage import FileInfo, Storage

__all__ = ["Owned", "fingerprint", "owned"]


class Owned:
    """The files of every item, and which items are not ours to remove.

    Attributes
    ----------
    files, directories
        Path of an item to its files, in the order in which they go, and its directories.
    untouchable
        Path of an item to why not.
    """

    def __init__(self) -> None:
        self.files: dict[str, tuple[PruneFile, ...]] = {}
        self.directories: dict[str, tuple[str, ...]] = {}
        self.untouchable: dict[str, str] = {}


def owned(scan: Scan, storage: Storage) -> Owned:
    """Return the files of every checkpoint and leftover."""
    found = Owned()
    for item in (*scan.fulls, *scan.increments, *scan.others):
        files, why = item.files, None
        for path in item.side_dirs:
            why = why or _foreign_inside(path, {each for each, _ in item.side}, storage)
        _add(found, scan, item.prefix, files, item.side_dirs, why)
    for leftover in scan.leftovers:
        _add_leftover(found, scan, leftover, storage)
    return found


def _add(
    found: Owned,
    scan: Scan,
    path: str,
    files: tuple[tuple[str, FileInfo], ...],
    directories: tuple[str, ...],
    why: str | None,
) -> None:
    if scan.increment_link and path.startswith(f"{scan.increment_directory}/"):
        why = f"{scan.increment_directory} is a symbolic link: nothing is removed through one"
    for name, info in files:
        if info.is_symlink:
            why = why or f"{os.path.basename(name)} is a symbolic link"
        elif not stat.S_ISREG(info.mode):
            why = why or f"{os.path.basename(name)} is not a regular file"
    found.files[path] = tuple(PruneFile(name, info.identity) for name, info in files)
    found.directories[path] = directories
    if why is not None:
        found.untouchable[path] = why


def _add_leftover(found: Owned, scan: Scan, leftover: Leftover, storage: Storage) -> None:
    path = leftover.path
    info = storage.stat(path, follow=False)
    if info is None:
        _add(found, scan, path, (), (), "gone meanwhile")
    elif not info.is_dir:
        _add(found, scan, path, ((path, info),), (), None)
    else:
        try:
            inside = _listed(path, storage)
        except RefusedError:  # somebody else's
            _add(found, scan, path, (), (path,), "it may not be looked into")
            return
        known = {
            os.path.join(path, each.name)
            for each in inside
            if leftover.reason != "temporary" or in_a_temporary(each.name)
        }
        why = _foreign_inside(path, known, storage)
        # The mark inside says whose the rest is: it goes last.
        inside.sort(key=lambda each: (each.name.startswith(INNER_MARK), each.name))
        files = tuple((os.path.join(path, each.name), each) for each in inside)
        _add(found, scan, path, files, (path,), why)


def _foreign_inside(path: str, known: set[str], storage: Storage) -> str | None:
    """Return what speaks against removing a directory that these files lie in."""
    info = storage.stat(path, follow=False)
    if info is not None and info.is_symlink:
        return f"{os.path.basename(path)} is a symbolic link"
    try:
        inside = _listed(path, storage)
    except RefusedError:
        return f"{os.path.basename(path)} may not be looked into"
    for each in inside:
        if each.is_dir or os.path.join(path, each.name) not in known:
            return f"{os.path.basename(path)} holds {each.name}, which no save writes there"
    return None


def _listed(path: str, storage: Storage) -> list[FileInfo]:
    try:
        return storage.listdir(path)
    except NotFoundError:
        return []


def fingerprint(scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage) -> str:
    """Return what changes with every file that a prune of the directory depends on."""
    import hashlib  # with OpenSSL: a merge that removes nothing needs none of it

    digest = hashlib.sha256()
    for line in _facts(scan, files, storage):
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _facts(
    scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage
) -> Iterator[object]:
    yield scan.device, scan.inode
    for path in sorted(files):
        yield os.path.relpath(path, scan.directory), [file.identity for file in files[path]]
    for state in (scan.full_state, scan.increment_state):
        info = storage.stat(state.path)
        yield None if info is None else info.identity
