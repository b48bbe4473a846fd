"""The ops of a Saver: what a save reads in which order, and what a restore writes.

Names and layout of an increment are DeepRec's with `incremental_include_normal_var=True`
(saver.py, incremental_saver.py of DeepRec-AI/DeepRec; `deeprec-format.md`, section 2).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.training.saver import BulkSaverBuilder

from ckptctl.chain.facts import LINEAGE_TENSOR
from ckptctl.tables import part_components
from ckptctl.training.places import cpu_of
from ckptctl.training.recorder import Recorder, Track
from ckptctl.training.restores import Restore, Restores
from ckptctl.training.slices import span_of
from ckptctl.training.updates import unfit

__all__ = [
    "FullBuilder",
    "IncrementBuilder",
    "Item",
    "item_of",
    "items_of",
    "owner_of",
]

_LOG = logging.getLogger("ckptctl.training")


@dataclass(frozen=True)
class Item:
    """A variable, or a slice of one, in increments.

    Attributes
    ----------
    saveable
        Its part in the full Saver.
    owner
        The op that owns the variable; None for what is no variable.
    name
        Its name in increments where rows are saved: `<full name>/part_<i>`, slot behind.
    track
        Where its changed rows are recorded, or None where they are not.
    whole
        Save it whole in any case, see `items_of`.
    """

    saveable: Any
    owner: Any
    name: str
    track: Track | None
    whole: bool = False


class FullBuilder(BulkSaverBuilder):  # type: ignore[misc]
    """TensorFlow's, with a clock that moves before the variables are read."""

    def __init__(self, recorder: Recorder, write_version: Any) -> None:
        super().__init__(write_version)
        self._recorder = recorder
        self.saveables: list[Any] = []
        #: By id of a saveable: the op that restores the shard that it is in.
        self.restored: dict[int, Any] = {}

    def _AddSaveOps(self, filename_tensor: Any, saveables: Any) -> Any:
        self.saveables += saveables
        devices = sorted({cpu_of(saveable.device) for saveable in saveables})
        with tf.control_dependencies([self._recorder.tick(device) for device in devices]):
            return super()._AddSaveOps(filename_tensor, saveables)

    def save_op(self, filename_tensor: Any, saveables: Any) -> Any:
        """Save variables as they are once the clock has moved, not as they were before."""
        specs = [(saveable, spec) for saveable in saveables for spec in saveable.specs]
        return tf.raw_ops.SaveV2(
            prefix=filename_tensor,
            tensor_names=[spec.name for _, spec in specs],
            shape_and_slices=[spec.slice_spec for _, spec in specs],
            tensors=[_read(saveable, spec) for saveable, spec in specs],
        )

    def _AddRestoreOps(
        self, filename_tensor: Any, saveables: Any, *args: Any, **kwargs: Any
    ) -> Any:
        with _own(self._recorder):
            done = super()._AddRestoreOps(filename_tensor, saveables, *args, **kwargs)
        self.restored |= dict.fromkeys(map(id, saveables), done)
        return done


class IncrementBuilder(BulkSaverBuilder):  # type: ignore[misc]
    """Ops that save and restore increments.

    What is read of an increment waits for `fulls`, the ops that restore the shards of a full,
    by id of a saveable: both can be restored in one run. It doesn't where `prefixes` are fed.
    """

    def __init__(
        self,
        recorder: Recorder,
        items: list[Item],
        write_version: Any,
        fulls: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(write_version)
        self._fulls = fulls
        #: The prefix, behind each shard of the full.
        self.prefixes: list[Any] = []
        self._recorder = recorder
        self._items = {id(item.saveable): item for item in items}
        self._keys: dict[int, Any] = {}
        self._shards = 0
        #: Device to the placeholder of the clock since which rows count as changed.
        self.since: dict[str, Any] = {}
        self.restores = Restores()
        with tf.device(None), tf.device("/device:CPU:0"):
            self.lineage = tf1.placeholder(tf.string, [], "ckptctl/lineage")
            for number, device in enumerate(recorder.clocks):
                name = f"ckptctl/since_{number}"
                self.since[device] = tf1.placeholder(tf.int32, [], name)

    def _AddSaveOps(self, filename_tensor: Any, saveables: Any) -> Any:
        names, slices, tensors = [], [], []
        items = [self._items[id(saveable)] for saveable in saveables]
        devices = sorted({cpu_of(saveable.device) for saveable in saveables})
        ticks = [self._recorder.tick(device) for device in devices]
        with tf.control_dependencies(ticks):
            for item in items:
                if item.track is None or item.whole:
                    for spec in item.saveable.specs:
                        names.append(spec.name)
                        slices.append(spec.slice_spec)
                        tensors.append(spec.tensor)
                else:
                    keys = self._changed(item.track)
                    names += [f"{item.name}-sparse_incr_keys", f"{item.name}-sparse_incr_values"]
                    slices += ["", ""]
                    tensors += [keys, _rows_of(item.saveable, keys)]
            # TensorFlow cannot read a checkpoint with a shard that holds no bytes.
            names.append(f"ckptctl/shard_{self._shards}")
            tensors.append(tf.constant(self._shards, tf.int64))
            slices.append("")
            if self._shards == 0:
                names.append(LINEAGE_TENSOR)
                tensors.append(tf.identity(self.lineage))
                slices.append("")
            self._shards += 1
            save = tf.raw_ops.SaveV2(
                prefix=filename_tensor,
                tensor_names=names,
                shape_and_slices=slices,
                tensors=tensors,
            )
        with tf.control_dependencies([save]):
            return tf.identity(filename_tensor)

    def _AddRestoreOps(
        self, filename_tensor: Any, saveables: Any, *_: Any, name: str = "restore_all", **__: Any
    ) -> Any:
        chosen = []
        fulls = {self._fulls[id(each)] for each in saveables} if self._fulls else set()
        with tf.control_dependencies(fulls):
            prefix = tf.identity(filename_tensor)
        self.prefixes.append(prefix)
        with _own(self._recorder):
            for saveable in saveables:
                item = self._items[id(saveable)]
                with tf.device(cpu_of(saveable.device)):
                    restore = _restore(prefix, item, self._recorder)
                self.restores.all.append(restore)
                whole = item.track is None or item.whole
                chosen.append(restore.whole if whole else restore.rows)
        return tf.group(*chosen, name=name)

    def _changed(self, track: Track) -> Any:
        if id(track) not in self._keys:
            since = self.since[track.clock.device]
            self._keys[id(track)] = self._recorder.changed(track, since)
        return self._keys[id(track)]


def owner_of(saveable: Any) -> Any:
    """Return the op that owns a saveable's variable, or None."""
    handle = getattr(saveable, "handle_op", None)
    if handle is not None:
        return handle.op
    variable = getattr(saveable.op, "op", None)
    if variable is not None and variable.type in ("VariableV2", "Variable"):
        return variable
    return None


def item_of(saveable: Any, recorder: Recorder) -> Item:
    """Return what an increment has of a variable that a full Saver saves."""
    owner = owner_of(saveable)
    name, track = saveable.specs[0].name, None
    if owner is not None:
        track = recorder.tracks.get(owner.name)
        if saveable.specs[0].slice_spec:
            # The last: a scope may be called part_1 too.
            part = re.fullmatch(r"(.*)(/part_\d+)(/.*)?", owner.name)
            if part is not None and f"{part[1]}{part[3] or ''}" == name:
                name = owner.name
            elif part is not None:
                name += part[2]
            else:  # not named as TensorFlow's partitioner does: saved whole
                track = None
    return Item(saveable, owner, name, track)


def items_of(saveables: Iterable[Any], recorder: Recorder) -> list[Item]:
    """Return what increments have of variables: of all slices of one the rows, or of none.

    Nor are there rows of a variable that is called like a slice of another: whose they are,
    nobody could tell.
    """
    items = [(each.specs[0].name, item_of(each, recorder)) for each in saveables]
    sliced = {name for name, item in items if item.saveable.specs[0].slice_spec}
    whole: dict[str, str] = {}
    for name, item in items:
        if name in sliced and item.track is None:
            whole.setdefault(name, f"rows of {item.name} can't be recorded")
        elif name not in sliced:
            others = [part.whole for part in part_components(name) if part.whole in sliced]
            if others:
                whole[name] = f"it is called like a part of {others[0]}"
    for name in sorted(whole.keys() & {name for name, item in items if item.track is not None}):
        _LOG.warning("%s is saved whole in increments: %s", name, whole[name])
    return [replace(item, whole=name in whole) for name, item in items]


def _read(saveable: Any, spec: Any) -> Any:
    """Return what a variable holds when this op runs.

    TensorFlow's saveable may hold a read that was made with the variable, which no control
    dependency of a save can hold back.
    """
    handle = getattr(saveable, "handle_op", None)
    if handle is None:
        return spec.tensor
    with tf.device(spec.device):
        with tf.control_dependencies([tf.raw_ops.DisableCopyOnRead(resource=handle)]):
            value = tf.raw_ops.ReadVariableOp(resource=handle, dtype=spec.dtype)
        with tf.device("/device:CPU:0"):
            return tf.identity(value)


def _rows_of(saveable: Any, rows: Any) -> Any:
    """Return the rows of a variable: [K, dim] float32, the variable not copied."""
    handle = getattr(saveable, "handle_op", None)
    if handle is not None:
        return tf.raw_ops.ResourceGather(resource=handle, indices=rows, dtype=tf.float32)
    return tf.gather(saveable.op, rows)


def _restore(filename: Any, item: Item, recorder: Recorder) -> Restore:
    specs = tuple((spec.name, spec.slice_spec) for spec in item.saveable.specs)
    restore = Restore(item.name, specs, _restore_whole(filename, item, recorder))
    if item.owner is None or unfit(item.owner) is not None:
        return restore
    rows, read = _restore_rows(filename, item, recorder)
    length = int(tf.TensorShape(item.owner.get_attr("shape"))[0])
    return replace(restore, rows=rows, read=read, span=span_of(specs[0][1], length))


def _restore_rows(filename: Any, item: Item, recorder: Recorder) -> tuple[Any, tuple[Any, ...]]:
    names = [f"{item.name}-sparse_incr_keys", f"{item.name}-sparse_incr_values"]
    read = tf.raw_ops.RestoreV2(
        prefix=filename,
        tensor_names=names,
        shape_and_slices=["", ""],
        dtypes=[tf.int64, tf.float32],
    )
    shape = tf.TensorShape(item.owner.get_attr("shape"))
    keys, values = tf.ensure_shape(read[0], [None]), tf.ensure_shape(read[1], [None, shape[1]])
    keys, values = _within(keys, values, int(shape[0]))
    handle = getattr(item.saveable, "handle_op", None)
    if handle is not None:
        done = tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=keys, updates=values)
    else:
        done = tf1.scatter_update(item.saveable.op, keys, values).op
    if item.track is None:
        return done, tuple(read)
    with tf.control_dependencies([done]):
        return recorder.mark(item.track, keys), tuple(read)


def _within(keys: Any, values: Any, rows: int) -> tuple[Any, Any]:
    """Leave out keys that a variable has no row for (`restore.md`), and copy only then."""
    # Not tf.cond: its functions cost some milliseconds a variable in each new session.
    fits = tf.reduce_max(keys) < rows
    some_keys, all_keys = tf.raw_ops.Switch(data=keys, pred=fits)
    some_values, all_values = tf.raw_ops.Switch(data=values, pred=fits)
    there = tf.reshape(tf.where(some_keys < rows), [-1])
    return (
        tf.raw_ops.Merge(inputs=[all_keys, tf.gather(some_keys, there)]).output,
        tf.raw_ops.Merge(inputs=[all_values, tf.gather(some_values, there)]).output,
    )


def _restore_whole(filename: Any, item: Item, recorder: Recorder) -> Any:
    specs = item.saveable.specs
    tensors = tf.raw_ops.RestoreV2(
        prefix=filename,
        tensor_names=[spec.name for spec in specs],
        shape_and_slices=[spec.slice_spec for spec in specs],
        dtypes=[spec.dtype for spec in specs],
    )
    done = item.saveable.restore(tensors, None)
    if item.track is None:
        return done if isinstance(done, tf.Operation) else done.op
    with tf.control_dependencies([done]):
        return recorder.mark_all(item.track)


class _own:
    """Remember the ops that are added meanwhile: they need no recording."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._before = len(self._recorder.graph.get_operations())

    def __exit__(self, *error: object) -> None:
        new = self._recorder.graph.get_operations()[self._before :]
        self._recorder.own.update(op.name for op in new)
