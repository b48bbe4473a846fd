"""A parameter server is killed; training goes on from the last increment."""

from __future__ import annotations

import glob
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ckptctl import execute_merge, plan_merge
from tests.training.cluster import Cluster
from tests.training.model import assert_same, state_of

pytestmark = pytest.mark.slow


def kill_and_recover(cluster: Cluster, server: int) -> tuple[int, Path]:
    """Kill a parameter server, start it again; return the step recovered and a frozen copy."""
    chief = cluster.workers[0]
    cluster.servers[server].kill()
    chief.read(lambda word, _: word == "closing")
    cluster.servers[server].start()
    step = chief.read(lambda word, _: word == "recovered")
    return step, Path(f"{cluster.directory}.frozen-{step}")


def check(cluster: Cluster, step: int, frozen: Path) -> None:
    """Each row is what was last saved for it, and both workers go on."""
    with np.load(f"{cluster.directory}.recovered-{step}.npz") as found:
        assert_same(dict(found), state_of(frozen, step))
    # What was said before may still lie in the pipe, of steps that are lost now.
    since = cluster.workers[0].heard
    for worker in cluster.workers:
        worker.read(lambda word, value: word == "step" and value > step, since)


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_training_goes_on_from_the_last_increment(tmp_path: Path, mode: str) -> None:
    with Cluster(tmp_path / "ckpt", mode=mode) as cluster:
        chief = cluster.workers[0]
        for server in (1, 0):
            # The first full, then two increments on it; then any moment will do.
            for _ in range(3):
                saved = chief.read(lambda word, _: word == "saved")
            after = saved + random.randrange(1, 200)
            chief.read(lambda word, value, after=after: word == "step" and value >= after)
            step, frozen = kill_and_recover(cluster, server)
            assert step >= saved  # no more is lost than what came after the last save
            check(cluster, step, frozen)


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_training_goes_on_in_other_slices(tmp_path: Path, mode: str) -> None:
    """Rows are fed to the parameter servers that hold them now."""
    with Cluster(tmp_path / "ckpt", mode=mode, full_secs=600) as cluster:
        for _ in range(3):
            saved = cluster.workers[0].read(lambda word, _: word == "saved")
    with Cluster(tmp_path / "ckpt", mode=mode, parts=3) as cluster:
        step = cluster.workers[0].read(lambda word, _: word == "recovered")
        assert step >= saved
        check(cluster, step, Path(f"{cluster.directory}.frozen-{step}"))


def test_merge_while_training(tmp_path: Path) -> None:
    directory = tmp_path / "ckpt"
    with Cluster(directory, full_secs=600) as cluster:
        chief = cluster.workers[0]
        for _ in range(3):
            saved = chief.read(lambda word, _: word == "saved")
        merged = execute_merge(plan_merge(str(directory), upto=saved))
        assert Path(f"{merged.prefix}.index").exists()
        for _ in range(2):
            saved = chief.read(lambda word, _: word == "saved")
        step, frozen = kill_and_recover(cluster, 1)
        assert step >= saved
        check(cluster, step, frozen)


def test_prune_while_training(tmp_path: Path) -> None:
    directory = tmp_path / "ckpt"
    with Cluster(directory) as cluster:
        chief = cluster.workers[0]
        fulls = 0
        while fulls < 2:  # a second full makes the increments before it stale
            saved = chief.read(lambda word, _: word == "saved")
            fulls = len(list(directory.glob("model.ckpt-*.index")))
        before = set(directory.glob(".incremental_checkpoint/*.index"))
        command = [sys.executable, "-m", "ckptctl", "prune", str(directory), "--yes"]
        done = subprocess.run([*command, "--min-age", "0s"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert before - set(directory.glob(".incremental_checkpoint/*.index")), done.stdout
        for _ in range(2):
            saved = chief.read(lambda word, _: word == "saved")
        step, frozen = kill_and_recover(cluster, 0)
        assert step >= saved
        check(cluster, step, frozen)


@pytest.mark.parametrize("kind", ["full", "increment"])
def test_a_server_dies_in_the_middle_of_a_save(tmp_path: Path, kind: str) -> None:
    often = {"full_secs": 1, "increment_secs": 600} if kind == "full" else {"full_secs": 600}
    name = "model.ckpt" if kind == "full" else ".incremental_checkpoint/incremental_model.ckpt"
    with Cluster(tmp_path / "ckpt", rows=800_000, batch=20_000, **often) as cluster:
        chief = cluster.workers[0]
        saved = chief.read(lambda word, _: word == "saved")
        for attempt in range(10):  # whether the kill is in time, only the files can tell
            saving = chief.read(lambda word, value, saved=saved: word == "saving" and value > saved)
            prefix = cluster.directory / f"{name}-{saving}"
            wait_for_a_shard(prefix)
            step, frozen = kill_and_recover(cluster, attempt % 2)
            check(cluster, step, frozen)
            assert step >= saved
            if step < saving:
                return
            saved = step
    pytest.fail("no kill came in the middle of a save")


def wait_for_a_shard(prefix: Path) -> None:
    """Return when a server has begun to write."""
    index = Path(f"{prefix}.index")
    deadline = time.monotonic() + 60
    while not index.exists() and not glob.glob(f"{prefix}_temp/*"):
        assert time.monotonic() < deadline, "the save was announced and did not begin"
