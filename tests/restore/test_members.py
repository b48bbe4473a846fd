"""Rule 9: keys that some member of a table lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptctl import knobs
from ckptctl.bundle import BundleData
from ckptctl.errors import UnprovenError
from ckptctl.restore import open_state
from ckptctl.restore.join import FullKeys
from ckptctl.restore.part import PartJob, survey_part
from ckptctl.tables import EvSet
from tests.oracle.chain import build_chain, changes, full, increment, rows_of, table


def chain_of(tmp_path: Path, new: int, lacking: dict, **more):
    """A full with key 1, and an increment with `new` keys from 1000 on."""
    keys = [1, *range(1000, 1000 + new)]
    return build_chain(
        tmp_path,
        full(10, table("emb", [1], **more)),
        increment(20, changes("emb", keys, lacking=lacking, **more)),
    )


@pytest.mark.parametrize("parts", [None, 3])
@pytest.mark.parametrize("member", ["", "Adagrad"])
def test_one_in_a_hundred_is_dropped_and_told(tmp_path: Path, member: str, parts) -> None:
    chain = chain_of(tmp_path, 100, {member: [1007]}, parts=parts)
    result = chain.merge(20)
    chain.check(10, 20)
    assert 1007 not in rows_of(chain.full_prefix(20), "emb")
    assert 1007 not in rows_of(chain.full_prefix(20), "emb:Adagrad")
    assert [w for w in result.warnings if w.startswith("emb: 1 of 100 new keys")]
    assert result.keys_new == 99


@pytest.mark.parametrize(("new", "lacking"), [(99, [1007]), (100, [1007, 1008]), (1, [1000])])
def test_more_are_refused(tmp_path: Path, new: int, lacking: list[int]) -> None:
    chain = chain_of(tmp_path, new, {"Adagrad": lacking})
    with pytest.raises(UnprovenError) as caught:
        chain.merge(20)
    error = caught.value
    assert error.exit_code == 12
    assert (error.file, error.tensor) == (str(chain.increment_prefix(20)), "emb")
    assert "--drop-unpaired" in error.remedy
    assert str(lacking[0]) in str(error.found)
    assert not list(chain.directory.glob("model.ckpt-20*"))
    result = chain.merge(20, drop_unpaired=True)
    chain.check(10, 20, drop_unpaired=True)
    assert [w for w in result.warnings if w.startswith(f"emb: {len(lacking)} of {new} new keys")]


def test_keys_that_some_slot_lacks_in_turn(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1], slots=("Adam", "Adam_1"))),
        increment(
            20,
            changes(
                "emb",
                range(1, 400),
                slots=("Adam", "Adam_1"),
                lacking={"": [10], "Adam": [20], "Adam_1": [30]},
            ),
        ),
    )
    result = chain.merge(20)
    chain.check(10, 20)
    assert [w for w in result.warnings if w.startswith("emb: 3 of 398 new keys")]


def test_a_key_that_the_full_has_may_change_in_one_member_alone(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", {1: 1.0, 2: 2.0})),
        increment(20, changes("emb", {1: 9.0, 2: 9.0}, lacking={"Adagrad": [2]})),
    )
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb:Adagrad") == {1: 9.25, 2: 2.25}
    assert not result.warnings


def test_a_difference_that_the_full_has_is_carried_over_and_told(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2, 3], parts=2, lacking={"Adagrad": [2]})),
        increment(20, changes("emb", [1], parts=2)),
    )
    result = chain.merge(20)
    chain.check(10, 20)
    assert [w for w in result.warnings if "#1023" in w and "1 of 2 parts" in w]


def test_an_increment_may_fill_a_gap_of_the_full(tmp_path: Path) -> None:
    """Key 2 is new to the slot alone, and both members then have it."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2], lacking={"Adagrad": [2]})),
        increment(20, changes("emb", [2])),
    )
    result = chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb:Adagrad") == {1: 1.25, 2: 2.25}
    assert not [w for w in result.warnings if "dropped" in w]


def test_an_increment_may_fill_the_gap_alone(tmp_path: Path) -> None:
    """A row for the slot and none for the primary, which the full has."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2], lacking={"Adagrad": [2]})),
        increment(20, changes("emb", {2: 9.0}, lacking={"": [2]})),
    )
    chain.merge(20)
    chain.check(10, 20)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0, 2: 2.0}
    assert rows_of(chain.full_prefix(20), "emb:Adagrad") == {1: 1.25, 2: 9.25}


def test_a_key_that_fills_one_of_two_gaps_is_dropped(tmp_path: Path) -> None:
    """The primary has key 2 and takes its new row; one slot would get it, the other not."""
    chain = build_chain(
        tmp_path,
        full(
            10,
            table("emb", [1, 2], slots=("Adam", "Adam_1"), lacking={"Adam": [2], "Adam_1": [2]}),
        ),
        increment(20, changes("emb", {2: 9.0}, slots=("Adam", "Adam_1"), lacking={"Adam_1": [2]})),
    )
    chain.merge(20, drop_unpaired=True)
    chain.check(10, 20, drop_unpaired=True)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0, 2: 9.0}
    assert rows_of(chain.full_prefix(20), "emb:Adam") == {1: 1.25}


def test_tables_are_judged_one_by_one(tmp_path: Path) -> None:
    """A large table does not excuse a small one."""
    chain = build_chain(
        tmp_path,
        full(10, table("a", [1]), table("b", [1])),
        increment(20, changes("a", range(1000)), changes("b", range(10), lacking={"Adagrad": [5]})),
    )
    with pytest.raises(UnprovenError) as caught:
        chain.merge(20)
    assert caught.value.tensor == "b"


def test_a_whole_member_without_rows_is_refused(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 5, {"Adagrad": [1, *range(1000, 1005)]})
    with pytest.raises(UnprovenError):
        chain.merge(20)
    chain.merge(20, drop_unpaired=True)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0}


def test_a_slot_that_the_full_lacks(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(500), slots=())),
        increment(20, changes("emb", [1, 1001])),
    )
    with pytest.raises(UnprovenError):
        chain.plan(20)
    with pytest.raises(UnprovenError) as caught:
        chain.merge(20, add_new=True)
    assert caught.value.tensor == "emb/Adagrad"
    assert "#1023" in str(caught.value.found)


@pytest.mark.parametrize("parts", [None, 2])
def test_a_slot_for_a_table_without_rows(tmp_path: Path, parts) -> None:
    """It becomes a member of that table, in the full's parts."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [], slots=(), parts=parts), table("b", [1])),
        increment(20, changes("emb", [1, 1001, 2], parts=3), changes("b", [1])),
    )
    result = chain.merge(20, add_new=True)
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0, 1001: 1001.0, 2: 2.0}
    assert rows_of(chain.full_prefix(20), "emb:Adagrad") == {1: 1.25, 1001: 1001.25, 2: 2.25}
    assert [w for w in result.warnings if w.startswith("emb/Adagrad: added")]


@pytest.mark.parametrize(("order", "reads"), [([1, 2, 1001], 1), ([1001, 2, 1], 2)])
def test_members_with_the_same_keys_are_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int], reads: int
) -> None:
    """Three members, with filtered keys too; each for itself where one has another order."""
    slots = ("Adam", "Adam_1")
    last = table("emb", order, slots=slots, filtered=[3, 4])[-1:]
    members = table("emb", [1, 2, 1001], slots=slots, filtered=[3, 4])[:-1] + last
    chain = build_chain(
        tmp_path, full(10, members), increment(20, changes("emb", [1, 3], slots=slots))
    )
    looked: list[str] = []
    real = FullKeys.__init__

    def counted(self: FullKeys, data: BundleData, ev: EvSet, *args: Any, **kwargs: Any) -> None:
        looked.append(ev.name)
        real(self, data, ev, *args, **kwargs)

    monkeypatch.setattr(FullKeys, "__init__", counted)
    chain.merge(20)
    chain.check(10, 20)
    assert len(looked) == reads


@pytest.mark.parametrize("order", [[1, 2, 1001], [1001, 2, 1]])
def test_no_more_is_told_of_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[int]
) -> None:
    """Also where members prove to differ although their checksums are the same."""
    members = table("emb", [1, 2, 1001])[:1] + table("emb", order)[1:]
    chain = build_chain(tmp_path, full(10, members), increment(20, changes("emb", [1, 3])))
    monkeypatch.setattr(PartJob, "alike", lambda *_: True)
    state = open_state(str(chain.full_prefix(10)), [str(chain.increment_prefix(20))])
    told: list[int] = []
    survey = survey_part(state.part_job(0, 0), told.append)
    state.close()
    assert sum(told) == 2 * 3 * 8
    assert survey.rows == (4, 4)


@pytest.mark.parametrize("step", [1, 2, 1 << 16])
def test_groups_of_buckets_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Rows that come, go and change in many buckets, some of them behind the last one."""
    monkeypatch.setattr(knobs, "JOIN_KEYS", step)
    keys = [1, 2, 1001, 2001, 3, 5, 998, 1998, 999]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", keys, slots=("Adagrad",), filtered=[4, 7])),
        increment(20, changes("emb", [0, 1, 4, 1001, 2002, 5, 999, 1999], slots=("Adagrad",))),
    )
    chain.merge(20)
    chain.check(10, 20)
