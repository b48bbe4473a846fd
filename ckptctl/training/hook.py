"""Drop-in for TensorFlow's `CheckpointSaverHook` that also saves increments."""

from __future__ import annotations

import logging
import numbers
import os
from contextlib import suppress
from typing import Any

import tensorflow.compat.v1 as tf1

from ckptctl.bundle import BundleReader
from ckptctl.chain import INCREMENT_DIRECTORY, MERGED_TENSOR
from ckptctl.errors import UsageError
from ckptctl.training.bases import directory_of, place_of
from ckptctl.training.incremental import INCREMENT_BASENAME

__all__ = ["CheckpointSaverHook", "interval"]

_LOG = logging.getLogger("ckptctl.training")


class CheckpointSaverHook(tf1.train.CheckpointSaverHook):
    """`tf.compat.v1.train.CheckpointSaverHook` that saves increments between fulls.

    Parameters
    ----------
    incremental_save_secs
        Seconds between increments; None, or 0 and less, for none. Where a full is due too,
        it wins.
    """

    def __init__(self, *args: Any, incremental_save_secs: float | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._incremental_timer = None
        secs = interval("incremental_save_secs", incremental_save_secs)
        if secs is not None:
            self._incremental_timer = tf1.train.SecondOrStepTimer(every_secs=secs)
        directory = os.path.join(self._checkpoint_dir, INCREMENT_DIRECTORY)
        self._incremental_path = os.path.join(directory, INCREMENT_BASENAME)

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Save a full where there is none at this step, and start both timers."""
        if self._incremental_timer is not None:
            self._increments()
        super().after_create_session(session, coord)
        if self._incremental_timer is not None:
            step = session.run(self._global_step_tensor)
            self._incremental_timer.update_last_triggered_step(step)

    def after_run(self, run_context: Any, run_values: Any) -> None:
        """Save a full or an increment, whichever is due."""
        before = self._timer.last_triggered_step()
        super().after_run(run_context, run_values)
        timer = self._incremental_timer
        if timer is None:
            return
        if self._timer.last_triggered_step() != before:  # a full is newer than any increment
            timer.update_last_triggered_step(self._timer.last_triggered_step())
            return
        stale = run_values.results
        if timer.should_trigger_for_step(stale + self._steps_per_run):
            step = run_context.session.run(self._global_step_tensor)
            if timer.should_trigger_for_step(step):
                timer.update_last_triggered_step(step)
                if self._save_increment(run_context.session, int(step)):
                    run_context.request_stop()

    def _save(self, session: Any, step: Any) -> Any:
        saver = self._get_saver()
        padded = f"{int(step):08d}" if saver._pad_step_number else str(int(step))
        prefix = f"{self._save_path}-{padded}"
        # Workers may already train: a kill would leave shards of two saves under the only
        # full that there is. Of another run's full that is as well.
        if getattr(saver, "incremental", None) is not None and _is_there(saver, session, prefix):
            with suppress(PermissionError):
                saver.enter(prefix)
                _LOG.info("there is a full at step %d already: %s", step, prefix)
                return False
        return super()._save(session, step)

    def _save_increment(self, session: Any, step: int) -> bool:
        """Save an increment; return whether a listener wants the training to stop."""
        saver = self._increments()
        base = saver.recorder.bases.of(session).get(directory_of(self._save_path))
        if base is None or step <= base.last_step:
            return False  # nothing was trained since
        if base.others:
            _LOG.info("no increment fits %s: a full is saved at step %d", base.full, step)
            return bool(self._save(session, step))
        for listener in self._listeners:
            listener.before_save(session, step)
        _LOG.info("saving an increment at step %d to %s", step, self._incremental_path)
        saver.incremental.save(session, self._incremental_path, global_step=step)
        wishes = [listener.after_save(session, step) for listener in self._listeners]
        return any(wishes)

    def _increments(self) -> Any:
        saver = self._get_saver()
        if getattr(saver, "incremental", None) is None:
            raise UsageError(
                "incremental_save_secs needs a ckptctl.training.Saver with "
                "incremental_save_restore=True, in the Scaffold or given as saver"
            )
        if not saver.recovers:
            raise UsageError(
                "incremental_save_secs with a Saver that no Scaffold restores increments with: "
                "a restart would not restore what is saved",
                remedy="ckptctl.training.Scaffold(saver=..., incremental_save_restore=True)",
            )
        return saver


def interval(name: str, value: Any) -> Any:
    """Return an interval, or None where there is none: 0 and less are, as in TensorFlow.

    Raises
    ------
    ckptctl.errors.UsageError
        It is no number.
    """
    if value is not None and not isinstance(value, numbers.Real):
        raise UsageError(f"{name}: a number, not {value!r}")
    return value if value is not None and float(value) > 0 else None


def _is_there(saver: Any, session: Any, prefix: str) -> bool:
    """Return whether a full is what this session restored, or saved, and still lies there.

    One that ckptctl merged is saved anew where others are listed behind it: by the full of its own
    the run says that it left them behind, which a merged one never says.
    """
    base = saver.recorder.bases.of(session).get(directory_of(prefix))
    if base is None or place_of(base.full) != place_of(prefix):
        return False
    if not os.path.exists(f"{prefix}.index"):
        return False
    listed = saver.last_checkpoints
    if listed and place_of(listed[-1]) == place_of(prefix):
        return True
    with BundleReader(prefix) as reader:
        return reader.get(MERGED_TENSOR) is None
