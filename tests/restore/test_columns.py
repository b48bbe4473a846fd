"""Rule 5: a table has versions and freqs, or it has not, in all parts and members alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.chain import find_chains, scan_directory
from ckptctl.errors import IncompleteError, TableError, UnprovenError
from ckptctl.inspect.lookup import look_up
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.restore import RestoreOptions, open_state
from tests.inspect.model import look
from tests.oracle.chain import build_chain, changes, full, increment, put, read, table
from tests.oracle.images import Tensor, floats, ints


@pytest.mark.parametrize("versions", [None, 5])
@pytest.mark.parametrize("freqs", [None, 3])
def test_columns_of_the_full_are_kept(tmp_path: Path, versions, freqs) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2], parts=2, versions=versions, freqs=freqs)),
        increment(20, changes("emb", [2, 4, 5], parts=2, versions=20, freqs=7)),
    )
    chain.merge(20)
    chain.check(10, 20)
    for ev in ("emb/part_0", "emb/part_0/Adagrad"):
        for suffix, has in (("-versions", versions), ("-freqs", freqs)):
            assert len(read(chain.full_prefix(20), ev + suffix)) == (2 if has else 0)


@pytest.mark.parametrize(("versions", "freqs"), [(0, 0), (20, 0), (0, 7), (20, 7)])
def test_an_empty_table_takes_the_columns_that_the_increment_fills(
    tmp_path: Path, versions: int, freqs: int
) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [], parts=2)),
        increment(20, changes("emb", [2, 4, 5], parts=2, versions=versions, freqs=freqs)),
    )
    chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "emb/part_0-versions") == ([20, 20] if versions else [])
    assert read(chain.full_prefix(20), "emb/part_1/Adagrad-freqs") == ([7] if freqs else [])


def test_one_filled_part_decides_for_the_empty_ones(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [2], parts=2, freqs=3)),  # part 1 is empty
        increment(20, changes("emb", [2, 5], parts=2, versions=20, freqs=0)),
    )
    chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "emb/part_1-freqs") == [0]
    assert read(chain.full_prefix(20), "emb/part_1-versions") == []


def test_an_incoming_value_of_one_part_decides_for_all(tmp_path: Path) -> None:
    theirs = changes("emb", [2], parts=2, freqs=9) + changes("emb", [5], parts=2, freqs=0)
    own = {ev.name: ev for ev in theirs if ev.rows}
    rest = changes("emb", [], parts=2)
    inc = [own.get(ev.name, ev) for ev in rest]
    chain = build_chain(tmp_path, full(10, table("emb", [], parts=2)), increment(20, inc))
    chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "emb/part_1-freqs") == [0]


DAMAGE = {
    "a member without": [("emb/Adagrad-freqs", ints("int64", []))],
    "a part without": [
        ("emb/part_1-freqs", ints("int64", [])),
        ("emb/part_1/Adagrad-freqs", ints("int64", [])),
    ],
    "one row short": [("emb-freqs", ints("int64", [3]))],
    "one row more": [("emb-freqs", ints("int64", [3, 3, 3]))],
    "another type": [("emb-freqs", ints("int32", [3, 3]))],
    "two dimensions": [("emb-freqs", Tensor("int64", (2, 1), bytes(16)))],
    "filtered without freqs": [("emb-freqs_filtered", None)],
    "filtered freqs short": [("emb-freqs_filtered", ints("int64", [1]))],
    "filtered versions short": [("emb-versions_filtered", ints("int64", [1]))],
    "filtered keys of another type": [("emb-keys_filtered", ints("int32", [8, 9]))],
    "values short": [("emb-values", floats(1, 2, shape=(1, 2)))],
    "values flat": [("emb-values", floats(1, 2))],
    "filter offsets short": [("emb-partition_filter_offset", ints("int32", [0] * 1000))],
    "filter offsets not ascending": [
        ("emb-partition_filter_offset", ints("int32", [0, 2, 1] + [2] * 998))
    ],
    "filter offsets beyond": [("emb-partition_filter_offset", ints("int32", [0] + [3] * 1000))],
    "offsets not from 0": [("emb-partition_offset", ints("int32", [1] * 2 + [2] * 999))],
    "offsets not ascending": [("emb-partition_offset", ints("int32", [0, 2, 1] + [2] * 998))],
    "offsets beyond": [("emb-partition_offset", ints("int32", [0] + [3] * 1000))],
}


@pytest.mark.parametrize("what", DAMAGE)
def test_anything_else_in_the_full_is_damage(tmp_path: Path, what: str) -> None:
    raw = dict(DAMAGE[what])
    parts = 2 if any("part_" in name for name in raw) else None
    ours = table("emb", [1, 2], parts=parts, freqs=3, filtered=[8, 9])
    chain = build_chain(
        tmp_path,
        full(10, ours, raw=raw),
        increment(20, changes("emb", [1, 2], parts=parts, freqs=4)),
    )
    with pytest.raises((TableError, UnprovenError)) as caught:
        chain.merge(20)
    if isinstance(caught.value, UnprovenError):  # names and shapes tell it
        assert "its base model.ckpt-10 is damaged: emb" in caught.value.message
        assert find_chains(scan_directory(str(chain.directory))).restore_points == ()
        with pytest.raises(IncompleteError, match=r"model.ckpt-10: emb") as caught:
            chain.merge(10, tmp_path / "x-10")
    else:
        assert caught.value.tensor.startswith("emb")
    assert caught.value.exit_code == 4
    assert not list(chain.directory.glob("model.ckpt-20*"))


INCREMENT_DAMAGE = {
    "no freqs": ("emb-sparse_incr_freqs", None),
    "no offsets": ("emb-incr_partition_offset", None),
    "freqs short": ("emb-sparse_incr_freqs", ints("int64", [1])),
    "versions of another type": ("emb-sparse_incr_versions", ints("int32", [1, 1])),
    "values short": ("emb-sparse_incr_values", floats(1, 2, shape=(1, 2))),
    "offsets short": ("emb-incr_partition_offset", ints("int32", [0] * 1000)),
    "offsets not from 0": ("emb-incr_partition_offset", ints("int32", [1] * 2 + [2] * 999)),
    "offsets not ascending": ("emb-incr_partition_offset", ints("int32", [0, 2, 1] + [2] * 998)),
    "offsets beyond": ("emb-incr_partition_offset", ints("int32", [0] + [3] * 1000)),
}


@pytest.mark.parametrize("what", INCREMENT_DAMAGE)
def test_anything_else_in_the_increment_is_damage(tmp_path: Path, what: str) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [1, 2]), raw=dict([INCREMENT_DAMAGE[what]])),
    )
    with pytest.raises(TableError) as caught:
        chain.merge(20)
    assert caught.value.exit_code == 4
    assert "incremental_model.ckpt-20" in caught.value.file
    assert not list(chain.directory.glob("model.ckpt-20*"))


def test_an_increment_of_another_dim_key_type_or_dtype_is_damage(tmp_path: Path) -> None:
    theirs = {
        "dim": changes("emb", [1], dim=3),
        "key type": changes("emb", [1], key_type="int32"),
        "dtype": put(changes("emb", [1], dim=4, value_type="bfloat16"), dim=4),
    }
    ours = {"dtype": table("emb", [1], dim=4)}
    for what, evs in theirs.items():
        if what == "dtype":
            evs = [
                put([ev], rows=[r._replace(value=r.value[:8]) for r in ev.rows])[0] for ev in evs
            ]
        home = tmp_path / what
        home.mkdir()
        own = ours.get(what, table("emb", [1]))
        chain = build_chain(home, full(10, own), increment(20, evs))
        with pytest.raises(TableError, match=what) as caught:
            chain.plan(20)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("what", "odd"), [("dim", {"dim": 3}), ("key type", {"key_type": "int32"})]
)
def test_parts_of_the_full_that_differ_are_damage(tmp_path: Path, what: str, odd: dict) -> None:
    """Rows of the increment fit part 0, and would be put into part 1 as if it were alike."""
    keys = {key: float(key) for key in (0, 1, 2, 3)}
    ours = table("emb", keys, parts=2)[:2] + table("emb", keys, parts=2, **odd)[2:]
    chain = build_chain(
        tmp_path, full(10, ours), increment(20, changes("emb", {1: 1.5, 5: 5.5}, parts=2))
    )
    assert find_chains(scan_directory(str(chain.directory))).restore_points == ()
    with pytest.raises(TableError, match=f"{what} .* where emb/part_0") as caught:
        open_state(str(chain.full_prefix(10)), [str(chain.increment_prefix(20))])
    assert caught.value.exit_code == 4
    assert caught.value.tensor == "emb/part_1"
    with pytest.raises(UnprovenError, match=r"its base model.ckpt-10 is damaged: emb/part_1"):
        chain.merge(20)


@pytest.mark.parametrize("odd", [{"dim": 3}, {"key_type": "int32"}])
def test_increments_that_add_a_table_must_agree(tmp_path: Path, odd: dict) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1]), changes("new", [1, 2, 3], **odd)),
        increment(30, changes("emb", [1]), changes("new", [3, 4])),
    )
    with pytest.raises(TableError, match="differs") as caught:
        chain.merge(30, increments="all", add_new=True)
    assert caught.value.exit_code == 4
    assert "incremental_model.ckpt-20" in caught.value.file


def test_a_table_that_is_added_has_parts_alike(tmp_path: Path) -> None:
    theirs = changes("new", range(4), parts=2)[:2] + changes("new", range(4), parts=2, dim=3)[2:]
    chain = build_chain(
        tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1]), theirs)
    )
    with pytest.raises(TableError, match="dim 3 where new/part_0 has 2"):
        open_state(
            str(chain.full_prefix(10)),
            [str(chain.increment_prefix(20))],
            RestoreOptions(add_new=True),
        )


@pytest.mark.parametrize("suffix", ["-versions", "-freqs"])
@pytest.mark.parametrize("lacking", ["emb/part_1", "emb/part_1/Adagrad"])
def test_a_part_without_rows_may_lack_a_column_that_others_keep(
    tmp_path: Path, lacking: str, suffix: str
) -> None:
    """Rows come to it: the result has the column there too, in the place of what is new."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [2], parts=2, versions=1, freqs=3), raw={lacking + suffix: None}),
        increment(20, changes("emb", [2, 5], parts=2, versions=20, freqs=20)),
    )
    chain.merge(20)
    assert read(chain.full_prefix(20), lacking + suffix) == [20]
    found = execute_verify(plan_verify(str(chain.directory), data=True)).findings
    assert not [each for each in found if each.severity == "damage"]
    chain.merge(10, tmp_path / "copy-10")
    with BundleReader(str(tmp_path / "copy-10")) as copied:
        assert lacking + suffix not in copied.tensors


@pytest.mark.parametrize("freqs", [0, 7])
def test_a_table_without_rows_may_lack_a_column_everywhere(tmp_path: Path, freqs: int) -> None:
    """What `get` says of the state is what the merged full has."""
    lacking = {f"emb{slot}-freqs": None for slot in ("", "/Adagrad")}
    chain = build_chain(
        tmp_path,
        full(10, table("emb", []), raw=lacking),
        increment(20, changes("emb", [1, 2], freqs=freqs)),
    )
    told = []
    for _ in range(2):
        with look(20, chain.directory) as view:
            told.append([row.freq for row in look_up(view, "emb", [1, 2]).rows])
        if len(told) == 1:
            chain.merge(20)
    assert told == [[freqs or None] * 2] * 2
    with BundleReader(str(chain.full_prefix(20))) as merged:
        assert ("emb-freqs" in merged.tensors) is ("emb/Adagrad-freqs" in merged.tensors)
        assert ("emb-freqs" in merged.tensors) is (freqs > 0)
