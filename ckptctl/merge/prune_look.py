"""What a prune has to look at before its rules decide: files, marks, keys, times."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from ckptctl.bundle.commit import INNER_MARK
from ckptctl.chain import (
    Chains,
    Checkpoint,
    Leftover,
    ProvenPairs,
    Scan,
    find_chains,
    find_changed,
)
from ckptctl.chain.names import Grouped, group_files
from ckptctl.errors import DamageError, NotFoundError, RefusedError, UnprovenError
from ckptctl.merge.destination import own_files, own_temporaries, saved_time
from ckptctl.merge.prune_plan import PruneFile
from ckptctl.merge.removed_log import read_identities
from ckptctl.progress import Progress
from ckptctl.restore import RestoreOptions, open_state
from ckptctl.restore.nested import check_nested
from ckptctl.restore.select import select
from ckptctl.storage import FileInfo, Storage

__all__ = ["Owned", "Pairs", "fingerprint", "newest_sound", "own_leftovers", "owned", "save_times"]


class Pairs(ProvenPairs):
    """Proven pairs of this run, and those of earlier ones; without `keep` only here."""

    def __init__(self, scan: Scan, *, keep: bool) -> None:
        super().__init__(scan)
        self._keep = keep
        self._known: dict[object, bool] = {}

    def __contains__(self, pair: object) -> bool:
        if pair not in self._known:
            self._known[pair] = super().__contains__(pair)
        return self._known[pair]

    def add(self, pair: tuple[str, str]) -> None:
        """Remember a pair."""
        self._known[pair] = True
        if self._keep:
            super().add(pair)

    def prove(
        self, chains: Chains, storage: Storage, progress: Progress
    ) -> tuple[Chains, tuple[str, ...]]:
        """Compare the keys of increments that no full covers, pair by pair.

        Returns
        -------
        Chains, tuple of str
            The chains with what is known now, and what damage was met.
        """
        failed: set[tuple[str, str]] = set()
        damage: list[str] = []
        for chain in chains.chains:
            series = [i for i in chains.nested_series(chain.base) if not chains.is_stale(i)]
            for number in range(1, len(series)):
                pair = series[number - 1 : number + 1]
                try:
                    check_nested(chain.base.prefix, pair, self, storage, progress=progress)
                except UnprovenError:
                    failed.add((pair[0].prefix, pair[1].prefix))
                except DamageError as error:
                    if find_changed((chain.base, *pair), storage) is None:
                        damage.append(str(error))
                except (RefusedError, NotFoundError):  # not proven, and so not superseded
                    continue
        order = "step" if chains.timelines.order.by_step else None
        return find_chains(chains.scan, order, frozenset(failed), self), tuple(damage)


def newest_sound(chains: Chains, storage: Storage) -> str | None:
    """Return the prefix of the newest restore point whose checks 1 to 5 have all passed."""
    found = sorted(
        (*chains.scan.increments, *chains.scan.fulls),
        key=lambda item: (item.step, item.kind == "full"),
    )
    for item in reversed(found):
        if chains.is_restore_point(item) and (
            item.kind == "full" or _passes(chains, item, storage)
        ):
            return item.prefix
    return None


def _passes(chains: Chains, increment: Checkpoint, storage: Storage) -> bool:
    options = RestoreOptions(assume_order="step" if chains.timelines.order.by_step else None)
    try:
        chosen = select(chains, increment.step, options)
        series = [item.prefix for item in chosen.to_prove]
        if any(pair not in chains.proven_nested for pair in pairwise(series)):
            return False
        prefixes = [item.prefix for item in chosen.increments]
        open_state(chosen.base.prefix, prefixes, options, storage).close()
    except (RefusedError, DamageError, NotFoundError):
        return False
    return True


# --- files ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Owned:
    """The files of every item, and which items are not ours to remove.

    Attributes
    ----------
    files, directories
        Path of an item to its files, in the order in which they go, and its directories.
    untouchable
        Path of an item to why not.
    """

    files: dict[str, tuple[PruneFile, ...]] = field(default_factory=dict)
    directories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    untouchable: dict[str, str] = field(default_factory=dict)


def owned(scan: Scan, storage: Storage) -> Owned:
    """Return the files of every checkpoint and leftover."""
    found = Owned()
    for item in (*scan.fulls, *scan.increments, *scan.others):
        files, why = item.files, None
        for path in item.side_dirs:
            why = why or _foreign_inside(path, {each for each, _ in item.side}, storage)
        _add(found, scan, item.prefix, files, item.side_dirs, why)
    for leftover in scan.leftovers:
        _add_leftover(found, scan, leftover, storage)
    return found


def _add(
    found: Owned,
    scan: Scan,
    path: str,
    files: tuple[tuple[str, FileInfo], ...],
    directories: tuple[str, ...],
    why: str | None,
) -> None:
    if scan.increment_link and path.startswith(f"{scan.increment_directory}/"):
        why = f"{scan.increment_directory} is a symbolic link: nothing is removed through one"
    for name, info in files:
        if info.is_symlink:
            why = why or f"{os.path.basename(name)} is a symbolic link"
        elif not stat.S_ISREG(info.mode):
            why = why or f"{os.path.basename(name)} is not a regular file"
    found.files[path] = tuple(PruneFile(name, info.identity) for name, info in files)
    found.directories[path] = directories
    if why is not None:
        found.untouchable[path] = why


def _add_leftover(found: Owned, scan: Scan, leftover: Leftover, storage: Storage) -> None:
    path = leftover.path
    info = storage.stat(path, follow=False)
    if info is None:
        _add(found, scan, path, (), (), "gone meanwhile")
    elif not info.is_dir:
        _add(found, scan, path, ((path, info),), (), None)
    else:
        try:
            inside = _listed(path, storage)
        except RefusedError:  # somebody else's
            _add(found, scan, path, (), (path,), "it may not be looked into")
            return
        why = _foreign_inside(path, {os.path.join(path, each.name) for each in inside}, storage)
        # The mark inside says whose the rest is: it goes last.
        inside.sort(key=lambda each: (each.name.startswith(INNER_MARK), each.name))
        files = tuple((os.path.join(path, each.name), each) for each in inside)
        _add(found, scan, path, files, (path,), why)


def _foreign_inside(path: str, known: set[str], storage: Storage) -> str | None:
    """Return what speaks against removing a directory that these files lie in."""
    info = storage.stat(path, follow=False)
    if info is not None and info.is_symlink:
        return f"{os.path.basename(path)} is a symbolic link"
    try:
        inside = _listed(path, storage)
    except RefusedError:
        return f"{os.path.basename(path)} may not be looked into"
    for each in inside:
        if each.is_dir or os.path.join(path, each.name) not in known:
            return f"{os.path.basename(path)} holds {each.name}, which is no file of ours"
    return None


def _listed(path: str, storage: Storage) -> list[FileInfo]:
    try:
        return storage.listdir(path)
    except NotFoundError:
        return []


def own_leftovers(
    scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage
) -> set[str]:
    """Return the paths of what a killed run of ours left behind.

    What a mark names, and what the log of removals names, file by file.
    """
    logged, rooms = read_identities(scan.directory, storage)
    found: set[str] = set()
    marks: dict[str, frozenset[str]] = {}
    homes: dict[str, Grouped] = {}  # each is listed once, however much was left behind
    for leftover in scan.leftovers:
        path = leftover.path
        prefix = os.path.join(os.path.dirname(path), leftover.name)
        inside = [file.path for file in files.get(path, ())]
        if leftover.reason == "atomic":
            found.add(path)
            continue
        if prefix not in marks:
            home = os.path.dirname(path)
            if home not in homes:
                homes[home] = group_files(storage.listdir(home or "."))
            names = own_temporaries(prefix, storage, homes[home])
            marks[prefix] = own_files(prefix, storage) | {
                os.path.join(home, name) for name in names
            }
        ours = marks[prefix]
        if path in ours or (inside and all(each in ours for each in inside)):
            found.add(path)
    for path, own in files.items():
        known = all(logged.get(file.path) == file.identity[2:] for file in own)
        if known and (own or path in rooms):
            found.add(path)
    return found


# --- times, and all of it in one number ------------------------------------------------


def save_times(chains: Chains, storage: Storage) -> Callable[[Checkpoint], float | None]:
    """Return a function that says when a checkpoint was saved, in seconds since 1970.

    The state file says so where it keeps times; of what ckptctl merged its mark says when the
    newest source was saved; else mtimes, where they are not those of a copy; else nothing does.
    """
    scan = chains.scan
    usable = (
        chains.timelines.order.time_usable
        if not chains.timelines.order.by_step
        else find_chains(scan).timelines.order.time_usable
    )
    stamps = {
        (kind, os.path.basename(path)): when
        for kind, file in (("full", scan.full_state), ("increment", scan.increment_state))
        if file.state is not None
        for path, when in zip(file.state.all_paths, file.state.timestamps, strict=False)
        if 0 < when < math.inf  # what a text format calls a number may be none
    }

    def when(checkpoint: Checkpoint) -> float | None:
        stamp = stamps.get((checkpoint.kind, checkpoint.name))
        if stamp is None:
            stamp = saved_time(checkpoint, storage)
        return stamp if stamp is not None else checkpoint.mtime_ns / 1e9 if usable else None

    return when


def fingerprint(scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage) -> str:
    """Return what changes with every file that a prune of the directory depends on."""
    digest = hashlib.sha256()
    for line in _facts(scan, files, storage):
        digest.update(repr(line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _facts(
    scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage
) -> Iterator[object]:
    yield scan.device, scan.inode
    for path in sorted(files):
        yield os.path.relpath(path, scan.directory), [file.identity for file in files[path]]
    for state in (scan.full_state, scan.increment_state):
        info = storage.stat(state.path)
        yield None if info is None else info.identity
