"""Doing what a merge plan says: write, verify, commit, update the state file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ckptctl
from ckptctl.bundle import index_path
from ckptctl.bundle.checksum import crc32c
from ckptctl.bundle.commit import MARK_SUFFIX, PendingBundle
from ckptctl.chain import MERGED_TENSOR, scan_directory
from ckptctl.errors import ChangedError, MissingShardError, NotFoundError
from ckptctl.merge.plan import MergePlan, Source
from ckptctl.merge.run import Runner
from ckptctl.merge.state_file import relocate_state_files, update_state_file
from ckptctl.merge.write import Outcome, lay_out, survey_state, write_state
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore import State, open_state
from ckptctl.storage.lock import directory_lock

__all__ = ["TRASH_DIRECTORY", "MergeResult", "execute_merge"]

TRASH_DIRECTORY = ".ckptctl-trash"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class MergeResult:
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
        return {**self.__dict__, "warnings": list(self.warnings)}


def execute_merge(
    plan: MergePlan,
    *,
    jobs: int | None = None,
    executor: Executor | None = None,
    progress: Progress = NO_PROGRESS,
    bwlimit: int | None = None,
    lock_wait_s: float = 0.0,
) -> MergeResult:
    """Write the full that a plan describes; nothing exists of it until all is verified.

    Parameters
    ----------
    plan
        From `plan_merge`.
    jobs
        Tasks at a time; None for one a core, fewer where the plan's memory asks for it.
    executor
        Runs the tasks instead of local threads; they and their results are picklable.
    progress
        Told of phases and bytes.
    bwlimit
        Bytes a second that may be moved, or None.
    lock_wait_s
        Seconds to wait for another ckptctl on the destination's directory.

    Raises
    ------
    LockedError
        Another ckptctl works on the directory.
    ChangedError
        A source changed or went since the plan was made; nothing was written.
    DamageError
        A source does not match its checksums, or the result could not be read back.
    UnprovenError
        New keys lack rows in some members (`restore.md`, rule 9).
    """
    began = time.monotonic()
    if plan.nothing_to_do is not None:
        return MergeResult(plan.base.prefix, plan.step, 0, 0, 0, 0, 0, 0.0, _peak(), False, False)
    limit = jobs or os.cpu_count() or 1
    runner = Runner(min(limit, plan.jobs or limit), executor, progress, bwlimit)
    outcome = Outcome()
    directory = os.path.dirname(plan.destination)
    try:
        with directory_lock(directory or ".", lock_wait_s), _sources(plan):
            _check_sources(plan)
            _remove_leftovers(plan)
            state = open_state(
                plan.base.prefix,
                [source.prefix for source in plan.increments],
                plan.options,
                plan.storage,
            )
            try:
                size = _write(plan, state, runner, outcome)
            finally:
                state.close()
            listed = _update_state(plan)
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


def _write(plan: MergePlan, state: State, runner: Runner, outcome: Outcome) -> int:
    surveys = survey_state(state, runner, plan.options, outcome)
    layout = lay_out(state, surveys)
    index = plan.storage.stat(index_path(plan.base.prefix))
    pending = PendingBundle(
        plan.destination,
        len(layout.sizes),
        plan.storage,
        index,
        _mark(plan),
        late_mark=bool(plan.replaces),
    )
    try:

        def before_commit() -> None:
            _check_sources(plan)
            _copy_side_files(plan, pending, runner)
            _make_way(plan)

        return write_state(
            state,
            layout,
            surveys,
            pending,
            _merged(plan, state),
            runner,
            outcome,
            verify=plan.verify,
            before_commit=before_commit,
        )
    except BaseException:
        pending.abort()
        raise


def _merged(plan: MergePlan, state: State) -> bytes | None:
    """Return the content of `ckptctl/merged`: what the result stands in for."""
    if not plan.increments:  # a copy is what its source is
        merged = state.full.get(MERGED_TENSOR)
        return state.full.read_scalar_string(MERGED_TENSOR) if merged is not None else None
    facts = {"version": 1, "base_step": plan.base_step, "up_to": plan.step, "mode": plan.mode}
    return json.dumps(facts, sort_keys=True).encode()


def _mark(plan: MergePlan) -> bytes:
    """Return the provenance file, which also marks what a killed run leaves behind."""
    facts = {
        "schema": "ckptctl.merged/1",
        "version": ckptctl.__version__,
        "step": plan.step,
        "base_step": plan.base_step,
        "mode": plan.mode,
        "temporaries": f"{os.path.basename(plan.destination)}_temp_<32 hex digits>/",
        "base": _provenance(plan, plan.base),
        "increments": [_provenance(plan, source) for source in plan.increments],
        "options": plan.overrides,
    }
    return json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"


def _provenance(plan: MergePlan, source: Source) -> dict[str, Any]:
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
def _sources(plan: MergePlan) -> Iterator[None]:
    """Tell a file that vanished under us from one that was never there."""
    try:
        yield
    except (MissingShardError, NotFoundError):
        _check_sources(plan)
        raise


def _check_sources(plan: MergePlan) -> None:
    for source in (plan.base, *plan.increments):
        for path, info in source.files:
            now = plan.storage.stat(path, follow=False)
            if now is None or now.identity != info.identity:
                raise ChangedError(
                    f"{source.name} {'is gone' if now is None else 'changed'} since the merge "
                    "was planned",
                    file=path,
                    remedy="a trainer may have cleaned up or saved again: run the merge again",
                )


def _remove_leftovers(plan: MergePlan) -> None:
    """Remove what a killed run left behind, now that the lock says that none is running."""
    index = index_path(plan.destination)
    if not plan.replaces and plan.storage.stat(index, follow=False) is not None:
        raise ChangedError(
            "the destination came into being since the merge was planned",
            file=index,
            remedy="another run was faster: ckptctl ls shows what is there now",
        )
    directory = os.path.dirname(plan.destination)
    for name in plan.leftovers:  # the mark is the last of them
        path = os.path.join(directory, name)
        info = plan.storage.stat(path, follow=False)
        if info is not None and info.is_dir:
            for inner in plan.storage.listdir(path):
                plan.storage.remove(os.path.join(path, inner.name))
            plan.storage.rmdir(path)
        elif info is not None:
            plan.storage.remove(path)


def _copy_side_files(plan: MergePlan, pending: PendingBundle, runner: Runner) -> None:
    """Copy `.meta` and SSDHASH side files of the base under the new prefix."""
    storage = plan.storage
    for path, info in plan.base.files:
        suffix = path[len(plan.base.prefix) :]
        if suffix == MARK_SUFFIX or suffix == ".index" or suffix.startswith(".data-"):
            continue
        target = pending.extra(suffix)
        storage.create(target, info.size)
        source, out = storage.open(path), storage.open_write(target)
        try:
            for at in range(0, info.size, _COPY_BYTES):
                piece = source.pread(at, _COPY_BYTES)
                out.pwrite(at, piece)
                runner.progress.advance(0)
            out.fsync()
        finally:
            source.close()
            out.close()


def _make_way(plan: MergePlan) -> None:
    """Move what is replaced to the trash, its index first."""
    if not plan.replaces:
        return
    directory = os.path.dirname(plan.destination)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    trash = os.path.join(directory, TRASH_DIRECTORY)
    place = os.path.join(trash, f"{os.path.basename(plan.destination)}.{stamp}.{os.getpid()}")
    plan.storage.mkdir(trash)
    plan.storage.mkdir(place)
    for name in plan.replaces:
        plan.storage.rename(os.path.join(directory, name), os.path.join(place, name))
    plan.storage.fsync_dir(place)
    plan.storage.fsync_dir(directory or ".")


def _update_state(plan: MergePlan) -> bool:
    directory = os.path.dirname(plan.destination) or "."
    if plan.relocate:
        relocate_state_files(plan.directory, plan.storage)
    if not plan.update_state:
        return False
    last = plan.increments[-1] if plan.increments else plan.base
    when = max(info.mtime_ns for path, info in last.files if path.endswith(".index")) / 1e9
    scan = scan_directory(directory, plan.storage)
    return update_state_file(scan, os.path.basename(plan.destination), when, plan.storage)


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
