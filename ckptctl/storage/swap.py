"""Replacing or removing a file only if it is still the one that was read.

A rename replaces whatever lies there: between our look at a state file and the rename a
trainer may have written another, which would be lost. `renameat2(RENAME_EXCHANGE)` loses
nothing: what was displaced lies aside, and is given back unless it is what we expected.
Filesystems without it (NFS, FUSE) get a last look and a rename.

Who is killed in between leaves aside what may be the only copy of what a trainer wrote. So the
name aside says what to expect there, `<path>.ckptctl-<ours><expected>.tmp`: the checksum of what
we put in its place (of nothing, where it was to be removed), and that of what we read. By content
alone, since a copy or a backup of the directory has other inodes and times. What lies there and is
neither is somebody else's; it is the newest as long as ours is in its place.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import zlib
from contextlib import suppress

from ckptctl.errors import ChangedError

__all__ = ["give_back", "is_displaced", "remove_expected", "replace_expected"]

#: Device, inode, size and mtime (`FileInfo.identity`).
Identity = tuple[int, int, int, int]

_ASIDE = re.compile(r"(.+)\.ckptctl-([0-9a-f]{8})([0-9a-f]{8})\.tmp", re.DOTALL)
#: More than any file that is replaced so: what is larger is not read.
_MOST_BYTES = 64 << 20
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


def replace_expected(temporary: str, path: str, data: bytes, expect: Identity) -> None:
    """Rename a file that holds `data` over another if that is still the expected one.

    Raises
    ------
    ChangedError
        It is another one by now, or gone; nothing was replaced.
    """
    aside = _aside(path, data, expect)
    try:
        os.rename(temporary, aside)
        if _exchange(aside, path):
            changed = not _is_known(aside)
        elif not (changed := _identity(path) != expect):
            os.rename(aside, path)
    finally:
        _clear_away(aside)
    if changed:
        raise _changed(path)


def remove_expected(path: str, expect: Identity) -> None:
    """Remove a file if it is still the expected one.

    Raises
    ------
    ChangedError
        It is another one by now; it stays.
    """
    if not os.path.lexists(path):
        return
    aside = _aside(path, b"", expect)
    try:
        os.rename(path, aside)
        changed = not _is_known(aside)
    except FileNotFoundError:
        return
    finally:
        _clear_away(aside)
    if changed:
        raise _changed(path)


def is_displaced(aside: str) -> bool:
    """Return whether a file that a killed run left aside is what belongs in its place.

    Somebody else wrote it, and nobody has written there since. Not what is no small file.
    """
    return _checksum(aside) is not None and _is_out_of_place(aside)


def give_back(aside: str) -> bool:
    """Put what somebody else wrote back where we displaced it; return whether it was.

    It goes if they wrote there anew. What is ours, or was to go, is left where it is.
    """
    if _is_known(aside):
        return False
    path = aside[: aside.rindex(".ckptctl-")]
    ours = _file(path)
    displaced = _is_out_of_place(aside)
    if displaced:
        _put_back(aside, path, ours)
    with suppress(FileNotFoundError):
        os.unlink(aside)
    return displaced


def _clear_away(aside: str) -> None:
    give_back(aside)
    with suppress(FileNotFoundError):
        os.unlink(aside)


def _put_back(aside: str, path: str, ours: tuple[int, int] | None) -> None:
    # If it was replaced once more meanwhile, what comes back is newer, and is put there in turn.
    placed = ours
    while placed is not None:
        back = _file(aside)
        if not _exchange(aside, path):
            os.rename(aside, path)
            return
        if _file(aside) == placed:
            return
        placed = back
    try:
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:  # a newer one still
        return
    except OSError:  # no hard links here
        if not os.path.lexists(path):
            os.rename(aside, path)


def _aside(path: str, data: bytes, expect: Identity) -> str:
    read = _checksum(path)
    if _identity(path) != expect:  # behind the reading: it was this one that was read
        raise _changed(path)
    return f"{path}.ckptctl-{zlib.crc32(data):08x}{read}.tmp"


def _is_out_of_place(aside: str) -> bool:
    place = _ASIDE.fullmatch(aside)
    return place is not None and not _is_known(aside) and _checksum(place[1]) == place[2]


def _is_known(aside: str) -> bool:
    """Return whether what lies aside is ours, or what we expected, or nothing."""
    place = _ASIDE.fullmatch(aside)
    if place is None or _identity(aside) is None:
        return True
    return _checksum(aside) in (place[2], place[3])


def _checksum(path: str) -> str | None:
    """Return the checksum of a small file, or of nothing where there is none; None of others."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        with open(path, "rb") as file:
            return f"{zlib.crc32(file.read()):08x}"
    except FileNotFoundError:
        return f"{zlib.crc32(b''):08x}"


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
