"""`ckptctl prune`: removes what a directory no longer needs, each item with its reason."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource

from ckptctl.commands import options
from ckptctl.commands.asking import ask
from ckptctl.commands.params import FILE
from ckptctl.commands.prune_views import PrunePlanView, PruneResultView, raise_for
from ckptctl.commands.replacing import PLAN, check_replaceable
from ckptctl.errors import UsageError
from ckptctl.output import Output
from ckptctl.output import format as fmt

__all__ = ["command"]


@click.command("prune", epilog=options.epilog(3, 4, 10, 11, 12))
@options.directory
@options.policy
@click.option("--orphans", is_flag=True, help="Also increments without a full below them.")
@click.option("--abandoned", is_flag=True, help="Also what a run left behind that was rolled back.")
@click.option(
    "--leftovers",
    is_flag=True,
    help="Also incomplete checkpoints, data without an index, and any other temporaries.",
)
@options.min_age
@click.option(
    "--trash", is_flag=True, help="Move everything to .ckptctl-trash/ instead of removing it."
)
@options.relocate
@options.assume_order
@click.option(
    "--save-plan",
    metavar="FILE",
    type=FILE,
    help="Write the plan to FILE and remove nothing; for --plan.",
)
@click.option(
    "--plan",
    metavar="FILE",
    type=FILE,
    help="Do what a saved plan says; refused if the directory changed since.",
)
@options.bwlimit
@options.waits
@options.dry_run
@click.option(
    "--yes",
    is_flag=True,
    help="Answer the question with yes; off a terminal, what cannot be had back needs it.",
)
@options.output
def command(
    directory: str,
    out: Output,
    policy: Mapping[str, Any],
    bwlimit: int | None,
    waits: Mapping[str, Any],
    dry_run: bool,
    yes: bool,
    save_plan: str | None,
    plan: str | None,
    min_age: float,
    **asked: Any,
) -> None:
    """Remove increments and temporaries that are no longer needed.

    By default: increments that a newer full covers, once that full was read as verify --data
    reads it, and no damage found; increments whose keys a later one is proven to contain; and
    temporaries that ckptctl left, or that are older than the newest full of the trainer. Old
    fulls go by keep rules alone: a full that no rule keeps goes, with its increments. Rules
    are joined by or, count fulls, and count time back from the newest; --keep-step and
    --keep-within name increments too.

    The newest restore point, the newest one whose checks have all passed, and all that they
    need stay, whatever the rules say. State files are rewritten first.

    \b
    Example:
      ckptctl prune /models/ctr --dry-run
      ckptctl prune /models/ctr --keep-last 3 --keep-daily 7 --yes
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.merge import PruneOptions, PruneResult, execute_prune, plan_prune
    from ckptctl.merge.policy import policy_of
    from ckptctl.merge.prune import check_unchanged
    from ckptctl.merge.prune_plan import load_plan, save_plan_to

    if save_plan is not None:
        check_replaceable("--save-plan", save_plan, PLAN)
    storage = options.storage_of(bwlimit)
    if plan is not None:
        _refuse_options()
        todo = load_plan(plan, directory, storage)
        check_unchanged(todo)  # nothing is shown that is then refused
    else:
        planning = out.progress()
        try:
            chosen = PruneOptions(policy_of(policy), min_age_s=min_age, **asked)
            # A saved plan may be carried out from elsewhere.
            home = directory if save_plan is None else os.path.abspath(directory)
            # A dry run writes nothing, not even into the user's cache.
            todo = plan_prune(
                home, chosen, remember=not dry_run, progress=planning, storage=storage
            )
        finally:
            planning.finish()
    stop = dry_run or save_plan is not None
    asks = bool(todo.removed) and not todo.options.trash and not yes
    out.show(PrunePlanView(todo, stop, agreed=not asks))
    out.warn(*todo.warnings, *todo.damage)
    if save_plan is not None:
        save_plan_to(todo, save_plan)
    if stop:
        out.close()
        raise_for(todo, None)
        return
    if asks:
        what = f"{fmt.some(len(todo.removed), 'item')}, {fmt.bytes_(todo.bytes_to_free)}"
        ask(
            out,
            f"Remove {what} for good?",
            would=f"would remove {what} for good",
            ways="--yes says that you mean it, --trash moves it, --dry-run only shows it",
            directory=todo.directory,
        )
    progress = out.progress()

    def tell(result: PruneResult) -> None:
        progress.finish()
        out.warn(*result.warnings)
        out.show(PruneResultView(todo, result))
        out.close()  # the answer stands, also where an error ended it or some of it failed

    try:
        result = execute_prune(
            todo,
            unchanged=plan is not None,
            failed=tell,
            progress=progress,
            bwlimit=bwlimit,
            **waits,
        )
    finally:
        progress.finish()
    tell(result)
    raise_for(todo, result)


def _refuse_options() -> None:
    """Refuse what would make another plan of a saved one; the environment only gives defaults."""
    context = click.get_current_context()
    kept = {"dir", "directory", "plan", "bwlimit", "lock_wait", "writer_wait", "dry_run"}
    kept |= {"yes", "json", "quiet"}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        if param.name not in kept and source is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{param.opts[0]} does not go with --plan: the saved plan has its options",
                remedy="leave it out, or make another plan",
            )
