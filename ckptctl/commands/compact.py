"""`ckptctl compact`: merges and prunes in one go, for cron."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from ckptctl.commands import options
from ckptctl.commands.asking import ask
from ckptctl.commands.compact_views import (
    CompactPlanView,
    CompactResultView,
    Done,
    FailureView,
    ReportView,
    raise_first,
    tell_metrics,
)
from ckptctl.commands.params import AMOUNT, DURATION, SIZE
from ckptctl.commands.settings import Settings, configured
from ckptctl.errors import CkptctlError
from ckptctl.output import Output
from ckptctl.progress import Deadline, Progress

if TYPE_CHECKING:
    from ckptctl.merge import CompactOptions, CompactPlan

__all__ = ["command"]


@click.command("compact", epilog=options.epilog(3, 4, 10, 11, 12))
@configured
@options.directories
@options.state_options
@options.policy_options
@click.option(
    "--min-increments",
    metavar="N",
    type=click.IntRange(min=1),
    default=1,
    help="Merge only once so many increments were saved above the newest full, those included "
    "that were pruned since; default: 1.",
)
@click.option(
    "--min-bytes",
    metavar="SIZE",
    type=SIZE,
    help="Merge only once those that are there have so many bytes.",
)
@click.option(
    "--min-ratio",
    metavar="R",
    type=AMOUNT,
    help="Merge only once their bytes are R of those of the newest full, such as 0.2.",
)
@click.option(
    "--min-interval", metavar="D", type=DURATION, help="Merge only D after the last merge."
)
@options.min_age
@options.relocate
@click.option(
    "--metrics",
    metavar="F",
    help="Write what was done and what is there for Prometheus, into a file F.prom that "
    "node_exporter reads; it is replaced as a whole.",
)
@options.lock_wait
@options.writer_wait
@click.option(
    "--max-duration",
    metavar="D",
    type=DURATION,
    help="Stop after D; what was not finished is removed, and the next run begins it again.",
)
@click.option(
    "--nice",
    metavar="N",
    type=click.IntRange(0, 19),
    help="Run at a lower priority, from 0 to 19, beside a parameter server.",
)
@options.jobs
@options.bwlimit
@options.dry_run
@click.option(
    "--yes",
    is_flag=True,
    help="Do it without a question; off a terminal, what cannot be had back needs it.",
)
@options.output
def command(
    directories: tuple[str, ...],
    out: Output,
    settings: Settings,
    metrics: str | None,
    nice: int | None,
    max_duration: float | None,
    dry_run: bool,
    **others: object,
) -> None:
    """Merge and prune in one go, for cron.

    Under one lock: looks whether a merge is worth it (every --min that is given has to be
    reached), merges to the newest restore point, checks what it reads and reads the result
    back, updates the state file, and prunes as `ckptctl prune` does: by default only what a
    newer full covers and is older than --min-age; old fulls go by keep rules alone, so
    without one every merge leaves a full more. Nothing to do is one line and exit code 0.

    Killed at any point nothing is lost, and the next run finishes or cleans up. Several
    directories are done one after the other; one that fails does not stop the others. Each
    is treated as its DIR/ckptctl.toml says, or all as --config does: see `ckptctl config`.

    \b
    Example:
      ckptctl compact /models/ctr --keep-last 3 --dry-run
      ckptctl compact /models/ctr /models/cvr --min-ratio 0.2 --keep-last 3 --yes
    """  # noqa: D301 (click leaves lines after this mark as they are)
    if metrics is not None:
        from ckptctl.merge.metrics import check_metrics

        check_metrics(metrics)
    if nice:
        os.nice(nice)
    began = time.monotonic()

    def watched() -> Progress:
        progress = out.progress()
        return progress if max_duration is None else Deadline(max_duration, progress, began)

    done = [Done(directory) for directory in directories]
    unwritten = None
    try:
        for each in done:
            _one(each, out, watched, dry_run, settings)
            if each.error is not None and len(done) > 1:
                out.show(FailureView(each))
    finally:
        if metrics is not None and not dry_run:
            unwritten = tell_metrics(metrics, done, out)
    if len(done) > 1 or done[0].plan is not None or done[0].result is not None:
        out.show(ReportView(dry_run, done))
        out.close()  # the answer stands, also where the exit code says that some of it failed
    raise_first(done)
    if unwritten is not None:
        raise unwritten


def _one(
    each: Done,
    out: Output,
    watched: Callable[[], Progress],
    dry_run: bool,
    settings: Settings,
) -> None:
    """Compact one directory; what is wrong with it must not stop the others."""
    began = time.monotonic()
    try:
        given, each.settings = settings.of(each.directory)
        _compact(each, out, watched, dry_run, given)
        each.raise_for_code()
    except (CkptctlError, OSError) as error:
        each.error = error
    except BaseException as error:
        each.error = error
        raise
    finally:
        each.seconds, each.ended_s = time.monotonic() - began, time.time()


def _compact(
    each: Done,
    out: Output,
    watched: Callable[[], Progress],
    dry_run: bool,
    given: Mapping[str, Any],
) -> None:
    from ckptctl.merge import plan_compact, run_compact
    from ckptctl.storage.gentle import GentleStorage

    asked = _options(given)
    progress = watched()
    storage = GentleStorage(given["bwlimit"])  # a parameter server may run beside it
    try:
        if dry_run:
            # A dry run writes nothing, not even into the user's cache.
            more = {"jobs": given["jobs"], "progress": progress, "storage": storage}
            each.plan = plan_compact(each.directory, asked, remember=False, **more)
        else:
            result = run_compact(
                each.directory,
                asked,
                agree=lambda plan: _agree(plan, each, out, given["yes"]),
                failed=each.take,
                jobs=given["jobs"],
                progress=progress,
                bwlimit=given["bwlimit"],
                storage=storage,
                **options.waits_of(given),
            )
            each.take(result)
    finally:
        progress.finish()
        _tell(each, out)  # also where an error ends it, for what was done by then


def _tell(each: Done, out: Output) -> None:
    each.tell(each.warnings, out)
    if each.result is not None:
        out.show(CompactResultView(each.result))
    elif each.plan is not None:
        out.show(CompactPlanView(each.plan, each.settings))


def _options(given: Mapping[str, Any]) -> CompactOptions:
    from ckptctl.merge import CompactOptions, Gate, PruneOptions
    from ckptctl.merge.policy import policy_of

    restore = options.restore_of(given)
    gate = (given[name] or 0 for name in ("min_bytes", "min_ratio", "min_interval"))
    return CompactOptions(
        Gate(given["min_increments"], *gate),
        restore,
        PruneOptions(
            policy_of(options.rules_of(given)),
            min_age_s=given["min_age"],
            assume_order=restore.assume_order,
            relocate=given["relocate"],
        ),
    )


def _agree(plan: CompactPlan, each: Done, out: Output, yes: bool) -> None:
    """Ask whoever sits at a terminal; refuse where nobody does and something would go."""
    if plan.merge is not None:  # before anything goes under its full
        each.tell(plan.merge.warnings, out)
    # What is put right in a state file makes more go than the plan can know yet.
    if yes or not (plan.merge is not None or plan.prune.removed or plan.unsettled):
        return
    ask(
        out,
        "Merge, and remove for good what is then not needed?",
        would="would remove what is no longer needed for good",
        ways="--yes says that you mean it, --dry-run only shows it",
        directory=plan.directory,
        view=CompactPlanView(plan, each.settings),
    )
