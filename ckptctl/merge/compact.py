"""Merging and pruning in one go, for cron: `plan_compact`, and `run_compact`.

Under one lock: look whether a merge is worth it, merge to the newest restore point beside its
base (every byte that is read is checked, the result is read back before it exists), put the
state files right, and prune by the policy. Each step is one that can be killed at any point,
and the next run goes on from what it finds: nothing is remembered between runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.chain.scan import check_no_increments, scan_again, scan_directory
from ckptctl.chain.unread import check_listed
from ckptctl.chain.writer import WRITER_WAIT_S, wait_for_writer
from ckptctl.errors import ExistsError, NoSpaceError, NotFoundError, RefusedError
from ckptctl.merge.gate import Gate, Holdings, look_at_holdings
from ckptctl.merge.prune_plan import PruneOptions, PrunePlan
from ckptctl.merge.quiet import quiet_note, recall_quiet, remember_quiet
from ckptctl.merge.sweep import give_back_states
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.options import RestoreOptions
from ckptctl.storage import LOCAL, Storage, is_no_room
from ckptctl.storage.lock import DirectoryLock, directory_lock

# What merges and prunes loads NumPy, and cron asks mostly in vain: it is imported where used.
if TYPE_CHECKING:
    from ckptctl.chain import Chains
    from ckptctl.merge.execute import MergeResult
    from ckptctl.merge.plan import MergePlan
    from ckptctl.merge.prune import PruneResult
    from ckptctl.merge.settle import Unsettled

__all__ = ["CompactOptions", "CompactPlan", "CompactResult", "plan_compact", "run_compact"]


class CompactOptions(NamedTuple):
    """What `compact` does.

    Attributes
    ----------
    gate
        What has to have piled up before it merges.
    restore
        Overrides of the restore rules, for the merge.
    prune
        What goes afterwards; its `assume_order` and `relocate` hold for the merge too.
    """

    gate: Gate = Gate()
    restore: RestoreOptions = RestoreOptions()
    prune: PruneOptions = PruneOptions()


class CompactPlan(NamedTuple):
    """What a compaction would do.

    Attributes
    ----------
    directory, options
        Of which directory, and what was asked for.
    holdings
        What the directory holds.
    waits
        Why there is no merge, or None.
    merge
        The merge, if there is one, or what an earlier one that was killed left to do.
    prune
        What goes already now; after a merge it is judged anew.
    unsettled
        What a trainer's Saver made of the state files.
    refused
        Why the merge cannot be yet: it does not fit on the disk, or something lies in its place.
        What goes anyway is pruned first.
    warnings
        What is newer than the newest restore point and cannot be restored, but for idle
        increments: a job writes some after each start, and nobody can help it. What a trainer
        would mix by the state files, and what is damaged below it, and stays.
    """

    directory: str
    options: CompactOptions
    holdings: Holdings
    waits: str | None
    merge: MergePlan | None
    prune: PrunePlan
    unsettled: Unsettled
    chains: Chains
    storage: Storage = LOCAL
    refused: RefusedError | None = None
    warnings: tuple[str, ...] = ()

    @property
    def nothing_to_do(self) -> bool:
        """Whether it would do nothing at all."""
        return (
            self.merge is None
            and not self.prune.removed
            and not self.unsettled
            and not self.relocates
        )

    @property
    def relocates(self) -> bool:
        """Whether paths in state files become relative."""
        from ckptctl.merge.relocate import to_relocate

        return self.options.prune.relocate and bool(to_relocate(self.chains.scan))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        return {
            "directory": self.directory,
            "holds": self.holdings.to_json(),
            "waits": self.waits,
            "warnings": list(self.warnings),
            "state_file": self.unsettled.to_json(),
            "merge": self.merge.to_json() if self.merge is not None else None,
            "prune": self.prune.to_json(),
            # Once the new full is there, it makes more go.
            "rejudged": self.merge is not None and self.merge.nothing_to_do is None,
        }


class CompactResult(NamedTuple):
    """What a compaction did.

    Attributes
    ----------
    directory, waits
        Of which directory, and why there was no merge, or None.
    plan
        What it set out to do; None where an earlier run found nothing to do and nothing has
        changed since.
    merge
        The merge, or None.
    prune_plan, prune
        What was judged to go after the merge, and what became of it; None where nothing was
        done at all.
    settled
        What was put right in the state files, or None.
    holdings
        What the directory holds now.
    seconds
        How long it took.
    """

    directory: str
    waits: str | None
    plan: CompactPlan | None
    holdings: Holdings
    seconds: float
    merge: MergeResult | None = None
    prune_plan: PrunePlan | None = None
    prune: PruneResult | None = None
    settled: Unsettled | None = None

    @property
    def merged(self) -> bool:
        """Whether a new full was written."""
        plan = self.plan.merge if self.plan is not None else None
        return self.merge is not None and plan is not None and plan.nothing_to_do is None

    @property
    def outcome(self) -> str:
        """One of `nothing`, `merged`, `pruned`, `merged and pruned`, `put right`."""
        went = self.prune is not None and any(
            each.outcome == "removed" for each in self.prune.outcomes
        )
        words = [word for word, so in (("merged", self.merged), ("pruned", went)) if so]
        if words:
            return " and ".join(words)
        return "nothing" if self.plan is None or self.plan.nothing_to_do else "put right"

    def to_json(self) -> dict[str, Any]:
        """Return the result as one JSON object."""
        return {
            "outcome": self.outcome,
            "merge": self.merge.to_json() if self.merge is not None else None,
            "prune": self.prune.to_json() if self.prune is not None else None,
            "holds": self.holdings.to_json(),
            "seconds": self.seconds,
        }


def plan_compact(
    directory: str,
    options: CompactOptions | None = None,
    *,
    jobs: int | None = None,
    remember: bool = True,
    progress: Progress = NO_PROGRESS,
    storage: Storage = LOCAL,
) -> CompactPlan:
    """Plan one compaction of a directory.

    Parameters
    ----------
    directory
        The checkpoint directory.
    options
        What to do; default: merge whatever there is, and keep every full.
    jobs
        Tasks at a time of the merge; None for one a core.
    remember
        Note proven pairs of increments in the user's cache directory.
    progress
        Told of the comparison of keys.

    Raises
    ------
    NotFoundError
        No such directory, or nothing in it can be restored.
    UnprovenError, RefusedError, DamageError
        As for `plan_merge` and `plan_prune`.
    NoSpaceError, ExistsError
        The merge does not fit, or something lies in its place; and nothing could be pruned
        before it.
    """
    from ckptctl.chain import check_read, find_chains
    from ckptctl.merge.lead import tell_mixture
    from ckptctl.merge.plan import plan_merge
    from ckptctl.merge.prune import plan_prune
    from ckptctl.merge.settle import find_unsettled
    from ckptctl.restore.select import newest_unproven

    options = options or CompactOptions()
    order = options.restore.assume_order
    chains = find_chains(scan_directory(directory, storage), order)
    found = look_at_holdings(chains)
    if found.latest is None:
        why = chains.passed_over()
        raise _no_restore_point(directory, found.fulls, found.increments, why)
    check_read(chains, found.latest)
    waits = options.gate.why_not(found, time.time())
    merge: MergePlan | None = None
    refused: RefusedError | None = None
    # Where the newest point is a full, an earlier run may have been killed right behind it.
    if waits is None or found.pending == 0:
        restore = options.restore
        if restore.base is not None:
            if found.pending:
                _check_base(chains, found.latest, restore.base)
            elif newest_unproven(chains) is None:
                # A base is chosen for increments, and says nothing where there are none.
                restore = replace(restore, base=None)
        try:
            merge = plan_merge(
                directory,
                options=restore,
                relocate=options.prune.relocate,
                jobs=jobs,
                remember=remember,
                progress=progress,
                storage=storage,
            )
        except NoSpaceError as error:
            refused, waits = error, "there is no room for it: what goes anyway is pruned first"
        except ExistsError as error:
            taken = error.found or os.path.basename(error.file or "")
            refused, waits = error, f"{error.message}: {taken}; what goes anyway is pruned first"
        if merge is not None and merge.nothing_to_do is not None and not merge.unfinished:
            merge = None
    prune = plan_prune(
        directory,
        options.prune,
        remember=remember,
        progress=progress,
        storage=storage,
        before=chains.scan,
    )
    if refused is not None and not prune.removed:
        raise refused
    unsettled = find_unsettled(chains)
    newer = chains.passed_over()
    if merge is not None:  # its own words for it have the idle ones too
        merge = merge._replace(warnings=tuple(w for w in merge.warnings if w not in newer))
    return CompactPlan(
        directory,
        options,
        found,
        waits,
        merge,
        prune,
        unsettled,
        chains,
        storage,
        refused,
        (
            *chains.passed_over(idle=False),
            *(tell_mixture(chains) if merge is None else ()),  # else it tells once it is done
            *_broken(prune, found.latest),
        ),
    )


def _check_base(chains: Chains, step: int, given: int) -> None:
    """Refuse another base than the proven one of the newest restore point, an increment.

    A crontab outlives the increments that it was right for, and the base goes by keep rules.
    """
    increment = chains.increment_at(step)
    base = chains.base_of(increment).base if increment is not None else None
    if increment is None or base is None:
        return
    if given not in (base.step, base.merged.base_step if base.merged is not None else None):
        raise RefusedError(
            f"step {given} is not the base of {increment.name}",
            file=increment.prefix,
            expected=base.name,
            found=f"--base {given}",
            remedy="leave --base out; for one step, merge --upto STEP --base STEP overrides it",
        )


def _broken(prune: PrunePlan, latest: int) -> Iterator[str]:
    """Return what is damaged below the newest restore point, and stays: it holds others too."""
    for item in prune.items:
        below = item.step is not None and item.step <= latest
        if below and item.status in ("damaged", "incomplete") and not item.remove:
            yield f"{item.name}: {item.reason}"


def _no_restore_point(
    directory: str, fulls: int, increments: int, why: tuple[str, ...] = ()
) -> NotFoundError:
    return NotFoundError(
        "no restore point: there is nothing that could be kept",
        file=directory,
        expected="a complete full",
        found="; ".join([f"{fulls} fulls, {increments} increments", *why]),
        remedy="ckptctl ls shows what is there and what is wrong with it",
    )


def run_compact(
    directory: str,
    options: CompactOptions | None = None,
    *,
    agree: Callable[[CompactPlan], None] = lambda plan: None,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
    bwlimit: int | None = None,
    lock_wait_s: float = 0.0,
    writer_wait_s: float = WRITER_WAIT_S,
    storage: Storage = LOCAL,
) -> CompactResult:
    """Compact a directory: merge if it is worth it, and prune by the policy.

    Parameters
    ----------
    directory, options
        As for `plan_compact`.
    agree
        Shown the plan, under the lock and before anything is done; may raise to give up.
    jobs
        Tasks at a time; None for one a core.
    progress
        Told of phases and bytes; a `Deadline` ends it in time.
    bwlimit
        Bytes a second that may be moved, or None.
    lock_wait_s
        Seconds to wait for another ckptctl on the directory.
    writer_wait_s
        Seconds to wait for the end of a trainer's save before a state file is changed or
        anything is removed.

    Raises
    ------
    LockedError
        Another ckptctl works on the directory.
    TimeUpError
        The time that a `Deadline` gave is over.
    UnprovenError, RefusedError, DamageError, NotFoundError
        As for `plan_merge`, `execute_merge`, `plan_prune` and `execute_prune`. What was
        refused was not begun; a merge that was done stays. Where only the merge is refused, for
        want of room or for what lies in its place, what goes anyway is pruned before.
    """
    began = time.monotonic()
    options = options or CompactOptions()
    scan = scan_directory(directory, storage)
    check_no_increments(directory, (full.base_name for full in scan.fulls))
    if not scan.fulls:  # before `.ckptctl` is made in it: it may be no checkpoint directory
        raise _no_restore_point(directory, 0, len(scan.increments))
    check_listed(scan)
    with directory_lock(os.path.realpath(directory), lock_wait_s, progress) as lock:
        told = tuple(give_back_states(directory, storage))
        note = quiet_note(scan_directory(directory, storage), options, storage)
        known = recall_quiet(note, time.time())
        if known is not None:
            seconds = time.monotonic() - began
            return CompactResult(directory, known[0], None, known[1], seconds)
        plan = plan_compact(directory, options, jobs=jobs, progress=progress, storage=storage)
        plan = plan._replace(warnings=(*told, *plan.warnings))
        agree(plan)
        if plan.nothing_to_do:
            if not plan.prune.damage and not plan.warnings:  # told each time
                least = options.prune.min_age_s, options.gate.min_interval_s
                # What changed while it was judged may not have been seen.
                if quiet_note(scan_directory(directory, storage), options, storage) == note:
                    remember_quiet(note, plan.chains.scan, plan.waits, plan.holdings, *least)
            seconds = time.monotonic() - began
            return CompactResult(directory, plan.waits, plan, plan.holdings, seconds)
        try:
            first = _execute(plan, lock, jobs, progress, bwlimit, writer_wait_s, began)
        except OSError as error:
            # Of inodes and quotas no plan knows.
            if plan.merge is None or not (is_no_room(error) and plan.prune.removed):
                raise
            full = NoSpaceError("the disk, or our part of it, is full", file=directory)
            plan = plan._replace(merge=None, refused=full)
            first = _execute(plan, lock, jobs, progress, bwlimit, writer_wait_s, began)
        if plan.refused is None:
            return first
        # On a full disk cron would find it full again tomorrow: what was pruned may be enough.
        try:
            plan = plan_compact(directory, options, jobs=jobs, progress=progress, storage=storage)
            if plan.refused is not None:
                raise plan.refused
        except RefusedError as error:
            gone = first.prune.outcomes if first.prune is not None else ()
            number = sum(each.outcome == "removed" for each in gone)
            error.message += f"; items pruned all the same: {number}"
            raise
        plan = plan._replace(warnings=(*told, *plan.warnings))
        agree(plan)
        last = _execute(plan, lock, jobs, progress, bwlimit, writer_wait_s, began)
        settled = last.settled or first.settled
        return last._replace(prune=_joined(first.prune, last.prune), settled=settled)


def _joined(first: PruneResult | None, last: PruneResult | None) -> PruneResult | None:
    if first is None or last is None:
        return first or last
    from ckptctl.merge.prune import PruneResult

    return PruneResult(
        (*first.outcomes, *last.outcomes),
        first.bytes_freed + last.bytes_freed,
        (*first.verified, *last.verified),
        (*first.damage, *last.damage),
        seconds=first.seconds + last.seconds,
        warnings=(*first.warnings, *last.warnings),
    )


def _execute(
    plan: CompactPlan,
    lock: DirectoryLock,
    jobs: int | None,
    progress: Progress,
    bwlimit: int | None,
    writer_wait_s: float,
    began: float,
) -> CompactResult:
    from ckptctl.chain import find_chains
    from ckptctl.merge.execute import execute_merge
    from ckptctl.merge.prune import execute_prune, plan_prune
    from ckptctl.merge.settle import find_unsettled, settle

    directory, options, storage = plan.directory, plan.options, plan.storage
    merged = early = settled = None
    common: dict[str, Any] = {"jobs": jobs, "progress": progress, "bwlimit": bwlimit, "lock": lock}
    common["writer_wait_s"] = writer_wait_s
    if plan.merge is not None:
        merged = execute_merge(plan.merge, **common)
    order, before = options.restore.assume_order, plan.chains.scan
    chains = find_chains(scan_again(before, storage), order)
    if find_unsettled(chains):
        wait_for_writer(directory, writer_wait_s, progress=progress, storage=storage)
        lock.check()
        try:
            settled = settle(chains.scan, storage, order)
        except OSError as error:
            if not (is_no_room(error) and plan.prune.removed):
                raise
            early = execute_prune(plan.prune, **common)  # makes the room for a state file
            settled = settle(chains.scan, storage, order)
    prune = plan.prune
    if merged is not None or plan.unsettled:
        prune = plan_prune(
            directory, options.prune, progress=progress, storage=storage, before=chains.scan
        )
    pruned = execute_prune(prune, **common)
    now = look_at_holdings(find_chains(scan_again(chains.scan, storage), order))
    seconds = time.monotonic() - began
    removed = _joined(early, pruned)
    return CompactResult(directory, plan.waits, plan, now, seconds, merged, prune, removed, settled)
