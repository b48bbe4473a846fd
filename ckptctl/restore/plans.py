"""Where each tensor family of a state comes from: what `match` finds."""

from __future__ import annotations

from typing import NamedTuple

from ckptctl.bundle import BundleReader, Entry, TensorSlice
from ckptctl.tables import Catalogue, EvSet, RowSet

__all__ = [
    "OWN_NAMES",
    "IncomingSet",
    "Increment",
    "Matched",
    "MemberPlan",
    "PlainPlan",
    "RowsPlan",
    "TablePlan",
]

#: Names that ckptctl itself writes: never copied, never asked of an increment.
OWN_NAMES = "ckptctl/"

#: (index of the increment, EV, its part number, its number of parts)
IncomingSet = tuple[int, EvSet, int, int]

#: An increment with what its names mean.
Increment = tuple[BundleReader, Catalogue]


class MemberPlan(NamedTuple):
    """One member of a table: the full's parts, and what increments bring to them."""

    name: str
    slot: str
    parts: tuple[EvSet, ...]
    incoming: tuple[IncomingSet, ...]


class TablePlan(NamedTuple):
    """A table of the full with what increments bring; `added` if the full lacks it."""

    name: str
    members: tuple[MemberPlan, ...]
    added: bool = False

    @property
    def num_parts(self) -> int:
        """Number of parts of the full."""
        return len(self.members[0].parts)


class RowsPlan(NamedTuple):
    """A normal variable, or a slice of it, of which increments replace rows.

    `source` is -1 when the other rows are the full's, else the increment that holds the
    variable whole.
    """

    name: str
    slice: TensorSlice | None
    source: int
    entry: Entry
    incoming: tuple[tuple[int, RowSet], ...]


class PlainPlan(NamedTuple):  # there may be 100,000 of them
    """A tensor that is taken whole: from the full (-1) or from an increment."""

    name: str
    source: int
    added: bool = False


class Matched:
    """What a state is made of, tensor family by tensor family, and what was noticed."""

    def __init__(self) -> None:
        self.tables: list[TablePlan] = []
        self.rows: list[RowsPlan] = []
        self.plain: list[PlainPlan] = []
        self.notes: list[str] = []
