"""State files: a new full in its place, what was removed left out, nothing else lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Literal

from ckptctl.bundle import CheckpointState, state_bytes
from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    Chains,
    Scan,
    StateFile,
    find_chains,
    scan_directory,
    split_step,
)
from ckptctl.chain.problems import incompleteness
from ckptctl.chain.timelines import find_timelines
from ckptctl.errors import ChangedError, ExistsError, RefusedError
from ckptctl.merge.lead import Lead
from ckptctl.storage import FileInfo, Storage

__all__ = [
    "ROUNDS",
    "Identity",
    "check_not_linked",
    "drop_checkpoints",
    "enter_fulls",
    "find_hidden",
    "fresh_checkpoints",
    "insert_full",
    "is_judged_alike",
    "replace_state",
    "unlist_checkpoints",
    "update_state_file",
    "written",
]

#: Times that the directory may change under us before we give up.
ROUNDS = 20

#: Which file it is: device, inode, size and mtime.
Identity = tuple[int, int, int, int]


def insert_full(state: CheckpointState, name: str, when: float, *, newest: bool) -> CheckpointState:
    """Return the state with a full of the same directory in its place.

    Parameters
    ----------
    state
        The state file as it is.
    name
        Name of the full, `<base name>-<step>`.
    when
        Seconds since the epoch; bent to lie between those of its neighbours.
    newest
        Whether it is the newest live full: the state file then names it.

    The list stays in step order, timestamps stay one a path, and relative paths stay
    relative.
    """
    path = _path_in(state, name)
    if name in map(os.path.basename, state.all_paths):
        path = next(p for p in state.all_paths if os.path.basename(p) == name)
        return state._replace(latest=path) if newest else state
    step = _step(name)
    steps = [_step(path) for path in state.all_paths]
    at = next((i for i, other in enumerate(steps) if other > step), len(steps))
    times = list(state.timestamps)
    if times:
        low = times[at - 1] if at else None
        high = times[at] if at < len(times) else None
        when = max(when, low) if low is not None else when
        when = min(when, high) if high is not None else when
        times.insert(at, when)
    return state._replace(
        latest=path if newest else state.latest,
        all_paths=(*state.all_paths[:at], path, *state.all_paths[at:]),
        timestamps=tuple(times),
    )


def written(state: CheckpointState, scan: Scan) -> StateFile:
    """Return a state file as a scan would find it, had it been written just now."""
    listed = tuple(os.path.basename(path) for path in state.all_paths)
    latest = os.path.basename(state.latest)
    return StateFile(state.path, True, scan.taken_ns, listed, latest, state=state)


def is_judged_alike(
    chains: Chains,
    kind: Literal["full", "increment"],
    after: CheckpointState,
    new: Collection[str] = (),
) -> bool:
    """Return whether all but the `new` fulls would be live or abandoned as they are now.

    `after` is what the state file of a kind would come to be. A run that was set back stays so:
    often a line of a state file is all that shows it.
    """
    # What rests on a new one that was not listed may count from then on: as if it were not there.
    fulls = [full for full in chains.scan.fulls if full.name not in new or chains.is_live(full)]
    scan = chains.scan._replace(fulls=tuple(fulls))
    state = written(after, scan)
    changed = scan._replace(full_state=state)
    if kind == "increment":
        changed = scan._replace(increment_state=state)
    now, later = (find_timelines(each, chains.assume_order) for each in (scan, changed))
    others = [*scan.increments]
    others += [f for f in fulls if f.name not in new and (f.complete or not now.is_live(f))]
    return all(later.is_live(item) == now.is_live(item) for item in others)


def enter_fulls(
    chains: Chains, new: Mapping[str, float], newest: str | None = None
) -> CheckpointState | None:
    """Return the state file of the fulls with new ones in it, or None where that cannot be.

    The line that a run was set back by names an old full, and by that alone those above it are
    abandoned. Where another one is named they are left out: what is unlisted and lies above it
    is abandoned too. Nothing is entered where even so one would come back. A line that names what
    is here and has no step stays: nothing tells whether it is older. So does one that names a full
    above the newest, which is lost and may come back: all that is saved on it would be left.

    Parameters
    ----------
    chains
        The directory; it has a state file.
    new
        Names to times, as for `insert_full`.
    newest
        The newest live full; default: look for it.
    """
    state = chains.scan.full_state.state
    assert state is not None
    fulls = chains.scan.fulls
    if newest is None:
        live = (full.name for full in fulls if full.complete and chains.is_live(full))
        newest = max((*live, *new), key=_step)
    named = os.path.basename(state.latest)
    if chains.scan.other_named_in(chains.scan.full_state) is not None or _is_lost_above(
        chains, named, newest
    ):
        newest = ""
    elif named and named not in map(os.path.basename, state.all_paths):  # listed by that alone
        saved = (full.mtime_ns / 1e9 for full in fulls if full.name == named)
        state = insert_full(state, named, next(saved, 0.0), newest=False)
    dead = {full.name for full in fulls if full.name not in new and not chains.is_live(full)}
    for out in ((), dead):
        after = drop_checkpoints(state, out, ())
        assert after is not None  # what it names is live
        for name, when in sorted(new.items(), key=lambda each: _step(each[0])):
            after = insert_full(after, name, when, newest=name == newest)
        if is_judged_alike(chains, "full", after, new):
            return after
    return None


def _is_lost_above(chains: Chains, named: str, newest: str) -> bool:
    """Return whether a lost full is named that the newest was not merged instead of."""
    by_name = {full.name: full for full in chains.scan.fulls}
    lost, new = by_name.get(named), by_name.get(newest)
    if _step(named) <= _step(newest) or (lost is not None and lost.complete):
        return False
    return new is None or new.merged is None or new.merged.instead != named


def update_state_file(
    directory: str,
    name: str,
    when: float,
    storage: Storage,
    assume_order: str | None = None,
    *,
    make: bool = False,
) -> str | None:
    """Put a new full into the state file of its directory.

    A live trainer rewrites the file from its own memory, so it is replaced only if it is
    still the file that was read, and the directory is scanned right after: a full that was
    committed meanwhile is added, until nothing changes any more. Where there is no state file
    none is made, since it would hide the fulls that it does not list; with `make` one is where
    the new full is alone.

    Parameters
    ----------
    directory
        The checkpoint directory, the new full in it.
    name, when
        The new full, and its time in seconds since the epoch.
    assume_order
        As for `find_chains`.
    make
        Make the state file where there is none, and nothing that it would hide.

    Returns
    -------
    str or None
        Why the state file does not list the full, or None where it does; "" without a state
        file. What a state file names counts as live for ever, so one that is abandoned by now
        is not entered.

    Raises
    ------
    ChangedError
        It kept changing.
    StateFileError
        It does not parse.
    UnreadableError
        The new full could not be read.
    """
    path = os.path.join(directory, "checkpoint")
    first = storage.stat(path)
    since = first.mtime_ns if first is not None else 0
    seen: frozenset[tuple[str, Identity]] | None = None
    for _ in range(ROUNDS):
        info = storage.stat(path)  # first: what is judged below is this file, or not replaced
        chains = find_chains(scan_directory(directory, storage), assume_order)
        if seen is None:
            seen = frozenset((full.name, full.index.identity) for full in chains.scan.fulls)
        # A copy of a full looks like a save of the trainer, and one that a state file of the
        # last two seconds does not list like an old one; it was checked before it was made.
        live = {
            full.name: full
            for full in chains.scan.fulls
            if full.complete
            # Saved since we began, and unlisted by our own rename: not left over from a rollback.
            and (
                chains.is_live(full)
                or (full.name, full.index.identity) not in seen
                or (full.name == name and full.merged is None)
            )
        }
        ours = next((full for full in chains.scan.fulls if full.name == name), None)
        if ours is not None and ours.unread is not None:
            raise ours.unread
        before = _state_in(chains.scan.full_state)
        if ours is None:  # without a state file it may be called otherwise than all others
            return "it is gone: somebody else removed it" if before is not None else ""
        if not ours.complete:
            return f"somebody else wrote there too: {incompleteness(ours)[0].message}"
        if name not in live:
            return "it was abandoned by a rollback of the trainer while it was merged"
        if before is None:
            if not make or find_hidden(chains.scan, name):
                return ""
            made = CheckpointState(path, name, (name,), (when,))
            with suppress(ExistsError):  # a trainer was faster
                storage.write_atomic(path, state_bytes(made), ours.index, new=True)
            continue
        listed = set(map(os.path.basename, before.all_paths))
        # What a trainer has just committed, and may have listed where we overwrote it.
        fresh = {
            full.name: full.mtime_ns / 1e9
            for full in live.values()
            if (full.name not in listed or (full.name, full.index.identity) not in seen)
            and full.merged is None
            and full.mtime_ns >= since
        }
        after = enter_fulls(chains, {**fresh, name: when}, max(live, key=_step))
        if after is None:
            return "what a rollback left behind would count as live again"
        if after == before:
            return None
        replace_state(path, after, info, storage)
    raise ChangedError(
        "the state file kept changing under us",
        file=path,
        remedy="the new full is complete; run the merge again to list it",
    )


def drop_checkpoints(
    state: CheckpointState,
    gone: Collection[str],
    here: Collection[str],
    fresh: Mapping[str, float] | None = None,
) -> CheckpointState | None:
    """Return the state without some checkpoints, or None where nothing is left to name.

    Parameters
    ----------
    state
        The state file as it is.
    gone
        Names to leave out. What it lists and nobody finds stays: it is evidence that
        something was saved and went (`restore.md`, check 3).
    here
        Names of what stays and may be named where the one that was named goes: what is here,
        live and complete.
    fresh
        Name to time of what was committed and is not yet listed. As the Saver would do, it
        is appended and named: to rewrite the file without it would make it look abandoned.
    """
    places = [i for i, path in enumerate(state.all_paths) if os.path.basename(path) not in gone]
    dropped = len(places) < len(state.all_paths) or os.path.basename(state.latest) in gone
    if not dropped and not fresh:
        return state
    paths = [state.all_paths[i] for i in places]
    times = [state.timestamps[i] for i in places] if state.timestamps else []
    latest = state.latest
    if os.path.basename(latest) in gone:
        # An empty path names nothing, whoever wrote it: TensorFlow raises where it is the latest.
        left = [path for path in paths if path and os.path.basename(path) in here]
        if not left and not fresh:
            return None
        latest = left[-1] if left else ""
    for name, when in sorted((fresh or {}).items(), key=lambda item: _step(item[0])):
        latest = _path_in(state, name)
        paths.append(latest)
        if state.timestamps:
            times.append(max([when, *times[-1:]]))
    return state._replace(latest=latest, all_paths=tuple(paths), timestamps=tuple(times))


def fresh_checkpoints(chains: Chains, kind: Literal["full", "increment"]) -> dict[str, float]:
    """Return name to time of what was committed since the state file was written."""
    scan = chains.scan
    state, found = _room(scan, kind), scan.fulls if kind == "full" else scan.increments
    named = split_step(state.latest or "")
    if named is None:
        return {}
    return {
        item.name: item.mtime_ns / 1e9
        for item in found
        if item.name not in state.order
        and item.step > named[1]
        and item.mtime_ns >= (state.mtime_ns or 0)
        and item.merged is None
        and item.complete
        and chains.is_live(item)
    }


def unlist_checkpoints(
    directory: str,
    kind: Literal["full", "increment"],
    gone: Mapping[str, Identity | None],
    here: Collection[str],
    storage: Storage,
    assume_order: str | None = None,
    *,
    may: Callable[[Lead], bool] = lambda lead: True,
    aside: Callable[[], None] = lambda: None,
) -> None:
    """Leave checkpoints out of the state file that lists them, before they are removed.

    Replaced only if it is still the file that was read, and looked at again right after,
    until a live trainer that rewrites it no longer lists them. Where nothing remains the file
    is removed: TensorFlow raises on an empty one.

    Parameters
    ----------
    gone
        Name to the index that was judged; None where none was there. What a trainer has saved
        anew by now stays listed. So does what is named though none was there: a Saver names
        what it has just saved, so that is the line of somebody who sets the run back.
    here
        As for `drop_checkpoints`.
    may
        Asked each time with where the state files lead by then: whether to go on.
    aside
        Called before the file is removed.

    Raises
    ------
    ChangedError
        It kept changing.
    StateFileError
        It does not parse.
    """
    seen: frozenset[tuple[str, Identity]] | None = None
    fresh: dict[str, float] = {}
    untouched = True
    home = directory if kind == "full" else os.path.join(directory, INCREMENT_DIRECTORY)
    path = os.path.join(home, "checkpoint")
    for _ in range(ROUNDS):
        info = storage.stat(path)  # first: what is judged below is this file, or not replaced
        chains = find_chains(scan_directory(directory, storage), assume_order)
        scan = chains.scan
        found = scan.fulls if kind == "full" else scan.increments
        before = _state_in(_room(scan, kind))
        if before is None or not may(Lead.of(scan)):
            return
        listed = set(_room(scan, kind).order)
        now = {item.name: item.index.identity for item in found}
        drop = {
            name
            for name, judged in gone.items()
            if now.get(name, judged) == judged
            and (judged is not None or name != os.path.basename(before.latest))
        }
        if seen is None:
            if kind == "increment":
                check_not_linked(directory, home, storage)
            seen = frozenset(now.items())
            fresh = fresh_checkpoints(chains, kind)
        # By the rules of a fresh scan our own, newer state file would make these abandoned.
        fresh |= {
            item.name: item.mtime_ns / 1e9
            for item in found
            if (item.name, item.index.identity) not in seen
            and item.step > _step(before.latest)
            and scan.other_named_in(_room(scan, kind)) is None
            and item.complete
        }
        by = chains.timelines  # a lower step that was saved since is not our doing
        for item in (each for each in found if each.name in fresh):
            if not (by.is_live(item) or by.only_named_below(item)):
                del fresh[item.name]
        found_names = now.keys() - drop
        new = {name: when for name, when in fresh.items() if name in found_names - listed}
        if not listed & drop and (untouched or not new):
            return
        untouched = False
        nameable = found_names & {*here, *fresh}
        after = drop_checkpoints(before, drop, nameable, new)
        if after is None:
            aside()
        replace_state(path, after, info, storage)
    raise ChangedError(
        "the state file kept changing under us",
        file=path,
        remedy="nothing that it lists was removed: run it again when the trainer is idle",
    )


def find_hidden(scan: Scan, name: str) -> tuple[str, ...]:
    """Return what lies beside a full, and a state file that lists that one alone would hide."""
    home = os.path.dirname(scan.full_state.path)
    others = (each for each in (*scan.fulls, *scan.others) if each.name != name)
    return tuple(each.name for each in others if os.path.dirname(each.prefix) == home)


def _state_in(found: StateFile) -> CheckpointState | None:
    """Return what a scan read, or raise why it does not parse."""
    if found.error is not None:
        raise found.error
    return found.state


def check_not_linked(directory: str, home: str, storage: Storage) -> None:
    """Raise `RefusedError` where the increments lie behind a link: another's state file."""
    link = storage.stat(home, follow=False)
    if home != directory and link is not None and link.is_symlink:
        raise RefusedError(
            "nothing is rewritten through a symbolic link",
            file=home,
            remedy="make it a directory of its own (a bind mount will do), or edit the state file",
        )


def replace_state(
    path: str, state: CheckpointState | None, expect: FileInfo | None, storage: Storage
) -> None:
    """Replace a state file, or remove it where nothing is left to name.

    Unless somebody has replaced it since it was looked at: the caller looks again anyway.
    """
    if expect is None:  # it came into being between our look and our reading
        return
    with suppress(ChangedError):
        if state is None:
            storage.remove(path, expect=expect)
            storage.fsync_dir(os.path.dirname(path))
        else:
            storage.write_atomic(path, state_bytes(state), expect, expect=expect)


def _room(scan: Scan, kind: Literal["full", "increment"]) -> StateFile:
    return scan.full_state if kind == "full" else scan.increment_state


def _path_in(state: CheckpointState, name: str) -> str:
    """Return how a state file names what is new beside it.

    Absolute where it names the others so. Where their directory is not this one, which was moved
    or is mounted elsewhere, a name alone is right in every place.
    """
    head = os.path.dirname(state.latest)
    if not os.path.isabs(head):  # nor is our working directory asked for: it may be gone
        return name
    try:
        here = os.path.realpath(head) == os.path.realpath(os.path.dirname(state.path))
    except ValueError:  # no path can be called so, whatever a state file says
        here = False
    return os.path.join(head, name) if here else name


def _step(path: str) -> int:
    parts = split_step(os.path.basename(path))
    return -1 if parts is None else parts[1]
