"""Killed at any moment: the old chain restores, the next run completes, nothing is silent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ckptctl.bundle import BundleReader, read_state
from ckptctl.chain import find_chains, scan_directory
from ckptctl.errors import CkptctlError
from ckptctl.merge import execute_merge, plan_merge
from tests.merge.model import names, small_chain
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table
from tests.oracle.images import contents

KILLER = Path(__file__).parent / "killer.py"
ROOT = KILLER.parents[2]


@dataclass
class Killed:
    """A directory in which a merge was killed, and what the merge was about to do."""

    directory: Path
    call: str

    @property
    def committed(self) -> bool:
        return (self.directory / "model.ckpt-50.index").exists()


def killed_runs(tmp_path: Path, chain: Chain, **options: Any) -> list[Killed]:
    """Kill a merge of the chain ahead of each of its changes; the last one came through."""
    room = tmp_path / "room"
    room.mkdir()
    shutil.copytree(chain.directory, room / "before")
    done = subprocess.run(
        [sys.executable, str(KILLER), str(room), json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    calls = json.loads(done.stdout)
    assert calls[-1] is None, "it never came through"
    return [Killed(room / str(n), call or "") for n, call in enumerate(calls)]


def strangers(killed: Killed, before: Path) -> set[str]:
    """Files and directories at the top that were not there before."""
    found = {name.split(os.sep)[0] for name in names(killed.directory) - names(before)}
    return found - {".ckptctl-trash"}


@pytest.fixture(scope="module")
def all_runs(module_path: Path) -> list[Killed]:
    return killed_runs(module_path, small_chain(module_path, side=True))


@pytest.fixture
def runs(all_runs: list[Killed], tmp_path: Path) -> list[Killed]:
    """Copies of their directories, for each test to go on with."""
    room = all_runs[0].directory.parent
    shutil.copytree(room, tmp_path / "room")
    return [Killed(tmp_path / "room" / run.directory.name, run.call) for run in all_runs]


def test_a_merge_changes_the_disk_often_enough_to_be_killed(runs: list[Killed]) -> None:
    """The harness itself: each kind of change was one to be killed at."""
    said = " ".join(killed.call.split(" ")[0] for killed in runs)
    for word in ("create", "write_new", "rename_new", "link", "half", "fsync_dir", "write_atomic"):
        assert word in said
    assert sum(killed.committed for killed in runs) > 3
    assert not runs[0].committed


def test_the_old_chain_restores_as_before(runs: list[Killed], tmp_path: Path) -> None:
    before = tmp_path / "room" / "before"
    state = (before / "checkpoint").read_bytes()
    old = {
        str(path.relative_to(before)): path.read_bytes()
        for path in before.rglob("*")
        if path.is_file() and path.name != "checkpoint"
    }
    for killed in runs[:-1]:
        for name, data in old.items():
            assert (killed.directory / name).read_bytes() == data, killed.call
        found = read_state(str(killed.directory / "checkpoint"))
        named = killed.directory / os.path.basename(found.latest)
        with BundleReader(str(named)) as reader:  # what a trainer would restore
            reader.check_shards()
        if not killed.committed:
            assert (killed.directory / "checkpoint").read_bytes() == state, killed.call
        points = find_chains(scan_directory(str(killed.directory))).restore_points
        assert set(points) == {10, 20, 30, 40, 50}, killed.call


def test_a_prefix_that_exists_is_whole(runs: list[Killed]) -> None:
    whole = contents(runs[-1].directory / "model.ckpt-50")
    for killed in runs:
        if killed.committed:
            assert contents(killed.directory / "model.ckpt-50") == whole, killed.call


def mark_without_time(path: Path) -> dict[str, object]:
    mark = json.loads(path.read_bytes())
    assert mark.pop("index")
    return mark


def test_the_next_run_names_the_leftovers_and_completes(runs: list[Killed], tmp_path: Path) -> None:
    before = tmp_path / "room" / "before"
    finished = runs[-1].directory
    for killed in runs:
        if killed.committed:
            continue
        left = strangers(killed, before)
        plan = plan_merge(str(killed.directory))
        assert {name.split(os.sep)[0] for name in plan.leftovers} == left, killed.call
        execute_merge(plan)
        assert names(killed.directory) == names(finished), killed.call
        for path in finished.glob("model.ckpt-50*"):
            if path.is_file():
                own = killed.directory / path.name
                # The mark says when its index was written.
                read = mark_without_time if path.suffix == ".json" else Path.read_bytes
                assert read(own) == read(path), killed.call
        assert (killed.directory / "checkpoint").read_bytes() == (
            finished / "checkpoint"
        ).read_bytes()


def test_no_leftover_is_silent(runs: list[Killed], tmp_path: Path) -> None:
    """What `ls` lists, or the plan of the next merge names."""
    before = tmp_path / "room" / "before"
    for killed in runs[:-1]:
        left = strangers(killed, before)
        scan = scan_directory(str(killed.directory))
        told = {os.path.basename(item.path) for item in find_chains(scan).leftovers}
        told |= set(plan_merge(str(killed.directory)).leftovers)
        if killed.committed:
            told |= {
                name for name in left if name.startswith("model.ckpt-50") and "_temp_" not in name
            }
        assert left <= told, killed.call


@pytest.fixture
def late(runs: list[Killed]) -> list[Killed]:
    """Those that were killed when the new full was there; the next run has been."""
    found = [killed for killed in runs[:-1] if killed.committed]
    assert found
    for killed in found:
        execute_merge(plan_merge(str(killed.directory)))
    return found


def test_a_full_that_is_not_listed_yet_is_listed(late: list[Killed]) -> None:
    for killed in late:
        state = read_state(str(killed.directory / "checkpoint"))
        assert "model.ckpt-50" in state.all_paths, killed.call


def test_a_temporary_of_a_finished_full_is_removed(late: list[Killed]) -> None:
    for killed in late:
        assert not list(killed.directory.glob("*_temp_*")), killed.call


def test_killed_while_overwriting(tmp_path: Path) -> None:
    """The prefix is the old one, or the new one, or in the trash with its mark beside it."""
    chain = small_chain(tmp_path)
    chain.merge(30, chain.directory / "x-50", update_state=False)
    old = contents(chain.directory / "x-50")
    runs = killed_runs(tmp_path, chain, output="x-50", overwrite=True, upto=50)
    new = contents(runs[-1].directory / "x-50")
    between = 0
    for killed in runs[:-1]:
        prefix = killed.directory / "x-50"
        if Path(f"{prefix}.index").exists():
            assert contents(prefix) in (old, new), killed.call
            continue
        between += 1
        (place,) = (killed.directory / ".ckptctl-trash").iterdir()
        assert (place / "x-50.index").exists()
    assert between > 3


@dataclass
class Again:
    """What the next run, told to overwrite too, made of a killed one."""

    killed: Killed
    leftovers: set[str]
    named: set[str]
    error: CkptctlError | None


@pytest.fixture(scope="module")
def overwritten(module_path: Path) -> list[Again]:
    home = module_path / "overwritten"
    home.mkdir()
    chain = small_chain(home)
    chain.merge(30, chain.directory / "x-50", update_state=False)
    found = []
    for killed in killed_runs(home, chain, output="x-50", overwrite=True, upto=50)[:-1]:
        output = str(killed.directory / "x-50")
        left = strangers(killed, home / "room" / "before")
        plan = None
        try:
            plan = plan_merge(str(killed.directory), 50, output, overwrite=True)
            execute_merge(plan)
        except CkptctlError as error:
            found.append(Again(killed, left, set(plan.leftovers) if plan else set(), error))
        else:
            found.append(Again(killed, left, set(plan.leftovers), None))
    return found


def test_the_next_run_completes_an_overwrite(overwritten: list[Again]) -> None:
    assert [again.killed.call for again in overwritten if again.error] == []


def test_the_next_run_clears_away_after_an_overwrite(overwritten: list[Again]) -> None:
    for again in overwritten:
        if again.error is None:
            # An empty one may be a trainer's that has just begun: `ls` names it, no more.
            left = [d for d in again.killed.directory.glob("x-50_temp_*") if any(d.iterdir())]
            assert not left, again.killed.call


def test_a_real_process_is_killed(tmp_path: Path) -> None:
    """`kill -9` of the command in the middle of its writing."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(40_000), dim=16)),
        increment(20, changes("emb", range(100), dim=16)),
    )
    before = names(chain.directory)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ckptctl", "merge", str(chain.directory), "--bwlimit", "1MB/s"]
    process = subprocess.Popen([*command, "-q"], env=env)
    until = time.monotonic() + 30
    while not list(chain.directory.glob("model.ckpt-20_temp_*/data-*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = names(chain.directory) - before
    assert "model.ckpt-20.ckptctl.json" in left
    plan = chain.plan()
    assert {name.split("/")[0] for name in left} == set(plan.leftovers)
    execute_merge(plan)
    chain.check(10, 20)
    assert not list(chain.directory.glob("*_temp_*"))
