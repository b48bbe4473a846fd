"""Names alone: parts and slots."""

from __future__ import annotations

import pytest

from ckptctl.tables import part_components
from ckptctl.tables.names import is_slot_name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("emb", []),
        ("emb/part_0", [("emb", 0, "emb")]),
        ("emb/part_10/Adam", [("emb", 10, "emb/Adam")]),
        ("part_3/emb", [("", 3, "emb")]),
        (
            "part_0/emb/part_1/Adam_1",
            [("", 0, "emb/part_1/Adam_1"), ("part_0/emb", 1, "part_0/emb/Adam_1")],
        ),
        ("part_0", []),  # nothing would be left
        ("emb/part_01", []),
        ("emb/part_", []),
        ("emb/part_x", []),
        ("emb/part_-1", []),
        ("emb/xpart_1", []),
        ("emb/part_1x", []),
        ("emb/PART_1", []),
        ("emb/part_\u0661", []),
        ("emb/part_9999999999", []),
        ("emb/part_999999999", [("emb", 999999999, "emb")]),
    ],
)
def test_components_that_may_be_a_part(name: str, found: list) -> None:
    assert [(c[0], c.number, c.whole) for c in part_components(name)] == found


@pytest.mark.parametrize(
    ("name", "is_slot"),
    [
        ("Adagrad", True),
        ("Adam", True),
        ("Adam_1", True),
        ("AdamAsync_3", True),
        ("AdagradDecay", True),
        ("AdagradDecayV2_1", True),
        ("Ftrl_1", True),
        ("adagrad", False),
        ("Adagrad_", False),
        ("Adagrad_x", False),
        ("Adagrads", False),
        ("xAdagrad", False),
        ("", False),
    ],
)
def test_slots_of_deeprecs_optimizers(name: str, is_slot: bool) -> None:
    assert is_slot_name(name) is is_slot
