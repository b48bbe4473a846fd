"""Progress for a person at a terminal. Imported only there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TextIO

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from ckptctl.output import format as fmt
from ckptctl.output.terminal import open_console
from ckptctl.progress import Progress

__all__ = ["AnimatedProgress"]


class _Numbers(ProgressColumn):
    """Bytes, rate and remaining time, in the words of the other progress."""

    def render(self, task: Task) -> Text:
        words = []
        if task.total:
            words.append(f"{fmt.bytes_(int(task.completed))} of {fmt.bytes_(int(task.total))}")
        elif task.completed:
            words.append(fmt.bytes_(int(task.completed)))
        if task.speed:
            words.append(fmt.rate(task.speed))
        if task.total and task.time_remaining is not None:
            words.append(f"{fmt.duration(task.time_remaining)} left")
        elif task.elapsed is not None:
            words.append(fmt.duration(task.elapsed))
        return Text(", ".join(words))


class AnimatedProgress(Progress):
    """A bar for the present phase, with bytes, rate and remaining time.

    It is erased at the end: the answer says what was done, and an error that follows
    must not hang below half a bar.
    """

    def __init__(self, stream: TextIO, note: Callable[[str], None] | None = None) -> None:
        self._note = note  # also told of warnings
        self._lock = threading.Lock()
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _Numbers(table_column=Column(no_wrap=True)),
            # Not to the edge: there the ^C that a terminal echoes would break the line, and
            # the wrong one would be erased.
            BarColumn(bar_width=16),
            console=open_console(stream),
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self, phase: str, total: int | None = None) -> None:
        """Replace the bar by that of a new phase."""
        with self._lock:
            if self._task is None:
                self._bars.start()
            else:
                self._bars.remove_task(self._task)
            self._task = self._bars.add_task(fmt.one_line(phase), total=total)

    def advance(self, done: int) -> None:
        """Move the bar."""
        with self._lock:
            if self._task is not None:
                self._bars.advance(self._task, done)

    def warn(self, message: str) -> None:
        """Write it above the bar, where it stays."""
        with self._lock:
            text = Text(f"ckptctl: warning: {fmt.safe_text(message)}")
            self._bars.console.print(text, highlight=False)
        if self._note is not None:
            self._note(message)

    def finish(self) -> None:
        """Erase the bar and give the terminal back."""
        with self._lock:
            if self._task is not None:
                self._bars.stop()
                self._task = None
