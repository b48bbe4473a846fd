"""Rule 10: what is passed through untouched."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

from ckptctl.bundle import BundleHeader, BundleReader, dtype_by_name
from ckptctl.bundle.checksum import crc32c, mask
from ckptctl.bundle.proto import BundleEntryProto
from ckptctl.bundle.table import IndexTable
from ckptctl.bundle.writer import index_bytes
from ckptctl.errors import UnprovenError
from ckptctl.storage import LOCAL
from tests.oracle.chain import Chain, build_chain, changes, full, increment, read, table
from tests.oracle.images import (
    HashTable,
    Piece,
    Sliced,
    Tensor,
    floats,
    ints,
    string,
)

EMB, INC = table("emb", [1]), changes("emb", {1: 9.0})
#: Field 2000, a varint: nobody knows it.
UNKNOWN = b"\x80\x7d\x07"
VARIANT = 21


def raw_entry(prefix: Path, name: str) -> bytes:
    return dict(IndexTable(f"{prefix}.index", LOCAL).items())[name.encode()]


def unknown(*names: str):
    def edit(key: bytes, message: Any) -> None:
        if key.decode(errors="replace") in names:
            message.MergeFromString(UNKNOWN)

    return edit


def test_hash_tables_keep_their_slices(tmp_path: Path) -> None:
    hashes = {
        "ht": HashTable(
            "float32",
            2,
            [((0, 32768, 65536), bytes(range(24)), 1), ((32768, 32768, 65536), bytes(16), 0)],
        ),
        "ht/ids": HashTable("int64", 1, [((0, 65536, 65536), bytes(range(40)), 1)]),
    }
    chain = build_chain(tmp_path, full(10, EMB, hashes, shards=2), increment(20, INC, shards=2))
    chain.merge(20)
    chain.check(10, 20)
    for name in hashes:
        before, after = (raw_entry(chain.full_prefix(step), name) for step in (10, 20))
        assert before == after
        assert BundleEntryProto.FromString(after).slices[0].hash_slice_size == 65536


def test_unknown_fields_survive(tmp_path: Path) -> None:
    sliced = Sliced("float32", (2, 1), [Piece(((n, 1), (0, 1)), bytes(4)) for n in (1, 0)])
    names = ["emb-keys", "emb-values", "emb-partition_offset", "w", "sliced"]
    chain = build_chain(
        tmp_path,
        full(10, EMB, {"w": floats(1), "sliced": sliced}, edits=[unknown(*names)]),
        increment(20, INC, {"w": floats(2)}),
    )
    chain.merge(20, keep_missing=True)
    for name in ["emb-keys", "emb-values", "emb-partition_offset", "sliced"]:
        assert UNKNOWN in raw_entry(chain.full_prefix(20), name), name


def test_unknown_fields_of_the_increment_come_with_its_tensors(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, EMB, {"w": floats(1)}),
        increment(20, INC, {"w": floats(2)}, edits=[unknown("w")]),
    )
    chain.merge(20)
    chain.check(10, 20)
    assert UNKNOWN in raw_entry(chain.full_prefix(20), "w")


def test_strings_of_every_length(tmp_path: Path) -> None:
    items = [b"", b"a", b"\xff\x00", b"x" * 127, b"y" * 128, b"z" * 70_000]
    ours = {"s": string(*items, shape=(2, 3)), "kept": string(*items), "none": string(shape=(0,))}
    theirs = {"s": string(*items[::-1], shape=(3, 2)), "none": string(shape=(0, 4))}
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, theirs))
    chain.merge(20, keep_missing=True)
    chain.check(10, 20, keep_missing=True)


@pytest.mark.parametrize("in_increment", [True, False])
def test_variants(tmp_path: Path, in_increment: bool) -> None:
    body, crc = b"", 0
    for item in (b"first", b"", b"x" * 200):
        crc = crc32c(struct.pack("<Q", len(item)), crc)
        crc = crc32c(item, crc)
        length = bytes([len(item)]) if len(item) < 128 else bytes([len(item) & 127 | 128, 1])
        stored = struct.pack("<I", mask(crc))
        body += length + item + stored
        crc = crc32c(stored, crc)

    def edit(key: bytes, message: Any) -> None:
        if key == b"v":
            message.dtype = VARIANT
            message.shape.dim[0].size = 3
            message.crc32c = mask(crc)

    held = {"v": Tensor("uint8", (len(body),), body)}
    chain = build_chain(
        tmp_path,
        full(10, EMB, held, edits=[edit]),
        increment(20, INC, held, edits=[edit]) if in_increment else increment(20, INC),
    )
    chain.merge(20, keep_missing=True)
    with BundleReader(str(chain.full_prefix(20))) as reader:
        entry = reader.entry("v")
        assert (entry.dtype.name, entry.shape, entry.crc) == ("variant", (3,), mask(crc))
        assert Path(reader.shard_path(0)).read_bytes()[entry.offset : entry.end] == body
        reader.check_tensor("v", entry)


@pytest.mark.parametrize(
    "dtype",
    ["bfloat16", "float16", "float64", "int8", "uint16", "bool", "complex128", "qint8", "qint32"],
)
def test_every_other_dtype(tmp_path: Path, dtype: str) -> None:
    size = dtype_by_name(dtype).size
    one, two = (Tensor(dtype, (4,), bytes([n] * 4 * size)) for n in (0, 1))
    scalar = Tensor(dtype, (), bytes([1] * size))
    chain = build_chain(
        tmp_path,
        full(10, EMB, {"a": one, "kept": two, "scalar": scalar}),
        increment(20, INC, {"a": two, "scalar": scalar}),
    )
    chain.merge(20, keep_missing=True)
    chain.check(10, 20, keep_missing=True)


def test_tensors_without_rows(tmp_path: Path) -> None:
    ours = {"none": floats(shape=(0, 3)), "flat": ints("int64", []), "wide": floats(shape=(3, 0))}
    chain = build_chain(tmp_path, full(10, EMB, ours), increment(20, INC, ours))
    chain.merge(20)
    chain.check(10, 20)


def test_a_table_without_columns(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2], dim=0)),
        increment(20, changes("emb", [2, 3], dim=0)),
    )
    chain.merge(20)
    chain.check(10, 20)


# --- files beside the bundle ----------------------------------------------------------

SIDE = {
    "-emb-ssd_record.index": index_bytes(BundleHeader(1), {}),
    "-emb-ssd_record.data-00000-of-00001": b"records",
    "-emb-emb_files/12.emb": b"x" * 3_000_000,
    "-emb-emb_files/7.emb": b"",
    ".meta": b"a graph",
}


def with_side_files(chain: Chain, step: int = 10) -> Chain:
    for suffix, data in SIDE.items():
        path = Path(f"{chain.full_prefix(step)}{suffix}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return chain


def side_files(prefix: Path) -> dict[str, bytes]:
    return {
        str(path)[len(str(prefix)) :]: path.read_bytes()
        for path in prefix.parent.rglob(f"{prefix.name}*")
        if path.is_file()
        for suffix in [str(path)[len(str(prefix)) :]]
        if not suffix.startswith((".index", ".data", ".ckptctl"))
    } | {
        str(path)[len(str(prefix)) :]: path.read_bytes()
        for directory in prefix.parent.glob(f"{prefix.name}-*-emb_files")
        for path in directory.iterdir()
    }


@pytest.mark.parametrize("elsewhere", [False, True])
def test_side_files_come_along_under_the_new_prefix(tmp_path: Path, elsewhere: bool) -> None:
    chain = build_chain(tmp_path, full(10, EMB), increment(20, INC), full(1, EMB))
    with_side_files(chain)
    # Another checkpoint's: model.ckpt-1 never matches model.ckpt-10's.
    target = tmp_path / "other-20" if elsewhere else chain.full_prefix(20)
    chain.merge(20, target if elsewhere else None)
    chain.check(10, 20, prefix=target)
    assert side_files(target) == SIDE


def test_a_copy_takes_them_too_and_no_one_elses(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(1, EMB), full(10, EMB))
    with_side_files(chain)
    chain.merge(1, tmp_path / "copy-1")
    assert side_files(tmp_path / "copy-1") == {}
    chain.merge(10, tmp_path / "copy-10")
    assert side_files(tmp_path / "copy-10") == SIDE


def test_without_meta_none_is_made(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, EMB), increment(20, INC))
    chain.merge(20)
    assert not Path(f"{chain.full_prefix(20)}.meta").exists()


def test_side_files_are_counted_before_the_first_byte(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, EMB), increment(20, INC))
    before = chain.plan(20).bytes_to_write
    with_side_files(chain)
    assert chain.plan(20).bytes_to_write == before + sum(map(len, SIDE.values()))


def test_hash_tables_are_asked_of_no_increment(tmp_path: Path) -> None:
    """Exempt from "a tensor that the increment lacks is an error"; other tensors are not."""
    hashes = {"ht": HashTable("float32", 1, [((0, 9, 9), bytes(8), 0)])}
    chain = build_chain(
        tmp_path,
        full(10, EMB, hashes),
        increment(20, INC),
        full(30, EMB, hashes, {"w": floats(1)}),
        increment(40, INC),
    )
    chain.plan(20)
    with pytest.raises(UnprovenError) as caught:
        chain.plan(40)
    assert caught.value.tensor == "w"


def test_the_merged_mark_is_written_anew(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(10, EMB), increment(20, INC), increment(30, changes("emb", [1]))
    )
    chain.merge(20)
    chain.merge(30)
    mark = read(chain.full_prefix(30), "ckptctl/merged")
    assert mark == (
        b'{"applied_to": 20, "base_step": 10, "mode": "cumulative", '
        b'"rows": {"emb": 1, "emb/Adagrad": 1}, "up_to": 30, "version": 1}'
    )
