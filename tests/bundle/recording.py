"""A storage that tells what was asked of it, and can stop at any point."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from ckptctl.storage.local import LocalFile, LocalStorage

#: What changes something.
CHANGES = ("create", "write_new", "write_atomic", "copy_attributes", "rename", "rename_new")
CHANGES += ("remove", "mkdir", "rmdir", "fsync_dir")


class RecordingFile:
    def __init__(self, file: LocalFile, tell: Callable[..., None]) -> None:
        self._file = file
        self._tell = tell

    def pwrite(self, offset: int, data: bytes) -> None:
        self._tell("pwrite", self._file.path)
        self._file.pwrite(offset, data)

    def start_flush(self, offset: int, length: int) -> None:
        self._file.start_flush(offset, length)

    def fsync(self) -> None:
        self._tell("fsync", self._file.path)
        self._file.fsync()

    def close(self) -> None:
        self._file.close()


class RecordingStorage(LocalStorage):
    """Local files; `before` is told of every change before it is made."""

    def __init__(self, before: Callable[[str], None] = lambda _: None) -> None:
        self.calls: list[str] = []
        self.before = before

    def __getattribute__(self, name: str) -> object:
        found = super().__getattribute__(name)
        if name not in CHANGES:
            return found

        def call(*args: object, **kwargs: object) -> object:
            self.tell(name, *(arg for arg in args if isinstance(arg, str)))
            return found(*args, **kwargs)

        return call

    def tell(self, name: str, *paths: str) -> None:
        random = r"(?<=_temp)_[0-9a-f]{32}|(?<=ckptctl)-[0-9a-f]{16}(?=\.tmp)"
        short = [re.sub(random, "", os.path.basename(path) or path) for path in paths]
        self.calls.append(" ".join([name, *short]))
        self.before(self.calls[-1])

    def open_write(self, path: str) -> RecordingFile:  # type: ignore[override]
        return RecordingFile(super().open_write(path), self.tell)
