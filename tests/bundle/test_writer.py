"""Writing bundles: in pieces, in shards and slices, and read by TensorFlow old and new."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ckptctl.bundle import DTYPES, BundleReader, BundleWriter, TensorSlice, dtype_by_name
from ckptctl.errors import ExistsError
from tests.bundle import builders as b

READ_TF = Path(__file__).parent.parent / "golden" / "read_tf.py"
FLOAT = dtype_by_name("float32")
ROWS = TensorSlice(((1, 2), (0, -1)))


def values(dtype: str, *dims: int) -> np.ndarray:
    """Return all bit patterns that a type has room for; 4- and 2-bit types use the low ones."""
    kind = dtype_by_name(dtype)
    random = np.random.default_rng(kind.number)
    high = {"bool": 2, "int4": 8, "uint4": 16, "int2": 2, "uint2": 4, "float4_e2m1fn": 16}
    count = int(np.prod(dims))
    raw = random.integers(0, high.get(dtype, 256), count * kind.size, dtype=np.uint8)
    return np.frombuffer(raw.tobytes(), kind.numpy).reshape(dims)


def write_all(prefix: Path, dtypes: list[str]) -> dict[str, list]:
    """Write every type in every shape over three shards; return what read_tf.py must find."""
    found: dict[str, list] = {}
    with BundleWriter(str(prefix), 3) as writer:
        for at, dtype in enumerate(dtypes):
            for dims in ((), (5,), (2, 3), (0,), (0, 4)):
                array = values(dtype, *dims)
                name = f"{dtype}/{len(found)}"
                writer.add(name, array, dtype=dtype, shard=at % 3)
                found[name] = [dtype, list(dims), array.tobytes().hex()]
        words = np.array([[b"a", b""], [b"\xff" * 150, "ä".encode()]], object)
        writer.add("words", words, shard=1)
        found["words"] = ["string", [2, 2], [item.hex() for item in words.ravel().tolist()]]
        grid = b.numbers(4, 6)
        for at, (row, column) in enumerate([(2, 0), (0, 3), (0, 0), (2, 3)]):
            box = TensorSlice(((row, 2), (column, 3)))
            part = grid[row : row + 2, column : column + 3]
            writer.add_slice("grid", (4, 6), box, part, shard=at % 3)
        found["grid"] = ["float32", [4, 6], grid.tobytes().hex()]
        with writer.stream("streamed", FLOAT, (1000, 3), shard=2) as sink:
            for at in range(0, 1000, 64):
                sink.write(b.numbers(1000, 3)[at : at + 64])
        found["streamed"] = ["float32", [1000, 3], b.numbers(1000, 3).tobytes().hex()]
    return found


def test_every_type_read_by_tensorflow_2(tf: ModuleType, tmp_path: Path) -> None:
    known = {n for n in (dtype.name for dtype in DTYPES.values() if dtype.size) if hasattr(tf, n)}
    known |= {n for n in ("float8_e5m2", "float8_e4m3fn", "int4") if hasattr(tf.dtypes, n)}
    assert len(known) >= 18
    wanted = write_all(tmp_path / "m", sorted(known))
    found = runpy.run_path(str(READ_TF))["read"](tf, np, str(tmp_path / "m"))
    assert found == wanted


def test_every_type_read_by_tensorflow_1(run_tf115: Callable[..., str], tmp_path: Path) -> None:
    old = [dtype.name for dtype in DTYPES.values() if dtype.size and dtype.number < 24]
    wanted = write_all(tmp_path / "m", old)
    assert json.loads(run_tf115(READ_TF, tmp_path / "m")) == {str(tmp_path / "m"): wanted}


def test_tensorflow_checks_our_checksums(tf: ModuleType, tmp_path: Path) -> None:
    """The tests above would notice nothing if TensorFlow did not look."""
    with BundleWriter(str(tmp_path / "m")) as writer:
        writer.add("x", b.numbers(9))
    assert tf.train.load_checkpoint(str(tmp_path / "m")).get_tensor("x").tolist() == list(range(9))
    b.corrupt(b.shard_file(str(tmp_path / "m"), shards=1), 5, 1)
    with pytest.raises(tf.errors.DataLossError):
        tf.raw_ops.RestoreV2(
            prefix=str(tmp_path / "m"),
            tensor_names=["x"],
            shape_and_slices=[""],
            dtypes=[tf.float32],
        )


def test_the_same_bytes_as_tensorflow(tf: ModuleType, tmp_path: Path) -> None:
    arrays = {
        f"v{at}": values(dtype, at, 3) for at, dtype in enumerate(["float32", "int64", "bool"])
    }
    rows = b.numbers(2, 3)
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "theirs"),
        tensor_names=[*arrays, "w"],
        shape_and_slices=["", "", "", "9 3 1,2:-"],
        tensors=[tf.constant(array) for array in (*arrays.values(), rows)],
    )
    with BundleWriter(str(tmp_path / "ours")) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
        writer.add_slice("w", (9, 3), ROWS, rows)
    for suffix in (".index", ".data-00000-of-00001"):
        ours, theirs = (Path(f"{tmp_path / stem}{suffix}") for stem in ("ours", "theirs"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_arrays_of_foreign_types(tf: ModuleType, tmp_path: Path) -> None:
    """What TensorFlow hands out as NumPy arrays goes back as it is."""
    arrays = {
        name: tf.cast(tf.constant([0.0, 1.0, -2.0]), name).numpy()
        for name in ("bfloat16", "float8_e5m2", "float8_e4m3fn", "float16")
    }
    with BundleWriter(str(tmp_path / "m")) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
    reader = tf.train.load_checkpoint(str(tmp_path / "m"))
    for name, array in arrays.items():
        assert reader.get_tensor(name).tobytes() == array.tobytes()
        assert reader.get_variable_to_dtype_map()[name].name == name


def test_arrays_of_any_layout(tmp_path: Path) -> None:
    base = b.numbers(4, 6)
    arrays = {"turned": base.T, "strided": base[::2, ::3], "fortran": np.asfortranarray(base)}
    with BundleWriter(str(tmp_path / "m")) as writer:
        for name, array in arrays.items():
            writer.add(name, array)
        writer.add("text", np.array(["ä", "b"]))
        writer.add("bytes", np.array([b"ab", b"c"]))
    with BundleReader(str(tmp_path / "m")) as reader:
        for name, array in arrays.items():
            assert reader.read(name).tolist() == array.tolist()
        assert reader.read("text").tolist() == ["ä".encode(), b"b"]
        assert reader.read("bytes").tolist() == [b"ab", b"c"]


# In pieces


def test_pieces_of_any_size(tmp_path: Path) -> None:
    array = b.numbers(100, 3)
    data = array.tobytes()
    with BundleWriter(str(tmp_path / "m")) as writer:
        with writer.stream("bytes", FLOAT, (100, 3)) as sink:
            for at in range(0, len(data), 7):
                sink.write(data[at : at + 7])
        with writer.stream("arrays", FLOAT, (100, 3)) as sink:
            sink.write(array[:0])
            sink.write(array[:50])
            sink.write(memoryview(array[50:]))
        with writer.stream("none", FLOAT, (0, 3)):
            pass
    with BundleReader(str(tmp_path / "m")) as reader:
        assert [reader.read(name).tobytes() for name in ("bytes", "arrays", "none")] == [
            data,
            data,
            b"",
        ]
        assert reader.entry("bytes").crc == reader.entry("arrays").crc == b.masked(data)


@pytest.mark.parametrize(("size", "reason"), [(11, "1 bytes missing"), (13, "more bytes")])
def test_too_few_or_too_many_bytes(tmp_path: Path, size: int, reason: str) -> None:
    def write() -> None:
        with BundleWriter(str(tmp_path / "m")) as writer, writer.stream("x", FLOAT, (3,)) as sink:
            sink.write(b"." * size)

    with pytest.raises(ValueError, match=reason):
        write()
    assert list(tmp_path.iterdir()) == []


def test_two_tensors_at_once(tmp_path: Path) -> None:
    """In two shards they may; in one they would lie over each other."""
    with BundleWriter(str(tmp_path / "m"), 2) as writer:
        with writer.stream("a", FLOAT, (1,)) as a, writer.stream("b", FLOAT, (1,), shard=1) as c:
            a.write(b"1234")
            c.write(b"5678")
            with pytest.raises(ValueError, match="shard 0 is being written"):
                writer.add("d", b.numbers(1))
        writer.add("d", b.numbers(1))
    assert list(b.content(str(tmp_path / "m"))) == ["", "a", "b", "d"]


def test_a_tensor_that_failed_leaves_its_place(tmp_path: Path) -> None:
    def fail() -> None:
        with writer.stream("x", FLOAT, (2,)) as sink:
            sink.write(b"12345678")
            raise ZeroDivisionError

    with BundleWriter(str(tmp_path / "m")) as writer:
        with pytest.raises(ZeroDivisionError):
            fail()
        writer.add("x", b.numbers(3))
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.read("x").tolist() == [0, 1, 2]
        assert reader.entry("x").offset == 0


# What cannot be written

WRONG = {
    "duplicate": (ValueError, lambda w: w.add("x", b.numbers(1))),
    "duplicate of a slice": (ValueError, lambda w: w.add("w", b.numbers(4, 3))),
    "empty name": (ValueError, lambda w: w.add("", b.numbers(1))),
    "name of slices": (ValueError, lambda w: w.add("\0x", b.numbers(1))),
    "streamed name": (ValueError, lambda w: w.stream("", FLOAT, (1,))),
    "sliced name": (ValueError, lambda w: w.add_slice("", (4, 3), ROWS, b.numbers(2, 3))),
    "shard 1 of 1": (ValueError, lambda w: w.add("y", b.numbers(1), shard=1)),
    "shard -1": (ValueError, lambda w: w.add("y", b.numbers(1), shard=-1)),
    "negative shape": (ValueError, lambda w: w.stream("y", FLOAT, (-1,))),
    "slice outside": (ValueError, lambda w: w.add_slice("y", (2, 3), ROWS, b.numbers(2, 3))),
    "slice of other rank": (ValueError, lambda w: w.add_slice("y", (4,), ROWS, b.numbers(2))),
    "array of other shape": (ValueError, lambda w: w.add_slice("y", (4, 3), ROWS, b.numbers(3, 3))),
    "slice twice": (ValueError, lambda w: w.add_slice("w", (4, 3), ROWS, b.numbers(2, 3))),
    "slice of another whole": (
        ValueError,
        lambda w: w.add_slice("w", (5, 3), TensorSlice(((4, 1), (0, 3))), b.numbers(1, 3)),
    ),
    "slice of another type": (
        ValueError,
        lambda w: w.add_slice("w", (4, 3), TensorSlice(((0, 1), (0, 3))), np.zeros((1, 3), "i4")),
    ),
    "slice of a whole tensor": (
        ValueError,
        lambda w: w.add_slice("x", (2,), TensorSlice(((0, 1),)), b.numbers(1)),
    ),
    "no such type": (TypeError, lambda w: w.add("y", np.zeros(2, "M8[s]"))),
    "another type": (TypeError, lambda w: w.add("y", np.zeros(2, "i4"), dtype="float32")),
    "other byte order": (TypeError, lambda w: w.add("y", np.zeros(2, ">f4"))),
    "objects": (TypeError, lambda w: w.add("y", np.array([3, None], object))),
    "numbers as strings": (TypeError, lambda w: w.add("y", np.zeros(2, "i4"), dtype="string")),
    "variants": (TypeError, lambda w: w.add("y", np.array([b""], object), dtype="variant")),
    "strings in pieces": (TypeError, lambda w: w.stream("y", dtype_by_name("string"), (1,))),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_written(tmp_path: Path, case: str) -> None:
    """Refused before a byte is written; what was there stays as it was."""
    error, write = WRONG[case]
    with BundleWriter(str(tmp_path / "m")) as writer:
        writer.add("x", b.numbers(2))
        writer.add_slice("w", (4, 3), ROWS, b.numbers(2, 3))
        with pytest.raises(error):
            write(writer)
    size = b.shard_file(str(tmp_path / "m"), shards=1).stat().st_size
    assert size == 2 * 4 + 2 * 3 * 4
    with BundleReader(str(tmp_path / "m")) as reader:
        assert list(reader.tensors) == ["w", "x"]
        assert [(str(s), e.size) for _, _, s, e in reader.slice_keys()] == [("1,2:-", 24)]
        assert reader.read("x").tolist() == [0, 1]


@pytest.mark.parametrize("box", [((2, 1), (0, 3)), ((1, 2), (0, 3))], ids=["some", "same"])
def test_slices_that_overlap(tmp_path: Path, box: b.Box) -> None:
    """Found when the bundle is closed, and then there is none."""
    slice_ = TensorSlice(box)
    writer = BundleWriter(str(tmp_path / "m"))
    writer.add_slice("w", (4, 3), ROWS, b.numbers(2, 3))
    writer.add_slice("w", (4, 3), slice_, b.numbers(*slice_.shape((4, 3))))
    with pytest.raises(ValueError, match=f"slices 1,2:- and {slice_} of b'w' overlap"):
        writer.close()
    assert list(tmp_path.iterdir()) == []


def test_many_slices(tmp_path: Path) -> None:
    """In time that grows with their number, not with its square."""
    with b.bounded(seconds=3):
        with BundleWriter(str(tmp_path / "m")) as writer:
            for at in range(2000):
                rows = TensorSlice(((at, 1), (0, 2)))
                writer.add_slice("w", (2000, 2), rows, b.numbers(1, 2) + at)
        with BundleReader(str(tmp_path / "m")) as reader:
            assert reader.read("w")[:, 0].tolist() == list(range(2000))


@pytest.mark.parametrize("shards", [0, -1, 100_000])
def test_numbers_of_shards(tmp_path: Path, shards: int) -> None:
    with pytest.raises(ValueError, match="data shards"):
        BundleWriter(str(tmp_path / "m"), shards)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_exists(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ExistsError) as caught:
        BundleWriter(prefix)
    assert caught.value.file == f"{prefix}.index"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_closing_twice(tmp_path: Path) -> None:
    with BundleWriter(str(tmp_path / "m")) as writer:
        writer.add("x", b.numbers(2))
        writer.close()
        with pytest.raises(ValueError, match="closed"):
            writer.add("y", b.numbers(2))
    writer.abort()
    assert list(b.content(str(tmp_path / "m"))) == ["", "x"]


def test_closing_in_the_middle(tmp_path: Path) -> None:
    writer = BundleWriter(str(tmp_path / "m"))
    with (
        pytest.raises(ValueError, match="bytes missing"),
        writer.stream("x", FLOAT, (2,)),
        pytest.raises(ValueError, match="still being written"),
    ):
        writer.close()
    assert list(tmp_path.iterdir()) == []
