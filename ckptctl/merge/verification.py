"""Reading all tensors of a checkpoint, and remembering that each matched its checksum."""

from __future__ import annotations

import os

from ckptctl.bundle import BundleReader
from ckptctl.chain import Checkpoint, VerifiedCheckpoints, scan_directory
from ckptctl.restore.survey import CheckTask
from ckptctl.running import Runner, batches
from ckptctl.storage import Storage

__all__ = ["remember_verified", "verify_all"]


def verify_all(checkpoint: Checkpoint, runner: Runner, storage: Storage) -> None:
    """Read every tensor of a checkpoint and compare it with its crc32c.

    Raises
    ------
    DamageError
        One of them does not match, or a shard is missing or short.
    NotFoundError
        It is gone.
    """
    with BundleReader(checkpoint.prefix, storage) as reader:
        reader.check_shards()
        entries = [(name, entry) for _, name, entry in reader.data_entries()]
        tasks = [CheckTask(reader, batch) for batch in batches(entries, lambda item: item[1].size)]
        runner.progress.start(f"verifying {checkpoint.name}", sum(task.nbytes for task in tasks))
        for _ in runner.map((None, task) for task in tasks):
            pass


def remember_verified(prefix: str, storage: Storage) -> None:
    """Remember that the full at a prefix was read back as a whole, where it was just written."""
    scan = scan_directory(os.path.dirname(prefix) or ".", storage)
    for found in (*scan.fulls, *scan.others):
        if os.path.basename(found.prefix) == os.path.basename(prefix):
            VerifiedCheckpoints().add(found)
