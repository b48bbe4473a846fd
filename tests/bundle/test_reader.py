"""Reading bundles: what is opened when, every kind of name and shape, threads."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ckptctl.bundle import BundleData, BundleReader, BundleWriter, TensorSlice
from ckptctl.errors import EntryError, NotFoundError, RefusedError, TensorChecksumError
from ckptctl.storage import LocalStorage
from tests.bundle import builders as b
from tests.descriptors import held


class Opened(LocalStorage):
    """Remembers the names of the files that were opened."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def open(self, path: str):
        self.names.append(os.path.basename(path))
        return super().open(path)


def test_opening_reads_the_index_alone(tmp_path: Path) -> None:
    storage = Opened()
    with BundleReader(b.build_bundle(tmp_path), storage) as reader:
        assert list(reader.tensors) == sorted(reader.tensors)
        assert len(list(reader.data_entries())) == 8
        reader.check_shards()
        assert storage.names == ["model.ckpt-1.index"]
        reader.read("half")
        reader.read("half")
    assert storage.names == ["model.ckpt-1.index", "model.ckpt-1.data-00001-of-00002"]


def test_every_value(tmp_path: Path) -> None:
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        assert reader.read("dense/kernel").tolist() == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
        assert reader.read("global_step").shape == ()
        assert reader.read("global_step") == 7
        assert reader.read("half").dtype == np.uint16
        assert reader.read("flags").tolist() == [True, False]
        assert reader.read("none").shape == (0, 4)
        assert reader.read("words").tolist() == [b"", b"ab", b"c" * 20]
        assert reader.read("w").tolist() == [[0, 1], [2, 3], [1, 2]]
        assert [name for name, e in reader.tensors.items() if not e.has_data] == ["w"]


def test_one_entry_without_the_rest(tmp_path: Path) -> None:
    """A damaged neighbour is no reason to fail, until all entries are asked for."""
    pairs = [(b"bad", b"\xff"), (b"x", b.of_data(b.FLOAT, (2,), b"12345678"))]
    with BundleReader(b.forge(tmp_path, pairs, b"12345678")) as reader:
        assert reader.entry("x").shape == (2,)
        assert reader.get("y") is None
        with pytest.raises(NotFoundError) as caught:
            reader.entry("y")
        assert (caught.value.file, caught.value.tensor) == (reader.index_path, "y")
        with pytest.raises(EntryError):
            _ = reader.tensors


@pytest.mark.parametrize(
    "name", ["", "\0", "\0x\0\x01\x01\x01", "\ud800", "no such", "w\0", "z" * 9]
)
def test_names_of_nothing(tmp_path: Path, name: str) -> None:
    reader = BundleReader(b.build_bundle(tmp_path))
    assert reader.get(name) is None
    assert len(reader.tensors) == 7  # all are parsed now
    assert reader.get(name) is None


@pytest.mark.parametrize(
    "key", [b"\xff\xfe", b"a\x00b", b"line\nbreak", b"\x01", "größe".encode(), b"a" * 100_000, b" "]
)
def test_names_of_any_kind(tf: ModuleType, tmp_path: Path, key: bytes) -> None:
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"),
        tensor_names=tf.constant([key, b"other"]),
        shape_and_slices=["", ""],
        tensors=[tf.constant([1.0, 2.0]), tf.constant(3)],
    )
    name = os.fsdecode(key)
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.get(name) is not None
        assert set(reader.tensors) == {name, "other"}
        assert reader.read(name).tolist() == [1.0, 2.0]
    with BundleWriter(str(tmp_path / "again")) as writer:
        writer.add(name, np.array([1, 2], "f4"))
        writer.add("other", np.array(3, "i4"))
    ours, theirs = (Path(tmp_path / f"{stem}.index").read_bytes() for stem in ("again", "m"))
    assert ours == theirs


def test_a_bundle_without_tensors(tmp_path: Path) -> None:
    with BundleWriter(str(tmp_path / "m")):
        pass
    assert list(b.content(str(tmp_path / "m"))) == [""]
    with BundleReader(str(tmp_path / "m")) as reader:
        assert reader.shard_needs() == [0]
        assert reader.tensors == {}


def test_a_bundle_of_another_tensor_order(tmp_path: Path) -> None:
    """Offsets say where tensors lie, gaps and shared bytes included."""
    data = b"....12345678"
    pairs = [
        (b"a", b.of_data(b.INT32, (2,), b"12345678", 4)),
        (b"b", b.of_data(b.INT32, (1,), b"5678", 8)),
    ]
    with BundleReader(b.forge(tmp_path, pairs, data)) as reader:
        assert reader.read("a").tobytes() == b"12345678"
        assert reader.read("b").tobytes() == b"5678"
        assert reader.shard_needs() == [12]


def test_needs_of_each_shard(tmp_path: Path) -> None:
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        sizes = [path.stat().st_size for path in b.files_of(reader.prefix) if ".data" in path.name]
        assert reader.shard_needs() == sizes
        assert all(sizes)


def test_checks_report_their_bytes(tmp_path: Path) -> None:
    seen: list[int] = []
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        for _, name, entry in reader.data_entries():
            reader.check_tensor(name, entry, seen.append)
        assert sum(seen) == sum(reader.shard_needs())


def test_checks_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.knobs.PIECE_BYTES", 7)
    seen: list[int] = []
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        reader.check_tensor("dense/kernel", reader.entry("dense/kernel"), seen.append)
        assert seen == [7, 7, 7, 3]
        b.corrupt(b.shard_file(reader.prefix), 23, 1)
        with pytest.raises(TensorChecksumError):
            reader.check_tensor("dense/kernel", reader.entry("dense/kernel"))


def test_slices_on_their_own(tmp_path: Path) -> None:
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        slices = reader.entry("w").slices
        assert [str(s) for s in slices] == ["0,2:0,2", "2,1:0,2"]
        part = reader.slice_entry("w", slices[1])
        assert (part.shard, part.shape) == (1, (1, 2))
        assert reader.read_entry("w", part).tolist() == [[1, 2]]
        with pytest.raises(EntryError, match="not in the index"):
            reader.slice_entry("w", TensorSlice(((0, 1), (0, 2))))
        with pytest.raises(EntryError, match="owns no bytes"):
            reader.read_entry("w", reader.entry("w"))


def test_slices_of_a_hash_table_pass_through(tmp_path: Path) -> None:
    """Their lengths are nothing that the shape of the whole says."""
    table = b.entry(b.FLOAT, (0, 2), slices=[[(0, 8)]], more=b.field(100, 1))
    part = b.of_data(b.FLOAT, (3, 2), b"3 rows of two floats....")
    pairs = [(b.slice_key("t", [(0, 8)]), part), (b"t", table)]
    with BundleReader(b.forge(tmp_path, pairs, b"3 rows of two floats....")) as reader:
        [(_, name, slice_, entry)] = reader.slice_keys()
        assert (name, slice_.extents, entry.shape) == ("t", ((0, 8),), (3, 2))
        assert reader.slice_entry("t", slice_).shape == (3, 2)
        reader.check_tensor(name, entry)
        assert reader.read_entry(name, entry).shape == (3, 2)
        with pytest.raises(RefusedError, match="hash table"):
            reader.read("t")


def test_threads_read_the_same(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    wanted = b.content(prefix)["dense/kernel"][4]
    with BundleReader(prefix) as reader, ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: reader.read("dense/kernel").tobytes(), range(400))
        assert set(found) == {wanted}


def many_shards(tmp_path: Path, count: int) -> str:
    prefix = str(tmp_path / "m")
    with BundleWriter(prefix, count) as writer:
        for shard in range(count):
            writer.add(f"v{shard}", np.full(2, shard, "i4"), shard=shard)
    return prefix


def test_more_shards_than_files_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptctl.knobs.MAX_OPEN_FILES", 8)
    with BundleReader(many_shards(tmp_path, 50)) as reader, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: int(reader.read(f"v{at % 50}")[0]), range(200)))
        assert found == [at % 50 for at in range(200)]
        assert 0 < len(held(tmp_path)) <= 8
    assert held(tmp_path) == []


def test_a_closed_reader_opens_its_shards_again(tmp_path: Path) -> None:
    reader = BundleReader(b.build_bundle(tmp_path))
    reader.read("flags")
    reader.close()
    reader.close()
    assert reader.read("flags").tolist() == [True, False]
    reader.close()


def test_a_reader_travels_as_its_data(tmp_path: Path) -> None:
    with BundleReader(b.build_bundle(tmp_path)) as reader:
        entry = pickle.loads(pickle.dumps(reader.entry("flags")))
        data = pickle.loads(pickle.dumps(reader))
        assert type(data) is BundleData
        assert data.read_entry("flags", entry).tolist() == [True, False]
        data.close()


def test_a_hundred_thousand_tensors(tmp_path: Path) -> None:
    from ckptctl.bundle.table import build_table

    raw = b.of_data(b.FLOAT, (1,), b"1234")
    pairs = [(b"", b.header()), *((b"model/v%06d" % at, raw) for at in range(100_000))]
    (tmp_path / "m.index").write_bytes(build_table(pairs))
    (tmp_path / "m.data-00000-of-00001").write_bytes(b"1234")
    with BundleReader(str(tmp_path / "m")) as reader, b.bounded(seconds=10, mebibytes=400):
        assert reader.get("model/v054321") is not None
        assert len(reader.tensors) == 100_000
        reader.check_shards()


def test_an_index_is_parsed_once_while_its_bytes_stay(tmp_path: Path) -> None:
    """What a path said before counts for the very same bytes alone, whatever stat says."""
    prefix = b.build_bundle(tmp_path)
    index = Path(f"{prefix}.index")
    before, first = index.read_bytes(), BundleReader(prefix)
    assert BundleReader(prefix).tensors is first.tensors
    name = next(iter(first.tensors))
    other = str(tmp_path / "other")
    with BundleWriter(other, 1) as writer:
        writer.add("x", np.zeros(3, "f4"))
    index.write_bytes(Path(f"{other}.index").read_bytes())
    assert list(BundleReader(prefix).tensors) == ["x"]
    index.write_bytes(before)
    assert name in BundleReader(prefix).tensors


def test_nobody_takes_from_what_all_readers_share(tmp_path: Path) -> None:
    prefix = b.build_bundle(tmp_path)
    with BundleReader(prefix) as reader:
        tensors = reader.tensors
        with pytest.raises(AttributeError):
            tensors.pop("half")
        with pytest.raises(TypeError):
            del tensors["half"]
    with BundleReader(prefix) as another:
        assert "half" in another.tensors
