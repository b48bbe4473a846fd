"""One advisory lock a directory, held by the kernel."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone

from ckptctl.errors import LockedError, RefusedError
from ckptctl.storage.local import LOCAL
from ckptctl.storage.own import OWN_DIRECTORY, check_no_link
from ckptctl.storage.space import is_no_room

__all__ = ["OWN_DIRECTORY", "DirectoryLock", "directory_lock", "lock_directories"]


@dataclass(frozen=True)
class DirectoryLock:
    """A lock that is held; what works under it is handed this, and takes none of its own.

    `directory` is the real path of the directory that it is of.
    """

    directory: str


@contextmanager
def lock_directories(
    directories: Iterable[str], wait_s: float = 0.0, held: DirectoryLock | None = None
) -> Iterator[None]:
    """Hold the locks of several directories, but for the one that the caller holds.

    Parameters and errors are those of `directory_lock`.
    """
    places = {os.path.realpath(directory) for directory in directories}
    if held is not None:
        places.discard(held.directory)
    with ExitStack() as stack:
        for place in sorted(places):  # in one order, so that two runs never cross
            stack.enter_context(directory_lock(place, wait_s))
        yield


@contextmanager
def directory_lock(directory: str, wait_s: float = 0.0) -> Iterator[DirectoryLock]:
    """Hold the lock of a checkpoint directory.

    The kernel's lock decides and goes with the process; host, PID and start time inside
    the file are for people. The file is never unlinked: that would let two runs hold two
    locks of one name. On a disk that is full, where the file cannot be made, the directory
    itself is locked: that is when people prune.

    Parameters
    ----------
    directory
        The checkpoint directory.
    wait_s
        Seconds to wait for another ckptctl; 0 raises at once.

    Raises
    ------
    LockedError
        Another ckptctl holds it.
    """
    path = os.path.join(directory, OWN_DIRECTORY, "lock")
    fd, made = _open(directory, path)
    try:
        _acquire(fd, path, wait_s)
        room = _share(directory, path, wait_s) if made else -1
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }
        with suppress(OSError):  # a full disk is no reason not to prune it
            os.ftruncate(fd, 0)
            os.pwrite(fd, json.dumps(owner).encode(), 0)
        try:
            yield DirectoryLock(os.path.realpath(directory))
        finally:
            # Closing alone would leave it held by whoever was forked meanwhile.
            fcntl.flock(fd, fcntl.LOCK_UN)
            if room >= 0:
                with suppress(OSError):
                    fcntl.flock(room, fcntl.LOCK_UN)
                os.close(room)
    finally:
        os.close(fd)


def _open(directory: str, path: str) -> tuple[int, bool]:
    """Open the lock file; on a full disk without one, the directory. Return which it is."""
    check_no_link(os.path.dirname(path), LOCAL)
    try:
        with suppress(FileExistsError):
            os.mkdir(os.path.dirname(path))
        # A FIFO or a device in its place must not be waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = os.open(path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise RefusedError("cannot lock the directory: the lock is no file", file=path)
        return fd, True
    except OSError as error:
        if not is_no_room(error):
            raise RefusedError(f"cannot lock the directory: {error.strerror}", file=path) from None
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), False


def _share(directory: str, path: str, wait_s: float) -> int:
    """Share the lock of the directory itself, which is held alone where no file could be made."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(RefusedError):  # a filesystem that locks no directories
            _acquire(fd, path, wait_s, fcntl.LOCK_SH)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _acquire(fd: int, path: str, wait_s: float, how: int = fcntl.LOCK_EX) -> None:
    until = time.monotonic() + wait_s
    pause = 0.05
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            left = until - time.monotonic()
        except OSError as error:
            raise RefusedError(
                f"this filesystem has no locks: {error.strerror}",
                file=path,
                remedy="mount it with locks (Lustre: -o flock), or write elsewhere with -o",
            ) from None
        if left <= 0:
            owner = _owner(fd)
            raise LockedError(
                "another ckptctl works on this directory",
                file=path,
                found=owner,
                remedy="wait for it, or give --lock-wait a duration",
            )
        # flock cannot wait for a bounded time without signals, which belong to the caller.
        time.sleep(min(pause, left))
        pause = min(pause * 2, 1.0)


def _owner(fd: int) -> str:
    try:
        return os.pread(fd, 4096, 0).decode("utf-8", "replace").strip() or "unknown"
    except IsADirectoryError:
        return "it began on a full disk, without a lock file"
