"""Increments that a recorder wrote before it was activated: idle and partly idle.

The rule is "idle" under "Words" of `shared/spec/restore.md`; why it happens is in
`deeprec-format.md` 3.1. Where it leaves a choice:

* The sparse tensors of a full are its EVs, and those of its normal variables whose rows
  alone are in this increment, or in an earlier one of the chain and this one has them not whole:
  another optimizer may have followed.
* "The preceding live increment had rows" is true when any earlier one of the chain had:
  cumulative sets never shrink, so the recorder of a PS that stays idle over two increments
  is still found. It says nothing in delta mode, where a set may well be empty.
* A shard all of whose sets are 0 rows or missing is partly idle if one of them is missing.
* An EV of which there are parts that the full does not have is cut otherwise: each part of the
  full's then counts with the rows of all of them.
* Where our own recorder wrote it, which has ids and records from the first step, 0 rows in every
  set say that only dense tensors were trained. A set that is missing says what it always does.
* Without a `global_step` the steps of the names are compared.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from ckptctl.chain.model import Checkpoint, Contents
from ckptctl.chain.nested import is_cumulative
from ckptctl.tables.names import part_components

__all__ = ["Earlier", "Idleness", "judge_idle"]


class Idleness(NamedTuple):
    """Whether an increment is idle.

    Attributes
    ----------
    kind
        `no`, `all`, or `part`: idle or partly idle.
    reason
        Why, in words.
    warnings
        Shards with 0 rows that nothing shows to be idle.
    """

    kind: str = "no"
    reason: str = ""
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.kind != "no"


class _Sparse(NamedTuple):
    """One sparse tensor of the full, and what the increments hold of it."""

    name: str
    shard: int
    rows: int | None  # in the increment; None: no such set
    had_rows: bool  # in an earlier increment of the chain; looked up where it has none now


class Earlier:
    """What the increments of one base hold, looked at one after the other and only once.

    Parameters
    ----------
    full
        What the base holds.
    members
        The live, complete increments of the chain, by step; each is read when it is needed.
    """

    def __init__(self, full: Contents, members: Iterable[Checkpoint]) -> None:
        self._full = full
        self._members = iter(members)
        self._ahead: Checkpoint | None = None
        self._steps: list[int] = []
        self._normal: dict[str, int] = {}  # rows of a normal variable, and where they begin
        self._rows: dict[str, int] = {}  # a set that has rows, and where that begins
        self._cut: dict[str, int] = {}  # a group that has rows and is cut otherwise

    def below(self, step: int) -> int:
        """Return how many increments lie below a step; the first so many are then known."""
        while self._ahead is None or self._ahead.step < step:
            if self._ahead is not None:
                self._add(self._ahead)
            self._ahead = next(self._members, None)
            if self._ahead is None:
                break
        return bisect_left(self._steps, step)

    def _add(self, increment: Checkpoint) -> None:
        at, contents = len(self._steps), increment.contents
        self._steps.append(increment.step)
        for name, rows in contents.sparse.items():
            if rows.normal:
                self._normal.setdefault(name, at)
            if rows.rows:
                self._rows.setdefault(name, at)
        for group, count in _cut_otherwise(contents, self._full).items():
            if count:
                self._cut.setdefault(group, at)

    def normal(self, count: int) -> list[str]:
        """Return the normal variables of which one of the first `count` increments has rows."""
        return [name for name, at in self._normal.items() if at < count]

    def had_rows(self, name: str, group: str | None, count: int) -> bool:
        """Return whether a sparse tensor had rows in one of the first `count` increments."""
        cut = self._cut.get(group, count) if group is not None else count
        return min(cut, self._rows.get(name, count)) < count


def judge_idle(base: Checkpoint, increment: Checkpoint, earlier: Earlier) -> Idleness:
    """Return whether an increment is idle; reads whole indexes and `global_step`.

    Parameters
    ----------
    base
        The full that it is applied to.
    increment
        The increment.
    earlier
        Those of the same chain, of which the ones below it count.
    """
    count = earlier.below(increment.step)
    found = _sparse_tensors(base.contents, increment.contents, earlier, count)
    shards = [list(group) for _, group in groupby(found, key=lambda tensor: tensor.shard)]
    silent = [tensors for tensors in shards if all(not tensor.rows for tensor in tensors)]
    if not silent or not _trained_on(base, increment):
        return Idleness()
    if len(silent) == len(shards):
        own = increment.lineage is not None and increment.lineage.id is not None
        if own and all(tensor.rows is not None for tensor in found):
            return Idleness()
        return Idleness(
            "all",
            f"none of the {len(found)} sparse tensors of {base.name} has rows in "
            f"{increment.name}: the recorder was not yet activated",
        )
    delta = not is_cumulative(increment)
    warnings = []
    for tensors in silent:
        names = _some([tensor.name for tensor in tensors])
        missing = [tensor.name for tensor in tensors if tensor.rows is None]
        had = [tensor.name for tensor in tensors if tensor.had_rows and not delta]
        where = f"of data shard {tensors[0].shard} of {base.name} ({names})"
        if missing:
            reason = f"no sparse tensor {where} has rows, and {_some(missing)} is missing"
            return Idleness("part", reason)
        if had:
            reason = f"no sparse tensor {where} has rows, where {_some(had)} had some before"
            return Idleness("part", reason)
        warnings.append(f"{increment.name} has 0 rows for all sparse tensors {where}")
    return Idleness(warnings=tuple(warnings))


def _trained_on(base: Checkpoint, increment: Checkpoint) -> bool:
    before, after = base.global_step, increment.global_step
    if before is None or after is None:
        before, after = base.step, increment.step
    return after > before


def _sparse_tensors(
    full: Contents, increment: Contents, earlier: Earlier, count: int
) -> list[_Sparse]:
    """Return the sparse tensors of a full, by shard."""
    shards = {name: rows.shard for name, rows in full.sparse.items()}
    groups = {name: rows.group for name, rows in full.sparse.items()}
    normal = [name for name, rows in increment.sparse.items() if rows.normal]
    for name in dict.fromkeys((*normal, *earlier.normal(count))):
        whole, shard = _slice_of_rows(name, full)
        if shard is not None and (name in increment.sparse or whole not in increment.dense):
            shards[name] = shard
    cut = _cut_otherwise(increment, full)
    found = []
    for name, shard in shards.items():
        group = groups.get(name)
        own = increment.sparse.get(name)
        now = own.rows if own is not None else None
        if group in cut:
            now = cut[group]
        had_rows = not now and earlier.had_rows(name, group, count)
        found.append(_Sparse(name, shard, now, had_rows))
    return sorted(found, key=lambda tensor: (tensor.shard, tensor.name))


def _cut_otherwise(increment: Contents, full: Contents) -> dict[str, int]:
    """Return the rows of each EV, by group, that has parts which the full's does not have."""
    sets = increment.sparse
    others = (sets[name] for name in sets.keys() - full.sparse.keys())
    found = {rows.group: 0 for rows in others if not rows.normal}
    for rows in sets.values() if found else ():
        if rows.group in found and not rows.normal:
            found[rows.group] += rows.rows
    return found


def _slice_of_rows(name: str, full: Contents) -> tuple[str, int | None]:
    """Return which variable of a full `name[/part_i][/Slot]` is of, and its slice's shard."""
    for component in part_components(name):
        slices = full.dense.get(component.whole, ())
        if component.number < len(slices):
            return component.whole, slices[component.number]
    return name, full.dense[name][0] if full.dense.get(name) else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
