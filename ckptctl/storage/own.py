"""What ckptctl keeps of its own beside checkpoints, reached by no link.

We write there, and believe what it says; a link in its place leads to what someone else chose.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ckptctl.errors import ExistsError, RefusedError
from ckptctl.storage.attributes import make_shared
from ckptctl.storage.base import FileInfo, Storage

__all__ = [
    "OWN_DIRECTORY",
    "TRASH_DIRECTORY",
    "check_no_link",
    "make_new",
    "open_directory",
    "open_own",
]

#: What ckptctl keeps of its own in a checkpoint directory.
OWN_DIRECTORY = ".ckptctl"
#: Where what is replaced or removed waits.
TRASH_DIRECTORY = ".ckptctl-trash"


def check_no_link(path: str, storage: Storage) -> None:
    """Raise `RefusedError` if a symbolic link stands at `path`."""
    info = storage.stat(path, follow=False)
    if info is not None and info.is_symlink:
        raise RefusedError(
            "a symbolic link stands where ckptctl keeps its own",
            file=path,
            remedy="see where it leads, and remove the link",
        )


def make_new(path: str, like: FileInfo | None, storage: Storage) -> str:
    """Make a directory that was not there, with a number behind its name if need be; return it."""
    number = 0
    while True:
        number += 1
        name = path if number == 1 else f"{path}.{number}"
        with suppress(ExistsError):
            storage.mkdir(name, like, new=True)
            return name


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
