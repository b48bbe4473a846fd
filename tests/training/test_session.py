"""Sessions that restore what was saved, with the drop-ins of `tf.compat.v1.train`."""

from __future__ import annotations

import inspect
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow.compat.v1 as tf1

import ckptctl.training as ct
from ckptctl import (
    BundleReader,
    execute_merge,
    find_chains,
    knobs,
    plan_merge,
    scan_directory,
)
from ckptctl.errors import IncompleteError, UnprovenError, UnreadableError, UsageError
from ckptctl.training.recovery import restorable
from tests.bundle.builders import corrupt
from tests.oracle.chain import build_chain, changes, full, increment, table, write_state
from tests.training.model import DIM, ROWS, Model, assert_same, state_of


class Crash(Exception):
    """A process that dies; a session that meets it saves nothing more."""


class EverySave(ct.CheckpointSaverHook):
    """A hook whose increments are due at every step: no test waits for a clock."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, incremental_save_secs=1, **kwargs)
        self._incremental_timer = tf1.train.SecondOrStepTimer(every_steps=1)


def session(model: Model, directory: Path, mode: Any = None, **hook: Any) -> Any:
    """Return a monitored session that saves an increment at every step."""
    with model.graph.as_default():
        saver = mode and ct.Saver(incremental_save_restore=True, incremental_mode=mode)
        scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
        hooks = [EverySave(str(directory), scaffold=scaffold, **({"save_steps": 1000} | hook))]
        return tf1.train.MonitoredTrainingSession(
            checkpoint_dir=str(directory),
            scaffold=scaffold,
            chief_only_hooks=hooks,
            save_checkpoint_secs=None,
            save_summaries_steps=None,
            log_step_count_steps=None,
        )


def train(model: Model, directory: Path, *batches: list[int], **hook: Any) -> dict[str, Any]:
    """Train in a session that then dies; return what it held at the end."""
    found: dict[str, Any] = {}
    with suppress(Crash), model.graph.as_default(), session(model, directory, **hook) as run:
        found["start"] = run.run(model.step)
        for ids in batches:
            run.run(model.train_op, {model.ids: ids})
        found["values"] = model.values(run._tf_sess())
        raise Crash
    return found


def test_a_session_goes_on_from_the_last_increment(tmp_path: Path) -> None:
    first = train(Model(), tmp_path, [1], [2, 30])
    assert (first["start"], latest(tmp_path)) == (0, 2)
    assert_same(state_of(tmp_path, 2), first["values"])
    second = train(Model(), tmp_path)
    assert second["start"] == 2
    assert_same(second["values"], first["values"])
    third = train(Model(), tmp_path, [7], [1])
    assert third["start"] == 2
    assert_same(state_of(tmp_path, 4), third["values"])


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("mode", ["cumulative", "delta"])
@pytest.mark.parametrize(("before", "now"), [(3, 2), (12, 5), (2, 3), (3, 1), (1, 3)])
def test_another_partitioner_has_each_row_in_its_own_slices(
    tmp_path: Path, before: int, now: int, mode: str, resource: bool
) -> None:
    """Rows are counted in the slices of the graph that recorded them."""
    batches = [3], [25], [45, 3], [59]
    first = train(Model(parts=before, resource=resource), tmp_path, *batches, mode=mode)
    second = train(Model(parts=now, resource=resource), tmp_path, mode=mode)
    assert second["start"] == 4
    assert_same(second["values"], first["values"])
    third = train(Model(parts=now, resource=resource), tmp_path, [4], [26], [46], mode=mode)
    assert third["start"] == 4
    # A full in place of the first increment: none fits the full that was restored.
    assert [full.step for full in scan_directory(str(tmp_path)).fulls] == [0, 4]
    assert_same(state_of(tmp_path, 7), third["values"])
    fourth = train(Model(parts=now, resource=resource), tmp_path, mode=mode)
    assert fourth["start"] == 7
    assert_same(fourth["values"], third["values"])
    untouched = np.setdiff1d(np.arange(ROWS), [4, 26, 46])
    for name in ("emb", "emb/Adagrad"):
        np.testing.assert_array_equal(
            third["values"][name][untouched], first["values"][name][untouched]
        )


def test_rows_of_other_slices_are_read_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(Model(parts=3), tmp_path, [3, 4, 25], [7, 39, 40, 41, 45])
    monkeypatch.setattr(knobs, "PIECE_BYTES", 7)  # less than a row, and no part of one
    assert_same(train(Model(parts=2), tmp_path)["values"], first["values"])


def test_rows_of_other_slices_that_are_damaged_restore_what_is_older(tmp_path: Path) -> None:
    """What was read goes to the variables before the last of it was checked."""
    train(Model(parts=3), tmp_path, [3], [25], [45], [59])
    prefix = f"{tmp_path}/.incremental_checkpoint/incremental_model.ckpt-4"
    for name in ("emb/part_1-sparse_incr_keys", "emb/part_2/Adagrad-sparse_incr_values"):
        with BundleReader(prefix) as reader:
            entry = reader.entry(name)
            shard = Path(reader.shard_path(entry.shard))
        sound = shard.read_bytes()
        corrupt(shard, entry.end - 1, 1)
        second = train(Model(parts=2), tmp_path)
        shard.write_bytes(sound)
        assert second["start"] == 3
        assert_same(second["values"], state_of(tmp_path, 3))


def test_a_partitioner_of_columns_is_refused(tmp_path: Path) -> None:
    trained = train(Model(parts=3), tmp_path, [3], [25])
    with tf.Graph().as_default(), tf1.Session() as run:
        table = tf1.get_variable(
            "emb", [ROWS, DIM], partitioner=tf1.fixed_size_partitioner(2, axis=1)
        )
        saver = ct.Saver(incremental_save_restore=True)
        with pytest.raises(UnprovenError, match="ckptctl merge, then restore") as caught:
            saver.recover(run, str(tmp_path))
        assert caught.value.tensor == "emb"
        assert not any(run.run([tf1.is_variable_initialized(part) for part in table]))
        execute_merge(plan_merge(str(tmp_path)))
        assert saver.recover(run, str(tmp_path)) == 2
        np.testing.assert_array_equal(
            np.concatenate(run.run(list(table)), axis=1), trained["values"]["emb"]
        )


def test_a_start_saves_no_second_full_over_the_first(tmp_path: Path) -> None:
    train(Model(), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("model.ckpt-0*")}
    train(Model(), tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("model.ckpt-0*")}
    assert before == after


@pytest.mark.parametrize("merged", [False, True])
def test_a_run_that_was_set_back_leaves_the_full_alone_that_it_begins_at(
    tmp_path: Path, merged: bool
) -> None:
    """A kill in the middle would leave nothing; of a merged one the run makes a full of its own."""
    train(Model(), tmp_path, [1], [2], [3], [4], save_steps=2)
    start = tmp_path / "model.ckpt-2"
    if merged:
        execute_merge(plan_merge(str(tmp_path), upto=1))
        start = tmp_path / "model.ckpt-1"
    shard = next(start.parent.glob(f"{start.name}.data-*"))
    listed = [str(tmp_path / f"model.ckpt-{step}") for step in (0, *(1,) * merged, 2, 4)]
    lines = [f'model_checkpoint_path: "{start.name}"']
    lines += [f'all_model_checkpoint_paths: "{path}"' for path in listed]
    (tmp_path / "checkpoint").write_text("\n".join(lines))
    shutil.rmtree(tmp_path / ".incremental_checkpoint")
    before = shard.stat().st_mtime_ns
    assert train(Model(), tmp_path)["start"] == int(start.name[11:])
    assert (shard.stat().st_mtime_ns == before) is not merged
    state = tf1.train.get_checkpoint_state(str(tmp_path))
    listed.remove(str(start))
    assert list(state.all_model_checkpoint_paths) == [*listed, str(start)]
    train(Model(), tmp_path, [5], [6], [7], save_steps=3)  # a full over the dead one at 4, or at 5
    chains = find_chains(scan_directory(str(tmp_path)))
    dead = [full.step for full in chains.scan.fulls if not chains.is_live(full)]
    assert dead == ([2] if merged else [4])


def set_back(directory: Path, name: str, *listed: str) -> None:
    """Set a run back to a full, all files an hour old and in the order of their steps."""
    state = directory / "checkpoint"
    lines = [f'model_checkpoint_path: "{name}"']
    lines += [f'all_model_checkpoint_paths: "{each}"' for each in listed]
    state.write_text("\n".join(lines))
    increments = directory / ".incremental_checkpoint" / "checkpoint"
    lines = [f'model_checkpoint_path: "incremental_{name}"']
    lines += [line for line in increments.read_text().splitlines() if line.startswith("all_")]
    increments.write_text("\n".join(lines))
    then = state.stat().st_mtime - 3600
    for path in directory.rglob("*.ckpt-*"):
        at = then + 10 * int(path.name.partition("-")[2].partition(".")[0])
        at += 500 if path.name.endswith(".index") and merged_in(path) else 0
        os.utime(path, (at, at))


def merged_in(index: Path) -> bool:
    with BundleReader(str(index)[: -len(".index")]) as reader:
        return "ckptctl/merged" in reader.tensors


def test_what_was_merged_of_a_way_that_was_left_stays_so_when_a_run_begins(tmp_path: Path) -> None:
    """Also where the Saver of that way had dropped it from the list again."""
    train(Model(), tmp_path, [1], [2], [3], [4], save_steps=3)
    execute_merge(plan_merge(str(tmp_path), upto=2))
    for path in tmp_path.rglob("incremental_model.ckpt-[12].*"):  # as `compact` does
        path.unlink()
    set_back(tmp_path, "model.ckpt-0", "model.ckpt-0", "model.ckpt-3")
    for batches in ((), ([5],)):
        assert train(Model(), tmp_path, *batches)["start"] == 0
        assert latest(tmp_path) == len(batches)
        chains = find_chains(scan_directory(str(tmp_path)))
        live = [full.step for full in chains.scan.fulls if chains.is_live(full)]
        assert live == [0]


def test_a_run_that_spells_its_directory_otherwise_keeps_the_full_that_it_begins_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Saver has as many as it keeps, of another spelling."""
    train(Model(), tmp_path, [1], [2], [3], [4], save_steps=2)
    set_back(tmp_path, "model.ckpt-2", *(str(tmp_path / f"model.ckpt-{n}") for n in (2, 4)))
    monkeypatch.chdir(tmp_path.parent)
    model, room = Model(), Path(tmp_path.name)
    with suppress(Crash), model.graph.as_default():
        saver = ct.Saver(incremental_save_restore=True, max_to_keep=2)
        scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
        hooks = [EverySave(str(room), scaffold=scaffold, save_steps=1000)]
        creator = tf1.train.ChiefSessionCreator(scaffold, checkpoint_dir=str(room))
        with tf1.train.MonitoredSession(creator, hooks) as run:
            assert run.run(model.step) == 2
            assert (tmp_path / "model.ckpt-2.index").exists()
            run.run(model.train_op, {model.ids: [5]})
            raise Crash
    assert latest(tmp_path) == 3


def test_a_run_that_was_set_back_saves_anew_what_it_no_longer_keeps(tmp_path: Path) -> None:
    train(Model(), tmp_path, [1], [2], [3], [4], [5], [6], save_steps=2)
    listed = [f"model.ckpt-{step}" for step in (0, 2, 4, 6)]
    set_back(tmp_path, "model.ckpt-0", *listed)
    model = Model()
    with suppress(Crash), model.graph.as_default():
        saver = ct.Saver(incremental_save_restore=True, max_to_keep=3)
        scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
        hooks = [EverySave(str(tmp_path), scaffold=scaffold, save_steps=2)]
        creator = tf1.train.ChiefSessionCreator(scaffold, checkpoint_dir=str(tmp_path))
        with tf1.train.MonitoredSession(creator, hooks) as run:
            for ids in ([50], [51], [52]):
                run.run(model.train_op, {model.ids: ids})
            values = model.values(run._tf_sess())
            raise Crash
    assert (tmp_path / "model.ckpt-2.index").exists()
    assert latest(tmp_path) == 3
    assert_same(state_of(tmp_path, 3), values)


@pytest.mark.parametrize("how", ["state", "file", "fresh"])
def test_a_run_after_a_rollback_saves_fulls_of_its_own(tmp_path: Path, how: str) -> None:
    train(Model(), tmp_path, [1], [2], [3], [4], save_steps=2)
    shutil.rmtree(tmp_path / ".incremental_checkpoint")
    model, start = Model(), tmp_path / "model.ckpt-2"
    if how == "state":
        tf1.train.update_checkpoint_state(str(tmp_path), str(start))
    elif how == "fresh":
        (tmp_path / "checkpoint").unlink()
        start = tmp_path / "model.ckpt-0"
    with suppress(Crash), model.graph.as_default():
        scaffold = ct.Scaffold(incremental_save_restore=True)
        named = {"checkpoint_filename_with_path": str(start)} if how == "file" else {}
        creator = tf1.train.ChiefSessionCreator(
            scaffold, checkpoint_dir=None if named else str(tmp_path), **named
        )
        hooks = [EverySave(str(tmp_path), scaffold=scaffold, save_steps=2)]
        with tf1.train.MonitoredSession(creator, hooks) as run:
            assert tf.train.latest_checkpoint(str(tmp_path)) == str(start)
            for ids in ([50], [51]):
                run.run(model.train_op, {model.ids: ids})
            values = model.values(run._tf_sess())
            raise Crash
    newest = tf.train.latest_checkpoint(str(tmp_path))
    assert newest == str(tmp_path / f"model.ckpt-{values['global_step']}")
    assert_same(state_of(tmp_path, int(values["global_step"])), values)


def test_a_full_makes_the_increments_before_it_stale(tmp_path: Path) -> None:
    found = train(Model(), tmp_path, [1], [2], [3], [4], save_steps=2)
    chains = find_chains(scan_directory(str(tmp_path)))
    assert [full.step for full in chains.scan.fulls] == [0, 2, 4]
    assert [item.step for item in chains.scan.increments] == [1, 3]
    assert_same(state_of(tmp_path, 4), found["values"])


def test_a_damaged_increment_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(Model(), tmp_path, [1], [2])
    index = tmp_path / ".incremental_checkpoint" / "incremental_model.ckpt-2.index"
    index.write_bytes(index.read_bytes()[:-5])
    assert train(Model(), tmp_path)["start"] == 1
    assert "passed over, though newer than step 1: incremental_model.ckpt-2: " in caplog.text


def test_what_is_named_and_gone_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])))
    state = write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"])
    os.utime(state, (1_700_000_000, 1_700_000_000))
    assert [point.step for point in restorable(str(chain.directory))] == [10]
    assert "passed over, though newer than step 10: model.ckpt-40: " in caplog.text


@pytest.mark.parametrize("gone", [False, True])
def test_what_lost_keys_since_a_merge_is_passed_over(tmp_path: Path, gone: bool) -> None:
    chain = build_chain(
        tmp_path,
        full(100, table("emb", [1, 2])),
        increment(120, changes("emb", [1, 2])),
        increment(140, changes("emb", [3])),
    )
    chain.merge(120)
    for path in chain.increment_prefix(120).parent.glob("*-120.*" if gone else "none"):
        path.unlink()
    assert [point.step for point in restorable(str(chain.directory))] == [120, 100]


@pytest.mark.parametrize("kind", ["full", "increment"])
def test_damaged_data_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    train(Model(), tmp_path, [1], [2], save_steps=2 if kind == "full" else 1000)
    (damaged,) = tmp_path.rglob("*model.ckpt-2.data-*")
    corrupt(damaged, 0, 1)
    assert train(Model(), tmp_path)["start"] == 1
    assert "step 2 is not restored: " in caplog.text


def test_increments_that_cannot_be_looked_at_are_not_left_out(tmp_path: Path) -> None:
    """Where they are not mounted just now, the training would go on from the full."""
    train(Model(), tmp_path, [1], [2])
    within = tmp_path / ".incremental_checkpoint"
    away = within.rename(tmp_path / "away")
    within.symlink_to("not mounted")
    with pytest.raises(UnreadableError, match="which state is the newest"):
        train(Model(), tmp_path)
    within.unlink()
    away.rename(within)
    assert train(Model(), tmp_path)["start"] == 2


def test_increments_rotate_after_a_restart_too(tmp_path: Path) -> None:
    train(Model(), tmp_path, [1], [2], [3])
    train(Model(), tmp_path, [1], [2], [3], [4])
    found = (tmp_path / ".incremental_checkpoint").glob("*.index")
    assert sorted(int(path.stem.rpartition("-")[2]) for path in found) == [3, 4, 5, 6, 7]


def test_workers_wait_for_the_increments(tmp_path: Path) -> None:
    """The gate is shut from the first moment of a restore to the last."""
    train(Model(), tmp_path, [1], [2])
    model = Model()
    seen = []
    with model.graph.as_default():
        scaffold = ct.Scaffold(incremental_save_restore=True).finalize()
        saver = scaffold.saver
        with tf1.Session(graph=model.graph) as run:
            seen.append(run.run(scaffold.ready_op).size > 0)
            resume = saver.incremental.resume

            def watched(*args: Any) -> None:
                seen.append(
                    run.run(scaffold.ready_op).tolist() == [b"ckptctl/recorder/ready/device_CPU_0"]
                )
                seen.append(run.run(model.step) == 2)
                resume(*args)

            saver.incremental.resume = watched
            saver.restore(run, str(tmp_path / "model.ckpt-0"))
            assert run.run(scaffold.ready_op).size == 0
    assert seen == [True, True, True]


def test_another_full_is_restored_as_it_is(tmp_path: Path) -> None:
    train(Model(), tmp_path, [1], [2], [3], save_steps=2)
    model = Model()
    with model.graph.as_default():
        scaffold = ct.Scaffold(incremental_save_restore=True).finalize()
        with tf1.Session(graph=model.graph) as run:
            scaffold.saver.restore(run, str(tmp_path / "model.ckpt-0"))
            assert run.run(model.step) == 0


def test_the_seed_signatures(tmp_path: Path) -> None:
    ours, theirs = ct.CheckpointSaverHook, tf1.train.CheckpointSaverHook
    assert issubclass(ours, theirs)
    assert "incremental_save_secs" in inspect.signature(ours).parameters
    model = Model()
    with (
        model.graph.as_default(),
        ct.MonitoredTrainingSession(
            checkpoint_dir=str(tmp_path),
            save_checkpoint_secs=60,
            save_incremental_checkpoint_secs=20,
        ) as run,
    ):
        run.run(model.train_op, {model.ids: [1]})
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model.ckpt-1")


def test_a_training_without_recorded_rows_goes_on_from_its_increments_too(tmp_path: Path) -> None:
    first = train(Model("adam"), tmp_path, [1], [2])
    second = train(Model("adam"), tmp_path)
    assert second["start"] == 2
    assert_same(second["values"], first["values"])


def test_a_saver_that_is_built_before_the_optimizer_restores_increments_too(tmp_path: Path) -> None:
    def run(steps: int) -> int:
        with suppress(Crash), tf.Graph().as_default():
            table = tf1.get_variable("emb", [ROWS, DIM], use_resource=True)
            step = tf1.train.get_or_create_global_step()
            saver = ct.Saver(sharded=True, incremental_save_restore=True)
            optimizer = tf1.train.GradientDescentOptimizer(0.1)
            train_op = optimizer.minimize(tf.gather(table, [1]), step)
            scaffold = ct.Scaffold(saver=saver, incremental_save_restore=True)
            hook = EverySave(str(tmp_path), scaffold=scaffold, save_steps=1000)
            creator = tf1.train.ChiefSessionCreator(scaffold, checkpoint_dir=str(tmp_path))
            with tf1.train.MonitoredSession(creator, [hook]) as session:
                start = int(session.run(step))
                for _ in range(steps):
                    session.run(train_op)
                raise Crash
        return start

    assert [run(3), run(0)] == [0, 3]


@pytest.mark.parametrize("newer", [True, False])
def test_an_evaluation_restores_the_full_alone_and_says_so(
    tmp_path: Path, newer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    found = train(Model(), tmp_path, *([[1], [2]] if newer else []))
    caplog.clear()
    with tf.Graph().as_default():
        emb = tf1.get_variable("emb", [ROWS, DIM], partitioner=tf1.fixed_size_partitioner(3))
        rows, step = tf.convert_to_tensor(emb), tf1.train.get_or_create_global_step()
        scaffold = ct.Scaffold(incremental_save_restore=True)
        with tf1.train.MonitoredSession(
            tf1.train.ChiefSessionCreator(scaffold, checkpoint_dir=str(tmp_path))
        ) as run:
            assert run.run(step) == 0
            assert scaffold.saver.recover(run, str(tmp_path)) == (2 if newer else 0)
            assert_same({"emb": run.run(rows)}, {"emb": found["values"]["emb"]})
    told = "model.ckpt-0 is restored alone, and step 2 is newer" in caplog.text
    assert told is newer


def test_nothing_that_can_be_restored_is_an_error(tmp_path: Path) -> None:
    train(Model(), tmp_path, [1])
    index = tmp_path / "model.ckpt-0.index"
    index.write_bytes(index.read_bytes()[:-5])
    with pytest.raises(IncompleteError, match="nor any other restore point"):
        train(Model(), tmp_path)


def test_a_prefix_that_lost_a_shard_is_saved_again(tmp_path: Path) -> None:
    train(Model(), tmp_path, [1], save_steps=1)
    shard = next(tmp_path.glob("model.ckpt-1.data-*"))
    shard.unlink()
    assert train(Model(), tmp_path, [1], save_steps=1)["start"] == 0
    assert shard.exists()


def test_a_listener_can_end_the_training_after_an_increment(tmp_path: Path) -> None:
    class End(tf1.train.CheckpointSaverListener):
        def after_save(self, session: Any, step: int) -> bool:
            return bool(step == 1)

    model = Model()
    with model.graph.as_default(), session(model, tmp_path, listeners=[End()]) as run:
        run.run(model.train_op, {model.ids: [1]})
        assert run.should_stop()


def test_intervals_are_tensorflows(tmp_path: Path) -> None:
    def saved(*args: Any, **options: Any) -> list[int]:
        model = Model()
        room = tmp_path / str(len(list(tmp_path.iterdir())))
        with (
            model.graph.as_default(),
            ct.MonitoredTrainingSession(
                "", True, str(room), *args, save_incremental_checkpoint_secs=1000, **options
            ) as run,
        ):
            for _ in range(4):
                run.run(model.train_op, {model.ids: [1]})
        return [full.step for full in scan_directory(str(room)).fulls]

    assert saved() == [0, 4]
    assert saved(save_checkpoint_steps=2) == [0, 2, 4]
    assert saved(save_checkpoint_steps=2, save_checkpoint_secs=0) == [0, 2, 4]
    for none in (None, 0, -1):
        with pytest.raises(UsageError, match="without fulls"):
            saved(save_checkpoint_secs=none)
    with pytest.raises(UsageError, match="save_checkpoint_secs: a number, not '60'"):
        saved(save_checkpoint_secs="60")
    with pytest.raises(ValueError, match="Can not provide both"):
        saved(save_checkpoint_steps=2, save_checkpoint_secs=60)


@pytest.mark.parametrize("secs", [0, -5])
def test_no_interval_is_no_increments(tmp_path: Path, secs: int) -> None:
    model = Model()
    options: dict[str, Any] = {"save_summaries_steps": None, "log_step_count_steps": None}
    with (
        model.graph.as_default(),
        ct.MonitoredTrainingSession(
            checkpoint_dir=str(tmp_path), save_incremental_checkpoint_secs=secs, **options
        ) as run,
    ):
        for _ in range(3):
            run.run(model.train_op, {model.ids: [1]})
    assert not (tmp_path / ".incremental_checkpoint").exists()
    with pytest.raises(UsageError, match="save_incremental_checkpoint_secs: a number, not '20'"):
        ct.MonitoredTrainingSession(save_incremental_checkpoint_secs="20")
    with pytest.raises(UsageError, match="incremental_save_secs: a number, not '20'"):
        ct.CheckpointSaverHook(str(tmp_path), save_secs=60, incremental_save_secs="20")


def test_a_session_of_eager_mode_is_refused() -> None:
    with pytest.raises(UsageError, match="disable_eager_execution"):
        ct.MonitoredTrainingSession(save_incremental_checkpoint_secs=20)


def test_a_scaffold_needs_our_saver() -> None:
    model = Model()
    with model.graph.as_default(), pytest.raises(UsageError, match=r"ckptctl\.training\.Saver"):
        ct.Scaffold(saver=tf1.train.Saver(), incremental_save_restore=True)


@pytest.mark.parametrize("scaffold", [tf1.train.Scaffold, ct.Scaffold])
def test_increments_that_no_restart_restores_are_refused(tmp_path: Path, scaffold: Any) -> None:
    model = Model()
    with model.graph.as_default():
        plain = scaffold(saver=ct.Saver(sharded=True, incremental_save_restore=True))
        hook = EverySave(str(tmp_path), scaffold=plain, save_steps=1000)
        creator = tf1.train.ChiefSessionCreator(plain, checkpoint_dir=str(tmp_path))
        with pytest.raises(UsageError, match="a restart would not restore"):
            tf1.train.MonitoredSession(creator, [hook])
    assert not list(tmp_path.glob("*ckpt*"))


def latest(directory: Path) -> int | None:
    return find_chains(scan_directory(str(directory))).latest
