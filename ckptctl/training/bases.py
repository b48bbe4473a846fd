"""What a session's increments are recorded against: the last durable full of a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from ckptctl.chain.facts import Lineage
from ckptctl.training.slices import NO_OTHERS, OtherSlices

__all__ = ["Base", "Bases", "Previous", "directory_of", "place_of"]


@dataclass(frozen=True)
class Previous:
    """The last increment on the base, known to be durable.

    Attributes
    ----------
    step
        Its step.
    clocks
        Device to its clock when it was taken: rows seen later are in the next one.
    saver
        The one whose deltas can follow it, None where no delta can.
    id
        What its lineage calls it; None where another writer left none.
    """

    step: int
    clocks: dict[str, int]
    saver: Any
    id: str | None = None


@dataclass
class Base:
    """The full that the increments beside it are recorded against, known to be durable.

    Attributes
    ----------
    full
        Its prefix.
    step
        Its step.
    clocks
        Device to its clock: rows seen later changed since.
    series
        Prefixes of the increments on it, oldest first.
    previous
        The last of them.
    last_id
        What the next one goes on from (`Lineage.previous_id`): the last of them, or one whose save
        failed, and which may be there.
    line
        All before the next one, as its lineage says it; None where another writer left that out.
    others
        Variables that it has in other slices than the graph: no increment fits it.
    """

    full: str
    step: int
    clocks: dict[str, int]
    series: list[str] = field(default_factory=list)
    previous: Previous | None = None
    last_id: str | None = None
    line: str | None = ""
    others: OtherSlices = NO_OTHERS

    def go_on_from(self, last: Lineage | None) -> None:
        """Take over the line of an increment that was applied to it, as far as that is known."""
        self.last_id = self.line = None
        if last is not None and last.id is not None:
            self.last_id, self.line = last.id, Lineage.lengthen(last.line, last.id)

    @property
    def last_step(self) -> int:
        """Step of the last save, full or increment."""
        return self.previous.step if self.previous is not None else self.step


class Bases:
    """The bases of a graph, by session and by directory as `directory_of` spells it.

    A session has variables of its own, and clocks. No row is forgotten by a save, so each
    directory has a base.
    """

    def __init__(self) -> None:
        self._found: WeakKeyDictionary[Any, dict[str, Base]] = WeakKeyDictionary()

    def of(self, session: Any) -> dict[str, Base]:
        """Return the bases of a session, by directory."""
        if hasattr(session, "run_step_fn"):  # monitored: hooks are given what it wraps
            session = session.run_step_fn(lambda step_context: step_context.session)
        return self._found.setdefault(session, {})

    def clear(self) -> None:
        """Forget all: sessions of one server share its variables."""
        self._found.clear()

    def __iter__(self) -> Iterator[Base]:
        return (base for found in self._found.values() for base in found.values())


def directory_of(prefix: str) -> str:
    """Return the directory of a checkpoint, in one spelling."""
    return os.path.realpath(os.path.dirname(prefix))


def place_of(prefix: str) -> tuple[str, str]:
    """Return the directory of a checkpoint, in one spelling, and its name."""
    return directory_of(prefix), os.path.basename(prefix)
