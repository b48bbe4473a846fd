"""Finding an increment's keys among the full's, against loops over lists."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl import knobs
from ckptctl.bundle import BundleReader, BundleWriter
from ckptctl.errors import EntryBoundsError, TableError
from ckptctl.restore import find, join, unique
from ckptctl.restore import keys as stored
from ckptctl.restore.find import KeyTable, Wanted
from ckptctl.restore.incoming import IncomingKeys, read_incoming
from ckptctl.restore.rowmap import RowMap, Runs
from ckptctl.tables import find_tables
from tests.oracle.images import Ev, Image, Row, bucket_of, write_image

MANY = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
POOL = [0, 1, 2, 3, 5, 8, 999, 1000, 1001, 1003, 2002, 7005, -1000, -5000, 2**40 + 3, 2**63 - 1]
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_a_bucket_is_the_remainder_of_c(keys: list[int]) -> None:
    assert stored.bucket_of(np.array(keys, np.int64)).tolist() == [bucket_of(k) for k in keys]


@st.composite
def rows(draw: st.DrawFn, part: int, parts: int, tail: bool = False) -> list[Row]:
    """Keys of a part, each once where it belongs; some elsewhere, some behind the last bucket."""
    own = [key for key in POOL if bucket_of(key) % parts == part]
    keys = draw(st.lists(st.sampled_from(own), unique=True)) if own else []
    found = [
        Row(None if tail and draw(st.booleans()) else bucket_of(key), key, b"abcd") for key in keys
    ]
    others = draw(st.lists(st.sampled_from(POOL), max_size=2, unique=True))
    for key in others:
        place = draw(st.integers(0, 999))
        # A stray, unless that is where it belongs; its key may have its own row too.
        if place != bucket_of(key):
            found.append(Row(place, key, b"abcd"))
    return found


def rows_of(runs: Runs) -> list[int]:
    pairs = zip(runs.starts.tolist(), runs.ends.tolist(), strict=True)
    return [row for start, end in pairs for row in range(start, end)]


def written(ev: Ev, room: str) -> tuple[BundleReader, object]:
    write_image(Image(1, evs=[ev]), Path(room) / "b")
    reader = BundleReader(f"{room}/b")
    sets = find_tables(reader.tensors, increment=ev.incremental).ev_sets
    return reader, sets[ev.name]


@MANY
@given(
    data=st.data(),
    parts=st.sampled_from([1, 2, 3, 7]),
    tail=st.booleans(),
    sizes=st.sampled_from([(1, 1 << 22), (2, 1), (3, 2), (1 << 16, 1 << 22)]),
    most_hashed=st.sampled_from([0, 2, 1 << 17]),
)
def test_joining_is_looking_up(
    data: st.DataObject, parts: int, tail: bool, sizes: tuple[int, int], most_hashed: int
) -> None:
    part = data.draw(st.integers(0, parts - 1))
    own = data.draw(rows(part, parts, tail))
    ev = Ev("emb", "", None, 1, 1, own).ordered()
    asked = data.draw(
        st.lists(
            st.sampled_from([k for k in POOL if bucket_of(k) % parts == part] or [0]), unique=True
        )
    )
    asked = sorted(
        (k for k in asked if bucket_of(k) % parts == part), key=lambda k: (bucket_of(k), k)
    )
    keys, bucket = np.array(asked, np.int64), np.array([bucket_of(k) for k in asked], np.int64)
    incoming = IncomingKeys(keys, np.searchsorted(bucket, np.arange(1001)), keys, keys)
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as room,
        patch.object(knobs, "JOIN_KEYS", sizes[0]),
        patch.object(unique, "_UNIQUE_KEYS", sizes[1]),
        patch.object(join, "_MOST_HASHED", most_hashed),
    ):
        reader, found = written(ev, room)
        column = join.FullKeys(reader, found, part, parts)
        hits, places, deleted = column.join(incoming)
        column.finish()
        reader.close()
    legal = {
        row.key: at
        for at, row in enumerate(ev.rows)
        if bucket_of(row.key) % parts == part and row.place in (None, bucket_of(row.key))
    }
    assert places.tolist() == sorted(legal[key] for key in asked if key in legal)
    assert [legal[asked[hit]] for hit in hits.tolist()] == places.tolist()
    assert rows_of(deleted) == [at for at in range(len(ev.rows)) if at not in legal.values()]
    assert column.rows == len(ev.rows)


@MANY
@given(data=st.data(), parts=st.sampled_from([1, 2, 3]), generations=st.integers(0, 3))
def test_reading_increments_is_a_dict(data: st.DataObject, parts: int, generations: int) -> None:
    """Whatever parts they have, and the newest row of each key wins."""
    sets = []
    expected: dict[int, tuple[int, int]] = {}
    strays = 0
    with tempfile.TemporaryDirectory(dir=MEMORY) as room:
        for age in range(generations):
            theirs = data.draw(st.sampled_from([1, 2, 5]))
            sets.append([])
            for number in range(theirs):
                ev = Ev(
                    "emb",
                    "",
                    number,
                    theirs,
                    1,
                    data.draw(rows(number, theirs)),
                    incremental=True,
                ).ordered()
                home = Path(room) / f"{age}-{number}"
                home.mkdir()
                reader, found = written(ev, str(home))
                sets[-1].append((reader, found, number, theirs))
                for at, row in enumerate(ev.rows):
                    if row.place == bucket_of(row.key) and row.place % theirs == number:
                        expected[row.key] = (age, at)
                    else:
                        strays += 1
        skipped = 0
        seen: dict[int, tuple[int, int]] = {}
        for part in range(parts):
            incoming = read_incoming(sets, part, parts)
            skipped += incoming.skipped
            order = [(bucket_of(k), k) for k in incoming.keys.tolist()]
            assert order == sorted(order)
            for key, which, at in zip(
                incoming.keys.tolist(),
                incoming.tensor_of.tolist(),
                incoming.row_of.tolist(),
                strict=True,
            ):
                assert bucket_of(key) % parts == part
                prefix = incoming.sources[which][0].prefix
                seen[key] = (int(Path(prefix).parent.name.split("-")[0]), at)
        for own in sets:
            for reader, *_ in own:
                reader.close()
    assert seen == expected
    assert skipped == strays


@MANY
@given(
    keys=st.lists(st.sampled_from(POOL), min_size=1, max_size=12),
    together=st.sampled_from([1, 2, 1 << 16]),
    factor=st.sampled_from([int(stored.FACTOR), 0, 1 << 61]),
    most_hashed=st.sampled_from([0, 2, 1 << 17]),
)
def test_a_key_twice_in_a_bucket_is_always_found(
    keys: list[int], together: int, factor: int, most_hashed: int
) -> None:
    """Also where the hash sends all keys to a few slots."""
    own = [Row(bucket_of(key), key, b"abcd") for key in keys]
    ev = Ev("emb", "", None, 1, 1, own).ordered()
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as room,
        patch.object(knobs, "JOIN_KEYS", together),
        patch.object(join, "_MOST_HASHED", most_hashed),
        patch("ckptctl.restore.find.FACTOR", np.uint64(factor)),
        patch.object(unique, "_UNIQUE_KEYS", together),
        patch.object(unique, "_random", lambda: factor),
        patch.object(unique, "FACTOR", np.uint64(factor)),
        patch.object(stored, "FACTOR", np.uint64(factor)),
    ):
        reader, found = written(ev, room)
        try:
            look_at_all(reader, found)
            twice = False
        except TableError:
            twice = True
        reader.close()
    assert twice == (len(set(keys)) != len(keys))


def look_at_all(reader: BundleReader, found: object) -> None:
    column = join.FullKeys(reader, found, 0, 1)
    column.join(IncomingKeys())
    column.finish()


@pytest.mark.parametrize("piece", [2, 100], ids=["in two pieces", "in one"])
@pytest.mark.parametrize("bound", [0, 9], ids=["behind", "in a bucket"])
def test_an_incoming_key_that_stands_twice_is_told_unvalidated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, bound: int
) -> None:
    monkeypatch.setattr(knobs, "JOIN_KEYS", piece)
    keys = np.array([5, 4, 1, 2, 3, 0, 4, 7, 8]) * 1000 + 7
    reader, found = large_bucket(tmp_path, keys, bound)
    asked = np.array([3, 4, 6]) * 1000 + 7
    column = join.FullKeys(reader, found, 0, 1, validate=False)
    column.join(IncomingKeys(asked, np.where(np.arange(1001) > 7, 3, 0), asked, asked))
    with pytest.raises(TableError, match="key 4007 twice"):
        column.finish()
    reader.close()


def large_bucket(room: Path, keys: np.ndarray, bound: int) -> tuple[BundleReader, object]:
    """Write a table whose bucket 7 holds the first `bound` keys; the rest lie behind."""
    offsets = np.full(1001, bound, np.int32)
    offsets[:8] = 0
    none = np.empty(0, np.int64)
    columns = {
        "-keys": keys,
        "-values": np.zeros((len(keys), 0), np.float32),
        "-versions": none,
        "-freqs": none,
        "-keys_filtered": none,
        "-versions_filtered": none,
        "-freqs_filtered": none,
        "-partition_offset": offsets,
        "-partition_filter_offset": np.zeros(1001, np.int32),
    }
    with BundleWriter(str(room / "b")) as writer:
        for suffix, array in columns.items():
            writer.add("emb" + suffix, array)
    reader = BundleReader(str(room / "b"))
    return reader, find_tables(reader.tensors).ev_sets["emb"]


@pytest.mark.parametrize(
    "bound",
    [3 << 20, (3 << 20) - 5, 2 << 20, 0],
    ids=["bucket", "tail", "long tail", "no bucket"],
)
@pytest.mark.parametrize("twice", [False, True])
def test_memory_does_not_grow_with_a_bucket(tmp_path: Path, twice: bool, bound: int) -> None:
    """3 Mi keys of one bucket, 24 MiB, are compared a third at a time."""
    count = 3 << 20
    keys = np.arange(count, dtype=np.int64) * 1000 + 7
    if twice:
        keys[-1] = keys[5]
    reader, found = large_bucket(tmp_path, keys, bound)
    del keys
    tracemalloc.start()
    try:
        look_at_all(reader, found)
        error = ""
    except TableError as caught:
        error = str(caught)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert ("key 5007" in error) is twice
    assert peak < 45 << 20


def test_memory_does_not_grow_with_rows_in_a_wrong_bucket(tmp_path: Path) -> None:
    """2 Mi keys, all of them of the bucket beside theirs: 16 MiB as numbers of rows."""
    count = 1 << 21
    reader, found = large_bucket(tmp_path, np.arange(count, dtype=np.int64) * 1000 + 8, count)
    column = join.FullKeys(reader, found, 0, 1, validate=False)
    tracemalloc.start()
    *_, deleted = column.join(IncomingKeys())
    rowmap = RowMap.build(count, deleted=deleted)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert deleted.total == count
    assert rowmap.rows == 0
    assert peak < 6 << 20


def test_a_column_cut_short_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut after its size was looked at: a read brings less than was asked for."""
    reader, found = large_bucket(tmp_path, np.arange(9, dtype=np.int64) * 1000 + 7, 9)
    file = reader.data_file("emb-keys", found.keys)
    monkeypatch.setattr(type(file), "pread", lambda self, at, size: b"1234567")
    with pytest.raises(EntryBoundsError) as caught:
        stored.read_keys(reader, "emb", found.keys, 0, 9)
    assert caught.value.tensor == "emb"
    reader.close()


@pytest.mark.parametrize("most", [1 << 16, 100])
@pytest.mark.parametrize("wanted", [1, 4000])
def test_keys_are_found_whatever_their_order_and_their_slots(
    monkeypatch: pytest.MonkeyPatch, wanted: int, most: int
) -> None:
    monkeypatch.setattr("ckptctl.restore.find._MOST_OWNERS", most)
    numbers = np.random.default_rng(1).integers(0, 2**62, 9000)  # some share a slot
    keys, asked = numbers[:6000], np.ascontiguousarray(numbers[::-2][:wanted])
    found = dict(zip(*(each.tolist() for each in Wanted(asked).find(keys)), strict=True))
    row_of = {key: row for row, key in enumerate(keys.tolist())}
    assert found == {at: row_of[key] for at, key in enumerate(asked.tolist()) if key in row_of}


@MANY
@given(
    wanted=st.lists(st.integers(-5, 60) | st.integers(-(2**63), 2**63 - 1), unique=True),
    pieces=st.lists(st.lists(st.integers(-9, 70), max_size=60), max_size=3),
    owners=st.sampled_from([0, 4, 1 << 16]),
    steps=st.sampled_from([0, 1, 8]),
    together=st.sampled_from([1, 7, 1 << 16]),
    factor=st.sampled_from([int(stored.FACTOR), 1, (1 << 62) + 1]),
    data=st.data(),
)
def test_wanted_keys_are_found_in_any_piece(
    wanted: list[int],
    pieces: list[list[int]],
    owners: int,
    steps: int,
    together: int,
    factor: int,
    data: st.DataObject,
) -> None:
    """Also where all share a slot, and where rows are left out."""
    with (
        patch.object(find, "_MOST_OWNERS", owners),
        patch.object(find, "_MOST_STEPS", steps),
        patch.object(find, "_STARTS", together),
        patch.object(find, "FACTOR", np.uint64(factor)),
    ):
        prepared = Wanted(np.array(wanted, np.int64))
        for piece in [*pieces, wanted[::-1]]:
            keys = np.array(piece, np.int64)
            wrong = np.array([data.draw(st.booleans()) for _ in piece], bool)
            hits, rows = prepared.find(keys, wrong)
            assert sorted(rows.tolist()) == [
                at for at, key in enumerate(piece) if key in wanted and not wrong[at]
            ]
            assert [wanted[hit] for hit in hits.tolist()] == [piece[row] for row in rows.tolist()]


class _Counting:
    """A factor that counts the keys that are multiplied with it: those whose hash is made."""

    __array_ufunc__ = None

    def __init__(self) -> None:
        self.keys = 0

    def __rmul__(self, keys: np.ndarray) -> np.ndarray:
        self.keys += len(keys)
        return keys * stored.FACTOR


@pytest.mark.parametrize("owners", [16, 1 << 16])
@pytest.mark.parametrize(
    ("bound", "brought"),
    [(0, 4000), (1000, 4000), (3000, 0), (4000, 4000)],
    ids=["old form", "many behind", "behind alone", "one bucket"],
)
def test_each_key_is_hashed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, brought: int, owners: int
) -> None:
    """However many pieces the full is read in."""
    monkeypatch.setattr(knobs, "JOIN_KEYS", 16)
    monkeypatch.setattr(join, "_MOST_HASHED", 0)
    monkeypatch.setattr(find, "_MOST_OWNERS", owners)
    counting = _Counting()
    monkeypatch.setattr(find, "FACTOR", counting)
    keys = np.random.default_rng(5).permutation(8000)[:4000] * 1000 + 7
    reader, found = large_bucket(tmp_path, keys, bound)
    asked = np.arange(brought) * 1000 + 7
    starts = np.where(np.arange(1001) > 7, brought, 0)
    column = join.FullKeys(reader, found, 0, 1)
    hits, rows, _ = column.join(IncomingKeys(asked, starts, asked, asked))
    column.finish()
    reader.close()
    row_of = {key: row for row, key in enumerate(keys.tolist()) if key < brought * 1000}
    assert dict(zip(asked[hits].tolist(), rows.tolist(), strict=True)) == row_of
    # Those wanted in a bucket and behind it, and those behind that none before may be.
    assert counting.keys <= 2 * len(keys) + 2 * brought + (len(keys) - bound)


@MANY
@given(
    pieces=st.lists(
        st.lists(st.integers(0, 40) | st.integers(-(2**63), 2**63 - 1), max_size=60),
        min_size=1,
        max_size=4,
    ),
    wanted=st.lists(st.integers(-5, 60), max_size=40),
    few=st.sampled_from([0, 4, 512]),
    most=st.sampled_from([20, 1 << 18]),
    factors=st.sampled_from(["own", "all share a slot"]),
)
def test_a_table_of_keys_knows_them_and_those_that_stand_twice(
    pieces: list[list[int]], wanted: list[int], few: int, most: int, factors: str
) -> None:
    same = (np.uint64(0),) * 3
    with (
        patch.object(find, "_FEW", few),
        patch.object(find, "_FACTORS", same if factors != "own" else find._FACTORS),
    ):
        table = KeyTable(most)
        for piece in pieces:  # each leaves its numbers behind in the slots
            keys = np.array(piece, np.int64)
            again = [key for key in set(piece) for _ in range(piece.count(key) - 1)]
            assert sorted(table.fill(keys).tolist()) == sorted(again)
            asked = np.array([*piece[:5], *wanted], np.int64)
            hits, rows = table.find(asked)
            assert sorted(hits.tolist()) == [
                at for at, key in enumerate(asked.tolist()) if key in piece
            ]
            assert keys[rows].tolist() == asked[hits].tolist()


def test_a_table_of_more_keys_than_16_bits_number() -> None:
    keys = np.random.default_rng(2).choice(1 << 40, 100_000, replace=False)
    table = KeyTable()
    assert not len(table.fill(keys))
    hits, rows = table.find(keys)
    assert dict(zip(hits.tolist(), rows.tolist(), strict=True)) == {n: n for n in range(100_000)}
    fewer = keys[20_000:90_000]  # in the same memory, and its slots
    assert sorted(table.fill(np.concatenate([fewer, fewer[7:9]]))) == sorted(fewer[7:9])
    assert len(table.find(keys)[0]) == len(fewer)
    assert not len(table.fill(keys[:3000]))
    assert len(table.find(keys)[0]) == 3000


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 9), st.integers(0, 9))
def test_rows_stand_in_buckets_and_behind(counts: list[int], first: int, more: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts), np.full(1000 - len(counts), sum(counts))])
    buckets, rows = stored.buckets_at(offsets, first, first + more + 1)
    wanted = np.searchsorted(offsets, np.arange(first, first + more + 1), side="right") - 1
    assert np.repeat(buckets, rows).tolist() == wanted.tolist()
