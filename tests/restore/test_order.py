"""Rule 8: the order of rows, and equal bytes for equal inputs."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.errors import TableError
from ckptctl.merge import execute_merge
from ckptctl.restore import part
from tests.oracle.chain import (
    Chain,
    Full,
    Increment,
    build_chain,
    changes,
    full,
    increment,
    read,
    table,
)
from tests.oracle.ps import Ps, TableSpec, VarSpec

KINDS = (".index", ".data-00000-of-00002", ".data-00001-of-00002")


def model(tmp_path: Path) -> Chain:
    """A chain with a bit of everything, from a training run."""
    ps = Ps(
        [
            TableSpec("emb", parts=3, incr_parts=2, filter_freq=2, versions=True),
            TableSpec("old", form="old", freqs=True, key_type="int32"),
            TableSpec("tail", form="tail", parts=2, dim=7),
        ],
        [
            VarSpec("w", "rows", (40, 3), parts=3, slots=("Adagrad",)),
            VarSpec("b", "dense", (5, 4), dtype="bfloat16", parts=2, axis=1),
            VarSpec("s", "text"),
        ],
        shards=2,
        seed=5,
    )
    keys = {"emb": range(0, 9000, 7), "old": range(500), "tail": range(0, 5000, 11)}
    ps.train(keys)
    ps.train(keys)
    base = ps.full()
    ps.train({"emb": range(0, 5000, 3), "old": range(450, 600), "tail": range(3000, 3500)})
    ps.train({"emb": range(0, 5000, 3)})
    return build_chain(tmp_path, Full(**vars(base)), Increment(**vars(ps.increment())))


def bundle(prefix: Path) -> list[bytes]:
    return [Path(f"{prefix}{suffix}").read_bytes() for suffix in KINDS]


def test_rows_stay_in_place_and_new_keys_follow_ascending(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [5005, 5, 3005, 1007, 7, 1])),
        increment(20, changes("emb", [5, 1, 4005, 1005, 2007, 8, -1000, -2000, 0])),
    )
    chain.merge(20)
    chain.check(10, 20)
    expected = [-2000, -1000, 0, 1, 5005, 5, 3005, 1005, 4005, 1007, 7, 2007, 8]
    assert read(chain.full_prefix(20), "emb-keys") == expected


def test_keys_so_far_apart_that_their_difference_overflows(tmp_path: Path) -> None:
    """Found by a history: a delta series brought 2000, then the lowest key and 2000 again."""
    lowest = -(2**63) // 1000 * 1000 + 1000
    lineages = [
        {"version": 1, "base_step": 10, "previous_step": previous, "mode": "delta"}
        for previous in (None, 20)
    ]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [2000])),
        increment(20, changes("emb", {2000: 1.0}), lineage=lineages[0]),
        increment(30, changes("emb", {lowest: 2.0, 2000: 3.0}), lineage=lineages[1]),
    )
    chain.merge(30)
    chain.check(10, 20, 30)
    assert read(chain.full_prefix(30), "emb-keys") == [2000, lowest]


def test_global_step_is_the_increments(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])))
    chain.merge(20)
    assert read(chain.full_prefix(20), "global_step") == 20


def test_the_same_merge_gives_the_same_bytes(tmp_path: Path) -> None:
    chain = model(tmp_path)
    for name, jobs in (("a", 1), ("b", 1), ("c", 2), ("d", 7)):
        chain.merge(output=tmp_path / f"{name}-30", jobs=jobs)
    chain.check(20, 40, prefix=tmp_path / "a-30")
    assert bundle(tmp_path / "a-30") == bundle(tmp_path / "b-30")
    assert bundle(tmp_path / "a-30") == bundle(tmp_path / "c-30")
    assert bundle(tmp_path / "a-30") == bundle(tmp_path / "d-30")


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_any_executor_gives_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """Tasks and results travel as pickles: a spawned process knows nothing of ours."""
    chain = model(tmp_path)
    chain.merge(output=tmp_path / "a-30")
    context = multiprocessing.get_context("spawn")
    executor: Executor = (
        ThreadPoolExecutor(3) if kind == "threads" else ProcessPoolExecutor(2, mp_context=context)
    )
    with executor:
        plan = chain.plan(output=tmp_path / "b-30")
        result = execute_merge(plan, executor=executor)
    assert bundle(tmp_path / "a-30") == bundle(tmp_path / "b-30")
    assert result.verified


@pytest.mark.parametrize(("size", "keys"), [(1, 1), (64, 3), (100, 1000), (4096, 7), (1 << 24, 2)])
def test_pieces_of_any_size_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, keys: int
) -> None:
    chain = model(tmp_path)
    chain.merge(output=tmp_path / "a-30")
    monkeypatch.setattr(knobs, "PIECE_BYTES", size)
    monkeypatch.setattr(knobs, "JOIN_KEYS", keys)
    chain.merge(output=tmp_path / "b-30")
    assert bundle(tmp_path / "a-30") == bundle(tmp_path / "b-30")


def test_a_part_of_too_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets are int32: here the limit is lowered to three rows."""
    assert part.MAX_ROWS == 2**31 - 1
    monkeypatch.setattr(part, "MAX_ROWS", 3)
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [3])),
        increment(30, changes("emb", [3, 4])),
    )
    chain.merge(20, tmp_path / "three-20")
    with pytest.raises(TableError, match="2\\^31"):
        chain.merge(30)
