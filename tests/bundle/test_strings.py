"""String tensors: lengths, two checksums, bytes; next to what TensorFlow writes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl.bundle import BundleReader, BundleWriter
from ckptctl.bundle.strings import encode_strings
from ckptctl.errors import EntryError
from tests.bundle import builders as b


def objects(items: list[bytes], shape: tuple[int, ...] | None = None) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array if shape is None else array.reshape(shape)


def forge_strings(tmp_path: Path, items: list[bytes], dims: tuple[int, ...]) -> str:
    """Write a string tensor with the encoder, under an entry made by hand."""
    data, crc = encode_strings(items)
    entry = b.entry(b.STRING, dims, size=len(data), crc=crc)
    return b.forge(tmp_path, [(b"x", entry)], data)


def check(prefix: str) -> None:
    with BundleReader(prefix) as reader:
        reader.check_tensor("x", reader.entry("x"))


@pytest.mark.parametrize(
    ("items", "dims"),
    [
        ([b"one"], ()),
        ([b""], ()),
        ([], (0,)),
        ([], (3, 0)),
        ([b"", b"\0", b"\xff" * 127, b"a" * 128, b"b" * 16_384, b"c" * 200_000], (2, 3)),
        ([b"%d" % at for at in range(30_000)], (30_000,)),
    ],
    ids=["scalar", "empty", "none", "none of 3", "long", "many"],
)
def test_as_tensorflow_writes_them(
    tf: ModuleType, tmp_path: Path, items: list[bytes], dims: tuple[int, ...]
) -> None:
    tensor = tf.reshape(tf.constant(items, tf.string, shape=[len(items)]), dims)
    theirs = tmp_path / "theirs"
    tf.raw_ops.SaveV2(
        prefix=str(theirs), tensor_names=["x"], shape_and_slices=[""], tensors=[tensor]
    )
    data, crc = encode_strings(items)
    with BundleReader(str(theirs)) as reader:
        entry = reader.entry("x")
        assert (entry.size, entry.crc, entry.shape) == (len(data), crc, dims)
        assert reader.data_file("x", entry).pread(0, entry.size) == data
        assert reader.read("x").ravel().tolist() == items
        assert list(reader.iter_strings("x", entry)) == items
        reader.check_tensor("x", entry)


def test_by_hand() -> None:
    data, crc = encode_strings([b"ab", b"", b"c" * 300])
    lengths = b"".join(n.to_bytes(4, "little") for n in (2, 0, 300))
    first = b.masked(lengths).to_bytes(4, "little")
    assert data == b"\x02\x00\xac\x02" + first + b"ab" + b"c" * 300
    assert crc == b.masked(lengths + first + b"ab" + b"c" * 300)


def test_no_elements_in_no_bytes(tmp_path: Path) -> None:
    """TensorFlow writes a checksum of no lengths; other writers may leave it out."""
    prefix = b.forge(tmp_path, [(b"x", b.entry(b.STRING, (0, 5), crc=1))], b"")
    assert b.content(prefix)["x"][4] == []
    check(prefix)


@given(items=st.lists(st.binary(max_size=300), max_size=40))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_strings_come_back(tmp_path: Path, items: list[bytes]) -> None:
    prefix = forge_strings(tmp_path, items, (len(items),))
    assert b.content(prefix)["x"][4] == items
    check(prefix)


@pytest.mark.parametrize("size", [65_531, 65_535, 65_536, 65_537, 131_072, 300_001])
def test_where_the_buffer_ends(tmp_path: Path, size: int) -> None:
    items = [b"x" * 7, b"y" * size, b"z" * 7, b"w" * size]
    prefix = forge_strings(tmp_path, items, (4,))
    assert b.content(prefix)["x"][4] == items
    check(prefix)


def test_lengths_where_the_buffer_ends(tmp_path: Path) -> None:
    """A varint of two bytes lies across every place at which more is read."""
    items = [b"v" * 200] * 70_000
    prefix = forge_strings(tmp_path, items, (70_000,))
    check(prefix)
    with BundleReader(prefix) as reader:
        assert sum(map(len, reader.iter_strings("x", reader.entry("x")))) == 14_000_000


def test_memory_is_that_of_the_lengths(tmp_path: Path) -> None:
    prefix = forge_strings(tmp_path, [b"s" * 1500] * 20_000, (20_000,))
    with BundleReader(prefix) as reader:
        entry = reader.entry("x")
        tracemalloc.start()
        reader.check_tensor("x", entry)
        for _ in reader.iter_strings("x", entry):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 600_000  # 8 bytes a length and a small buffer, where the data is 30 MB


def test_a_scalar_of_limited_length(tmp_path: Path) -> None:
    prefix = str(tmp_path / "m")
    with BundleWriter(prefix) as writer:
        writer.add("fact", objects([b"{}"], ()))
        writer.add("list", objects([b"{}"]))
        writer.add("number", np.zeros((), "f4"))
    with BundleReader(prefix) as reader:
        assert reader.read_scalar_string("fact") == b"{}"
        for name, limit in (("fact", 6), ("list", 99), ("number", 99)):
            with pytest.raises(EntryError, match="short scalar") as caught:
                reader.read_scalar_string(name, limit)
            assert caught.value.tensor == name
