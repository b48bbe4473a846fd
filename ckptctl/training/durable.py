"""Making what TensorFlow saved survive a power loss: it does not fsync."""

from __future__ import annotations

import os

from ckptctl.chain.names import group_files
from ckptctl.storage import LOCAL

__all__ = ["make_durable"]


def make_durable(prefix: str, *above: str) -> None:
    """Flush a checkpoint's shards, then its index, its directory, and what is `above`.

    A path with a scheme (`gs://`, `hdfs://`) is durable when TensorFlow has closed it.
    """
    if "://" in prefix:
        return
    directory, name = os.path.split(prefix)
    directory = directory or "."
    group = group_files(LOCAL.listdir(directory)).names[name]
    assert group.index is not None
    for info in (*group.shards, group.index):
        _flush(os.path.join(directory, info.name))
    for folder in (directory, *above):
        _flush(folder)


def _flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
