"""Rows that were looked up, as CSV, NumPy or Parquet."""

from __future__ import annotations

import csv
import io
from typing import Any, BinaryIO, Literal

import numpy as np

from ckptctl.errors import DependencyError
from ckptctl.inspect.lookup import Lookup

__all__ = ["FileFormat", "pyarrow_parquet", "write_lookup"]

FileFormat = Literal["csv", "npz", "parquet"]


def write_lookup(found: Lookup, file: BinaryIO, kind: FileFormat) -> None:
    """Write one row for each key asked.

    Columns: key, state, freq, version, value (in CSV `value_0` ...), and for each slot
    `<slot>` likewise. What is not there is empty in CSV, null in Parquet, and in NumPy's
    arrays -1 for freq and version and NaN for values.

    Raises
    ------
    DependencyError
        Parquet without pyarrow.
    """
    slots = list(dict.fromkeys(slot for row in found.rows for slot in row.cells))
    slots = ["", *(slot for slot in slots if slot)]
    if kind == "csv":
        _csv(found, file, slots)
    elif kind == "npz":
        np.savez(file, **_arrays(found, slots))  # type: ignore[arg-type]  # names are ours
    else:
        _parquet(found, file, slots)


def pyarrow_parquet() -> tuple[Any, Any]:
    """Return pyarrow and its Parquet module; raise `DependencyError` without them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DependencyError(
            f"Parquet needs pyarrow: {error}", remedy="pip install 'ckptctl[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet


def _dims(found: Lookup, slot: str) -> int:
    cells = (row.cells[slot] for row in found.rows if slot in row.cells)
    return max((cell.value.size for cell in cells), default=0)


def _csv(found: Lookup, file: BinaryIO, slots: list[str]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    dims = {slot: _dims(found, slot) for slot in slots}
    names = [f"{slot or 'value'}_{at}" for slot in slots for at in range(dims[slot])]
    writer.writerow(["key", "state", "freq", "version", *names])
    for row in found.rows:
        line: list[object] = [row.key, row.state, row.freq, row.version]
        for slot in slots:
            cell = row.cells.get(slot)
            blank = [""] * dims[slot]
            line += blank if cell is None else cell.value.reshape(-1).tolist()
        writer.writerow(["" if item is None else item for item in line])
    text.detach()


def _arrays(found: Lookup, slots: list[str]) -> dict[str, np.ndarray]:
    rows = found.rows
    arrays = {
        "keys": np.array([row.key for row in rows], np.int64),
        "state": np.array([row.state for row in rows], "U8"),
        "freqs": np.array([-1 if row.freq is None else row.freq for row in rows], np.int64),
        "versions": np.array(
            [-1 if row.version is None else row.version for row in rows], np.int64
        ),
    }
    for slot in slots:
        dim = _dims(found, slot)
        cells = [row.cells.get(slot) for row in rows]
        kind = next((cell.value.dtype for cell in cells if cell is not None), np.dtype("f4"))
        fill = np.nan if kind.kind == "f" else 0
        values = np.full((len(rows), dim), fill, kind)
        for at, cell in enumerate(cells):
            if cell is not None:
                values[at] = cell.value.reshape(-1)
        arrays[slot or "values"] = values
    return arrays


def _parquet(found: Lookup, file: BinaryIO, slots: list[str]) -> None:
    pa, parquet = pyarrow_parquet()
    rows = found.rows
    columns: dict[str, Any] = {
        "key": pa.array([row.key for row in rows], pa.int64()),
        "state": pa.array([row.state for row in rows]),
        "freq": pa.array([row.freq for row in rows], pa.int64()),
        "version": pa.array([row.version for row in rows], pa.int64()),
    }
    for slot in slots:
        values = [
            row.cells[slot].value.reshape(-1).tolist() if slot in row.cells else None
            for row in rows
        ]
        columns[slot or "value"] = pa.array(values, pa.list_(pa.float64()))
    parquet.write_table(pa.table(columns), file)
