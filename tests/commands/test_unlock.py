"""`ckptctl unlock`, and who takes a lock and who does not."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.commands.main import main
from ckptctl.errors import RefusedError
from ckptctl.storage.lock import directory_lock
from ckptctl.storage.owner import Owner
from tests.storage.leases import BUSY, FORCED, TOKEN, holder, leave, note, room, state

POD = "process 7 on pod-7, since 2026-01-01T00:00:00+00:00"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: None,
) -> Callable[..., Done]:
    """Return a function that runs a command in this process; it says DIR for the directory."""
    for key in os.environ:
        if key.startswith("CKPTCTL"):
            monkeypatch.delenv(key)

    def run_(*args: object, env: Mapping[str, str] | None = None) -> Done:
        with monkeypatch.context() as patch:
            for key, value in (env or {}).items():
                patch.setenv(key, value)
                if key.startswith("CKPTCTL_KNOB_"):
                    patch.setattr(knobs, key.removeprefix("CKPTCTL_KNOB_"), float(value))
            code = main([*map(str, args)])
        said = capsys.readouterr()
        return Done(code, *(text.replace(str(tmp_path), "DIR") for text in said))

    return run_


def ended() -> dict[str, object]:
    """Facts of a process of this machine that has ended."""
    child = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(child, 0)
    return json.loads(Owner.of_this_process(30).note()) | {"pid": child}


@pytest.mark.parametrize("env", [{}, FORCED])
def test_nothing_to_unlock_is_one_line(run, tmp_path: Path, untouched, env) -> None:
    with untouched(tmp_path):
        done = run("unlock", tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing to unlock\tDIR\tnothing locks it\n"


def test_a_free_lease_and_a_free_lock_are_nothing(run, tmp_path: Path, untouched) -> None:
    with directory_lock(str(tmp_path)):
        pass
    with untouched(tmp_path):
        done = run("unlock", tmp_path)
    assert done.stdout == "nothing to unlock\tDIR\tnothing locks it\n"
    room(tmp_path).mkdir()
    (room(tmp_path) / "free").touch()
    with untouched(tmp_path):
        done = run("unlock", "-C", tmp_path, "--json")
    assert json.loads(done.stdout) == {
        "schema": "ckptctl.unlock/1",
        "directory": "DIR",
        "removed": False,
        "reason": "its lease is free",
        "owner": None,
    }


def test_an_emptied_lease_is_free(run, tmp_path: Path, untouched) -> None:
    """The next run makes it anew."""
    room(tmp_path).mkdir(parents=True)
    with untouched(tmp_path):
        done = run("unlock", tmp_path, env=FORCED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "nothing to unlock\tDIR\tits lease is free\n"


def test_a_lease_of_a_dead_process_goes_at_once(run, tmp_path: Path) -> None:
    facts = ended()
    leave(tmp_path, facts)
    done = run("unlock", tmp_path, "--json", env=FORCED)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "schema": "ckptctl.unlock/1",
        "directory": "DIR",
        "removed": True,
        "reason": "that process has ended",
        "owner": facts,
    }
    assert os.listdir(room(tmp_path)) == ["free"]


def test_a_lease_that_was_not_renewed_goes_after_a_last_look(run, tmp_path: Path) -> None:
    leave(tmp_path, note(), idle_s=601)
    done = run("unlock", tmp_path, env=BUSY)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (f"removed the lease\tDIR\t{POD}\tit was not renewed for 10 min\n")
    assert os.listdir(room(tmp_path)) == ["free"]


def test_a_lease_that_may_be_alive_stays(run, tmp_path: Path) -> None:
    leave(tmp_path, note(), idle_s=500)
    done = run("unlock", tmp_path, env=FORCED)
    assert done.returncode == 12
    assert done.stdout == ""
    assert "error: the lease may be alive" in done.stderr
    assert f"found: {POD}, renewed 8 min ago" in done.stderr
    assert "next: wait for it" in done.stderr
    assert sorted(os.listdir(room(tmp_path))) == [f"{TOKEN}.json", f"held-{TOKEN}-3"]
    done = run("unlock", tmp_path, "--json", env=FORCED)
    assert json.loads(done.stderr)["exit_code"] == 12


def test_the_end_of_a_lease_may_be_waited_for(run, tmp_path: Path) -> None:
    leave(tmp_path, note(), idle_s=-1e6)
    env = BUSY | {"CKPTCTL_KNOB_LEASE_DEAD_SECONDS": "0.5"}
    assert run("unlock", tmp_path, env=env).returncode == 12
    done = run("unlock", tmp_path, "--lock-wait", "60s", env=env)
    assert (done.returncode, done.stdout.split("\t")[0]) == (0, "removed the lease")


def test_what_a_run_saw_of_it_counts(run, tmp_path: Path) -> None:
    leave(tmp_path, note(), idle_s=-1e6)
    done = run("unlock", tmp_path, env=FORCED)
    assert done.returncode == 12
    assert "a run that finds it so after 10 min takes it over" in done.stderr
    (path,) = room(tmp_path).glob("held-*.json")
    os.utime(path, (1e9, 1e9))
    done = run("unlock", tmp_path, env=BUSY)
    assert (done.returncode, done.stdout.split("\t")[0]) == (0, "removed the lease")
    assert os.listdir(room(tmp_path)) == ["free"]


def test_a_lock_of_the_kernel_is_its_holders(run, tmp_path: Path, untouched) -> None:
    with holder(tmp_path, {}) as first:
        with untouched(tmp_path):
            done = run("unlock", tmp_path)
        assert done.returncode == 11
        assert f"found: process {first.process.pid} on" in done.stderr
        assert "the kernel releases the lock with it" in done.stderr
        assert first.check() == "ours"


def test_a_run_that_began_on_a_full_disk_is_seen(run, tmp_path: Path, untouched) -> None:
    """Its lock is that of the directory itself."""
    home = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(home, fcntl.LOCK_EX)
    with untouched(tmp_path):
        done = run("unlock", tmp_path)
    assert done.returncode == 11
    assert "found: a ckptctl: it began on a full disk" in done.stderr
    os.close(home)
    assert run("unlock", tmp_path).returncode == 0


def link(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *product([".ckptctl", ".ckptctl/lock", ".ckptctl/lease"], [link, os.mkfifo]),
        *product([".ckptctl", ".ckptctl/lease"], [Path.touch]),
        (".ckptctl/lock", Path.mkdir),
    ],
)
def test_what_is_not_ours_is_named_with_what_to_do(
    run, tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    done = run("unlock", tmp_path)
    assert done.returncode == 12
    assert f"\n  file: DIR/{name}\n" in done.stderr
    assert "\n  next: it is not of ckptctl's making" in done.stderr


def test_a_lock_that_nobody_may_write_to_is_named(run, tmp_path: Path) -> None:
    path = tmp_path / ".ckptctl" / "lock"
    path.parent.mkdir()
    path.touch()
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        pytest.skip("no file can be made immutable here: run as root on ext4, xfs or btrfs")
    try:
        done = run("unlock", tmp_path)
        with pytest.raises(RefusedError) as caught, directory_lock(str(tmp_path)):
            pass
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
    assert done.returncode == 12
    assert "\n  file: DIR/.ckptctl/lock\n" in done.stderr
    remedy = "see who may write to it (ls -l), and whether anyone may (lsattr)"
    assert f"\n  next: {remedy}" in done.stderr
    assert (caught.value.file, caught.value.remedy) == (str(path), remedy)


@pytest.mark.parametrize("name", [".ckptctl", ".ckptctl/lock", ".ckptctl/lease"])
def test_what_leads_elsewhere_is_refused(run, tmp_path: Path, name: str) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    (tmp_path / "elsewhere").mkdir()
    if name != ".ckptctl":
        (directory / ".ckptctl").mkdir()
    os.symlink(tmp_path / "elsewhere", directory / name)
    done = run("unlock", directory)
    assert done.returncode == 12, done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_missing_directory_is_ten(run, tmp_path: Path) -> None:
    assert run("unlock", tmp_path / "none").returncode == 10


def test_a_variable_that_says_neither_is_usage(run, tmp_path: Path) -> None:
    (tmp_path / ".ckptctl").mkdir()
    done = run("unlock", tmp_path, env={"CKPTCTL_LOCK": "none"})
    assert done.returncode == 2
    assert "CKPTCTL_LOCK" in done.stderr


# --- who takes one --------------------------------------------------------------------


def tree(directory: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in [directory, *directory.rglob("*")]:
        info = path.lstat()
        data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (info.st_mtime_ns, info.st_ctime_ns, info.st_ino, data)
    return found


READERS = [
    ("ls",),
    ("show", "100"),
    ("diff", "100", "120"),
    ("get", "emb", "0"),
    ("verify", "--data"),
    ("export", "100", "--format", "npz", "-o", "{out}"),
    ("merge", "-n"),
    ("prune", "-n", "--min-age", "0s"),
    ("compact", "-n"),
]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
@pytest.mark.parametrize("held", [False, True])
def test_readers_and_dry_runs_take_no_lock_and_write_nothing(
    run, sharded: Path, tmp_path: Path, command: tuple[str, ...], held: bool
) -> None:
    if held:
        leave(sharded, note())
    before = tree(sharded)
    args = [arg.format(out=tmp_path / "out.npz") for arg in command]
    done = run(args[0], "-C", sharded, *args[1:], env=FORCED)
    assert done.returncode == 0, done.stderr
    assert tree(sharded) == before


@pytest.mark.parametrize("command", ["merge", "prune", "compact"])
def test_who_writes_is_told_who_holds_the_lease(run, sharded: Path, command: str) -> None:
    leave(sharded, note())
    args = () if command == "merge" else ("--yes", "--min-age", "0s")
    done = run(command, sharded, *args, env=FORCED)
    assert done.returncode == 11, done.stderr
    assert f"found: {POD}, renewed " in done.stderr
    assert "a lease that is not renewed for 10 min is dead" in done.stderr
    assert state(sharded) == f"held-{TOKEN}-3"


@pytest.mark.parametrize("command", ["merge", "prune", "compact", "unlock"])
@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_waiting_shows_a_sign_of_life(run, sharded: Path, command: str, kind: str) -> None:
    env = {"CKPTCTL_LOCK": kind, "CKPTCTL_KNOB_PROGRESS_SECONDS": "0.02"}
    args = () if command in ("merge", "unlock") else ("--yes", "--min-age", "0s")
    with ExitStack() as held:
        if kind == "lease":
            leave(sharded, note())
        else:
            held.enter_context(directory_lock(str(sharded)))
        done = run(command, sharded, *args, "--lock-wait", "0.3s", env=env)
    if (command, kind) == ("unlock", "flock"):  # there is nothing to wait for
        assert (done.returncode, done.stderr.count("waiting for")) == (11, 0)
        return
    assert done.returncode == (12 if command == "unlock" else 11)
    whose = POD if kind == "lease" else f"process {os.getpid()} on "
    waits = "watching the lease of" if command == "unlock" else "waiting for"
    assert f"ckptctl: {waits} {whose}" in done.stderr


def test_a_takeover_is_loud(run, sharded: Path) -> None:
    leave(sharded, ended())
    done = run("merge", sharded, env=FORCED)
    assert done.returncode == 0, done.stderr
    assert "ckptctl: warning: DIR/sharded: took over the lease of process" in done.stderr
    leave(sharded, ended())
    done = run("prune", sharded, "--min-age", "0s", "--yes", "--json", env=FORCED)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (notice,) = json.loads(done.stdout)["notices"]
    assert "took over the lease of process" in notice
