"""Old fulls by policy, state files that match, the log of removals, and plans that are kept."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptctl.bundle import read_state
from ckptctl.chain import find_chains, scan_directory
from ckptctl.errors import DamageError, RefusedError, StateFileError, UsageError
from ckptctl.merge import PrunePlan, execute_prune
from ckptctl.merge.policy import KeepDaily, KeepLast, KeepStep, KeepWithin
from ckptctl.merge.prune_plan import load_plan
from tests.merge.model import small_chain
from tests.merge.prunes import (
    THEN,
    age,
    chain_of,
    goes,
    here,
    label,
    listed,
    outcomes,
    plan,
    points,
    prune,
    rolled_back,
    stays,
)
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    flip,
    full,
    increment,
    listing,
    rows_of,
    table,
    write_state,
)

# --- old fulls by policy --------------------------------------------------------------


def test_a_policy_removes_fulls_and_their_increments(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40", "F50", "I60")
    assert goes(plan(chain, KeepLast(2))) == {"F10": "policy", "I20": "stale", "I40": "stale"}
    prune(chain, KeepLast(1))
    assert here(chain) == {"F50", "I60"}
    assert listed(chain) == [50]
    assert points(chain) == {50, 60}


def test_a_base_outlives_what_needs_it(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40", "F50")
    found = plan(chain, KeepLast(1), KeepStep(20))
    assert goes(found) == {"F30": "policy", "I40": "stale"}
    assert stays(found) == {"F10": "needed", "I20": "policy", "F50": "policy"}
    execute_prune(found)
    assert points(chain) == {10, 20, 50}


def test_the_newest_restore_point_stays_whatever_the_policy_says(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    found = plan(chain, KeepStep(10))
    assert goes(found) == {"I20": "stale"}
    assert stays(found) == {"F10": "policy", "F30": "named", "I40": "ok"}
    (chain.directory / "checkpoint").unlink()
    assert stays(plan(chain, KeepStep(10)))["F30"] == "needed"
    assert points(chain) == {10, 20, 30, 40}


def test_the_newest_full_stays_though_no_rule_or_state_file_names_it(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F30")
    (chain.directory / "checkpoint").unlink()
    found = plan(chain, KeepStep(10))
    assert stays(found) == {"F10": "policy", "F30": "newest"}
    assert "the newest restore point" in [item.reason for item in found.items]


def test_nothing_goes_that_no_full_of_its_step_stands_in_for(tmp_path: Path) -> None:
    """The newest restore point is an increment on a full below F30."""
    facts = {"version": 1, "base_step": 10, "mode": "cumulative"}
    chain = chain_of(tmp_path, "F10", "F30", "I40", lineage={40: facts})
    (chain.directory / "checkpoint").unlink()
    found = plan(chain, KeepStep(10))
    assert stays(found) == {"F10": "policy", "F30": "uncovered", "I40": "ok"}


def test_within_names_increments_too(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30", "F40")
    # A minute a step; the newest is of minute 40.
    found = plan(chain, KeepWithin(12 * 60))
    assert goes(found) == {"I20": "stale"}
    assert stays(found) == {"F10": "needed", "I30": "policy", "F40": "policy"}


@pytest.mark.parametrize("step", [99, 30])
def test_a_policy_that_keeps_no_restore_point_is_refused(tmp_path: Path, step: int) -> None:
    chain = chain_of(tmp_path, "F10", "F20", "I30")
    Path(f"{chain.increment_prefix(30)}.data-00000-of-00001").unlink()
    with pytest.raises(RefusedError) as caught:
        plan(chain, KeepStep(step))
    assert caught.value.exit_code == 12
    assert "every restore point" in caught.value.message


def test_the_times_of_the_state_file_count_before_those_of_the_files(tmp_path: Path) -> None:
    """After `cp -r` every file is of today."""
    chain = chain_of(tmp_path, "F10", "F20", "F30")
    day = 86400.0
    write_state(
        chain.directory,
        [f"model.ckpt-{n}" for n in (10, 20, 30)],
        times=[THEN, THEN + day, THEN + 2 * day],
    )
    assert goes(plan(chain, KeepDaily(2))) == {"F10": "policy"}


def test_without_usable_times_rules_about_time_keep_everything(tmp_path: Path) -> None:
    chain = age(chain_of(tmp_path, "F10", "F20", "F30"), 30, 20, 10)
    assert goes(plan(chain, KeepDaily(1))) == {}
    assert goes(plan(chain, KeepLast(1))) == {"F10": "policy", "F20": "policy"}


def test_two_fulls_at_one_step_stay(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F30")
    for path in chain.directory.glob("model.ckpt-10.*"):
        shutil.copy2(path, path.with_name(path.name.replace("-10.", "-0010.")))
    assert stays(plan(chain, KeepLast(1)))["F10"] == "ambiguous"


def delta(base: int, previous: int | None) -> dict:
    return {"version": 1, "base_step": base, "previous_step": previous, "mode": "delta"}


def test_a_delta_series_stays_whole_until_a_full_covers_it(tmp_path: Path) -> None:
    chain = chain_of(
        tmp_path,
        "F10",
        "I20",
        "I30",
        "F35",
        "I40",
        lineage={20: delta(10, None), 30: delta(10, 20), 40: delta(10, 30)},
    )
    found = plan(chain, KeepLast(1))
    assert goes(found) == {}
    assert stays(found)["I20"] == stays(found)["I30"] == stays(found)["F10"] == "needed"
    (reason,) = (item.reason for item in found.items if item.step == 20)
    assert reason.endswith("a delta series stays whole until a full covers it")
    chain.add(full(50, table("emb", [1, 2])))
    chain.list_all()
    age(chain)
    assert goes(plan(chain, KeepLast(1))).keys() == {"F10", "F35", "I20", "I30", "I40"}


def test_a_delta_series_stays_whole_across_one_that_was_left(tmp_path: Path) -> None:
    told = {10: delta(0, None), 20: delta(0, 10), 25: delta(0, 20), 30: delta(0, 20)}
    for step, own_id, line in ((10, "a", ""), (20, "b", "a"), (25, "c", "ab"), (30, "d", "ab")):
        told[step] |= {"id": own_id, "previous_id": line[-1:] or None}
        told[step]["line"] = "".join(each.ljust(8) for each in line)
    chain = chain_of(tmp_path, "F0", "I10", "I20", "I25", "I30", lineage=told)
    chain.merge(20)
    found = plan(age(chain))
    assert stays(found)["I25"] == "abandoned"
    assert stays(found)["I10"] == stays(found)["I20"] == "needed"
    found = plan(chain, abandoned=True)
    (reason,) = (item.reason for item in found.items if item.step == 25)
    assert reason.startswith("it lies before incremental_model.ckpt-30: a delta series")


@pytest.fixture
def rotten(tmp_path: Path, request: pytest.FixtureRequest) -> Chain:
    """F10 to I50, merged at 30, which rots, and a newer full of the trainer at 60."""
    mode: str = request.param
    lineage = {n: {"version": 1, "base_step": 10, "mode": mode} for n in (20, 30, 40, 50)}
    if mode == "delta":
        lineage = {n: delta(10, n - 10 if n > 20 else None) for n in lineage}
    chain = chain_of(tmp_path, "F10", "I20", "I30", "I40", "I50", lineage=lineage)
    chain.merge(30)
    chain.fulls[30] = chain.fulls[10]
    chain.add(full(60, table("emb", [1, 2])))
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 30, 60)])
    flip(Path(f"{chain.full_prefix(30)}.data-00000-of-00001"), 8)
    return age(chain)


@pytest.mark.parametrize(
    ("rotten", "rules", "kept"),
    [
        ("cumulative", (KeepLast(2),), 30),
        ("cumulative", (KeepLast(1), KeepStep(50)), 50),
        ("delta", (KeepLast(2),), 30),
    ],
    indirect=["rotten"],
)
def test_what_a_merged_full_was_made_from_goes_under_that_one(
    rotten: Chain, rules: tuple, kept: int
) -> None:
    """That a newer full is sound says nothing of the state that is to be kept."""
    found = plan(rotten, *rules)
    assert {"F10", "I20", "I30"} <= goes(found).keys()
    assert str(rotten.full_prefix(30)) in found.verify
    result = execute_prune(found, jobs=1)
    kinds = outcomes(result)
    assert {kinds[name] for name in ("F10", "I20", "I30")} == {"unverified"}
    assert "model.ckpt-30" in result.damage[0]
    # What is of no use to the damaged one goes under the newer.
    assert set(kinds.values()) == {"unverified"} | ({"removed"} if len(kinds) > 3 else set())
    for path in rotten.directory.glob("model.ckpt-30.*"):
        path.unlink()
    rotten.merge(kept, rotten.directory.parent / "again")


@pytest.mark.parametrize("rotten", ["delta", "cumulative"], indirect=True)
def test_a_merged_full_that_nothing_could_make_anew_is_not_read(rotten: Chain) -> None:
    for path in rotten.increment_prefix(30).parent.glob("*"):
        path.unlink()
    found = plan(rotten, KeepLast(2))
    assert goes(found) == {"F10": "policy"}
    assert found.verify == (str(rotten.full_prefix(60)),)


def test_a_merged_full_stands_in_for_its_base(tmp_path: Path) -> None:
    chain = chain_of(
        tmp_path,
        "F10",
        "I20",
        "I30",
        lineage={n: {"version": 1, "base_step": 10, "mode": "cumulative"} for n in (20, 30)},
    )
    chain.merge(20)
    chain.fulls[20] = chain.fulls[10]
    age(chain)
    found = plan(chain, KeepLast(1))
    assert goes(found) == {"F10": "policy", "I20": "stale"}
    execute_prune(found)
    assert points(chain) == {20, 30}


# --- state files ----------------------------------------------------------------------


@pytest.mark.parametrize("absolute", [False, True])
def test_state_files_are_rewritten_to_match(tmp_path: Path, absolute: bool) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40", "F50", "I60")
    head = f"{chain.directory}/" if absolute else ""
    times = [1.0, 2.0, 3.0]
    write_state(chain.directory, [f"{head}model.ckpt-{n}" for n in (10, 30, 50)], times=times)
    prune(chain, KeepLast(1), KeepStep(10))
    state = read_state(str(chain.directory / "checkpoint"))
    assert state.all_paths == (f"{head}model.ckpt-10", f"{head}model.ckpt-50")
    assert state.timestamps == (1.0, 3.0)
    assert state.latest == f"{head}model.ckpt-50"


def test_a_state_file_is_never_emptied_but_removed(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30", "F40")
    prune(chain)
    assert not (chain.directory / INCREMENTS / "checkpoint").exists()
    assert listed(chain) == [10, 40]


def test_the_one_that_is_named_is_replaced_by_one_that_is_here(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30", "F40")
    write_state(chain.directory / INCREMENTS, [f"incremental_model.ckpt-{n}" for n in (20, 30)])
    prune(age(chain), KeepStep(20), KeepLast(1))
    assert listed(chain, INCREMENTS) == [20]


def test_one_that_is_dead_or_damaged_comes_not_to_be_named(tmp_path: Path) -> None:
    """What a state file names is live for ever."""
    chain = chain_of(tmp_path, "F10", "I20", "I30", "F40")
    index = Path(f"{chain.increment_prefix(20)}.index")
    flip(index, 20, 255)
    os.utime(index, (THEN, THEN))  # before its base
    assert goes(plan(chain)) == {"I30": "stale"}
    prune(chain)
    assert not (chain.directory / INCREMENTS / "checkpoint").exists()


def test_what_was_just_committed_is_listed_with_the_rest(tmp_path: Path) -> None:
    """Its trainer was killed before it could; our newer state file would say it is dead."""
    chain = chain_of(tmp_path, "F10", "F40")
    chain.add(full(60, table("emb", [1, 2])))
    for path in chain.directory.glob("model.ckpt-60.*"):
        os.utime(path, (THEN + 10**7 + 100, THEN + 10**7 + 100))
    assert points(chain) == {10, 40, 60}
    prune(chain, KeepLast(2))
    assert listed(chain) == [40, 60]
    assert read_state(str(chain.directory / "checkpoint")).latest == "model.ckpt-60"
    assert points(chain) == {40, 60}


def test_what_is_listed_and_gone_stays_listed(tmp_path: Path) -> None:
    """It is the evidence that a full went: check 3 rests on it."""
    chain = chain_of(tmp_path, "F10", "F20", "I30", "F40", "I50")
    for path in chain.directory.glob("model.ckpt-20*"):
        path.unlink()
    prune(chain, KeepLast(1))
    assert 20 in listed(chain)
    assert points(chain) == {10, 40, 50}


def test_a_state_file_that_does_not_parse_is_told(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    (chain.directory / "checkpoint").write_text("nonsense {")
    with pytest.raises(StateFileError) as caught:
        plan(chain)
    assert isinstance(caught.value, DamageError)


def test_a_copy_is_refused_until_it_is_relocated(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    write_state(chain.directory, [str(chain.full_prefix(n)) for n in (10, 40)])
    copy = Chain(tmp_path / "copy", chain.fulls, chain.increments)
    shutil.copytree(chain.directory, copy.directory)
    with pytest.raises(RefusedError) as caught:
        plan(copy)
    assert "--relocate" in caught.value.remedy
    before = listing(chain.directory)
    prune(copy, relocate=True, min_age_s=0)
    state = read_state(str(copy.directory / "checkpoint"))
    assert state.all_paths == ("model.ckpt-10", "model.ckpt-40")
    assert here(copy) == {"F10", "F40", "I50"}
    assert listing(chain.directory) == before


# --- the log of removals, and plans that are kept ------------------------------------


def test_what_was_removed_is_remembered(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    prune(chain, KeepLast(1))
    lines = (chain.directory / ".ckptctl" / "removed.jsonl").read_text().splitlines()
    found = {(line["kind"], line["step"]) for line in map(json.loads, lines)}
    assert found == {("full", 10), ("increment", 20)}
    assert not any("files" in json.loads(line) for line in lines)
    # A live Saver lists what it remembers: no finding, but still gone.
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-30"])
    chains = find_chains(scan_directory(str(chain.directory)))
    assert not [problem for problem in chains.problems if problem.code == "listed-gone"]


def test_a_plan_survives_being_saved(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path, side=True))
    found = plan(chain, KeepLast(1), leftovers=True)
    saved = json.loads(json.dumps(found.to_save()))
    assert PrunePlan.from_saved(saved) == found
    execute_prune(PrunePlan.from_saved(saved), unchanged=True)
    assert here(chain) == {"F40", "I50"}
    for broken in ({}, [], {"schema": "ckptctl.prune-plan/1"}, {**saved, "items": [1]}):
        with pytest.raises(UsageError):
            PrunePlan.from_saved(broken)


ODD = {
    "a path that is none": ("directory", "a\0b"),
    "bytes that are words": ("items", "bytes", "many"),
    "bytes without end": ("items", "bytes", math.inf),
    "fewer than no bytes": ("items", "bytes", -1),
    "more than any disk has": ("items", "bytes", 10**400),
    "a step that is none": ("items", "step", [1]),
    "a name that is none": ("items", "name", None),
    "identities without end": ("items", "files", [["a", [1, 2, 3, math.inf]]]),
    "a number for files": ("items", "files", 3),
    "a word too many": ("items", "force", True),
    "an age without end": ("options", "min_age_s", math.inf),
    "an age that is none": ("options", "min_age_s", "long"),
    "a policy that is none": ("options", "policy", 7),
    "a rule that is none": ("options", "policy", ["keep-last"]),
    "a rule that divides by nothing": ("options", "policy", [{"rule": "keep-every", "value": 0}]),
    "warnings that are none": ("warnings", 5),
}


@pytest.mark.parametrize("what", ODD)
def test_a_saved_plan_may_come_from_anyone(tmp_path: Path, what: str) -> None:
    chain = age(small_chain(tmp_path))
    saved = json.loads(json.dumps(plan(chain, KeepLast(1)).to_save()))
    *room, key, value = ODD[what]
    inner = saved
    for name in room:
        inner = saved[name][0] if isinstance(saved[name], list) else saved[name]
    inner[key] = value
    path = tmp_path / "plan"
    path.write_text(json.dumps(saved))
    with pytest.raises(UsageError, match=r"does not parse|no keep rule"):
        load_plan(str(path), str(chain.directory))
    path.write_text("[" * 200_000)
    with pytest.raises(UsageError):
        load_plan(str(path), str(chain.directory))


def test_a_saved_plan_from_which_something_was_taken_back(tmp_path: Path) -> None:
    """Whoever keeps F80 after all keeps what shows that it is abandoned."""
    chain = rolled_back(tmp_path)
    saved = plan(chain, KeepLast(1), abandoned=True).to_save()
    for item in saved["items"]:
        if label(item["name"]) in ("F80", "I90"):
            item["action"] = "keep"
    execute_prune(PrunePlan.from_saved(saved), unchanged=True)
    assert {"F80", "I90"} <= here(chain)
    chains = find_chains(scan_directory(str(chain.directory)))
    assert not {80, 90} & set(chains.restore_points)


def test_a_trashed_item_can_be_had_back(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path, side=True))
    before = listing(chain.directory)
    result = prune(chain, KeepStep(40), trash=True)
    assert set(outcomes(result).values()) == {"trashed"}
    assert result.bytes_freed == 0
    assert here(chain) == {"F40", "I50"}
    trash = Path(result.trash)
    assert trash.parent == chain.directory / ".ckptctl-trash"
    moved = {name for name in listing(trash) if (trash / name).is_file()}
    assert moved == {
        name
        for name in before
        if name.split("/")[-1].split(".index")[0].split(".data")[0]
        in ("model.ckpt-10", "incremental_model.ckpt-20", "incremental_model.ckpt-30")
    }
    assert points(chain) == {40, 50}
    shutil.copytree(trash, chain.directory, dirs_exist_ok=True)
    assert here(chain) >= {"F10", "I20", "I30"}


def test_what_is_had_back_from_the_trash_is_judged_as_before(tmp_path: Path) -> None:
    """With the last increment goes the state file, whose line shows that the run was set back."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    names = [f"incremental_model.ckpt-{step}" for step in (120, 140, 180)]
    path = write_state(chain.directory / INCREMENTS, names, latest=names[1])
    path.chmod(0o640)
    before = path.read_bytes()
    assert max(points(chain)) == 160
    result = prune(chain, trash=True, abandoned=True, min_age_s=0.0)
    assert here(chain) == {"F100", "F160"}
    assert not path.exists()
    subprocess.run(["cp", "-aln", f"{result.trash}/.", f"{chain.directory}/"], check=True)
    assert here(chain) == {"F100", "F160", "I120", "I140", "I180"}
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert max(points(chain)) == 160


def test_a_trash_is_new_also_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that is saved again and goes again replaces in the trash nothing of its name."""
    monkeypatch.setattr(time, "strftime", lambda *_: "20261127T120000Z")
    chain = chain_of(tmp_path, "F20")
    trashes = []
    for value in (1.0, 2.0):
        chain.add(full(10, table("emb", {7: value})))
        chain.list_all()
        trashes.append(prune(age(chain), KeepLast(1), trash=True).trash)
    found = [rows_of(Path(trash or "") / "model.ckpt-10", "emb") for trash in trashes]
    assert found == [{7: 1.0}, {7: 2.0}]


def test_twice_the_increments_take_twice_the_calls(tmp_path: Path) -> None:
    """No look at all pairs: ten thousand must not take a hundred times as long as a thousand."""
    calls = []
    for count in (60, 120):
        room = tmp_path / str(count)
        room.mkdir()
        chain = build_chain(room, full(1, table("emb", [1])), full(5000, table("emb", [1])))
        chain.add(increment(2, changes("emb", [1])))
        one = chain.increment_prefix(2)
        for step in range(3, count + 2):
            for path in one.parent.glob(f"{one.name}.*"):
                os.link(path, path.with_name(path.name.replace("-2.", f"-{step}.")))
        age(chain)
        made = [0]

        def tick(frame: object, event: str, _: object, made: list[int] = made) -> None:
            made[0] += event == "call"

        sys.setprofile(tick)
        try:
            found = plan(chain)
            execute_prune(found, jobs=1)
        finally:
            sys.setprofile(None)
        assert len(found.removed) == count
        assert here(chain) == {"F1", "F5000"}
        calls.append(made[0])
    assert calls[1] < 2.5 * calls[0]
