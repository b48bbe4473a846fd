"""The program: `ckptctl`, and `python -m ckptctl`.

What a process is set to is set here, before any library is loaded, and not on import: a training
that imports ckptctl keeps its own.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit, setrlimit
from typing import NoReturn

__all__ = ["console"]

#: New objects between two looks for cycles; Python itself takes 700.
_GC_OBJECTS = 50_000
#: Such looks between two that look again at what was not garbage in the last ones.
_GC_AGAIN = 40
#: Seconds after which a thread that runs Python has to let others; Python itself takes 0.005.
_TURN_SECONDS = 0.001
#: Files that are open at a time: `knobs.MAX_OPEN_FILES` is a quarter of what may be.
_MOST_FILES = 1 << 14
#: Memory of at most so many bytes is kept when it is freed: the most that glibc keeps.
_KEPT_BYTES = 31 << 20


def console() -> NoReturn:
    """Run as a program: the entry point of `ckptctl`."""
    # Modules and an index make many objects and hardly a cycle: to look for some as often as
    # Python does by itself takes up to half of the time.
    gc.set_threshold(_GC_OBJECTS, _GC_AGAIN)
    # A thread that comes back from a read waits as long for one that does sums in Python.
    sys.setswitchinterval(_TURN_SECONDS)
    # What NumPy brings starts a thread a core when it is loaded, for sums of squares at most.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # glibc's malloc hands large memory back when it is freed, and what is had anew is slow
    # (bench.md). It keeps what is no larger than the largest that was freed so far: never
    # touched, so it takes none.
    with suppress(MemoryError):
        bytes(_KEPT_BYTES)
    # A thousand increments are held open at a time, where that is allowed.
    soft, hard = getrlimit(RLIMIT_NOFILE)
    enough = _MOST_FILES if hard == RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != RLIM_INFINITY and soft < enough:
        with suppress(OSError, ValueError):
            setrlimit(RLIMIT_NOFILE, (enough, hard))

    from ckptctl.commands.main import main

    code = main()
    try:
        sys.stdout.flush()
    except OSError:
        # The interpreter flushes once more at its end, and would change the exit code.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # At its end the interpreter looks for cycles among all that is there, modules and all: a tenth
    # of the time of a small merge, for memory that is given back anyway.
    gc.freeze()
    sys.exit(code)


if __name__ == "__main__":
    console()
