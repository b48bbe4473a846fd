"""Which filesystem a directory lies on, and whether its locks hold between all who see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Mount", "find_mount", "mount_of"]

#: Filesystems of one machine: the kernel that keeps their locks is the only one that writes.
#: Whatever is not named here is seen by several machines, or may be: NFS (locks that a mount
#: option keeps local, that a server forgets, or that the client of a killed pod never gives
#: back), FUSE and what stands on it (local unless its author thought of them), CIFS, 9p,
#: virtiofs, Ceph, and what nobody had heard of when this was written.
_LOCAL = frozenset(
    """
    bcachefs btrfs exfat ext2 ext3 ext4 f2fs hfsplus jfs minix msdos nilfs2 ntfs3 overlay
    ramfs reiserfs tmpfs udf vfat xfs zfs
    """.split()  # noqa: SIM905 (a list of that many strings is no better)
)
#: Filesystems of several machines that keep flock(2) among them, unless mounted otherwise.
_CLUSTER = {"gfs2": "localflocks", "ocfs2": "localflocks"}


class Mount(NamedTuple):
    """A filesystem as it is mounted: its type ("" if unknown) and its options."""

    fstype: str = ""
    options: frozenset[str] = frozenset()

    @property
    def keeps_locks(self) -> bool:
        """Whether flock(2) there keeps out everyone, and goes with its process."""
        if self.fstype == "lustre":  # with `localflock` or `noflock` it does not
            return "flock" in self.options
        if self.fstype in _CLUSTER:
            return _CLUSTER[self.fstype] not in self.options
        return self.fstype in _LOCAL


def mount_of(fd: int) -> Mount:
    """Return the mount that an open file or directory lies on.

    By the number of the mount, which the kernel tells of open files: paths and devices lead
    astray with bind mounts, subvolumes, and mounts on top of others.
    """
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as facts:
            numbers = [line.split()[1] for line in facts if line.startswith("mnt_id:")]
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            return find_mount(mounts, numbers[0])
    except (OSError, IndexError):
        return Mount()


def find_mount(mounts: Iterable[str], number: str) -> Mount:
    """Return the mount of a number among the lines of `/proc/self/mountinfo`.

    proc(5): number, parent, device, root, place, options, any number of optional fields, a
    dash, type, source, options of the filesystem.
    """
    for line in mounts:
        before, _, after = line.rstrip("\n").partition(" - ")
        place, rest = before.split(" "), after.split(" ")
        if place[0] == number and len(place) > 5 and len(rest) > 2:
            return Mount(rest[0], frozenset([*place[5].split(","), *rest[2].split(",")]))
    return Mount()
