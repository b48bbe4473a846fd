"""`ckptctl export`: a state or some tables, for other programs to load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptctl.commands import options
from ckptctl.commands.params import FILE, TABLE, TARGET
from ckptctl.errors import PartialFailure
from ckptctl.output import Column, Output, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.inspect.export import ExportPlan, ExportResult, Format
    from ckptctl.restore import RestoreOptions

__all__ = ["command"]


@click.command("export", epilog=options.epilog(3, 4, 10, 12))
@click.argument("target", metavar="TARGET", type=TARGET)
@options.directory_option
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=FILE,
    required=True,
    help="A directory for parquet, a file for npz and safetensors; it does not exist yet.",
)
@click.option(
    "--table",
    "tables",
    metavar="NAME",
    type=TABLE,
    multiple=True,
    help="Export this table, or tensor, alone; may be given again. Default: everything.",
)
@click.option(
    "--format",
    "format_",
    metavar="parquet|npz|safetensors",
    type=click.Choice(["parquet", "npz", "safetensors"]),
    help="Default: by the suffix of PATH (.npz, .safetensors), else parquet.",
)
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a file at PATH, or a directory that is a former export and holds nothing else.",
)
@click.option(
    "--salvage",
    is_flag=True,
    help="Of a bundle that is damaged, leave out what is: everything is read and checked first.",
)
@options.state
@options.jobs
@options.dry_run
@options.output
def command(
    target: str,
    directory: str,
    out: Output,
    restore: RestoreOptions,
    output: str,
    tables: tuple[str, ...],
    format_: Format | None,
    overwrite: bool,
    salvage: bool,
    jobs: int | None,
    dry_run: bool,
) -> None:
    """Write a state or some tables as Parquet, npz or safetensors.

    TARGET is a step, latest, latest~N, first, a prefix, an .index or .data file, or
    DIR@TARGET; a step is the state that a PS would have restored there. Parquet becomes a
    directory with one file a table and slot (key, value, freq, version) and other tensors as
    .npy files; npz and safetensors become one file. Rows are streamed, so memory does not grow
    with the tables, and all that is read is checked before anything lies at PATH. What a format
    cannot hold is named, and the exit code is 3; so is what --salvage leaves out of a bundle.

    \b
    Example:
      ckptctl export latest -C /models/ctr -o ctr-parquet
      ckptctl export /models/ctr@1200 -o user.npz --table user_emb
      ckptctl export /models/ctr/model.ckpt-1200 -o rest --salvage
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.export import execute_export, plan_export
    from ckptctl.inspect.target import find_target
    from ckptctl.inspect.view import open_view
    from ckptctl.running import Runner

    reading = out.progress()
    # A dry run writes nothing, not even into the user's cache.
    found = find_target(target, directory, restore, remember=not dry_run)
    runner = Runner(jobs, progress=reading)
    with open_view(found, restore, runner, damaged=salvage) as view:
        try:
            plan = plan_export(
                view, output, format_, tables=tables, overwrite=overwrite, salvage=salvage
            )
        finally:
            reading.finish()
        out.show(_PlanView(plan, dry_run))
        out.warn(*plan.notes)
        if not dry_run:
            progress = out.progress()
            try:
                result = execute_export(plan, Runner(jobs, progress=progress))
            finally:
                progress.finish()
            out.show(_ResultView(result))
    _raise_skipped(plan, out, salvage=salvage, dry_run=dry_run)


def _raise_skipped(plan: ExportPlan, out: Output, *, salvage: bool, dry_run: bool) -> None:
    if not plan.skipped:
        return
    out.close()
    first = plan.skipped[0]
    remedy = "use another --format, or --table NAME for what you need"
    if salvage:
        remedy = "what is left is written, and what is not is named above and in the manifest"
        remedy = "without --dry-run what is left is written" if dry_run else remedy
    raise PartialFailure(
        f"{fmt.some(len(plan.skipped), 'item')} {'would be ' * dry_run}left out: {first.reason}",
        tensor=first.name,
        file=plan.output,
        remedy=remedy,
    )


@dataclass(frozen=True)
class _PlanView:
    plan: ExportPlan
    dry_run: bool

    def document(self) -> Mapping[str, object]:
        return {"dry_run": self.dry_run, **self.plan.document()}

    def text(self, page: Page) -> None:
        plan = self.plan
        verb = "would export" if self.dry_run else "export"
        page.line(verb, plan.target.words, style="bold")
        most = "at most " if plan.format == "parquet" else ""
        size = fmt.bytes_(plan.bytes_to_write) if page.terminal else str(plan.bytes_to_write)
        page.line("to", plan.output, f"{plan.format}, {most}{size}")
        if plan.replaces:
            page.line("would replace" if self.dry_run else "replace", plan.output)
        page.gap()
        columns = (
            Column("kind", width=8),
            Column("name", "name"),
            Column("rows", "count"),
            Column("bytes", "bytes", spare=1),
            Column("type", spare=3),
            Column("written as", "name", spare=2),
        )
        with page.table(columns) as rows:
            for source, own in zip(plan.sources, plan.names, strict=True):
                first = next(iter(source.arrays.values()))
                kind = source.arrays.get("values", first).dtype.name
                count = None if source.kind == "tensor" else source.rows
                names = ", ".join(each.removeprefix(f"{source.name}/") for each in own.values())
                rows.add(source.kind, source.name, count, source.nbytes, kind, names)
            for each in plan.skipped:
                rows.add("skipped", each.name, None, None, None, each.reason)
        page.gap()


@dataclass(frozen=True)
class _ResultView:
    result: ExportResult

    def document(self) -> Mapping[str, object]:
        return {"result": self.result.document()}

    def text(self, page: Page) -> None:
        result = self.result
        if not page.terminal:
            facts = ("files", "bytes", "rows")
            numbers: dict[str, object] = {name: getattr(result, name) for name in facts}
            numbers["seconds"] = round(result.seconds, 3)
            page.line("exported", result.output, *(f"{key}={n}" for key, n in numbers.items()))
            return
        page.line("exported", result.output, style="bold green")
        page.line(
            f"{fmt.some(result.files, 'file')}, {fmt.bytes_(result.bytes)}, "
            f"{result.rows:,} keys, {fmt.duration(result.seconds)}",
            indent=2,
        )
