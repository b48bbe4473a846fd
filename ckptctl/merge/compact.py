"""Merging and pruning in one go, for cron: `run_compact`.

Under one lock: look whether a merge is worth it, merge to the newest restore point beside its
base (every byte that is read is checked, the result is read back before it exists), put the
state files right, and prune by the policy. Each step is one that can be killed at any point,
and the next run goes on from what it finds: nothing is remembered between runs. What was done
before an error ended a run is told before the error is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.chain.scan import check_no_increments, scan_again, scan_directory
from ckptctl.chain.unread import check_listed
from ckptctl.chain.writer import WRITER_WAIT_S, wait_for_writer
from ckptctl.errors import CkptctlError, NoSpaceError, RefusedError
from ckptctl.merge.compact_plan import CompactOptions, CompactPlan, no_restore_point, plan_compact
from ckptctl.merge.gate import Holdings, look_at_holdings
from ckptctl.merge.quiet import quiet_note, recall_quiet, remember_quiet
from ckptctl.merge.sweep import give_back_states
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage import LOCAL, Storage, is_no_room
from ckptctl.storage.lock import directory_lock

# What merges and prunes loads NumPy, and cron asks mostly in vain: it is imported where used.
if TYPE_CHECKING:
    from ckptctl.merge.execute import MergeResult
    from ckptctl.merge.prune import PruneResult
    from ckptctl.merge.prune_plan import PrunePlan
    from ckptctl.merge.settle import Unsettled

__all__ = ["CompactResult", "run_compact"]


class CompactResult(NamedTuple):
    """What a compaction did, also one that an error ended (`failed` of `run_compact`).

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
        return self.merge is not None and self.merge.bytes > 0

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


def run_compact(
    directory: str,
    options: CompactOptions | None = None,
    *,
    agree: Callable[[CompactPlan], None] = lambda plan: None,
    failed: Callable[[CompactResult], None] = lambda result: None,
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
    failed
        Told of what was done, where something was, before the error is raised that ended it.
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
        raise no_restore_point(directory, 0, len(scan.increments))
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
        common = {"jobs": jobs, "progress": progress, "bwlimit": bwlimit, "lock": lock}
        work = _Work(plan, began, {**common, "writer_wait_s": writer_wait_s})
        try:
            work.begin()
            if work.plan.refused is not None:
                # On a full disk cron would find it full again tomorrow: what was pruned may do.
                plan = work.plan_again()
                plan = plan._replace(warnings=(*told, *plan.warnings))
                agree(plan)
                work.plan = plan
                work.execute()
            return work.result(work.look())
        except BaseException:  # a signal, too: what was done is done
            if work.has_begun:
                failed(work.result(work.look_anyway()))
            raise


class _Work:
    """A compaction that somebody agreed to, and what was done of it so far.

    `common` is what a merge and a prune are both told.
    """

    def __init__(self, plan: CompactPlan, began: float, common: dict[str, Any]) -> None:
        self.plan = plan
        self.merged: MergeResult | None = None
        self.settled: Unsettled | None = None
        self.judged: PrunePlan | None = None
        self.pruned: PruneResult | None = None
        self._began, self._common = began, common

    @property
    def has_begun(self) -> bool:
        """Whether anything became of it."""
        went = self.pruned is not None and bool(self.pruned.outcomes)
        return self.merged is not None or bool(self.settled) or went

    def begin(self) -> None:
        """Carry the plan out; where the disk is full, what can be done all the same."""
        plan = self.plan
        try:
            self.execute()
        except OSError as error:
            # Of inodes and quotas no plan knows.
            if plan.merge is None or not (is_no_room(error) and plan.prune.removed):
                raise
            full = NoSpaceError("the disk, or our part of it, is full", file=plan.directory)
            self.plan = plan._replace(merge=None, refused=full)
            self.execute()

    def execute(self) -> None:
        """Carry the plan out."""
        from ckptctl.chain import find_chains
        from ckptctl.merge.execute import execute_merge
        from ckptctl.merge.prune import plan_prune
        from ckptctl.merge.settle import find_unsettled, settle

        plan, progress = self.plan, self._common["progress"]
        directory, options, storage = plan.directory, plan.options, plan.storage
        if plan.merge is not None:
            self.merged = execute_merge(plan.merge, **self._common)
        order = options.restore.assume_order
        chains = find_chains(scan_again(plan.chains.scan, storage), order)
        if find_unsettled(chains):
            wait_for_writer(
                directory, self._common["writer_wait_s"], progress=progress, storage=storage
            )
            self._common["lock"].check()
            try:
                self.settled = settle(chains.scan, storage, order)
            except OSError as error:
                if not (is_no_room(error) and plan.prune.removed):
                    raise
                self._prune(plan.prune)  # makes the room for a state file
                self.settled = settle(chains.scan, storage, order)
        self.judged = plan.prune
        if self.merged is not None or plan.unsettled:
            self.judged = plan_prune(
                directory, options.prune, progress=progress, storage=storage, before=chains.scan
            )
        self._prune(self.judged)

    def _prune(self, plan: PrunePlan) -> None:
        from ckptctl.merge.prune import execute_prune

        self._add(execute_prune(plan, failed=self._add, **self._common))

    def _add(self, found: PruneResult) -> None:
        self.pruned = found if self.pruned is None else self.pruned.joined(found)

    def plan_again(self) -> CompactPlan:
        """Return the plan of the merge, for which there may be room by now."""
        plan = self.plan
        try:
            again = plan_compact(
                plan.directory,
                plan.options,
                jobs=self._common["jobs"],
                progress=self._common["progress"],
                storage=plan.storage,
            )
            if again.refused is not None:
                raise again.refused
        except RefusedError as error:
            gone = self.pruned.outcomes if self.pruned is not None else ()
            number = sum(each.outcome == "removed" for each in gone)
            error.message += f"; items pruned all the same: {number}"
            raise
        return again

    def look(self) -> Holdings:
        """Return what the directory holds now."""
        from ckptctl.chain import find_chains

        scan = scan_again(self.plan.chains.scan, self.plan.storage)
        return look_at_holdings(find_chains(scan, self.plan.options.restore.assume_order))

    def look_anyway(self) -> Holdings:
        """Return the same, or what it held before where it cannot be looked at."""
        try:
            return self.look()
        except (CkptctlError, OSError):
            return self.plan.holdings

    def result(self, now: Holdings) -> CompactResult:
        """Return what was done."""
        plan, seconds = self.plan, time.monotonic() - self._began
        done = self.merged, self.judged, self.pruned, self.settled
        return CompactResult(plan.directory, plan.waits, plan, now, seconds, *done)
