"""The directory as it would be without some checkpoints, judged by the same rules as now."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Literal

from ckptctl.chain import Chains, Checkpoint, Removed, Scan, StateFile, find_chains
from ckptctl.merge.state_file import drop_checkpoints, fresh_checkpoints, written

__all__ = ["Later"]


class Later:
    """What would be known of the rest of a directory, had some checkpoints been removed."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self.scan = chains.scan
        self.all = {item.prefix: item for item in (*self.scan.increments, *self.scan.fulls)}
        self._now: dict[str, tuple[bool, ...]] = {}

    def troubled(self, removed: Collection[str]) -> list[str]:
        """Return the names of what stays and would be judged otherwise than now."""
        if not removed:
            return []
        later = find_chains(
            self._without(removed),
            self.chains.assume_order,
            self.chains.failed_nested,
            self.chains.proven_nested,
        )
        return [
            item.name
            for item in self.all.values()
            if item.prefix not in removed and _judged(later, item) != self._judged_now(item)
        ]

    def _judged_now(self, item: Checkpoint) -> tuple[bool, ...]:
        if item.prefix not in self._now:
            self._now[item.prefix] = _judged(self.chains, item)
        return self._now[item.prefix]

    def _without(self, removed: Collection[str]) -> Scan:
        scan = self.scan
        gone = [self.all[prefix] for prefix in removed]
        return scan._replace(
            fulls=tuple(item for item in scan.fulls if item.prefix not in removed),
            increments=tuple(item for item in scan.increments if item.prefix not in removed),
            full_state=self._state_without("full", gone),
            increment_state=self._state_without("increment", gone),
            removed=(
                *scan.removed,
                *(self._removed(item) for item in gone),
            ),
        )

    def _removed(self, item: Checkpoint) -> Removed:
        written = item.mtime_ns if item.is_dated else None
        return Removed(item.kind, item.name, item.step, item.merged is not None, written)

    def _state_without(
        self, kind: Literal["full", "increment"], gone: Iterable[Checkpoint]
    ) -> StateFile:
        scan = self.scan
        now = scan.full_state if kind == "full" else scan.increment_state
        names = {item.name for item in gone if item.kind == kind}
        if now.state is None or not names & set(now.order):
            return now
        found = scan.fulls if kind == "full" else scan.increments
        here = {
            item.name
            for item in found
            if item.name not in names and item.complete and self.chains.is_live(item)
        }
        after = drop_checkpoints(now.state, names, here, fresh_checkpoints(self.chains, kind))
        if after is None:
            return StateFile(now.path)
        return written(after, scan)


def _judged(chains: Chains, item: Checkpoint) -> tuple[bool, ...]:
    # Whether by what the trainer overwrites counts too: it would come back to life by that.
    by_state = chains.timelines.only_named_below(item)
    return chains.is_live(item), chains.is_restore_point(item), by_state
