"""`.ckptctl`, what ckptctl keeps of its own in a checkpoint directory, entered by no link."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ckptctl.storage.attributes import make_shared

__all__ = ["OWN_DIRECTORY", "open_directory", "open_own"]

#: What ckptctl keeps of its own in a checkpoint directory.
OWN_DIRECTORY = ".ckptctl"


@contextmanager
def open_directory(path: str, within: int | None = None) -> Iterator[int]:
    """Open a directory to work in; a symbolic link is none (`OSError`)."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, dir_fd=within)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def open_own(directory: str, *, make: bool = False) -> Iterator[int]:
    """Open the `.ckptctl` of a checkpoint directory, and make it first if asked.

    One that is new is open to whoever may write to the directory.

    Raises
    ------
    OSError
        There is none, or it is no directory.
    """
    path = os.path.join(directory, OWN_DIRECTORY)
    if make:
        make_shared(path, directory)
    with open_directory(path) as fd:
        yield fd
