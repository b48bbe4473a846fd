"""The life of a checkpoint directory: a trainer that saves and dies, and ckptctl that does too.

A dict says what each step held. After every rule, whatever policy said to keep restores to
exactly that, the newest restore point is there, state files lead where they should, and nothing
lies there that a listing does not name.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ckptctl.bundle import BundleReader, read_state
from ckptctl.chain import Chains, ProvenPairs, find_chains, scan_directory
from ckptctl.errors import ExistsError, NotFoundError, RefusedError, UnprovenError
from ckptctl.inspect.target import state_at
from ckptctl.inspect.view import open_view
from ckptctl.inspect.walk import walk
from ckptctl.merge import (
    CompactOptions,
    Policy,
    PruneOptions,
    execute_merge,
    execute_prune,
    plan_merge,
    plan_prune,
    run_compact,
)
from ckptctl.merge.policy import KeepEvery, KeepLast, KeepStep
from ckptctl.restore import RestoreOptions
from ckptctl.running import Runner
from ckptctl.storage.local import LocalFile
from tests.merge.storages import Watched
from tests.oracle.chain import INCREMENTS, listing, rows_of, write_state
from tests.oracle.histories import MEMORY
from tests.oracle.trainer import DEATHS, Clock, Habits, Rows, Trainer, copy_tree


class Killed(BaseException):
    """Ends ckptctl where a SIGKILL would."""


class Mortal(Watched):
    """Dates what ckptctl writes by our clock, and dies ahead of the nth change for good.

    `others` is what somebody else does ahead of another change: of one that nothing is looked at
    right before, since what lies between that look and the change nobody sees.
    """

    def __init__(
        self,
        clock: Clock,
        at: int | None = None,
        others: tuple[int, Callable[[], None]] | None = None,
    ) -> None:
        self.clock, self.at, self.calls, self.others = clock, at, 0, others
        self.disturbed = False

    def before(self, call: str) -> None:
        if self.at is not None and self.calls >= self.at:
            raise Killed(call)
        blind = call.startswith(("remove", "rename", "mkdir")) or ".ckptctl-trash" in call
        if self.others is not None and self.calls >= self.others[0] and not blind:
            (_, do), self.others, self.disturbed = self.others, None, True
            do()
        self.calls += 1

    def write_new(self, path: str, data: bytes, *, not_before_ns: int = 0) -> None:
        super().write_new(path, data)
        at = max(self.clock.now, not_before_ns / 1e9)
        os.utime(path, (at, at))

    def open_write(self, path: str) -> LocalFile:
        file = super().open_write(path)
        clock = self.clock

        class Dated(LocalFile):
            def fsync(self) -> None:
                super().fsync()
                os.utime(self._fd, (clock.now, clock.now))

        file.__class__ = Dated
        return file


@dataclass(frozen=True)
class Saved:
    """A step that is owed: the full its increments began at, and whether ckptctl merged it."""

    root: int
    merged: bool = False


HABITS = st.builds(
    Habits,
    mode=st.sampled_from(["none", "none", "cumulative", "delta"]),
    keep=st.sampled_from([(0, 0), (0, 0), (3, 3), (2, 1), (1, 2)]),
    absolute=st.booleans(),
    times=st.booleans(),
)
#: Keep rules: `None` is no policy at all.
KEEP = st.sampled_from([None, (1,), (2,), (1, "every"), (1, "step")])
#: What ckptctl is asked for.
WORK = st.sampled_from(["merge", "prune", "compact"])
#: Ahead of which change ckptctl dies; most runs come through.
DIES = st.one_of(st.none(), st.integers(0, 30))


class Lives(RuleBasedStateMachine):
    """Train, save, die, restart, set back, merge, prune, compact, move."""

    #: Told of each rule, for a count.
    ran: Callable[[str], None] = staticmethod(lambda name: None)

    @initialize(habits=HABITS, seed=st.integers(0, 2**16))
    def begin(self, habits: Habits, seed: int) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="lives-", dir=MEMORY))
        self.cache = os.environ.get("XDG_CACHE_HOME")
        os.environ["XDG_CACHE_HOME"] = str(self.home / "cache")
        self.room = self.home / "run0"
        self.room.mkdir()
        self.moves = 0
        self.habits, self.clock, self.value = habits, Clock(), [0.0]
        self.rng = random.Random(seed)
        self.fulls: dict[int, Saved] = {}
        self.incs: dict[int, Saved] = {}
        self.roots: dict[int, int] = {}
        self.known: dict[int, Rows] = {}
        self.old: dict[int, list[Rows]] = {}  # of a way that was left
        self.seen: dict[tuple[int, str], object] = {}
        self.alive = True
        self.back: int | None = None  # where the run was set back to, or begun anew
        self.lost = False  # a shard is, for a while
        self.unlisted: set[str] = set()  # what a trainer died behind, by kind
        self.by_hand: set[str] = set()  # named by him, and perhaps nowhere
        self.meanwhile: tuple[int, Callable[[], None]] | None = None
        self.judge: Callable[[], set[int]]
        self.trainer = self._trainer()
        self.trainer.train(10)
        self._full()

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)
            if self.cache is None:
                os.environ.pop("XDG_CACHE_HOME")
            else:
                os.environ["XDG_CACHE_HOME"] = self.cache

    def _trainer(self) -> Trainer:
        return Trainer(self.room, self.habits, self.clock, self.rng, self.value)

    # --- the trainer ----------------------------------------------------------------------

    @precondition(lambda self: self.alive)
    @rule(steps=st.sampled_from([5, 10, 30]))
    def save_full(self, steps: int) -> None:
        self.ran("save_full")
        self.trainer.train(steps)
        self._full()

    @precondition(lambda self: self.alive)
    @rule(steps=st.sampled_from([5, 10]), times=st.integers(1, 3))
    def save_increments(self, steps: int, times: int) -> None:
        self.ran("save_increments")
        for _ in range(times):
            self.trainer.train(steps)
            self._increment()

    @precondition(lambda self: self.alive)
    @rule(times=st.integers(1, 3), keep=KEEP, dies=DIES, whole=st.booleans())
    def go_on(
        self, times: int, keep: tuple[Any, ...] | None, dies: int | None, whole: bool
    ) -> None:
        """What most days are like: increments, and then cron."""
        self.save_increments(5, times)
        if whole:
            self.compact(keep, dies)
        else:
            self.merge(0, dies)
            self.prune(keep, every=False, trash=False, dies=dies)

    @precondition(lambda self: self.alive)
    @rule(kind=st.sampled_from(["full", "increment"]), how=st.sampled_from(DEATHS))
    def crash(self, kind: str, how: str) -> None:
        """The trainer dies while it saves."""
        self.ran("crash")
        self.trainer.train(5)
        step = self.trainer.step
        self.trainer.die(kind, how)
        self.alive = False
        if how == "index":  # committed, and in no state file
            self.unlisted.add(kind)
            self.back = None
            self._left_behind(step, owed=False)
            self.old.setdefault(step, []).append(dict(self.trainer.rows))

    @rule(back=st.integers(0, 3), newest=st.sampled_from([True, True, False]))
    def restart(self, back: int, newest: bool) -> None:
        """Begin where the state files lead, or at an older full: a rollback.

        After one DeepRec goes on to name the last increment of the way that was left, until
        it saves another, and would apply it to whatever full is below.
        """
        self.ran("restart")
        fulls = sorted(step for step in self.fulls if self._full_index(step).exists())
        if newest or not fulls:
            step, rows = self._led_to()
        else:
            step = fulls[max(0, len(fulls) - 1 - back)]
            rows = rows_of(self.room / f"model.ckpt-{step}", "emb")
        assert rows == self.known.get(step) or rows in self.old.get(step, []), (
            f"step {step} is restored to what it never was"
        )
        self.trainer = self._trainer()
        if newest:  # SessionManager: Saver.recover_last_checkpoints
            state = read_state(str(self.room / "checkpoint"))
            names = [os.path.basename(path) for path in state.all_paths] if state else []
            here = [name for name in names if (self.room / f"{name}.index").exists()]
            self.trainer.savers[0].names = dict.fromkeys(here, self.clock.now)
        self.trainer.rows, self.trainer.step = dict(rows), step
        self.alive, self.back = True, None
        self._full()  # CheckpointSaverHook.after_create_session
        self.back = None if "increment" in self.unlisted else step

    @rule(back=st.integers(0, 3), cron=st.sampled_from(["merge", "compact", "nothing"]))
    def set_back(self, back: int, cron: str) -> None:
        """Somebody rolls the run back, by the lines that name the newest: `docs/runbook.md`."""
        chains = self._chains()
        points = list(chains.restore_points)
        step = points[max(0, len(points) - 1 - back)]
        live = (full for full in chains.scan.fulls if chains.is_live(full))
        base = next((full for full in live if full.step == step), None)
        increment = chains.increment_at(step) if base is None else None
        if increment is not None:
            base = chains.base_of(increment).base
        assert base is not None
        self.ran("set_back")
        at = self.clock.tick()
        for kind, room in (("full", self.room), ("increment", self.room / INCREMENTS)):
            state = read_state(str(room / "checkpoint"))
            if state is None:
                continue
            paths = {int(path.rpartition("-")[2]): path for path in state.all_paths}
            if kind == "full":
                latest = paths.get(base.step, base.name)
            else:
                below = [s for s in paths if s <= step]
                latest = paths[max(below)] if below else f"incremental_model.ckpt-{step}"
                self.by_hand.add(os.path.basename(latest))
            os.utime(
                write_state(room, state.all_paths, latest=latest, times=state.timestamps), (at, at)
            )
        self._left_behind(step, owed=False)
        # Without a state file of the increments those above count as live.
        self.alive, self.back = False, step if self._chains().latest == step else None
        self.check()
        if cron == "merge":
            self.merge(0, None)
        elif cron == "compact":
            self.compact(None, None)

    def _full(self) -> None:
        self.unlisted.discard("full")
        self.back = None
        gone = self.trainer.save_full()
        step = self.trainer.step
        self._left_behind(step)
        self.known[step] = dict(self.trainer.rows)
        self.fulls[step] = Saved(step)
        self.incs.pop(step, None)
        for name in gone:
            self.fulls.pop(int(name.rpartition("-")[2]), None)
        self._drop_baseless()

    def _increment(self) -> None:
        self.unlisted.discard("increment")
        self.back = None
        gone = self.trainer.save_increment()
        step = self.trainer.step
        self._left_behind(step)
        self.known[step] = dict(self.trainer.rows)
        self.fulls.pop(step, None)
        self.incs[step] = Saved(self.trainer.root)
        self.roots[step] = self.trainer.root
        for rotated in (int(name.rpartition("-")[2]) for name in gone):
            self.incs.pop(rotated, None)
            if self.habits.mode == "delta":
                self._drop_broken(rotated)
        self._drop_baseless()

    def _left_behind(self, step: int, owed: bool = True) -> None:
        """What lies above a step that was saved just now is of a way that was left."""
        for above in [s for s in self.known if s > step or (s == step and owed)]:
            self.old.setdefault(above, []).append(self.known[above])
            if above > step:
                del self.known[above]
        for steps in (self.fulls, self.incs):
            for above in [s for s in steps if s > step]:
                del steps[above]

    def _drop_broken(self, gone: int) -> None:
        """Of a delta series nothing can be restored behind one that was rotated away."""
        root = self.roots[gone]
        for step in [s for s, saved in self.incs.items() if saved.root == root and s > gone]:
            merged = (s for s in self.fulls if gone <= s < step)
            if not any(self._stands_in(s, self.incs[step]) for s in merged):
                del self.incs[step]

    def _drop_baseless(self) -> None:
        """An increment whose base the trainer rotated away, or no longer lists, is not owed."""
        state = read_state(str(self.room / "checkpoint"))
        listed = [int(path.rpartition("-")[2]) for path in state.all_paths] if state else []
        for step, saved in list(self.incs.items()):
            base = max(
                (s for s in self.fulls if s < step and self._stands_in(s, saved)), default=-1
            )
            unlisted = listed and base not in listed and base < min(listed)
            if base < 0 or (self.habits.mode == "none" and unlisted):
                del self.incs[step]

    def _stands_in(self, full: int, saved: Saved) -> bool:
        own = self.fulls[full]
        return full == saved.root or (own.merged and own.root == saved.root)

    # --- ckptctl --------------------------------------------------------------------------

    @rule(back=st.sampled_from([0, 0, 0, 1, 2]), dies=DIES)
    def merge(self, back: int, dies: int | None) -> None:
        self.ran("merge")
        points = self._points()
        step = points[max(0, len(points) - 1 - back)]

        def run(storage: Mortal) -> None:
            plan = plan_merge(str(self.room), step, storage=storage)
            execute_merge(plan, jobs=1)

        if self._survives(run, dies):
            self._merged(step)

    @rule(back=st.sampled_from([0, 0, 1]))
    def merge_elsewhere(self, back: int) -> None:
        """Somebody merges to another place, and nothing here is touched."""
        self.ran("merge_elsewhere")
        points = self._points()
        step = points[max(0, len(points) - 1 - back)]
        was, output = listing(self.room), str(self.home / f"elsewhere-{self.clock.tick():.0f}")
        execute_merge(plan_merge(str(self.room), step, output), jobs=1)
        assert listing(self.room) == was
        known = [self.known[step]] if step in self.known else []
        assert rows_of(Path(output), "emb") in [*known, *self.old.get(step, [])]

    @rule(keep=KEEP, every=st.booleans(), trash=st.booleans(), dies=DIES)
    def prune(
        self, keep: tuple[Any, ...] | None, every: bool, trash: bool, dies: int | None
    ) -> None:
        self.ran("prune")
        options = self._options(keep, every=every, trash=trash)
        kept = self._kept(options.policy)
        self.judge = lambda: self._kept(options.policy)

        def run(storage: Mortal) -> None:
            execute_prune(plan_prune(str(self.room), options, storage=storage), jobs=1)

        gone = self._listed_and_gone()
        if self._survives(run, dies, kept):
            assert self._listed_and_gone() <= gone, "what a prune removed is still listed"

    @rule(keep=KEEP, dies=DIES)
    def compact(self, keep: tuple[Any, ...] | None, dies: int | None) -> None:
        self.ran("compact")
        newest = self._points()[-1]
        options = CompactOptions(prune=self._options(keep))
        kept = self._kept(options.prune.policy, newest)
        self.judge = lambda: self._kept_of_all(options.prune.policy, newest)

        def run(storage: Mortal) -> None:
            run_compact(str(self.room), options, jobs=1, storage=storage)

        if self._survives(run, dies, kept):
            self._merged(newest)
            assert not self._listed_and_gone(), "what was removed is still listed"

    def _work(self, work: str, keep: tuple[Any, ...] | None, dies: int | None) -> None:
        if work == "merge":
            self.merge(0, dies)
        elif work == "prune":
            self.prune(keep, every=False, trash=False, dies=dies)
        else:
            self.compact(keep, dies)

    def _options(self, keep: tuple[Any, ...] | None, **more: bool) -> PruneOptions:
        every = more.pop("every", False)
        rules: list[Any] = [KeepLast(keep[0])] if keep else []
        rules += [KeepEvery(50)] if keep and "every" in keep else []
        if keep and "step" in keep:
            rules.append(KeepStep(self.rng.choice(sorted(self.known))))
        return PruneOptions(
            Policy(tuple(rules)),
            min_age_s=0.0,
            orphans=every,
            abandoned=every,
            leftovers=every,
            trash=more.get("trash", False),
        )

    def _survives(
        self, run: Callable[[Mortal], None], dies: int | None, kept: set[int] | None = None
    ) -> bool:
        """Run ckptctl; killed at a change, it is run again, or not. Whether it came through.

        Only what is `kept` is owed from then on.
        """
        self.clock.tick()
        if kept is not None:
            self._cut(kept)
        mortal = Mortal(self.clock, dies, self.meanwhile)
        try:
            return self._is_done(run, mortal) and not mortal.disturbed
        except Killed:
            self.ran("killed")
            self.ran(f"killed in {run.__qualname__.split('.')[1]}")
            self.check()
            if self.rng.random() < 0.5:
                return False
            self.clock.tick()
            again = Mortal(self.clock)
            again.disturbed = mortal.disturbed
            return self._is_done(run, again) and not again.disturbed

    def _cut(self, kept: set[int]) -> None:
        self.fulls = {step: saved for step, saved in self.fulls.items() if step in kept}
        self.incs = {step: saved for step, saved in self.incs.items() if step in kept}

    def _is_done(self, run: Callable[[Mortal], None], storage: Mortal) -> bool:
        """Run ckptctl. Not where an abandoned full lies in the way, or half of a trainer's save."""
        try:
            run(storage)
        except ExistsError as error:  # neither is ever replaced
            name = Path(str(error.file)).name.partition(".data-")[0].removesuffix(".index")
            assert self._files_of(name)
            assert int(name.rpartition("-")[2]) not in self.fulls or storage.disturbed
            self.ran("refused")
            return False
        except (RefusedError, NotFoundError):  # what was looked at is another by now
            assert storage.disturbed
            self.ran("changed")
            return False
        return True

    def _was_busy(self, storage: Mortal) -> bool:
        """Whether somebody did something while ckptctl was at work."""
        return self.meanwhile is not None and storage.others is None

    def _merged(self, step: int) -> None:
        """A merged full at a step is owed from now on."""
        assert self._full_index(step).exists()
        if step not in self.fulls and step in self.incs:
            self.fulls[step] = Saved(self.incs[step].root, merged=True)

    def _kept_of_all(self, policy: Policy, merged: int) -> set[int]:
        """The steps that a policy says to keep, whether or not ckptctl has merged by now."""
        here, newest = self._kept(policy), self._points()[-1]
        some = self._kept(policy, merged) & self._kept(policy, newest)
        return here & some & self._kept(policy, merged, newest)

    def _kept(self, policy: Policy, *merged: int) -> set[int]:
        """The steps that a policy says to keep, of what can be restored now."""
        chains = self._chains()
        live = {full.step for full in chains.scan.fulls if chains.is_restore_point(full)}
        fulls = sorted({*live, *merged})
        kept = set() if policy else set(fulls)
        for each in policy.rules:
            if isinstance(each, KeepLast):
                kept |= set(fulls[-each.number :])
            elif isinstance(each, KeepEvery):
                kept |= {min(s for s in fulls if s // 50 == n) for n in {s // 50 for s in fulls}}
            elif isinstance(each, KeepStep):
                kept |= {each.step} & set(fulls)
        named = {each.step for each in policy.rules if isinstance(each, KeepStep)}
        for root in {saved.root for saved in self.incs.values()}:
            series = [s for s, saved in self.incs.items() if saved.root == root and s > fulls[-1]]
            kept |= set(series if self.habits.mode == "delta" else sorted(series)[-1:])
            kept |= named & set(series)
        return kept | {max(chains.restore_points)}

    # --- the directory moves --------------------------------------------------------------

    @precondition(lambda self: not self.alive)
    @rule(how=st.sampled_from(["rename", "copy", "copy and remove"]))
    def move(self, how: str) -> None:
        """Nobody trains: the directory goes elsewhere, or a copy of it is worked on."""
        self.ran("move")
        self.moves += 1
        before, self.room = self.room, self.home / f"run{self.moves}"
        if how == "rename":
            before.rename(self.room)
        else:
            # Without times, as by `cp -r`, nothing tells a way that was left (`docs/runbook.md`).
            copy_tree(before, self.room, None if self._was_left(before) else self.clock.tick())
            if how == "copy and remove":
                shutil.rmtree(before)
        self.seen.clear()
        if how == "copy":
            self._relocate(before)

    def _was_left(self, room: Path) -> bool:
        scan = scan_directory(str(room))
        chains = find_chains(scan)
        merged = any(full.merged for full in scan.fulls)
        older = any(chains.base_of(i).code == "older-than-base" for i in scan.increments)
        return merged or older or not all(map(chains.is_live, (*scan.fulls, *scan.increments)))

    def _relocate(self, before: Path) -> None:
        """A copy whose state files lead to the original is written to by nobody."""
        original = listing(before)
        options = PruneOptions(min_age_s=0.0)
        if self._leads_to(before):
            was = listing(self.room)
            try:
                plan_prune(str(self.room), options)
            except RefusedError:
                assert listing(self.room) == was
            else:
                raise AssertionError("a copy that leads elsewhere was not refused")
        kept = self._kept(options.policy)
        again = PruneOptions(min_age_s=0.0, relocate=True)

        def run(storage: Mortal) -> None:
            execute_prune(plan_prune(str(self.room), again, storage=storage), jobs=1)

        self._survives(run, None, kept)
        assert listing(before) == original, "the original was touched"

    def _leads_to(self, other: Path) -> bool:
        """Whether a state file names what lies in another directory."""
        states = [read_state(str(self.room / name / "checkpoint")) for name in ("", INCREMENTS)]
        paths = [path for state in states if state is not None for path in state.all_paths]
        return any(Path(f"{path}.index").exists() and other in Path(path).parents for path in paths)

    # --- what must hold -------------------------------------------------------------------

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "trainer"):
            return
        chains = self._chains()
        points = list(chains.restore_points)
        owed = {*self.fulls, *self.incs}
        assert owed <= set(points), f"lost: {sorted(owed - set(points))} of {points}"
        for step in points:
            try:
                rows = self._rows(chains, step)
            except UnprovenError:  # what is refused misleads nobody
                assert step not in owed
                continue
            here = [self.known[step]] if step in self.known else []
            allowed = here if step in owed else [*here, *self.old.get(step, [])]
            assert rows in allowed, f"step {step} is {rows}, not {allowed}"
            for some in ("all",) if self.habits.mode == "delta" else ("all", "last"):
                with suppress(UnprovenError):  # the rows of two runs may lie between
                    assert self._rows(chains, step, some) == rows, f"step {step}, {some}"
        assert self.back in (None, chains.latest), f"set back to {self.back}, now {chains.latest}"
        if not self.lost:
            self._led_to()
        self._nothing_is_silent(chains)

    def _chains(self) -> Chains:
        scan = scan_directory(str(self.room))
        return find_chains(scan, proven_nested=ProvenPairs(scan))

    def _points(self) -> list[int]:
        return list(self._chains().restore_points)

    def _rows(self, chains: Chains, step: int, increments: str = "auto") -> Rows:
        options = RestoreOptions(increments=increments)
        target = state_at(chains, step, options)
        assert target.selection is not None
        files = [target.selection.base, *target.selection.increments]
        key = tuple(info.identity for item in files for info in (item.index, *item.shards))
        known = self.seen.get((step, increments))
        if isinstance(known, tuple) and known[0] == key:
            return known[1]
        found: Rows = {}
        with open_view(target, options, Runner(1)) as view:
            for part in walk(view.tables[0].members[0]):
                for number, value in zip(part.keys.tolist(), part.columns["values"], strict=True):
                    found[number] = float(np.asarray(value)[0])
        self.seen[step, increments] = (key, found)
        return found

    def _led_to(self) -> tuple[int, Rows]:
        """Return what a DeepRec trainer would restore: the newest full and the last increment."""
        state = read_state(str(self.room / "checkpoint"))
        assert state is not None, "no state file leads anywhere"
        name = os.path.basename(state.latest)
        assert (self.room / f"{name}.index").exists(), f"the state file leads to {name}"
        step = int(name.rpartition("-")[2])
        rows = rows_of(self.room / name, "emb")
        increments = read_state(str(self.room / INCREMENTS / "checkpoint"))
        if increments is None or self.habits.mode == "delta":
            return step, rows
        name = os.path.basename(increments.latest)
        last = int(name.rpartition("-")[2])
        if last > step and last in self.known:  # else DeepRec mixes two ways: see `restart`
            step = last
            rows = rows | rows_in(self.room / INCREMENTS / name)
        allowed = [self.known[step]] if step in self.known else []
        assert rows in [*allowed, *self.old.get(step, [])], f"led to {step}, which is {rows}"
        return step, rows

    def _nothing_is_silent(self, chains: Chains) -> None:
        """Every file is of a checkpoint, a leftover, a state file, or in a room of our own."""
        scan = chains.scan
        told = {path for item in (*scan.fulls, *scan.increments) for path, _ in item.files}
        told |= {path for item in scan.others for path, _ in item.files}
        left = [item.path for item in scan.leftovers]
        for path in map(str, self.room.rglob("*")):
            if os.path.isdir(path) or os.path.basename(path) == "checkpoint" or path in told:
                continue
            inside = os.path.relpath(path, self.room).split(os.sep)
            if inside[0] in (".ckptctl", ".ckptctl-trash"):
                continue
            assert any(path == each or path.startswith(f"{each}/") for each in left), path

    def _listed_and_gone(self) -> set[str]:
        """A live Saver lists what it remembers; a prune leaves that to the next compaction."""
        found = set()
        for room in (self.room, self.room / INCREMENTS):
            state = read_state(str(room / "checkpoint"))
            names = map(os.path.basename, state.all_paths if state is not None else ())
            found |= {name for name in names if not (room / f"{name}.index").exists()}
        # Nothing tells a merged full that is listed again from a trainer's at its step.
        removed = scan_directory(str(self.room)).removed
        return (found & {each.name for each in removed if not each.merged}) - self.by_hand

    def _files_of(self, name: str) -> list[Path]:
        return [*self.room.glob(f"{name}.index"), *self.room.glob(f"{name}.data-*")]

    def _full_index(self, step: int) -> Path:
        return self.room / f"model.ckpt-{step}.index"


def rows_in(increment: Path) -> Rows:
    with BundleReader(str(increment)) as reader:
        keys = reader.read("emb-sparse_incr_keys").tolist()
        return dict(zip(keys, reader.read("emb-sparse_incr_values")[:, 0].tolist(), strict=True))
