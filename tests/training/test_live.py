"""Training and `ckptctl compact` share a directory; both restore to the newest step.

The trainer is a process of its own that saves as fast as it can while ckptctl works, and
holds still while we look. What is shown of each step is that all values are those that the
model held when it saved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

from ckptctl import find_chains, scan_directory
from ckptctl.bundle import read_state
from tests.training.model import INCREMENT, Model, assert_same, state_of
from tests.training.trainer import ROOT, Trainer

REFUSED = 12


class Restarts:
    """Restores a directory as a training that is started again would."""

    def __init__(self, optimizer: str = "adagrad") -> None:
        self.ours, self.stock = Model(optimizer), Model(optimizer)
        self.saver = self.ours.saver()
        with self.stock.graph.as_default():
            self.stock_saver = tf1.train.Saver()

    def newest(self, directory: Path) -> tuple[int, dict[str, Any]]:
        """Return step and values after a recovery with `ckptctl.training`."""
        with self.ours.session() as session:
            step = self.saver.recover(session, str(directory))
            assert step is not None
            return step, self.ours.values(session)

    def named(self, directory: Path) -> tuple[int, dict[str, Any]]:
        """Return step and values of what the state file leads stock TensorFlow to."""
        prefix = tf.train.latest_checkpoint(str(directory))
        assert prefix is not None
        with tf1.Session(graph=self.stock.graph) as session:
            self.stock_saver.restore(session, prefix)
            return int(session.run(self.stock.step)), self.stock.values(session)


@pytest.fixture(scope="module")
def restarts() -> Restarts:
    return Restarts()


def compact(directory: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ckptctl", "compact", str(directory), "--json", "--yes"]
    command += ["--min-age", "0s", *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str], *codes: int) -> dict[str, Any]:
    """Return what a run of ckptctl said, once it has ended."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode in codes, errors
    found: dict[str, Any] = json.loads(out or errors)
    return found


def check(trainer: Trainer, restarts: Restarts) -> None:
    """Fail unless a restart goes on from the trainer's newest save, with all that it held."""
    directory, step = trainer.directory, trainer.step
    found, values = restarts.newest(directory)
    assert found == step
    assert_same(values, trainer.values(step))
    assert find_chains(scan_directory(str(directory))).latest == step
    assert_same(state_of(directory, step), trainer.values(step))
    named, values = restarts.named(directory)
    assert_same(values, trainer.values(named))


def listed(directory: Path) -> list[int]:
    state = read_state(str(directory / "checkpoint"))
    assert state is not None
    return [int(os.path.basename(path).rpartition("-")[2]) for path in state.all_paths]


@pytest.fixture
def trained(tmp_path: Path) -> Iterator[Trainer]:
    with Trainer(tmp_path / "ckpt", tmp_path / "values") as trainer:
        trainer.held()
        yield trainer


def live_together(trainer: Trainer, restarts: Restarts, bursts: list[int]) -> list[str]:
    """Compact beside bursts of saves, and between them; return how the former ended."""
    outcomes = []
    for burst in bursts:
        trainer.saves(burst)
        beside = ended(compact(trainer.directory, "--keep-last", "2"), 0, REFUSED)
        outcomes.append(beside.get("error") or beside["directories"][0]["result"]["outcome"])
        trainer.held()
        check(trainer, restarts)
        ended(compact(trainer.directory, "--keep-last", "2"), 0)
        check(trainer, restarts)
        assert restarts.named(trainer.directory)[0] == trainer.step
        trainer.saves(1)  # and the Saver rewrites a state file from its own memory
        trainer.held()
        check(trainer, restarts)
    return outcomes


def test_training_and_compact_in_a_loop(trained: Trainer, restarts: Restarts) -> None:
    outcomes = live_together(trained, restarts, [2, 12])
    assert {"merged", "merged and pruned"} & set(outcomes)
    assert trained.end() == 0


@pytest.mark.torture
@pytest.mark.parametrize("options", [{}, {"optimizer": "adam"}, {"max_to_keep": 2}], ids=str)
def test_training_and_compact_for_long(
    tmp_path: Path, restarts: Restarts, options: dict[str, Any]
) -> None:
    bursts = np.random.default_rng(2).integers(1, 30, 60).tolist()
    if options.get("optimizer"):
        restarts = Restarts(options["optimizer"])
    with Trainer(tmp_path / "ckpt", tmp_path / "values", **options) as trainer:
        trainer.held()
        outcomes = live_together(trainer, restarts, bursts)
        assert {"merged", "merged and pruned"} & set(outcomes)
        assert trainer.end() == 0


def test_a_stock_saver_undoes_what_we_did_and_the_next_run_puts_it_right(
    tmp_path: Path, restarts: Restarts
) -> None:
    """It lists a full again that we removed, and drops the one that we merged."""
    directory = tmp_path / "ckpt"
    with Trainer(directory, tmp_path / "values", stock=True, save_steps=10) as trainer:
        assert trainer.held() == 0
        trainer.saves(2)
        assert trainer.held() == 20
        ended(compact(directory, "--keep-last", "1"), 0)
        assert listed(directory) == [20]

        trainer.saves(1)
        assert trainer.held() == 30
        assert listed(directory) == [0, 10, 20, 30]
        assert restarts.named(directory)[0] == 30
        found = ended(compact(directory), 0)["directories"][0]
        assert found["result"]["outcome"] == "put right"
        assert listed(directory) == [20, 30]

        merged = an_increment_on_top(directory, restarts)
        ended(compact(directory), 0)
        assert (listed(directory), merged[0]) == ([20, 30, 33], 33)
        assert restarts.named(directory)[0] == 33
        trainer.saves(1)
        assert trainer.held() == 40
        # max_to_keep is 4: of what it remembers 0 has just gone, and it never knew 33.
        assert listed(directory) == [10, 20, 30, 40]
        assert restarts.named(directory)[0] == 40
        ended(compact(directory), 0)
        assert listed(directory) == [20, 30, 33, 40]
        for step in (30, 40):
            assert_same(state_of(directory, step), trainer.values(step))
        assert_same(state_of(directory, 33), merged[1])
        check(trainer, restarts)
        assert trainer.end() == 0


def an_increment_on_top(directory: Path, restarts: Restarts) -> tuple[int, dict[str, Any]]:
    """Save an increment three steps above the newest full; return its step and values."""
    model, saver = restarts.ours, restarts.saver
    with model.session() as session:
        step = saver.recover(session, str(directory))
        assert step is not None
        assert saver.incremental is not None
        for ids in ([1], [2, 30], [1, 7]):
            model.train(session, ids)
        saver.incremental.save(session, str(directory / INCREMENT), model.step)
        return step + 3, model.values(session)
