"""Waiting for a lock that another process holds, with a sign of life."""

from __future__ import annotations

import time

from ckptctl.progress import NO_PROGRESS, Progress

__all__ = ["Waiting"]

#: Longest pause between two looks, in seconds.
_LONGEST = 1.0


class Waiting:
    """The time that a run may wait, for all the locks that it needs together.

    Parameters
    ----------
    wait_s
        Seconds; 0 waits for nothing.
    progress
        Told what is waited for, at every look.
    """

    def __init__(self, wait_s: float = 0.0, progress: Progress = NO_PROGRESS) -> None:
        self.progress = progress
        self._until = time.monotonic() + wait_s
        self._pause = 0.05
        self._for = ""

    def pause(self, what: str, least: float = 0.0) -> bool:
        """Sleep until it is time for another look; return False when there is none.

        Parameters
        ----------
        what
            What is waited for, in words.
        least
            Seconds that may be slept now although the time is up.
        """
        left = max(self._until - time.monotonic(), least)
        if left <= 0:
            return False
        if what != self._for:
            self._for = what
            self.progress.start(what)
        self.progress.advance(0)
        # flock cannot wait for a bounded time without signals, which belong to the caller.
        time.sleep(min(self._pause, left))
        self._pause = min(self._pause * 2, _LONGEST)
        return True

    def over(self) -> None:
        """Say that nothing is waited for any more."""
        if self._for:
            self._for = ""
            self.progress.start("looking")
