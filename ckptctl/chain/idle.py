"""Increments that a recorder wrote before it was activated: idle and partly idle.

The rule is "idle" under "Words" of `shared/spec/restore.md`; why it happens is in
`deeprec-format.md` 3.1. Where it leaves a choice:

* The sparse tensors of a full are its EVs, and those of its normal variables whose rows
  alone are in this increment or in an earlier one of the chain.
* "The preceding live increment had rows" is true when any earlier one of the chain had:
  cumulative sets never shrink, so the recorder of a PS that stays idle over two increments
  is still found. It says nothing in delta mode, where a set may well be empty.
* A shard all of whose sets are 0 rows or missing is partly idle if one of them is missing.
* An EV that is cut into other parts than the full's counts with the rows of all its parts.
* Without a `global_step` the steps of the names are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ckptctl.chain.model import Checkpoint, Contents
from ckptctl.tables import part_components

__all__ = ["Idleness", "judge_idle"]


@dataclass(frozen=True)
class Idleness:
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


@dataclass(frozen=True)
class _Sparse:
    """One sparse tensor of the full, and what the increments hold of it."""

    name: str
    shard: int
    rows: int | None  # in the increment; None: no such set
    had_rows: bool  # in an earlier increment of the chain; looked up where it has none now


def judge_idle(
    base: Checkpoint, increment: Checkpoint, earlier: Sequence[Checkpoint] = ()
) -> Idleness:
    """Return whether an increment is idle; reads whole indexes and `global_step`.

    Parameters
    ----------
    base
        The full that it is applied to.
    increment
        The increment.
    earlier
        The live, complete increments of the same chain below it.
    """
    found = _sparse_tensors(base.contents, increment.contents, [e.contents for e in earlier])
    shards = [list(group) for _, group in groupby(found, key=lambda tensor: tensor.shard)]
    silent = [tensors for tensors in shards if all(not tensor.rows for tensor in tensors)]
    if not silent or not _trained_on(base, increment):
        return Idleness()
    if len(silent) == len(shards):
        return Idleness(
            "all",
            f"none of the {len(found)} sparse tensors of {base.name} has rows in "
            f"{increment.name}: the recorder was not yet activated",
        )
    delta = increment.lineage is not None and increment.lineage.mode == "delta"
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
    full: Contents, increment: Contents, earlier: Sequence[Contents]
) -> list[_Sparse]:
    """Return the sparse tensors of a full, by shard."""
    shards = {name: rows.shard for name, rows in full.sparse.items()}
    groups = {name: rows.group for name, rows in full.sparse.items()}
    for contents in (increment, *earlier):
        for name, rows in contents.sparse.items():
            shard = _shard_of_rows(name, full) if rows.normal else None
            if shard is not None:
                shards[name] = shard
    found = []
    for name, shard in shards.items():
        group = groups.get(name)
        now = _rows(name, group, increment, full)
        had_rows = not now and any(_rows(name, group, each, full) for each in earlier)
        found.append(_Sparse(name, shard, now, had_rows))
    return sorted(found, key=lambda tensor: (tensor.shard, tensor.name))


def _rows(name: str, group: str | None, contents: Contents, full: Contents) -> int | None:
    rows = contents.sparse.get(name)
    if rows is not None:
        return rows.rows
    if group is None:
        return None
    others = [
        rows
        for other, rows in contents.sparse.items()
        if rows.group == group and not rows.normal and other not in full.sparse
    ]
    return sum(rows.rows for rows in others) if others else None


def _shard_of_rows(name: str, full: Contents) -> int | None:
    """Return the shard of the slice of a full that `name[/part_i][/Slot]` belongs to."""
    for component in part_components(name):
        slices = full.dense.get(component.whole, ())
        if component.number < len(slices):
            return slices[component.number]
    return full.dense[name][0] if full.dense.get(name) else None


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
