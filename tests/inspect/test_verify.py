"""Each way to spoil a directory is found with its code, and a whole one yields nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ckptctl.bundle.proto import BundleEntryProto
from ckptctl.inspect import findings
from ckptctl.inspect.findings import CATALOGUE, Finding
from ckptctl.inspect.verify import Verified, execute_verify, plan_verify
from tests.bundle import builders
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    Increment,
    build_chain,
    changes,
    flip,
    full,
    increment,
    table,
    write_state,
)
from tests.oracle.images import (
    Filtered,
    Image,
    Row,
    Rows,
    Tensor,
    edit_index,
    floats,
    ints,
    string,
    write_image,
)

KEYS = range(0, 3000, 7)
FULL = "model.ckpt-100"


def emb(keys: Any = KEYS, **more: Any) -> Any:
    facts = {"versions": 5, "freqs": 9, "filtered": {3: 1, 1004: 2}}
    return table("emb", keys, parts=2, **(facts | more))


PLAIN = {"dense": floats(*range(8), shape=(4, 2)), "words": string("ab", "c", shape=(2,))}


VAR = {"var": floats(*range(8), shape=(4, 2))}


def rows(*numbers: int, width: int = 2) -> Rows:
    return Rows("var", "float32", width, dict.fromkeys(numbers, b"\x00" * 4 * width))


def whole(tmp_path: Path) -> Chain:
    return build_chain(
        tmp_path,
        full(100, emb(), PLAIN | VAR),
        increment(120, changes("emb", [7, 50], parts=2, versions=6, freqs=9), PLAIN, rows(1)),
        increment(
            140, changes("emb", [7, 50, 51], parts=2, versions=7, freqs=9), PLAIN, rows(1, 3)
        ),
    )


def look(directory: Path, **options: Any) -> Verified:
    chosen = {name: options.pop(name) for name in ("max_duration_s",) if name in options}
    return execute_verify(plan_verify(str(directory), **({"data": True} | options)), **chosen)


def codes(found: Verified) -> list[str]:
    return [finding.code for finding in found.findings]


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Give up root for a while: it may read everything."""
    for path in (directory.parent, directory):
        path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


# --- the list of corruptions ----------------------------------------------------------


def of_index(change: Callable[[bytes], bytes]) -> Callable[[Chain], None]:
    def spoil(chain: Chain) -> None:
        path = Path(f"{chain.full_prefix(100)}.index")
        path.write_bytes(change(path.read_bytes()))

    return spoil


def of_entry(name: str, change: Callable[[Any], None]) -> Callable[[Chain], None]:
    def edit(key: bytes, message: Any) -> None:
        if key == name.encode():
            change(message)

    return lambda chain: edit_index(chain.full_prefix(100), edit)


def instead(chain: Chain, image: Image) -> None:
    """Write a checkpoint in the place of another."""
    home = chain.directory / INCREMENTS if isinstance(image, Increment) else chain.directory
    for path in home.glob(f"*-{image.step}.*"):
        path.unlink()
    chain.add(image)


def of_full(*things: Any, **fields: Any) -> Callable[[Chain], None]:
    return lambda chain: instead(chain, full(100, *things, VAR, **fields))


def of_increment(*things: Any, step: int = 140, **fields: Any) -> Callable[[Chain], None]:
    return lambda chain: instead(chain, increment(step, *things, **fields))


def of_byte(suffix: str, at: int = 0, step: int = 100) -> Callable[[Chain], None]:
    """Flip a byte of a tensor."""

    def spoil(chain: Chain) -> None:
        from ckptctl.bundle import BundleReader

        with BundleReader(str(chain.prefix(step))) as reader:
            entry = reader.entry(suffix)
            flip(Path(reader.shard_path(entry.shard)), entry.offset + at)

    return spoil


def evs(change: Callable[[Any], Any], slot: str = "", part: int = 0) -> list[Any]:
    """Return the table with one EV changed."""
    return [change(ev) if (ev.slot, ev.part) == (slot, part) else ev for ev in emb()]


def move_entry(message: Any) -> None:
    message.offset -= 4


def twins(chain: Chain) -> None:
    for path in chain.directory.glob(f"{FULL}.*"):
        shutil.copy(path, path.with_name(path.name.replace("-100", "-0100")))


def rolled_back(chain: Chain) -> None:
    write_image(full(300, emb(), PLAIN), chain.full_prefix(300))
    names = ["model.ckpt-300", "model.ckpt-100"]
    write_state(chain.directory, names)


def copied(chain: Chain) -> None:
    home = chain.directory.with_name("elsewhere")
    shutil.copytree(chain.directory, home)
    write_state(chain.directory, [str(home / FULL)])


def unproven(chain: Chain) -> None:
    write_state(chain.directory, [FULL, "model.ckpt-110"])


def idle_shard(chain: Chain) -> None:
    instead(chain, full(100, emb(shards=2), PLAIN | VAR, shards=2))
    for step in (120, 140):
        instead(chain, increment(step, changes("emb", [50], parts=2), PLAIN))


def unreadable(chain: Chain) -> None:
    next(chain.directory.glob(f"{FULL}.data*")).chmod(0)


SPOILS: dict[str, Callable[[Chain], None]] = {
    "CK001": of_index(lambda data: data[:20]),
    "CK002": of_index(lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "CK003": of_index(lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "CK004": of_index(lambda _: builders.table([(b"~", b"\xff" * 9)])),
    "CK005": of_index(
        lambda _: builders.index_of([(b"b", builders.of_data(1, [1], b"")), (b"a", b"")])
    ),
    "CK006": of_index(lambda _: builders.index_of([], head=builders.header(0))),
    "CK007": of_entry("dense", lambda m: setattr(m, "size", m.size - 4)),
    "CK008": lambda chain: next(chain.directory.glob(f"{FULL}.data*")).unlink(),
    "CK009": lambda chain: os.truncate(next(chain.directory.glob(f"{FULL}.data*")), 100),
    "CK010": of_entry("dense", move_entry),
    "CK011": lambda chain: (chain.directory / "checkpoint").write_text("nothing {"),
    "CK012": of_full(emb(), PLAIN, raw={"emb/part_0-versions": ints("int64", [1, 2])}),
    "CK013": lambda chain: instead(chain, full(100, emb()[:-1], PLAIN | VAR)),
    "CK020": lambda chain: (chain.directory / "checkpoint").unlink(),
    "CK021": lambda chain: write_state(chain.directory, ["model.ckpt-50", FULL]) and None,
    "CK022": copied,
    "CK023": of_increment(
        changes("emb", [7, 50, 51], parts=2), PLAIN,
        lineage={"version": 1, "base_step": 90, "previous_step": None, "mode": "cumulative"},
    ),
    "CK024": of_increment(changes("emb", [7], parts=2), PLAIN, rows(1)),
    "CK025": rolled_back,
    "CK026": of_increment(changes("emb", [], parts=2), PLAIN),
    "CK027": unproven,
    "CK028": of_increment(changes("emb", [7], parts=2), PLAIN, step=50),
    "CK029": twins,
    "CK030": of_full(emb(), table("part_0/t", [1], parts=2), PLAIN),
    "CK031": lambda chain: (chain.directory / "model.ckpt-9_temp_00ff").mkdir(),
    "CK032": of_full(emb(), PLAIN, {"ckptctl/merged": string(json.dumps(
        {"version": 1, "base_step": 80, "up_to": 90, "mode": "cumulative"}))}),
    "CK033": idle_shard,
    "CK034": lambda chain: (chain.directory / ".ckptctl").mkdir()
    or ((chain.directory / ".ckptctl" / "removed.jsonl").write_text("nothing\n") and None),
    "CK035": lambda chain: (chain.directory / f"{FULL}.data-00000-of-00003").touch(),
    "CK050": of_byte("emb/part_0-values"),
    "CK051": of_entry("words", lambda m: setattr(m, "size", m.size - 1)),
    "CK052": of_full(emb(), PLAIN, raw={
        "emb/part_0-partition_offset": Tensor("int32", (1001,), np.full(1001, 5, "<i4").tobytes())
    }),
    "CK053": of_full(evs(lambda ev: replace(ev, rows=[ev.rows[0], *ev.rows])), PLAIN),
    "CK054": of_full(
        evs(lambda ev: replace(ev, rows=[*ev.rows, Row(998, 4, b"\0" * 8, 1, 9)])), PLAIN
    ),
    "CK055": of_full(
        evs(lambda ev: replace(ev, rows=[Row(0, -3, b"\0" * 8, 1, 9), *ev.rows])), PLAIN
    ),
    "CK056": of_full(
        evs(lambda ev: replace(ev, filtered=[Filtered(14, 14, 1, 1)])), PLAIN
    ),
    "CK057": of_full(evs(lambda ev: replace(ev, versions=False), part=1), PLAIN),
    "CK058": of_full(
        evs(lambda ev: replace(ev, filtered=[Filtered(4, 1004, 1, 10)])), PLAIN
    ),
    "CK059": of_full(evs(lambda ev: replace(ev, rows=ev.rows[:-2]), slot="Adagrad"), PLAIN),
    "CK060": of_full(emb(), PLAIN | {"dense": floats(1.0, float("inf"), float("nan"))}),
    "CK061": of_full(emb({7: 1.0, 14: 3e38}), PLAIN),
    "CK062": of_increment(changes("emb", [7, 50, 51], parts=2), PLAIN, rows(-1, 3)),
    "CK063": of_increment(changes("emb", [7, 50, 51], parts=2), PLAIN, rows(1, 4)),
    "CK090": unreadable,
}  # fmt: skip


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
    if code < "CK050" and code != "CK024":
        assert code in quick
    json.dumps(found.document())


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


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        ([("", 0)], "emb/part_0"),
        ([("", 1)], "emb"),
        ([("Adagrad", 1)], "emb"),
        ([("", 0), ("Adagrad", 0)], "emb/part_0"),
    ],
)
def test_a_part_that_is_not_there(tmp_path: Path, lost: list[Any], code: str) -> None:
    chain = whole(tmp_path)
    of_full([ev for ev in emb() if (ev.slot, ev.part) not in lost], PLAIN)(chain)
    found = look(chain.directory, data=False).findings
    assert [each.tensor for each in found if each.code == "CK013"][:1] == [code]


def test_a_scope_called_like_a_part_is_no_missing_part(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_full(emb(), table("tower/part_3/t", [1]), PLAIN)(chain)
    assert "CK013" not in codes(look(chain.directory, data=False))


def test_a_table_without_its_values_is_no_plain_tensors(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_full(table("t", [1]), PLAIN, raw={"emb-partition_offset": ints("int32", [0] * 1001)})(chain)
    assert "CK012" in codes(look(chain.directory, data=False))


@pytest.mark.parametrize(
    ("filtered", "code"),
    [
        ([Filtered(5, 5, 1, 1)], "CK054"),
        ([Filtered(4, 4, 1, 1), Filtered(4, 4, 1, 1)], "CK053"),
        ([Filtered(0, -3, 1, 1)], "CK055"),
    ],
)
def test_filtered_keys_are_keys_too(tmp_path: Path, filtered: list[Filtered], code: str) -> None:
    chain = whole(tmp_path)
    of_full(evs(lambda ev: replace(ev, filtered=filtered)), PLAIN)(chain)
    found = {(each.code, each.tensor) for each in look(chain.directory).findings}
    assert (code, "emb/part_0-keys_filtered") in found


@pytest.mark.parametrize("code", ["", *(code for code in SPOILS if "CK052" <= code <= "CK059")])
def test_buckets_that_are_too_large_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("ckptctl.knobs.JOIN_KEYS", 1)
    chain = whole(tmp_path)
    if code:
        SPOILS[code](chain)
    assert set(codes(look(chain.directory))) - {"CK059"} == {code} - {"CK059", ""}


def test_rows_behind_the_last_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = whole(tmp_path)
    nothing = {"emb/part_0-partition_offset": ints("int32", [0] * 1001)}
    of_full(emb(), PLAIN, raw=nothing)(chain)
    whole_found = look(chain.directory).findings
    monkeypatch.setattr("ckptctl.knobs.JOIN_KEYS", 1)
    sliced = look(chain.directory).findings
    assert [each.code for each in whole_found] == [each.code for each in sliced] == ["CK054"]
    assert sliced[0].found == "215"


@pytest.mark.parametrize("slot", ["", "Adagrad"])
def test_an_increment_that_lacks_a_part_of_one_member(tmp_path: Path, slot: str) -> None:
    chain = whole(tmp_path)
    sets = changes("emb", [7, 50, 51], parts=2, versions=7, freqs=9)
    lacking = [ev for ev in sets if (ev.slot, ev.part) != (slot, 0)]
    of_increment(lacking, PLAIN, rows(1, 3))(chain)
    found = {(each.code, each.tensor) for each in look(chain.directory, data=False).findings}
    assert ("CK059", "emb/Adagrad") in found


def test_damaged_values_leave_the_keys_to_be_compared(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    of_byte("emb/part_0-values")(chain)
    assert set(codes(look(chain.directory))) == {"CK050", "CK059"}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (Tensor("float16", (2,), np.array([1, np.inf], "<f2").tobytes()), ["CK060"]),
        (Tensor("float16", (2,), np.array([1, 65504], "<f2").tobytes()), []),
        (Tensor("bfloat16", (2,), b"\x80\x7f\x00\x00"), ["CK060"]),
        (Tensor("float64", (2,), np.array([-1e31, 0]).tobytes()), ["CK061"]),
        (Tensor("float32", (0,), b""), []),
    ],
)
def test_numbers_of_every_width(tmp_path: Path, tensor: Tensor, expected: list[str]) -> None:
    build_chain(tmp_path, full(1, {"x": tensor}))
    assert codes(look(tmp_path / "chain")) == expected


def test_what_lies_below_a_large_tensor_is_seen(tmp_path: Path) -> None:
    tensors = {name: floats(*range(size)) for name, size in (("a", 40), ("b", 4), ("c", 4))}
    chain = build_chain(tmp_path, full(1, tensors))

    def edit(key: bytes, message: Any) -> None:
        if key in (b"b", b"c"):
            message.offset = {b"b": 8, b"c": 80}[key]

    edit_index(chain.full_prefix(1), edit)
    found = look(chain.directory, data=False).findings
    assert [(each.code, each.tensor) for each in found] == [("CK010", "b"), ("CK010", "c")]


def test_findings_of_one_place_keep_their_order(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    home = chain.directory.with_name("a directory with spaces")
    shutil.copytree(chain.directory, home)
    write_state(home, ["model.ckpt-1", "model.ckpt-2", "model.ckpt-3", FULL])
    found = look(home, data=False).findings
    assert {each.file for each in found} == {str(home / "checkpoint")}
    assert [each.message for each in found] == sorted(each.message for each in found)
    assert len(found) == 3


def test_row_numbers_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.inspect.verify_keys._ROW_NUMBERS", 8)
    numbers = ints("int64", [*range(30), 3, 17])
    chain = build_chain(
        tmp_path,
        full(1, {"var": floats(*range(58), shape=(29, 2))}),
        increment(2, raw={
            "var-sparse_incr_keys": numbers,
            "var-sparse_incr_values": floats(*range(64), shape=(32, 2)),
        }),
    )  # fmt: skip
    found = {each.code: each.found for each in look(chain.directory).findings}
    assert found["CK062"] is not None
    assert found["CK062"].startswith("2, the first ")
    assert found["CK063"] == "1, the first 29"


def test_slots_that_lack_keys_are_counted(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    finding = next(each for each in look(chain.directory).findings if each.code == "CK059")
    assert finding.tensor == "emb/part_0/Adagrad-keys"
    assert finding.found is not None
    assert "2 keys without a row in the slot, versions 5 to 5" in finding.found


def test_the_docs_list_every_code() -> None:
    text = Path(__file__).parents[2].joinpath("docs", "findings.md").read_text()
    assert text == findings.render(), "python -m ckptctl.inspect.findings > docs/findings.md"


def test_an_entry_is_what_the_builder_says() -> None:
    assert BundleEntryProto.FromString(builders.of_data(1, [1], b"abcd")).size == 4
