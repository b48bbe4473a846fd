"""The keys under which slices lie, next to those that TensorFlow writes."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptctl.bundle import BundleReader, BundleWriter, TensorSlice
from ckptctl.bundle.coding import (
    decode_ordered_number,
    decode_ordered_string,
    decode_signed,
    decode_varint,
    encode_ordered_number,
    encode_ordered_string,
    encode_signed,
    encode_varint,
)
from ckptctl.bundle.slices import decode_slice_key, encode_slice_key, find_overlap
from ckptctl.bundle.table import IndexTable
from ckptctl.storage import LOCAL
from tests.bundle import builders as b

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
UINT64 = st.integers(0, (1 << 64) - 1)
# Where codes grow by a byte, and where they change their form.
STARTS = sorted(
    {0, 1, (1 << 63) - 2}
    | {(1 << bits) + more for bits in (6, 13, 20, 27, 34, 41, 48, 55, 62) for more in (-1, 0, 1)}
)


def save(tf: ModuleType, prefix: Path, names: list[bytes], specs: list[str], tensors: list) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=tf.constant(names),
        shape_and_slices=tf.constant(specs),
        tensors=tensors,
    )


def keys_of(prefix: Path) -> list[bytes]:
    keys = [key for key, _ in IndexTable(f"{prefix}.index", LOCAL).items()]
    return [key for key in keys if key[:1] == b"\0"]


def test_starts_of_any_size(tf: ModuleType, tmp_path: Path) -> None:
    full = (1 << 63) - 1
    specs = [f"{full} 1 {start},1:-" for start in STARTS]
    save(tf, tmp_path / "m", [b"v"] * len(specs), specs, [tf.zeros((1, 1))] * len(specs))
    slices = [TensorSlice(((start, 1), (0, -1))) for start in STARTS]
    assert keys_of(tmp_path / "m") == sorted(encode_slice_key(b"v", s) for s in slices)
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.entry("v").slices == tuple(slices)
        assert [s for _, _, s, _ in reader.slice_keys()] == slices  # in order of their starts


def test_lengths_of_any_size(tf: ModuleType, tmp_path: Path) -> None:
    lengths = [1, 63, 64, 8191, 8192, 1 << 20]  # TensorFlow wants them positive
    specs = [f"1 {1 << 21} -:5,{length}" for length in lengths]
    names = [b"v%d" % at for at in range(len(lengths))]
    tensors = [tf.zeros((1, length), tf.bool) for length in lengths]
    save(tf, tmp_path / "m", names, specs, tensors)
    wanted = [
        encode_slice_key(name, TensorSlice(((0, -1), (5, length))))
        for name, length in zip(names, lengths, strict=True)
    ]
    assert keys_of(tmp_path / "m") == sorted(wanted)


@pytest.mark.parametrize(
    "name", [b"v", b"a/b:0", b"\xff", b"\xff\x00\x00\x01", b"a\x00", b"\x01", "größe".encode()]
)
def test_names_of_any_kind(tf: ModuleType, tmp_path: Path, name: bytes) -> None:
    save(tf, tmp_path / "m", [name], ["4 2 1,2:-"], [tf.zeros((2, 2))])
    slice_ = TensorSlice(((1, 2), (0, -1)))
    assert keys_of(tmp_path / "m") == [encode_slice_key(name, slice_)]
    assert decode_slice_key(encode_slice_key(name, slice_)) == (name, slice_)
    with BundleReader(str(tmp_path / "m")) as reader:
        found = name.decode("utf-8", "surrogateescape")
        assert reader.slice_entry(found, slice_).shape == (2, 2)


@pytest.mark.parametrize("spec", ["4 3 -:-", "4 3 0,4:-", "4 3 0,4:0,3"])
def test_a_slice_that_is_all(tf: ModuleType, tmp_path: Path, spec: str) -> None:
    """TensorFlow stores it as a plain tensor, and so do we."""
    box = [
        (0, -1) if part == "-" else tuple(map(int, part.split(","))) for part in spec[4:].split(":")
    ]
    save(tf, tmp_path / "theirs", [b"v"], [spec], [tf.ones((4, 3))])
    with BundleWriter(str(tmp_path / "ours")) as writer:
        writer.add_slice("v", (4, 3), TensorSlice(tuple(box)), np.ones((4, 3), "f4"))
    theirs, ours = (Path(tmp_path / f"{name}.index").read_bytes() for name in ("theirs", "ours"))
    assert ours == theirs
    assert keys_of(tmp_path / "ours") == []


def test_a_key_by_hand() -> None:
    slice_ = TensorSlice(((0, 2), (64, -1), (-65, 8192)))
    assert encode_slice_key(b"a\0b", slice_) == b"\0" + b"a\0\xffb\0\1" + b"\1\3" + bytes.fromhex(
        "80 82  c040 7f  3fbf e02000".replace(" ", "")
    )
    assert b.slice_key("a\0b", slice_.extents) == encode_slice_key(b"a\0b", slice_)


def test_the_examples_of_the_page() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "bundle-format.md").read_text()
    codes = {
        int(number): code for number, code in re.findall(r"\| (-?\d+) \| `([0-9a-f ]+)`", page)
    }
    assert len(codes) == 8
    for number, code in codes.items():
        assert encode_signed(number) == bytes.fromhex(code)
    key = bytes.fromhex(re.search("`emb` lies under `(.*)`", page)[1])
    assert encode_slice_key(b"emb", TensorSlice(((0, 2), (0, -1)))) == key


@given(st.binary(max_size=9), st.lists(st.tuples(INT64, INT64), max_size=5))
def test_keys_come_back(name: bytes, box: list[tuple[int, int]]) -> None:
    slice_ = TensorSlice(tuple(box))
    assert decode_slice_key(encode_slice_key(name, slice_)) == (name, slice_)


@given(st.binary(max_size=12))
def test_bytes_are_a_key_in_one_way_or_none(key: bytes) -> None:
    try:
        name, slice_ = decode_slice_key(b"\0" + key)
    except ValueError:
        return
    assert encode_slice_key(name, slice_) == b"\0" + key


@given(INT64, INT64)
def test_signed_numbers_are_ordered(one: int, other: int) -> None:
    assert decode_signed(encode_signed(one), 0) == (one, len(encode_signed(one)))
    assert (encode_signed(one) < encode_signed(other)) == (one < other)


@given(UINT64, UINT64)
def test_unsigned_numbers_are_ordered(one: int, other: int) -> None:
    code = encode_ordered_number(one)
    assert decode_ordered_number(b"." + code, 1) == (one, 1 + len(code))
    assert (code < encode_ordered_number(other)) == (one < other)


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_strings_are_ordered(one: bytes, other: bytes) -> None:
    code = encode_ordered_string(one)
    assert decode_ordered_string(code + b"more", 0) == (one, len(code))
    assert (code < encode_ordered_string(other)) == (one < other)


@given(UINT64)
def test_varints_come_back(value: int) -> None:
    code = encode_varint(value)
    assert code == b.varint(value)
    assert decode_varint(b"." + code, 1) == (value, 1 + len(code))
    with pytest.raises(ValueError, match="past the end"):
        decode_varint(code[:-1], 0)


BOX = st.tuples(st.integers(0, 5), st.integers(0, 3))


@given(st.lists(st.tuples(BOX, BOX, BOX), max_size=9))
def test_overlaps_are_those_of_a_drawing(boxes: list[tuple[tuple[int, int], ...]]) -> None:
    canvas = np.zeros((8, 8, 8), int)
    for box in boxes:
        canvas[tuple(slice(start, start + length) for start, length in box)] += 1
    pair = find_overlap([TensorSlice(box) for box in boxes], canvas.shape)
    assert (pair is not None) == (canvas.max() > 1)
    if pair is not None:
        own = np.zeros((2, 8, 8, 8), bool)
        for at, slice_ in enumerate(pair):
            own[(at, *(slice(start, start + n) for start, n in slice_.extents))] = True
        assert own.all(axis=0).any()
