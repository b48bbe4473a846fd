"""Answers that were given before, remembered in the user's cache as they were printed.

A question on indexes has the same answer until one of the files that it was read from is
touched: device, inode, size and mtime of each are part of its name, with all that was asked.
What reads data to check it is never answered from here, and nothing is for longer than a day.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from ckptctl import __version__, knobs
from ckptctl.chain.memory import cache_path, recall, remember
from ckptctl.chain.model import SETTLED_NS
from ckptctl.inspect.target import Target
from ckptctl.storage import FileInfo, Storage

__all__ = ["Answer", "Answers"]

_LONGEST_S = 86400.0
#: Bytes of one answer, and how many are kept.
_MOST_BYTES = 32 << 20
_MOST_ANSWERS = 16


class Answer(NamedTuple):
    """What was printed, and what a user was told beside it."""

    text: str
    notes: tuple[str, ...]


class Answers:
    """The answer to one question about one target.

    Parameters
    ----------
    target
        From `find_target`, just now.
    asked
        All that the answer depends on but the files; known by its `repr`.
    """

    def __init__(self, target: Target, asked: object, storage: Storage) -> None:
        files = _files(target, storage)
        newest = max((info.mtime_ns for _, info in files), default=0)
        self._settled = knobs.REMEMBER and newest + SETTLED_NS < time.time_ns()
        known = [(path, info.identity) for path, info in files]
        told = () if target.selection is None else target.selection.notes
        facts = (__version__, asked, target.words, target.document(), told, known)
        self._path = cache_path("answers", facts)

    def recall(self) -> Answer | None:
        """Return the answer that was given before, or None."""
        data = recall(self._path, _MOST_BYTES) if self._settled else None
        head, _, text = (data or b"").partition(b"\n")
        try:
            facts = json.loads(head)
            if 0 <= time.time() - float(facts["since"]) < _LONGEST_S:
                return Answer(text.decode(), tuple(map(str, facts["notes"])))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            pass
        return None

    def remember(self, text: str, notes: Sequence[str]) -> None:
        """Write down the answer; where the cache cannot be written nobody is told."""
        head = json.dumps({"since": time.time(), "notes": [*notes]}).encode() + b"\n"
        data = head + text.encode(errors="backslashreplace")
        if self._settled and len(data) < _MOST_BYTES:
            remember(self._path, data)
            _forget_oldest(os.path.dirname(self._path))


def _files(target: Target, storage: Storage) -> list[tuple[str, FileInfo]]:
    """Return every file that an answer about a target is read from, as it is now."""
    chosen = target.selection
    if chosen is not None:
        return [file for member in chosen.members for file in member.files]
    home, name = os.path.split(target.prefix)
    entries = storage.listdir(home or ".")
    own = [info.name for info in entries if info.name.startswith(f"{name}.")]
    paths = sorted(os.path.join(home, each) for each in own)
    return [(path, info) for path in paths if (info := storage.stat(path)) is not None]


def _forget_oldest(room: str) -> None:
    with suppress(OSError):
        notes = [entry for entry in os.scandir(room) if entry.is_file(follow_symlinks=False)]
        notes.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime_ns)
        for entry in notes[:-_MOST_ANSWERS]:
            os.unlink(entry.path)
