"""Leases: held, renewed, dead, taken over, and lost, between real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.errors import ChangedError, LockedError, RefusedError, UsageError
from ckptctl.progress import Deadline, Progress
from ckptctl.storage.lease import Lease, acquire_lease
from ckptctl.storage.lock import directory_lock, lock_directories
from ckptctl.storage.owner import Owner
from ckptctl.storage.register import Register, Seen
from ckptctl.storage.waiting import Waiting
from tests.descriptors import held
from tests.storage.leases import (
    BUSY,
    FORCED,
    ROOT,
    TOKEN,
    Loud,
    Watched,
    holder,
    leave,
    note,
    room,
    state,
)


@pytest.fixture(autouse=True)
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTCTL_LOCK", "lease")
    monkeypatch.setattr(knobs, "LEASE_RENEW_SECONDS", 0.1)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Clocks of our own, moved by sleeping, and the times of the real thing."""
    monkeypatch.setattr(knobs, "LEASE_RENEW_SECONDS", 30.0)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def locked(directory: Path, wait_s: float = 0.0) -> LockedError:
    with pytest.raises(LockedError) as caught, directory_lock(str(directory), wait_s):
        pass
    assert caught.value.exit_code == 11
    assert caught.value.file == str(room(directory))
    return caught.value


def taken(directory: Path, wait_s: float = 0.0) -> list[str]:
    """Take the lease and give it back; return what was said."""
    loud = Loud()
    with directory_lock(str(directory), wait_s, loud) as lock:
        lock.check()
    assert os.listdir(room(directory)) == ["free"]
    return loud.heard


# --- held -----------------------------------------------------------------------------


def test_a_second_process_is_told_of_the_first(tmp_path: Path) -> None:
    with holder(tmp_path, FORCED) as first:
        error = locked(tmp_path)
        assert f"process {first.process.pid} on {os.uname().nodename}, since 20" in error.found
        assert "renewed" in error.found
        assert "ckptctl unlock" in error.remedy
        assert len(os.listdir(room(tmp_path))) == 2, "the asking left nothing behind"
        assert first.check() == "ours"
    (heard,) = taken(tmp_path)
    whose = error.found.rpartition(", renewed")[0]
    assert heard == f"{tmp_path}: took over the lease of {whose}: that process has ended"


def test_what_is_released_is_free(tmp_path: Path) -> None:
    with holder(tmp_path, FORCED) as first:
        first.process.communicate()
        assert taken(tmp_path) == []


def test_twice_in_one_process(tmp_path: Path) -> None:
    with directory_lock(str(tmp_path)) as lock:
        assert f"process {os.getpid()} " in locked(tmp_path).found
        lock.check()
    assert taken(tmp_path) == []


def test_an_error_releases_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), directory_lock(str(tmp_path)):
        raise ZeroDivisionError
    assert taken(tmp_path) == []


def test_a_thread_renews_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = threading.Event()
    touch = Register.touch_note

    def touched(self: Register, token: str, owner: Owner) -> None:
        touch(self, token, owner)
        if state(tmp_path).endswith("-3"):
            renewed.set()

    monkeypatch.setattr(Register, "touch_note", touched)
    with directory_lock(str(tmp_path)):
        (path,) = room(tmp_path).glob("*.json")
        os.utime(path, (1, 1))
        assert renewed.wait(60)
        assert path.stat().st_mtime > 1e9
    assert "ckptctl-lease" not in {thread.name for thread in threading.enumerate()}


def test_a_server_that_comes_back_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, calls, renewed = Register.change, [], threading.Event()

    def failing(self: Register, before: Seen, after: Seen) -> bool:
        calls.append(after)
        if 2 <= len(calls) <= 4:
            raise TimeoutError(110, "Connection timed out")
        if len(calls) == 5:
            renewed.set()
        return change(self, before, after)

    with directory_lock(str(tmp_path)) as lock:
        monkeypatch.setattr(Register, "change", failing)
        lock.check()
        with pytest.raises(RefusedError, match="could not be renewed: Connection timed out"):
            lock.check()
        assert renewed.wait(60)
        lock.check()


def test_a_change_that_failed_and_was_done_all_the_same(tmp_path: Path) -> None:
    """So fails a request whose answer was lost."""
    with directory_lock(str(tmp_path)) as lock:
        name = state(tmp_path)
        os.rename(room(tmp_path) / name, room(tmp_path) / f"{name[:-1]}7")
        lock.check()
        assert int(state(tmp_path).rpartition("-")[2]) >= 8
    assert taken(tmp_path) == []


def test_a_fork_gives_nothing_back(tmp_path: Path) -> None:
    code = """
import os, sys
from ckptctl.storage.lock import directory_lock
with directory_lock(sys.argv[1]) as lock:
    child = os.fork()
    if child == 0:
        sys.exit(0)  # through the end of the block
    print(os.waitpid(child, 0)[1], flush=True)
    lock.check()
    print(os.listdir(sys.argv[1] + "/.ckptctl/lease"))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0\n")
    assert "held-" in done.stdout


def test_a_full_disk_is_no_reason(disk: Path) -> None:
    """What frees space needs the lease too."""
    (disk / "run").mkdir()
    with suppress(OSError), open(disk / "much", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))
    with suppress(OSError), open(disk / "more", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 12))
    with directory_lock(str(disk / "run")) as lock:
        lock.check()
        error = locked(disk / "run")
        assert error.found.startswith("an unknown process, renewed 0")
    assert taken(disk / "run") == []


# --- dead -----------------------------------------------------------------------------


def test_a_kill_releases_it_on_the_same_machine(tmp_path: Path) -> None:
    with holder(tmp_path, FORCED) as first:
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        (heard,) = taken(tmp_path)
        assert f"process {first.process.pid} on" in heard
        assert heard.endswith("that process has ended")


def test_a_pod_that_was_killed_elsewhere(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path, note(), idle_s=599)
    assert "renewed 10 min ago" in locked(tmp_path).found
    assert patient == [1000.0], "at once"
    leave(tmp_path, note(), idle_s=601)
    (heard,) = taken(tmp_path)
    whose = "process 7 on pod-7, since 2026-01-01T00:00:00+00:00"
    reason = "it was not renewed for 10 min"
    assert heard == f"{tmp_path}: took over the lease of {whose}: {reason}"
    assert 1045 <= patient[0] < 1047, "watched for one and a half renewals"


def test_a_clock_that_is_slow_takes_nothing_from_the_living(
    tmp_path: Path, patient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks dead by its times, and is renewed while we watch."""
    leave(tmp_path, note(), idle_s=3600)

    def sleep(seconds: float) -> None:
        patient[0] += seconds
        if patient[0] > 1030 and state(tmp_path).endswith("-3"):
            os.rename(room(tmp_path) / state(tmp_path), room(tmp_path) / f"held-{TOKEN}-4")

    monkeypatch.setattr(time, "sleep", sleep)
    loud = Loud()
    # It is watched again from there: without an end of waiting it would be dead at last.
    with directory_lock(str(tmp_path), 0.0, loud):
        assert 1030 + 45 <= patient[0] < 1030 + 47


def test_a_clock_that_is_fast_does_not_block_for_ever(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path, note(), idle_s=-86400 * 365)
    error = locked(tmp_path)
    assert error.found.endswith("renewed in the future: a clock is wrong")
    assert "--lock-wait more than 10 min" in error.remedy
    locked(tmp_path, 599)
    assert taken(tmp_path, 601) != []


def test_a_holder_that_left_no_note_is_watched(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path)
    (room(tmp_path) / f"{TOKEN}.json").unlink()
    error = locked(tmp_path)
    assert error.found == "an unknown process; it is not known when it was renewed"
    locked(tmp_path, 599)
    (heard,) = taken(tmp_path, 601)
    assert "an unknown process: it was not renewed for 10 min" in heard


def left_unknown(directory: Path, how: str) -> None:
    """Leave a lease whose time says nothing."""
    leave(directory, note(), idle_s=-86400 * 365)
    if how == "no note":
        (room(directory) / f"{TOKEN}.json").unlink()


def sightings(directory: Path, count: int = 3, **moved: float) -> list[Path]:
    """Return what runs noted of a state that they saw, dated anew where asked."""
    found = list(room(directory).glob(f"held-{TOKEN}-{count}.json"))
    for path in found:
        for age in moved.values():
            os.utime(path, (time.time() - age,) * 2)
    return found


@pytest.mark.parametrize("how", ["no note", "future"])
def test_what_a_run_saw_counts_for_the_next(tmp_path: Path, patient: list[float], how: str) -> None:
    """None of them waits for as long as a lease lives, and it stands still for ever."""
    left_unknown(tmp_path, how)
    for age_s in (0, 300, 599):
        error = locked(tmp_path)
        assert "it was first seen like this" in error.remedy
        assert "a run that finds it so after 10 min takes it over" in error.remedy
        assert len(sightings(tmp_path, idle_s=age_s)) == 1
    assert patient == [1000.0], "at once"
    sightings(tmp_path, idle_s=601)
    (heard,) = taken(tmp_path)
    assert heard.endswith("it was not renewed for 10 min")
    assert 1045 <= patient[0] < 1047, "watched for one and a half renewals"


@pytest.mark.parametrize("how", ["no note", "future"])
def test_a_renewal_ends_what_runs_saw(tmp_path: Path, patient: list[float], how: str) -> None:
    left_unknown(tmp_path, how)
    locked(tmp_path)
    sightings(tmp_path, idle_s=3600)
    os.rename(room(tmp_path) / f"held-{TOKEN}-3", room(tmp_path) / f"held-{TOKEN}-4")
    assert "first seen like this 0" in locked(tmp_path).remedy
    assert patient == [1000.0], "at once"
    assert (len(sightings(tmp_path)), len(sightings(tmp_path, 4))) == (0, 1)


def test_a_clock_that_jumps_takes_nothing_from_the_living(
    tmp_path: Path, patient: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    left_unknown(tmp_path, "no note")
    locked(tmp_path)
    sightings(tmp_path, idle_s=86400 * 365)
    renewals = [3]

    def sleep(seconds: float) -> None:
        patient[0] += seconds
        if patient[0] > 1000 + 30 * (renewals[-1] - 2):
            count = renewals[-1] + 1
            os.rename(room(tmp_path) / state(tmp_path), room(tmp_path) / f"held-{TOKEN}-{count}")
            renewals.append(count)

    monkeypatch.setattr(time, "sleep", sleep)
    locked(tmp_path, 500)
    assert len(renewals) > 15
    assert len(os.listdir(room(tmp_path))) == 2, "of one state at a time is a note kept"


def test_a_state_that_was_seen_in_the_future_is_seen_anew(
    tmp_path: Path, patient: list[float]
) -> None:
    left_unknown(tmp_path, "no note")
    locked(tmp_path)
    sightings(tmp_path, idle_s=-86400 * 365)
    assert "first seen like this 0" in locked(tmp_path).remedy
    (path,) = sightings(tmp_path)
    assert abs(path.stat().st_mtime - time.time()) < 3600


@pytest.mark.parametrize("free", [0, 1])
def test_where_no_note_can_be_left_the_error_says_so(disk: Path, free: int) -> None:
    left_unknown(disk, "no note")
    used = os.statvfs(disk)
    inodes = used.f_files - used.f_ffree + free
    subprocess.run(["mount", "-o", f"remount,nr_inodes={inodes}", disk], check=True)
    error = locked(disk)
    assert "no note of what we saw could be left: give --lock-wait more than" in error.remedy
    assert os.listdir(room(disk)) == [f"held-{TOKEN}-3"]


def test_what_others_saw_goes_with_the_lease(tmp_path: Path) -> None:
    with directory_lock(str(tmp_path)):
        (path,) = room(tmp_path).glob("*.json")
        os.utime(path, (2e9, 2e9))
        locked(tmp_path)
        assert len(list(room(tmp_path).glob("held-*.json"))) == 1
    assert taken(tmp_path) == []


def test_a_holder_that_was_told_longer_times(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path, note(renew_s=300.0), idle_s=1199)
    locked(tmp_path)
    leave(tmp_path, note(renew_s=300.0), idle_s=1201)
    assert taken(tmp_path) != []
    assert patient[0] >= 1450
    leave(tmp_path, note(renew_s=1e5), idle_s=2401)
    assert taken(tmp_path) != [], "and none that are absurd"


def test_what_is_renewed_right_before_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, note(), idle_s=3600)
    change = Register.change

    def late(self: Register, before: Seen, after: Seen) -> bool:
        if before.token == TOKEN and before.renewals == 3:
            assert change(self, before, Seen(TOKEN, 4))
            os.utime(room(tmp_path) / f"{TOKEN}.json")
        return change(self, before, after)

    monkeypatch.setattr(Register, "change", late)
    locked(tmp_path)
    assert state(tmp_path) == f"held-{TOKEN}-4"


@pytest.mark.parametrize("racers", [2, 5])
def test_one_of_several_wins_a_dead_lease(tmp_path: Path, racers: int) -> None:
    said = run_racers(tmp_path, "dead", racers, 8)
    assert said == {"won": [1] * 8, "loud": [1] * 8}
    assert state(tmp_path) == "free"
    taken(tmp_path)  # a loser may have noted a state that was no more: the next one sweeps that
    assert os.listdir(room(tmp_path)) == ["free"]


def test_no_two_hold_it_though_holders_are_killed(tmp_path: Path) -> None:
    said = run_racers(tmp_path, "count", 4, 8)
    assert said["kills"] == 5
    assert said["number"] == said["added"] >= 24


def run_racers(directory: Path, *what: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "tests/storage/racers.py", str(directory), *map(str, what)],
        cwd=ROOT,
        env=os.environ | BUSY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


# --- lost -----------------------------------------------------------------------------


def test_a_holder_that_was_stopped_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "LEASE_DEAD_SECONDS", 1.0)
    with holder(tmp_path) as first:
        first.process.send_signal(signal.SIGSTOP)
        loud = Loud()
        with directory_lock(str(tmp_path), 60, loud) as lock:
            (heard,) = loud.heard
            assert f"process {first.process.pid} on" in heard
            assert heard.endswith("it was not renewed for 1 s")
            first.process.send_signal(signal.SIGCONT)
            said = "another ckptctl took the lease over while we worked: nothing more is changed"
            assert first.check() == f"LockedError 11 {said}"
            assert first.check() == f"LockedError 11 {said}"
            lock.check()
            first.process.communicate()
            lock.check()
        assert os.listdir(room(tmp_path)) == ["free"]


def steal(directory: Path) -> None:
    name = state(directory)
    os.rename(room(directory) / name, room(directory) / f"held-{TOKEN}-0")
    (room(directory) / f"{TOKEN}.json").write_text(json.dumps(note()))


def free(directory: Path) -> None:
    os.rename(room(directory) / state(directory), room(directory) / "free")


def remove(directory: Path) -> None:
    shutil.rmtree(directory / ".ckptctl")


@pytest.mark.parametrize(
    ("how", "kind", "found"),
    [
        (steal, LockedError, "process 7 on pod-7, since 2026-01-01T00:00:00+00:00"),
        (free, ChangedError, "renewed 0"),
        (remove, ChangedError, "renewed 0"),
    ],
)
def test_a_lease_that_is_gone_is_noticed(
    tmp_path: Path, how: Callable[[Path], None], kind: type, found: str
) -> None:
    loud = Loud()
    with directory_lock(str(tmp_path), 0.0, loud) as lock:
        how(tmp_path)
        with pytest.raises(kind, match="nothing more is changed") as caught:
            lock.check()
        assert caught.value.found.startswith(found)
        with pytest.raises(kind):
            lock.check()
    if how is steal:
        assert state(tmp_path) == f"held-{TOKEN}-0", "what is another's is left alone"


def test_the_thread_says_so_when_it_notices(tmp_path: Path) -> None:
    said = threading.Event()

    class Waiter(Progress):
        def warn(self, message: str) -> None:
            assert "took the lease over" in message
            assert "process 7 on pod-7" in message
            said.set()

    with directory_lock(str(tmp_path), 0.0, Waiter()):
        steal(tmp_path)
        assert said.wait(60)


class Late(threading.Event):
    """What waits for it is told that the time was up right before."""

    def wait(self, timeout: float | None = None) -> bool:
        super().wait()
        return False


def test_what_is_given_back_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread may wake up just then."""
    loud = Loud()
    with monkeypatch.context() as patch:
        patch.setattr(threading, "Event", Late)
        lease = acquire_lease(Register(str(tmp_path)), Waiting(0.0, loud))
    lease.release()
    assert loud.heard == []
    assert os.listdir(room(tmp_path)) == ["free"]


# --- waiting --------------------------------------------------------------------------


def test_waiting_shows_signs_of_life(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path, note(), idle_s=60)
    watched = Watched()
    with pytest.raises(LockedError), directory_lock(str(tmp_path), 100, watched):
        pass
    assert patient[0] == pytest.approx(1100)
    assert watched.phases == ["waiting for process 7 on pod-7, since 2026-01-01T00:00:00+00:00"]
    assert watched.signs > 90


def test_waiting_until_it_is_free(tmp_path: Path) -> None:
    with holder(tmp_path, FORCED) as first:
        watched = Watched()
        timer = threading.Timer(0.2, first.process.communicate)
        timer.start()
        with directory_lock(str(tmp_path), 60, watched):
            assert watched.phases[1:] == ["looking"]
        timer.join()


def test_who_waited_long_is_young_when_he_gets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path, note())

    def sleep(seconds: float) -> None:
        (mine,) = (path for path in room(tmp_path).glob("*.json") if path.stem != TOKEN)
        os.utime(mine, (1, 1))
        free(tmp_path)

    monkeypatch.setattr(time, "sleep", sleep)
    with directory_lock(str(tmp_path), 60):
        (mine,) = (path for path in room(tmp_path).glob("*.json") if path.stem != TOKEN)
        assert mine.stat().st_mtime > 1e9


def test_a_deadline_ends_the_waiting(tmp_path: Path, patient: list[float]) -> None:
    leave(tmp_path, note())
    from ckptctl.errors import TimeUpError

    with pytest.raises(TimeUpError), directory_lock(str(tmp_path), 1000, Deadline(5)):
        pass
    assert len(os.listdir(room(tmp_path))) == 2


def test_the_time_is_for_all_directories_together(tmp_path: Path, patient: list[float]) -> None:
    places = [tmp_path / name for name in "abc"]
    for place in places:
        place.mkdir()
    leave(places[0], note(), idle_s=560)
    leave(places[2], note())
    with pytest.raises(LockedError), lock_directories(map(str, places), 100):
        pass
    assert patient[0] == pytest.approx(1100)
    assert state(places[0]) == state(places[1]) == "free"


# --- strange --------------------------------------------------------------------------


def elsewhere(directory: Path) -> Path:
    path = directory.parent / "elsewhere"
    path.mkdir(exist_ok=True)
    (path / "precious").write_text("data")
    return path


def link_own(directory: Path) -> None:
    (directory / ".ckptctl").symlink_to(elsewhere(directory))


def link_lease(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    room(directory).symlink_to(elsewhere(directory))


def file_lease(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    room(directory).write_text("x")


def fifo_lease(directory: Path) -> None:
    (directory / ".ckptctl").mkdir()
    os.mkfifo(room(directory))


@pytest.mark.parametrize("make", [link_own, link_lease, file_lease, fifo_lease])
def test_where_no_lease_can_be(tmp_path: Path, make: Callable[[Path], None]) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    make(directory)
    with pytest.raises(RefusedError, match="cannot lock the directory"):
        taken(directory)
    assert held(tmp_path) == []
    assert os.listdir(elsewhere(directory)) == ["precious"]


@pytest.mark.parametrize("names", [("junk",), ("free", f"held-{TOKEN}-1"), (f"held-{TOKEN}-x",)])
def test_what_makes_no_sense_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    room(tmp_path).mkdir(parents=True)
    for name in names:
        (room(tmp_path) / name).touch()
    with pytest.raises(RefusedError, match="no sense") as caught:
        taken(tmp_path)
    assert caught.value.found == ", ".join(sorted(names))
    assert set(os.listdir(room(tmp_path))) == set(names)


def note_fifo(path: Path) -> None:
    os.mkfifo(path)


def note_link(path: Path) -> None:
    path.symlink_to(elsewhere(path.parents[2]) / "precious")


def note_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def note_garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def note_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [note_fifo, note_link, note_huge, note_garbage, note_directory])
def test_a_note_may_be_anything(
    tmp_path: Path, make: Callable[[Path], None], patient: list[float]
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    leave(directory)
    path = room(directory) / f"{TOKEN}.json"
    path.unlink()
    make(path)
    found = locked(directory).found
    assert found.startswith("an unknown process")
    regular = make in (note_huge, note_garbage)
    assert ("it is not known when" in found) == (not regular)
    with directory_lock(str(directory), 601):
        pass
    assert (elsewhere(directory) / "precious").read_text() == "data"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/x", path)])
def test_the_state_is_a_name_and_its_file_never_opened(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    room(tmp_path).mkdir(parents=True)
    make(room(tmp_path) / "free")
    assert taken(tmp_path) == []


def test_an_emptied_lease_is_made_anew(tmp_path: Path) -> None:
    room(tmp_path).mkdir(parents=True)
    assert taken(tmp_path) == []


def test_what_killed_runs_left_goes(tmp_path: Path) -> None:
    taken(tmp_path)
    own = tmp_path / ".ckptctl"
    old, young = "a" * 32, "b" * 32
    for token in (old, young):
        (own / f"lease-{token}.tmp").mkdir()
        (own / f"lease-{token}.tmp" / "free").touch()
        (room(tmp_path) / f"{token}.json").touch()
    (room(tmp_path) / "other").touch()
    for path in (own / f"lease-{old}.tmp", room(tmp_path) / f"{old}.json"):
        os.utime(path, (1, 1))
    with directory_lock(str(tmp_path)):
        pass
    assert sorted(os.listdir(own)) == ["lease", f"lease-{young}.tmp"]
    assert sorted(os.listdir(room(tmp_path))) == [f"{young}.json", "free", "other"]


def test_several_begin_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes the lease's directory aside; one of them becomes it."""
    rename, won = os.rename, []

    def slow(source: str, target: str, **more: int) -> None:
        if target == "lease" and not won:
            won.append(True)
            Register(str(tmp_path)).make()
        rename(source, target, **more)

    monkeypatch.setattr(os, "rename", slow)
    assert taken(tmp_path) == []
    assert os.listdir(tmp_path / ".ckptctl") == ["lease"]


# --- with the kernel's lock -----------------------------------------------------------


def test_the_variable_is_one_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTCTL_LOCK", "leas")
    with pytest.raises(UsageError, match="CKPTCTL_LOCK is 'leas'"):
        taken(tmp_path)


def test_where_a_lease_is_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS server sees a local disk, and its clients do not."""
    taken(tmp_path)
    monkeypatch.delenv("CKPTCTL_LOCK")
    with directory_lock(str(tmp_path)):
        assert state(tmp_path).startswith("held-")
    leave(tmp_path, note())
    locked(tmp_path)


def test_the_first_lease_is_noticed_by_who_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CKPTCTL_LOCK")
    with directory_lock(str(tmp_path)) as lock:
        lock.check()
        leave(tmp_path, note())
        with pytest.raises(ChangedError, match="through another filesystem"):
            lock.check()


def test_flock_alone_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTCTL_LOCK", "flock")
    with directory_lock(str(tmp_path)):
        assert os.listdir(tmp_path / ".ckptctl") == ["lock"]


def test_a_lease_that_cannot_begin_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Lease, "__init__", none)
    with pytest.raises(RuntimeError), directory_lock(str(tmp_path)):
        pass
    assert os.listdir(room(tmp_path)) == ["free"]
