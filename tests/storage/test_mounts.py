"""Which filesystems keep locks, by what the kernel says of mounts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptctl.storage import lock as lock_module
from ckptctl.storage.lock import directory_lock
from ckptctl.storage.mounts import Mount, find_mount, mount_of
from tests.storage.leases import state

LINES = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
31 27 0:40 / /mnt/my\\040models rw,relatime shared:7 - nfs4 server:/x rw,vers=4.2,local_lock=none
32 27 0:41 / /mnt/l rw - lustre 10.0.0.1@tcp:/l rw,flock,lazystatfs
33 27 0:42 / /mnt/m rw - lustre 10.0.0.1@tcp:/l rw,localflock
34 27 0:43 / /mnt/g rw shared:2 - gfs2 /dev/g rw,localflocks
35 27 0:44 / /mnt/f rw,user_id=0 - fuse.juicefs JuiceFS:m rw
36 27 0:45 / /mnt/new rw - neverheardfs x rw
37 27
""".splitlines(keepends=True)


@pytest.mark.parametrize(
    ("number", "fstype", "keeps"),
    [
        ("27", "ext4", True),
        ("22", "proc", False),
        ("31", "nfs4", False),
        ("32", "lustre", True),
        ("33", "lustre", False),
        ("34", "gfs2", False),
        ("35", "fuse.juicefs", False),
        ("36", "neverheardfs", False),
        ("37", "", False),
        ("99", "", False),
    ],
)
def test_a_mount_says_whether_its_locks_hold(number: str, fstype: str, keeps: bool) -> None:
    found = find_mount(LINES, number)
    assert (found.fstype, found.keeps_locks) == (fstype, keeps)


@pytest.mark.parametrize("fstype", ["cifs", "smb3", "9p", "virtiofs", "ceph", "fuseblk", "nfs"])
def test_what_several_machines_see_is_not_trusted(fstype: str) -> None:
    assert not Mount(fstype, frozenset({"rw"})).keeps_locks


def mount_at(path: Path | str) -> Mount:
    fd = os.open(path, os.O_RDONLY)
    try:
        return mount_of(fd)
    finally:
        os.close(fd)


def test_the_kernel_is_asked(tmp_path: Path, disk: Path) -> None:
    assert mount_at("/proc").fstype == "proc"
    assert mount_at(disk).fstype == "tmpfs"
    (disk / "below").mkdir()
    assert mount_at(disk / "below") == mount_at(disk)
    assert mount_at(tmp_path).keeps_locks, "the suite runs on a local disk"
    assert mount_of(-1) == Mount()


@pytest.fixture
def fuse(tmp_path: Path) -> Iterator[Path]:
    """A directory on a real FUSE filesystem."""
    path, below = tmp_path / "fuse", tmp_path / "below"
    path.mkdir()
    below.mkdir()
    if shutil.which("bindfs") is None:
        pytest.skip("no FUSE filesystem; `apt-get install bindfs` brings one")
    if subprocess.run(["bindfs", str(below), str(path)], check=False).returncode:
        pytest.skip("FUSE may not be mounted here; a container needs --device /dev/fuse")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_directory_on_fuse_is_locked_by_a_lease(fuse: Path) -> None:
    assert mount_at(fuse).fstype.startswith("fuse")
    with directory_lock(str(fuse)) as lock:
        lock.check()
        assert state(fuse).startswith("held-")
        assert not (fuse / ".ckptctl" / "lock").exists()
    assert state(fuse) == "free"


@pytest.mark.parametrize("fstype", ["nfs4", "cifs", ""])
def test_what_is_not_trusted_is_locked_by_a_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fstype: str
) -> None:
    monkeypatch.delenv("CKPTCTL_LOCK", raising=False)
    monkeypatch.setattr(lock_module, "mount_of", lambda fd: Mount(fstype))
    with directory_lock(str(tmp_path)):
        assert state(tmp_path).startswith("held-")
        assert os.listdir(tmp_path / ".ckptctl") == ["lease"]
    monkeypatch.setenv("CKPTCTL_LOCK", "flock")
    (tmp_path / "other").mkdir()
    with directory_lock(str(tmp_path / "other")):
        assert os.listdir(tmp_path / "other" / ".ckptctl") == ["lock"]
