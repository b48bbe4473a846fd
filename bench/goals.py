"""What is owed: the one table of goals that the verdicts, the pages and the guard read.

A figure has a name of parts, `merge/1.5 GB/5%/verified`; a goal is for all figures whose names
its pattern matches, and the parts that its stars stand for are the case that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["GOALS", "Goal", "case_of", "goal_of", "met", "number", "said"]


@dataclass(frozen=True)
class Goal:
    """At most `bound` is owed, or at least, with `least`; without a bound it is only told.

    A figure that is `noisy` is never one for the guard to fail on.
    """

    pattern: str
    what: str
    bound: float | None = None
    unit: str = "x"
    least: bool = False
    noisy: bool = False

    def stars(self, name: str) -> list[str] | None:
        """Return what the stars of the pattern stand for in a name, or None."""
        own, parts = self.pattern.split("/"), name.split("/")
        if len(own) != len(parts):
            return None
        pairs = list(zip(own, parts, strict=True))
        if any(a not in ("*", b) for a, b in pairs):
            return None
        return [b for a, b in pairs if a == "*"]

    @property
    def owed(self) -> str:
        """Return the bound in words."""
        if self.bound is None:
            return ""
        return f"{'at least' if self.least else 'at most'} {self.bound:g} {self.unit}".rstrip()

    def meets(self, value: float) -> bool | None:
        """Return whether what is owed is there; None where nothing is."""
        if self.bound is None:
            return None
        return value >= self.bound if self.least else value <= self.bound


GOALS = (
    # What issue 6 owes, by its parts.
    Goal("merge/*/*/no-verify", "`merge --no-verify` against `cp` and `cat`", 1.0),
    Goal("merge/*/*/verified", "`merge` against `cp`, `cat`, and `cat` of the copy", 1.0),
    Goal("apart/*/*/*", "the same, our start-up subtracted", 1.0),
    Goal("memory/*/*/*", "`merge`: peak memory beyond the increment's keys", 150, "MB"),
    Goal("jobs/*/*/*", "`merge -j 1` against `-j 2`, files warm", 1.6, least=True),
    Goal("jobs apart/*/*/*", "the same, our start-up subtracted"),
    Goal("jobs of a copy/*/*", "the same of a bare copy of the full"),
    Goal("jobs of sums/*/*", "the same of sums that never leave a core's cache"),
    Goal("verify/cold", "`verify --data`, files cold: rate against `cat`", 0.9, least=True),
    Goal("verify/warm", "`verify --data`, files warm, a core", 5.0, "GB/s", least=True),
    Goal("diff/*", "`diff` of two states against our checked read of both", 1.5),
    Goal("diff with norms/*", "the same with `--json`, which has the norms of all rows"),
    Goal("get/*", "`get` of 1,000 keys, whole process", 0.5, "s"),
    Goal("start/*", "10 fulls, 100 increments of 500 tensors: beyond bare Python", 0.12, "s"),
    Goal("first start/*", "the same, a run that remembers nothing", None, "s"),
    Goal("index/*", "index of 100,000 tensors, whole process", 0.5, "s"),
    Goal("first index/*", "the same, a run that remembers nothing", None, "s"),
    Goal("growth/*/*", "`merge`: power that time grows with, at its steepest", 1.1, ""),
    Goal(
        "growth with cp/*", "the same with `cp`'s, from the smallest full to the largest", 1.1, ""
    ),
    Goal("flat/*", "peak memory with the largest full, beyond that with the smallest", 25, "MB"),
    Goal("training/step/*", "step with recording against one without", 1.02, noisy=True),
    Goal("training/step CPU/*", "the same: time of the CPU"),
    Goal("training/step noise", "two steps without recording against each other: at most, of 95%"),
    Goal("training/increment time/*", "save of an increment against a full's: time"),
    Goal("training/increment bytes/*", "save of an increment against a full's: bytes"),
    Goal(
        "training/increment growth",
        "the same, 5% to 50%: power that its CPU time grows with",
        1.1,
        "",
        noisy=True,
    ),
    Goal("training/increment seconds/*", "save of an increment: CPU, a million", None, "s"),
    Goal("training/restore/*", "restore of full and increment against the full alone", 1.1),
    # With 20% of the rows an increment holds 22% of the full's bytes, with 50% 56%: told only.
    Goal("training/restore beyond/*", "the same, of an increment of a fifth of the full or more"),
    Goal("training/restore CPU/*", "the same: time of the CPU"),
    # What earlier issues owe.
    Goal("tensorflow/*/*/*", "TensorFlow's load, NumPy, `SaveV2` against `merge`", 10, least=True),
    Goal("list/*/*", "`tf.train.list_variables` against ours, whole processes", 15, least=True),
    Goal("questions memory/*", "what only reads: peak memory", 300, "MB"),
    Goal("compact/idle", "`compact`, nothing to do: beyond bare Python", 0.3, "s"),
    Goal("prune/growth", "`prune`: time an increment, for 4 x as many", 1.2),
    Goal("prune/rm", "`prune` against `rm` of the same files"),
    Goal("state/unreadable", "no readable newest state file while `compact` runs", 0.0, "ms"),
    # What is only told.
    Goal("startup/*", "start-up beyond bare Python", None, "s"),
    Goal("seconds/*", "whole process", None, "s"),
)


def goal_of(name: str) -> Goal:
    """Return the goal of a figure."""
    for goal in GOALS:
        if goal.stars(name) is not None:
            return goal
    raise KeyError(f"no goal in bench/goals.py for the figure {name!r}")


def case_of(name: str) -> str:
    """Return the case that was measured, such as `1.5 GB, 5%, verified`."""
    return ", ".join(goal_of(name).stars(name) or [])


def met(name: str, value: float) -> str:
    """Return `met`, `missed`, or nothing where nothing is owed."""
    return {None: "", True: "met", False: "missed"}[goal_of(name).meets(value)]


def number(value: float) -> str:
    """Return a figure in as many digits as it deserves: those near 1 are ratios to it."""
    digits = next(d for most, d in ((2, 3), (10, 2), (50, 1), (math.inf, 0)) if abs(value) < most)
    return f"{value:.{digits}f}" if value else "0"


def said(figures: dict[str, float]) -> Iterable[str]:
    """Return each figure beside what is owed, a line of Markdown each."""
    for name, value in figures.items():
        goal = goal_of(name)
        case = f" ({case})" if (case := case_of(name)) else ""
        owed = f", owed: {goal.owed}: {met(name, value)}" if goal.owed else ""
        yield f"* {goal.what}{case}: {number(value)} {goal.unit}".rstrip() + owed
