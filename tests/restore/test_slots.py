"""Slots of names that no optimizer of DeepRec uses, and tables that look like such slots."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.errors import UnprovenError
from ckptctl.restore import opening
from ckptctl.restore.opening import open_bundle
from tests.oracle.chain import build_chain, changes, flip, full, increment, read, rows_of, table


def slots_of(prefix: object, increment: bool = False) -> dict[str, list[str]]:
    reader, found = open_bundle(str(prefix), increment)
    reader.close()
    return {table.name: [member.slot for member in table.members[1:]] for table in found.tables}


@pytest.mark.parametrize("slots", [(), ("Adagrad",)])
def test_two_tables_with_equally_many_rows_keep_their_new_rows(
    tmp_path: Path, slots: tuple[str, ...]
) -> None:
    """As many in each bucket, too."""
    new = range(5000, 5300)
    chain = build_chain(
        tmp_path,
        full(
            10,
            table("user", range(1000, 1200), slots=slots),
            table("user/deep", range(3000, 3200), slots=slots),
        ),
        increment(
            20, changes("user", new, slots=slots), changes("user/deep", new[3:], slots=slots)
        ),
    )
    assert not chain.merge(20).warnings
    assert len(rows_of(chain.full_prefix(20), "user")) == 500
    assert len(rows_of(chain.full_prefix(20), "user/deep")) == 497
    chain.check(10, 20)


def test_a_key_that_one_table_admits_stays_filtered_in_the_other(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(
            10,
            table("user", range(200), slots=(), filtered={1007: 2}, freqs=3),
            table("user/deep", [*range(199), 1007], slots=(), freqs=3),
        ),
        increment(
            20,
            changes("user", [1], slots=(), freqs=4),
            changes("user/deep", {1007: 9.0}, slots=(), freqs=5),
        ),
    )
    chain.merge(20)
    assert read(chain.full_prefix(20), "user-keys_filtered") == [1007]


def test_a_new_table_is_not_named_like_a_slot(tmp_path: Path) -> None:
    new = [changes(name, [1, 2, 3], parts=2) for name in ("emb", "emb/linear")]
    chain = build_chain(tmp_path, full(10, table("emb", [], parts=2)), increment(20, *new))
    chain.merge(20, add_new=True)
    with BundleReader(str(chain.full_prefix(20))) as reader:
        keys = {name for name in reader.tensors if name.endswith("-keys") and "linear" in name}
    assert keys == {f"emb/linear/part_{n}{slot}-keys" for n in (0, 1) for slot in ("", "/Adagrad")}


@pytest.mark.parametrize("few", [0, 10_000])
@pytest.mark.parametrize("parts", [None, 3])
def test_a_slot_of_another_name_is_one(
    tmp_path: Path, parts: int | None, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 10,000 keys the buckets tell."""
    monkeypatch.setattr(opening, "_FEW_KEYS", few)
    slots = ("Adagrad", "my_slot")
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [*range(20), 1003], parts=parts, slots=slots)),
        increment(20, changes("emb", [7, 30], parts=parts, slots=slots)),
    )
    assert slots_of(chain.full_prefix(10)) == {"emb": list(slots)}
    assert slots_of(chain.increment_prefix(20), increment=True) == {"emb": list(slots)}
    chain.merge(20)
    chain.check(10, 20)
    assert slots_of(chain.full_prefix(20)) == {"emb": list(slots)}


def test_other_keys_in_the_same_buckets_are_another_tables(tmp_path: Path) -> None:
    evs = (table("emb", [1, 2, 3], slots=()), table("emb/own", [1, 1002, 3], slots=()))
    chain = build_chain(tmp_path, full(10, *evs))
    assert slots_of(chain.full_prefix(10)) == {"emb": [], "emb/own": []}


def test_keys_that_are_damaged_tell_nothing(tmp_path: Path) -> None:
    """That is told by who reads them."""
    chain = build_chain(tmp_path, full(10, table("emb", [1, 2, 3], slots=("own",))))
    with BundleReader(str(chain.full_prefix(10))) as reader:
        entry = reader.entry("emb/own-keys")
        flip(Path(reader.shard_path(entry.shard)), entry.offset)
    assert slots_of(chain.full_prefix(10)) == {"emb": ["own"]}


def test_where_a_full_has_no_rows_its_increments_tell(tmp_path: Path) -> None:
    """As in the full of step 0. New keys need a row in each member, and are filtered no more."""
    base = full(10, table("emb", [], slots=("own",), filtered={1: 2, 4: 1}, freqs=3))
    first = increment(20, changes("emb", [1, 2], slots=("own",), freqs=4))
    chain = build_chain(tmp_path, base, first)
    assert [each.members for each in chain.plan(20).tables] == [("", "own")]
    chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "emb/own-keys_filtered") == [4]


def test_where_increments_do_not_agree_each_is_a_table(tmp_path: Path) -> None:
    images = [
        increment(20, changes("emb", [1], slots=()), changes("emb/own", [2], slots=())),
        increment(30, changes("emb", [1, 2], slots=()), changes("emb/own", [1, 2], slots=())),
    ]
    evs = (table("emb", [], slots=()), table("emb/own", [], slots=()))
    chain = build_chain(tmp_path, full(10, *evs), *images)
    assert [each.members for each in chain.plan(30).tables] == [("", "own")]
    assert [each.members for each in chain.plan(30, increments="all").tables] == [("",), ("",)]


def test_what_the_full_says_counts_where_it_has_rows(tmp_path: Path) -> None:
    slots = ("own",)
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2], slots=slots)),
        increment(20, changes("emb", [1, 2, 3], slots=slots, lacking={"own": [3]})),
    )
    with pytest.raises(UnprovenError, match="without a row in every member"):
        chain.merge(20)
