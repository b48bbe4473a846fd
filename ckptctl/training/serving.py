"""What an exported graph has of a Saver: plain restores, and nothing of the recorder.

A training graph has control inputs that record changed rows, and restores that mark them.
Serving has no recorder variables, so such an op would fail there. Hence the graph gets
restores of its own, that mark nothing, and what belongs to the recorder is left out of the
exported copy.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.core.protobuf import control_flow_pb2

from ckptctl.training.builders import IncrementBuilder, item_of
from ckptctl.training.recorder import RECORDS
from ckptctl.training.restores import Restore, Restores
from ckptctl.training.slices import Span

__all__ = [
    "INCREMENTAL_COLLECTION",
    "NO_INCREMENTS",
    "ServingSaver",
    "has_increments",
    "identity_of",
    "restores_of",
    "unfinalized",
]

#: Collection of a MetaGraph, one string: JSON that says how increments are applied.
INCREMENTAL_COLLECTION = "ckptctl/incremental"

NO_INCREMENTS = (
    "save_incr_model=True needs a graph with increments: build it with a "
    "ckptctl.training.Saver(incremental_save_restore=True) and hand that Saver over, in the "
    "Scaffold or as saver; save_incr_model=False exports a model that loads fulls only"
)


@dataclass
class _Added:
    """Ops that were added to a graph for its exports, once for each Saver."""

    full: Any
    filename: Any = None
    items: list[dict[str, Any]] | None = None


#: Attribute of a Saver: they live and die with it.
_HOME = "_ckptctl_serving"


class ServingSaver:
    """Takes the place of a `Saver` with increments in `tf.compat.v1.saved_model.Builder`.

    Parameters
    ----------
    saver
        A `ckptctl.training.Saver` with increments, of the default graph.
    save_incr_model
        Export the ops that apply increments too, and the collection that names them.
    """

    def __init__(self, saver: Any, save_incr_model: bool) -> None:
        self._saver = saver
        self._recorder = saver.recorder
        self._save_incr_model = save_incr_model
        self._held: str | None = None
        graph = self._recorder.graph
        before = {op.name for op in graph.get_operations()}
        with (
            graph.as_default(),
            tf.control_dependencies(None),
            tf.device(None),
            tf1.name_scope(None),
        ):
            if not hasattr(saver, _HOME):
                setattr(saver, _HOME, _Added(_full_of(saver)))
            self._added: _Added = getattr(saver, _HOME)
            if save_incr_model and self._added.items is None:
                self._add_increments()
        new = {op.name for op in graph.get_operations()} - before
        self._recorder.own.update(new)

    def restore(self, sess: Any, save_path: str) -> None:
        """Restore a full."""
        self._added.full.restore(sess, save_path)
        self._held = save_path

    def save(self, sess: Any, save_path: str, **kwargs: Any) -> Any:
        """Save the variables; the increments of the training take no notice of it."""
        if self._held is None:
            self._held = _held_by(sess, self._recorder)
        return self._added.full.save(sess, save_path, **kwargs)

    def export_meta_graph(self, **kwargs: Any) -> Any:
        """Return the MetaGraph without the recorder."""
        with self._recorder.graph.as_default():
            meta_graph = self._added.full.export_meta_graph(**kwargs)
        _strip(meta_graph, set(self._seeds()), self._marked())
        if self._save_incr_model:
            facts = {
                "version": 1,
                "filename": self._added.filename.name,
                "full": identity_of(self._held) if self._held else None,
                "items": self._added.items,
            }
            values = meta_graph.collection_def[INCREMENTAL_COLLECTION].bytes_list.value
            values.append(json.dumps(facts).encode())
        return meta_graph

    def _add_increments(self) -> None:
        saveables = self._saver._builder.saveables
        items = [replace(item_of(s, self._recorder), track=None) for s in saveables]
        with tf1.name_scope("ckptctl/serving/increment"):
            with tf.device("/device:CPU:0"):
                filename = tf1.placeholder(tf.string, [], "filename")
            builder = IncrementBuilder(self._recorder, items, self._saver._write_version)
            builder._AddRestoreOps(filename, saveables)
        self._added.filename = filename
        self._added.items = [_entry(restore) for restore in builder.restores.all]

    def _seeds(self) -> Iterator[str]:
        """Return the ops from which on all is left out."""
        for clock in self._recorder.clocks.values():
            yield clock.epoch.op.name
            yield clock.ready.op.name
        yield from self._marked()
        yield _op(self._saver.saver_def.filename_tensor_name)
        scopes = [_scope(self._saver.incremental.saver_def.filename_tensor_name)]
        if self._added.filename is not None and not self._save_incr_model:
            scopes.append(_scope(self._added.filename.name))
        scopes.append(f"{RECORDS}/")
        for op in self._recorder.graph.get_operations():
            if op.name.startswith(tuple(scopes)):
                yield op.name

    def _marked(self) -> set[str]:
        return {track.seen.op.name for track in self._recorder.tracks.values()}


def has_increments(saver: Any) -> bool:
    """Return whether a Saver is ours and its graph has increments."""
    if not getattr(saver, "incremental_save_restore", False):
        return False
    saver.build()  # deferred: in a graph without variables it turns out to have none
    return getattr(saver, "incremental", None) is not None


def identity_of(prefix: str) -> str | None:
    """Return what tells a bundle from every other: its index holds all checksums."""
    try:
        with tf.io.gfile.GFile(f"{prefix}.index", "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except tf.errors.NotFoundError:
        return None


@contextmanager
def unfinalized(graph: Any) -> Iterator[None]:
    """Let ops be added to a graph whose session is open: none that it has run is changed."""
    finalized = graph.finalized
    if finalized:
        graph._unsafe_unfinalize()
    try:
        yield
    finally:
        if finalized:
            graph.finalize()


def _full_of(saver: Any) -> Any:
    saveables = saver._builder.saveables
    return tf1.train.Saver(
        # Slices of a variable share a name, and a list would keep one of them.
        var_list={str(number): saveable for number, saveable in enumerate(saveables)},
        sharded=True,
        name="ckptctl/serving/full",
    )


def _entry(restore: Restore) -> dict[str, Any]:
    return {
        "name": restore.name,
        "keys": restore.keys,
        "rows_op": None if restore.rows is None else _name_of(restore.rows),
        "rows_read": [tensor.name for tensor in restore.read],
        "span": restore.span,
        "whole": [{"name": name, "slice": spec} for name, spec in restore.specs],
        "whole_op": _name_of(restore.whole),
    }


def restores_of(items: Iterable[Mapping[str, Any]], graph: Any, scope: str) -> Restores:
    """Return what a graph, into which a model was loaded, has of `_entry`."""
    return Restores(
        Restore(
            item["name"],
            tuple((whole["name"], whole["slice"]) for whole in item["whole"]),
            graph.get_operation_by_name(scope + item["whole_op"]),
            graph.get_operation_by_name(scope + item["rows_op"]) if item["rows_op"] else None,
            tuple(graph.get_tensor_by_name(scope + name) for name in item.get("rows_read", ())),
            Span(*item["span"]) if item.get("span") else None,  # exported before there were any
        )
        for item in items
    )


def _name_of(fetch: Any) -> str:
    return str(getattr(fetch, "op", fetch).name)


def _held_by(sess: Any, recorder: Any) -> str | None:
    """Return the full whose state a training session holds, if it was not trained since."""
    step, bases = tf1.train.get_global_step(recorder.graph), recorder.bases.of(sess)
    if step is None or not bases:
        return None
    now = int(sess.run(step))
    return next((base.full for base in bases.values() if base.step == now), None)


# --- leaving out ---


def _strip(meta_graph: Any, seeds: set[str], marked: set[str]) -> None:
    """Remove what follows from some ops, and the control inputs of those that mark rows.

    Parameters
    ----------
    meta_graph
        Changed in place.
    seeds
        Names of ops: whatever depends on one of them goes.
    marked
        Of these, the variables of marks. What waits for a mark is the user's: it stays,
        and does not wait.
    """
    nodes = meta_graph.graph_def.node
    marks = {node.name for node in nodes if node.input and node.input[0] in marked}
    following: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for entry in node.input:
            if not (entry.startswith("^") and entry[1:] in marks):
                following[_op(entry)].append(node.name)
        for place in _places(node):  # the initial value of a recorder variable, say
            if place in seeds:
                following[place].append(node.name)
    gone, open_ends = set(seeds), list(seeds)
    while open_ends:
        for name in following[open_ends.pop()]:
            if name not in gone:
                gone.add(name)
                open_ends.append(name)
    kept = [node for node in nodes if node.name not in gone]
    for node in kept:
        inputs = [entry for entry in node.input if _op(entry) not in gone]
        if len(inputs) != len(node.input):
            del node.input[:]
            node.input.extend(inputs)
        places = _places(node)
        if not gone.isdisjoint(places):
            left = [f"loc:@{place}".encode() for place in places if place not in gone]
            node.attr["_class"].list.s[:] = left
    del nodes[:]
    nodes.extend(kept)
    _strip_collections(meta_graph, gone)


def _strip_collections(meta_graph: Any, gone: set[str]) -> None:
    for key in list(meta_graph.collection_def):
        found = meta_graph.collection_def[key]
        kind = found.WhichOneof("kind")
        if key == tf1.GraphKeys.SAVERS:  # of the training, and its ops are gone
            del meta_graph.collection_def[key]
            continue
        if kind == "node_list":
            _keep(found.node_list.value, (v for v in found.node_list.value if _op(v) not in gone))
        elif kind == "bytes_list" and key == tf1.GraphKeys.COND_CONTEXT:
            values = list(found.bytes_list.value)
            _keep(found.bytes_list.value, (v for v in values if _pivot(v) not in gone))
        if kind is None or not getattr(found, kind).value:
            del meta_graph.collection_def[key]


def _keep(values: Any, kept: Iterable[Any]) -> None:
    kept = list(kept)
    del values[:]
    values.extend(kept)


def _pivot(serialized: bytes) -> str:
    return _op(control_flow_pb2.CondContextDef.FromString(serialized).pivot_name)


def _places(node: Any) -> list[str]:
    """Return the ops that a node stands beside."""
    if "_class" not in node.attr:
        return []
    return [value.decode().removeprefix("loc:@") for value in node.attr["_class"].list.s]


def _scope(name: str) -> str:
    return f"{name.rpartition('/')[0]}/"


def _op(entry: str) -> str:
    return entry.lstrip("^").partition(":")[0]
