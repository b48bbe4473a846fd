"""Estimator: the model_fn of the documentation trains, goes on after a kill, is exported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import find_chains, scan_directory
from ckptctl.errors import UsageError
from tests.training.model import assert_same, state_of, values

HAS_ESTIMATOR = hasattr(tf1, "estimator")
needs_estimator = pytest.mark.skipif(
    not HAS_ESTIMATOR,
    reason="no tf.estimator in this TensorFlow; `.ci/run` runs these with TensorFlow 2.15",
)
ROWS = 30


def model_fn(features: Any, labels: Any, mode: str, params: dict[str, Any]) -> Any:
    """The seed's: a Saver in a Scaffold, a hook for fulls and increments."""
    table = tf1.get_variable("a", [ROWS, 4], partitioner=tf1.fixed_size_partitioner(num_shards=4))
    weights = tf1.get_variable("b", [4, 1])
    rows = tf1.nn.embedding_lookup(table, features["ids"], partition_strategy="div")
    score = tf.squeeze(rows @ weights, 1)
    loss = train_op = None
    hooks = []
    if mode != "infer":
        loss = tf.reduce_mean(tf.square(score - labels))
    if mode == "train" or params.get("always_trains"):
        step = tf1.train.get_global_step()
        train_op = tf1.train.AdagradOptimizer(0.1).minimize(
            loss if loss is not None else tf.reduce_sum(score), step
        )
    if params.get("stock_saver"):
        scaffold = tf1.train.Scaffold(saver=tf1.train.Saver(sharded=True))
    else:
        saver = None
        if not params.get("default_saver"):
            saver = ct.Saver(sharded=True, incremental_save_restore=True)
        scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
    if mode == "train" and not params.get("stock_saver"):
        hooks = [
            ct.CheckpointSaverHook(
                checkpoint_dir=params["model_dir"],
                save_secs=None,
                save_steps=params["save_steps"],
                scaffold=scaffold,
                incremental_save_secs=params["incremental_save_secs"],
            )
        ]
    return tf1.estimator.EstimatorSpec(
        mode,
        predictions={"score": score},
        loss=loss,
        train_op=train_op,
        training_chief_hooks=hooks,
        scaffold=scaffold,
    )


def input_fn(steps: int, pause: float = 0.0, first: int = 0) -> Any:
    """Two rows a step."""

    def make() -> Any:
        def batches() -> Any:
            for step in range(first, first + steps):
                time.sleep(pause)
                yield [step % 5, step % ROWS]

        found = tf.data.Dataset.from_generator(
            batches, output_signature=tf.TensorSpec([2], tf.int64)
        )
        return found.map(lambda ids: ({"ids": ids}, tf.cast(ids, tf.float32)))

    return make


def receiver_fn() -> Any:
    ids = tf1.placeholder(tf.int64, [None], "ids")
    return tf1.estimator.export.ServingInputReceiver({"ids": ids}, {"ids": ids})


def make(directory: Path, ours: bool = True, **params: Any) -> Any:
    kind = ct.Estimator if ours else tf1.estimator.Estimator
    params = {
        "model_dir": str(directory),
        "save_steps": 10_000,
        "incremental_save_secs": 0.2,
    } | params
    config = tf1.estimator.RunConfig(save_summary_steps=None, log_step_count_steps=None)
    return kind(model_fn, str(directory), config, params)


def increments_of(directory: Path) -> list[Any]:
    chains = find_chains(scan_directory(str(directory)))
    return [item for item in chains.scan.increments if chains.is_restore_point(item)]


def served(session: Any, exported: bytes) -> Any:
    return tf1.saved_model.load(session, ["serve"], exported.decode())


@pytest.mark.skipif(HAS_ESTIMATOR, reason="this TensorFlow has tf.estimator")
def test_without_tf_estimator_it_says_what_to_use() -> None:
    with pytest.raises(ImportError, match=r"2\.15 is the last .*export_saved_model"):
        ct.Estimator  # noqa: B018
    assert "Estimator" not in ct.__all__


@needs_estimator
def test_the_class_is_tensorflows() -> None:
    assert issubclass(ct.Estimator, tf1.estimator.Estimator)
    assert "Estimator" in ct.__all__


@needs_estimator
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_it_trains_saves_and_is_evaluated(tmp_path: Path, ours: bool) -> None:
    estimator = make(tmp_path, ours)
    estimator.train(input_fn(60, 0.01))
    increments = increments_of(tmp_path)
    assert increments, "60 steps of 10 ms, and an increment each 200 ms"
    assert estimator.evaluate(input_fn(10))["global_step"] == 60
    predictions = estimator.predict(input_fn(10), yield_single_examples=False)
    assert len(list(predictions)) == 10
    estimator.train(input_fn(5))
    assert estimator.latest_checkpoint() == str(tmp_path / "model.ckpt-65")


@needs_estimator
def test_an_export_takes_increments_and_fulls(tmp_path: Path) -> None:
    ckpt = tmp_path / "ckpt"
    estimator = make(ckpt)
    estimator.train(input_fn(3))
    exported = estimator.export_saved_model(
        str(tmp_path / "export"), receiver_fn, save_incr_model=True
    )
    estimator.train(input_fn(60, 0.01, first=7))
    increment = increments_of(ckpt)[-1]
    with tf1.Session(graph=tf.Graph()) as session:
        meta_graph = served(session, exported)
        names = values(session, session.graph)
        for step, prefix in [
            (3, None),
            (increment.step, increment.prefix),
            (63, str(ckpt / "model.ckpt-63")),
            (increment.step, increment.prefix),
        ]:
            if prefix is not None:
                ct.load_incremental(session, meta_graph, prefix)
            expected = state_of(ckpt, step)
            found = values(session, session.graph)
            assert_same(found, {name: expected[name] for name in names})
            signature = meta_graph.signature_def["serving_default"]
            scores = session.run(
                signature.outputs["score"].name, {signature.inputs["ids"].name: [1, 29]}
            )
            by_hand = expected["a"][[1, 29]] @ expected["b"]
            np.testing.assert_allclose(scores, by_hand[:, 0], rtol=1e-5)


@needs_estimator
def test_an_export_without_increments_takes_fulls_only(tmp_path: Path) -> None:
    ckpt = tmp_path / "ckpt"
    estimator = make(ckpt)
    estimator.train(input_fn(3))
    exported = estimator.export_saved_model(str(tmp_path / "export"), receiver_fn)
    estimator.train(input_fn(60, 0.01))
    with tf1.Session(graph=tf.Graph()) as session:
        meta_graph = served(session, exported)
        assert "ckptctl/incremental" not in meta_graph.collection_def
        with pytest.raises(UsageError, match="save_incr_model=True"):
            ct.load_incremental(session, meta_graph, increments_of(ckpt)[-1].prefix)
        ct.load_incremental(session, meta_graph, str(ckpt / "model.ckpt-63"))
        found = values(session, session.graph)
        expected = state_of(ckpt, 63)
        assert_same(found, {name: expected[name] for name in found})


@needs_estimator
def test_a_graph_without_increments_is_refused(tmp_path: Path) -> None:
    estimator = make(tmp_path / "ckpt", stock_saver=True)
    estimator.train(input_fn(3))
    with pytest.raises(UsageError, match="save_incr_model=True needs a graph with increments"):
        estimator.export_saved_model(str(tmp_path / "export"), receiver_fn, save_incr_model=True)
    exported = estimator.export_saved_model(str(tmp_path / "export"), receiver_fn)
    with tf1.Session(graph=tf.Graph()) as session:
        served(session, exported)


@needs_estimator
@pytest.mark.parametrize("how", ["always_trains", "default_saver"])
def test_other_graphs_that_can_be_exported(tmp_path: Path, how: str) -> None:
    """The optimizer stands in the served graph too; the Scaffold makes the Saver."""
    ckpt = tmp_path / "ckpt"
    estimator = make(ckpt, **{how: True})
    estimator.train(input_fn(3))
    exported = estimator.export_saved_model(
        str(tmp_path / "export"), receiver_fn, save_incr_model=True
    )
    estimator.train(input_fn(60, 0.01))
    increment = increments_of(ckpt)[-1]
    with tf1.Session(graph=tf.Graph()) as session:
        meta_graph = served(session, exported)
        ct.load_incremental(session, meta_graph, increment.prefix)
        found, expected = values(session, session.graph), state_of(ckpt, increment.step)
        assert_same(found, {name: expected[name] for name in found})


@needs_estimator
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "stock"])
def test_a_killed_training_goes_on_from_its_last_increment(tmp_path: Path, ours: bool) -> None:
    script = textwrap.dedent(
        f"""
        import pathlib
        import tensorflow.compat.v1 as tf1
        from tests.training import test_estimator as t
        tf1.disable_eager_execution()
        t.make(pathlib.Path({str(tmp_path)!r}), {ours}).train(t.input_fn(100_000, 0.005))
        """
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], cwd=root, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 90
        while not _has_increments(tmp_path, 2):
            assert child.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline, "no increment was saved"
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    last = increments_of(tmp_path)[-1]
    before = state_of(tmp_path, last.step)
    started: dict[str, Any] = {}

    class Look(tf1.train.SessionRunHook):
        def after_create_session(self, session: Any, coord: Any) -> None:
            started.update(values(session, session.graph))

    make(tmp_path, ours).train(input_fn(2), hooks=[Look()])
    assert_same(started, before)
    assert str(tmp_path / f"model.ckpt-{last.step + 2}") == tf.train.latest_checkpoint(tmp_path)


def _has_increments(directory: Path, count: int) -> bool:
    try:
        return len(increments_of(directory)) >= count
    except Exception:  # noqa: BLE001 - not there yet, or seen half written
        return False
