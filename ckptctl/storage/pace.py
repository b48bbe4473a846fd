"""Bytes a second that all threads of a process may move together."""

from __future__ import annotations

import threading
import time

__all__ = ["Pace"]


class Pace:
    """Says how long to wait, so that no more than `bwlimit` bytes a second are moved.

    Time that the moving itself took counts; what was not used is not saved up.
    """

    def __init__(self, bwlimit: int) -> None:
        self.bwlimit = bwlimit
        self._lock = threading.Lock()
        self._due = 0.0

    def __reduce__(self) -> tuple[object, ...]:
        return Pace, (self.bwlimit,)

    def pause(self, done: int) -> float:
        """Count bytes that were moved, and return how long to wait before the next."""
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due + done / self.bwlimit, now)
            return self._due - now
