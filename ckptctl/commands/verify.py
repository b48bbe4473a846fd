"""`ckptctl verify`: is a directory whole, and does what it holds make sense."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import click
from click.core import ParameterSource

from ckptctl.commands import options
from ckptctl.commands.params import DURATION, STEP, SUBSET
from ckptctl.errors import DamageError, NotFoundError, PartialFailure, TimeUpError, UsageError
from ckptctl.output import Column, Output, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.inspect.verify import Verified, VerifyPlan

__all__ = ["VerifiedView", "command"]

_STYLES = {"damage": "bold red", "unread": "red", "warning": "magenta", "note": "dim"}


@click.command("verify", epilog=options.epilog(3, 4, 10, 12))
@options.directory
@click.option("--step", metavar="STEP", type=STEP, help="Only what the state at STEP needs.")
@click.option(
    "--data",
    is_flag=True,
    help="Read every byte: checksums, and whether keys, columns and values make sense.",
)
@click.option(
    "--subset",
    metavar="n/t",
    type=SUBSET,
    default="1/1",
    help="With --data only the n-th of t parts; t runs read all.",
)
@click.option(
    "--max-duration",
    metavar="D",
    type=DURATION,
    help="Begin nothing new after D; what is left is named, makes the exit code 3, and comes "
    "first in the next run.",
)
@click.option(
    "--max-age",
    metavar="D",
    type=DURATION,
    help="With --data do not read again what was found clean less than D ago and is unchanged.",
)
@options.jobs
@options.bwlimit
@click.option("--strict", is_flag=True, help="Exit with 3 for warnings too.")
@options.output
def command(
    directory: str,
    out: Output,
    step: int | None,
    data: bool,
    subset: tuple[int, int],
    max_duration: float | None,
    max_age: float | None,
    jobs: int | None,
    bwlimit: int | None,
    strict: bool,
) -> None:
    """Check that a directory is whole and makes sense.

    Looks at files, sizes, indexes, state files and the links between checkpoints; with --data
    at every byte. Goes on after what it finds, and says of each finding where it is, what was
    expected, and what to do. docs/findings.md explains the codes. DIR may also be the prefix of
    a bundle or one of its files: then it looks at that alone.

    Writes nothing to the directory. What was found clean is remembered in the user's cache, by
    inode, size and time, for --max-age and for `ckptctl prune`; what was longest unverified
    is read first. Damage exits with 4, what could not be read or had no time with 3, warnings
    with 0.

    \b
    Example:
      ckptctl verify /models/ctr
      ckptctl verify /models/ctr --data --max-age 7d --max-duration 2h
      ckptctl verify /models/ctr --data --subset 3/7 --json
      ckptctl verify saved_model/variables/variables.index --data
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.findings import error_of
    from ckptctl.inspect.verify import execute_verify, plan_verify

    if not data:
        _refuse_without_data()
    if step is not None and not os.path.isdir(directory):
        raise UsageError("--step is of a directory", remedy="leave it out, or give the directory")
    storage = options.storage_of(bwlimit)
    plan = plan_verify(
        directory, step=step, data=data, subset=subset, max_age_s=max_age, storage=storage
    )
    progress = out.progress()
    try:
        found = execute_verify(
            plan, jobs=jobs, bwlimit=bwlimit, max_duration_s=max_duration, progress=progress
        )
    finally:
        progress.finish()
    out.show(VerifiedView(plan, found))
    if not found.remembered and (found.left or max_age is not None):
        out.warn("what was found clean cannot be remembered: the user's cache cannot be written")
    out.close()
    bad, unread = found.count("damage"), found.count("unread")
    if bad:
        raise error_of(
            DamageError, f"{fmt.some(bad, 'finding')} of damage", found.findings, "damage"
        )
    if unread:
        what = f"{fmt.some(unread, 'file')} could not be read"
        raise error_of(PartialFailure, what, found.findings, "unread")
    if found.left:
        raise TimeUpError(
            f"no time for {fmt.some(len(found.left), 'checkpoint')}, first {found.left[0]}",
            file=directory,
            remedy="run it again: what was longest unverified comes first"
            if found.remembered
            else "without a cache that can be written it begins anew: give it time for all",
        )
    if not plan.checkpoints:  # a disk that is not mounted must not pass for one that is sound
        raise NotFoundError("no checkpoint, nothing to verify", file=directory, remedy=_see(plan))
    if strict and found.count("warning"):
        what = f"{fmt.some(found.count('warning'), 'warning')} with --strict"
        raise error_of(PartialFailure, what, found.findings, "warning")


def _see(plan: VerifyPlan) -> str:
    """Return what to do where a directory holds nothing that verify looks at."""
    from ckptctl.inspect.target import saved_model

    scan = plan.chains.scan
    for prefix in filter(None, [saved_model(plan.directory), *(o.prefix for o in scan.others)]):
        return f"ckptctl verify {shlex.quote(prefix)} looks at that bundle"
    if scan.full_state.v1:
        return "TensorFlow's V1 format is not read: let TensorFlow save it anew, as V2"
    return "look whether it is the directory, and mounted"


def _refuse_without_data() -> None:
    """Refuse what nothing would come of; the environment only gives defaults."""
    context = click.get_current_context()
    for name, option in (("subset", "--subset"), ("max_age", "--max-age")):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{option} says which data to read, and without --data none is read",
                remedy=f"add --data, or leave {option} out",
            )


class VerifiedView(NamedTuple):
    """What was found, as text and as JSON."""

    plan: VerifyPlan
    found: Verified

    def document(self) -> Mapping[str, object]:
        """Return it as JSON."""
        others = {"others": self._others}
        return {"directory": self.plan.directory, **self.found.document(), **others}

    @property
    def _others(self) -> list[str]:
        """Names of checkpoints that are not of this model: nobody looked at them."""
        return [other.name for other in self.plan.chains.scan.others] if self.plan.whole else []

    def text(self, page: Page) -> None:
        """Write a row for each finding, what to do, and how much was looked at."""
        found = self.found
        columns = (
            Column("code"),
            Column("severity"),
            Column("file", "name"),
            Column("tensor", "name", missing=""),
            Column("offset", "number", program=True),
            Column("expected", "name", program=True),
            Column("found", "name", program=True),
            Column("message", "name"),
            Column("remedy", "text", program=True),
        )
        if found.findings:
            with page.table(columns) as rows:
                for each in found.findings:
                    where = os.path.relpath(each.file, self.plan.directory)
                    seen = f" (found {each.found})" if page.terminal and each.found else ""
                    rows.add(
                        each.code,
                        each.severity,
                        where if page.terminal else each.file,
                        each.tensor,
                        each.offset,
                        each.expected,
                        each.found,
                        each.message + seen,
                        each.remedy,
                        styles={1: _STYLES[each.severity]},
                    )
            self._remedies(page)
        unseen = (("skipped", found.skipped), ("left", found.left), ("other", self._others))
        for what, names in unseen:
            for name in names if not page.terminal else ():
                page.line(what, name)
        self._summary(page)

    def _remedies(self, page: Page) -> None:
        if not page.terminal:
            return
        page.gap()
        for code, remedy in {each.code: each.remedy for each in self.found.findings}.items():
            page.line(f"{code}: {remedy}", style="dim")
        page.gap()

    def _summary(self, page: Page) -> None:
        found = self.found
        if not page.terminal:
            numbers = (found.checkpoints, found.tensors, found.keys, found.nbytes)
            page.line("checked", *map(str, numbers), str(round(found.seconds, 3)))
            return
        words = [fmt.some(found.checkpoints, "checkpoint")]
        if self.plan.data:
            words += [fmt.some(found.tensors, "tensor"), fmt.bytes_(found.nbytes)]
            words += [fmt.some(found.keys, "key"), fmt.duration(found.seconds)]
            words.append(fmt.rate(found.nbytes / max(found.seconds, 1e-9)))
        if found.skipped:
            words.append(f"{len(found.skipped)} verified not long ago")
        if found.left:
            words.append(f"{len(found.left)} left for the next run")
        if self._others:
            words.append(f"{len(self._others)} of another base name not looked at")
        counts = [
            fmt.some(found.count(severity), word) + more
            for severity, word, more in (
                ("damage", "finding", " of damage"),
                ("warning", "warning", ""),
            )
            if found.count(severity)
        ]
        verdict = ", ".join(counts) if counts else "nothing wrong"
        page.line(f"{verdict}: {', '.join(words)}", style="bold red" if counts else "bold green")
