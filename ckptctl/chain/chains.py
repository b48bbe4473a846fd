"""The chains of a directory: statuses, restore points, and why something is none.

The rules are `shared/spec/restore.md`; the words of `status` are those of
`shared/spec/cli.md`, in that order of precedence. Nothing is read before it is needed: the
members of the first chain can be shown before the indexes of the last one were parsed.

Codes of problems: `damaged`, `incomplete`, `abandoned`, `orphan`, `unproven`, `idle`,
`not-nested`, `zero-rows` (a warning), `misnamed`, `ambiguous`, `listed-gone`, `copied`,
`moved`, `v1`, and those of the scan (`state-file`, `misfit`, `removed-log`, `increment-directory`).

Decisions where the rules leave a choice:

* Two fulls, or two increments, at one step are no restore points, since asking for the step
  is an error; such fulls make nothing stale either.
* `superseded` asks of the later increment that it is a restore point, not only that it is
  live and not idle.
* A failed nested check makes every later increment of the chain fail too: check 1 looks at
  all pairs up to S.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from functools import cached_property
from itertools import islice, pairwise

from ckptctl.chain.bases import BaseChoice, Bases, misnamed
from ckptctl.chain.idle import Earlier, Idleness, judge_idle
from ckptctl.chain.model import Checkpoint, Leftover, Problem, Scan
from ckptctl.chain.nested import FewerRows, find_fewer, goes_on_from, is_cumulative
from ckptctl.chain.passed import find_passed_over, tell_passed_over
from ckptctl.chain.problems import incompleteness, misnamed_reason, state_problems
from ckptctl.chain.timelines import Timelines, find_timelines
from ckptctl.errors import AmbiguousError

__all__ = ["Chain", "Chains", "Pair", "find_chains"]

#: What to do where no base could be given that would do, by the code of the choice.
_PUT_RIGHT = {
    "base-incomplete": "put that full right: its finding of ckptctl verify says how",
    "delta-hole": "restore the increments that it goes on from: nothing stands in for them",
    "ambiguous": "move one of the two out of the directory",
}

#: Prefixes of two increments that follow each other in the nested check of a chain.
Pair = tuple[str, str]


class Chain:
    """One full and the increments that are listed with it, by step.

    `increments` holds those that are abandoned, incomplete or unproven too. The rest is
    worked out when first asked for.
    """

    def __init__(self, base: Checkpoint, chains: Chains) -> None:
        self.base = base
        self._all = chains

    @cached_property
    def increments(self) -> tuple[Checkpoint, ...]:
        """The increments listed with this full, by step."""
        return self._all.placed.get(self.base.prefix, ())

    @cached_property
    def restorable_to(self) -> int | None:
        """Greatest step of this chain that is a restore point."""
        for checkpoint in reversed((self.base, *self.increments)):
            if self._all.is_restore_point(checkpoint):
                return checkpoint.step
        return None

    @property
    def nested(self) -> bool | None:
        """Whether each increment's keys contain the ones before; None: not yet proven."""
        pairs = self._all.nested_pairs(self.base)
        if any(pair in self._all.failed_nested for pair in pairs):
            return False
        if self._all.fewer_rows(self.base) is not None:
            return False
        return True if all(pair in self._all.proven_nested for pair in pairs) else None

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with this chain, the base first."""
        found = list(self._all.problems_of(self.base))
        for increment in self.increments:
            found += self._all.problems_of(increment)
        return tuple(found)


class Chains:
    """What a directory holds, judged by the rules of `restore.md`.

    Attributes
    ----------
    scan
        The directory.
    timelines
        Which checkpoints are live, and the write order.
    bases
        Finds the bases of increments.
    failed_nested, proven_nested
        Pairs of increments whose nested check is known.
    """

    def __init__(
        self,
        scan: Scan,
        timelines: Timelines,
        bases: Bases,
        failed_nested: frozenset[Pair],
        proven_nested: Container[Pair],
    ) -> None:
        self.scan = scan
        self.timelines = timelines
        self.bases = bases
        self.failed_nested = failed_nested
        self.proven_nested = proven_nested
        self._choices: dict[str, BaseChoice] = {}
        self._idle: dict[tuple[str, str], Idleness] = {}
        self._earlier: dict[str, Earlier] = {}

    @property
    def assume_order(self) -> str | None:
        """What they were found by: "step" (`--assume-order step`), or None."""
        return "step" if self.timelines.order.by_step else None

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """One chain for each full, abandoned and damaged ones included, by step."""
        return tuple(Chain(full, self) for full in self.scan.fulls)

    @cached_property
    def placed(self) -> Mapping[str, tuple[Checkpoint, ...]]:
        """Prefix of a full to the increments listed with it; "" to the orphans."""
        found: dict[str, list[Checkpoint]] = {}
        for increment in self.scan.increments:
            full = self.bases.place(increment)
            found.setdefault(full.prefix if full is not None else "", []).append(increment)
        return {prefix: tuple(members) for prefix, members in found.items()}

    @property
    def orphans(self) -> tuple[Checkpoint, ...]:
        """Increments without a full below them."""
        return self.placed.get("", ())

    @property
    def others(self) -> tuple[Checkpoint, ...]:
        """Bundles that are no checkpoints of this model: never touched."""
        return self.scan.others

    @property
    def leftovers(self) -> tuple[Leftover, ...]:
        """What killed writers left behind; incomplete checkpoints are in the chains."""
        return self.scan.leftovers

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed."""
        return (*self.scan.notes, *self.timelines.notes)

    @cached_property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the directory as a whole, and with its orphans."""
        found = [*self.scan.problems, *state_problems(self.scan)]
        for orphan in self.orphans:
            found += self.problems_of(orphan)
        return tuple(found)

    # --- steps ---

    @cached_property
    def restore_points(self) -> tuple[int, ...]:
        """Steps that can be restored, ascending."""
        found = (*self.scan.fulls, *self.scan.increments)
        return tuple(sorted({item.step for item in found if self.is_restore_point(item)}))

    @property
    def latest(self) -> int | None:
        """The newest restore point."""
        return self.restore_points[-1] if self.restore_points else None

    def passed_over(self, *, idle: bool = True) -> tuple[str, ...]:
        """Return what a user of the newest restore point should know, in one line or none.

        What `find_passed_over` finds; `idle` as there.
        """
        return tell_passed_over(find_passed_over(self, idle=idle), self.latest)

    def nearest(self, step: int) -> tuple[int | None, int | None]:
        """Return the nearest restore points below and above a step."""
        points = self.restore_points
        below, above = bisect_left(points, step), bisect_right(points, step)
        return (
            points[below - 1] if below else None,
            points[above] if above < len(points) else None,
        )

    def full_at(self, step: int) -> Checkpoint | None:
        """Return the full at a step, live or not; raise `AmbiguousError` where there are two."""
        return _only([full for full in self.scan.fulls if full.step == step])

    def increment_at(self, step: int) -> Checkpoint | None:
        """Return the increment at a step, live or not; raise `AmbiguousError` for two."""
        return _only([item for item in self.scan.increments if item.step == step])

    # --- one checkpoint ---

    def is_live(self, checkpoint: Checkpoint) -> bool:
        """Return whether it is on the trainer's present timeline."""
        return self.timelines.is_live(checkpoint)

    def base_of(self, checkpoint: Checkpoint) -> BaseChoice:
        """Return what an increment was recorded against, and whether that is proven."""
        if checkpoint.kind == "full":
            return BaseChoice(checkpoint, True, "a full needs no base", "full", series=())
        if checkpoint.prefix not in self._choices:
            self._choices[checkpoint.prefix] = self.bases.choose(checkpoint)
        return self._choices[checkpoint.prefix]

    def to_prove(self, increment: Checkpoint) -> str:
        """Return what to do where the base of an increment is not proven; `--base` if it helps."""
        choice, lineage = self.base_of(increment), increment.lineage
        if choice.code in _PUT_RIGHT:
            return _PUT_RIGHT[choice.code]
        # A series of deltas begins at one full; what lies below all fulls can be based on none.
        fixed = lineage is not None and lineage.mode == "delta"
        if choice.base is None and (fixed or self.bases.is_orphan(increment)):
            return "restore the full that it was recorded on: nothing stands in for it"
        return "--base STEP, if you know the full that it was recorded on"

    def idle_of(self, increment: Checkpoint, base: Checkpoint | None = None) -> Idleness:
        """Return whether an increment is idle.

        Parameters
        ----------
        increment
            The increment.
        base
            The full to judge it against (`--base`); without one its own, and where it has
            none nothing can say so.
        """
        base = base or self.base_of(increment).base
        if base is None or increment.kind != "increment" or not increment.complete:
            return Idleness()
        key = (increment.prefix, base.prefix)
        if key not in self._idle:
            if base.prefix not in self._earlier:
                self._earlier[base.prefix] = Earlier(base.contents, self._based_on(base))
            self._idle[key] = judge_idle(base, increment, self._earlier[base.prefix])
        return self._idle[key]

    def is_restore_point(self, checkpoint: Checkpoint) -> bool:
        """Return whether the state at its step can be restored from it."""
        return self.why_not(checkpoint) is None

    def why_not(self, checkpoint: Checkpoint) -> str | None:
        """Return why it is no restore point, or None if it is one."""
        if checkpoint.kind == "other":
            return f"{checkpoint.name} is no checkpoint of this model"
        twins = self._twins(checkpoint)
        if twins:
            return f"there are two at step {checkpoint.step}: {' and '.join(twins)}"
        dead = self.timelines.why_abandoned(checkpoint)
        if dead is not None:
            return f"{checkpoint.name} is abandoned: {dead}"
        if not checkpoint.sound:
            return "; ".join(item.message for item in incompleteness(checkpoint))
        if checkpoint.kind == "full":
            return misnamed_reason(checkpoint) if misnamed(checkpoint) else None
        choice = self.base_of(checkpoint)
        if not choice.proven:
            return f"the base of {checkpoint.name} is not proven: {choice.reason}"
        idle = self.idle_of(checkpoint)
        if idle:
            return f"{checkpoint.name} is idle: {idle.reason}"
        failed = self._failed_pair(checkpoint)
        if failed is not None:
            return f"keys of {failed[0].name} are missing in {failed[1].name}"
        fewer = choice.base and self.fewer_rows(choice.base, checkpoint)
        return f"{fewer} (merge --upto STEP --increments last takes it)" if fewer else None

    def status(self, checkpoint: Checkpoint) -> str:
        """Return the word for a checkpoint, the first of those in `ls --help` that applies."""
        if checkpoint.kind == "other":
            return "other"
        # Of the two that need the whole index the cheap halves come first.
        if checkpoint.facts.damage is not None or checkpoint.damage is not None:
            return "damaged"
        if checkpoint.unfit:  # complete, and refused all the same
            return "damaged"
        if not checkpoint.complete:
            return "incomplete"
        if not self.is_live(checkpoint):
            return "abandoned"
        if checkpoint.kind == "full":
            return "unproven" if misnamed(checkpoint) else "ok"
        if self.bases.is_orphan(checkpoint):
            return "orphan"
        if not self.base_of(checkpoint).proven:
            return "unproven"
        if self.idle_of(checkpoint):
            return "idle"
        if self.is_stale(checkpoint):
            return "stale"
        return "superseded" if self.is_superseded(checkpoint) else "ok"

    def is_stale(self, increment: Checkpoint) -> bool:
        """Return whether a live increment lies at or below a complete live full."""
        return (
            increment.kind == "increment"
            and self.is_live(increment)
            and any(
                full.step >= increment.step
                and full.step not in self.bases.twins
                and not misnamed(full)
                and full.sound
                for full in self.bases.live
            )
        )

    def is_superseded(self, increment: Checkpoint) -> bool:
        """Return whether a later restore point of the same base is proven to contain it."""
        return next(self.superseding(increment), None) is not None

    def superseding(self, increment: Checkpoint) -> Iterator[Checkpoint]:
        """Return the later restore points of the same base that are proven to contain it.

        Goes from pair to proven pair and reads no index behind the first that is not.
        """
        base = self.base_of(increment).base
        if base is None or not is_cumulative(increment):
            return
        members = self.placed.get(base.prefix, ())
        before = increment
        later = bisect_right(members, increment.step, key=lambda item: item.step)
        for after in islice(members, later, None):
            if not is_cumulative(after) or self.base_of(after).base is not base:
                continue
            if (before.prefix, after.prefix) not in self.proven_nested:
                return
            if self.is_restore_point(after):
                yield after
            before = after

    def problems_of(self, checkpoint: Checkpoint) -> list[Problem]:
        """Return what is wrong with one checkpoint."""
        broken = incompleteness(checkpoint)
        found = list(broken)
        twins = self._twins(checkpoint)
        if twins and checkpoint.name == twins[0]:
            message = f"two {checkpoint.kind} checkpoints at one step: {' and '.join(twins)}"
            found.append(Problem("ambiguous", message))
        dead = self.timelines.why_abandoned(checkpoint)
        if dead is not None:
            return [*found, Problem("abandoned", f"{checkpoint.name}: {dead}")]
        if checkpoint.kind == "full":
            if misnamed(checkpoint):
                found.append(Problem("misnamed", misnamed_reason(checkpoint)))
            return found
        if broken:
            return found
        if self.bases.is_orphan(checkpoint):
            return [*found, Problem("orphan", f"{checkpoint.name} has no full below it")]
        choice = self.base_of(checkpoint)
        if not choice.proven:
            found.append(Problem("unproven", f"{checkpoint.name}: {choice.reason}"))
        idle = self.idle_of(checkpoint)
        if idle:
            found.append(Problem("idle", f"{checkpoint.name}: {idle.reason}"))
        found += [Problem("zero-rows", warning) for warning in idle.warnings]
        failed = self._failed_pair(checkpoint)
        if failed is not None and failed[1] is checkpoint:
            message = f"keys of {failed[0].name} are missing in {failed[1].name}"
            found.append(Problem("not-nested", message))
        fewer = choice.base and self.fewer_rows(choice.base, checkpoint)
        if fewer and fewer.increment is checkpoint:
            found.append(Problem("not-nested", str(fewer)))
        return found

    # --- the nested check ---

    def nested_series(
        self, base: Checkpoint, increment: Checkpoint | None = None
    ) -> tuple[Checkpoint, ...]:
        """Return the increments that the nested check of a base goes through, by step.

        The live, complete, cumulative ones that are based on it; before them the one that a
        merged base was made from, where they go on from it and it is still here. With
        `increment`: up to that one, which is the last in any case (`--base` may have chosen
        the base).
        """
        below = None if increment is None else increment.step
        members = tuple(item for item in self._based_on(base, below) if is_cumulative(item))
        members = members if increment is None else (*members, increment)
        source = self.bases.folded_into(base)
        first = source is not None and members and goes_on_from(members[0], base)
        return (source, *members) if source is not None and first else members

    def fewer_rows(self, base: Checkpoint, increment: Checkpoint | None = None) -> FewerRows | None:
        """Return what the first increment above a merged full lacks by its rows, if anything.

        It stands for the first pair of `nested_series` where the increment that the full was
        made from is gone. With `increment`: of those up to that one.
        """
        if base.merged is None or base.merged.rows is None or self.bases.folded_into(base):
            return None
        below = None if increment is None else increment.step
        members = (item for item in self._based_on(base, below) if is_cumulative(item))
        first = next(members, increment)
        return None if first is None else find_fewer(base, first)

    def nested_pairs(self, base: Checkpoint) -> tuple[Pair, ...]:
        """Return the pairs of prefixes that the nested check of a base compares."""
        members = self.nested_series(base)
        pairs = pairwise(members)
        return tuple((before.prefix, after.prefix) for before, after in pairs)

    def _based_on(self, base: Checkpoint, below: int | None = None) -> Iterator[Checkpoint]:
        for increment in self.placed.get(base.prefix, ()):
            if below is not None and increment.step >= below:
                return  # before `complete`, which would read a later index
            if increment.complete and self.base_of(increment).base is base:
                yield increment

    def _failed_pair(self, increment: Checkpoint) -> tuple[Checkpoint, Checkpoint] | None:
        """Return the last failed pair of the chain up to an increment."""
        base = self.base_of(increment).base
        if base is None or not self.failed_nested or not is_cumulative(increment):
            return None
        members = self.nested_series(base, increment)
        for before, after in reversed(list(pairwise(members))):
            if (before.prefix, after.prefix) in self.failed_nested:
                return before, after
        return None

    @cached_property
    def _names_at(self) -> Mapping[tuple[str, int], tuple[str, ...]]:
        found = (*self.scan.fulls, *self.scan.increments)
        counts = Counter((item.kind, item.step) for item in found)
        return {
            (kind, step): tuple(i.name for i in found if (i.kind, i.step) == (kind, step))
            for (kind, step), count in counts.items()
            if count > 1
        }

    def _twins(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Return the names of all of this kind at its step, none where it is alone."""
        return self._names_at.get((checkpoint.kind, checkpoint.step), ())


def find_chains(
    scan: Scan,
    assume_order: str | None = None,
    failed_nested: frozenset[Pair] = frozenset(),
    proven_nested: Container[Pair] = frozenset(),
) -> Chains:
    """Return the chains of a directory.

    Parameters
    ----------
    scan
        The directory.
    assume_order
        "step": steps decide the write order (`--assume-order step`).
    failed_nested, proven_nested
        (prefix, prefix) of consecutive increments of a chain whose nested check is known
        to have failed, or to hold.
    """
    timelines = find_timelines(scan, assume_order)
    bases = Bases(scan, timelines)
    return Chains(scan, timelines, bases, failed_nested, proven_nested)


def _only(found: list[Checkpoint]) -> Checkpoint | None:
    if len(found) > 1:
        raise AmbiguousError(
            f"two {found[0].kind} checkpoints at step {found[0].step}",
            file=found[0].prefix,
            expected="one",
            found=" and ".join(item.name for item in found),
            remedy="move one of them out of the directory",
        )
    return found[0] if found else None
