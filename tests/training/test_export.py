"""SavedModels: what is exported, and what a loaded one becomes, against the training."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import BundleReader, execute_merge, plan_merge
from ckptctl.errors import NotFoundError, UnprovenError, UsageError
from tests.training.model import DIM, ROWS, Model, assert_same, state_of, values

INCREMENT = ".incremental_checkpoint/incremental_model.ckpt"
COLLECTION = "ckptctl/incremental"
TAGS = ["serve"]


class Training:
    """A session that trains, what it saved, and the values at each save."""

    def __init__(self, directory: Path, model: Model | None = None, **options: Any) -> None:
        self.directory, self.model = directory, model or Model()
        directory.mkdir(exist_ok=True)
        self.saver = self.model.saver(**options)
        self.session = self.model.session()
        self.at: dict[int, dict[str, np.ndarray]] = {}

    def train(self, *batches: Sequence[int]) -> None:
        for ids in batches:
            self.model.train(self.session, list(ids))

    def full(self) -> str:
        return self._save(self.saver, "model.ckpt")

    def increment(self) -> str:
        return self._save(self.saver.incremental, INCREMENT)

    def _save(self, saver: Any, name: str) -> str:
        step = int(self.session.run(self.model.step))
        with self.model.graph.as_default():
            prefix = saver.save(self.session, str(self.directory / name), step)
        self.at[step] = self.model.values(self.session)
        return str(prefix)

    def export(self, room: Path, **options: Any) -> str:
        graph = self.model.graph
        output = graph.get_tensor_by_name("predictions:0")
        options = {"save_incr_model": True, "saver": self.saver} | options
        return ct.export_saved_model(
            self.session, str(room), {"ids": self.model.ids}, {"out": output}, **options
        )


def predicting(model: Model) -> Model:
    """Add an output that serving asks for."""
    with model.graph.as_default():
        rows = tf1.nn.embedding_lookup(model.table, model.ids, partition_strategy="div")
        tf.identity(tf.reduce_sum(rows, 1), name="predictions")
    return model


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "ckpt", predicting(Model()))


class Served:
    """An exported model in a session of its own."""

    def __init__(self, export_dir: str, scope: str | None = None) -> None:
        self.graph = tf.Graph()
        self.scope = scope or ""
        self.session = tf1.Session(graph=self.graph)
        self.meta_graph = tf1.saved_model.load(self.session, TAGS, export_dir, import_scope=scope)

    def load(self, prefix: str) -> tuple[str, ...]:
        return ct.load_incremental(self.session, self.meta_graph, prefix, import_scope=self.scope)

    def values(self) -> dict[str, np.ndarray]:
        return values(self.session, self.graph)

    def predict(self, ids: list[int]) -> np.ndarray:
        signature = self.meta_graph.signature_def["serving_default"]
        feed = {signature.inputs["ids"].name: ids}
        return np.asarray(self.session.run(signature.outputs["out"].name, feed))


def only(found: dict[str, np.ndarray], names: Any) -> dict[str, np.ndarray]:
    return {name: found[name] for name in names}


def serving_graph(
    training: Training, full: str, room: Path, parts: int = 3, partitioner: Any = None
) -> str:
    """Export as a process that only serves does: no optimizer, the full restored."""
    graph = tf.Graph()
    with graph.as_default():
        model = Model.__new__(Model)
        if partitioner is None and parts > 1:
            partitioner = tf1.fixed_size_partitioner(parts)
        resource = training.model.resource
        model.table = tf1.get_variable(
            "emb", [ROWS, DIM], partitioner=partitioner, use_resource=resource
        )
        tf1.get_variable("dense", [DIM, 1], use_resource=resource)
        tf1.train.get_or_create_global_step()
        model.ids = tf1.placeholder(tf.int64, [None], "ids")
        model.graph = graph
        predicting(model)
        saver = ct.Saver(sharded=True, incremental_save_restore=True)
        with tf1.Session() as session:
            saver.restore(session, full)
            output = graph.get_tensor_by_name("predictions:0")
            return ct.export_saved_model(
                session,
                str(room),
                {"ids": model.ids},
                {"out": output},
                saver=saver,
                save_incr_model=True,
            )


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_a_serving_graph_becomes_what_the_training_was(
    tmp_path: Path, parts: int, resource: bool, mode: str
) -> None:
    model = predicting(Model(parts=parts, resource=resource))
    training = Training(tmp_path / "ckpt", model, incremental_mode=mode)
    training.train([1, 2, 30], [59])
    full = training.full()
    training.train([2, 3], [40, 41])
    first = training.increment()
    training.train([3, 4], [58])
    second = training.increment()
    served = Served(serving_graph(training, full, tmp_path / "export", parts))
    names = served.values().keys()
    assert names == {"emb", "dense", "global_step"}
    for step, prefix, loaded in [
        (4, first, (first,)),  # the exported model came from its base
        (6, second, (second,)),
        (2, full, (full,)),
        (6, second, (second,) if mode == "cumulative" else (first, second)),
        (4, first, (full, first)),  # older: what is newer must go
    ]:
        assert served.load(prefix) == loaded
        assert_same(served.values(), only(training.at[step], names))
        assert_same(served.values(), only(state_of(training.directory, step), names))
        expected = training.at[step]["emb"][[3, 58]].sum(1)
        np.testing.assert_allclose(served.predict([3, 58]), expected, rtol=1e-6)


def test_a_training_graph_serves_without_its_recorder(training: Training, tmp_path: Path) -> None:
    training.train([1, 2])
    training.full()
    export = training.export(tmp_path / "export")
    training.train([2, 3])
    increment = training.increment()
    served = Served(export)
    nodes = served.graph.get_operations()
    recorders = [op.name for op in nodes if op.name.startswith("ckptctl/recorder")]
    assert not recorders
    seen = [op for op in nodes if op.type == "VarHandleOp" and op.get_attr("dtype") == tf.int32]
    assert not seen
    assert served.load(increment) == (increment,)
    assert_same(served.values(), training.at[2])


def test_a_training_goes_on_after_an_export(training: Training, tmp_path: Path) -> None:
    training.train([1, 2])
    training.full()
    training.train([5])
    training.export(tmp_path / "one")
    training.train([6])
    training.export(tmp_path / "two", save_incr_model=False)
    training.train([7])
    training.increment()
    assert_same(state_of(training.directory, 4), training.at[4])
    training.full()
    training.train([8])
    training.increment()
    assert_same(state_of(training.directory, 5), training.at[5])


def test_what_serving_restores_is_never_recorded(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    training.export(tmp_path / "export")
    training.session.close()
    with training.model.graph.as_default():
        ct.Saver(sharded=True, incremental_save_restore=True)
    ops = training.model.graph.get_operations()
    writes = [o for o in ops if o.name.startswith("ckptctl/serving/") and "Assign" in o.type]
    assert writes
    assert not [op.name for op in writes if op.control_inputs]


def test_a_model_exported_between_saves_gets_its_base_first(
    training: Training, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    training.train([1, 2])
    full = training.full()
    training.train([2, 3])
    increment = training.increment()
    training.train([50])
    served = Served(training.export(tmp_path / "export"))
    with caplog.at_level(logging.INFO, "ckptctl.training"):
        assert served.load(increment) == (full, increment)
    assert "its base, which is loaded first" in caplog.text
    assert_same(served.values(), training.at[2])


def test_an_increment_of_a_later_full_brings_that_full(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    served = Served(training.export(tmp_path / "export"))
    training.train([2])
    later = training.full()
    training.train([3])
    increment = training.increment()
    assert served.load(increment) == (later, increment)
    assert_same(served.values(), training.at[3])


def test_a_full_of_the_same_step_is_not_taken_for_the_exported_one(
    training: Training, tmp_path: Path
) -> None:
    training.train([1])
    training.full()
    served = Served(training.export(tmp_path / "export"))
    other = Training(tmp_path / "other", predicting(Model()))
    other.train([40])
    base = other.full()
    other.train([41])
    increment = other.increment()
    assert served.load(increment) == (base, increment)
    assert_same(served.values(), other.at[2])


def test_a_delta_series_is_applied_from_where_the_session_is(tmp_path: Path) -> None:
    training = Training(tmp_path / "ckpt", predicting(Model()), incremental_mode="delta")
    training.train([1])
    training.full()
    export = training.export(tmp_path / "export")
    prefixes = []
    for row in (10, 20, 30):
        training.train([row])
        prefixes.append(training.increment())
    served = Served(export)
    assert served.load(prefixes[1]) == tuple(prefixes[:2])
    assert_same(served.values(), training.at[3])
    assert served.load(prefixes[2]) == (prefixes[2],)
    assert served.load(prefixes[2]) == ()
    assert_same(served.values(), training.at[4])


def test_an_apply_that_fails_is_not_built_upon(training: Training, tmp_path: Path) -> None:
    training.train([1])
    full = training.full()
    training.train([2])
    increment = training.increment()
    served = Served(training.export(tmp_path / "export"))
    served.load(full)
    with BundleReader(increment) as reader:
        entry = reader.get("emb/part_0-sparse_incr_values")
    assert entry is not None
    data = Path(f"{increment}.data-00000-of-00001")
    sound = data.read_bytes()
    damaged = bytearray(sound)
    damaged[entry.offset] ^= 1
    data.write_bytes(damaged)
    with pytest.raises(tf.errors.DataLossError):
        served.load(increment)
    data.write_bytes(sound)
    assert served.load(increment) == (full, increment)
    assert_same(served.values(), training.at[2])


def test_without_save_incr_model_only_fulls_load(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    with_increments = Served(training.export(tmp_path / "with"))
    served = Served(training.export(tmp_path / "without", save_incr_model=False))
    assert COLLECTION in with_increments.meta_graph.collection_def
    assert COLLECTION not in served.meta_graph.collection_def
    names = [op.name for op in served.graph.get_operations()]
    assert not [name for name in names if "increment" in name]
    assert not [op for op in served.graph.get_operations() if _reads_increments(op)]
    assert [op for op in with_increments.graph.get_operations() if _reads_increments(op)]
    training.train([2])
    increment = training.increment()
    training.train([3])
    full = training.full()
    with pytest.raises(UsageError, match="loads fulls only: export it with save_incr_model=True"):
        served.load(increment)
    assert served.load(full) == (full,)
    assert_same(served.values(), training.at[3])


def _reads_increments(op: Any) -> bool:
    if op.type != "Const" or op.get_attr("dtype") != tf.string:
        return False
    return b"-sparse_incr_keys" in op.get_attr("value").SerializeToString()


@pytest.mark.parametrize("kind", ["none", "stock", "off"])
def test_a_graph_without_increments_says_so(tmp_path: Path, kind: str) -> None:
    model = predicting(Model())
    with model.graph.as_default():
        saver = {
            "none": lambda: None,
            "stock": lambda: tf1.train.Saver(sharded=True),
            "off": lambda: ct.Saver(sharded=True),
        }[kind]()
        init = tf1.global_variables_initializer()
    output = model.graph.get_tensor_by_name("predictions:0")
    with tf1.Session(graph=model.graph) as session:
        session.run(init)
        arguments = ({"ids": model.ids}, {"out": output})
        with pytest.raises(UsageError, match="save_incr_model=True needs a graph with increments"):
            ct.export_saved_model(
                session, str(tmp_path / "x"), *arguments, saver=saver, save_incr_model=True
            )
        assert not (tmp_path / "x").exists()
        export = ct.export_saved_model(session, str(tmp_path / "x"), *arguments, saver=saver)
        assert_same(Served(export).values(), model.values(session))


def test_an_increment_that_lacks_a_variable_changes_nothing(
    training: Training, tmp_path: Path
) -> None:
    training.train([1])
    training.full()
    training.train([2])
    increment = training.increment()
    graph = training.model.graph
    with graph.as_default():
        init = tf1.get_variable("extra", [2]).initializer
        saver = ct.Saver(sharded=True, incremental_save_restore=True)
    training.session.run(init)
    served = Served(training.export(tmp_path / "export", saver=saver))
    before = served.values()
    with pytest.raises(NotFoundError, match="lacks variables of this graph"):
        served.load(increment)
    assert_same(served.values(), before)


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_another_partitioner_has_its_rows_in_its_own_slices(
    tmp_path: Path, parts: int, mode: str
) -> None:
    """The rows of a part would go to others of the same number."""
    training = Training(tmp_path / "ckpt", predicting(Model()), incremental_mode=mode)
    training.train([1])
    full = training.full()
    training.train([3, 25, 45, 59])
    first = training.increment()
    training.train([4])
    second = training.increment()
    served = Served(serving_graph(training, full, tmp_path / "export", parts))
    assert served.load(second) == ((first, second) if mode == "delta" else (second,))
    np.testing.assert_array_equal(served.values()["emb"], training.at[3]["emb"])
    assert served.load(first) == (full, first)
    np.testing.assert_array_equal(served.values()["emb"], training.at[2]["emb"])


def test_a_partitioner_of_columns_is_refused(training: Training, tmp_path: Path) -> None:
    training.train([1])
    full = training.full()
    training.train([3, 25, 45, 59])
    increment = training.increment()
    columns = tf1.fixed_size_partitioner(2, axis=1)
    served = Served(serving_graph(training, full, tmp_path / "export", partitioner=columns))
    before = served.values()
    with pytest.raises(UnprovenError, match="not cut by rows alone") as caught:
        served.load(increment)
    assert caught.value.tensor == "emb"
    assert_same(served.values(), before)
    merged = execute_merge(plan_merge(str(training.directory))).prefix
    assert served.load(merged) == (merged,)


def test_an_increment_whose_base_is_unknown_is_refused(training: Training, tmp_path: Path) -> None:
    training.train([1])
    full = training.full()
    training.train([2])
    increment = training.increment()
    served = Served(training.export(tmp_path / "export"))
    before = served.values()
    Path(f"{full}.index").unlink()
    with pytest.raises(UnprovenError):
        served.load(increment)
    assert_same(served.values(), before)


def test_an_increment_elsewhere_has_no_base(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    training.train([2])
    increment = Path(training.increment())
    served = Served(training.export(tmp_path / "export"))
    copies = tmp_path / "copies"
    copies.mkdir()
    for file in increment.parent.glob(f"{increment.name}.*"):
        (copies / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="an increment outside of"):
        served.load(str(copies / increment.name))


def test_a_model_in_a_scope(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    export = training.export(tmp_path / "export")
    training.train([2])
    increment = training.increment()
    served = Served(export, scope="model")
    assert served.load(increment) == (increment,)
    found = {name.removeprefix("model/"): value for name, value in served.values().items()}
    assert_same(found, training.at[2])
    training.train([3])
    full = training.full()
    assert served.load(full) == (full,)
    np.testing.assert_array_equal(served.values()["model/emb"], training.at[3]["emb"])


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_two_models_in_one_session(tmp_path: Path, mode: str, resource: bool) -> None:
    """Each is brought to where it is asked to be, whether they share variables or not."""
    model = Model(parts=1, resource=resource)
    with model.graph.as_default():
        other = tf1.get_variable("other", [ROWS, DIM], use_resource=resource)
        train = tf1.train.AdagradOptimizer(0.1).minimize(tf.gather(other, model.ids))
        model.train_op = tf.group(model.train_op, train)
    training = Training(tmp_path / "ckpt", model, incremental_mode=mode)
    training.train([1])
    full = training.full()
    prefixes = []
    for row in (10, 20, 30):
        training.train([row])
        prefixes.append(training.increment())
    session = tf1.Session(graph=tf.Graph())
    found = {}
    for scope, names in {"a": ["emb"], "b": ["other"], "c": ["emb", "other"]}.items():
        room = str(tmp_path / scope)
        with tf.Graph().as_default():
            wanted = [tf1.get_variable(n, [ROWS, DIM], use_resource=resource) for n in names]
            tf1.train.get_or_create_global_step()
            saver = ct.Saver(sharded=True, incremental_save_restore=True)
            with tf1.Session() as exporting:
                saver.restore(exporting, full)
                outputs = dict(zip(names, wanted, strict=True))
                ct.export_saved_model(
                    exporting, room, {}, outputs, saver=saver, save_incr_model=True
                )
        found[scope] = tf1.saved_model.load(session, TAGS, room, import_scope=scope)

    def load(scope: str, step: int) -> int:
        prefix = full if step == 1 else prefixes[step - 2]
        loaded = ct.load_incremental(session, found[scope], prefix, import_scope=scope)
        held = values(session, session.graph)
        for name in ("emb", "other", "global_step"):
            value = held.get(f"{scope}/{name}")
            if value is not None:
                np.testing.assert_array_equal(value, training.at[step][name], err_msg=name)
        return len(loaded)

    assert [load("a", 2), load("b", 2), load("a", 3), load("b", 3)] == [1, 1, 1, 1]
    assert [load("a", 4), load("b", 3), load("b", 3)] == [1, 1, 0]  # they share the step
    for scope, step in [("c", 4), ("a", 2), ("c", 3), ("b", 1), ("c", 3), ("a", 4), ("b", 4)]:
        load(scope, step)


def test_a_merged_full_is_loaded_like_any_other(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    training.train([2])
    training.increment()
    export = training.export(tmp_path / "export", save_incr_model=False)
    merged = str(tmp_path / "merged" / "model.ckpt-2")
    Path(merged).parent.mkdir()
    execute_merge(plan_merge(str(training.directory), upto=2, output=merged))
    served = Served(export)
    served.load(merged)
    assert_same(served.values(), training.at[2])


def test_devices_are_left_out(tmp_path: Path) -> None:
    graph = tf.Graph()
    with graph.as_default(), tf.device("/job:localhost/task:0"):
        model = predicting(Model(graph=graph))
    training = Training(tmp_path / "ckpt", model)
    training.train([1])
    training.full()
    cleared = Served(training.export(tmp_path / "cleared"))
    kept = Served(training.export(tmp_path / "kept", clear_devices=False))
    assert not [op.name for op in cleared.graph.get_operations() if op.device]
    assert [op.name for op in kept.graph.get_operations() if op.device]


def test_a_monitored_session_exports(tmp_path: Path) -> None:
    model = predicting(Model())
    directory = tmp_path / "ckpt"
    output = model.graph.get_tensor_by_name("predictions:0")
    with model.graph.as_default():
        tables = tf.group(tf1.tables_initializer())
        with ct.MonitoredTrainingSession(
            checkpoint_dir=str(directory),
            save_checkpoint_steps=1000,
            save_checkpoint_secs=None,
            save_incremental_checkpoint_secs=1000,
        ) as session:
            for row in range(3):
                session.run(model.train_op, {model.ids: [row]})
            exports = [
                ct.export_saved_model(
                    session,
                    str(tmp_path / f"export{number}"),
                    {"ids": model.ids},
                    {"out": output},
                    main_op=tables,
                    save_incr_model=True,
                )
                for number in range(2)
            ]
            expected = session.run_step_fn(lambda step_context: model.values(step_context.session))
            assert model.graph.finalized
    for export in exports:
        assert_same(Served(export).values(), expected)


def test_the_collection_can_be_read_by_others(training: Training, tmp_path: Path) -> None:
    training.train([1])
    training.full()
    served = Served(training.export(tmp_path / "export"))
    (raw,) = served.meta_graph.collection_def[COLLECTION].bytes_list.value
    facts = json.loads(raw)
    assert facts["version"] == 1
    operations = {op.name for op in served.graph.get_operations()}
    assert facts["filename"].removesuffix(":0") in operations
    for item in facts["items"]:
        assert {item["whole_op"], item["rows_op"] or item["whole_op"]} <= operations
    (part,) = [item for item in facts["items"] if item["name"] == "emb/part_1"]
    assert part["keys"] == "emb/part_1-sparse_incr_keys"
    assert part["whole"] == [{"name": "emb", "slice": f"{ROWS} {DIM} 20,20:0,{DIM}"}]
