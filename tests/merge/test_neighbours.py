"""Small tensors that lie side by side move together, and are checked one by one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.bundle import BundleReader
from ckptctl.errors import TensorChecksumError
from ckptctl.storage.local import LocalFile
from tests.oracle.chain import Chain, build_chain, changes, flip, full, increment, table
from tests.oracle.images import floats, string


def many(tmp_path: Path) -> Chain:
    """200 vectors, among them strings and empty ones, and a table between them."""
    dense = {f"{'az'[n % 2]}/w{n:03d}": floats(*range(n % 5), shape=(n % 5,)) for n in range(200)}
    dense |= {"a/s": string("x", "y"), "z/s": string("one")}
    return build_chain(
        tmp_path,
        full(10, table("m", [1, 2]), dense),
        increment(20, changes("m", [1, 3]), dense),
    )


@pytest.mark.parametrize("piece", [16, 64, 1 << 20])
def test_small_tensors_move_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    chain = many(tmp_path)
    monkeypatch.setattr(knobs, "PIECE_BYTES", piece)
    writes: Counter[str] = Counter()
    real = LocalFile.pwrite

    def counted(self: LocalFile, offset: int, data: memoryview) -> None:
        writes[Path(self.path).name] += 1
        real(self, offset, data)

    monkeypatch.setattr(LocalFile, "pwrite", counted)
    chain.merge(20)
    chain.check(10, 20)
    if piece == 1 << 20:
        assert writes["data-00000-of-00001"] < 60


def test_damage_among_them_is_named(tmp_path: Path) -> None:
    chain = many(tmp_path)
    with BundleReader(str(chain.increment_prefix(20))) as reader:
        entry = reader.entry("z/w107")
    flip(Path(f"{chain.increment_prefix(20)}.data-00000-of-00001"), entry.offset + 1)
    with pytest.raises(TensorChecksumError) as caught:
        chain.merge(20)
    assert caught.value.tensor == "z/w107"
