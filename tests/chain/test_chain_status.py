"""Statuses, restore points and findings: "Words" and "Deleting" of restore.md, cli.md."""

from __future__ import annotations

import pytest

from ckptctl.chain import Removed, find_chains
from ckptctl.errors import AmbiguousError, DamageError
from tests.chain.builder import (
    build_scan,
    chains_of,
    full,
    incr,
    info,
    label,
    merged,
    only,
    rows,
    statuses,
)

STATUS = [
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220)),
        {"F100": "ok", "F200": "ok", "I120": "stale", "I220": "ok"},
        id="two chains",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(200)),
        {"F100": "ok", "F200": "ok", "I200": "stale"},
        id="equal steps of full and increment",
    ),
    pytest.param(
        chains_of(full(100), full(200, damage=True), incr(120), incr(220)),
        {"F100": "ok", "F200": "damaged", "I120": "ok", "I220": "unproven"},
        id="a damaged full makes nothing stale",
    ),
    pytest.param(
        chains_of(full(100), full(200, missing=True), incr(120)),
        {"F100": "ok", "F200": "incomplete", "I120": "ok"},
        id="a full without a shard makes nothing stale",
    ),
    pytest.param(
        chains_of(full(100), full(200, short=True), incr(120)),
        {"F100": "ok", "F200": "incomplete", "I120": "ok"},
        id="a full with a short shard makes nothing stale",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120, at=250), fulls=[100], full_state_at=300),
        {"F100": "ok", "F200": "abandoned", "I120": "ok"},
        id="an abandoned full makes nothing stale",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(200, name="model.ckpt-0200"), incr(120), fulls=None),
        {"F100": "ok", "F200": "ok", "I120": "ok"},
        id="two fulls at one step make nothing stale",
    ),
    pytest.param(
        chains_of(full(100), merged(150, 100, up_to=120), incr(140)),
        {"F100": "ok", "M150": "unproven", "I140": "ok"},
        id="a merged full under another step's name makes nothing stale",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(120), incr(140), incr(160)),
        {"F100": "ok", "M140": "ok", "I120": "stale", "I140": "stale", "I160": "ok"},
        id="a merged full does",
    ),
    # Precedence.
    pytest.param(
        chains_of(full(200), incr(120, damage=True), incr(130, missing=True), incr(140)),
        {"F200": "ok", "I120": "damaged", "I130": "incomplete", "I140": "orphan"},
        id="damaged, incomplete, orphan before stale",
    ),
    pytest.param(
        chains_of(full(100), incr(120, late_damage=True)),
        {"F100": "ok", "I120": "damaged"},
        id="damage in a later block of the index",
    ),
    pytest.param(
        chains_of(full(200), incr(120), incr(110, at=300), increments=[120, 110]),
        {"F200": "ok", "I120": "abandoned", "I110": "orphan"},
        id="abandoned before orphan",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120, sparse={}), fulls=[200]),
        {"F100": "ok", "F200": "ok", "I120": "unproven"},
        id="unproven before idle",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120, sparse={})),
        {"F100": "ok", "F200": "ok", "I120": "idle"},
        id="idle before stale",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100, delta=True),
            incr(160, base=100, previous=140, delta=True),
        ),
        {"F100": "ok", "I120": "ok", "I160": "unproven"},
        id="a delta series with a hole",
    ),
    # Orphan: no full below it at all.
    pytest.param(
        chains_of(full(100, damage=True), incr(120)),
        {"F100": "damaged", "I120": "unproven"},
        id="a damaged full below is still one: unproven, so that no option removes it",
    ),
    pytest.param(
        chains_of(full(100), incr(120, base=50)),
        {"F100": "ok", "I120": "unproven"},
        id="its base is gone, another full is below: unproven",
    ),
    pytest.param(chains_of(incr(120)), {"I120": "orphan"}, id="no full at all"),
]


@pytest.mark.parametrize(("chains", "expected"), STATUS)
def test_status(chains, expected):
    assert statuses(chains) == expected


def test_others_have_a_word_of_their_own():
    other = full(100)
    other = type(other)(**{**vars(other), "kind": "other"})
    chains = chains_of(full(200))
    assert chains.status(other) == "other"
    assert "no checkpoint of this model" in chains.why_not(other)


POINTS = [
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220)), [100, 120, 200, 220], id="all"
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(200)), [100, 200], id="equal steps are one point"
    ),
    pytest.param(
        chains_of(full(100), full(200, short=True), incr(220), incr(120, missing=True)),
        [100],
        id="incomplete ones and what stands on them",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150, at=400), fulls=[100, 200, 150]),
        [100, 150],
        id="abandoned ones",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(200, name="model.ckpt-0200")),
        [100],
        id="two fulls at one step",
    ),
    pytest.param(
        chains_of(full(100), incr(120), incr(120, name="x-120"), incr(130)),
        [100, 130],
        id="two increments at one step",
    ),
    pytest.param(
        chains_of(full(100), merged(150, 100, up_to=120)), [100], id="merged under another name"
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(120), fulls=[200]), [100, 200], id="unproven"
    ),
    pytest.param(chains_of(incr(120)), [], id="none"),
]


@pytest.mark.parametrize(("chains", "expected"), POINTS)
def test_restore_points(chains, expected):
    assert list(chains.restore_points) == expected
    assert chains.latest == (expected[-1] if expected else None)


def pair(*steps):
    names = [f"/ckpt/.incremental_checkpoint/incremental_model.ckpt-{step}" for step in steps]
    return tuple(names)


def nested(failed=(), proven=(), **options):
    return chains_of(
        full(100),
        incr(120),
        incr(140),
        incr(160),
        failed_nested=frozenset(pair(*p) for p in failed),
        proven_nested=frozenset(pair(*p) for p in proven),
        **options,
    )


NESTED = [
    pytest.param(nested(), None, [100, 120, 140, 160], "ok ok ok", id="not yet proven"),
    pytest.param(
        nested(proven=[(120, 140), (140, 160)]),
        True,
        [100, 120, 140, 160],
        "superseded superseded ok",
        id="proven",
    ),
    pytest.param(
        nested(proven=[(120, 140)]), None, [100, 120, 140, 160], "superseded ok ok", id="half"
    ),
    pytest.param(
        nested(proven=[(140, 160)]), None, [100, 120, 140, 160], "ok superseded ok", id="other half"
    ),
    pytest.param(nested(failed=[(140, 160)]), False, [100, 120, 140], "ok ok ok", id="last failed"),
    pytest.param(
        nested(failed=[(120, 140)], proven=[(140, 160)]),
        False,
        [100, 120],
        "ok ok ok",
        id="a failed pair fails all that follow: nothing they contain is superseded",
    ),
    pytest.param(
        nested(failed=[(120, 160)]), None, [100, 120, 140, 160], "ok ok ok", id="no neighbours"
    ),
]


@pytest.mark.parametrize(("chains", "expected", "points", "words"), NESTED)
def test_nested(chains, expected, points, words):
    assert chains.chains[0].nested is expected
    assert list(chains.restore_points) == points
    assert [chains.status(i) for i in chains.chains[0].increments] == words.split()


@pytest.mark.parametrize(("last", "expected"), [("b", ["I140", "I160"]), ("x", ["I160"])])
def test_the_increment_that_a_merged_full_was_made_from_is_known_by_its_id(last, expected):
    chains = chains_of(
        full(100),
        merged(140, 100, last=last),
        incr(140, base=100, ids=("b", None)),
        incr(160, base=100, ids=("c", last)),
    )
    assert [label(i) for i in chains.nested_series(chains.full_at(140))] == expected


def test_nested_series_and_pairs():
    chains = chains_of(
        full(100),
        full(200),
        incr(120),
        incr(130, missing=True),
        incr(140),
        incr(150, base=100, delta=True),
        incr(220),
    )
    base = chains.full_at(100)
    assert [label(i) for i in chains.nested_series(base)] == ["I120", "I140"]
    assert chains.nested_pairs(base) == (pair(120, 140),)
    assert [label(i) for i in chains.nested_series(base, only(chains, 140))] == ["I120", "I140"]
    assert [label(i) for i in chains.nested_series(base, only(chains, 220))] == [
        "I120",
        "I140",
        "I220",
    ]
    assert chains.chains[1].nested is True


SUPERSEDED = [
    pytest.param(
        chains_of(
            full(100),
            incr(120),
            incr(140, sparse=rows(emb=0)),
            incr(160),
            proven_nested=frozenset({pair(120, 140), pair(140, 160)}),
        ),
        "superseded idle ok",
        id="the next one is idle, the one after it counts",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120),
            incr(140, sparse=rows(emb=0)),
            proven_nested=frozenset({pair(120, 140)}),
        ),
        "ok idle",
        id="contained in an idle one only",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120),
            incr(180),
            fulls=[100, 150],
            proven_nested=frozenset({pair(120, 180)}),
        ),
        "ok unproven",
        id="contained in an unproven one only",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100, delta=True),
            incr(140, base=100, previous=120, delta=True),
            proven_nested=frozenset({pair(120, 140)}),
        ),
        "ok ok",
        id="a delta series is kept whole",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100, delta=True),
            incr(140, base=100),
            proven_nested=frozenset({pair(120, 140)}),
        ),
        "ok ok",
        id="a delta contained in a cumulative one is kept",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120),
            incr(140, base=100, delta=True),
            incr(160),
            proven_nested=frozenset({pair(120, 140), pair(140, 160)}),
        ),
        "ok ok ok",
        id="a delta is no link between cumulative ones",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120),
            incr(140),
            incr(130, at=145),
            incr(160),
            increments=[120, 140, 130, 160],
            proven_nested=frozenset({pair(120, 130), pair(130, 160)}),
        ),
        "superseded superseded abandoned ok",
        id="an abandoned one is none either",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100),
            incr(140, base=100),
            proven_nested=frozenset({pair(120, 140)}),
        ),
        "superseded ok",
        id="cumulative by lineage",
    ),
]


@pytest.mark.parametrize(("chains", "words"), SUPERSEDED)
def test_superseded(chains, words):
    assert [chains.status(i) for i in chains.chains[0].increments] == words.split()


def test_a_full_is_neither_stale_nor_superseded():
    chains = chains_of(full(100), full(200))
    assert not chains.is_stale(chains.full_at(100))
    assert not chains.is_superseded(chains.full_at(100))


def test_a_failed_pair_concerns_cumulative_increments_of_a_base_only():
    chains = chains_of(
        full(100),
        incr(50),
        incr(120),
        incr(140),
        incr(150, base=100, delta=True),
        incr(160, base=90),
        failed_nested=frozenset({pair(120, 140)}),
    )
    assert chains.restore_points == (100, 120, 150)
    found = [problem for problem in chains.chains[0].problems if problem.code == "not-nested"]
    assert len(found) == 1
    assert "120 are missing in incremental_model.ckpt-140" in found[0].message
    assert [problem.code for problem in chains.problems] == ["orphan"]


def test_superseded_is_of_one_base():
    chains = chains_of(
        full(100), full(200), incr(120), incr(220), proven_nested=frozenset({pair(120, 220)})
    )
    assert not chains.is_superseded(only(chains, 120))


NEAREST = [(50, None, 100), (100, None, 120), (110, 100, 120), (120, 100, 200), (500, 200, None)]


@pytest.mark.parametrize(("step", "below", "above"), NEAREST)
def test_nearest(step, below, above):
    chains = chains_of(full(100), incr(120), full(200))
    assert chains.nearest(step) == (below, above)


def test_restorable_to():
    chains = chains_of(full(100), incr(120), incr(140, missing=True), full(200, missing=True))
    assert [chain.restorable_to for chain in chains.chains] == [120, None]
    assert chains_of(full(100)).chains[0].restorable_to == 100


def test_asking_for_a_step_that_two_have():
    chains = chains_of(
        full(100), full(100, name="model.ckpt-00000100"), incr(120), incr(120, name="x-120")
    )
    with pytest.raises(AmbiguousError) as caught:
        chains.full_at(100)
    assert "model.ckpt-100" in str(caught.value)
    assert "model.ckpt-00000100" in str(caught.value)
    with pytest.raises(AmbiguousError, match="two increment checkpoints at step 120"):
        chains.increment_at(120)
    assert chains.full_at(7) is None
    assert chains.increment_at(7) is None


WHY = [
    pytest.param(chains_of(full(100), incr(120)), None, id="a restore point"),
    pytest.param(chains_of(full(100), incr(120, damage=True)), "bad magic", id="damaged"),
    pytest.param(chains_of(full(100), incr(120, missing=True)), "is missing", id="shard missing"),
    pytest.param(
        chains_of(full(100), incr(120, short=True)), "has 99 bytes where 100", id="shard short"
    ),
    pytest.param(chains_of(full(200), incr(120)), "not proven", id="no base"),
    pytest.param(chains_of(full(100), incr(120, sparse={})), "idle", id="idle"),
    pytest.param(
        chains_of(full(100), incr(120, at=50), increments=None), "abandoned", id="abandoned"
    ),
    pytest.param(
        chains_of(full(100), incr(120), incr(120, name="a-120")), None, id="two at the step"
    ),
    pytest.param(
        chains_of(full(100), incr(110), incr(120), failed_nested=frozenset({pair(110, 120)})),
        "keys of incremental_model.ckpt-110 are missing",
        id="not nested",
    ),
]


@pytest.mark.parametrize(("chains", "expected"), WHY)
def test_why_something_is_no_restore_point(chains, expected):
    increment = chains.scan.increments[-1]
    reason = chains.why_not(increment)
    if chains.scan.increments[0].step == increment.step and len(chains.scan.increments) > 1:
        assert reason == "there are two at step 120: a-120 and incremental_model.ckpt-120"
    elif expected is None:
        assert reason is None
    else:
        assert expected in reason


PROBLEMS = [
    pytest.param(chains_of(full(100), incr(120)), [], [], id="none"),
    pytest.param(chains_of(full(100, damage=True)), [], ["damaged"], id="damaged"),
    pytest.param(chains_of(full(100), incr(120, short=True)), [], ["incomplete"], id="incomplete"),
    pytest.param(
        chains_of(full(100), full(200), fulls=[100], full_state_at=900),
        [],
        ["abandoned"],
        id="abandoned",
    ),
    pytest.param(
        chains_of(full(100), full(100, name="a-100")), [], ["ambiguous"], id="two fulls at a step"
    ),
    pytest.param(
        chains_of(full(100), merged(150, 100, up_to=120)), [], ["misnamed"], id="misnamed"
    ),
    pytest.param(chains_of(full(100), incr(120, base=90)), [], ["unproven"], id="unproven"),
    pytest.param(chains_of(full(100), incr(120, sparse={})), [], ["idle"], id="idle"),
    pytest.param(nested(failed=[(120, 140)]), [], ["not-nested"], id="not nested, said once"),
    pytest.param(chains_of(incr(120)), ["orphan"], [], id="orphan"),
    pytest.param(chains_of(full(100), fulls=[50, 100]), ["listed-gone"], [], id="listed full gone"),
    pytest.param(
        chains_of(full(100), incr(120), increments=[110, 120]),
        ["listed-gone"],
        [],
        id="listed increment gone",
    ),
    pytest.param(
        chains_of(full(100), fulls=[50, 100], removed=[Removed("full", "model.ckpt-50", 50)]),
        [],
        [],
        id="what ckptctl removed is not found",
    ),
    pytest.param(
        chains_of(full(100), fulls=[50, 100], removed=[Removed("increment", "model.ckpt-50", 50)]),
        ["listed-gone"],
        [],
        id="unless it was another kind",
    ),
]


@pytest.mark.parametrize(("chains", "whole", "of_chains"), PROBLEMS)
def test_problems(chains, whole, of_chains):
    assert [problem.code for problem in chains.problems] == whole
    assert [p.code for chain in chains.chains for p in chain.problems] == of_chains
    assert all(message for _, message in chains.problems)


def test_the_first_chain_is_shown_before_the_last_is_read():
    chains = chains_of(full(100), incr(120), incr(140), full(200), full(300), incr(320), incr(340))
    first = chains.chains[0]
    assert chains.status(first.base) == "ok"
    # The heads of fulls decide the timelines; increments were not touched at all.
    assert "contents" not in chains.full_at(200).source.asked
    assert only(chains, 120).source.asked == []
    assert [chains.status(i) for i in first.increments] == ["stale", "stale"]
    assert first.restorable_to == 140
    assert first.problems == ()
    assert "contents" not in only(chains, 320).source.asked
    assert "contents" not in chains.full_at(300).source.asked


def test_the_status_of_an_increment_reads_none_that_follows():
    chains = chains_of(full(100), incr(120), incr(140))
    assert chains.status(only(chains, 120)) == "ok"
    assert "contents" not in only(chains, 140).source.asked


def test_an_index_is_read_once():
    chains = chains_of(full(100), incr(120), incr(140), incr(160))
    for _ in range(2):
        assert chains.restore_points == (100, 120, 140, 160)
        assert [chain.problems for chain in chains.chains] == [()]
    for item in (*chains.scan.fulls, *chains.scan.increments):
        assert item.source.asked.count("contents") == 1
        assert item.source.asked.count("facts") == 1


@pytest.mark.parametrize("how", ["damage", "late_damage"])
def test_contents_of_a_damaged_index(how):
    checkpoint = full(100, **{how: True})
    with pytest.raises(DamageError) as caught:
        _ = checkpoint.contents
    assert caught.value is checkpoint.damage
    assert checkpoint.short == ()
    assert not checkpoint.complete


def test_a_misnamed_full_says_what_it_holds():
    chains = chains_of(full(100), merged(150, 100, up_to=120))
    assert "holds the state at step 120" in chains.why_not(chains.full_at(150))


def test_in_state_file():
    scan = build_scan(full(100), full(200), incr(120), incr(140), fulls=[200], increments=None)
    found = {label(item): scan.in_state_file(item) for item in (*scan.fulls, *scan.increments)}
    assert found == {"F100": False, "F200": True, "I120": False, "I140": False}


def test_files_come_in_the_order_of_deletion():
    checkpoint = full(100, mark=True)
    side = (("/ckpt/model.ckpt-100-e-ssd_record.index", info("x", 7)),)
    checkpoint = type(checkpoint)(**{**vars(checkpoint), "meta": info("m", 5), "side": side})
    paths = [path for path, _ in checkpoint.files]
    assert paths == [
        "/ckpt/model.ckpt-100.index",
        "/ckpt/model.ckpt-100.data-00000-of-00001",
        "/ckpt/m",
        "/ckpt/model.ckpt-100-e-ssd_record.index",
        "/ckpt/model.ckpt-100.ckptctl.json",
    ]
    assert checkpoint.bytes == 10 + 100 + 5 + 7 + 1


def test_chains_of_an_empty_directory():
    chains = find_chains(build_scan())
    assert (chains.chains, chains.orphans, chains.restore_points) == ((), (), ())
    assert chains.latest is None
    assert chains.nearest(5) == (None, None)
    assert chains.problems == ()
    assert chains.notes == ()
