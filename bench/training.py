"""What recording and increments cost a training: ratios from one run.

What does not wait for a disk is told as CPU time too, which other processes disturb less.

python -m bench.training --rows 10000000
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from bench.goals import said
from bench.report import document
from bench.room import HERE
from bench.scale import growth

DIM, BATCH, WARM_UP = 16, 4160, 50  # ids
#: What a step computes beside the lookup: ids a sample, then the widths of its layers.
MODELS = {
    "a lookup alone": (1,),
    "two small layers": (8, 256),
    "the layers of Wide & Deep": (26, 1024, 512, 256),  # as in DeepRec's model zoo
}
SHARES = (0.001, 0.01, 0.05, 0.2, 0.5)
SMALL = 4  # how much smaller the table is that the scan's time is told from
SAVES = 7  # of one row
RESTORES = 9  # of each: some take half as long again, where the host moves memory about
OWED = 0.05  # share of the rows up to which a restore owes something, see bench/goals.py
RECORDED, AGAIN = "on: a lookup alone", "again: a lookup alone"


class Training:
    """A table with an Adagrad slot in a session of its own.

    Steps of these names are recorded; those of the others are not, since they are made after
    the Saver. A name says which of `MODELS` is computed.
    """

    def __init__(
        self, rows: int, recorded: tuple[str, ...] = (RECORDED,), others: tuple[str, ...] = ()
    ) -> None:
        self.rows = rows
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.table = tf1.get_variable(
                "emb", [rows, DIM], initializer=tf1.ones_initializer(), use_resource=True
            )
            self.ids = tf1.placeholder(tf.int64, [None])
            self.step = tf1.train.get_or_create_global_step()
            self.optimizer = tf1.train.AdagradOptimizer(0.1)
            self.steps = {name: self._minimize(name) for name in recorded}
            self.saver = ct.Saver(sharded=True, incremental_save_restore=True)
            self.steps |= {name: self._minimize(name) for name in others}
            init = tf1.global_variables_initializer()
        self.session = tf1.Session(graph=self.graph)
        self.session.run(init)

    def _minimize(self, name: str) -> Any:
        found = tf.nn.embedding_lookup(self.table, self.ids)
        model = name.partition(": ")[2]
        ids, *widths = MODELS[model]
        sizes = [ids * DIM, *widths, 1] if widths else []
        if sizes:
            found = tf.reshape(found, [-1, ids * DIM])
        with tf1.variable_scope(model.replace(" ", "_").replace("&", "and"), reuse=tf1.AUTO_REUSE):
            for number, (own, width) in enumerate(pairwise(sizes)):
                found = found @ tf1.get_variable(f"layer_{number}", [own, width])
                found = tf.nn.relu(found) if width > 1 else found
        loss = tf.reduce_sum(tf.square(found))
        return self.optimizer.minimize(loss, self.step)

    def train(self, ids: np.ndarray, step: str = RECORDED) -> None:
        self.session.run(self.steps[step], {self.ids: ids})


class Increments:
    """A directory, and what a training saves there and takes back."""

    def __init__(self, training: Training, directory: Path) -> None:
        self.training, self.directory = training, directory
        self.saver: Any = training.saver
        self.within = directory / ".incremental_checkpoint"
        self.within.mkdir(parents=True)

    def full(self) -> str:
        path = str(self.directory / "model.ckpt")
        prefix: str = self.saver.save(
            self.training.session, path, self.training.step, write_meta_graph=False
        )
        return prefix

    def increment(self) -> str:
        path = str(self.within / "incremental_model.ckpt")
        prefix: str = self.saver.incremental.save(self.training.session, path, self.training.step)
        return prefix

    def forget_increments(self) -> None:
        for path in self.within.glob("*.ckpt-*"):
            path.unlink()

    @contextmanager
    def full_alone(self) -> Iterator[None]:
        """Take the increments away for a while."""
        aside = self.within.with_name("aside")
        self.within.rename(aside)
        yield
        aside.rename(self.within)

    def recover(self) -> Any:
        """Restore into a session of its own, as after a failure: no variable has a value."""
        with tf1.Session(graph=self.training.graph) as session:
            return self.saver.recover(session, str(self.directory))


def spent(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that something took, and those of the CPU."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


def step_times(rows: int, steps: int) -> dict[str, float]:
    """Return the time of a step with recording against one without, and of two without.

    All are steps of one session over one table, so that nothing but the recording differs.
    """
    recorded, others = (tuple(f"{each}: {m}" for m in MODELS) for each in ("on", "off"))
    training = Training(rows, recorded, (*others, AGAIN))
    random = np.random.default_rng(1)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in training.steps}
    for number in range(steps + WARM_UP):
        for name in random.permutation(list(taken)):
            batch = random.integers(0, rows, BATCH)  # its own: none finds rows in a cache
            took = spent(partial(training.train, batch, name))
            if number >= WARM_UP:
                taken[name].append(took)
    training.session.close()
    figures = {}
    cases = {f"step/{model}": (f"on: {model}", f"off: {model}") for model in MODELS}
    for case, (on, off) in (cases | {"step noise": (AGAIN, others[0])}).items():
        (wall, cpu), (bare, bare_cpu) = (np.transpose(taken[name]) for name in (on, off))
        low, high = bounds(wall / bare)
        used = float(np.median(cpu) / np.median(bare_cpu))
        print(
            f"{case}: {np.median(wall) * 1e3:.2f} ms, {np.median(bare) * 1e3:.2f} ms; each "
            f"against the one beside it {low:.3f} to {high:.3f}, CPU {used:.3f}",
            flush=True,
        )
        noise = case == "step noise"
        figures[f"training/{case}"] = max(high, 1 / low) if noise else float(np.median(wall / bare))
        if not noise:
            figures[f"training/{case.replace('step', 'step CPU')}"] = used
    return figures


def bounds(ratios: np.ndarray) -> tuple[float, float]:
    """Return between what the median is, with 95%: order statistics, no law assumed."""
    ordered, aside = np.sort(ratios), 0.98 * np.sqrt(len(ratios))
    low, high = (int(len(ratios) / 2 + sign * aside) for sign in (-1, 1))
    return float(ordered[max(low, 0)]), float(ordered[min(high, len(ratios) - 1)])


def increments(here: Increments, rounds: int) -> dict[str, float]:
    """Return what an increment and a recovery take, medians of some rounds."""
    training, rows, random = here.training, here.training.rows, np.random.default_rng(2)
    fulls, found = [], {}
    for share in SHARES:
        training.train(np.zeros(1, np.int64))
        fulls.append((spent(here.full)[0], size_of(here.saver.last_checkpoints[-1])))
        changed = random.permutation(rows)[: int(rows * share)]
        for start in range(0, len(changed), 1_000_000):
            training.train(changed[start : start + 1_000_000])
        saves = []
        for _ in range(rounds):
            here.forget_increments()
            training.train(changed[:1])  # each is of a step of its own, and holds the same rows
            saves.append(spent(here.increment))
        written = size_of(here.saver.incremental.last_checkpoints[-1])
        recovered = here.recover()  # from here on everything is as warm
        assert recovered == training.session.run(training.step), "the increment was refused"
        restores = []
        for _ in range(RESTORES):
            with here.full_alone():
                alone = spent(here.recover)
            restores.append((*spent(here.recover), *alone))
        found[share] = (written, *np.median(saves, axis=0), *np.median(restores, axis=0))
    full_s, size = np.median(fulls, axis=0)
    print(f"a full: {full_s:.2f} s, {size / 1e9:.2f} GB")
    print("share  increment: s, CPU s  recovery with it: s, CPU s  of the full alone: s, CPU s")
    figures: dict[str, float] = {}
    for share, (written, took, cpu, both, both_cpu, alone_s, alone_cpu) in found.items():
        print(
            f"{share:5.1%}  {took:12.2f} {cpu:8.3f}  {both:18.2f} {both_cpu:6.2f}  "
            f"{alone_s:18.2f} {alone_cpu:6.2f}"
        )
        case = f"{100 * share:g}% of the rows"
        figures[f"training/increment bytes/{case}"] = float(written / size)
        figures[f"training/increment time/{case}"] = float(took / full_s)
        restore = "restore" if share <= OWED else "restore beyond"
        figures[f"training/{restore}/{case}"] = float(both / alone_s)
        figures[f"training/restore CPU/{case}"] = float(both_cpu / alone_cpu)
    costs = [(rows * share, float(own[2])) for share, own in found.items()]
    figures["training/increment growth"] = growth([costs[2], costs[-1]])
    slope = np.polyfit([touched for touched, _ in costs], [cpu for _, cpu in costs], 1)[0]
    figures["training/increment seconds/of the rows touched"] = float(slope) * 1e6
    return figures


def saves_of_one_row(here: Increments, saves: int) -> float:
    """Return the CPU seconds of an increment of one row, the median of some."""
    here.full()
    found = []
    for _ in range(saves):
        here.training.train(np.zeros(1, np.int64))
        found.append(spent(here.increment)[1])
    return float(np.median(found))


def size_of(prefix: str) -> int:
    path = Path(prefix)
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}.*"))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rows", type=int, default=10_000_000)
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--json", type=Path, default=HERE / "results-training.json")
    given = options.parse_args()
    tf1.disable_eager_execution()
    rows: int = given.rows
    print(f"{rows:,} rows x {DIM} float32 with Adagrad, batch {BATCH}", flush=True)
    judged = step_times(rows, given.steps)
    directory = Path(tempfile.mkdtemp(prefix="ckptctl-bench-"))
    try:
        few = saves_of_one_row(Increments(Training(rows // SMALL), directory / "small"), SAVES)
        here = Increments(Training(rows), directory / "large")
        many = saves_of_one_row(here, SAVES)
        judged |= increments(here, given.rounds)
    finally:
        shutil.rmtree(directory)
    scan = (many - few) / (rows - rows // SMALL) * 1e6
    judged["training/increment seconds/of the rows of the table"] = scan
    print("", *said(judged), sep="\n")
    told: dict[str, object] = {"rows": rows, "steps": given.steps, "rounds": given.rounds}
    told["restores"] = RESTORES
    given.json.write_text(json.dumps(document({}, told, judged), indent=1) + "\n")


if __name__ == "__main__":
    main()
