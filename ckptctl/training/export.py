"""SavedModels that load fulls and, where asked for, increments.

`export_saved_model` writes them without Estimator; `ckptctl.training.estimator` has the
Estimator that does. `load_incremental` brings a loaded one up to date.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import tensorflow.compat.v1 as tf1

from ckptctl.bundle import BundleReader
from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    LINEAGE_TENSOR,
    ProvenPairs,
    find_chains,
    scan_directory,
)
from ckptctl.errors import NotFoundError, UsageError
from ckptctl.restore import RestoreOptions, open_state
from ckptctl.restore.nested import check_nested
from ckptctl.restore.select import Selection, select
from ckptctl.training.restores import Restores
from ckptctl.training.serving import (
    INCREMENTAL_COLLECTION,
    NO_INCREMENTS,
    ServingSaver,
    has_increments,
    identity_of,
    restores_of,
    unfinalized,
)

__all__ = ["export_saved_model", "load_incremental"]

_LOG = logging.getLogger("ckptctl.training")
_MAIN_OP = "saved_model_main_op"


def export_saved_model(
    session: Any,
    export_dir: str,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    *,
    tags: Collection[str] = (tf1.saved_model.tag_constants.SERVING,),
    signature_name: str = tf1.saved_model.signature_constants.DEFAULT_SERVING_SIGNATURE_DEF_KEY,
    method_name: str = tf1.saved_model.signature_constants.PREDICT_METHOD_NAME,
    main_op: Any = None,
    saver: Any = None,
    clear_devices: bool = True,
    save_incr_model: bool = False,
) -> str:
    """Export the model of a session as a SavedModel; return its directory.

    The graph may be one that trains or one that only serves. What the recorder of changed
    rows added is not exported, nor, without `save_incr_model`, the ops that apply
    increments. A training session goes on afterwards: the export is neither a full nor the
    base of an increment.

    Parameters
    ----------
    session
        `tf.compat.v1.Session`, or a monitored one. Its variables are exported.
    export_dir
        A directory that does not exist yet, or is empty.
    inputs, outputs
        Name in the signature to tensor.
    tags
        Tags of the MetaGraph.
    signature_name, method_name
        Key and method of the signature.
    main_op
        Op that runs after the variables were loaded, `tf.compat.v1.tables_initializer()` say.
    saver
        The Saver of the graph. By default the one in its collection
        `tf.compat.v1.GraphKeys.SAVERS`, where a `Scaffold` puts the one that it makes; with
        neither, TensorFlow's Saver of all variables.
    clear_devices
        Leave out on which devices variables and ops stood: a model is loaded elsewhere.
    save_incr_model
        Let `load_incremental` apply increments to the model, not only fulls.

    Raises
    ------
    ckptctl.errors.UsageError
        `save_incr_model` is asked for and the graph has no Saver with increments.
    """
    if hasattr(session, "run_step_fn"):  # monitored: a Saver needs TensorFlow's own
        session = session.run_step_fn(lambda step_context: step_context.session)
    graph = session.graph
    if saver is None:
        saver = _saver_of(graph)
    with graph.as_default(), unfinalized(graph):
        if saver is not None and has_increments(saver):
            saver = ServingSaver(saver, save_incr_model)
        elif save_incr_model:
            raise UsageError(NO_INCREMENTS)
        signature = tf1.saved_model.signature_def_utils.build_signature_def(
            _tensor_infos(inputs), _tensor_infos(outputs), method_name
        )
        builder = tf1.saved_model.Builder(export_dir)
        try:
            builder.add_meta_graph_and_variables(
                session,
                list(tags),
                signature_def_map={signature_name: signature},
                assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
                main_op=main_op,
                clear_devices=clear_devices,
                saver=saver,
            )
        finally:
            # Else a second export of this graph would be refused.
            if main_op is not None:
                del graph.get_collection_ref(_MAIN_OP)[:]
        builder.save()
    return export_dir


def load_incremental(
    session: Any, meta_graph_def: Any, prefix: str, *, import_scope: str = ""
) -> tuple[str, ...]:
    """Bring a loaded SavedModel to a full or an increment; return what was loaded.

    An increment is put together by the rules of every command (`restore.md`): its base must
    be known, and in delta mode the increments before it are applied first. The base is
    loaded only where the session does not hold it, or holds what the increment cannot be
    applied to. Of each variable a session remembers what `load_incremental` loaded, and an
    exported model from which full it came, by the checksum of its index; what else writes its
    variables goes unnoticed. While ops run, requests may see rows of before and after.

    Parameters
    ----------
    session
        `tf.compat.v1.Session` into which the model was loaded.
    meta_graph_def
        What `tf.compat.v1.saved_model.load` returned.
    prefix
        Prefix of a full, or of an increment in `.incremental_checkpoint/`.
    import_scope
        The one that the model was loaded with.

    Returns
    -------
    tuple of str
        Prefixes in the order in which they were loaded.

    Raises
    ------
    ckptctl.errors.UsageError
        `prefix` is an increment, and the model was exported without `save_incr_model`.
    ckptctl.errors.CkptctlError
        A check of the rules does not hold, or the increment lacks a variable of the model, or
        the model was exported with another partitioner.
        Nothing was loaded.
    """
    model = _Model(session, meta_graph_def, import_scope)
    prefix = os.fspath(prefix)
    if not _is_increment(prefix):
        model.load_full(prefix)
        return (prefix,)
    if model.filename is None:
        raise UsageError(
            f"{prefix} is an increment, and this SavedModel loads fulls only: export it with "
            "save_incr_model=True"
        )
    chosen = _choose(prefix)
    base = identity_of(chosen.base.prefix)
    increments = [item.prefix for item in chosen.increments]
    identities = [identity_of(item) for item in increments]
    held, all_alike = model.held()
    skip = _applied(held, base, identities, [identity_of(i.prefix) for i in chosen.to_prove])
    if skip == len(increments) and not all_alike:
        skip -= 1
    # Before anything is loaded: a model half way between two states serves neither.
    others = model.restores.other_slices(chosen.base.prefix)
    plans = [model.restores.application(item, others) for item in increments[skip or 0 :]]
    done = []
    if skip is None:
        if increments:
            _LOG.info("%s needs its base, which is loaded first: %s", prefix, chosen.base.prefix)
        model.load_full(chosen.base.prefix)
        done.append(chosen.base.prefix)
    model.hold(_UNKNOWN)  # what an apply that fails leaves
    for plan in plans:
        plan.run(session, [model.filename])
        done.append(plan.prefix)
    model.hold(_Held(base, tuple(identities)))
    _LOG.info("loaded step %d: %s", chosen.step, done)
    return tuple(done)


@dataclass(frozen=True)
class _Held:
    """What a variable holds: identities of a full, and of increments applied to it."""

    full: str | None
    increments: tuple[str | None, ...] = ()


_UNKNOWN = _Held(None)
#: By session, then by variable: models that share one change it for each other.
_HELD: WeakKeyDictionary[Any, dict[Any, _Held]] = WeakKeyDictionary()


class _Model:
    """A SavedModel in a session."""

    def __init__(self, session: Any, meta_graph_def: Any, import_scope: str) -> None:
        self._session = session
        self._saver_def = meta_graph_def.saver_def
        self.restores = Restores()
        self.filename: str | None = None
        self._exported: _Held | None = None
        #: Whether increments may have rows of a variable.
        self._variables: dict[Any, bool] = {}
        collections = meta_graph_def.collection_def
        if INCREMENTAL_COLLECTION in collections:
            facts = json.loads(collections[INCREMENTAL_COLLECTION].bytes_list.value[0])
            if facts["version"] != 1:
                raise UsageError(
                    f"a newer ckptctl exported this SavedModel (version {facts['version']} "
                    f"of {INCREMENTAL_COLLECTION}): use that one"
                )
            scope = f"{import_scope.rstrip('/')}/" if import_scope else ""
            self.restores = restores_of(facts["items"], session.graph, scope)
            self.filename = scope + facts["filename"]
            self._exported = _Held(facts["full"]) if facts["full"] else None
            for restore in self.restores.all:
                self._variables[_variable_of(restore.whole)] = restore.rows is not None

    def load_full(self, prefix: str) -> None:
        """Load a full over whatever the session holds."""
        self.hold(_UNKNOWN)  # what a load that fails leaves
        # TensorFlow's loader put the scope before the names in here, and before no others.
        definition = self._saver_def
        self._session.run(definition.restore_op_name, {definition.filename_tensor_name: prefix})
        self.hold(_Held(identity_of(prefix)))

    def held(self) -> tuple[_Held | None, bool]:
        """Return what the variables hold of which increments have rows, and if all hold that.

        The others are in each increment whole, so that applying any brings them to it.
        """
        known = _HELD.get(self._session, {})
        states = {variable: known.get(variable, self._exported) for variable in self._variables}
        by_rows = {states[each] for each, rows in self._variables.items() if rows}
        found = by_rows or set(states.values())
        held = found.pop() if len(found) == 1 else None
        return held, set(states.values()) == {held}

    def hold(self, held: _Held) -> None:
        """Remember what the variables hold."""
        known = _HELD.setdefault(self._session, {})
        if self._variables:
            known.update(dict.fromkeys(self._variables, held))
        else:  # which ones a model that loads fulls only has is not known
            known.update(dict.fromkeys(known, _UNKNOWN))


def _is_increment(prefix: str) -> bool:
    if os.path.basename(os.path.dirname(os.path.abspath(prefix))) == INCREMENT_DIRECTORY:
        return True
    if "://" in prefix:  # TensorFlow reads it, and increments are looked for on local disks
        return False
    with BundleReader(prefix) as reader:
        if reader.get(LINEAGE_TENSOR) is None:
            return False
    raise UsageError(
        f"{prefix} is an increment outside of {INCREMENT_DIRECTORY}/: its base, which would lie "
        "beside that directory, can't be found"
    )


def _choose(prefix: str) -> Selection:
    """Return what makes the state of an increment, every check passed."""
    where, name = os.path.split(os.path.abspath(prefix))
    scan = scan_directory(os.path.dirname(where))
    proven = ProvenPairs(scan)
    chains = find_chains(scan, proven_nested=proven)
    found = [item for item in scan.increments if os.path.basename(item.prefix) == name]
    if not found:
        raise NotFoundError(
            "there is no such increment", file=prefix, remedy="ckptctl ls shows what there is"
        )
    chosen = select(chains, found[0].step, RestoreOptions())
    check_nested(chosen.base.prefix, chosen.to_prove, proven, chains=chains)
    open_state(chosen.base.prefix, tuple(item.prefix for item in chosen.increments)).close()
    return chosen


def _applied(
    held: _Held | None, base: str | None, wanted: list[str | None], nested: list[str | None]
) -> int | None:
    """Return how many of the increments the session holds, or None if it needs the full.

    Parameters
    ----------
    held
        What it holds, or None where that is not known.
    base, wanted
        Identities of the full and of the increments that are to be applied to it.
    nested
        Of a cumulative increment: those whose keys it is proven to contain.
    """
    if held is None or held.full is None or held.full != base or not wanted:
        return None
    count = len(held.increments)
    if list(held.increments) == wanted[:count]:
        return count
    if len(wanted) == 1 and all(item in nested for item in held.increments):
        return 0  # each row that they changed is in the one that comes
    return None


def _variable_of(writes: Any) -> Any:
    """Return what tells the variable that an op writes from others of a session."""
    owner = writes.inputs[0].op if writes.inputs else writes
    # One in another scope with the same shared name is the same resource.
    shared = owner.get_attr("shared_name") if "shared_name" in owner.node_def.attr else b""
    return owner.device, shared.decode() or owner.name


def _saver_of(graph: Any) -> Any:
    savers = graph.get_collection(tf1.GraphKeys.SAVERS)
    ours = [saver for saver in savers if getattr(saver, "incremental_save_restore", False)]
    return (ours or savers or [None])[0]


def _tensor_infos(tensors: Mapping[str, Any]) -> dict[str, Any]:
    build = tf1.saved_model.utils.build_tensor_info
    return {name: build(tensor) for name, tensor in tensors.items()}
