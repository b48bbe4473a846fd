"""Keep rules: what each keeps, with the reason, and that they are joined by OR."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone

import pytest

from ckptctl.errors import UsageError
from ckptctl.merge.policy import (
    KeepDaily,
    KeepEvery,
    KeepHourly,
    KeepLast,
    KeepStep,
    KeepWeekly,
    KeepWithin,
    Point,
    Policy,
)

HOUR, DAY = 3600, 86400
#: A Wednesday, noon.
NOON = datetime(2026, 3, 4, 12, tzinfo=timezone.utc).timestamp()


def fulls(*times: float | None) -> list[Point]:
    """Fulls at steps 100, 200, ..., saved at these hours before `NOON`."""
    return [
        Point(f"f{100 * n}", 100 * n, None if hours is None else NOON - hours * HOUR, True)
        for n, hours in enumerate(times, 1)
    ]


def kept(points: list[Point], *rules: object, now: float = NOON) -> set[str]:
    decisions = Policy(tuple(rules)).decide(points, now)  # type: ignore[arg-type]
    assert all(decision.reason for decision in decisions.values())
    return {prefix for prefix, decision in decisions.items() if decision.keep}


def test_an_empty_policy_keeps_every_full() -> None:
    decisions = Policy().decide(fulls(3, 2, 1), NOON)
    assert [decision.keep for decision in decisions.values()] == [True] * 3
    assert {decision.reason for decision in decisions.values()} == {"no keep rule was given"}


RULES = {
    "last": (KeepLast(2), {"f300", "f400"}),
    "last of more than there are": (KeepLast(9), {"f100", "f200", "f300", "f400"}),
    "every": (KeepEvery(200), {"f100", "f200", "f400"}),
    "every one": (KeepEvery(1), {"f100", "f200", "f300", "f400"}),
    "every of a large stride": (KeepEvery(10_000), {"f100"}),
    "step": (KeepStep(200), {"f200"}),
    "step that is not there": (KeepStep(250), set()),
    "within": (KeepWithin(2 * HOUR), {"f300", "f400"}),
    "within, the bound itself": (KeepWithin(25 * HOUR), {"f200", "f300", "f400"}),
    "hourly": (KeepHourly(2), {"f300", "f400"}),
    "daily": (KeepDaily(2), {"f200", "f400"}),
    "weekly": (KeepWeekly(2), {"f100", "f400"}),
}


@pytest.mark.parametrize("what", RULES)
def test_each_rule(what: str) -> None:
    rule, expected = RULES[what]
    # Two weeks ago, yesterday, and twice today.
    assert kept(fulls(14 * 24, 25, 1, 0), rule) == expected


def test_rules_are_joined_by_or_with_every_reason() -> None:
    points = fulls(3, 2, 1, 0)
    rules = (KeepLast(1), KeepStep(400), KeepStep(200))
    assert kept(points, *rules) == {"f200", "f400"}
    decisions = Policy(rules).decide(points, NOON)
    assert decisions["f400"].reason == "the newest full, --keep-step 400 names it"
    assert decisions["f100"].reason == ("not kept by --keep-last 1 --keep-step 400 --keep-step 200")


def test_every_keeps_the_first_at_or_above_each_multiple() -> None:
    steps = (140, 160, 210, 290, 300)
    points = [Point(str(step), step, NOON, True) for step in steps]
    assert kept(points, KeepEvery(100)) == {"140", "210", "300"}


def test_only_fulls_are_counted_but_step_and_within_name_increments() -> None:
    points = [*fulls(60, 20), Point("i300", 300, NOON, False), Point("i50", 50, NOON, False)]
    assert kept(points, KeepLast(1)) == {"f200"}
    assert kept(points, KeepDaily(9)) == {"f100", "f200"}
    assert kept(points, KeepEvery(1)) == {"f100", "f200"}
    assert kept(points, KeepStep(50)) == {"i50"}
    assert kept(points, KeepWithin(HOUR)) == {"i300", "i50"}


def test_a_pause_does_not_age_what_is_there() -> None:
    """Counted from the newest: a month later the same fulls are kept."""
    points = fulls(2, 1, 0)
    month = NOON + 30 * DAY
    assert kept(points, KeepWithin(HOUR), now=month) == {"f200", "f300"}
    assert kept(points, KeepHourly(2), now=month) == {"f200", "f300"}


def test_a_clock_ahead_does_not_age_the_others() -> None:
    points = fulls(2, 1, -1000)
    assert kept(points, KeepWithin(HOUR)) == {"f200", "f300"}


@pytest.mark.parametrize("rule", [KeepWithin(1), KeepHourly(1), KeepDaily(1), KeepWeekly(1)])
def test_what_nobody_knows_the_time_of_is_kept(rule: object) -> None:
    assert kept(fulls(None, 500, 0), rule) == {"f100", "f300"}


def test_periods_are_those_of_utc_and_weeks_begin_on_monday() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone.utc).timestamp()  # a Sunday
    points = [
        Point("sunday", 1, noon, True),
        Point("monday", 2, noon + DAY, True),
        Point("next sunday", 3, noon + 7 * DAY, True),
    ]
    assert kept(points, KeepWeekly(2)) == {"sunday", "next sunday"}
    midnight = datetime(2026, 3, 2, tzinfo=timezone.utc).timestamp()
    points = [Point("before", 1, midnight - 1, True), Point("after", 2, midnight, True)]
    assert kept(points, KeepDaily(2)) == {"before", "after"}
    assert kept(points, KeepHourly(2)) == {"before", "after"}


def test_periods_without_a_full_do_not_count() -> None:
    assert kept(fulls(240, 120, 0), KeepDaily(3)) == {"f100", "f200", "f300"}


def test_of_one_period_the_newest_is_kept() -> None:
    points = [
        Point("a", 100, NOON - 60, True),
        Point("b", 200, NOON - 120, True),
        Point("c", 300, NOON - 60, True),
    ]
    assert kept(points, KeepHourly(1)) == {"c"}


def test_a_policy_survives_json() -> None:
    policy = Policy(
        (
            KeepLast(1),
            KeepEvery(2),
            KeepWithin(3.5),
            KeepHourly(4),
            KeepDaily(5),
            KeepWeekly(6),
            KeepStep(7),
        )
    )
    assert Policy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    assert str(policy).startswith("--keep-last 1 --keep-every 2 --keep-within 3.5s")


@pytest.mark.parametrize(
    "rules",
    [
        [{"rule": "keep-all", "value": 1}],
        [{"rule": "keep-last"}],
        [{"value": 1}],
        ["keep-last"],
        [{"rule": "keep-last", "value": 0.5}],
        [{"rule": "keep-last", "value": True}],
        [{"rule": "keep-every", "value": 0}],
        [{"rule": "keep-within", "value": math.inf}],
        [{"rule": "keep-within", "value": math.nan}],
        [{"rule": "keep-step", "value": 1 << 63}],
    ],
)
def test_a_rule_that_is_none_of_ours_is_usage(rules: list) -> None:
    with pytest.raises(UsageError):
        Policy.from_json(rules)
