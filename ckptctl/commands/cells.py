"""Cells that more than one command draws: ranges, and numbers of tensors."""

from __future__ import annotations

import sys
from typing import Any

from ckptctl.output import Column
from ckptctl.output import format as fmt

__all__ = ["STATS", "equal", "numbers", "range_", "stats"]

#: Columns of what `inspect.stats` measures.
STATS = (
    Column("min", "real"),
    Column("mean", "real"),
    Column("max", "real"),
    Column("std", "real", spare=2),
    Column("l2", "real", spare=3),
    Column("zeros", "count", spare=4),
    Column("nan", "count", spare=1),
    Column("inf", "count", spare=1),
    Column("histogram", missing=""),
)


def equal(number: int, what: str) -> str:
    """Return how many others are equal, in words."""
    return f"{fmt.some(number, what)} {'is' if number == 1 else 'are'} equal"


def range_(found: dict[str, Any] | None) -> str | None:
    """Return the least, the greatest and about the middle of a column."""
    if found is None:
        return None
    return f"{found['min']}..{found['max']}, ~{found['quantiles']['0.5']}"


def numbers(found: list[int]) -> str:
    """Return some numbers, of many the first."""
    if len(found) == 1:
        return str(found[0])
    return ",".join(map(str, found[:8])) + (",..." if len(found) > 8 else "")


def stats(found: dict[str, Any] | None) -> list[Any]:
    """Return the cells below `STATS`."""
    names = ("min", "mean", "max", "std", "l2", "zeros", "nan", "inf")
    if found is None or "min" not in found:  # strings have a length, no numbers
        return [None] * len(STATS)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    histogram = found["histogram"]
    bars = ("~" if histogram["coarse"] else "") + fmt.sparkline(histogram["counts"], encoding)
    return [*(found[name] for name in names), bars]
