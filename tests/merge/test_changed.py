"""Others at work: sources that change, locks, and being interrupted."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptctl.errors import ChangedError, LockedError, RefusedError
from ckptctl.merge import execute_merge
from ckptctl.storage.lock import directory_lock
from tests.merge.model import names, small_chain
from tests.merge.storages import CHANGES, Hooked, Once, Trapped
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    full,
    increment,
    listing,
    table,
    write_state,
)

ROOT = Path(__file__).parents[2]

# --- sources that change --------------------------------------------------------------


def touched(path: Path) -> None:
    os.utime(path, (1, 1))


def replaced(path: Path) -> None:
    """Equal bytes and times, another file."""
    copy = path.with_name("copy")
    shutil.copy2(path, copy)
    os.replace(copy, path)


def longer(path: Path) -> None:
    when = path.stat()
    with open(path, "ab") as file:
        file.write(b"x")
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))


def gone(path: Path) -> None:
    path.unlink()


SOURCES = [
    "full.index",
    "full.data-00001-of-00002",
    "increment.index",
    "increment.data-00000-of-00002",
]


def source(chain: Chain, name: str) -> Path:
    kind, _, suffix = name.partition(".")
    prefix = chain.full_prefix(40) if kind == "full" else chain.increment_prefix(50)
    return Path(f"{prefix}.{suffix}")


@pytest.mark.parametrize("change", [touched, replaced, longer, gone])
@pytest.mark.parametrize("name", SOURCES)
def test_a_source_that_changed_since_the_plan(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    chain = small_chain(tmp_path)
    plan = chain.plan()
    change(source(chain, name))
    before = listing(chain.directory)
    with pytest.raises(ChangedError) as caught:
        execute_merge(plan)
    assert caught.value.exit_code == 12
    assert caught.value.file == str(source(chain, name))
    assert listing(chain.directory) == before


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("change", [replaced, gone])
def test_a_source_that_changes_while_we_write(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    """A trainer cleans up: what was open is read on, and then not committed."""
    chain = small_chain(tmp_path)
    storage = Hooked("create", after=lambda: change(source(chain, name)))
    before = names(chain.directory)
    with pytest.raises(ChangedError):
        chain.merge(storage=storage)
    assert names(chain.directory) - before == set()


@pytest.mark.parametrize("moment", ["write_new", "rename_new"])
def test_a_rollback_in_the_last_moment(tmp_path: Path, moment: str) -> None:
    """Between our look and the rename of the index, where a process may be stopped for hours."""
    chain = small_chain(tmp_path)
    room = chain.directory / INCREMENTS

    def roll_back() -> None:
        kept = [f"incremental_model.ckpt-{step}" for step in (20, 30, 50)]
        write_state(room, kept, latest=kept[1])

    before = names(chain.directory)
    with pytest.raises(ChangedError, match=r"abandoned|another base"):
        chain.merge(storage=Hooked(moment, after=roll_back))
    assert names(chain.directory) == before


def test_an_increment_that_was_added_does_not_matter(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    plan = chain.plan()
    chain.add(increment(60, changes("emb", [1, 3], parts=2), shards=2))
    execute_merge(plan)
    chain.check(40, 50)


def test_side_files_are_sources_too(tmp_path: Path) -> None:
    chain = small_chain(tmp_path, side=True)
    plan = chain.plan()
    touched(Path(f"{chain.full_prefix(40)}-emb-emb_files/1.emb"))
    with pytest.raises(ChangedError):
        execute_merge(plan)


# --- the lock -------------------------------------------------------------------------

HOLD = """
import sys
from ckptctl.storage.lock import directory_lock
with directory_lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Return a function that starts a process which holds a directory's lock."""
    started = []

    def start(directory: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(directory)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_another_process_holds_the_lock(tmp_path: Path, holder) -> None:
    chain = small_chain(tmp_path)
    plan = chain.plan()
    process = holder(chain.directory)
    before = listing(chain.directory)
    with pytest.raises(LockedError) as caught:
        execute_merge(plan)
    assert caught.value.exit_code == 11
    assert str(process.pid) in str(caught.value.found)
    assert listing(chain.directory) == before


def test_a_lock_that_is_let_go_is_waited_for(tmp_path: Path, holder) -> None:
    chain = small_chain(tmp_path)
    plan = chain.plan()
    process = holder(chain.directory)
    threading.Timer(0.3, process.stdin.close).start()
    execute_merge(plan, lock_wait_s=20)
    chain.check(40, 50)


def test_a_lock_goes_with_its_process(tmp_path: Path, holder) -> None:
    chain = small_chain(tmp_path)
    process = holder(chain.directory)
    process.kill()
    process.wait()
    chain.merge()


def test_the_destination_is_locked_and_not_the_source(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    (tmp_path / "out").mkdir()
    with directory_lock(str(chain.directory)):
        chain.merge(50, tmp_path / "out" / "x-50")
    with directory_lock(str(tmp_path / "out")), pytest.raises(LockedError):
        chain.merge(50, tmp_path / "out" / "y-50")


# --- interrupted, or failing, at any moment -------------------------------------------


def changes_of_a_merge(tmp_path: Path) -> list[str]:
    chain = small_chain(tmp_path, side=True)
    trap = Once(10**9)
    chain.merge(storage=Trapped(trap))
    return trap.calls


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EIO, "Input/output error"),
    ],
    ids=["Ctrl-C", "full disk", "broken disk"],
)
def test_stopped_at_any_moment_it_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    """Until the index is in place; from then on the full is there and whole."""
    (tmp_path / "count").mkdir()
    calls = changes_of_a_merge(tmp_path / "count")
    index = next(
        at for at, call in enumerate(calls) if call.startswith("rename_new") and "/index" in call
    )
    for at in range(len(calls)):
        room = tmp_path / str(at)
        room.mkdir()
        chain = small_chain(room, side=True)
        before = listing(chain.directory)
        trap = Once(at, error)
        try:
            chain.merge(storage=Trapped(trap))
        except type(error):
            pass
        else:
            assert at > index, trap.sprung
        if at <= index:
            assert listing(chain.directory) == before, trap.sprung
        else:
            chain.check(40, 50)
        shutil.rmtree(room)


def test_all_changes_are_watched() -> None:
    """The list above is all that a storage can change."""
    from ckptctl.storage.base import Storage

    reads = {"listdir", "stat", "open", "read_small", "free_bytes", "is_displaced"}
    own = {name for name in vars(Storage) if not name.startswith("_")}
    assert own == set(CHANGES) | reads


def interrupted(chain: Chain, *more: str, number: int = signal.SIGINT) -> tuple[int, str]:
    """Send a signal to a real merge in the middle of its writing."""
    command = [sys.executable, "-m", "ckptctl", "merge", str(chain.directory), "--bwlimit", "1MB/s"]
    process = subprocess.Popen(
        [*command, *more],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 30
    while not list(chain.directory.glob("model.ckpt-20_temp_*/data-*")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@pytest.mark.parametrize("jobs", ["1", "4"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_process_is_interrupted(tmp_path: Path, number: int, code: int, jobs: str) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(40_000), dim=16)),
        increment(20, changes("emb", range(100), dim=16)),
    )
    before = listing(chain.directory)
    status, errors = interrupted(chain, "-j", jobs, number=number)
    assert status == code, errors
    assert "Traceback" not in errors
    assert listing(chain.directory) == before


def test_an_executor_that_is_shut_down_leaves_nothing(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    plan = chain.plan()
    before = listing(chain.directory)
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        execute_merge(plan, executor=executor)
    assert listing(chain.directory) == before


def test_a_directory_that_may_not_be_written_to(tmp_path: Path) -> None:
    """A file where our own room would be: the lock cannot be taken."""
    chain = small_chain(tmp_path)
    (chain.directory / ".ckptctl").write_bytes(b"")
    plan = chain.plan()
    with pytest.raises(RefusedError):
        execute_merge(plan)
