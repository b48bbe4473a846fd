"""Chains that DeepRec's own C++ code wrote, and what must come out of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptctl.bundle import BundleReader, TensorSlice
from ckptctl.errors import CkptctlError, IncompleteError, UnprovenError
from ckptctl.merge import execute_merge, plan_merge
from tests.oracle.images import read_bytes

MERGED = [
    ("inactive", 60),
    ("sharded", 120),
    ("sharded", 140),
    ("sharded", 180),
    ("negative", 60),
]
REFUSED = [
    ("inactive", 20, UnprovenError, 12, "recorder was not yet activated"),
    ("negative", 20, UnprovenError, 12, "recorder was not yet activated"),
    ("emptyshard", 20, IncompleteError, 4, ".data-00000-of-00002"),
    ("emptyshard", 60, IncompleteError, 4, ".data-00000-of-00002"),
]


def copied(golden: Path, tmp_path: Path, name: str) -> tuple[Path, dict[str, Any]]:
    target = tmp_path / name
    shutil.copytree(golden / "deeprec" / name, target)
    for path in [target, *target.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    expected = json.loads((target / "expected.json").read_text())
    (target / "expected.json").unlink()
    return target, expected["steps"]


@pytest.mark.parametrize(("name", "step"), MERGED)
def test_an_increment_merges_to_its_merged_state(
    golden: Path, tmp_path: Path, name: str, step: int
) -> None:
    directory, steps = copied(golden, tmp_path, name)
    expected = steps[str(step)]
    result = execute_merge(plan_merge(str(directory), step), jobs=2)
    assert result.prefix == str(directory / f"model.ckpt-{step}")
    with BundleReader(result.prefix) as reader:
        for ev, state in expected["merged"].items():
            assert (ev, rows(reader, ev)) == (ev, state["rows"])
            assert (ev, filtered(reader, ev)) == (ev, state["filtered"])
        assert expected["tensors"]
        for tensor in expected["tensors"]:
            assert plain(reader, tensor) == (tensor["name"], tensor["hex"])
        for _, tensor, entry in reader.data_entries():
            reader.check_tensor(tensor, entry)
        base = BundleReader(str(directory / f"model.ckpt-{expected['base_full']}"))
        assert set(reader.tensors) - {"ckptctl/merged"} == set(base.tensors)
    assert not [w for w in result.warnings if "outside" in w]


def rows(reader: BundleReader, ev: str) -> dict[str, list[Any]]:
    """Key to [value as hex, version, freq], as the golden files say it."""
    keys = reader.read(f"{ev}-keys").tolist()
    values = reader.read(f"{ev}-values")
    columns = [column(reader, ev, suffix, len(keys)) for suffix in ("-versions", "-freqs")]
    return {
        str(key): [value.tobytes().hex(), *rest]
        for key, value, *rest in zip(keys, values, *columns, strict=True)
    }


def filtered(reader: BundleReader, ev: str) -> dict[str, list[Any]]:
    keys = reader.read(f"{ev}-keys_filtered").tolist()
    suffixes = ("-versions_filtered", "-freqs_filtered")
    columns = [column(reader, ev, suffix, len(keys)) for suffix in suffixes]
    return {str(key): list(rest) for key, *rest in zip(keys, *columns, strict=True)}


def column(reader: BundleReader, ev: str, suffix: str, length: int) -> list[int | None]:
    return reader.read(ev + suffix).tolist() or [None] * length


def plain(reader: BundleReader, tensor: dict[str, Any]) -> tuple[str, str]:
    name = tensor["name"]
    entry = reader.entry(name)
    if tensor["spec"]:
        *_, where = tensor["spec"].split(" ")
        extents = tuple(tuple(map(int, item.split(","))) for item in where.split(":"))
        entry = reader.slice_entry(name, TensorSlice(extents))
    return name, read_bytes(reader, entry).hex()


@pytest.mark.parametrize(("name", "step", "kind", "code", "why"), REFUSED)
def test_an_increment_is_refused_for_the_reason_given(
    golden: Path, name: str, step: int, kind: type[CkptctlError], code: int, why: str
) -> None:
    with pytest.raises(kind) as caught:
        plan_merge(str(golden / "deeprec" / name), step)
    assert caught.value.exit_code == code
    assert why in str(caught.value)


def test_every_increment_is_accounted_for(golden: Path) -> None:
    """No golden increment without a test."""
    known = {(name, step) for name, step, *_ in [*MERGED, *REFUSED]}
    found = {
        (path.parts[-3], int(path.stem.rpartition("-")[2]))
        for path in golden.glob("deeprec/*/.incremental_checkpoint/*.index")
    }
    assert found == known


def test_a_second_merge_stands_on_the_first(golden: Path, tmp_path: Path) -> None:
    directory, steps = copied(golden, tmp_path, "sharded")
    execute_merge(plan_merge(str(directory), 120))
    plan = plan_merge(str(directory), 140)
    assert plan.base.step == 120
    result = execute_merge(plan)
    with BundleReader(result.prefix) as reader:
        for ev, state in steps["140"]["merged"].items():
            assert rows(reader, ev) == state["rows"]


# --- read back by TensorFlow ----------------------------------------------------------

READ = """
import json, sys
import numpy as np
import tensorflow as tf
reader = tf.train.load_checkpoint(sys.argv[1])
found = {}
for name in reader.get_variable_to_shape_map():
    value = np.asarray(reader.get_tensor(name))
    found[name] = [list(value.shape), value.tobytes().hex() if value.dtype != object else "text"]
tf1 = tf.compat.v1
tf1.disable_eager_execution()
with tf1.Graph().as_default():
    wide = tf1.get_variable("wide", [151, 4], partitioner=tf1.fixed_size_partitioner(2))
    slot = tf1.get_variable("slot", [90, 3])
    step = tf1.get_variable("global_step", [], tf.int64, initializer=tf1.zeros_initializer())
    saver = tf1.train.Saver({"wide": wide, "tab/Adagrad": slot, "global_step": step})
    with tf1.Session() as session:
        saver.restore(session, sys.argv[1])
        restored = session.run([tf.concat(list(wide), 0), slot, step])
found["restored"] = [np.asarray(value).tobytes().hex() for value in restored]
print("JSON" + json.dumps(found))
"""


def check_read(found: dict[str, Any], prefix: str) -> None:
    with BundleReader(prefix) as reader:
        assert set(found) - {"restored"} == set(reader.tensors)
        for name, entry in reader.tensors.items():
            if entry.dtype.name != "string":
                own = reader.read(name)
                assert found[name] == [list(own.shape), own.tobytes().hex()]
        names = ("wide", "tab/Adagrad", "global_step")
        assert found["restored"] == [reader.read(name).tobytes().hex() for name in names]


@pytest.mark.tensorflow
def test_tensorflow_restores_the_result(golden: Path, tmp_path: Path) -> None:
    directory, _ = copied(golden, tmp_path, "sharded")
    prefix = execute_merge(plan_merge(str(directory), 140)).prefix
    script = tmp_path / "read.py"
    script.write_text(READ)
    done = subprocess.run(
        [sys.executable, str(script), prefix], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check_read(json.loads(done.stdout.rpartition("JSON")[2]), prefix)


def test_tensorflow_1_15_restores_the_result(
    golden: Path, tmp_path: Path, run_tf115: Callable[..., str]
) -> None:
    directory, _ = copied(golden, tmp_path, "sharded")
    prefix = execute_merge(plan_merge(str(directory), 140)).prefix
    check_read(json.loads(run_tf115(READ, prefix).rpartition("JSON")[2]), prefix)
