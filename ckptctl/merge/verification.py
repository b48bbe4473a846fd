"""Whether a checkpoint is sound as a whole, and remembering that it was."""

from __future__ import annotations

import os

from ckptctl.chain import Chains, Checkpoint, VerifiedCheckpoints, scan_directory
from ckptctl.errors import DamageError, RefusedError
from ckptctl.progress import Progress
from ckptctl.storage import Storage

__all__ = ["remember_verified", "verify_all"]


def verify_all(
    checkpoint: Checkpoint,
    chains: Chains,
    storage: Storage,
    *,
    jobs: int | None,
    bwlimit: int | None,
    progress: Progress,
) -> None:
    """Look at a checkpoint as `verify --data` does: every byte, and what it means.

    Raises
    ------
    DamageError
        It found damage.
    RefusedError
        Something could not be read, or is gone.
    """
    # A dry run reads no data.
    from ckptctl.inspect.findings import error_of
    from ckptctl.inspect.verify import VerifyPlan, execute_verify

    directory = chains.scan.directory
    plan = VerifyPlan(directory, chains, (checkpoint,), (), True, (1, 1), False, storage)
    found = execute_verify(plan, jobs=jobs, bwlimit=bwlimit, progress=progress)
    if found.count("damage"):
        raise error_of(DamageError, "damage", found.findings, "damage")
    if found.count("unread"):
        raise error_of(RefusedError, "not all could be read", found.findings, "unread")


def remember_verified(prefix: str, storage: Storage) -> None:
    """Remember a full that was just written and read back, unless names and shapes contradict."""
    from ckptctl.inspect.verify_quick import check_bundle  # nor does the plan of a merge

    # What a full lacks, a part of a table say, what is merged onto it lacks too.
    if any(finding.severity == "damage" for finding in check_bundle(prefix, False, storage)):
        return
    scan = scan_directory(os.path.dirname(prefix) or ".", storage)
    for found in (*scan.fulls, *scan.others):
        if os.path.basename(found.prefix) == os.path.basename(prefix):
            VerifiedCheckpoints().add(found)
