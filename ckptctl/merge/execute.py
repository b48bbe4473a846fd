"""Doing what a merge plan says: survey, write, verify, commit, update the state file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, NamedTuple

import ckptctl
from ckptctl.bundle import BundleReader, index_path
from ckptctl.bundle.checksum import crc32c
from ckptctl.bundle.commit import PendingBundle
from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import (
    MERGED_TENSOR,
    WRITER_WAIT_S,
    find_chains,
    find_changed,
    scan_directory,
    wait_for_writer,
)
from ckptctl.chain.facts import Ahead
from ckptctl.errors import ChangedError, DamageError, NotFoundError
from ckptctl.merge.destination import own_files, own_temporaries
from ckptctl.merge.lead import tell_kept_line, tell_mixture, tell_unmade
from ckptctl.merge.plan import MergePlan, Source
from ckptctl.merge.relocate import relocate_state_files
from ckptctl.merge.state_file import find_hidden, update_state_file
from ckptctl.merge.sweep import sweep_temporaries
from ckptctl.merge.verification import remember_verified
from ckptctl.merge.write import Outcome, lay_out, write_state
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore import State, open_state
from ckptctl.restore.survey import CheckTask, survey_state
from ckptctl.running import Runner
from ckptctl.storage.lock import DirectoryLock, HeldLocks, lock_directories
from ckptctl.storage.own import TRASH_DIRECTORY, check_no_link

__all__ = ["MergeResult", "execute_merge"]


class MergeResult(NamedTuple):
    """What a merge did.

    `keys`, `keys_new` and `keys_replaced` count keys of primaries: of the result, and of
    the increments. `bytes` are those of the data shards.
    """

    prefix: str
    step: int
    bytes: int
    keys: int
    keys_new: int
    keys_replaced: int
    rows_replaced: int
    seconds: float
    peak_rss_bytes: int
    verified: bool
    state_file_updated: bool
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**self._asdict(), "warnings": list(self.warnings)}


def execute_merge(
    plan: MergePlan,
    *,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = NO_PROGRESS,
    bwlimit: int | None = None,
    lock_wait_s: float = 0.0,
    lock: DirectoryLock | None = None,
    writer_wait_s: float = WRITER_WAIT_S,
) -> MergeResult:
    """Write the full that a plan describes; nothing exists of it until all is verified.

    Parameters
    ----------
    plan
        From `plan_merge`.
    jobs
        Tasks at a time; None for one a core, fewer where the plan's memory asks for it.
    executor
        Runs the tasks instead of local threads, as the same user; they and their results are
        picklable.
    progress
        Told of phases and bytes.
    bwlimit
        Bytes a second that may be moved, or None.
    lock_wait_s
        Seconds to wait for another ckptctl on the destination's directory.
    lock
        The lock that the caller holds already, if any.
    writer_wait_s
        Seconds to wait for the end of a trainer's save before a state file is changed.

    Raises
    ------
    LockedError
        Another ckptctl works on the directory.
    ChangedError
        A source changed or went since the plan was made; nothing was written.
    RefusedError
        A trainer kept writing; the new full is complete, and no state file was changed.
    DamageError
        A source does not match its checksums, or the result could not be read back.
    UnprovenError
        New keys lack rows in some members (`restore.md`, rule 9).
    """
    began = time.monotonic()
    if plan.nothing_to_do is not None and not plan.unfinished:
        return _nothing_done(plan, False, Outcome())
    limit = jobs or os.cpu_count() or 1
    runner = Runner(min(limit, plan.jobs or limit), executor, progress, bwlimit)
    outcome = Outcome()
    try:
        held = lock_directories(_locked(plan), lock_wait_s, lock, progress)
        with held as locks, _sources(plan, locks):
            locks.check()
            for directory in _locked(plan):
                outcome.warnings += sweep_temporaries(directory, plan.storage)
            _remove_leftovers(plan)
            if plan.nothing_to_do is not None:
                listed = _update_state(plan, outcome, locks, writer_wait_s, progress)
                return _nothing_done(plan, listed, outcome)
            _check_still_so(plan)
            state = open_state(
                plan.base.prefix,
                [source.prefix for source in plan.increments],
                plan.options,
                plan.storage,
            )
            try:
                size = _write(plan, state, runner, outcome, locks)
            finally:
                state.close()
            if plan.verify:  # so that `prune` need not read it once more
                remember_verified(plan.destination, plan.storage)
            listed = _update_state(plan, outcome, locks, writer_wait_s, progress)
    finally:
        progress.finish()
    return MergeResult(
        prefix=plan.destination,
        step=plan.step,
        bytes=size,
        keys=outcome.keys,
        keys_new=outcome.keys_new,
        keys_replaced=outcome.keys_replaced,
        rows_replaced=outcome.rows_replaced,
        seconds=time.monotonic() - began,
        peak_rss_bytes=_peak(),
        verified=plan.verify,
        state_file_updated=listed,
        warnings=(*plan.warnings, *outcome.warnings),
    )


def _nothing_done(plan: MergePlan, listed: bool, outcome: Outcome) -> MergeResult:
    told = (*plan.warnings, *outcome.warnings)
    return MergeResult(
        plan.base.prefix, plan.step, 0, 0, 0, 0, 0, 0.0, _peak(), False, listed, told
    )


def _locked(plan: MergePlan) -> set[str]:
    """Return the destination's directory, and the source's where its state files change."""
    directories = {os.path.dirname(plan.destination) or "."}
    if plan.relocate:
        directories.add(plan.directory)
    return directories


def _write(
    plan: MergePlan, state: State, runner: Runner, outcome: Outcome, locks: HeldLocks
) -> int:
    surveyed = survey_state(state, runner, plan.options)
    outcome.count(surveyed)
    surveys = surveyed.parts
    layout = lay_out(state, surveys)
    storage, ahead = plan.storage, _ahead(plan)
    name = os.path.basename(plan.destination)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    trash = os.path.join(os.path.dirname(plan.destination), TRASH_DIRECTORY)
    if plan.replaces:  # not only once everything is written
        check_no_link(trash, storage)
    pending = PendingBundle(
        plan.destination,
        len(layout.sizes),
        storage,
        storage.stat(index_path(plan.base.prefix)),
        _provenance(plan),
        like_files={path[len(plan.base.prefix) :]: path for path, _ in plan.base.files},
        not_before_ns=ahead.dated_ns if ahead is not None else 0,
        replaces=plan.replaces,
        trash=os.path.join(trash, f"{name}.{stamp}.{os.getpid()}"),
    )

    def look() -> None:
        locks.check()
        _check_still_so(plan)

    try:
        return write_state(
            state,
            layout,
            surveys,
            pending,
            _merged(plan, state, ahead),
            runner,
            outcome,
            verify=plan.verify,
            side=_checked_side_files(plan, runner),
            before_commit=look,
            # Stopped for hours since then, we would bring a dead timeline back. But what is
            # replaced is in the trash by now, and missing where it lay.
            before_index=locks.check if plan.replaces else look,
        )
    except BaseException:
        pending.abort()
        raise


def _ahead(plan: MergePlan) -> Ahead | None:
    """Return how the result is to be dated where the trainer's clock is ahead of ours.

    What it is made from would seem to be written after it, as by a run that was set back, and it
    would be abandoned.
    """
    info = plan.storage.stat(os.path.join(plan.directory, "checkpoint"))
    state_ns, now = info.mtime_ns if info is not None else 0, time.time_ns()
    found = [info.mtime_ns for each in (plan.base, *plan.increments) for _, info in each.files]
    newest = max(state_ns, *found)
    return Ahead(newest, now, state_ns) if newest > now else None


def _merged(plan: MergePlan, state: State, ahead: Ahead | None) -> bytes | None:
    """Return the content of `ckptctl/merged`: what the result stands in for."""
    if not plan.increments:  # a copy is what its source is
        merged = state.full.get(MERGED_TENSOR)
        return state.full.read_scalar_string(MERGED_TENSOR) if merged is not None else None
    facts: dict[str, Any] = {"version": 1, "base_step": plan.base_step, "up_to": plan.step}
    facts |= {"mode": plan.mode, **({"ahead": list(ahead)} if ahead is not None else {})}
    facts |= {"instead": plan.instead} if plan.instead is not None else {}
    facts |= {"last_id": plan.last_id} if plan.last_id is not None else {}
    facts |= {"applied_to": plan.base.step} if plan.base.step != plan.base_step else {}
    if plan.rows is not None:
        facts["rows"] = dict(plan.rows)
    return json.dumps(facts, sort_keys=True).encode()


def _provenance(plan: MergePlan) -> dict[str, Any]:
    """Return what the provenance file says, beside what marks a killed run's files."""
    return {
        "schema": "ckptctl.merged/1",
        "version": ckptctl.__version__,
        "step": plan.step,
        "base_step": plan.base_step,
        "mode": plan.mode,
        "base": _source_facts(plan, plan.base),
        "increments": [_source_facts(plan, source) for source in plan.increments],
        "options": plan.overrides,
        # What a trainer's Saver drops from the state file later is put back (`settle`).
        "listed": plan.update_state,
        # Seconds since 1970: the files are of today, what they hold is not.
        "saved": plan.saved_s,
    }


def _source_facts(plan: MergePlan, source: Source) -> dict[str, Any]:
    file = plan.storage.open(index_path(source.prefix))
    try:
        crc = crc32c(file.pread(0, file.size))
    finally:
        file.close()
    return {
        "name": source.name,
        "step": source.step,
        "bytes": source.bytes,
        "index_crc32c": f"{crc:08x}",
    }


@contextmanager
def _sources(plan: MergePlan, locks: HeldLocks) -> Iterator[None]:
    """Tell a file that vanished or changed under us from damage and from what never was."""
    try:
        yield
    except (DamageError, NotFoundError, OSError):
        locks.check()  # whoever took our lease removes what we wrote
        _check_sources(plan)
        raise


def _check_sources(plan: MergePlan) -> None:
    sources = (plan.base, *plan.increments)
    changed = find_changed(sources, plan.storage, since="the merge was planned")
    if changed is not None:
        raise changed


def _check_still_so(plan: MergePlan) -> None:
    """Check that the sources are what they were, and what the plan took them for.

    A run may be rolled back while we write for hours: what we read is then of a dead
    timeline, and must not become the newest full.
    """
    _check_sources(plan)
    chains = find_chains(scan_directory(plan.directory, plan.storage), plan.options.assume_order)
    live = {
        checkpoint.prefix
        for checkpoint in (*chains.scan.fulls, *chains.scan.increments)
        if chains.is_live(checkpoint)
    }
    for source in plan.increments or (plan.base,):
        if source.prefix not in live:
            raise ChangedError(
                f"{source.name} was abandoned since the merge was planned",
                file=source.prefix,
                remedy="the trainer was rolled back: run the merge again",
            )
    if plan.increments and plan.options.base is None:
        last = next(i for i in chains.scan.increments if i.prefix == plan.increments[-1].prefix)
        base = chains.base_of(last).base
        if base is None or base.prefix != plan.base.prefix:
            raise ChangedError(
                f"{last.name} has another base since the merge was planned",
                file=last.prefix,
                expected=plan.base.prefix,
                found=base.prefix if base is not None else "none that is proven",
                remedy="run the merge again",
            )


def _remove_leftovers(plan: MergePlan) -> None:
    """Remove what a killed run left behind, now that the lock says that none is running."""
    storage = plan.storage
    index = index_path(plan.destination)
    exists = storage.stat(index, follow=False) is not None
    if exists and not plan.replaces and plan.nothing_to_do is None:
        raise ChangedError(
            "the destination came into being since the merge was planned",
            file=index,
            remedy="another run was faster: ckptctl ls shows what is there now",
        )
    directory = os.path.dirname(plan.destination)
    temporaries = own_temporaries(plan.destination, storage)
    # A trainer may have saved under that name while we waited for the lock or for a yes.
    ours = {plan.destination + MARK_SUFFIX, *own_files(plan.destination, storage)}
    for name in plan.leftovers:  # the mark is the last of them
        path = os.path.join(directory, name)
        info = storage.stat(path, follow=False)
        if info is None:
            continue
        if name not in temporaries and path not in ours and not info.is_dir:
            raise ChangedError(
                "what a killed run left behind was replaced since the merge was planned",
                file=path,
                remedy="a trainer may have saved there: ckptctl ls shows what is there now",
            )
        if not info.is_dir:
            storage.remove(path, within=directory)
            continue
        if name in temporaries:
            for inner in storage.listdir(path):
                storage.remove(os.path.join(path, inner.name), within=directory)
        storage.rmdir(path)


def _checked_side_files(plan: MergePlan, runner: Runner) -> list[tuple[str, int, str]]:
    """Return the side files of the base; bundles among them match their own checksums."""
    found = plan.base.side_files
    for path, _, suffix in found:
        if suffix.endswith("-ssd_record.index"):
            with BundleReader(path.removesuffix(".index"), plan.storage) as reader:
                reader.check_shards()
                tensors = tuple((name, entry) for _, name, entry in reader.data_entries())
                for _ in runner.map([(None, CheckTask(reader, tensors))]):
                    pass
    return found


def _update_state(
    plan: MergePlan, outcome: Outcome, locks: HeldLocks, wait_s: float, progress: Progress
) -> bool:
    directory = os.path.dirname(plan.destination) or "."
    progress = progress.unstoppable()  # the full is there: it is to be listed
    rooms = (plan.directory, *([directory] if plan.update_state else []))  # as the plan told
    for room in dict.fromkeys(rooms) if plan.relocate else ():
        wait_for_writer(room, wait_s, progress=progress, storage=plan.storage)
        locks.check()
        relocate_state_files(room, plan.storage)
    if not plan.update_state:
        return False
    # What a Saver does when its save ends is to rewrite the state file without the new full.
    remedy = "the new full is complete; run the merge again to list it, or with --writer-wait"
    wait_for_writer(directory, wait_s, progress=progress, storage=plan.storage, remedy=remedy)
    locks.check()
    name = os.path.basename(plan.destination)
    order = plan.options.assume_order
    made = plan.makes_state
    why = update_state_file(directory, name, plan.saved_s, plan.storage, order, make=made)
    if why:
        outcome.warnings.append(f"{name} is not listed: {why}")
    chains = find_chains(scan_directory(directory, plan.storage), order)
    kept = tell_kept_line(chains.scan, name) if why is None else ()
    if made and why == "":  # another full was saved meanwhile
        kept = tell_unmade(chains.scan, name, find_hidden(chains.scan, name))
    found = (*kept, *tell_mixture(chains))
    outcome.warnings += [told for told in found if told not in plan.warnings]
    return why is None


def _peak() -> int:
    """Return the peak memory of this process in bytes.

    `getrusage` would do, but its maximum survives an exec and so takes in whatever started
    us.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
