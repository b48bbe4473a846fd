"""`ckptctl merge`: a full and its increments, written as a new full."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ckptctl.commands import options
from ckptctl.commands.params import SIZE, STEP
from ckptctl.output import Column, Output, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.merge import MergePlan, MergeResult
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
@click.option(
    "--relocate", is_flag=True, help="In a copied directory: make paths in state files relative."
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="Read the result back and check it before it exists (the default), or do not.",
)
@click.option(
    "--update-state/--no-update-state",
    default=None,
    help="Put the result into the state file `checkpoint`; default: only without -o.",
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
        )
    finally:
        planning.finish()
    out.show(_PlanView(plan, dry_run))
    for warning in plan.warnings:
        out.warn(warning)
    if dry_run or (plan.nothing_to_do is not None and not plan.unfinished):
        return
    progress = out.progress()
    try:
        result = execute_merge(plan, jobs=jobs, progress=progress, bwlimit=bwlimit, **waits)
    finally:
        progress.finish()
    for warning in result.warnings[len(plan.warnings) :]:
        out.warn(warning)
    if plan.nothing_to_do is None:
        out.show(_ResultView(plan, result))


@dataclass(frozen=True)
class _PlanView:
    plan: MergePlan
    dry_run: bool

    def document(self) -> Mapping[str, object]:
        return {"dry_run": self.dry_run, **self.plan.to_json()}

    def text(self, page: Page) -> None:
        plan = self.plan
        if plan.nothing_to_do is not None:
            page.line("nothing to merge", plan.nothing_to_do)
            for rest in plan.unfinished:
                page.line(self._verb("finish"), rest)
            return
        verb = self._verb("merge" if plan.increments else "copy")
        page.line(verb, plan.directory, f"to step {plan.step}", style="bold")
        facts = (
            Column("what"),
            Column("name", "name", missing=""),
            Column("bytes", "bytes", missing=""),
            Column("note", "text", missing=""),
        )
        with page.table(facts, heading=False) as rows:
            for each in (plan.base, *plan.increments):
                name = each.name if page.terminal else each.prefix
                reason = plan.base_reason if each is plan.base else None
                rows.add("base" if each is plan.base else "increment", name, each.bytes, reason)
            what = f"{fmt.some(plan.shards, 'shard')}, {fmt.some(plan.tensors, 'tensor')}"
            rows.add("result", plan.destination, plan.bytes_to_write, f"at most, {what}")
            rows.add("memory", None, plan.memory_bytes, "estimate of the peak")
            if plan.replaces:
                kept = f"{fmt.some(len(plan.replaces), 'file')}, moved to .ckptctl-trash/"
                rows.add(self._verb("replace"), plan.destination, None, kept)
            for name in plan.leftovers:
                rows.add(self._verb("remove"), name, None, "left behind by a killed run")
            state = os.path.join(os.path.dirname(plan.destination), "checkpoint")
            change = f"{'would be' if self.dry_run else 'is'} updated, if there is one"
            rows.add("state file", state, None, change if plan.update_state else "not touched")
            if plan.relocate:
                rows.add(self._verb("relocate"), plan.directory, None, "relative paths")
            for option in plan.overrides:
                rows.add("override", option, None, "as given")
        page.gap()
        self._tables(page)
        page.gap()

    def _verb(self, verb: str) -> str:
        return f"would {verb}" if self.dry_run else verb

    def _tables(self, page: Page) -> None:
        if not self.plan.tables:
            return
        columns = (
            Column("kind", program=True),
            Column("table", "name"),
            Column("parts", "number", spare=3),
            Column("slots", "number", spare=2),
            Column("dim", "number", spare=1),
            Column("rows", "count"),
            Column("incoming", "count"),
        )
        with page.table(columns) as rows:
            for table in self.plan.tables:
                slots = len(table.members) - 1
                rows.add(
                    "table", table.name, table.parts, slots, table.dim, table.rows, table.incoming
                )


@dataclass(frozen=True)
class _ResultView:
    plan: MergePlan
    result: MergeResult

    def document(self) -> Mapping[str, object]:
        return {"result": self.result.to_json()}

    def text(self, page: Page) -> None:
        result = self.result
        if not page.terminal:
            facts = ("step", "bytes", "keys", "keys_new", "keys_replaced", "peak_rss_bytes")
            numbers: dict[str, object] = {name: getattr(result, name) for name in facts}
            verified = "yes" if result.verified else "no"
            numbers |= {"seconds": round(result.seconds, 3), "verified": verified}
            numbers["state_file"] = self._state_file()
            page.line("merged", result.prefix, *(f"{key}={n}" for key, n in numbers.items()))
            return
        page.line("merged", result.prefix, style="bold green")
        size = f"{fmt.bytes_(result.bytes)}, {result.keys:,} keys"
        page.line(f"{size}, {result.keys_new:,} new, {result.keys_replaced:,} replaced", indent=2)
        check = "read back and verified" if result.verified else "not verified"
        time, memory = fmt.duration(result.seconds), fmt.bytes_(result.peak_rss_bytes)
        page.line(f"{check}, {time}, at most {memory} of memory", indent=2)
        page.line(f"state file: {self._state_file()}", indent=2)

    def _state_file(self) -> str:
        if self.result.state_file_updated:
            return "updated"
        # None is made: it would hide the fulls that it does not list.
        return "none" if self.plan.update_state else "not touched"
