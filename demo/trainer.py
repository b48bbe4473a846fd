"""The TensorFlow side: a session that trains, and checkpoints in DeepRec's layout."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
tf.get_logger().setLevel("ERROR")

ROWS, DIM, SLICES, BATCH = 1000, 8, 3, 256


class Trainer:
    """A regression over a partitioned variable, trained and saved as TensorFlow 1 does."""

    def __init__(self) -> None:
        self.graph = tf.Graph()
        with self.graph.as_default():
            self.ids = tf1.placeholder(tf.int64, [None])
            self.labels = tf1.placeholder(tf.float32, [None])
            partitioner = tf1.fixed_size_partitioner(SLICES)
            with tf1.variable_scope("wide", partitioner=partitioner):
                wide = tf1.get_variable("weights", [ROWS, DIM])
            kernel = tf1.get_variable("dense/kernel", [DIM, 1])
            bias = tf1.get_variable("dense/bias", [1])
            embedded = tf1.nn.embedding_lookup(wide, self.ids, partition_strategy="div")
            error = tf.squeeze(embedded @ kernel + bias, 1) - self.labels
            self.loss = tf.reduce_mean(error**2)
            step = tf1.train.get_or_create_global_step()
            self.train_op = tf1.train.AdagradOptimizer(0.05).minimize(self.loss, step)
            self.saver = tf1.train.Saver(max_to_keep=None)
            self.init = tf1.global_variables_initializer()
            tf1.set_random_seed(1)
        self.session = tf1.Session(graph=self.graph)
        self.session.run(self.init)
        self.random = np.random.default_rng(2)
        self.truth = self.random.standard_normal(ROWS).astype(np.float32)

    def train(self, steps: int) -> float:
        """Run `steps` steps and return the last loss."""
        for _ in range(steps):
            ids = self.random.integers(0, ROWS, BATCH)
            feed = {self.ids: ids, self.labels: self.truth[ids]}
            _, loss = self.session.run([self.train_op, self.loss], feed)
        return float(loss)

    def variables(self) -> dict[str, np.ndarray]:
        """Return every variable, a partitioned one whole."""
        pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
        for variable in self.graph.get_collection(tf1.GraphKeys.GLOBAL_VARIABLES):
            info = variable._save_slice_info
            name = info.full_name if info else variable.op.name
            start = info.var_offset[0] if info else 0
            pieces.setdefault(name, []).append((start, self.session.run(variable)))
        return {
            name: np.concatenate([rows for _, rows in sorted(found, key=lambda piece: piece[0])])
            if len(found) > 1
            else found[0][1]
            for name, found in pieces.items()
        }

    def save(self, prefix: str) -> None:
        """Write the variables as one bundle."""
        with self.graph.as_default():
            self.saver.save(self.session, prefix, write_meta_graph=False, write_state=False)


def save_sharded(
    prefix: Path, trainer: Trainer, servers: Iterable[Mapping[str, np.ndarray]]
) -> None:
    """Write a sharded checkpoint: the session's variables, and one shard a parameter server."""
    shards = list(servers)
    count = 1 + len(shards)
    temporary = f"{prefix}_temp_{uuid.uuid4().hex}"
    parts = [f"{temporary}/part-{i:05d}-of-{count:05d}" for i in range(count)]
    Path(temporary).mkdir()
    trainer.save(parts[0])
    for part, tensors in zip(parts[1:], shards, strict=True):
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=list(tensors),
            shape_and_slices=[""] * len(tensors),
            tensors=[tf.constant(array) for array in tensors.values()],
        )
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(prefix), delete_old_dirs=True
    )


def write_state(prefixes: list[Path]) -> None:
    """Write the `checkpoint` file beside the prefixes, the newest last."""
    directory = prefixes[-1].parent
    names = [str(prefix) for prefix in prefixes]
    tf1.train.update_checkpoint_state(str(directory), names[-1], names)


def restore_all(prefix: str) -> dict[str, np.ndarray]:
    """Restore every tensor of a checkpoint with `Saver.restore`."""
    reader = tf.train.load_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    with tf.Graph().as_default(), tf1.Session() as session:
        variables = {
            name: tf1.Variable(tf.zeros(shape, dtypes[name]), use_resource=False, name=f"v{i}")
            for i, (name, shape) in enumerate(reader.get_variable_to_shape_map().items())
        }
        tf1.train.Saver(variables).restore(session, prefix)
        return {name: session.run(variable) for name, variable in variables.items()}
