"""Progress for a log: a line now and then, no cursor movement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from ckptctl import knobs
from ckptctl.output import format as fmt
from ckptctl.progress import Progress

__all__ = ["LineProgress"]


class LineProgress(Progress):
    """Writes at most one line every `knobs.PROGRESS_SECONDS`.

    The first line comes after that time too: what is done in seconds leaves no trace in
    a log. Only calls write, so there is no thread to stop when something fails.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        every: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._every = knobs.PROGRESS_SECONDS if every is None else every
        self._clock = clock
        self._lock = threading.Lock()
        self._said = self._began = clock()
        self._phase = ""
        self._total: int | None = None
        self._done = 0

    def start(self, phase: str, total: int | None = None) -> None:
        """Begin a phase; rate and remaining time count from here."""
        with self._lock:
            self._phase, self._total, self._done = fmt.one_line(phase), total, 0
            self._began = self._clock()
            self._perhaps_say()

    def advance(self, done: int) -> None:
        """Add to the present phase."""
        with self._lock:
            self._done += done
            self._perhaps_say()

    def warn(self, message: str) -> None:
        """Write it at once."""
        with suppress(OSError):
            self._stream.write(f"ckptctl: warning: {fmt.safe_text(message)}\n")
            self._stream.flush()

    def _perhaps_say(self) -> None:
        now = self._clock()
        if now - self._said < self._every:
            return
        self._said = now
        # Hours of work must not be lost because whoever read the log went away.
        with suppress(OSError):
            self._stream.write(f"ckptctl: {self._words(now - self._began)}\n")
            self._stream.flush()

    def _words(self, seconds: float) -> str:
        if not self._done and not self._total:  # waiting for someone, or for the disk
            return f"{self._phase}: {fmt.duration(seconds)}"
        speed = self._done / seconds if seconds > 0 else 0.0
        words = [f"{self._phase}: {fmt.bytes_(self._done)}"]
        if self._total:
            words[0] += f" of {fmt.bytes_(self._total)} ({100 * self._done // self._total}%)"
        if speed > 0:
            words.append(fmt.rate(speed))
            if self._total and self._done < self._total:
                words.append(f"{fmt.duration((self._total - self._done) / speed)} left")
        return ", ".join(words)
