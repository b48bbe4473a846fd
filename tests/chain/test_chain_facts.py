"""`ckptctl/lineage` and `ckptctl/merged`, as a writer left them or as damage."""

from __future__ import annotations

import json

import pytest

from ckptctl.chain import MAX_STEP, Lineage, Merged
from ckptctl.chain.facts import Ahead, parse_lineage, parse_merged
from ckptctl.errors import DamageError


def lineage(**changes):
    facts = {"version": 1, "base_step": 100, "previous_step": 120, "mode": "delta"}
    return json.dumps({k: v for k, v in (facts | changes).items() if v is not ...}).encode()


GOOD = [
    (lineage(), Lineage(100, 120, "delta")),
    (lineage(previous_step=None), Lineage(100, None, "delta")),
    (lineage(previous_step=...), Lineage(100, None, "delta")),
    (lineage(previous_step=100), Lineage(100, 100, "delta")),
    (lineage(mode="cumulative"), Lineage(100, 120, "cumulative")),
    (lineage(id="a1", previous_id="0f"), Lineage(100, 120, "delta", "a1", "0f")),
    (lineage(id="a1", previous_id=None), Lineage(100, 120, "delta", "a1")),
    (lineage(line=""), Lineage(100, 120, "delta", line="")),
    (lineage(line="01234567" * 100), Lineage(100, 120, "delta", line="01234567" * 100)),
    (lineage(line="01234567" * 101), Lineage(100, 120, "delta")),
    (lineage(line="0123"), Lineage(100, 120, "delta")),
    (lineage(line=["01234567"]), Lineage(100, 120, "delta")),
    (lineage(mode=...), Lineage(100, 120, "cumulative")),
    (lineage(base_step=0, unknown=[1]), Lineage(0, 120, "delta")),
]


@pytest.mark.parametrize(("raw", "expected"), GOOD)
def test_lineage(raw, expected):
    assert parse_lineage(raw, 140, "x.index") == expected


def test_a_line():
    line = ""
    for number in range(150):
        line = Lineage.lengthen(line, f"{number:032x}"[::-1])
        told = Lineage(100, line=line)
        assert told.follows(f"{number:032x}"[::-1]) is True
        assert told.follows("another") is (False if number < 99 else None)
    assert told.follows(f"{0:032x}") is None  # of so long a one the beginning is cut off
    assert Lineage(100).follows("another") is None
    assert Lineage.lengthen(None, "another") is None


BAD = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\xff\xfe", id="no text"),
    pytest.param(b"[" * 60_000, id="nested"),
    pytest.param(b"[]", id="no object"),
    pytest.param(b'"x"', id="a string"),
    pytest.param(b"1" * 60_000, id="a long number"),
    pytest.param(lineage(version=2), id="newer version"),
    pytest.param(lineage(version=...), id="no version"),
    pytest.param(lineage(base_step=...), id="no base"),
    pytest.param(lineage(base_step=True), id="base is true"),
    pytest.param(lineage(base_step="100"), id="base is a string"),
    pytest.param(lineage(base_step=1.5), id="base is a fraction"),
    pytest.param(lineage(base_step=-1), id="base is negative"),
    pytest.param(lineage(base_step=MAX_STEP + 1), id="base is no int64"),
    pytest.param(lineage(base_step=140), id="base is its own step"),
    pytest.param(lineage(base_step=140, previous_step=None), id="and it is the first"),
    pytest.param(lineage(base_step=150, previous_step=None), id="base above it"),
    pytest.param(lineage(previous_step=140), id="its own predecessor"),
    pytest.param(lineage(previous_step=90), id="predecessor below the base"),
    pytest.param(lineage(mode="sideways"), id="mode"),
    pytest.param(lineage(mode=None), id="mode null"),
    pytest.param(lineage(id=5), id="a number for an identifier"),
    pytest.param(lineage(previous_id=""), id="an empty identifier"),
    pytest.param(lineage(previous_id="x" * 65), id="an endless identifier"),
]


@pytest.mark.parametrize("raw", BAD)
def test_lineage_that_makes_no_sense(raw):
    with pytest.raises(DamageError) as caught:
        parse_lineage(raw, 140, "x.index")
    assert caught.value.tensor == "ckptctl/lineage"
    assert caught.value.file == "x.index"


def merged(**changes):
    facts = {"version": 1, "base_step": 100, "up_to": 140, "mode": "cumulative"}
    return json.dumps({k: v for k, v in (facts | changes).items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (merged(), Merged(100, 140, "cumulative")),
        (merged(mode="delta"), Merged(100, 140, "delta")),
        (merged(ahead=[3, 2, 1]), Merged(100, 140, "cumulative", Ahead(3, 2, 1))),
        (merged(ahead=[3, 2, "1"]), Merged(100, 140)),
        (merged(ahead=7), Merged(100, 140)),
        (merged(up_to=120), Merged(100, 120, "cumulative")),
        (merged(instead="model.ckpt-160"), Merged(100, 140, instead="model.ckpt-160")),
        (merged(instead="model.ckpt-140"), Merged(100, 140)),
        (merged(instead="model.ckpt"), Merged(100, 140)),
        (merged(instead="../model.ckpt-160"), Merged(100, 140)),
        (merged(instead=160), Merged(100, 140)),
        (merged(last_id="a"), Merged(100, 140, last_id="a")),
        (merged(applied_to=120), Merged(100, 140, applied_to=120)),
        (merged(up_to=MAX_STEP), Merged(100, MAX_STEP, "cumulative")),
        (merged(up_to=..., previous_step=120), Merged(100, 140, "cumulative")),
    ],
)
def test_merged(raw, expected):
    assert parse_merged(raw, 140, "x.index") == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        merged(version=0),
        merged(base_step=None),
        merged(up_to=100),
        merged(up_to="x"),
        merged(last_id=7),
        merged(applied_to="x"),
    ],
)
def test_merged_that_makes_no_sense(raw):
    with pytest.raises(DamageError) as caught:
        parse_merged(raw, 140, "x.index")
    assert caught.value.tensor == "ckptctl/merged"
