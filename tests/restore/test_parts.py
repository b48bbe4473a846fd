"""Rule 6: which component of a name is the part, and which row goes to which part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ckptctl.errors import AmbiguousError, TableError, UnprovenError
from tests.oracle.chain import build_chain, changes, full, increment, read, rows_of, table
from tests.oracle.images import edit_index

KEYS = {key: float(key) for key in (0, 1, 2, 3, 4, 5, 10, 11, 999, 1000, 1007, 2011, -1000)}
NEW = {key: key + 0.5 for key in (1, 3, 11, 12, 13, 1012, 2011, 500, 7, -1000, -2000)}

LAST = "emb/part_1/Adagrad"


def chain_of(tmp_path: Path, ours: list, theirs: list, shards: int = 1):
    return build_chain(
        tmp_path, full(10, ours, shards=shards), increment(20, theirs, shards=shards)
    )


@pytest.mark.parametrize("parts", [None, 1, 2, 3, 12])
@pytest.mark.parametrize("theirs", [None, 1, 2, 3, 5, 12, 13])
def test_rows_go_where_their_key_says(tmp_path: Path, parts, theirs) -> None:
    """Unpartitioned and partitioned, in both directions; part 10 comes after part 2."""
    chain = chain_of(tmp_path, table("emb", KEYS, parts=parts), changes("emb", NEW, parts=theirs))
    chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == KEYS | NEW


def test_rows_may_all_lie_in_parts_that_the_full_lacks(tmp_path: Path) -> None:
    """The sets that are called as the full's have none: it is not idle for that."""
    ours = table("emb", range(8), parts=2)
    chain = chain_of(tmp_path, ours, changes("emb", {2: 2.5, 3: 3.5}, parts=4))
    assert chain.merge().step == 20
    chain.check(10, 20)


@pytest.mark.parametrize("name", ["part_0/emb", "part_7/emb", "a/part_0/b", "part_1/part_0/x"])
@pytest.mark.parametrize("parts", [None, 2, 3])
def test_a_scope_may_be_called_like_a_part(tmp_path: Path, name: str, parts) -> None:
    chain = chain_of(tmp_path, table(name, KEYS, parts=parts), changes(name, NEW, parts=parts))
    chain.merge(20)
    chain.check(10, 20)


@pytest.mark.parametrize("theirs", [1, 3])
def test_a_scope_called_like_a_part_and_other_parts(tmp_path: Path, theirs: int) -> None:
    chain = chain_of(
        tmp_path, table("part_0/emb", KEYS, parts=2), changes("part_0/emb", NEW, parts=theirs)
    )
    chain.merge(20)
    chain.check(10, 20)


def test_an_unpartitioned_table_in_a_scope_called_part_0(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, table("part_0/emb", KEYS), changes("part_0/emb", NEW, parts=2))
    chain.merge(20)
    chain.check(10, 20)


def test_a_part_may_be_called_like_a_part_of_one(tmp_path: Path) -> None:
    """The full's `a/part_0` is part 0 of 1 of `a`, or a table of which there are parts."""
    chain = chain_of(tmp_path, table("a/part_0", KEYS), changes("a/part_0", NEW, parts=2))
    chain.merge(20, increments="last")
    chain.check(10, 20)


def test_buckets_decide_between_two_readings(tmp_path: Path) -> None:
    """`part_0/emb/part_0` to `part_1/emb/part_1`: the second component is the part."""
    ours = table("part_0/emb", KEYS, parts=2) + table("part_1/emb", KEYS, parts=2)
    theirs = changes("part_0/emb", NEW, parts=2) + changes("part_1/emb", NEW, parts=2)
    chain = chain_of(tmp_path, ours, theirs)
    chain.merge(20)
    chain.check(10, 20)


def test_two_readings_that_fit_are_refused(tmp_path: Path) -> None:
    """Key 0 of part 0 and key 1 of part 1 fit both readings."""
    ours = [
        ev
        for ev in table("part_0/emb", [0, 1], parts=2) + table("part_1/emb", [0, 1], parts=2)
        if ev.table == f"part_{ev.number}/emb"
    ]
    rest = [
        ev
        for ev in table("part_0/emb", [], parts=2) + table("part_1/emb", [], parts=2)
        if ev.table != f"part_{ev.number}/emb"
    ]
    chain = chain_of(tmp_path, ours + rest, changes("part_0/emb", [0], parts=2))
    with pytest.raises(AmbiguousError) as caught:
        chain.plan(20)
    assert caught.value.exit_code == 12
    assert caught.value.tensor.startswith("part_")


@pytest.mark.parametrize("middle", [0, 1])
def test_an_increment_may_lack_the_set_of_a_part(tmp_path: Path, middle: int) -> None:
    """A PS whose recorder was not found; another table on its shard was trained."""
    theirs = [ev for ev in changes("emb", NEW, parts=3) if ev.number != middle]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", KEYS, parts=3), table("b", KEYS, parts=3), shards=1),
        increment(20, theirs, changes("b", NEW, parts=3), shards=1),
    )
    chain.merge(20)
    kept = {key: x for key, x in NEW.items() if key % 1000 % 3 != middle}
    assert rows_of(chain.full_prefix(20), "emb") == KEYS | kept
    assert rows_of(chain.full_prefix(20), "b") == KEYS | NEW


@pytest.mark.parametrize("table_on_same_shard", [True, False])
def test_an_increment_may_lack_the_set_of_the_last_part(
    tmp_path: Path, table_on_same_shard: bool
) -> None:
    theirs = [ev for ev in changes("emb", NEW, parts=3) if ev.number != 2]
    b = (table("b", KEYS, parts=3), changes("b", NEW, parts=3)) if table_on_same_shard else ([], [])
    chain = build_chain(
        tmp_path, full(10, table("emb", KEYS, parts=3), b[0]), increment(20, theirs, b[1])
    )
    chain.merge(20)
    kept = {key: x for key, x in NEW.items() if key % 1000 % 3 != 2}
    assert rows_of(chain.full_prefix(20), "emb") == KEYS | kept


@pytest.mark.parametrize("middle", [0, 1, 2])
def test_a_part_that_increments_lack_is_told(tmp_path: Path, middle: int) -> None:
    """Legal where it had no gradient: what is lost of an earlier increment is refused."""
    theirs = [ev for ev in changes("emb", NEW, parts=3) if ev.number != middle]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", KEYS, parts=3)),
        increment(20, theirs),
        increment(30, theirs),
    )
    where = chain.increment_prefix(30)
    notes = [note for note in chain.plan(30).warnings if "no part" in note]
    assert notes == [f"emb: no part {middle} in {where}, it keeps its rows"]
    notes = [note for note in chain.plan(30, increments="all").warnings if "no part" in note]
    assert notes == [f"emb: no part {middle} in {where} and 1 before it, it keeps its rows"]


@pytest.mark.parametrize("lacking", ["emb/part_0", "emb/part_1", "emb/part_0/Adagrad", LAST])
def test_a_part_of_one_member_alone_is_half_of_what_was_saved(tmp_path: Path, lacking: str) -> None:
    """Its keys would be new in one member and old in the other."""
    new = {key: key + 0.5 for key in range(8)}
    theirs = [ev for ev in changes("emb", new, parts=2) if ev.name != lacking]
    chain = chain_of(tmp_path, table("emb", range(8), parts=2), theirs)
    with pytest.raises(UnprovenError) as caught:
        chain.plan(20)
    part = int(lacking.split("part_")[1][0])
    assert (caught.value.exit_code, caught.value.tensor) == (
        12,
        lacking.replace(f"/part_{part}", ""),
    )
    assert f"part {part}" in caught.value.message
    assert "--keep-missing" in caught.value.remedy
    result = chain.merge(20, keep_missing=True)
    assert [w for w in result.warnings if f": no part {part} in" in w]
    chain.check(10, 20)


def test_a_part_without_rows_may_be_of_one_member_alone(tmp_path: Path) -> None:
    theirs = [ev for ev in changes("emb", [0, 2], parts=2) if ev.name != LAST]
    chain = chain_of(tmp_path, table("emb", range(8), parts=2), theirs)
    assert not [w for w in chain.merge(20).warnings if "part" in w]
    chain.check(10, 20)


def test_each_part_keeps_its_place(tmp_path: Path) -> None:
    """P stays the full's, and every offset tensor bounds its buckets."""
    chain = chain_of(
        tmp_path,
        table("emb", KEYS, parts=3, shards=3),
        changes("emb", NEW, parts=3, shards=3),
        shards=3,
    )
    chain.merge(20)
    chain.check(10, 20)
    for part in range(3):
        keys = read(chain.full_prefix(20), f"emb/part_{part}-keys")
        offsets = read(chain.full_prefix(20), f"emb/part_{part}-partition_offset")
        assert offsets[-1] == len(keys)
        for bucket in range(1000):
            inside = keys[offsets[bucket] : offsets[bucket + 1]]
            assert all(key % 1000 == bucket for key in inside)
            assert not inside or bucket % 3 == part


@pytest.mark.parametrize("lacking", [0, 4])
def test_an_increment_of_more_parts_may_lack_one(tmp_path: Path, lacking: int) -> None:
    """Neither the full's 3 parts nor the 4 that are named fit: 5 do."""
    new = range(400)
    theirs = [ev for ev in changes("emb", new, parts=5) if ev.number != lacking]
    chain = chain_of(tmp_path, table("emb", KEYS, parts=3), theirs)
    result = chain.merge(20)
    kept = {key: float(key) for key in new if key % 5 != lacking}
    assert rows_of(chain.full_prefix(20), "emb") == KEYS | kept
    assert not [w for w in result.warnings if "incoming rows" in w]


def test_few_rows_are_no_strays_where_another_number_of_parts_has_none(tmp_path: Path) -> None:
    """One of three parts, of which the last is missing, is not read as one of the full's two."""
    theirs = changes("emb", {0: 0.5, 1: 1.5, 3: 3.5, 4: 4.5, 6: 6.5}, parts=3)
    chain = chain_of(
        tmp_path, table("emb", range(8), parts=2), [ev for ev in theirs if ev.number != 2]
    )
    result = chain.merge(20)
    assert result.keys_replaced == 5
    assert not [w for w in result.warnings if "incoming rows" in w]
    assert rows_of(chain.full_prefix(20), "emb")[3] == 3.5


def test_a_stray_that_no_number_of_parts_explains_is_skipped(tmp_path: Path) -> None:
    """The full's number comes first among those that skip as few."""
    theirs = changes("emb", range(0, 300, 2), parts=2)
    stray = theirs[0].rows[0]._replace(key=1, place=1)
    theirs[0] = replace(theirs[0], rows=[*theirs[0].rows, stray]).ordered()
    chain = chain_of(tmp_path, table("emb", range(8), parts=2), theirs)
    result = chain.merge(20)
    assert [w for w in result.warnings if w.startswith("emb: 1 incoming rows")]
    chain.check(10, 20)


def test_an_increment_of_fewer_parts(tmp_path: Path) -> None:
    """Its names are those of the first two of the full's parts: buckets tell."""
    chain = chain_of(tmp_path, table("emb", KEYS, parts=3), changes("emb", range(200), parts=2))
    chain.merge(20)
    chain.check(10, 20)


def test_rows_that_fit_no_number_of_parts_are_refused(tmp_path: Path) -> None:
    """Skipping them as a PS does would lose half of what was trained."""
    theirs = changes("emb", range(200), parts=2)
    theirs = [replace(ev, part=1 - ev.number) for ev in theirs]
    chain = chain_of(tmp_path, table("emb", KEYS, parts=2), theirs)
    with pytest.raises(TableError) as caught:
        chain.plan(20)
    assert caught.value.tensor.startswith("emb/part_")
    assert caught.value.exit_code == 4


def test_a_scalar_offset_tensor_is_damage(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, table("emb", KEYS, parts=2), changes("emb", NEW, parts=2))
    name = b"emb/part_1-incr_partition_offset"

    def scalar(key: bytes, message) -> None:
        if key == name:
            del message.shape.dim[:]
            message.size = 4

    edit_index(chain.increment_prefix(20), scalar)
    with pytest.raises(TableError, match="int32"):
        chain.merge(20, increments="last")


def test_an_added_table_whose_slot_lacks_its_last_part(tmp_path: Path) -> None:
    """All members get the parts of the table, each under a name of its own."""
    theirs = [ev for ev in changes("new", range(50), parts=2) if ev.name != "new/part_1/Adagrad"]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", KEYS)),
        increment(20, changes("emb", NEW), theirs),
    )
    chain.merge(20, add_new=True, drop_unpaired=True)
    prefix = chain.full_prefix(20)
    assert read(prefix, "new/part_1/Adagrad-keys") == []
    assert read(prefix, "new/part_0/Adagrad-keys") == list(range(0, 50, 2))
    assert read(prefix, "new/part_1-keys") == []
