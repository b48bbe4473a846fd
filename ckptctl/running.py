"""Running tasks on an executor: progress, throttling, and stopping them all at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

from ckptctl import knobs
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage.pace import Pace

__all__ = ["Report", "Runner", "Task", "batches", "ignore"]

#: Told of the bytes that were moved; may raise to stop the task, or wait to slow it down.
Report = Callable[[int], None]

_R = TypeVar("_R", covariant=True)
_T = TypeVar("_T")


def ignore(_: int) -> None:
    """Take a report and do nothing."""


class Task(Protocol[_R]):
    """A picklable piece of work that moves `nbytes` bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes that `run` moves."""

    def run(self, report: Report = ignore) -> _R:
        """Do it, telling `report` of the bytes that were moved."""


class _Stopped(BaseException):
    """Ends a task whose siblings failed; never seen by a caller."""


def _call(task: Task[_T]) -> _T:
    return task.run()


class Runner:
    """Runs tasks, at most so many at a time, on local threads or a given executor.

    Parameters
    ----------
    jobs
        Number of local threads; NumPy, checksums and file calls release the interpreter's
        lock, so threads are as good as processes here and need no start.
    executor
        Any `concurrent.futures.Executor` instead: tasks and their results are picklable.
    progress
        Told of the bytes moved; on a foreign executor when each task is done.
    bwlimit
        Bytes a second that all local threads together may move, or None.
    """

    def __init__(
        self,
        jobs: int | None = None,
        executor: Executor | None = None,
        progress: Progress = NO_PROGRESS,
        bwlimit: int | None = None,
    ) -> None:
        self.jobs = jobs or os.cpu_count() or 1
        self.progress = progress
        self._foreign = executor
        self._pace = Pace(bwlimit) if bwlimit else None

    def _report(self, stop: threading.Event, done: int) -> None:
        if stop.is_set():
            raise _Stopped
        self.progress.advance(done)
        if self._pace is not None and stop.wait(self._pace.pause(done)):
            raise _Stopped

    def map(self, tasks: Iterable[tuple[_T, Task[_R]]]) -> Iterator[tuple[_T, _R]]:
        """Return (label, result) of each task as it is done.

        The first error stops all other tasks of this call, waits for them, and is raised.
        """
        stop = threading.Event()  # one a call: who catches the error may go on with other tasks
        report = partial(self._report, stop)
        with self._executor() as executor:
            todo = iter(tasks)
            running: dict[Future[_R], tuple[_T, int]] = {}
            try:
                while True:
                    for label, task in todo:
                        running[self._submit(executor, task, report)] = (label, task.nbytes)
                        if len(running) >= 2 * self.jobs:
                            break
                    if not running:
                        return
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        label, moved = running.pop(future)
                        result = future.result()
                        if self._foreign is not None:
                            self.progress.advance(moved)
                        yield label, result
            except BaseException:
                stop.set()
                for future in running:
                    future.cancel()
                wait(running)
                raise

    def _submit(self, executor: Executor, task: Task[_R], report: Report) -> Future[_R]:
        if self._foreign is not None:
            return executor.submit(_call, task)
        return executor.submit(task.run, report)

    @contextmanager
    def _executor(self) -> Iterator[Executor]:
        if self._foreign is not None:
            yield self._foreign
            return
        with ThreadPoolExecutor(self.jobs, thread_name_prefix="ckptctl") as executor:
            yield executor


def batches(items: Iterable[_T], size_of: Callable[[_T], int]) -> Iterator[tuple[_T, ...]]:
    """Return the items in batches of about `knobs.TASK_BYTES`."""
    batch: list[_T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size_of(item)
        if total >= knobs.TASK_BYTES:
            yield tuple(batch)
            batch, total = [], 0
    if batch:
        yield tuple(batch)
