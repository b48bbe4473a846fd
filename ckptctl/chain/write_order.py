"""In which order the checkpoints of a directory were written, and since when a run is set back."""

from __future__ import annotations

from typing import NamedTuple

from ckptctl.chain.model import Checkpoint, Scan, StateFile
from ckptctl.chain.names import split_step

__all__ = ["SAME_TIME_NS", "WriteOrder", "names_below", "set_back_since"]

#: mtimes this close count as equal: file systems keep 1 or 2 s, and clocks differ.
SAME_TIME_NS = 2_000_000_000


class WriteOrder(NamedTuple):
    """In which order the checkpoints of a directory were written.

    Attributes
    ----------
    scan
        The directory; the full that a merge of ours was named instead of counts as named.
    time_usable
        Whether mtimes say anything: see `timelines._copy_evidence`.
    by_step
        `--assume-order step`: the order of steps, whatever lists and times say.
    """

    scan: Scan
    time_usable: bool
    by_step: bool = False

    def before(self, a: Checkpoint, b: Checkpoint) -> bool | None:
        """Return whether `a` was written before `b`; None where nothing shows it.

        The list decides where both are in it, else the mtimes of `.index`.
        """
        if self.by_step:
            return None if a.step == b.step else a.step < b.step
        if a.kind == b.kind:
            order = self.scan.state_of(a).order
            if a.name in order and b.name in order:
                return order[a.name] < order[b.name]
        return self.earlier(a.mtime_ns, b.mtime_ns) if a.is_dated and b.is_dated else None

    def written(self, a: Checkpoint, b: Checkpoint) -> bool | None:
        """As `before`, but by when they were written alone.

        A line that someone edited to roll a run back makes a checkpoint the newest of its
        list. It shows where the run went on, not that anything was written there since.
        """
        if self.by_step or a.kind != b.kind:
            return self.before(a, b)
        places = self.scan.state_of(a).places
        if a.name in places and b.name in places:
            return places[a.name] < places[b.name]
        return self.earlier(a.mtime_ns, b.mtime_ns) if a.is_dated and b.is_dated else None

    def earlier(self, a_ns: int, b_ns: int) -> bool | None:
        """Return whether one mtime lies before another; None where that means nothing."""
        if not self.time_usable or abs(a_ns - b_ns) <= SAME_TIME_NS:
            return None
        return a_ns < b_ns

    def set_back_behind(self, merged: Checkpoint) -> bool:
        """Return whether the state file names a step below a merged full, and is newer."""
        state = self.scan.full_state
        since, written = set_back_since(merged, state), state.mtime_ns
        if not names_below(state, merged) or since is None or written is None:
            return False
        return self.earlier(since, written) is True

    def was_set_back_behind(self, merged: Checkpoint) -> bool:
        """Return whether that says that the run was set back: it was in that file."""
        state = self.scan.full_state
        if merged.name in state.listed:
            return names_below(state, merged)
        return self.set_back_behind(merged) and merged.entered


def set_back_since(merged: Checkpoint, state: StateFile) -> int | None:
    """Return since when a state file that names a step below a merged full was set back.

    None where it is the one that was there when the full was made. Where the trainer's clock is
    ahead the full has its time, and whoever sets a run back may have the right one.
    """
    ahead = merged.merged.ahead if merged.merged is not None else None
    if ahead is None or merged.mtime_ns != ahead.dated_ns:
        return merged.mtime_ns
    return None if state.mtime_ns == ahead.state_ns else ahead.made_ns


def names_below(state: StateFile, checkpoint: Checkpoint) -> bool:
    """Return whether a state file names a step below a checkpoint's."""
    named = split_step(state.latest) if state.latest is not None else None
    return named is not None and named[1] < checkpoint.step
