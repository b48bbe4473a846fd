"""`Runner`: what an error of one task does to the others, and to what is run afterwards."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from ckptctl.running import Report, Runner, ignore


class Step(NamedTuple):
    """Moves a byte, or fails."""

    fails: bool = False
    nbytes: int = 1

    def run(self, report: Report = ignore) -> int:
        if self.fails:
            raise ValueError("it failed")
        report(self.nbytes)
        return self.nbytes


def ran(runner: Runner, *tasks: Step) -> list[int]:
    return sorted(label for label, _ in runner.map(enumerate(tasks)))


@pytest.mark.parametrize("bwlimit", [None, 1 << 30])
def test_it_runs_again_after_an_error(bwlimit: int | None) -> None:
    runner = Runner(1, bwlimit=bwlimit)
    for _ in range(2):
        with pytest.raises(ValueError, match="it failed"):
            ran(runner, Step(), Step(fails=True), Step())
        assert ran(runner, Step(), Step(), Step()) == [0, 1, 2]


def test_it_runs_again_where_results_were_not_all_taken() -> None:
    runner = Runner(1)
    results = runner.map((None, Step()) for _ in range(9))
    next(results)
    results.close()
    assert ran(runner, Step(), Step()) == [0, 1]


def test_an_error_stops_no_tasks_of_another_call() -> None:
    runner = Runner(1)
    results = runner.map(enumerate([Step()] * 9))
    seen = [next(results)]
    with pytest.raises(ValueError, match="it failed"):
        ran(runner, Step(fails=True))
    assert sorted([*seen, *results]) == [(number, 1) for number in range(9)]
