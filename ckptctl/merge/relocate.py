"""Copied and moved directories: whether to write there, and state files with relative paths."""

from __future__ import annotations

import os

from ckptctl.bundle import CheckpointState, read_state
from ckptctl.chain import INCREMENT_DIRECTORY, Chains, Scan, scan_directory
from ckptctl.chain.scan import check_no_increments
from ckptctl.errors import ChangedError, RefusedError
from ckptctl.merge.state_file import ROUNDS, check_not_linked, replace_state
from ckptctl.storage import Storage

__all__ = [
    "check_copied",
    "check_relocatable",
    "relocate_paths",
    "relocate_state_files",
    "to_relocate",
]

_MOST = 5
_BY_HAND = (
    'write the line by hand: model_checkpoint_path: "NAME", NAME the newest that ckptctl ls calls '
    "restorable; or work in the directory that the path leads to"
)


def check_copied(chains: Chains, writes: bool, relocate: bool) -> None:
    """Refuse to write among increments, or where a state file leads to another directory."""
    scan = chains.scan
    if writes:
        check_no_increments(scan.directory, (full.base_name for full in scan.fulls))
    if writes and scan.copied and not relocate:
        state, path = scan.copied[0]
        raise RefusedError(
            "the directory is a copy: its state file leads to another directory",
            file=state,
            expected="paths into this directory",
            found=path,
            remedy=_BY_HAND
            if scan.astray
            else "--relocate rewrites the paths as relative; "
            "else TensorFlow restores from there, and deletes there",
        )


def check_relocatable(scan: Scan, storage: Storage) -> None:
    """Refuse what `relocate_state_files` could not do, before anything else is done.

    A state file that does not parse, one behind a link, and one that names what is not here: it
    may lead TensorFlow to a checkpoint by now, in a directory below, or in the original.
    """
    for found in (scan.full_state, scan.increment_state):
        if found.error is not None:
            raise found.error
    if scan.increment_state.path in to_relocate(scan):
        check_not_linked(scan.directory, scan.increment_directory, storage)
    for state in scan.astray:
        assert state.state is not None
        home = os.path.dirname(state.path)
        here = [
            each.name
            for each in (*scan.fulls, *scan.increments, *scan.others)
            if os.path.dirname(each.prefix) == home
        ]
        left = f", and {len(here) - _MOST} more" if len(here) > _MOST else ""
        raise RefusedError(
            f"what the state file names is not here: {state.latest}",
            file=state.path,
            expected="a checkpoint of that name beside it",
            found=f"{state.state.latest}; here: {', '.join(here[-_MOST:]) or 'none'}{left}",
            remedy=_BY_HAND,
        )


def relocate_paths(state: CheckpointState) -> CheckpointState:
    """Return the state with every path as its name alone: relative to the state file.

    A path that ends in a slash has no name and stays: TensorFlow raises on an empty one.
    """
    return state._replace(
        latest=os.path.basename(state.latest) or state.latest,
        all_paths=tuple(os.path.basename(path) or path for path in state.all_paths),
    )


def to_relocate(scan: Scan) -> tuple[str, ...]:
    """Return the paths of the state files that `relocate_state_files` would rewrite."""
    states = (scan.full_state.state, scan.increment_state.state)
    return tuple(s.path for s in states if s is not None and relocate_paths(s) != s)


def relocate_state_files(directory: str, storage: Storage) -> None:
    """Rewrite the paths of both state files of a directory as relative.

    Raises
    ------
    ChangedError
        A trainer kept rewriting one of them.
    RefusedError
        The increments lie behind a link: their state file belongs to another directory. Or
        what a state file names is not here.
    StateFileError
        One does not parse.
    """
    for home in (directory, os.path.join(directory, INCREMENT_DIRECTORY)):
        path = os.path.join(home, "checkpoint")
        for _ in range(ROUNDS):
            info = storage.stat(path)
            state = read_state(path, storage)
            if state is None or relocate_paths(state) == state:
                break
            check_relocatable(scan_directory(directory, storage), storage)
            replace_state(path, relocate_paths(state), info, storage)
        else:
            raise ChangedError(
                "the state file kept changing under us",
                file=path,
                remedy="run it again while no trainer saves there",
            )
