"""What a merge would do: everything that can be known before the first byte is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import (
    Chains,
    Checkpoint,
    ProvenPairs,
    Scan,
    find_chains,
    scan_directory,
    split_step,
    telling_what_vanished,
)
from ckptctl.chain.nested import count_rows, is_cumulative
from ckptctl.errors import ChangedError
from ckptctl.merge.destination import (
    choose_destination,
    look_at_destination,
    own_temporaries,
    scan_listable,
)
from ckptctl.merge.estimate import fit_memory, most_rows
from ckptctl.merge.lead import tell_kept_line, tell_mixture, tell_unmade
from ckptctl.merge.relocate import check_copied, check_relocatable, to_relocate
from ckptctl.merge.settle import is_unlisted
from ckptctl.merge.state_file import find_hidden
from ckptctl.merge.sweep import to_sweep
from ckptctl.merge.write import lay_out
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.restore import RestoreOptions, State, open_state
from ckptctl.restore.nested import check_nested
from ckptctl.restore.select import Selection, select, tell_overruled
from ckptctl.storage import LOCAL, FileInfo, Storage, check_space

__all__ = ["MergePlan", "plan_merge"]

#: Looks at a directory in which a trainer deletes what we are about to read.
_ATTEMPTS = 3


class Source(NamedTuple):
    """A checkpoint that a merge reads, as it was when the merge was planned."""

    kind: str
    step: int
    name: str
    prefix: str
    bytes: int
    files: tuple[tuple[str, FileInfo], ...]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Source:
        """Return the source that a checkpoint is."""
        return cls(
            checkpoint.kind,
            checkpoint.step,
            checkpoint.name,
            checkpoint.prefix,
            checkpoint.bytes,
            checkpoint.files,
        )

    @property
    def side_files(self) -> list[tuple[str, int, str]]:
        """Its `.meta` and SSDHASH side files: path, bytes, and what follows the prefix."""
        found = [(path, info.size, path[len(self.prefix) :]) for path, info in self.files]
        return [each for each in found if not each[2].startswith((".index", ".data-", MARK_SUFFIX))]

    def to_json(self) -> dict[str, Any]:
        """Return what a user wants to know of it."""
        return {
            "kind": self.kind,
            "step": self.step,
            "name": self.name,
            "prefix": self.prefix,
            "bytes": self.bytes,
        }


class TableSummary(NamedTuple):
    """One table of a plan: rows of the full's primary, and rows that increments bring."""

    name: str
    parts: int
    members: tuple[str, ...]
    dim: int
    rows: int
    incoming: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {**self._asdict(), "members": list(self.members)}


class MergePlan(NamedTuple):
    """A merge that passed every check that needs no key of the full.

    Attributes
    ----------
    directory, step
        The checkpoint directory and the step of the state.
    base, increments
        What is read: the full, and the increments oldest first.
    base_reason
        How the base is known.
    destination
        Prefix of the result.
    nothing_to_do
        Why there is nothing to merge, or None.
    update_state, makes_state
        Whether the state file of the destination's directory is updated; whether there is none,
        and it is made.
    relocated
        State files whose paths become relative.
    shards, tensors
        Data shards and tensors of the result.
    bytes_to_read, bytes_to_write
        Bytes of the sources, and at most of the result.
    memory_bytes
        Estimate of the peak memory with `jobs` tasks at a time.
    jobs
        Tasks at a time that `--memory` allows; None for no limit.
    tables
        The tables.
    warnings, overrides
        What a user should know, and the options that overrule a check.
    leftovers
        Names of what earlier runs that were killed left behind, which is removed first.
    replaces
        Files of an older bundle at the destination.
    unfinished
        What is to be done though there is nothing to merge: what an earlier run that was
        killed did not come to, or `relocate`.
    base_step
        What the result says of its origin: the full that its increments were recorded on.
    mode
        Mode of the increments.
    rows
        Rows of the newest increment, by sparse tensor (`chain.nested.count_rows`); None for
        one that holds only what changed since the one before.
    saved_s
        When the newest source was saved, in seconds since 1970.
    instead
        Name of the full above it that the state file names and that is lost or broken: the result
        will be named instead of it.
    last_id
        What tells the newest increment from others at its step (`Lineage.id`).
    """

    directory: str
    step: int
    base: Source
    increments: tuple[Source, ...]
    base_reason: str
    destination: str
    options: RestoreOptions
    nothing_to_do: str | None = None
    update_state: bool = True
    makes_state: bool = False
    overwrite: bool = False
    relocate: bool = False
    relocated: tuple[str, ...] = ()
    verify: bool = True
    shards: int = 0
    tensors: int = 0
    bytes_to_read: int = 0
    bytes_to_write: int = 0
    memory_bytes: int = 0
    jobs: int | None = None
    tables: tuple[TableSummary, ...] = ()
    warnings: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    replaces: tuple[FileInfo, ...] = ()
    unfinished: tuple[str, ...] = ()
    base_step: int = 0
    mode: str = "cumulative"
    rows: Mapping[str, int] | None = None
    saved_s: float = 0.0
    instead: str | None = None
    last_id: str | None = None
    storage: Storage = LOCAL

    @property
    def overrides(self) -> list[str]:
        """Options that overrule a check."""
        return self.options.overrides()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as one JSON object."""
        state_file = os.path.join(os.path.dirname(self.destination), "checkpoint")
        return {
            "directory": self.directory,
            "step": self.step,
            "nothing_to_do": self.nothing_to_do,
            "base": self.base.to_json(),
            "base_reason": self.base_reason,
            "increments": [source.to_json() for source in self.increments],
            "destination": self.destination,
            "shards": self.shards,
            "tensors": self.tensors,
            "bytes_to_read": self.bytes_to_read,
            "bytes_to_write": self.bytes_to_write,
            "memory_bytes": self.memory_bytes,
            "tables": [table.to_json() for table in self.tables],
            "warnings": list(self.warnings),
            "overrides": self.overrides,
            "verify": self.verify,
            "overwrite": self.overwrite,
            "replaces": [info.name for info in self.replaces],
            "leftovers": list(self.leftovers),
            "unfinished": list(self.unfinished),
            "state_file": state_file if self.update_state else None,
            "makes_state_file": self.makes_state,
            "relocate": self.relocate,
            "relocated": list(self.relocated),
        }


def plan_merge(
    directory: str,
    upto: int | None = None,
    output: str | None = None,
    options: RestoreOptions | None = None,
    *,
    overwrite: bool = False,
    relocate: bool = False,
    verify: bool = True,
    update_state: bool | None = None,
    memory: int | None = None,
    jobs: int | None = None,
    remember: bool = True,
    progress: Progress = NO_PROGRESS,
    storage: Storage = LOCAL,
) -> MergePlan:
    """Plan to fold a full and its increments into a new full.

    Reads indexes, and for the nested check (`restore.md`, check 1) the increments' keys.

    Parameters
    ----------
    directory
        The checkpoint directory.
    upto
        Step of the state; None for the newest restore point.
    output
        Prefix of the result; None for `<base name>-<step>` beside the base.
    options
        Overrides of the restore rules.
    overwrite
        An existing result is moved to `.ckptctl-trash/` once the new one is verified.
    relocate
        Rewrite paths in state files as relative.
    verify
        Read the result back before it exists.
    update_state
        Put the result into the state file; None does so exactly without `output`. True makes
        the state file where there is none, unless it would hide another full.
    memory
        Bytes that the merge may take; fewer tasks at a time are run to keep below.
    jobs
        Tasks at a time; None for one a core.
    remember
        Note proven pairs of increments in the user's cache directory.
    progress
        Told of the nested check, the one long phase.

    Raises
    ------
    NotFoundError
        No such directory, step or restore point.
    StateFileError
        The state file that is to list the result does not parse, or one that is to be relocated.
    RefusedError
        A check of the restore rules does not hold, the destination exists, the disk is too
        full, or the memory too little.
    DamageError
        What would be read contradicts itself.
    ChangedError
        A trainer kept deleting what was to be read.
    """

    def attempt() -> MergePlan:
        scan = scan_directory(directory, storage)
        with telling_what_vanished(scan, storage):
            return _plan(
                scan,
                upto,
                output,
                options or RestoreOptions(),
                overwrite=overwrite,
                relocate=relocate,
                verify=verify,
                update_state=update_state,
                memory=memory,
                jobs=jobs,
                remember=remember,
                progress=progress,
                storage=storage,
            )

    for _ in range(_ATTEMPTS - 1):
        with suppress(ChangedError):
            return attempt()
    return attempt()


def _plan(
    scan: Scan,
    upto: int | None,
    output: str | None,
    options: RestoreOptions,
    *,
    overwrite: bool,
    relocate: bool,
    verify: bool,
    update_state: bool | None,
    memory: int | None,
    jobs: int | None,
    remember: bool,
    progress: Progress,
    storage: Storage,
) -> MergePlan:
    directory = scan.directory
    proven = ProvenPairs(scan, keep=remember)
    chains = find_chains(scan, options.assume_order, proven_nested=proven)
    chosen = select(chains, upto, options)
    in_place = output is None
    destination = choose_destination(chosen, output, storage)
    update = in_place if update_state is None else update_state
    check_copied(chains, in_place or update, relocate)
    if relocate:
        check_relocatable(scan, storage)
    there = scan
    if update and not in_place:
        there = scan_listable(destination, chosen, relocate, storage)
    name = os.path.basename(destination)
    absent = update_state is True and not there.full_state.present
    hidden = find_hidden(there, name) if absent else ()
    makes = absent and not hidden
    kept = tell_unmade(there, name, hidden)
    relocated = dict.fromkeys((*to_relocate(scan), *to_relocate(there))) if relocate else ()
    common: dict[str, Any] = {
        "directory": directory,
        "step": chosen.step,
        "base": Source.of(chosen.base),
        "increments": tuple(Source.of(item) for item in chosen.increments),
        "base_reason": chosen.base_reason,
        "destination": destination,
        "options": options,
        "update_state": update,
        "makes_state": makes,
        "overwrite": overwrite,
        "relocate": relocate,
        "relocated": tuple(relocated),
        "verify": verify,
        "saved_s": _saved(chosen),
        "storage": storage,
    }
    if not chosen.increments and in_place:
        todo, leftovers = _unfinished(chains, chosen.base, relocate, storage)
        done = f"{chosen.base.name} is already a full"
        told = (*chosen.notes, *kept, *tell_mixture(chains))
        if makes or (update and is_unlisted(chosen.base, chains, asked=update_state is True)):
            new = "a new" if makes else "the"
            todo = (*todo, f"{chosen.base.name} is entered into {new} state file")
            told = (*told, *tell_kept_line(scan, chosen.base.name))
        elif update and is_unlisted(chosen.base, chains, asked=True):
            done += ", and not in the state file: --update-state enters it"
        return MergePlan(
            **common,
            nothing_to_do=done,
            warnings=told,
            leftovers=leftovers,
            unfinished=todo,
        )
    if update and there.full_state.error is not None:  # not only once all is written
        raise there.full_state.error
    kept += tell_kept_line(scan, name) if update and in_place else ()
    overruled = tell_overruled(chains, chosen, options)
    found = look_at_destination(destination, overwrite, chains, chosen, storage)
    check_nested(
        chosen.base.prefix,
        chosen.to_prove,
        proven,
        storage,
        progress=progress,
        chains=chains,
    )
    state = open_state(
        chosen.base.prefix, [item.prefix for item in chosen.increments], options, storage
    )
    try:
        lineage = chosen.increments[-1].lineage if chosen.increments else None
        layout = lay_out(state, most_rows(state))
        size = layout.nbytes + sum(size for _, size, _ in common["base"].side_files)
        allowed, need = fit_memory(state, jobs or os.cpu_count() or 1, memory)
        check_space(destination, size, storage)
        return MergePlan(
            **common,
            shards=len(layout.sizes),
            tensors=len(layout.tensors) + len(state.whole_entries()),
            bytes_to_read=chosen.base.bytes + sum(item.bytes for item in chosen.increments),
            bytes_to_write=size,
            memory_bytes=need,
            jobs=allowed,
            tables=_summaries(state),
            warnings=(*chosen.notes, *overruled, *state.notes, *kept),
            leftovers=found.leftovers,
            replaces=found.replaces,
            base_step=_base_step(chosen, options),
            mode=lineage.mode if lineage is not None else "cumulative",
            rows=_rows(chosen),
            instead=_instead(chains, chosen.step) if update else None,
            last_id=lineage.id if lineage is not None else None,
        )
    finally:
        state.close()


def _unfinished(
    chains: Chains, full: Checkpoint, relocate: bool, storage: Storage
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a merge that was killed after its commit left to do, and to remove."""
    todo = []
    if relocate and to_relocate(chains.scan):
        todo.append("paths in the state files become relative")
    leftovers = own_temporaries(full.prefix, storage)
    swept = {**to_sweep(chains.scan), **dict.fromkeys(leftovers, "removed")}
    todo += [f"{name}, left behind by a killed run, is {what}" for name, what in swept.items()]
    return tuple(todo), leftovers


def _summaries(state: State) -> tuple[TableSummary, ...]:
    return tuple(
        TableSummary(
            table.name,
            table.num_parts,
            tuple(member.slot for member in table.members),
            table.members[0].parts[0].dim,
            sum(ev.rows for ev in table.members[0].parts),
            sum(item[1].rows for item in table.members[0].incoming),
        )
        for table in state.tables
    )


def _base_step(chosen: Selection, options: RestoreOptions) -> int:
    """Return the step of the full that the increments were recorded against."""
    last: Sequence[Checkpoint] = chosen.increments[-1:]
    if options.base is None and last and last[0].lineage is not None:
        return last[0].lineage.base_step
    merged = chosen.base.merged
    return merged.base_step if merged is not None else chosen.base.step


def _saved(chosen: Selection) -> float:
    last = (chosen.base, *chosen.increments)[-1]
    return last.saved_s or last.mtime_ns / 1e9


def _rows(chosen: Selection) -> Mapping[str, int] | None:
    last = chosen.increments[-1] if chosen.increments else None
    return count_rows(last.contents) if last is not None and is_cumulative(last) else None


def _instead(chains: Chains, step: int) -> str | None:
    """Return what a merge up to a step takes the lead from (`Merged.instead`)."""
    named = chains.timelines.order.scan.full_state.latest or ""
    parts = split_step(named)
    here = any(full.name == named and full.complete for full in chains.scan.fulls)
    return named if parts is not None and parts[1] > step and not here else None
