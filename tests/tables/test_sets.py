"""Which tensors belong together: exact suffixes and shapes, never substrings."""

from __future__ import annotations

import pytest

from ckptctl.bundle import Entry, TensorSlice, dtype_by_name
from ckptctl.tables import find_tables

FULL = {
    "-keys": ("int64", 3),
    "-values": ("float32", 3, 2),
    "-versions": ("int64", 0),
    "-freqs": ("int64", 3),
    "-keys_filtered": ("int64", 2),
    "-versions_filtered": ("int64", 0),
    "-freqs_filtered": ("int64", 2),
    "-partition_offset": ("int32", 1001),
    "-partition_filter_offset": ("int32", 1001),
}
INCREMENT = {
    "-incr_partition_offset": ("int32", 1001),
    "-sparse_incr_keys": ("int64", 3),
    "-sparse_incr_values": ("float32", 3, 2),
    "-sparse_incr_versions": ("int64", 3),
    "-sparse_incr_freqs": ("int64", 3),
}
OLD = {name: FULL[name] for name in ("-keys", "-values", "-versions", "-freqs")}


def entry(dtype: str, *shape: int) -> Entry:
    return Entry(dtype_by_name(dtype), shape)


def tensors(name: str, shapes: dict, **changes: object) -> dict[str, Entry]:
    """Return the entries of an EV; `_keys=...` changes one, None leaves it out."""
    made = dict(shapes) | {key.replace("__", "-", 1): value for key, value in changes.items()}
    return {name + suffix: entry(*shape) for suffix, shape in made.items() if shape is not None}


def find(entries: dict[str, Entry], increment: bool = False):
    return find_tables(dict(sorted(entries.items())), increment=increment)


@pytest.mark.parametrize("key_type", ["int32", "int64"])
def test_the_nine_tensors_of_a_full(key_type: str) -> None:
    found = find(
        tensors("emb", FULL, __keys=(key_type, 3), __keys_filtered=(key_type, 2))
        | {"bias": entry("float32", 4)}
    )
    (ev,) = found.ev_sets.values()
    assert (ev.name, ev.rows, ev.dim, ev.filtered, ev.problem) == ("emb", 3, 2, 2, "")
    assert set(ev.entries) == set(FULL)
    assert found.plain == ("bias",)


def test_the_five_tensors_of_an_increment() -> None:
    found = find(tensors("emb", INCREMENT) | {"bias": entry("float32", 4)}, increment=True)
    (ev,) = found.ev_sets.values()
    assert (ev.name, ev.rows, ev.dim, ev.problem, ev.incremental) == ("emb", 3, 2, "", True)
    assert found.plain == ("bias",)


def test_the_old_form_has_no_offsets() -> None:
    (ev,) = find(tensors("emb", OLD)).ev_sets.values()
    assert (ev.rows, ev.problem) == (3, "")
    (ev,) = find(tensors("emb", OLD, __versions=("int64", 3))).ev_sets.values()
    assert ev.rows == 3


PLAIN = {
    "TensorFlow's hash table": {"t-keys": ("int64", 3), "t-values": ("float32", 3)},
    "one of rows": {"t-keys": ("int64", 3), "t-values": ("float32", 3, 2)},
    "just a name": {"x-keys": ("float32", 3, 3)},
    "with values": {"x-keys": ("float32", 3, 3), "x-values": ("float32", 3)},
    "a scalar": {"x-keys": ("int64",), "x-values": ("float32", 1, 2), "x-versions": ("int64", 1)},
    "no name": {"-keys": ("int64", 3), "-values": ("float32", 3, 2), "-versions": ("int64", 3)},
    "strings": {"x-keys": ("string", 3), "x-values": ("float32", 3, 2), "x-versions": ("int64", 3)},
    "floats": {"x-keys": ("float32", 3), "x-values": ("float32", 3, 2), "x-versions": ("int64", 3)},
    "offsets of another length": {
        "x-keys": ("int64", 3),
        "x-values": ("float32", 3, 2),
        "x-partition_offset": ("int32", 1000),
        "x-versions": ("int64", 3),
    },
    "offsets of another type": {
        "x-keys": ("int64", 3),
        "x-values": ("float32", 3, 2),
        "x-partition_offset": ("int64", 1001),
    },
    "old form with other versions": {
        "x-keys": ("int64", 3),
        "x-values": ("float32", 3, 2),
        "x-versions": ("int64", 2),
    },
    "longer suffixes": {
        "x-keys_more": ("int64", 3),
        "x-values_more": ("float32", 3, 2),
        "x-partition_offset_more": ("int32", 1001),
    },
    "suffix inside": {"x-keys/y": ("int64", 3), "x-values/y": ("float32", 3, 2)},
    "an increment's in a full": {"x" + s: shape for s, shape in INCREMENT.items()},
}


@pytest.mark.parametrize("what", PLAIN)
def test_everything_else_in_a_full_is_plain(what: str) -> None:
    entries = {name: entry(*shape) for name, shape in PLAIN[what].items()}
    found = find(entries)
    assert found.tables == ()
    assert found.plain == tuple(sorted(entries))


def test_sliced_and_hash_table_entries_are_no_columns() -> None:
    entries = tensors("emb", FULL)
    for suffix in ("-keys", "-values"):
        whole = entries[f"emb{suffix}"]
        cut = TensorSlice(tuple((0, size) for size in whole.shape))
        found = find(entries | {f"emb{suffix}": whole.moved(slices=(cut,))})
        assert found.tables == ()
        found = find(entries | {f"emb{suffix}": whole.moved(is_hash_table=True)})
        assert found.tables == ()


def test_a_full_has_no_rows_and_an_increment_no_nine() -> None:
    rows = {"w-sparse_incr_keys": ("int64", 3), "w-sparse_incr_values": ("float32", 3, 2)}
    entries = {name: entry(*shape) for name, shape in rows.items()}
    assert find(entries).rows == {}
    found = find(entries, increment=True)
    assert found.rows["w"].rows == 3
    assert found.plain == ()
    assert find(tensors("emb", FULL), increment=True).tables == ()


@pytest.mark.parametrize("lacking", [s for s in INCREMENT if not s.endswith(("keys", "values"))])
def test_a_set_that_lacks_a_column_is_a_table_with_a_problem(lacking: str) -> None:
    found = find(tensors("emb", INCREMENT | {lacking: None}), increment=True)
    (ev,) = found.ev_sets.values()
    assert lacking in ev.problem
    assert found.rows == {}


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        ("-values", ("float32", 2, 2)),
        ("-values", ("float32", 3)),
        ("-values", ("float32", 3, 2, 1)),
        ("-versions", ("int64", 2)),
        ("-freqs", ("int64", 4)),
        ("-freqs", ("int32", 3)),
        ("-freqs", ("int64", 3, 1)),
        ("-keys_filtered", ("int32", 2)),
        ("-keys_filtered", ("int64", 2, 1)),
        ("-freqs_filtered", ("int64", 1)),
        ("-versions_filtered", ("int64", 3)),
        ("-partition_filter_offset", ("int32", 1000)),
        ("-freqs_filtered", None),
    ],
)
def test_a_column_that_does_not_fit_is_a_problem(suffix: str, shape: tuple) -> None:
    (ev,) = find(tensors("emb", FULL | {suffix: shape})).ev_sets.values()
    assert ev.problem
    if suffix not in ("-keys_filtered",):
        assert suffix in ev.problem


@pytest.mark.parametrize(
    ("suffix", "shape"),
    [
        ("-incr_partition_offset", ("int32", 1000)),
        ("-sparse_incr_values", ("float32", 2, 2)),
        ("-sparse_incr_versions", ("int64", 0)),
        ("-sparse_incr_freqs", ("int32", 3)),
    ],
)
def test_the_same_in_an_increment(suffix: str, shape: tuple) -> None:
    found = find(tensors("emb", INCREMENT | {suffix: shape}), increment=True)
    (ev,) = found.ev_sets.values()
    assert suffix in ev.problem


@pytest.mark.parametrize("values", [("float32", 2, 2), ("float32", 3), ("float32", 3, 2, 1)])
def test_rows_that_do_not_fit_are_a_problem(values: tuple) -> None:
    entries = {"w-sparse_incr_keys": entry("int64", 3), "w-sparse_incr_values": entry(*values)}
    assert find(entries, increment=True).rows["w"].problem


def test_empty_tables_are_tables() -> None:
    empty = {suffix: (shape[0], 0, *shape[2:]) for suffix, shape in FULL.items()}
    empty |= {s: FULL[s] for s in ("-partition_offset", "-partition_filter_offset")}
    (ev,) = find(tensors("emb", empty)).ev_sets.values()
    assert (ev.rows, ev.filtered, ev.problem) == (0, 0, "")
