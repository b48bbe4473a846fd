"""A surveyed state written as a bundle: lay out the shards, write, verify."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple, TypeAlias

from ckptctl import knobs
from ckptctl.bundle import Entry, dtype_by_name
from ckptctl.bundle.commit import PendingBundle
from ckptctl.bundle.strings import encode_strings
from ckptctl.bundle.writer import index_bytes
from ckptctl.chain import MERGED_TENSOR
from ckptctl.merge.tasks import (
    CopyTask,
    CreateTask,
    FlushTask,
    OffsetsTask,
    Parts,
    PendingData,
    Place,
    RowsTask,
    SideTask,
    Written,
    WrittenRange,
    range_tasks,
)
from ckptctl.restore import (
    CopyJob,
    MemberState,
    MemberTensor,
    RowsJob,
    State,
    StateTensor,
    Survey,
)
from ckptctl.restore.column import Column
from ckptctl.restore.part import OFFSETS
from ckptctl.restore.rows import beyond_end
from ckptctl.restore.survey import CheckTask, Surveyed
from ckptctl.running import Runner, Task, batches

__all__ = ["Layout", "Outcome", "lay_out", "write_state"]


class Outcome:
    """What a merge did to keys and rows, and what a user should know."""

    def __init__(self) -> None:
        self.keys = 0
        self.keys_new = 0
        self.keys_replaced = 0
        self.rows_replaced = 0
        self.warnings: list[str] = []

    def count(self, surveyed: Surveyed) -> None:
        """Take over what a survey of the tables counted."""
        self.keys = surveyed.keys
        self.keys_new = surveyed.keys_new
        self.keys_replaced = surveyed.keys_replaced
        self.warnings += surveyed.warnings


class Layout(NamedTuple):
    """Where each tensor of the result goes.

    `places` is in the order of `State.tensors()`; `sizes` are the bytes of each shard,
    without what ckptctl adds of its own.
    """

    tensors: tuple[StateTensor, ...]
    places: tuple[Place, ...]
    shapes: tuple[tuple[int, ...], ...]
    sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all shards."""
        return sum(self.sizes)


def lay_out(state: State, surveys: dict[tuple[int, int], Survey]) -> Layout:
    """Return where each tensor goes: the full's shards and order, no gaps."""
    ends = [0] * state.full.header.num_shards
    places, shapes = [], []
    tensors = state.tensors()
    for tensor in tensors:
        shape, size = _shape(state, tensor, surveys)
        places.append(Place(tensor.key, tensor.shard, ends[tensor.shard], size))
        shapes.append(shape)
        ends[tensor.shard] += size
    return Layout(tuple(tensors), tuple(places), tuple(shapes), tuple(ends))


def _shape(
    state: State, tensor: StateTensor, surveys: dict[tuple[int, int], Survey]
) -> tuple[tuple[int, ...], int]:
    entry, made = tensor.entry, tensor.made
    if not isinstance(made, MemberTensor):
        return entry.shape, entry.size
    if made.suffix in ("-partition_offset", "-partition_filter_offset"):
        return entry.shape, entry.elements * entry.dtype.size
    table = state.tables[made.table]
    survey = surveys[made.table, made.part]
    if made.suffix.endswith("_filtered"):
        rows = survey.filtered[made.member] if entry.rows else 0
    elif made.suffix in ("-versions", "-freqs"):
        kept = made.suffix in state.present[table.name]
        rows = survey.rows[made.member] if kept else 0
    else:
        rows = survey.rows[made.member]
    moved = entry.moved(shape=(rows, *entry.shape[1:]))
    return moved.shape, moved.elements * entry.dtype.size


def write_state(
    state: State,
    layout: Layout,
    surveys: dict[tuple[int, int], Survey],
    pending: PendingBundle,
    merged: bytes | None,
    runner: Runner,
    outcome: Outcome,
    *,
    verify: bool,
    side: Sequence[tuple[str, int, str]] = (),
    before_commit: Callable[[], None] = lambda: None,
    before_index: Callable[[], None] = lambda: None,
) -> int:
    """Write a state under the temporaries of `pending` and commit it; return its bytes.

    Parameters
    ----------
    merged
        Content of `ckptctl/merged`, or None to write none.
    verify
        Read everything back and compare checksums before the index is renamed.
    side
        Side files to copy: (path, bytes, what follows the prefix in their name).
    before_commit
        Called when all is written and nothing is renamed; may raise to give up.
    before_index
        Called right before the index is renamed; may raise too.
    """
    num_shards = len(layout.sizes)
    entries = dict(state.whole_entries())
    sizes = list(layout.sizes)
    mark = None
    if merged is not None:
        data, crc = encode_strings([merged])
        mark = Entry(dtype_by_name("string"), (), 0, sizes[0], len(data), crc)
        entries[MERGED_TENSOR.encode()] = mark
        sizes[0] += len(data)
    pending.start()
    target = PendingData(pending.temporary, num_shards, pending.storage)
    for _ in runner.map((None, CreateTask(target, *each)) for each in enumerate(sizes)):
        pass
    if mark is not None:
        file = pending.storage.open_write(target.shard_path(0))
        file.pwrite(mark.offset, data)
        file.close()
    copies = [_side_task(pending, *each, verify) for each in side]
    runner.progress.start("writing", sum(sizes) + sum(task.nbytes for task in copies))
    for _ in runner.map((None, task) for task in copies):
        pass
    crcs: dict[bytes, int] = {}
    skipped: dict[str, int] = {}
    with _held_open(target):
        for label, result in runner.map(_write_tasks(state, layout, surveys, target, runner.jobs)):
            written: list[Written] = []
            if isinstance(result, WrittenRange):
                whole = label.add(result) if isinstance(label, Parts) else None
                written = [whole] if whole is not None else []
            elif isinstance(result, tuple):
                written, replaced, beyond = result
                outcome.rows_replaced += replaced
                skipped[str(label)] = skipped.get(str(label), 0) + beyond
            else:
                written = result
            crcs.update((item.key, item.crc) for item in written)
        runner.progress.start("flushing")
        for _ in runner.map((None, FlushTask(target, shard)) for shard in range(num_shards)):
            pass
    outcome.warnings += [
        beyond_end(name, count) for name, count in sorted(skipped.items()) if count
    ]
    for tensor, place, shape in zip(layout.tensors, layout.places, layout.shapes, strict=True):
        entries[place.key] = tensor.entry.moved(
            shape=shape,
            shard=place.shard,
            offset=place.offset,
            size=place.size,
            crc=crcs[place.key],
        )
    if verify:
        runner.progress.start("verifying", sum(sizes))
        for _ in runner.map(_verify_tasks(entries, target)):
            pass
    index = index_bytes(state.full.header, entries)
    target.close()  # a file that is open keeps its directory alive on some filesystems
    before_commit()
    pending.commit(index, before_index)
    return sum(sizes)


@contextmanager
def _held_open(target: PendingData) -> Iterator[None]:
    """Keep the shards open: a failed write-back is told to who opened a file before it failed."""
    files = [
        target.storage.open_write(target.shard_path(shard))
        for shard in range(min(target.num_shards, 2 * knobs.MAX_OPEN_FILES))
    ]
    try:
        yield
    finally:
        for file in files:
            file.close()


def _side_task(pending: PendingBundle, path: str, size: int, suffix: str, verify: bool) -> SideTask:
    target = pending.extra(suffix)
    pending.storage.create(target, size)
    return SideTask(path, target, size, pending.storage, verify)


#: What a task of the writing returns.
_Result: TypeAlias = "WrittenRange | list[Written] | tuple[list[Written], int, int]"


def _write_tasks(
    state: State,
    layout: Layout,
    surveys: dict[tuple[int, int], Survey],
    target: PendingData,
    lanes: int,
) -> Iterator[tuple[Parts | str, Task[_Result]]]:
    """Return what writes each tensor, of as many shards in turn as there are `lanes`.

    Two threads that write to one file wait for each other: the kernel lets one in at a time.
    """
    shards: list[list[tuple[StateTensor, Place]]] = [[] for _ in layout.sizes]
    for tensor, place in zip(layout.tensors, layout.places, strict=True):
        shards[place.shard].append((tensor, place))
    largest = sorted(range(len(shards)), key=lambda shard: -layout.sizes[shard])
    waiting = (_shard_tasks(state, shards[shard], surveys, target) for shard in largest)
    running = deque(islice(waiting, lanes))
    while running:
        tasks = running.popleft()
        task = next(tasks, None)
        if task is None:
            running.extend(islice(waiting, 1))
        else:
            yield task
            running.append(tasks)


def _shard_tasks(
    state: State,
    tensors: Sequence[tuple[StateTensor, Place]],
    surveys: dict[tuple[int, int], Survey],
    target: PendingData,
) -> Iterator[tuple[Parts | str, Task[_Result]]]:
    """Return what writes the tensors of one shard."""
    members: dict[tuple[int, int, int], list[tuple[str, Place]]] = {}
    small: list[tuple[CopyJob, Place]] = []
    large: list[tuple[CopyJob, Place]] = []
    rows: list[RowsTask] = []
    for tensor, place in tensors:
        made = tensor.made
        if isinstance(made, MemberTensor):
            at = (made.table, made.part, made.member)
            members.setdefault(at, []).append((made.suffix, place))
        elif isinstance(made, RowsJob):
            rows.append(RowsTask(made, target, place))
        else:
            cut = place.size > knobs.TASK_BYTES and made.entry.dtype.size
            (large if cut else small).append((made, place))
    for (table, part, member), places in members.items():
        kept = surveys[table, part].kept[member]
        known = MemberState(state.part_job(table, part), member, kept)
        offsets = tuple(each for each in places if each[0] in OFFSETS)
        if offsets:
            yield "", OffsetsTask(known, offsets, target)
        for suffix, place in places:
            if suffix not in OFFSETS:
                yield from range_tasks(known.column(suffix), target, place)
    for task in rows:
        yield task.job.plan.name, task
    for copy, place in large:
        column = Column.whole(copy.data, copy.name, copy.entry)
        yield from range_tasks(column, target, place)
    for batch in batches(small, lambda item: item[1].size):
        yield "", CopyTask(batch, target)


def _verify_tasks(
    entries: dict[bytes, Entry], target: PendingData
) -> Iterator[tuple[None, CheckTask]]:
    owned = sorted(
        ((key.decode("utf-8", "backslashreplace"), e) for key, e in entries.items() if e.has_data),
        key=lambda item: (item[1].shard, item[1].offset),
    )
    for batch in batches(owned, lambda item: item[1].size):
        yield None, CheckTask(target, batch)
