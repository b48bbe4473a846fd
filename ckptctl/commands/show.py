"""`ckptctl show`: what is inside one checkpoint or state."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from ckptctl.commands import options
from ckptctl.commands.pages import write_page
from ckptctl.commands.params import TABLE, TARGET
from ckptctl.commands.show_views import ShownView
from ckptctl.errors import EntryBoundsError, MissingShardError
from ckptctl.output import Output
from ckptctl.storage import LOCAL

if TYPE_CHECKING:
    from ckptctl.inspect.show import SortKey
    from ckptctl.restore import RestoreOptions

__all__ = ["command"]


@click.command("show", epilog=options.epilog(4, 10, 12))
@click.argument("target", metavar="[TARGET]", default="latest", type=TARGET)
@options.directory_option
@click.option("--tensors", is_flag=True, help="List every tensor, those of tables too.")
@click.option(
    "--stats",
    is_flag=True,
    help="Read all values: minimum, mean, maximum, deviation, norm, zeros, NaN, Inf, histogram "
    "(~: too close together for 20 bars).",
)
@click.option(
    "--filter",
    "pattern",
    metavar="GLOB",
    type=TABLE,
    help="Only tables, slots and tensors of this name, or that match it, such as 'emb*'; totals "
    "are of all.",
)
@click.option(
    "--sort",
    metavar="name|bytes|keys",
    type=click.Choice(["name", "bytes", "keys"]),
    default="name",
    help="Order: by name (the default), or the largest first by bytes or keys.",
)
@click.option(
    "--top", metavar="N", type=click.IntRange(min=1), help="Only the first N of that order."
)
@options.html
@options.state
@options.output
def command(
    target: str,
    directory: str,
    out: Output,
    restore: RestoreOptions,
    tensors: bool,
    stats: bool,
    pattern: str | None,
    sort: SortKey,
    top: int | None,
    html: str | None,
) -> None:
    """Show what is inside a checkpoint or a state.

    TARGET is a step, latest (the default), latest~N (counted back over the restore points),
    first, the prefix or a file of a bundle, or DIR@ and one of these. A step is the state
    there, as a restore would make it; a prefix or file is that bundle as it is.

    Reads indexes, the freqs and versions of tables that keep them, and, where increments are
    applied, the keys of their tables; with --stats everything. Of a full and of a bundle as it
    is, the rows that a PS would skip are counted too. Of a bundle that lacks data shards, or
    parts of them, what went with them is told, and the exit code is 4; so it is where columns
    of a table in it do not fit each other.

    \b
    Example:
      ckptctl show -C /models/ctr
      ckptctl show /models/ctr@latest~1 --stats --filter 'emb*'
      ckptctl show saved_model/variables/variables.index --tensors
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.answers import Answers
    from ckptctl.inspect.target import find_target

    found = find_target(target, directory, restore)
    answers = None
    if out.form and not stats and html is None:  # what checks data is asked to check it
        answers = Answers(found, (out.form, restore, tensors, pattern, sort, top), LOCAL)
        known = answers.recall()
        if known is not None:
            out.print(known.text)
            out.warn(*known.notes)
            return
    from ckptctl.inspect.show import show
    from ckptctl.inspect.view import open_view
    from ckptctl.running import Runner

    progress = out.progress()
    runner = Runner(progress=progress)
    damage: MissingShardError | EntryBoundsError | None = None  # of a shard
    try:
        try:
            view = open_view(found, restore, runner)
        except (MissingShardError, EntryBoundsError) as error:
            if found.selection is not None:
                raise
            view, damage, answers = open_view(found, restore, runner, damaged=True), error, None
        with view:
            shown = show(view, tensors=tensors, stats=stats, pattern=pattern, sort=sort, top=top)
    finally:
        progress.finish()
    if answers is None or shown.problems:
        out.show(ShownView(shown, stats))
    else:
        text = out.draw(ShownView(shown, stats))
        out.print(text)
        answers.remember(text, shown.notes)
    out.warn(*shown.notes)
    if html is not None:
        from ckptctl.report.show import draw

        write_page(out, html, draw, shown.document(), found.prefix)
    if damage is not None:
        out.close()
        prefix = shlex.quote(found.prefix)
        damage.remedy = f"restore the file, or ckptctl export {prefix} --salvage -o PATH"
        raise damage
    if shown.problems:
        out.close()
        raise shown.problems[0]
