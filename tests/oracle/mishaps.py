"""What may befall a directory at the wrong moment: while ckptctl works, or for a while.

The trainer saves, starts anew or is set back ahead of a change of ckptctl's; a shard or a state
file is lost; what was in the trash is copied back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ckptctl.errors import StateFileError
from tests.oracle.chain import INCREMENTS
from tests.oracle.lives import DIES, KEEP, WORK, Lives, Saved

#: Whose state files are lost.
KINDS = st.sampled_from([("full",), ("increment",), ("full", "increment")])
#: What the trainer saves while ckptctl works.
SAVES = st.sampled_from(
    [("full",), ("increment",), ("increment", "increment"), ("full", "increment")]
)


class Mishaps(Lives):
    """Lives in which that happens too."""

    @precondition(lambda self: self.alive)
    @rule(saves=SAVES, at=st.integers(0, 25), work=WORK, keep=KEEP, dies=DIES)
    def save_amid(
        self,
        saves: tuple[str, ...],
        at: int,
        work: str,
        keep: tuple[Any, ...] | None,
        dies: int | None,
    ) -> None:
        """The trainer saves ahead of a change of ckptctl's."""

        def save() -> None:
            for kind in saves:
                self.trainer.train(5)
                if kind == "full":
                    self._full()
                else:
                    self._increment()

        self._amid("saves", save, at, work, keep, dies)

    @rule(
        back=st.integers(0, 3),
        newest=st.booleans(),
        at=st.integers(0, 25),
        work=WORK,
        keep=KEEP,
        dies=DIES,
    )
    def restart_amid(
        self,
        back: int,
        newest: bool,
        at: int,
        work: str,
        keep: tuple[Any, ...] | None,
        dies: int | None,
    ) -> None:
        """The trainer begins anew, perhaps at an older full, ahead of a change of ckptctl's."""
        self._amid("restart", lambda: self.restart(back, newest), at, work, keep, dies)

    @rule(back=st.integers(0, 3), at=st.integers(0, 25), work=WORK, keep=KEEP, dies=DIES)
    def set_back_amid(
        self, back: int, at: int, work: str, keep: tuple[Any, ...] | None, dies: int | None
    ) -> None:
        """Somebody sets the run back while ckptctl works, where it looks again behind it."""
        self._amid("set back", lambda: self.set_back(back, "nothing"), at, work, keep, dies)

    def _amid(
        self,
        what: str,
        do: Callable[[], None],
        at: int,
        work: str,
        keep: tuple[Any, ...] | None,
        dies: int | None,
    ) -> None:
        def act() -> None:
            self.ran(f"{what} amid {work}")
            do()
            self._cut(self.judge())
            self._drop_baseless()
            if self.alive and not self.habits.keep[0] and self.trainer.step not in self.fulls:
                self.incs[self.trainer.step] = Saved(self.trainer.root)

        self.meanwhile, self.judge = (at, act), lambda: {*self.fulls, *self.incs}
        self._work(work, keep, dies)
        self.meanwhile = None

    @rule(
        kind=st.sampled_from(["full", "increment"]),
        back=st.integers(0, 2),
        cron=st.lists(st.tuples(WORK, KEEP, DIES), max_size=2),
        saves=st.sampled_from([(), (), ("increment",), ("full",)]),
    )
    def lose_and_find(
        self,
        kind: str,
        back: int,
        cron: list[tuple[str, tuple[Any, ...] | None, int | None]],
        saves: tuple[str, ...],
    ) -> None:
        """A shard is lost for a while, and put back with its times; cron does not wait for it."""
        name = "model.ckpt-*.data-*" if kind == "full" else f"{INCREMENTS}/*.data-*"
        found = sorted(self.room.glob(name), key=lambda path: path.stat().st_mtime)
        if len(found) + (kind == "increment") < 2:
            return
        path = found[max(0, len(found) - 1 - back)]
        step = int(path.name.partition(".data-")[0].rpartition("-")[2])
        if kind == "full" and self.alive and self.habits.mode == "none":
            cron = []  # the next increment does not tell whether the run was set back
        self.ran(f"lose_and_find {kind}")
        aside = self.home / "aside"
        index = path.with_name(f"{path.name.partition('.data-')[0]}.index")
        was = index.read_bytes() if index.exists() else b""
        path.rename(aside)
        self.lost = True
        points, since = set(self._points()), self.back
        away = [
            {
                s: steps.pop(s)
                for s in [*steps]
                if s not in points or (s == step and steps is self.fulls and kind == "full")
            }
            for steps in (self.fulls, self.incs)
        ]
        self.back = None
        if points:
            self.check()
            for work, keep, dies in cron:
                self._work(work, keep, dies)
                self.check()
        if cron:  # by default what is stale goes
            stale = max(self.fulls, default=0)
            away[1] = {s: saved for s, saved in away[1].items() if s > stale}
        for steps, gone in zip((self.fulls, self.incs), away, strict=True):
            steps |= {s: saved for s, saved in gone.items() if s not in steps}
        for each in saves if self.alive else ():
            self.trainer.train(5)
            if each == "full":
                self._full()
            else:
                self._increment()
        if index.exists() and index.read_bytes() == was:
            aside.rename(path)
        else:
            self.fulls.pop(step, None) if kind == "full" else self.incs.pop(step, None)
            aside.unlink()
        self.seen.clear()
        if not saves and since is not None:
            self.back = since
        self._drop_baseless()
        self.check()
        self.lost = False
        if kind == "full" and cron:  # what DeepRec would mix until then is told
            self.compact(None, None)

    @rule()
    def bring_back(self) -> None:
        """What a prune moved aside is copied to where it was, with its times.

        Open: a full that a Saver rotated away between it and an increment leaves no trace.
        """
        if self.habits.keep[0]:
            return
        trash = self.room / ".ckptctl-trash"
        for home in sorted(trash.glob("prune.*"), reverse=True):
            self.ran("bring_back")
            files = [p for p in home.rglob("*") if p.is_file() and p.name != "checkpoint"]
            # The index last: nothing else is put beside one that is there.
            for path in sorted(files, key=lambda path: path.suffix == ".index"):
                place = self.room / path.relative_to(home)
                name = path.name.partition(".data-")[0].removesuffix(".index")
                if not place.exists() and not place.with_name(f"{name}.index").exists():
                    place.parent.mkdir(exist_ok=True)
                    shutil.copy2(path, place)

    @rule(kinds=KINDS, empty=st.booleans(), work=WORK, keep=KEEP)
    def lose_state(
        self, kinds: tuple[str, ...], empty: bool, work: str, keep: tuple[Any, ...] | None
    ) -> None:
        """State files are emptied or lost, cron comes, and each is written anew: one line."""
        if self._was_left(self.room) or self.back is not None:
            return  # often they alone tell which way was left
        rooms = {"full": self.room, "increment": self.room / INCREMENTS}
        lost = [kind for kind in kinds if (rooms[kind] / "checkpoint").exists()]
        for kind in lost:
            self.ran(f"state file {'emptied' if empty else 'lost'}")
            state = rooms[kind] / "checkpoint"
            state.write_text("") if empty else state.unlink()
        try:
            self._work(work, keep, None)
        except StateFileError:
            assert empty
        at = self.clock.tick()
        for kind in lost:  # the fulls' first: without it no increment has a base that is proven
            chains = self._chains()
            found = chains.scan.fulls if kind == "full" else chains.scan.increments
            names = [each.name for each in found if chains.is_restore_point(each)]
            state = rooms[kind] / "checkpoint"
            if names:
                state.write_text(f'model_checkpoint_path: "{names[-1]}"\n')
                os.utime(state, (at, at))
            else:
                state.unlink(missing_ok=True)
        self._drop_baseless()
