"""What `show` says, against images of the oracle and NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptctl.bundle import BundleWriter
from ckptctl.errors import NotFoundError, TensorChecksumError
from ckptctl.inspect.show import show
from ckptctl.inspect.stats import Stats
from tests.inspect.model import look
from tests.oracle.chain import build_chain, changes, flip, full, increment, table
from tests.oracle.images import floats, string


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    emb = table("emb", range(10), parts=2, freqs=7, versions=3, filtered={100: 1, 101: 2})
    new = changes("emb", [1, 2, 50, 100], parts=2, freqs=9, versions=5)
    plain = {"dense": floats(1.0, -2.0, 0.0, float("nan")), "dense/Adagrad": floats(1, 1, 1, 1)}
    chain = build_chain(
        tmp_path,
        full(100, emb, plain | {"name": string("abc", "de", shape=(2,))}),
        increment(120, new, plain | {"name": string("abc", "de", shape=(2,))}),
    )
    return chain.directory


def shown(directory: Path, text: str = "latest", **options: Any) -> dict[str, Any]:
    with look(text, directory) as view:
        return json.loads(json.dumps(show(view, **options).document()))


def test_a_state_is_counted_as_it_would_be_restored(directory: Path) -> None:
    found = shown(directory)
    (emb,) = found["tables"]
    assert (emb["keys"], emb["filtered"], emb["parts"], emb["slots"]) == (12, 1, 2, ["Adagrad"])
    assert emb["freq"] == {"min": 7, "max": 9, "quantiles": {"0.5": 7, "0.9": 9, "0.99": 9}}
    assert emb["version"]["max"] == 5
    assert [part["keys"] for part in emb["members"][0]["parts"]] == [7, 5]
    assert emb["balance"] == pytest.approx(7 / 6)
    assert found["target"]["increments"]
    assert "120" in found["target"]["taken_for"]
    assert (found["totals"]["keys"], found["totals"]["filtered"]) == (12, 1)


def test_every_byte_of_a_full_is_for_something(directory: Path) -> None:
    found = shown(directory, "100", tensors=True)
    size = sum(path.stat().st_size for path in directory.glob("model.ckpt-100.data*"))
    kinds = found["totals"]["kinds"]
    assert found["totals"]["bytes"] == size == sum(kind["bytes"] for kind in kinds.values())
    assert sum(each["bytes"] for each in found["raw"]) == size
    assert kinds["weights"] == {"bytes": 10 * 8 + 16, "tensors": 3}
    assert kinds["optimizer"] == {"bytes": 10 * 8 + 16, "tensors": 3}
    assert {each["name"]: each["kind"] for each in found["tensors"]} == {
        "dense": "weights", "dense/Adagrad": "optimizer", "global_step": "bookkeeping",
        "name": "bookkeeping",
    }  # fmt: skip


def test_a_full_is_shown_from_its_index_alone(directory: Path) -> None:
    for path in directory.glob("model.ckpt-100.data*"):
        flip(path, 3)  # a key
    assert shown(directory, "100")["tables"][0]["keys"] == 10


def test_an_increment_as_it_is(directory: Path) -> None:
    found = shown(directory, "incremental_model.ckpt-120")
    assert found["target"]["kind"] == "increment"
    assert (found["tables"][0]["keys"], found["tables"][0]["freq"]["max"]) == (4, 9)


def test_stats_are_those_of_numpy(directory: Path) -> None:
    found = shown(directory, stats=True)
    by_name = {each["name"]: each["stats"] for each in found["tensors"]}
    dense = by_name["dense"]
    assert (dense["nan"], dense["zeros"], dense["count"], dense["min"]) == (1, 1, 4, -2)
    assert by_name["name"] == {"count": 2, "bytes": 5, "longest": 3}
    primary, slot = found["tables"][0]["members"]
    keys = np.array([*range(10), 50, 100], float)
    assert primary["stats"]["mean"] == pytest.approx(keys.mean())
    assert slot["stats"]["l2"] == pytest.approx(np.linalg.norm(np.repeat(keys + 0.25, 2)))
    assert sum(primary["stats"]["histogram"]["counts"]) == primary["stats"]["count"] == 24


def test_stats_read_what_they_say(directory: Path) -> None:
    values = next(directory.glob("model.ckpt-100.data*"))
    flip(values, 100)
    with pytest.raises(TensorChecksumError):
        shown(directory, "100", stats=True)


def test_names_and_order_are_chosen(directory: Path) -> None:
    found = shown(directory, pattern="dense*", sort="bytes", top=1)
    assert [each["name"] for each in (*found["tables"], *found["tensors"])] == ["dense"]
    assert found["totals"]["keys"] == 12
    with pytest.raises(NotFoundError):
        shown(directory, pattern="nothing")


def test_what_show_lists_is_found_by_its_name(tmp_path: Path) -> None:
    slots = {"slots": ("Adam", "Adam_1")}
    odd = "wide/[x]*?"
    things = (table("emb", range(4), parts=2, **slots), table(odd, [1], **slots))
    dense = {"dense[0]": floats(1.0), "dense0": floats(1.0)}
    chain = build_chain(tmp_path, full(100, *things, dense))
    for pattern, tables in (
        ("emb/Adam", ["emb"]),
        ("emb/*", ["emb"]),
        ("emb/part_1", ["emb"]),
        ("*/Adam_1", ["emb", odd]),
        (odd, [odd]),
        (f"{odd}/Adam", [odd]),
    ):
        found = shown(chain.directory, pattern=pattern)
        assert [each["name"] for each in found["tables"]] == tables
        assert found["tensors"] == []
    raw = shown(chain.directory, pattern="emb/Adam", tensors=True)["raw"]
    assert {each["name"].rpartition("-")[0] for each in raw} == {
        "emb/part_0/Adam", "emb/part_1/Adam",
    }  # fmt: skip
    found = shown(chain.directory, pattern="dense[0]")
    assert [each["name"] for each in found["tensors"]] == ["dense0", "dense[0]"]


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e200])
def test_numbers_hold_for_any_scale_and_piece(scale: float) -> None:
    values = np.random.default_rng(1).normal(3, 1, 1000) * scale
    stats = Stats()
    for piece in np.array_split(values, 7):
        stats.add(piece)
    found = stats.document()
    assert found["mean"] == pytest.approx(values.mean())
    assert found["l2"] == pytest.approx(np.linalg.norm(values / scale) * scale)
    if 1e-100 < scale < 1e100:  # its square is beyond float64
        assert found["std"] == pytest.approx(values.std())


def test_bfloat16_is_read_as_numbers(tmp_path: Path) -> None:
    prefix = tmp_path / "b"
    halves = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    with BundleWriter(str(prefix)) as writer:
        writer.add("half", halves.astype(np.uint16), dtype="bfloat16")
    found = shown(tmp_path, str(prefix), stats=True)["tensors"][0]
    assert (found["stats"]["min"], found["stats"]["max"], found["kind"]) == (-2.0, 1.5, "weights")
