"""Parts and members of tables, from names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ckptctl.errors import AmbiguousError
from ckptctl.tables import Catalogue, find_tables
from tests.tables.test_sets import FULL, INCREMENT, entry, tensors


def rows(count: int, dim: int = 2, key_type: str = "int64") -> dict:
    """The shapes of an EV of so many rows."""
    return {
        "-keys": (key_type, count),
        "-values": ("float32", count, dim),
        "-versions": ("int64", 0),
        "-freqs": ("int64", 0),
        "-keys_filtered": (key_type, 0),
        "-versions_filtered": ("int64", 0),
        "-freqs_filtered": ("int64", 0),
        "-partition_offset": ("int32", 1001),
        "-partition_filter_offset": ("int32", 1001),
    }


def strays_of(held: Mapping[str, Mapping[int, int]]) -> Callable[[str, int, int], tuple[int, int]]:
    """Return what `find_tables` asks: `held` has the rows in each bucket of each EV."""

    def strays(name: str, part: int, parts: int) -> tuple[int, int]:
        own = held[name]
        return sum(own[each] for each in own if each % parts != part), sum(own.values())

    return strays


def find(*names: str, increment: bool = False, held=None, **own: dict) -> Catalogue:
    """Return the catalogue of EVs of these names; `own` has the shapes of some."""
    entries = {}
    for name in names:
        entries |= tensors(name, own.get(name, INCREMENT if increment else FULL))
    found = dict(sorted(entries.items()))
    return find_tables(
        found, increment=increment, strays_of=None if held is None else strays_of(held)
    )


def shown(found: Catalogue) -> dict[str, dict[str, list[str | None]]]:
    return {
        table.name: {
            member.slot: [part.name if part else None for part in member.parts]
            for member in table.members
        }
        for table in found.tables
    }


def test_one_table_with_its_slots() -> None:
    names = ["emb", "emb/Adam", "emb/Adam_1"]
    found = find(*names)
    assert shown(found) == {"emb": {"": ["emb"], "Adam": ["emb/Adam"], "Adam_1": ["emb/Adam_1"]}}
    assert found.keys == 3  # of the primary


def test_parts_come_in_order_of_their_number() -> None:
    names = [f"emb/part_{n}{slot}" for n in range(12) for slot in ("", "/Adagrad")]
    found = shown(find(*names))
    assert found == {
        "emb": {
            "": [f"emb/part_{n}" for n in range(12)],
            "Adagrad": [f"emb/part_{n}/Adagrad" for n in range(12)],
        }
    }
    (table,) = find(*names).tables
    assert (table.num_parts, table.rows) == (12, 36)


def test_one_part_is_a_part() -> None:
    assert shown(find("emb/part_0")) == {"emb": {"": ["emb/part_0"]}}


def test_a_scope_called_part_0() -> None:
    names = ["part_0/emb/part_0", "part_0/emb/part_1"]
    assert shown(find(*names)) == {"part_0/emb": {"": names}}


def test_numbers_with_a_hole_are_no_parts_of_a_full() -> None:
    assert set(shown(find("emb/part_0", "emb/part_2"))) == {"emb/part_0", "emb/part_2"}
    assert set(shown(find("emb/part_1"))) == {"emb/part_1"}


def test_an_increment_may_have_holes() -> None:
    found = shown(find("emb/part_0", "emb/part_2", increment=True))
    assert found == {"emb": {"": ["emb/part_0", None, "emb/part_2"]}}


def test_a_huge_number_takes_no_memory() -> None:
    found = find("emb/part_999999999", increment=True)
    assert [len(member.parts) for table in found.tables for member in table.members] == [1]


def test_a_part_beside_the_whole_is_a_table_of_its_own() -> None:
    found = find("emb", "emb/part_0", **{"emb/part_0": rows(2)})
    assert set(shown(found)) == {"emb", "emb/part_0"}


@pytest.mark.parametrize(
    ("buckets", "parts"),
    [
        ({"emb/part_0": [0, 2, 998], "emb/part_1": [1, 999]}, True),
        ({"emb/part_0": [], "emb/part_1": [1]}, True),
        ({"emb/part_0": [0, 1], "emb/part_1": [5]}, False),
        ({"emb/part_0": [1], "emb/part_1": [0]}, False),
    ],
)
def test_buckets_must_match(buckets: dict[str, list[int]], parts: bool) -> None:
    held = {name: dict.fromkeys(own, 1) for name, own in buckets.items()}
    found = shown(find("emb/part_0", "emb/part_1", held=held))
    assert (set(found) == {"emb"}) is parts


@pytest.mark.parametrize("increment", [False, True])
@pytest.mark.parametrize("slot", ["", "/Adagrad", "/own"])
def test_parts_of_another_dim_or_type_are_damage(slot: str, increment: bool) -> None:
    names = [f"emb/part_{part}{end}" for part in range(2) for end in {"", slot}]
    values, like = ("-sparse_incr_values", INCREMENT) if increment else ("-values", FULL)
    odd = {f"emb/part_1{slot}": like | {values: ("float32", 3, 3)}}
    found = find(*names, increment=increment, **odd)
    sets = [ev for table in found.tables for member in table.members for ev in member.sets]
    for each in (sets, found.ev_sets.values()):
        problems = {ev.name: ev.problem for ev in each if ev.problem}
        assert problems == {f"emb/part_1{slot}": f"dim 3 where emb/part_0{slot} has 2"}


def test_parts_of_another_key_type_are_damage() -> None:
    found = find("emb/part_0", "emb/part_1", **{"emb/part_1": rows(3, key_type="int32")})
    assert "key type int32" in found.ev_sets["emb/part_1"].problem


@pytest.mark.parametrize("held", [None, {"part_0/emb": {0: 1}, "part_1/emb": {1: 1}}])
def test_towers_of_other_dims_are_tables(held: dict | None) -> None:
    """DeepRec writes no part there, and no part has a dim of its own."""
    found = find("part_0/emb", "part_1/emb", held=held, **{"part_1/emb": rows(3, dim=4)})
    assert set(shown(found)) == {"part_0/emb", "part_1/emb"}
    assert not any(ev.problem for ev in found.ev_sets.values())


@pytest.mark.parametrize(("strays", "parts"), [(1, True), (2, False)])
def test_one_stray_row_in_a_hundred_is_no_doubt(strays: int, parts: bool) -> None:
    """A PS skips such rows."""
    buckets = {"emb/part_0": {0: 60 - strays, 1: strays}, "emb/part_1": {5: 40}}
    found = shown(find("emb/part_0", "emb/part_1", held=buckets))
    assert (set(found) == {"emb"}) is parts


def test_a_reading_without_strays_is_better() -> None:
    held = {name: {int(name[-1]): 100} for name in NAMES if name[5] == name[-1]}
    held |= {"part_0/emb/part_1": {1: 1}, "part_1/emb/part_0": {0: 1}}
    found = shown(find(*NAMES, held=held))
    assert set(found) == {"part_0/emb", "part_1/emb"}


def test_a_lone_scope_called_part_0() -> None:
    """A name ends with its part, or with its part and a slot."""
    assert set(shown(find("part_0/emb", "part_0/emb/Adagrad"))) == {"part_0/emb"}
    assert set(shown(find("a/part_0/b/c"))) == {"a/part_0/b/c"}
    own = dict.fromkeys(["emb/part_0", "emb/part_0/own"], rows(3))
    assert shown(find(*own, **own)) == {"emb": {"": ["emb/part_0"], "own": ["emb/part_0/own"]}}


NAMES = [f"part_{a}/emb/part_{b}" for a in range(2) for b in range(2)]


def test_buckets_decide_between_two_components() -> None:
    first = {name: {int(name[5]): 1} for name in NAMES}
    second = {name: {int(name[-1]): 1} for name in NAMES}
    found = shown(find(*NAMES, held=first))
    assert set(found) == {"emb/part_0", "emb/part_1"}
    found = shown(find(*NAMES, held=second))
    assert set(found) == {"part_0/emb", "part_1/emb"}


def test_two_candidates_are_an_error_where_buckets_are_known() -> None:
    with pytest.raises(AmbiguousError) as caught:
        find(*NAMES, held={name: {} for name in NAMES})
    assert caught.value.exit_code == 12
    assert caught.value.tensor in NAMES
    assert len(shown(find(*NAMES))) == 2  # listing needs some answer


def test_slots_of_deeprecs_optimizers_may_differ_in_rows() -> None:
    """DeepRec #1023: each member is a snapshot of its own."""
    found = find("emb", "emb/Adagrad", **{"emb/Adagrad": rows(2)})
    assert shown(found) == {"emb": {"": ["emb"], "Adagrad": ["emb/Adagrad"]}}


def test_slots_of_other_names_have_equal_rows() -> None:
    found = find("emb", "emb/accum", **{"emb": rows(3), "emb/accum": rows(3)})
    assert shown(found) == {"emb": {"": ["emb"], "accum": ["emb/accum"]}}
    found = find("emb", "emb/accum", **{"emb": rows(3), "emb/accum": rows(2)})
    assert set(shown(found)) == {"emb", "emb/accum"}


@pytest.mark.parametrize("column", ["-freqs", "-versions"])
def test_a_slot_of_another_name_has_its_tables_columns(column: str) -> None:
    own = {"emb": rows(3), "emb/accum": rows(3) | {column: ("int64", 3)}}
    assert set(shown(find(*own, **own))) == {"emb", "emb/accum"}


def test_what_has_a_slot_is_none() -> None:
    own = dict.fromkeys(["user", "user/deep", "user/deep/Adagrad"], rows(3))
    assert set(shown(find(*own, **own))) == {"user", "user/deep"}


def test_a_slots_part_is_named_after_its_primarys() -> None:
    """`emb/own/part_0` is a part of a table in a scope: a slot's is `emb/part_0/own`."""
    own = dict.fromkeys(["emb/part_0", "emb/part_1", "emb/own/part_0", "emb/own/part_1"], rows(3))
    assert set(shown(find(*own, **own))) == {"emb", "emb/own"}


@pytest.mark.parametrize("same", [True, False])
def test_keys_tell_a_slot_from_a_table(same: bool) -> None:
    names = [f"emb/part_{n}{slot}" for n in range(2) for slot in ("", "/Adagrad", "/own")]
    entries = {name: each for n in names for name, each in tensors(n, rows(3)).items()}
    asked: list[list[tuple[str, str]]] = []

    def same_keys(pairs) -> bool:
        asked.append([(a.name, b.name) for a, b in pairs])
        return same

    found = shown(find_tables(dict(sorted(entries.items())), same_keys=same_keys))
    assert ("own" in found["emb"]) is same
    assert asked == [[(f"emb/part_{n}/own", f"emb/part_{n}") for n in range(2)]]


def test_a_slot_has_its_tables_key_type() -> None:
    found = find("emb", "emb/Adagrad", **{"emb/Adagrad": rows(3, key_type="int32")})
    assert set(shown(found)) == {"emb", "emb/Adagrad"}


@pytest.mark.parametrize("name", ["emb/user", "emb/part_0"])
@pytest.mark.parametrize(("count", "dim"), [(0, 16), (3, 16), (0, 8), (2, 8)])
def test_a_table_in_a_scope_called_like_a_table(name: str, count: int, dim: int) -> None:
    """Another dim, or no rows at all as in the full of step 0, is no sign of a slot."""
    found = find("emb", name, **{"emb": rows(0 if not count else 3, 8), name: rows(count, dim)})
    assert set(shown(found)) == {"emb", name}


def test_everything_is_found_once() -> None:
    names = ["a", "a/Adagrad", "b/part_0", "b/part_1", "a/b/c"]
    found = find(*names)
    own = [ev.name for t in found.tables for m in t.members for ev in m.sets]
    assert sorted(own) == sorted(names)
    assert set(found.ev_sets) == set(names)
    plain = {"x": entry("float32", 1), "a-keys/y": entry("int64", 3)}
    more = find_tables(dict(sorted((dict(found.entries) | plain).items())))
    assert more.plain == ("a-keys/y", "x")


def test_a_hundred_thousand_names() -> None:
    entries = {f"scope/v{n}": entry("float32", 1) for n in range(100_000)}
    assert len(find_tables(dict(sorted(entries.items()))).plain) == 100_000
