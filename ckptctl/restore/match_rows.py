"""Which rows of an increment belong to which slice of which normal variable."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ckptctl.bundle import BundleReader, Entry, TensorSlice
from ckptctl.errors import AmbiguousError, TableError, UnprovenError
from ckptctl.restore.opening import check_fits
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.plans import Increment, RowsPlan
from ckptctl.tables import Catalogue, RowSet, part_components

__all__ = ["RowsMatcher", "data_entry", "order_slices"]

#: (index of the increment, number of the slice, rows)
Incoming = tuple[int, int, RowSet]


class RowsMatcher:
    """Joins the rows that increments bring with the normal variables of a full.

    Attributes
    ----------
    incoming
        The rows by tensor of the full.
    """

    def __init__(
        self,
        full: BundleReader,
        catalogue: Catalogue,
        increments: Sequence[Increment],
        options: RestoreOptions,
    ) -> None:
        self._full = full
        self._catalogue = catalogue
        self._increments = increments
        self._options = options
        self.incoming = self._incoming_rows()

    def _incoming_rows(self) -> dict[str, list[Incoming]]:
        """Return (increment, part, rows) by tensor of the full."""
        found: dict[str, list[Incoming]] = defaultdict(list)
        if not self._increments:
            return found
        plain = {name: self._catalogue.entries[name] for name in self._catalogue.plain}
        for number, (reader, catalogue) in enumerate(self._increments):
            for rows in catalogue.rows.values():
                check_fits(reader, rows)
                target = _rows_target(rows.name, plain, reader)
                if target is not None:
                    found[target[0]].append((number, target[1], rows))
                else:
                    raise UnprovenError(
                        "rows of a variable that the full lacks",
                        file=reader.index_path,
                        tensor=rows.name,
                        expected="a tensor of that name in the full",
                        found="none: rows alone are no variable",
                    )
        return found

    def plan(
        self, name: str, entry: Entry, source: int, rows: Sequence[Incoming]
    ) -> list[RowsPlan]:
        """Return the slices of a variable with the rows that increments bring.

        `source` is the increment that holds the variable whole, or -1 for the full.
        """
        slices = order_slices(self._full, name, entry) if entry.slices else []
        parts = len(slices) or 1
        last = len(self._increments) - 1
        for number in sorted({last, *(item[0] for item in rows)}):
            have = {part for at, part, _ in rows if at == number}
            if have and max(have) + 1 != parts:
                raise UnprovenError(
                    "rows for another number of parts than the full's slices",
                    file=self._increments[number][0].index_path,
                    tensor=name,
                    expected=f"parts 0 to {parts - 1}",
                    found=f"parts {sorted(have)}",
                )
            if len(have) != parts and not self._options.keep_missing:
                raise UnprovenError(
                    "rows of some parts are missing",
                    file=self._increments[number][0].index_path,
                    tensor=name,
                    expected=f"parts 0 to {parts - 1}",
                    found=f"parts {sorted(have)}",
                    remedy="use another step, or --keep-missing to keep the full's rows there",
                )
        plans = []
        reader = self._full if source < 0 else self._increments[source][0]
        for part in range(parts):
            own_slice = slices[part] if slices else None
            own = data_entry(reader, name, own_slice)
            incoming = tuple((number, item) for number, at, item in rows if at == part)
            for number, item in incoming:
                _check_rows(name, own, item, self._increments[number][0])
            plans.append(RowsPlan(name, own_slice, source, own, incoming))
        return plans


def _check_rows(name: str, own: Entry, rows: RowSet, reader: BundleReader) -> None:
    if own.dtype != rows.values.dtype or own.shape[1:] != rows.values.shape[1:]:
        raise TableError(
            "rows do not fit the variable",
            file=reader.index_path,
            tensor=f"{rows.name}-sparse_incr_values",
            expected=f"{own.dtype.name} rows of {list(own.shape[1:])}, as {name}",
            found=f"{rows.values.dtype.name} rows of {list(rows.values.shape[1:])}",
        )


def order_slices(reader: BundleReader, name: str, entry: Entry) -> list[TensorSlice]:
    """Return the slices of a tensor in order along the one axis that is cut.

    Rows of a part are counted in the slice's own coordinates, whichever axis that is.

    Raises
    ------
    UnprovenError
        It is cut along two axes, or its slices overlap or leave gaps.
    """
    boxes = [slice_.resolve(entry.shape) for slice_ in entry.slices]
    axes = [
        axis
        for axis, size in enumerate(entry.shape)
        if any(box[axis] != (0, size) for box in boxes)
    ]
    if len(axes) > 1:
        raise UnprovenError(
            "a variable cut along two axes takes no sparse rows",
            file=reader.index_path,
            tensor=name,
            expected="slices along one axis",
            found=f"slices along axes {axes}",
        )
    axis = axes[0] if axes else 0
    order = sorted(range(len(boxes)), key=lambda at: (boxes[at][axis], at))
    end = 0
    for at in order:
        start, length = boxes[at][axis]
        if start != end:
            raise UnprovenError(
                "slices of a variable overlap or leave gaps",
                file=reader.index_path,
                tensor=name,
                expected=f"a slice from {end}",
                found=f"one from {start}",
            )
        end = start + length
    return [entry.slices[at] for at in order]


def data_entry(reader: BundleReader, name: str, slice_: TensorSlice | None) -> Entry:
    """Return the entry that owns the bytes of a tensor, or of the slice with the same box."""
    entry = reader.entry(name)
    if slice_ is None:
        return entry
    box = slice_.resolve(entry.shape)
    own = next((s for s in entry.slices if s.resolve(entry.shape) == box), slice_)
    return reader.slice_entry(name, own)


def _rows_target(
    name: str, plain: Mapping[str, Entry], reader: BundleReader
) -> tuple[str, int] | None:
    """Return the full's tensor that rows belong to, and the number of the slice."""
    readings = [(name, 0)] if name in plain and not plain[name].slices else []
    for component in part_components(name):
        entry = plain.get(component.whole)
        # A variable in one part is stored without slices (BundleWriter::AddSlice).
        if entry is not None and (entry.slices or component.number == 0):
            readings.append((component.whole, component.number))
    if len(readings) > 1:
        raise AmbiguousError(
            "two variables of the full may be meant",
            file=reader.index_path,
            tensor=name,
            found=" and ".join(f"{whole} (part {part})" for whole, part in readings),
        )
    return readings[0] if readings else None
