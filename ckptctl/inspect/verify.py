"""Is a directory whole, and does what it holds make sense: the library behind `ckptctl verify`.

`plan_verify` says what would be read; `execute_verify` reads it and goes on where a restore
would stop. Nothing is written but, in the user's cache, what was found clean and when.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

from ckptctl.bundle import BundleReader, Entry
from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    Chains,
    Checkpoint,
    ProvenPairs,
    VerifiedCheckpoints,
    find_chains,
    find_changed,
    scan_directory,
)
from ckptctl.errors import AmbiguousError, CkptctlError, DamageError, UnprovenError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.inspect.target import bundle_at
from ckptctl.inspect.verify_data import TensorsTask, Together, Told, spans
from ckptctl.inspect.verify_keys import PartTask, RowNumbersTask, parts_of
from ckptctl.inspect.verify_memory import VerifiedData
from ckptctl.inspect.verify_quick import check_bundle, check_checkpoint, check_directory
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore.columns import column_present
from ckptctl.restore.match_rows import order_slices
from ckptctl.restore.nested import check_nested
from ckptctl.restore.opening import open_bundle
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.select import select
from ckptctl.running import Runner, Task, batches
from ckptctl.storage import LOCAL, Storage
from ckptctl.tables import Catalogue, find_tables, part_components

__all__ = ["Verified", "VerifyPlan", "execute_verify", "plan_verify"]


class VerifyPlan(NamedTuple):
    """What would be looked at.

    Attributes
    ----------
    checkpoints
        Those whose files are looked at, the longest unverified first.
    fresh
        Those that were found clean less than `max_age_s` ago: their data is not read again.
    data
        Whether data is read.
    subset
        (n, t): only the n-th of t parts of the tensors, told apart by their names.
    """

    directory: str
    chains: Chains
    checkpoints: tuple[Checkpoint, ...]
    fresh: tuple[Checkpoint, ...]
    data: bool
    subset: tuple[int, int]
    whole: bool
    storage: Storage = LOCAL


class Verified:
    """What was found.

    Attributes
    ----------
    findings
        By file and tensor.
    checkpoints, tensors, keys, nbytes
        How much was looked at: keys are those of primaries.
    skipped
        Names of checkpoints that were found clean not long ago.
    left
        Names of checkpoints that there was no time for.
    remembered
        Whether the next run will know what was found clean: the user's cache can be written.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.checkpoints = 0
        self.tensors = 0
        self.keys = 0
        self.nbytes = 0
        self.skipped: list[str] = []
        self.left: list[str] = []
        self.remembered = True
        self.seconds = 0.0

    def count(self, severity: str) -> int:
        """Return how many findings are of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        checked = {
            "checkpoints": self.checkpoints,
            "tensors": self.tensors,
            "keys": self.keys,
            "bytes": self.nbytes,
            "skipped": self.skipped,
            "left": self.left,
            "remembered": self.remembered,
            "seconds": self.seconds,
        }
        return {"checked": checked, "findings": [each.document() for each in self.findings]}


def plan_verify(
    directory: str,
    *,
    step: int | None = None,
    data: bool = False,
    subset: tuple[int, int] = (1, 1),
    max_age_s: float | None = None,
    storage: Storage = LOCAL,
) -> VerifyPlan:
    """Plan to look at a directory, or at one bundle.

    Parameters
    ----------
    directory
        The directory; or the prefix of a bundle or one of its files, of a SavedModel's
        `variables/` say: that bundle alone.
    step
        Only what the state at this step needs.
    data
        Read every byte, not only names, sizes and indexes.
    subset
        (n, t): the n-th of t parts, so that t runs read all.
    max_age_s
        Leave out what was found clean less than so many seconds ago.

    Raises
    ------
    NotFoundError
        No such directory or step.
    AmbiguousError
        Two checkpoints lie at the step.
    """
    directory = os.fspath(directory)
    bundle = bundle_at(directory, storage)
    if bundle is not None:
        directory = os.path.dirname(bundle) or "."
        if os.path.basename(os.path.abspath(directory)) == INCREMENT_DIRECTORY:
            directory = os.path.dirname(os.path.abspath(directory))
    scan = scan_directory(directory, storage)
    chains = find_chains(scan, proven_nested=ProvenPairs(scan))
    found = [*scan.fulls, *scan.increments]
    if bundle is not None:
        same = os.path.abspath(bundle)
        found = [c for c in (*found, *scan.others) if os.path.abspath(c.prefix) == same]
    elif step is not None:
        needed = _needed(chains, step)
        found = [checkpoint for checkpoint in found if checkpoint.prefix in needed]
    memory = VerifiedData(subset)
    when = {checkpoint.prefix: memory.when(checkpoint) for checkpoint in found}
    found.sort(key=lambda checkpoint: when[checkpoint.prefix] or 0.0)
    since = math.inf if max_age_s is None else time.time() - max_age_s
    fresh = tuple(
        checkpoint
        for checkpoint in found
        if (clean := when[checkpoint.prefix]) is not None and clean > since
    )
    whole = step is None and bundle is None
    return VerifyPlan(directory, chains, tuple(found), fresh, data, subset, whole, storage)


def _needed(chains: Chains, step: int) -> set[str]:
    """Return the prefixes that the state at a step needs, also where a restore refuses them."""
    try:
        chosen = select(chains, step, RestoreOptions())
    except (DamageError, UnprovenError):  # what is wrong is among the findings
        full, increment = chains.full_at(step), chains.increment_at(step)
        if full is not None or increment is None:
            return {full.prefix} if full is not None else set()
        below = [each for each in chains.scan.fulls if each.step <= step]
        base = chains.base_of(increment).base or (below[-1] if below else None)
        series = chains.nested_series(base, increment) if base is not None else ()
        return {each.prefix for each in (base, *series, increment) if each is not None}
    return {each.prefix for each in chosen.members}


def execute_verify(
    plan: VerifyPlan,
    *,
    jobs: int | None = None,
    bwlimit: int | None = None,
    max_duration_s: float | None = None,
    progress: Progress = NO_PROGRESS,
) -> Verified:
    """Look at what a plan names, and say all that is wrong.

    Parameters
    ----------
    jobs, bwlimit
        Tasks at a time, and bytes a second that they may read together.
    max_duration_s
        Begin nothing new after so many seconds; what was begun is finished.
    """
    began = time.monotonic()
    found = Verified()

    def out_of_time() -> bool:
        return max_duration_s is not None and time.monotonic() - began > max_duration_s

    if plan.whole:
        found.findings += check_directory(plan.chains)
    fresh = {checkpoint.prefix for checkpoint in plan.fresh}
    memory, verified = VerifiedData(plan.subset), VerifiedCheckpoints()
    for checkpoint in plan.checkpoints:
        name = checkpoint.name
        if out_of_time():
            found.left.append(name)
            continue
        found.checkpoints += 1
        own = _or_gone(list(_quick(plan, checkpoint)), checkpoint, plan.storage)
        broken = any(finding.severity in ("damage", "unread") for finding in own)
        if plan.data and checkpoint.prefix in fresh:
            found.skipped.append(name)
        elif plan.data and not (broken and checkpoint.damage is not None):
            reading = _Reading(plan, checkpoint, Runner(jobs, progress=progress, bwlimit=bwlimit))
            told = _or_gone(reading.run(found, out_of_time), checkpoint, plan.storage)
            own += told
            if reading.cut_short:
                found.left.append(name)
            elif not any(finding.severity in ("damage", "unread") for finding in own):
                # What the data made us warn of is told again in the next run.
                if not told:
                    found.remembered &= memory.add(checkpoint)
                if plan.subset[1] == 1 and checkpoint.kind == "full":
                    verified.add(checkpoint)
        found.findings += own
    if plan.data:
        found.findings += _nested(plan, found, out_of_time, progress)
    found.findings = sorted(set(found.findings), key=lambda finding: finding.order)
    found.seconds = time.monotonic() - began
    return found


def _or_gone(findings: list[Finding], checkpoint: Checkpoint, storage: Storage) -> list[Finding]:
    """Return what damage is that was none when we began: rotated away, or saved again."""
    if not any(finding.severity == "damage" for finding in findings):
        return findings
    changed = find_changed([checkpoint], storage)
    if changed is None:
        return findings
    message = f"{changed.message}: a trainer's own clean-up, or another save"
    return [
        finding._replace(code="CK090", message=message) if finding.severity == "damage" else finding
        for finding in findings
    ]


def _quick(plan: VerifyPlan, checkpoint: Checkpoint) -> Iterator[Finding]:
    index = f"{checkpoint.prefix}.index"
    try:
        yield from check_checkpoint(plan.chains, checkpoint)
        if checkpoint.damage is None:
            yield from check_bundle(checkpoint.prefix, checkpoint.kind == "increment", plan.storage)
    except (CkptctlError, OSError) as error:
        yield of_error(error, index)


def _nested(
    plan: VerifyPlan, found: Verified, out_of_time: Callable[[], bool], progress: Progress
) -> Iterator[Finding]:
    """Run the nested check of every chain; what is proven is remembered."""
    proven = ProvenPairs(plan.chains.scan)
    wanted = {checkpoint.prefix for checkpoint in plan.checkpoints}
    for chain in plan.chains.chains:
        series = plan.chains.nested_series(chain.base)
        if not chain.base.complete:
            continue
        for before, after in pairwise(series):
            if before.prefix not in wanted or after.prefix not in wanted:
                continue
            if out_of_time():
                found.left += [after.name] if after.name not in found.left else []
            else:
                yield from _pair(chain.base, before, after, proven, plan.storage, progress)


def _pair(
    base: Checkpoint,
    before: Checkpoint,
    after: Checkpoint,
    proven: ProvenPairs,
    storage: Storage,
    progress: Progress,
) -> Iterator[Finding]:
    try:
        check_nested(base.prefix, (before, after), proven, storage, progress=progress)
    except UnprovenError as error:
        index = f"{after.prefix}.index"
        yield of_error(error, index, "CK024")._replace(file=index)  # it names a prefix
    except (CkptctlError, OSError):
        return  # told where the increment was read


class _Reading:
    """The data of one checkpoint."""

    def __init__(self, plan: VerifyPlan, checkpoint: Checkpoint, runner: Runner) -> None:
        self.plan = plan
        self.checkpoint = checkpoint
        self.runner = runner
        self.increment = checkpoint.kind == "increment"
        self.cut_short = False

    def run(self, found: Verified, out_of_time: Callable[[], bool]) -> list[Finding]:
        """Return the findings; count in `found` what was read."""
        results: list[Told] = []
        told: list[Finding] = []
        index = f"{self.checkpoint.prefix}.index"
        try:
            reader = BundleReader(self.checkpoint.prefix, self.plan.storage)
            catalogue = self._catalogue(reader, told)
        except (CkptctlError, OSError) as error:
            return [of_error(error, index)]
        together = Together(reader)

        def timely(tasks: Iterator[Task[Told]]) -> Iterator[tuple[None, Task[Told]]]:
            for task in tasks:
                begins = not isinstance(task, TensorsTask) or task.begins
                if begins and out_of_time():
                    self.cut_short = True
                    return
                yield None, task

        def collect(tasks: Iterator[Task[Told]]) -> None:
            for _, result in self.runner.map(timely(tasks)):
                together.add(result)
                results.append(result)

        try:
            self.runner.progress.start(
                f"verifying {self.checkpoint.name}", self.checkpoint.bytes // self.plan.subset[1]
            )
            parts = list(self._parts(reader, catalogue))
            own: dict[str, Entry] = {}
            for part in parts:
                own |= part.tensors
            mine = self._mine_of(reader)

            def tasks() -> Iterator[Task[Told]]:
                yield from parts
                yield from self._row_numbers(reader, catalogue)
                yield from _tensors(reader, [each for each in mine if not _is_in(each, own)])

            collect(tasks())
            # Keys are read once, for what they mean and for their checksum, unless that failed.
            checked: dict[str, Entry] = {}
            for result in results:
                checked |= result.checked
            left = [each for each in mine if _is_in(each, own) and not _is_in(each, checked)]
            collect(_tensors(reader, left))
            once = [entry for name, entry in mine if _is_in((name, entry), checked)]
            found.tensors += len(once)
            found.nbytes += sum(entry.size for entry in once)
            told += self._columns(catalogue, reader)
        except (CkptctlError, OSError) as error:
            told.append(of_error(error, index))
        finally:
            reader.close()
        damaged = set[str]().union(*(each.damaged for each in results))
        for each in results:
            if each.rests_on.isdisjoint(damaged):
                told += each.findings
                found.keys += each.keys
            found.tensors += each.tensors
            found.nbytes += each.nbytes
        return told

    def _catalogue(self, reader: BundleReader, told: list[Finding]) -> Catalogue:
        """Return what the names mean, also where the strict reading is not sure."""
        try:
            other, catalogue = open_bundle(reader.prefix, self.increment, self.plan.storage)
        except AmbiguousError as error:
            told.append(of_error(error, reader.index_path))
        except CkptctlError:
            pass  # a shard is short, or offsets are wrong: found where they are read
        else:
            other.close()
            return catalogue
        return find_tables(reader.tensors, increment=self.increment)

    def _mine(self, name: str) -> bool:
        number, parts = self.plan.subset
        # Of the name alone, so that it is the same in every run and on every machine.
        return zlib.crc32(name.encode("utf-8", "surrogateescape")) % parts == number - 1

    def _mine_of(self, reader: BundleReader) -> list[tuple[str, Entry]]:
        """Return the tensors to read, in the order of their bytes."""
        entries = [(n, e) for _, n, e in reader.data_entries() if self._mine(f"{e.offset}{n}")]
        return sorted(entries, key=lambda item: (item[1].shard, item[1].offset))

    def _parts(self, reader: BundleReader, catalogue: Catalogue) -> Iterator[PartTask]:
        for table in catalogue.tables:
            sets = [(member.name, member.parts) for member in table.members]
            for part, own in parts_of(sets).items():
                if self._mine(own[0].name):
                    yield PartTask(reader, own, part, table.num_parts)

    def _row_numbers(self, reader: BundleReader, catalogue: Catalogue) -> Iterator[RowNumbersTask]:
        for rows in catalogue.rows.values():
            if not rows.problem and self._mine(rows.name):
                yield RowNumbersTask(reader, rows, self._slice_rows(rows.name))

    def _columns(self, catalogue: Catalogue, reader: BundleReader) -> Iterator[Finding]:
        """Find tables of which some parts keep a column and others do not."""
        for table in catalogue.tables if not self.increment else ():
            sets = [ev for member in table.members for ev in member.sets if not ev.problem]
            try:
                for suffix in ("-versions", "-freqs"):
                    column_present(suffix, sets, (), reader.index_path)
            except CkptctlError as error:
                yield of_error(error, reader.index_path, "CK057")

    def _slice_rows(self, name: str) -> int | None:
        """Return how many rows a slice of a variable has in the base of the increment."""
        base = self.plan.chains.base_of(self.checkpoint).base
        if base is None or not base.complete:
            return None
        with BundleReader(base.prefix, self.plan.storage) as reader:
            parts = [(part.whole, part.number) for part in part_components(name)]
            for variable, number in [(name, 0), *parts]:
                entry = reader.get(variable)
                if entry is not None and entry.slices:
                    with suppress(UnprovenError):  # a restore says why it takes no rows
                        order = order_slices(reader, variable, entry)
                        own = order[number : number + 1] or order
                        return max(each.shape(entry.shape)[0] for each in own)
                elif entry is not None and entry.shape:
                    return entry.rows
        return None


def _is_in(tensor: tuple[str, Entry], tensors: Mapping[str, Entry]) -> bool:
    name, entry = tensor
    return tensors.get(name) == entry


def _tensors(reader: BundleReader, tensors: list[tuple[str, Entry]]) -> Iterator[TensorsTask]:
    for batch in batches(spans(tensors), lambda span: span.nbytes):
        yield TensorsTask(reader, batch)
