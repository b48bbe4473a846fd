"""Progress as a callback, so that the library never knows who watches."""

from __future__ import annotations

__all__ = ["NO_PROGRESS", "Progress"]


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


NO_PROGRESS = Progress()
