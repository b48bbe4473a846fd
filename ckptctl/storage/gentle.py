"""Reading beside a parameter server: no faster than told, the page cache left as it was found.

What is read once, front to back, would push out what others read often. When a file is opened
the kernel is asked which of its chunks are in the cache (`mincore`): those are somebody else's
and stay. The pages of all others are ours. They go again once `knobs.CACHE_BYTES` of other
chunks were read after them, and when the file is closed. What we wrote goes once it is on the
disk; reading it back then reads the disk.

The kernel tells only who may write to a file, or owns it; anybody else is told that all of it
is cached. Such a file is read as ever: to drop what a serving process reads would be worse
than to fill what the kernel can take back.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from weakref import ref

from ckptctl import knobs
from ckptctl.storage.local import LocalFile, LocalStorage
from ckptctl.storage.pace import Pace

__all__ = ["GentleStorage"]

#: Bytes that are looked at, and go, together.
_CHUNK = 8 << 20
_PAGE = mmap.PAGESIZE
_SHARED = 1  # MAP_SHARED


class _Budget:
    """The chunks of all files that are in the cache because of us, oldest first."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[ref[_GentleFile], int]] = deque()
        self.lock = threading.RLock()  # a finaliser may run inside

    def add(self, file: _GentleFile, chunk: int) -> None:
        with self.lock:
            file.ours.add(chunk)
            self._chunks.append((ref(file), chunk))
            while len(self._chunks) * _CHUNK > knobs.CACHE_BYTES:
                oldest, number = self._chunks.popleft()
                other = oldest()
                if other is not None:
                    other.drop(number)

    def forget(self, file: _GentleFile) -> None:
        with self.lock:
            if file.ours:
                left = (item for item in self._chunks if item[0]() not in (None, file))
                self._chunks = deque(left)


_BUDGET = _Budget()


class _GentleFile(LocalFile):
    """A local file that takes back out of the cache what it brought in."""

    pace: Pace | None = None

    def __init__(self, path: str, flags: int) -> None:
        self.ours: set[int] = set()
        self._theirs: set[int] = set()
        super().__init__(path, flags)
        self._theirs = _cached_chunks(self._fd, self.size)

    def pread(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`; fewer only at the end of the file."""
        data = super().pread(offset, length)
        self._was_read(offset, len(data))
        return data

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill one buffer after the other; return the bytes read, fewer only at the end."""
        count = super().readv(offset, buffers)
        self._was_read(offset, count)
        return count

    def let_go(self, offset: int, length: int) -> None:
        """Do nothing: what is ours goes in its turn, and what others read stays."""

    def fsync(self) -> None:
        """Return when what was written survives a power cut; the cache then lets go of it."""
        super().fsync()
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close the file, and let the cache go of all that is ours, what was read ahead too."""
        with _BUDGET.lock:
            _BUDGET.forget(self)
            if self._fd >= 0:
                begin = 0
                for chunk in sorted(self._theirs):
                    self._let_go(begin, chunk * _CHUNK)
                    begin = (chunk + 1) * _CHUNK
                self._let_go(begin, self.size)
            super().close()

    def drop(self, chunk: int) -> None:
        """Let the cache go of a chunk."""
        self.ours.discard(chunk)
        self._let_go(chunk * _CHUNK, (chunk + 1) * _CHUNK)

    def _let_go(self, begin: int, end: int) -> None:
        if self._fd >= 0 and end > begin:
            os.posix_fadvise(self._fd, begin, end - begin, os.POSIX_FADV_DONTNEED)

    def _was_read(self, offset: int, count: int) -> None:
        if not count:
            return
        for chunk in range(offset // _CHUNK, (offset + count - 1) // _CHUNK + 1):
            if chunk not in self.ours and chunk not in self._theirs:
                _BUDGET.add(self, chunk)
        if self.pace is not None:
            time.sleep(self.pace.pause(count))


def _cached_chunks(fd: int, size: int) -> set[int]:
    """Return the numbers of the chunks of which more than half is in the page cache."""
    found: set[int] = set()
    if not size:
        return found
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    word, place = ctypes.c_size_t, ctypes.c_void_p
    libc.mmap.argtypes = (place, word, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    libc.mincore.argtypes, libc.munmap.argtypes = (place, word, place), (place, word)
    start = libc.mmap(None, size, mmap.PROT_READ, _SHARED, fd, 0)
    if start in (None, ctypes.c_void_p(-1).value):
        return set(range(-(-size // _CHUNK)))
    try:
        pages = (ctypes.c_ubyte * (_CHUNK // _PAGE))()
        for chunk in range(-(-size // _CHUNK)):
            length = min(_CHUNK, size - chunk * _CHUNK)
            known = libc.mincore(start + chunk * _CHUNK, length, pages) == 0
            count = -(-length // _PAGE)
            if not known or 2 * bytes(pages)[:count].count(1) > count:
                found.add(chunk)
    finally:
        libc.munmap(start, size)
    return found


class GentleStorage(LocalStorage):
    """Files of this machine, read without filling the page cache.

    Parameters
    ----------
    bwlimit
        Bytes a second that all files together are read with, whoever reads; None for no limit.
        What is written is what was read, so it holds for that too.
    """

    def __init__(self, bwlimit: int | None = None) -> None:
        self.pace = Pace(bwlimit) if bwlimit else None

    def open(self, path: str) -> LocalFile:
        """Open a file for reading; raise `NotFoundError` without one."""
        file = self._open(path, _GentleFile)
        assert isinstance(file, _GentleFile)
        file.pace = self.pace
        return file

    def open_write(self, path: str) -> LocalFile:
        """Open an existing file for ranged writes."""
        return _GentleFile(path, os.O_RDWR | os.O_NOFOLLOW)
