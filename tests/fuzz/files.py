"""Files in memory behind the interface of a storage: what a reader is given to read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from ckptctl.errors import DamageError, NotFoundError
from ckptctl.storage.base import FileInfo

__all__ = ["Files"]


class _File:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def pread(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def readinto(self, offset: int, buffer: memoryview) -> int:
        return self.readv(offset, (buffer,))

    def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
        done = 0
        for buffer in buffers:
            data = self._data[offset + done : offset + done + len(buffer)]
            buffer[: len(data)] = data
            done += len(data)
        return done

    def close(self) -> None:
        """Nothing is open."""


class Files:
    """Path to content; only what reads."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = dict(files)

    def listdir(self, directory: str) -> list[FileInfo]:
        inside = [path for path in self._files if os.path.dirname(path) == directory]
        if not inside:
            raise NotFoundError("no such directory", file=directory)
        return [self._info(path) for path in inside]

    def stat(self, path: str, *, follow: bool = True) -> FileInfo | None:
        return self._info(path) if path in self._files else None

    def open(self, path: str) -> _File:
        if path not in self._files:
            raise NotFoundError("no such file", file=path)
        return _File(self._files[path])

    def read_small(self, path: str, limit: int) -> bytes:
        data = self.open(path)
        if data.size > limit:
            raise DamageError("file absurdly long", file=path)
        return data.pread(0, data.size)

    def _info(self, path: str) -> FileInfo:
        number = list(self._files).index(path)
        size = len(self._files[path])
        name = os.path.basename(path)
        return FileInfo(name, size, 10**18 + number, number, 1, 0o100644, 0, 0, False, False)
