"""What a writer left inside a checkpoint about where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ckptctl.chain.names import MAX_STEP, split_step
from ckptctl.errors import DamageError

__all__ = [
    "LINEAGE_TENSOR",
    "MAX_FACT_BYTES",
    "MERGED_TENSOR",
    "Facts",
    "Lineage",
    "Merged",
    "Mode",
    "parse_lineage",
    "parse_merged",
]

#: Names of the scalar string tensors (`restore.md`, "Lineage").
LINEAGE_TENSOR = "ckptctl/lineage"
MERGED_TENSOR = "ckptctl/merged"
#: Longer than any of them; what is longer was not written by us.
MAX_FACT_BYTES = 1 << 16
#: Characters of an increment's own identifier.
_MOST_ID = 64
#: Characters of one in a line, and of a line at most: of longer ones the end.
_SHORT, _LONGEST_LINE = 8, 800

Mode = Literal["cumulative", "delta"]


class Lineage(NamedTuple):
    """What an increment says of its origin: `ckptctl/lineage`.

    Attributes
    ----------
    base_step
        Step of the full that it was recorded against.
    previous_step
        Step of the increment before it; None for the first one, and for one that needs none of
        those before it.
    mode
        `cumulative`: all keys changed since the base; `delta`: since the previous one.
    id, previous_id
        What tells this increment, and the one before it, from others at their steps: after a
        rollback a step comes again. None where the writer gave none.
    line
        The beginnings of the ids of all that its run saved before it since the full that it was
        recorded against or began at, oldest first; "" for the first. They tell when those are gone.
    """

    base_step: int
    previous_step: int | None = None
    mode: Mode = "cumulative"
    id: str | None = None
    previous_id: str | None = None
    line: str | None = None

    def follows(self, other: str) -> bool | None:
        """Return whether the increment of an id came before it in its run; None if unknown."""
        if self.line is None:
            return None
        short = _shortened(other)
        at = self.line.find(short)
        while at % _SHORT and at > 0:  # across two of them
            at = self.line.find(short, at + 1)
        if at >= 0:
            return True
        return False if len(self.line) < _LONGEST_LINE else None

    @staticmethod
    def lengthen(line: str | None, own_id: str) -> str | None:
        """Return the line of what comes after an increment."""
        return None if line is None else (line + _shortened(own_id))[-_LONGEST_LINE:]


class Ahead(NamedTuple):
    """Of a merge whose sources were dated later than it was made: by a clock that is ahead.

    Attributes
    ----------
    dated_ns
        The mtime that its index was given, which is theirs.
    made_ns
        When it was made.
    state_ns
        mtime of the state file of then; 0 where there was none.
    """

    dated_ns: int
    made_ns: int
    state_ns: int


class Merged(NamedTuple):
    """What a full that ckptctl merged says of its origin: `ckptctl/merged`.

    Attributes
    ----------
    base_step
        Step of the full that its increments were recorded against.
    up_to
        Step of the last increment that is in it.
    mode
        Mode of those increments.
    ahead
        Where its date is not that of the merge.
    rows
        Rows of the last of them, by sparse tensor (`nested.count_rows`); None where nobody
        counted them.
    instead
        Name of the full above it, lost or broken by then, that the state file named and that this
        one was named instead of (`timelines`).
    last_id
        `Lineage.id` of the last of them: after a rollback its step comes again.
    applied_to
        Step of the full that they were applied to, where it is another one than their base.
    """

    base_step: int
    up_to: int
    mode: Mode = "cumulative"
    ahead: Ahead | None = None
    rows: Mapping[str, int] | None = None
    instead: str | None = None
    last_id: str | None = None
    applied_to: int | None = None


class Facts(NamedTuple):
    """What the head of an index says at once: no tensor list, no data but these two.

    Where it is damaged, `ours` says whether a mark of ckptctl's names that very file.
    """

    num_shards: int = 1
    lineage: Lineage | None = None
    merged: Merged | None = None
    damage: DamageError | None = None
    ours: bool = False


def parse_lineage(raw: bytes, step: int, path: str) -> Lineage:
    """Return the lineage of the increment at `step`; raise `DamageError`.

    An unknown version is refused too: what a later writer means by it cannot be guessed.
    """
    found = _object(raw, path, LINEAGE_TENSOR)
    base = _step(found, "base_step", path, LINEAGE_TENSOR)
    previous = None
    if found.get("previous_step") is not None:
        previous = _step(found, "previous_step", path, LINEAGE_TENSOR)
    if base >= step or (previous is not None and not base <= previous < step):
        raise DamageError(
            "lineage contradicts the step of its increment",
            file=path,
            tensor=LINEAGE_TENSOR,
            expected=f"base_step <= previous_step < {step}",
            found=f"base_step {base}, previous_step {previous}",
        )
    mode = _mode(found, path, LINEAGE_TENSOR)
    own, before = (_id(found, key, path, LINEAGE_TENSOR) for key in ("id", "previous_id"))
    return Lineage(base, previous, mode, own, before, _line(found.get("line")))


def parse_merged(raw: bytes, step: int, path: str) -> Merged:
    """Return the origin of the merged full at `step`; raise `DamageError`.

    Without `up_to` the full's own step counts: a merge names its result by the last
    increment that is in it.
    """
    found = _object(raw, path, MERGED_TENSOR)
    base = _step(found, "base_step", path, MERGED_TENSOR)
    up_to = step
    if found.get("up_to") is not None:
        up_to = _step(found, "up_to", path, MERGED_TENSOR)
    if base >= up_to:
        raise DamageError(
            "merged full up to a step that is not above its base",
            file=path,
            tensor=MERGED_TENSOR,
            expected=f"up_to > {base}",
            found=up_to,
        )
    mode = _mode(found, path, MERGED_TENSOR)
    rows, instead = _rows(found.get("rows")), _instead(found.get("instead"), up_to)
    last_id = _id(found, "last_id", path, MERGED_TENSOR)
    onto = None
    if found.get("applied_to") is not None:
        onto = _step(found, "applied_to", path, MERGED_TENSOR)
    return Merged(base, up_to, mode, _ahead(found.get("ahead")), rows, instead, last_id, onto)


def _shortened(own_id: str) -> str:
    return own_id[:_SHORT].ljust(_SHORT)


def _line(found: object) -> str | None:
    whole = isinstance(found, str) and len(found) % _SHORT == 0 and len(found) <= _LONGEST_LINE
    return found if isinstance(found, str) and whole else None


def _ahead(found: object) -> Ahead | None:
    whole = isinstance(found, list) and len(found) == 3 and all(type(ns) is int for ns in found)
    return Ahead(*found) if isinstance(found, list) and whole else None


def _rows(found: object) -> Mapping[str, int] | None:
    whole = isinstance(found, dict) and all(type(rows) is int for rows in found.values())
    return found if isinstance(found, dict) and whole else None


def _instead(found: object, up_to: int) -> str | None:
    parts = split_step(found) if isinstance(found, str) and "/" not in found else None
    return found if isinstance(found, str) and parts is not None and parts[1] > up_to else None


def _object(raw: bytes, path: str, tensor: str) -> dict[str, object]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"not JSON: {error}", file=path, tensor=tensor) from None
    if not isinstance(found, dict) or found.get("version") != 1:
        version = found.get("version") if isinstance(found, dict) else type(found).__name__
        raise DamageError(
            "unknown version",
            file=path,
            tensor=tensor,
            expected='an object with "version": 1',
            found=repr(version)[:80],
            remedy="a newer ckptctl wrote it: use that one",
        )
    return found


def _step(found: dict[str, object], key: str, path: str, tensor: str) -> int:
    value = found.get(key)
    # bool is an int to Python and not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_STEP:
        raise DamageError(f"{key} is no step", file=path, tensor=tensor, found=repr(value)[:80])
    return value


def _id(found: dict[str, object], key: str, path: str, tensor: str) -> str | None:
    value = found.get(key)
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= _MOST_ID):
        raise DamageError(
            f"{key} is no identifier", file=path, tensor=tensor, found=repr(value)[:80]
        )
    return value


def _mode(found: dict[str, object], path: str, tensor: str) -> Mode:
    mode = found.get("mode", "cumulative")
    if mode == "cumulative":
        return "cumulative"
    if mode == "delta":
        return "delta"
    raise DamageError(
        "unknown mode",
        file=path,
        tensor=tensor,
        expected="cumulative or delta",
        found=repr(mode)[:80],
    )
