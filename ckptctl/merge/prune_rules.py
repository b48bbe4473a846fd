"""What goes and what stays, and why: the rules of `restore.md`, "Deleting", as a pure function.

Three steps: what each item asks for by itself; what must stay all the same (the newest restore
points, what is young, what the policy names, what something that stays needs); and a look at
the directory as it would be. Removing one checkpoint may change what is known of another: the
full that shows that a later one was abandoned, say. Whatever would make anything that stays
live or dead, restorable or not, when it was not before, stays too.

Decisions where the rules leave a choice, all on the side of keeping:

* The status decides, the first word that applies: an increment that is incomplete, an orphan
  or unproven does not go as stale. An idle one, or one that is refused as damage, does go, since
  a full covers it.
* What the state files lead a trainer to stays: the full that is named, and the increment that
  is named if it lies above that full.
* A full goes by policy under the same condition as a stale increment: a verified full of at
  least its step stays.
* What a merged full was made from goes only once that one is verified, too, if it stays and could
  be made anew: that a newer full is sound says nothing of it, nor of the increments on it.
* Fulls pin nothing, live increments that stay pin their full; an abandoned one pins the full
  that it is listed with only if that is abandoned too.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import Chains, Checkpoint, Leftover
from ckptctl.chain.bases import misnamed
from ckptctl.chain.problems import incompleteness
from ckptctl.errors import RefusedError, UnreadableError
from ckptctl.merge.lead import Lead
from ckptctl.merge.policy import Decision, Point
from ckptctl.merge.prune_later import Later
from ckptctl.merge.prune_plan import PruneOptions

__all__ = ["Look", "Verdict", "judge"]

#: Codes of what goes only under a full that stands in for it.
_COVERED = ("stale", "policy")
#: Looks at the directory as it would be, at most, to find out what must stay.
_MOST_LOOKS = 200


class Verdict(NamedTuple):
    """Whether something goes, why, and the word of `ls` for it.

    `under` has the prefixes of all that has to be verified before it goes.
    """

    remove: bool
    code: str
    reason: str
    status: str = "leftover"
    under: tuple[str, ...] = ()

    def fields(self) -> tuple[str, bool, str, str, str | None]:
        """Return them in the order of `PruneItem`."""
        return self.status, self.remove, self.code, self.reason, next(iter(self.under), None)


class Look(NamedTuple):
    """What the rules need beside the chains.

    Attributes
    ----------
    options
        What was asked for.
    verified
        Checkpoints that are known to be without damage.
    untouchable
        Path of an item to why it is not ours to remove, whatever the rules say.
    own
        Paths of leftovers and prefixes of checkpoints that our own killed runs left behind.
    sound
        Prefix of the newest restore point whose checks have all passed.
    time_of
        When a checkpoint was saved, in seconds since 1970; None where nothing tells.
    """

    options: PruneOptions
    verified: Container[Checkpoint]
    untouchable: Mapping[str, str]
    own: Collection[str]
    sound: str | None
    time_of: Callable[[Checkpoint], float | None]


def judge(chains: Chains, look: Look) -> dict[str, Verdict]:
    """Return path to verdict of every checkpoint and leftover.

    Raises
    ------
    RefusedError
        The policy keeps no restore point at all.
    """
    return _Judge(chains, look).verdicts()


class _Judge:
    """One directory and what was asked for."""

    def __init__(self, chains: Chains, look: Look) -> None:
        self.chains = chains
        self.scan = chains.scan
        self.look = look
        self.options = look.options
        self.all = {item.prefix: item for item in (*self.scan.increments, *self.scan.fulls)}
        self._needs: dict[str, tuple[tuple[Checkpoint, str], ...]] = {}
        self._later = Later(chains)
        self._codes: dict[str, str] = {}
        self._containers: dict[str, str | None] = {}
        self._vouched: tuple[Checkpoint | None, Checkpoint | None] | None = None

    def verdicts(self) -> dict[str, Verdict]:
        found = {
            prefix: self._wish(item)._replace(status=self.chains.status(item))
            for prefix, item in self.all.items()
        }
        self._codes = {prefix: verdict.code for prefix, verdict in found.items()}
        for prefix, item in self.all.items():
            if found[prefix].remove:
                held = self._held(item)
                if held is not None:
                    found[prefix] = found[prefix]._replace(
                        remove=False, code=held[0], reason=held[1]
                    )
        wanted = {prefix for prefix, verdict in found.items() if verdict.remove}
        removed, pinned = self._settle(wanted)
        troubled = self._later.troubled(removed)
        if troubled:
            # Fulls are given back first: of what shows the same the smaller stays.
            going = sorted(removed, key=lambda prefix: (self.all[prefix].kind, prefix))
            held_back = self._evidence(wanted, going)
            removed, pinned = self._settle(wanted - held_back)
            names = ", ".join(sorted(troubled)[:3])
            for prefix in held_back:
                pinned.setdefault(prefix, ("evidence", f"what is known of {names} rests on it"))
        made = self._made_into(removed)
        for prefix in wanted:
            if prefix in removed:
                under = made.get(prefix) or self._cover(prefix, removed)
                found[prefix] = found[prefix]._replace(under=tuple(under))
            else:
                code, reason = pinned[prefix]
                found[prefix] = found[prefix]._replace(remove=False, code=code, reason=reason)
        for other in self.scan.others:
            reason = "no checkpoint of this model: never touched"
            found[other.prefix] = Verdict(False, "other", reason, self.chains.status(other))
        found.update(self._leftovers())
        return found

    # --- what each item asks for ---

    def _wish(self, item: Checkpoint) -> Verdict:
        dead = self.chains.timelines.why_abandoned(item)
        if not item.complete:
            why = incompleteness(item)[0].message
            if item.prefix in self.look.own:
                return Verdict(True, "unfinished", "ckptctl was removing it")
            if isinstance(item.damage, UnreadableError):  # it may be as sound as any
                return Verdict(False, "unreadable", f"{why}; no option removes it")
            code = "damaged" if item.damage is not None else "incomplete"
            return self._by_option(code, why, "leftovers", dead)
        if dead is not None:
            return self._by_option("abandoned", dead, "abandoned")
        if item.kind == "full":
            return self._wish_of_full(item)
        if self.chains.bases.is_orphan(item):
            return self._by_option("orphan", "no full lies below it", "orphans")
        if not self.chains.base_of(item).proven:
            why = f"{self.chains.base_of(item).reason}; no option removes it"
            return Verdict(False, "unproven", why)
        if self.chains.is_stale(item):
            return Verdict(True, "stale", "a full of its step or above is here")
        if self.chains.idle_of(item):
            why = "idle, until a full covers it; no option removes it"
            return Verdict(False, "idle", why)
        if self.chains.is_superseded(item):
            why = "a later increment holds all of its keys"
            return Verdict(True, "superseded", why)
        if item.unfit:
            return _unfit(item)
        point = self.chains.is_restore_point(item)
        why = "a restore point" if point else self.chains.why_not(item) or "no restore point"
        return Verdict(False, "ok", why)

    def _by_option(self, code: str, why: str, option: str, dead: str | None = None) -> Verdict:
        if getattr(self.options, option):
            return Verdict(True, code, why)
        if dead is not None and self.options.abandoned:
            return Verdict(True, "abandoned", dead)
        return Verdict(False, code, f"{why}; --{option} removes it")

    def _wish_of_full(self, item: Checkpoint) -> Verdict:
        if misnamed(item):
            why = f"{self.chains.why_not(item)}; no option removes it"
            return Verdict(False, "unproven", why)
        if item.step in self.chains.bases.twins:
            return Verdict(False, "ambiguous", "two fulls lie at its step")
        if item.unfit:
            return _unfit(item)
        decision = self._decisions[item.prefix]
        return Verdict(not decision.keep, "policy", decision.reason)

    @cached_property
    def _decisions(self) -> Mapping[str, Decision]:
        points = [
            Point(
                item.prefix,
                item.step,
                self.look.time_of(item),
                item.kind == "full" and self._counts(item),
            )
            for item in self.all.values()
            if self.chains.is_live(item)
        ]
        policy = self.options.policy
        found = policy.decide(points, self.scan.taken_ns / 1e9)
        if any(point.counted for point in points) and not any(
            decision.keep and self.chains.is_restore_point(self.all[prefix])
            for prefix, decision in found.items()
        ):
            raise RefusedError(
                "the policy would remove every restore point",
                file=self.scan.directory,
                expected="a keep rule that keeps at least one",
                found=str(policy),
                remedy="add --keep-last 1, or a rule that fits what ckptctl ls shows",
            )
        return found

    def _counts(self, full: Checkpoint) -> bool:
        return (
            full.sound
            and not misnamed(full)
            and full.step not in self.chains.bases.twins
            and self.chains.is_live(full)
        )

    def _leftovers(self) -> dict[str, Verdict]:
        found = {item.path: self._leftover(item) for item in self.scan.leftovers}
        staying = {
            (os.path.dirname(item.path), item.name)
            for item in self.scan.leftovers
            if not (found[item.path].remove or item.path.endswith(MARK_SUFFIX))
        }
        for item in self.scan.leftovers:
            place = (os.path.dirname(item.path), item.name)
            if item.path.endswith(MARK_SUFFIX) and place in staying:
                reason = "it says whose the other files of its name are"
                found[item.path] = Verdict(False, "mark", reason)
        return found

    def _leftover(self, item: Leftover) -> Verdict:
        held = self._too_young(item.mtime_ns)
        if item.displaced:
            held = ("displaced", "the state file as the trainer wrote it: it is put back")
        if item.foreign:
            held = ("other", "not known to be of this model: never touched")
        if item.path in self.look.untouchable:
            held = ("untouchable", self.look.untouchable[item.path])
        if held is not None:
            return Verdict(False, *held)
        if item.path in self.look.own:
            return Verdict(True, "own", "a killed run of ckptctl left it behind")
        # A merge may be newer than a save that is under way: a full of the trainer's is not.
        saved = (f.mtime_ns for f in self.scan.fulls if self._counts(f) and f.merged is None)
        newest = max(saved, default=0)
        earlier = self.chains.timelines.order.earlier
        if item.reason in ("temporary", "tempstate") and earlier(item.mtime_ns, newest):
            return Verdict(True, "outdated", "older than the newest full of the trainer")
        what = "data without an index" if item.reason == "unindexed" else "a temporary"
        return self._by_option("leftover", f"{what}, not known to be ours", "leftovers")

    # --- what stays all the same ---

    def _held(self, item: Checkpoint) -> tuple[str, str] | None:
        """Return code and reason of what stays although it would go."""
        if item.prefix in self.look.untouchable:
            return "untouchable", self.look.untouchable[item.prefix]
        if self._newest is not None and item.prefix == self._newest.prefix:
            return "newest", "the newest restore point"
        if item.prefix == self.look.sound:
            return "newest", "the newest restore point whose checks have all passed"
        if (item.kind, item.name) in Lead.of(self.scan).items:
            if item.kind == "full":
                return "named", "the state file names it: a trainer would restore from it"
            return "named", "the state files lead a trainer to it, and to no full above it"
        decision = self._decisions.get(item.prefix) if self.options.policy else None
        if decision is not None and decision.keep:
            return "policy", decision.reason
        return self._too_young(max(info.mtime_ns for _, info in item.files))

    def _too_young(self, mtime_ns: int) -> tuple[str, str] | None:
        if (self.scan.taken_ns - mtime_ns) / 1e9 >= self.options.min_age_s:
            return None
        return "young", f"younger than --min-age {self.options.min_age_s:g}s"

    @cached_property
    def _newest(self) -> Checkpoint | None:
        # Of a full and an increment at one step the full is restored.
        ordered = sorted(self.all.values(), key=lambda item: (item.step, item.kind == "full"))
        points = (item for item in reversed(ordered) if self.chains.is_restore_point(item))
        return next(points, None)

    def _settle(self, wanted: set[str]) -> tuple[set[str], dict[str, tuple[str, str]]]:
        """Return what of this may go together, and why the rest must stay."""
        removed = set(wanted)
        pinned: dict[str, tuple[str, str]] = {}
        todo = [item for item in self.scan.increments if item.prefix not in removed]
        while True:
            while todo:
                for need, reason in self._needed_by(todo.pop()):
                    if need.prefix in removed:
                        removed.discard(need.prefix)
                        pinned[need.prefix] = ("needed", reason)
                        todo += [need] if need.kind == "increment" else []
            stays = max(self._covers(removed), key=lambda full: full.step, default=None)
            for prefix in [*removed]:
                item = self.all[prefix]
                covered = stays is not None and stays.step >= item.step
                if self._codes[prefix] in _COVERED and not covered:
                    reason = "no full of its step or above stays"
                    removed.discard(prefix)
                    pinned[prefix] = ("uncovered", reason)
                    todo += [item] if item.kind == "increment" else []
            if not todo:
                return removed, pinned

    def _needed_by(self, item: Checkpoint) -> tuple[tuple[Checkpoint, str], ...]:
        if item.prefix not in self._needs:
            self._needs[item.prefix] = tuple(self._find_needs(item))
        return self._needs[item.prefix]

    def _find_needs(self, item: Checkpoint) -> Iterable[tuple[Checkpoint, str]]:
        reason = f"{item.name} needs it"
        placed = self.chains.bases.place(item)
        if not self.chains.is_live(item):
            if placed is not None and not self.chains.is_live(placed):
                yield placed, f"{item.name}, which is listed with it, stays"
            return
        if placed is not None:
            yield placed, reason
        lineage = item.lineage
        if lineage is not None and lineage.mode == "delta":
            whole = "a delta series stays whole until a full covers it"
            why, amid = (
                f"{item.name} goes on from it: {whole}",
                f"it lies before {item.name}: {whole}",
            )
            series = self._series[lineage.base_step]
            last = None
            for other in reversed(series[: bisect_left(series, item.step, key=_step)]):
                if last is not None and other.step < last.step:
                    break  # that one needs those before it
                live = self.chains.is_live(other)
                yield other, why if live else amid
                last = other if live else last

    @cached_property
    def _series(self) -> Mapping[int, list[Checkpoint]]:
        """Step of a full to the increments of the delta series on it, by step."""
        found: dict[int, list[Checkpoint]] = {}
        for each in self.scan.increments:
            if each.lineage is not None and each.lineage.mode == "delta":
                found.setdefault(each.lineage.base_step, []).append(each)
        return found

    # --- under which full ---

    def _covers(self, removed: Collection[str]) -> list[Checkpoint]:
        return [f for f in self.scan.fulls if f.prefix not in removed and self._counts(f)]

    def _made_into(self, removed: Collection[str]) -> dict[str, list[str]]:
        """Return the merged fulls to be verified before what they were made from goes.

        Those that stay and could be made anew: the last increment in it is here, or one stays
        that is applied to it. Of a full and an increment at one step the full is restored.
        """
        covers = self._covers(removed)
        steps = {full.step for full in covers}
        needed = {
            need.prefix
            for item in self.scan.increments
            if item.prefix not in removed and item.step not in steps
            for need, _ in self._needed_by(item)[:1]
        }
        folded = self.chains.bases.increments_by_step
        gone = (self.all[prefix] for prefix in removed if self._codes[prefix] in _COVERED)
        going = sorted(gone, key=_step)
        found: dict[str, list[str]] = {}
        for full in covers:
            use = full.merged is not None and (full.prefix in needed or full.merged.up_to in folded)
            if use and full not in self.look.verified:
                first = bisect_left(going, min(self.chains.bases.roots(full)), key=_step)
                for item in going[first : bisect_right(going, full.step, key=_step)]:
                    found.setdefault(item.prefix, []).append(full.prefix)
        return found

    def _cover(self, prefix: str, removed: Collection[str]) -> tuple[str, ...]:
        """Return the prefix of what stands in for it, a verified full if it can be."""
        if self._codes[prefix] == "superseded":
            container = self._container(prefix, removed)
            return () if container is None else (container,)
        if self._codes[prefix] not in _COVERED:
            return ()
        newest, verified = self._vouching(removed)
        if verified is not None and verified.step >= self.all[prefix].step:
            return (verified.prefix,)
        return () if newest is None else (newest.prefix,)

    def _container(self, prefix: str, removed: Collection[str]) -> str | None:
        """Return the prefix of the increment that contains it and stays."""
        passed: list[str] = []
        at: str | None = prefix
        while at is not None and at not in self._containers and (not passed or at in removed):
            passed.append(at)
            after = next(self.chains.superseding(self.all[at]), None)
            at = after.prefix if after is not None else None
        found = self._containers.get(at, at) if at is not None else None
        self._containers.update(dict.fromkeys(passed, found))
        return found

    def _vouching(self, removed: Collection[str]) -> tuple[Checkpoint | None, Checkpoint | None]:
        """Return the newest full that stays, and the newest of them that is verified."""
        if self._vouched is None:
            covers = self._covers(removed)
            verified = (full for full in reversed(covers) if full in self.look.verified)
            self._vouched = (covers[-1] if covers else None, next(verified, None))
        return self._vouched

    # --- the directory as it would be ---

    def _evidence(self, wanted: set[str], held: list[str]) -> set[str]:
        """Return few of what would go, without which nothing else is judged otherwise.

        Starts with all of them and gives back as many as it can, halves first.
        """
        looks = 0
        size = max(1, len(held) // 2)
        while True:
            at = 0
            while at < len(held) and looks < _MOST_LOOKS:
                fewer = held[:at] + held[at + size :]
                looks += 1
                if self._later.troubled(self._settle(wanted - set(fewer))[0]):
                    at += size
                else:
                    held = fewer
            if size == 1 or looks >= _MOST_LOOKS:
                return set(held)
            size //= 2


def _step(item: Checkpoint) -> int:
    return item.step


def _unfit(item: Checkpoint) -> Verdict:
    why = f"{incompleteness(item)[0].message}; no option removes it"
    return Verdict(False, "unfit", why)
