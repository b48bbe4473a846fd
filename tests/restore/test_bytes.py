"""Rule 11: no unchecked byte of any source."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.errors import CkptctlError, DamageError, RefusedError, TensorChecksumError
from ckptctl.merge import execute_merge
from tests.merge.storages import Hooked
from tests.oracle.chain import Chain, build_chain, changes, flip, full, increment, listing, table
from tests.oracle.images import HashTable, Piece, Rows, Sliced, Tensor, floats, ints, string

#: `CKPTCTL_EVERY_BYTE=1 pytest tests/restore/test_bytes.py` flips each byte in turn.
EVERY_BYTE = bool(os.environ.get("CKPTCTL_EVERY_BYTE"))
#: Tensors of the full that the increment replaces: nobody reads them.
REPLACED = {"global_step", "w", "text", "t-keys", "cut"}


def _cut(x: int) -> Sliced:
    pieces = [Piece(((n, 1), (0, 2)), bytes([x + n] * 8), n) for n in (1, 0)]
    return Sliced("float32", (2, 2), pieces)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    """One of each: tables with all columns, old form, rows, whole tensors, strings, hashes."""
    emb = table("emb", [1, 2, 1001, 4], parts=2, versions=5, freqs=3, filtered=[6, 8], shards=2)
    old = table("old", [1, 5, 2], old=True)
    inc = changes("emb", [2, 6, 7], parts=2, versions=9, freqs=4, shards=2)
    own = {
        "w": floats(1, 2),
        "text": string("old", "er"),
        "t-keys": ints("int64", [1]),
        "cut": _cut(1),
        "rows": floats(*range(6), shape=(3, 2)),
        "kept": floats(3),
        "kept-text": string("kept"),
        "ht": HashTable("float32", 1, [((0, 9, 9), bytes(range(8)), 1)]),
    }
    new = {
        "w": floats(3, 4),
        "text": string("new", ""),
        "t-keys": ints("int64", [1, 2]),
        "cut": _cut(5),
        "added": Tensor("bfloat16", (2,), b"abcd"),
    }
    lineage = {"version": 1, "base_step": 10, "previous_step": None, "mode": "cumulative"}
    rows = Rows("rows", "float32", 2, {1: b"abcdefgh", 2: b"ijklmnop"})
    return build_chain(
        tmp_path,
        full(10, emb, old, own, shards=2),
        increment(20, inc, changes("old", [5, 9]), rows, new, shards=2, lineage=lineage),
    )


#: Without verification: what is read is checked as it is read, not when it is read back.
OPTIONS = {"keep_missing": True, "add_new": True, "verify": False}


def offsets(prefix: Path) -> Iterator[tuple[str, Path, int]]:
    """(tensor, shard, offset) of the bytes to flip."""
    rng = random.Random(str(prefix.name))
    with BundleReader(str(prefix)) as reader:
        for key, name, entry in reader.data_entries():
            where = range(entry.offset, entry.end)
            if not EVERY_BYTE and entry.size > 4:
                where = {entry.offset, entry.end - 1, rng.randrange(entry.offset, entry.end)}
            for at in where:
                yield (name if key[:1] else ""), Path(reader.shard_path(entry.shard)), at


def failure(chain: Chain) -> CkptctlError | None:
    """Return what a merge fails with, or None."""
    try:
        chain.merge(20, **OPTIONS)
    except CkptctlError as error:
        return error
    return None


def test_a_flipped_byte_of_any_tensor_is_damage_and_leaves_nothing(chain: Chain) -> None:
    chain.merge(20, chain.directory.parent / "whole-20", **OPTIONS)
    whole = [path.read_bytes() for path in _bundle(chain.directory.parent / "whole-20")]
    state = (chain.directory / "checkpoint").read_bytes()
    damaged = unread = 0
    for prefix in (chain.full_prefix(10), chain.increment_prefix(20)):
        for tensor, shard, at in offsets(prefix):
            bits = 1 << at % 8
            flip(shard, at, bits)
            before = listing(chain.directory)
            error = failure(chain)
            if error is not None:
                damaged += 1
                assert (type(error).exit_code, tensor, at) == (4, tensor, at)
                assert listing(chain.directory) == before, (tensor, at)
            else:
                # Never a silent difference: this byte is not in the result.
                unread += 1
                assert prefix == chain.full_prefix(10), (tensor, at)
                assert tensor in REPLACED or tensor == "", (tensor, at)
                found = _bundle(chain.full_prefix(20))
                assert [path.read_bytes() for path in found] == whole, (tensor, at)
                for path in chain.directory.glob("model.ckpt-20*"):
                    path.unlink()
                (chain.directory / "checkpoint").write_bytes(state)
            flip(shard, at, bits)
    assert damaged > 100
    assert unread > 5


def _bundle(prefix: Path) -> list[Path]:
    return sorted(prefix.parent.glob(f"{prefix.name}.[di][an]*"))


@pytest.mark.parametrize("which", ["full", "increment"])
def test_damage_is_found_in_the_source(chain: Chain, which: str) -> None:
    """With verification too: not as damage of what was written."""
    prefix = chain.full_prefix(10) if which == "full" else chain.increment_prefix(20)
    tensor = "emb/part_0/Adagrad-" + ("values" if which == "full" else "sparse_incr_values")
    with BundleReader(str(prefix)) as reader:
        entry = reader.entry(tensor)
        flip(Path(reader.shard_path(entry.shard)), entry.offset + 2)
    before = listing(chain.directory)
    with pytest.raises(DamageError) as caught:
        chain.merge(20, **(OPTIONS | {"verify": True}))
    assert (caught.value.tensor, caught.value.offset) == (tensor, entry.offset)
    assert str(prefix) in caught.value.file
    assert listing(chain.directory) == before


@pytest.mark.parametrize("byte", [0, 7], ids=["another key", "a negative one"])
def test_a_flipped_key_is_told_as_flipped(chain: Chain, byte: int) -> None:
    """Not as a table that no PS could have saved, and before anything is written."""
    with BundleReader(str(chain.full_prefix(10))) as reader:
        entry = reader.entry("emb/part_0-keys")
        flip(Path(reader.shard_path(entry.shard)), entry.offset + byte, 0x80)
    with pytest.raises(TensorChecksumError) as caught:
        chain.merge(20, storage=Hooked("create", before=_never), **OPTIONS)
    assert caught.value.tensor == "emb/part_0-keys"


def _never() -> None:
    raise AssertionError("something was written")


@pytest.mark.parametrize("suffix", ["-keys", "-keys_filtered", "-partition_offset"])
def test_damage_of_keys_names_the_tensor(chain: Chain, suffix: str) -> None:
    with BundleReader(str(chain.full_prefix(10))) as reader:
        entry = reader.entry(f"emb/part_0{suffix}")
        flip(Path(reader.shard_path(entry.shard)), entry.offset + 5)
    with pytest.raises(DamageError) as caught:
        chain.merge(20, **OPTIONS)
    assert caught.value.tensor == f"emb/part_0{suffix}"


@pytest.mark.parametrize("which", ["full", "increment"])
def test_a_flipped_byte_of_an_index_is_never_silent(chain: Chain, which: str) -> None:
    prefix = chain.full_prefix(10) if which == "full" else chain.increment_prefix(20)
    path = Path(f"{prefix}.index")
    size = path.stat().st_size
    spare = path.with_suffix(".spare")
    shutil.copy2(path, spare)
    for at in range(0, size, 1 if EVERY_BYTE else max(1, size // 60)):
        flip(path, at, 1 << at % 8)
        error = failure(chain)
        assert error is not None, f"byte {at} of {path.name}"
        assert error.exit_code in (4, 12)  # 12: the base cannot be used
        shutil.copy2(spare, path)
    assert not list(chain.directory.glob("model.ckpt-20*"))


@pytest.mark.parametrize("which", ["full", "increment"])
@pytest.mark.parametrize("missing", [1, 100, None])
def test_a_short_or_missing_shard_is_damage(chain: Chain, which: str, missing: int | None) -> None:
    prefix = chain.full_prefix(10) if which == "full" else chain.increment_prefix(20)
    path = Path(f"{prefix}.data-00001-of-00002")
    if missing is None:
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size - missing)
    before = listing(chain.directory)
    with pytest.raises(CkptctlError) as caught:
        chain.merge(20, **OPTIONS)
    assert caught.value.exit_code in (4, 12)
    assert listing(chain.directory) == before


def test_a_shard_cut_short_after_the_plan(chain: Chain) -> None:
    """The kernel keeps the inode: the bytes are simply no longer there."""
    plan = chain.plan(20, **OPTIONS)
    os.truncate(f"{chain.full_prefix(10)}.data-00001-of-00002", 50)
    before = listing(chain.directory)
    with pytest.raises(RefusedError):
        execute_merge(plan, jobs=1)
    assert listing(chain.directory) == before
