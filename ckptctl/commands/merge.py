"""`ckptctl merge`: a full and its increments, written as a new full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ckptctl.commands import options
from ckptctl.commands.merge_views import MergePlanView, MergeResultView
from ckptctl.commands.params import SIZE, STEP
from ckptctl.output import Output

if TYPE_CHECKING:
    from ckptctl.restore import RestoreOptions

__all__ = ["command"]


@click.command("merge", epilog=options.epilog(4, 10, 11, 12))
@options.directory
@click.option(
    "--upto",
    metavar="STEP",
    type=STEP,
    help="Step of the result; default: the newest restore point.",
)
@click.option(
    "-o",
    "--output",
    metavar="PREFIX",
    help="Prefix of the result (no .index), in a directory that exists; default: "
    "<base name>-<step> beside the base.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a checkpoint at PREFIX: once the new one is verified, the old one moves to "
    ".ckptctl-trash/.",
)
@options.relocate
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Read the result back and check it before it exists (the default), or do not.",
)
@click.option(
    "--update-state/--no-update-state",
    default=None,
    help="Put the result into the state file `checkpoint`; default: only without -o. Where there "
    "is none --update-state makes it, unless it would hide other fulls.",
)
@options.state
@options.jobs
@click.option(
    "--memory",
    metavar="SIZE",
    type=SIZE,
    help="Memory to stay below, by fewer tasks at a time; refused where that cannot be done.",
)
@options.bwlimit
@options.waits
@options.dry_run
@click.option(
    "--yes",
    is_flag=True,
    help="Answer every question with yes. Merge asks none: what it replaces can be had back.",
)
@options.output
def command(
    directory: str,
    out: Output,
    restore: RestoreOptions,
    upto: int | None,
    output: str | None,
    overwrite: bool,
    relocate: bool,
    verify: bool,
    update_state: bool | None,
    jobs: int | None,
    memory: int | None,
    bwlimit: int | None,
    waits: Mapping[str, Any],
    dry_run: bool,
    yes: bool,
) -> None:
    """Write a full and its increments as a new full.

    The result holds what a DeepRec PS would hold after restoring the full and the
    increments, and TensorFlow loads it like any checkpoint. Increments are cumulative: the
    last one is applied, once its keys are proven to contain those of the others. What is
    not proven is refused, with the option that overrides it. Data is written beside its
    destination and renamed into place, the index last: killed at any point, the old
    checkpoints restore as before.

    In two places the result deviates from DeepRec on purpose. A row of an increment
    replaces the value of a key that is present (DeepRec up to 2302 skips it, DeepRec #999).
    A filtered key that an increment admits takes the increment's value (DeepRec from 2402
    drops it).

    \b
    Example:
      ckptctl merge /models/ctr --dry-run
      ckptctl merge /models/ctr --upto 1200 -o /backup/model.ckpt-1200
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.merge import execute_merge, plan_merge

    planning = out.progress()
    try:
        plan = plan_merge(
            directory,
            upto,
            output,
            restore,
            overwrite=overwrite,
            relocate=relocate,
            verify=verify,
            update_state=update_state,
            memory=memory,
            jobs=jobs,
            # A dry run writes nothing, not even into the user's cache.
            remember=not dry_run,
            progress=planning,
            storage=options.storage_of(bwlimit),
        )
    finally:
        planning.finish()
    out.show(MergePlanView(plan, dry_run))
    out.warn(*plan.warnings)
    if dry_run or (plan.nothing_to_do is not None and not plan.unfinished):
        return
    progress = out.progress()
    try:
        result = execute_merge(plan, jobs=jobs, progress=progress, bwlimit=bwlimit, **waits)
    finally:
        progress.finish()
    out.warn(*result.warnings[len(plan.warnings) :])
    if plan.nothing_to_do is None:
        out.show(MergeResultView(plan, result))
