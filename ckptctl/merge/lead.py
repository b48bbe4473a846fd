"""Where the state files of a directory lead a trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from ckptctl.bundle import read_state
from ckptctl.chain import INCREMENT_DIRECTORY, Chains, Scan, split_step
from ckptctl.storage import Storage

__all__ = ["Lead", "tell_kept_line", "tell_mixture", "tell_unmade"]

_NOWHERE = (-1, "")
_MOST = 3


class Lead(NamedTuple):
    """The full that is named, and the increment that is named if it lies above that full.

    So restores DeepRec's PS (`incremental_saver.py`: one increment, if its step is above the
    full's); a merged full that no state file names does not help a trainer. Each as step and
    name: a smaller lead is of a run that was set back.
    """

    full: tuple[int, str] = _NOWHERE
    increment: tuple[int, str] = _NOWHERE

    @classmethod
    def of(cls, scan: Scan) -> Lead:
        """Return where the state files of a scan lead."""
        return cls._to(scan.full_state.latest, scan.increment_state.latest)

    @classmethod
    def read(cls, directory: str, storage: Storage) -> Lead:
        """Return where the state files lead now."""
        homes = (directory, os.path.join(directory, INCREMENT_DIRECTORY))
        states = [read_state(os.path.join(home, "checkpoint"), storage) for home in homes]
        return cls._to(*(os.path.basename(s.latest) if s is not None else None for s in states))

    @classmethod
    def _to(cls, full: str | None, increment: str | None) -> Lead:
        start, last = _parts(full), _parts(increment)
        return cls(start, last if last[0] > start[0] >= 0 else _NOWHERE)

    @property
    def items(self) -> frozenset[tuple[str, str]]:
        """(kind, name) of both."""
        return frozenset({("full", self.full[1]), ("increment", self.increment[1])})


def _parts(name: str | None) -> tuple[int, str]:
    parts = split_step(name or "")
    return (-1 if parts is None else parts[1], name or "")


def tell_kept_line(scan: Scan, name: str) -> tuple[str, ...]:
    """Return that a new full is listed and not named, where the state file names no step's."""
    state = scan.full_state
    other = scan.other_named_in(state)
    if other is None:
        return ()
    told = (
        f"{name} is listed and not named: {state.path} goes on naming {other.name}, which has no "
        f"step (to go on from {name}, set model_checkpoint_path there; else do nothing)"
    )
    return (told,)


def tell_unmade(scan: Scan, name: str, hidden: Sequence[str]) -> tuple[str, ...]:
    """Return that no state file is made to list a full, as was asked for, and what to do."""
    if not hidden:
        return ()
    more = f" and {len(hidden) - _MOST} more" if len(hidden) > _MOST else ""
    told = (
        f"{name} is not listed: there is no {scan.full_state.path}, and one that was made for it "
        f"would hide {', '.join(hidden[-_MOST:])}{more} (to start from {name}, write it by hand: "
        f'model_checkpoint_path: "{name}"; docs/runbook.md)'
    )
    return (told,)


def tell_mixture(chains: Chains) -> tuple[str, ...]:
    """Return what a DeepRec trainer would mix: it asks no more than that the step is above."""
    scan = chains.scan
    lead = Lead.of(scan)
    full = next((each for each in scan.fulls if each.name == lead.full[1]), None)
    last = next((each for each in scan.increments if each.name == lead.increment[1]), None)
    if full is None or last is None or not last.complete:  # then it stops
        return ()
    choice = chains.base_of(last)
    if choice.proven and choice.base is not None:
        if full is choice.base or full.step in chains.bases.roots(choice.base):
            return ()
        why = f"its base is {choice.base.name}"
    else:
        why = choice.reason
    state = scan.increment_state
    below = [step for step in state.steps.values() if step <= full.step]
    line = f"{last.base_name}-{max(below, default=full.step)}"
    told = (
        f"a DeepRec trainer would apply {last.name} to {full.name}, which the state files name, "
        f"and nothing proves that it was recorded on it ({why}): move {last.name} aside, and set "
        f"model_checkpoint_path in {state.path} to {line} (docs/runbook.md)"
    )
    return (told,)
