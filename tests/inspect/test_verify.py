"""Each way to spoil a directory is found with its code, and a whole one yields nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.bundle.proto import BundleEntryProto
from ckptctl.bundle.writer import index_bytes
from ckptctl.chain import scan_directory
from ckptctl.chain.model import Checkpoint
from ckptctl.inspect import findings
from ckptctl.inspect.findings import CATALOGUE, Finding
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.inspect.verify_memory import VerifiedData
from tests.bundle import builders
from tests.inspect.spoils import (
    FULL,
    INCREMENTS,
    PLAIN,
    SPOILS,
    as_nobody,
    codes,
    look,
    of_byte,
    whole,
)
from tests.oracle.chain import (
    build_chain,
    changes,
    flip,
    full,
    increment,
    table,
    write_state,
)
from tests.oracle.images import Piece, Sliced


def test_the_list_is_whole() -> None:
    assert sorted(SPOILS) == sorted(CATALOGUE)


@pytest.mark.parametrize("code", SPOILS)
def test_each_corruption_is_found_with_its_code(tmp_path: Path, code: str) -> None:
    chain = whole(tmp_path)
    assert codes(look(chain.directory)) == []
    SPOILS[code](chain)
    if chain.directory.joinpath("checkpoint").exists() and code in ("CK028", "CK032", "CK033"):
        chain.list_all()
    with as_nobody(chain.directory) if code == "CK090" else nullcontext():
        found = look(chain.directory)
    assert code in codes(found), found.findings
    finding = next(each for each in found.findings if each.code == code)
    assert finding.severity == CATALOGUE[code].severity
    assert finding.message
    assert finding.file.startswith(str(chain.directory.parent))
    quick = codes(look(chain.directory, data=False))
    if code not in ("CK008", "CK020"):  # which tell of a file that is not there
        assert all(Path(each.file).exists() for each in found.findings if each.code == code)
    if code < "CK050" and code != "CK024":
        assert code in quick
    json.dumps(found.document())


def test_a_slice_that_is_listed_and_has_no_data(tmp_path: Path) -> None:
    """TensorFlow restores no such variable: the full is none."""
    pieces = [Piece(((2 * at, 2), (0, 2)), bytes(16)) for at in range(3)]
    chain = build_chain(tmp_path, full(100, {"cut": Sliced("float32", (6, 2), pieces)}))
    prefix = chain.full_prefix(100)
    with BundleReader(str(prefix)) as reader:
        entries = {name.encode(): entry for name, entry in reader.tensors.items()}
        entries |= {key: entry for key, *_, entry in [*reader.slice_keys()][:2]}
        Path(reader.index_path).write_bytes(index_bytes(reader.header, entries))
    assert codes(look(chain.directory, data=False)) == ["CK007"]
    (found,) = look(chain.directory).findings
    assert (found.tensor, found.expected) == ("cut", "an entry for slice 4,2:0,2")
    (listed,) = scan_directory(str(chain.directory)).fulls
    assert not listed.complete


# --- what is whole --------------------------------------------------------------------


def test_deeprecs_own_chain_is_clean(golden: Path) -> None:
    assert codes(look(golden / "deeprec" / "sharded")) == []


@pytest.mark.parametrize("name", ["negative", "inactive"])
def test_what_deeprec_wrote_while_idle(golden: Path, name: str) -> None:
    assert codes(look(golden / "deeprec" / name)) == ["CK026"]


def test_a_chain_that_tensorflow_wrote_is_clean(tf: ModuleType, tmp_path: Path) -> None:
    script = (
        "import sys, tensorflow.compat.v1 as tf, ckptctl.training as ct\n"
        "tf.disable_eager_execution()\n"
        "v = tf.get_variable('emb', [50, 4], partitioner=tf.fixed_size_partitioner(3))\n"
        "ids = tf.placeholder(tf.int64, [None])\n"
        "loss = tf.reduce_sum(tf.square(tf.nn.embedding_lookup(v, ids)))\n"
        "step = tf.train.get_or_create_global_step()\n"
        "train = tf.train.AdagradOptimizer(.1).minimize(loss, step)\n"
        "saver = ct.Saver(sharded=True, incremental_save_restore=True)\n"
        "home = sys.argv[1]\n"
        "sub = home + '/.incremental_checkpoint'\n"
        "import os; os.mkdir(sub)\n"
        "with tf.Session() as s:\n"
        "    s.run(tf.global_variables_initializer())\n"
        "    for i in range(3):\n"
        "        s.run(train, {ids: [1, 2]})\n"
        "        saver.save(s, home + '/model.ckpt', step)\n"
        "        for j in range(2):\n"
        "            s.run(train, {ids: [3 + i, 20 + j]})\n"
        "            saver.incremental.save(s, sub + '/incremental_model.ckpt', step)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = look(tmp_path)
    assert found.findings == []
    assert (found.checkpoints, found.count("damage")) == (8, 0)  # max_to_keep 5


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(1, table("e", [1, 1001], filtered=[2]), PLAIN))
    prefix = chain.full_prefix(1)
    for path in (Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")):
        size = path.stat().st_size
        for at in range(0, size, 1 if size < 2000 else 37):
            flip(path, at)
            found = look(chain.directory)
            assert found.count("damage"), (path.name, at)
            flip(path, at)
    assert codes(look(chain.directory)) == []


# --- how it is asked ------------------------------------------------------------------


def test_damage_of_one_tensor_leaves_no_other_unread(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    for name in ("emb/part_0-values", "emb/part_1-keys", "dense"):
        of_byte(name)(chain)
    of_byte("emb/part_0/Adagrad-values", step=100)(chain)
    found = look(chain.directory)
    assert {each.tensor for each in found.findings if each.code == "CK050"} == {
        "emb/part_0-values", "emb/part_1-keys", "dense", "emb/part_0/Adagrad-values",
    }  # fmt: skip


def test_subsets_together_are_the_whole(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_byte("emb/part_0-values")(chain)
    of_byte("dense")(chain)
    every = look(chain.directory)
    parts = [look(chain.directory, subset=(n, 4)) for n in range(1, 5)]
    assert sum(part.tensors for part in parts) == every.tensors
    assert sum(part.nbytes for part in parts) == every.nbytes
    together: set[Finding] = {each for part in parts for each in part.findings}
    assert together == set(every.findings)


def test_an_index_that_may_not_be_read_is_one_finding(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    Path(f"{chain.full_prefix(100)}.index").chmod(0)
    with as_nobody(chain.directory):
        found = look(chain.directory)
    assert "CK090" in codes(found)
    assert found.count("damage") == 0


def test_what_was_clean_is_not_read_again_until_it_changes(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_byte("dense")(chain)
    assert look(chain.directory).skipped == []
    again = look(chain.directory, max_age_s=3600)
    names = [chain.prefix(step).name for step in (120, 140)]
    assert (sorted(again.skipped), again.count("damage")) == (names, 1)
    of_byte("dense")(chain)
    flip(next(chain.directory.glob(f"{INCREMENTS}/*-140.data*")), 50)
    assert sorted(look(chain.directory, max_age_s=3600).skipped) == names[:1]
    assert look(chain.directory, max_age_s=0).skipped == []


def test_what_was_never_verified_has_no_age(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    assert look(chain.directory, max_age_s=100 * 365 * 86400).skipped == []


def test_what_was_verified_in_the_future_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = whole(tmp_path)
    home = tmp_path / "cache-of-its-own"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    look(chain.directory)
    notes = [path for path in (home / "ckptctl" / "data").iterdir() if path.is_file()]
    assert len(notes) == 3
    for path in notes:
        os.utime(path, (time.time() + 86400,) * 2)  # as a clock that was a day ahead leaves it
    assert look(chain.directory, max_age_s=1800).skipped == []
    assert len(look(chain.directory, max_age_s=1800).skipped) == 3


def test_the_longest_unverified_comes_first(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    look(chain.directory, step=100)
    plan = plan_verify(str(chain.directory))
    assert plan.checkpoints[-1].step == 100


def test_without_time_all_is_left_and_named(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    found = look(chain.directory, max_duration_s=-1)
    assert (len(found.left), found.tensors) == (3, 0)
    assert len(look(chain.directory, max_duration_s=60).left) == 0


def test_an_increment_whose_keys_there_was_no_time_to_compare_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That an increment holds the keys of the one before is looked at last."""
    chain = whole(tmp_path)
    SPOILS["CK024"](chain)
    read: list[Checkpoint] = []
    add = VerifiedData.add
    monkeypatch.setattr(
        VerifiedData, "add", lambda self, own: (read.append(own), add(self, own))[1]
    )
    monkeypatch.setattr("time.monotonic", lambda: len(read))  # a second each
    found = look(chain.directory, max_duration_s=2.5)
    assert (found.checkpoints, found.left, codes(found)) == (3, [chain.prefix(140).name], [])
    assert codes(look(chain.directory, max_duration_s=60)) == ["CK024"]


def test_only_what_a_step_needs(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_byte("emb/part_0-sparse_incr_values", step=140)(chain)
    assert look(chain.directory, step=120).findings == []
    assert codes(look(chain.directory, step=140)) == ["CK050"]


def test_a_step_that_cannot_be_restored_is_looked_at_too(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK008"](chain)
    assert codes(look(chain.directory, step=100, data=False)) == ["CK008"]
    assert "CK008" in codes(look(chain.directory, step=140, data=False))


def test_the_increments_that_a_step_needs_are_compared(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK024"](chain)
    assert codes(look(chain.directory, step=120)) == []
    assert codes(look(chain.directory, step=140)) == ["CK024"]


def test_warnings_of_data_are_told_in_every_run(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    assert codes(look(chain.directory)) == ["CK059"]
    again = look(chain.directory, max_age_s=3600)
    assert (codes(again), len(again.skipped)) == (["CK059"], 2)


def test_what_is_rotated_away_under_us_is_no_damage(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    plan = plan_verify(str(chain.directory), data=True)
    assert plan.chains.base_of(plan.checkpoints[-1]).base is not None
    next(chain.directory.glob(f"{FULL}.data*")).unlink()
    found = execute_verify(plan)
    assert set(codes(found)) == {"CK090"}
    assert found.findings[0].file.startswith(str(chain.full_prefix(100)))


def test_a_state_file_that_may_not_be_read_is_no_damage(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    (chain.directory / "checkpoint").chmod(0)
    with as_nobody(chain.directory):
        found = look(chain.directory, data=False)
    assert "CK090" in codes(found)
    assert found.count("damage") == 0


@pytest.mark.parametrize(("previous", "found"), [("a", []), ("another", ["CK023"])])
def test_a_merged_full_covers_the_predecessor_that_it_holds(
    tmp_path: Path, previous: str, found: list[str]
) -> None:
    told = {"version": 1, "base_step": 10, "mode": "delta"}
    first = increment(20, changes("emb", [1]), lineage=told | {"id": "a"})
    chain = build_chain(tmp_path, full(10, table("emb", [1])), first)
    chain.merge(20)
    for path in chain.increment_prefix(20).parent.iterdir():
        path.unlink()
    told |= {"id": "b", "previous_step": 20, "previous_id": previous}
    chain.add(increment(30, changes("emb", [1]), lineage=told))
    assert [c for c in codes(look(chain.directory, data=False)) if c == "CK023"] == found


def test_findings_of_one_place_keep_their_order(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    home = chain.directory.with_name("a directory with spaces")
    shutil.copytree(chain.directory, home)
    write_state(home, ["model.ckpt-1", "model.ckpt-2", "model.ckpt-3", FULL])
    found = look(home, data=False).findings
    assert {each.file for each in found} == {str(home / "checkpoint")}
    assert [each.message for each in found] == sorted(each.message for each in found)
    assert len(found) == 3


def test_the_docs_list_every_code() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "findings.md").read_text()
    assert text == findings.render(), "python -m ckptctl.inspect.findings > docs/findings.md"


def test_an_entry_is_what_the_builder_says() -> None:
    assert BundleEntryProto.FromString(builders.of_data(1, [1], b"abcd")).size == 4
