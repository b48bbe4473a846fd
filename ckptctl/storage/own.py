"""What ckptctl keeps of its own beside checkpoints is never a link.

We write there, and believe what it says; a link in its place leads to what someone else chose.
"""

from __future__ import annotations

from ckptctl.errors import RefusedError
from ckptctl.storage.base import Storage

__all__ = ["OWN_DIRECTORY", "check_no_link"]

#: What ckptctl keeps of its own in a checkpoint directory.
OWN_DIRECTORY = ".ckptctl"


def check_no_link(path: str, storage: Storage) -> None:
    """Raise `RefusedError` if a symbolic link stands at `path`."""
    info = storage.stat(path, follow=False)
    if info is not None and info.is_symlink:
        raise RefusedError(
            "a symbolic link stands where ckptctl keeps its own",
            file=path,
            remedy="see where it leads, and remove the link",
        )
