"""Which full an increment was recorded against, and what proves it.

The rules are "Words", "Lineage" and checks 3 and 4 of `shared/spec/restore.md`. No keys are
read: heads of indexes, names, lists and times, and of the base itself the whole index, to
know that it is complete.

Where the rules leave a choice, it is made so that what is not proven is refused:

* A live full between base and increment that is incomplete counts like one that is listed
  and gone (check 3): the increment holds only what changed after it.
* A name that the state file lists and that is no full here counts as gone, whatever its
  base name: some Saver wrote it, and every full save empties the recorders.
* Lineage that names the base proves checks 3 and 4 both.
* A full that ckptctl removed counts as gone whether it is still listed or not. A merged one
  does not: it never emptied a recorder. But one that is listed does: it was taken out of the list
  before it went, so a trainer may have saved its step anew since, and lost that.
* A merged full stands in where ids do not tell otherwise: after a rollback another increment may
  lie at the step that it was merged up to, or the run may have begun anew at its base. What
  follows then, and is above the full, never saw all that is in it.
* A merged full that cannot be used (incomplete, or named by another step than what is in
  it) is passed over and hides no base: it never emptied a recorder either. A damaged one is
  known for merged by its mark, if that names the very index: a trainer that saves over a merged
  full leaves the mark. One that may be either counts as a trainer's, and shows nothing.
* "The oldest listed full" is the first one listed that ckptctl did not merge: a merge puts
  its result into the list where its step belongs, which says nothing of what rotated away.
* Check 4, "both state files list one checkpoint while more lie there": more in each of the
  two directories, merged fulls not counted.
* A state file that does not parse is not "no state file".
* An increment that the state file names counts as live, also where a rollback has saved a full
  below it since, or that very full anew: what is shown to be written before its base was not
  recorded against it, or is of a way that was left. A trainer that starts again from that full
  goes on without it, and to merge it would put dead rows under what is saved next.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

from ckptctl.chain.between import Between
from ckptctl.chain.model import Checkpoint, Scan
from ckptctl.chain.nested import goes_on_from
from ckptctl.chain.problems import unsoundness
from ckptctl.chain.timelines import OR_COPIED, Timelines

__all__ = ["BaseChoice", "Bases"]


class BaseChoice(NamedTuple):
    """The base of an increment, and whether it is proven.

    Attributes
    ----------
    base
        The full to apply it to; None where there is none that could be used.
    proven
        Whether checks 3 and 4 hold, or lineage says so.
    reason
        How it is proven, or why it is not, in words.
    code
        The same for scripts. Proven: `lineage`, `no-state-file`, `listed`, `above-oldest`,
        `nothing-rotates`, and `full` of a full itself. Not: `no-base`, `base-gone`,
        `base-incomplete`, `base-abandoned`, `ambiguous`, `full-gone`, `set-back`, `rotated`,
        `abandoned-between`, `delta-hole`, `abandoned`, `damaged`, `older-than-base`, `other-name`.
    check
        Number of the check of "The state at step S" that fails: 3 or 4.
    series
        What is applied to the base, in order: the increment, or in delta mode the series
        that ends with it.
    """

    base: Checkpoint | None
    proven: bool
    reason: str
    code: str
    check: int | None = None
    series: tuple[Checkpoint, ...] = ()


class Bases:
    """Finds the bases of the increments of one directory."""

    def __init__(self, scan: Scan, timelines: Timelines) -> None:
        self.scan = scan
        self.timelines = timelines
        self._between = Between(scan, timelines)
        self._follows: dict[tuple[str, str], bool | None] = {}
        self._deltas: dict[str, BaseChoice | Checkpoint] = {}
        self._roots: dict[str, frozenset[int]] = {}

    @cached_property
    def live(self) -> tuple[Checkpoint, ...]:
        """Live fulls by step."""
        return tuple(full for full in self.scan.fulls if self.timelines.is_live(full))

    @cached_property
    def twins(self) -> frozenset[int]:
        """Steps at which there are two fulls."""
        return frozenset(step for step, count in Counter(self._steps).items() if count > 1)

    @cached_property
    def _steps(self) -> list[int]:
        return [full.step for full in self.scan.fulls]

    @cached_property
    def _live_steps(self) -> list[int]:
        return [full.step for full in self.live]

    @cached_property
    def _by_step(self) -> dict[int, Checkpoint]:
        return {full.step: full for full in reversed(self.scan.fulls)}

    @cached_property
    def _by_id(self) -> dict[str, Checkpoint]:
        own = ((each.lineage, each) for each in self.scan.increments)
        return {told.id: each for told, each in own if told is not None and told.id is not None}

    @cached_property
    def increments_by_step(self) -> dict[int, list[Checkpoint]]:
        """Step to the live increments at it."""
        found: dict[int, list[Checkpoint]] = {}
        for increment in self.scan.increments:
            if self.timelines.is_live(increment):
                found.setdefault(increment.step, []).append(increment)
        return found

    def folded_into(self, full: Checkpoint) -> Checkpoint | None:
        """Return the last increment that is in a merged full, where it is still here."""
        if full.merged is None:
            return None
        here = self.increments_by_step.get(full.merged.up_to, ())
        found = [each for each in here if goes_on_from(each, full) and each.complete]
        last_id = full.merged.last_id
        if len(found) != 1 or (found[0].lineage and last_id not in (None, found[0].lineage.id)):
            return None
        return found[0]

    @cached_property
    def _stand_ins(self) -> dict[int, list[Checkpoint]]:
        """Base step to the merged fulls that stand in for it, the newest first."""
        found: dict[int, list[Checkpoint]] = {}
        for full in reversed(self.live):
            if full.merged is not None and self._usable(full):
                for step in self.roots(full):
                    found.setdefault(step, []).append(full)
        return found

    @cached_property
    def known_steps(self) -> frozenset[int]:
        """Steps of all fulls that are here, or that a merged one was made from."""
        here = self.scan.fulls
        return frozenset(self._by_step).union(*map(self.roots, here))

    @cached_property
    def increment_steps(self) -> frozenset[int]:
        """Steps of all increments that are here."""
        return frozenset(increment.step for increment in self.scan.increments)

    def roots(self, full: Checkpoint) -> frozenset[int]:
        """Return the steps of all fulls that a merged one was made from, one by one."""
        if full.prefix not in self._roots:
            self._roots[full.prefix] = self._find_roots(full)
        return self._roots[full.prefix]

    def _find_roots(self, full: Checkpoint) -> frozenset[int]:
        roots: set[int] = set()
        todo: list[Checkpoint | None] = [full]
        while todo:
            at = todo.pop()
            if at is None or at.merged is None:
                continue
            for step in (at.merged.base_step, at.merged.applied_to):
                if step is not None and step not in roots:
                    roots.add(step)
                    todo.append(self._by_step.get(step))
        return frozenset(roots)

    def _usable(self, full: Checkpoint) -> bool:
        """Return whether a full may be a base, as far as the head of its index shows.

        That its shards are long enough is looked at last (`choose`), since it takes the
        whole index.
        """
        return full.facts.damage is None and not full.missing and not misnamed(full)

    def place(self, increment: Checkpoint) -> Checkpoint | None:
        """Return the full in whose chain an increment is listed; None for an orphan.

        The base that `choose` returns, if it returns one. Else the full that the increment
        lies above: the nearest live one, or without one (or for an abandoned increment) the
        nearest of all.
        """
        base = self._find(increment).base
        if base is not None:
            return base
        below = self._below(increment)
        if not below:
            return None
        if not self.timelines.is_live(increment):
            lineage = increment.lineage
            named = self._by_step.get(lineage.base_step) if lineage is not None else None
            return named or below[-1]
        live = [full for full in below if self.timelines.is_live(full)]
        return live[-1] if live else below[-1]

    def _below(self, increment: Checkpoint) -> tuple[Checkpoint, ...]:
        return self.scan.fulls[: bisect_left(self._steps, increment.step)]

    def is_orphan(self, increment: Checkpoint) -> bool:
        """Return whether there is no full below it: no abandoned or damaged one either.

        An increment whose full is there but cannot be used is not an orphan but unproven,
        so that no option removes it.
        """
        return not self._below(increment)

    def choose(self, increment: Checkpoint) -> BaseChoice:
        """Return the base of an increment, and whether it is proven."""
        choice = self._find(increment)
        base = choice.base
        if base is None:
            return choice
        if not base.sound:
            reason = f"its base {base.name} {unsoundness(base)}"
            return _refuse("base-incomplete", reason, 3)
        for before in choice.series[:-1]:
            if not before.complete:
                reason = f"it follows {before.name}, which {unsoundness(before)}"
                return _refuse("delta-hole", reason, None)
        return choice

    def _find(self, increment: Checkpoint) -> BaseChoice:
        """Return the choice, what takes a whole index to know not looked at."""
        if increment.facts.damage is not None:
            return _refuse("damaged", "its index is damaged", None)
        dead = self.timelines.why_abandoned(increment)
        if dead is not None:
            return _refuse("abandoned", f"abandoned: {dead}", None)
        lineage = increment.lineage
        if lineage is None:
            choice = self._by_steps(increment)
        elif lineage.mode == "delta":
            choice = self._delta(increment, lineage.base_step)
        else:
            choice = self._by_lineage(increment, lineage.base_step)
        choice = self._telling_what_was_passed_over(choice, increment)
        # "abandoned-between" says less.
        if choice.base is None or not (choice.proven or choice.code == "abandoned-between"):
            return choice
        # A merged full was written when ckptctl ran: what it stands in for tells.
        held = choice.base.merged
        root = held.base_step if held is not None else choice.base.step
        for each in choice.series:
            newer = self.timelines.newer_full(each, root if lineage is None else lineage.base_step)
            if newer is not None:
                reason = (
                    f"{each.name} was written before {newer.name}: the run was rolled back since"
                    + OR_COPIED
                )
                return choice._replace(proven=False, reason=reason, code="older-than-base", check=4)
        return choice

    def _by_lineage(self, increment: Checkpoint, base_step: int) -> BaseChoice:
        lineage, refused = increment.lineage, None
        for full, follows in self._standing_in(base_step, increment):
            went = follows and lineage is not None and lineage.id is not None
            back = not went and self.timelines.order.set_back_behind(full)
            if back or not follows:  # the base itself is always right
                choice = self._at(base_step, (increment,))
                if choice.base is not None:
                    return choice
            if not back:
                reason = f"{full.name} was merged from full {base_step}, which its lineage names"
                return BaseChoice(full, True, reason, "lineage", series=(increment,))
            refused = refused or self._set_back(full, increment)
        return refused or self._at(base_step, (increment,))

    def _telling_what_was_passed_over(
        self, choice: BaseChoice, increment: Checkpoint
    ) -> BaseChoice:
        lineage = increment.lineage
        if choice.code != "base-gone" or lineage is None:
            return choice
        for full in self._stand_ins.get(lineage.base_step, ()):
            if full.step < increment.step:
                told = f"{full.name} was merged from increments that it does not go on from"
                return choice._replace(reason=f"{choice.reason}; {told}")
        return choice

    def _standing_in(
        self, base_step: int, increment: Checkpoint, least: int = 0
    ) -> Iterator[tuple[Checkpoint, bool | None]]:
        """Return the merged fulls that may stand in for the base of an increment, newest first.

        Those from a step on; with each what `may_follow` says.
        """
        for full in self._stand_ins.get(base_step, ()):
            if full.step < least:
                return
            if full.step < increment.step:
                follows = self.may_follow(increment, full)
                if follows is not False:
                    yield full, follows

    def may_follow(self, increment: Checkpoint, full: Checkpoint) -> bool | None:
        """Return whether an increment goes on from all that is in a merged full.

        The ids of its line tell: the last increment that is in the full has to be among them. Of a
        line that does not say so each id leads to the next; None where that leads to what is gone,
        or the full does not say its last. Of an increment without an id nothing speaks against it.
        """
        held, lineage = full.merged, increment.lineage
        if held is None or lineage is None or lineage.id is None:
            return True
        if held.last_id is None:
            return None
        verdict = lineage.follows(held.last_id)
        if verdict is None:
            verdict = self._leads_to(increment, full.prefix, held.last_id, held.up_to)
        return verdict

    def _leads_to(self, increment: Checkpoint, full: str, last_id: str, up_to: int) -> bool | None:
        """Return the same by the ids of one increment after the other."""
        at: Checkpoint | None = increment
        line: list[tuple[str, str]] = []
        verdict = None
        while at is not None and at.lineage is not None:
            lineage, key = at.lineage, (at.prefix, full)
            if key in self._follows:
                verdict = self._follows[key]
                break
            self._follows[key] = None
            line.append(key)
            verdict = lineage.follows(last_id)
            if verdict is not None:
                break
            meant, previous = lineage.previous_id, lineage.previous_step
            if meant is None:
                verdict = False if previous in (None, lineage.base_step) else None
                break
            before = self._by_id.get(meant)
            if before is not None:
                previous = before.step
            if meant == last_id or (previous is not None and previous <= up_to):
                verdict = meant == last_id
                break
            at = before
        self._follows.update(dict.fromkeys(line, verdict))
        return verdict

    def _at(self, base_step: int, series: tuple[Checkpoint, ...]) -> BaseChoice:
        """Return the choice of the very full that a lineage names."""
        full = self._by_step.get(base_step)
        if full is None:
            reason = f"its lineage names full {base_step}, which is not here"
            return _refuse("base-gone", reason, 4)
        if base_step in self.twins:
            return self._ambiguous(base_step)
        if not self.timelines.is_live(full):
            reason = f"its lineage names {full.name}, which is abandoned"
            return _refuse("base-abandoned", reason, 4)
        if not self._usable(full):
            what = "holds another step's state" if misnamed(full) else unsoundness(full)
            reason = f"its lineage names {full.name}, which {what}"
            return _refuse("base-incomplete", reason, 3)
        reason = f"its lineage names {full.name}"
        return BaseChoice(full, True, reason, "lineage", series=series)

    def _delta(self, increment: Checkpoint, base_step: int) -> BaseChoice:
        """Follow the series back to its base, or to a merged full that stands in."""
        series = [increment]
        while True:
            at = series[-1]
            if at.prefix not in self._deltas:
                self._deltas[at.prefix] = self._delta_before(at, base_step)
            before = self._deltas[at.prefix]
            if isinstance(before, BaseChoice):
                whole = tuple(reversed(series))
                return before._replace(series=whole) if before.base is not None else before
            series.append(before)

    def _delta_before(self, at: Checkpoint, base_step: int) -> BaseChoice | Checkpoint:
        """Return the increment that one of a series is applied to, or what the series begins at.

        Where a merged full holds more than the predecessor and the predecessor is here too,
        the predecessor is followed: after a rollback the merged full may hold what the
        series never saw.
        """
        previous = at.lineage.previous_step if at.lineage is not None else None
        if previous is not None and previous >= at.step:
            return _refuse("delta-hole", f"{at.name} names a predecessor above it", None)
        reaching = [full for full, _ in self._standing_in(base_step, at, previous or 0)]
        exact = [full for full in reaching if full.step == previous]
        before = self._predecessor(at, base_step)
        if previous is None or previous == base_step:
            choice = self._at(base_step, ())
            if choice.base is not None or not reaching:
                return choice
        if not exact and before is not None:
            return before
        if not reaching:
            reason = f"{at.name} follows increment {previous}, which cannot be used"
            return _refuse("delta-hole", reason, None)
        full = (exact or reaching)[0]
        reason = f"{full.name} was merged from the series on full {base_step}"
        return BaseChoice(full, True, reason, "lineage")

    def _predecessor(self, increment: Checkpoint, base_step: int) -> Checkpoint | None:
        after = increment.lineage
        step = after.previous_step if after is not None else None
        found = self.increments_by_step.get(step, []) if step is not None else []
        if len(found) != 1 or found[0].facts.damage is not None or found[0].missing:
            return None
        lineage = found[0].lineage
        if lineage is None or lineage.mode != "delta" or lineage.base_step != base_step:
            return None
        # After a rollback another increment may lie at the step of the one that is meant.
        meant = after.previous_id if after is not None else None
        return found[0] if meant is None or lineage.id == meant else None

    def _by_steps(self, increment: Checkpoint) -> BaseChoice:
        below = self.live[: bisect_left(self._live_steps, increment.step)]
        base = next((f for f in reversed(below) if self._usable(f) or not f.ours), None)
        if base is None:
            return _refuse("no-base", "there is no live full below it", 4)
        if base.step in self.twins:
            return self._ambiguous(base.step)
        if base.merged is not None and self.timelines.order.set_back_behind(base):
            # Set back to the one that is named or not, the run went through that.
            lead = next((f for f in below if f.name == self.scan.full_state.latest), None)
            if lead is None or lead.step in self.twins or not self._usable(lead):
                return self._set_back(base, increment)
            base = lead
        rival = self._between.rival_of(increment)
        if rival is not None:
            reason = f"by its name it was recorded against {rival.name}, not {base.name}"
            return self._unproven(base, increment, "other-name", reason, 4)
        gone = self._between.gone(base, increment)
        if gone:
            reason = f"{gone[0]} was saved between {base.name} and it, and is gone"
            return self._unproven(base, increment, "full-gone", reason, 3)
        hidden = self._between.hiding(base, increment)
        if hidden is not None:
            reason = (
                f"{hidden.name} is abandoned, and nothing shows that "
                f"{increment.name} was not recorded against it"
            )
            return self._unproven(base, increment, "abandoned-between", reason, 4)
        roots = [self._by_step[step].name for step in self.roots(base) if step in self._by_step]
        proof = self._between.not_rotated(base, roots, increment)
        if proof is None:
            state = self.scan.full_state
            what = f"does not list {base.name} or any full below it"
            if state.error is not None:
                what = f"says nothing ({state.error.message}; ckptctl verify says what to do)"
            reason = f"{state.path} {what}: the true base may have rotated away"
            return self._unproven(base, increment, "rotated", reason, 4)
        return BaseChoice(base, True, proof[1], proof[0], series=(increment,))

    def _set_back(self, base: Checkpoint, increment: Checkpoint) -> BaseChoice:
        state = self.scan.full_state
        reason = (
            f"{state.path} was written after {base.name} and names {state.latest}: "
            f"nothing shows that the run which saved {increment.name} went through {base.name}"
        )
        return self._unproven(base, increment, "set-back", reason, 4)

    def _unproven(
        self, base: Checkpoint, increment: Checkpoint, code: str, reason: str, check: int
    ) -> BaseChoice:
        return BaseChoice(base, False, reason, code, check, (increment,))

    def _ambiguous(self, step: int) -> BaseChoice:
        names = [full.name for full in self.scan.fulls if full.step == step]
        reason = f"two fulls at step {step}: {' and '.join(names)}"
        return _refuse("ambiguous", reason, None)


def misnamed(full: Checkpoint) -> bool:
    """Return whether a merged full holds another step's state than its name says.

    `merge -o` may write any name. Such a full makes nothing stale, stands in for nothing
    and is no restore point: its name is the only thing that says more than it holds.
    """
    return full.merged is not None and full.merged.up_to != full.step


def _refuse(code: str, reason: str, check: int | None) -> BaseChoice:
    return BaseChoice(None, False, reason, code, check)
