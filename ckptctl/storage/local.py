"""Local files."""

from __future__ import annotations

import errno
import os
import stat as stat_module
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING

from ckptctl.errors import DamageError, ExistsError, NotFoundError, RefusedError
from ckptctl.storage.attributes import copy_acl, give
from ckptctl.storage.base import FileInfo
from ckptctl.storage.flush import start_write_back
from ckptctl.storage.swap import give_back, is_displaced, remove_expected, replace_expected

if TYPE_CHECKING:
    from ckptctl.storage.base import Buffer, Storage

__all__ = ["LOCAL", "LocalStorage", "no_directory", "no_room_for_output"]

#: Linux moves at most this many bytes in one call.
_MAX_CALL = 0x7FFFF000
#: And into at most this many buffers.
_MAX_BUFFERS = 1024


class LocalFile:
    """A local file open for ranged reads or writes."""

    def __init__(self, path: str, flags: int) -> None:
        self.path = path
        self._fd, self.size = -1, 0  # for __del__, should one of the next lines fail
        self._fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            status = os.fstat(self._fd)
        except OSError as error:
            raise _named(error, path) from None
        if not stat_module.S_ISREG(status.st_mode):
            os.close(self._fd)
            self._fd = -1
            raise RefusedError("not a regular file", file=path)
        self.size = status.st_size

    def pread(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file."""
        length = max(0, min(length, self.size - offset))
        try:
            data = os.pread(self._fd, min(length, _MAX_CALL), offset)
            if len(data) == length:
                return data
            pieces = [data]
            have = len(data)
            while data and have < length:
                data = os.pread(self._fd, min(length - have, _MAX_CALL), offset + have)
                pieces.append(data)
                have += len(data)
            return b"".join(pieces)
        except OSError as error:
            raise _named(error, self.path) from None

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; return the bytes read, fewer only at the end."""
        return self.readv(offset, (buffer,))

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill one buffer after the other; return the bytes read, fewer only at the end."""
        done = 0
        try:
            if len(buffers) == 1:  # as a rule one, filled at once, and some thousands a second
                done = os.preadv(self._fd, buffers, offset)
                if done in (0, len(buffers[0])):
                    return done
                buffers = (buffers[0][done:],)
            left = deque(buffers)
            while left:
                batch = list(islice(left, _MAX_BUFFERS))
                count = os.preadv(self._fd, batch, offset + done)
                if not count and any(map(len, batch)):
                    break
                done += count
                while left and count >= len(left[0]):
                    count -= len(left.popleft())
                if count:
                    left[0] = left[0][count:]
        except OSError as error:
            raise _named(error, self.path) from None
        return done

    def let_go(self, offset: int, length: int) -> None:
        """Let the page cache go of a range, for what is written next to take its memory."""
        if length:  # 0 would mean all that follows
            with suppress(OSError):
                os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done : done + _MAX_CALL], offset + done)
        except OSError as error:
            raise _named(error, self.path) from None

    def start_flush(self, offset: int, length: int) -> None:
        """Begin to bring what was written to the disk, so that `fsync` has less to wait for."""
        start_write_back(self._fd, offset, length)

    def fsync(self) -> None:
        """Return when what was written survives a power cut."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise _named(error, self.path) from None

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class LocalStorage:
    """Files of this machine, under their path names."""

    def listdir(self, directory: str) -> list[FileInfo]:
        """Return the entries of a directory; raise `NotFoundError` without one."""
        try:
            with os.scandir(directory) as entries:
                found = []
                for entry in entries:
                    with suppress(FileNotFoundError):  # a trainer's own clean-up
                        found.append(_info(entry.name, entry.stat(follow_symlinks=False)))
                return found
        except PermissionError:
            raise _may_not_read("directory", directory) from None
        except (OSError, ValueError) as error:
            if _is_nowhere(error):
                raise no_directory(directory) from None
            raise

    def stat(self, path: str, *, follow: bool = True) -> FileInfo | None:
        """Return what is known of a file, or None if there is none."""
        try:
            return _info(os.path.basename(path), os.stat(path, follow_symlinks=follow))
        except (OSError, ValueError) as error:
            if _is_nowhere(error):
                return None
            raise

    def open(self, path: str) -> LocalFile:
        """Open a file for reading; raise `NotFoundError` without one."""
        return self._open(path, LocalFile)

    def _open(self, path: str, kind: type[LocalFile]) -> LocalFile:
        try:
            return kind(path, os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            raise _may_not_read("file", path) from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.ELOOP:
                raise RefusedError("a symbolic link points at itself", file=path) from None
            if isinstance(error, OSError) and error.errno == errno.ENXIO:  # a socket
                raise RefusedError("not a regular file", file=path) from None
            if _is_nowhere(error):
                raise NotFoundError("no such file", file=path) from None
            raise

    def read_small(self, path: str, limit: int) -> bytes:
        """Return a whole file; raise `DamageError` if it is longer than `limit` bytes."""
        file = self.open(path)
        try:
            if file.size > limit:
                raise DamageError(
                    "file absurdly long", file=path, expected=f"<= {limit} bytes", found=file.size
                )
            return file.pread(0, file.size)
        finally:
            file.close()

    def create(self, path: str, size: int) -> None:
        """Create a file of `size` bytes, preallocated; it must not exist."""
        with _new_file(path) as fd:
            if size:
                try:
                    os.posix_fallocate(fd, 0, size)
                except OSError as error:
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
                    os.ftruncate(fd, size)

    def open_write(self, path: str) -> LocalFile:
        """Open an existing file for ranged writes."""
        return LocalFile(path, os.O_RDWR | os.O_NOFOLLOW)

    def write_new(self, path: str, data: bytes, *, not_before_ns: int = 0) -> None:
        """Create a file with this content and fsync it; its mtime is no earlier than asked."""
        with _new_file(path) as fd:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if os.fstat(fd).st_mtime_ns < not_before_ns:
                os.utime(fd, ns=(not_before_ns, not_before_ns))
            os.fsync(fd)

    def write_atomic(
        self,
        path: str,
        data: bytes,
        like: FileInfo | None = None,
        *,
        expect: FileInfo | None = None,
        new: bool = False,
    ) -> None:
        """Replace a file: temporary, fsync, rename, fsync of the directory.

        With `expect`, raise `ChangedError` where the file that would be replaced is no longer
        that one: what somebody else has put there meanwhile stays. The new file is no older.
        If it is to be `new`, raise `ExistsError` where there is one.
        """
        temporary = _temporary(path)
        try:
            since = expect.mtime_ns if expect is not None else 0
            self.write_new(temporary, data, not_before_ns=since)
            if like is not None:
                self.copy_attributes(temporary, like, path)
            if expect is not None:
                replace_expected(temporary, path, data, expect.identity)
            elif new:
                self.rename_new(temporary, path)
            else:
                os.rename(temporary, path)
        except BaseException:
            self.remove(temporary)
            raise
        self.fsync_dir(os.path.dirname(path))

    def copy_attributes(self, path: str, like: FileInfo, source: str | None = None) -> None:
        """Give a file the mode of `like`, and its owner and group where we may.

        And the access control list of the file `source`, if it has one.
        """
        # By descriptor: who owns the directory could put a link in the place of the name.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            give(fd, like.uid, like.gid, stat_module.S_IMODE(like.mode))
            if source is not None:
                copy_acl(source, fd)
        except OSError as error:
            raise _named(error, path) from None
        finally:
            os.close(fd)

    def rename(self, source: str, destination: str, *, within: str | None = None) -> None:
        """Rename within one filesystem, replacing the destination; `within` as for `remove`."""
        with _below(source, within) as (room, name), _below(destination, within) as (to, new):
            os.rename(name, new, src_dir_fd=room, dst_dir_fd=to)

    def rename_new(self, source: str, destination: str) -> None:
        """Rename within one filesystem; raise `ExistsError` rather than replace."""
        try:
            os.link(source, destination, follow_symlinks=False)
        except FileExistsError:
            raise ExistsError("destination exists", file=destination) from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
                raise
            # No hard links here: the look and the rename are then two steps.
            if os.path.lexists(destination):
                raise ExistsError("destination exists", file=destination) from None
            os.rename(source, destination)
        else:
            os.unlink(source)

    def remove(
        self, path: str, *, within: str | None = None, expect: FileInfo | None = None
    ) -> None:
        """Remove a file; nothing happens if there is none.

        With `within` raise `RefusedError` unless it lies below that directory, and no link is
        on the way there, not even one that was put there a moment ago. With `expect`, raise
        `ChangedError` where it is no longer that one, which then stays.
        """
        if expect is not None:
            remove_expected(path, expect.identity)
            return
        with suppress(FileNotFoundError), _below(path, within) as (room, name):
            os.unlink(name, dir_fd=room)

    def is_displaced(self, path: str) -> bool:
        """Return whether a killed run set a file aside that belongs in its place."""
        return is_displaced(path)

    def give_back(self, path: str) -> bool:
        """Put such a file back, and return whether it was; it goes where a newer one is."""
        return give_back(path)

    def mkdir(self, path: str, like: FileInfo | None = None, *, new: bool = False) -> None:
        """Create a directory with the attributes of `like`; nothing happens if there is one.

        If it is to be `new`, `ExistsError` is raised then.
        """
        try:
            os.mkdir(path)
        except FileExistsError:
            if new:
                raise ExistsError("directory exists", file=path) from None
        else:
            if like is not None:
                self.copy_attributes(path, like)

    def rmdir(self, path: str, *, within: str | None = None) -> None:
        """Remove an empty directory; nothing happens if there is none. `within` as above."""
        with suppress(FileNotFoundError), _below(path, within) as (room, name):
            os.rmdir(name, dir_fd=room)

    def fsync_dir(self, directory: str) -> None:
        """Return when the names in a directory survive a power cut."""
        fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            raise _named(error, directory) from None
        finally:
            os.close(fd)

    def free_bytes(self, directory: str) -> int:
        """Return the bytes that we may still write there."""
        status = os.statvfs(directory or ".")
        return status.f_bavail * status.f_frsize


def _temporary(path: str) -> str:
    return f"{path}.ckptctl-{os.urandom(8).hex()}.tmp"


#: There is no such file, whatever the path is made of.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


def no_directory(path: str) -> NotFoundError:
    """Return what to raise where a directory was expected."""
    if not os.path.exists(path):
        near = os.path.dirname(os.path.abspath(path))
        while not os.path.exists(near):
            near = os.path.dirname(near)
        remedy = f"check the name, and what is mounted: {near} is the nearest that is there"
        return NotFoundError("no such directory", file=path, remedy=remedy)
    return NotFoundError("not a directory", file=path, remedy="name the directory that it lies in")


def no_room_for_output(directory: str) -> NotFoundError:
    """Return the error of a directory that is to be written to, and is not there."""
    return NotFoundError(
        "the output's directory does not exist", file=directory, remedy="make it first"
    )


def _may_not_read(what: str, path: str) -> RefusedError:
    return RefusedError(
        f"may not read the {what}",
        file=path,
        remedy=f"let user {os.geteuid()} read it, or run as the user or group of the trainer",
    )


def _is_nowhere(error: OSError | ValueError) -> bool:
    # ValueError: a NUL in a path from a state file.
    return isinstance(error, ValueError) or error.errno in _NOWHERE


def _named(error: OSError, path: str) -> OSError:
    """Give an error of a call on an open file the name of the file: the kernel knows none."""
    if error.filename is None:
        error.filename = path
    return error


@contextmanager
def _below(path: str, within: str | None) -> Iterator[tuple[int | None, str]]:
    """Give what a call wants to find a file below a directory without following a link."""
    if within is None:
        yield None, path
        return
    *rooms, name = os.path.relpath(path, within or ".").split(os.sep)
    if os.pardir in (*rooms, name):
        raise RefusedError("lies outside the directory", file=path, expected=f"below {within}")
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(within or ".", flags)
    try:
        for room in rooms:
            try:
                inner = os.open(room, flags | os.O_NOFOLLOW, dir_fd=fd)
            except NotADirectoryError:
                raise RefusedError(
                    "a link, or no directory, stands on the way to the file",
                    file=path,
                    found=room,
                    remedy="someone changes the directory while we work on it: look at it first",
                ) from None
            os.close(fd)
            fd = inner
        yield fd, name
    except OSError as error:
        error.filename = path  # not the last part of it alone
        raise
    finally:
        os.close(fd)


@contextmanager
def _new_file(path: str) -> Iterator[int]:
    """Open a file that must not exist; an error while it is filled removes it again."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise ExistsError("file exists", file=path) from None
    try:
        yield fd
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            raise _named(error, path) from None
        raise
    finally:
        os.close(fd)


def _info(name: str, status: os.stat_result) -> FileInfo:
    return FileInfo(
        name=name,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
        device=status.st_dev,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        is_dir=stat_module.S_ISDIR(status.st_mode),
        is_symlink=stat_module.S_ISLNK(status.st_mode),
        links=status.st_nlink,
    )


LOCAL: Storage = LocalStorage()
