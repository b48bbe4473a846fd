"""One lock a directory, between real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptctl.errors import LockedError, RefusedError
from ckptctl.storage import lock as lock_module
from ckptctl.storage.lock import directory_lock

ROOT = Path(__file__).parent.parent.parent
HOLD = """
import os, sys
from ckptctl.storage.lock import directory_lock
life, mine = os.pipe()
with directory_lock(sys.argv[1]):
    if sys.argv[2:] == ["fork"] and os.fork() == 0:
        os.close(mine)
        os.read(life, 1)  # a worker that outlives the work, but not this process
        os._exit(0)
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""


class Holder:
    """Another process that holds the lock until it is told otherwise."""

    def __init__(self, directory: Path, *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory), *how],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "held\n"

    def release(self) -> None:
        self.process.stdin.write("go on\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "released\n"


@contextmanager
def holder(directory: Path, *how: str) -> Iterator[Holder]:
    held = Holder(directory, *how)
    try:
        yield held
    finally:
        held.process.kill()
        held.process.communicate()


def locked(directory: Path) -> LockedError:
    with pytest.raises(LockedError) as caught, directory_lock(str(directory)):
        pass
    return caught.value


def free(directory: Path) -> bool:
    with directory_lock(str(directory)):
        return True


def test_a_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        error = locked(tmp_path)
        owner = json.loads(str(error.found))
        assert owner["pid"] == first.process.pid
        assert owner["host"] == os.uname().nodename
        assert owner["since"].endswith("+00:00")
        assert error.file == str(tmp_path / ".ckptctl" / "lock")
        assert error.exit_code == 11
        first.release()
        assert free(tmp_path)


def test_a_kill_releases_it(tmp_path: Path) -> None:
    with holder(tmp_path) as first:
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert free(tmp_path)


def test_a_worker_that_lives_on_does_not_hold_it(tmp_path: Path) -> None:
    """What was forked while the lock was held has the same open file."""
    with holder(tmp_path, "fork") as first:
        locked(tmp_path)
        first.release()
        assert free(tmp_path)


def test_twice_in_one_process(tmp_path: Path) -> None:
    with directory_lock(str(tmp_path)):
        assert json.loads(str(locked(tmp_path).found))["pid"] == os.getpid()
    assert free(tmp_path)


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), directory_lock(str(tmp_path)):
        raise ZeroDivisionError
    assert free(tmp_path)


def test_waiting_until_it_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path) as first:
        pauses = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                first.release()

        monkeypatch.setattr(lock_module.time, "sleep", sleep)
        with directory_lock(str(tmp_path), wait_s=3600):
            assert pauses == [0.05, 0.1, 0.2]


def test_waiting_no_longer_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(lock_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lock_module.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    with (
        directory_lock(str(tmp_path)),
        pytest.raises(LockedError),
        directory_lock(str(tmp_path), wait_s=7.5),
    ):
        pass
    assert now[0] == pytest.approx(107.5)


def test_the_file_stays(tmp_path: Path) -> None:
    """Unlinked, it would be two files of one name, and two locks."""
    assert free(tmp_path)
    path = tmp_path / ".ckptctl" / "lock"
    inode = path.stat().st_ino
    path.write_text("x" * 9999)
    assert free(tmp_path)
    assert path.stat().st_ino == inode
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_an_owner_that_nobody_wrote(tmp_path: Path) -> None:
    with holder(tmp_path):
        path = tmp_path / ".ckptctl" / "lock"
        for text, shown in (("", "unknown"), ("\n ", "unknown"), ("pid 7", "pid 7")):
            path.write_text(text)
            assert locked(tmp_path).found == shown
        path.write_bytes(b"\xff\xfe")
        assert locked(tmp_path).found == "\ufffd\ufffd"


def test_a_full_disk_is_no_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What frees space needs the lock too."""
    assert free(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with directory_lock(str(tmp_path)):
        locked(tmp_path)


def test_a_filesystem_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock_module.fcntl, "flock", none)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RefusedError, match="no locks") as caught:
        free(tmp_path)
    assert caught.value.file == str(tmp_path / ".ckptctl" / "lock")
    assert len(os.listdir("/proc/self/fd")) == before


def make_file(directory: Path) -> None:
    (directory / ".ckptctl").touch()


def make_link(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    (directory / "elsewhere").touch()
    (directory / ".ckptctl" / "lock").symlink_to(directory / "elsewhere")


def make_directory(directory: Path) -> None:
    (directory / ".ckptctl" / "lock").mkdir(parents=True)


def make_nothing(directory: Path) -> None:
    directory.rmdir()


@pytest.mark.parametrize("make", [make_file, make_link, make_directory, make_nothing])
def test_where_no_lock_can_be(tmp_path: Path, make: object) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    make(directory)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RefusedError, match="cannot lock") as caught:
        free(directory)
    assert caught.value.file == str(directory / ".ckptctl" / "lock")
    assert len(os.listdir("/proc/self/fd")) == before
