"""`Estimator`: TensorFlow's, whose exports can apply increments.

TensorFlow 2.15 is the last release with `tf.estimator`. The class is made when it is first
asked for, so that this module, and `ckptctl.training`, can be imported everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import tensorflow.compat.v1 as tf1

from ckptctl.errors import UsageError
from ckptctl.training.saver import Saver
from ckptctl.training.serving import NO_INCREMENTS, ServingSaver, has_increments

# `Estimator` too, where TensorFlow has one: see `__getattr__`.
__all__ = ["has_estimator"]

_NO_ESTIMATOR = (
    f"TensorFlow {tf1.__version__} has no tf.estimator; 2.15 is the last release that has. "
    "Train with ckptctl.training.MonitoredTrainingSession and export with "
    "ckptctl.training.export_saved_model"
)


def has_estimator() -> bool:
    """Return whether this TensorFlow has `tf.estimator`."""
    return hasattr(tf1, "estimator")


def __getattr__(name: str) -> Any:
    if name == "Estimator":
        return _estimator()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Exports:
    """What `Estimator` does otherwise.

    In a class of its own since TensorFlow refuses an Estimator that defines a method of
    its base, and looks no further than the class itself.
    """

    # None while nothing is exported.
    _save_incr_model: bool | None = None

    def export_saved_model(
        self,
        export_dir_base: str,
        serving_input_receiver_fn: Any,
        *args: Any,
        save_incr_model: bool = False,
        **kwargs: Any,
    ) -> bytes:
        """Export a model from the newest full; return its directory.

        Arguments as those of `tf.estimator.Estimator.export_saved_model`.

        Parameters
        ----------
        save_incr_model
            Let `ckptctl.training.load_incremental` apply increments to the exported model.

        Raises
        ------
        ckptctl.errors.UsageError
            `save_incr_model` is asked for, and the `Scaffold` of `model_fn` has no
            `ckptctl.training.Saver` with increments.
        """
        self._save_incr_model = save_incr_model
        try:
            base: Any = super()
            exported: bytes = base.export_saved_model(
                export_dir_base, serving_input_receiver_fn, *args, **kwargs
            )
        finally:
            self._save_incr_model = None
        return exported

    def _call_model_fn(self, *args: Any, **kwargs: Any) -> Any:
        base: Any = super()
        spec = base._call_model_fn(*args, **kwargs)
        scaffold = spec.scaffold
        if scaffold.saver is None and getattr(scaffold, "incremental_save_restore", False):
            # Else TensorFlow's Estimator makes one that saves no increments.
            scaffold._saver = Saver(sharded=True, allow_empty=True, incremental_save_restore=True)
        if self._save_incr_model is None:
            return spec
        saver = scaffold.saver
        if has_increments(saver):
            served = tf1.train.Scaffold(
                saver=ServingSaver(saver, self._save_incr_model),
                copy_from_scaffold=scaffold,
            )
            return spec._replace(scaffold=served)
        if self._save_incr_model:
            raise UsageError(NO_INCREMENTS)
        return spec


@lru_cache(maxsize=1)
def _estimator() -> Any:
    if not has_estimator():
        raise ImportError(_NO_ESTIMATOR, name="tensorflow.estimator")

    class Estimator(_Exports, tf1.estimator.Estimator):
        """`tf.estimator.Estimator` whose exports can apply increments.

        Arguments are those of TensorFlow's. Train with a `model_fn` whose `Scaffold` and
        `CheckpointSaverHook` are of `ckptctl.training`.
        """

    Estimator.__module__, Estimator.__qualname__ = __name__, "Estimator"
    return Estimator
