"""Where bytes lie: listing, ranged reads, preallocated writes, atomic commit, delete."""

from ckptctl.storage.base import FileInfo, Readable, Storage, Writable
from ckptctl.storage.local import LOCAL, LocalStorage
from ckptctl.storage.space import check_space, is_no_room

__all__ = [
    "LOCAL",
    "FileInfo",
    "LocalStorage",
    "Readable",
    "Storage",
    "Writable",
    "check_space",
    "is_no_room",
]
