"""Bundles as they are, with a table whose columns do not fit each other (CK012)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptctl.errors import TableError
from ckptctl.inspect.diff import diff
from ckptctl.inspect.export import plan_export
from ckptctl.inspect.history import history
from ckptctl.inspect.lookup import look_up
from ckptctl.inspect.show import show
from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import open_view
from ckptctl.restore import open_state
from tests.inspect.model import look
from tests.oracle.chain import build_chain, changes, full, increment, table
from tests.oracle.images import Rows, Tensor, floats, ints

VALUES, FREQS = "emb-sparse_incr_values", "emb-sparse_incr_freqs"
#: What stands in an increment of three rows -> the table, and what is said of it.
MISFITS: dict[str, tuple[str, Tensor, str]] = {
    "too few rows": (VALUES, floats(*range(4), shape=(2, 2)), "-sparse_incr_values is float32 [2"),
    "too many rows": (VALUES, floats(*range(8), shape=(4, 2)), "-sparse_incr_values is float32 [4"),
    "too few freqs": (FREQS, ints("int64", [7, 8]), "-sparse_incr_freqs is int64 [2]"),
    "rows of a cube": (
        "v-sparse_incr_values",
        floats(*range(12), shape=(2, 3, 2)),
        "-sparse_incr_values is float32 [2, 3, 2] where -sparse_incr_keys has 2 rows",
    ),
}


@pytest.fixture(params=MISFITS)
def misfit(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str, str]:
    """A chain whose increment at 20 does not fit, the table, and the words."""
    name, tensor, words = MISFITS[request.param]
    rows = Rows("v", "float32", 6, {at: floats(*range(6)).data for at in range(2)})
    variable = {"v": floats(*range(24), shape=(4, 6))}
    own = [changes("emb", {1: 1.0, 2: 2.0, 3: 3.0}), rows, changes("other", [5])]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2, 3]), table("other", [5]), variable),
        increment(20, *own, raw={name: tensor}),
        increment(30, *own),
    )
    return chain, name.partition("-")[0], words


def assert_named(error: TableError, chain: Any, name: str, words: str) -> None:
    prefix = str(chain.increment_prefix(20))
    with pytest.raises(TableError) as caught:
        open_state(str(chain.full_prefix(10)), [prefix])
    assert error.details() == caught.value.details()
    assert (error.file, error.tensor) == (f"{prefix}.index", name)
    assert words in error.message
    assert error.remedy


def test_its_rows_are_read_by_no_question(misfit: Any, tmp_path: Path) -> None:
    chain, name, words = misfit
    with look(chain.increment_prefix(20)) as view, look(chain.increment_prefix(30)) as sound:
        asked: list[Any] = [
            lambda: look_up(view, name, [1]),
            lambda: plan_export(view, str(tmp_path / "out.npz")),
            lambda: diff(view, view),
            lambda: diff(view, sound),
            lambda: diff(sound, view),
        ]
        for question in asked:
            with pytest.raises(TableError) as caught:
                question()
            assert_named(caught.value, chain, name, words)
        assert look_up(view, "other", [5]).unknown == []
        assert diff(view, sound, table="other").identical
        assert plan_export(view, str(tmp_path / "out.npz"), tables=["other"]).rows == 1


@pytest.mark.parametrize("stats", [False, True])
def test_show_lists_the_rest(misfit: Any, stats: bool) -> None:
    chain, name, words = misfit
    with look(chain.increment_prefix(20)) as view:
        found = show(view, stats=stats, tensors=True)
    assert {each["name"] for each in found.tables} == {"emb", "other", "v"}
    (problem,) = found.problems
    assert_named(problem, chain, name, words)
    (note,) = found.notes
    assert words in note
    assert problem.file in note
    by_name = {each["name"]: each for each in found.tables}
    assert by_name[name]["freq"] is None
    assert by_name["other"]["freq"] is not None
    if stats:
        assert by_name[name]["members"][0]["stats"] is None
        assert by_name["other"]["members"][0]["stats"]["count"] == 2


def test_history_goes_on(misfit: Any) -> None:
    chain, name, words = misfit
    found = history(str(chain.directory), name, [1])
    assert [(m.step, m.kind) for m in found.keys[1]] == [(10, "state"), (30, "increment")]
    (own,) = [missed for missed in found.failed if (missed.step, missed.kind) == (20, "increment")]
    assert own.damage
    assert words in own.reason


def test_salvage_takes_the_rest(misfit: Any, tmp_path: Path) -> None:
    chain, name, words = misfit
    target = find_target(str(chain.increment_prefix(20)), ".")
    with open_view(target, damaged=True) as view:
        plan = plan_export(view, str(tmp_path / "out.npz"), salvage=True)
    left_out = {each.name: each.reason for each in plan.skipped}
    assert words in left_out[name]
    assert "other" in {source.name for source in plan.sources}


def test_filtered_columns_are_held_against_filtered_keys(tmp_path: Path) -> None:
    away = table("emb", [1, 2, 3], filtered={7: 1, 8: 1})
    odd = full(10, away, raw={"emb-freqs_filtered": ints("int64", [1])})
    with pytest.raises(
        TableError, match=r"-freqs_filtered is int64 \[1\] where -keys_filtered has 2"
    ):
        open_state(str(build_chain(tmp_path, odd).full_prefix(10)))
