"""A run that was stopped for so long that another took its lease: it changes nothing more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.bundle.commit import PendingBundle
from ckptctl.merge import execute_merge
from ckptctl.storage import LOCAL
from ckptctl.storage.lock import directory_lock
from tests.merge.model import small_chain
from tests.merge.prunes import age
from tests.oracle.chain import listing
from tests.storage.leases import HASTY, Loud, room

ROOT = Path(__file__).parents[2]

#: `RUN DIRECTORY WHAT CALL`: stops itself ahead of the first change whose name has CALL in it.
RUN = """
import os, signal, sys
from ckptctl.errors import CkptctlError
from ckptctl.merge import CompactOptions, PruneOptions
from ckptctl.merge import execute_merge, execute_prune, plan_merge, plan_prune, run_compact
from tests.merge.storages import Hooked

directory, what, call = sys.argv[1:]
storage = Hooked(call, before=lambda: os.kill(os.getpid(), signal.SIGSTOP))
try:
    if what == "merge":
        execute_merge(plan_merge(directory, storage=storage), jobs=1)
    elif what == "prune":
        execute_prune(plan_prune(directory, PruneOptions(min_age_s=0), storage=storage))
    else:
        run_compact(directory, CompactOptions(prune=PruneOptions(min_age_s=0)), storage=storage)
except CkptctlError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a run and returns when it has stopped itself."""
    monkeypatch.setenv("CKPTCTL_LOCK", "lease")
    monkeypatch.setattr(knobs, "LEASE_RENEW_SECONDS", 0.1)
    monkeypatch.setattr(knobs, "LEASE_DEAD_SECONDS", 1.0)
    started = []

    def start(*args: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, *map(str, args)],
            cwd=ROOT,
            env=os.environ | HASTY,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        ended = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert ended.si_code == os.CLD_STOPPED, "the call is made"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def without_own(directory: Path) -> dict[str, object]:
    return {
        name: facts for name, facts in listing(directory).items() if not name.startswith(".ckptctl")
    }


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("merge", "create "),  # preallocates a shard: hours before the commit
        ("merge", "rename_new "),  # in the midst of the commit
        ("prune", "removed.jsonl"),  # ahead of the first removal
        ("compact", "create "),
    ],
)
def test_what_lost_its_lease_changes_nothing_more(
    tmp_path: Path, stopped: Callable[..., subprocess.Popen[str]], what: str, call: str
) -> None:
    chain = age(small_chain(tmp_path))
    before = without_own(chain.directory)
    run = stopped(chain.directory, what, call)
    loud = Loud()
    with directory_lock(str(chain.directory), 60, loud) as lock:
        assert f"took over the lease of process {run.pid} on" in "".join(loud.heard)
        run.send_signal(signal.SIGCONT)
        said, _ = run.communicate()
        assert run.returncode == 11, said
        assert "took the lease over while we worked" in said
        lock.check()
    assert without_own(chain.directory) == before
    assert os.listdir(room(chain.directory)) == ["free"]


def test_what_lost_its_lease_for_a_while_does_not_commit(
    tmp_path: Path, stopped: Callable[..., subprocess.Popen[str]]
) -> None:
    """Who took it has gone again: what it did meanwhile is not known."""
    chain = age(small_chain(tmp_path))
    before = without_own(chain.directory)
    run = stopped(chain.directory, "merge", "create ")
    with directory_lock(str(chain.directory), 60):
        pass
    run.send_signal(signal.SIGCONT)
    said, _ = run.communicate()
    assert run.returncode == 12, said
    assert "was taken from us" in said
    assert without_own(chain.directory) == before


def test_what_was_written_until_then_is_the_other_runs_to_remove(
    tmp_path: Path, stopped: Callable[..., subprocess.Popen[str]]
) -> None:
    chain = age(small_chain(tmp_path))
    run = stopped(chain.directory, "merge", "open_write ")
    execute_merge(chain.plan(), lock_wait_s=60)
    chain.check(40, 50)
    before = without_own(chain.directory)
    run.send_signal(signal.SIGCONT)
    said, _ = run.communicate()
    assert run.returncode == 12, said
    assert "was taken from us" in said
    assert without_own(chain.directory) == before


def test_an_abort_leaves_the_mark_of_another_run(tmp_path: Path) -> None:
    """It took our lease over, and began to write the same checkpoint."""
    prefix = str(tmp_path / "m-1")
    ours = PendingBundle(prefix, 1, LOCAL, mark={"step": 1})
    ours.start()
    theirs = PendingBundle(prefix, 1, LOCAL, mark={"step": 1})
    theirs.start()
    ours.abort()
    (left,) = (path for path in os.listdir(tmp_path) if "_temp_" in path)
    assert left == os.path.basename(theirs.temporary)
    mark = json.loads((tmp_path / "m-1.ckptctl.json").read_text())
    assert mark["temporary"] == left
    theirs.abort()
    assert os.listdir(tmp_path) == []
