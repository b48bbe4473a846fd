"""Mode, owner, group and access control list: of others' files, and of our own beside them.

Everything goes by descriptor. ckptctl may run as root in a directory of somebody else's, who
could put a symbolic link in the place of a name between two calls.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

__all__ = ["copy_acl", "give", "make_shared", "share"]

_ACL = "system.posix_acl_access"


def give(fd: int, uid: int, gid: int, mode: int) -> None:
    """Give a file its owner and group where we may, and its mode."""
    # Only root gives files away, but anyone may give them to a group of his.
    for owner, group in ((-1, gid), (uid, -1)):
        with suppress(PermissionError):
            os.fchown(fd, owner, group)
    os.fchmod(fd, mode)


def copy_acl(source: str, fd: int) -> None:
    """Give a file the access control list of another, if that has one."""
    try:
        acl = os.getxattr(source, _ACL)
    except OSError:  # none, or a filesystem without them
        return
    os.setxattr(fd, _ACL, acl)


def share(fd: int, directory: str) -> None:
    """Open a file or directory of ours to whoever may write to a checkpoint directory.

    root's cron has a umask of 077: what it makes for itself there would shut out the trainer's
    user, and everyone else who runs ckptctl on the directory.
    """
    home = os.stat(directory)
    mode = stat.S_IMODE(home.st_mode)
    if not stat.S_ISDIR(os.fstat(fd).st_mode):
        mode &= 0o666
    with suppress(PermissionError):  # it is somebody else's: he has seen to it
        give(fd, home.st_uid, home.st_gid, mode)


def make_shared(path: str, directory: str) -> bool:
    """Make a directory of ours in a checkpoint directory, shared; return whether it is new."""
    try:
        os.mkdir(path)
    except FileExistsError:
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        share(fd, directory)
    finally:
        os.close(fd)
    return True
