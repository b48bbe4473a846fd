"""Check 1 across merges: lost keys are found also where the increment before is folded in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ckptctl.chain import SparseRows, find_chains, scan_directory
from ckptctl.chain.facts import MAX_FACT_BYTES
from ckptctl.chain.model import Contents
from ckptctl.chain.nested import count_rows
from ckptctl.errors import UnprovenError
from ckptctl.inspect.listing import list_directory
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.merge import CompactOptions, PruneOptions, execute_merge, run_compact
from tests.merge.prunes import age, here, prune
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    full,
    increment,
    put,
    read,
    rows_of,
    table,
    write_state,
)
from tests.oracle.images import Rows, floats

BASE = full(100, table("emb", {1: 1.0, 2: 2.0, 5: 5.0}))
FIRST = increment(120, changes("emb", {1: 120.0, 2: 120.0}))
LOST = increment(140, changes("emb", {3: 140.0}))
MORE = increment(140, changes("emb", {1: 140.0, 2: 120.0, 3: 140.0}))


def chain_of(tmp_path: Path, *images: Any) -> Chain:
    return age(build_chain(tmp_path, *images))


def compact(chain: Chain) -> str:
    options = CompactOptions(prune=PruneOptions(min_age_s=0.0))
    return run_compact(str(chain.directory), options, jobs=1).outcome


def save(chain: Chain, *images: Any) -> None:
    """Save increments, as a trainer does that knows of no merge."""
    chain.add(*images)
    found = (chain.directory / INCREMENTS).glob("*.index")
    names = sorted(path.stem for path in found)
    write_state(chain.directory / INCREMENTS, names)


def refused(chain: Chain, step: int) -> UnprovenError:
    with pytest.raises(UnprovenError) as caught:
        chain.plan(step)
    return caught.value


def points(chain: Chain) -> tuple[int, ...]:
    return find_chains(scan_directory(str(chain.directory))).restore_points


def findings(chain: Chain) -> list[str]:
    plan = plan_verify(str(chain.directory), data=True)
    return [found.code for found in execute_verify(plan, jobs=1).findings]


# --- the increment is still there -----------------------------------------------------


def test_keys_are_compared_across_a_merge(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST, LOST)
    chain.merge(120)
    error = refused(chain, 140)
    assert error.message.startswith("incremental_model.ckpt-140 lacks keys of incremental")
    assert (error.tensor, error.found) == ("emb", "missing: 2")
    assert findings(chain).count("CK024") == 1
    assert [each.nested for each in list_directory(str(chain.directory)).chains()] == [True, None]
    for how, out in (("last", "last-140"), ("all", "all-140")):
        chain.merge(140, tmp_path / out, increments=how)
        assert rows_of(tmp_path / out, "emb") == {1: 120.0, 2: 120.0, 3: 140.0, 5: 5.0}


def test_what_goes_on_over_a_merge_is_merged(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST, MORE)
    chain.merge(120)
    plan = chain.plan(140, increments="all")
    assert [source.step for source in plan.increments] == [140]  # the other is in the full
    chain.merge(140)
    assert rows_of(chain.full_prefix(140), "emb") == {1: 140.0, 2: 120.0, 3: 140.0, 5: 5.0}


def test_a_prune_keeps_what_shows_that_keys_were_lost(tmp_path: Path) -> None:
    """As many rows, but others: once the first is gone nothing tells."""
    other = increment(140, changes("emb", {2: 140.0, 3: 140.0}))
    chain = chain_of(tmp_path, BASE, FIRST, other)
    chain.merge(120)
    prune(chain)
    assert here(chain) == {"F100", "I120", "F120", "I140"}
    refused(chain, 140)


@pytest.mark.parametrize("how", ["last", "all"])
def test_what_is_merged_without_the_check_is_told(tmp_path: Path, how: str) -> None:
    chain = chain_of(tmp_path, BASE, FIRST, LOST)
    plan = chain.plan(140, increments=how)
    (told,) = plan.warnings
    why = f"--increments {how}: it is not proven that all rows are in the state at step 140"
    assert told.startswith(why)
    assert execute_merge(plan).warnings == (told,)


@pytest.mark.parametrize("how", ["last", "all"])
def test_what_was_proven_before_needs_no_warning(tmp_path: Path, how: str) -> None:
    chain = chain_of(tmp_path, BASE, FIRST, MORE)
    assert "not proven" in chain.plan(140, increments=how).warnings[0]
    chain.plan(140)
    assert chain.plan(140, increments=how).warnings == ()
    assert chain.plan(120, increments=how).warnings == ()  # alone on its full


# --- the increment is gone ------------------------------------------------------------


def test_fewer_rows_than_what_was_merged_are_refused(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST)
    assert compact(chain) == "merged and pruned"
    save(chain, LOST)
    assert here(chain) == {"F100", "F120", "I140"}
    error = refused(chain, 140)
    why = (
        "incremental_model.ckpt-140 has fewer rows of emb (1) than the increment that "
        "model.ckpt-120 was merged from (2): a full or a recorder was lost between"
    )
    assert (error.message, error.tensor, error.found) == (why, "emb", "1 rows")
    assert error.file == str(chain.increment_prefix(140))
    assert error.expected == f">= 2 rows: ckptctl/merged of {chain.full_prefix(120)}"
    assert str(error.remedy).startswith("use a step below: 120 can be restored; or, knowing")
    assert "--increments last" in str(error.remedy)
    assert points(chain) == (100, 120)
    assert findings(chain).count("CK024") == 1
    for _ in range(2):  # read, and remembered
        found = list_directory(str(chain.directory))
        assert (found.restore_points, found.latest) == ((100, 120), 120)
        last = list(found.chains())[-1]
        assert (last.nested, [each.code for each in last.problems]) == (False, ["not-nested"])
        found.remember()
    prune(chain)
    assert here(chain) == {"F100", "F120", "I140"}
    told = chain.plan(None).warnings[0]
    assert told.endswith(f"{why} (merge --upto STEP --increments last takes it)")
    assert "not proven" in chain.merge(140, increments="last").warnings[-1]
    assert rows_of(chain.full_prefix(140), "emb") == {1: 120.0, 2: 120.0, 3: 140.0, 5: 5.0}


def test_all_that_follow_what_lost_rows_are_refused(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST)
    compact(chain)
    save(chain, LOST, increment(160, changes("emb", range(9))))
    assert points(chain) == (100, 120)
    assert "incremental_model.ckpt-140 has fewer rows" in refused(chain, 160).message


def test_a_merge_each_hour(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE)
    for hour in (1, 2, 3):
        save(chain, increment(100 + hour, changes("emb", range(2 * hour))))
        assert compact(chain) == "merged and pruned"
    assert here(chain) == {"F100", "F101", "F102", "F103"}
    mark = json.loads(read(chain.full_prefix(103), "ckptctl/merged"))
    assert (mark["base_step"], mark["rows"]) == (100, {"emb": 6, "emb/Adagrad": 6})
    save(chain, increment(104, changes("emb", range(10, 15))))
    assert refused(chain, 104).found == "5 rows"


def test_a_row_that_only_a_slot_lacks_is_enough(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST)
    compact(chain)
    save(chain, increment(140, changes("emb", [1, 2], lacking={"Adagrad": [2]})))
    assert (refused(chain, 140).tensor, points(chain)) == ("emb/Adagrad", (100, 120))


def test_parts_that_are_cut_otherwise_are_counted_together(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, full(100, table("emb", range(9), parts=2)))
    save(chain, increment(120, changes("emb", range(5), parts=2)))
    compact(chain)
    save(chain, increment(140, changes("emb", range(5), parts=3)))
    chain.merge(140)
    save(chain, increment(160, changes("emb", range(4), parts=2)))
    assert refused(chain, 160).tensor == "emb"


def rows(name: str, *keys: int) -> Rows:
    return Rows(name, "float32", 1, dict.fromkeys(keys, b"abcd"))


@pytest.mark.parametrize("whole", [False, True])
def test_rows_of_a_variable_are_counted_unless_it_is_whole(tmp_path: Path, whole: bool) -> None:
    w = {"w": floats(1, 2, 3, shape=(3, 1))}
    chain = chain_of(tmp_path, full(100, table("emb", [1]), w))
    save(chain, increment(120, changes("emb", [1]), rows("w", 0, 2)))
    compact(chain)
    save(chain, increment(140, changes("emb", [1]), w if whole else rows("w", 1)))
    if whole:
        chain.merge(140)
    else:
        assert refused(chain, 140).tensor == "w"


# --- where counts say nothing ---------------------------------------------------------


def lineage(base: int, previous: int | None = None, mode: str = "cumulative") -> dict[str, Any]:
    return {"version": 1, "base_step": base, "previous_step": previous, "mode": mode}


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("mode", ["cumulative", "delta"])
def test_a_run_that_began_anew_at_the_merged_full(tmp_path: Path, mode: str, gone: bool) -> None:
    first = increment(120, changes("emb", [1, 2]), lineage=lineage(100))
    chain = chain_of(tmp_path, BASE, first)
    if gone:
        compact(chain)
    else:
        chain.merge(120)
    save(chain, increment(140, changes("emb", [3]), lineage=lineage(120, None, mode)))
    chain.merge(140)
    assert sorted(rows_of(chain.full_prefix(140), "emb")) == [1, 2, 3, 5]


def test_a_recorder_that_names_the_first_full_has_to_go_on(tmp_path: Path) -> None:
    first = increment(120, changes("emb", [1, 2]), lineage=lineage(100))
    chain = chain_of(tmp_path, BASE, first)
    compact(chain)
    save(chain, increment(140, changes("emb", [3]), lineage=lineage(100, 120)))
    assert refused(chain, 140).tensor == "emb"


def test_deltas_are_not_counted(tmp_path: Path) -> None:
    first = increment(120, changes("emb", [1, 2]), lineage=lineage(100, None, "delta"))
    chain = chain_of(tmp_path, BASE, first)
    compact(chain)
    assert "rows" not in json.loads(read(chain.full_prefix(120), "ckptctl/merged"))
    save(chain, increment(140, changes("emb", [3]), lineage=lineage(100, 120, "delta")))
    chain.merge(140)


def test_a_merge_of_an_earlier_ckptctl_counted_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(tmp_path, BASE, FIRST)
    monkeypatch.setattr("ckptctl.merge.plan.count_rows", lambda contents: None)
    compact(chain)
    save(chain, LOST)
    chain.merge(140)


def test_what_was_forced_is_where_the_next_one_begins(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, BASE, FIRST, LOST)
    chain.merge(140, increments="all")
    save(chain, increment(160, changes("emb", [3, 4])))
    chain.merge(160)
    prune(chain)
    save(chain, increment(180, changes("emb", [3])))
    refused(chain, 180)


# --- the counts -----------------------------------------------------------------------


def test_many_tables_are_counted_as_one(tmp_path: Path) -> None:
    """The mark stays far below what is read of one."""
    sparse = {f"tower/{n}/emb": SparseRows(n, 0, f"tower/{n}/emb") for n in range(100_000)}
    sparse |= {f"w{n}": SparseRows(7, 0, f"w{n}", normal=True) for n in range(10)}
    found = count_rows(Contents(sparse=sparse))
    assert found == {"": sum(range(100_000))}
    few = count_rows(Contents(sparse=dict(list(sparse.items())[:1000])))
    assert len(few) == 999  # those without rows say nothing
    assert len(json.dumps(few)) < MAX_FACT_BYTES // 2

    names = [f"{'scope/' * 9}{n}" for n in range(600)]
    base = full(100, *(table(name, [1], slots=()) for name in names))
    chain = chain_of(tmp_path, base, increment(120, *each(names, [1, 2])))
    compact(chain)
    assert json.loads(read(chain.full_prefix(120), "ckptctl/merged"))["rows"] == {"": 1200}
    save(chain, increment(140, *each(names, [1])))
    error = refused(chain, 140)
    assert "fewer rows of all tables (600)" in error.message
    assert error.tensor is None


def each(names: list[str], keys: list[int]) -> list[Any]:
    return [put(changes(name, keys, slots=()), shard=0) for name in names]
