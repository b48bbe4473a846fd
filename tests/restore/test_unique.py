"""A key twice among more keys than are sorted together, against a set."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptctl import knobs
from ckptctl.errors import TableError
from ckptctl.restore import join, unique
from ckptctl.restore.incoming import IncomingKeys
from tests.oracle.images import Ev, Row
from tests.restore.test_join import MANY, MEMORY, large_bucket, written

#: What undoes the multiplication with the factor that everyone knows.
INVERSE = pow(0x9E3779B97F4A7C15, -1, 1 << 64)


def look(keys: list[int], *, together: int, bits: int, piece: int) -> None:
    """Read a part in the old form, whose rows have no bucket, in pieces."""
    ev = Ev("emb", "", None, 1, 1, [Row(None, key, b"abcd") for key in keys])
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as room,
        patch.object(knobs, "JOIN_KEYS", piece),
        patch.object(unique, "_UNIQUE_KEYS", together),
        patch.object(unique, "_MOST_BITS", bits),
    ):
        reader, found = written(ev, room)
        column = join.FullKeys(reader, found, 0, 1)
        try:
            column.join(IncomingKeys())
            column.finish()
        finally:
            reader.close()


@MANY
@given(
    keys=st.lists(st.integers(0, 60), max_size=40),
    more=st.lists(st.integers(0, 2**63 - 1), max_size=40),
    together=st.sampled_from([1, 8, 1 << 20]),
    bits=st.sampled_from([4, 6, 9, 27]),
    piece=st.sampled_from([1, 3, 16, 1 << 16]),
)
def test_a_key_twice_is_found(
    keys: list[int], more: list[int], together: int, bits: int, piece: int
) -> None:
    every = keys + more
    if len(set(every)) == len(every):
        look(every, together=together, bits=bits, piece=piece)
        return
    with pytest.raises(TableError) as caught:
        look(every, together=together, bits=bits, piece=piece)
    number = int(str(caught.value.found).split()[1])
    assert every.count(number) > 1


def test_memory_does_not_grow_with_the_keys_that_stand_twice(tmp_path: Path) -> None:
    """Each of 3 Mi keys does, so half of all are doubted; there is room for a sixth."""
    keys = np.arange(3 << 20, dtype=np.int64)
    reader, found = large_bucket(tmp_path, np.concatenate([keys, keys]), 0)
    column = join.FullKeys(reader, found, 0, 1)
    column.join(IncomingKeys())
    tracemalloc.start()
    with pytest.raises(TableError):
        column.finish()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    reader.close()
    assert peak < 30 << 20


@pytest.mark.parametrize("bits", [4, 12])
@pytest.mark.parametrize("same", [True, False])
def test_keys_whose_hashes_are_the_same(
    monkeypatch: pytest.MonkeyPatch, bits: int, same: bool
) -> None:
    """No key is taken for another."""
    if same:
        monkeypatch.setattr(unique, "FACTOR", np.uint64(0))
    keys = [each * INVERSE % (1 << 64) for each in range(400)]
    keys = [key for key in keys if key < 1 << 63]
    look(keys, together=1, bits=bits, piece=16)
    with pytest.raises(TableError):
        look([*keys, keys[7]], together=1, bits=bits, piece=16)


@pytest.mark.parametrize("unlucky", [1, 0x5555555555555555, 1 << 63])
@pytest.mark.parametrize("place", [0, 1])
def test_nobody_can_choose_keys_with_the_same_hash(
    monkeypatch: pytest.MonkeyPatch, unlucky: int, place: int
) -> None:
    numbers = iter([unlucky, 0xD1B54A32D192ED03][:: 1 - 2 * place])  # one may be anything
    monkeypatch.setattr(unique, "_random", lambda: next(numbers))
    met = unique._Met(1 << 16)
    keys = np.array([each * INVERSE % (1 << 64) for each in range(1 << 16)], np.uint64)
    _, places = met.of_slice(keys.view(np.int64), 0)
    assert int(met.add(places).sum()) < len(met.doubted)


def test_the_memory_of_a_set_of_hashes_has_a_bound() -> None:
    met = unique._Met(1 << 31)
    assert met._bytes.nbytes == 1 << 24
    assert met.slices == 128
    spread = np.random.default_rng(1).integers(0, 1 << 62, 1 << 16)
    slices = [met.of_slice(spread, number) for number in range(met.slices)]
    assert sum(len(keys) for keys, _ in slices) == len(spread)
    assert all(places.min() >= 0 and places.max() < 1 << 27 for _, places in slices)
    # Of those of one slice hardly any share a place.
    assert sum(int(met.add(places).sum()) for _, places in slices[:8]) < 20


@given(pieces=st.lists(st.lists(st.integers(0, 63), max_size=30), max_size=4))
def test_what_was_met_is_a_set(pieces: list[list[int]]) -> None:
    """Also where many share a byte; of those that stand twice in a piece all count."""
    met = unique._Met(8)
    met.clear()
    so_far: set[int] = set()
    for number, piece in enumerate(pieces):
        places = np.array(piece, np.int64)
        if number % 2:
            met.mark(places)
        else:
            told = [each in so_far or piece.count(each) > 1 for each in piece]
            assert met.add(places).tolist() == told
        so_far |= set(piece)
        assert np.flatnonzero(met.has(np.arange(64))).tolist() == sorted(so_far)
