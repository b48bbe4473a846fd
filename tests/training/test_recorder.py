"""What is recorded, in which order, and what is refused since it cannot be."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import BundleReader
from ckptctl.errors import RefusedError, UsageError
from tests.training.cluster import free_port
from tests.training.model import DIM, ROWS, Model, Saves, assert_same, rows_in, state_of


def one(row: int) -> dict[str, Any]:
    return {"indices": tf.constant([row], tf.int64), "updates": tf.ones([1, DIM])}


class Halted:
    """An update of row 7 that waits, its record before it made, until it is let go."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.go = threading.Event()
        with model.graph.as_default():

            def wait() -> np.ndarray:
                assert self.go.wait(60)
                return np.ones([1, DIM], np.float32)

            updates = tf.ensure_shape(tf1.py_func(wait, [], tf.float32), [1, DIM])
            update = tf.raw_ops.ResourceScatterAdd(
                resource=model.table.handle, indices=tf.constant([7], tf.int64), updates=updates
            )
            with tf.control_dependencies([update]):
                self.train_op = model.step.assign_add(1, read_value=False)

    def during(self, session: Any, saver: ct.Saver, work: Callable[[], Any]) -> None:
        """Do something while the update stands between its first record and itself."""
        clock = next(iter(saver.recorder.clocks.values())).epoch
        seen = saver.recorder.tracks["emb"].seen
        now = session.run(clock)
        thread = threading.Thread(target=session.run, args=(self.train_op,))
        thread.start()
        while session.run(seen)[7] != now:
            assert thread.is_alive()
        work()
        self.go.set()
        thread.join()


@pytest.fixture
def halted(tmp_path: Path) -> tuple[Model, Halted, Saves]:
    model = Model(parts=1)
    update = Halted(model)
    return model, update, Saves(model, tmp_path)


def test_an_update_behind_a_full_is_in_its_increment(halted: Any, tmp_path: Path) -> None:
    model, update, saves = halted
    with model.session() as session:
        update.during(session, saves.saver, lambda: saves.full(session))
        assert rows_in(saves.increment(session))["emb"] == [7]
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_an_update_across_a_restore_is_in_the_next_increment(halted: Any, tmp_path: Path) -> None:
    """Its record from before the restore is forgotten; the clock has to show that."""
    model, update, saves = halted
    with model.session() as session:
        saves.full(session)
        saves.saver.recover(session, str(tmp_path))
        update.during(session, saves.saver, lambda: saves.saver.recover(session, str(tmp_path)))
        assert rows_in(saves.increment(session))["emb"] == [7]
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_a_restore_makes_no_constant_of_a_row_each() -> None:
    """It would stay in memory beside the records, and be copied at the first of them."""
    model, told = Model(parts=1), tf1.RunMetadata()
    saver = model.saver()
    with model.session() as session:
        options = tf1.RunOptions(output_partition_graphs=True)
        session.run(saver._begin_restore, options=options, run_metadata=told)
    nodes = [node for graph in told.partition_graphs for node in graph.node]
    sizes = [node.attr["value"].tensor.tensor_shape for node in nodes if node.op == "Const"]
    assert sizes
    assert all(tf.TensorShape(size).num_elements() < ROWS for size in sizes)


def test_a_save_beside_another_loses_nothing(tmp_path: Path) -> None:
    """Its base is its own clock, not the one that another save has moved since."""
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    recorder = saves.saver.recorder
    (tmp_path / "copy").mkdir()
    with model.session() as session:
        now = recorder.now

        def beside(session: Any) -> dict[str, int]:
            recorder.now = now  # type: ignore[method-assign]
            model.train(session, [6])
            saves.saver.save(session, str(tmp_path / "copy" / "x"), 0, write_meta_graph=False)
            return now(session)

        recorder.now = beside  # type: ignore[method-assign]
        saves.saver.save(session, str(tmp_path / "model.ckpt"), 0, write_meta_graph=False)
        model.train(session, [9])
        saves.increment(session)
        assert_same(state_of(tmp_path, 2), model.values(session))


def test_what_is_added_behind_an_update_waits_for_its_record() -> None:
    model = Model(parts=1)
    ops = model.graph.get_operations()
    update = next(op for op in ops if op.type.startswith("ResourceSparseApply"))
    saver = model.saver()
    with model.graph.as_default():
        late = tf.group(update)
    saver.recorder.check()
    waits = [op.name for op in late.control_inputs if op.name.startswith("ckptctl/record/")]
    assert waits


def test_an_update_added_before_the_session_is_recorded(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        extra = tf.group(tf.raw_ops.ResourceScatterAdd(resource=model.table.handle, **one(2)))
    saves.saver.recorder.check()
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        session.run(extra)
        assert rows_in(saves.increment(session))["emb"] == [2, 5]


def test_a_saver_built_before_the_session_marks_all_rows_that_it_loads(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        other = tf1.train.Saver()
    saves.saver.recorder.check()
    model.graph.finalize()
    with model.session() as session:
        other.save(session, str(tmp_path / "other"), write_state=False, write_meta_graph=False)
    with tf1.Session(graph=model.graph) as session:  # nothing of it was initialised
        other.restore(session, str(tmp_path / "other"))
        saves.full(session)
        model.train(session, [5])
        assert rows_in(saves.increment(session))["emb"] == [5]
        other.restore(session, str(tmp_path / "other"))
        model.train(session, [6])
        model.train(session, [7])
        assert rows_in(saves.increment(session))["emb"] == list(range(ROWS))
        assert_same(state_of(tmp_path, 2), model.values(session))


@pytest.mark.parametrize("finalized", [False, True])
def test_a_saver_that_nobody_looked_at_before_the_session_is_refused(
    tmp_path: Path, finalized: bool
) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        tf1.train.Saver([model.table])
    if finalized:
        model.graph.finalize()
    with (
        model.session() as session,
        pytest.raises(RefusedError, match=r"save_1/Assign\S* was added after"),
    ):
        saves.full(session)


def test_an_initialiser_given_after_the_saver_marks_all_rows(tmp_path: Path) -> None:
    first = Model(parts=1)
    with first.graph.as_default():
        first.init = tf1.global_variables_initializer()
        other = tf1.train.Saver([first.table])
    with first.session() as session:
        prefix = other.save(session, str(tmp_path / "pretrained"), write_state=False)
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        tf1.train.init_from_checkpoint(prefix, {"emb": model.table})
        model.init = tf1.global_variables_initializer()
    saves.saver.recorder.check()
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        assert rows_in(saves.increment(session))["emb"] == [5]
        session.run(model.table.initializer)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == list(range(ROWS))
        assert_same(state_of(tmp_path, 2), model.values(session))


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("late", ["session", "saver"])
def test_an_update_that_nothing_follows_is_refused_where_rows_are_recorded(
    tmp_path: Path, resource: bool, late: str
) -> None:
    """It is too late to save the variable whole."""
    model = Model(parts=1, resource=resource)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        if resource:
            tf.raw_ops.ResourceScatterAdd(resource=model.table.handle, **one(9))
        else:
            tf1.scatter_add(model.table, [9], tf.ones([1, DIM]))
    said = r"(?s)rows of emb .* nothing follows .*Saver last"
    if late == "saver":
        with pytest.raises(RefusedError, match=said):
            model.saver()
    else:
        with model.session() as session, pytest.raises(RefusedError, match=said):
            saves.full(session)


@pytest.mark.parametrize("kind", ["update", "successor", "assign"])
def test_what_is_added_after_the_session_is_refused(tmp_path: Path, kind: str) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    ops = model.graph.get_operations()
    update = next(op for op in ops if op.type.startswith("ResourceSparseApply"))
    with model.session() as session:
        saves.full(session)
        with model.graph.as_default():
            if kind == "update":
                tf.group(tf.raw_ops.ResourceScatterAdd(resource=model.table.handle, **one(2)))
            elif kind == "successor":
                tf.group(update)
            else:
                model.table.assign(model.table * 2)
        model.train(session, [5])
        with pytest.raises(RefusedError, match=r"session of this graph|may change any row"):
            saves.increment(session)


def test_every_kind_of_session_is_seen() -> None:
    model = Model()
    session = tf1.InteractiveSession(graph=model.graph)
    try:
        with pytest.raises(RefusedError, match="session of this graph"):
            model.saver()
    finally:
        session.close()


def test_rows_of_scatter_nd_are_recorded(tmp_path: Path) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        extra = tf.raw_ops.ResourceScatterNdAdd(
            ref=model.table.handle, indices=[[3], [41]], updates=tf.ones([2, DIM])
        )
        model.train_op = tf.group(model.train_op, extra)
    saves = Saves(model, tmp_path)
    saves.saver.recorder.check()
    with model.graph.as_default():
        tf.constant(0)  # what a Scaffold adds before it finalizes
    model.graph.finalize()
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        assert rows_in(saves.increment(session))["emb"] == [3, 5, 41]


@pytest.mark.parametrize("nested_first", [True, False])
def test_indices_are_read_as_each_update_reads_them(tmp_path: Path, nested_first: bool) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        indices = tf.constant([[3, 1], [41, 2]])  # of two elements, and of four rows
        for nested in (nested_first, not nested_first):
            table = model.table.handle
            if nested:
                update = tf.raw_ops.ResourceScatterNdAdd(
                    ref=table, indices=indices, updates=tf.ones([2])
                )
            else:
                update = tf.raw_ops.ResourceScatterAdd(
                    resource=table, indices=indices, updates=tf.ones([2, 2, DIM])
                )
            model.train_op = tf.group(model.train_op, update)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        assert rows_in(saves.increment(session))["emb"] == [1, 2, 3, 5, 41]
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_what_has_no_rows_of_float32_is_saved_whole(tmp_path: Path) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        added = []
        for name, shape, dtype in [
            ("line", [9], tf.float32),
            ("cube", [9, 2, 2], tf.float32),
            ("double", [9, 2], tf.float64),
        ]:
            wide = tf1.get_variable(name, shape, dtype, use_resource=True)
            ones = tf.ones([1, *shape[1:]], dtype)
            added.append(tf1.scatter_add(wide, [4], ones))
        model.train_op = tf.group(model.train_op, *added)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        prefix = saves.increment(session)
        with BundleReader(prefix) as reader:
            assert {"line", "cube", "double"} <= set(reader.tensors)
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_lazy_adam_is_adam_where_all_rows_are_used() -> None:
    found = []
    for optimizer in ("adam", "lazy-adam"):
        graph = tf.Graph()
        with graph.as_default():
            tf1.set_random_seed(3)
        model = Model(optimizer, parts=1, graph=graph)
        saver = model.saver()
        with model.session() as session:
            for _ in range(3):
                model.train(session, [*range(ROWS), 3, 3])
            found.append(session.run(model.table))
        # One for the variable and its slots, since they are updated together.
        assert len({id(track) for track in saver.recorder.tracks.values()}) < 2
    np.testing.assert_allclose(*found, rtol=2e-4)


def two_servers() -> list[Any]:
    addresses = {"ps": [f"127.0.0.1:{free_port()}" for _ in range(2)]}
    cluster = tf1.train.ClusterSpec(addresses)
    return [tf1.train.Server(cluster, job_name="ps", task_index=task) for task in range(2)]


def test_a_variable_of_the_chief_alone_keeps_no_worker_waiting(tmp_path: Path) -> None:
    servers = two_servers()

    def build(chief: bool) -> Any:
        if chief:
            with tf1.device("/job:ps/task:0"):
                tf1.get_variable("best", [], trainable=False, use_resource=True)
        with tf1.device("/job:ps/task:1"):
            table = tf1.get_variable("emb", [ROWS, DIM], use_resource=True)
            step = tf1.train.get_or_create_global_step()
        return tf1.train.AdagradOptimizer(0.1).minimize(tf.gather(table, [1]), step)

    with tf.Graph().as_default():
        build(chief=True)
        with ct.MonitoredTrainingSession(
            servers[0].target, checkpoint_dir=str(tmp_path), save_incremental_checkpoint_secs=20
        ):
            with tf.Graph().as_default() as graph:
                train = build(chief=False)
                ready = ct.Scaffold(incremental_save_restore=True).finalize().ready_op
            with tf1.Session(servers[1].target, graph) as worker:
                assert worker.run(ready).tolist() == []
                worker.run(train)


def test_a_server_without_rows_is_ready_too(tmp_path: Path) -> None:
    servers = two_servers()
    with tf.Graph().as_default():
        with tf1.device("/job:ps/task:0"):
            table = tf1.get_variable("emb", [ROWS, DIM], use_resource=True)
        with tf1.device("/job:ps/task:1"):
            step = tf1.train.get_or_create_global_step()
            weights = tf1.get_variable("w", [DIM, 1], use_resource=True)
        loss = tf.reduce_sum(tf.nn.embedding_lookup(table, [1, 2]) @ weights)
        train = tf1.train.AdagradOptimizer(0.1).minimize(loss, step)
        with ct.MonitoredTrainingSession(
            servers[0].target,
            checkpoint_dir=str(tmp_path),
            save_checkpoint_secs=60,
            save_incremental_checkpoint_secs=20,
        ) as session:
            session.run(train)
    assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "model.ckpt-1")


def partitioned(table_scope: str = "", slot_scope: str = "") -> Model:
    """Return a model with a partitioned table in a scope, and its slots in another."""
    model = Model(parts=1)
    with model.graph.as_default():
        with tf1.variable_scope(table_scope):
            table = tf1.get_variable(
                "wide", [ROWS, DIM], partitioner=tf1.fixed_size_partitioner(3), use_resource=True
            )
        rows = tf1.nn.embedding_lookup(table, model.ids, partition_strategy="div")
        with tf1.variable_scope(slot_scope):
            extra = tf1.train.AdagradOptimizer(0.1).minimize(tf.reduce_sum(rows))
        model.train_op = tf.group(model.train_op, extra)
    return model


@pytest.mark.parametrize("scope", ["tower/part_1", "tower/part_7/x"])
def test_a_scope_that_is_called_as_a_part_is_none(tmp_path: Path, scope: str) -> None:
    saves = Saves(partitioned(table_scope=scope), tmp_path)
    with saves.model.session() as session:
        saves.full(session)
        saves.model.train(session, [1, 25])
        saves.increment(session)
        trained = saves.model.values(session)
        assert_same(state_of(tmp_path, 1), trained)
        assert saves.saver.recover(session, str(tmp_path)) == 1
        assert_same(saves.model.values(session), trained)


def test_slots_that_tensorflow_misnames_are_refused() -> None:
    with pytest.raises(UsageError, match=r"(?s)art_0/Adagrad.*outside of tf\.variable_scope"):
        partitioned(slot_scope="train").saver()


def test_an_optimizer_of_keras_is_refused() -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        gradients = tf.gradients(tf.reduce_sum(model.table.sparse_read([1])), [model.table])
        optimizer = tf.keras.optimizers.Adagrad(0.1)
        optimizer.apply_gradients(zip(gradients, [model.table], strict=True))
        with pytest.raises(UsageError, match=r"Adagrad of Keras .*\n.*compat\.v1\.train"):
            model.saver()


def test_optimizers_of_keras_in_other_graphs_are_none_of_ours() -> None:
    with tf.Graph().as_default():
        other = tf.keras.optimizers.Adagrad(0.1)
        other.apply_gradients([(tf.ones([2]), tf1.get_variable("v", [2], use_resource=True))])
    assert Model().saver().incremental is not None


@pytest.mark.skipif(
    not hasattr(tf1, "estimator"), reason="no Keras 2 here; .ci/run has TensorFlow 2.15"
)
def test_a_legacy_optimizer_of_keras_is_recorded(tmp_path: Path) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        loss = tf.reduce_sum(tf.nn.embedding_lookup(model.table, model.ids))
        gradients = tf.gradients(loss, [model.table])
        optimizer = tf.keras.optimizers.legacy.Adagrad(0.1, name="Legacy")
        extra = optimizer.apply_gradients(zip(gradients, [model.table], strict=True))
        model.train_op = tf.group(model.train_op, extra)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        rows = rows_in(saves.increment(session))
        assert rows["emb"] == rows["Legacy/emb/accumulator"] == [5]
        assert_same(state_of(tmp_path, 1), model.values(session))
