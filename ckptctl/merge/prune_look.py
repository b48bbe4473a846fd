"""What a prune has to look at before its rules decide: marks, keys, times."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from itertools import pairwise

from ckptctl.chain import (
    Chains,
    Checkpoint,
    ProvenPairs,
    Scan,
    find_chains,
    find_changed,
)
from ckptctl.chain.names import Grouped, group_files
from ckptctl.errors import DamageError, NotFoundError, RefusedError, UnprovenError
from ckptctl.merge.destination import own_files, own_temporaries
from ckptctl.merge.prune_plan import PruneFile
from ckptctl.merge.removed_log import read_identities
from ckptctl.progress import Progress
from ckptctl.restore import RestoreOptions, open_state
from ckptctl.restore.nested import check_nested
from ckptctl.restore.select import select
from ckptctl.storage import Storage

__all__ = ["Pairs", "newest_sound", "own_leftovers", "save_times"]


class Pairs(ProvenPairs):
    """Proven pairs, and the look that proves those of a whole directory."""

    def prove(
        self, chains: Chains, storage: Storage, progress: Progress
    ) -> tuple[Chains, tuple[str, ...]]:
        """Compare the keys of increments that no full covers, pair by pair.

        Returns
        -------
        Chains, tuple of str
            The chains with what is known now, and what damage was met.
        """
        failed: set[tuple[str, str]] = set()
        damage: list[str] = []
        for chain in chains.chains:
            for pair in pairwise(chains.nested_series(chain.base)):
                if chains.is_stale(pair[1]):
                    continue
                try:
                    check_nested(chain.base.prefix, pair, self, storage, progress=progress)
                except UnprovenError:
                    failed.add((pair[0].prefix, pair[1].prefix))
                except DamageError as error:
                    if find_changed((chain.base, *pair), storage) is None:
                        damage.append(str(error))
                except (RefusedError, NotFoundError):  # not proven, and so not superseded
                    continue
        judged = find_chains(chains.scan, chains.assume_order, frozenset(failed), self)
        return judged, tuple(damage)


def newest_sound(chains: Chains, storage: Storage) -> str | None:
    """Return the prefix of the newest restore point whose checks 1 to 5 have all passed."""
    found = sorted(
        (*chains.scan.increments, *chains.scan.fulls),
        key=lambda item: (item.step, item.kind == "full"),
    )
    for item in reversed(found):
        if chains.is_restore_point(item) and (
            item.kind == "full" or _passes(chains, item, storage)
        ):
            return item.prefix
    return None


def _passes(chains: Chains, increment: Checkpoint, storage: Storage) -> bool:
    options = RestoreOptions(assume_order=chains.assume_order)
    try:
        chosen = select(chains, increment.step, options)
        series = [item.prefix for item in chosen.to_prove]
        if any(pair not in chains.proven_nested for pair in pairwise(series)):
            return False
        prefixes = [item.prefix for item in chosen.increments]
        open_state(chosen.base.prefix, prefixes, options, storage).close()
    except (RefusedError, DamageError, NotFoundError):
        return False
    return True


def own_leftovers(
    scan: Scan, files: Mapping[str, tuple[PruneFile, ...]], storage: Storage
) -> set[str]:
    """Return the paths of what a killed run of ours left behind.

    What a mark names, and what the log of removals names, file by file.
    """
    logged, rooms = read_identities(scan.directory, storage)
    found: set[str] = set()
    marks: dict[str, frozenset[str]] = {}
    homes: dict[str, Grouped] = {}  # each is listed once, however much was left behind
    for leftover in scan.leftovers:
        path = leftover.path
        prefix = os.path.join(os.path.dirname(path), leftover.name)
        inside = [file.path for file in files.get(path, ())]
        if leftover.reason == "atomic":
            found.add(path)
            continue
        if prefix not in marks:
            home = os.path.dirname(path)
            if home not in homes:
                homes[home] = group_files(storage.listdir(home or "."))
            names = own_temporaries(prefix, storage, homes[home])
            marks[prefix] = own_files(prefix, storage) | {
                os.path.join(home, name) for name in names
            }
        ours = marks[prefix]
        if path in ours or (inside and all(each in ours for each in inside)):
            found.add(path)
    for path, own in files.items():
        known = all(logged.get(file.path) == file.identity[2:] for file in own)
        if known and (own or path in rooms):
            found.add(path)
    return found


def save_times(chains: Chains) -> Callable[[Checkpoint], float | None]:
    """Return a function that says when a checkpoint was saved, in seconds since 1970.

    The state file says so where it keeps times; of what ckptctl merged its mark says when the
    newest source was saved; else mtimes, where they are not those of a copy; else nothing does.
    """
    scan = chains.scan
    usable = (
        chains.timelines.order.time_usable
        if not chains.timelines.order.by_step
        else find_chains(scan).timelines.order.time_usable
    )
    stamps = {
        (kind, os.path.basename(path)): when
        for kind, file in (("full", scan.full_state), ("increment", scan.increment_state))
        if file.state is not None
        for path, when in zip(file.state.all_paths, file.state.timestamps, strict=False)
        if 0 < when < math.inf  # what a text format calls a number may be none
    }

    def when(checkpoint: Checkpoint) -> float | None:
        stamp = stamps.get((checkpoint.kind, checkpoint.name))
        if stamp is None:
            stamp = checkpoint.saved_s
        known = usable and checkpoint.is_dated
        return stamp if stamp is not None else checkpoint.mtime_ns / 1e9 if known else None

    return when
