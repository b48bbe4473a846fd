"""What a full and its increments hold, against the session that was trained."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import BundleReader, execute_merge, plan_merge, scan_directory
from ckptctl.errors import (
    DamageError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from ckptctl.merge import PruneOptions, execute_prune, plan_prune
from ckptctl.merge.policy import KeepLast, Policy
from tests.bundle.builders import corrupt
from tests.training.model import (
    DIM,
    INCREMENT,
    OPTIMIZERS,
    ROWS,
    Model,
    Saves,
    assert_same,
    rows_in,
    state_of,
)


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_full_and_increment_are_the_session(
    tmp_path: Path, optimizer: str, parts: int, resource: bool
) -> None:
    model = Model(optimizer, parts, resource)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        model.train(session, [1, 2, 3])
        saves.full(session)
        model.train(session, [7, 7, 21])
        saves.increment(session)
        model.train(session, [8, 59])
        prefix = saves.increment(session)
        expected = model.values(session)
    assert_same(state_of(tmp_path, 3), expected)
    rows = rows_in(prefix)
    if optimizer == "adam":
        assert not rows
    else:
        size = ROWS // parts
        starts = {"emb": 0} if parts == 1 else {f"emb/part_{i}": i * size for i in range(parts)}
        found = [start + row for name, start in starts.items() for row in rows[name]]
        assert sorted(found) == [7, 8, 21, 59]


def test_a_full_moves_the_base_and_a_copy_does_not(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        (tmp_path / "copy").mkdir()
        saves.saver.save(session, str(tmp_path / "copy" / "x"), 1)
        saves.saver.save(session, str(tmp_path / "y"), 1, write_state=False)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == [5, 6]
        model.train(session, [9])
        saves.full(session)
        model.train(session, [11])
        assert rows_in(saves.increment(session))["emb"] == [11]


def test_each_directory_has_a_base_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warm start from elsewhere, and a path through a link, end no series."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        pretrained = saves.full(session)
        saves.saver.restore(session, pretrained)
        saves.directory = tmp_path / "run"
        model.train(session, [5])
        with pytest.raises(NotFoundError, match="no full"):
            saves.increment(session)
        saves.full(session)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == [6]
        saves.directory = tmp_path / "link"
        saves.full(session)
        model.train(session, [7])
        assert rows_in(saves.increment(session))["emb"] == [7]
        assert_same(state_of(tmp_path / "run", 3), model.values(session))
        saves.directory = tmp_path
        assert rows_in(saves.increment(session))["emb"] == [5, 6, 7]
        assert_same(state_of(tmp_path, 3), model.values(session))
        assert "is gone" not in caplog.text
        Path(f"{pretrained}.index").unlink()
        model.train(session, [8])
        saves.increment(session)
        assert f"{pretrained} is gone: no increment on it can be restored" in caplog.text


def test_a_full_that_fails_loses_no_row(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        missing = tmp_path / "file"
        missing.write_text("not a directory")
        with pytest.raises((ValueError, tf.errors.OpError)):
            saves.saver.save(session, str(missing / "model.ckpt"), model.step)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == [5, 6]


def test_loading_a_variable_marks_all_its_rows(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        model.table.load(np.ones((ROWS, 4), np.float32), session)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == list(range(ROWS))
        assert_same(state_of(tmp_path, 2), model.values(session))


def test_a_restore_by_another_saver_marks_all_rows(tmp_path: Path) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        other = tf1.train.Saver([model.table])
        model.train_op = tf.group(model.train_op)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        other.save(session, str(tmp_path / "other"), write_state=False)
        other.restore(session, str(tmp_path / "other"))
        assert rows_in(saves.increment(session))["emb"] == list(range(ROWS))


def test_another_saver_can_restore_what_nobody_initialised(tmp_path: Path) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        other = tf1.train.Saver()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        other.save(session, str(tmp_path / "other"), write_state=False)
    with tf1.Session(graph=model.graph) as session:
        other.restore(session, str(tmp_path / "other"))
        model.train(session, [5])
        saves.full(session)
        model.train(session, [6])
        assert rows_in(saves.increment(session))["emb"] == [6]
        assert_same(state_of(tmp_path, 2), model.values(session))


@pytest.mark.parametrize("hidden", ["cond", "assign", "leaf"])
def test_what_cannot_be_recorded_is_saved_whole_and_said(
    tmp_path: Path, hidden: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        if hidden == "cond":
            rows = tf1.IndexedSlices(tf.ones([1, 4]), tf.constant([2], tf.int64))
            extra = tf.cond(
                model.step < 100, lambda: model.table.scatter_sub(rows).op, lambda: tf.no_op()
            )
        elif hidden == "assign":
            extra = model.table.assign(model.table * 2)
        else:
            extra = tf.raw_ops.ResourceScatterAdd(
                resource=model.table.handle, indices=[2], updates=tf.ones([1, 4])
            )
    with caplog.at_level(logging.WARNING, "ckptctl.training"):
        saves = Saves(model, tmp_path)
    assert "emb is saved whole" in caplog.text
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        session.run(extra)
        assert "emb" not in rows_in(saves.increment(session))
        assert_same(state_of(tmp_path, 1), model.values(session))


@pytest.mark.parametrize("late", [False, True], ids=["before the Saver", "after it"])
@pytest.mark.parametrize(
    ("kind", "shape", "why"),
    [
        (tf.bfloat16, [20, 4], "it is of bfloat16"),
        (tf.float64, [20, 4], "it is of float64"),
        (tf.float32, [20], "it is of rank 1"),
        (tf.float32, [20, 2, 2], "it is of rank 3"),
    ],
    ids=["bfloat16", "float64", "rank 1", "rank 3"],
)
def test_rows_that_no_increment_can_hold_are_saved_whole_and_said_once(
    tmp_path: Path,
    kind: tf.DType,
    shape: list[int],
    why: str,
    late: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Model(parts=1)
    with model.graph.as_default():
        other = tf1.get_variable("other", shape, kind, use_resource=True)
        tf1.get_variable("untouched", shape, kind, use_resource=True)

    def add() -> None:
        with model.graph.as_default():
            added = tf1.scatter_add(other, [3], tf.ones([1, *shape[1:]], kind))
            model.train_op = tf.group(model.train_op, added)

    if not late:
        add()
    saves = Saves(model, tmp_path)
    if late:
        add()
    model.saver()
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        prefix = saves.increment(session)
        assert rows_in(prefix)["emb"] == [5]
        with BundleReader(prefix) as reader:
            assert reader.entry("other").shape == tuple(shape)
    (said,) = [line for line in caplog.messages if "is saved whole" in line]
    assert said.startswith(f"other is saved whole in increments: {why}")


@pytest.mark.parametrize("last", ["scatter", "assign"])
def test_an_update_of_what_an_update_returns_is_recorded(tmp_path: Path, last: str) -> None:
    """A variable without a resource is passed on by the op that changed it."""
    model = Model(parts=1, resource=False)
    with model.graph.as_default():
        passed = tf1.scatter_add(model.table, [7], tf.ones([1, DIM]))
        if last == "scatter":
            passed = tf1.scatter_add(passed, [8], tf.ones([1, DIM]))
        else:
            passed = tf1.assign(passed, tf.ones([ROWS, DIM]))
        model.train_op = tf.group(model.train_op, passed)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        rows = rows_in(saves.increment(session))
        assert rows.get("emb") == ([5, 7, 8] if last == "scatter" else None)
        assert_same(state_of(tmp_path, 1), model.values(session))


@pytest.mark.parametrize("first", ["table", "each"])
def test_what_an_earlier_saver_left_out_is_recorded_too(tmp_path: Path, first: str) -> None:
    """Its op was recorded for the table alone, and for its slot there was another."""
    model = Model(parts=1)
    with model.graph.as_default():
        (slot,) = tf1.global_variables("emb/Adagrad")
        extra = tf.group(tf1.scatter_update(slot, [50], tf.ones([1, DIM])))
        for some in [model.table, slot][: 1 if first == "table" else 2]:
            ct.Saver([some], incremental_save_restore=True)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        session.run(extra)
        rows = rows_in(saves.increment(session))
        assert {5, 50} <= set(rows["emb/Adagrad"])
        assert 5 in rows["emb"]
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_tables_that_an_op_of_each_saver_joins_are_both_recorded(tmp_path: Path) -> None:
    """Each has rows of its own already when an update of both comes."""
    model = Model(parts=1)
    with model.graph.as_default():
        other = tf1.get_variable("other", [ROWS, DIM], use_resource=True)
        grads = [tf.IndexedSlices(tf.ones([1, DIM]), tf.constant([9], tf.int64))] * 2
        extra = tf.group(tf1.scatter_update(other, [3], tf.ones([1, DIM])))
        ct.Saver([model.table], incremental_save_restore=True)
        ct.Saver([other], incremental_save_restore=True)
        sgd = tf1.train.GradientDescentOptimizer(0.1)
        both = sgd.apply_gradients(zip(grads, [model.table, other], strict=True))
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        session.run([extra, both])
        rows = rows_in(saves.increment(session))
        assert (rows["emb"], rows["other"]) == ([5, 9], [3, 9])
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_a_saver_knows_nothing_of_the_devices_of_a_later_one(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        table = tf1.get_variable("emb", [ROWS, DIM], use_resource=True)
        with tf1.device("/job:localhost/task:0/cpu:0"):
            other = tf1.get_variable("other", [ROWS, DIM], use_resource=True)
        step = tf1.train.get_or_create_global_step()
        rows = [tf.nn.embedding_lookup(each, [5]) for each in (table, other)]
        train = tf1.train.GradientDescentOptimizer(0.1).minimize(tf.add_n(rows), step)
        some = ct.Saver([table], incremental_save_restore=True)
        ct.Saver(incremental_save_restore=True)
        init = tf1.global_variables_initializer()
    with tf1.Session(graph=graph) as session:
        session.run(init)
        some.save(session, str(tmp_path / "model.ckpt"), step)
        session.run(train)
        assert some.incremental is not None
        prefix = some.incremental.save(session, str(tmp_path / INCREMENT), step)
        assert rows_in(prefix) == {"emb": [5]}
        np.testing.assert_array_equal(state_of(tmp_path, 1)["emb"], session.run(table))


@pytest.mark.parametrize("sharded", [True, False])
def test_the_old_format_is_refused(sharded: bool) -> None:
    model, old = Model(), tf1.train.SaverDef.V1
    with model.graph.as_default(), pytest.raises(UsageError, match=r"V1.*\n.*SaverDef\.V2"):
        ct.Saver(sharded=sharded, incremental_save_restore=True, write_version=old)


def test_the_directory_of_the_increments_survives_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed, fsync = [], os.fsync

    def told(descriptor: int) -> None:
        fsync(descriptor)
        flushed.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [5])
        monkeypatch.setattr(os, "fsync", told)
        prefix = Path(saves.increment(session))
    assert flushed[-3:] == [prefix.with_name(f"{prefix.name}.index"), prefix.parent, tmp_path]


def test_an_open_session_is_refused(tmp_path: Path) -> None:
    model = Model()
    with tf1.Session(graph=model.graph), pytest.raises(RefusedError, match="session of this graph"):
        model.saver()


def test_eager_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="disable_eager_execution"):
        ct.Saver([tf.Variable(1.0)], incremental_save_restore=True)


@pytest.mark.parametrize("filled", ["initialised", "restored"])
def test_a_session_has_no_base_of_another(tmp_path: Path, filled: str) -> None:
    """Its variables are its own, and so are its clocks."""
    model = Model(parts=1)
    with model.graph.as_default():
        stock = tf1.train.Saver()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        full = saves.full(session)
        model.train(session, [5])
        saves.increment(session)
    with tf1.Session(graph=model.graph) as session:
        if filled == "initialised":
            session.run(model.init)
        else:
            stock.restore(session, full)
        for row in (6, 7):
            model.train(session, [row])
        with pytest.raises(NotFoundError, match="no full"):
            saves.increment(session)
        saves.full(session)
        model.train(session, [8])
        assert rows_in(saves.increment(session))["emb"] == [8]
        assert_same(state_of(tmp_path, 3), model.values(session))


def test_a_monitored_session_is_the_one_that_it_wraps(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        scaffold = tf1.train.Scaffold(saver=saves.saver, init_op=model.init)
        with tf1.train.MonitoredSession(tf1.train.ChiefSessionCreator(scaffold)) as monitored:
            session = monitored._tf_sess()
            saves.full(session)
            model.train(session, [5])
            saves.increment(session)
            assert saves.saver.recover(monitored, str(tmp_path)) == 1
            model.train(session, [6])
            assert rows_in(saves.increment(session))["emb"] == [5, 6]
            assert_same(state_of(tmp_path, 2), model.values(session))


def test_an_increment_needs_a_full_and_progress(tmp_path: Path) -> None:
    model = Model()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.saver.save(session, str(tmp_path / "model.ckpt"))
        with pytest.raises(NotFoundError, match="no full with a step"):
            saves.increment(session)
        saves.full(session)
        with pytest.raises(UsageError, match="step 0"):
            saves.increment(session)


def test_a_step_is_any_integer_and_there_is_one(tmp_path: Path) -> None:
    model = Model()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [1])
        path = str(tmp_path / INCREMENT)
        assert saves.saver.incremental is not None
        with pytest.raises(UsageError, match="needs a step"):
            saves.saver.incremental.save(session, path)
        assert saves.saver.incremental.save(session, path, np.int64(1)) == f"{path}-1"
        model.train(session, [2])
        assert saves.saver.incremental.save(session, path, model.step) == f"{path}-2"
        assert saves.saver.incremental.save(session, path, 3) == f"{path}-3"


def test_an_increment_lies_where_it_is_looked_for(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    (tmp_path / "increments").mkdir()
    with model.session() as session:
        saves.full(session)
        model.train(session, [1])
        assert saves.saver.incremental is not None
        for path in ("increments/model.ckpt", "incremental_model.ckpt"):
            with pytest.raises(UsageError, match=r"/\.incremental_checkpoint/"):
                saves.saver.incremental.save(session, str(tmp_path / path), model.step)
        crooked = f"{tmp_path}/increments/..//{INCREMENT.replace('/', '/./')}"
        saves.saver.incremental.save(session, crooked, model.step)
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_recorders_are_in_no_checkpoint_and_no_collection(tmp_path: Path) -> None:
    model = Model()
    saves = Saves(model, tmp_path)
    with model.graph.as_default():
        for key in model.graph.get_all_collection_keys():
            assert not any("ckptctl" in str(item) for item in model.graph.get_collection(key))
    with model.session() as session, BundleReader(saves.full(session)) as reader:
        assert not [name for name in reader.tensors if "ckptctl" in name]


def test_rows_that_a_smaller_table_lacks_are_left_out(tmp_path: Path) -> None:
    larger, smaller = Model(parts=1), Model(parts=1, rows=40)
    saves, others = Saves(larger, tmp_path), Saves(smaller, tmp_path)
    with larger.session() as session:
        saves.full(session)
        larger.train(session, [1, 39, 40, 59])
        prefix = saves.increment(session)
        trained = larger.values(session)["emb"]
    with smaller.session() as session:
        before = smaller.values(session)["emb"]
        assert others.saver.incremental is not None
        others.saver.incremental.restore(session, prefix)
        before[[1, 39]] = trained[[1, 39]]
        np.testing.assert_array_equal(smaller.values(session)["emb"], before)


def test_what_is_saved_after_a_restore_by_hand_goes_on_from_it(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        full = saves.full(session)
        model.train(session, [5])
        prefix = saves.increment(session)
    with model.session() as session:
        saves.saver.restore(session, full)
        assert saves.saver.incremental is not None
        saves.saver.incremental.restore(session, prefix)
        model.train(session, [6])
        saves.increment(session)
    first, after = (found.lineage for found in scan_directory(str(tmp_path)).increments)
    assert first is not None
    assert first.id is not None
    assert after is not None
    assert (after.previous_id, after.line) == (first.id, first.id[:8])


def test_a_full_in_other_slices_is_no_base(tmp_path: Path) -> None:
    """Of a dense variable neither: a merge wants the slices of the full."""
    for optimizer in ("adagrad", "adam"):
        where = tmp_path / optimizer
        where.mkdir()
        three, two = Model(optimizer), Model(optimizer, parts=2)
        saves, others = Saves(three, where), Saves(two, where)
        with three.session() as session:
            full = saves.full(session)
            three.train(session, [1, 30])
            prefix = saves.increment(session)
            expected = three.values(session)
        with two.session() as session:
            others.saver.restore(session, full)
            assert others.saver.incremental is not None
            others.saver.incremental.restore(session, prefix)
            assert_same(two.values(session), expected)
            two.train(session, [1])
            two.train(session, [1])
            with pytest.raises(RefusedError, match="other slices than this graph") as caught:
                others.increment(session)
            assert (caught.value.file, caught.value.tensor) == (full, "emb")
            others.full(session)
            two.train(session, [59])
            others.increment(session)
            assert_same(state_of(where, 4), two.values(session))


def test_increments_of_the_whole_fit_any_slices(tmp_path: Path) -> None:
    three, two = Model("adam"), Model("adam", parts=2)
    saves, others = Saves(three, tmp_path), Saves(two, tmp_path)
    with three.session() as session:
        saves.full(session)
        three.train(session, [1, 30])
        saves.increment(session)
        expected = three.values(session)
    with two.session() as session:
        assert others.saver.recover(session, str(tmp_path)) == 1
        assert_same(two.values(session), expected)


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("kind", ["alone", "left out", "assigned"])
def test_slices_of_a_variable_are_saved_alike(
    tmp_path: Path, kind: str, resource: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An increment with rows of one slice and another one whole fits no full."""
    model = Model(resource=resource)
    with model.graph.as_default():
        other = tf1.get_variable(
            "other",
            [ROWS, DIM],
            partitioner=tf1.fixed_size_partitioner(3),
            use_resource=resource,
        )
        slices = list(other)
        updated = {"alone": [1], "left out": [0, 2], "assigned": [0, 2]}[kind]
        added = [tf1.scatter_add(slices[i], [3, 5], tf.ones([2, DIM])) for i in updated]
        if kind == "assigned":
            added.append(tf1.assign(slices[1], slices[1] * 1.5))
        model.train_op = tf.group(model.train_op, *added)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [1, 30])
        prefix = saves.increment(session)
        expected = model.values(session)
        assert not [name for name in rows_in(prefix) if name.startswith("other")]
        assert_same(state_of(tmp_path, 1), expected)
        session.run(model.init)
        assert saves.saver.recover(session, str(tmp_path)) == 1
        assert_same(model.values(session), expected)
    assert caplog.text.count("other is saved whole in increments: ") == 1


def test_a_variable_that_is_called_like_a_part_is_saved_whole(tmp_path: Path) -> None:
    model = Model()
    with model.graph.as_default():
        other = tf1.get_variable("emb/part_5", [20, DIM])
        added = tf1.scatter_add(other, [3], tf.ones([1, DIM]))
        model.train_op = tf.group(model.train_op, added)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        model.train(session, [1])
        assert "emb/part_5" not in rows_in(saves.increment(session))
        assert_same(state_of(tmp_path, 1), model.values(session))


def test_what_an_increment_restores_waits_for_the_full() -> None:
    """Both are restored in one run."""

    def behind(op: Any) -> set[str]:
        found: set[str] = set()
        todo = [op]
        while todo:
            op = todo.pop()
            if op.name not in found:
                found.add(op.name)
                todo += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
        return found

    model = Model()
    saver = model.saver()
    assert saver.incremental is not None
    full = behind(model.graph.get_operation_by_name(saver.saver_def.restore_op_name))
    assigns = {name for name in full if "Assign" in name}
    assert len(assigns) == 3 + 3 + 3  # parts of the table, of its slot; weights, slot, step
    for restore in saver.incremental._adder.restores.all:
        assert restore.rows is None or assigns <= behind(restore.rows)
        assert assigns <= behind(restore.whole)


def test_an_error_of_the_increment_names_it(tmp_path: Path) -> None:
    model = Model()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        full = saves.full(session)
        model.train(session, [1, 30])
        prefix = saves.increment(session)
        assert saves.saver.incremental is not None
        (increment,) = saves.saver.incremental.applications(full, [prefix])
        beside = saves.saver.incremental.beside(session, increment)
        for path in Path(prefix).parent.glob("*.data-*"):
            path.unlink()  # as somebody may between a look and the run
        for restore in (
            lambda: tf1.train.Saver.restore(saves.saver, beside, full),
            lambda: saves.saver.incremental.apply(session, prefix),
        ):
            with pytest.raises(DamageError, match="increment could not be restored") as caught:
                restore()
            assert caught.value.file == prefix


def test_nothing_is_recorded_against_a_restore_that_failed(tmp_path: Path) -> None:
    """The clocks that the base before was recorded by may have gone with a server."""
    model = Model()
    saves = Saves(model, tmp_path)
    with model.session() as session:
        (data,) = tmp_path.glob(f"{Path(saves.full(session)).name}.data-*")
        model.train(session, [1, 30])
        saves.increment(session)
        corrupt(data, 0, 1)
        with pytest.raises(tf.errors.DataLossError):
            saves.saver.recover(session, str(tmp_path))
        model.train(session, [2])
        with pytest.raises(NotFoundError, match="no full"):
            saves.increment(session)


@pytest.mark.parametrize("order", ["part first", "all first"])
@pytest.mark.parametrize("how", ["restore", "recover"])
def test_nothing_is_recorded_against_a_restore_of_a_part(
    tmp_path: Path, order: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The rows of what another Saver saves were forgotten with those that were restored."""
    model = Model(parts=1)

    def part() -> ct.Saver:
        with model.graph.as_default():
            return ct.Saver([model.table], incremental_save_restore=True)

    if order == "part first":
        some, saves = part(), Saves(model, tmp_path)
    else:
        saves, some = Saves(model, tmp_path), part()
    with model.session() as session:
        full = saves.full(session)
        model.train(session, [5])
        if how == "restore":
            some.restore(session, full)
        else:
            some.recover(session, str(tmp_path))
        model.train(session, [6])
        with pytest.raises(NotFoundError, match="no full"):
            saves.increment(session)
        assert f"{full} was restored in part" in caplog.text
        saves.full(session)
        model.train(session, [7])
        assert rows_in(saves.increment(session))["emb"] == [7]
        assert_same(state_of(tmp_path, 3), model.values(session))


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_increments_of_another_optimizer_hold_the_whole(tmp_path: Path, mode: Any) -> None:
    """They are not idle for want of the rows that were in those before."""
    expected: dict[str, np.ndarray] = {}
    for optimizer, start in [("lazy-adam", 0), ("adam", 2), ("lazy-adam", 4)]:
        model = Model(optimizer)
        saves = Saves(model, tmp_path, incremental_mode=mode)
        with model.session() as session:
            if not start:
                saves.full(session)
            else:
                assert saves.saver.recover(session, str(tmp_path)) == start
                assert_same(model.values(session), expected)
            for ids in ([1, start], [30]):
                model.train(session, ids)
                saves.increment(session)
            expected = model.values(session)
            assert_same(state_of(tmp_path, start + 2), expected)


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_recovery_continues_the_increments(tmp_path: Path, mode: Any) -> None:
    model = Model()
    saves = Saves(model, tmp_path, incremental_mode=mode)
    with model.session() as session:
        saves.full(session)
        for ids in ([1], [2, 30], [3]):
            model.train(session, ids)
            saves.increment(session)
        expected = model.values(session)
        model.train(session, [59])  # lost with the parameter server
    again = Model()
    after = Saves(again, tmp_path, incremental_mode=mode)
    with tf1.Session(graph=again.graph) as session:
        assert after.saver.recover(session, str(tmp_path)) == 3
        assert_same(again.values(session), expected)
        again.train(session, [4])
        rows = rows_in(after.increment(session))
        changed = {row + 20 * int(n[-1]) for n, r in rows.items() if n[-2] == "_" for row in r}
        assert changed == {1, 2, 3, 4, 30}  # once more: others may have trained meanwhile
        again.train(session, [5])
        rows = rows_in(after.increment(session))
        changed = {row + 20 * int(n[-1]) for n, r in rows.items() if n[-2] == "_" for row in r}
        assert changed == ({1, 2, 3, 4, 5, 30} if mode == "cumulative" else {5})
        assert_same(state_of(tmp_path, 5), again.values(session))
    # Each names the one before it, also across the recovery: a step may come again.
    found = [item.lineage for item in scan_directory(str(tmp_path)).increments]
    assert len({lineage.id for lineage in found}) == 5
    assert [lineage.previous_id for lineage in found] == [None, *(each.id for each in found[:-1])]
    for number, lineage in enumerate(found):
        assert lineage.line == "".join(each.id[:8] for each in found[:number])


def compact(directory: Path) -> None:
    """Fold all into a new full, and remove the rest."""
    execute_merge(plan_merge(str(directory)))
    options = PruneOptions(Policy((KeepLast(1),)), min_age_s=0.0)
    execute_prune(plan_prune(str(directory), options))


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_cron_may_merge_what_a_training_began_again_at(tmp_path: Path, mode: Any) -> None:
    """A merged full and an increment: they go before it saves anything on them."""
    for steps in (3, 2, 1):
        model = Model(parts=1)
        saves = Saves(model, tmp_path, incremental_mode=mode)
        with model.session() as session:
            if steps == 3:
                saves.full(session)
            else:
                saves.saver.recover(session, str(tmp_path))
                compact(tmp_path)
            for number in range(steps):
                if number == 2:
                    compact(tmp_path)
                model.train(session, [10 * steps + number])
                saves.increment(session)
                step = session.run(model.step)
                assert_same(state_of(tmp_path, step), model.values(session))


def test_what_follows_a_save_that_failed_goes_on_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are there, and cron merged them."""

    def fails(*_: str) -> None:
        raise OSError("no fsync")

    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        for row in (1, 2, 3):
            model.train(session, [row])
            with monkeypatch.context() as patch:
                if row == 2:
                    for path in tmp_path.rglob("*"):  # or nothing tells that it is newer
                        os.utime(path, (path.stat().st_mtime - 10,) * 2)
                    patch.setattr("ckptctl.training.incremental.make_durable", fails)
                with suppress(OSError):
                    saves.increment(session)
            if row == 2:
                compact(tmp_path)
            step = session.run(model.step)
            assert_same(state_of(tmp_path, step), model.values(session))


def test_the_mode_may_change_where_a_training_begins_again(tmp_path: Path) -> None:
    for mode in ("cumulative", "delta", "cumulative"):
        model = Model(parts=1)
        saves = Saves(model, tmp_path, incremental_mode=mode)
        with model.session() as session:
            if saves.saver.recover(session, str(tmp_path)) is None:
                saves.full(session)
            else:
                compact(tmp_path)
            for row in (1, 2, 3):
                model.train(session, [row])
                saves.increment(session)
                step = session.run(model.step)
                assert_same(state_of(tmp_path, step), model.values(session))


@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_what_others_change_during_a_recovery_is_in_the_next_increment(
    tmp_path: Path, mode: Any
) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path, incremental_mode=mode)
    incremental: Any = saves.saver.incremental
    with model.session() as session:
        saves.full(session)
        for row in (1, 2):
            model.train(session, [row])
            saves.increment(session)
        resume = incremental.resume

        def beside(*args: Any) -> None:
            model.train(session, [7])
            resume(*args)

        incremental.resume = beside
        assert saves.saver.recover(session, str(tmp_path)) == 2
        model.train(session, [9])
        saves.increment(session)
        assert_same(state_of(tmp_path, 4), model.values(session))


@pytest.mark.parametrize(
    "modes", [("cumulative", "delta", "delta"), ("delta", "cumulative", "delta")], ids="-".join
)
def test_a_series_goes_on_in_another_mode(tmp_path: Path, modes: tuple[Any, ...]) -> None:
    """A delta follows deltas of its own full alone, else it is one since the full."""
    expected: dict[str, np.ndarray] = {}
    for run, mode in enumerate(modes):
        model = Model(parts=1)
        saves = Saves(model, tmp_path, incremental_mode=mode)
        with model.session() as session:
            if run == 0:
                saves.full(session)
            else:
                assert saves.saver.recover(session, str(tmp_path)) == 2 * run
                assert_same(model.values(session), expected)
                with pytest.raises(UsageError, match=f"last save was at step {2 * run}"):
                    saves.increment(session)
            for row in (1, 2):
                model.train(session, [3 * run + row])
                saves.increment(session)
                expected = model.values(session)
                assert_same(state_of(tmp_path, 2 * run + row), expected)


def test_a_delta_series_begins_anew_on_a_full_that_was_merged(tmp_path: Path) -> None:
    expected: dict[str, np.ndarray] = {}
    for run in range(3):
        model = Model(parts=1)
        saves = Saves(model, tmp_path, incremental_mode="delta")
        with model.session() as session:
            if run == 0:
                saves.full(session)
            else:
                assert saves.saver.recover(session, str(tmp_path)) == 4 * run
                assert_same(model.values(session), expected)
            for row in range(4):
                model.train(session, [4 * run + row])
                saves.increment(session)
                if row == 1:
                    execute_merge(plan_merge(str(tmp_path)))
                    for old in tmp_path.glob(f"model.ckpt-{max(4 * run - 2, 0)}.*"):
                        old.unlink()
            expected = model.values(session)
        assert_same(state_of(tmp_path, 4 * run + 4), expected)


def test_a_base_that_a_merged_full_stands_in_for_is_not_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path)
    with model.session() as session:
        full = saves.full(session)
        for row in range(4):
            model.train(session, [row])
            saves.increment(session)
            if row in (0, 2):
                merged = execute_merge(plan_merge(str(tmp_path))).prefix
                for old in tmp_path.glob(f"model.ckpt-{max(row - 1, 0)}.*"):
                    old.unlink()
        assert_same(state_of(tmp_path, 4), model.values(session))
        assert "is gone" not in caplog.text
        Path(f"{merged}.index").unlink()
        model.train(session, [5])
        saves.increment(session)
        assert f"{full} is gone: no increment on it can be restored" in caplog.text


def test_deltas_of_one_saver_do_not_follow_what_another_saved(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path, incremental_mode="delta")
    others = Saves(model, tmp_path)
    with model.session() as session:
        saves.full(session)
        for row, each in enumerate([saves, others, saves, saves]):
            model.train(session, [row])
            each.increment(session)
        assert_same(state_of(tmp_path, 4), model.values(session))


def test_a_delta_series_is_kept_until_the_next_full(tmp_path: Path) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path, incremental_mode="delta", max_to_keep=2)
    with model.session() as session:
        saves.full(session)
        for _ in range(4):
            model.train(session, [1])
            saves.increment(session)
        here = tmp_path / ".incremental_checkpoint"
        assert len(list(here.glob("*.index"))) == 4
        assert_same(state_of(tmp_path, 4), model.values(session))
        saves.full(session)
        model.train(session, [1])
        saves.increment(session)
        assert sorted(int(p.stem.rpartition("-")[2]) for p in here.glob("*.index")) == [4, 5]


def test_a_delta_series_is_kept_however_its_directory_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / ".incremental_checkpoint"
    monkeypatch.chdir(tmp_path)
    for spelled in (tmp_path, Path(".")):
        model = Model(parts=1)
        saves = Saves(model, tmp_path, incremental_mode="delta", max_to_keep=2)
        with model.session() as session:
            if spelled == tmp_path:
                saves.full(session)
            else:
                assert saves.saver.recover(session, f"{tmp_path}/.") == 3
                saves.directory = spelled
            for row in (1, 2, 3):
                model.train(session, [row])
                saves.increment(session)
            trained = model.values(session)
    assert len(list(here.glob("*.index"))) == 6
    assert_same(state_of(tmp_path, 6), trained)


def test_a_training_on_a_copy_deletes_nothing_of_the_original(tmp_path: Path) -> None:
    def steps(folder: Path) -> list[int]:
        found = (folder / ".incremental_checkpoint").glob("*.index")
        return sorted(int(path.stem.rpartition("-")[2]) for path in found)

    model, live, copy = Model(parts=1), tmp_path / "live", tmp_path / "copy"
    live.mkdir()
    saves = Saves(model, live, max_to_keep=3)
    with model.session() as session:
        saves.full(session)
        for row in (1, 2, 3):
            model.train(session, [row])
            saves.increment(session)
    shutil.copytree(live, copy)
    again = Model(parts=1)
    after = Saves(again, copy, max_to_keep=3)
    with again.session() as session:
        assert after.saver.recover(session, str(copy)) == 3
        for row in (4, 5):
            again.train(session, [row])
            after.increment(session)
    assert (steps(live), steps(copy)) == ([1, 2, 3], [3, 4, 5])


def test_a_damaged_increment_ends_its_delta_series(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model(parts=1)
    saves = Saves(model, tmp_path, incremental_mode="delta")
    with model.session() as session:
        saves.full(session)
        for row in range(4):
            model.train(session, [row])
            prefix = saves.increment(session)
            if row == 1:
                (data,) = Path(prefix).parent.glob("*-2.data-*")
                corrupt(data, 0, 1)
            elif row == 0:
                expected = model.values(session)
        assert saves.saver.recover(session, str(tmp_path)) == 1
        assert_same(model.values(session), expected)
    assert caplog.text.count("is not restored") == 1
    assert f"file: {data.parent / 'incremental_model.ckpt-2'}" in caplog.text


def test_no_row_is_lost_while_workers_train(tmp_path: Path) -> None:
    """Full, then increment, must be the session however updates and saves interleave."""
    rows = 200_000
    model = Model(rows=rows, parts=2, slow=True)
    saves = Saves(model, tmp_path, max_to_keep=2)
    random = np.random.default_rng(5)
    with model.session() as session:
        for _ in range(10):
            stop = threading.Event()
            batches = random.integers(0, rows, (3, 50, 64))

            running = threading.Barrier(len(batches) + 1)

            def work(mine: np.ndarray, stop: Any = stop, running: Any = running) -> None:
                for number, ids in enumerate(mine):
                    if stop.is_set():
                        break
                    model.train(session, ids)
                    if number == 0:
                        running.wait(60)

            workers = [threading.Thread(target=work, args=(mine,)) for mine in batches]
            for worker in workers:
                worker.start()
            running.wait(60)
            saves.full(session)
            stop.set()
            for worker in workers:
                worker.join()
            model.train(session, [0])
            saves.increment(session)
            step = int(session.run(model.step))
            assert_same(state_of(tmp_path, step), model.values(session))
