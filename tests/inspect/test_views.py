"""A view shows at each step what the rules say, row for row, whatever fits into memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from ckptctl.errors import UsageError
from ckptctl.inspect import walk
from ckptctl.inspect.diff import diff
from ckptctl.inspect.export import plan_export
from ckptctl.inspect.lookup import look_up
from ckptctl.inspect.show import show
from ckptctl.inspect.view import View
from tests.inspect.model import assert_view, look
from tests.inspect.spoils import cut
from tests.oracle.histories import Histories
from tests.oracle.images import Image
from tests.oracle.test_histories import SETTINGS

SOME = settings(SETTINGS, max_examples=SETTINGS.max_examples // 8)


class Looking(Histories):
    """Looks at the state, then at the merged full, before and after each merge."""

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        with look(step, self.chain.directory, **options) as view:
            assert view.target.kind == "state"
            assert_view(view, state)

    def look_at_merged(self, prefix: str, state: Image) -> None:
        with look(prefix) as view:
            assert view.target.kind == "full"
            assert_view(view, state)


def test_a_view_is_what_the_rules_say() -> None:
    run_state_machine_as_test(Looking, settings=SOME)


def test_a_view_of_tiny_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MOST_ROWS", 3)
    run_state_machine_as_test(Looking, settings=SOME)


@pytest.mark.parametrize("target", [180, "incremental_model.ckpt-180"])
@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda closed, other, _: diff(closed, other), id="diff"),
        pytest.param(lambda closed, other, _: diff(other, closed), id="diff from another"),
        pytest.param(lambda closed, *_: show(closed), id="show"),
        pytest.param(lambda closed, *_: look_up(closed, "emb", [17]), id="look_up"),
        pytest.param(lambda closed, _, path: plan_export(closed, path), id="plan_export"),
    ],
)
def test_nothing_is_asked_of_a_closed_view(
    golden: Path, tmp_path: Path, target: int | str, ask: Callable[[View, View, str], object]
) -> None:
    directory = golden / "deeprec" / "sharded"
    with look(target, directory) as closed:
        pass
    with look(100, directory) as other, pytest.raises(UsageError, match="closed") as error:
        ask(closed, other, str(tmp_path / "export.npz"))
    assert error.value.file == closed.target.prefix
    closed.close()


def test_a_closed_view_waits_for_no_look_for_cycles(golden: Path) -> None:
    gc.collect()
    gc.disable()
    try:
        with look(180, golden / "deeprec" / "sharded") as view:
            kept = view.tables[0].primary.parts[0]
            gone = [weakref.ref(each) for each in (view, view.tables[0], kept)]
        del view, kept
        assert [each() for each in gone] == [None] * 3
    finally:
        gc.enable()


def test_rows_beyond_their_slice_are_told_of_where_they_are_read(tmp_path: Path) -> None:
    chain = cut(tmp_path)
    words = "cut: 1 incoming rows beyond its end were skipped"
    with look(100, chain.directory) as a, look(120, chain.directory) as b:
        assert words not in show(b).notes
        assert words in show(b, stats=True).notes
        assert f"b: {words}" in diff(a, b).notes
    with look(120, chain.directory) as view:
        plan = plan_export(view, str(tmp_path / "out.npz"))
    assert words in plan.notes
