"""What is owed: the one table of goals that the verdicts, the pages and the guard read.

A figure has a name of parts, `merge/1.5 GB/5%/verified`; a goal is for all names that its
pattern matches, and its text may use the parts that the stars stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["GOALS", "Goal", "goal_of", "met", "said"]


@dataclass(frozen=True)
class Goal:
    """At most `bound` is owed, or at least with `least`; without a bound it is only told."""

    pattern: str
    text: str
    bound: float | None = None
    unit: str = "x"
    least: bool = False

    def stars(self, name: str) -> list[str] | None:
        """Return what the stars of the pattern stand for in a name, or None."""
        own, parts = self.pattern.split("/"), name.split("/")
        if len(own) != len(parts):
            return None
        if any(a not in ("*", b) for a, b in zip(own, parts, strict=True)):
            return None
        return [b for a, b in zip(own, parts, strict=True) if a == "*"]

    @property
    def owed(self) -> str:
        """Return the bound in words."""
        if self.bound is None:
            return "-"
        return f"{'>=' if self.least else '<='} {self.bound:g} {self.unit}"


GOALS = (
    Goal("merge/*/*/no-verify", "merge --no-verify: {}, {} touched, against cp and cat", 1.0),
    Goal("merge/*/*/verified", "merge: {}, {} touched, against cp, cat, and cat of the copy", 1.0),
    Goal("apart/*/*/no-verify", "the same without our start-up: {}, {}, --no-verify", 1.0),
    Goal("apart/*/*/verified", "the same without our start-up: {}, {}, verified", 1.0),
    Goal("memory/*/*/*", "merge: peak beyond the increment's keys: {}, {} touched, {}", 150, "MB"),
    Goal("jobs/*/*/*", "merge, files warm, -j 1 against -j 2: {}, {}, {}", 1.6, least=True),
    Goal("tensorflow/*/*/*", "TensorFlow against merge: {}, {}, {}", 10.0, least=True),
    Goal("startup/*", "start-up beyond bare Python: {}", None, "s"),
)


def goal_of(name: str) -> tuple[Goal, str]:
    """Return the goal of a figure, and what it says of it."""
    for goal in GOALS:
        stars = goal.stars(name)
        if stars is not None:
            return goal, goal.text.format(*stars)
    raise KeyError(f"no goal in bench/goals.py for the figure {name!r}")


def met(name: str, value: float) -> bool | None:
    """Return whether what is owed is there; None where nothing is."""
    goal, _ = goal_of(name)
    if goal.bound is None:
        return None
    return value >= goal.bound if goal.least else value <= goal.bound


def said(figures: dict[str, float]) -> Iterable[str]:
    """Return each figure beside what is owed, a line of Markdown each."""
    for name, value in figures.items():
        goal, text = goal_of(name)
        number = f"{value:.0f}" if value >= 100 else f"{value:.2f}"
        missed = "  MISSED" if met(name, value) is False else ""
        owed = f" (owed: {goal.owed})" if goal.bound is not None else ""
        yield f"* {text}: {number} {goal.unit}{owed}{missed}"
