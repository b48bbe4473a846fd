"""What may lie between a full and an increment, and speaks against its being the base."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from ckptctl.chain.model import NO_STEP, Checkpoint, Removed, Scan
from ckptctl.chain.names import split_step
from ckptctl.chain.timelines import Timelines

__all__ = ["Between"]


class Between:
    """Finds evidence for checks 3 and 4 of "The state at step S" (`restore.md`)."""

    def __init__(self, scan: Scan, timelines: Timelines) -> None:
        self._scan = scan
        self._timelines = timelines

    def rival_of(self, increment: Checkpoint) -> Checkpoint | None:
        """Return the newest other below an increment without lineage, called as its base may be.

        Another Saver's full, or a run that was set back to one, changes the base name that the
        state file names, and with it which fulls are looked at.
        """
        rivals = [
            other
            for other in self._scan.others
            if f"incremental_{other.base_name}" == increment.base_name
            and NO_STEP < other.step < increment.step
        ]
        return max(rivals, key=lambda other: other.step, default=None)

    def gone(self, base: Checkpoint, increment: Checkpoint) -> list[str]:
        """Return names of fulls between base and increment that are gone: check 3."""
        here = {full.name for full in self._scan.fulls}
        removed = [item for item in self._scan.removed if item.kind == "full"]
        harmless = {
            item.name
            for item in removed
            if (item.merged or self._was_overtaken(item, increment))
            and not self._may_be_saved_anew(item)
        }
        counted = dict(self._scan.full_state.steps)
        counted.update((item.name, item.step) for item in removed)
        return [
            name
            for name, step in counted.items()
            if base.step < step < increment.step and name not in here and name not in harmless
        ]

    def _was_overtaken(self, gone: Removed, increment: Checkpoint) -> bool:
        """Return whether a full that we removed had been given up before an increment.

        As `hiding`, of one that is still here: a lower step was saved in between.
        """
        earlier, written = self._timelines.order.earlier, gone.written_ns
        return (
            written is not None
            and increment.is_dated
            and any(
                step < gone.step and earlier(written, at_ns) and earlier(at_ns, increment.mtime_ns)
                for step, at_ns in self._saves
            )
        )

    def _may_be_saved_anew(self, gone: Removed) -> bool:
        """Return whether a full that we removed is listed, and not as a live Saver remembers it.

        One that a trainer saves moves to the end of its list: where one of a lower step that is
        here, or that we removed, stands behind it, the run was set back after its last save.
        """
        state = self._scan.full_state
        place = state.places.get(gone.name)
        if place is None:
            return gone.name in state.order
        return not any(
            step < gone.step and state.places.get(name, -1) > place
            for name, step in state.steps.items()
            if name in self._trainers
        )

    @cached_property
    def _trainers(self) -> set[str]:
        """Names of fulls of the trainer's that are here, or that we removed."""
        removed = {item.name for item in self._scan.removed if item.kind == "full"}
        return (removed | {full.name for full in self._scan.fulls}) - self._ours

    @cached_property
    def _ours(self) -> set[str]:
        """Names of fulls that a merge may have made."""
        merged = {item.name for item in self._scan.removed if item.merged}
        return merged | {full.name for full in self._scan.fulls if full.may_be_ours}

    @cached_property
    def _saves(self) -> tuple[tuple[int, int], ...]:
        """Step and time of what the trainer saved on the present timeline.

        What was merged stands for the newest of its sources.
        """
        live = filter(self._timelines.is_live, self._scan.fulls)
        merged = [
            (full.merged.up_to, int(full.saved_s * 1e9))
            for full in live
            if full.merged is not None and full.saved_s is not None
        ]
        return (*((each.step, each.mtime_ns) for each in self._witnesses if each.is_dated), *merged)

    def hiding(self, base: Checkpoint, increment: Checkpoint) -> Checkpoint | None:
        """Return an abandoned full that the increment may have been recorded against.

        One between the two by step, and no live checkpoint of a step below it was written after
        it and before the increment: such a one shows that the run had been rolled back by then.
        One that was written after the increment may have been there before: a run that is rolled
        back saves anew the full that it begins at.
        """
        before = self._timelines.order.written
        for full in self._scan.fulls:
            between = base.step < full.step < increment.step
            if not between or self._timelines.is_live(full):
                continue
            if full.ours and not self._timelines.only_set_back(full):
                continue  # what made it abandoned was saved since, by the run of the increment
            if full.ours and before(full, increment) is False:
                continue  # no run saved it anew
            if not any(
                other.step < full.step and before(full, other) and before(other, increment)
                for other in self._witnesses
            ):
                return full
        return None

    @cached_property
    def _witnesses(self) -> tuple[Checkpoint, ...]:
        return tuple(
            checkpoint
            for checkpoint in (*self._scan.fulls, *self._scan.increments)
            if self._timelines.is_live(checkpoint)
            and not (checkpoint.kind == "full" and checkpoint.may_be_ours)
        )

    def not_rotated(
        self, base: Checkpoint, roots: Iterable[str], increment: Checkpoint
    ) -> tuple[str, str] | None:
        """Return what proves that no full above the base rotated away: check 4.

        A line that names a full which the list has not shows that somebody set the run back, and
        not what was recorded on that full, but for the increments up to the one that he named.
        """
        state = self._scan.full_state
        if not state.present:
            return "no-state-file", "no state file: nothing says that a full rotated away"
        last = split_step(self._scan.increment_state.latest or "")
        meant = not state.listed or (last is not None and increment.step <= last[1])
        for name in (base.name, *roots):  # none above what a merged one was made from, either
            if name in state.listed or (name == state.latest and meant):
                return "listed", f"{state.path} lists {name}"
        listed = [step for name, step in state.steps.items() if name not in self._ours]
        oldest = next(iter(listed or state.steps.values()), None)
        if oldest is not None and base.step > oldest:
            return "above-oldest", f"{base.name} lies above the oldest listed full, {oldest}"
        own = [full for full in self._scan.fulls if not full.may_be_ours]
        increments = self._scan.increment_state
        if len(state.order) == 1 < len(own) and len(increments.order) == 1 < len(
            self._scan.increments
        ):
            return "nothing-rotates", "both state files list one checkpoint while more lie there"
        return None
