"""What is newer than the newest restore point and cannot be restored: never left in silence.

By its step, or since a state file names it: whoever restores by that file looks for it, and finds
it gone, or without a step. What we removed ourselves is not told, nor what a full of its step or
above stands in for. A state file that was written just now may name what a look at the directory
a moment before could not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ckptctl.chain.bases import misnamed
from ckptctl.chain.model import NO_STEP, StateFile
from ckptctl.chain.names import split_step
from ckptctl.chain.write_order import SAME_TIME_NS

if TYPE_CHECKING:
    from ckptctl.chain.chains import Chains

__all__ = ["PassedOver", "find_passed_over", "tell_passed_over"]


class PassedOver(NamedTuple):
    """A checkpoint that the newest restore point is not; `step` is None for one without."""

    step: int | None
    why: Callable[[], str | None]


def find_passed_over(chains: Chains, *, idle: bool = True) -> tuple[PassedOver, ...]:
    """Return what is passed over, by step, what has none last.

    Live checkpoints above the newest restore point, those that seem older than their base, and
    what a state file names in vain; with `idle=False` not those that are idle, as all are that
    DeepRec writes between its start and its next full. A merged full under another step's name
    is none of them.
    """
    latest = NO_STEP if chains.latest is None else chains.latest
    newer = [
        PassedOver(item.step, partial(chains.why_not, item))
        for item in (*chains.scan.fulls, *chains.scan.increments)
        if item.step > latest
        and (chains.is_live(item) or chains.timelines.seems_older_than_its_base(item))
        and not (item.kind == "full" and misnamed(item))
        and (idle or chains.status(item) != "idle")
    ]
    for state in (chains.scan.full_state, chains.scan.increment_state):
        newer += _named(chains, state, latest)
    return tuple(sorted(newer, key=lambda each: (each.step is None, each.step)))


def tell_passed_over(found: tuple[PassedOver, ...], latest: int | None) -> tuple[str, ...]:
    """Return it in one line, the newest with its reason, or in none."""
    if not found:
        return ()
    than = "" if latest is None else f", though newer than step {latest}"
    if than and all(each.step is None for each in found):
        than = f" for step {latest}"
    why = found[-1].why()
    if len(found) == 1:
        return (f"passed over{than}: {why}",)
    return (f"{len(found)} passed over{than}; the last: {why} (ckptctl ls shows all)",)


def _named(chains: Chains, state: StateFile, latest: int) -> Iterator[PassedOver]:
    """Return what a state file names though it is no checkpoint that is here, if anything."""
    scan, name = chains.scan, state.latest
    kind = "full" if state is scan.full_state else "increment"
    own = scan.fulls if kind == "full" else scan.increments
    if not name or any(item.name == name for item in own):
        return
    parts = split_step(name)
    step = parts[1] if parts is not None else None
    if scan.other_named_in(state) is not None:
        what = "it has no step"
    else:
        # By its own clock: one that is ahead silences nothing for longer.
        fresh = abs((state.mtime_ns or 0) - scan.taken_ns) < SAME_TIME_NS
        if fresh or any(each.kind == kind and each.name == name for each in scan.removed):
            return
        data = any(each.name == name and each.reason == "unindexed" for each in scan.leftovers)
        what = "its index is missing" if data else "it is not here"
    if step is None or step > latest:
        yield PassedOver(step, lambda: f"{name}: {state.path} names it, and {what}")
