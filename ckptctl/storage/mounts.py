"""Which filesystem a directory lies on, and whether its locks hold between all who see it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mount", "mount_of"]

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


@dataclass(frozen=True)
class Mount:
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
            found = [fields for line in mounts if (fields := line.split(" "))[0] in numbers]
    except (OSError, IndexError):
        return Mount()
    if not found:
        return Mount()
    # Behind optional fields and a dash: type, source, options of the filesystem.
    fields = found[0]
    dash = fields.index("-", 6) if "-" in fields[6:] else len(fields)
    rest = [*fields[dash + 1 :], "", "", ""]
    options = frozenset((fields[5] + "," + rest[2].strip()).split(","))
    return Mount(rest[0], options)
