"""Whether a merge is worth it by now: what a directory holds, and the gate of `compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ckptctl.chain import Chains

__all__ = ["Gate", "Holdings", "look_at_holdings"]


class Holdings(NamedTuple):
    """What a directory holds, in numbers.

    Attributes
    ----------
    fulls, full_bytes
        Full checkpoints and the bytes of all their files, whatever their status.
    increments, increment_bytes
        The same of increments.
    pending, pending_bytes
        Live increments from the newest full that can be restored up to the newest restore point:
        the length of the chain that a restore has to look at, and what a merge would take in.
    pending_removed
        Increments of steps in between that the log of removals names: a later one contains them.
    passed_over
        What is newer than the newest restore point and cannot be restored, but for idle
        increments.
    newest_full_step, newest_full_bytes
        The newest full that can be restored, None and 0 without one.
    latest, latest_time_s
        Step of the newest restore point, and when it was saved, in seconds since 1970; None
        where there is none, and where nothing tells.
    last_merge_s
        When ckptctl last merged here, as far as the result is still there.
    """

    fulls: int
    full_bytes: int
    increments: int
    increment_bytes: int
    pending: int
    pending_bytes: int
    newest_full_step: int | None
    newest_full_bytes: int
    latest: int | None
    latest_time_s: float | None
    last_merge_s: float | None
    pending_removed: int = 0
    passed_over: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        return self._asdict()


def look_at_holdings(chains: Chains) -> Holdings:
    """Return what a directory holds; reads names, state files and indexes."""
    from ckptctl.chain import NO_STEP
    from ckptctl.chain.passed import find_passed_over
    from ckptctl.merge.prune_look import save_times

    scan, latest = chains.scan, chains.latest
    fulls = [full for full in scan.fulls if chains.is_restore_point(full)]
    newest = fulls[-1] if fulls else None
    above = newest.step if newest is not None else NO_STEP
    upto = latest if latest is not None else NO_STEP
    pending = [
        item
        for item in scan.increments
        if above < item.step <= upto and chains.is_live(item) and item.complete
    ]
    removed = {
        item.name for item in scan.removed if item.kind == "increment" and above < item.step <= upto
    }
    saved = save_times(chains)
    times = [
        saved(item)
        for item in (*scan.fulls, *scan.increments)
        if item.step == latest and chains.is_restore_point(item)
    ]
    merged = [full.index.mtime_ns / 1e9 for full in scan.fulls if full.merged is not None]
    return Holdings(
        fulls=len(scan.fulls),
        full_bytes=sum(full.bytes for full in scan.fulls),
        increments=len(scan.increments),
        increment_bytes=sum(item.bytes for item in scan.increments),
        pending=len(pending),
        pending_bytes=sum(item.bytes for item in pending),
        newest_full_step=newest.step if newest is not None else None,
        newest_full_bytes=newest.bytes if newest is not None else 0,
        latest=latest,
        latest_time_s=min((time for time in times if time is not None), default=None),
        last_merge_s=max(merged, default=None),
        pending_removed=len(removed.difference(item.name for item in scan.increments)),
        passed_over=len(find_passed_over(chains, idle=False)),
    )


class Gate(NamedTuple):
    """What has to have piled up before `compact` merges; all of it, where several are given.

    Attributes
    ----------
    min_increments
        Increments that were saved above the newest full. Those that were removed since count,
        as far as the log of removals knows them: a prune leaves only the last.
    min_bytes
        Bytes of those that are there.
    min_ratio
        These bytes to those of the newest full.
    min_interval_s
        Seconds since the last merge whose result is still there.
    """

    min_increments: int = 1
    min_bytes: int = 0
    min_ratio: float = 0.0
    min_interval_s: float = 0.0

    def why_not(self, found: Holdings, now_s: float) -> str | None:
        """Return why a merge is not worth it yet, or None if it is."""
        if found.pending == 0:
            return "nothing to merge: the newest restore point is a full"
        saved = found.pending + found.pending_removed
        if saved < self.min_increments:
            return _below("increments", saved, "min-increments", self.min_increments)
        if found.pending_bytes < self.min_bytes:
            return _below("bytes of increments", found.pending_bytes, "min-bytes", self.min_bytes)
        ratio = found.pending_bytes / max(found.newest_full_bytes, 1)
        if ratio < self.min_ratio:
            return _below("of the full's bytes", round(ratio, 4), "min-ratio", self.min_ratio)
        if found.last_merge_s is not None:
            since = now_s - found.last_merge_s
            # A clock that was set back must not stop every merge until it has caught up.
            if 0 <= since < self.min_interval_s:
                what = "seconds since the last merge"
                return _below(what, int(since), "min-interval", self.min_interval_s)
        return None


def _below(what: str, found: float, option: str, least: float) -> str:
    return f"not yet: {found:g} {what}, below --{option} {least:g}"
