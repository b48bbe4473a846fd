"""Where ops of ours stand in a graph of the user's, and what makes it too late for them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.python.client.session import BaseSession
from tensorflow.python.framework import device as tf_device
from tensorflow.python.training.saving.saveable_object_util import set_cpu0

from ckptctl.errors import RefusedError, UsageError

__all__ = [
    "cpu_of",
    "held_or",
    "refuse_keras",
    "refuse_open_sessions",
    "room",
    "started",
    "variable",
]


@contextmanager
def room(graph: Any, device: str) -> Iterator[None]:
    """A place of our own in a graph: a device, and nothing of what surrounds us."""
    with (
        graph.as_default(),
        tf.control_dependencies(None),
        tf.device(None),
        tf.device(cpu_of(device)),
        tf.compat.v1.name_scope(None),
    ):
        yield


def cpu_of(device: str) -> str:
    """Return the first CPU of the task that a device belongs to, in one spelling."""
    return str(tf_device.canonical_name(set_cpu0(device or "")))


def variable(value: Any, dtype: Any, name: str) -> Any:
    """Return a variable that is in no collection, so in no checkpoint and no initialiser."""
    return tf.compat.v1.Variable(
        value, trainable=False, collections=[], name=name, dtype=dtype, use_resource=True
    )


def started(epoch: Any) -> Any:
    """Return a tensor that makes sure that a clock runs; a running one goes on."""
    # Not tf.cond: its functions cost some milliseconds each in each new session.
    there = tf.compat.v1.is_variable_initialized(epoch)
    absent, present = tf.raw_ops.Switch(data=there, pred=there)
    with tf.control_dependencies([tf.identity(absent)]):
        start = epoch.assign(1, read_value=False)
    with tf.control_dependencies([start]):
        begun = tf.constant(True)
    return tf.raw_ops.Merge(inputs=[present, begun]).output


def held_or(default: Any, variable: Any) -> Any:
    """Return what a variable holds, or a default before it holds anything."""
    there = tf.compat.v1.is_variable_initialized(variable)
    value = tf.constant(default, variable.dtype)
    absent, present = tf.raw_ops.Switch(data=value, pred=there)
    with tf.control_dependencies([tf.identity(present)]):
        held = variable.read_value()
    return tf.raw_ops.Merge(inputs=[absent, held]).output


def refuse_open_sessions(graph: Any, late: Any = None) -> None:
    """Raise where TensorFlow would ignore what is added to ops that it may have run.

    `late` is the op that it would be added to, where one was added after the Saver.
    """
    for session in _living(BaseSession):
        if session.graph is graph and not session._closed:
            told = f"{late.name} was added after the Saver was built, and " if late else ""
            raise RefusedError(
                f"{told}a session of this graph is open: TensorFlow ignores what is added to ops "
                "that it has run, so rows would be lost",
                remedy="build the optimizer and TensorFlow's own Savers, then the Saver, then the "
                "session",
            )


def refuse_keras(graph: Any) -> None:
    """Raise where an optimizer of Keras is to train a graph."""
    keras = sys.modules.get("keras")
    kind = getattr(getattr(keras, "optimizers", None), "Optimizer", None)
    for optimizer in _living(kind) if isinstance(kind, type) else ():
        if any(_graph_of(var) is graph for var in _variables_of(optimizer)):
            raise UsageError(
                f"{type(optimizer).__name__} of Keras returns no op that runs its updates in a "
                "graph, so they can't be recorded",
                remedy="use tf.compat.v1.train.AdagradOptimizer and its like, or "
                "ckptctl.training.LazyAdam",
            )


def _living(kind: type) -> Iterator[Any]:
    # type(): isinstance would ask a proxy for its class, and proxies run code.
    return (found for found in gc.get_objects() if issubclass(type(found), kind))


def _variables_of(optimizer: Any) -> list[Any]:
    found = optimizer.variables  # a method in older releases
    return list(found() if callable(found) else found)


def _graph_of(variable: Any) -> Any:
    inner = getattr(variable, "value", None)  # Keras 3 wraps TensorFlow's
    return getattr(variable if callable(inner) else inner, "graph", None)
