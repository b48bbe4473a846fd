"""A parameter server is killed; training goes on from the last increment."""

from __future__ import annotations

import contextlib
import random
import shutil
import subprocess
import sys
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
    frozen = freeze(cluster.directory)
    cluster.servers[server].start()
    return chief.read(lambda word, _: word == "recovered"), frozen


def freeze(directory: Path) -> Path:
    """Copy the checkpoints of a directory in which the other server may still end its save."""
    frozen = Path(f"{directory}.frozen")
    before = None
    while before != (before := listing(directory)):
        shutil.rmtree(frozen, ignore_errors=True)
        with contextlib.suppress(shutil.Error):  # a temporary went meanwhile: once more
            shutil.copytree(directory, frozen, ignore=shutil.ignore_patterns("*_temp"))
    return frozen


def listing(directory: Path) -> list[tuple[str, int]]:
    found = [path for path in directory.rglob("*") if "_temp" not in str(path)]
    return sorted((str(path), path.stat().st_mtime_ns) for path in found)


def check(cluster: Cluster, step: int, frozen: Path) -> None:
    """Each row is what was last saved for it, and both workers go on."""
    with np.load(f"{cluster.directory}.recovered-{step}.npz") as found:
        assert_same(dict(found), state_of(frozen, step))
    for worker in cluster.workers:
        worker.read(lambda word, value: word == "step" and value > step)


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
    with Cluster(tmp_path / "ckpt", rows=400_000, **often) as cluster:
        chief = cluster.workers[0]
        saved = chief.read(lambda word, _: word == "saved")
        chief.read(lambda word, value: word == "saving" and value > saved)
        step, frozen = kill_and_recover(cluster, 1)
        assert step >= saved
        check(cluster, step, frozen)
