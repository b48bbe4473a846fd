"""Which full and which increments make the state at a step (checks 2 to 4)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ckptctl.arguments import whole_number
from ckptctl.chain import MERGED_TENSOR, NO_STEP, Chains, Checkpoint, check_read
from ckptctl.chain.nested import FewerRows, is_cumulative
from ckptctl.errors import IncompleteError, NotFoundError, RefusedError, UnprovenError
from ckptctl.restore.options import RestoreOptions

__all__ = [
    "LAST_OR_ALL",
    "Selection",
    "newest_unproven",
    "select",
    "step_below",
    "tell_overruled",
]

_KNOWING = "knowing that rows may be missing"
_LAST = "--increments last for what a DeepRec PS would hold"
#: What overrules check 1, for `step_below`.
LAST_OR_ALL = f"{_LAST}, or --increments all for each key's newest row"


class Selection(NamedTuple):
    """What is put together for one step.

    Attributes
    ----------
    step
        The step.
    base
        The full.
    increments
        What is applied to it, oldest first; none if `base` is the state.
    to_prove
        Increments whose keys must contain those of the one before (check 1).
    base_reason
        How the base is known.
    notes
        What a user should know.
    """

    step: int
    base: Checkpoint
    increments: tuple[Checkpoint, ...]
    to_prove: tuple[Checkpoint, ...]
    base_reason: str
    notes: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[Checkpoint, ...]:
        """All that is read for it, each once."""
        found = (self.base, *self.to_prove, *self.increments)
        return tuple({each.prefix: each for each in found}.values())


def select(chains: Chains, step: int | None, options: RestoreOptions) -> Selection:
    """Choose the full and the increments of the state at `step`.

    Parameters
    ----------
    chains
        The chains of a directory, judged.
    step
        None for the newest restore point; the notes then tell what is newer.
    options
        Overrides of the restore rules.

    Raises
    ------
    NotFoundError
        Nothing lies at that step, or nothing can be restored.
    IncompleteError
        What lies there cannot be restored.
    UnprovenError, RefusedError
        A check of `restore.md` does not hold and no option overrides it.
    AmbiguousError
        Two checkpoints lie at that step.
    UnreadableError
        What could not be read might change the choice.
    UsageError
        The step is no whole number.
    """
    newest = step is None
    step = _newest(chains) if step is None else whole_number("step", step)
    chosen = _select(chains, step, options)
    if options.base is None:
        check_read(chains, chosen.base.step, step)
    told = chains.passed_over() if newest else ()
    return chosen._replace(notes=(*_state_files(chains), *told, *chosen.notes))


def _state_files(chains: Chains) -> Iterator[str]:
    """Return what is wrong with state files that say nothing, which the choice went without."""
    for state in (chains.scan.full_state, chains.scan.increment_state):
        if state.error is not None:
            yield f"{state.path}: {state.error.message}; ckptctl verify says what to do"


def _newest(chains: Chains) -> int:
    check_read(chains, NO_STEP if chains.latest is None else chains.latest)
    if chains.latest is None:
        raise NotFoundError(
            "no restore point",
            file=chains.scan.directory,
            expected="a complete full",
            found="; ".join(
                [
                    f"{len(chains.scan.fulls)} fulls, {len(chains.scan.increments)} increments",
                    *chains.passed_over(),
                ]
            ),
            remedy="ckptctl ls shows what is there and what is wrong with it",
        )
    return chains.latest


def _select(chains: Chains, step: int, options: RestoreOptions) -> Selection:
    full = chains.full_at(step)
    if full is not None and options.base is None and chains.is_restore_point(full):
        return Selection(step, full, (), (), "a full")
    increment = chains.increment_at(step)
    if increment is None:
        if full is not None and options.base is None:
            raise _unusable(chains, full)
        if full is not None:
            unproven = newest_unproven(chains)
            raise RefusedError(
                f"step {step} is a full; --base applies to increments",
                file=full.prefix,
                expected="an increment at that step",
                found=full.name,
                remedy="leave --base out"
                if unproven is None
                else "leave --base out, or give the step of the increment that it is for: step "
                f"{unproven.step} is the newest without a proven base (merge --upto "
                f"{unproven.step})",
            )
        if options.base is None:
            check_read(chains, NO_STEP, step)  # it may be among what cannot be looked at
        raise NotFoundError(
            f"no checkpoint at step {step}",
            file=chains.scan.directory,
            remedy=f"{_another(chains, step)}; ckptctl ls shows all of them",
        )
    if not chains.is_live(increment) or not increment.complete:
        raise _unusable(chains, increment)
    choice, keys = chains.base_of(increment), f"keys in it: {increment.contents.keys}"
    if options.base is not None:
        base = _given_base(chains, options.base, increment)
        reason = f"--base {options.base}"
    elif choice.base is not None and choice.proven:
        base, reason = choice.base, choice.reason
    else:
        raise UnprovenError(
            f"the base of {increment.name} is not proven: {choice.reason}",
            file=increment.prefix,
            found=f"check {choice.check} of the restore rules: {choice.code}; {keys}"
            if choice.check
            else f"{choice.code}; {keys}",
            remedy=f"{_another(chains, step)}; or {chains.to_prove(increment)}",
        )
    delta = not is_cumulative(increment)
    idle = chains.idle_of(increment, base)
    if idle and options.increments != "last":
        raise UnprovenError(
            f"{increment.name} is idle: {idle.reason}",
            file=increment.prefix,
            found=f"{keys}; tables would be the full's while dense tensors are the increment's",
            remedy=_another(chains, step) + ("" if delta else f"; or, {_KNOWING}, {_LAST}"),
        )
    if delta:
        return _delta(chains, increment, base, reason, options)
    series = chains.nested_series(base, increment)
    if options.increments == "auto":
        _refuse_fewer(chains, chains.fewer_rows(base, increment))
        return Selection(step, base, (increment,), series, reason)
    if options.increments == "last":
        return Selection(step, base, (increment,), (), reason)
    series = tuple(item for item in series if item.step > base.step)  # a merged one is its first
    if options.assume_order is None:
        _refuse_inversion(chains, series)
    return Selection(step, base, series, (), reason, tuple(_left_out(chains, base, increment)))


def step_below(chains: Chains | None, step: int, ways: str) -> str:
    """Return what to do where rows may be lost at a step: what is safe, then what overrules it."""
    safe = "use a step below that can be restored; or, "
    if chains is not None:
        below, _ = chains.nearest(step)
        safe = "" if below is None else f"use a step below: {below} can be restored; or, "
    return f"{safe}{_KNOWING}, {ways}"


def tell_overruled(chains: Chains, chosen: Selection, options: RestoreOptions) -> tuple[str, ...]:
    """Return that `--increments last` or `all` leaves open whether rows are missing, if it does."""
    if options.increments == "auto" or not chosen.increments:
        return ()
    base, last = chosen.base, chosen.increments[-1]
    if not is_cumulative(last):
        return ()
    pairs = pairwise(chains.nested_series(base, last))
    proven = all((old.prefix, new.prefix) in chains.proven_nested for old, new in pairs)
    if proven and not chains.idle_of(last, base) and chains.fewer_rows(base, last) is None:
        return ()
    told = (
        f"--increments {options.increments}: it is not proven that all rows are in the state at "
        f"step {chosen.step}, and once a full of it is there prune and compact remove the "
        "increments that may have them"
    )
    return (told,)


def newest_unproven(chains: Chains) -> Checkpoint | None:
    """Return the newest live increment above all restore points whose base is not proven."""
    latest = NO_STEP if chains.latest is None else chains.latest
    for item in reversed(chains.scan.increments):
        if item.step <= latest:
            break
        if chains.is_live(item) and item.complete and not chains.base_of(item).proven:
            return item
    return None


def _left_out(chains: Chains, base: Checkpoint, increment: Checkpoint) -> Iterator[str]:
    """Tell of what cannot be applied between a base and an increment."""
    for item in chains.scan.increments:
        between = base.step < item.step < increment.step
        if between and chains.is_live(item) and not item.complete:
            yield (
                f"{item.name} is incomplete and left out: rows that no later increment has are "
                "missing"
            )


def _given_base(chains: Chains, step: int, increment: Checkpoint) -> Checkpoint:
    base = chains.full_at(step)
    if base is None:
        steps = sorted(full.step for full in chains.scan.fulls if full.step < increment.step)
        raise NotFoundError(
            f"no full at step {step}",
            file=chains.scan.directory,
            found=f"below the increment: {', '.join(map(str, steps[-5:])) or 'none'}",
            remedy=f"--base with the step of a full that {increment.name} was recorded on",
        )
    if not base.complete:
        raise _unusable(chains, base)
    if base.step >= increment.step:
        raise RefusedError(
            "a base must lie below its increment",
            file=base.prefix,
            expected=f"< {increment.step}",
            found=base.step,
            remedy="give the step of a full below it: ckptctl ls shows them",
        )
    return base


def _delta(
    chains: Chains, increment: Checkpoint, base: Checkpoint, reason: str, options: RestoreOptions
) -> Selection:
    if options.increments == "last":
        raise RefusedError(
            f"{increment.name} holds only what changed since the increment before it",
            file=increment.prefix,
            remedy="leave --increments out: the whole series is applied in order",
        )
    choice = chains.base_of(increment)
    if choice.base is not base or not choice.series:
        raise UnprovenError(
            f"the series of {increment.name} does not begin at {base.name}: {choice.reason}",
            file=increment.prefix,
            remedy=_another(chains, increment.step),
        )
    return Selection(increment.step, base, choice.series, (), reason)


def _refuse_fewer(chains: Chains, fewer: FewerRows | None) -> None:
    if fewer is not None:
        raise UnprovenError(
            str(fewer),
            file=fewer.increment.prefix,
            tensor=fewer.name or None,
            expected=f">= {fewer.had} rows: {MERGED_TENSOR} of {fewer.merged.prefix}",
            found=f"{fewer.has} rows",
            remedy=step_below(chains, fewer.increment.step, LAST_OR_ALL),
        )


def _refuse_inversion(chains: Chains, series: tuple[Checkpoint, ...]) -> None:
    order = chains.timelines.order
    dead = [item for item in chains.scan.increments if not chains.is_live(item)]
    for before, after in pairwise(series):
        for other in dead:
            if order.before(before, other) and order.before(other, after):
                raise UnprovenError(
                    f"the run was rolled back between {before.name} and {after.name}: they may "
                    "be of two runs",
                    file=after.prefix,
                    expected="increments of one run",
                    found=f"{other.name}, which is abandoned, was written between them",
                    remedy=step_below(
                        chains,
                        after.step,
                        f"{_LAST}, or --assume-order step if nothing was rolled back",
                    ),
                )
        if chains.timelines.order.before(after, before):
            raise UnprovenError(
                f"{after.name} was written before {before.name}: they may be of two runs",
                file=after.prefix,
                expected="increments written in the order of their steps",
                found=f"{after.name}, then {before.name}",
                remedy=step_below(
                    chains,
                    after.step,
                    f"{_LAST}, or --assume-order step if the clocks are wrong",
                ),
            )


def _unusable(chains: Chains, checkpoint: Checkpoint) -> IncompleteError | RefusedError:
    why = chains.why_not(checkpoint) or f"{checkpoint.name} cannot be restored"
    kind = RefusedError if checkpoint.sound else IncompleteError
    return kind(
        why,
        file=checkpoint.prefix,
        remedy=_another(chains, checkpoint.step),
    )


def _another(chains: Chains, step: int) -> str:
    below, above = chains.nearest(step)
    found = [str(point) for point in (below, above) if point is not None]
    if not found:
        return "use another directory: no step of this one can be restored"
    return f"use another step: {' or '.join(found)} can be restored"
