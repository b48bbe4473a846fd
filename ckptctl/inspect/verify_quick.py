"""What names, sizes, state files and indexes tell: the findings that read no data."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from math import prod

from ckptctl.bundle import BundleReader, Entry
from ckptctl.chain import Chains, Checkpoint
from ckptctl.errors import CkptctlError, RefusedError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.storage import Storage
from ckptctl.tables import BUCKETS, Catalogue, find_tables, is_slot_name, part_components

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
#: Ends of names that only tables have.
_OFFSETS = ("partition_offset", "incr_partition_offset", "partition_filter_offset")
#: More parts than any table has: `part_999999999` is a scope.
_MOST_PARTS = 1 << 16
_DIRECTORY = {
    "copied": "CK022",
    "moved": "CK036",
    "listed-gone": "CK021",
    "v1": "CK037",
    "state-file": "CK011",
    "increment-directory": "CK090",
}


def check_directory(chains: Chains) -> Iterator[Finding]:
    """Return what is wrong with state files, links between checkpoints, and leftovers."""
    scan = chains.scan
    orphans = {problem for orphan in chains.orphans for problem in chains.problems_of(orphan)}
    for problem in chains.problems:
        if problem in orphans or problem.code == "state-file":
            continue
        code = _DIRECTORY.get(problem.code, "CK034")
        yield Finding(code, problem.message, _file_of(problem.message, chains))
    for state in (scan.full_state, scan.increment_state):
        if state.error is not None:
            unread = isinstance(state.error.__cause__, RefusedError | OSError)
            yield of_error(state.error, state.path, "CK090" if unread else None)
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
    expected = {*checkpoint.shard_names}
    for info in checkpoint.shards:
        if info.name not in expected:
            path = os.path.join(directory, info.name)
            found = f"{len(expected)} in the index"
            yield Finding("CK035", "data shard of another save", path, found=found)
    # One of another name stands in no chain.
    for problem in chains.problems_of(checkpoint) if checkpoint.kind != "other" else ():
        if problem.code in _PROBLEMS:
            advice = chains.to_prove(checkpoint) if problem.code == "unproven" else None
            yield Finding(_PROBLEMS[problem.code], problem.message, index, advice=advice)


def check_bundle(prefix: str, increment: bool, storage: Storage) -> Iterator[Finding]:
    """Return what entries, shapes and names of one bundle contradict."""
    with BundleReader(prefix, storage) as reader:
        try:
            yield from _overlaps(reader)
        except CkptctlError:
            yield from _slices(reader)
    yield from _uncovered(reader)
    catalogue = find_tables(reader.tensors, increment=increment)
    for ev in catalogue.ev_sets.values():
        if ev.problem:
            yield Finding("CK012", ev.problem, reader.index_path, ev.name, ev.keys.offset)
        elif ev.filtered and ev.keys.dtype.name == "int32":
            message = f"{ev.filtered} filtered keys of 32 bits"
            yield Finding("CK015", message, reader.index_path, ev.name, None, "int64", "int32")
    for name, rows in catalogue.rows.items():
        if rows.problem:
            yield Finding("CK012", rows.problem, reader.index_path, name, rows.keys.offset)
    yield from _tables(catalogue, reader.index_path)
    yield from _scopes([*catalogue.ev_sets, *catalogue.rows], reader.index_path)


def _slices(reader: BundleReader) -> Iterator[Finding]:
    """Find tensors of which a slice is not in the index."""
    for name, entry in reader.tensors.items():
        error = _slice_error(reader, name, entry)
        if error is not None:
            yield of_error(error, reader.index_path)


def _slice_error(reader: BundleReader, name: str, entry: Entry) -> CkptctlError | None:
    try:
        for slice_ in () if entry.is_hash_table else entry.slices:
            reader.slice_entry(name, slice_)
    except CkptctlError as error:
        return error
    return None


def _uncovered(reader: BundleReader) -> Iterator[Finding]:
    """Find variables of which slices are missing: none of them overlap (`Entry`)."""
    for name, entry in reader.tensors.items():
        if not entry.slices or entry.is_hash_table:
            continue
        have = sum(prod(each.shape(entry.shape)) for each in entry.slices)
        if have < entry.elements:
            message = f"{len(entry.slices)} slices do not cover the variable"
            yield Finding(
                "CK014", message, reader.index_path, name, None,
                f"{entry.elements} elements", str(have),
            )  # fmt: skip


def _tables(catalogue: Catalogue, path: str) -> Iterator[Finding]:
    """Find parts and columns that are missing, so that what is left looks like something else."""
    for name in catalogue.plain:
        owner, _, suffix = name.rpartition("-")
        entry = catalogue.entries[name]
        if suffix in _OFFSETS and entry.dtype.name == "int32" and entry.shape == (BUCKETS + 1,):
            message = "offsets of a table whose keys or values are missing"
            yield Finding("CK012", message, path, owner, entry.offset)
    for table in catalogue.tables:
        counts = {member.name: len(member.parts) for member in table.members}
        sets = [ev for member in table.members for ev in member.sets]
        if len(set(counts.values())) > 1 and not any(ev.incremental for ev in sets):
            found = ", ".join(f"{name}: {count}" for name, count in counts.items())
            message = "members of a table with different numbers of parts"
            yield Finding("CK013", message, path, table.name, None, "one number of parts", found)
        primary = table.primary.parts
        for member in table.members[1:]:  # an increment may lack a part, but of all members
            for own, slot in zip_longest(primary, member.parts):
                there = own or slot
                if (own is None) != (slot is None) and there is not None and there.rows:
                    message = "slot keys differ from the primary's"
                    found = f"{there.rows} rows of {there.name}, and no other of this part"
                    yield Finding("CK059", message, path, member.name, None, None, found)
    groups: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name, ev in catalogue.ev_sets.items():
        components = part_components(name)
        # An increment may lack a part; the numbers of a scope are free.
        if len(components) == 1 and components[0].whole and not ev.incremental:
            before, number, after = components[0]
            if not after or is_slot_name(after):
                groups[before, after].add(number)
    for (before, after), numbers in groups.items():
        lacking = sorted(set(range(min(max(numbers), _MOST_PARTS))) - numbers)
        if lacking:
            first = "/".join(filter(None, (before, f"part_{lacking[0]}", after)))
            message = f"{len(lacking)} of {max(numbers) + 1} parts missing"
            have = ", ".join(map(str, sorted(numbers)[:9]))
            yield Finding("CK013", message, path, first, None, "every part", f"parts {have}")


def _overlaps(reader: BundleReader) -> Iterator[Finding]:
    entries = [(e.shard, e.offset, e.end, name) for _, name, e in reader.data_entries() if e.size]
    entries.sort()
    before = (-1, 0, 0, "")  # of those that were seen, the one that ends last
    for after in entries:
        overlaps = before[0] == after[0] and after[1] < before[2]
        if overlaps:
            yield Finding(
                "CK010",
                f"lies over the bytes of {before[3]}",
                reader.shard_path(after[0]),
                after[3],
                after[1],
                f"offset >= {before[2]}",
                str(after[1]),
            )
        if not overlaps or after[2] > before[2]:
            before = after


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
    index = f"{increment.prefix}.index"
    if lineage.base_step not in chains.bases.known_steps:
        yield Finding(
            "CK023",
            f"{increment.name} was recorded on a full that is not here",
            index,
            "ckptctl/lineage",
            None,
            f"a full at step {lineage.base_step}",
            "none",
        )
    before = lineage.previous_step
    if lineage.mode != "delta" or before is None:
        return
    if before in chains.bases.increment_steps:
        return
    if not any(
        full.merged is not None
        and full.merged.up_to >= before
        and chains.bases.may_follow(increment, full) is not False
        for full in chains.scan.fulls
    ):
        yield Finding(
            "CK023",
            f"{increment.name} continues an increment that is not here",
            index,
            "ckptctl/lineage",
            None,
            f"an increment at step {before}",
            "none",
        )


def _file_of(message: str, chains: Chains) -> str:
    """Return the state file that a message begins with, else the directory."""
    scan = chains.scan
    paths = (scan.full_state.path, scan.increment_state.path)
    return next((path for path in paths if message.startswith(f"{path} ")), scan.directory)
