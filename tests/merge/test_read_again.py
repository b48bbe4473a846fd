"""How often the bytes of an increment are read: its rows lie in another order than the full's."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.storage.local import LocalFile
from tests.oracle.chain import build_chain, changes, full, increment, table


@pytest.mark.parametrize(
    ("piece", "apart", "parts", "most"),
    [(1 << 10, 1, 1, 2), (1 << 14, 1000, 1, 3), (1 << 12, 1, 8, 3)],
    ids=["a few pieces of a bucket", "all in one bucket", "buckets of other parts between"],
)
def test_rows_are_not_read_anew_for_each_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, apart: int, parts: int, most: int
) -> None:
    """Once to be checked; and then not all of a bucket for each piece that has some of it."""
    random.seed(1)
    keys = [apart * key for key in range(20_000)]
    old, new = (random.sample(keys, count) for count in (len(keys), len(keys) // 5))
    chain = build_chain(
        tmp_path,
        full(10, table("emb", old, dim=16, parts=parts)),
        increment(20, changes("emb", new, dim=16)),
    )
    monkeypatch.setattr(knobs, "PIECE_BYTES", piece)
    read: Counter[str] = Counter()
    real = LocalFile.readv

    def counted(self: LocalFile, offset: int, buffers: Sequence[memoryview]) -> int:
        read[self.path] += sum(map(len, buffers))
        return real(self, offset, buffers)

    monkeypatch.setattr(LocalFile, "readv", counted)
    chain.merge(20)
    chain.check(10, 20)
    data = f"{chain.increment_prefix(20)}.data-00000-of-00001"
    size = Path(data).stat().st_size
    assert size <= read[data] <= most * size
