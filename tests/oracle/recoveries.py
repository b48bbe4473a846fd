"""Restarts as `ckptctl.training` makes them: by the rules of every command, and onto increments.

DeepRec's, in `lives`, go where the state files lead, and begin with a full of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from ckptctl.bundle import read_state
from ckptctl.chain import scan_directory
from ckptctl.restore import RestoreOptions
from ckptctl.restore.select import Selection, select
from tests.oracle.lives import Saved, rows_in
from tests.oracle.mishaps import Mishaps
from tests.oracle.trainer import Rows, Saver


class Recoveries(Mishaps):
    """Lives in which a trainer that records lineage begins again by itself."""

    @precondition(lambda self: self.habits.mode != "none")
    @rule(hook=st.sampled_from([True, True, False]))
    def recover(self, hook: bool) -> None:
        """Restore the newest restore point.

        The hook saves a full unless one is there that says the same; without it increments go on
        on the full that they were restored with.
        """
        self.ran(f"recover {'with' if hook else 'without'} hook")
        chains = self._chains()
        step = chains.latest
        assert step is not None
        rows, chosen = self._rows(chains, step), select(chains, step, RestoreOptions())
        allowed = [self.known[step]] if step in self.known else []
        assert rows in [*allowed, *self.old.get(step, [])], f"recovered {step}"
        self._begin_at(step, rows)
        if not chosen.increments:
            self._at_full()
        elif hook:
            self._full()
            self.back = None if "increment" in self.unlisted else step
        else:
            self._go_on(chosen)

    @precondition(lambda self: self.habits.mode != "none")
    @rule(back=st.integers(0, 3))
    def restore_full(self, back: int) -> None:
        """Somebody restores an older full by its name, and the hook comes: a rollback.

        The one that the state file names is where a recovery begins: not an older one.
        """
        fulls = self._chains().scan.fulls
        live = [each for each in fulls if each.step in self.fulls and each.name != self._named()]
        if not live:
            return
        self.ran("restore_full")
        full = live[max(0, len(live) - 1 - back)]
        self._begin_at(full.step, self.known[full.step])
        self._at_full()

    def _begin_at(self, step: int, rows: Rows) -> None:
        self.trainer = self._trainer()
        for saver in self.trainer.savers:  # Saver.recover_last_checkpoints
            saver.names = dict.fromkeys(_listed(saver), self.clock.now)
        self.trainer.rows, self.trainer.step = dict(rows), step
        self.alive, self.back = True, None

    def _at_full(self) -> None:
        """Do as the hook's `_save`: a full that is there is entered, and not saved over."""
        step, name, saver = self.trainer.step, self.trainer.full_name, self.trainer.savers[0]
        last = next(reversed(saver.names), None)
        merged = any(f.merged for f in scan_directory(str(self.room)).fulls if f.step == step)
        if merged and last != name:
            self._full()
        elif last == name == self._named():
            self.trainer.begin()
            self._know(step)
        else:
            gone = self.trainer.enter_full()
            self.unlisted.discard("full")
            self._know(step)
            for each in gone:
                self.fulls.pop(int(each.rpartition("-")[2]), None)
            self._drop_baseless()
        self.back = None if "increment" in self.unlisted else step

    def _named(self) -> str:
        state = read_state(str(self.room / "checkpoint"))
        return os.path.basename(state.latest) if state is not None else ""

    def _know(self, step: int) -> None:
        self._left_behind(step, owed=False)
        self.known[step] = dict(self.trainer.rows)
        self.fulls.setdefault(step, Saved(step))
        self.incs.pop(step, None)

    def _go_on(self, chosen: Selection) -> None:
        last = chosen.increments[-1].lineage
        assert last is not None
        changed = {key for each in chosen.increments for key in rows_in(Path(each.prefix))}
        self.trainer.resume(chosen.base.step, changed, last)
        self._left_behind(self.trainer.step, owed=False)
        self.known[self.trainer.step] = dict(self.trainer.rows)


def _listed(saver: Saver) -> list[str]:
    state = read_state(str(saver.room / "checkpoint"))
    names = [os.path.basename(path) for path in state.all_paths] if state is not None else []
    return [name for name in names if (saver.room / f"{name}.index").exists()]
