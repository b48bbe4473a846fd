"""What states share is not read twice or matched by key, and the outcome is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import run_state_machine_as_test

from ckptctl.bundle import BundleReader
from ckptctl.errors import CkptctlError, TensorChecksumError
from ckptctl.inspect import diff_aligned, diff_same, walk
from ckptctl.inspect.diff import diff
from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import View, open_view
from ckptctl.running import Runner
from tests.inspect.model import look
from tests.inspect.test_views import SOME
from tests.merge.storages import Counting
from tests.oracle.chain import Chain, build_chain, changes, flip, full, increment, table
from tests.oracle.histories import Histories
from tests.oracle.images import Image


def told(a: View, b: View, **options: Any) -> dict[str, Any]:
    found = diff(a, b, **options).document()
    for own in found["tables"]:  # type: ignore[attr-defined]
        for member in own["members"]:  # a sum, whose last digits depend on the order
            member["l2"]["total"] = f"{member['l2']['total']:.9g}"
    return found


def assert_same(a: View, b: View) -> None:
    """With lines that are told in order, rows are walked side by side."""
    assert told(a, b) == told(a, b, each=lambda line: None)


class Sharing(Histories):
    """Compares the state with its full, with itself and with the states before it."""

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        with look(step, self.chain.directory, **options) as b:
            assert b.target.selection is not None
            assert b.target.chains is not None
            with look(b.target.selection.base.prefix) as a:
                assert_same(a, b)
                assert_same(b, a)
            assert_same(b, b)
            assert diff(b, b).identical
            for other in b.target.chains.restore_points[-3:]:
                try:
                    a = look(other, self.chain.directory, **options)
                except CkptctlError:  # some states cannot be restored
                    continue
                with a:
                    assert_same(a, b)

    def look_at_merged(self, prefix: str, state: Image) -> None:
        with look(prefix) as b:
            for step in list(self.fulls)[-2:]:
                with look(self.chain.full_prefix(step)) as a:
                    assert_same(a, b)


@pytest.mark.parametrize("most", [3, 1 << 16])
def test_the_outcome_is_that_of_a_walk(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    for module in (walk, diff_same):
        monkeypatch.setattr(module, "MOST_ROWS", most)
    monkeypatch.setattr(diff_same, "_BLOCK_ROWS", 2 * most)
    for module in (diff_aligned, diff_same):
        monkeypatch.setattr(module, "_PIECE_BYTES", 16 * most)
    monkeypatch.setattr(diff_aligned, "_MOST_RUNS", 8)
    monkeypatch.setattr("ckptctl.knobs.TASK_BYTES", 64 * most)
    run_state_machine_as_test(Sharing, settings=SOME)


@pytest.mark.parametrize(
    "many", [{"keys": range(0, 40_000, 1000)}, {"filtered": range(1, 40_000, 1000)}]
)
def test_buckets_that_are_too_large_are_matched_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: dict[str, range]
) -> None:
    monkeypatch.setattr("ckptctl.knobs.JOIN_KEYS", 1)
    keys = many.get("keys", range(3))
    filtered = many.get("filtered", ())
    chain = build_chain(
        tmp_path,
        full(1, table("emb", keys, versions=1, freqs=1, filtered=filtered)),
        full(2, table("emb", [*keys, 5], versions=1, freqs=1, filtered=filtered)),
    )
    with look(1, chain.directory) as a, look(2, chain.directory) as b:
        assert_same(a, b)
        assert_same(b, a)


KEYS = range(20_000)
CHANGED = {key: key + 0.5 for key in (*range(0, 3000, 3), *range(30_000, 30_100))}


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    emb = table("emb", KEYS, parts=2, versions=1, freqs=1, filtered=[30_001, 30_002])
    return build_chain(
        tmp_path,
        full(100, emb),
        increment(120, changes("emb", CHANGED, parts=2, versions=2, freqs=2)),
    )


def test_the_full_is_read_once_beside_its_keys(chain: Chain) -> None:
    storage = Counting()

    def of(step: int) -> View:
        target = find_target(str(step), str(chain.directory), None, storage)
        return open_view(target, None, Runner(2), storage)

    with of(100) as a, of(120) as b:
        found = told(a, b)
    member = found["tables"][0]["members"][0]
    counts = [member[what] for what in ("new", "gone", "changed", "unchanged")]
    assert counts == [100, 0, 1000, 19_000]
    assert member["newly_admitted"] == 2
    assert member["filtered"] == {"new": 0, "gone": 0, "moved": 0}
    with BundleReader(str(chain.full_prefix(100))) as reader:
        sizes = {name: entry.size for name, entry in reader.tensors.items()}
    offsets = sum(size for name, size in sizes.items() if name.endswith("_offset"))
    read = sum(count for path, count in storage.read.items() if "ckpt-100.data-" in path)
    slots = sum(s for n, s in sizes.items() if "Adagrad-versions" in n or "Adagrad-freqs" in n)
    most = sum(sizes.values()) - slots
    assert read <= most + 2 * offsets


def test_a_filtered_key_that_had_a_row_leaves_with_an_increment(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(100, table("emb", [6, 7], freqs=1, filtered=[7, 8, 9])),
        increment(120, changes("emb", [7, 8])),
    )
    with look(100, chain.directory) as a, look(120, chain.directory) as b:
        assert_same(a, b)
        assert_same(b, a)
        there, back = (told(*pair)["tables"][0]["members"][0] for pair in ((a, b), (b, a)))
    assert (there["newly_admitted"], back["newly_filtered"]) == (1, 1)
    assert there["filtered"] == {"new": 0, "gone": 1, "moved": 0}
    assert back["filtered"] == {"new": 1, "gone": 0, "moved": 0}


def test_a_merged_full_is_the_state_that_it_was_made_of(chain: Chain, tmp_path: Path) -> None:
    made = tmp_path / "made-1"
    chain.merge(output=made)
    with look(120, chain.directory) as a, look(made) as b:
        found = diff(a, b)
    assert not any(table["changed"] for table in found.tables)


@pytest.mark.parametrize("suffix", ["-keys", "-values", "-freqs", "-versions", "-keys_filtered"])
@pytest.mark.parametrize("order", [(100, 120), (120, 100)])
def test_damage_of_what_no_increment_touches_is_found(
    chain: Chain, suffix: str, order: tuple[int, int]
) -> None:
    with BundleReader(str(chain.full_prefix(100))) as reader:
        entry = reader.entry(f"emb/part_1{suffix}")
        flip(Path(reader.shard_path(entry.shard)), entry.offset + entry.size - 1)
    a, b = (look(step, chain.directory) for step in order)
    with a, b, pytest.raises(TensorChecksumError) as caught:
        diff(a, b)
    assert caught.value.tensor == f"emb/part_1{suffix}"


@pytest.mark.parametrize("suffix", ["keys", "values", "versions"])
def test_damage_of_an_increment_is_found(chain: Chain, suffix: str) -> None:
    with BundleReader(str(chain.increment_prefix(120))) as reader:
        entry = reader.entry(f"emb/part_1-sparse_incr_{suffix}")
        flip(Path(reader.shard_path(entry.shard)), entry.offset + entry.size - 1, 2)
    with (
        look(100, chain.directory) as a,
        look(120, chain.directory) as b,
        pytest.raises(CkptctlError) as caught,
    ):
        diff(a, b)
    assert caught.value.exit_code == 4
