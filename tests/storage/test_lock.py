"""One lock a directory, between real processes."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptctl.errors import ChangedError, LockedError, NotFoundError, RefusedError
from ckptctl.storage import lock as lock_module
from ckptctl.storage.lock import directory_lock, lock_directories
from tests.descriptors import held
from tests.storage.leases import Watched

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
        host = re.escape(os.uname().nodename)
        since = r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
        whose = rf"process {first.process.pid} on {host}, since {since}"
        assert re.fullmatch(whose, error.found)
        assert "--lock-wait" in error.remedy
        assert "goes with that process" in error.remedy
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
        assert f"process {os.getpid()} " in locked(tmp_path).found
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

        monkeypatch.setattr(time, "sleep", sleep)
        watched = Watched()
        with directory_lock(str(tmp_path), 3600, watched):
            assert pauses == [0.05, 0.1, 0.2]
        phase, after = watched.phases
        assert after == "looking"
        assert phase.startswith(f"waiting for process {first.process.pid} on ")
        assert watched.signs == 3


def test_waiting_no_longer_than_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
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
        for data in (b"", b"\n ", b"pid 7", b"\xff\xfe", b"[" * 99999):
            path.write_bytes(data)
            assert locked(tmp_path).found == "an unknown process"
        os.truncate(path, 1 << 40)
        assert locked(tmp_path).found == "an unknown process"
        path.write_text(json.dumps({"pid": 7, "host": "\x1b[2Jhost"}))
        assert locked(tmp_path).found == "process 7 on ?[2Jhost"


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
    with pytest.raises(RefusedError, match="no locks") as caught:
        free(tmp_path)
    assert caught.value.file == str(tmp_path / ".ckptctl" / "lock")
    assert held(tmp_path) == []


def make_file(directory: Path) -> None:
    (directory / ".ckptctl").touch()


def make_link(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    (directory / "elsewhere").touch()
    (directory / ".ckptctl" / "lock").symlink_to(directory / "elsewhere")


def make_directory(directory: Path) -> None:
    (directory / ".ckptctl" / "lock").mkdir(parents=True)


def make_fifo(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    os.mkfifo(directory / ".ckptctl" / "lock")


def make_device(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    (directory / ".ckptctl" / "lock").symlink_to("/dev/null")


def make_linked_room(directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    (directory / ".ckptctl").symlink_to("elsewhere")


MAKERS = [
    make_file,
    make_link,
    make_directory,
    make_fifo,
    make_device,
    make_linked_room,
]


@pytest.mark.parametrize("make", MAKERS)
def test_where_no_lock_can_be(tmp_path: Path, make: Callable[[Path], None]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    make(directory)
    with pytest.raises(RefusedError, match="cannot lock") as caught:
        free(directory)
    own = directory / ".ckptctl"
    whole = make in (make_file, make_linked_room)
    assert caught.value.file == str(own if whole else own / "lock")
    assert "see what it is" in caught.value.remedy
    assert held(tmp_path) == []
    if make is make_linked_room:
        assert os.listdir(directory / "elsewhere") == []


@pytest.mark.parametrize("kind", ["flock", "lease"])
@pytest.mark.parametrize("file", [False, True])
def test_a_directory_that_is_gone_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, file: bool
) -> None:
    """Somebody moved it between the plan and the lock."""
    monkeypatch.setenv("CKPTCTL_LOCK", kind)
    place = tmp_path / "gone"
    if file:
        place.touch()
    with pytest.raises(NotFoundError) as caught, directory_lock(str(place)):
        pass
    assert caught.value.file == str(place)
    assert place.exists() == file


def test_a_lock_of_two_names_is_not_written_to(tmp_path: Path) -> None:
    """The other name may be that of a checkpoint's data."""
    (tmp_path / "data").write_text("precious")
    (tmp_path / ".ckptctl").mkdir()
    os.link(tmp_path / "data", tmp_path / ".ckptctl" / "lock")
    with directory_lock(str(tmp_path)):
        assert locked(tmp_path).found == "an unknown process"
    assert (tmp_path / "data").read_text() == "precious"


def remove_file(directory: Path) -> None:
    (directory / ".ckptctl" / "lock").unlink()


def remove_room(directory: Path) -> None:
    shutil.rmtree(directory / ".ckptctl")


def replace_room(directory: Path) -> None:
    remove_room(directory)
    (directory / ".ckptctl").mkdir()
    (directory / ".ckptctl" / "lock").touch()


@pytest.mark.parametrize("how", [remove_file, remove_room, replace_room])
def test_a_lock_that_someone_removed_is_noticed(
    tmp_path: Path, how: Callable[[Path], None]
) -> None:
    with directory_lock(str(tmp_path)) as lock:
        lock.check()
        how(tmp_path)
        with pytest.raises(ChangedError, match="removed while we worked"):
            lock.check()


@pytest.mark.parametrize("how", [remove_file, remove_room, replace_room])
def test_who_waited_for_a_file_that_is_gone_holds_the_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: Callable[[Path], None]
) -> None:
    with holder(tmp_path) as first:

        def sleep(seconds: float) -> None:
            how(tmp_path)
            first.release()

        monkeypatch.setattr(time, "sleep", sleep)
        with directory_lock(str(tmp_path), 60) as lock:
            monkeypatch.undo()
            lock.check()
            locked(tmp_path)


def test_the_lock_that_the_caller_holds_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    with directory_lock(places[0]) as lock, lock_directories(places, 0.0, lock) as locks:
        locks.check()
        locked(tmp_path / "b")
        remove_room(tmp_path / "a")
        with pytest.raises(ChangedError):
            locks.check()
