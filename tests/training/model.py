"""A small model with sparse updates, and what its session and its files hold."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import BundleReader, execute_merge, plan_merge

ROWS, DIM = 60, 4

OPTIMIZERS = {
    "adagrad": lambda: tf1.train.AdagradOptimizer(0.1),
    "adam": lambda: tf1.train.AdamOptimizer(0.1),
    "ftrl": lambda: tf1.train.FtrlOptimizer(0.1),
    "lazy-adam": lambda: ct.LazyAdam(0.1),
    "momentum": lambda: tf1.train.MomentumOptimizer(0.1, 0.9),
    "rmsprop": lambda: tf1.train.RMSPropOptimizer(0.1),
    "sgd": lambda: tf1.train.GradientDescentOptimizer(0.1),
}


@dataclass
class Model:
    """A graph with a table that is looked up, a dense layer and a train op."""

    optimizer: str = "adagrad"
    parts: int = 3
    resource: bool = True
    rows: int = ROWS
    slow: bool = False
    graph: Any = field(default_factory=tf.Graph)

    def __post_init__(self) -> None:
        with self.graph.as_default():
            partitioner = tf1.fixed_size_partitioner(self.parts) if self.parts > 1 else None
            self.table = tf1.get_variable(
                "emb",
                [self.rows, DIM],
                partitioner=partitioner,
                use_resource=self.resource,
                initializer=tf1.random_uniform_initializer(seed=1),
            )
            weights = tf1.get_variable("dense", [DIM, 1], use_resource=self.resource)
            self.ids = tf1.placeholder(tf.int64, [None], "ids")
            looked_up = tf1.nn.embedding_lookup(self.table, self.ids, partition_strategy="div")
            if self.slow:  # some milliseconds between a lookup and its update
                looked_up += 1e-30 * tf.reduce_sum(
                    tf.random.normal([700, 700]) @ tf.ones([700, 700])
                )
            loss = tf.reduce_sum(tf.square(looked_up @ weights - 1))
            self.step = tf1.train.get_or_create_global_step()
            self.train_op = OPTIMIZERS[self.optimizer]().minimize(loss, self.step)

    def saver(self, **options: Any) -> ct.Saver:
        with self.graph.as_default():
            self.init = tf1.global_variables_initializer()
            return ct.Saver(sharded=True, incremental_save_restore=True, **options)

    def session(self) -> Any:
        session = tf1.Session(graph=self.graph)
        session.run(self.init)
        return session

    def train(self, session: Any, ids: list[int]) -> None:
        session.run(self.train_op, {self.ids: ids})

    def values(self, session: Any) -> dict[str, np.ndarray]:
        """Return every variable, a partitioned one whole."""
        return values(session, self.graph)


def values(session: Any, graph: Any) -> dict[str, np.ndarray]:
    """Return every global variable of a graph, a partitioned one whole."""
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    variables = graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES)
    for variable, value in zip(variables, session.run(variables), strict=True):
        info = variable._save_slice_info
        name = info.full_name if info else variable.op.name
        pieces.setdefault(name, []).append((info.var_offset[0] if info else 0, value))
    return {
        name: np.concatenate([rows for _, rows in sorted(found, key=lambda piece: piece[0])])
        if found[0][1].shape
        else found[0][1]
        for name, found in pieces.items()
    }


def state_of(directory: Path, step: int) -> dict[str, np.ndarray]:
    """Return every variable at a step, as ckptctl merges it and TensorFlow reads it."""
    with tempfile.TemporaryDirectory() as room:
        prefix = f"{room}/model.ckpt-{step}"
        execute_merge(plan_merge(str(directory), upto=step, output=prefix))
        reader = tf.train.load_checkpoint(prefix)
        names = reader.get_variable_to_shape_map()
        return {n: reader.get_tensor(n) for n in names if not n.startswith("ckptctl/")}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


INCREMENT = ".incremental_checkpoint/incremental_model.ckpt"


class Saves:
    """A directory, and the saver of a model."""

    def __init__(self, model: Model, directory: Path, **options: Any) -> None:
        self.model, self.directory = model, directory
        self.saver = model.saver(**options)

    def full(self, session: Any) -> str:
        prefix: str = self.saver.save(
            session, str(self.directory / "model.ckpt"), self.model.step, write_meta_graph=False
        )
        return prefix

    def increment(self, session: Any) -> str:
        assert self.saver.incremental is not None
        return self.saver.incremental.save(
            session, str(self.directory / INCREMENT), self.model.step
        )


def rows_in(prefix: str) -> dict[str, list[int]]:
    with BundleReader(prefix) as reader:
        return {
            name.removesuffix("-sparse_incr_keys"): reader.read(name).tolist()
            for name in reader.tensors
            if name.endswith("-sparse_incr_keys")
        }
