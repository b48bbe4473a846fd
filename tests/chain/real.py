"""Small checkpoints on disk, as DeepRec lays them out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from ckptctl.bundle import BundleWriter
from ckptctl.chain import INCREMENT_DIRECTORY

KEYS = np.array([1, 2, 1003], dtype=np.int64)


def _offsets(count: int) -> np.ndarray:
    return np.linspace(0, count, 1001).astype(np.int32)


def write_full(
    directory: Path,
    step: int,
    *,
    name: str | None = None,
    at: float | None = None,
    shards: int = 1,
    merged: object = None,
    tables: int = 1,
    global_step: np.ndarray | None = None,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a full with EVs `emb<i>` and their Adagrad slots; return its prefix."""
    prefix = Path(directory) / (name or f"model.ckpt-{step}")
    with BundleWriter(str(prefix), shards) as writer:
        for table in range(tables):
            for part in range(shards):
                for slot in ("", "/Adagrad"):
                    ev = f"emb{table}/part_{part}{slot}"
                    columns = {
                        "-keys": KEYS,
                        "-values": np.ones((3, 2), np.float32),
                        "-versions": np.zeros(0, np.int64),
                        "-freqs": np.zeros(0, np.int64),
                        "-keys_filtered": np.zeros(0, np.int64),
                        "-versions_filtered": np.zeros(0, np.int64),
                        "-freqs_filtered": np.zeros(0, np.int64),
                        "-partition_offset": _offsets(3),
                        "-partition_filter_offset": _offsets(0),
                    }
                    for suffix, array in columns.items():
                        writer.add(ev + suffix, array, shard=part)
        writer.add("bias", np.ones(4, np.float32))
        if global_step is None:
            global_step = np.array(step, np.int64)
        if global_step.size:
            writer.add("global_step", global_step)
        for key, array in (extra or {}).items():
            writer.add(key, array)
        if merged is not None:
            raw = merged if isinstance(merged, bytes) else json.dumps(merged).encode()
            writer.add("ckptctl/merged", np.array(raw, dtype=object))
    return _dated(prefix, at)


def write_increment(
    directory: Path,
    step: int,
    *,
    name: str | None = None,
    at: float | None = None,
    shards: int = 1,
    rows: int = 2,
    lineage: object = None,
    tables: int = 1,
    extra: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an increment on such a full; return its prefix."""
    room = Path(directory) / INCREMENT_DIRECTORY
    room.mkdir(exist_ok=True)
    prefix = room / (name or f"incremental_model.ckpt-{step}")
    with BundleWriter(str(prefix), shards) as writer:
        for table in range(tables):
            for part in range(shards):
                for slot in ("", "/Adagrad"):
                    ev = f"emb{table}/part_{part}{slot}"
                    columns = {
                        "-incr_partition_offset": _offsets(rows),
                        "-sparse_incr_keys": KEYS[:rows],
                        "-sparse_incr_values": np.ones((rows, 2), np.float32),
                        "-sparse_incr_versions": np.zeros(rows, np.int64),
                        "-sparse_incr_freqs": np.zeros(rows, np.int64),
                    }
                    for suffix, array in columns.items():
                        writer.add(ev + suffix, array, shard=part)
        writer.add("bias", np.zeros(4, np.float32))
        writer.add("global_step", np.array(step, np.int64))
        for key, array in (extra or {}).items():
            writer.add(key, array)
        if lineage is not None:
            raw = lineage if isinstance(lineage, bytes) else json.dumps(lineage).encode()
            writer.add("ckptctl/lineage", np.array(raw, dtype=object))
    return _dated(prefix, at)


def write_state(
    room: Path, *paths: str, latest: str | None = None, at: float | None = None
) -> Path:
    """Write the state file of a directory."""
    lines = [f'model_checkpoint_path: "{latest or paths[-1]}"']
    lines += [f'all_model_checkpoint_paths: "{path}"' for path in paths]
    file = Path(room) / "checkpoint"
    file.write_text("\n".join(lines) + "\n")
    if at is not None:
        os.utime(file, (at, at))
    return file


def _dated(prefix: Path, at: float | None) -> Path:
    if at is not None:
        for file in prefix.parent.glob(f"{prefix.name}.*"):
            os.utime(file, (at, at))
    return prefix
