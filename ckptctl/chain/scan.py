"""Reading a checkpoint directory: names, state files, and indexes when asked for.

It follows no path of a state file but to see whether it leads to another directory, and enters
no directory but `.incremental_checkpoint` and `.ckptctl`, and `*_temp_<hex>` and `*-emb_files`,
these two to count bytes and to look for a mark of ours. Indexes are read by `source`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from ckptctl.bundle import read_state
from ckptctl.bundle.names import INNER_MARK
from ckptctl.chain.model import (
    NO_STEP,
    SETTLED_NS,
    Checkpoint,
    Kind,
    Leftover,
    Problem,
    Removed,
    Scan,
    StateFile,
)
from ckptctl.chain.names import (
    FileGroup,
    Grouped,
    choose_base_name,
    group_files,
    is_essential,
    split_step,
)
from ckptctl.chain.source import IndexSource
from ckptctl.errors import DamageError, NotFoundError, RefusedError, StateFileError
from ckptctl.storage import LOCAL, FileInfo, Storage
from ckptctl.storage.own import OWN_DIRECTORY, check_no_link

__all__ = [
    "INCREMENT_DIRECTORY",
    "MAX_LOG_BYTES",
    "REMOVED_LOG",
    "belongs_in_place",
    "check_no_increments",
    "scan_again",
    "scan_directory",
]

#: SUB_INCR_CKPT_DIR of incremental_saver.py.
INCREMENT_DIRECTORY = ".incremental_checkpoint"
#: What ckptctl removed here: see `merge.removed_log`, which writes it.
REMOVED_LOG = os.path.join(OWN_DIRECTORY, "removed.jsonl")
MAX_LOG_BYTES = 64 << 20
_DEFAULT_FULL = "model.ckpt"
_DEFAULT_INCREMENT = "incremental_model.ckpt"


def scan_directory(directory: str, storage: Storage = LOCAL) -> Scan:
    """Return what lies in a checkpoint directory; opens no index yet.

    Damaged state files and unreadable pieces are problems of the scan, not errors: the rest
    can still be listed.

    Raises
    ------
    NotFoundError
        There is no such directory.
    RefusedError
        It may not be read.
    """
    # What lies in `models//` would be joined to another path than `os.path.dirname` gives back.
    directory = os.fspath(directory).rstrip("/") or os.fspath(directory)[:1]
    taken_ns = time.time_ns()
    where = storage.stat(os.path.join(directory, "."))
    fulls = _Room(directory, "full", _DEFAULT_FULL, storage)
    increments = _Room(
        os.path.join(directory, INCREMENT_DIRECTORY), "increment", _DEFAULT_INCREMENT, storage
    )
    fulls.read()
    link = storage.stat(increments.directory, follow=False)
    if link is not None:
        increments.read_optional()
    removed, log_problems = _read_removed(os.path.join(directory, REMOVED_LOG), storage)
    return Scan(
        directory=directory,
        device=where.device if where else 0,
        inode=where.inode if where else 0,
        taken_ns=taken_ns,
        fulls=fulls.checkpoints,
        increments=increments.checkpoints,
        others=(*fulls.others, *increments.others),
        leftovers=(*fulls.leftovers, *increments.leftovers, *_own_leftovers(directory, storage)),
        full_state=fulls.state,
        increment_state=increments.state,
        increment_directory=increments.directory,
        increment_link=link is not None and link.is_symlink,
        removed=removed,
        problems=(*fulls.problems, *increments.problems, *log_problems),
        notes=(*fulls.notes, *increments.notes),
    )


def check_no_increments(directory: str, base_names: Iterable[str | None]) -> None:
    """Raise `RefusedError` for a directory of increments, to which no command may write.

    By themselves its increments look like fulls, of which keep rules keep some. It is known by
    its name, or where a link has another one by that of DeepRec's increments.
    """
    if INCREMENT_DIRECTORY in (
        os.path.basename(os.path.abspath(directory)),
        os.path.basename(os.path.realpath(directory)),
    ) or _DEFAULT_INCREMENT in (*base_names,):
        raise RefusedError(
            "these are the increments of a checkpoint directory, and no fulls",
            file=directory,
            remedy=f"give the directory that holds {INCREMENT_DIRECTORY}",
        )


def belongs_in_place(aside: str, storage: Storage) -> bool:
    """Return whether a state file that a killed run of ours set aside is the one that counts.

    Somebody else wrote it, and nobody has written there since. It does not count where the
    checkpoint that it names is gone, and the one that is named in its place is here.
    """
    there = os.path.join(os.path.dirname(aside), "checkpoint")
    return storage.is_displaced(aside) and (_leads(aside, storage) or not _leads(there, storage))


def _leads(path: str, storage: Storage) -> bool:
    """Return whether a state file names a checkpoint that is where it says, or beside it."""
    try:
        state = read_state(path, storage)
    except StateFileError:
        return False
    if state is None:
        return False
    places = (state.latest, os.path.basename(state.latest))
    return any(storage.stat(f"{state.resolve(place)}.index") is not None for place in places)


def scan_again(before: Scan, storage: Storage = LOCAL) -> Scan:
    """Return what lies in the directory of an earlier scan by now.

    A checkpoint none of whose files was touched since, by all that the directory says of them,
    is the one of that scan, with what was read of it: its index is not read again.

    Raises
    ------
    NotFoundError, RefusedError
        As for `scan_directory`.
    """
    scan = scan_directory(before.directory, storage)
    known = {
        each.prefix: each
        for each in (*before.fulls, *before.increments, *before.others)
        if each.was_read_before(before.taken_ns - SETTLED_NS)
    }

    def kept(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, ...]:
        pairs = ((known.get(each.prefix), each) for each in checkpoints)
        return tuple(old if old == new else new for old, new in pairs)

    return scan._replace(
        fulls=kept(scan.fulls),
        increments=kept(scan.increments),
        others=kept(scan.others),
    )


class _Room:
    """One of the two directories of a chain: its listing and its state file."""

    def __init__(self, directory: str, kind: Kind, default: str, storage: Storage) -> None:
        self.directory = directory
        self.kind: Kind = kind
        self.default = default
        self.storage = storage
        self.state = StateFile(os.path.join(directory, "checkpoint"))
        self.checkpoints: tuple[Checkpoint, ...] = ()
        self.others: tuple[Checkpoint, ...] = ()
        self.leftovers: tuple[Leftover, ...] = ()
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        #: A state file that stands in for the one in its place.
        self._displaced: str | None = None

    def read_optional(self) -> None:
        """Read a directory that need not be one."""
        try:
            self.read()
        except (NotFoundError, RefusedError) as error:
            message = f"{self.directory}: {error.message}"
            self.problems.append(Problem("increment-directory", message))

    def read(self) -> None:
        """Read the listing, then the state file, and sort what was found."""
        entries = [self._follow(info) for info in self.storage.listdir(self.directory)]
        grouped = group_files(entries)
        misfits = {info.name for info in grouped.misfits}
        for info in grouped.misfits:
            what = "a link that leads nowhere" if info.is_symlink else "a directory"
            self.problems.append(
                Problem("misfit", f"{self._path(info.name)} is {what}, called like a file")
            )
        self._displaced = self._find_displaced(grouped)
        self.state = self._read_state({info.name: info.is_dir for info in entries})
        if self.state.error is not None:
            message = f"{self.state.path}: {self.state.error.message}"
            self.problems.append(Problem("state-file", message))
        named = [self.state.latest] if self.state.latest is not None else []
        base, note = choose_base_name([*named, *reversed(self.state.listed)], grouped, self.default)
        self.notes += [f"{self.directory}: {note}"] if note else []
        self._sort(grouped, base, misfits)

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _follow(self, info: FileInfo) -> FileInfo:
        """Give a symlink the facts of what it leads to; it stays marked as one.

        An index or data behind a link that leads nowhere just now, to a mount that is gone say,
        is there and cannot be read.
        """
        if not info.is_symlink:
            return info
        try:
            target = self.storage.stat(self._path(info.name))
        except OSError:  # a mount that is gone: as good as nowhere
            target = None
        if target is None:
            return info if is_essential(info.name) else info._replace(is_dir=True)
        return target._replace(name=info.name, is_symlink=True)

    def _sort(self, grouped: Grouped, base: str | None, misfits: set[str]) -> None:
        own: list[Checkpoint] = []
        others: list[Checkpoint] = []
        leftovers: list[Leftover] = []
        for group in grouped.names.values():
            parts = split_step(group.name)
            ours = parts is not None and parts[0] == base
            if group.index is not None:
                (own if ours else others).append(self._checkpoint(group, ours))
            elif ours and f"{group.name}.index" not in misfits:
                leftovers += [self._leftover(group, info) for info in group.unindexed]
        marks = {group.name for group in grouped.names.values() if group.mark is not None}
        for name, info, atomic in grouped.temporaries:
            leftovers.append(self._temporary(name, info, base, atomic, name in marks))
        self.checkpoints = tuple(sorted(own, key=lambda item: (item.step, item.name)))
        self.others = tuple(sorted(others, key=lambda item: item.name))
        self.leftovers = tuple(sorted(leftovers, key=lambda item: item.path))

    def _checkpoint(self, group: FileGroup, ours: bool) -> Checkpoint:
        parts = split_step(group.name)
        base, step = parts if parts is not None else (group.name, NO_STEP)
        kind: Kind = self.kind if ours else "other"
        side: list[tuple[str, FileInfo]] = []
        side_dirs: list[str] = []
        for info in group.side:
            if info.is_dir:
                side_dirs.append(self._path(info.name))
                side += self._inside(info)
            else:
                side.append((self._path(info.name), info))
        assert group.index is not None
        own = (group.index, *group.shards, *group.side)
        away = next((self._path(info.name) for info in own if info.is_unfollowed), "")
        return Checkpoint(
            kind=kind,
            step=step,
            base_name=base,
            name=group.name,
            prefix=self._path(group.name),
            index=group.index,
            source=IndexSource(
                self._path(group.name), kind, step, self.kind == "increment", self.storage, away
            ),
            shards=tuple(group.shards),
            meta=group.meta,
            mark=group.mark,
            side=tuple(side),
            side_dirs=tuple(side_dirs),
        )

    def _inside(self, info: FileInfo) -> list[tuple[str, FileInfo]]:
        """Return the files of a directory, one level deep; nothing through a symlink."""
        path = self._path(info.name)
        if info.is_symlink:
            return []
        try:
            entries = self.storage.listdir(path)
        except (NotFoundError, RefusedError):  # removed meanwhile, or not ours to read
            return []
        return [(os.path.join(path, entry.name), entry) for entry in entries if not entry.is_dir]

    def _leftover(self, group: FileGroup, info: FileInfo) -> Leftover:
        inside = [entry for _, entry in self._inside(info)] if info.is_dir else []
        return Leftover(
            path=self._path(info.name),
            bytes=sum(entry.size for entry in inside) if info.is_dir else info.size,
            mtime_ns=max([info.mtime_ns, *(entry.mtime_ns for entry in inside)]),
            reason="unindexed",
            name=group.name,
            marked=group.mark is not None,
        )

    def _temporary(
        self, name: str, info: FileInfo, base: str | None, atomic: bool, marked: bool
    ) -> Leftover:
        inside = [entry for _, entry in self._inside(info)] if info.is_dir else []
        parts = split_step(name)
        if parts is not None:
            foreign = parts[0] != base
        else:  # many things are called `eval_temp`: ours by a mark, or a state file's
            own = atomic or marked or any(entry.name == INNER_MARK for entry in inside)
            foreign = not own and name != "checkpoint"
        return Leftover(
            path=self._path(info.name),
            bytes=sum(entry.size for entry in inside) if info.is_dir else info.size,
            mtime_ns=max([info.mtime_ns, *(entry.mtime_ns for entry in inside)]),
            reason="atomic" if atomic else "temporary" if info.is_dir else "tempstate",
            name=name,
            marked=marked or atomic,
            foreign=foreign,
            displaced=self._path(info.name) == self._displaced,
        )

    def _find_displaced(self, grouped: Grouped) -> str | None:
        """Return the state file that a killed run of ours did not get to put back.

        The one in its place is ours, and knows nothing of what that one says.
        """
        for _, info, ours in grouped.temporaries_of("checkpoint"):
            path = self._path(info.name)
            with suppress(OSError):  # what cannot be read is told where it is to be changed
                if ours and not info.is_symlink and belongs_in_place(path, self.storage):
                    self.notes.append(
                        f"{path}: the state file as the trainer wrote it, set aside by a run of "
                        "ckptctl that was killed; the next that writes puts it back"
                    )
                    return path
        return None

    def _read_state(self, entries: Mapping[str, bool]) -> StateFile:
        """Return the state file; `entries` is what lies beside it, and whether as a directory."""
        path = os.path.join(self.directory, "checkpoint")
        if "checkpoint" not in entries and self._displaced is None:
            return StateFile(path)
        try:
            source = self._displaced or path
            info = self.storage.stat(source)
            state = read_state(source, self.storage)
            if info is None or state is None:
                raise RefusedError("it leads nowhere")
        except StateFileError as error:
            return StateFile(path, present=True, error=error)
        except RefusedError as error:
            return _unread(path, error, error.message, error.remedy)
        except OSError as error:
            return _unread(path, error, error.strerror or str(error))
        listed = tuple(os.path.basename(item) for item in state.all_paths)
        head, latest = os.path.split(state.latest)
        v1 = tuple(
            name
            for name in dict.fromkeys((*listed, latest))
            if entries.get(name) is False and f"{name}.index" not in entries
        )
        lacking = latest and f"{latest}.index" not in entries and latest not in v1
        return StateFile(
            path,
            present=True,
            mtime_ns=info.mtime_ns,
            listed=listed,
            latest=latest,
            copied=tuple(self._elsewhere({state.latest: None, **dict.fromkeys(state.all_paths)})),
            moved=state.latest if self._moved(state.latest) else None,
            astray=bool(head and lacking and not self._is_here(head)),
            v1=v1,
            state=state._replace(path=path),
        )

    def _moved(self, path: str) -> bool:
        """Return whether a path leads nowhere, and its last name to a checkpoint here."""
        if not os.path.dirname(path) or not os.path.basename(path):
            return False
        try:
            there = self.storage.stat(os.path.join(self.directory, f"{path}.index"))
            here = self.storage.stat(self._path(f"{os.path.basename(path)}.index"))
        except OSError:  # a place that we may not look into is not shown to lack it
            return False
        return there is None and here is not None

    def _is_here(self, directory: str) -> bool:
        """Return whether a directory of a path is this one, under whatever name."""
        try:
            there = self.storage.stat(os.path.join(self.directory, directory, "."))
            here = self.storage.stat(self._path("."))
        except OSError:
            return False
        return there is not None and here is not None and there.identity[:2] == here.identity[:2]

    def _elsewhere(self, paths: Iterable[str]) -> list[str]:
        """Return the paths that lead to a checkpoint in another directory.

        The same directory under another name (a link, a bind mount) has the same device
        and inode.
        """
        here = self.storage.stat(os.path.join(self.directory, "."))
        found = []
        for path in paths:
            parent = os.path.dirname(path)
            if not parent:
                continue
            try:
                there = self.storage.stat(os.path.join(self.directory, parent, "."))
                if there is None or here is None:
                    continue
                same = (there.device, there.inode) == (here.device, here.inode)
                target = os.path.join(self.directory, path)
                if not same and self.storage.stat(f"{target}.index") is not None:
                    found.append(path)
            except OSError:  # a place that we may not look into is not shown to exist
                continue
        return found


def _unread(path: str, cause: Exception, why: str, remedy: str | None = None) -> StateFile:
    remedy = remedy or "see to the disk, the mount or the permissions"
    error = StateFileError(f"state file cannot be read: {why}", file=path, remedy=remedy)
    error.__cause__ = cause
    return StateFile(path, present=True, error=error)


def _own_leftovers(directory: str, storage: Storage) -> list[Leftover]:
    """Return what a killed run left in ckptctl's own room: what it was about to rename."""
    home = os.path.join(directory, OWN_DIRECTORY)
    info = storage.stat(home, follow=False)
    if info is None or not info.is_dir:
        return []
    try:
        grouped = group_files(storage.listdir(home))
    except (NotFoundError, RefusedError):  # not ours to read: then not ours
        return []
    return [
        Leftover(os.path.join(home, each.name), each.size, each.mtime_ns, "atomic", name, True)
        for name, each, ours in grouped.temporaries
        if ours and not each.is_symlink
    ]


def _read_removed(path: str, storage: Storage) -> tuple[tuple[Removed, ...], list[Problem]]:
    try:
        for own in (os.path.dirname(path), path):
            check_no_link(own, storage)
        if storage.stat(path) is None:
            return (), []
        raw = storage.read_small(path, MAX_LOG_BYTES)
    except (DamageError, RefusedError, NotFoundError, OSError) as error:
        return (), [Problem("removed-log", f"{path} cannot be read: {error}")]
    found = []
    problems = []
    for number, line in enumerate(raw.splitlines(), 1):
        item = _removed(line)
        if item is None:
            problems.append(Problem("removed-log", f"{path}: line {number} does not parse"))
        else:
            found.append(item)
    return tuple(found), problems


def _removed(line: bytes) -> Removed | None:
    try:
        item = json.loads(line)
        name = item["name"]
        parts = split_step(name)
        step = item.get("step", parts[1] if parts else None)
        merged = item.get("merged") is True
        kind = item["kind"]
        written = item.get("written_ns")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    if kind not in ("full", "increment") or not isinstance(step, int):
        return None
    return Removed(
        "full" if kind == "full" else "increment",
        name,
        step,
        merged,
        written if type(written) is int else None,
    )
