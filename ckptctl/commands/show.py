"""`ckptctl show`: what is inside one checkpoint or state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ckptctl.commands import cells, options
from ckptctl.commands.pages import write_page
from ckptctl.commands.params import TABLE, TARGET
from ckptctl.output import Column, Output, Page
from ckptctl.output import format as fmt
from ckptctl.storage import LOCAL

if TYPE_CHECKING:
    from ckptctl.inspect.show import Shown, SortKey
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
    is, the rows that a PS would skip are counted too.

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
            for note in known.notes:
                out.warn(note)
            return
    from ckptctl.inspect.show import show
    from ckptctl.inspect.view import open_view
    from ckptctl.running import Runner

    progress = out.progress()
    try:
        with open_view(found, restore, Runner(progress=progress)) as view:
            shown = show(view, tensors=tensors, stats=stats, pattern=pattern, sort=sort, top=top)
    finally:
        progress.finish()
    if answers is None:
        out.show(_ShownView(shown, stats))
    else:
        text = out.draw(_ShownView(shown, stats))
        out.print(text)
        answers.remember(text, shown.notes)
    for note in shown.notes:
        out.warn(note)
    if html is not None:
        from ckptctl.report.show import draw

        write_page(out, html, draw, shown.document(), found.prefix)


class _ShownView(NamedTuple):
    shown: Shown
    stats: bool

    def document(self) -> Mapping[str, object]:
        return self.shown.document()

    def text(self, page: Page) -> None:
        shown = self.shown
        page.line(*(() if page.terminal else ("target",)), shown.words, style="bold")
        if shown.target["increments"]:
            page.line("base", str(shown.target["base_reason"]))
        self._totals(page)
        if shown.raw is not None:
            self._raw(page, shown.raw)
        if shown.tables and (shown.raw is None or self.stats):
            self._tables(page)
        if shown.tensors and (shown.raw is None or self.stats):
            self._tensors(page)

    def _totals(self, page: Page) -> None:
        totals = self.shown.totals
        if not page.terminal:
            for what in ("bytes", "tensors", "keys", "filtered"):
                page.line("total", what, str(totals[what]))
            for kind, own in totals["kinds"].items():
                page.line("kind", kind, str(own["bytes"]), str(own["tensors"]))
            return
        size = fmt.bytes_(totals["bytes"])
        page.line(
            f"{fmt.some(totals['tensors'], 'tensor')}, {size}, {totals['keys']:,} keys, "
            f"{totals['filtered']:,} filtered"
        )
        kinds = [
            f"{kind} {fmt.bytes_(own['bytes'])} ({own['bytes'] / totals['bytes']:.0%})"
            for kind, own in totals["kinds"].items()
            if own["bytes"]
        ]
        page.line(", ".join(kinds))

    def _tables(self, page: Page) -> None:
        columns = (
            Column("kind", program=True),
            Column("table", "name"),
            Column("dtype", spare=6),
            Column("dim", "number", spare=3),
            Column("parts", "number", spare=4),
            Column("keys", "count"),
            Column("filtered", "count", spare=5),
            Column("bytes", "bytes"),
            Column("share", "share", spare=2),
            Column("balance", "real", spare=8),
            Column("freq", missing="", spare=7),
            Column("version", missing="", spare=9),
            *(cells.STATS if self.stats else ()),
        )
        page.gap()
        with page.table(columns) as rows:
            for table in self.shown.tables:
                for at, member in enumerate(table["members"]):
                    first = at == 0
                    name = member["name"] if first or not page.terminal else f"  {member['slot']}"
                    of_table = (
                        table["balance"],
                        cells.range_(table["freq"]),
                        cells.range_(table["version"]),
                    )
                    rows.add(
                        (table["kind"] if first else "slot"),
                        name,
                        *(table[what] for what in ("dtype", "dim", "parts")),
                        *(member[what] for what in ("keys", "filtered", "bytes")),
                        member["bytes"] / max(self.shown.totals["bytes"], 1),
                        *(of_table if first else (None, None, None)),
                        *(cells.stats(member.get("stats")) if self.stats else ()),
                    )
                if table["parts"] > 1 and not self.stats:
                    self._parts(rows, table, page.terminal)

    def _parts(self, rows: Any, table: dict[str, Any], terminal: bool) -> None:
        if terminal and table["parts"] > 8:
            return  # the balance says it; --json and a pipe have them all
        none = [None] * 4
        for part in table["members"][0]["parts"]:
            name = f"    {part['name'].removeprefix(table['name'] + '/')}"
            counts = (part["keys"], part["filtered"], None if terminal else part["bytes"])
            rows.add("part", name if terminal else part["name"], *none[:3], *counts, *none)

    def _tensors(self, page: Page) -> None:
        columns = (
            Column("kind", spare=6),
            Column("tensor", "name"),
            Column("dtype", spare=5),
            Column("shape", spare=8 if self.stats else 0),
            Column("bytes", "bytes"),
            Column("share", "share", spare=7),
            Column("shards", spare=9),
            Column("slices", "number", spare=10),
            *(cells.STATS if self.stats else ()),
        )
        page.gap()
        with page.table(columns) as rows:
            for each in self.shown.tensors:
                rows.add(
                    each["kind"],
                    each["name"],
                    each["dtype"],
                    cells.shape(each["shape"]),
                    each["bytes"],
                    each["share"],
                    cells.some(each["shards"]),
                    each["slices"],
                    *(cells.stats(each.get("stats")) if self.stats else ()),
                )

    def _raw(self, page: Page, raw: list[dict[str, Any]]) -> None:
        page.gap()
        columns = (
            Column("kind", program=True),
            Column("tensor", "name"),
            Column("dtype"),
            Column("shape"),
            Column("bytes", "bytes"),
            Column("shard", spare=1),
            Column("offset", "number", spare=2),
        )
        with page.table(columns) as rows:
            for each in raw:
                place = (each["bytes"], cells.some(each["shards"]), each["offset"])
                rows.add("tensor", each["name"], each["dtype"], cells.shape(each["shape"]), *place)
