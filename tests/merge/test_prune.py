"""What goes, what stays and why: plans of real directories, carried out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.chain import Chains, Checkpoint, find_chains, scan_directory
from ckptctl.merge import execute_prune
from ckptctl.merge.policy import KeepLast
from ckptctl.merge.prune_plan import load_plan, save_plan_to
from tests.merge.model import small_chain
from tests.merge.prunes import (
    THEN,
    age,
    chain_of,
    date,
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
from tests.merge.storages import Counting
from tests.oracle.chain import (
    INCREMENTS,
    Increment,
    build_chain,
    changes,
    flip,
    full,
    increment,
    listing,
    table,
    write_state,
)
from tests.oracle.images import ints, string

# --- by default -----------------------------------------------------------------------


def test_stale_increments_go_and_no_full_does(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path, side=True))
    found = plan(chain)
    assert goes(found) == {"I20": "stale", "I30": "stale"}
    assert stays(found) == {"F10": "policy", "F40": "policy", "I50": "ok"}
    sizes = sum(
        path.stat().st_size
        for step in (20, 30)
        for path in chain.increment_prefix(step).parent.glob(f"*-{step}.*")
    )
    assert found.bytes_to_free == sizes
    result = execute_prune(found)
    assert outcomes(result) == {"I20": "removed", "I30": "removed"}
    assert result.bytes_freed == sizes
    assert here(chain) == {"F10", "F40", "I50"}
    assert points(chain) == {10, 40, 50}
    assert listed(chain, INCREMENTS) == [50]
    assert listed(chain) == [10, 40]
    assert goes(plan(chain)) == {}


def test_every_item_has_a_reason_and_is_listed_once(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    (chain.directory / "other-3.index").write_bytes(b"x")
    found = plan(chain)
    assert all(item.reason and item.code and item.bytes >= 0 for item in found.items)
    assert len({item.path for item in found.items}) == len(found.items) == 6
    assert stays(found)["other-3"] == "other"


def test_a_plan_changes_nothing_and_a_dry_one_remembers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chain = chain_of(tmp_path, "F10", "I20", "I30")
    before = listing(chain.directory)
    plan(chain, remember=False)
    assert listing(chain.directory) == before
    assert not (chain.directory / ".ckptctl").exists()
    assert not (tmp_path / "cache").exists()


def test_nothing_to_do_takes_no_lock(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10")
    assert prune(chain).outcomes == ()
    assert not (chain.directory / ".ckptctl").exists()


def test_what_contains_a_thousand_increments_is_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each asks for the next one alone: not each for all that follow."""
    asked = 0
    superseding = Chains.superseding

    def counted(self: Chains, increment: Checkpoint) -> Iterator[Checkpoint]:
        nonlocal asked
        for found in superseding(self, increment):
            asked += 1
            yield found

    monkeypatch.setattr(Chains, "superseding", counted)
    steps = [f"I{step}" for step in range(20, 220, 10)]
    found = plan(chain_of(tmp_path, "F10", *steps))
    assert {item.under for item in found.removed} == set(found.verify)
    assert len(found.removed) == 19
    assert asked <= 3 * 19


def test_superseded_increments_stay_below_one_that_is_damaged(tmp_path: Path) -> None:
    """Its index is sound, so that it is taken for a restore point: its data are not."""
    chain = chain_of(tmp_path, "F10", "I20", "I30", "I40")
    newest = chain.increment_prefix(40)
    with BundleReader(str(newest)) as reader:
        values = reader.tensors["emb-sparse_incr_values"]
        flip(Path(reader.shard_path(values.shard)), values.offset)
    found = plan(chain)
    assert found.verify == (str(newest),)
    result = execute_prune(found, jobs=1)
    assert set(outcomes(result).values()) == {"unverified"}
    assert "emb-sparse_incr_values" in result.damage[0]
    assert here(chain) == {"F10", "I20", "I30", "I40"}


def test_superseded_increments_go_once_their_keys_are_compared(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30", "I40")
    assert goes(plan(chain)) == {"I20": "superseded", "I30": "superseded"}
    prune(chain)
    assert here(chain) == {"F10", "I40"}
    assert points(chain) == {10, 40}


def test_an_increment_that_lost_keys_supersedes_nothing(tmp_path: Path) -> None:
    chain = age(
        build_chain(
            tmp_path,
            full(10, table("emb", [1, 2])),
            increment(20, changes("emb", [1, 2])),
            increment(30, changes("emb", [2, 3])),
        )
    )
    found = plan(chain)
    assert goes(found) == {}
    # The newest that is not known to fail stays whatever the options are.
    assert stays(found)["I20"] == "ok"


def test_the_newest_whose_checks_all_pass_stays(tmp_path: Path) -> None:
    """The last increment holds all keys, but lacks a tensor that the full has."""
    chain = age(
        build_chain(
            tmp_path,
            full(10, table("emb", [1, 2]), {"w": string("a")}),
            increment(20, changes("emb", [1, 2]), {"w": string("b")}),
            increment(30, changes("emb", [1, 2, 3])),
        )
    )
    found = plan(chain)
    assert stays(found) == {"F10": "policy", "I20": "newest", "I30": "ok"}


def test_an_idle_increment_stays_until_a_full_covers_it(tmp_path: Path) -> None:
    chain = age(
        build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [])))
    )
    assert stays(plan(chain)) == {"F10": "newest", "I20": "idle"} or stays(plan(chain)) == {
        "F10": "policy",
        "I20": "idle",
    }
    chain.add(full(40, table("emb", [1])))
    chain.list_all()
    assert goes(plan(age(chain))) == {"I20": "stale"}


def columns_that_do_not_fit(step: int) -> Increment:
    """An increment that is complete, and refused as damage."""
    broken = {"emb-sparse_incr_versions": ints("int64", [1, 2, 3])}
    return increment(step, changes("emb", [1]), raw=broken)


@pytest.mark.parametrize("option", [{}, {"orphans": True, "abandoned": True, "leftovers": True}])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([full(10, table("emb", [1])), increment(20, changes("emb", []))], "idle"),
        ([full(10, table("emb", [1])), columns_that_do_not_fit(20)], "damaged"),
        ([columns_that_do_not_fit(5), full(10, table("emb", [1]))], "damaged"),
        ([full(10, table("emb", [1])), increment(20, changes("emb", [1]))], "stale"),
    ],
    ids=["idle", "damaged", "damaged orphan", "stale"],
)
def test_the_status_is_the_word_of_ls(tmp_path: Path, images, words: str, option: dict) -> None:
    chain = age(build_chain(tmp_path, *images, full(40, table("emb", [1]))))
    told = {each.path: each.status for each in plan(chain, **option).items}
    chains = find_chains(scan_directory(str(chain.directory)))
    scan = chains.scan
    assert told == {each.prefix: chains.status(each) for each in (*scan.fulls, *scan.increments)}
    assert words in told.values()


def test_nothing_young_goes(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    date(Path(f"{chain.increment_prefix(20)}.data-00000-of-00002"), 60)
    found = plan(chain)
    assert goes(found) == {"I30": "stale"}
    assert stays(found)["I20"] == "young"
    assert goes(plan(chain, min_age_s=30)) == {"I20": "stale", "I30": "stale"}


# --- only under a verified full -------------------------------------------------------


def test_the_full_is_verified_once(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    assert found.verify == (str(chain.full_prefix(40)),)
    assert {item.under for item in found.removed} == set(found.verify)
    storage = Counting()
    result = execute_prune(plan(chain, storage=storage))
    assert result.verified == found.verify
    data = f"{chain.full_prefix(40)}.data-00000-of-00002"
    assert storage.read[data] >= os.path.getsize(data)
    chain.add(increment(35, changes("emb", [1, 2], parts=2, shards=2), shards=2))
    again = plan(age(chain))
    assert goes(again) == {"I35": "stale"}
    assert again.verify == ()


def test_an_index_is_not_read_again_under_the_lock_unless_it_was_touched(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    storage = Counting()
    found = plan(chain, storage=storage)
    indexes = {step: f"{chain.increment_prefix(step)}.index" for step in (20, 30)}
    before = {step: storage.read[index] for step, index in indexes.items()}
    os.utime(indexes[30], (THEN, THEN + 60 * 30 + 1))
    result = execute_prune(found)
    assert outcomes(result) == {"I20": "removed", "I30": "changed"}
    read = {step: storage.read[index] - before[step] for step, index in indexes.items()}
    assert read == {20: 0, 30: before[30]}
    assert before[30] > 0


def test_a_saved_plan_comes_without_what_was_read(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    save_plan_to(plan(chain), str(tmp_path / "plan"))
    storage = Counting()
    found = load_plan(str(tmp_path / "plan"), str(chain.directory), storage)
    assert outcomes(execute_prune(found, unchanged=True)) == {"I20": "removed", "I30": "removed"}
    assert storage.read[f"{chain.increment_prefix(20)}.index"] > 0


def test_what_a_merge_has_read_back_needs_no_verification(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    chain.merge()
    found = plan(chain, min_age_s=0)
    assert goes(found) == {"I20": "stale", "I30": "stale", "I50": "stale"}
    assert {item.under for item in found.removed} == {str(chain.full_prefix(50))}
    assert found.verify == ()
    assert execute_prune(found).verified == ()
    assert points(chain) == {10, 40, 50}


def test_what_a_trainer_would_restore_stays(tmp_path: Path) -> None:
    """A merged full that no state file names makes its increment stale, and helps nobody."""
    chain = age(small_chain(tmp_path))
    chain.merge(update_state=False)
    found = plan(chain, min_age_s=0)
    assert goes(found) == {"I20": "stale", "I30": "stale"}
    assert stays(found)["I50"] == "named"
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 40, 50)])
    assert goes(plan(chain, min_age_s=0)).keys() == {"I20", "I30", "I50"}


def test_a_merge_that_was_not_verified_is(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    chain.merge(verify=False)
    assert plan(chain, min_age_s=0).verify == (str(chain.full_prefix(50)),)


def test_a_full_that_changed_since_is_verified_again(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    chain.merge()
    os.utime(f"{chain.full_prefix(50)}.data-00000-of-00002", (THEN, THEN))
    assert plan(chain, min_age_s=0).verify == (str(chain.full_prefix(50)),)


@pytest.mark.parametrize("policy", [(), (KeepLast(1),)])
def test_nothing_goes_under_a_damaged_full(tmp_path: Path, policy: tuple) -> None:
    chain = age(small_chain(tmp_path))
    data = Path(f"{chain.full_prefix(40)}.data-00001-of-00002")
    when = data.stat().st_mtime_ns
    flip(data, 8)
    os.utime(data, ns=(when, when))
    before = listing(chain.directory)
    result = prune(chain, *policy)
    assert set(outcomes(result).values()) == {"unverified"}
    assert len(result.damage) == 1
    assert "model.ckpt-40" in result.damage[0]
    assert result.bytes_freed == 0
    assert listing(chain.directory) == before


GOOD = table("emb", [1, 2, 3, 4, 5, 1001], parts=3, freqs=3)
NONSENSE = {
    "CK013": [ev for ev in GOOD if ev.part != 1],
    "CK053": [replace(ev, rows=[*ev.rows[:1], *ev.rows]) for ev in GOOD],
    "CK055": [replace(ev, rows=[row._replace(key=-7) for row in ev.rows[:1]]) for ev in GOOD],
    "CK057": [replace(ev, freqs=ev.part != 1) for ev in GOOD],
}


@pytest.mark.parametrize("code", NONSENSE)
def test_nothing_goes_under_a_full_that_makes_no_sense(tmp_path: Path, code: str) -> None:
    """Each of its bytes matches its checksum."""
    more = changes("emb", [1, 2], parts=3, freqs=4)
    images = [full(10, GOOD), increment(20, more), full(40, NONSENSE[code])]
    chain = age(build_chain(tmp_path, *images))
    result = prune(chain, KeepLast(1))
    assert outcomes(result) == {"F10": "unverified", "I20": "unverified"}
    assert code in result.damage[0]


def test_damage_in_one_does_not_stop_the_others_from_being_verified(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F40", "I50", "I60")
    data = Path(f"{chain.full_prefix(40)}.data-00000-of-00001")
    flip(data, 8)
    date(data, 10**6)
    found = plan(chain)
    assert found.verify == (str(chain.full_prefix(40)), str(chain.increment_prefix(60)))
    result = execute_prune(found, jobs=1)
    assert outcomes(result) == {"I20": "unverified", "I50": "removed"}
    assert "tensor: " in result.damage[0]
    assert "offset: " in result.damage[0]
    assert here(chain) == {"F10", "I20", "F40", "I60"}


def test_an_incomplete_full_makes_nothing_stale(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    Path(f"{chain.full_prefix(40)}.data-00001-of-00002").unlink()
    assert goes(plan(chain)) == {"I20": "superseded"}


# --- by option ------------------------------------------------------------------------


def test_orphans_go_by_option(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F40", "I50")
    for path in chain.directory.glob("model.ckpt-10*"):
        path.unlink()
    found = plan(chain)
    assert goes(found) == {}
    assert stays(found)["I20"] == "orphan"
    assert "--orphans" in next(i.reason for i in found.items if label(i.name) == "I20")
    assert goes(plan(chain, orphans=True)) == {"I20": "orphan"}
    prune(chain, orphans=True)
    assert here(chain) == {"F40", "I50"}


def test_abandoned_checkpoints_go_by_option(tmp_path: Path) -> None:
    chain = rolled_back(tmp_path)
    assert stays(plan(chain))["F80"] == stays(plan(chain))["I90"] == "abandoned"
    found = plan(chain, abandoned=True)
    assert goes(found) == {
        "F80": "abandoned",
        "I20": "stale",
        "I40": "stale",
        "I90": "abandoned",
    }
    prune(chain, abandoned=True)
    assert here(chain) == {"F10", "F30", "F100", "I110"}
    assert points(chain) == {10, 30, 100, 110}


def test_what_shows_that_another_is_abandoned_stays_with_it(tmp_path: Path) -> None:
    """Without F30 and I40, F80 and I90 would be of the present timeline again."""
    chain = rolled_back(tmp_path)
    before = find_chains(scan_directory(str(chain.directory)))
    assert set(before.restore_points) == {10, 20, 30, 40, 100, 110}
    found = plan(chain, KeepLast(1))
    reasons = {label(item.name): item.reason for item in found.items if not item.remove}
    assert stays(found)["I40"] == "evidence"
    assert "incremental_model.ckpt-90" in reasons["I40"]
    assert stays(found)["F30"] == "needed"
    execute_prune(found)
    after = find_chains(scan_directory(str(chain.directory)))
    assert set(after.restore_points) <= {10, 20, 30, 40, 100, 110}
    for item in (*after.scan.fulls, *after.scan.increments):
        if item.step in (80, 90):
            assert not after.is_live(item)
    assert goes(plan(chain, KeepLast(1), abandoned=True)).keys() >= {"F80", "F30"}


def test_a_full_that_shows_that_another_is_abandoned_stays(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F80", "F30", "F100")
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 80, 30, 100)])
    age(chain, 10, 80, 30, 100)
    found = plan(chain, KeepLast(1))
    assert goes(found) == {"F10": "policy"}
    assert stays(found) == {"F30": "evidence", "F80": "abandoned", "F100": "policy"}
    execute_prune(found)
    assert points(chain) == {30, 100}
    assert goes(plan(chain, KeepLast(1), abandoned=True)) == {"F30": "policy", "F80": "abandoned"}


def test_what_shows_it_for_good_stays_where_the_state_file_shows_it_too(tmp_path: Path) -> None:
    """That the state file names a step below is over with the next save."""
    chain = chain_of(tmp_path, "F10", "I20", "F30")
    write_state(chain.directory, ["model.ckpt-10"])
    age(chain, 30, 10, increments=())
    os.utime(f"{chain.increment_prefix(20)}.index", (THEN + 10**5, THEN + 10**5))
    chain.merge(20)
    found = plan(chain, KeepLast(1))
    assert "F10" in stays(found)
    execute_prune(found)
    chain.add(full(40, table("emb", [1])))
    write_state(chain.directory, ["model.ckpt-20", "model.ckpt-40"])
    assert 30 not in points(chain)


@pytest.mark.parametrize("dated", [True, False])
def test_an_abandoned_full_whose_removal_would_unprove_stays(tmp_path: Path, dated: bool) -> None:
    """A full that is gone counts as gone (check 3), unless times show that it was given up."""
    chain = chain_of(tmp_path, "F10", "F50", "F20", "I60")
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 50, 20)])
    age(chain, 10, 50, 20, increments=())
    if not dated:
        for step in (10, 50, 20):
            os.utime(f"{chain.full_prefix(step)}.index", (THEN, THEN))
    os.utime(f"{chain.increment_prefix(60)}.index", (THEN + 10**6, THEN + 10**6))
    assert points(chain) == {10, 20, 60}
    found = plan(chain, abandoned=True)
    assert ("F50" in goes(found)) == dated
    assert dated or stays(found)["F50"] == "evidence"
    execute_prune(found)
    assert points(chain) == {10, 20, 60}


def test_leftovers_go_by_option_and_old_temporaries_by_default(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    room = chain.directory
    for name, at in (("model.ckpt-33_temp_0123", 35), ("model.ckpt-60_temp_0456", 10**6)):
        (room / name).mkdir()
        part = room / name / "part-00000-of-00001.index"
        part.write_bytes(b"12345")
        for path in (part, room / name):
            os.utime(path, (THEN + 60 * at, THEN + 60 * at))
    data = room / "model.ckpt-35.data-00000-of-00001"
    data.write_bytes(b"123")
    os.utime(data, (THEN, THEN))
    found = plan(chain)
    assert goes(found) == {
        "I20": "stale",
        "I30": "stale",
        "model.ckpt-33_temp_0123": "outdated",
    }
    assert stays(found)["model.ckpt-60_temp_0456"] == stays(found)[data.name] == "leftover"
    everything = plan(chain, leftovers=True)
    assert {item.name for item in everything.removed if item.kind == "leftover"} == {
        "model.ckpt-33_temp_0123",
        "model.ckpt-60_temp_0456",
        data.name,
    }
    prune(chain, leftovers=True)
    assert not data.exists()
    assert not list(room.glob("*_temp_*"))
    assert points(chain) == {10, 40, 50}


def test_young_and_foreign_leftovers_stay(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    (chain.directory / "model.ckpt-60_temp_12").mkdir()
    (chain.directory / "other.ckpt-60_temp_12").mkdir()
    os.utime(chain.directory / "other.ckpt-60_temp_12", (THEN, THEN))
    found = stays(plan(chain, leftovers=True))
    assert found["model.ckpt-60_temp_12"] == "young"
    assert found["other.ckpt-60_temp_12"] == "other"


@pytest.mark.parametrize("kind", ["shard", "index"])
def test_an_incomplete_increment_goes_as_a_leftover_only(tmp_path: Path, kind: str) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30", "F40")
    prefix = chain.increment_prefix(20)
    if kind == "shard":
        Path(f"{prefix}.data-00000-of-00001").unlink()
    else:
        flip(Path(f"{prefix}.index"), 20, 255)
        age(chain)
    found = plan(chain, KeepLast(1))
    assert goes(found) == {"I30": "stale"}
    assert stays(found)["I20"] in ("incomplete", "damaged")
    assert stays(found)["F10"] == "needed"
    assert goes(plan(chain, KeepLast(1), leftovers=True)).keys() == {"F10", "I20", "I30"}


def test_unproven_goes_by_no_option(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F20", "I30", "F40")
    for path in chain.directory.glob("model.ckpt-20*"):
        path.unlink()
    found = plan(chain, KeepLast(1), orphans=True, abandoned=True, leftovers=True)
    assert stays(found)["I30"] == "unproven"
    assert stays(found)["F10"] == "needed"
    assert goes(found) == {}
