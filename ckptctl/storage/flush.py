"""Telling the kernel to begin writing what a file holds, long before the fsync."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

__all__ = ["start_write_back"]

#: SYNC_FILE_RANGE_WRITE: start the writing of dirty pages, wait for none.
_WRITE = 2


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):  # a C library without it
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    found: Callable[[int, int, int, int], int] = call
    return found


def start_write_back(fd: int, offset: int, length: int) -> None:
    """Begin to write a range of a file to the disk.

    A hint: what could not be written is told by the fsync that follows, which is what counts.
    """
    call = _sync_file_range()
    if call is not None and length > 0:
        call(fd, offset, length, _WRITE)
