"""What no number of a table's members tells, in the words of text and page alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["not_finite", "remarks"]


def remarks(table: dict[str, Any]) -> dict[str, list[str]]:
    """Return by the name of the table, or of a slot, what is to be said of it.

    Parameters
    ----------
    table
        Of `tables` in the document of `ckptctl.inspect.diff`.
    """
    words = [f"only in {table['in']}"] if table["in"] != "both" else list(table["differs"])
    for what in ("slot", "column"):
        for how, side in (("added", "b"), ("removed", "a")):
            words += [f"{what} {name} only in {side}" for name in table[f"{what}s_{how}"]]
    found = {table["name"]: words}
    told: dict[str, int] = {}
    for member in table["members"]:
        own = found.setdefault(member["name"], [])
        filtered = {what: count for what, count in member["filtered"].items() if count}
        # As a rule the slots' are those of the primary.
        if filtered and filtered.items() - told.items():
            counts = ", ".join(f"{count} {what}" for what, count in filtered.items())
            own.append(f"filtered keys: {counts}")
        told = told or filtered
        own += not_finite([member], "row")
    return {name: words for name, words in found.items() if words}


def not_finite(found: Iterable[dict[str, Any]], what: str) -> list[str]:
    """Return how many rows of members, or elements of tensors, became NaN or infinite, if any."""
    count = sum(each.get("not_finite", 0) for each in found)  # strings have none
    return [f"{count} {what}{'s' * (count != 1)} became NaN or infinite"] if count else []
