"""Goals: each figure has one, and a verdict is what the bound says."""

from __future__ import annotations

import pytest

from bench.goals import GOALS, case_of, goal_of, met, number


def test_a_figure_is_a_case_of_its_goal() -> None:
    assert goal_of("merge/1.5 GB/5%/verified").bound == 1.0
    assert case_of("merge/1.5 GB/5%/verified") == "1.5 GB, 5%"
    assert goal_of("jobs/1.5 GB/5%/verified").least


def test_a_figure_without_a_goal_is_an_error() -> None:
    with pytest.raises(KeyError, match=r"no goal in bench/goals\.py for the figure 'merge/x'"):
        goal_of("merge/x")


@pytest.mark.parametrize(
    ("name", "value", "verdict"),
    [
        ("merge/1.5 GB/5%/verified", 1.0, "met"),
        ("merge/1.5 GB/5%/verified", 1.01, "missed"),
        ("jobs/1.5 GB/5%/verified", 1.6, "met"),
        ("jobs/1.5 GB/5%/verified", 1.5, "missed"),
        ("seconds/anything", 9.0, ""),
    ],
)
def test_verdicts(name: str, value: float, verdict: str) -> None:
    assert met(name, value) == verdict


def test_one_pattern_once() -> None:
    patterns = [goal.pattern for goal in GOALS]
    assert len(patterns) == len(set(patterns))


def test_digits() -> None:
    given = (0.0, 0.0123, 1.024, 9.876, 12.34, 126.4)
    assert [number(v) for v in given] == ["0", "0.012", "1.024", "9.88", "12.3", "126"]
