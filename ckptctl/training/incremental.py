"""`IncrementalSaver`: the rows that changed since the last full, saved and applied.

The files are DeepRec's, and hold the scalar `ckptctl/lineage` that says what they were
recorded against (`restore.md`, Lineage).
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.checkpoint import checkpoint_management
from tensorflow.python.util import compat

from ckptctl.chain import INCREMENT_DIRECTORY
from ckptctl.chain.facts import Lineage, Mode
from ckptctl.chain.names import split_step
from ckptctl.chain.source import IndexSource
from ckptctl.errors import DamageError, NotFoundError, RefusedError, UsageError
from ckptctl.storage import LOCAL
from ckptctl.training.bases import Base, Previous, directory_of, place_of
from ckptctl.training.builders import IncrementBuilder, items_of
from ckptctl.training.durable import make_durable
from ckptctl.training.recovery import RestorePoint, stands_in
from ckptctl.training.restores import Application
from ckptctl.training.slices import NO_OTHERS, OtherSlices

if TYPE_CHECKING:
    from ckptctl.training.saver import Saver

__all__ = ["INCREMENT_BASENAME", "IncrementalSaver"]

#: Fixed in DeepRec: basic_session_run_hooks.py.
INCREMENT_BASENAME = "incremental_model.ckpt"

_LOG = logging.getLogger("ckptctl.training")
_SCOPE = "ckptctl/increment"


class IncrementalSaver(tf1.train.Saver):
    """Saves the rows that changed since the last full, and restores them onto it.

    Made by `Saver(incremental_save_restore=True)` as its `incremental`. Settings
    (`sharded`, `max_to_keep`, padding, relative paths) are the full Saver's.
    """

    _last_checkpoints: list[tuple[str, float]]

    def __init__(self, full: Saver, saveables: list[Any], mode: Mode) -> None:
        self.mode: Mode = mode
        self._recorder = full.recorder
        items = items_of(saveables, self._recorder)
        self._adder = IncrementBuilder(
            self._recorder, items, full._write_version, full._builder.restored
        )
        super().__init__(
            # Slices of a variable share a name, and a list would keep one of them.
            var_list={str(number): saveable for number, saveable in enumerate(saveables)},
            sharded=full._sharded,
            max_to_keep=full._max_to_keep,
            name=_SCOPE,
            builder=self._adder,
            write_version=full._write_version,
            pad_step_number=full._pad_step_number,
            save_relative_paths=full._save_relative_paths,
        )

    def save(  # type: ignore[override]
        self,
        sess: Any,
        save_path: str,
        global_step: Any = None,
        latest_filename: str = "checkpoint",
        write_state: bool = True,
        **_: Any,
    ) -> str:
        """Save an increment and return its prefix.

        Parameters
        ----------
        sess, save_path, global_step, latest_filename, write_state
            As `tf.compat.v1.train.Saver.save`. `save_path` without the step, in
            `.incremental_checkpoint/` of the fulls' directory, which is made if it is not there:
            nobody looks elsewhere.

        Raises
        ------
        ckptctl.errors.NotFoundError
            There is no durable full yet that it could be recorded against.
        ckptctl.errors.RefusedError
            That full was restored, and has a variable in other slices than this graph.
        ckptctl.errors.UsageError
            There is no step, or it is not above that of the save before, or `save_path` lies
            elsewhere.
        """
        recorder = self._recorder
        recorder.check()
        within = os.path.normpath(os.path.dirname(save_path))
        if os.path.basename(within) != INCREMENT_DIRECTORY:
            raise UsageError(
                f"{save_path}: no restore looks for increments there",
                remedy=f"DIR/{INCREMENT_DIRECTORY}/{INCREMENT_BASENAME}, DIR being the fulls'",
            )
        directory = os.path.dirname(within)
        base = recorder.bases.of(sess).get(os.path.realpath(directory))
        if base is None:
            raise NotFoundError(
                "no full with a step was saved or restored here yet, so there is nothing that "
                "changed since",
                file=directory or ".",
                remedy="save one with the Saver first, with global_step and write_state",
            )
        if base.others:
            raise RefusedError(
                "the full that was restored has a variable in other slices than this graph, so "
                "no increment of this graph fits it",
                file=base.full,
                tensor=base.others.names[0],
                remedy="save a full first",
            )
        if global_step is None:
            raise UsageError("an increment needs a step", remedy="give global_step")
        known = isinstance(global_step, compat.integral_types)
        step = int(global_step if known else sess.run(global_step))
        if step <= base.last_step:
            raise UsageError(
                f"increment at step {step}, but the last save was at step {base.last_step}"
            )
        if not tf.io.gfile.exists(f"{base.full}.index") and not stands_in(directory, base.step):
            _LOG.warning("%s is gone: no increment on it can be restored", base.full)
        padded = f"{step:08d}" if self._pad_step_number else str(step)
        prefix = f"{save_path}-{padded}"
        previous, since = base.previous, base.clocks
        if self.mode == "cumulative":
            follows = previous is not None and previous.id == base.last_id
        else:  # another Saver's may be no delta, or lack variables
            follows = previous is not None and previous.saver is self
        if self.mode == "delta" and previous is not None and follows:
            since = previous.clocks
        feed: dict[Any, Any] = {at: since.get(on, 0) for on, at in self._adder.since.items()}
        own_id = uuid.uuid4().hex
        feed[self._adder.lineage] = lineage(base, follows, self.mode, own_id)
        # Should the save fail, its files may be there all the same.
        base.last_id, base.line = own_id, Lineage.lengthen(base.line, own_id)
        feed[self.saver_def.filename_tensor_name] = prefix
        if "://" in save_path:
            tf.io.gfile.makedirs(os.path.dirname(save_path))
        else:  # TensorFlow would keep the group out, whatever the umask
            os.makedirs(within, exist_ok=True)
        clocks = recorder.now(sess)  # before: rows changed meanwhile are in the next one too
        sess.run(self.saver_def.save_tensor_name, feed)
        make_durable(prefix, directory or ".")
        base.previous = Previous(step, clocks, self, own_id)
        base.series.append(prefix)
        if write_state:
            self._RecordLastCheckpoint(prefix)
            checkpoint_management.update_checkpoint_state_internal(
                save_dir=os.path.dirname(save_path),
                model_checkpoint_path=prefix,
                all_model_checkpoint_paths=self.last_checkpoints,
                latest_filename=latest_filename,
                save_relative_paths=self._save_relative_paths,
            )
            while self._checkpoints_to_be_deleted:
                self._MaybeDeleteOldCheckpoints()
        return prefix

    def apply(self, sess: Any, prefix: str) -> None:
        """Apply an increment to what the session holds, on the parameter servers.

        Raises
        ------
        ckptctl.errors.CkptctlError
            The increment cannot be read, or lacks a variable of the graph.
        """
        self.run(sess, self._adder.restores.application(prefix))

    def restore(self, sess: Any, save_path: str) -> None:
        """Do as `apply`: the full is restored by the Saver that this one belongs to.

        Rows are counted in the slices of that full, where it is known.

        Raises
        ------
        ckptctl.errors.UnprovenError
            The full, or this graph, has slices that are cut by columns too.
        """
        base = self._recorder.bases.of(sess).get(directory_of(os.path.dirname(save_path)))
        last = _lineage_of(save_path)
        others = base.others if base is not None else NO_OTHERS
        self.run(sess, self._adder.restores.application(save_path, others))
        if base is not None:
            base.go_on_from(last)

    def other_slices(self, full: str) -> OtherSlices:
        """Return the variables that a full has in other slices than the graph."""
        if not os.path.exists(f"{full}.index"):  # increments lie on local disks
            return NO_OTHERS
        return self._adder.restores.other_slices(full)

    def applications(self, full: str, increments: Iterable[str]) -> list[Application]:
        """Return what applies increments, one after the other, once a full is restored.

        Raises
        ------
        ckptctl.errors.CkptctlError
            As `restore`.
        """
        others = self.other_slices(full)
        return [self._adder.restores.application(prefix, others) for prefix in increments]

    def run(self, sess: Any, application: Application) -> None:
        """Apply an increment to what the session holds, on the parameter servers."""
        with _naming(application.prefix):
            application.run(sess, self._adder.prefixes)

    def beside(self, sess: Any, application: Application) -> Any:
        """Return a session that applies an increment too, after the full that it restores."""
        if application.others:  # these don't wait for the full
            raise ValueError(application)
        return _Beside(sess, application, self.saver_def.filename_tensor_name)

    def resume(self, sess: Any, point: RestorePoint, open_gate: Any) -> None:
        """Open the gate of what is restored, whose increments go on."""
        within = os.path.join(os.path.dirname(point.full), INCREMENT_DIRECTORY)
        state = checkpoint_management.get_checkpoint_state(within)
        listed = state.all_model_checkpoint_paths if state else []
        # By their names: in a copy, the state file names those of the original.
        names = map(os.path.basename, listed)
        self.recover_last_checkpoints([os.path.join(within, name) for name in names])
        base = self._recorder.bases.of(sess).get(directory_of(point.full))
        if base is not None and point.increments:
            base.series = list(point.increments)
            # By the clocks of the full: what others changed meanwhile looks like what was restored.
            last = point.lineage
            delta = last is not None and (last.mode, last.base_step) == ("delta", base.step)
            base.go_on_from(last)
            base.previous = Previous(point.step, base.clocks, self if delta else None, base.last_id)
        sess.run(open_gate)

    def _RecordLastCheckpoint(self, latest_save_path: str) -> None:
        keep = self.saver_def.max_to_keep
        if not keep:
            return
        latest = place_of(latest_save_path)
        entries = [p for p in self._last_checkpoints if place_of(p[0]) != latest]
        entries.append((latest_save_path, time.time()))
        # A delta series is worth nothing with one of its increments gone.
        series = (base.series for base in self._recorder.bases)
        held = set(map(place_of, chain(*series))) if self.mode == "delta" else set()
        surplus = max(len(entries) - keep, 0)
        going = [p for p in entries[:-1] if place_of(p[0]) not in held][:surplus]
        self._last_checkpoints = [p for p in entries if p not in going]
        self._checkpoints_to_be_deleted += going


@dataclass(frozen=True)
class _Beside:
    """A session that runs some ops beside all that it is asked to run.

    TensorFlow's `Saver.restore` has a run of its own, and a run that is a session's first of
    its kind takes long: some ms in a small graph, a tenth of a second in one of 10,000 ops.
    """

    session: Any
    increment: Application
    filename: str

    def run(self, fetches: Any, feed_dict: dict[Any, Any]) -> None:
        prefix = self.increment.prefix
        with _naming(prefix):
            self.session.run([fetches, self.increment.ops], {**feed_dict, self.filename: prefix})


@contextmanager
def _naming(prefix: str) -> Iterator[None]:
    """Say which increment it was: TensorFlow's Saver would tell its errors as those of a full."""
    try:
        yield
    except (
        DamageError,
        tf.errors.DataLossError,
        tf.errors.InvalidArgumentError,
        tf.errors.NotFoundError,
    ) as error:
        if isinstance(error, tf.errors.OpError) and (
            error.op is None or _SCOPE not in error.op.name
        ):
            raise
        raise DamageError(
            f"the increment could not be restored: {getattr(error, 'message', error)}",
            file=prefix,
            remedy="ckptctl verify --data says what is wrong with it, if it is still there",
        ) from error


def _lineage_of(prefix: str) -> Lineage | None:
    """Return what an increment on a local disk says of its origin."""
    parts = split_step(os.path.basename(prefix))
    if parts is None or not os.path.exists(f"{prefix}.index"):
        return None
    return IndexSource(prefix, "increment", parts[1], True, LOCAL).facts().lineage


def lineage(base: Base, follows: bool, mode: Mode, own_id: str) -> str:
    """Return the text of `ckptctl/lineage` (`restore.md`, Lineage).

    One that does not follow the one before it, since it holds all that is in that, says by the
    id alone what the run went on from.
    """
    previous = base.previous if follows else None
    facts = {
        "version": 1,
        "base_step": base.step,
        "previous_step": previous.step if previous is not None else None,
        "mode": mode,
        "id": own_id,
        "previous_id": previous.id if previous is not None else base.last_id,
        "line": base.line,
    }
    return json.dumps(facts)
