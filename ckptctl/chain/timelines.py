"""Which checkpoints are live, and which were left over from a run that was rolled back.

The rules are the paragraph "Timelines" of `shared/spec/restore.md`. Everything here works
on names, state files and mtimes, and on the heads of the indexes (lineage, merged): no
index is read as a whole.

Where the rules leave a choice, it is made here so that nothing is lost:

* What a state file "names" is its `model_checkpoint_path`; the rest it "lists". What it
  names counts as the newest of its list (`StateFile.order`).
* A checkpoint that is listed and gone is still evidence: it was written when the list says.
* "Written after" and "written before" need more than 2 s; where they are not shown, the
  exception that rests on them does not apply. Of a checkpoint whose index is a link that leads
  nowhere no time is known: only a list shows that it is abandoned.
* An increment is abandoned, too, if a live full between its base and it was written after it: the
  run was rolled back to that one, or to below.
* An increment whose lineage names an abandoned full is abandoned: "an abandoned full is
  never the base of a live increment", read from the other end.
* A merged full takes no part in the comparisons, unless it is named: whoever names it goes on
  from it, and what is listed above it is left behind. Not where a merge has named it, since the
  full above it that was named had been lost: should that one come back, the file counts as if it
  named it still, until something shows that a run went on from the merged one, or that somebody
  set it back there (`_leads_elsewhere`). When the file was written shows nothing: a prune writes
  it too.
* A merged full is abandoned with the full that it was merged from, with the last of its
  increments, and when the trainer wrote a step below its `up_to` after it: the run was then rolled
  back to before what it holds, and it would carry dead rows into the new timeline.
* Increments of our own recorder have ids, and each names the one before. Those of a full that
  the newest, which the state file names, does not go on from are abandoned: a run that restored
  the full alone began anew at its step. Where the line leads to what is gone nothing is said.
  Those that its line names are live, whatever was written after them.
* A merge whose sources were dated after it, by a clock that is ahead, has their date, and says
  which state file was there (`set_back_since`).
* A state file that was written after a merged full and names a lower step is no Saver's: that
  names what it has just saved, at or above all that was merged. It is one that was set back by
  hand, or one that never listed the full. Where it lists the full, or the merge had listed it,
  it was set back, and the full is abandoned. Else the step that the full was merged up to counts
  as a lower one too, and nothing is proven to be recorded against it (`bases`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise

from ckptctl.chain.model import Checkpoint, Scan, StateFile
from ckptctl.chain.names import split_step
from ckptctl.chain.write_order import SAME_TIME_NS, WriteOrder

__all__ = ["OR_COPIED", "Timelines", "find_timelines"]

_BEFORE = "written before"
_SET_BACK = "the run was set back:"
_PASSED_OVER = "not listed, and above step"
_SAME_STEP = "set back since:"
#: What times that look like a rollback may be instead.
OR_COPIED = " (or copied without its times: --assume-order step)"


class Timelines:
    """Write order, and the checkpoints that are not on the present timeline.

    Attributes
    ----------
    order
        The write order.
    notes
        What was assumed where neither list nor times decide.
    dead_fulls
        Prefix of each abandoned full to the reason, in words.
    """

    def __init__(
        self,
        order: WriteOrder,
        notes: tuple[str, ...],
        dead_fulls: Mapping[str, str],
        left: Mapping[str, str],
    ) -> None:
        self.order = order
        self.notes = notes
        self.dead_fulls = dead_fulls
        self._left = left  # increments that are abandoned whatever their bases are

    @cached_property
    def dead_increments(self) -> Mapping[str, str]:
        """Prefix of each abandoned increment to the reason; reads their lineages."""
        if self.order.by_step:
            return {}
        return _dead_increments(self.order, self.dead_fulls, self._left, self._saves)

    def why_abandoned(self, checkpoint: Checkpoint) -> str | None:
        """Return why a checkpoint is abandoned, or None if it is live."""
        if checkpoint.kind == "full":
            return self.dead_fulls.get(checkpoint.prefix)
        return self.dead_increments.get(checkpoint.prefix)

    def newer_full(self, increment: Checkpoint, base_step: int) -> Checkpoint | None:
        """Return a live full that was saved after an increment, below it and not below a step.

        It shows that the run was rolled back since: the base that was saved anew, or one above
        that, which the increment knows nothing of.
        """
        return self._saves.newer(increment, base_step)

    @cached_property
    def _saves(self) -> _Saves:
        return _Saves(self.order, self.dead_fulls)

    def seems_older_than_its_base(self, checkpoint: Checkpoint) -> bool:
        """Return whether that is why it is abandoned: a copy without its times looks the same."""
        return (self.why_abandoned(checkpoint) or "").startswith(_BEFORE)

    def only_named_below(self, checkpoint: Checkpoint) -> bool:
        """Return whether that is why it is abandoned: until the trainer saves above it."""
        return (self.why_abandoned(checkpoint) or "").startswith(
            (_SET_BACK, _PASSED_OVER, _SAME_STEP)
        )

    def only_set_back(self, checkpoint: Checkpoint) -> bool:
        """Return whether nothing but the state file shows it: nothing was saved there since."""
        return (self.why_abandoned(checkpoint) or "").startswith(_SET_BACK)

    def is_live(self, checkpoint: Checkpoint) -> bool:
        """Return whether a checkpoint is on the present timeline."""
        return self.why_abandoned(checkpoint) is None


def find_timelines(scan: Scan, assume_order: str | None = None) -> Timelines:
    """Return the timelines of a directory.

    Parameters
    ----------
    scan
        The directory; a full's `merged` is read, no more.
    assume_order
        "step" (`--assume-order step`): steps alone decide, nothing is abandoned.
    """
    if assume_order == "step":
        order = _named_still(WriteOrder(scan, time_usable=False, by_step=True))
        return Timelines(order, ("steps decide the write order, as asked for",), {}, {})
    evidence = _copy_evidence(scan)
    order = _named_still(WriteOrder(scan, evidence is None))
    left = _left_increments(order)
    dead = _dead_fulls(order, scan.full_state, left)
    return Timelines(order, tuple(_notes(order, evidence)), dead, left)


def _named_still(order: WriteOrder) -> WriteOrder:
    """Return the order as if a lost full were named still that a merge was named instead of."""
    scan = order.scan
    state = scan.full_state
    lead = next((full for full in scan.fulls if _named(full, state)), None)
    instead = lead.merged.instead if lead is not None and lead.merged is not None else None
    parts = split_step(instead) if instead in state.listed and instead is not None else None
    if lead is None or parts is None or parts[0] != lead.base_name or parts[1] <= lead.step:
        return order
    if any(_leads_elsewhere(order, lead, parts[1], each) for each in scan.fulls + scan.increments):
        return order
    return order._replace(scan=scan._replace(full_state=replace(state, latest=instead)))


def _leads_elsewhere(order: WriteOrder, lead: Checkpoint, lost: int, other: Checkpoint) -> bool:
    """Return whether a checkpoint shows that a run left a lost full for the merged one named.

    An increment between the two, not known to be older than the merged one. One above both that
    is newer: it may be of a trainer that never stopped, and only its lineage shows that. A full
    saved since: a trainer would have named it, so somebody set the run back by hand; as from a full
    that was merged since, and listed.
    """
    merged = lead.merged
    if merged is None or other.step <= merged.up_to:
        return False
    later = order.earlier(lead.mtime_ns, other.mtime_ns) if other.is_dated else None
    if other.kind == "increment":
        if other.step <= lost:
            return later is not False
        return later is True and (other.lineage is None or other.lineage.base_step < lost)
    if later is not True or other.step == lost:
        return False
    return not other.ours or order.was_set_back_behind(other)


def _copy_evidence(scan: Scan) -> str | None:
    """Return what shows that mtimes are those of a copy, or None.

    They decide "only where mtimes agree with the list and no state file is older than what
    it lists". Both are looked at in both directories: one copy made both. One checkpoint alone
    that is newer than its state file, and than all others, shows none if times and list agree
    elsewhere: so does a trainer leave it that saved it anew, and died before it wrote that file.
    """
    resaved = _saved_anew(scan)
    agree = False
    copied = None
    for state, checkpoints in _lists(scan):
        here = {each.name: each for each in checkpoints if each.is_dated and each is not resaved}
        # As listed, not as `order`: an edited line says nothing of times. A name that is
        # listed twice was written, if at all, where it stands last.
        places = state.places
        newest: Checkpoint | None = None
        for name in sorted(places, key=places.__getitem__):
            if name not in here:
                continue
            checkpoint = here[name]
            if newest is not None and checkpoint.mtime_ns + SAME_TIME_NS < newest.mtime_ns:
                return f"{name} is older than {newest.name}, which {state.path} lists before it"
            agree |= newest is not None and checkpoint.mtime_ns > newest.mtime_ns + SAME_TIME_NS
            if newest is None or checkpoint.mtime_ns > newest.mtime_ns:
                newest = checkpoint
        for name in state.order:
            if name in here and _is_older(state, here[name]):
                return f"{state.path} is older than {name}, which it lists"
        if resaved is not None and resaved in checkpoints:
            copied = f"{state.path} is older than {resaved.name}, which it lists"
    return None if agree else copied


def _lists(scan: Scan) -> tuple[tuple[StateFile, Sequence[Checkpoint]], ...]:
    return (scan.full_state, _unmerged(scan)), (scan.increment_state, scan.increments)


def _saved_anew(scan: Scan) -> Checkpoint | None:
    """Return the one that is newer than its state file and all of its kind, if there is but one."""
    found = []
    for state, checkpoints in _lists(scan):
        dated = sorted((each for each in checkpoints if each.is_dated), key=lambda c: c.mtime_ns)
        newer = [each for each in dated if each.name in state.order and _is_older(state, each)]
        found += newer if newer == dated[-1:] else []
    return found[0] if len(found) == 1 else None


def _is_older(state: StateFile, checkpoint: Checkpoint) -> bool:
    return state.mtime_ns is not None and state.mtime_ns + SAME_TIME_NS < checkpoint.mtime_ns


def _unmerged(scan: Scan) -> list[Checkpoint]:
    """Return the fulls that take part in comparisons of write order.

    A merged full was written when ckptctl ran, not when the trainer was at its step. Beside a
    sound index a mark says nothing, since a trainer that restarts saves over a merged full and
    leaves it; what is damaged and has one may be either, and its time tells nothing.
    """
    return [full for full in scan.fulls if not full.may_be_ours]


def _notes(order: WriteOrder, evidence: str | None) -> Iterable[str]:
    scan = order.scan
    if evidence is not None:
        yield f"file times decide nothing: {evidence} (was the directory copied?)"
    for kind, (state, found) in zip(("full", "increment"), _lists(scan), strict=True):
        by_time = sorted(found, key=lambda item: item.mtime_ns)
        pairs = pairwise(by_time)
        if any(order.before(a, b) is None for a, b in pairs):
            missing = "no list" if not state.order else "not all of them are listed"
            yield (
                f"steps decide the write order of {kind} checkpoints: "
                f"{missing}, and file times do not tell them apart"
            )


def _dead_fulls(order: WriteOrder, state: StateFile, left: Mapping[str, str]) -> dict[str, str]:
    scan = order.scan
    compared = _unmerged(scan)
    dead = _overtaken(order, compared, scan.full_state)
    sources = {each.step: each for each in scan.increments if each.prefix in left}
    by_step = {full.step: full for full in scan.fulls}
    for full in scan.fulls:  # ascending: a merged full's base comes before it
        merged = full.merged
        if merged is None or _named(full, state):
            continue
        origins = [by_step[s] for s in (merged.base_step, merged.applied_to) if s in by_step]
        gone = next((base.name for base in origins if base.prefix in dead), None)
        if gone is not None:
            dead[full.prefix] = f"merged from {gone}, which is abandoned"
            continue
        later = [
            other
            for other in (*compared, *scan.increments)
            if other.step <= merged.up_to
            and other.is_dated
            and order.earlier(full.mtime_ns, other.mtime_ns)
        ]
        below = next((other for other in later if other.step < merged.up_to), None)
        source = sources.get(merged.up_to)
        if below is not None:
            dead[full.prefix] = f"{below.name}, of a step below it, was written after it"
        elif later and order.set_back_behind(full):
            dead[full.prefix] = f"{_SAME_STEP} {later[0].name} was written after it"
        elif order.was_set_back_behind(full):
            dead[full.prefix] = f"{_SET_BACK} {scan.full_state.path} names {scan.full_state.latest}"
        elif source is not None and source not in later:  # what the state files name may not tell
            dead[full.prefix] = f"{_SET_BACK} {source.name}, merged into it, is abandoned"
    return dead


def _dead_increments(
    order: WriteOrder, dead_fulls: Mapping[str, str], left: Mapping[str, str], saves: _Saves
) -> dict[str, str]:
    scan = order.scan
    dead = dict(left)
    by_step = {full.step: full for full in _unmerged(scan)}
    for increment in scan.increments:
        if increment.prefix in dead or _named(increment, scan.increment_state):
            continue
        lineage = increment.lineage
        if lineage is not None:
            base, base_step = by_step.get(lineage.base_step), lineage.base_step
        else:
            base = saves.below(increment)
            base_step = base.step if base is not None else increment.step
        newer = saves.newer(increment, base_step)
        if base is not None and base.prefix in dead_fulls:
            dead[increment.prefix] = f"recorded against {base.name}, which is abandoned"
        elif newer is not None:
            what = "its base " if newer is base else ""
            dead[increment.prefix] = f"{_BEFORE} {what}{newer.name}{OR_COPIED}"
    return _other_lines(scan) | dead


class _Saves:
    """The live fulls that a trainer saved."""

    def __init__(self, order: WriteOrder, dead_fulls: Mapping[str, str]) -> None:
        self._order = order
        self._fulls = [f for f in _unmerged(order.scan) if f.prefix not in dead_fulls]
        self._steps = [full.step for full in self._fulls]
        self._newer: dict[tuple[str, int], Checkpoint | None] = {}

    def below(self, increment: Checkpoint) -> Checkpoint | None:
        """Return the nearest below an increment."""
        at = bisect_left(self._steps, increment.step)
        return self._fulls[at - 1] if at else None

    def newer(self, increment: Checkpoint, base_step: int) -> Checkpoint | None:
        """Return the newest that `Timelines.newer_full` may return."""
        key = (increment.prefix, base_step)  # each of a delta series is asked for all before it
        if key not in self._newer:
            first, last = (bisect_left(self._steps, step) for step in (base_step, increment.step))
            later = (f for f in self._fulls[first:last][::-1] if self._order.before(increment, f))
            self._newer[key] = next(later, None)
        return self._newer[key]


def _left_increments(order: WriteOrder) -> dict[str, str]:
    """Return the increments that were overtaken, but those that the one named goes on from."""
    scan = order.scan
    left = _overtaken(order, scan.increments, scan.increment_state)
    found = (i for i in scan.increments if left and _named(i, scan.increment_state))
    lineage = next((each.lineage for each in found), None)
    if lineage is None:
        return left
    own = {i.prefix: i.lineage.id for i in scan.increments if i.prefix in left and i.lineage}
    went = {prefix for prefix, own_id in own.items() if own_id and lineage.follows(own_id)}
    return {prefix: why for prefix, why in left.items() if prefix not in went}


def _other_lines(scan: Scan) -> dict[str, str]:
    """Return the increments that the newest one does not go on from, though of its base.

    A run that restores a full alone, and not what was recorded on it, begins anew at its step.
    Ids tell: those of the newest one lead back to the first of its line, or its line says so.
    """
    own = {i.lineage.id: i for i in scan.increments if i.lineage and i.lineage.id is not None}
    newest = next((i for i in own.values() if _named(i, scan.increment_state)), None)
    if newest is None or newest.lineage is None:
        return {}
    line = _line_of(newest, own)
    return {
        increment.prefix: f"{newest.name}, recorded on the same full, does not go on from it"
        for own_id, increment in own.items()
        if (told := newest.lineage.follows(own_id)) is not True
        and (increment.prefix not in line if line else told is False)
        and increment.step < newest.step
        and increment.lineage is not None
        and increment.lineage.base_step == newest.lineage.base_step
    }


def _line_of(newest: Checkpoint, own: Mapping[str, Checkpoint]) -> set[str]:
    """Return the prefixes that ids lead to, back to the first; none where one is gone."""
    line: set[str] = set()
    at: Checkpoint | None = newest
    while at is not None and at.lineage is not None and at.prefix not in line:
        line.add(at.prefix)
        if at.lineage.previous_step is None and at.lineage.previous_id is None:
            return line
        at = own.get(at.lineage.previous_id or "")
    return set()


def _named(checkpoint: Checkpoint, state: StateFile) -> bool:
    """Return whether a state file names it: that is always live."""
    return checkpoint.name == state.latest


def _overtaken(order: WriteOrder, found: Sequence[Checkpoint], state: StateFile) -> dict[str, str]:
    """Return those that a lower step followed, or that the state file passed over."""
    followers = _Followers(order, found, state)
    named = split_step(state.latest) if state.latest is not None else None
    dead = {}
    for checkpoint in found:
        if _named(checkpoint, state):
            continue
        follower = followers.of(checkpoint)
        if follower is not None:
            dead[checkpoint.prefix] = f"step {follower} was written after it"
        elif (
            named is not None
            and checkpoint.name not in state.order
            and checkpoint.step > named[1]
            and checkpoint.is_dated
            and not order.earlier(state.mtime_ns or 0, checkpoint.mtime_ns)
        ):
            dead[checkpoint.prefix] = f"{_PASSED_OVER} {named[1]}, which {state.path} names"
    return dead


class _Followers:
    """Finds a lower step that was written later, in O(log n) a question."""

    def __init__(self, order: WriteOrder, found: Sequence[Checkpoint], state: StateFile) -> None:
        self._order = order
        self._places = state.order
        merged: set[str] = set()
        if state is order.scan.full_state:
            merged = {full.name for full in order.scan.fulls if full.ours}
            merged.discard(state.latest or "")
        bases = {item.base_name for item in found}
        listed: list[tuple[int, int]] = []
        for name, place in state.order.items():
            parts = split_step(name)
            if parts is not None and parts[0] in bases and name not in merged:
                listed.append((place, parts[1]))
        dated = [item for item in found if item.is_dated]
        timed = [(item.mtime_ns, item.step) for item in dated]
        unlisted = [(i.mtime_ns, i.step) for i in dated if i.name not in state.order]
        self._listed = _SuffixMinimum(listed)
        self._timed = _SuffixMinimum(timed)
        self._unlisted = _SuffixMinimum(unlisted)

    def of(self, checkpoint: Checkpoint) -> int | None:
        """Return the lowest step that was written after a checkpoint, if below its own."""
        lowest = []
        place = self._places.get(checkpoint.name)
        if place is not None:
            lowest.append(self._listed.after(place))
        if self._order.time_usable and checkpoint.is_dated:
            # Times decide only where one of the two is not listed.
            timed = self._timed if place is None else self._unlisted
            lowest.append(timed.after(checkpoint.mtime_ns + SAME_TIME_NS))
        below = [step for step in lowest if step is not None and step < checkpoint.step]
        return min(below, default=None)


class _SuffixMinimum:
    """The least step of all that come after a point."""

    def __init__(self, points: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(points)
        self._at = [at for at, _ in ordered]
        self._least = [step for _, step in ordered]
        for i in range(len(ordered) - 2, -1, -1):
            self._least[i] = min(self._least[i], self._least[i + 1])

    def after(self, point: int) -> int | None:
        at = bisect_right(self._at, point)
        return self._least[at] if at < len(self._at) else None
