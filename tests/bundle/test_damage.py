"""Whatever is wrong with a bundle: an error of its own, at once, and never a wrong value."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl.bundle import BundleReader, read_state
from ckptctl.bundle.table import IndexTable
from ckptctl.errors import (
    BlockChecksumError,
    BlockFormatError,
    ChangedError,
    CkptctlError,
    CompressedBlockError,
    DamageError,
    EndiannessError,
    EntryBoundsError,
    EntryError,
    FooterError,
    HeaderError,
    KeyOrderError,
    MagicError,
    MissingShardError,
    NotFoundError,
    RefusedError,
    ShapeSizeError,
    StateFileError,
    StringTensorError,
    TensorChecksumError,
)
from ckptctl.storage import LOCAL, LocalStorage
from tests.bundle import builders as b
from tests.descriptors import held

ENTRY = (b"x", b.of_data(b.FLOAT, (2,), b"12345678"))
BLOCK = b.block([(b"", b.header()), ENTRY])
GOOD = b.table([(b"x", BLOCK)])


def failure(
    prefix: str, error_class: type[CkptctlError], seconds: float = 1.0, **facts: object
) -> CkptctlError:
    """Read a bundle that cannot be read, in little time and memory; return why not."""
    with b.bounded(seconds):
        error = b.outcome(prefix)
    assert type(error) is error_class, error
    assert {name: getattr(error, name) for name in facts} == facts
    return error


def damaged_index(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "forged.index").write_bytes(data)
    (tmp_path / "forged.data-00000-of-00001").write_bytes(b"12345678")
    return str(tmp_path / "forged")


# Every byte


@pytest.mark.parametrize("xor", [*(1 << bit for bit in range(8)), 0xFF])
def test_every_byte_flipped(tmp_path: Path, xor: int) -> None:
    prefix = b.build_bundle(tmp_path)
    good = b.content(prefix)
    for path in b.files_of(prefix):
        for offset in range(path.stat().st_size):
            b.corrupt(path, offset, xor)
            with b.bounded():
                found = b.outcome(prefix)
            assert isinstance(found, DamageError), (path.name, offset, found)
            assert found.file == str(path), (path.name, offset, found)
            b.corrupt(path, offset, xor)
    assert b.content(prefix) == good


def check_all(prefix: str) -> None:
    with BundleReader(prefix) as reader:
        for _, name, entry in reader.data_entries():
            reader.check_tensor(name, entry)


def read_all(prefix: str) -> None:
    with BundleReader(prefix) as reader:
        for name in reader.tensors:
            reader.read(name)


def test_every_byte_flipped_is_found_by_a_check_of_each_tensor(tmp_path: Path) -> None:
    """What merging and verifying use reads in pieces and decodes nothing."""
    prefix = b.build_bundle(tmp_path)
    for path in b.files_of(prefix):
        if path.suffix == ".index":
            continue
        for offset in range(path.stat().st_size):
            b.corrupt(path, offset, 0x04)
            with pytest.raises(DamageError) as caught:
                check_all(prefix)
            assert caught.value.file == str(path)
            b.corrupt(path, offset, 0x04)


@pytest.mark.parametrize("xor", [0x01, 0x20, 0x80, 0xFF])
def test_every_byte_of_a_state_file_flipped(tmp_path: Path, xor: int) -> None:
    """Nothing guards these; but no byte may make a traceback."""
    path = tmp_path / "checkpoint"
    path.write_text(
        'model_checkpoint_path: "model.ckpt-20"\n'
        'all_model_checkpoint_paths: "model.ckpt-10"\n'
        'all_model_checkpoint_paths: "m\\303\\266del.ckpt-20"\n'
        "all_model_checkpoint_timestamps: 1700000000.25\n"
        "all_model_checkpoint_timestamps: 1700000001.25\n"
        "last_preserved_timestamp: 1699999999.0\n"
    )
    for offset in range(path.stat().st_size):
        b.corrupt(path, offset, xor)
        with b.bounded(), suppress(StateFileError):
            read_state(str(path))
        b.corrupt(path, offset, xor)


def test_an_index_cut_at_every_length(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    index = Path(f"{prefix}.index").read_bytes()
    for length in range(len(index)):
        Path(f"{prefix}.index").write_bytes(index[:length])
        failure(prefix, FooterError if length < 48 else MagicError, file=f"{prefix}.index")


def test_an_index_that_goes_on(tmp_path: Path) -> None:
    prefix = damaged_index(tmp_path, GOOD + b"\n")
    failure(prefix, MagicError, offset=len(GOOD) - 7, expected="0xdb4775248b80fb57")


@pytest.mark.parametrize("shard", [0, 1])
def test_a_shard_cut_at_every_length(tmp_path: Path, shard: int) -> None:
    prefix = b.build_bundle(tmp_path)
    path = b.shard_file(prefix, shard)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        error = failure(prefix, EntryBoundsError, file=str(path), found=f"{length} bytes")
        assert error.expected == f">= {len(data)} bytes in the shard"
        for read in (check_all, read_all):  # without a look at the shards first
            with pytest.raises(DamageError):
                read(prefix)


def test_a_shard_that_goes_on_is_read(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    good = b.content(prefix)
    with open(b.shard_file(prefix), "ab") as file:
        file.write(b"what a crash left")
    assert b.content(prefix) == good


@given(st.data())
@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_random_damage(tmp_path: Path, data: st.DataObject) -> None:
    """Flip, cut, insert and move; then make the checksums right again, or not."""
    raw = bytearray(GOOD[:-48])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        with_ = data.draw(st.binary(max_size=12))
        raw[at : at + data.draw(st.integers(0, 12))] = with_
    block = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    index = b.table([(b"x", block)]) if data.draw(st.booleans()) else bytes(raw) + GOOD[-48:]
    with b.bounded():
        found = b.outcome(damaged_index(tmp_path, index))
    assert isinstance(found, CkptctlError) or list(found) == ["", "x"]


# The index as a file


def test_an_index_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "m.index").mkdir()
    failure(str(tmp_path / "m"), RefusedError, file=str(tmp_path / "m.index"))


def test_an_index_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.index")  # a plain open would wait for ever
    failure(str(tmp_path / "m"), RefusedError, file=str(tmp_path / "m.index"))


def test_an_index_that_is_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("m.index")
        failure("m", RefusedError, file="m.index")


def test_an_index_that_is_a_device(tmp_path: Path) -> None:
    (tmp_path / "m.index").symlink_to("/dev/zero")
    failure(str(tmp_path / "m"), RefusedError, file=str(tmp_path / "m.index"))


def test_an_index_that_is_a_loop(tmp_path: Path) -> None:
    (tmp_path / "m.index").symlink_to("m.index")
    error = failure(str(tmp_path / "m"), RefusedError, file=str(tmp_path / "m.index"))
    assert "symbolic link" in error.message


def test_an_index_that_points_nowhere(tmp_path: Path) -> None:
    (tmp_path / "m.index").symlink_to("elsewhere")
    failure(str(tmp_path / "m"), NotFoundError, file=str(tmp_path / "m.index"))


@pytest.mark.parametrize("name", ["m\0", "m" * 5000, "no/such/m"])
def test_an_index_that_cannot_be(tmp_path: Path, name: str) -> None:
    failure(str(tmp_path / name), NotFoundError, file=f"{tmp_path / name}.index")


def test_an_index_that_may_not_be_read(tmp_path: Path) -> None:
    prefix = damaged_index(tmp_path, GOOD)
    os.chmod(f"{prefix}.index", 0)
    with as_nobody():
        failure(prefix, RefusedError, file=f"{prefix}.index", message="may not read the file")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody to whom modes mean something."""
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)


@pytest.mark.parametrize("size", [1 << 40, (1 << 31) - 1])
def test_a_huge_hole_for_an_index(tmp_path: Path, size: int) -> None:
    """Neither read nor mapped: only its footer is looked at, if that."""
    path = tmp_path / "m.index"
    path.touch()
    os.truncate(path, size)
    error_class = FooterError if size > 1 << 31 else MagicError
    failure(str(tmp_path / "m"), error_class, file=str(path))


def test_a_hole_with_a_footer(tmp_path: Path) -> None:
    """One block of 2 GB: the footer is right, and nobody reads what it claims."""
    path = tmp_path / "m.index"
    path.touch()
    size = (1 << 31) - 1
    os.truncate(path, size - 48)
    with open(path, "ab") as file:
        file.write(b.footer(b.handle(0, 8), b.handle(13, size - 48 - 5 - 13)))
    error = failure(str(tmp_path / "m"), BlockFormatError, file=str(path), offset=13)
    assert error.message == "index block absurdly long"


def test_an_index_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shrinking(LocalStorage):
        def open(self, path: str):
            file = super().open(path)
            os.truncate(path, file.size - 10)
            return file

    damaged_index(tmp_path, GOOD)
    with pytest.raises(ChangedError) as caught:
        IndexTable(str(tmp_path / "forged.index"), Shrinking())
    assert (caught.value.expected, caught.value.found) == (
        f"{len(GOOD)} bytes",
        f"{len(GOOD) - 10} bytes",
    )


# The index as a table


def block_case(change: Callable[[bytes], bytes]) -> bytes:
    return b.table([(b"x", change(BLOCK))])


def raw_entry(shared: int, fresh: int, value: int, rest: bytes = b"") -> bytes:
    """Return a block of one entry whose lengths say what they like."""
    lengths = b.varint(shared) + b.varint(fresh) + b.varint(value)
    return lengths + rest + struct.pack("<II", 0, 1)


def patched(offset: int, data: bytes) -> bytes:
    return GOOD[:offset] + data + GOOD[offset + len(data) :]


META_AT = len(BLOCK) + 5
INDEX_AT = META_AT + 8 + 5
FOOTER_AT = len(GOOD) - 48
INDEX_LENGTH = FOOTER_AT - 5 - INDEX_AT
UINT32 = struct.Struct("<I").pack

TABLES = {
    "magic": (patched(len(GOOD) - 8, b"\0"), MagicError, len(GOOD) - 8, "bad magic"),
    "longer varint in the footer": (
        patched(FOOTER_AT, b.varint(META_AT)[:-1] + bytes([META_AT & 0x7F | 0x80, 0])),
        FooterError,
        FOOTER_AT,
        "nobody writes",
    ),
    "varint in the footer": (patched(FOOTER_AT, b"\xff" * 40), FooterError, FOOTER_AT, "64 bits"),
    "handle past the end": (
        GOOD[:FOOTER_AT] + b.footer(b.handle(META_AT, 8), b.handle(INDEX_AT, 1 << 50)),
        FooterError,
        FOOTER_AT,
        "past the end",
    ),
    "handle one too long": (
        GOOD[:FOOTER_AT] + b.footer(b.handle(META_AT, 8), b.handle(INDEX_AT, INDEX_LENGTH + 1)),
        FooterError,
        FOOTER_AT,
        "past the end",
    ),
    "footer padding": (patched(len(GOOD) - 9, b"\1"), FooterError, FOOTER_AT + 4, "padding"),
    "block checksum": (patched(3, b"!"), BlockChecksumError, 0, "does not match"),
    "checksum of the index block": (patched(INDEX_AT, b"!"), BlockChecksumError, INDEX_AT, "match"),
    "checksum of the meta block": (patched(META_AT, b"!"), BlockChecksumError, META_AT, "match"),
    "compression": (b.table([(b"x", BLOCK)], kind=9), CompressedBlockError, len(BLOCK), "unknown"),
    "no restart points": (block_case(lambda d: d[:-4] + UINT32(0)), BlockFormatError, 0, "0 rest"),
    "restart points": (
        block_case(lambda d: d[:-4] + UINT32(2**32 - 1)),
        BlockFormatError,
        0,
        "429",
    ),
    "restart point outside": (
        block_case(lambda d: d[:-8] + struct.pack("<III", 0, 1 << 31, 2)),
        BlockFormatError,
        0,
        "past the end",
    ),
    "first restart point": (
        block_case(lambda d: d[:-8] + struct.pack("<II", 3, 1)),
        BlockFormatError,
        0,
        "not 0",
    ),
    "restart points descend": (
        block_case(lambda d: d[:-8] + struct.pack("<IIII", 0, 9, 8, 3)),
        BlockFormatError,
        0,
        "ascend",
    ),
    "empty block": (block_case(lambda _: b""), BlockFormatError, 0, "too short"),
    "short block": (block_case(lambda _: b"\0" * 7), BlockFormatError, 0, "too short"),
    "key from nowhere": (block_case(lambda _: raw_entry(1, 0, 0)), BlockFormatError, 0, "past"),
    "key of 2^63 bytes": (
        block_case(lambda _: raw_entry(0, 1 << 63, 0)),
        BlockFormatError,
        0,
        "past the end",
    ),
    "value of 2^63 bytes": (
        block_case(lambda _: raw_entry(0, 1, 1 << 63, b"k")),
        BlockFormatError,
        0,
        "past the end",
    ),
    "varint of 11 bytes": (
        block_case(lambda _: b"\xff" * 11 + struct.pack("<II", 0, 1)),
        BlockFormatError,
        0,
        "64 bits",
    ),
    "duplicate key": (
        block_case(lambda _: b.block([(b"", b.header()), ENTRY, ENTRY])),
        KeyOrderError,
        0,
        "duplicate",
    ),
    "keys descend": (
        block_case(lambda _: b.block([(b"", b.header()), (b"y", ENTRY[1]), ENTRY])),
        KeyOrderError,
        0,
        "ascend",
    ),
    "separators descend": (
        b.table([(b"z", BLOCK), (b"a", b.block([(b"a", b"")]))]),
        KeyOrderError,
        len(BLOCK) + 5 + len(b.block([(b"a", b"")])) + 5 + 8 + 5,
        "ascend",
    ),
    "block above its separator": (b.table([(b"a", BLOCK)]), KeyOrderError, 0, "outside its sep"),
    "block below its separator": (
        b.table([(b"y", b.block([(b"", b.header())])), (b"z", b.block([ENTRY]))]),
        KeyOrderError,
        len(b.block([(b"", b.header())])) + 5,
        "outside its separators",
    ),
    "handle that is none": (
        b.table([(b"x", BLOCK)], change_handles=lambda _: [b"\xff"]),
        BlockFormatError,
        INDEX_AT,
        "past the end",
    ),
    "a block twice": (
        b.table([(b"x", BLOCK), (b"y", BLOCK)], change_handles=lambda h: [h[0], h[0]]),
        BlockFormatError,
        0,
        "overlap",
    ),
    "the index block as a block": (
        b.table([(b"x", BLOCK)], change_handles=lambda _: [b.handle(INDEX_AT, 13)]),
        BlockFormatError,
        META_AT,
        "overlap",
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_contradicts_itself(tmp_path: Path, case: str) -> None:
    data, error_class, offset, words = TABLES[case]
    prefix = damaged_index(tmp_path, data)
    error = failure(prefix, error_class, file=f"{prefix}.index", offset=offset)
    assert words in error.message


def test_the_cases_are_next_to_a_table_that_is_right(tmp_path: Path) -> None:
    assert list(b.content(damaged_index(tmp_path, GOOD))) == ["", "x"]


def test_checksums_are_named(tmp_path: Path) -> None:
    prefix = damaged_index(tmp_path, patched(3, b"!"))
    error = failure(prefix, BlockChecksumError)
    assert str(error.expected).startswith("crc32c 0x")
    assert str(error.found).startswith("0x")
    assert "crc32c " + str(error.found) != error.expected


def test_a_handle_that_points_anywhere(tmp_path: Path) -> None:
    right = b.handle(0, len(BLOCK))
    for offset in range(0, len(GOOD) + 9, 3):
        for length in (0, 7, 8, len(BLOCK), len(BLOCK) + 5, len(GOOD), 1 << 40, (1 << 64) - 1):
            points = b.handle(offset, length)
            data = b.table([(b"x", BLOCK)], change_handles=lambda _, h=points: [h])
            if points != right:
                with b.bounded():
                    found = b.outcome(damaged_index(tmp_path, data))
                assert isinstance(found, DamageError), (offset, length)


def test_many_handles_of_one_block_without_entries(tmp_path: Path) -> None:
    """A megabyte of restart points a hundred thousand times would take a day."""
    points = b.block([], [0] * 250_000)
    names = [(b"%06d" % at, points if at == 0 else b.block([])) for at in range(100_000)]
    data = b.table(names, change_handles=lambda handles: [handles[0]] * len(handles))
    prefix = damaged_index(tmp_path, data)
    with b.bounded(seconds=3):
        error = b.outcome(prefix)
    assert isinstance(error, BlockFormatError)
    assert "overlap" in error.message


def test_a_million_restart_points(tmp_path: Path) -> None:
    data = b.block([(b"", b.header()), ENTRY], [0] * 1_000_000)
    prefix = damaged_index(tmp_path, b.table([(b"x", data)]))
    with b.bounded():
        assert list(b.content(prefix)) == ["", "x"]


def test_a_long_key_shared_by_many(tmp_path: Path) -> None:
    """Three megabytes that would be 300 GB of keys."""
    head = b"\0" + b.varint(1 << 20) + b"\1" + b"k" * (1 << 20) + b"v"
    data = head + b"".join(
        b.varint(1 << 20) + b"\3\0" + at.to_bytes(3, "big") for at in range(300_000)
    )
    start = b.block([(b"", b.header())])[:-8]
    whole = start + data + struct.pack("<II", 0, 1)
    prefix = damaged_index(tmp_path, b.table([(b"l", whole)]))
    assert "absurdly long" in failure(prefix, BlockFormatError).message


# The header

HEADERS = {
    "none": (None, HeaderError, None, None),
    "empty": (b"", HeaderError, "1 to 99999", 0),
    "garbage": (b"\xff" * 9, HeaderError, None, None),
    "no shards": (b.header(0), HeaderError, "1 to 99999", 0),
    "fewer than none": (b.header(-1), HeaderError, "1 to 99999", -1),
    "most": (b.header((1 << 31) - 1), HeaderError, "1 to 99999", (1 << 31) - 1),
    "big-endian": (
        b.header(endianness=1),
        EndiannessError,
        "little-endian data",
        "endianness 1",
    ),
    "newer": (
        b.header(min_consumer=2),
        HeaderError,
        "readable by version 1",
        "min_consumer 2",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header(tmp_path: Path, case: str) -> None:
    head, error_class, expected, found = HEADERS[case]
    pairs = [(b"", head), ENTRY] if head is not None else [ENTRY]
    prefix = damaged_index(tmp_path, b.table([(b"x", b.block(pairs))]))
    failure(prefix, error_class, file=f"{prefix}.index", expected=expected, found=found)


def test_a_hundred_thousand_shards_that_are_not_there(tmp_path: Path) -> None:
    prefix = b.forge(tmp_path, [ENTRY], head=b.header(99_999))
    error = failure(prefix, MissingShardError, file=f"{prefix}.data-00000-of-99999")
    assert error.found == "no such file"
    with BundleReader(prefix) as reader, b.bounded():
        assert len(reader.shard_needs()) == 99_999


# Entries


def of_rank(rank: int, size: int = 1, **more: object) -> bytes:
    return b.entry(b.FLOAT, (size,) * rank, **more)


UNKNOWN_RANK = b.field(1, b.FLOAT) + b.field(2, b.field(3, 1)) + b.field(5, 4)
ENTRIES = {
    "garbage": (b"\xff\xff\xff", EntryError, "does not parse", None),
    "cut": (ENTRY[1][:-3], EntryError, "does not parse", None),
    "no dtype": (b.entry(0, (2,), size=8), EntryError, "unknown dtype", 0),
    "resource": (b.entry(20, (2,), size=8), EntryError, "unknown dtype", 20),
    "reference": (b.entry(101, (2,), size=8), EntryError, "unknown dtype", 101),
    "negative dtype": (b.entry(-1, (2,), size=8), EntryError, "unknown dtype", -1),
    "negative dimension": (b.entry(dims=(-2,)), EntryError, "shape", "1 dimensions: [-2]"),
    "two of them": (b.entry(dims=(-2, -1), size=8), EntryError, "shape", "2 dimensions: [-2,-1]"),
    "rank 300": (
        of_rank(300, size=1),
        EntryError,
        "shape",
        "300 dimensions: [1,1,1,1,1,1,1,1,...]",
    ),
    "unknown rank": (UNKNOWN_RANK, EntryError, "shape", "unknown rank: []"),
    "2^63 elements": (
        b.entry(dims=(1 << 32, 1 << 31)),
        EntryError,
        "shape",
        f"2 dimensions: [{1 << 32},{1 << 31}]",
    ),
    "10^4800 elements": (
        of_rank(254, (1 << 63) - 1),
        EntryError,
        "shape",
        f"254 dimensions: [{','.join([str((1 << 63) - 1)] * 8)},...]",
    ),
    "too small": (b.entry(dims=(2,), size=7), ShapeSizeError, "does not fit", "7 bytes"),
    "too large": (b.entry(dims=(2,), size=9), ShapeSizeError, "does not fit", "9 bytes"),
    "2^60 in a byte": (b.entry(dims=(1 << 60,), size=1), ShapeSizeError, "not fit", "1 bytes"),
    "strings": (b.entry(b.STRING, (9,), size=12), ShapeSizeError, "not fit", "12 bytes"),
    "2^60 strings": (b.entry(b.STRING, (1 << 60,), size=8), ShapeSizeError, "not fit", "8 bytes"),
    "variants": (b.entry(b.VARIANT, (2,), size=9), ShapeSizeError, "not fit", "9 bytes"),
    "shard 1 of 1": (b.entry(dims=(2,), size=8, shard=1), EntryError, "does not count", 1),
    "shard -1": (b.entry(dims=(2,), size=8, shard=-1), EntryError, "does not count", -1),
    "negative offset": (
        b.entry(dims=(2,), size=8, offset=-1),
        EntryError,
        "impossible offset",
        "offset -1, size 8",
    ),
    "negative size": (
        b.entry(dims=(2,), size=-8),
        EntryError,
        "impossible offset",
        "offset 0, size -8",
    ),
    "past 2^63": (
        b.entry(dims=(2,), size=8, offset=(1 << 63) - 1),
        EntryError,
        "impossible offset",
        f"offset {(1 << 63) - 1}, size 8",
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry(tmp_path: Path, case: str) -> None:
    raw, error_class, words, found = ENTRIES[case]
    prefix = b.forge(tmp_path, [(b"x", raw)], b"12345678")
    error = failure(prefix, error_class, file=f"{prefix}.index", tensor="x", found=found)
    assert words in error.message


def test_a_million_dimensions(tmp_path: Path) -> None:
    raw = b.field(1, b.FLOAT) + b.field(2, b.field(2, b"") * 1_000_000) + b.field(5, 4)
    prefix = b.forge(tmp_path, [(b"x", raw)], b"1234")
    assert str(failure(prefix, EntryError, tensor="x").found).startswith("1000000 dimensions")


HUGE = {
    "fixed": b.entry(b.FLOAT, (1 << 30, 1 << 30), size=1 << 62),
    "strings": b.entry(b.STRING, (1 << 60,), size=(1 << 60) + 4),
    "variants": b.entry(b.VARIANT, (1 << 60,), size=5 << 60),
    "nothing": b.entry(b.FLOAT, (0, 1 << 60), offset=1 << 62),
}


@pytest.mark.parametrize("case", HUGE)
def test_two_to_the_60_elements(tmp_path: Path, case: str) -> None:
    """Shape and size agree, and the shard has eight bytes."""
    prefix = b.forge(tmp_path, [(b"x", HUGE[case])], b"12345678")
    shard = f"{prefix}.data-00000-of-00001"
    error = failure(prefix, EntryBoundsError, file=shard, tensor="x", found="8 bytes")
    with BundleReader(prefix) as reader, b.bounded():
        entry = reader.entry("x")
        assert error.expected == f">= {entry.end} bytes in the shard"
        with pytest.raises(EntryBoundsError):
            reader.check_tensor("x", entry)
        with pytest.raises(RefusedError if case == "variants" else EntryBoundsError):
            reader.read("x")


def test_two_to_the_60_elements_in_slices(tmp_path: Path) -> None:
    half = 1 << 59
    boxes = [[(0, half)], [(half, half)]]
    data = b.entry(b.FLOAT, (half,), size=half * 4)
    pairs = [(b.slice_key("x", box), data) for box in boxes]
    prefix = b.forge(tmp_path, [*pairs, (b"x", b.entry(dims=(half * 2,), slices=boxes))], b"1234")
    failure(prefix, EntryBoundsError, tensor="x", found="4 bytes")
    with BundleReader(prefix) as reader, b.bounded(), pytest.raises(EntryBoundsError):
        reader.read("x")


def test_two_to_the_60_elements_of_which_few_are_there(tmp_path: Path) -> None:
    box = [(0, 1)]
    pairs = [
        (b.slice_key("x", box), b.of_data(b.FLOAT, (1,), b"1234")),
        (b"x", b.entry(dims=(1 << 60,), slices=[box])),
    ]
    error = failure(b.forge(tmp_path, pairs, b"1234"), EntryError, tensor="x", found="1")
    assert (error.message, error.expected) == (
        "slices do not cover their tensor",
        f"{1 << 60} elements",
    )


def test_two_to_the_60_elements_in_a_hash_table(tmp_path: Path) -> None:
    raw = b.entry(b.FLOAT, (1 << 60,), more=b.field(100, 1))
    prefix = b.forge(tmp_path, [(b"x", raw)], b"1234")
    with BundleReader(prefix) as reader, b.bounded(), pytest.raises(RefusedError) as caught:
        reader.read("x")
    assert caught.value.tensor == "x"
    with BundleReader(prefix) as reader, pytest.raises(EntryError, match="owns no bytes"):
        reader.check_tensor("x", reader.entry("x"))


@pytest.mark.parametrize("dims", [(0, 1 << 62), (1 << 62, 1 << 62, 0), (1,) * 65])
def test_shapes_that_numpy_lacks(tmp_path: Path, dims: tuple[int, ...]) -> None:
    """TensorFlow stores them, and they are merged and checked like any other."""
    data = b"" if 0 in dims else b"1234"
    prefix = b.forge(tmp_path, [(b"x", b.of_data(b.FLOAT, dims, data))], data)
    with BundleReader(prefix) as reader, b.bounded():
        reader.check_tensor("x", reader.entry("x"))
        with pytest.raises(RefusedError, match="NumPy") as caught:
            reader.read("x")
    assert (caught.value.file, caught.value.tensor) == (f"{prefix}.index", "x")


# Slices


def sliced(*boxes: b.Box, dims: tuple[int, ...] = (4,), stored: object = None) -> list:
    """Return the pairs of a sliced float tensor; all slices lie over each other in shard 0."""
    pairs = []
    for box in boxes if stored is None else stored:
        size = tuple(n if n >= 0 else dims[axis] for axis, (_, n) in enumerate(box))
        data = b"\0" * (4 * int(np.prod(size)))
        pairs.append((b.slice_key("x", box), b.of_data(b.FLOAT, size, data)))
    return [*sorted(pairs), (b"x", b.entry(dims=dims, slices=boxes))]


LEFT, RIGHT, MIDDLE = [(0, 2)], [(2, 2)], [(1, 2)]
OTHER_SHAPE = (b.slice_key("x", RIGHT), b.of_data(b.FLOAT, (1,), b"\0" * 4))
OTHER_DTYPE = (b.slice_key("x", RIGHT), b.of_data(b.INT32, (2,), b"\0" * 8))
IN_SLICES = (b.slice_key("x", RIGHT), b.entry(dims=(2,), offset=-9, shard=7, slices=[[(0, 2)]]))
SLICES = {
    "beyond": (sliced(LEFT, [(3, 2)]), "outside its tensor", "3,2"),
    "before": (sliced([(-1, 2)]), "outside its tensor", "-1,2"),
    "absurd": (sliced([(0, 1 << 62)], stored=[]), "outside its tensor", f"0,{1 << 62}"),
    "other rank": (sliced([(0, 2), (0, 1)], stored=[]), "outside its tensor", "0,2:0,1"),
    "a part of the whole": (sliced([(3, -1)], stored=[]), "outside its tensor", "3,-1"),
    "no rank": (sliced([], stored=[]), "outside its tensor", ""),
    "overlap": (sliced(LEFT, MIDDLE, RIGHT), "slices overlap", "0,2 and 1,2"),
    "twice": (sliced(LEFT, LEFT, stored=[LEFT]), "slices overlap", "0,2 and 0,2"),
    "all and a part": (sliced([(0, -1)], RIGHT), "slices overlap", "- and 2,2"),
    "scalar twice": (sliced([], [], dims=(), stored=[[]]), "slices overlap", " and "),
    "no data": (sliced(LEFT, RIGHT, stored=[LEFT]), "its data not in the index", "none"),
    "a gap": (sliced(LEFT, [(3, 1)]), "do not cover", "3"),
    "orphan": (sliced(LEFT, RIGHT)[:2], "no tensor lists", "slice 0,2"),
    "not listed": (sliced(LEFT, stored=[LEFT, RIGHT]), "no tensor lists", "slice 2,2"),
    "other shape": (
        [*sliced(LEFT)[:1], OTHER_SHAPE, *sliced(LEFT, RIGHT)[2:]],
        "does not fit its tensor",
        "float32 [1]",
    ),
    "other dtype": (
        [*sliced(LEFT)[:1], OTHER_DTYPE, *sliced(LEFT, RIGHT)[2:]],
        "does not fit its tensor",
        "int32 [2]",
    ),
    "slices of slices": (
        [*sliced(LEFT)[:1], IN_SLICES, *sliced(LEFT, RIGHT)[2:]],
        "owns no bytes",
        "1 slices",
    ),
}


@pytest.mark.parametrize("case", SLICES)
def test_slices(tmp_path: Path, case: str) -> None:
    pairs, words, found = SLICES[case]
    prefix = b.forge(tmp_path, pairs, b"\0" * 64)
    error = failure(prefix, EntryError, file=f"{prefix}.index", tensor="x", found=found)
    assert words in error.message


@pytest.mark.parametrize(
    "boxes", [[LEFT, RIGHT], [RIGHT, LEFT], [[(0, -1)]], [LEFT, RIGHT, [(1, 0)]]]
)
def test_slices_that_are_right(tmp_path: Path, boxes: list[b.Box]) -> None:
    prefix = b.forge(tmp_path, sliced(*boxes), b"\0" * 64)
    assert b.content(prefix)["x"][4] == b"\0" * 16


def test_overlaps_along_two_axes(tmp_path: Path) -> None:
    """A wheel that no plane cuts, whole and with one sail too long."""
    wheel = [
        [(0, 1), (0, 2)],
        [(0, 2), (2, 1)],
        [(2, 1), (1, 2)],
        [(1, 2), (0, 1)],
        [(1, 1), (1, 1)],
    ]
    assert (
        b.content(b.forge(tmp_path, sliced(*wheel, dims=(3, 3)), b"\0" * 64))["x"][4] == b"\0" * 36
    )
    wheel[0] = [(0, 1), (0, 3)]
    prefix = b.forge(tmp_path, sliced(*wheel, dims=(3, 3)), b"\0" * 64)
    failure(prefix, EntryError, message="slices overlap", tensor="x")


@pytest.mark.parametrize("count", [32_768, 32_769])
def test_very_many_slices(tmp_path: Path, count: int) -> None:
    raw = b.entry(dims=(count,), slices=[[(at, 1)] for at in range(count)])
    prefix = b.forge(tmp_path, [(b"x", raw)])
    if count == 32_768:
        with b.bounded(seconds=3), BundleReader(prefix) as reader:
            assert len(reader.entry("x").slices) == count
    else:
        assert "many slices" in failure(prefix, EntryError, found=count).message


def spiral(turns: int) -> list[b.Box]:
    """Each sail touches the next, so that one plane after the other parts a single one."""
    boxes, low, high = [], 0, 2 * turns + 2
    for at in range(turns):
        boxes += [[(at, 1), (low, high - low)], [(at + 1, high - low), (high - 1, 1)]]
        low, high = low + 1, high - 1
    return boxes


def wheel_around(count: int) -> list[b.Box]:
    """Four sails that no plane gets past, and a square of small boxes in between."""
    size = count + 1
    sails = [
        [(0, 1), (0, size)],
        [(0, size), (size, 1)],
        [(size, 1), (1, size)],
        [(1, size), (0, 1)],
    ]
    return sails + [
        [(1 + row, 1), (1 + column, 1)] for row in range(count) for column in range(count)
    ]


@pytest.mark.parametrize("boxes", [spiral(1500), wheel_around(45)], ids=["spiral", "wheel"])
def test_slices_that_take_long_to_tell_apart(tmp_path: Path, boxes: list[b.Box]) -> None:
    """Nobody cuts a tensor so, and nobody shall wait for it."""
    prefix = b.forge(tmp_path, [(b"x", b.entry(dims=(9000, 9000), slices=boxes))])
    assert "absurd way" in failure(prefix, EntryError, seconds=3, tensor="x").message


@pytest.mark.parametrize(
    "key",
    [
        b"\0",
        b"\0x",
        b"\0x\0\1",
        b"\0x\0\1\1\1",
        b"\0x\0\1\1\1\x80",
        b"\0x\0\1\1\xff",
        b"\0\0\2",
        b"\0\xff\1",
        b.slice_key("x", [(0, 1)]) + b"!",
    ],
)
def test_keys_that_are_of_no_slice(tmp_path: Path, key: bytes) -> None:
    prefix = b.forge(tmp_path, [(key, ENTRY[1])], b"12345678")
    failure(prefix, EntryError, file=f"{prefix}.index", found=repr(key))
    with BundleReader(prefix) as reader:
        assert reader.get(key.decode("utf-8", "surrogateescape")) is None


# Data


def test_a_missing_shard(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    gone = b.shard_file(prefix, 1)
    gone.unlink()
    error = failure(prefix, MissingShardError, file=str(gone), found="no such file")
    assert str(error.expected).startswith("2 shards, this one of >= ")
    with BundleReader(prefix) as reader, pytest.raises(MissingShardError) as caught:
        reader.read("half")
    assert caught.value.file == str(gone)


def test_a_shard_of_nothing_must_be_there_too(tmp_path: Path) -> None:
    """DeepRec's empty shards make no file of their own, and no PS restores the bundle."""
    prefix = b.forge(tmp_path, [ENTRY], b"12345678", b"")
    assert list(b.content(prefix)) == ["", "x"]
    b.shard_file(prefix, 1).unlink()
    failure(prefix, MissingShardError, file=str(b.shard_file(prefix, 1)))


@pytest.mark.parametrize("kind", ["directory", "pipe", "loop"])
def test_a_shard_that_is_no_file(tmp_path: Path, kind: str) -> None:
    prefix = b.forge(tmp_path, [ENTRY])
    path = Path(f"{prefix}.data-00000-of-00001")
    {"directory": Path.mkdir, "pipe": os.mkfifo, "loop": lambda p: p.symlink_to(p)}[kind](path)
    found = "no such file" if kind == "loop" else "not a regular file"
    failure(prefix, MissingShardError, file=str(path), found=found)
    with BundleReader(prefix) as reader, b.bounded(), pytest.raises(RefusedError):
        reader.read("x")


@pytest.mark.parametrize("read", ["read", "check_tensor"])
def test_a_shard_that_shrinks_while_it_is_read(tmp_path: Path, read: str) -> None:
    prefix = b.forge(tmp_path, [ENTRY], b"12345678")
    with BundleReader(prefix) as reader:
        reader.read("x")  # now it is open
        os.truncate(f"{prefix}.data-00000-of-00001", 3)
        more = (reader.entry("x"),) if read == "check_tensor" else ()
        with pytest.raises(EntryBoundsError) as caught:
            getattr(reader, read)("x", *more)
    assert (caught.value.tensor, caught.value.expected) == ("x", ">= 8 bytes in the shard")


def test_a_wrong_tensor_checksum(tmp_path: Path) -> None:
    prefix = b.forge(tmp_path, [ENTRY], b"1234567!")
    error = failure(
        prefix,
        TensorChecksumError,
        file=f"{prefix}.data-00000-of-00001",
        tensor="x",
        offset=0,
    )
    assert str(error.expected).endswith(" of 8 bytes")
    assert str(error.found).startswith("0x")


def test_a_wrong_checksum_of_nothing(tmp_path: Path) -> None:
    prefix = b.forge(tmp_path, [(b"x", b.entry(dims=(0,), crc=1))], b"")
    failure(prefix, TensorChecksumError, tensor="x", found="0x00000000")


def lengths_crc(*lengths: int) -> bytes:
    return UINT32(b.masked(b"".join(map(UINT32, lengths))))


def strings(lengths: bytes, checksum: bytes, body: bytes, dims: tuple[int, ...] = (2,)) -> tuple:
    return (b.STRING, dims, lengths + checksum + body)


STRINGS = {
    "longer than the rest": (strings(b"\1\x7f", lengths_crc(1, 127), b"ab"), "add up to 128"),
    "2^63 bytes": (strings(b.varint(1 << 63) + b"\1", b"1234", b"ab"), "add up to"),
    "varint of 11 bytes": (strings(b"\xff" * 11, b"1234", b"ab"), "64 bits"),
    "shorter than the rest": (strings(b"\1\1", lengths_crc(1, 1), b"abc"), "1 bytes after"),
    "no room for the checksum": (strings(b"\x81\0\x81", b"", b"\0ab"), "ends early"),
    "lengths without an end": (strings(b"\x80" * 6, b"", b""), "past the end"),
    "nothing, but bytes": (strings(b"", lengths_crc(), b"abc", (0,)), "3 bytes after"),
}


@pytest.mark.parametrize("case", STRINGS)
def test_strings(tmp_path: Path, case: str) -> None:
    (dtype, dims, data), words = STRINGS[case]
    prefix = b.forge(tmp_path, [(b"x", b.of_data(dtype, dims, data))], data)
    shard = f"{prefix}.data-00000-of-00001"
    error = failure(prefix, StringTensorError, file=shard, tensor="x", offset=0)
    assert words in error.message
    with BundleReader(prefix) as reader, b.bounded(), pytest.raises(StringTensorError):
        reader.check_tensor("x", reader.entry("x"))


@pytest.mark.parametrize("what", ["lengths", "tensor"])
def test_checksums_of_strings(tmp_path: Path, what: str) -> None:
    data = b"\1\1" + lengths_crc(1, 1 if what == "tensor" else 2) + b"ab"
    prefix = b.forge(tmp_path, [(b"x", b.of_data(b.STRING, (2,), data))], data)
    error = failure(prefix, TensorChecksumError, tensor="x", offset=0)
    assert error.message == f"checksum of the {what} does not match"


VARIANTS = {
    "longer than the rest": (b"\x10abcd1234", StringTensorError, "element of 16 bytes"),
    "varint of 11 bytes": (b"\xff" * 11, StringTensorError, "64 bits"),
    "checksum": (b"\4abcd1234", TensorChecksumError, "of an element"),
    "no room for the checksum": (b"\6abcdef1", StringTensorError, "ends early"),
}


@pytest.mark.parametrize("case", VARIANTS)
def test_variants(tmp_path: Path, case: str) -> None:
    data, error_class, words = VARIANTS[case]
    prefix = b.forge(tmp_path, [(b"x", b.of_data(b.VARIANT, (1,), data))], data)
    error = failure(prefix, error_class, tensor="x", offset=0)
    assert words in error.message


# The state file


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "names no checkpoint"),
        (b"\n\n", "names no checkpoint"),
        (b'all_model_checkpoint_paths: "a"', "names no checkpoint"),
        (b"\xff\xfe", "does not parse"),
        (b'model_checkpoint_path: "a', "does not parse"),
        (b'model_checkpoint_path: "\\377"', "does not parse"),
        (b'model_checkpoint_path: "\\ud800"', "does not parse"),
        (b'model_checkpoint_path: "a"\nmodel_checkpoint_path: "b"', "does not parse"),
        (b'model_checkpoint_path: "a"\nnew_field: 1', "does not parse"),
        (b"model_checkpoint_path: " + b"{" * 50_000, "does not parse"),
        (b"last_preserved_timestamp: " + b"9" * 50_000, "names no checkpoint"),
        (b"\0" * 4096, "does not parse"),
    ],
)
def test_a_state_file_that_is_none(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(data)
    with b.bounded(), pytest.raises(StateFileError, match=words) as caught:
        read_state(str(path))
    assert caught.value.file == str(path)
    # Without the file a trainer begins anew.
    assert caught.value.remedy.startswith('write it anew: model_checkpoint_path: "NAME"')


def test_a_huge_state_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.touch()
    os.truncate(path, 1 << 40)
    with b.bounded(), pytest.raises(StateFileError) as caught:
        read_state(str(path))
    assert caught.value.found == 1 << 40


def test_a_state_file_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "checkpoint")
    with b.bounded(), pytest.raises(RefusedError):
        read_state(str(tmp_path / "checkpoint"))


def test_nothing_stays_open(tmp_path: Path) -> None:
    """Errors in a constructor too leave no file behind."""
    prefix = b.build_bundle(tmp_path)
    shutil.copy(f"{prefix}.index", tmp_path / "cut.index")
    os.truncate(tmp_path / "cut.index", 100)
    for _ in range(50):
        assert isinstance(b.outcome(prefix), dict)
        assert isinstance(b.outcome(str(tmp_path / "cut")), MagicError)
        assert isinstance(b.outcome(str(tmp_path)), NotFoundError)
    assert held(tmp_path) == []
    assert LOCAL.stat(str(tmp_path)) is not None
