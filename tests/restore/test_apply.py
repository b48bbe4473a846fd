"""Rule 4 and check 5: what an increment does to each family of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.errors import AmbiguousError, CkptctlError, TableError, UnprovenError
from tests.oracle.chain import (
    Tensor,
    build_chain,
    changes,
    full,
    increment,
    read,
    rows_of,
    table,
)
from tests.oracle.images import Piece, Rows, Sliced, floats, ints, string
from tests.oracle.ps import cuts

EMB = table("emb", [1])
INC = changes("emb", [1])


def refused(chain, kind: type[CkptctlError], **options) -> CkptctlError:
    with pytest.raises(kind) as caught:
        chain.plan(20, **options)
    return caught.value


def chain_of(tmp_path: Path, ours: dict, theirs: dict):
    return build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, theirs))


def sliced(*numbers: int, parts: int = 2, axis: int = 0, order: list[int] | None = None) -> Sliced:
    """A float32 matrix [len(numbers), 1] (or its transpose) cut into parts."""
    shape = (len(numbers), 1) if axis == 0 else (1, len(numbers))
    pieces = []
    for start, length in cuts(len(numbers), parts):
        own = numbers[start : start + length]
        extents = ((start, length), (0, 1)) if axis == 0 else ((0, 1), (start, length))
        pieces.append(Piece(extents, bytes(floats(*own).data)))
    return Sliced("float32", shape, [pieces[at] for at in order or range(parts)])


def rows(name: str, values: dict[int, float], **more) -> Rows:
    return Rows(name, "float32", 1, {k: bytes(floats(v).data) for k, v in values.items()}, **more)


# --- EV rows --------------------------------------------------------------------------


def test_a_row_wins_completely(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", {1: 1.0, 2: 2.0}, versions=10, freqs=3)),
        increment(20, changes("emb", {1: 9.0, 3: 8.0}, versions=20, freqs=5)),
    )
    chain.merge(20)
    chain.check(10, 20)
    prefix = chain.full_prefix(20)
    assert rows_of(prefix, "emb") == {1: 9.0, 2: 2.0, 3: 8.0}
    assert rows_of(prefix, "emb:Adagrad") == {1: 9.25, 2: 2.25, 3: 8.25}
    assert read(prefix, "emb-versions") == [20, 10, 20]
    assert read(prefix, "emb/Adagrad-freqs") == [5, 3, 5]


def test_an_admitted_key_leaves_the_filtered_lists(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1], parts=2, filtered={2: 1, 7: 1, 4: 1}, versions=3, freqs=4)),
        increment(20, changes("emb", {2: 9.0, 7: 8.0}, parts=2, versions=20, freqs=4)),
    )
    chain.merge(20)
    chain.check(10, 20)
    for ev in ("emb/part_0", "emb/part_0/Adagrad"):
        assert read(chain.full_prefix(20), f"{ev}-keys_filtered") == [4]
        assert read(chain.full_prefix(20), f"{ev}-freqs_filtered") == [1]
        assert read(chain.full_prefix(20), f"{ev}-versions_filtered") == [3]
    assert read(chain.full_prefix(20), "emb/part_1-keys_filtered") == []


def test_one_member_that_admits_a_key_is_enough(tmp_path: Path) -> None:
    """DeepRec #1023 the other way round: the slot has a row of a key that is filtered."""
    ours = table("emb", [1, 7], filtered=[7], lacking={"": [7]})
    chain = build_chain(
        tmp_path, full(10, ours), increment(20, changes("emb", [7], lacking={"Adagrad": [7]}))
    )
    chain.merge(20)
    chain.check(10, 20)
    for ev in ("emb", "emb/Adagrad"):
        assert read(chain.full_prefix(20), f"{ev}-keys_filtered") == []


def test_a_dropped_key_stays_filtered(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1], filtered=[7])),
        increment(20, changes("emb", [1, 7], lacking={"Adagrad": [7]})),
    )
    chain.merge(20, drop_unpaired=True)
    chain.check(10, 20, drop_unpaired=True)
    assert read(chain.full_prefix(20), "emb-keys_filtered") == [7]


def test_a_table_that_the_increment_lacks_is_kept_and_told(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("a", [1]), table("b", [2])),
        increment(20, changes("a", {1: 9.0})),
    )
    plan = chain.plan(20)
    assert any(note.startswith("b: no rows") for note in plan.warnings)
    chain.merge(20)
    chain.check(10, 20)


# --- rows of normal variables ---------------------------------------------------------


def test_rows_of_an_unpartitioned_variable(tmp_path: Path) -> None:
    ours = {"w": floats(0, 1, 2, shape=(3, 1)), "w/Adagrad": floats(5, 6, 7, shape=(3, 1))}
    chain = build_chain(
        tmp_path,
        full(10, EMB, ours),
        increment(20, INC, rows("w", {2: 9.0}), rows("w/Adagrad", {0: 8.0})),
    )
    result = chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "w") == [[0.0], [1.0], [9.0]]
    assert read(chain.full_prefix(20), "w/Adagrad") == [[8.0], [6.0], [7.0]]
    assert result.rows_replaced == 2


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_count_in_the_coordinates_of_their_slice(tmp_path: Path, axis: int) -> None:
    """Part 10 comes after part 2, whatever order the entry lists its slices in."""
    order = [0, 10, 11, 1, 2, 9, 8, 7, 6, 5, 4, 3]
    numbers = range(24)
    w = sliced(*numbers, parts=12, axis=axis, order=order)
    theirs = []
    for part in range(12):
        name = f"w/part_{part}"
        if axis == 0:
            theirs.append(rows(name, {1: 100.0 + part}))
        else:
            data = bytes(floats(100.0 + part, 200.0 + part).data)
            theirs.append(Rows(name, "float32", 2, {0: data}))
    chain = build_chain(tmp_path, full(10, EMB, {"w": w}), increment(20, INC, *theirs))
    chain.merge(20)
    chain.check(10, 20)
    flat = [x for row in read(chain.full_prefix(20), "w") for x in row]
    if axis == 0:
        assert flat == [100.0 + n // 2 if n % 2 else float(n) for n in numbers]
    else:
        assert flat == [(200.0 if n % 2 else 100.0) + n // 2 for n in numbers]


def test_rows_behind_the_slice_are_skipped_and_counted(tmp_path: Path) -> None:
    ours = {"w": sliced(0, 1, 2, 3)}
    theirs = [rows("w/part_0", {1: 9.0, 2: 8.0, 77: 8.0}), rows("w/part_1", {})]
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, *theirs))
    result = chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "w") == [[0.0], [9.0], [2.0], [3.0]]
    assert [w for w in result.warnings if w.startswith("w: 2 ")]


@pytest.mark.parametrize("numbers", [[0], [0, 1, 2], [1], [0, 2]])
def test_another_part_count_than_the_slices_is_refused(tmp_path: Path, numbers: list[int]) -> None:
    theirs = [rows(f"w/part_{part}", {0: 9.0}) for part in numbers]
    chain = build_chain(
        tmp_path, full(10, EMB, {"w": sliced(0, 1, 2, 3)}), increment(20, INC, *theirs)
    )
    assert refused(chain, UnprovenError).exit_code == 12


def test_unpartitioned_rows_for_a_sliced_variable_are_refused(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(10, EMB, {"w": sliced(0, 1)}), increment(20, INC, rows("w", {0: 1.0}))
    )
    refused(chain, UnprovenError)


def test_a_variable_in_one_part_is_stored_whole(tmp_path: Path) -> None:
    ours = {"w": floats(0, 1, shape=(2, 1)), "w/Adagrad": floats(2, 3, shape=(2, 1))}
    theirs = [rows("w/part_0", {1: 9.0}), rows("w/part_0/Adagrad", {0: 8.0})]
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, *theirs))
    chain.merge(20)
    chain.check(10, 20)


def test_a_variable_cut_along_two_axes_takes_no_rows(tmp_path: Path) -> None:
    pieces = [
        Piece(((r, 1), (c, 1)), bytes(floats(r * 2 + c).data)) for r in range(2) for c in range(2)
    ]
    ours = {"w": Sliced("float32", (2, 2), pieces)}
    theirs = [rows(f"w/part_{part}", {0: 9.0}) for part in range(4)]
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, *theirs))
    assert "two axes" in refused(chain, UnprovenError).message


def test_a_variable_cut_along_two_axes_is_taken_whole(tmp_path: Path) -> None:
    def grid(x: float) -> Sliced:
        pieces = [
            Piece(((r, 1), (c, 1)), bytes(floats(x + r * 2 + c).data))
            for r in range(2)
            for c in range(2)
        ]
        return Sliced("float32", (2, 2), pieces)

    chain = chain_of(tmp_path, {"w": grid(0)}, {"w": grid(10)})
    chain.merge(20)
    chain.check(10, 20)


@pytest.mark.parametrize(
    "bad",
    [
        rows("w", {-1: 1.0}),
        Rows("w", "float32", 2, {0: b"abcdefgh"}),
        Rows("w", "bfloat16", 1, {0: b"ab"}),
    ],
    ids=["negative", "width", "dtype"],
)
def test_rows_that_no_ps_saves_are_damage(tmp_path: Path, bad: Rows) -> None:
    ours = {"w": floats(0, 1, shape=(2, 1))}
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, bad))
    with pytest.raises(TableError) as caught:
        chain.merge(20)
    assert caught.value.exit_code == 4


def test_a_row_twice_is_damage(tmp_path: Path) -> None:
    twice = {
        "w-sparse_incr_keys": ints("int64", [1, 1]),
        "w-sparse_incr_values": floats(1, 2, shape=(2, 1)),
    }
    chain = chain_of(tmp_path, {"w": floats(0, 1, shape=(2, 1))}, twice)
    with pytest.raises(TableError, match="twice"):
        chain.merge(20)


def test_rows_that_fit_two_variables_are_refused(tmp_path: Path) -> None:
    ours = {"part_0/w": floats(0, shape=(1, 1)), "part_0/w/part_0": floats(1, shape=(1, 1))}
    theirs = [rows("part_0/w/part_0", {0: 9.0})]
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, *theirs))
    refused(chain, AmbiguousError, keep_missing=True)


# --- whole tensors --------------------------------------------------------------------


def test_a_whole_tensor_replaces_the_fulls(tmp_path: Path) -> None:
    chain = chain_of(
        tmp_path,
        {"w": floats(1, 2), "s": sliced(1, 2, 3, order=[1, 0]), "t": string("a", "b")},
        {"w": floats(3, 4), "s": sliced(4, 5, 6), "t": string("longer than before", "")},
    )
    chain.merge(20)
    chain.check(10, 20)
    assert read(chain.full_prefix(20), "s") == [[4.0], [5.0], [6.0]]


def test_a_tensor_may_change_its_length_and_that_is_told(tmp_path: Path) -> None:
    """TensorFlow's own hash tables; and `x-keys` is just a name."""
    ours = {"t-keys": ints("int64", [1]), "t-values": floats(1), "x-keys": floats(1)}
    theirs = {"t-keys": ints("int64", [1, 2]), "t-values": floats(2, 3), "x-keys": floats(2)}
    chain = chain_of(tmp_path, ours, theirs)
    plan = chain.plan(20)
    assert "t-keys: shape [1] becomes [2]" in plan.warnings
    assert not any(note.startswith("x-keys") for note in plan.warnings)
    chain.merge(20)
    chain.check(10, 20)


@pytest.mark.parametrize(
    ("ours", "theirs", "what"),
    [
        (floats(1, 2), ints("int32", [1, 2]), "dtype"),
        (sliced(1, 2, 3), sliced(1, 2, 3, 4), "shape"),
        (sliced(1, 2, 3), sliced(1, 2, 3, parts=3), "slicing"),
        (sliced(1, 2), floats(1, 2, shape=(2, 1)), "slicing"),
        (floats(1, 2, shape=(2, 1)), sliced(1, 2), "slicing"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(
    tmp_path: Path, ours: Tensor, theirs: Tensor, what: str
) -> None:
    error = refused(chain_of(tmp_path, {"w": ours}, {"w": theirs}), UnprovenError)
    assert error.exit_code == 12
    assert what in error.message
    assert error.tensor == "w"


# --- check 5: what only one of them has -----------------------------------------------


def test_a_tensor_that_the_increment_lacks_is_refused(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, {"w": floats(1), "b": floats(2)}, {"w": floats(3)})
    error = refused(chain, UnprovenError)
    assert error.exit_code == 12
    assert error.tensor == "b"
    assert "--keep-missing" in error.remedy
    plan = chain.plan(20, keep_missing=True)
    assert "b: not in the increment, kept as it was" in plan.warnings
    chain.merge(20, keep_missing=True)
    chain.check(10, 20, keep_missing=True)


def test_rows_of_some_slices_are_missing(tmp_path: Path) -> None:
    theirs = [rows("w/part_0", {0: 9.0}), rows("w/part_2", {0: 8.0})]
    chain = build_chain(
        tmp_path, full(10, EMB, {"w": sliced(0, 1, 2, parts=3)}), increment(20, INC, *theirs)
    )
    assert "--keep-missing" in refused(chain, UnprovenError).remedy
    chain.merge(20, keep_missing=True)
    assert read(chain.full_prefix(20), "w") == [[9.0], [1.0], [8.0]]


def test_tensors_that_the_full_lacks_are_refused(tmp_path: Path) -> None:
    more = {"c": floats(3), "a": floats(1), "b": floats(2)}
    chain = build_chain(tmp_path, full(10, EMB, shards=2), increment(20, INC, more, shards=2))
    error = refused(chain, UnprovenError)
    assert error.exit_code == 12
    assert "--add-new" in error.remedy
    chain.merge(20, add_new=True)
    with BundleReader(str(chain.full_prefix(20))) as reader:
        assert [reader.entry(name).shard for name in "abc"] == [0, 1, 0]
        assert [reader.read(name).tolist() for name in "abc"] == [[1.0], [2.0], [3.0]]


@pytest.mark.parametrize("what", ["plain", "table"])
def test_what_an_earlier_increment_alone_has_is_refused_or_added(tmp_path: Path, what: str) -> None:
    """With `all`: its newest copy, and a plain tensor no other than a table."""

    def new(x: float) -> object:
        return {"new": floats(x)} if what == "plain" else changes("new", {1: x})

    chain = build_chain(
        tmp_path,
        full(10, EMB),
        increment(20, INC, new(1.5)),
        increment(30, INC, new(2.5)),
        increment(40, INC),
    )
    with pytest.raises(UnprovenError) as caught:
        chain.plan(40, increments="all")
    assert (caught.value.exit_code, caught.value.tensor) == (12, "new")
    assert caught.value.file.endswith("incremental_model.ckpt-30.index")
    result = chain.merge(40, increments="all", add_new=True)
    assert "new: added from the increment" in result.warnings
    name = "new" if what == "plain" else "new-values"
    assert read(chain.full_prefix(40), name)[0] in (2.5, [2.5, 2.5])


def test_a_table_that_the_full_lacks_is_refused_or_added(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, EMB),
        increment(20, INC, changes("new", {5: 1.0, 3: 2.0, 1003: 3.0}, parts=2, freqs=4)),
    )
    assert refused(chain, UnprovenError).tensor.startswith("new")
    chain.merge(20, add_new=True)
    prefix = chain.full_prefix(20)
    assert rows_of(prefix, "new") == {3: 2.0, 1003: 3.0, 5: 1.0}
    assert read(prefix, "new/part_1-freqs") == [4, 4, 4]
    assert read(prefix, "new/part_1-versions") == []
    assert read(prefix, "new/part_0-keys") == []
    offsets = read(prefix, "new/part_1-partition_offset")
    assert [offsets[n] for n in (3, 4, 5, 6, 1000)] == [0, 2, 2, 3, 3]


def test_rows_alone_are_no_variable(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, EMB), increment(20, INC, rows("w", {0: 1.0})))
    for options in ({}, {"add_new": True}):
        assert refused(chain, UnprovenError, **options).exit_code == 12


def test_notes_of_ours_are_neither_asked_for_nor_copied(tmp_path: Path) -> None:
    note = {"ckptctl/note": string("x")}
    lineage = {"version": 1, "base_step": 10, "previous_step": None, "mode": "cumulative"}
    chain = build_chain(tmp_path, full(10, EMB, note), increment(20, INC, note, lineage=lineage))
    chain.merge(20)
    with BundleReader(str(chain.full_prefix(20))) as reader:
        own = [name for name in reader.tensors if name.startswith("ckptctl/")]
    assert own == ["ckptctl/merged"]
