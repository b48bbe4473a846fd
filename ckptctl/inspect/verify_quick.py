"""What names, sizes, state files and indexes tell: the findings that read no data."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import pairwise

from ckptctl.bundle import BundleReader
from ckptctl.chain import Chains, Checkpoint, split_step
from ckptctl.errors import CkptctlError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.storage import Storage
from ckptctl.tables import find_tables, part_components

__all__ = ["check_bundle", "check_checkpoint", "check_directory"]

#: Problem code of `Chains` -> finding.
_PROBLEMS = {
    "ambiguous": "CK029",
    "abandoned": "CK025",
    "misnamed": "CK032",
    "orphan": "CK028",
    "unproven": "CK027",
    "idle": "CK026",
    "zero-rows": "CK033",
    "not-nested": "CK024",
}
_DIRECTORY = {"copied": "CK022", "listed-gone": "CK021", "state-file": "CK011"}


def check_directory(chains: Chains) -> Iterator[Finding]:
    """Return what is wrong with state files, links between checkpoints, and leftovers."""
    scan = chains.scan
    orphans = {problem for orphan in chains.orphans for problem in chains.problems_of(orphan)}
    for problem in chains.problems:
        if problem in orphans or problem.code == "state-file":
            continue
        code = _DIRECTORY.get(problem.code, "CK034")
        yield Finding(code, problem.message, _file_of(problem.message, scan.directory))
    for state in (scan.full_state, scan.increment_state):
        if state.error is not None:
            yield of_error(state.error, state.path)
    for state, found in (
        (scan.full_state, scan.fulls),
        (scan.increment_state, scan.increments),
    ):
        if found and not state.present:
            count = f"{len(found)} checkpoints, the last {found[-1].name}"
            yield Finding("CK020", "there is no state file", state.path, found=count)
    for leftover in chains.leftovers:
        if not leftover.foreign:
            yield Finding("CK031", f"left behind: {leftover.reason}", leftover.path)
    for increment in scan.increments:
        yield from _lineage(chains, increment)


def check_checkpoint(chains: Chains, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Return what is wrong with one checkpoint, its index and the sizes of its files."""
    index = f"{checkpoint.prefix}.index"
    if checkpoint.damage is not None:
        yield of_error(checkpoint.damage, index)
        return
    directory = os.path.dirname(checkpoint.prefix)
    for name in checkpoint.missing:
        path = os.path.join(directory, name)
        yield Finding("CK008", "data shard missing", path, found="no such file")
    for name, need, has in checkpoint.short:
        path = os.path.join(directory, name)
        sizes = f">= {need} bytes", f"{has} bytes"
        yield Finding("CK009", "data shard cut short", path, None, has, *sizes)
    for problem in chains.problems_of(checkpoint):
        if problem.code in _PROBLEMS:
            yield Finding(_PROBLEMS[problem.code], problem.message, index)


def check_bundle(prefix: str, increment: bool, storage: Storage) -> Iterator[Finding]:
    """Return what entries, shapes and names of one bundle contradict."""
    reader = BundleReader(prefix, storage)
    try:
        for name, entry in reader.tensors.items():
            if entry.slices and not entry.is_hash_table:
                for slice_ in entry.slices:
                    reader.slice_entry(name, slice_)
        yield from _overlaps(reader)
    except CkptctlError as error:
        yield of_error(error, reader.index_path)
        return
    finally:
        reader.close()
    catalogue = find_tables(reader.tensors, increment=increment)
    for ev in catalogue.ev_sets.values():
        if ev.problem:
            yield Finding("CK012", ev.problem, reader.index_path, ev.name, ev.keys.offset)
    for name, rows in catalogue.rows.items():
        if rows.problem:
            yield Finding("CK012", rows.problem, reader.index_path, name, rows.keys.offset)
    yield from _scopes([*catalogue.ev_sets, *catalogue.rows], reader.index_path)


def _overlaps(reader: BundleReader) -> Iterator[Finding]:
    entries = [(e.shard, e.offset, e.end, name) for _, name, e in reader.data_entries() if e.size]
    entries.sort()
    for before, after in pairwise(entries):
        if before[0] == after[0] and after[1] < before[2]:
            yield Finding(
                "CK010",
                f"lies over the bytes of {before[3]}",
                reader.shard_path(after[0]),
                after[3],
                after[1],
                f"offset >= {before[2]}",
                str(after[1]),
            )


def _scopes(names: Iterable[str], path: str) -> Iterator[Finding]:
    """Find names in which the first `part_<n>` is not the one that parts differ in."""
    every = set(names)
    for name in sorted(every):
        components = part_components(name)
        if len(components) < 2:
            continue
        first = components[0]
        others = [f"{first[0]}/part_{n}/{first[2]}".strip("/") for n in (0, 1)]
        if not all(other in every for other in others):
            message = "DeepRec takes the first part_ of this name for its part"
            read = f"part {first.number} of {first.whole}"
            yield Finding("CK030", message, path, name, None, "one part_<n> in a name", read)


def _lineage(chains: Chains, increment: Checkpoint) -> Iterator[Finding]:
    lineage = increment.lineage
    if lineage is None or not chains.is_live(increment):
        return
    fulls = {full.step for full in chains.scan.fulls}
    fulls |= {full.merged.base_step for full in chains.scan.fulls if full.merged is not None}
    index = f"{increment.prefix}.index"
    if lineage.base_step not in fulls:
        yield Finding(
            "CK023",
            f"{increment.name} was recorded on a full that is not here",
            index,
            "ckptctl/lineage",
            None,
            f"a full at step {lineage.base_step}",
            "none",
        )
    here = {other.step for other in chains.scan.increments}
    covered = any(
        full.merged is not None and full.merged.up_to >= (lineage.previous_step or 0)
        for full in chains.scan.fulls
    )
    before = lineage.previous_step
    if lineage.mode == "delta" and before is not None and before not in here and not covered:
        yield Finding(
            "CK023",
            f"{increment.name} continues an increment that is not here",
            index,
            "ckptctl/lineage",
            None,
            f"an increment at step {before}",
            "none",
        )


def _file_of(message: str, directory: str) -> str:
    """Return the state file that a message begins with, else the directory."""
    first = message.split(" ", 1)[0]
    return first if first.startswith(directory) and split_step(first) is None else directory
