"""Full and incremental checkpoints in stock TensorFlow, with the API of DeepRec.

The only room that imports TensorFlow. Graph mode (`tf.compat.v1`), TensorFlow 2.15 and
later; the guide is `docs/incremental-training.md`.
"""

from __future__ import annotations

from typing import Any

try:
    from ckptctl.training import estimator as _estimator
    from ckptctl.training.export import export_saved_model, load_incremental
    from ckptctl.training.hook import CheckpointSaverHook
    from ckptctl.training.incremental import IncrementalSaver
    from ckptctl.training.lazy_adam import LazyAdam
    from ckptctl.training.saver import Saver
    from ckptctl.training.session import MonitoredTrainingSession, Scaffold
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "tensorflow":
        raise
    raise ModuleNotFoundError(
        "ckptctl.training needs TensorFlow: pip install 'ckptctl[tensorflow]'", name=error.name
    ) from None

__all__ = [
    "CheckpointSaverHook",
    "IncrementalSaver",
    "LazyAdam",
    "MonitoredTrainingSession",
    "Saver",
    "Scaffold",
    "export_saved_model",
    "load_incremental",
]
if _estimator.has_estimator():
    __all__ += ["Estimator"]


def __getattr__(name: str) -> Any:
    # Loads tf.estimator, or says what to use where there is none.
    if name == "Estimator":
        return _estimator.Estimator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
