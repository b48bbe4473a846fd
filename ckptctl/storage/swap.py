"""Replacing or removing a file only if it is still the one that was read.

A rename replaces whatever lies there: between our look at a state file and the rename a
trainer may have written another, which would be lost. `renameat2(RENAME_EXCHANGE)` loses
nothing: what was displaced lies under the temporary's name, and is given back unless it is
what we expected. Filesystems without it (NFS, FUSE) get a last look and a rename.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from ckptctl.errors import ChangedError

__all__ = ["remove_expected", "replace_expected"]

#: Device, inode, size and mtime (`FileInfo.identity`).
Identity = tuple[int, int, int, int]

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def replace_expected(temporary: str, path: str, expect: Identity) -> None:
    """Rename over a file if it is still the expected one.

    Raises
    ------
    ChangedError
        It is another one by now, or gone; nothing was replaced.
    """
    ours = _file(temporary)
    if not _exchange(temporary, path):
        if _identity(path) != expect:
            raise _changed(path)
        os.rename(temporary, path)
        return
    if _identity(temporary) == expect:
        os.unlink(temporary)
        return
    # Give back what was displaced; if it was replaced once more meanwhile, what comes back is
    # newer, and is put there in turn.
    placed = ours
    while True:
        back = _file(temporary)
        _exchange(temporary, path)
        if _file(temporary) == placed:
            raise _changed(path)
        placed = back


def remove_expected(path: str, aside: str, expect: Identity) -> None:
    """Remove a file if it is still the expected one; `aside` is a free name beside it.

    Raises
    ------
    ChangedError
        It is another one by now; it stays.
    """
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _identity(aside) == expect:
        os.unlink(aside)
        return
    with suppress(FileExistsError):  # a newer one still
        os.link(aside, path, follow_symlinks=False)
    os.unlink(aside)
    raise _changed(path)


def _exchange(a: str, b: str) -> bool:
    """Let two files change places; return False where the filesystem cannot."""
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:  # glibc before 2.28
        return False
    names = os.fsencode(a), os.fsencode(b)
    if call(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    if number == errno.ENOENT:
        raise _changed(b)
    raise OSError(number, os.strerror(number), b)


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _changed(path: str) -> ChangedError:
    return ChangedError("somebody else has replaced it meanwhile", file=path)
