"""What recording and increments cost a training: ratios from one run.

python -m bench.training --rows 10000000
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from bench.goals import said
from bench.report import document
from bench.room import HERE

DIM, BATCH, WARM_UP = 16, 4096, 50
SHARES = (0.001, 0.01, 0.05, 0.2, 0.5)


class Training:
    """A table with an Adagrad slot, trained in a session of its own."""

    def __init__(self, rows: int, *, record: bool) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            table = tf1.get_variable(
                "emb", [rows, DIM], initializer=tf1.ones_initializer(), use_resource=True
            )
            self.ids = tf1.placeholder(tf.int64, [None])
            loss = tf.reduce_sum(tf.square(tf.nn.embedding_lookup(table, self.ids)))
            self.step = tf1.train.get_or_create_global_step()
            self.train_op = tf1.train.AdagradOptimizer(0.1).minimize(loss, self.step)
            self.saver = ct.Saver(sharded=True, incremental_save_restore=record)
            init = tf1.global_variables_initializer()
        self.session = tf1.Session(graph=self.graph)
        self.session.run(init)

    def train(self, ids: np.ndarray) -> None:
        self.session.run(self.train_op, {self.ids: ids})


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def step_times(trainings: dict[str, Training], rows: int, steps: int) -> dict[str, float]:
    """Return the time of a step with recording against one without, and of two without."""
    random = np.random.default_rng(1)
    taken: dict[str, list[float]] = {name: [] for name in trainings}
    for number in range(steps + WARM_UP):
        batch = random.integers(0, rows, BATCH)
        for name in random.permutation(list(trainings)):
            took = seconds(partial(trainings[name].train, batch))
            if number >= WARM_UP:
                taken[name].append(took)
    on, off, again = (np.array(taken[name]) for name in ("on", "off", "again"))
    print(
        f"step, recording on/off: {np.median(on) / np.median(off):.3f}  "
        f"({np.median(on) * 1e3:.2f} ms, {np.median(off) * 1e3:.2f} ms; each batch against "
        f"itself {np.median(on / off):.3f}); two without against each other: "
        f"{np.median(again) / np.median(off):.3f} ({np.median(again / off):.3f})"
    )
    return {
        "training/step": float(np.median(on / off)),
        "training/step noise": float(np.median(again / off)),
    }


def increments(training: Training, rows: int, directory: Path, rounds: int) -> dict[str, float]:
    """Return what an increment and a recovery take, medians of some rounds."""
    figures: dict[str, float] = {}
    saver: Any = training.saver.incremental
    (directory / ".incremental_checkpoint").mkdir()
    prefix = str(directory / ".incremental_checkpoint" / "incremental_model.ckpt")
    random = np.random.default_rng(2)

    def full() -> None:
        training.saver.save(
            training.session, str(directory / "model.ckpt"), training.step, write_meta_graph=False
        )

    def recover() -> None:
        training.saver.recover(training.session, str(directory))

    print("share  bytes/full  seconds/full  recovery with it/of the full alone")
    for share in SHARES:
        found = []
        for _ in range(rounds):
            training.train(np.zeros(1, np.int64))
            full_s = seconds(full)
            size = size_of(training.saver.last_checkpoints[-1])
            changed = random.permutation(rows)[: int(rows * share)]
            for start in range(0, len(changed), 1_000_000):
                training.train(changed[start : start + 1_000_000])
            took = seconds(lambda: saver.save(training.session, prefix, training.step))
            written = size_of(saver.last_checkpoints[-1])
            # The full alone too, from a cache as warm: the increment is not there.
            recover()
            both = seconds(recover)
            aside = directory / "aside"
            (directory / ".incremental_checkpoint").rename(aside)
            alone = seconds(recover)
            aside.rename(directory / ".incremental_checkpoint")
            found.append((full_s, size, took, written, both, alone))
        full_s, size, took, written, both, alone = np.median(found, axis=0)
        print(
            f"{share:5.1%}  {written / size:10.4f}  {took / full_s:12.3f}  {both / alone:8.2f}"
            f"   (full {full_s:.2f} s, {size / 1e9:.2f} GB; increment {took:.2f} s; "
            f"recovery {both:.2f} s, {alone:.2f} s)"
        )
        case = f"{100 * share:g}% of the rows"
        figures[f"training/increment bytes/{case}"] = float(written / size)
        figures[f"training/increment time/{case}"] = float(took / full_s)
        figures[f"training/restore/{case}"] = float(both / alone)
    return figures


def size_of(prefix: str) -> int:
    path = Path(prefix)
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}.*"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--steps", type=int, default=400)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path, default=HERE / "results-training.json")
    given = options.parse_args()
    tf1.disable_eager_execution()
    trainings = {name: Training(given.rows, record=name == "on") for name in ("on", "off", "again")}
    print(f"{given.rows:,} rows x {DIM} float32 with Adagrad, batch {BATCH}")
    judged = step_times(trainings, given.rows, given.steps)
    for name in ("off", "again"):
        trainings[name].session.close()
    directory = Path(tempfile.mkdtemp(prefix="ckptctl-bench-"))
    try:
        judged |= increments(trainings["on"], given.rows, directory, given.rounds)
    finally:
        shutil.rmtree(directory)
    print("", *said(judged), sep="\n")
    told: dict[str, object] = {"rows": given.rows, "steps": given.steps, "rounds": given.rounds}
    given.json.write_text(json.dumps(document({}, told, judged), indent=1) + "\n")


if __name__ == "__main__":
    main()
