"""The state file after a merge: the new full in its place, nothing else lost."""

from __future__ import annotations

import os
from dataclasses import replace

from ckptctl.bundle import CheckpointState, read_state, state_bytes
from ckptctl.chain import INCREMENT_DIRECTORY, Scan, scan_directory, split_step
from ckptctl.errors import ChangedError
from ckptctl.storage import Storage

__all__ = ["insert_full", "relocate_paths", "relocate_state_files", "update_state_file"]

#: Times that the directory may change under us before we give up.
_ROUNDS = 20


def insert_full(state: CheckpointState, name: str, when: float) -> CheckpointState:
    """Return the state with a full of the same directory in its place.

    Parameters
    ----------
    state
        The state file as it is.
    name
        Name of the full, `<base name>-<step>`.
    when
        Seconds since the epoch; bent to lie between those of its neighbours.

    The list stays in step order, timestamps stay one a path, and relative paths stay
    relative. `latest` changes only if the new full has the greatest step of all.
    """
    if name in map(os.path.basename, state.all_paths):
        return state
    step = _step(name)
    steps = [_step(path) for path in state.all_paths]
    at = next((i for i, other in enumerate(steps) if other > step), len(steps))
    head = os.path.dirname(state.latest)
    path = os.path.join(head, name) if os.path.isabs(state.latest) else name
    times = list(state.timestamps)
    if times:
        low = times[at - 1] if at else None
        high = times[at] if at < len(times) else None
        when = max(when, low) if low is not None else when
        when = min(when, high) if high is not None else when
        times.insert(at, when)
    paths = [*state.all_paths[:at], path, *state.all_paths[at:]]
    newest = step > max([*steps, _step(state.latest)])
    return replace(
        state,
        latest=path if newest else state.latest,
        all_paths=tuple(paths),
        timestamps=tuple(times),
    )


def relocate_paths(state: CheckpointState) -> CheckpointState:
    """Return the state with every path as its name alone: relative to the state file."""
    return replace(
        state,
        latest=os.path.basename(state.latest),
        all_paths=tuple(map(os.path.basename, state.all_paths)),
    )


def relocate_state_files(directory: str, storage: Storage) -> None:
    """Rewrite the paths of both state files of a directory as relative."""
    for home in (directory, os.path.join(directory, INCREMENT_DIRECTORY)):
        path = os.path.join(home, "checkpoint")
        state = read_state(path, storage)
        if state is not None and relocate_paths(state) != state:
            storage.write_atomic(path, state_bytes(relocate_paths(state)), storage.stat(path))


def update_state_file(scan: Scan, name: str, when: float, storage: Storage) -> bool:
    """Put a new full into the state file of its directory; return whether there is one.

    A live trainer rewrites the file from its own memory, so it is read again right before
    it is replaced, and the directory is scanned right after: a full that appeared meanwhile
    is added, until nothing changes any more. Where there is no state file none is made: it
    would hide the fulls that it does not list.

    Parameters
    ----------
    scan
        The directory, scanned when the new full was there.
    name, when
        The new full, and its time in seconds since the epoch.

    Raises
    ------
    ChangedError
        It kept changing.
    """
    path = scan.full_state.path
    known = {full.name for full in scan.fulls} - {name}
    wanted = {name: when}
    for _ in range(_ROUNDS):
        info = storage.stat(path)
        before = read_state(path, storage)
        if before is None:
            return False
        after = before
        for item in sorted(wanted, key=_step):
            after = insert_full(after, item, wanted[item])
        if after != before:
            storage.write_atomic(path, state_bytes(after), info)
        listed = {os.path.basename(item) for item in after.all_paths}
        fresh = [
            full
            for full in scan_directory(scan.directory, storage).fulls
            if full.name not in known and full.name not in listed and full.complete
        ]
        wanted.update((full.name, full.mtime_ns / 1e9) for full in fresh)
        if not fresh and read_state(path, storage) == after:
            return True
    raise ChangedError(
        "the state file kept changing under us",
        file=path,
        remedy="the new full is complete; run the merge again to list it",
    )


def _step(path: str) -> int:
    parts = split_step(os.path.basename(path))
    return -1 if parts is None else parts[1]
