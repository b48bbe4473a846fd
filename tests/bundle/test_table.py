"""The index table: blocks, seeks, separators, and TensorFlow's bytes made again."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl.bundle.table import IndexTable, build_table
from ckptctl.errors import CompressedBlockError, KeyOrderError, NotFoundError
from ckptctl.storage import LOCAL
from tests.bundle import builders as b

Pairs = list[tuple[bytes, bytes]]


def written(path: Path, data: bytes) -> IndexTable:
    path.write_bytes(data)
    return IndexTable(str(path), LOCAL)


def crossing(count: int) -> Pairs:
    """Return pairs with long common prefixes, enough for many blocks if `count` is large."""
    return [(b"model/layer_%07d/kernel" % at, b"%d" % at * 4) for at in range(count)]


def near(keys: list[bytes]) -> Iterator[bytes]:
    """Return keys that are not there, close to those that are."""
    for key in keys:
        yield from (key + b"\x00", key[:-1], key[:-1] + b"\xff\xff", b"\x00" + key)


def save(tf: ModuleType, prefix: Path, names: list[bytes]) -> Path:
    """Let TensorFlow write one scalar under each name; return the index."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=tf.constant(names),
        shape_and_slices=tf.constant([""] * len(names)),
        tensors=[tf.constant(1.0)] * len(names),
    )
    return Path(f"{prefix}.index")


def test_a_block_by_hand(tmp_path: Path) -> None:
    pairs = [(b"a", b"1"), (b"ab", b""), (b"b", b"3" * 200)]
    table = written(tmp_path / "i", b.table([(b"b", b.block(pairs))]))
    assert list(table.items()) == pairs
    assert len(table) == 3


def test_prefixes_are_shared_up_to_a_restart_point() -> None:
    data = build_table([(b"prefix/%02d" % at, b"v") for at in range(20)])
    first = b"\x00\x09\x01prefix/00v"
    assert data.startswith(first + b"\x08\x01\x011v" + b"\x08\x01\x012v")
    # Entry 10 differs in two bytes; 16 starts anew.
    assert b"\x07\x02\x0110v" in data
    assert b"\x00\x09\x01prefix/16v" in data
    restarts = struct.pack("<III", 0, data.index(b"\x00\x09\x01prefix/16v"), 2)
    assert data[data.index(b"\x08\x01\x019v") :].find(restarts) > 0


def test_an_empty_table(tmp_path: Path) -> None:
    table = written(tmp_path / "i", build_table([]))
    assert list(table.items()) == []
    assert table.get(b"") is None


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33, 5000, 100_000])
def test_every_pair_comes_back(tmp_path: Path, count: int) -> None:
    pairs = crossing(count)
    table = written(tmp_path / "i", build_table(pairs))
    assert list(table.items()) == pairs


@pytest.mark.parametrize(("count", "step"), [(9000, 1), (100_000, 997)])
def test_a_seek_finds_what_a_full_parse_finds(tmp_path: Path, count: int, step: int) -> None:
    pairs = [(key, value * 3) for key, value in crossing(count)]
    table = written(tmp_path / "i", build_table(pairs))
    assert table.size > 2 * 262144
    some = pairs[:40] + pairs[::step] + pairs[-40:]
    assert [table.get(key) for key, _ in some] == [value for _, value in some]
    absent = [*near([key for key, _ in some[::20]]), b"", b"zzz", b"\xff" * 9]
    assert [table.get(key) for key in absent] == [None] * len(absent)
    full = dict(table.items())  # now the blocks are parsed, and looked up in another way
    assert [table.get(key) for key, _ in some] == [full[key] for key, _ in some]
    assert [table.get(key) for key in absent] == [None] * len(absent)


@given(st.dictionaries(st.binary(max_size=6), st.binary(max_size=40), max_size=60))
@settings(deadline=None, max_examples=200)
def test_any_keys(tmp_path_factory: pytest.TempPathFactory, found: dict[bytes, bytes]) -> None:
    pairs = sorted(found.items())
    table = written(tmp_path_factory.getbasetemp() / "any", build_table(pairs))
    asked = [*found, *near(list(found))]
    assert [table.get(key) for key in asked] == [found.get(key) for key in asked]
    assert list(table.items()) == pairs


@given(st.lists(st.binary(max_size=4), unique=True, min_size=2, max_size=30), st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_restart_points(tmp_path: Path, keys: list[bytes], data: st.DataObject) -> None:
    """Other writers put restart points elsewhere."""
    pairs = [(key, key * 2) for key in sorted(keys)]
    sizes = [len(b.block([pair])) - 8 for pair in pairs]
    starts = [sum(sizes[:at]) for at in range(len(pairs))]
    points = [0, *data.draw(st.lists(st.sampled_from(starts), unique=True).map(sorted))]
    raw = b.block(pairs, [at for number, at in enumerate(points) if number == 0 or at])
    table = written(tmp_path / "i", b.table([(pairs[-1][0], raw)]))
    assert [table.get(key) for key, _ in pairs] == [value for _, value in pairs]
    assert [table.get(key) for key in near(keys)] == [dict(pairs).get(key) for key in near(keys)]


def test_keys_must_ascend_when_written() -> None:
    with pytest.raises(ValueError, match="ascending"):
        build_table([(b"b", b""), (b"a", b"")])
    with pytest.raises(ValueError, match="ascending"):
        build_table([(b"a", b""), (b"a", b"")])


def test_a_long_index_is_read_block_by_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptctl.bundle.table.WHOLE_BYTES", 1 << 16)
    pairs = crossing(50_000)
    table = written(tmp_path / "i", build_table(pairs))
    assert table.size > 1 << 16
    assert table.get(pairs[77][0]) == pairs[77][1]
    assert list(table.items()) == pairs


def test_no_index() -> None:
    with pytest.raises(NotFoundError) as caught:
        IndexTable("/nowhere/model.ckpt-1.index", LOCAL)
    assert caught.value.file == "/nowhere/model.ckpt-1.index"


# TensorFlow's bytes made again


def test_many_blocks_as_tensorflow_writes_them(tf: ModuleType, tmp_path: Path) -> None:
    choose = random.Random(20000)
    letters = b"\x01\x7f\xfe\xff/ab"
    names = {bytes(choose.choices(letters, k=choose.randint(60, 140))) for _ in range(20_000)}
    path = save(tf, tmp_path / "many", sorted(names))
    pairs = list(IndexTable(str(path), LOCAL).items())
    assert {key for key, _ in pairs} == names | {b""}
    assert path.stat().st_size > 8 * 262144
    assert build_table(pairs) == path.read_bytes()


def test_separators_as_tensorflow_writes_them(tf: ModuleType, tmp_path: Path) -> None:
    """Names longer than a block, so that there is a separator between any two."""
    long = b"p" * 262144
    starts = [
        b"a\x01",
        b"a\x03",
        b"a\x04",
        b"a\x10\x01",
        b"a\xfe",
        b"a\xff",
        b"a\xff\x07",
        b"b",
        b"\xfe",
    ]
    names = [start + long for start in starts] + [
        b"c" + long,
        b"c" + long + b"\x01",
        b"\xff" * 262144,
    ]
    path = save(tf, tmp_path / "long", names)
    pairs = list(IndexTable(str(path), LOCAL).items())
    assert [key for key, _ in pairs] == [b"", *sorted(names)]
    assert build_table(pairs) == path.read_bytes()


@pytest.mark.parametrize("last", [b"a", b"\xff", b"\xff\xff\xff", b"\xff\x01\xff", b"\xffz"])
def test_the_last_separator_as_tensorflow_writes_it(
    tf: ModuleType, tmp_path: Path, last: bytes
) -> None:
    path = save(tf, tmp_path / "last", [b"A", last])
    assert build_table(IndexTable(str(path), LOCAL).items()) == path.read_bytes()


# Compressed blocks


def compressed(pairs: Pairs) -> bytes:
    snappy = pytest.importorskip(
        "cramjam", reason="no cramjam: pip install 'ckptctl[snappy]'"
    ).snappy
    data = [(pairs[99][0], b.block(pairs[:100])), (pairs[-1][0], b.block(pairs[100:]))]
    return b.table(data, kind=1, compress=lambda raw: bytes(snappy.compress_raw(raw)))


def test_snappy_blocks(tmp_path: Path) -> None:
    pairs = crossing(300)
    table = written(tmp_path / "i", compressed(pairs))
    assert table.size < len(build_table(pairs))
    assert table.get(pairs[150][0]) == pairs[150][1]
    assert list(table.items()) == pairs


def test_snappy_blocks_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = written(tmp_path / "i", compressed(crossing(300)))
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(CompressedBlockError, match="snappy") as caught:
        list(table.items())
    assert caught.value.offset == 0
    assert caught.value.file == str(tmp_path / "i")
    assert "ckptctl[snappy]" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"\x80" * 11, "longer than 64 bits"),
        (b"", "past the end"),
        (b"\xff\xff\xff\x7f" + b"x" * 40, "claims 268435455 bytes"),
        (b"\x20" + b"\xff" * 30, "does not decompress"),
        (b"\x08\x1cabcdefgh" + b"\x1cabcdefgh", "does not decompress"),
    ],
)
def test_snappy_blocks_that_are_none(tmp_path: Path, block: bytes, reason: str) -> None:
    pytest.importorskip("cramjam", reason="no cramjam: pip install 'ckptctl[snappy]'")
    table = written(tmp_path / "i", b.table([(b"z", block)], kind=1))
    with b.bounded(), pytest.raises(CompressedBlockError, match=reason) as caught:
        list(table.items())
    assert caught.value.offset == 0


def test_unknown_compression(tmp_path: Path) -> None:
    table = written(tmp_path / "i", b.table([(b"z", b.block([(b"a", b"")]))], kind=7))
    with pytest.raises(CompressedBlockError) as caught:
        table.get(b"a")
    assert (caught.value.expected, caught.value.found) == ("0 (none) or 1 (snappy)", 7)


def test_a_block_of_another_place(tmp_path: Path) -> None:
    blocks = [(b"b", b.block([(b"c", b"")])), (b"d", b.block([(b"c", b"")]))]
    with pytest.raises(KeyOrderError, match="outside its separators") as caught:
        list(written(tmp_path / "i", b.table(blocks)).items())
    assert caught.value.offset == 0
