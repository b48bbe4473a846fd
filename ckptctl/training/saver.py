"""`Saver`: TensorFlow's, with a recorder of changed rows and a saver of increments."""

from __future__ import annotations

import logging
import os
from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.checkpoint import checkpoint_management

from ckptctl.chain.facts import Mode
from ckptctl.chain.names import split_step
from ckptctl.errors import DamageError, IncompleteError, UsageError
from ckptctl.training.bases import Base, directory_of, place_of
from ckptctl.training.builders import FullBuilder, owner_of
from ckptctl.training.durable import make_durable
from ckptctl.training.incremental import IncrementalSaver
from ckptctl.training.places import refuse_keras
from ckptctl.training.recorder import Recorder
from ckptctl.training.recovery import RestorePoint, newest_point, restorable
from ckptctl.training.slices import refuse_gaps
from ckptctl.training.updates import initialisers_of, uses_of

__all__ = ["Saver"]

_LOG = logging.getLogger("ckptctl.training")


class Saver(tf1.train.Saver):
    """`tf.compat.v1.train.Saver` that also saves and restores increments.

    Arguments are those of TensorFlow's. Build it after the optimizer and before the first
    session: the rows that updates change are recorded from then on.

    Parameters
    ----------
    incremental_save_restore
        Record changed rows and make `incremental`, the saver of increments.
    incremental_mode
        "cumulative": an increment holds the rows changed since the last full, as DeepRec's.
        "delta": since the increment before; all of them are needed to restore.
    """

    def __init__(
        self,
        *args: Any,
        incremental_save_restore: bool = False,
        incremental_mode: Mode = "cumulative",
        **kwargs: Any,
    ) -> None:
        if incremental_mode not in ("cumulative", "delta"):
            raise UsageError(f"incremental_mode: cumulative or delta, not {incremental_mode!r}")
        if incremental_save_restore:
            if tf.executing_eagerly():
                raise UsageError(
                    "increments are recorded in a graph, and this is eager mode",
                    remedy="call tf.compat.v1.disable_eager_execution() first, or build the "
                    "model under `with tf.Graph().as_default()`",
                )
            if kwargs.get("builder") is not None or kwargs.get("saver_def") is not None:
                raise UsageError("incremental_save_restore needs a Saver that it builds itself")
        self.incremental_save_restore = incremental_save_restore
        self.incremental: IncrementalSaver | None = None
        #: Set by `Scaffold`: restoring the newest full goes on to its increments.
        self.recovers = False
        self._mode: Mode = incremental_mode
        # Set by TensorFlow's after it has built.
        self._save_relative_paths = kwargs.get("save_relative_paths", False)
        super().__init__(*args, **kwargs)

    def build(self) -> None:
        """Add the ops for fulls and, where asked for, the recorder and those for increments."""
        if self._is_built or not self.incremental_save_restore:
            super().build()
            return
        if self._write_version == tf1.train.SaverDef.V1:
            raise UsageError(
                "write_version: increments are recorded against fulls of format V2, not V1",
                remedy="leave write_version out, or give tf.compat.v1.train.SaverDef.V2",
            )
        graph = tf1.get_default_graph()
        recorder = Recorder.of(graph)
        self._recorder = recorder
        self._builder = FullBuilder(recorder, self._write_version)
        super().build()
        if self._is_empty:
            self.incremental_save_restore = False
            return
        refuse_keras(graph)
        refuse_gaps(self._builder.saveables)
        recorder.record(self._owners())
        self.incremental = IncrementalSaver(self, self._builder.saveables, self._mode)
        # Restored variables are not to be recorded as changed.
        self._begin_restore = recorder.begin_restore()
        self._forgets = recorder.tracks.keys() & {owner.name for owner in self._owners()}
        self._open_gate = recorder.open_gate()

    @property
    def recorder(self) -> Recorder:
        """What records the changed rows."""
        return self._recorder

    def save(self, sess: Any, save_path: str, global_step: Any = None, **kwargs: Any) -> Any:
        """Save a full; it becomes the base of later increments once it is durable.

        Arguments and result as those of TensorFlow's. It is the base of increments in its own
        directory only. A full without a step or without an entry in the state file is a copy:
        the increments go on from the full before.
        """
        if not self.incremental_save_restore:
            return super().save(sess, save_path, global_step, **kwargs)
        self._recorder.check()
        clocks = self._recorder.now(sess)  # before: rows changed meanwhile count as changed since
        prefix = super().save(sess, save_path, global_step, **kwargs)
        make_durable(prefix)
        parts = split_step(os.path.basename(prefix))
        if parts is not None and kwargs.get("write_state", True):
            self._recorder.bases.of(sess)[directory_of(prefix)] = Base(prefix, parts[1], clocks)
        return prefix

    def _RecordLastCheckpoint(self, latest_save_path: str) -> None:
        # TensorFlow's compares words: by another spelling it would be the oldest, and deleted.
        here = place_of(latest_save_path)
        for entry in [each for each in self._last_checkpoints if place_of(each[0]) == here]:
            self._last_checkpoints.remove(entry)
        super()._RecordLastCheckpoint(latest_save_path)

    def enter(self, prefix: str) -> None:
        """Let the state file name a full that lies there, as if it had been saved now.

        Its index is of now, too: what was saved since was left, and times that disagree with the
        list are taken for those of a copy.

        Raises
        ------
        PermissionError
            The index is another user's.
        """
        state = checkpoint_management.get_checkpoint_state(os.path.dirname(prefix))
        listed = [*self.last_checkpoints[-1:], state.model_checkpoint_path if state else ""]
        if [place_of(name) for name in listed] == [place_of(prefix)] * 2:
            return
        os.utime(f"{prefix}.index")
        self._RecordLastCheckpoint(prefix)
        checkpoint_management.update_checkpoint_state_internal(
            save_dir=os.path.dirname(prefix),
            model_checkpoint_path=prefix,
            all_model_checkpoint_paths=self.last_checkpoints,
            save_relative_paths=self._save_relative_paths,
        )
        self._MaybeDeleteOldCheckpoints()  # with the next save it may be that very one

    def restore(self, sess: Any, save_path: str) -> None:
        """Restore a full.

        In a training graph under a `Scaffold` with `incremental_save_restore=True`, the
        full that `checkpoint` names is where recovery begins: the newest full and its
        increments are restored, see `recover`. Any other path is restored as it is, and so is
        that full where the graph does not train; that increments are newer is logged then.
        """
        if not self.incremental_save_restore:
            super().restore(sess, save_path)
            return
        directory = os.path.dirname(save_path)
        if self.recovers:
            state = checkpoint_management.get_checkpoint_state(directory)
            if state is not None and state.model_checkpoint_path == save_path:
                if not self._trains():
                    _tell_newer(save_path)
                elif self.recover(sess, directory) is None:
                    raise IncompleteError(
                        "neither this full nor any other restore point of its directory can be "
                        "restored",
                        file=save_path,
                        remedy="`ckptctl ls` and the log say why",
                    )
                else:
                    return
        self._begin(sess)
        super().restore(sess, save_path)
        self._restored(sess, save_path)
        sess.run(self._open_gate)

    def recover(self, sess: Any, directory: str) -> int | None:
        """Restore the newest restore point of a directory; return its step, or None.

        The rules are those of every command (`restore.md`): the newest full or increment
        that is live, complete, of a proven base and not idle, and whose increments are
        nested, and whose data is whole. What is newer and is not used is logged with the reason.

        Raises
        ------
        ckptctl.errors.DamageError, tf.errors.DataLossError
            The data of every restore point is damaged: the variables hold parts of them.
        ckptctl.errors.UnprovenError
            Its increments were recorded with another partitioner, and it or that of the graph
            cuts variables by columns. Nothing was restored: `ckptctl merge` makes a full of
            them, which any graph can restore.
        """
        damaged: set[str | None] = set()
        failure: Exception | None = None
        for point in restorable(directory):
            if not damaged.isdisjoint((point.full, *point.increments)):
                continue
            try:
                self._recover(sess, point)
            except (DamageError, tf.errors.DataLossError) as error:
                damaged.add(error.file if isinstance(error, DamageError) else point.full)
                failure = error
                _LOG.warning("step %d is not restored: %s", point.step, error)
            else:
                _LOG.info("restored step %d: %s, %s", point.step, point.full, point.increments)
                return point.step
        if failure is not None:
            raise failure
        return None

    def _recover(self, sess: Any, point: RestorePoint) -> None:
        assert self.incremental is not None
        increments, session = self.incremental.applications(point.full, point.increments), sess
        if increments and not increments[0].others:
            session = self.incremental.beside(sess, increments.pop(0))
        self._begin(sess)
        super().restore(session, point.full)
        for increment in increments:
            self.incremental.run(sess, increment)
        self._restored(sess, point.full)
        self.incremental.resume(sess, point, self._open_gate)

    def _owners(self) -> list[Any]:
        return [owner for owner in map(owner_of, self._builder.saveables) if owner is not None]

    def _trains(self) -> bool:
        """Return whether anything changes a saved variable: the optimizer may come after us."""
        initialisers = initialisers_of(self._recorder.graph)
        uses = (uses_of(owner, initialisers, self._recorder.own) for owner in self._owners())
        return any(found.sparse or found.dense for found in uses)

    def _begin(self, sess: Any) -> None:
        # Should this fail half-way, no increment is saved until there is a full again: what the
        # last base was recorded by is gone.
        self._recorder.bases.clear()
        sess.run(self._begin_restore)

    def _restored(self, sess: Any, prefix: str) -> None:
        if not self._recorder.tracks.keys() <= self._forgets:
            # Of what another Saver saves too, rows were forgotten that this full may lack.
            _LOG.warning("%s was restored in part: no increments until a full is saved", prefix)
            return
        parts = split_step(os.path.basename(prefix))
        if parts is not None:
            assert self.incremental is not None
            clocks = dict.fromkeys(self._recorder.clocks, 0)  # begin_restore: all rows at 0
            others = self.incremental.other_slices(prefix)
            base = Base(prefix, parts[1], clocks, others=others)
            self._recorder.bases.of(sess)[directory_of(prefix)] = base


def _tell_newer(prefix: str) -> None:
    """Log that a graph that does not train goes without what is newer than a full."""
    directory, name = os.path.split(prefix)
    parts, newest = split_step(name), newest_point(directory)
    if parts is not None and newest is not None and newest > parts[1]:
        _LOG.warning(
            "%s is restored alone, and step %d is newer: this graph does not train; "
            "Saver.recover restores the increments too",
            prefix,
            newest,
        )
