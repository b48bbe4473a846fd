"""What `diff --json-lines` prints of keys: Python objects only for those that differ."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ckptctl.inspect.stats import finite
from ckptctl.inspect.walk import Rows

__all__ = ["lines_of_filtered", "lines_of_rows"]


def lines_of_rows(
    a: Rows,
    b: Rows,
    apart: tuple[np.ndarray, np.ndarray, np.ndarray],
    keys: np.ndarray,
    changed: tuple[np.ndarray, np.ndarray],
    moved: dict[str, tuple[np.ndarray, np.ndarray]],
) -> Iterator[dict[str, object]]:
    """Return one line for each key whose row differs.

    Parameters
    ----------
    apart
        Rows that only b has, which of them were filtered in a, and rows that only a has.
    keys
        Of the rows that both have.
    changed, moved
        Which of these changed, with their numbers; freqs and versions of all of them.
    """
    fresh, admitted, lost = apart
    for at, was in zip(fresh.tolist(), admitted.tolist(), strict=True):
        yield _line("admitted" if was else "new", None, (b, at))
    for at in lost.tolist():
        yield _line("gone", (a, at), None)
    which, measured = changed
    place = dict(zip(which.tolist(), range(len(which)), strict=True))
    touched = set(place)
    for old, new in moved.values():
        touched |= set(np.flatnonzero(old != new).tolist())
    for at in sorted(touched):
        line: dict[str, object] = {"key": int(keys[at]), "change": "changed"}
        if at in place:
            line["l2"], line["max"] = (finite(x) for x in measured[place[at], :2].tolist())
        else:
            line["change"] = "moved"
        for short, name in _NUMBERS:
            if name in moved:
                line[short] = [int(moved[name][0][at]), int(moved[name][1][at])]
        yield line


def lines_of_filtered(
    a: Rows,
    b: Rows,
    new: np.ndarray,
    gone: np.ndarray,
    moved: tuple[np.ndarray, np.ndarray],
) -> Iterator[dict[str, object]]:
    """Return one line for each filtered key that differs; `moved` are rows of a and of b."""
    for at in new.tolist():
        yield _line("filtered_new", None, (b, at))
    for at in gone.tolist():
        yield _line("filtered_gone", (a, at), None)
    for at, there in zip(*(rows.tolist() for rows in moved), strict=True):
        yield _line("filtered_moved", (a, at), (b, there))


_NUMBERS = (("freq", "freqs"), ("version", "versions"))


def _line(
    change: str, old: tuple[Rows, int] | None, new: tuple[Rows, int] | None
) -> dict[str, object]:
    sides = old, new
    key = next(int(side[0].keys[side[1]]) for side in sides if side is not None)
    line: dict[str, object] = {"key": key, "change": change}
    for short, name in _NUMBERS:
        pair = [None if side is None else _number(*side, name) for side in sides]
        if pair != [None, None]:
            line[short] = pair
    return line


def _number(rows: Rows, at: int, name: str) -> int | None:
    column = rows.columns.get(name)  # type: ignore[call-overload]
    return None if column is None else int(column[at])
