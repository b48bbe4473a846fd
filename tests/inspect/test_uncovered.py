"""Tensors of which slices are missing (CK014): what is not there is never made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptctl.inspect.diff import diff
from ckptctl.inspect.show import show
from tests.inspect.model import look
from tests.oracle.chain import image
from tests.oracle.images import Piece, Sliced, write_image

ROWS = np.arange(1, 25, dtype="<f4").reshape(6, 4)
#: What is there of each side: boxes of (start, length).
TOP, BOTTOM = ((0, 2), (0, 4)), ((2, 4), (0, 4))
LEFT, RIGHT = ((0, 6), (0, 2)), ((0, 6), (2, 2))
MIDDLE, END = ((2, 1), (0, 4)), ((3, 3), (0, 4))
CORNER, REST = ((0, 2), (0, 2)), ((0, 2), (2, 2))


def write(prefix: Path, array: np.ndarray, *boxes: Any, kind: str = "float32") -> str:
    pieces = []
    for box in boxes:
        own = array[tuple(slice(start, start + length) for start, length in box)]
        pieces.append(Piece(box, own.tobytes()))
    write_image(image(1, {"v": Sliced(kind, array.shape, pieces)}), prefix)
    return str(prefix)


def compare(tmp_path: Path, a: Any, b: Any, new: np.ndarray = ROWS) -> dict[str, Any]:
    tmp_path.mkdir(exist_ok=True)
    one, other = write(tmp_path / "a-1", ROWS, *a), write(tmp_path / "b-1", new, *b)
    with look(one) as x, look(other) as y:
        return json.loads(json.dumps(diff(x, y).document()))


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([TOP, BOTTOM], [TOP], ["whole", "without [2:6, 0:4]"]),
        ([TOP], [TOP, BOTTOM], ["without [2:6, 0:4]", "whole"]),
        ([TOP], [BOTTOM], ["without [2:6, 0:4]", "without [0:2, 0:4]"]),
        ([TOP, END], [TOP, BOTTOM], ["without [2:3, 0:4]", "whole"]),
        ([MIDDLE], [TOP], ["without [0:2, 0:4], [3:6, 0:4]", "without [2:6, 0:4]"]),
        ([LEFT, RIGHT], [LEFT], ["whole", "without [0:6, 2:4]"]),
        ([CORNER], [CORNER, REST, BOTTOM], ["without 20 of 24 elements", "whole"]),
    ],
)
def test_slices_that_one_side_lacks_differ(
    tmp_path: Path, a: Any, b: Any, words: list[str]
) -> None:
    found = compare(tmp_path, a, b)
    (own,) = found["tensors"]["uncovered"]
    assert (own["name"], own["a"], own["b"]) == ("v", *words)
    assert not found["identical"]
    assert found["tensors"]["changed"] == []
    lacking = [(side, word[8:]) for side, word in zip("ab", words, strict=True) if word != "whole"]
    assert len(found["notes"]) == len(lacking)
    for (side, word), note in zip(lacking, found["notes"], strict=True):
        assert note.startswith(f"{side}: {tmp_path}/{side}-1.index: ")
        assert "v" in note
        assert word in note


def test_what_is_not_there_is_not_zero(tmp_path: Path) -> None:
    array = ROWS.copy()
    array[:, 2:] = 0
    a, b = write(tmp_path / "a-1", array, LEFT, RIGHT), write(tmp_path / "b-1", array, LEFT)
    with look(a) as x, look(b) as y:
        assert not diff(x, y).identical


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([TOP, MIDDLE], [((0, 1), (0, 4)), ((1, 2), (0, 4))]),
        ([RIGHT], [((0, 6), (2, 1)), ((0, 6), (3, 1))]),
        ([CORNER], [CORNER]),
    ],
)
def test_what_both_have_is_compared_where_both_lack_the_same(
    tmp_path: Path, a: Any, b: Any
) -> None:
    same = compare(tmp_path, a, b)
    assert same["identical"]
    assert [note[:2] for note in same["notes"]] == ["a:", "b:"]
    other = compare(tmp_path / "other", a, b, ROWS + 1)
    (changed,) = other["tensors"]["changed"]
    assert changed["elements"] == sum(np.prod([length for _, length in box]) for box in a)
    assert other["tensors"]["uncovered"] == []


@pytest.mark.parametrize("boxes", [[TOP], [RIGHT], [CORNER], [TOP, END]])
def test_stats_are_of_what_is_there(tmp_path: Path, boxes: Any) -> None:
    with look(write(tmp_path / "a-1", ROWS, *boxes)) as view:
        found = show(view, stats=True).document()
    tensors: Any = found["tensors"]
    stats = next(each["stats"] for each in tensors if each["name"] == "v")
    there = [ROWS[tuple(slice(at, at + size) for at, size in box)].reshape(-1) for box in boxes]
    values = np.concatenate(there)
    assert (stats["count"], stats["zeros"]) == (len(values), 0)
    assert (stats["min"], stats["max"]) == (values.min(), values.max())
    assert stats["mean"] == pytest.approx(values.mean())
    (note,) = found["notes"]  # type: ignore[misc]
    assert f"{tmp_path}/a-1.index" in note
    assert "slices of v are missing" in note
