"""One advisory lock a directory: the kernel's, or a lease where the filesystem keeps none."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ckptctl.errors import ChangedError, LockedError, NoSpaceError, RefusedError, UsageError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage.attributes import share
from ckptctl.storage.lease import acquire_lease
from ckptctl.storage.local import no_directory
from ckptctl.storage.mounts import mount_of
from ckptctl.storage.own import OWN_DIRECTORY, open_directory, open_own
from ckptctl.storage.owner import MOST_BYTES, Owner
from ckptctl.storage.register import Register
from ckptctl.storage.space import is_no_room
from ckptctl.storage.waiting import Waiting

__all__ = [
    "LOCK_VARIABLE",
    "OWN_DIRECTORY",
    "DirectoryLock",
    "HeldLocks",
    "directory_lock",
    "flock_holder",
    "lock_directories",
    "lock_kinds",
    "refused",
]

#: Forces one kind of lock: `flock` or `lease`.
LOCK_VARIABLE = "CKPTCTL_LOCK"
_NAME = "lock"
#: Of the lock of the directory itself there is no file that could say whose it is.
_WITHOUT_FILE = "it began on a full disk, without a lock file; or a program like flock holds it"
_STRANGE = "it is not of ckptctl's making: see what it is and where it leads, and remove it"
_SHUT = "see who may write to it (ls -l), and whether anyone may (lsattr)"
_REMEDIES: dict[int | None, str] = {
    errno.ENOTDIR: _STRANGE,
    errno.ELOOP: _STRANGE,
    errno.EPERM: _SHUT,
    errno.EACCES: _SHUT,
}
#: Looks at a lock that says nothing yet.
_LOOKS = 5


class DirectoryLock(NamedTuple):
    """A lock that is held; what works under it is handed this, and takes none of its own.

    `directory` is the real path of the directory that it is of.
    """

    directory: str
    checks: tuple[Callable[[], None], ...] = ()

    def check(self) -> None:
        """Raise unless the lock is still ours; call it right before what cannot be undone.

        Where the lock is a lease this renews it: for as long as it takes until a lease counts
        as dead (10 min) nobody else takes it.

        Raises
        ------
        LockedError
            Someone took it over: this process did not renew it for too long.
        ChangedError
            Someone removed it.
        """
        for check in self.checks:
            check()


class HeldLocks(NamedTuple):
    """The locks of several directories."""

    locks: tuple[DirectoryLock, ...]

    def check(self) -> None:
        """Raise unless all of them are still ours; as for `DirectoryLock`."""
        for lock in self.locks:
            lock.check()


@contextmanager
def lock_directories(
    directories: Iterable[str],
    wait_s: float = 0.0,
    held: DirectoryLock | None = None,
    progress: Progress = NO_PROGRESS,
) -> Iterator[HeldLocks]:
    """Hold the locks of several directories, but for the one that the caller holds.

    Parameters and errors are those of `directory_lock`; `wait_s` is for all of them together.
    """
    places = {os.path.realpath(directory) for directory in directories}
    locks = []
    if held is not None and held.directory in places:
        places.discard(held.directory)
        locks.append(held)
    waiting = Waiting(wait_s, progress)
    with ExitStack() as stack:
        # In one order, so that two runs never cross.
        locks += [stack.enter_context(_hold(place, waiting)) for place in sorted(places)]
        yield HeldLocks(tuple(locks))


@contextmanager
def directory_lock(
    directory: str, wait_s: float = 0.0, progress: Progress = NO_PROGRESS
) -> Iterator[DirectoryLock]:
    """Hold the lock of a checkpoint directory.

    On the filesystems of one machine the kernel's lock decides and goes with the process;
    host, PID and start time inside the file are for people. The file is never unlinked: that
    would let two runs hold two locks of one name. On a disk that is full, where the file cannot
    be made, the directory itself is locked: that is when people prune. Elsewhere (NFS, FUSE)
    it is a lease (`ckptctl.storage.lease`), renewed by a thread while it is held. Where there
    ever was a lease it is taken too, so that an NFS server and its clients keep each other out.
    `CKPTCTL_LOCK` forces one of the two.

    Parameters
    ----------
    directory
        The checkpoint directory.
    wait_s
        Seconds to wait for another ckptctl; 0 raises at once, but for a lease that looks
        dead, which is watched for one and a half renewals before it is taken over.
    progress
        Told what is waited for, and whose lease was taken over.

    Raises
    ------
    LockedError
        Another ckptctl holds it.
    NotFoundError
        There is no such directory.
    RefusedError
        There can be no lock.
    """
    with _hold(os.path.realpath(directory), Waiting(wait_s, progress)) as lock:
        yield lock


@contextmanager
def _hold(directory: str, waiting: Waiting) -> Iterator[DirectoryLock]:
    path = os.path.join(directory, OWN_DIRECTORY, _NAME)
    checks: list[Callable[[], None]] = []
    with ExitStack() as stack:
        try:
            with refused(path), open_own(directory, make=True) as own:
                flock, lease = lock_kinds(own)
        except NoSpaceError:
            with refused(path), open_directory(directory) as home:
                flock, lease = lock_kinds(home)
        if flock:
            checks.append(stack.enter_context(_flock(directory, waiting)))
        register = Register(directory)
        # Looked for under the lock: whoever held it may have left one.
        with refused(register.path):
            lease = lease or register.exists()
            if lease:
                held = acquire_lease(register, waiting)
                stack.callback(held.release)
                checks.append(held.check)
            else:
                checks.append(lambda: _check_no_lease(register))
        waiting.over()
        yield DirectoryLock(directory, tuple(checks))


def lock_kinds(own: int) -> tuple[bool, bool]:
    """Return whether a directory, open as `own`, is to be locked by flock, and by a lease."""
    asked = os.environ.get(LOCK_VARIABLE, "").strip()
    if asked not in ("", "flock", "lease"):
        raise UsageError(
            f"{LOCK_VARIABLE} is {asked!r}",
            expected="flock or lease",
            remedy="leave it unset: the filesystem decides",
        )
    flock = asked == "flock" or (not asked and mount_of(own).keeps_locks)
    return flock, not flock


@contextmanager
def refused(path: str, what: str = "cannot lock the directory") -> Iterator[None]:
    """Say of a call that failed which file of ours it was about, and what can be done."""
    try:
        yield
    except OSError as error:
        directory = os.path.dirname(os.path.dirname(path))
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(directory):
            raise no_directory(directory) from None
        kind = NoSpaceError if is_no_room(error) else RefusedError
        name = error.filename
        # What is opened within a directory is named by its last part alone.
        file = name if isinstance(name, str) and os.path.isabs(name) else path
        remedy = _REMEDIES.get(error.errno)
        raise kind(f"{what}: {error.strerror}", file=file, remedy=remedy) from None


@contextmanager
def _flock(directory: str, waiting: Waiting) -> Iterator[Callable[[], None]]:
    path = os.path.join(directory, OWN_DIRECTORY, _NAME)
    try:
        fd = _acquire(directory, path, waiting)
    except NoSpaceError:
        with _flock_home(directory, fcntl.LOCK_EX, path, waiting) as check:
            yield check
        return
    with _flock_file(fd, path) as check, _flock_home(directory, fcntl.LOCK_SH, path, waiting):
        yield check


@contextmanager
def _flock_home(
    directory: str, how: int, path: str, waiting: Waiting
) -> Iterator[Callable[[], None]]:
    """Lock the directory itself: shared, or alone where no file could be made."""
    with ExitStack() as stack:
        with refused(path):
            home = stack.enter_context(open_directory(directory))
        _wait_for_home(home, how, path, waiting)
        try:
            yield lambda: _check_in_place(home, directory)
        finally:
            with suppress(OSError):
                fcntl.flock(home, fcntl.LOCK_UN)


def _wait_for_home(home: int, how: int, path: str, waiting: Waiting) -> None:
    try:
        while not _try_flock(home, path, how):
            if not waiting.pause(f"waiting for a ckptctl: {_WITHOUT_FILE}"):
                raise LockedError(
                    "another ckptctl works on this directory",
                    file=path,
                    found=_WITHOUT_FILE,
                    remedy="wait for it, or give --lock-wait a duration",
                )
    except RefusedError:
        if how != fcntl.LOCK_SH:
            raise
        # A filesystem that locks no directories: on it nobody works without a file.


@contextmanager
def _flock_file(fd: int, path: str) -> Iterator[Callable[[], None]]:
    try:
        try:
            links = os.fstat(fd).st_nlink
        except OSError as error:
            error.filename = path  # a call on an open file knows none
            raise
        if links == 1:  # what is also known by another name may be someone's data
            with suppress(OSError):  # a full disk is no reason not to prune it
                os.ftruncate(fd, 0)
                os.pwrite(fd, Owner.of_this_process().note(), 0)
        try:
            yield lambda: _check_in_place(fd, path)
        finally:
            # Closing alone would leave it held by whoever was forked meanwhile; but what was
            # done under it is done, also where the filesystem has gone away.
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        os.close(fd)


def _acquire(directory: str, path: str, waiting: Waiting) -> int:
    """Return the open lock file, locked."""
    while True:
        with refused(path), open_own(directory, make=True) as own:
            fd = _open(own, path, os.O_CREAT)
        try:
            while not _try_flock(fd, path):
                owner = _owner(fd)
                if not waiting.pause(f"waiting for {owner}"):
                    raise LockedError(
                        "another ckptctl works on this directory",
                        file=path,
                        found=owner,
                        remedy="wait for it, or give --lock-wait a duration; the lock goes with "
                        "that process, however it ends",
                    )
            if _in_place(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # someone removed it by hand while we waited


def flock_holder(directory: str) -> str | None:
    """Return who holds the kernel's lock of a directory; None if nobody does. Writes nothing."""
    path = os.path.join(directory, OWN_DIRECTORY, _NAME)
    with suppress(FileNotFoundError), open_own(directory) as own:
        fd = _open(own, path)
        try:
            if not _is_free(fd, path):
                return _owner(fd)
        finally:
            os.close(fd)
    with open_directory(directory) as home:
        return None if _is_free(home, path) else f"a ckptctl: {_WITHOUT_FILE}"


def _is_free(fd: int, path: str) -> bool:
    free = _try_flock(fd, path, fcntl.LOCK_SH)
    if free:
        fcntl.flock(fd, fcntl.LOCK_UN)
    return free


def _open(own: int, path: str, more: int = 0) -> int:
    """Open the lock file, if it is or may become a file; what opens a FIFO may wait for ever."""
    try:
        _check_regular(os.stat(_NAME, dir_fd=own, follow_symlinks=False), path)
        new = False
    except FileNotFoundError:
        new = True
    except OSError as error:
        error.filename = path  # not its last part alone
        raise
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | more
    fd = os.open(_NAME, flags, 0o666, dir_fd=own)
    try:
        _check_regular(os.fstat(fd), path)
        if new:  # for everyone who may write to the directory
            share(fd, os.path.dirname(os.path.dirname(path)))
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            error.filename = path  # a call on an open file knows none
        raise
    return fd


def _check_regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(
            "cannot lock the directory: the lock is no regular file", file=path, remedy=_STRANGE
        )


def _try_flock(fd: int, path: str, how: int = fcntl.LOCK_EX) -> bool:
    """Take the kernel's lock of an open file; return whether it was free."""
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RefusedError(
            f"this filesystem has no locks: {error.strerror}",
            file=path,
            remedy=f"set {LOCK_VARIABLE}=lease, mount it with locks, or write elsewhere with -o",
        ) from None
    return True


def _owner(fd: int) -> str:
    for look in range(_LOOKS):
        owner = Owner.parse(os.pread(fd, MOST_BYTES, 0))
        if owner is not None:
            return str(owner)
        if look + 1 < _LOOKS:  # who has just begun locks first, and then says who it is
            time.sleep(0.02)
    return "an unknown process"


def _in_place(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _check_no_lease(register: Register) -> None:
    """Where we began to work before the first who does not see our lock: see it now."""
    if register.exists():
        raise ChangedError(
            "another ckptctl works on this directory through another filesystem: nothing more "
            "is changed",
            file=register.path,
            remedy="run it again: from now on both take a lease",
        )


def _check_in_place(fd: int, path: str) -> None:
    if not _in_place(fd, path):
        raise ChangedError(
            "the lock was removed while we worked: nothing more is changed",
            file=path,
            remedy="leave .ckptctl alone while ckptctl runs, and run it again",
        )
