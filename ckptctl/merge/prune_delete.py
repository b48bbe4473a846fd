"""Removing items from the disk, or moving them to the trash, in an order that is always safe.

Abandoned checkpoints go first, since one that stays may be what shows that they are; then the
other increments, the other fulls, and leftovers. In each pass the state file no longer lists
what goes before the first file does; an index goes, and is flushed, before its data. Each
file is looked at once more right before: what is not what the plan says stays.

A full disk is when people prune. To log and to rewrite a state file takes a block and an inode;
where there is none, as few items as it takes go before their state file is rewritten.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Literal

from ckptctl.bundle import state_bytes
from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.errors import NoSpaceError, RefusedError, StateFileError
from ckptctl.merge.lead import Lead
from ckptctl.merge.prune_plan import PruneFile, PruneItem, PrunePlan
from ckptctl.merge.removed_log import Logged, log_removed
from ckptctl.merge.state_file import unlist_checkpoints
from ckptctl.storage import Storage, is_no_room
from ckptctl.storage.own import TRASH_DIRECTORY, make_new

__all__ = ["Remover", "is_gone"]

#: Items whose indexes go together, before one flush.
_BATCH = 64

#: Items that may go to make room on a full disk: should they free nothing, someone else takes
#: it at once, and a state file would come to list much that is gone.
_MOST_FOR_ROOM = 8

#: Status of what no state file may come to name.
_NOT_NAMED = ("damaged", "incomplete", "abandoned")
#: An item, the word for what became of it, and why.
Ended = tuple[PruneItem, str, str]


def is_gone(files: Sequence[PruneFile], storage: Storage) -> bool:
    """Return whether somebody else removes an item: its index is gone, or all of it."""
    if files and files[0].path.endswith(".index"):
        files = files[:1]  # a Saver deletes that first (`remove_checkpoint`)
    return bool(files) and all(storage.stat(each.path, follow=False) is None for each in files)


class Remover:
    """Removes items of a plan, under the directory's lock.

    Parameters
    ----------
    plan
        A plan that was made under the lock.
    items
        What goes of it.
    still_ours
        Called right before anything is changed; raises when the lock is lost.

    Attributes
    ----------
    ended
        What became of each item so far.
    """

    def __init__(
        self,
        plan: PrunePlan,
        items: Sequence[PruneItem],
        still_ours: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.storage = plan.storage
        self.directory = plan.directory
        self.items = items
        self.ended: list[Ended] = []
        self._still_ours = still_ours
        self.trash: str | None = None
        self.warnings: list[str] = []
        self._word = "removed"
        self._rooms: set[str] = set()
        self._unlogged = False
        self._lead = Lead.of(plan.scan) if plan.scan is not None else Lead()
        self._going = {(item.kind, item.name): item for item in items}
        self._on = True

    def run(self) -> None:
        """Remove everything."""
        if not self.items:
            return
        self._still_ours()
        if self.plan.options.trash:
            try:
                self._open_trash()
            except OSError as error:
                if not is_no_room(error):
                    raise
                raise _no_room(self.directory) from error
        self._log(files=True)
        for kind, items in self._passes():
            # What made room in an earlier pass is gone by now.
            done = {item.path for item, _, _ in self.ended}
            self.ended.extend(self._pass(kind, [item for item in items if item.path not in done]))
        words = ("changed", "kept")
        stayed = {(item.kind, item.name) for item, word, _ in self.ended if word in words}
        self._log(files=False, stayed=stayed)
        if self._unlogged:
            self.warnings.append("the disk is full: what was removed could not be noted")

    def _log(self, *, files: bool, stayed: Collection[tuple[str, str]] = ()) -> None:
        """Note what goes, where there is room for it.

        Without it what a killed run leaves is listed like any leftover, and nothing is lost.
        """
        lines = list(self._lines(files=files))
        if not lines:
            return
        try:
            log_removed(self.directory, lines, self.storage, stayed)
        except OSError as error:
            if not is_no_room(error):
                raise
            self._unlogged = True
        else:
            self._unlogged = False

    def _lines(self, *, files: bool) -> Iterator[Logged]:
        for item in self.items:
            if item.kind not in ("full", "increment"):
                continue
            line: Logged = {"kind": item.kind, "name": item.name, "step": item.step}
            line |= {"merged": item.merged, "time": int(time.time())}
            if item.kind == "full":
                line["written_ns"] = item.written_ns
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
                    if item.kind == kind and (item.code == "abandoned") == abandoned
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
            went = list(self._unlist(kind, ready))
            yield from went
            done = {item.path for item, _, _ in went}
            ready = [item for item in ready if item.path not in done]
            if self._unlogged:
                self._log(files=True)
        for at in range(0, len(ready), _BATCH):
            yield from self._batch(ready[at : at + _BATCH])

    def _unlist(
        self, kind: Literal["full", "increment"], items: Sequence[PruneItem]
    ) -> Iterator[Ended]:
        """Leave items out of their state file; on a full disk some of them go first.

        Leftovers are in no state file, so they make room at no risk. An item that its state
        file still lists for a moment is one that a restore needs no more: who comes in
        between finds the newest one all the same.
        """
        gone = {item.name: item.files[0].identity for item in items}
        order = self.plan.options.assume_order
        here = {
            item.name
            for item in self.plan.items
            if item.kind == kind and item.status not in _NOT_NAMED
        }
        room: list[PruneItem] | None = None
        while True:
            self._still_ours()
            try:
                unlist_checkpoints(
                    self.directory,
                    kind,
                    gone,
                    here - gone.keys(),
                    self.storage,
                    order,
                    may=self._may_go_on,
                    aside=lambda: self._state_to_trash(kind),
                )
                return
            except OSError as error:
                if not is_no_room(error):
                    raise
                if room is None:
                    room = self._makes_room(items)
                if not room:
                    raise _no_room(self.directory) from error
            yield from self._batch([room.pop(0)])

    def _makes_room(self, items: Sequence[PruneItem]) -> list[PruneItem]:
        """Return what frees something when it goes, what harms least first."""
        if self.trash is not None:
            return []
        leftovers = [
            item
            for item in self.items
            if item.kind == "leftover" and not item.path.endswith(MARK_SUFFIX)
        ]
        found = []
        for item in (*leftovers, *items):
            infos = [self.storage.stat(file.path, follow=False) for file in item.files]
            # A file that has another name, in a backup of links say, frees nothing.
            if self._differs(item.files) is None and all(i and i.links == 1 for i in infos):
                found.append(item)
        return found[:_MOST_FOR_ROOM]

    def _batch(self, items: Sequence[PruneItem]) -> Iterator[Ended]:
        failed: dict[str, tuple[str, str]] = {}
        self._still_ours()
        for item in items:
            why = self._led_elsewhere() or self._differs(item.files[:1])
            if why is not None:
                failed[item.path] = why
                continue
            self._away(item.files[:1])
            # Gone for good before the data: alone it would be nobody's, since a checkpoint of
            # TensorFlow's first format has one too.
            meta = [file for file in item.files[1:] if file.path == f"{item.path}.meta"]
            if meta and self._differs(meta) is None:
                self._away(meta)
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
                self.storage.rmdir(path, within=self.directory)
            except OSError as error:
                return "changed", f"{os.path.basename(path)}: {error.strerror}"
            self._rooms.add(os.path.dirname(path))
        return None

    def _may_go_on(self, lead: Lead) -> bool:
        """Return whether the state files lead on from where they led when it was judged.

        Not to what is to go, and not back: what else is needed then nobody has judged.
        """
        named = [self._going[each] for each in lead.items if each in self._going]
        still = any(self._differs(item.files[:1]) is None for item in named)  # not saved anew
        self._on = self._on and lead >= self._lead and not still
        return self._on

    def _led_elsewhere(self) -> tuple[str, str] | None:
        try:
            if self._may_go_on(Lead.read(self.directory, self.storage)):
                return None
        except StateFileError:  # what was begun is brought to its end
            self._on = False
        return "kept", "the run was set back since the plan was made: state files lead elsewhere"

    def _differs(self, files: Sequence[PruneFile]) -> tuple[str, str] | None:
        """Return why files are not those of the plan, or None."""
        if is_gone(files, self.storage):
            return "vanished", ""
        found = [self.storage.stat(file.path, follow=False) for file in files]
        for file, now in zip(files, found, strict=True):
            if now is None or now.identity != file.identity:
                what = "is gone" if now is None else "changed"
                return "changed", f"{os.path.basename(file.path)} {what} since the plan was made"
        return None

    def _away(self, files: Sequence[PruneFile]) -> None:
        for file in files:
            if self.trash is None:
                self.storage.remove(file.path, within=self.directory)
            else:
                place = os.path.join(self.trash, os.path.relpath(file.path, self.directory))
                self._make(os.path.dirname(place))
                self.storage.rename(file.path, place, within=self.directory)
                self._rooms.add(os.path.dirname(place))
            self._rooms.add(os.path.dirname(file.path))

    def _state_to_trash(self, kind: Literal["full", "increment"]) -> None:
        """Put a state file that is about to go beside what it listed before anything went.

        Often its lines alone show what is abandoned.
        """
        scan = self.plan.scan
        if self.trash is None or scan is None:
            return
        found = scan.full_state if kind == "full" else scan.increment_state
        place = os.path.join(self.trash, os.path.relpath(found.path, self.directory))
        now = self.storage.stat(found.path)
        if found.state is None or now is None or self.storage.stat(place) is not None:
            return
        self._make(os.path.dirname(place))
        self.storage.write_new(place, state_bytes(found.state))
        self.storage.copy_attributes(place, now, found.path)
        self.storage.fsync_dir(os.path.dirname(place))

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
        self._make(home)
        place = os.path.join(home, f"prune.{stamp}.{os.getpid()}")
        self.trash = make_new(place, here, self.storage)
        self.storage.fsync_dir(home)
        self._word = "trashed"

    def _make(self, path: str) -> None:
        if path in ("", self.directory) or self.storage.stat(path, follow=False) is not None:
            return
        parent = os.path.dirname(path)
        self._make(parent)
        self.storage.mkdir(path, self.storage.stat(self.directory))
        # A power cut must not leave what moves in a directory that never came to be.
        self.storage.fsync_dir(parent)


def _no_room(directory: str) -> NoSpaceError:
    return NoSpaceError(
        "the disk is full, and nothing that may go makes room to rewrite the state file",
        file=directory,
        remedy="free a few blocks or inodes by hand (df, df -i), and run it again; --trash and "
        "hard links free nothing",
    )
