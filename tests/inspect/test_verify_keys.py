"""What names, keys and numbers of a checkpoint mean to `verify`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptctl.bundle.dtypes import DTYPES
from ckptctl.inspect.small_types import values_of_bytes
from tests.inspect.spoils import (
    PLAIN,
    SPOILS,
    codes,
    cut,
    emb,
    evs,
    look,
    of_byte,
    of_full,
    of_increment,
    rows,
    whole,
)
from tests.oracle.chain import build_chain, changes, full, increment, table
from tests.oracle.images import Filtered, Tensor, edit_index, floats, ints


@pytest.mark.parametrize(
    ("lost", "code"),
    [
        ([("", 0)], "emb/part_0"),
        ([("", 1)], "emb"),
        ([("Adagrad", 1)], "emb"),
        ([("", 0), ("Adagrad", 0)], "emb/part_0"),
    ],
)
def test_a_part_that_is_not_there(tmp_path: Path, lost: list[Any], code: str) -> None:
    chain = whole(tmp_path)
    of_full([ev for ev in emb() if (ev.slot, ev.part) not in lost], PLAIN)(chain)
    found = look(chain.directory, data=False).findings
    assert [each.tensor for each in found if each.code == "CK013"][:1] == [code]


def test_a_scope_called_like_a_part_is_no_missing_part(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_full(emb(), table("tower/part_3/t", [1]), PLAIN)(chain)
    assert "CK013" not in codes(look(chain.directory, data=False))


def test_a_table_without_its_values_is_no_plain_tensors(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    of_full(table("t", [1]), PLAIN, raw={"emb-partition_offset": ints("int32", [0] * 1001)})(chain)
    assert "CK012" in codes(look(chain.directory, data=False))


@pytest.mark.parametrize(
    ("filtered", "code"),
    [
        ([Filtered(5, 5, 1, 1)], "CK054"),
        ([Filtered(4, 4, 1, 1), Filtered(4, 4, 1, 1)], "CK053"),
        ([Filtered(0, -3, 1, 1)], "CK055"),
    ],
)
def test_filtered_keys_are_keys_too(tmp_path: Path, filtered: list[Filtered], code: str) -> None:
    chain = whole(tmp_path)
    of_full(evs(lambda ev: replace(ev, filtered=filtered)), PLAIN)(chain)
    found = {(each.code, each.tensor) for each in look(chain.directory).findings}
    assert (code, "emb/part_0-keys_filtered") in found


@pytest.mark.parametrize("code", ["", *(code for code in SPOILS if "CK052" <= code <= "CK059")])
def test_buckets_that_are_too_large_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("ckptctl.knobs.JOIN_KEYS", 1)
    chain = whole(tmp_path)
    if code:
        SPOILS[code](chain)
    found = set(codes(look(chain.directory)))
    assert found - {"CK059"} == {code} - {"CK059", ""}
    assert not code or code in found


def test_rows_behind_the_last_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = whole(tmp_path)
    nothing = {"emb/part_0-partition_offset": ints("int32", [0] * 1001)}
    of_full(emb(), PLAIN, raw=nothing)(chain)
    whole_found = look(chain.directory).findings
    monkeypatch.setattr("ckptctl.knobs.JOIN_KEYS", 1)
    sliced = look(chain.directory).findings
    assert [each.code for each in whole_found] == [each.code for each in sliced] == ["CK054"]
    assert sliced[0].found == "215"


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("slot", ["", "Adagrad"])
def test_an_increment_that_lacks_a_part_of_one_member(tmp_path: Path, slot: str, part: int) -> None:
    chain = whole(tmp_path)
    sets = changes("emb", [7, 50, 51], parts=2, versions=7, freqs=9)
    lacking = [ev for ev in sets if (ev.slot, ev.part) != (slot, part)]
    of_increment(lacking, PLAIN, rows(1, 3))(chain)
    found = {(each.code, each.tensor) for each in look(chain.directory, data=False).findings}
    assert ("CK059", "emb/Adagrad") in found


def test_damaged_values_leave_the_keys_to_be_compared(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    of_byte("emb/part_0-values")(chain)
    assert set(codes(look(chain.directory))) == {"CK050", "CK059"}


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (Tensor("float16", (2,), np.array([1, np.inf], "<f2").tobytes()), ["CK060"]),
        (Tensor("float16", (2,), np.array([1, 65504], "<f2").tobytes()), []),
        (Tensor("bfloat16", (2,), b"\x80\x7f\x00\x00"), ["CK060"]),
        (Tensor("float64", (2,), np.array([-1e31, 0]).tobytes()), ["CK061"]),
        (Tensor("float32", (0,), b""), []),
    ],
)
def test_numbers_of_every_width(tmp_path: Path, tensor: Tensor, expected: list[str]) -> None:
    build_chain(tmp_path, full(1, {"x": tensor}))
    assert codes(look(tmp_path / "chain")) == expected


COMPLEX = [
    ([1 + 2j, -3 - 4j], {}),
    ([1, complex(0, float("nan")), complex(float("-inf"), 0)], {"CK060": (2, 3, 1)}),
    ([complex(1, -2e30), 0], {"CK061": (1, 2, 0)}),
]


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize(("values", "expected"), COMPLEX)
def test_both_parts_of_complex_numbers(
    tmp_path: Path, dtype: str, values: list[complex], expected: dict[str, tuple[int, ...]]
) -> None:
    data = np.array(values, dtype).tobytes()
    build_chain(tmp_path, full(1, {"x": Tensor(dtype, (len(values),), data)}))
    found = look(tmp_path / "chain").findings
    numbers = {each.code: re.findall(r"(?<!\S)\d+(?!\S)", each.message) for each in found}
    assert numbers == {code: [*map(str, own)] for code, own in expected.items()}


SMALL = [each.name for each in DTYPES.values() if each.name.startswith("float8")]


@pytest.mark.parametrize("dtype", SMALL)
def test_every_code_of_small_floats(tmp_path: Path, dtype: str) -> None:
    values = values_of_bytes(dtype)
    assert values is not None
    odd = [code for code in range(256) if not np.isfinite(values[code])]
    sound = bytes(code for code in range(256) if code not in odd)
    tensors = {f"x{code:03d}": Tensor(dtype, (2,), bytes([1, code])) for code in odd}
    build_chain(tmp_path, full(1, tensors | {"sound": Tensor(dtype, (len(sound),), sound)}))
    found = look(tmp_path / "chain").findings
    assert odd
    assert [(each.code, each.tensor) for each in found] == [("CK060", name) for name in tensors]
    assert all("the first in row 1" in each.message for each in found)


def test_what_lies_below_a_large_tensor_is_seen(tmp_path: Path) -> None:
    tensors = {name: floats(*range(size)) for name, size in (("a", 40), ("b", 4), ("c", 4))}
    chain = build_chain(tmp_path, full(1, tensors))

    def edit(key: bytes, message: Any) -> None:
        if key in (b"b", b"c"):
            message.offset = {b"b": 8, b"c": 80}[key]

    edit_index(chain.full_prefix(1), edit)
    found = look(chain.directory, data=False).findings
    assert [(each.code, each.tensor) for each in found] == [("CK010", "b"), ("CK010", "c")]


def test_row_numbers_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.inspect.verify_keys._ROW_NUMBERS", 8)
    numbers = ints("int64", [*range(30), 3, 17])
    chain = build_chain(
        tmp_path,
        full(1, {"var": floats(*range(58), shape=(29, 2))}),
        increment(2, raw={
            "var-sparse_incr_keys": numbers,
            "var-sparse_incr_values": floats(*range(64), shape=(32, 2)),
        }),
    )  # fmt: skip
    found = {each.code: each.found for each in look(chain.directory).findings}
    assert found["CK062"] is not None
    assert found["CK062"].startswith("2, the first ")
    assert found["CK063"] == "1, the first 29"


def test_rows_are_those_of_their_own_slice(tmp_path: Path) -> None:
    found = look(cut(tmp_path).directory).findings
    assert [(each.code, each.tensor, each.expected, each.found) for each in found] == [
        ("CK063", "cut/part_11-sparse_incr_keys", "< 2", "1, the first 2")
    ]


def test_slots_that_lack_keys_are_counted(tmp_path: Path) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    finding = next(each for each in look(chain.directory).findings if each.code == "CK059")
    assert finding.tensor == "emb/part_0/Adagrad-keys"
    assert finding.found is not None
    assert "2 keys without a row in the slot, versions 5 to 5" in finding.found
