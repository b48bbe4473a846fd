"""Rule 7: rows that no PS could have saved, and rows that a PS skips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.errors import CkptctlError, TableError
from ckptctl.restore import unique
from tests.oracle.chain import (
    build_chain,
    changes,
    full,
    increment,
    put,
    read,
    rows_of,
    table,
    value,
)
from tests.oracle.images import Ev, Row

SIZES = {"whole": (1 << 20, 1 << 16), "pieces": (8, 1)}


@pytest.fixture(params=SIZES)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    size, keys = SIZES[request.param]
    monkeypatch.setattr(knobs, "PIECE_BYTES", size)
    monkeypatch.setattr(knobs, "JOIN_KEYS", keys)
    return request.param


pytestmark = pytest.mark.usefixtures("pieces")


def also(evs: list[Ev], *rows: tuple[int | None, int], of: int = 0) -> list[Ev]:
    """Return the EVs with (place, key) more in one of them."""
    more = [Row(place, key, value(99.0)) for place, key in rows]
    return [
        replace(ev, rows=ev.rows + more).ordered() if at == of else ev for at, ev in enumerate(evs)
    ]


def damaged(tmp_path: Path, ours: list, theirs: list) -> CkptctlError:
    chain = build_chain(tmp_path, full(10, ours), increment(20, theirs))
    before = sorted(chain.directory.iterdir())
    with pytest.raises(TableError) as caught:
        chain.merge(20)
    assert caught.value.exit_code == 4
    after = [p for p in sorted(chain.directory.iterdir()) if p.name != ".ckptctl"]
    assert after == before
    assert caught.value.tensor.startswith("emb")
    return caught.value


# --- refused --------------------------------------------------------------------------


@pytest.mark.parametrize("key", [-1, -999, -1001, -(2**63)])
@pytest.mark.parametrize("place", [0, 999, None])
def test_a_negative_key_in_the_full(tmp_path: Path, key: int, place: int | None) -> None:
    ours = also(table("emb", [1]), (place, key))
    error = damaged(tmp_path, ours, changes("emb", [1]))
    assert str(key) in str(error.found)


@pytest.mark.parametrize("key", [-1, -999, -1001, -(2**63)])
@pytest.mark.parametrize("place", [0, 999])
def test_a_negative_key_in_the_increment(tmp_path: Path, key: int, place: int) -> None:
    theirs = also(changes("emb", [1]), (place, key))
    error = damaged(tmp_path, table("emb", [1]), theirs)
    assert str(key) in str(error.found)


@pytest.mark.parametrize(("place", "parts"), [(None, None), (1, 2)])
def test_a_negative_key_where_nobody_looks(tmp_path: Path, place: int | None, parts) -> None:
    theirs = also(changes("emb", [2], parts=parts), (place, -1))
    damaged(tmp_path, table("emb", [2], parts=parts), theirs)


def test_a_key_twice_in_a_bucket_of_the_full(tmp_path: Path) -> None:
    ours = also(table("emb", [1, 7]), (7, 7))
    error = damaged(tmp_path, ours, changes("emb", [1]))
    assert "key 7" in str(error.found)


@pytest.mark.parametrize("old", [True, False], ids=["old form", "behind the buckets"])
def test_a_key_twice_among_rows_without_a_bucket(tmp_path: Path, old: bool) -> None:
    ours = also(table("emb", [] if old else [1], old=old), (None, 7), (None, 8), (None, 7))
    damaged(tmp_path, ours, changes("emb", [1]))


@pytest.mark.parametrize("old", [True, False], ids=["old form", "behind the buckets"])
def test_such_a_key_that_the_increment_has_too(tmp_path: Path, old: bool) -> None:
    ours = also(table("emb", [] if old else [1], old=old), (None, 7), (None, 8), (None, 7))
    damaged(tmp_path, ours, changes("emb", [7]))


def test_a_key_in_its_bucket_and_behind_the_last_one(tmp_path: Path) -> None:
    ours = also(table("emb", [1, 7]), (None, 7))
    damaged(tmp_path, ours, changes("emb", [7]))


def test_the_same_without_the_increment(tmp_path: Path) -> None:
    ours = also(table("emb", [1, 7]), (None, 7))
    damaged(tmp_path, ours, changes("emb", [1]))


def test_a_bucket_larger_than_is_looked_at_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unique, "_UNIQUE_KEYS", 2)
    keys = [7, 1007, 2007, 3007, 4007]
    chain = build_chain(
        tmp_path, full(10, table("emb", keys)), increment(20, changes("emb", [3007, 5007, 8]))
    )
    chain.merge(20)
    chain.check(10, 20)


@pytest.mark.parametrize("slot", ["", "Adagrad"])
def test_a_key_twice_in_the_increment(tmp_path: Path, slot: str) -> None:
    theirs = also(changes("emb", [1, 7]), (7, 7), of=1 if slot else 0)
    error = damaged(tmp_path, table("emb", [1, 7]), theirs)
    assert "key 7" in str(error.found)
    assert error.tensor == ("emb/Adagrad" if slot else "emb")


def test_a_key_twice_over_parts_of_the_increment(tmp_path: Path) -> None:
    """Key 4 stands in part 1 of 3, its own, and in part 0, where it is outside its part."""
    theirs = also(changes("emb", [3, 4], parts=3), (4, 4), of=0)
    chain = build_chain(tmp_path, full(10, table("emb", [3], parts=2)), increment(20, theirs))
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == {3: 3.0, 4: 4.0}
    assert skipped(result, "emb: 1 incoming rows")


# --- skipped and counted --------------------------------------------------------------


def skipped(result, what: str) -> list[str]:
    return [w for w in result.warnings if what in w]


@pytest.mark.parametrize("place", [8, 999, 0, None])
def test_an_incoming_key_outside_its_bucket(tmp_path: Path, place: int | None) -> None:
    theirs = also(changes("emb", {1: 5.0}), (place, 7))
    chain = build_chain(tmp_path, full(10, table("emb", [1, 7])), increment(20, theirs))
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 5.0, 7: 7.0}
    assert skipped(result, "emb: 1 incoming rows outside their part or bucket were skipped")


@pytest.mark.parametrize("parts", [None, 2, 3])
def test_an_incoming_key_outside_its_part(tmp_path: Path, parts) -> None:
    """Key 7 stands in bucket 7 of part 0 of 2, where odd buckets have no business."""
    theirs = also(changes("emb", {1: 5.0, 2: 6.0}, parts=2), (7, 7))
    chain = build_chain(
        tmp_path, full(10, table("emb", [1, 7], parts=parts)), increment(20, theirs)
    )
    result = chain.merge(20, drop_unpaired=True)
    chain.check(10, 20, drop_unpaired=True)
    assert rows_of(chain.full_prefix(20), "emb")[7] == 7.0
    assert skipped(result, "emb: 1 incoming rows")


def test_a_key_of_the_full_outside_its_bucket(tmp_path: Path) -> None:
    ours = also(table("emb", [1]), (8, 7))
    chain = build_chain(tmp_path, full(10, ours), increment(20, changes("emb", {1: 5.0})))
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 5.0}
    assert skipped(result, "emb: 1 rows of the full outside their part or bucket were skipped")


def test_such_a_key_is_new_to_the_table(tmp_path: Path) -> None:
    ours = also(table("emb", [1]), (8, 7))
    ours = also(ours, (8, 7), of=1)
    chain = build_chain(tmp_path, full(10, ours), increment(20, changes("emb", {7: 5.0})))
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0, 7: 5.0}
    assert result.keys_new == 1


@pytest.mark.parametrize("theirs", [2, 3, None])
def test_a_key_of_the_full_outside_its_part(tmp_path: Path, theirs) -> None:
    """One row in a hundred does not say that these are no parts."""
    ours = also(table("emb", range(100), parts=2), (7, 7))
    inc = changes("emb", {1: 5.0}, parts=theirs)
    chain = build_chain(tmp_path, full(10, ours), increment(20, inc))
    result = chain.merge(20)
    chain.check(10, 20)
    assert skipped(result, "emb: 1 rows of the full")


def test_a_key_of_the_full_behind_the_last_bucket_and_outside_its_part(tmp_path: Path) -> None:
    ours = also(table("emb", [1, 2], parts=2), (None, 7), (None, 8))
    chain = build_chain(tmp_path, full(10, ours), increment(20, changes("emb", [1], parts=2)))
    result = chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "emb/part_0-keys") == [2, 8]
    assert skipped(result, "emb: 1 rows of the full")


def test_a_key_both_in_and_outside_its_bucket(tmp_path: Path) -> None:
    """The one outside is skipped, as a PS does, however many keys are looked at together."""
    ours = also(table("emb", [1, 7]), (8, 7))
    chain = build_chain(tmp_path, full(10, ours), increment(20, changes("emb", {1: 5.0})))
    chain.merge(20)
    chain.check(10, 20)


# --- old forms ------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [None, 2])
def test_a_table_without_offsets_is_scanned_whole(tmp_path: Path, parts) -> None:
    keys = {5: 5.0, 2: 2.0, 1005: 1005.0, 4: 4.0}
    ours = table("emb", keys, parts=parts, filtered=[9, 8], old=True)
    chain = build_chain(
        tmp_path,
        full(10, ours),
        increment(20, changes("emb", {1005: 0.5, 9: 0.5, 3: 0.5, 2: 0.5}, parts=parts)),
    )
    chain.merge(20)
    chain.check(10, 20)
    if parts is None:  # in place, new keys ascending at the end
        found = rows_of(chain.full_prefix(20), "emb")
        assert list(found) == [5, 2, 1005, 4, 3, 9]
        assert read(chain.full_prefix(20), "emb-keys_filtered") == [8]


def test_rows_behind_the_last_bucket_stay_at_the_end(tmp_path: Path) -> None:
    ours = also(table("emb", [2, 1]), (None, 9), (None, 3))
    ours = also(ours, (None, 9), (None, 3), of=1)
    chain = build_chain(
        tmp_path, full(10, ours), increment(20, changes("emb", {9: 0.5, 7: 0.5, 1001: 0.5}))
    )
    chain.merge(20)
    chain.check(10, 20)
    prefix = chain.full_prefix(20)
    assert read(prefix, "emb-keys") == [1, 1001, 2, 7, 9, 3]
    assert [row[0] for row in read(prefix, "emb-values")] == [1.0, 0.5, 2.0, 0.5, 0.5, 99.0]
    assert read(prefix, "emb-partition_offset")[-1] == 4


@pytest.mark.parametrize("together", [2, 3, 5])
def test_equal_key_sets_are_equal_in_any_order_and_any_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Members in the old form, their rows in another order: nothing is unpaired."""
    monkeypatch.setattr(knobs, "JOIN_KEYS", together)
    ours = table("emb", [n * 2**57 + n for n in range(50)], old=True)
    ours = [put([ev], rows=ev.rows[::-1] if ev.slot else ev.rows)[0] for ev in ours]
    chain = build_chain(tmp_path, full(10, ours), increment(20, changes("emb", [0])))
    result = chain.merge(20)
    chain.check(10, 20)
    assert not skipped(result, "carried over")
