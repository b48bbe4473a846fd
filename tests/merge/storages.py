"""Storages that misbehave, and that let others misbehave, at a chosen moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptctl.storage.local import LocalFile, LocalStorage

#: Everything that changes something on the disk.
CHANGES = (
    "create",
    "open_write",
    "write_new",
    "write_atomic",
    "copy_attributes",
    "rename",
    "rename_new",
    "remove",
    "give_back",
    "mkdir",
    "rmdir",
    "fsync_dir",
)


class Watched(LocalStorage):
    """Calls `before(call)` ahead of each change, and `after(call)` behind it."""

    def before(self, call: str) -> None:
        """Do nothing."""

    def after(self, call: str) -> None:
        """Do nothing."""


def _watch(name: str) -> Callable[..., Any]:
    def changed(self: Watched, path: str, *args: Any, **more: Any) -> Any:
        call = f"{name} {path}"
        self.before(call)
        result = getattr(LocalStorage, name)(self, path, *args, **more)
        self.after(call)
        return result

    return changed


for _name in CHANGES:
    setattr(Watched, _name, _watch(_name))


@dataclass
class Once:
    """A trap for the nth change; `error` is raised, or `do` is called, ahead of it."""

    at: int
    error: BaseException | None = None
    do: Callable[[], None] | None = None
    calls: list[str] = field(default_factory=list)
    sprung: str = ""

    def __call__(self, call: str) -> None:
        self.calls.append(call)
        if len(self.calls) == self.at + 1 and not self.sprung:
            self.sprung = call
            if self.do is not None:
                self.do()
            if self.error is not None:
                raise self.error


class Trapped(Watched):
    """Springs a trap ahead of the nth change."""

    def __init__(self, trap: Once) -> None:
        self.trap = trap

    def before(self, call: str) -> None:
        self.trap(call)


class Hooked(Watched):
    """Calls a function ahead of, or behind, the changes of a name, the first time only."""

    def __init__(
        self,
        name: str,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        always: bool = False,
    ) -> None:
        self.name, self.hooks, self.always = name, {"before": before, "after": after}, always
        self.called = 0

    def _call(self, when: str, call: str) -> None:
        hook = self.hooks[when]
        if hook is not None and self.name in call and (self.always or not self.called):
            self.called += 1
            hook()

    def before(self, call: str) -> None:
        self._call("before", call)

    def after(self, call: str) -> None:
        self._call("after", call)


class Counting(LocalStorage):
    """Counts the bytes that are read of each file."""

    def __init__(self) -> None:
        self.read: dict[str, int] = {}

    def open(self, path: str) -> LocalFile:
        counted = self.read

        class Counted(LocalFile):
            def pread(self, offset: int, length: int) -> bytes:
                data = super().pread(offset, length)
                counted[path] = counted.get(path, 0) + len(data)
                return data

            def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
                count = super().readv(offset, buffers)
                counted[path] = counted.get(path, 0) + count
                return count

        file = super().open(path)
        file.__class__ = Counted
        return file


class Small(LocalStorage):
    """A disk with so many bytes free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def free_bytes(self, directory: str) -> int:
        return self.free


class Sparse(LocalStorage):
    """A filesystem that cannot preallocate: it fills up in the middle of a write."""

    def create(self, path: str, size: int) -> None:
        super().create(path, 0)
        with open(path, "r+b") as file:
            file.truncate(size)


def in_a_thread(work: Callable[[], object]) -> Callable[[], None]:
    """The trainer is someone else, and is done before we go on."""

    def run() -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    return run
