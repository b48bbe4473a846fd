"""Whether a trainer is saving into a directory right now.

A save shows by what it writes before its index is in place: `*_temp*/` of a sharded Saver,
`*.tempstate<n>` (tensor_bundle.cc), `*.tmp<hex>` (file_io.py), data without an index, a
checkpoint that is not complete. What a killed trainer left looks the same but no longer
changes. So a temporary that was written to a moment ago is a save, and so is anything that
differs between two looks, whatever the clocks say: those of a file server may be off.

Waiting for the end of a save is a courtesy, since what a Saver does next is to rewrite its
state file: nothing rests on it. A trainer may begin another save at any moment.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ckptctl import knobs
from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain.model import Leftover
from ckptctl.chain.names import in_our_temporary
from ckptctl.chain.scan import scan_directory
from ckptctl.errors import NotFoundError, RefusedError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage import LOCAL, Storage

__all__ = ["WRITER_WAIT_S", "Writer", "wait_for_writer"]

#: Seconds that a command waits for the end of a save, unless told otherwise.
WRITER_WAIT_S = 120.0
#: Seconds between the first two looks; later ones come a little less often.
_PAUSE_S = 0.25
_MOST_PAUSE_S = 2.0
#: A temporary that was not written to for so long is not looked at twice.
_DEAD_S = 3600.0
#: Nor are data without an index and incomplete checkpoints: copies, which keep on growing.
_IDLE_S = 60.0


class Writer(NamedTuple):
    """A save that is under way, by the newest file of it that was found.

    Attributes
    ----------
    path
        The file or temporary directory.
    bytes
        Bytes of it so far.
    mtime_ns
        When it was last written to.
    """

    path: str
    bytes: int
    mtime_ns: int


class _Sign(NamedTuple):
    """Something that a save may have written; `temporary` where nothing else would have."""

    bytes: int
    mtime_ns: int
    temporary: bool


def wait_for_writer(
    directory: str,
    wait_s: float = WRITER_WAIT_S,
    *,
    progress: Progress = NO_PROGRESS,
    storage: Storage = LOCAL,
    remedy: str = "wait for the end of its save, or give --writer-wait a longer duration",
) -> None:
    """Return when no save is under way in a checkpoint directory.

    Parameters
    ----------
    directory
        The checkpoint directory.
    wait_s
        Seconds to wait at most; with 0 a save is refused as soon as it is recognised.
    progress
        Told that we wait.
    remedy
        What a user can do about it.

    Raises
    ------
    RefusedError
        Somebody is still writing.
    NotFoundError
        There is no such directory.
    """
    until = time.monotonic() + wait_s
    before = _look(directory, storage)
    pause, told = _PAUSE_S, False
    while before:
        time.sleep(pause)
        now = _look(directory, storage)
        writer = _judge(before, now)
        if writer is None:
            return
        if not told:
            progress.start("waiting for the trainer's save")
            told = True
        progress.advance(0)
        left = until - time.monotonic()
        if left <= 0:
            raise _refusal(writer, wait_s, remedy)
        before, pause = now, min(2 * pause, _MOST_PAUSE_S, max(left, _PAUSE_S))


def _refusal(writer: Writer, wait_s: float, remedy: str) -> RefusedError:
    ago = max(0.0, time.time() - writer.mtime_ns / 1e9)
    return RefusedError(
        "a trainer is writing",
        file=writer.path,
        expected=f"no save under way, after {wait_s:g}s" if wait_s else "no save under way",
        found=f"{writer.bytes} bytes, the last of them {ago:.0f}s ago",
        remedy=remedy,
    )


def _look(directory: str, storage: Storage) -> dict[str, _Sign]:
    """Return path to sign of what a save that is under way may have written."""
    scan = scan_directory(directory, storage)
    found: dict[str, _Sign] = {}
    bases = {checkpoint.base_name for checkpoint in (*scan.fulls, *scan.increments)}
    for item in scan.leftovers:
        if item.foreign and bases and item.name not in bases:
            continue  # another program's `eval_temp`, which may be written to all day
        temporary = item.reason in ("temporary", "tempstate")
        age = (scan.taken_ns - item.mtime_ns) / 1e9
        if item.reason == "atomic" or age > (_DEAD_S if temporary else _IDLE_S):
            continue
        if _is_ours(item, storage):
            continue
        found[item.path] = _Sign(item.bytes, item.mtime_ns, temporary)
    for checkpoint in (*scan.fulls, *scan.increments, *scan.others):
        newest = max(info.mtime_ns for _, info in checkpoint.files)
        # The index is read of what is young only, so that a thousand old ones cost nothing.
        if (scan.taken_ns - newest) / 1e9 <= _IDLE_S and not checkpoint.complete:
            found[checkpoint.prefix] = _Sign(checkpoint.bytes, newest, False)
    return found


def _is_ours(item: Leftover, storage: Storage) -> bool:
    """Return whether a leftover is one of ckptctl's: by the names in it, or by a mark of its name.

    By that of a merge that is not finished only: the mark of a finished one stays for good, and
    a trainer that starts from the merged full saves over it.
    """
    if item.reason == "tempstate":
        return False
    if item.reason == "temporary":
        try:
            names = [info.name for info in storage.listdir(item.path)]
        except (NotFoundError, RefusedError):
            return False
        if names:
            return all(map(in_our_temporary, names))
    from ckptctl.bundle.commit import read_mark  # hardly ever needed

    prefix = os.path.join(os.path.dirname(item.path), item.name)
    temporary = read_mark(prefix + MARK_SUFFIX, storage).get("temporary") if item.marked else None
    if item.reason == "temporary":
        return temporary == os.path.basename(item.path)
    return temporary is not None


def _judge(before: dict[str, _Sign], after: dict[str, _Sign]) -> Writer | None:
    """Return who writes, by two looks in a row; None where nothing of it is left or moves."""
    now_ns = time.time_ns()
    live = [
        Writer(path, sign.bytes, sign.mtime_ns)
        for path, sign in after.items()
        if before.get(path) != sign
        or (sign.temporary and abs(now_ns - sign.mtime_ns) <= knobs.WRITER_SECONDS * 1e9)
    ]
    return max(live, key=lambda writer: writer.mtime_ns, default=None)
