"""Which checkpoint a training goes on from, by the rules of every command."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from ckptctl.chain import (
    NO_STEP,
    Lineage,
    ProvenPairs,
    check_read,
    find_chains,
    scan_directory,
)
from ckptctl.errors import CkptctlError
from ckptctl.restore import RestoreOptions, open_state
from ckptctl.restore.nested import check_nested
from ckptctl.restore.select import select

__all__ = ["RestorePoint", "newest_point", "restorable", "stands_in"]

_LOG = logging.getLogger("ckptctl.training")


@dataclass(frozen=True)
class RestorePoint:
    """What is restored: a full, and the increments to apply to it, oldest first.

    `lineage` is what the last of them says of its origin.
    """

    step: int
    full: str
    increments: tuple[str, ...]
    lineage: Lineage | None = None


def restorable(directory: str) -> Iterator[RestorePoint]:
    """Yield the restore points of a directory that pass all checks of names, newest first.

    A newer checkpoint that does not pass is logged with the reason: no training should
    stay down because one increment is damaged, nor fall back in silence. Checksums of the
    data are left to the restore, which reads it anyway.

    Raises
    ------
    ckptctl.errors.UnreadableError
        What is newer, or all of the increments, cannot be looked at: it may be as sound as any.
    """
    scan = scan_directory(directory or ".")
    proven = ProvenPairs(scan)
    chains = find_chains(scan, proven_nested=proven)
    points = list(chains.restore_points)
    check_read(chains, points[-1] if points else NO_STEP)
    for told in chains.passed_over():
        _LOG.warning("%s: %s", directory or ".", told)
    for step in reversed(points):
        try:
            chosen = select(chains, step, RestoreOptions())
            check_nested(chosen.base.prefix, chosen.to_prove, proven)
            increments = tuple(item.prefix for item in chosen.increments)
            open_state(chosen.base.prefix, increments).close()
        except CkptctlError as error:
            _LOG.warning("step %d is not restored: %s", step, error)
            continue
        lineage = chosen.increments[-1].lineage if chosen.increments else None
        yield RestorePoint(step, chosen.base.prefix, increments, lineage)


def newest_point(directory: str) -> int | None:
    """Return the newest restore point by names and indexes, or None where nothing tells."""
    try:
        return find_chains(scan_directory(directory or ".")).latest
    except CkptctlError:
        return None


def stands_in(directory: str, step: int) -> bool:
    """Return whether a full is here that was merged from the one at a step."""
    try:
        chains = find_chains(scan_directory(directory or "."))
        return any(step in chains.bases.roots(full) for full in chains.scan.fulls)
    except CkptctlError:
        return False
