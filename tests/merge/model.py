"""The chain that the tests of this room merge: small, with a bit of everything."""

from __future__ import annotations

import os
from pathlib import Path

from ckptctl.bundle import BundleHeader
from ckptctl.bundle.writer import index_bytes
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table
from tests.oracle.images import Rows, floats, string

SIDE = {
    "-emb-ssd_record.index": index_bytes(BundleHeader(1), {}),
    "-emb-ssd_record.data-00000-of-00001": b"",
    "-emb-emb_files/1.emb": b"rows",
    ".meta": b"graph",
}


def small_chain(tmp_path: Path, *, side: bool = False) -> Chain:
    """Fulls at 10 and 40, increments at 20 and 30 on the first, at 50 on the second."""

    def base(step: int) -> list:
        keys = {key: float(step) for key in (1, 2, 5, 1001)}
        return [
            table("emb", keys, parts=2, filtered=[7], freqs=3, shards=2),
            {
                "w": floats(step, shape=(1, 1)),
                "rows": floats(*range(6), shape=(3, 2)),
                "s": string("a", "b"),
            },
        ]

    def change(step: int, *keys: int) -> list:
        return [
            changes("emb", dict.fromkeys(keys, float(step)), parts=2, freqs=4, shards=2),
            Rows("rows", "float32", 2, {1: b"abcdefgh"}),
            {"w": floats(step, shape=(1, 1)), "s": string("c", "d")},
        ]

    chain = build_chain(
        tmp_path,
        full(10, *base(10), shards=2),
        increment(20, *change(20, 2, 7), shards=2),
        increment(30, *change(30, 2, 7, 8), shards=2),
        full(40, *base(40), shards=2),
        increment(50, *change(50, 1, 3), shards=2),
    )
    if side:
        for suffix, data in SIDE.items():
            path = Path(f"{chain.full_prefix(40)}{suffix}")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
    return chain


def names(directory: Path) -> set[str]:
    """Everything below a directory but ckptctl's own room."""
    found = (str(path.relative_to(directory)) for path in Path(directory).rglob("*"))
    return {name for name in found if name.split(os.sep)[0] != ".ckptctl"}
