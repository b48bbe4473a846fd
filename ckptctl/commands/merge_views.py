"""What `merge` and `compact` show of a merge."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ckptctl.commands.prune_views import RELATIVE
from ckptctl.output import Column, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.merge import MergePlan, MergeResult

__all__ = ["MergePlanView", "MergeResultView"]


class MergePlanView(NamedTuple):
    """What is read, what is written, and what else changes."""

    plan: MergePlan
    dry_run: bool

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {"dry_run": self.dry_run, **self.plan.to_json()}

    def text(self, page: Page) -> None:
        """Draw it."""
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
            what = "made: there is none" if plan.makes_state else "updated, if there is one"
            change = f"{'would be' if self.dry_run else 'is'} {what}"
            rows.add("state file", state, None, change if plan.update_state else "not touched")
            for path in plan.relocated:
                rows.add(self._verb("relocate"), path, None, RELATIVE)
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


class MergeResultView(NamedTuple):
    """The new full, and what it cost."""

    plan: MergePlan
    result: MergeResult

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {"result": self.result.to_json()}

    def text(self, page: Page) -> None:
        """Draw it."""
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
            return "made" if self.plan.makes_state else "updated"
        # None is made that would hide the fulls that it does not list.
        return "none" if self.plan.update_state else "not touched"
