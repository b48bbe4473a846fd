"""The merge as one does it with TensorFlow: `python tf_merge.py FULL INCREMENT OUTPUT`.

Loads each tensor, applies the increment with NumPy, and saves with SaveV2, a shard a part.
Inside a bucket the full's rows stay in place and new keys follow, as ckptctl orders them, so
that the results can be compared by checksum. The files are fsynced, and nothing is checked.
"""

from __future__ import annotations

import glob
import os
import sys
from typing import Any

import numpy as np
import tensorflow as tf


def merge_part(full: Any, increment: Any, member: str, with_columns: bool) -> dict[str, np.ndarray]:
    """Return the nine tensors of one member of one part, in DeepRec's order."""
    keys = full.get_tensor(f"{member}-keys")
    offset = full.get_tensor(f"{member}-partition_offset")
    wanted = increment.get_tensor(f"{member}-sparse_incr_keys")
    order = np.argsort(keys)
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    known = keys[at] == wanted
    places = offset[wanted[~known] % 1000 + 1]

    def merged(rows: np.ndarray, changes: np.ndarray) -> np.ndarray:
        rows[at[known]] = changes[known]
        return np.insert(rows, places, changes[~known], axis=0)

    out = {f"{member}-keys": np.insert(keys, places, wanted[~known])}
    for column in ("values", "versions", "freqs"):
        rows = full.get_tensor(f"{member}-{column}")
        if column == "values" or with_columns:
            rows = merged(rows, increment.get_tensor(f"{member}-sparse_incr_{column}"))
        out[f"{member}-{column}"] = rows
    for column in ("keys", "versions", "freqs"):
        out[f"{member}-{column}_filtered"] = full.get_tensor(f"{member}-{column}_filtered")
    fresh = np.bincount(wanted[~known] % 1000, minlength=1000)
    moved = offset + np.concatenate([[0], np.cumsum(fresh)])
    out[f"{member}-partition_offset"] = moved.astype(np.int32)
    name = f"{member}-partition_filter_offset"
    return out | {name: full.get_tensor(name)}


def save(prefix: str, tensors: dict[str, np.ndarray]) -> None:
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(array) for array in tensors.values()],
    )


def main(full_prefix: str, increment_prefix: str, output: str) -> None:
    full = tf.train.load_checkpoint(full_prefix)
    increment = tf.train.load_checkpoint(increment_prefix)
    with_columns = full.get_variable_to_shape_map()["emb/part_0-freqs"] != [0]
    parts = [f"{output}_temp/part-{i:05d}-of-00002" for i in range(2)]
    for i, part in enumerate(parts):
        tensors: dict[str, np.ndarray] = {}
        for member in (f"emb/part_{i}", f"emb/part_{i}/Adagrad"):
            tensors |= merge_part(full, increment, member, with_columns)
        if i == 0:
            tensors |= {n: increment.get_tensor(n) for n in ("dense/kernel", "global_step")}
        save(part, tensors)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=output, delete_old_dirs=True
    )
    for path in glob.glob(f"{output}.*"):
        with open(path, "rb") as file:
            os.fsync(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
