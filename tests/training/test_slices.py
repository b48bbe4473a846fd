"""Rows of increments, counted anew in the slices of another graph; no TensorFlow here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ckptctl.errors import TableError
from ckptctl.training.slices import OtherSlices, Span
from tests.oracle.chain import build_chain, changes, full, increment, table
from tests.oracle.images import Piece, Rows, Sliced


def floats(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def other_rows(tmp_path: Path, second: dict[int, float]) -> list[tuple[list[int], list[float]]]:
    """Return what a graph with `w` in one slice is given of part 1 of two, of four rows each."""
    halves = [Piece(((at, 4), (0, 1)), floats(*range(at, at + 4))) for at in (0, 4)]
    parts = [{0: floats(50.0)}, {row: floats(value) for row, value in second.items()}]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1]), {"w": Sliced("float32", (8, 1), halves)}),
        increment(
            20,
            changes("emb", [1]),
            *(Rows(f"w/part_{part}", "float32", 1, own) for part, own in enumerate(parts)),
        ),
    )
    others = OtherSlices.of(str(chain.full_prefix(10)), [("w", "8 1 0,8:0,1")])
    assert others.names == ("w",)
    found = others.rows(str(chain.increment_prefix(20)), {"w": [Span(0, 8)]})
    own = (Span(0, 8).own(*piece) for piece in found.of("w"))
    return [(rows.tolist(), values.ravel().tolist()) for rows, values in own]


def test_rows_stand_behind_those_of_the_slices_before(tmp_path: Path) -> None:
    assert other_rows(tmp_path, {1: 91.0, 3: 93.0}) == [([0], [50.0]), ([5, 7], [91.0, 93.0])]


def test_a_row_that_the_slice_has_not_is_left_out(tmp_path: Path) -> None:
    assert other_rows(tmp_path, {1: 91.0, 4: 94.0}) == [([0], [50.0]), ([5], [91.0])]


def test_a_row_that_no_server_saves_is_damage(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="row numbers that no PS can save"):
        other_rows(tmp_path, {-3: 99.0})
