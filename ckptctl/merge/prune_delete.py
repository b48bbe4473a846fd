"""Removing items from the disk, or moving them to the trash, in an order that is always safe.

Abandoned checkpoints go first, since one that stays may be what shows that they are; then the
other increments, the other fulls, and leftovers. In each pass the state file no longer lists
what goes before the first file does; an index goes, and is flushed, before its data. Each
file is looked at once more right before: what is not what the plan says stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Literal

from ckptctl.bundle.commit import MARK_SUFFIX
from ckptctl.errors import RefusedError
from ckptctl.merge.execute import TRASH_DIRECTORY
from ckptctl.merge.prune_plan import PruneFile, PruneItem, PrunePlan
from ckptctl.merge.removed_log import Logged, log_removed
from ckptctl.merge.state_file import unlist_checkpoints

__all__ = ["Remover"]

#: Items whose indexes go together, before one flush.
_BATCH = 64

#: Status of what no state file may come to name.
_NOT_NAMED = ("damaged", "incomplete", "abandoned")
#: An item, the word for what became of it, and why.
Ended = tuple[PruneItem, str, str]


class Remover:
    """Removes items of a plan, under the directory's lock.

    Parameters
    ----------
    plan
        A plan that was made under the lock.
    items
        What goes of it.
    """

    def __init__(self, plan: PrunePlan, items: Sequence[PruneItem]) -> None:
        self.plan = plan
        self.storage = plan.storage
        self.directory = plan.directory
        self.items = items
        self.trash: str | None = None
        self._word = "removed"
        self._rooms: set[str] = set()

    def run(self) -> list[Ended]:
        """Remove everything and return what became of each item."""
        if not self.items:
            return []
        if self.plan.options.trash:
            self._open_trash()
        log_removed(self.directory, self._lines(files=True), self.storage)
        ended: list[Ended] = []
        for kind, items in self._passes():
            ended += self._pass(kind, items)
        stayed = {(item.kind, item.name) for item, word, _ in ended if word == "changed"}
        log_removed(self.directory, self._lines(files=False), self.storage, stayed)
        return ended

    def _lines(self, *, files: bool) -> Iterator[Logged]:
        for item in self.items:
            if item.kind not in ("full", "increment"):
                continue
            line: Logged = {"kind": item.kind, "name": item.name, "step": item.step}
            line |= {"merged": item.merged, "time": int(time.time())}
            if files:
                line["files"] = {
                    os.path.relpath(file.path, self.directory): list(file.identity[2:])
                    for file in item.files
                }
                line["directories"] = [
                    os.path.relpath(path, self.directory) for path in item.directories
                ]
            yield line

    def _passes(self) -> Iterator[tuple[Literal["full", "increment"] | None, list[PruneItem]]]:
        for abandoned in (True, False):
            for kind in ("increment", "full"):
                found = [
                    item
                    for item in self.items
                    if item.kind == kind and (item.status == "abandoned") == abandoned
                ]
                # Increments from the newest down: a delta series must not lose its beginning.
                found.sort(key=lambda item: item.step or 0, reverse=kind == "increment")
                yield ("increment" if kind == "increment" else "full"), found
        # A mark goes last: it says whose the other files of its name are.
        rest = [item for item in self.items if item.kind == "leftover"]
        yield None, sorted(rest, key=lambda item: (item.path.endswith(MARK_SUFFIX), item.path))

    def _pass(
        self, kind: Literal["full", "increment"] | None, items: Sequence[PruneItem]
    ) -> Iterator[Ended]:
        ready = []
        for item in items:
            why = self._differs(item.files)
            if why is None:
                ready.append(item)
            else:
                yield (item, *why)
        if kind is not None and ready:
            names = frozenset(item.name for item in ready)
            order = self.plan.options.assume_order
            here = {
                item.name
                for item in self.plan.items
                if item.kind == kind and item.status not in _NOT_NAMED
            }
            unlist_checkpoints(self.directory, kind, names, here - names, self.storage, order)
        for at in range(0, len(ready), _BATCH):
            yield from self._batch(ready[at : at + _BATCH])

    def _batch(self, items: Sequence[PruneItem]) -> Iterator[Ended]:
        failed: dict[str, tuple[str, str]] = {}
        for item in items:
            why = self._differs(item.files[:1])
            if why is not None:
                failed[item.path] = why
                continue
            self._away(item.files[:1])
        self._flush()
        for item in items:
            if item.path not in failed:
                why = self._rest(item)
                if why is not None:
                    failed[item.path] = why
        self._flush()
        for item in items:
            yield (item, *failed.get(item.path, (self._word, "")))

    def _rest(self, item: PruneItem) -> tuple[str, str] | None:
        for file in item.files[1:]:
            now = self.storage.stat(file.path, follow=False)
            if now is None:  # someone else was faster
                continue
            if now.identity != file.identity:
                return "changed", f"{os.path.basename(file.path)} changed while it was removed"
            self._away([file])
        for path in item.directories:
            try:
                self.storage.rmdir(path)
            except OSError as error:
                return "changed", f"{os.path.basename(path)}: {error.strerror}"
            self._rooms.add(os.path.dirname(path))
        return None

    def _differs(self, files: Sequence[PruneFile]) -> tuple[str, str] | None:
        """Return why files are not those of the plan, or None."""
        found = [self.storage.stat(file.path, follow=False) for file in files]
        if files and not any(found):
            return "vanished", ""
        for file, now in zip(files, found, strict=True):
            if now is None or now.identity != file.identity:
                what = "is gone" if now is None else "changed"
                return "changed", f"{os.path.basename(file.path)} {what} since the plan was made"
        return None

    def _away(self, files: Sequence[PruneFile]) -> None:
        for file in files:
            if self.trash is None:
                self.storage.remove(file.path)
            else:
                place = os.path.join(self.trash, os.path.relpath(file.path, self.directory))
                self._make(os.path.dirname(place))
                self.storage.rename(file.path, place)
                self._rooms.add(os.path.dirname(place))
            self._rooms.add(os.path.dirname(file.path))

    def _flush(self) -> None:
        for path in sorted(self._rooms):
            if self.storage.stat(path) is not None:
                self.storage.fsync_dir(path)
        self._rooms.clear()

    def _open_trash(self) -> None:
        home = os.path.join(self.directory, TRASH_DIRECTORY)
        info = self.storage.stat(home, follow=False)
        if info is not None and (info.is_symlink or not info.is_dir):
            raise RefusedError("the trash is no directory", file=home)
        here = self.storage.stat(self.directory)
        for item in self.items:
            for file in item.files[:1]:
                if here is not None and file.identity[0] != here.device:
                    raise RefusedError(
                        "the trash lies on another filesystem",
                        file=file.path,
                        remedy="leave --trash out",
                    )
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.trash = os.path.join(home, f"prune.{stamp}.{os.getpid()}")
        self._word = "trashed"
        self._make(self.trash)

    def _make(self, path: str) -> None:
        if path in ("", self.directory) or self.storage.stat(path, follow=False) is not None:
            return
        parent = os.path.dirname(path)
        self._make(parent)
        self.storage.mkdir(path)
        # A power cut must not leave what moves in a directory that never came to be.
        self.storage.fsync_dir(parent)
