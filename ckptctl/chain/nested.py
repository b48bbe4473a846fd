"""Check 1 across a merge: what a merged full still says of the increment it was made from.

Increments that were recorded on one full go on over a merge of some of them: the first one above
the merged full has all keys of the last one that is in it. Where that one still lies there their
keys are compared (`Chains.nested_series`). Where it is gone, as behind every `compact`, the
merged full says how many rows it had, and an increment with fewer of any kind lost some. One that
lost some and has as many others is not found.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import NamedTuple

from ckptctl.chain.model import Checkpoint, Contents
from ckptctl.tables.names import without_parts

__all__ = ["FewerRows", "count_rows", "find_fewer", "goes_on_from", "is_cumulative"]

#: The name under which all rows of tables are counted, where the names would take too much.
_ALL = ""
#: Bytes of the counts, well below what a fact may have (`MAX_FACT_BYTES`).
_MOST_BYTES = 1 << 15


class FewerRows(NamedTuple):
    """An increment that lacks rows of the one which a merged full was made from.

    Attributes
    ----------
    merged, increment
        The full, and the first increment above it.
    name
        What it has too few rows of.
    had, has
        Rows of then, and of now.
    """

    merged: Checkpoint
    increment: Checkpoint
    name: str
    had: int
    has: int

    def __str__(self) -> str:
        return (
            f"{self.increment.name} has fewer rows of {self.name or 'all tables'} ({self.has}) "
            f"than the increment that {self.merged.name} was merged from ({self.had}): a full or "
            "a recorder was lost between"
        )


def is_cumulative(increment: Checkpoint) -> bool:
    """Return whether an increment holds every key that changed since its base."""
    return increment.lineage is None or increment.lineage.mode == "cumulative"


def goes_on_from(increment: Checkpoint, base: Checkpoint) -> bool:
    """Return whether it was recorded on the full that a merged one's increments were recorded on.

    And not on the merged one itself, from which a training started again.
    """
    merged, lineage = base.merged, increment.lineage
    if merged is None or merged.mode != "cumulative" or not is_cumulative(increment):
        return False
    return lineage is None or lineage.base_step == merged.base_step


def count_rows(contents: Contents) -> dict[str, int]:
    """Return the rows of each sparse tensor of an increment, or of all tables under one name.

    All parts of one are counted together, since another run may have cut it otherwise.
    """
    counts, tables = _count(contents)
    found = {name: count for name, count in sorted(counts.items()) if count}
    return found if len(json.dumps(found)) <= _MOST_BYTES else {_ALL: tables}


def find_fewer(base: Checkpoint, increment: Checkpoint) -> FewerRows | None:
    """Return what an increment has fewer rows of than a merged full says, if anything."""
    told = base.merged.rows if base.merged is not None else None
    if not told or not goes_on_from(increment, base):
        return None
    counts, counts[_ALL] = _count(increment.contents)
    for name, had in told.items():
        # A variable that it holds whole lacks nothing.
        if counts[name] < had and name not in map(without_parts, increment.contents.dense):
            return FewerRows(base, increment, name, had, counts[name])
    return None


def _count(contents: Contents) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    tables = 0
    for name, rows in contents.sparse.items():
        counts[without_parts(name)] += rows.rows
        tables += 0 if rows.normal else rows.rows
    return counts, tables
