"""Which checkpoints are live: the paragraph "Timelines" of restore.md, rule by rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptctl.chain import find_chains
from tests.chain.builder import (
    abandoned,
    build_scan,
    chains_of,
    full,
    incr,
    label,
    merged,
    statuses,
)

# In every scan a checkpoint was written `step` seconds after the epoch, unless `at` says
# otherwise, and the state files a second after the newest that they list.
CASES = [
    pytest.param(
        chains_of(full(100), full(200), incr(120), incr(220)), set(), id="one run, nothing dead"
    ),
    # A run that restored a full alone began anew; only ids tell it from one that went on.
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100, ids=("a", None)),
            incr(140, base=100, previous=120, ids=("b", "a")),
            incr(160, base=100, ids=("c", None)),
            incr(180, base=100, previous=160, ids=("d", "c")),
        ),
        {"I120", "I140"},
        id="increments that the newest does not go on from",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(120, base=100, ids=("a", None)),
            incr(160, base=100, previous=140, ids=("c", "gone")),
        ),
        set(),
        id="where the line leads to what is gone nothing is known",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(110, base=100, ids=("x", None)),
            incr(120, base=100, ids=("a", None)),
            incr(160, base=100, previous=140, ids=("c", "gone"), line="ab"),
        ),
        {"I110"},
        id="but where its line says so itself",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(110, base=100, ids=("x", None)),
            incr(160, base=100, previous=140, ids=("c", "gone"), line="ab" + 98 * "z"),
        ),
        set(),
        id="nor where it is too long to say all",
    ),
    pytest.param(
        chains_of(
            full(100), incr(120, base=100, ids=("a", None)), incr(160, base=100, ids=(None, None))
        ),
        set(),
        id="nor where the newest has no id",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(130, base=100, ids=("c", None), line="", at=400),
            incr(150, base=100, ids=("a", None), line="", at=200),
            incr(200, base=100, previous=130, ids=("d", "c"), line="c", at=500),
            incr(220, base=100, previous=150, ids=("e", "a"), line="a", at=600),
            increments=[150, 130, 200, 220],
        ),
        {"I130", "I200"},
        id="what the newest goes on from is live, whatever was written after it",
    ),
    pytest.param(
        chains_of(
            full(100),
            incr(110, base=100, ids=("a", None), line="", delta=True),
            incr(120, base=100, previous=110, ids=("b", "a"), line="a", delta=True),
            incr(130, base=100, previous=110, ids=("c", "a"), line="ab", delta=True),
        ),
        set(),
        id="as is one whose save failed late: the line of the newest names it",
    ),
    # A checkpoint followed in write order by one of its kind with a lower step.
    pytest.param(
        chains_of(full(100), full(200), full(300), full(150, at=400), fulls=[100, 200, 300, 150]),
        {"F200", "F300"},
        id="list order: rolled back to 100, saved 150",
    ),
    pytest.param(
        chains_of(
            full(100), full(200), full(150, at=100), fulls=[100, 200, 150], full_state_at=900
        ),
        {"F200"},
        id="list order holds where times disagree",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(300), fulls=[100, 200, 300, 150]),
        {"F200", "F300"},
        id="the lower step that followed is listed and gone",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(300), fulls=[100, 200, 300, 100]),
        {"F200", "F300"},
        id="a name listed twice counts where it is last",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(300), fulls=[100, 200, 300], named_full=100),
        {"F200", "F300"},
        id="what the state file names is its newest, also where someone edited that line",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150, at=300), fulls=None),
        {"F200"},
        id="times order what is not listed: no state file",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150, at=201.9), fulls=None),
        set(),
        id="2 s count as equal",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150, at=202.1), fulls=None),
        {"F200"},
        id="more than 2 s do not",
    ),
    pytest.param(
        chains_of(full(100), full(300), full(200, at=400), fulls=[100, 300]),
        set(),
        id="an unlisted lower step after what the state file names: that stays live",
    ),
    pytest.param(
        chains_of(full(100), full(300), full(350), full(200, at=400), fulls=[100, 300, 350]),
        {"F300"},
        id="an unlisted lower step after a listed one that is not named",
    ),
    pytest.param(
        chains_of(incr(120), incr(140), incr(130, at=500), full(100), increments=[120, 140, 130]),
        {"I140"},
        id="increments by their own list",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(150, at=400)),
        set(),
        id="a full is not followed by an increment: they are not of one kind",
    ),
    # An unlisted one above the step that the state file names.
    pytest.param(
        chains_of(full(100), full(200), fulls=[100], full_state_at=300),
        {"F200"},
        id="unlisted above the named step, older than the state file",
    ),
    pytest.param(
        chains_of(full(100), full(200), fulls=[100]),
        set(),
        id="unlisted above the named step, just committed",
    ),
    pytest.param(
        chains_of(full(100), full(200), fulls=[100], full_state_at=198.5),
        {"F200"},
        id="within 2 s of the state file is not after it",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(150, at=205), fulls=[100], full_state_at=210),
        {"F200", "F150"},
        id="several unlisted ones above the named step",
    ),
    pytest.param(
        chains_of(full(100), full(50), fulls=[100]),
        set(),
        id="unlisted below the named step: preserved, or nothing rotates",
    ),
    pytest.param(
        chains_of(full(100), incr(120), incr(140), increments=[120], increment_state_at=900),
        {"I140"},
        id="increments by their own state file",
    ),
    pytest.param(
        chains_of(full(100), full(200), incr(220), fulls=[100], increments=[220]),
        set(),
        id="the fulls' state file says nothing of increments",
    ),
    # An increment written before its base.
    pytest.param(
        chains_of(full(100), full(150, at=500), incr(180), incr(220, at=600), fulls=[100, 150]),
        {"I180"},
        id="increment older than the full below it",
    ),
    pytest.param(
        chains_of(full(100, at=181.9), incr(180), incr(220, at=600)),
        set(),
        id="as old as its base is not before it",
    ),
    pytest.param(
        chains_of(full(100), full(150, at=500), incr(180), increments=[180]),
        set(),
        id="what the increments' state file names is live, whatever its time",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(150, at=500),
            incr(140, base=100),
            incr(180, base=100),
            incr(190, base=150),
            incr(560),
            increments=[140, 180, 190, 560],
        ),
        {"I180", "I190"},
        id="older than a full between its base and it: rolled back to that since",
    ),
    pytest.param(
        chains_of(full(150, at=500), incr(180, base=100), incr(560), increments=[180, 560]),
        {"I180"},
        id="older than a full above its base, which is gone",
    ),
    pytest.param(
        chains_of(full(100), merged(150, 100), incr(180, base=100), incr(560)),
        set(),
        id="older than a merged full between: that saves nothing",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            full(150, at=400),
            incr(220, at=600, base=200),
            incr(230, at=610),
            fulls=[100, 200, 150],
        ),
        {"F200", "I220"},
        id="recorded against an abandoned full",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            full(150, at=400),
            incr(220, at=600, base=200),
            fulls=[100, 200, 150],
        ),
        {"F200"},
        id="recorded against an abandoned full, but named",
    ),
    # Merged fulls take no part.
    pytest.param(
        chains_of(full(100), full(200), merged(140, 100), fulls=[100, 140, 200]),
        set(),
        id="a merged full in step order, written last",
    ),
    pytest.param(
        chains_of(full(100), full(200), merged(140, 100), fulls=[100, 140, 200], named_full=140),
        {"F200"},
        id="a merged full that is named: the run was set back to it",
    ),
    pytest.param(
        chains_of(full(100), full(200), merged(140, 100), fulls=[100, 200]),
        set(),
        id="an unlisted merged full, written last",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100, at=500), fulls=[100], full_state_at=600),
        set(),
        id="an unlisted merged full above the named step",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(140, at=700),
            fulls=[100],
            full_state_at=600,
        ),
        {"M140"},
        id="the state file was set back behind it, and its step was saved again",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), fulls=[100, 140], named_full="model.ckpt-100"),
        {"M140"},
        id="the state file lists it and was set back below it",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, at=500, entered=True), fulls=[100], full_state_at=600
        ),
        {"M140"},
        id="the same, and a Saver had dropped it from the list",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, at=500, entered=True), fulls=[100], full_state_at=400
        ),
        set(),
        id="it was to be listed, and its merge was killed before",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(140, at=900, damage=True, mark=True), fulls=None),
        set(),
        id="a damaged one with our mark takes no part either",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(140, at=900, away=True), incr(150), fulls=None),
        set(),
        id="the time of a link that leads nowhere tells nothing of others",
    ),
    pytest.param(
        chains_of(full(100), full(200, away=True), incr(250, away=True), fulls=[100]),
        set(),
        id="nor of what it stands for",
    ),
    pytest.param(
        chains_of(full(100), full(200, away=True), full(140, away=True), fulls=[100, 200, 140]),
        {"F200"},
        id="but the list does",
    ),
    pytest.param(
        chains_of(merged(200, 100, at=300), full(100), incr(150, at=900, away=True), fulls=[100]),
        set(),
        id="nor of a merged full",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(140, at=900, damage=True), fulls=None),
        {"F200"},
        id="a damaged one without it does",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(160), incr(180), fulls=[100, 140]),
        set(),
        id="increments are older than a merged full that stands in",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            merged(250, 200, at=300),
            full(150, at=400),
            fulls=[100, 200, 150],
        ),
        {"F200", "M250"},
        id="merged from an abandoned full",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(130, at=600),
            incr(160, at=700),
            fulls=[100],
        ),
        {"M140"},
        id="the trainer wrote a step below it after it",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100, at=500),
            incr(130, at=600),
            incr(160, at=700),
            fulls=[100, 140],
        ),
        set(),
        id="the same, but the state file names it",
    ),
    pytest.param(
        chains_of(
            full(100), merged(140, 100, at=500), incr(140, at=600), incr(160, at=700), fulls=[100]
        ),
        set(),
        id="the same step after it is no rollback",
    ),
    pytest.param(
        chains_of(full(100), merged(180, 100, at=500), merged(140, 100, at=600), fulls=[100]),
        set(),
        id="a merge of a lower step after it is none either",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            merged(250, 200, at=500),
            full(150, at=400),
            fulls=[100, 200, 150],
        ),
        {"F200", "M250"},
        id="merged from an abandoned full, long after",
    ),
    pytest.param(
        chains_of(full(100), full(200), merged(140, 100), full(300), fulls=[100, 200, 140, 300]),
        set(),
        id="a merged full that is listed late follows nothing",
    ),
    pytest.param(
        chains_of(
            full(100),
            merged(140, 100),
            incr(160, name="model.ckpt-160"),
            incr(140, name="model.ckpt-140", at=500),
            incr(170, name="model.ckpt-170", at=600),
            increments=["model.ckpt-160", "model.ckpt-140", "model.ckpt-170"],
        ),
        {"I160"},
        id="an increment that is called like a merged full is none",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(140, at=900, mark=True), fulls=None),
        {"F200"},
        id="our mark alone: the trainer saved over a merged full",
    ),
    pytest.param(
        chains_of(full(100), full(200), full(300), fulls=[100, 200, "old-150", 300]),
        set(),
        id="another base name in the list follows nothing",
    ),
    pytest.param(
        chains_of(
            full(100, at=90),
            full(200),
            full(150, at=400),
            full(250, at=500),
            fulls=[100, 150, 250],
        ),
        {"F200"},
        id="an unlisted one, and a listed lower step after it",
    ),
    pytest.param(
        chains_of(
            full(100),
            full(200),
            full(200, name="model.ckpt-0200"),
            fulls=[100, 200],
            full_state_at=900,
        ),
        set(),
        id="an unlisted one at the named step is not above it",
    ),
    pytest.param(
        chains_of(
            full(100), full(120, at=130), incr(120), incr(130, at=140), increments=[120, 130]
        ),
        set(),
        id="the full at an increment's own step is not its base",
    ),
    # 2 s exactly are equal, everywhere.
    pytest.param(
        chains_of(full(100), full(200), full(150, at=202), fulls=None), set(), id="2 s: followed"
    ),
    pytest.param(
        chains_of(full(100), full(200), fulls=[100], full_state_at=198),
        {"F200"},
        id="2 s: just committed",
    ),
    pytest.param(
        chains_of(full(100, at=182), incr(180), incr(220, at=600)), set(), id="2 s: before its base"
    ),
    pytest.param(
        chains_of(full(100, at=1002), full(200, at=1000), full(90, at=1100), fulls=[100, 200]),
        {"F100"},
        id="2 s: times agree with the list",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=1010),
            full(90, at=1100),
            fulls=[100, 200],
            full_state_at=1008,
        ),
        {"F100"},
        id="2 s: the state file is not older",
    ),
    # Copied directories: time decides nothing.
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=3000),
            full(300, at=2000),
            full(90, at=9000),
            fulls=[100, 200, 300],
        ),
        set(),
        id="copied: one is older than one that is listed before the last",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=900),
            full(300, at=800),
            full(250, at=1100),
            fulls=[100, 200],
            named_full=200,
        ),
        {"F250", "F300"},
        id="copied: just committed cannot be shown",
    ),
    pytest.param(
        chains_of(full(100, at=1000), full(200, at=900), full(90, at=1100), fulls=[100, 200]),
        set(),
        id="copied: mtimes against the list, an unlisted one orders nothing",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=1010),
            full(90, at=1100),
            fulls=[100, 200],
            full_state_at=1005,
        ),
        set(),
        id="copied: the state file is older than what it lists",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=1010),
            full(90, at=1100),
            fulls=[100, 200],
            full_state_at=1008.1,
        ),
        {"F100"},
        id="a state file within 2 s of what it lists is not older: times decide",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(90, at=1100),
            full(200, at=1200),
            incr(120, at=1300),
            incr(140, at=1250),
            fulls=[100, 200],
            increments=[120, 140],
        ),
        set(),
        id="one copied directory is enough: increments show it for the fulls",
    ),
    pytest.param(
        chains_of(full(100, at=500), incr(120, at=400), incr(140, at=450), increment_state_at=100),
        set(),
        id="copied: an increment older than its base proves nothing",
    ),
    pytest.param(
        chains_of(
            full(100, at=50),
            full(200, at=900),
            full(150, at=100),
            full(170, at=60),
            fulls=[100, 150, 200],
            full_state_at=201,
        ),
        {"F170"},
        id="saved anew, and not yet in the state file: no copy",
    ),
    pytest.param(
        chains_of(
            full(60),
            full(70, at=700),
            incr(72, at=900),
            incr(75, at=175),
            incr(74, at=300),
            increment_state_at=176,
            increments=[72, 75],
        ),
        {"I74"},
        id="an increment saved anew is no copy either: 74 was written before it, of another run",
    ),
    pytest.param(
        chains_of(full(10, at=900), incr(20, at=21), incr(30, at=22), full_state_at=500),
        set(),
        id="copied in the order of names: nothing else tells times",
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
        {"M140"},
        id="the step of a merged full was saved again, and the run went on",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            merged(140, 100, at=2000),
            full(200, at=1100),
            full(300, at=1200),
            fulls=[100, 140, 200],
            full_state_at=1101,
        ),
        set(),
        id="a merged full is no evidence of a copy: 300 was just committed",
    ),
    pytest.param(
        chains_of(
            full(100, at=1000),
            full(200, at=900),
            full(300),
            full(150, at=2000),
            incr(110, at=1),
            fulls=[100, 200, 300, 150],
        ),
        {"F200", "F300"},
        id="copied: the list still orders what it lists",
    ),
]


@pytest.mark.parametrize(("chains", "expected"), CASES)
def test_abandoned(chains, expected):
    assert abandoned(chains) == expected


NOTES = [
    pytest.param(build_scan(full(100), full(200), incr(120), incr(140)), None, [], id="all listed"),
    pytest.param(
        build_scan(full(100), full(200), fulls=None), None, [], id="no list, but times tell"
    ),
    pytest.param(
        build_scan(full(100), full(200, at=101), fulls=None),
        None,
        ["steps decide the write order of full checkpoints: no list"],
        id="no list and equal times",
    ),
    pytest.param(
        build_scan(full(100), incr(120, at=300), incr(140, at=301), increments=[140]),
        None,
        ["steps decide the write order of increment checkpoints: not all"],
        id="increments, not all of them listed, and equal times",
    ),
    pytest.param(
        build_scan(full(100, at=900), full(200)),
        None,
        ["file times decide nothing"],
        id="copied, all listed",
    ),
    pytest.param(
        build_scan(full(100, at=900), full(200), full(150, at=950), fulls=[100, 200]),
        None,
        ["file times decide nothing", "steps decide the write order of full"],
        id="copied, not all listed",
    ),
    pytest.param(
        build_scan(full(100), full(200)),
        "step",
        ["steps decide the write order, as asked for"],
        id="asked for",
    ),
]


@pytest.mark.parametrize(("scan", "assume_order", "expected"), NOTES)
def test_what_was_assumed_is_said(scan, assume_order, expected):
    notes = find_chains(scan, assume_order).notes
    assert len(notes) == len(expected)
    assert all(note.startswith(start) for note, start in zip(notes, expected, strict=True))


def test_assume_order_step_abandons_nothing():
    chains = chains_of(
        full(100),
        full(200),
        full(300),
        full(150, at=900),
        incr(180),
        incr(320),
        fulls=[100, 200, 300, 150],
        increments=[320, 180],
        assume_order="step",
    )
    assert abandoned(chains) == set()
    assert statuses(chains)["I320"] == "ok"


ORDER = [
    pytest.param("F100", "F200", True, id="list"),
    pytest.param("F200", "F100", False, id="list, reversed"),
    pytest.param("F100", "I120", True, id="times, over kinds"),
    pytest.param("I120", "F100", False, id="times, reversed"),
    pytest.param("F100", "I101", None, id="equal times"),
]


@pytest.mark.parametrize(("a", "b", "expected"), ORDER)
def test_write_order(a, b, expected):
    scan = build_scan(full(100), full(200, at=50), incr(120), incr(101), full_state_at=300)
    by_label = {label(item): item for item in (*scan.fulls, *scan.increments)}
    # The list [100, 200] and the times disagree, so only a second scan has usable times.
    usable = build_scan(full(100), full(200), incr(120), incr(101))
    for each in (scan, usable) if a[0] == b[0] == "F" else (usable,):
        by_label = {label(item): item for item in (*each.fulls, *each.increments)}
        order = find_chains(each).timelines.order
        assert order.before(by_label[a], by_label[b]) is expected


def test_write_order_by_step():
    chains = chains_of(
        full(100), full(200, at=50), incr(200), fulls=[200, 100], assume_order="step"
    )
    order = chains.timelines.order
    first, second = chains.scan.fulls
    assert order.before(first, second) is True
    assert order.before(second, first) is False
    assert order.before(second, chains.scan.increments[0]) is None


def test_ten_thousand_increments_take_no_quadratic_time():
    found = [full(0), *(incr(step) for step in range(10, 100_010, 10))]
    chains = chains_of(*found, increments=None)
    assert len(abandoned(chains)) == 0


@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.integers(0, 40), st.booleans()),
        min_size=1,
        max_size=8,
        unique_by=lambda item: item[0],
    ),
    st.randoms(use_true_random=False),
)
def test_followers_are_those_of_the_rule_read_word_by_word(history, random):
    """Compare with each pair looked at: listed pairs by the list, others by their times."""
    fulls = [full(step, at=at) for step, at, _ in history]
    listed = [step for step, _, is_listed in history if is_listed]
    random.shuffle(listed)
    scan = build_scan(*fulls, fulls=listed or None, full_state_at=50)
    chains = find_chains(scan)
    order = chains.timelines.order
    expected = set()
    for one in scan.fulls:
        followed = any(other.step < one.step and order.before(one, other) for other in scan.fulls)
        unlisted = bool(listed) and one.step not in listed
        passed_over = unlisted and one.step > listed[-1]
        passed_over = passed_over and not order.earlier(50 * 10**9, one.mtime_ns)
        if (followed or passed_over) and not (listed and one.step == listed[-1]):
            expected.add(label(one))
    assert abandoned(chains) == expected


def test_increments_that_seem_older_than_their_full_are_told() -> None:
    """A copy without its times looks like a run that was rolled back."""
    chains = chains_of(full(100, at=500), incr(120), incr(140), full_state_at=600)
    assert chains.restore_points == (100,)
    (told,) = chains.passed_over()
    assert told.startswith("2 passed over, though newer than step 100")
    assert "--assume-order step" in told
    chains = chains_of(full(100, at=500), incr(120), incr(140), assume_order="step")
    assert chains.passed_over() == ()
