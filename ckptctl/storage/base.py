"""The seam between ckptctl and whatever holds the bytes."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

#: Anything that `os.pwrite` and `crc32c` take: bytes, memoryview, a NumPy array of bytes.
Buffer: TypeAlias = "bytes | bytearray | memoryview"

__all__ = ["Buffer", "FileInfo", "Readable", "Storage", "Writable"]


class FileInfo(NamedTuple):
    """One directory entry, its own link not followed."""

    name: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    is_dir: bool
    is_symlink: bool
    #: Names of the file: removing one of several frees nothing.
    links: int = 1

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """Device, inode, size and mtime: equal means the content was not touched."""
        return (self.device, self.inode, self.size, self.mtime_ns)

    @property
    def is_unfollowed(self) -> bool:
        """Whether it is about a link itself, and not about what that leads to."""
        return stat.S_ISLNK(self.mode)


class Readable(Protocol):
    """A file open for ranged reads; safe to use from several threads."""

    size: int

    def pread(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file."""

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; return the bytes read, fewer only at the end."""

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill one buffer after the other; return the bytes read, fewer only at the end."""

    def let_go(self, offset: int, length: int) -> None:
        """Say that a range will not be read again; a hint."""

    def close(self) -> None:
        """Close the file."""


class Writable(Protocol):
    """A file open for ranged writes; safe to use from several threads."""

    def pwrite(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""

    def start_flush(self, offset: int, length: int) -> None:
        """Begin to bring what was written to the disk, so that `fsync` has less to wait for."""

    def fsync(self) -> None:
        """Return when what was written survives a power cut."""

    def close(self) -> None:
        """Close the file."""


class Storage(Protocol):
    """A place that holds files under path names. Instances are picklable."""

    def listdir(self, directory: str) -> list[FileInfo]:
        """Return the entries of a directory; raise `NotFoundError` without one."""

    def stat(self, path: str, *, follow: bool = True) -> FileInfo | None:
        """Return what is known of a file, or None if there is none."""

    def open(self, path: str) -> Readable:
        """Open a file for reading; raise `NotFoundError` without one."""

    def read_small(self, path: str, limit: int) -> bytes:
        """Return a whole file; raise `DamageError` if it is longer than `limit` bytes."""

    def create(self, path: str, size: int) -> None:
        """Create a file of `size` bytes, preallocated; raise `ExistsError` if there is one."""

    def open_write(self, path: str) -> Writable:
        """Open an existing file for ranged writes."""

    def write_new(self, path: str, data: bytes, *, not_before_ns: int = 0) -> None:
        """Create a file with this content and fsync it; raise `ExistsError` if there is one.

        Its mtime is no earlier than `not_before_ns`.
        """

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

    def copy_attributes(self, path: str, like: FileInfo, source: str | None = None) -> None:
        """Give a file the mode of `like`, and its owner and group where we may.

        And the access control list of the file `source`, if it has one.
        """

    def rename(self, source: str, destination: str, *, within: str | None = None) -> None:
        """Rename within one filesystem, replacing the destination; `within` as for `remove`."""

    def rename_new(self, source: str, destination: str) -> None:
        """Rename within one filesystem; raise `ExistsError` rather than replace."""

    def remove(
        self, path: str, *, within: str | None = None, expect: FileInfo | None = None
    ) -> None:
        """Remove a file; nothing happens if there is none.

        With `within` raise `RefusedError` unless it lies below that directory, and no link is
        on the way there, not even one that was put there a moment ago.

        With `expect`, raise `ChangedError` where it is no longer that one, which then stays.
        """

    def is_displaced(self, path: str) -> bool:
        """Return whether a killed run set a file aside that belongs in its place.

        `path` is a temporary that `write_atomic` or `remove` left, with `expect`: somebody else
        wrote the file behind our look at it, and nobody has written there since.
        """

    def give_back(self, path: str) -> bool:
        """Put such a file back, and return whether it was; it goes where a newer one is.

        What is ours, or was to be replaced, is left where it is.
        """

    def mkdir(self, path: str, like: FileInfo | None = None, *, new: bool = False) -> None:
        """Create a directory with the attributes of `like`; nothing happens if there is one.

        If it is to be `new`, `ExistsError` is raised then.
        """

    def rmdir(self, path: str, *, within: str | None = None) -> None:
        """Remove an empty directory; nothing happens if there is none. `within` as above."""

    def fsync_dir(self, directory: str) -> None:
        """Return when the names in a directory survive a power cut."""

    def free_bytes(self, directory: str) -> int:
        """Return the bytes that we may still write there."""
