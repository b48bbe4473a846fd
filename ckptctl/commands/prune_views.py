"""What `prune` and `compact` show of a prune, and what its end means to the shell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ckptctl.errors import DamageError, PartialFailure
from ckptctl.output import Column, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.merge import PrunePlan, PruneResult

__all__ = ["RELATIVE", "PrunePlanView", "PruneResultView", "raise_for"]


def raise_for(plan: PrunePlan, result: PruneResult | None) -> None:
    """Raise what the exit code says of a prune that was finished; None: nothing was to go."""
    skipped = result.skipped if result is not None else ()
    damage = (*plan.damage, *(result.damage if result is not None else ()))
    if damage:
        error = DamageError.from_text(damage[0])
        if skipped:
            error.message += f"; {fmt.some(len(skipped), 'item')} kept for it"
        error.file = error.file or plan.directory
        error.remedy = error.remedy or (
            "restore the file, or use another step: ckptctl ls shows what there is"
        )
        raise error
    if skipped:
        first = skipped[0]
        raise PartialFailure(
            f"{fmt.some(len(skipped), 'item')} kept: {first.name}: {first.reason}",
            file=plan.directory,
            remedy="run it again",
        )


class PrunePlanView(NamedTuple):
    """Every item, what becomes of it, and why; what nobody has agreed to yet only would."""

    plan: PrunePlan
    dry_run: bool
    agreed: bool = True

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {"dry_run": self.dry_run, **self.plan.to_json()}

    def text(self, page: Page) -> None:
        """Draw it."""
        plan = self.plan
        columns = (
            Column("kind", width=9),
            Column("step", "number"),
            Column("status", width=10),
            Column("bytes", "bytes"),
            Column("action", width=12),
            Column("name", "name"),
            Column("because", "text"),
        )
        would = self.dry_run or not self.agreed
        verb = "would remove" if would else "remove"
        with page.table(columns) as rows:
            for item in plan.items:
                name = item.name if page.terminal else item.path
                action = verb if item.remove else "keep"
                style = {4: "red" if item.remove else "green"}
                facts = (item.kind, item.step, item.status, item.bytes, action, name)
                rows.add(*facts, item.reason, styles=style)
        page.gap()
        for prefix in plan.verify:
            name = os.path.basename(prefix) if page.terminal else prefix
            page.line("would verify" if would else "verify", fmt.escape(name), _WHY)
        for state in plan.relocated:
            page.line("would relocate" if would else "relocate", fmt.escape(state), RELATIVE)
        if not plan.removed:
            page.line("nothing to remove", fmt.escape(plan.directory))
        else:
            size = fmt.bytes_(plan.bytes_to_free) if page.terminal else str(plan.bytes_to_free)
            page.line(verb, fmt.some(len(plan.removed), "item"), size, style="bold")


#: What `--relocate` makes of a state file.
RELATIVE = "its paths become relative"
_WHY = "all of it is read before anything goes that it stands in for"


class PruneResultView(NamedTuple):
    """What stayed after all, and what was freed."""

    plan: PrunePlan
    result: PruneResult

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {"result": self.result.to_json()}

    def text(self, page: Page) -> None:
        """Draw it."""
        result = self.result
        for outcome in result.outcomes:
            if outcome.outcome not in ("removed", "trashed"):
                page.line(outcome.outcome, fmt.escape(outcome.name), outcome.reason)
        size = fmt.bytes_(result.bytes_freed) if page.terminal else str(result.bytes_freed)
        page.line("freed", size, style="bold green")
        if result.trash is not None:
            trash, home = shlex.quote(result.trash), shlex.quote(self.plan.directory)
            page.line("trash", fmt.escape(result.trash))
            page.line("to empty it", f"rm -r {fmt.escape(trash)}")
            page.line("to restore it", f"cp -aln {fmt.escape(trash)}/. {fmt.escape(home)}/")
