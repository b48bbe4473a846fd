"""Rows that were looked up, as CSV, NumPy or Parquet."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any, BinaryIO, Literal

import numpy as np

from ckptctl.errors import AmbiguousError, RefusedError
from ckptctl.inspect.formats.names import archive_name
from ckptctl.inspect.lookup import STATES, Lookup
from ckptctl.inspect.lookup_rows import Cells, in_words

__all__ = ["FileFormat", "write_lookup"]

FileFormat = Literal["csv", "npz", "parquet"]


def write_lookup(found: Lookup, file: BinaryIO, kind: FileFormat) -> None:
    r"""Write one row for each key asked.

    Columns: key, state, freq, version, value (in CSV `value_0` ...), file and offset; for
    each slot `<slot>`, `<slot>_file` and `<slot>_offset`. NumPy's arrays are keys, state,
    freqs, versions, values, files and offsets. What is not there is empty in CSV, null in
    Parquet, and in arrays -1 for freq, version and offset, NaN for values (0 in a type
    without NaN) and an empty file. Parquet holds UTF-8 alone: another byte of a name is an
    escape there, `\udcff` for 0xff, and `%FF` in the name of an array.

    Raises
    ------
    DependencyError
        Parquet without pyarrow.
    AmbiguousError
        A slot is called like a column.
    """
    cells = {"": found.cells.get("", Cells.none(len(found.keys))), **found.cells}
    _check_names(cells, kind)
    if kind == "csv":
        _csv(found, file, cells)
    elif kind == "npz":
        _npz(file, _arrays(found, cells))
    else:
        _parquet(found, file, cells)


def _check_names(members: dict[str, Cells], kind: FileFormat) -> None:
    """Raise where two columns would have one name: a slot may be called anything."""
    many = "s" if kind == "npz" else ""
    names = [f"key{many}", "state", f"freq{many}", f"version{many}"]
    for slot, cells in members.items():
        value = slot or f"value{many}"
        width = cells.values.shape[1]
        names += [f"{value}_{at}" for at in range(width)] if kind == "csv" else [value]
        names += [_name(slot, f"{what}{many}") for what in ("file", "offset")]
    if kind == "npz":
        names = [archive_name(name) for name in names]
    for name, count in Counter(names).items():
        if count > 1:
            raise AmbiguousError(
                f"{count} columns would be called {name!r}: a slot has the name of one",
                remedy="use --format json or text, where slots stand by themselves",
            )


def _name(slot: str, what: str) -> str:
    return f"{slot}_{what}" if slot else what


def _files(found: Lookup, cells: Cells) -> list[str | None]:
    pairs = zip(cells.place.tolist(), cells.there.tolist(), strict=True)
    return [found.places[place][0] if there else None for place, there in pairs]


def _offsets(cells: Cells) -> list[int | None]:
    pairs = zip(cells.offset.tolist(), cells.there.tolist(), strict=True)
    return [offset if there else None for offset, there in pairs]


def _csv(found: Lookup, file: BinaryIO, members: dict[str, Cells]) -> None:
    import csv  # a format each: who asks for a thousand keys waits for the imports of all

    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
    writer = csv.writer(text)
    names = ["key", "state", "freq", "version"]
    columns: list[list[object]] = []
    for slot, cells in members.items():
        width = cells.values.shape[1]
        names += [f"{slot or 'value'}_{at}" for at in range(width)]
        names += [_name(slot, "file"), _name(slot, "offset")]
        blank = [""] * width
        pairs = zip(cells.values, cells.there.tolist(), strict=True)
        values = [in_words(value) if there else blank for value, there in pairs]
        places = zip(_files(found, cells), _offsets(cells), strict=True)
        columns.append([[*row, *place] for row, place in zip(values, places, strict=True)])
    writer.writerow(names)
    states = (STATES[number] for number in found.state.tolist())
    facts = zip(found.keys.tolist(), states, found.freqs.list(), found.versions.list(), strict=True)
    for fact, *rest in zip(facts, *columns, strict=True):
        line = [*fact, *(item for own in rest for item in own)]
        writer.writerow(["" if item is None else item for item in line])
    text.flush()
    text.detach()


def _npz(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    import zipfile

    # `np.savez` takes names as keywords, and a slot may be called `file`.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{archive_name(name)}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def _arrays(found: Lookup, members: dict[str, Cells]) -> dict[str, np.ndarray]:
    arrays = {
        "keys": found.keys,
        "state": np.array(STATES, "U8")[found.state],
        "freqs": np.where(found.freqs.there, found.freqs.values, -1),
        "versions": np.where(found.versions.there, found.versions.values, -1),
    }
    for slot, cells in members.items():
        values = cells.values.copy()
        if values.dtype.kind in "fc":
            values[~cells.there] = np.nan
        arrays[slot or "values"] = values
        files = np.array(["", *(file for file, _ in found.places)])
        arrays[_name(slot, "files")] = files[np.where(cells.there, cells.place + 1, 0)]
        arrays[_name(slot, "offsets")] = np.where(cells.there, cells.offset, -1)
    return arrays


def _parquet(found: Lookup, file: BinaryIO, members: dict[str, Cells]) -> None:
    from ckptctl.inspect.formats.parquet import need_pyarrow

    need_pyarrow()
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {
        "key": pa.array(found.keys),
        "state": pa.array([STATES[number] for number in found.state.tolist()]),
        "freq": pa.array(found.freqs.values, mask=~found.freqs.there),
        "version": pa.array(found.versions.values, mask=~found.versions.there),
    }
    for slot, cells in members.items():
        if cells.values.dtype.kind not in "fiub":
            raise RefusedError(
                f"Parquet has no {cells.values.dtype}", remedy="use --format json, csv or npz"
            )
        kind = pa.list_(pa.from_numpy_dtype(cells.values.dtype))
        values = cells.values.astype(cells.values.dtype.newbyteorder("="), copy=False)
        rows = [row if there else None for row, there in zip(values, cells.there, strict=True)]
        columns[slot or "value"] = pa.array(rows, kind)
        files = [file and _utf8(file) for file in _files(found, cells)]
        columns[_name(slot, "file")] = pa.array(files, pa.string())
        columns[_name(slot, "offset")] = pa.array(_offsets(cells), pa.int64())
    table = pa.table({_utf8(name): column for name, column in columns.items()})
    parquet.write_table(table, file)


def _utf8(name: str) -> str:
    """Return a name as Parquet can hold it: a byte that is no UTF-8 as JSON writes it."""
    return name.encode("utf-8", "backslashreplace").decode()
