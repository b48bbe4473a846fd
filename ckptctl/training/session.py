"""Drop-ins for what sets up a training session: `Scaffold`, `MonitoredTrainingSession`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.ops import resources
from tensorflow.python.training.monitored_session import USE_DEFAULT

from ckptctl.errors import UsageError
from ckptctl.training.hook import CheckpointSaverHook, interval
from ckptctl.training.saver import Saver

__all__ = ["MonitoredTrainingSession", "Scaffold"]


class Scaffold(tf1.train.Scaffold):
    """`tf.compat.v1.train.Scaffold` whose session restores increments too.

    Parameters
    ----------
    incremental_save_restore
        Restore the newest full and its increments; workers wait for all of it. Every
        worker of a training needs it, since each records the rows it changes. A graph that
        does not train restores the full alone; `Saver.recover` goes on to the increments.
    """

    _saver: Any
    _init_op: Any
    _ready_op: Any

    def __init__(self, *args: Any, incremental_save_restore: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.incremental_save_restore = incremental_save_restore
        if incremental_save_restore and self._saver is not None:
            _check_saver(self._saver)

    def finalize(self) -> Any:
        """Make what is missing, add what waits for the increments, finalize the graph."""
        graph = tf1.get_default_graph()
        if self.incremental_save_restore and not graph.finalized:
            keys = tf1.GraphKeys
            if self._saver is None:
                self._saver = self.get_or_default(
                    "saver",
                    keys.SAVERS,
                    lambda: Saver(sharded=True, allow_empty=True, incremental_save_restore=True),
                )
                _check_saver(self._saver)
            self._saver.build()
            self._add_gate()
        return super().finalize()

    def _add_gate(self) -> None:
        saver = self._saver
        if not saver.incremental_save_restore:  # a graph without variables
            return
        saver.recovers = True
        saver.recorder.check()
        keys = tf1.GraphKeys
        if self._init_op is None:
            self._init_op = self.get_or_default("init_op", keys.INIT_OP, _init_op)
        with tf.control_dependencies([self._init_op]):
            self._init_op = tf.group(self._init_op, saver.recorder.open_gate())
        if self._ready_op is None:
            self._ready_op = self.get_or_default("ready_op", keys.READY_OP, _ready_op)
        self._ready_op = saver.recorder.not_ready(self._ready_op)


def MonitoredTrainingSession(
    *args: Any, save_incremental_checkpoint_secs: float | None = None, **kwargs: Any
) -> Any:
    """`tf.compat.v1.train.MonitoredTrainingSession` that also saves increments.

    Arguments and result as those of TensorFlow's.

    Parameters
    ----------
    save_incremental_checkpoint_secs
        Seconds between increments; None, or 0 and less, for none. All workers pass the same.
    """
    increments = interval("save_incremental_checkpoint_secs", save_incremental_checkpoint_secs)
    if increments is None:
        return tf1.train.MonitoredTrainingSession(*args, **kwargs)
    if tf.executing_eagerly() and not tf1.get_default_graph().get_operations():
        raise UsageError(
            "a session needs a graph, and this is eager mode",
            remedy="call tf.compat.v1.disable_eager_execution() first",
        )
    bound = inspect.signature(tf1.train.MonitoredTrainingSession).bind(*args, **kwargs)
    given: dict[str, Any] = dict(bound.arguments)
    scaffold = given.get("scaffold")
    if scaffold is None:
        scaffold = given["scaffold"] = Scaffold(incremental_save_restore=True)
    elif not getattr(scaffold, "incremental_save_restore", False):
        raise UsageError(
            "save_incremental_checkpoint_secs needs a ckptctl.training.Scaffold with "
            "incremental_save_restore=True, or none at all"
        )
    secs, steps = _intervals(given)
    directory = given.get("checkpoint_dir")
    if directory and not (secs or steps):
        raise UsageError(
            "save_incremental_checkpoint_secs without fulls: an increment holds what changed "
            "since the last one",
            remedy="give save_checkpoint_secs or save_checkpoint_steps, or neither for the default",
        )
    if directory:
        hook = CheckpointSaverHook(
            directory,
            save_secs=secs,
            save_steps=steps,
            scaffold=scaffold,
            save_graph_def=given.get("save_graph_def", True),
            incremental_save_secs=increments,
        )
        given["chief_only_hooks"] = [*(given.get("chief_only_hooks") or []), hook]
    given["save_checkpoint_secs"] = given["save_checkpoint_steps"] = None
    return tf1.train.MonitoredTrainingSession(**given)


def _intervals(given: dict[str, Any]) -> Iterable[Any]:
    """Return seconds and steps between fulls, with TensorFlow's default of 600 seconds."""
    names = ("save_checkpoint_secs", "save_checkpoint_steps")
    found = {name: given[name] for name in names if given.get(name, USE_DEFAULT) != USE_DEFAULT}
    if not found:
        return (600, None)
    return (interval(name, found.get(name)) for name in names)


def _init_op() -> Any:
    return tf.group(
        tf1.global_variables_initializer(),
        resources.initialize_resources(resources.shared_resources()),
        tf1.get_collection("saved_model_initializers"),
    )


def _ready_op() -> Any:
    uninitialized = (
        tf1.report_uninitialized_variables(),
        resources.report_uninitialized_resources(),
    )
    return tf.concat(uninitialized, 0)


def _check_saver(saver: Any) -> None:
    if not getattr(saver, "incremental_save_restore", False):
        raise UsageError(
            "Scaffold(incremental_save_restore=True) needs a ckptctl.training.Saver with "
            "incremental_save_restore=True"
        )
