"""Bases and what proves them: "Words", "Lineage", checks 3 and 4 of restore.md."""

from __future__ import annotations

import pytest

from ckptctl.chain import Removed
from tests.chain.builder import chains_of, full, incr, label, merged, only, other


def gone(step, at):
    """Return a full that we removed."""
    return Removed("full", f"model.ckpt-{step}", step, written_ns=int(at * 1e9))


def verdict(chains, step):
    """Return (label of the base, proven, code) of the increment at a step."""
    choice = chains.base_of(only(chains, step))
    assert choice.reason
    return label(choice.base) if choice.base else None, choice.proven, choice.code


CASES = [
    # The live full with the greatest step below it.
    pytest.param(
        chains_of(full(100), full(200), incr(220)), 220, ("F200", True, "listed"), id="nearest"
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(200)),
        200,
        ("F100", True, "listed"),
        id="a full at the same step is not below it",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120)), 120, ("F100", True, "listed"), id="not above"
    ),
    pytest.param(chains_of(full(200), incr(120)), 120, (None, False, "no-base"), id="none below"),
    # Check 4, each of its five ways; in the order in which they are tried.
    pytest.param(
        chains_of(full(100), incr(120), fulls=None),
        120,
        ("F100", True, "no-state-file"),
        id="check 4: no fulls' state file",
    ),
    pytest.param(
        chains_of(full(100), incr(120), broken_state=True),
        120,
        ("F100", False, "rotated"),
        id="check 4: one that does not parse is not none",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), fulls=[100, 200]),
        120,
        ("F100", True, "listed"),
        id="check 4: listed",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), fulls=[200]),
        120,
        ("F100", False, "rotated"),
        id="check 4: below the oldest listed one",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120, base=100), fulls=[200]),
        120,
        ("F100", True, "lineage"),
        id="check 4: lineage names it",
    ),
    pytest.param(
        chains_of(full(90), full(100), full(200), incr(120), fulls=[90, 200]),
        120,
        ("F100", True, "above-oldest"),
        id="check 4: above the oldest listed one",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220), fulls=[200], increments=[220]),
        120,
        ("F100", True, "nothing-rotates"),
        id="check 4: both state files list one while more lie there",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220), fulls=[200], increments=[120, 220]),
        120,
        ("F100", False, "rotated"),
        id="check 4: the increments' file lists two",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), fulls=[200], increments=[120]),
        120,
        ("F100", False, "rotated"),
        id="check 4: no more increments than listed",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220), fulls=[200], increments=None),
        120,
        ("F100", False, "rotated"),
        id="check 4: no increments' state file",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(140, at=700),
            incr(160, at=800),
            fulls=[100],
            full_state_at=600,
        ),
        160,
        ("F100", True, "listed"),
        id="above a merged full that the run was set back behind, and its step saved again",
    ),
    pytest.param(
        chains_of(full(100), full(120, at=400), incr(165, at=500), removed=[gone(160, at=160)]),
        165,
        ("F120", True, "listed"),
        id="what was removed had been given up before",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(120, at=400),
            incr(165, at=500),
            removed=[gone(160, at=160)],
            fulls=[100, 160, 120],
        ),
        165,
        ("F120", True, "listed"),
        id="and is listed by a Saver that remembers it from before",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(120, at=400),
            incr(165, at=500),
            removed=[gone(160, at=160)],
            fulls=[100, 120, 160],
        ),
        165,
        ("F120", False, "full-gone"),
        id="and is listed as if it had been saved anew since",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(120, 100, saved=400.0),
            incr(165, at=500),
            removed=[gone(160, at=160)],
            fulls=[100, 160, 120],
        ),
        165,
        ("M120", False, "full-gone"),
        id="and is listed in front of a merged full alone, which we list where we like",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(120, 100, saved=400.0),
            incr(165, at=500),
            removed=[gone(160, at=160), gone(110, at=300)],
            fulls=[100, 160, 110, 120],
        ),
        165,
        ("M120", True, "listed"),
        id="and in front of a lower one that we removed too",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(120, 100, saved=400.0),
            incr(165, at=500),
            removed=[gone(160, at=160)],
            fulls=[100, 160, 110, 120],
        ),
        165,
        ("M120", False, "full-gone"),
        id="and in front of a lower one that somebody else removed",
    ),
    pytest.param(
        chains_of(full(100), full(120), incr(165, at=500), removed=[gone(160, at=160)]),
        165,
        ("F120", False, "full-gone"),
        id="nothing shows that it had",
    ),
    pytest.param(
        chains_of(full(100), full(120, at=600), incr(165, at=500), removed=[gone(160, at=160)]),
        165,
        ("F120", False, "full-gone"),
        id="that was later",
    ),
    pytest.param(
        chains_of(
            full(100), merged(150, 100, saved=400.0), incr(165, at=500), removed=[gone(160, at=160)]
        ),
        165,
        ("M150", True, "listed"),
        id="what was merged since shows it too",
    ),
    pytest.param(
        chains_of(full(100, name="best.ckpt-100"), other(120), incr(140)),
        140,
        ("F100", False, "other-name"),
        id="called as if recorded against a full of another base name",
    ),
    pytest.param(
        chains_of(full(100), other(120, name="best.ckpt-120"), incr(140)),
        140,
        ("F100", True, "listed"),
        id="an other that it is not called after says nothing",
    ),
    pytest.param(
        chains_of(full(100, name="best.ckpt-100"), other(120), incr(140, base=100)),
        140,
        ("F100", True, "lineage"),
        id="nor does one where lineage says it",
    ),
    pytest.param(
        chains_of(
            full(60),
            full(70, at=700),
            merged(72, 70),
            incr(72, at=900),
            incr(75, at=175),
            increment_state_at=176,
        ),
        75,
        ("M72", False, "older-than-base"),
        id="on a merged full, and older than what that was merged from",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(160, base=100, at=700),
            fulls=[100],
            full_state_at=600,
        ),
        160,
        ("F100", True, "lineage"),
        id="on a merged full that the state file never saw, and its base is here",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, at=500), incr(160, at=700), fulls=[100], full_state_at=600
        ),
        160,
        ("F100", True, "listed"),
        id="a merged full that a newer state file goes back behind, to one that is here",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(160, base=100, at=700),
            fulls=[100, 140],
            named_full=100,
            full_state_at=600,
        ),
        160,
        ("F100", True, "lineage"),
        id="such a one that lineage leads to, and is still listed: it is abandoned",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, at=500), incr(160, at=700), fulls=[100], full_state_at=400
        ),
        160,
        ("M140", True, "listed"),
        id="a merged full that was not yet listed",
    ),
    pytest.param(
        chains_of(merged(150, 100), full(200), incr(160), incr(220), fulls=[200], increments=[220]),
        160,
        ("M150", False, "rotated"),
        id="check 4: a merged full is not one more that a trainer left",
    ),
    pytest.param(
        chains_of(merged(90, 50), full(100), full(200), incr(120), fulls=[90, 200]),
        120,
        ("F100", False, "rotated"),
        id="check 4: the oldest listed one is not one that ckptctl listed",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150), incr(160), fulls=[200, 150], increments=None),
        160,
        ("F150", True, "listed"),
        id="check 4: the oldest is the first of the list, not the lowest",
    ),
    # Check 3: no full between F and S is listed and gone.
    pytest.param(
        chains_of(full(100), incr(120), incr(180), fulls=[100, 150]),
        180,
        ("F100", False, "full-gone"),
        id="check 3: listed and gone between",
    ),
    pytest.param(
        chains_of(full(100), incr(120), incr(180), fulls=[100, 150]),
        120,
        ("F100", True, "listed"),
        id="check 3: listed and gone above the increment",
    ),
    pytest.param(
        chains_of(full(100), incr(120), fulls=[50, 100]),
        120,
        ("F100", True, "listed"),
        id="check 3: listed and gone below the base",
    ),
    pytest.param(
        chains_of(full(100), incr(180), fulls=[100, "old.ckpt-150"]),
        180,
        ("F100", False, "full-gone"),
        id="check 3: under another base name",
    ),
    pytest.param(
        chains_of(full(100), incr(180, base=100), fulls=[100, 150]),
        180,
        ("F100", True, "lineage"),
        id="check 3: lineage names the base",
    ),
    pytest.param(
        chains_of(full(100), incr(180), removed=[Removed("full", "model.ckpt-150", 150)]),
        180,
        ("F100", False, "full-gone"),
        id="check 3: removed by ckptctl",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(180),
            fulls=[100, 150],
            removed=[Removed("full", "model.ckpt-150", 150)],
        ),
        180,
        ("F100", False, "full-gone"),
        id="check 3: removed by ckptctl and listed again",
    ),
    pytest.param(
        chains_of(
            full(100), incr(180), removed=[Removed("full", "model.ckpt-150", 150, merged=True)]
        ),
        180,
        ("F100", True, "listed"),
        id="check 3: a merged full that ckptctl removed emptied no recorder",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(180),
            fulls=[100, 150],
            removed=[Removed("full", "model.ckpt-150", 150, merged=True)],
        ),
        180,
        ("F100", False, "full-gone"),
        id="check 3: a merged full that ckptctl removed, listed again, may have been saved anew",
    ),
    pytest.param(
        chains_of(
            full(100), incr(180), removed=[Removed("increment", "incremental_model.ckpt-150", 150)]
        ),
        180,
        ("F100", True, "listed"),
        id="check 3: a removed increment",
    ),
    # An incomplete full is never a base, and hides the one that is.
    pytest.param(
        chains_of(full(100), full(150, missing=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="incomplete full between: shard missing",
    ),
    pytest.param(
        chains_of(full(100), full(150, short=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="incomplete full between: shard short",
    ),
    pytest.param(
        chains_of(full(100), full(150, damage=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="incomplete full between: index damaged",
    ),
    pytest.param(
        chains_of(full(100), full(150, late_damage=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="incomplete full between: a later block of the index damaged",
    ),
    pytest.param(
        chains_of(full(100), merged(150, 100, missing=True), incr(180)),
        180,
        ("F100", True, "listed"),
        id="an incomplete merged full hides nothing",
    ),
    pytest.param(
        chains_of(full(100), full(150, damage=True, mark=True, ours=True), incr(180)),
        180,
        ("F100", True, "listed"),
        id="a damaged full that our mark names hides nothing",
    ),
    pytest.param(
        chains_of(full(100), full(150, damage=True, mark=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="a damaged full with our mark alone: the trainer may have saved over a merged one",
    ),
    pytest.param(
        chains_of(full(100), full(150, missing=True), incr(180, base=100)),
        180,
        ("F100", True, "lineage"),
        id="lineage reaches past an incomplete full",
    ),
    pytest.param(
        chains_of(full(100), full(150), full(150, name="model.ckpt-00000150"), incr(180)),
        180,
        (None, False, "ambiguous"),
        id="two fulls at the step of the base",
    ),
    # Abandoned A between F and S.
    pytest.param(
        chains_of(
            full(100), full(200), full(150, at=400), incr(220, at=600), fulls=[100, 200, 150]
        ),
        220,
        ("F150", True, "listed"),
        id="abandoned between: F itself was written after it, and S after F",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(220, at=600), fulls=[100], full_state_at=500),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: nothing shows that the run was rolled back by then",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(120, at=520),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
        ),
        220,
        ("F100", True, "listed"),
        id="abandoned between: a lower increment was written in between",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(120, at=201),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: a witness within 2 s of A is none",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(120, at=700),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
            increments=[220],
            named_increment=220,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: a witness after S is none",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(120, at=150),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: a witness before A is none",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(210, at=520),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: a witness above A is none",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            merged(120, 100, at=550),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
        ),
        220,
        ("M120", False, "abandoned-between"),
        id="abandoned between: a merged full is no witness",
    ),
    pytest.param(
        chains_of(
            full(100), full(200), incr(220, at=600, base=100), fulls=[100], full_state_at=500
        ),
        220,
        ("F100", True, "lineage"),
        id="abandoned between: proven by lineage",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200, at=450),
            incr(220, at=400),
            fulls=[100],
            increments=[220],
            full_state_at=500,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: written after S, and perhaps anew",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(200, 100, at=450),
            incr(220, at=400),
            named_full=100,
            increments=[220],
            full_state_at=500,
        ),
        220,
        ("F100", True, "listed"),
        id="abandoned between: a merged one that was written after S is no base of it",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200, at=300),
            incr(220, at=400),
            fulls=[200],
            named_full=100,
            increments=[220],
            full_state_at=500,
        ),
        220,
        ("F100", False, "abandoned-between"),
        id="abandoned between: a line that was edited shows no save",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200, at=700),
            full(150, at=900),
            incr(220, at=400),
            fulls=[100, 200, 150],
            increments=[220],
        ),
        220,
        ("F150", False, "older-than-base"),
        id="older than its base, but named by the state file: rolled back since",
    ),
    pytest.param(
        chains_of(full(100, at=900), incr(220, at=400, base=100), fulls=[100], increments=[220]),
        220,
        ("F100", False, "older-than-base"),
        id="older than its base: lineage names the one that was saved before it",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(150, at=600), fulls=[100], full_state_at=500),
        150,
        ("F100", True, "listed"),
        id="abandoned above S",
    ),
    pytest.param(
        chains_of(full(80, at=10), full(50), full(100), incr(120, at=600), fulls=[80, 50, 100]),
        120,
        ("F100", True, "listed"),
        id="abandoned below F",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=900),
            full(150, at=950),
            incr(220, at=2000),
            fulls=[100, 200, 150],
            increments=[220],
        ),
        220,
        ("F150", False, "abandoned-between"),
        id="abandoned between, copied: time shows nothing",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(220, at=600),
            fulls=[100],
            full_state_at=500,
            assume_order="step",
        ),
        220,
        ("F200", True, "above-oldest"),
        id="assume order step: nothing is abandoned",
    ),
    pytest.param(
        chains_of(full(100), full(220), incr(220, at=600), fulls=[100], full_state_at=500),
        220,
        ("F100", True, "listed"),
        id="abandoned at S itself is not between",
    ),
    pytest.param(
        chains_of(full(100), full(150, missing=True, mark=True), incr(180)),
        180,
        (None, False, "base-incomplete"),
        id="incomplete full with our mark alone: the trainer saved over a merged one",
    ),
    pytest.param(
        chains_of(full(100), incr(180, damage=True)),
        180,
        (None, False, "damaged"),
        id="a damaged increment",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120, at=90), increments=None),
        120,
        (None, False, "abandoned"),
        id="an abandoned increment",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), fulls=["model.ckpt-0100", 200]),
        120,
        ("F100", False, "rotated"),
        id="check 4: at the step of the oldest listed one is not above it",
    ),
    # Lineage.
    pytest.param(
        chains_of(full(100), full(150), incr(180, base=100)),
        180,
        ("F100", True, "lineage"),
        id="lineage: not the nearest",
    ),
    pytest.param(
        chains_of(full(100), incr(180, base=150)),
        180,
        (None, False, "base-gone"),
        id="lineage: its base is gone",
    ),
    pytest.param(
        chains_of(full(100, missing=True), full(90), incr(180, base=100)),
        180,
        (None, False, "base-incomplete"),
        id="lineage: its base lacks a shard",
    ),
    pytest.param(
        chains_of(full(100, short=True), full(90), incr(180, base=100)),
        180,
        (None, False, "base-incomplete"),
        id="lineage: a shard of its base is short",
    ),
    pytest.param(
        chains_of(full(100), full(100, name="model.ckpt-0100"), incr(180, base=100)),
        180,
        (None, False, "ambiguous"),
        id="lineage: two fulls at its base's step",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            full(150, at=400),
            incr(220, at=600, base=200),
            fulls=[100, 200, 150],
        ),
        220,
        (None, False, "base-abandoned"),
        id="lineage: named by the state file, its base abandoned",
    ),
    pytest.param(
        chains_of(full(100), full(150, at=500), incr(180, base=100), increments=[180]),
        180,
        ("F100", False, "older-than-base"),
        id="lineage: a full above its base was saved since",
    ),
    pytest.param(
        chains_of(
            full(100), merged(120, 100), full(150, at=500), incr(180, base=100), increments=[180]
        ),
        180,
        ("M120", False, "older-than-base"),
        id="lineage: a full above the merged one was saved since",
    ),
    # Merged fulls stand in.
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(160)),
        160,
        ("M140", True, "listed"),
        id="merged: the nearest full below",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(160, base=100)),
        160,
        ("M140", True, "lineage"),
        id="merged: stands in for what the lineage names",
    ),
    pytest.param(
        chains_of(merged(140, 100), incr(160, base=100)),
        160,
        ("M140", True, "lineage"),
        id="merged: stands in for a base that is gone",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, last="b"),
            incr(120, base=100, ids=("a", None)),
            incr(140, base=100, previous=120, ids=("b", "a")),
            incr(160, base=100, previous=140, ids=("c", "b")),
            incr(180, base=100, previous=160, ids=("d", "c")),
        ),
        180,
        ("M140", True, "lineage"),
        id="merged: its line goes through the last that is in it",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, last="b"), incr(180, base=100, previous=160, ids=("d", "c"))
        ),
        180,
        ("F100", True, "lineage"),
        id="merged: its line leads to what is gone, and the base is here",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), incr(180, base=100, previous=160, ids=("d", "c"))),
        180,
        ("M140", True, "lineage"),
        id="merged: its line leads to what is gone, and so is the base",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, last="b"), incr(180, base=100, ids=("d", "b"))),
        180,
        ("M140", True, "lineage"),
        id="merged: an increment that needs none before it goes on from the last in it",
    ),
    pytest.param(
        chains_of(
            merged(140, 100, last="b"),
            incr(120, base=100, ids=("a", None)),
            incr(180, base=100, ids=("d", "a")),
        ),
        180,
        (None, False, "base-gone"),
        id="merged: an increment that needs none before it goes past it",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), incr(180, base=100, ids=("d", "c"), line="abc")),
        180,
        ("M140", True, "lineage"),
        id="merged: its line says that it goes through the last in it",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), incr(180, base=100, ids=("d", "c"), line="axc")),
        180,
        (None, False, "base-gone"),
        id="merged: its line says that it goes past it, whatever is gone",
    ),
    pytest.param(
        chains_of(
            merged(140, 100, last="b"), incr(180, base=100, ids=("d", "c"), line="axc" + 97 * "z")
        ),
        180,
        ("M140", True, "lineage"),
        id="merged: its line is too long to say all",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(180, base=100, ids=("d", None), line="")),
        180,
        ("F100", True, "lineage"),
        id="merged: without its last id the base itself, where that is here",
    ),
    pytest.param(
        chains_of(merged(140, 100), incr(180, base=100, ids=("d", None), line="")),
        180,
        ("M140", True, "lineage"),
        id="merged: without its last id nothing speaks against it",
    ),
    pytest.param(
        chains_of(
            merged(120, 100, last="a", at=300),
            merged(140, 100, last="b", at=500),
            incr(180, base=100, ids=("d", "b"), line="ab", at=700),
            fulls=[120],
            full_state_at=600,
        ),
        180,
        ("M140", True, "lineage"),
        id="merged: its line goes through one that a newer state file goes back behind",
    ),
    pytest.param(
        chains_of(
            merged(120, 100, at=300),
            merged(140, 100, at=500),
            incr(180, base=100, at=700),
            fulls=[120],
            full_state_at=600,
        ),
        180,
        ("M120", True, "lineage"),
        id="merged: below one that a newer state file goes back behind another may stand in",
    ),
    pytest.param(
        chains_of(merged(160, 100, onto=140, last="c"), incr(180, base=140, ids=("d", "c"))),
        180,
        ("M160", True, "lineage"),
        id="merged: stands in for the merged one that it was made from",
    ),
    pytest.param(
        chains_of(merged(160, 100, onto=140, last="c"), incr(180, base=140, ids=("d", None))),
        180,
        (None, False, "base-gone"),
        id="merged: not for what begins anew at that one",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, last="b"),
            incr(160, base=100, previous=140, ids=("c", "x")),
            incr(180, base=100, previous=160, ids=("d", "c")),
        ),
        180,
        ("F100", True, "lineage"),
        id="merged: its line goes through another one of that step",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, last="b"),
            incr(120, base=100, ids=("a", None)),
            incr(180, base=100, previous=120, ids=("d", "a")),
        ),
        180,
        ("F100", True, "lineage"),
        id="merged: its line goes past it",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), incr(180, base=100, ids=("d", None))),
        180,
        (None, False, "base-gone"),
        id="merged: its line begins at the base anew",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), incr(180, base=100, previous=140, ids=("d", None))),
        180,
        ("M140", True, "lineage"),
        id="merged: its line goes on from one without an id",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, last="b"),
            incr(160, base=100, previous=170, ids=("c", "d")),
            incr(180, base=100, previous=160, ids=("d", "c")),
        ),
        180,
        ("F100", True, "lineage"),
        id="merged: a line that goes in a circle",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(140, base=100)),
        140,
        ("F100", True, "lineage"),
        id="merged: not for a step that is not above it",
    ),
    pytest.param(
        chains_of(merged(140, 100), incr(130, base=100)),
        130,
        (None, False, "base-gone"),
        id="merged: not for a step below it, though the base is gone",
    ),
    pytest.param(
        chains_of(full(100), full(150), merged(140, 100), incr(160, base=150)),
        160,
        ("F150", True, "lineage"),
        id="merged: not for another base",
    ),
    pytest.param(
        chains_of(merged(120, 100), merged(140, 100), incr(160, base=100)),
        160,
        ("M140", True, "lineage"),
        id="merged: the one that holds most",
    ),
    pytest.param(
        chains_of(merged(120, 100), merged(140, 120), incr(160, base=100)),
        160,
        ("M140", True, "lineage"),
        id="merged: from a merged one",
    ),
    pytest.param(
        chains_of(merged(140, 120), incr(160, base=100)),
        160,
        (None, False, "base-gone"),
        id="merged: from a merged one that is gone, so nothing says from what",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, missing=True), incr(160, base=100)),
        160,
        ("F100", True, "lineage"),
        id="merged: not while it is incomplete",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, up_to=130), incr(160, base=100)),
        160,
        ("F100", True, "lineage"),
        id="merged: not under another step's name, by lineage",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, up_to=130), incr(160, base=140)),
        160,
        (None, False, "base-incomplete"),
        id="merged: not under another step's name, though its lineage says so",
    ),
    pytest.param(
        chains_of(merged(120, 140, up_to=200), merged(140, 120), incr(160, base=120)),
        160,
        ("M140", True, "lineage"),
        id="merged: two that name each other",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, up_to=130), incr(160)),
        160,
        ("F100", True, "listed"),
        id="merged: not under another step's name, by steps",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(130, at=600, base=100),
            incr(160, at=700, base=100),
            fulls=[100],
        ),
        160,
        ("F100", True, "lineage"),
        id="merged: not once the run was rolled back to below it",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(160), fulls=[100]),
        160,
        ("M140", True, "listed"),
        id="merged: not in the state file",
    ),
    pytest.param(
        chains_of(
            full(100, at=140),
            full(120, at=120),
            merged(130, 100),
            incr(160),
            fulls=[120, 100],
        ),
        160,
        ("M130", True, "listed"),
        id="merged: the one that it was made from is listed, behind one that was left",
    ),
    pytest.param(
        chains_of(full(60), full(100), incr(80), fulls=[100], named_full=60, increments=None),
        80,
        ("F60", False, "rotated"),
        id="check 4: named by hand and not listed",
    ),
    pytest.param(
        chains_of(full(60), full(100), incr(70), incr(80), fulls=[100], named_full=60),
        70,
        ("F60", True, "listed"),
        id="check 4: named by hand, and an increment above it too",
    ),
]


@pytest.mark.parametrize(("chains", "step", "expected"), CASES)
def test_base(chains, step, expected):
    assert verdict(chains, step) == expected


CHECKS = [
    pytest.param(chains_of(full(100), incr(180), fulls=[100, 150]), 3, ["model.ckpt-150"], id="3"),
    pytest.param(
        chains_of(full(100), full(200), incr(180), fulls=[200]), 4, ["model.ckpt-100"], id="4"
    ),
    pytest.param(
        chains_of(full(100), full(150, missing=True), incr(180)), 3, ["model.ckpt-150"], id="hidden"
    ),
    pytest.param(
        chains_of(full(90), full(150), full(150, name="model.ckpt-0150"), incr(180)),
        None,
        ["model.ckpt-0150", "model.ckpt-150"],
        id="two",
    ),
]


@pytest.mark.parametrize(("chains", "check", "files"), CHECKS)
def test_a_refusal_names_check_and_files(chains, check, files):
    choice = chains.base_of(only(chains, 180))
    assert choice.check == check
    assert all(name in choice.reason for name in files)


def delta(step, previous, base=100, **options):
    return incr(step, base=base, previous=previous, delta=True, **options)


SERIES = [
    pytest.param(
        chains_of(full(100), delta(120, None), delta(140, 120), delta(160, 140)),
        160,
        ("F100", ["I120", "I140", "I160"]),
        id="the whole series in order",
    ),
    pytest.param(
        chains_of(full(100), delta(120, 100), delta(140, 120)),
        140,
        ("F100", ["I120", "I140"]),
        id="the first one names its base as its predecessor",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None, ids=("a", None)), delta(140, 120, ids=("b", "a"))),
        140,
        ("F100", ["I120", "I140"]),
        id="a predecessor that is the one that is meant",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None, ids=("z", None)), delta(140, 120, ids=("b", "a"))),
        140,
        "delta-hole",
        id="another one at the step of the predecessor",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(140, 120, ids=("b", "a"))),
        140,
        "delta-hole",
        id="one without a name at the step of the predecessor",
    ),
    pytest.param(
        chains_of(
            full(100), full(130, at=500), delta(120, None), delta(140, 120), increments=[120, 140]
        ),
        140,
        ("older-than-base", "F100"),
        id="a full that was saved since lies in the midst of the series",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(160, 140)),
        160,
        "delta-hole",
        id="a predecessor is missing",
    ),
    pytest.param(
        chains_of(full(100), delta(140, 120), delta(160, 140)),
        160,
        "delta-hole",
        id="an earlier predecessor is missing",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(140, 120, missing=True), delta(160, 140)),
        160,
        "delta-hole",
        id="a predecessor lacks a shard",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(140, 120, short=True), delta(160, 140)),
        160,
        "delta-hole",
        id="a shard of a predecessor is short",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(140, 120, damage=True), delta(160, 140)),
        160,
        "delta-hole",
        id="a predecessor is damaged",
    ),
    pytest.param(
        chains_of(full(100), incr(120), delta(140, 120)),
        140,
        "delta-hole",
        id="a predecessor without lineage",
    ),
    pytest.param(
        chains_of(full(100), incr(120, base=100), delta(140, 120)),
        140,
        "delta-hole",
        id="a cumulative predecessor",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(130, 120, damage=True), delta(160, 130)),
        160,
        ("M140", ["I160"]),
        id="a merged full that reaches past a damaged predecessor",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(130, 120, missing=True), delta(160, 130)),
        160,
        ("M140", ["I160"]),
        id="a merged full that reaches past one without a shard",
    ),
    pytest.param(
        chains_of(full(90), full(100), delta(120, None, base=90), delta(140, 120)),
        140,
        "delta-hole",
        id="a predecessor on another base",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), delta(120, None, name="incr-120"), delta(140, 120)),
        140,
        "delta-hole",
        id="two predecessors",
    ),
    pytest.param(
        chains_of(
            full(100),
            delta(120, None, at=400),
            delta(140, 120, at=130),
            delta(160, 140, at=500),
            increments=[140, 120, 160],
        ),
        160,
        "delta-hole",
        id="an abandoned predecessor",
    ),
    pytest.param(
        chains_of(delta(120, None), delta(140, 120), full(90)),
        140,
        "base-gone",
        id="the base of the series is gone",
    ),
    pytest.param(
        chains_of(full(100, missing=True), delta(120, None)),
        120,
        "base-incomplete",
        id="the base of the series is incomplete",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(160, 140), delta(180, 160)),
        180,
        ("M140", ["I160", "I180"]),
        id="a merged full stands in",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), delta(120, None), delta(140, 120), delta(160, 140)),
        160,
        ("M140", ["I160"]),
        id="a merged full stands in while all it was made of is there",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), delta(120, None), delta(140, 120)),
        140,
        ("F100", ["I120", "I140"]),
        id="not for what it holds itself",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(160, 120)),
        160,
        ("M140", ["I160"]),
        id="for every previous step up to its own",
    ),
    pytest.param(
        chains_of(merged(140, 100), merged(160, 100), delta(180, 140)),
        180,
        ("M140", ["I180"]),
        id="the one that ends with the predecessor before one that holds more",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(160, None)),
        160,
        ("M140", ["I160"]),
        id="for the base of a first one that is gone",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), delta(160, None)),
        160,
        ("F100", ["I160"]),
        id="but where that base is here it is taken",
    ),
    pytest.param(
        chains_of(full(100), delta(120, None), merged(130, 100), delta(125, 120), delta(135, 125)),
        135,
        ("F100", ["I120", "I125", "I135"]),
        id="where the predecessor is here it is followed",
    ),
    pytest.param(
        chains_of(merged(140, 100), delta(180, 160)),
        180,
        "delta-hole",
        id="a hole above the merged full",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), delta(160, 140, ids=("c", "b"))),
        160,
        ("M140", ["I160"]),
        id="for what follows the last that is in it",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, last="x"), delta(160, 140, ids=("c", "b"))),
        160,
        "delta-hole",
        id="not for what follows another one of that step",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, last="b"), delta(160, 120, ids=("c", "a"))),
        160,
        "delta-hole",
        id="not for what follows one below the last that is in it",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), delta(160, None, ids=("c", None))),
        160,
        "base-gone",
        id="not for what begins anew at the base",
    ),
    pytest.param(
        chains_of(merged(140, 100, last="b"), delta(160, None, ids=("c", "b"))),
        160,
        ("M140", ["I160"]),
        id="for what needs none before it, and goes on from the last that is in it",
    ),
    pytest.param(
        chains_of(merged(140, 100, up_to=130), delta(160, 140)),
        160,
        "delta-hole",
        id="not under another step's name",
    ),
]


@pytest.mark.parametrize(("chains", "step", "expected"), SERIES)
def test_delta_series(chains, step, expected):
    choice = chains.base_of(only(chains, step))
    if expected[0] == "older-than-base":
        assert (choice.code, choice.proven, label(choice.base)) == (expected[0], False, expected[1])
    elif isinstance(expected, str):
        assert (choice.base, choice.proven, choice.code) == (None, False, expected)
        assert chains.status(only(chains, step)) in ("unproven", "orphan")
    else:
        assert choice.proven
        assert (label(choice.base), [label(item) for item in choice.series]) == expected


PLACES = [
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220)),
        {"F100": ["I120"], "F200": ["I220"]},
        id="by base",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220, base=100)),
        {"F100": ["I120", "I220"], "F200": []},
        id="by lineage",
    ),
    pytest.param(
        chains_of(full(100), full(200, missing=True), incr(220)),
        {"F100": [], "F200": ["I220"]},
        id="without a base: under the full that it lies above",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(220, damage=True)),
        {"F100": [], "F200": ["I220"]},
        id="damaged: by step",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            full(150, at=400),
            incr(220),
            incr(230, at=500),
            fulls=[100, 200, 150],
        ),
        {"F100": [], "F150": ["I230"], "F200": ["I220"]},
        id="abandoned: under the nearest full, abandoned like it",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            incr(210, base=100),
            incr(150, at=400),
            increments=[210, 150],
        ),
        {"F100": ["I150", "I210"], "F200": []},
        id="abandoned, with a lineage",
    ),
    pytest.param(
        chains_of(
            full(100, at=300), full(150, at=200), incr(180, base=120, at=400), fulls=[150, 100]
        ),
        {"F100": ["I180"], "F150": []},
        id="its base is gone: below the nearest live full",
    ),
    pytest.param(
        chains_of(full(200), incr(120), incr(220)),
        {"F200": ["I220"], "": ["I120"]},
        id="orphans",
    ),
]


@pytest.mark.parametrize(("chains", "expected"), PLACES)
def test_where_an_increment_is_listed(chains, expected):
    found = {label(chain.base): [label(i) for i in chain.increments] for chain in chains.chains}
    if chains.orphans:
        found[""] = [label(item) for item in chains.orphans]
    assert found == expected


def test_the_base_of_a_full_is_itself():
    chains = chains_of(full(100))
    choice = chains.base_of(chains.scan.fulls[0])
    assert choice.base is chains.scan.fulls[0]
    assert choice.proven


def test_a_lineage_above_its_increment_ends():
    chains = chains_of(full(100), incr(120, base=100, previous=120, delta=True))
    assert verdict(chains, 120) == (None, False, "delta-hole")


def test_a_state_file_that_says_nothing_is_the_reason():
    chains = chains_of(full(100), incr(120), broken_state=True)
    reason = chains.base_of(chains.scan.increments[0]).reason
    assert "checkpoint says nothing (" in reason
    assert "ckptctl verify says what to do" in reason


def test_what_a_line_goes_on_from_is_the_same_whatever_is_asked_first():
    others = [
        incr(160, base=100, previous=140, ids=("c", "x")),
        incr(180, base=100, previous=160, ids=("d", "c")),
        incr(190, base=100, previous=180, ids=("e", "d")),
    ]
    for order in ((160, 180, 190), (190, 160, 180)):
        chains = chains_of(full(100), merged(140, 100, last="b"), *others)
        assert {label(chains.base_of(only(chains, step)).base) for step in order} == {"F100"}


def test_a_merged_full_that_was_passed_over_is_told():
    chains = chains_of(merged(140, 100, last="b"), incr(180, base=100, ids=("d", None)))
    reason = chains.base_of(only(chains, 180)).reason
    assert "full 100, which is not here" in reason
    assert "model.ckpt-140 was merged from increments that it does not go on from" in reason
