"""What recording and increments cost a training: ratios from one run.

python -m bench.training --rows 10000000
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct

DIM, BATCH = 16, 4096
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


def step_times(on: Training, off: Training, rows: int, rounds: int) -> None:
    random = np.random.default_rng(1)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        batches = random.integers(0, rows, (20, BATCH))
        for record, training in ((True, on), (False, off)):
            taken[record] += [seconds(lambda b=b, t=training: t.train(b)) for b in batches]
    on_s, off_s = statistics.median(taken[True]), statistics.median(taken[False])
    half = len(taken[False]) // 2
    noise = statistics.median(taken[False][:half]) / statistics.median(taken[False][half:])
    print(
        f"step, recording on/off: {on_s / off_s:.3f}  ({on_s * 1e3:.2f} ms, {off_s * 1e3:.2f} ms; "
        f"first half of the steps without against the second: {noise:.3f})"
    )


def increments(training: Training, rows: int, directory: Path) -> None:
    def full() -> None:
        training.saver.save(
            training.session, str(directory / "model.ckpt"), training.step, write_meta_graph=False
        )

    (directory / ".incremental_checkpoint").mkdir()
    prefix = str(directory / ".incremental_checkpoint" / "incremental_model.ckpt")
    random = np.random.default_rng(2)
    print("share  bytes/full  seconds/full  recovery with it/of the full alone")
    for share in SHARES:
        training.train(np.zeros(1, np.int64))
        full_s = seconds(full)
        step = int(training.session.run(training.step))
        size = sum(path.stat().st_size for path in directory.glob(f"model.ckpt-{step}.*"))
        alone = seconds(lambda: training.saver.recover(training.session, str(directory)))
        changed = random.permutation(rows)[: int(rows * share)]
        for start in range(0, len(changed), 1_000_000):
            training.train(changed[start : start + 1_000_000])
        saver: Any = training.saver.incremental
        took = seconds(lambda s=saver: s.save(training.session, prefix, training.step))
        written = Path(saver.last_checkpoints[-1])
        bytes_ = sum(path.stat().st_size for path in written.parent.glob(f"{written.name}.*"))
        both = seconds(lambda: training.saver.recover(training.session, str(directory)))
        print(
            f"{share:5.1%}  {bytes_ / size:10.3f}  {took / full_s:12.3f}  {both / alone:8.2f}"
            f"   (full {full_s:.2f} s, {size / 1e9:.2f} GB; increment {took:.2f} s; "
            f"recovery {both:.2f} s, {alone:.2f} s)"
        )
    os.sync()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--rounds", type=int, default=10)
    given = options.parse_args()
    tf1.disable_eager_execution()
    on, off = (Training(given.rows, record=record) for record in (True, False))
    print(f"{given.rows:,} rows x {DIM} float32 with Adagrad, batch {BATCH}")
    step_times(on, off, given.rows, given.rounds)
    off.session.close()
    directory = Path(tempfile.mkdtemp(prefix="ckptctl-bench-"))
    try:
        increments(on, given.rows, directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
