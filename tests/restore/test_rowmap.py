"""`RowMap` and `Column` against lists: deleting, replacing and inserting rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl import knobs
from ckptctl.bundle import BundleReader, BundleWriter
from ckptctl.bundle.checksum import combine
from ckptctl.errors import TensorChecksumError
from ckptctl.restore import column as columns
from ckptctl.restore.column import Column
from ckptctl.restore.rowmap import RowMap, Runs, row_order
from ckptctl.restore.rows_brought import FileRows

MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@st.composite
def edits(draw: st.DrawFn) -> dict[str, Any]:
    """What happens to a tensor of some rows; incoming rows are numbered from 0."""
    old = draw(st.integers(0, 12))
    rows = list(range(old))
    deleted = sorted(draw(st.sets(st.sampled_from(rows)))) if rows else []
    gone = Runs.of(array(deleted))
    if draw(st.booleans()):  # each by itself, as pieces may bring them
        gone = Runs(array(deleted), array(deleted) + 1)
    kept = [row for row in rows if row not in deleted]
    replaced = sorted(draw(st.sets(st.sampled_from(kept)))) if kept else []
    at = sorted(draw(st.lists(st.integers(0, old), max_size=4)))
    count = [draw(st.integers(0, 3)) for _ in at]
    numbers = draw(st.permutations(range(len(replaced) + sum(count))))
    return {
        "old": [old],
        "deleted": deleted,
        "gone": draw(st.sampled_from([array(deleted), gone])),
        "replaced": replaced,
        "at": at,
        "count": count,
        "by": numbers[: len(replaced)],
        "inserted": numbers[len(replaced) :],
    }


def array(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


def build(edit: dict[str, Any]) -> tuple[RowMap, np.ndarray]:
    """Return the map, and which incoming row each changed row takes."""
    rowmap = RowMap.build(
        edit["old"][0],
        deleted=edit["gone"],
        insert_at=array(edit["at"]),
        insert_count=array(edit["count"]),
    )
    changed = np.concatenate([rowmap.place_old(array(edit["replaced"])), rowmap.fresh_rows()])
    order = np.argsort(changed)
    incoming = np.concatenate([array(edit["by"]), array(edit["inserted"])])
    return rowmap.with_changes(changed[order]), incoming[order]


def runs(rowmap: RowMap, start: int, stop: int) -> list[tuple[int, ...]]:
    return list(zip(*(each.tolist() for each in rowmap.runs(start, stop)), strict=True))


def naive(edit: dict[str, Any]) -> list[tuple[str, int]]:
    """("old", row) or ("new", incoming row), in result order."""
    inserted = iter(edit["inserted"])
    done: list[tuple[str, int]] = []
    for row in range(edit["old"][0] + 1):
        for at, count in zip(edit["at"], edit["count"], strict=True):
            if at == row:
                done += [("new", next(inserted)) for _ in range(count)]
        if row < edit["old"][0] and row not in edit["deleted"]:
            if row in edit["replaced"]:
                done.append(("new", edit["by"][edit["replaced"].index(row)]))
            else:
                done.append(("old", row))
    return done


@MANY
@given(edit=edits(), data=st.data())
def test_a_map_says_where_each_row_comes_from(edit: dict[str, Any], data: object) -> None:
    rowmap, incoming_of = build(edit)
    expected = naive(edit)
    assert rowmap.rows == len(expected)
    found: list[object] = [None] * rowmap.rows
    for begin, length, source in runs(rowmap, 0, rowmap.rows):
        found[begin : begin + length] = [("old", source + n) for n in range(length)]
    for row, incoming in zip(rowmap.changed.tolist(), incoming_of.tolist(), strict=True):
        found[row] = ("new", incoming)
    assert found == expected
    assert rowmap.changed.tolist() == sorted(rowmap.changed.tolist())
    assert rowmap.untouched == (
        bool(expected) and expected == [("old", row) for row in range(edit["old"][0])]
    )


@MANY
@given(
    chosen=st.lists(st.booleans(), max_size=30),
    pieces=st.integers(1, 9),
    at=st.sampled_from([0, 5, (1 << 31) - 9]),
    asked=st.lists(st.integers(0, 40), max_size=9),
)
def test_runs_are_rows(chosen: list[bool], pieces: int, at: int, asked: list[int]) -> None:
    """Also where they were met piece by piece, and some touch."""
    rows = [row + at for row, own in enumerate(chosen) if own]
    parts = [chosen[first : first + pieces] for first in range(0, len(chosen), pieces)]
    met = Runs.together(
        [
            Runs.where(np.array(part, bool), at + number * pieces)
            for number, part in enumerate(parts)
        ]
    )
    for found, by in ((met, 0), (Runs.of(array(rows)), 0), (met.moved(-at), at)):
        pairs = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
        assert [row + by for start, end in pairs for row in range(start, end)] == rows
        assert found.total == len(rows)
        before = found.before(array(asked) + at - by).tolist()
        assert before == [sum(row < at + each for row in rows) for each in asked]


@MANY
@given(edit=edits(), start=st.integers(0, 20), length=st.integers(0, 20))
def test_runs_of_a_range_are_those_of_all_cut_off(
    edit: dict[str, Any], start: int, length: int
) -> None:
    rowmap, _ = build(edit)
    start = min(start, rowmap.rows)
    stop = min(start + length, rowmap.rows)
    rows = {
        begin + n: source + n
        for begin, count, source in runs(rowmap, 0, rowmap.rows)
        for n in range(count)
    }
    own = {
        begin + n: source + n
        for begin, count, source in runs(rowmap, start, stop)
        for n in range(count)
    }
    assert own == {row: source for row, source in rows.items() if start <= row < stop}
    assert rowmap.few_runs(start, stop, len(rowmap.source) + 1) == runs(rowmap, start, stop)
    assert rowmap.few_runs(start, stop, -1) is None


@pytest.fixture(scope="module")
def bundle(module_path: Path) -> BundleReader:
    """`w<n>`: n rows of 3 bytes for n to 12; `in`: 100 rows of the same."""
    with BundleWriter(str(module_path / "b")) as writer:
        for rows in range(13):
            writer.add(f"w{rows}", np.arange(rows * 3, dtype=np.uint8).reshape(rows, 3))
        writer.add("in", 255 - np.arange(150, dtype=np.uint8).reshape(50, 3))
        writer.add("in2", 128 + np.arange(90, dtype=np.uint8).reshape(30, 3))
    return BundleReader(str(module_path / "b"))


@MANY
@given(
    edit=edits(),
    size=st.sampled_from([1, 3, 5, 7, 10, 1 << 20]),
    start=st.integers(0, 15),
    many=st.sampled_from([0, 1, 64]),
    sources=st.integers(1, 2),
)
def test_a_column_is_the_rows_of_its_map(
    bundle: BundleReader, edit: dict[str, Any], size: int, start: int, many: int, sources: int
) -> None:
    rowmap, taken = build(edit)
    name = f"w{edit['old'][0]}"
    numbers = len(edit["by"]) + len(edit["inserted"])
    # Incoming row n: row (n * 7) % 50 of `in`, or, of two, (n * 11) % 30 of `in2` where n is odd.
    which = np.arange(numbers) % sources
    row = np.where(which, np.arange(numbers) * 11 % 30, np.arange(numbers) * 7 % 50)
    tensors = [(bundle, tensor, bundle.entry(tensor)) for tensor in ("in", "in2")]
    source = FileRows(tensors, which[taken] if sources > 1 else None, row[taken], 3)
    old = bundle.read(name)
    new = [bundle.read(("in", "in2")[n % sources])[row[n]] for n in range(numbers)]
    expected = b"".join((old[n] if kind == "old" else new[n]).tobytes() for kind, n in naive(edit))
    saved, knobs.PIECE_BYTES = knobs.PIECE_BYTES, size
    known, columns._MANY_RUNS = columns._MANY_RUNS, many
    try:
        column = Column(bundle, name, bundle.entry(name), rowmap, source)
        assert b"".join(bytes(piece) for piece in column.pieces()) == expected
        begin = min(start, rowmap.rows)
        assert column.read(begin, rowmap.rows).tobytes() == expected[begin * 3 :]
        assert (column.rows, column.nbytes) == (rowmap.rows, len(expected))
        ranges = [column.stream(0, begin), column.stream(begin, rowmap.rows)]
        if not begin:
            del ranges[0]
        assert b"".join(bytes(piece) for each in ranges for piece in each.pieces()) == expected
        for each in ranges:
            each.drain()
        assert sum(each.last - each.first for each in ranges) == len(old)
        crc = 0
        for each in ranges:
            crc = combine(crc, each.crc, (each.last - each.first) * column.row_bytes)
        column.check(crc)
    finally:
        columns._MANY_RUNS = known
        knobs.PIECE_BYTES = saved


@MANY
@given(edit=edits(), size=st.sampled_from([1, 5, 1 << 20]), at=st.integers(0, 100))
def test_a_column_checks_every_row_that_it_had(
    bundle: BundleReader, edit: dict[str, Any], size: int, at: int
) -> None:
    """Also those that are replaced or left out."""
    entry = bundle.entry(f"w{edit['old'][0]}")
    if not entry.size:
        return
    path = Path(bundle.shard_path(0))
    whole = path.read_bytes()
    at = entry.offset + at % entry.size
    numbers = len(edit["by"]) + len(edit["inserted"])
    nowhere = np.zeros(numbers, np.int64)
    source = FileRows([(bundle, "in", bundle.entry("in"))], None, nowhere, 3)
    saved, knobs.PIECE_BYTES = knobs.PIECE_BYTES, size
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(bytes([whole[at] ^ 1]))
    try:
        column = Column(bundle, "w", entry, build(edit)[0], source)
        with pytest.raises(TensorChecksumError):
            list(column.pieces())
    finally:
        path.write_bytes(whole)
        knobs.PIECE_BYTES = saved


@pytest.mark.parametrize("most", [100, 1 << 20, 1 << 40])
@pytest.mark.parametrize("count", [0, 90])
def test_rows_are_put_in_order(most: int, count: int) -> None:
    rows = np.random.default_rng(3).integers(0, most, count)
    assert rows[row_order(rows)].tolist() == sorted(rows.tolist())
