"""Disks that are really full, and ckptctl as a command on them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ckptctl.commands.main import main

ROOT = Path(__file__).parents[2]

#: Size and options of each kind of disk; ext4 has blocks for directories too, and a journal.
DISKS = {
    "tmpfs": ["-t", "tmpfs", "-o", "size=24m,nr_inodes=0"],
    "tmpfs inodes": ["-t", "tmpfs", "-o", "size=24m,nr_inodes=200"],
    "ext4": ["-o", "loop"],
    "ext4 inodes": ["-o", "loop"],
}


@contextmanager
def mounted(room: Path, kind: str) -> Iterator[Path]:
    """A small disk of its own, below `room`."""
    if os.getuid() != 0:
        pytest.skip("only root mounts a disk; run the suite as root, in a container say")
    where, source = room / "disk", "none"
    where.mkdir()
    if kind.startswith("ext4"):
        image = room / "image"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        nodes = ["-N", "64"] if kind.endswith("inodes") else []
        make = ["mkfs.ext4", "-q", "-m", "0", "-b", "1024", *nodes, str(image)]
        source = str(image)
        try:
            subprocess.run(make, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no mkfs.ext4 here ({error}); e2fsprogs has it")
    done = subprocess.run(
        ["mount", *DISKS[kind], source, str(where)], check=False, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no mount here ({done.stderr.strip()}); a container needs CAP_SYS_ADMIN")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@dataclass
class Filled:
    """A disk without a free block, or without a free inode."""

    disk: Path
    kind: str

    def fill(self) -> None:
        with suppress(OSError):
            if self.kind.endswith("inodes"):
                (self.disk / "ballast").mkdir(exist_ok=True)
                for number in range(100_000):
                    os.mknod(self.disk / "ballast" / f"{number}")
            else:
                self._fill_blocks()
        self.check()

    def _fill_blocks(self) -> None:
        with open(self.disk / "ballast", "ab", buffering=0) as file:
            for size in (1 << 16, 1024, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
            os.fsync(file.fileno())

    def check(self) -> None:
        """Fail if a byte could be written after all."""
        try:
            (self.disk / "probe").write_bytes(b"x")
        except OSError:
            with suppress(FileNotFoundError):
                (self.disk / "probe").unlink()
        else:
            raise AssertionError("the disk is not full")

    def empty(self) -> None:
        ballast = self.disk / "ballast"
        for path in ballast.iterdir() if ballast.is_dir() else [ballast]:
            path.unlink()


@dataclass
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "ckptctl", *map(str, args)]


def environment() -> dict[str, str]:
    """Nothing that ckptctl heeds, and our own source."""
    heeded = ("CKPTCTL", "_CKPTCTL", "PYTHON", "NO_COLOR", "FORCE_COLOR")
    env = {key: value for key, value in os.environ.items() if not key.startswith(heeded)}
    return env | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def ckptctl(*args: object) -> Said:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*map(str, args)])
    assert "Traceback" not in err.getvalue(), err.getvalue()
    return Said(code, out.getvalue(), err.getvalue())


def process(*args: object, **more: Any) -> Said:
    """Run a command as a process of its own; one that hangs fails the test."""
    done = subprocess.run(
        command(*args),
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
        **more,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return Said(done.returncode, out, err)


@contextmanager
def as_nobody(*paths: Path) -> Iterator[None]:
    """Be somebody to whom modes mean something, and who owns these directories."""
    if os.geteuid() != 0:  # the modes of one's own files hold for one, too
        yield
        return
    for home in paths:
        for path in (home, *home.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
