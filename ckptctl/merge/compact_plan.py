"""What a compaction would do: `plan_compact`, which looks and changes nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.chain.scan import scan_directory
from ckptctl.errors import ExistsError, NoSpaceError, NotFoundError, RefusedError
from ckptctl.merge.gate import Gate, Holdings, look_at_holdings
from ckptctl.merge.prune_plan import PruneOptions, PrunePlan
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.options import RestoreOptions
from ckptctl.storage import LOCAL, Storage

# What merges and prunes loads NumPy, and cron asks mostly in vain: it is imported where used.
if TYPE_CHECKING:
    from ckptctl.chain import Chains
    from ckptctl.merge.plan import MergePlan
    from ckptctl.merge.settle import Unsettled

__all__ = ["CompactOptions", "CompactPlan", "no_restore_point", "plan_compact"]


class CompactOptions(NamedTuple):
    """What `compact` does.

    Attributes
    ----------
    gate
        What has to have piled up before it merges.
    restore
        Overrides of the restore rules, for the merge.
    prune
        What goes afterwards, by an `assume_order` of its own; its `relocate` holds for the merge
        too.
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
        raise no_restore_point(directory, found.fulls, found.increments, why)
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
            error.remedy = "free some by hand, or give ckptctl merge -o on another disk"
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


def no_restore_point(
    directory: str, fulls: int, increments: int, why: tuple[str, ...] = ()
) -> NotFoundError:
    """Return the error of a directory in which nothing can be restored."""
    return NotFoundError(
        "no restore point: there is nothing that could be kept",
        file=directory,
        expected="a complete full",
        found="; ".join([f"{fulls} fulls, {increments} increments", *why]),
        remedy="ckptctl ls shows what is there and what is wrong with it",
    )
