"""Keep rules: which fulls a user wants to keep, each answer with its reason.

Each rule is a small frozen dataclass; a `Policy` joins them by OR. Rules count fulls alone;
`KeepStep` and `KeepWithin` name increments too (`restore.md`, "Deleting").

Decisions where the words leave a choice, all on the side of keeping:

* `KeepEvery` keeps the first full of every so many steps, which is the one at the multiple
  where fulls lie on multiples, and one nearby where they do not.
* Times count back from the newest checkpoint, not from now: a training that paused for a
  month keeps what it had. Hours, days and weeks (from Monday) are those of UTC, and only
  those count in which a full was saved.
* A full whose time nothing tells is kept by every rule that asks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from ckptctl.arguments import whole_number
from ckptctl.errors import UsageError

__all__ = [
    "Decision",
    "KeepDaily",
    "KeepEvery",
    "KeepHourly",
    "KeepLast",
    "KeepStep",
    "KeepWeekly",
    "KeepWithin",
    "Point",
    "Policy",
    "Rule",
    "policy_of",
]

_HOUR, _DAY = 3600, 86400


class Point(NamedTuple):
    """What a rule may know of a checkpoint.

    Attributes
    ----------
    prefix, step
        Which one it is.
    time_s
        When it was saved, in seconds since 1970; None where nothing tells.
    counted
        Whether it is a live, complete full: what rules count.
    """

    prefix: str
    step: int
    time_s: float | None
    counted: bool


class Decision(NamedTuple):
    """Keep or remove, and why."""

    keep: bool
    reason: str


class Rule(Protocol):
    """One keep rule."""

    #: The option that asks for it, without its dashes.
    name: ClassVar[str]

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps; points come by ascending step."""

    def value(self) -> float:
        """Return what it was given."""


class _Given:
    """A rule that is given one number, its only field."""

    name: ClassVar[str]

    def value(self) -> float:
        """Return what it was given."""
        given: float = next(iter(vars(self).values()))
        return given


class _Whole(_Given):
    """A rule that is given a whole number."""

    def __post_init__(self) -> None:
        for field, value in vars(self).items():
            object.__setattr__(self, field, whole_number(self.name, value))


@dataclass(frozen=True)
class KeepLast(_Whole):
    """Keep the N newest fulls, by step."""

    number: int
    name: ClassVar[str] = "keep-last"

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps."""
        counted = [point for point in points if point.counted]
        reason = f"one of the {self.number} newest fulls" if self.number > 1 else "the newest full"
        return {point.prefix: reason for point in counted[-self.number :]}


@dataclass(frozen=True)
class KeepEvery(_Whole):
    """Keep the first full of every so many steps."""

    steps: int
    name: ClassVar[str] = "keep-every"

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps."""
        first: dict[int, Point] = {}
        for point in points:
            if point.counted:
                first.setdefault(point.step // self.steps, point)
        return {
            point.prefix: f"the first full from step {number * self.steps} on"
            for number, point in first.items()
        }


@dataclass(frozen=True)
class KeepStep(_Whole):
    """Keep what lies at a step, an increment too."""

    step: int
    name: ClassVar[str] = "keep-step"

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps."""
        return {
            point.prefix: f"--keep-step {self.step} names it"
            for point in points
            if point.step == self.step
        }


@dataclass(frozen=True)
class KeepWithin(_Given):
    """Keep what was saved within so many seconds before the newest, increments too."""

    seconds: float
    name: ClassVar[str] = "keep-within"

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps."""
        times = [point.time_s for point in points if point.time_s is not None]
        # A clock that runs ahead must not make everything else old.
        oldest = min(now_s, max(times, default=now_s)) - self.seconds
        found = {}
        for point in points:
            if point.time_s is None:
                found[point.prefix] = "nothing tells when it was saved"
            elif point.time_s >= oldest:
                found[point.prefix] = f"saved within {_period(self.seconds)} of the newest"
        return found


@dataclass(frozen=True)
class _KeepPeriods(_Whole):
    """Keep the newest full of each of the last N periods in which one was saved."""

    number: int
    name: ClassVar[str]
    noun: ClassVar[str]
    #: Seconds of a period, and by how many the one of 1970-01-01 had begun before.
    seconds: ClassVar[int]
    begun: ClassVar[int] = 0

    def kept(self, points: Sequence[Point], now_s: float) -> Mapping[str, str]:
        """Return prefix to reason of what it keeps."""
        found = {}
        newest: dict[int, tuple[float, Point]] = {}
        for point in points:
            if not point.counted:
                continue
            if point.time_s is None:
                found[point.prefix] = "nothing tells when it was saved"
                continue
            number = (math.floor(point.time_s) + self.begun) // self.seconds
            # By ascending step: of two saved at one time the higher step counts.
            if number not in newest or point.time_s >= newest[number][0]:
                newest[number] = (point.time_s, point)
        for number in sorted(newest)[-self.number :]:
            found[newest[number][1].prefix] = f"the newest full of its {self.noun}"
        return found


@dataclass(frozen=True)
class KeepHourly(_KeepPeriods):
    """Keep the newest full of each of the last N hours in which one was saved."""

    name: ClassVar[str] = "keep-hourly"
    noun: ClassVar[str] = "hour"
    seconds: ClassVar[int] = _HOUR


@dataclass(frozen=True)
class KeepDaily(_KeepPeriods):
    """Keep the newest full of each of the last N days on which one was saved."""

    name: ClassVar[str] = "keep-daily"
    noun: ClassVar[str] = "day"
    seconds: ClassVar[int] = _DAY


@dataclass(frozen=True)
class KeepWeekly(_KeepPeriods):
    """Keep the newest full of each of the last N weeks in which one was saved."""

    name: ClassVar[str] = "keep-weekly"
    noun: ClassVar[str] = "week"
    seconds: ClassVar[int] = 7 * _DAY
    begun: ClassVar[int] = 3 * _DAY  # it was a Thursday, and a week begins on Monday


_RULES: tuple[type[Any], ...] = (
    KeepLast,
    KeepEvery,
    KeepWithin,
    KeepHourly,
    KeepDaily,
    KeepWeekly,
    KeepStep,
)


@dataclass(frozen=True)
class Policy:
    """Keep rules joined by OR; without one, no full goes."""

    rules: tuple[Rule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rules)

    def decide(self, points: Sequence[Point], now_s: float) -> dict[str, Decision]:
        """Return prefix to decision: of each counted full, and of what else a rule keeps."""
        ordered = sorted(points, key=lambda point: (point.step, point.prefix))
        kept: dict[str, list[str]] = {}
        for rule in self.rules:
            for prefix, reason in rule.kept(ordered, now_s).items():
                if reason not in kept.setdefault(prefix, []):
                    kept[prefix].append(reason)
        found = {prefix: Decision(True, ", ".join(why)) for prefix, why in kept.items()}
        for point in ordered:
            if point.counted and point.prefix not in found:
                if self:
                    found[point.prefix] = Decision(False, f"not kept by {self}")
                else:
                    found[point.prefix] = Decision(True, "no keep rule was given")
        return found

    def __str__(self) -> str:
        return " ".join(f"--{rule.name} {_shown(rule)}" for rule in self.rules)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rules as JSON."""
        return [{"rule": rule.name, "value": rule.value()} for rule in self.rules]

    @classmethod
    def from_json(cls, rules: Sequence[Mapping[str, Any]]) -> Policy:
        """Return the policy that `to_json` described; raise `UsageError` for none of ours."""
        known = {kind.name: kind for kind in _RULES}
        found = []
        for rule in rules:
            kind = value = None
            if isinstance(rule, dict):
                kind, value = known.get(str(rule.get("rule"))), rule.get("value")
            if kind is None or not _is_given(kind, value):
                raise UsageError("no keep rule of ckptctl", found=repr(rule)[:80])
            found.append(kind(value))
        return cls(tuple(found))


def _is_given(kind: type[Any], value: object) -> bool:
    """Whether the option of a rule would take this value: a saved plan may come from anyone."""
    if kind is KeepWithin:
        return isinstance(value, (int, float)) and 0 <= value < math.inf
    least = 0 if kind is KeepStep else 1
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 63


def policy_of(given: Mapping[str, Any]) -> Policy:
    """Return the policy of values by rule name; None is none, and a list several of them."""
    found: list[Rule] = []
    for kind in _RULES:
        value = given.get(kind.name)
        values = value if isinstance(value, (list, tuple)) else [value]
        found += [kind(each) for each in values if each is not None]
    return Policy(tuple(found))


def _shown(rule: Rule) -> str:
    return _period(rule.value()) if isinstance(rule, KeepWithin) else str(rule.value())


def _period(seconds: float) -> str:
    for size, unit in ((7 * _DAY, "w"), (_DAY, "d"), (_HOUR, "h"), (60, "m")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
