"""`diff(A, merge(A, d))` is `d`, and other differences."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis.stateful import run_state_machine_as_test

from ckptctl.bundle import dtype_by_name
from ckptctl.errors import NotFoundError, TensorChecksumError
from ckptctl.inspect import diff_rows, walk
from ckptctl.inspect.diff import diff
from tests.inspect.model import filtered_of, look, tables_in, tables_of
from tests.inspect.test_views import SOME
from tests.oracle.chain import build_chain, changes, flip, full, increment, table
from tests.oracle.histories import Histories
from tests.oracle.images import Image, Tensor, floats, string


class Differing(Histories):
    """Before each merge, compares the base with the state."""

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        lines: list[dict[str, Any]] = []
        with look(step, self.chain.directory, **options) as b:
            assert b.target.selection is not None
            with look(b.target.selection.base.prefix) as a:
                old, away, now_away = tables_of(a), filtered_of(a), filtered_of(b)
                found = diff(a, b, each=lines.append).document()
        json.dumps(found, allow_nan=False)
        new = tables_in(state)
        members = {m["name"]: m for t in found["tables"] for m in t["members"]}
        assert set(members) == set(new)
        for name, member in members.items():
            fresh, gone = new[name].keys() - old[name].keys(), old[name].keys() - new[name].keys()
            common = new[name].keys() & old[name].keys()
            changed = {key for key in common if new[name][key][0] != old[name][key][0]}
            counts = [member[what] for what in ("new", "gone", "changed", "unchanged")]
            assert counts == [len(fresh), len(gone), len(changed), len(common) - len(changed)]
            assert sum(part["new"] for part in member["by_bucket"]) == len(fresh)
            own = [line for line in lines if line.get("member") == name]
            told = {line["key"] for line in own if line["change"] in ("new", "admitted")}
            assert told == fresh
            assert {line["key"] for line in own if line["change"] == "changed"} == changed
            if not member["slot"]:
                assert member["newly_admitted"] == len(fresh & away[name].keys())
            lost = away[name].keys() - now_away[name].keys() - fresh
            assert member["filtered"] == {"new": 0, "gone": len(lost), "moved": 0}
            assert {item["key"] for item in member["top"]} <= changed
            assert len(member["top"]) == min(10, len(changed))


@pytest.mark.parametrize("most", [3, 1 << 16])
def test_what_increments_bring_is_what_differs(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(walk, "MOST_ROWS", most)
    run_state_machine_as_test(Differing, settings=SOME)


@pytest.mark.parametrize("same", [0, 1, 5, 20, 40])
@pytest.mark.parametrize("cached", [256, 1 << 18])
@pytest.mark.parametrize("dim", [1, 3, 16])
def test_what_a_row_differs_by(
    monkeypatch: pytest.MonkeyPatch, dim: int, cached: int, same: int
) -> None:
    monkeypatch.setattr(diff_rows, "_CACHED", cached)
    rng = np.random.default_rng(1)
    keys = np.arange(1000, 41_000, 1000)
    old, new = (rng.standard_normal((40, dim)).astype(np.float32) for _ in range(2))
    alike = rng.choice(40, same, replace=False)
    new[alike] = old[alike]
    sides = [walk.Rows((0, 1), keys, {"values": values}) for values in (old, new)]
    found = diff_rows.RowsDiff(dtype_by_name("float32"), top=99)
    found.add(*sides)
    told = {item["key"]: (item["l2"], *item["norm"]) for item in found.document()["top"]}
    before, after = old.astype(float), new.astype(float)
    change = after - before
    norms = [np.linalg.norm(each, axis=1) for each in (change, before, after)]
    differ = np.flatnonzero(change.any(axis=1))
    assert len(differ) == 40 - same == found.changed
    wanted = {int(keys[row]): pytest.approx([n[row] for n in norms]) for row in differ}
    assert told == wanted
    if len(differ):
        assert found.most.max == np.abs(change).max()
        cosine = (before * after).sum(axis=1)[differ] / (norms[1] * norms[2])[differ]
        assert (found.cosine.min, found.cosine.max) == pytest.approx((cosine.min(), cosine.max()))


def image_of(dtype: str, *values: object) -> Tensor:
    own = np.array(values, dtype_by_name(dtype).numpy)
    return Tensor(dtype, own.shape, own.tobytes())


def with_values(dtype: str, *values: object) -> Any:
    """Return a table of one element a row."""
    rows = image_of(dtype, *values).data
    size = len(rows) // len(values)
    (ev,) = table("emb", range(len(values)), dim=1, slots=())
    own = [row._replace(value=rows[at * size :][:size]) for at, row in enumerate(ev.rows)]
    return [replace(ev, rows=own, value_type=dtype)]


NEAR = [
    ("int64", 2**60, 2**60 + 100, 100.0),
    ("int64", -(2**63), 2**63 - 1, 2.0**64),
    ("uint64", 2**64 - 1, 2**64 - 2, 1.0),
    ("complex64", 1 + 1j, 4 + 5j, 5.0),
    ("complex128", 1j, -1j, 2.0),
]


@pytest.mark.parametrize(("dtype", "old", "new", "apart"), NEAR)
def test_numbers_that_doubles_cannot_tell_apart(
    tmp_path: Path, dtype: str, old: object, new: object, apart: float
) -> None:
    a = [with_values(dtype, old, 3), {"x": image_of(dtype, old, 3)}]
    b = [with_values(dtype, new, 3), {"x": image_of(dtype, new, 3)}]
    for tolerance, differ in ((0, 1), (apart * 0.99, 1), (apart, 0)):
        (tmp_path / str(tolerance)).mkdir()
        found = compare(tmp_path / str(tolerance), a, b, tolerance=tolerance)
        member = found["tables"][0]["members"][0]
        assert (member["changed"], member["unchanged"]) == (differ, 2 - differ)
        assert len(found["tensors"]["changed"]) == differ
    found = compare(tmp_path, a, b)
    emb, (x,) = found["tables"][0]["members"][0], found["tensors"]["changed"]
    norms = pytest.approx([abs(old), abs(new)])
    assert (emb["l2"]["max"], emb["max"]["max"], emb["l2"]["total"]) == (apart,) * 3
    assert emb["top"] == [{"key": 0, "l2": apart, "norm": norms}]
    assert sum(emb["norms"]["after"]) == 2
    assert (x["elements"], x["l2"], x["max"]) == (1, apart, apart)
    norms = pytest.approx([np.hypot(abs(each), 3) for each in (old, new)])
    assert x["norm"] == norms
    json.dumps(found, allow_nan=False)


def test_small_floats_have_their_values(tmp_path: Path) -> None:
    """0x38 is 1.0 and 0x30 is 0.5."""
    kind = "float8_e4m3fn"
    a, b = ([with_values(kind, n), {"x": image_of(kind, n)}] for n in (56, 48))
    found = compare(tmp_path, a, b)
    emb, (x,) = found["tables"][0]["members"][0], found["tensors"]["changed"]
    assert (emb["changed"], emb["l2"]["max"], emb["l2"]["total"]) == (1, 0.5, 0.5)
    assert (x["elements"], x["l2"], x["norm"]) == (1, 0.5, [1.0, 0.5])


def compare(tmp_path: Path, a: Any, b: Any, **options: Any) -> dict[str, Any]:
    chain = build_chain(tmp_path, full(1, *a), full(2, *b))
    with look(1, chain.directory) as x, look(2, chain.directory) as y:
        found = diff(x, y, **options).document()
    found["tensors"]["changed"] = [
        t for t in found["tensors"]["changed"] if t["name"] != "global_step"
    ]
    return found


@pytest.mark.parametrize("parts", [(2, 3), (None, 4), (3, 3)])
def test_parts_are_no_difference(tmp_path: Path, parts: tuple[int, int]) -> None:
    keys = range(0, 5000, 7)
    a, b = (table("emb", keys, parts=number, versions=1, freqs=1) for number in parts)
    (found,) = compare(tmp_path, [a], [b])["tables"]
    assert not found["changed"]
    assert [m["unchanged"] for m in found["members"]] == [len(keys)] * 2


@pytest.mark.parametrize("old", [(True, False), (False, True), (True, True)])
def test_rows_without_buckets_find_their_keys(tmp_path: Path, old: tuple[bool, bool]) -> None:
    a = table("emb", [1, 2, 3, 1001], old=old[0], versions=1)
    b = table("emb", {1001: 5.0, 3: 3.0, 2: 2.0, 9: 9.0}, old=old[1], versions=1)
    member = compare(tmp_path, [a], [b])["tables"][0]["members"][0]
    assert [member[w] for w in ("new", "gone", "changed", "unchanged")] == [1, 1, 1, 2]
    assert member["top"][0]["key"] == 1001


def test_the_size_of_changes(tmp_path: Path) -> None:
    a = table("emb", {1: 3.0, 2: 1.0, 3: 1.0, 4: 0.0}, versions=1, freqs=1)
    b = table("emb", {1: 6.0, 2: 1.5, 3: 1.0, 4: -1.0}, versions=2, freqs=4)
    found = compare(tmp_path, [a], [b], tolerance=0.5)["tables"][0]["members"][0]
    assert (found["changed"], found["unchanged"]) == (2, 2)
    assert found["l2"]["max"] == pytest.approx(3 * 2**0.5)
    assert (found["max"]["min"], found["max"]["max"]) == (1, 3)
    assert found["cosine"]["max"] == pytest.approx(1)
    assert [item["key"] for item in found["top"]] == [1, 4]
    assert (found["freqs"]["moved"], found["freqs"]["max"], found["versions"]["max"]) == (4, 3, 1)
    assert found["by_freq"][-1] == {"freq": [4, 7], "changed": 2}
    assert sum(found["norms"]["after"]) == 4


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("parts", [(2, 2), (2, 3)])
def test_filtered_keys_that_differ(tmp_path: Path, parts: tuple[int, int], lines: bool) -> None:
    kept = {"versions": 1, "freqs": 1}
    a = table("emb", [10, 11, 12], parts=parts[0], filtered={1: 1, 2: 2, 3: 3, 5: 5}, **kept)
    b = table("emb", [10, 12, 3], parts=parts[1], filtered={1: 1, 2: 7, 4: 1, 11: 1}, **kept)
    told: list[dict[str, Any]] = []
    each = {"each": told.append} if lines else {}
    emb, slot = compare(tmp_path, [a], [b], **each)["tables"][0]["members"]
    assert (emb["newly_admitted"], emb["newly_filtered"]) == (1, 1)
    assert emb["filtered"] == {"new": 1, "gone": 1, "moved": 1}
    assert slot["filtered"] == {"new": 1, "gone": 1, "moved": 0}
    if lines:
        own = [x for x in told if x.get("member") == "emb" and "filtered" in x["change"]]
        assert sorted((x["key"], x["change"], x["freq"]) for x in own) == [
            (2, "filtered_moved", [2, 7]),
            (4, "filtered_new", [None, 1]),
            (5, "filtered_gone", [5, None]),
        ]


@pytest.mark.parametrize("filtered", [{}, {1: 1, 2: 1, 5: 1}, {1: 1, 2: 8}])
def test_filtered_keys_alone_are_a_difference(tmp_path: Path, filtered: dict[int, int]) -> None:
    a, b = (table("emb", [9], freqs=1, filtered=own) for own in ({1: 1, 2: 1}, filtered))
    assert compare(tmp_path, [a], [b])["tables"][0]["changed"]


def test_a_column_of_filtered_keys_that_some_parts_lack(tmp_path: Path) -> None:
    a = table("emb", range(9), parts=2, versions=1, filtered=[10, 11])
    b = table("emb", range(9), parts=3, versions=1, filtered=[10, 11])
    a[0].versions_filtered = False
    (found,) = compare(tmp_path, [a], [b])["tables"]
    assert not found["changed"]


def test_columns_that_one_side_lacks(tmp_path: Path) -> None:
    a = [table("emb", [9], freqs=1, versions=1, filtered=[1]), table("none", freqs=1)]
    b = [table("emb", [9], filtered=[1]), table("none", [9], freqs=1)]
    emb, none = compare(tmp_path, a, b)["tables"]
    assert emb["columns_removed"] == ["freqs", "versions", "versions_filtered"]
    assert (emb["columns_added"], emb["changed"]) == ([], True)
    assert emb["members"][0]["unchanged"] == 1
    assert none["columns_added"] == none["columns_removed"] == []


def test_norms_of_all_rows_only_where_they_are_asked_for(tmp_path: Path) -> None:
    a, b = [table("emb", {1: 3.0, 2: 1.0})], [table("emb", {1: 3.0, 2: 1.5})]
    chain = build_chain(tmp_path, full(1, *a), full(2, *b))
    with look(1, chain.directory) as x, look(2, chain.directory) as y:
        with_norms, without = (
            diff(x, y, norms=norms).document()["tables"][0]["members"][0] for norms in (True, False)
        )
    assert sum(with_norms.pop("norms")["before"]) == 2
    assert without.pop("norms") is None
    assert without == with_norms


def test_not_a_number_equals_itself_and_nothing_else(tmp_path: Path) -> None:
    nan = float("nan")
    a, b = table("emb", {1: nan, 2: nan, 3: 1.0}), table("emb", {1: nan, 2: 1.0, 3: nan})
    found = compare(tmp_path, [a, {"x": floats(nan, 1)}], [b, {"x": floats(nan, 1)}])
    assert found["tables"][0]["members"][0]["changed"] == 2
    assert found["tensors"]["changed"] == []
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "complex64"])
@pytest.mark.parametrize("tolerance", [0, 9])
def test_what_became_not_finite_is_counted(tmp_path: Path, dtype: str, tolerance: float) -> None:
    nan, inf = (0x7FC0, 0x7F80) if dtype == "bfloat16" else (float("nan"), float("inf"))
    # Finite, but not its square.
    large = 1e200 if dtype == "float64" else 2
    old, new = (1, nan, inf, 3, 4, nan, 5), (nan, 1, nan, 3, inf, nan, large)
    a, b = ([with_values(dtype, *own), {"x": image_of(dtype, *own)}] for own in (old, new))
    found = compare(tmp_path, a, b, tolerance=tolerance)
    assert found["tables"][0]["members"][0]["not_finite"] == 2
    assert found["tensors"]["changed"][0]["not_finite"] == 2
    words = [f"b: 2 {what} became NaN or infinite" for what in ("rows", "elements")]
    assert found["notes"] == words


def test_rows_that_became_not_finite_in_a_state(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(1, table("emb", range(9))),
        increment(2, changes("emb", {1: float("nan"), 2: 5.0, 9: float("inf")})),
    )
    with look(1, chain.directory) as x, look(2, chain.directory) as y:
        found = diff(x, y).document()
        back = diff(y, x).document()
    members = found["tables"][0]["members"]
    assert [m["not_finite"] for m in members] == [1, 1], "the new one was nothing before"
    assert [m["not_finite"] for m in back["tables"][0]["members"]] == [0, 0]
    assert back["notes"] == []


def test_tables_that_cannot_be_compared(tmp_path: Path) -> None:
    a = [table("emb", [1]), table("old", [1]), table("t", [1], slots=("Adam",))]
    b = [table("emb", [1], dim=3), table("new", [1]), table("t", [1], slots=("Ftrl",))]
    emb, new, old, t = compare(tmp_path, a, b)["tables"]
    assert emb["differs"] == ["dim: 2 becomes 3"]
    assert (new["in"], old["in"]) == ("b", "a")
    assert (t["slots_added"], t["slots_removed"], t["changed"]) == (["Ftrl"], ["Adam"], True)


def test_slots_of_another_dim_cannot_be_compared(tmp_path: Path) -> None:
    """Ftrl's are as wide as the table, those of others are not."""
    a = [table("emb", [1])]
    b = [table("emb", [1], slots=()) + table("emb", [1], dim=3)[1:]]
    (emb,) = compare(tmp_path, a, b)["tables"]
    assert (emb["differs"], emb["changed"]) == (["dim of Adagrad: [2] becomes [3]"], True)


def test_other_tensors(tmp_path: Path) -> None:
    a = {
        "same": floats(1, 2), "gone": floats(1), "type": floats(1), "shape": floats(1, 2),
        "value": floats(3.0, 4.0), "words": string("a", "b", shape=(2,)),
    }  # fmt: skip
    b = {
        "same": floats(1, 2), "new": floats(1), "type": string("a"), "shape": floats(1, 2, 3),
        "value": floats(3.0, 4.5), "words": string("a", "c", shape=(2,)),
    }  # fmt: skip
    found = compare(tmp_path, [a], [b])["tensors"]
    names = {what: [t["name"] for t in found[what]] for what in list(found)[:-1]}
    assert names == {
        "added": ["new"], "removed": ["gone"], "retyped": ["type"], "reshaped": ["shape"],
        "uncovered": [],
        "changed": ["value", "words"],
    }  # fmt: skip
    value = found["changed"][0]
    assert (value["elements"], value["l2"], value["max"]) == (1, 0.5, 0.5)
    assert (value["norm"][0], value["relative"]) == (5.0, 0.1)
    assert found["unchanged"] == 1


def test_a_relative_change_beyond_numbers_is_null(tmp_path: Path) -> None:
    old, new = image_of("float64", 1e-161, 0.0), image_of("float64", 1e150, 0.0)
    (x,) = compare(tmp_path, [{"x": old}], [{"x": new}])["tensors"]["changed"]
    assert (x["elements"], x["l2"], x["relative"]) == (1, 1e150, None)
    json.dumps(x, allow_nan=False)


def test_damage_on_one_side_is_found(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(1, table("emb", range(9))), full(2, table("emb", range(9))))
    flip(next(chain.directory.glob("model.ckpt-2.data*")), 9 * 8 + 3)
    with (
        look(1, chain.directory) as a,
        look(2, chain.directory) as b,
        pytest.raises(TensorChecksumError) as caught,
    ):
        diff(a, b)
    assert caught.value.tensor == "emb-values"


def test_only_one_table(tmp_path: Path) -> None:
    a = [table("emb", [1]), table("t", [1]), {"x": floats(1)}]
    found = compare(tmp_path, a, [table("emb", [2]), table("t", [2]), {"x": floats(2)}], table="t")
    assert [t["name"] for t in found["tables"]] == ["t"]
    assert found["tensors"]["changed"] == []
    (tmp_path / "other").mkdir()
    with pytest.raises(NotFoundError, match="emc"):
        compare(tmp_path / "other", a, a, table="emc")


def test_increments_as_they_are(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(1, table("emb", range(9))),
        increment(2, changes("emb", {1: 5.0})),
        increment(3, changes("emb", {1: 6.0, 2: 7.0})),
    )
    with look(chain.increment_prefix(2)) as a, look(chain.increment_prefix(3)) as b:
        member = diff(a, b).tables[0]["members"][0]
    assert (member["new"], member["changed"], member["top"][0]["key"]) == (1, 1, 1)


def test_large_changes_do_not_overflow(tmp_path: Path) -> None:
    big = float(np.finfo(np.float32).max)
    found = compare(tmp_path, [table("emb", {1: big})], [table("emb", {1: -big})])
    member = found["tables"][0]["members"][0]
    assert member["l2"]["max"] == pytest.approx(2 * 2**0.5 * big)


@pytest.mark.parametrize("top", [1, 10, 400])
@pytest.mark.parametrize("ties", [False, True])
def test_the_keys_that_changed_most_of_many(top: int, ties: bool) -> None:
    random = np.random.default_rng(1)
    size = random.integers(1, 50, 6000) if ties else random.permutation(6000) + 1
    found = diff_rows.RowsDiff(dtype_by_name("float32"), top=top)
    for begin in range(0, 6000, 2500):
        own = size[begin : begin + 2500].astype("<f4").reshape(-1, 1)
        keys = np.arange(begin, begin + len(own))
        sides = [walk.Rows((0, 1001), keys, {"values": values}) for values in (own * 0, own)]
        found.add(*sides)
    expected = sorted(range(6000), key=lambda key: (-size[key], key))[:top]
    document: Any = found.document()
    assert [each["key"] for each in document["top"]] == expected
