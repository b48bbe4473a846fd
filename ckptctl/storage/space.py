"""Free space: what would not fit is refused before its first byte, and a full disk is known."""

from __future__ import annotations

import errno
import os

from ckptctl.errors import NoSpaceError
from ckptctl.storage.base import Storage

__all__ = ["check_space", "is_no_room"]

#: Room that a filesystem wants beside the data: indexes, marks, directory blocks.
_SLACK = 16 << 20


def is_no_room(error: OSError) -> bool:
    """Return whether a disk, or somebody's part of it, has no block or no inode left."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def check_space(destination: str, size: int, storage: Storage) -> None:
    """Raise `NoSpaceError` unless `size` bytes fit beside the destination."""
    directory = os.path.dirname(destination) or "."
    free = storage.free_bytes(directory)
    if free < size + _SLACK:
        raise NoSpaceError(
            "not enough space for the result",
            file=directory,
            expected=f">= {size + _SLACK} bytes free",
            found=f"{free} bytes",
            remedy="free some (ckptctl prune shows what can go), or give -o on another disk",
        )
