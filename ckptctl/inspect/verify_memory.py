"""When the data of a checkpoint was last found clean, in the user's cache directory.

One empty file a checkpoint and subset, named by what its files are; its time is the answer.
Runs beside each other do not disturb one another, and only clean results are remembered.
"""

from __future__ import annotations

import os
import time

from ckptctl.chain import Checkpoint
from ckptctl.chain.memory import note, remember

__all__ = ["VerifiedData"]


class VerifiedData:
    """Checkpoints whose data was read and found clean; `subset` is (n, t)."""

    def __init__(self, subset: tuple[int, int] = (1, 1)) -> None:
        number, parts = subset
        self._room = "data" if parts == 1 else f"data-{number}-of-{parts}"

    def when(self, checkpoint: Checkpoint) -> float | None:
        """Return when, in seconds since 1970; None if never, or by a clock that was ahead."""
        try:
            found = os.stat(note(self._room, [checkpoint])).st_mtime
        except OSError:
            return None
        return found if found <= time.time() else None

    def add(self, checkpoint: Checkpoint) -> bool:
        """Remember one; return whether the cache can be written, else the next run reads it."""
        return remember(note(self._room, [checkpoint]))
