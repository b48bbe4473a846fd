"""What `compact` shows: a plan, a result, a failure, and the report of all directories."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckptctl.commands.failures import describe
from ckptctl.commands.merge_views import MergePlanView
from ckptctl.commands.prune_views import PrunePlanView, raise_for
from ckptctl.errors import CkptctlError, DamageError, PartialFailure
from ckptctl.output import Output, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.merge import CompactPlan, CompactResult
    from ckptctl.merge.settle import Unsettled

__all__ = [
    "CompactPlanView",
    "CompactResultView",
    "Done",
    "FailureView",
    "ReportView",
    "raise_first",
    "tell_metrics",
]


class Done:
    """What became of one directory: its plan and result, what was raised, how long it took.

    `ended_s` is None where it was not begun; `settings` is the file that its settings come from.
    Where there are a result and an error, the result is what was done before the error ended it.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.plan: CompactPlan | None = None
        self.result: CompactResult | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self.ended_s: float | None = None
        self.settings: str | None = None
        self._told: set[str] = set()

    def tell(self, warnings: Iterable[str], out: Output) -> None:
        """Show warnings, each once."""
        for warning in warnings:
            if warning not in self._told:
                out.warn(f"{self.directory}: {warning}")  # others have checkpoints of these names
                self._told.add(warning)

    def take(self, result: CompactResult) -> None:
        """Keep what was done."""
        self.plan, self.result = result.plan, result

    @property
    def facts(self) -> Mapping[str, object]:
        """What was raised, as JSON; {} where nothing was."""
        return describe(self.error).facts if self.error is not None else {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know although all went well."""
        plan, result = self.plan, self.result
        planned = plan.merge if plan is not None else None
        merge = (result.merge if result is not None else None) or planned
        found = [*merge.warnings] if merge is not None else []
        if plan is not None:
            found += (*plan.warnings, *plan.prune.warnings, *plan.prune.damage)
        if result is not None and result.prune is not None:
            found += result.prune.warnings
        return tuple(dict.fromkeys(found))

    def raise_for_code(self) -> None:
        """Raise what the exit code says of a compaction that was finished, or only planned."""
        judged = self.result.prune_plan if self.result is not None else None
        # What was met while increments were compared is damage, also where nothing was to do.
        plan = judged or (self.plan.prune if self.plan is not None else None)
        if plan is not None:
            raise_for(plan, self.result.prune if self.result is not None else None)

    def to_json(self) -> dict[str, object]:
        """Return all of it."""
        plan: dict[str, object] = {"directory": self.directory}
        if self.plan is not None:
            plan = self.plan.to_json()
        elif self.result is not None:  # as an earlier run found it
            plan |= {"holds": self.result.holdings.to_json(), "waits": self.result.waits}
            plan |= {"state_file": {"list": [], "unlist": []}, "merge": None, "prune": None}
            plan["warnings"] = []  # else it would not be remembered
        if self.result is not None and self.result.prune_plan is not None:
            plan["prune"] = self.result.prune_plan.to_json()  # judged anew under the new full
        result = self.result.to_json() if self.result is not None else None
        report = {"result": result, "error": self.facts or None}
        return {**plan, "settings_file": self.settings, **report}


def tell_metrics(path: str, done: Sequence[Done], out: Output) -> CkptctlError | None:
    """Write the metrics of the directories that were begun; return what to raise at the end."""
    from ckptctl.merge.metrics import Measures, write_metrics

    found = [
        Measures.of(
            each.directory,
            each.result,
            exit_code=describe(each.error).code if each.error is not None else 0,
            ended_s=each.ended_s,
            seconds=each.seconds,
        )
        for each in done
        if each.ended_s is not None
    ]
    try:
        write_metrics(path, found)
    except (CkptctlError, OSError) as error:
        why = describe(error).facts.get("message", "")
        out.warn(f"metrics not written: {why}")
        return PartialFailure(
            "the work is done, but metrics were not written", file=path, found=why
        )
    return None


def raise_first(done: Sequence[Done]) -> None:
    """Raise what the exit code says of all directories together; damage outranks the rest."""
    failed = [each for each in done if each.error is not None]
    if not failed:
        return
    if len(done) == 1 and failed[0].error is not None:
        raise failed[0].error
    damaged = [each for each in failed if isinstance(each.error, DamageError)]
    kind = DamageError if damaged else PartialFailure
    # Of all of them: under -q and --json nothing else on stderr says so.
    found = [
        f"{fmt.escape(each.directory)}: {each.facts['message']} (exit code "
        f"{each.facts['exit_code']})"
        for each in failed
    ]
    raise kind(f"{len(failed)} of {len(done)} directories failed", found="; ".join(found))


class _TextOnly:
    """Shown while the work goes on; the document comes at the end, of all directories."""

    def document(self) -> Mapping[str, object]:
        """Return nothing."""
        return {}


class CompactPlanView(_TextOnly):
    """What would be done to one directory."""

    def __init__(self, plan: CompactPlan, settings: str | None) -> None:
        self.plan = plan
        self.settings = settings

    def text(self, page: Page) -> None:
        """Draw it."""
        plan = self.plan
        if self.settings is not None:  # nobody gave these options: say where they are from
            page.line("settings", fmt.escape(self.settings))
        if plan.nothing_to_do:
            page.line("nothing to do", fmt.escape(plan.directory), plan.waits or "")
            return
        if plan.merge is not None:
            MergePlanView(plan.merge, True).text(page)
            page.gap()
        else:
            page.line("no merge", fmt.escape(plan.directory), plan.waits or "")
        _state_files(page, plan.unsettled, "would be ")
        PrunePlanView(plan.prune, True).text(page)
        if plan.merge is not None and plan.merge.nothing_to_do is None:
            page.line("then", _THEN)


def _state_files(page: Page, found: Unsettled, verb: str = "", indent: int = 0) -> None:
    for name in found.unlisted:
        page.line("state file", fmt.escape(name), f"{verb}listed again", indent=indent)
    for _, name in found.gone:
        page.line("state file", fmt.escape(name), f"{verb}left out: it was removed", indent=indent)


_THEN = "all is judged anew: what the new full covers, and what keep rules then let go, goes too"


class CompactResultView(_TextOnly):
    """What was done to one directory: a line, and one for each thing that changed."""

    def __init__(self, result: CompactResult) -> None:
        self.result = result

    def text(self, page: Page) -> None:
        """Draw it."""
        result = self.result
        where = fmt.escape(result.directory)
        if result.outcome == "nothing":
            page.line("nothing to do", where, result.waits or "")
            return
        page.line(result.outcome, where, *self._numbers(page.terminal), style="bold green")
        if not result.merged:
            page.line("no merge", result.waits or "", indent=2)
        elif result.merge is not None:
            listed = "in the state file" if result.merge.state_file_updated else "not listed"
            page.line("new full", fmt.escape(result.merge.prefix), listed, indent=2)
        if result.settled is not None:
            _state_files(page, result.settled, indent=2)
        for item in result.prune.outcomes if result.prune is not None else ():
            name = fmt.escape(os.path.basename(item.path))
            page.line(item.outcome, name, item.reason, indent=2)

    def _numbers(self, terminal: bool) -> tuple[str, ...]:
        result = self.result
        written = result.merge.bytes if result.merge is not None else 0
        freed = result.prune.bytes_freed if result.prune is not None else 0
        # What a trainer saves meanwhile may be newer.
        step = result.merge.step if result.merged and result.merge else result.holdings.latest
        if not terminal:
            seconds = round(result.seconds, 3)
            return f"step={step}", f"written={written}", f"freed={freed}", f"seconds={seconds}"
        sizes = f"{fmt.bytes_(written)} written, {fmt.bytes_(freed)} freed"
        return f"to step {step}", sizes, fmt.duration(result.seconds)


class FailureView(_TextOnly):
    """That a directory failed, where others follow."""

    def __init__(self, done: Done) -> None:
        self.done = done

    def text(self, page: Page) -> None:
        """Draw it."""
        words = " ".join(
            f"{key}: {value}" for key, value in self.done.facts.items() if key in _SAID
        )
        where, code = fmt.escape(self.done.directory), self.done.facts.get("exit_code")
        page.line("failed", where, f"exit code {code}", fmt.escape(words), style="bold red")


_SAID = ("message", "file", "tensor", "offset", "expected", "found", "remedy")


class ReportView(NamedTuple):
    """The document of all directories; as text each was shown when it was done."""

    dry_run: bool
    done: Sequence[Done]

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        return {"dry_run": self.dry_run, "directories": [each.to_json() for each in self.done]}

    def text(self, page: Page) -> None:
        """Draw nothing more."""
