"""What is whole of a damaged bundle comes out of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptctl.bundle import BundleReader
from ckptctl.errors import UsageError
from ckptctl.inspect.export import execute_export, plan_export
from ckptctl.inspect.show import show
from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import open_view
from ckptctl.running import Runner
from tests.inspect.exports import load, of_npz
from tests.oracle.chain import build_chain, changes, flip, full, increment, table
from tests.oracle.images import Piece, Rows, Sliced, floats, string


def damaged_full(tmp_path: Path) -> str:
    """Two parts in two shards, a variable in two slices, and tensors of their own."""
    halves = [np.arange(4 * at, 4 * at + 4, dtype="<f4").tobytes() for at in range(2)]
    pieces = [Piece(((2 * at, 2), (0, 2)), half, at) for at, half in enumerate(halves)]
    chain = build_chain(
        tmp_path,
        full(
            10,
            table("emb", range(8), parts=2, freqs=3, versions=5, filtered=[8, 9], shards=2),
            {"rows": Sliced("float32", (4, 2), pieces), "w": floats(1, 2), "s": string("a")},
            shards=2,
        ),
    )
    return str(chain.full_prefix(10))


def salvage(prefix: str, output: Path, **options: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the arrays that were exported, and what was not, with the reason."""
    with open_view(find_target(prefix), None, Runner(2), damaged=True) as view:
        plan = plan_export(view, str(output), salvage=True, **options)
        execute_export(plan, Runner(2))
    return load(output), {each.name: each.reason for each in plan.skipped}


def spoil(prefix: str, *names: str) -> None:
    """Flip a bit of each tensor; `name@1` is the second slice of one."""
    with BundleReader(prefix) as reader:
        for name in names:
            own, _, number = name.partition("@")
            entries = [entry for _, found, entry in reader.data_entries() if found == own]
            entry = sorted(entries, key=lambda each: (each.shard, each.offset))[int(number or 0)]
            flip(Path(reader.shard_path(entry.shard)), entry.offset)


def keys_of(found: dict[str, Any], member: str = "emb") -> list[int]:
    keys, values = found[f"{member}/keys"].tolist(), found[f"{member}/values"]
    slot = 0.25 if member.endswith("Adagrad") else 0
    assert values[:, 0].tolist() == [key + slot for key in keys], "each with its own row"
    return sorted(keys)


def test_all_comes_out_of_what_is_whole(tmp_path: Path, output: Path) -> None:
    found, left_out = salvage(damaged_full(tmp_path), output)
    assert (keys_of(found), keys_of(found, "emb/Adagrad")) == ([*range(8)], [*range(8)])
    assert sorted(found["emb/keys_filtered"].tolist()) == [8, 9]
    assert found["rows"].tolist() == np.arange(8.0).reshape(4, 2).tolist()
    assert left_out.keys() == ({"s"} if output.suffix == ".safetensors" else set())


@pytest.mark.parametrize("how", ["missing", "a directory", "cut short"])
def test_what_a_lost_shard_did_not_hold(tmp_path: Path, output: Path, how: str) -> None:
    prefix = damaged_full(tmp_path)
    shard = Path(f"{prefix}.data-00001-of-00002")
    if how == "cut short":
        shard.write_bytes(shard.read_bytes()[:20])  # in the keys of the part
    else:
        shard.unlink()
    if how == "a directory":
        shard.mkdir()
    found, left_out = salvage(prefix, output)
    assert (keys_of(found), keys_of(found, "emb/Adagrad")) == ([0, 2, 4, 6], [0, 2, 4, 6])
    assert found["emb/keys_filtered"].tolist() == [8]
    assert found["rows[0:2, 0:2]"].tolist() == [[0, 1], [2, 3]]
    assert found["w"].tolist() == [1, 2]
    left_out.pop("s", None)
    assert left_out.keys() == {"emb/part_1", "emb/part_1/Adagrad", "rows[2:4, 0:2]"}
    assert all(str(shard) in reason for reason in left_out.values())


@pytest.mark.parametrize(
    ("names", "left_out", "keys", "slot_keys"),
    [
        (["emb/part_0-values"], {"emb/part_0"}, [1, 3, 5, 7], range(8)),
        (["emb/part_0/Adagrad-keys"], {"emb/part_0/Adagrad"}, range(8), [1, 3, 5, 7]),
        (["emb/part_0-freqs"], {"emb/part_0-freqs"}, range(8), range(8)),
        (["emb/part_1-partition_offset"], {"emb/part_1-partition_offset"}, range(8), range(8)),
        (["emb/part_1-keys_filtered"], {"emb/part_1-keys_filtered"}, range(8), range(8)),
        (["w"], {"w"}, range(8), range(8)),
        (["rows@1"], {"rows[2:4, 0:2]"}, range(8), range(8)),
        (["s"], {"s"}, range(8), range(8)),
    ],
)
def test_what_a_flipped_bit_leaves(
    tmp_path: Path, names: list[str], left_out: set[str], keys: Iterable, slot_keys: Iterable
) -> None:
    prefix = damaged_full(tmp_path)
    spoil(prefix, *names)
    found, reasons = salvage(prefix, tmp_path / "out.npz")
    assert reasons.keys() == left_out
    assert (keys_of(found), keys_of(found, "emb/Adagrad")) == ([*keys], [*slot_keys])
    assert ("emb/freqs" in found) == (names != ["emb/part_0-freqs"])
    away = {"emb/part_1-keys_filtered": [8], "emb/part_0-values": [9]}.get(names[0], [8, 9])
    assert sorted(found["emb/keys_filtered"].tolist()) == away


def test_slots_alone_are_nothing(tmp_path: Path) -> None:
    prefix = damaged_full(tmp_path)
    spoil(prefix, "emb/part_0-values", "emb/part_1-keys")
    found, left_out = salvage(prefix, tmp_path / "out.npz")
    assert not [name for name in found if name.startswith("emb")]
    assert left_out["emb/part_1/Adagrad"] == "nothing is left of emb, whose slot it is"
    assert len(left_out) == 4


def test_offsets_that_match_their_checksum_and_mean_nothing(tmp_path: Path) -> None:
    offsets = np.full(1001, 99, "<i4").tobytes()
    chain = build_chain(tmp_path, full(10, table("emb", range(8), slots=())))
    prefix = chain.full_prefix(10)
    rewrite(prefix, "emb-partition_offset", offsets)
    found, left_out = salvage(str(prefix), tmp_path / "out.npz")
    assert keys_of(found) == [*range(8)]
    assert left_out.keys() == {"emb-partition_offset"}


def rewrite(prefix: Path, name: str, data: bytes) -> None:
    """Write a bundle again with other bytes in one tensor."""
    from ckptctl.bundle import BundleWriter

    with BundleReader(str(prefix)) as reader:
        arrays = {each: reader.read(each) for each in reader.tensors}
    arrays[name] = np.frombuffer(data, arrays[name].dtype).reshape(arrays[name].shape)
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        path.unlink()
    with BundleWriter(str(prefix)) as writer:
        for each, array in arrays.items():
            writer.add(each, array)


def test_a_variable_of_which_slices_are_missing(tmp_path: Path) -> None:
    pieces = [Piece(((2 * at, 2), (0, 2)), np.full(4, at, "<f4").tobytes()) for at in (0, 2)]
    chain = build_chain(tmp_path, full(10, {"cut": Sliced("float32", (6, 2), pieces)}))
    with open_view(find_target("10", str(chain.directory))) as view:
        plan = plan_export(view, str(tmp_path / "a.npz"))
        execute_export(plan)
    (skipped,) = plan.skipped
    assert (skipped.name, skipped.reason[:23]) == ("cut", "slices of it are missin")
    found, left_out = salvage(str(chain.full_prefix(10)), tmp_path / "b.npz")
    assert left_out == {"cut": "slices of it are missing in the index"}
    assert {name: array[0, 0] for name, array in found.items() if array.shape} == {
        "cut[0:2, 0:2]": 0, "cut[4:6, 0:2]": 2
    }  # fmt: skip


def test_one_table_alone(tmp_path: Path) -> None:
    prefix = damaged_full(tmp_path)
    spoil(prefix, "emb/part_0-values", "w")
    found, left_out = salvage(prefix, tmp_path / "a.npz", tables=["emb"])
    assert left_out.keys() == {"emb/part_0"}
    assert all(name.startswith("emb/") for name in found)
    spoil(prefix, "rows@1")
    found, left_out = salvage(prefix, tmp_path / "b.npz", tables=["rows"])
    assert (found.keys(), left_out.keys()) == ({"rows[0:2, 0:2]"}, {"rows[2:4, 0:2]"})


def test_of_an_increment(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(8), parts=2), {"rows": floats(*range(6), shape=(3, 2))}),
        increment(
            20,
            changes("emb", range(8), parts=2),
            Rows("rows", "float32", 2, {1: b"abcdefgh"}),
        ),
    )
    prefix = str(chain.increment_prefix(20))
    spoil(prefix, "emb/part_1-sparse_incr_values", "rows-sparse_incr_keys")
    found, left_out = salvage(prefix, tmp_path / "out.npz")
    assert keys_of(found) == [0, 2, 4, 6]
    assert left_out.keys() == {"emb/part_1", "rows"}


def test_a_state_is_not_restored_in_pieces(tmp_path: Path) -> None:
    prefix = damaged_full(tmp_path)
    with pytest.raises(UsageError, match="no PS restores") as caught:
        open_view(find_target("10", str(Path(prefix).parent)), damaged=True)
    assert prefix in str(caught.value.remedy)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_no_byte_that_is_wrong_comes_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("damage")
    prefix = damaged_full(tmp_path)
    whole, _ = salvage(prefix, tmp_path / "whole.npz")
    for shard in sorted(Path(prefix).parent.glob("*.data-*")):
        size = shard.stat().st_size
        for offset in data.draw(st.lists(st.integers(0, size - 1), max_size=6, unique=True)):
            flip(shard, offset)
    with open_view(find_target(prefix), None, Runner(1), damaged=True) as view:
        plan = plan_export(view, str(tmp_path / "rest.npz"), salvage=True)
        execute_export(plan, Runner(1))
    found = of_npz(tmp_path / "rest.npz")
    for member in ("emb", "emb/Adagrad"):
        if f"{member}/keys" in found:
            assert set(keys_of(found, member)) <= set(range(8))
    for name in found.keys() & {"w", "rows", "global_step"}:
        assert found[name].tobytes() == whole[name].tobytes()
    for at in range(2):
        part = found.get(f"rows[{2 * at}:{2 * at + 2}, 0:2]")
        assert part is None or part.tolist() == whole["rows"][2 * at : 2 * at + 2].tolist()


# --- what `show` says of it -------------------------------------------------------------


@pytest.mark.parametrize("stats", [False, True])
def test_what_went_with_a_shard(tmp_path: Path, stats: bool) -> None:
    prefix = damaged_full(tmp_path)
    Path(f"{prefix}.data-00001-of-00002").unlink()
    with open_view(find_target(prefix), damaged=True) as view:
        found = show(view, stats=stats).document()
    (lost,) = found["lost"]
    assert lost["names"] == ["emb/part_1", "emb/part_1/Adagrad", "rows"]
    assert (lost["shard"], lost["message"], lost["tensors"]) == (1, "data shard missing", 19)
    (emb,) = found["tables"]
    assert (emb["keys"], emb["freq"]["max"]) == (8, 3)
    if stats:
        assert emb["members"][0]["stats"]["count"] == 8, "of the part that is there"
        assert {t["name"]: t["stats"] and t["stats"]["count"] for t in found["tensors"]} == {
            "global_step": 1, "rows": None, "s": 1, "w": 2
        }  # fmt: skip


def test_the_view_knows_all_of_it_afterwards(tmp_path: Path) -> None:
    """What was left out, or not asked for, can be asked for: also a second time."""
    prefix = damaged_full(tmp_path)
    spoil(prefix, "w", "emb/part_0-keys")
    with open_view(find_target(prefix), None, Runner(2), damaged=True) as view:
        tables, tensors = view.tables, view.tensors
        plan_export(view, str(tmp_path / "one"), "npz", tables=["rows"], salvage=True)
        plans = [plan_export(view, str(tmp_path / "all"), "npz", salvage=True) for _ in range(2)]
        assert (view.tables, view.tensors) == (tables, tensors)
    first, second = ({each.name for each in plan.skipped} for plan in plans)
    assert first == second >= {"w", "emb/part_0"}
    assert plans[0].rows == plans[1].rows == 4
