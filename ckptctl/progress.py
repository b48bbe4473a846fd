"""Progress as a callback, so that the library never knows who watches."""

from __future__ import annotations

import time

from ckptctl.errors import TimeUpError

__all__ = ["NO_PROGRESS", "Deadline", "Progress"]


class Progress:
    """Receives the progress of one operation; this base class ignores it.

    Calls may come from several threads. `total` is in bytes.
    """

    def start(self, phase: str, total: int | None = None) -> None:
        """Begin a phase ("reading keys", "writing", "verifying") of `total` bytes."""

    def advance(self, done: int) -> None:
        """Add `done` bytes to the present phase."""

    def warn(self, message: str) -> None:
        """Hear what the user should know at once; no part of what is measured."""

    def finish(self) -> None:
        """End the operation, whether it succeeded or not."""

    def unstoppable(self) -> Progress:
        """Return what to tell from here on, where the operation must not be given up."""
        return self


NO_PROGRESS = Progress()


class Deadline(Progress):
    """Stops an operation when its time is up, and passes on what it is told until then.

    Whatever reports progress can be given up at any moment: it removes what it wrote.

    Parameters
    ----------
    seconds
        How long it may take.
    inner
        Who else is told.
    began
        When its time began, of `time.monotonic`; default: now.
    """

    def __init__(
        self, seconds: float, inner: Progress = NO_PROGRESS, began: float | None = None
    ) -> None:
        self._seconds = seconds
        self._until = (time.monotonic() if began is None else began) + seconds
        self._inner = inner

    def check(self) -> None:
        """Raise `TimeUpError` when the time is up."""
        if time.monotonic() >= self._until:
            raise TimeUpError(
                f"stopped: {self._seconds:g} seconds were given, and they are over",
                remedy="nothing is half done: the next run begins again; give it more time",
            )

    def start(self, phase: str, total: int | None = None) -> None:
        """Begin a phase; raise `TimeUpError` when the time is up."""
        self.check()
        self._inner.start(phase, total)

    def advance(self, done: int) -> None:
        """Add bytes; raise `TimeUpError` when the time is up."""
        self.check()
        self._inner.advance(done)

    def warn(self, message: str) -> None:
        """Pass it on: what is to be known is never late."""
        self._inner.warn(message)

    def finish(self) -> None:
        """End the operation."""
        self._inner.finish()

    def unstoppable(self) -> Progress:
        """Return who else is told."""
        return self._inner.unstoppable()
