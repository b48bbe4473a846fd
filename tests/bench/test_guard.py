"""Guard: where a figure fails, and where noise and old misses do not make it fail."""

from __future__ import annotations

import pytest

from bench.guard import PYTHON, STEPS, failures, limit, slower
from bench.results import PARTS, Document

MERGE = "merge/1.5 GB/5%/verified"
JOBS = "jobs/1.5 GB/5%/verified"


@pytest.mark.parametrize(
    ("name", "committed", "fails_at"),
    [
        (MERGE, {}, 1.5),
        (MERGE, {MERGE: 0.5}, 1.5),  # a goal that was reached is the yardstick
        (MERGE, {MERGE: 2.0}, 3.0),  # one that was missed may not be missed by more
        (JOBS, {}, 1.6 / 1.5),
        (JOBS, {JOBS: 2.0}, 1.6 / 1.5),
        (JOBS, {JOBS: 1.2}, 1.2 / 1.5),
        ("training/step/a lookup alone", {}, None),
        ("seconds/anything", {}, None),
    ],
)
def test_limit(name: str, committed: dict[str, float], fails_at: float | None) -> None:
    assert limit(name, committed, 1.0) == (fails_at and pytest.approx(fails_at))


def test_a_slow_machine_has_more_seconds_and_no_more_ratio() -> None:
    assert limit("get/files warm", {}, 2.0) == pytest.approx(1.5)
    assert limit("verify/warm", {}, 2.0) == pytest.approx(5.0 / 3.0)
    assert limit(MERGE, {}, 2.0) == pytest.approx(1.5)


def part(seconds: float, **figures: float) -> Document:
    return {"results": {"start": {PYTHON: {"median_s": seconds}}}, "figures": figures}


def test_slower_is_never_faster() -> None:
    assert slower(part(0.04), part(0.01)) == pytest.approx(4.0)
    assert slower(part(0.01), part(0.04)) == 1.0
    assert slower(part(0.01), {}) == 1.0


def test_failures_say_what_is_wrong() -> None:
    bad = failures(part(0.01, **{MERGE: 1.7, JOBS: 1.9}), part(0.01, **{MERGE: 0.9}))
    assert list(bad) == [MERGE]
    assert "1.700 x, owed at most 1 x, committed 0.900; fails above 1.500" in bad[MERGE]


def test_the_steps_are_parts() -> None:
    assert set(STEPS) <= set(PARTS)
