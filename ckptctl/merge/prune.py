"""Removing what a directory no longer needs: `plan_prune`, and `execute_prune`.

The plan looks at names, state files, indexes, and the keys of increments that no full covers;
what it says is what a user agrees to. Under the lock everything is looked at and judged
again: only what was agreed to, is still what it was, and would still go, goes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from ckptctl.chain import (
    WRITER_WAIT_S,
    Checkpoint,
    Scan,
    VerifiedCheckpoints,
    find_chains,
    find_changed,
    scan_again,
    scan_directory,
    wait_for_writer,
)
from ckptctl.errors import ChangedError, DamageError, NotFoundError, RefusedError, UnreadableError
from ckptctl.merge.owned import fingerprint, owned
from ckptctl.merge.prune_delete import Remover, is_gone
from ckptctl.merge.prune_look import Pairs, newest_sound, own_leftovers, save_times
from ckptctl.merge.prune_plan import PruneFile, PruneItem, PruneOptions, PrunePlan
from ckptctl.merge.prune_rules import Look, judge
from ckptctl.merge.relocate import (
    check_copied,
    check_relocatable,
    relocate_state_files,
    to_relocate,
)
from ckptctl.merge.removed_log import check_own_room
from ckptctl.merge.sweep import give_back_states
from ckptctl.merge.verification import verify_all
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage import LOCAL, Storage
from ckptctl.storage.lock import DirectoryLock, lock_directories

__all__ = ["PruneOutcome", "PruneResult", "check_unchanged", "execute_prune", "plan_prune"]


class PruneOutcome(NamedTuple):
    """What became of one item that was to go.

    `outcome` is `removed`, `trashed`, `vanished` (someone else removed it), `changed` (it is
    no longer what it was), `kept` (something needs it by now), or `unverified` (the full that
    would stand in for it is damaged, or gone).
    """

    path: str
    name: str
    bytes: int
    outcome: str
    reason: str = ""

    @property
    def skipped(self) -> bool:
        """Whether it is still there."""
        return self.outcome in ("changed", "kept", "unverified")


class PruneResult(NamedTuple):
    """What a prune did.

    Attributes
    ----------
    outcomes
        One for each item that was to go.
    bytes_freed
        Bytes of what went; none are free yet of what lies in the trash.
    verified
        Prefixes of the checkpoints that were read.
    damage
        What was found to be damaged while they were.
    trash
        Directory that everything was moved to, or None.
    seconds
        How long it took.
    warnings
        What a user should know.
    """

    outcomes: tuple[PruneOutcome, ...] = ()
    bytes_freed: int = 0
    verified: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    trash: str | None = None
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def skipped(self) -> tuple[PruneOutcome, ...]:
        """What was to go and is still there."""
        return tuple(outcome for outcome in self.outcomes if outcome.skipped)

    def joined(self, later: PruneResult) -> PruneResult:
        """Return what this one and a later one did."""
        return PruneResult(
            (*self.outcomes, *later.outcomes),
            self.bytes_freed + later.bytes_freed,
            (*self.verified, *later.verified),
            (*self.damage, *later.damage),
            later.trash or self.trash,
            self.seconds + later.seconds,
            (*self.warnings, *later.warnings),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {
            **self._asdict(),
            "outcomes": [outcome._asdict() for outcome in self.outcomes],
            "verified": list(self.verified),
            "damage": list(self.damage),
            "warnings": list(self.warnings),
        }


def plan_prune(
    directory: str,
    options: PruneOptions | None = None,
    *,
    remember: bool = True,
    progress: Progress = NO_PROGRESS,
    storage: Storage = LOCAL,
    before: Scan | None = None,
) -> PrunePlan:
    """Plan what goes from a checkpoint directory, and say why everything else stays.

    Reads indexes, and the keys of increments that no full covers (`restore.md`, check 1).

    Parameters
    ----------
    directory
        The checkpoint directory.
    options
        What goes, beside what goes by default.
    remember
        Note proven pairs of increments in the user's cache directory.
    progress
        Told of the comparison of keys.
    before
        An earlier scan of the directory: of what was not touched since no index is read again.

    Raises
    ------
    NotFoundError
        No such directory, or nothing of a trainer in it.
    RefusedError
        The policy keeps no restore point, or the directory is a copy whose state files lead
        elsewhere.
    StateFileError
        A state file does not parse: what it lists cannot be unlisted.
    """
    options = options or PruneOptions()
    plan = _plan(
        directory, options, VerifiedCheckpoints(), None, remember, progress, storage, before
    )
    if not plan.items:  # a disk that is not mounted must not pass for one that is tidy
        raise NotFoundError(
            "no checkpoint, nothing to prune",
            file=directory,
            remedy="look whether it is the directory, and mounted",
        )
    return plan


def _plan(
    directory: str,
    options: PruneOptions,
    verified: Container[Checkpoint],
    agreed: Mapping[str, tuple[PruneFile, ...]] | None,
    remember: bool,
    progress: Progress,
    storage: Storage,
    before: Scan | None,
) -> PrunePlan:
    scan = _look(directory, before, storage)
    for state in (scan.full_state, scan.increment_state):
        if state.error is not None:
            raise state.error
    for problem in scan.problems:
        if problem.code == "increment-directory":
            raise RefusedError(
                "the increments cannot be looked at: what they need is not known",
                file=scan.increment_directory,
                found=problem.message,
                remedy="mount it, or see to its permissions",
            )
    pairs = Pairs(scan, keep=remember)
    first = find_chains(scan, options.assume_order, proven_nested=pairs)
    check_copied(first, True, options.relocate)
    if options.relocate:
        check_relocatable(scan, storage)
    chains, damage = pairs.prove(first, storage, progress)
    found = owned(scan, storage)
    untouchable = dict(found.untouchable)
    if agreed is not None:
        for path, files in found.files.items():
            if path not in agreed:
                untouchable[path] = "it was not part of the plan"
            elif agreed[path] != files:
                untouchable[path] = "it changed since the plan was made"
    look = Look(
        options,
        verified,
        untouchable,
        own_leftovers(scan, found.files, storage),
        newest_sound(chains, storage),
        save_times(chains),
    )
    verdicts = judge(chains, look)
    checkpoints = (*scan.fulls, *scan.increments, *scan.others)
    known = {item.prefix: item for item in checkpoints}
    items = [
        PruneItem(
            item.kind,
            item.name,
            item.prefix,
            item.step if item.step >= 0 else None,
            item.bytes,
            *verdicts[item.prefix].fields(),
            merged=item.kind == "full" and item.merged is not None,
            written_ns=item.mtime_ns if item.is_dated else None,
            files=found.files[item.prefix],
            directories=found.directories[item.prefix],
        )
        for item in checkpoints
    ]
    items += [
        PruneItem(
            "leftover",
            os.path.basename(item.path),
            item.path,
            None,
            item.bytes,
            *verdicts[item.path].fields(),
            files=found.files[item.path],
            directories=found.directories[item.path],
        )
        for item in scan.leftovers
    ]
    unread = [str(item.damage) for item in checkpoints if isinstance(item.damage, UnreadableError)]
    unders = dict.fromkeys(under for verdict in verdicts.values() for under in verdict.under)
    return PrunePlan(
        directory=directory,
        options=options,
        items=tuple(items),
        verify=tuple(under for under in unders if known[under] not in verified),
        fingerprint=fingerprint(scan, found.files, storage),
        warnings=chains.notes,
        damage=(*unread, *damage),
        relocated=to_relocate(scan) if options.relocate else (),
        storage=storage,
        scan=scan,
    )


def execute_prune(
    plan: PrunePlan,
    *,
    unchanged: bool = False,
    jobs: int | None = None,
    progress: Progress = NO_PROGRESS,
    bwlimit: int | None = None,
    lock_wait_s: float = 0.0,
    lock: DirectoryLock | None = None,
    writer_wait_s: float = WRITER_WAIT_S,
    failed: Callable[[PruneResult], None] = lambda result: None,
) -> PruneResult:
    """Remove what a plan says, as far as it would still go.

    Parameters
    ----------
    plan
        From `plan_prune`.
    unchanged
        Refuse if anything changed since the plan was made (`--plan`), instead of leaving out
        what did.
    jobs
        Tasks at a time while what stays is verified; None for one a core.
    progress
        Told of the verification, and of waiting for the lock.
    bwlimit
        Bytes a second that the verification may read, or None.
    lock_wait_s
        Seconds to wait for another ckptctl on the directory.
    lock
        The lock that the caller holds already, if any.
    writer_wait_s
        Seconds to wait for the end of a trainer's save before anything is changed.
    failed
        Told of what went, where something did, before the error is raised that ended it.

    Raises
    ------
    LockedError
        Another ckptctl works on the directory.
    ChangedError
        The directory changed since the plan was made, or a state file keeps changing.
    RefusedError
        A trainer kept writing; nothing was removed.
    """
    began = time.monotonic()
    storage, options, directory = plan.storage, plan.options, plan.directory
    displaced = plan.scan is not None and any(item.displaced for item in plan.scan.leftovers)
    if not (plan.removed or options.relocate or unchanged or displaced):
        return PruneResult()
    check_own_room(directory, storage)
    with lock_directories([directory], lock_wait_s, lock, progress) as locks:
        locks.check()
        if unchanged:
            check_unchanged(plan)
        told = give_back_states(directory, storage)
        verified = _Verified()
        # What they are is taken before they are read: one that changes meanwhile is not vouched
        # for by what was read of it.
        scan = _look(directory, plan.scan, storage)
        read, damage = _verify(plan, scan, verified, jobs, bwlimit, progress)
        wait_for_writer(directory, writer_wait_s, progress=progress, storage=storage)
        locks.check()
        if options.relocate:
            relocate_state_files(directory, storage)
        agreed = {item.path: item.files for item in plan.removed}
        fresh = _plan(directory, options, verified, agreed, True, progress, storage, scan)
        skipped, ready = _sort_out(plan, fresh)
        remover = Remover(fresh, ready, locks.check)

        def result() -> PruneResult:
            ended = [
                PruneOutcome(item.path, item.name, item.bytes, outcome, reason or item.reason)
                for item, outcome, reason in remover.ended
            ]
            freed = sum(item.bytes for item in ended if item.outcome == "removed")
            warnings = (*told, *remover.warnings)
            seconds = time.monotonic() - began
            return PruneResult(
                (*skipped, *ended), freed, read, damage, remover.trash, seconds, warnings
            )

        try:
            remover.run()
        except BaseException:  # a signal, too: what went is gone
            if remover.ended:
                failed(result())
            raise
        return result()


def _look(directory: str, before: Scan | None, storage: Storage) -> Scan:
    return scan_directory(directory, storage) if before is None else scan_again(before, storage)


class _Verified:
    """What is verified, also where the user's cache cannot be written."""

    def __init__(self) -> None:
        self._cache = VerifiedCheckpoints()
        self._here: set[tuple[object, ...]] = set()

    def __contains__(self, item: object) -> bool:
        return isinstance(item, Checkpoint) and (_facts(item) in self._here or item in self._cache)

    def add(self, item: Checkpoint) -> None:
        self._here.add(_facts(item))
        self._cache.add(item)


def _facts(item: Checkpoint) -> tuple[object, ...]:
    return item.prefix, *(info.identity for info in (item.index, *item.shards))


def _verify(
    plan: PrunePlan,
    scan: Scan,
    verified: _Verified,
    jobs: int | None,
    bwlimit: int | None,
    progress: Progress,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read what something goes under; return which, and what was damaged."""
    chains = find_chains(scan, plan.options.assume_order)
    here = {each.prefix: each for each in (*scan.fulls, *scan.increments)}
    read, damage = [], []
    try:
        for prefix in plan.verify:
            found = here.get(prefix)
            if found is None or found in verified:
                continue
            try:
                verify_all(
                    found, chains, plan.storage, jobs=jobs, bwlimit=bwlimit, progress=progress
                )
            except (DamageError, RefusedError) as error:
                changed = find_changed([found], plan.storage, since="the prune was planned")
                if changed is None and isinstance(error, RefusedError):
                    raise
                if changed is None:
                    damage.append(str(error))
            else:
                verified.add(found)
                read.append(prefix)
    finally:
        progress.finish()
    return tuple(read), tuple(damage)


def check_unchanged(plan: PrunePlan) -> None:
    """Look whether the directory of a saved plan is what it was.

    Raises
    ------
    NotFoundError
        No such directory.
    ChangedError
        It changed since the plan was made.
    """
    scan = scan_directory(plan.directory, plan.storage)
    if fingerprint(scan, owned(scan, plan.storage).files, plan.storage) != plan.fingerprint:
        raise ChangedError(
            "the directory changed since the plan was made",
            file=plan.directory,
            remedy="make a new plan: ckptctl prune --save-plan FILE",
        )


def _sort_out(plan: PrunePlan, fresh: PrunePlan) -> tuple[list[PruneOutcome], list[PruneItem]]:
    """Return what is skipped, and what still goes."""
    now = {item.path: item for item in fresh.items}
    skipped, ready = [], []
    for item in plan.removed:
        found = now.get(item.path)
        if is_gone(item.files, plan.storage):
            what = ("vanished", "")  # a trainer's own clean-up, whatever it has come to by now
        elif found is None:
            what = ("changed", "only some of its files are left")
        elif found.files != item.files:
            what = ("changed", "it changed since the plan was made")
        elif not found.remove:
            what = ("kept", found.reason)
        elif found.under is not None and found.under in fresh.verify:
            name = os.path.basename(found.under)
            what = ("unverified", f"nothing vouches for {name}, which would stand in for it")
        else:
            ready.append(found)
            continue
        skipped.append(PruneOutcome(item.path, item.name, item.bytes, *what))
    return skipped, ready
