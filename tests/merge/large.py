"""Fulls of gigabytes that take no disk: their values are holes, their keys are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ckptctl.bundle import BundleHeader, Entry, dtype_by_name
from ckptctl.bundle.checksum import crc32c, mask
from ckptctl.bundle.writer import index_bytes
from tests.oracle.chain import INCREMENTS, Chain, write_state

PARTS = 2
BUCKETS = 1000


class _Sparse:
    """Writes a bundle of one shard; zeros become holes."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(f"{prefix}.data-00000-of-00001", "wb")  # noqa: SIM115
        self.entries: dict[bytes, Entry] = {}
        self.end = 0

    def add(self, name: str, array: np.ndarray) -> None:
        data = array.tobytes()
        self.file.seek(self.end)
        self.file.write(data)
        self._record(name, array.dtype.name, array.shape, len(data), mask(crc32c(data)))

    def zeros(self, name: str, rows: int, dim: int) -> None:
        size = rows * dim * 4
        piece, crc = bytes(1 << 20), 0
        for at in range(0, size, len(piece)):
            crc = crc32c(piece[: min(len(piece), size - at)], crc)
        self._record(name, "float32", (rows, dim), size, mask(crc))

    def _record(self, name: str, dtype: str, shape: tuple[int, ...], size: int, crc: int) -> None:
        kind = dtype_by_name(dtype)
        self.entries[name.encode()] = Entry(kind, shape, 0, self.end, size, crc)
        self.end += size

    def close(self) -> None:
        self.file.truncate(self.end)
        self.file.close()
        index = index_bytes(BundleHeader(1), self.entries)
        Path(f"{self.prefix}.index").write_bytes(index)


def _by_bucket(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys by bucket, ascending, and their offsets."""
    keys = keys[np.lexsort((keys, keys % BUCKETS))]
    counts = np.bincount(keys % BUCKETS, minlength=BUCKETS)
    return keys, np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def large_full(tmp_path: Path, *, rows: int, dim: int, incoming: int) -> Chain:
    """Return a chain of one table in two parts; half of the incoming keys are new."""
    chain = Chain(tmp_path / "large")
    none, empty = np.zeros(BUCKETS + 1, np.int32), np.empty(0, np.int64)
    full = _Sparse(chain.full_prefix(10))
    change = _Sparse(chain.increment_prefix(20))
    old = np.arange(rows, dtype=np.int64)
    new = np.arange(rows - incoming // 2, rows + incoming // 2, dtype=np.int64)
    for part in range(PARTS):
        name = f"emb/part_{part}"
        keys, offsets = _by_bucket(old[old % BUCKETS % PARTS == part])
        full.add(f"{name}-keys", keys)
        full.zeros(f"{name}-values", len(keys), dim)
        for suffix in ("-versions", "-freqs", "-keys_filtered", "-versions_filtered"):
            full.add(name + suffix, empty)
        full.add(f"{name}-freqs_filtered", empty)
        full.add(f"{name}-partition_offset", offsets)
        full.add(f"{name}-partition_filter_offset", none)
        keys, offsets = _by_bucket(new[new % BUCKETS % PARTS == part])
        change.add(f"{name}-incr_partition_offset", offsets)
        change.add(f"{name}-sparse_incr_keys", keys)
        change.add(f"{name}-sparse_incr_values", np.ones((len(keys), dim), np.float32))
        for suffix in ("-sparse_incr_versions", "-sparse_incr_freqs"):
            change.add(name + suffix, np.zeros(len(keys), np.int64))
    for bundle, step in ((full, 10), (change, 20)):
        bundle.add("global_step", np.array(step, np.int64))
        bundle.close()
    write_state(chain.directory, ["model.ckpt-10"])
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-20"])
    return chain
