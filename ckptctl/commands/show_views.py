"""How `ckptctl show` looks, on a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.commands import cells
from ckptctl.output import Column, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.inspect.show import Shown

__all__ = ["ShownView"]

#: Names of what went with a shard, told on a terminal.
_MOST_NAMES = 8


class ShownView(NamedTuple):
    """What was found, with `stats` of values or without."""

    shown: Shown
    stats: bool

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return self.shown.document()

    def text(self, page: Page) -> None:
        """Write it on a page."""
        shown = self.shown
        page.line(*(() if page.terminal else ("target",)), shown.words, style="bold")
        if shown.target["increments"]:
            page.line("base", str(shown.target["base_reason"]))
        self._totals(page)
        self._lost(page)
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

    def _lost(self, page: Page) -> None:
        for shard in self.shown.lost:
            names, facts = shard["names"], (shard["tensors"], shard["bytes"])
            if not page.terminal:
                page.line("lost", shard["file"], *map(str, facts), *names)
                continue
            page.gap()
            page.line("lost", shard["file"], f"{shard['message']}: {shard['found']}", style="red")
            some = ", ".join(names[:_MOST_NAMES])
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            tensors = fmt.some(shard["tensors"], "tensor")
            page.line(f"{tensors}, {fmt.bytes_(shard['bytes'])}: {some}{more}", indent=2)

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
                    str(each["shape"]),
                    each["bytes"],
                    each["share"],
                    cells.numbers(each["shards"]),
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
                place = (each["bytes"], cells.numbers(each["shards"]), each["offset"])
                rows.add("tensor", each["name"], each["dtype"], str(each["shape"]), *place)
