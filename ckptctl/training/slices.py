"""Slices of variables: those of a graph, and those of the full that rows are counted in."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ckptctl.bundle import BundleData, BundleReader
from ckptctl.errors import UnprovenError, UsageError
from ckptctl.restore import open_state
from ckptctl.restore.column import copy_checked, row_bytes
from ckptctl.restore.rows import row_numbers
from ckptctl.tables import RowSet

__all__ = ["NO_OTHERS", "OtherRows", "OtherSlices", "Span", "refuse_gaps", "span_of"]

_Box = tuple[tuple[int, int], ...]

#: In place of a row that no slice holds.
_NOWHERE = -1


class Span(NamedTuple):
    """The rows [first, last) of a variable that a slice holds, all of its columns."""

    first: int
    last: int

    def own(self, rows: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return those of some rows of the variable that are the slice's, counted in it."""
        here = (rows >= self.first) & (rows < self.last)
        return rows[here] - self.first, values[here]


def refuse_gaps(saveables: Iterable[Any]) -> None:
    """Raise where slices of a variable are missing: no increment with it can be restored."""
    missing: dict[str, int] = {}
    for spec in (spec for saveable in saveables for spec in saveable.specs if spec.slice_spec):
        shape, box = _box(spec.slice_spec)
        size = math.prod(length for _, length in box)
        missing[spec.name] = missing.get(spec.name, math.prod(shape)) - size
    for name in (name for name, size in missing.items() if size):
        raise UsageError(
            "not all slices of a partitioned variable are saved, so no increment can be restored",
            tensor=name,
            remedy="give the Saver all slices; if it is a slot, build the optimizer outside of "
            "tf.variable_scope, in which TensorFlow names a slot of each slice as one of its own "
            "(tf.name_scope does no harm)",
        )


def span_of(slice_spec: str, rows: int) -> Span | None:
    """Return the rows that a slice of a graph holds, or None if it lacks some of their columns.

    Parameters
    ----------
    slice_spec
        TensorFlow's "60 4 20,20:0,4", or "" for a variable that is not cut.
    rows
        Rows of the variable that is not cut.
    """
    if not slice_spec:
        return Span(0, rows)
    shape, box = _box(slice_spec)
    return _span(box, shape)


@dataclass(frozen=True)
class OtherSlices:
    """Variables of a graph that a full has in other slices.

    An increment counts rows in the slices of the graph that it was recorded in, and which
    those are, only its full says.

    Attributes
    ----------
    full
        Prefix of the full.
    names
        The variables, in order; none where all slices are the graph's.
    """

    full: str
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, full: str, specs: Iterable[tuple[str, str]]) -> OtherSlices:
        """Look which they are.

        Parameters
        ----------
        full
            Prefix of the full.
        specs
            Name and slice, "" for the whole, of each tensor of the graph.
        """
        ours: defaultdict[str, list[_Box]] = defaultdict(list)
        for name, spec in specs:
            ours[name] += [_box(spec)[1]] if spec else []
        found = []
        with BundleReader(full) as reader:
            for name, boxes in ours.items():
                entry = reader.get(name)
                if entry is not None:
                    whole = [tuple((0, size) for size in entry.shape)]
                    theirs = [each.resolve(entry.shape) for each in entry.slices]
                    if sorted(boxes or whole) != sorted(theirs or whole):
                        found.append(name)
        return cls(full, tuple(sorted(found)))

    def __bool__(self) -> bool:
        return bool(self.names)

    def rows(self, increment: str, graph: Mapping[str, Collection[Span | None]]) -> OtherRows:
        """Return the rows of these variables that an increment holds, to be counted anew.

        Parameters
        ----------
        increment
            Prefix of the increment. What it holds whole fits any slices.
        graph
            Variable to its slices that rows can be written to, see `span_of`.

        Raises
        ------
        ckptctl.errors.CkptctlError
            The increment does not fit the full, or not all rows could be written.
        """
        if not self:
            return OtherRows({})
        with BundleReader(increment) as reader:
            wanted = {name for name in self.names if reader.get(name) is None}
        if not wanted:
            return OtherRows({})
        state = open_state(self.full, (increment,))
        found: defaultdict[str, list[_Stored]] = defaultdict(list)
        try:
            for plan in state.rows:
                if plan.name not in wanted:
                    continue
                shape = state.full.entry(plan.name).shape
                here = Span(0, shape[0])
                theirs = _span(plan.slice.resolve(shape), shape) if plan.slice else here
                if theirs is None or None in graph.get(plan.name, (None,)):
                    raise UnprovenError(
                        "the rows of the increment are counted in other slices than those of this "
                        "graph, and one of them is not cut by rows alone",
                        file=increment,
                        tensor=plan.name,
                        expected=f"slices of whole rows, in {self.full} and in this graph",
                        remedy="ckptctl merge, then restore the merged full: any graph can",
                    )
                data = BundleData(increment, state.increments[0].num_shards)
                found[plan.name] += [_Stored(data, rows, theirs) for _, rows in plan.incoming]
        finally:
            state.close()
        return OtherRows(found)


#: All slices are the graph's.
NO_OTHERS = OtherSlices("")


class _Stored(NamedTuple):
    """The rows of one slice in an increment."""

    data: BundleData
    rows: RowSet
    span: Span

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows of the whole variable with their values; the last step checks these."""
        keys, values = row_numbers(self.data, self.rows), self.rows.values
        # What the slice has no row for is left out (`restore.md`, Check 7).
        inside = keys < self.span.last - self.span.first
        keys = np.where(inside, keys + self.span.first, _NOWHERE)
        width, left = row_bytes(values), b""
        for piece in copy_checked(self.data, f"{self.rows.name}-sparse_incr_values", values):
            left += piece
            count = len(left) // width if width else 0
            found = np.frombuffer(left, values.dtype.numpy, count * width // values.dtype.size)
            yield keys[:count], found.reshape(count, *values.shape[1:])
            keys, left = keys[count:], left[count * width :]


class OtherRows:
    """What an increment holds of variables in other slices than the graph's."""

    def __init__(self, found: Mapping[str, list[_Stored]]) -> None:
        self._found = found

    def __contains__(self, name: object) -> bool:
        return name in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return the rows of one variable, piece by piece.

        Yields
        ------
        tuple of numpy.ndarray
            int64[K], counted in the whole variable, and their values, [K, dim]. At the end
            all was read, and its checksums compared.

        Raises
        ------
        ckptctl.errors.DamageError
            What was yielded is not what was saved.
        """
        for stored in self._found[name]:
            yield from stored.pieces()


def _span(box: _Box, shape: tuple[int, ...]) -> Span | None:
    if box[1:] != tuple((0, size) for size in shape[1:]):
        return None
    first, length = box[0]
    return Span(first, first + length)


def _box(slice_spec: str) -> tuple[tuple[int, ...], _Box]:
    """Return the shape and each (start, length) of "60 4 20,20:0,4"."""
    *shape, extents = slice_spec.split()
    pairs = (extent.partition(",") for extent in extents.split(":"))
    return tuple(map(int, shape)), tuple((int(start), int(size)) for start, _, size in pairs)
