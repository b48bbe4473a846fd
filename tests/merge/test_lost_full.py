"""A full that is gone for a while, and comes back when a merge has been named instead of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptctl.bundle import read_state
from ckptctl.chain import Chains, Scan, find_chains, scan_directory
from ckptctl.merge import CompactOptions, Policy, PruneOptions, run_compact
from ckptctl.merge.policy import KeepLast
from ckptctl.merge.state_file import is_judged_alike
from tests.chain.builder import label
from tests.merge.prunes import chain_of, date, here, prune
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    changes,
    full,
    increment,
    rows_of,
    table,
    write_state,
)

_FULL, _INCREMENT = "model.ckpt-", "incremental_model.ckpt-"


def _lose(chain: Chain, how: str = "lost") -> Callable[[], None]:
    """Lose the full at 160, or a part of it; returns what puts it back with its times."""
    shard = chain.directory / f"{_FULL}160.data-00000-of-00001"
    index = chain.directory / f"{_FULL}160.index"
    gone = {"lost": [index, shard], "shard": [shard], "cut": [index]}[how]
    aside = chain.directory.parent / "aside"
    aside.mkdir(exist_ok=True)
    for path in gone:
        shutil.copy2(path, aside)
        if how == "cut":
            os.truncate(path, 20)
        else:
            path.unlink()

    def put_back() -> None:
        for path in gone:
            shutil.copy2(aside / path.name, path)

    return put_back


def _compact(chain: Chain, **options: Any) -> None:
    prune_options = PruneOptions(Policy((KeepLast(3),)), min_age_s=0.0)
    run_compact(str(chain.directory), CompactOptions(**{"prune": prune_options, **options}), jobs=1)


def _lost(tmp_path: Path, how: str = "lost") -> tuple[Chain, Callable[[], None]]:
    """Cron has merged up to 140 an hour ago, while the full at 160 was away."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    put_back = _lose(chain, how)
    _compact(chain)
    assert _named(chain) == "model.ckpt-140"
    for path in chain.directory.glob(f"{_FULL}140.*"):
        date(path, 3600)
    date(chain.directory / "checkpoint", 3600)
    return chain, put_back


def _named(chain: Chain) -> str:
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    return state.latest


def _judged(chain: Chain, assume_order: str | None = None) -> Chains:
    return find_chains(scan_directory(str(chain.directory)), assume_order)


def _dead(chains: Chains) -> set[str]:
    scan: Scan = chains.scan
    return {label(each) for each in (*scan.fulls, *scan.increments) if not chains.is_live(each)}


def _save(chain: Chain, *steps: int, base: int | None = None, ago: float = 60.0) -> None:
    """A trainer saves increments, and lists them behind those that are here."""
    names = [f"{_INCREMENT}{step}" for step in chain.increments]
    names = [n for n in names if (chain.directory / INCREMENTS / f"{n}.index").exists()]
    for number, step in enumerate(steps):
        facts = {"version": 1, "base_step": base, "mode": "cumulative"} if base else None
        chain.add(increment(step, changes("emb", range(1, number + 4)), lineage=facts))
        for path in chain.increment_prefix(step).parent.glob(f"*-{step}.*"):
            date(path, ago)
    write_state(chain.directory / INCREMENTS, [*names, *(f"{_INCREMENT}{s}" for s in steps)])


@pytest.mark.parametrize("how", ["lost", "shard", "cut"])
def test_what_comes_back_is_live_again(tmp_path: Path, how: str) -> None:
    """Nobody set the run back: it was a merge that moved the line."""
    chain, put_back = _lost(tmp_path, how)
    lost = _judged(chain)
    assert lost.latest == 140
    assert "I180" not in _dead(lost)
    prune(chain, KeepLast(1), abandoned=True, min_age_s=0.0)
    assert "I180" in here(chain)  # unproven goes by no option
    put_back()
    chains = _judged(chain)
    assert _dead(chains) == set()
    assert chains.latest == 180
    for order in (None, "step"):
        state = chains.scan.full_state.state
        assert state is not None
        assert is_judged_alike(_judged(chain, order), "full", state)
    prune(chain, abandoned=True, min_age_s=0.0)
    assert {"F160", "I180"} <= here(chain)
    _compact(chain)
    assert _named(chain) == "model.ckpt-180"
    assert rows_of(chain.full_prefix(180), "emb").keys() >= {1, 2}


@pytest.mark.parametrize("what", ["temporary", "relocate", "dropped"])
def test_the_line_stays_where_nothing_was_merged_instead(tmp_path: Path, what: str) -> None:
    """What ckptctl puts right in a state file lets nothing else be named."""
    chain = chain_of(tmp_path, "F100", "I120")
    if what == "dropped":
        chain.merge(120)
        for path in chain.directory.glob(f"{_FULL}120.*"):
            date(path, 3600)
    chain.add(full(160, table("emb", [1, 2])))
    for path in chain.directory.glob(f"{_FULL}160.*"):
        date(path, 1800)
    names = [f"{_FULL}{step}" for step in (100, 160)]
    if what == "relocate":
        names = [str(chain.directory / name) for name in names]
    date(write_state(chain.directory, names), 1790)
    _save(chain, 180, ago=900)
    prune(chain, min_age_s=0.0)
    put_back = _lose(chain, "shard")
    if what == "temporary":
        (chain.directory / f"{_FULL}180.ckptctl.json.ckptctl-7e6d51db1f655431.tmp").write_text("{")
    rules = Policy((KeepLast(3),))
    _compact(chain, prune=PruneOptions(rules, min_age_s=0.0, relocate=what == "relocate"))
    put_back()
    assert os.path.basename(_named(chain)) == f"{_FULL}160"
    assert _judged(chain).latest == 180
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    assert (f"{_FULL}120" in map(os.path.basename, state.all_paths)) is (what == "dropped")


def test_what_a_merge_did_is_known_to_the_next(tmp_path: Path) -> None:
    """As where increments come to a copy one by one, and the full after them."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    put_back, away = _lose(chain), tmp_path / "away"
    away.mkdir()
    late = list((chain.directory / INCREMENTS).glob("*-140.*"))
    for path in late:
        path.rename(away / path.name)
    _compact(chain)
    assert _named(chain) == "model.ckpt-120"
    for path in (*chain.directory.glob(f"{_FULL}120.*"), chain.directory / "checkpoint"):
        date(path, 3600)
    for path in late:
        (away / path.name).rename(path)
    _compact(chain)
    assert _named(chain) == "model.ckpt-140"
    put_back()
    assert _judged(chain).latest == 180


@pytest.mark.parametrize("base", [None, 100], ids=["no lineage", "lineage"])
def test_where_a_trainer_went_on_from_the_merged_full_it_stays_abandoned(
    tmp_path: Path, base: int | None
) -> None:
    chain, put_back = _lost(tmp_path)
    _save(chain, 145, 150, base=base)
    put_back()
    chains = _judged(chain)
    assert _dead(chains) == {"F160", "I180"}
    assert chains.latest == 150
    _compact(chain)
    assert _named(chain) == "model.ckpt-150"
    assert "F160" in _dead(_judged(chain))


@pytest.mark.parametrize(
    ("base", "dead", "latest"),
    [(160, set(), 200), (100, {"F160"}, 200), (None, {"F160"}, 140)],
    ids=["the same run", "another", "nobody knows"],
)
def test_what_is_saved_above_both_tells_by_its_lineage(
    tmp_path: Path, base: int | None, dead: set[str], latest: int
) -> None:
    """A trainer that never stopped saves on against the full that is lost."""
    chain, put_back = _lost(tmp_path)
    _save(chain, 200, base=base)
    put_back()
    chains = _judged(chain)
    assert _dead(chains) == dead
    assert chains.latest == latest


def test_a_full_that_the_trainer_saved_is_judged_as_ever(tmp_path: Path) -> None:
    chain, put_back = _lost(tmp_path)
    chain.add(full(170, table("emb", [1, 2])))
    write_state(chain.directory, [f"{_FULL}{step}" for step in (100, 140, 160, 170)])
    put_back()
    chains = _judged(chain)
    assert chains.timelines.order.scan is chains.scan
    assert chains.latest == 170


def test_a_run_that_is_set_back_to_a_merged_full_on_purpose_stays_so(tmp_path: Path) -> None:
    """It was merged while the full above it was here: nothing was taken from that."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    chain.merge(upto=140)
    assert _named(chain) == "model.ckpt-160"
    names = [f"{_FULL}{step}" for step in (100, 140, 160)]
    write_state(chain.directory, names, latest=names[1])
    chains = _judged(chain)
    assert "F160" in _dead(chains)
    assert chains.latest == 140


@pytest.mark.parametrize("saved", ["merged", "trainer"])
def test_and_one_that_is_set_back_there_later(tmp_path: Path, saved: str) -> None:
    """What was listed since shows that the line is not that of the merge any more."""
    chain, put_back = _lost(tmp_path)
    put_back()
    _compact(chain)
    names = [f"{_FULL}{step}" for step in (140, 160, 180)]
    if saved == "trainer":
        chain.add(full(240, table("emb", [1, 2])))
        names.append(f"{_FULL}240")
    write_state(chain.directory, names, latest=names[0])
    chains = _judged(chain)
    assert {"F160", "M180"} <= _dead(chains)
    assert chains.latest == 140


def test_killed_before_the_next_merge_is_listed(tmp_path: Path) -> None:
    chain, put_back = _lost(tmp_path)
    put_back()
    state = chain.directory / "checkpoint"
    before = state.read_bytes()
    _compact(chain)
    state.write_bytes(before)
    date(state, 3600)
    assert _dead(_judged(chain)) == set()
    _compact(chain)
    assert _named(chain) == "model.ckpt-180"


def test_a_merged_full_that_comes_back_is_live_too(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F100", "I120", "I160")
    away = tmp_path / "away"
    away.mkdir()
    for path in list((chain.directory / INCREMENTS).glob("*-120.*")):
        shutil.copy2(path, away)
    _compact(chain)
    assert _named(chain) == "model.ckpt-160"
    for path in (*chain.directory.glob(f"{_FULL}160.*"), chain.directory / "checkpoint"):
        date(path, 7200)
    put_back = _lose(chain)
    for path in away.iterdir():
        shutil.copy2(path, chain.directory / INCREMENTS)
    _compact(chain)
    assert _named(chain) == "model.ckpt-120"
    put_back()
    chains = _judged(chain)
    assert _dead(chains) == set()
    assert chains.latest == 160


def test_a_copy_without_times(tmp_path: Path) -> None:
    chain, put_back = _lost(tmp_path)
    put_back()
    for path in chain.directory.rglob("*"):
        date(path, 60)
    assert _judged(chain).latest == 180
    assert _judged(chain, "step").latest == 180
