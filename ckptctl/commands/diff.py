"""`ckptctl diff`: how two checkpoints or states differ."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ckptctl.commands import cells, options
from ckptctl.commands.pages import write_page
from ckptctl.commands.params import AMOUNT, TABLE, TARGET
from ckptctl.errors import DifferencesFound
from ckptctl.inspect.diff_words import not_finite, remarks
from ckptctl.output import Column, Output, Page

if TYPE_CHECKING:
    from ckptctl.inspect.diff import Diff
    from ckptctl.restore import RestoreOptions

__all__ = ["command"]


@click.command("diff", epilog=options.epilog(4, 5, 10, 12))
@options.exclusive("json", "json_lines")
@click.argument("a", type=TARGET)
@click.argument("b", type=TARGET)
@options.directory_option
@click.option(
    "--table", metavar="NAME", type=TABLE, help="Only the table, or tensor, of this name."
)
@click.option(
    "--tolerance",
    metavar="X",
    type=AMOUNT,
    default=0.0,
    help="Elements that differ by at most X are equal; default 0: every bit counts.",
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(min=0),
    default=10,
    help="Name the N keys of each table that changed most; default 10.",
)
@click.option(
    "--exit-code", is_flag=True, help="Exit with 5 where they differ; with -q say no more."
)
@click.option(
    "--json-lines",
    is_flag=True,
    help="Print a JSON object a line for each key and tensor that differs, as it is found; the "
    "last line is the summary, and only with it are the lines checked. As with --json, -q silences "
    "stderr alone.",
)
@options.html
@options.state
@options.output
def command(
    a: str,
    b: str,
    directory: str,
    out: Output,
    restore: RestoreOptions,
    table: str | None,
    tolerance: float,
    top: int,
    exit_code: bool,
    json_lines: bool,
    html: str | None,
) -> None:
    """Compare two checkpoints or states.

    A and B are each a step, latest, latest~N (counted back over the restore points), first,
    the prefix or a file of a bundle, or DIR@ and one of these: of one directory or of two.

    Rows are compared by key, bit for bit, whatever the numbers of parts and shards; all that
    is read is checked. Quantiles are within 1%.

    \b
    Example:
      ckptctl diff latest~1 latest -C /models/ctr
      ckptctl diff /models/ctr@200 /backup/ctr@200 --exit-code -q
      ckptctl diff 100 200 --json-lines | jq -c 'select(.change == "new")'
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.diff import diff
    from ckptctl.inspect.target import find_target
    from ckptctl.inspect.view import open_view
    from ckptctl.running import Runner

    given = click.get_current_context().params
    as_json = bool(given["json"])
    progress = out.progress()
    runner = Runner(progress=progress)
    try:
        with ExitStack() as stack:
            views = [
                stack.enter_context(
                    open_view(find_target(text, directory, restore), restore, runner)
                )
                for text in (a, b)
            ]
            found = diff(
                *views,
                table=table,
                tolerance=tolerance,
                top=top,
                norms=as_json or json_lines or html is not None,  # the text tells nothing of them
                each=_print_line if json_lines else None,
            )
    finally:
        progress.finish()
    if json_lines:
        _print_line({"kind": "summary", **found.document()})
    else:
        out.show(_DiffView(found))
    out.warn(*found.notes)
    if html is not None:
        from ckptctl.report.diff import draw

        write_page(out, html, draw, found.document(), views[1].target.prefix)
    if exit_code and not found.identical:
        out.close()  # that they differ is an answer
        if given["quiet"]:
            raise click.exceptions.Exit(DifferencesFound.exit_code)
        raise DifferencesFound(f"{a} and {b} differ")


def _print_line(line: dict[str, object]) -> None:
    kind = {} if "kind" in line else {"kind": "tensor" if "tensor" in line else "key"}
    document = {"schema": "ckptctl.diff/1", **kind, **line}
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")


class _DiffView(NamedTuple):
    found: Diff

    def document(self) -> Mapping[str, object]:
        return self.found.document()

    def text(self, page: Page) -> None:
        found = self.found
        for name, target in (("a", found.a), ("b", found.b)):
            page.line(name, str(target["taken_for"]), style="bold")
        if found.identical:
            page.line("identical")
            return
        self._tables(page)
        self._top(page)
        self._tensors(page)

    def _tables(self, page: Page) -> None:
        changed = [table for table in self.found.tables if table["changed"]]
        same = len(self.found.tables) - len(changed)
        columns = (
            Column("kind", program=True),
            Column("table", "name"),
            *(Column(what, "count") for what in ("new", "gone", "changed")),
            Column("unchanged", "count", spare=3),
            Column("admitted", "count", spare=5),
            Column("L2_p50", "real", spare=1),
            Column("L2_p99", "real", spare=6),
            Column("L2_max", "real"),
            Column("max", "real", spare=2),
            Column("cosine_p50", "real", spare=4),
            Column("freqs_moved", "count", spare=7),
            Column("versions_moved", "count", spare=8),
            Column("newly_filtered", "count", spare=9),
        )
        if changed:
            page.gap()
        with page.table(columns) as rows:
            for table in changed:
                for member in table["members"]:
                    l2, first = member["l2"], not member["slot"]
                    moved = (member[what]["moved"] for what in ("freqs", "versions"))
                    last = [*moved, member["newly_filtered"]] if first else [None] * 3
                    rows.add(
                        "table" if first else "slot",
                        member["name"] if first or not page.terminal else f"  {member['slot']}",
                        *(member[what] for what in ("new", "gone", "changed", "unchanged")),
                        member["newly_admitted"] if first else None,
                        *(l2[q] for q in ("0.5", "0.99", "max")),
                        *(member["max"]["max"], member["cosine"]["0.5"], *last),
                    )
        for table in changed:
            for name, words in remarks(table).items():
                for word in words:
                    page.line(name, word)
        if same and page.terminal:
            page.line(cells.equal(same, "other table"), style="dim")

    def _top(self, page: Page) -> None:
        found = [
            (member["name"], key)
            for table in self.found.tables
            for member in table["members"][:1]
            for key in member["top"]
        ]
        if not found:
            return
        page.gap()
        columns = (
            Column("kind", program=True),
            Column("most_changed", "name"),
            Column("key", "number"),
            Column("L2", "real"),
            Column("norm_a", "real"),
            Column("norm_b", "real"),
        )
        with page.table(columns) as rows:
            for name, key in found:
                rows.add("key", name, key["key"], key["l2"], *key["norm"])

    def _tensors(self, page: Page) -> None:
        tensors: dict[str, Any] = self.found.tensors
        columns = (
            Column("change"),
            Column("tensor", "name"),
            Column("what", "text"),
            Column("elements", "count"),
            Column("L2", "real"),
            Column("relative", "real", spare=1),
            Column("max", "real", spare=2),
        )
        changes = [(what, each) for what in list(tensors)[:-1] for each in tensors[what]]
        if changes:
            page.gap()
            with page.table(columns) as rows:
                for what, each in changes:
                    words = (
                        f"{each['a']} becomes {each['b']}"
                        if "a" in each
                        else f"{each['dtype']} {each['shape']}"
                    )
                    numbers = (each.get(name) for name in ("elements", "l2", "relative", "max"))
                    rows.add(what, each["name"], words, *numbers)
        for each in tensors["changed"]:
            for word in not_finite([each], "element"):
                page.line(each["name"], word)
        if tensors["unchanged"]:
            page.line(cells.equal(tensors["unchanged"], "other tensor"), style="dim")
