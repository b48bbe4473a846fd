"""A trainer in a dict, with Savers that list, rotate and die as TensorFlow's do."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ckptctl.chain import Lineage
from tests.oracle.chain import INCREMENTS, changes, full, increment, table, write_state
from tests.oracle.images import Image, write_image

Rows = dict[int, float]

#: When the first file of a run was written; everything lies in the past, and is dated.
THEN = 1_700_000_000
#: Ways for a trainer to die in the midst of a save.
DEATHS = ("temporary", "tempstate", "data", "index")


@dataclass
class Clock:
    """What dates files: real times are all within the two seconds that count as equal."""

    now: float = float(THEN)

    def tick(self) -> float:
        self.now += 60.0
        return self.now


@dataclass(frozen=True)
class Habits:
    """How a trainer saves.

    `mode` is what increments say of their lineage (none, cumulative, delta), `keep` how many
    fulls and increments its Savers keep (0: all), `absolute` and `times` what state files hold.
    """

    mode: str = "none"
    keep: tuple[int, int] = (0, 0)
    absolute: bool = False
    times: bool = False


@dataclass
class Saver:
    """The memory of one Saver: what it saved, by name, and when."""

    room: Path
    keep: int
    habits: Habits
    names: dict[str, float] = field(default_factory=dict)

    def write(self, name: str, image: Image, at: float) -> None:
        """Write the files, as if they were renamed over those of that name."""
        self.delete(name)
        self.room.mkdir(exist_ok=True)
        write_image(image, self.room / name)
        for path in self.files(name):
            os.utime(path, (at, at))

    def record(self, name: str, at: float) -> list[str]:
        """List a checkpoint, forget the oldest, and delete these: return their names."""
        self.names.pop(name, None)
        self.names[name] = at
        gone = list(self.names)[: -self.keep] if self.keep else []
        for each in gone:
            del self.names[each]
        paths = [str(self.room / n) if self.habits.absolute else n for n in self.names]
        times = list(self.names.values()) if self.habits.times else []
        os.utime(write_state(self.room, paths, times=times), (at, at))
        for each in gone:
            self.delete(each)
        return gone

    def files(self, name: str) -> list[Path]:
        return [p for s in ("index", "data-*") for p in self.room.glob(f"{name}.{s}")]

    def delete(self, name: str) -> None:
        for path in self.files(name):
            path.unlink()


class Trainer:
    """One process that trains; another one begins where a restore leads it."""

    def __init__(
        self, directory: Path, habits: Habits, clock: Clock, rng: random.Random, value: list[float]
    ) -> None:
        self.habits, self.clock, self.rng, self._value = habits, clock, rng, value
        self.savers = (
            Saver(directory, habits.keep[0], habits),
            Saver(directory / INCREMENTS, habits.keep[1], habits),
        )
        self.rows: Rows = {}
        self.changed: set[int] = set()
        self.step = self.root = 0
        self.previous: int | None = None
        self.id: str | None = None
        self._next: str | None = None
        self.line = ""

    def train(self, steps: int) -> None:
        self.step += steps
        for key in self.rng.sample(range(12), self.rng.randrange(1, 5)):
            self._value[0] += 1.0  # no value stands anywhere else
            self.rows[key] = self._value[0]
            self.changed.add(key)

    def save_full(self) -> list[str]:
        """Save a full and empty the recorder; return the names that were rotated away."""
        at = self.clock.tick()
        self.savers[0].write(self.full_name, self._full(), at)
        self.begin()
        return self.savers[0].record(self.full_name, at)

    def enter_full(self) -> list[str]:
        """Let the state file name the full of this step as if it had been saved now."""
        at = self.clock.tick()
        os.utime(self.savers[0].room / f"{self.full_name}.index", (at, at))
        self.begin()
        return self.savers[0].record(self.full_name, at)

    def begin(self) -> None:
        """Record against the full of this step from now on."""
        self.root, self.previous, self.id, self.line = self.step, None, None, ""
        self.changed.clear()

    def resume(self, root: int, changed: Iterable[int], last: Lineage) -> None:
        """Go on to record against a full, once an increment was applied to it."""
        self.root, self.changed = root, set(changed)
        self.id, self.line = last.id, Lineage.lengthen(last.line, last.id or "") or ""
        follows = last.mode == "cumulative" or last.base_step == root
        self.previous = self.step if follows else None
        if follows and last.mode == "delta":
            self.changed.clear()

    def save_increment(self) -> list[str]:
        at = self.clock.tick()
        self.savers[1].write(self.increment_name, self._increment(), at)
        self.previous, self.id = self.step, self._next
        self.line += (self._next or "")[:8]
        if self.habits.mode == "delta":
            self.changed.clear()
        return self.savers[1].record(self.increment_name, at)

    def die(self, kind: str, how: str) -> None:
        """Die while saving a full or an increment: what is there is what was written by then."""
        at = self.clock.tick()
        name = self.full_name if kind == "full" else self.increment_name
        saver = self.savers[kind != "full"]
        if how in ("temporary", "tempstate"):
            saver.room.mkdir(exist_ok=True)
            left = saver.room / f"{name}.data-00000-of-00001.tempstate{self.rng.randrange(10**9)}"
            if how == "temporary":
                home = saver.room / f"{name}_temp_{self.rng.randbytes(16).hex()}"
                home.mkdir()
                left = home / "part-00000-of-00001.data-00000-of-00001"
            left.write_bytes(b"half of it")
            for path in {left, left.parent} - {saver.room}:
                os.utime(path, (at, at))
            return
        saver.write(name, self._full() if kind == "full" else self._increment(), at)
        if how == "data":
            (saver.room / f"{name}.index").unlink()

    @property
    def full_name(self) -> str:
        return f"model.ckpt-{self.step}"

    @property
    def increment_name(self) -> str:
        return f"incremental_model.ckpt-{self.step}"

    def _full(self) -> Image:
        return full(self.step, table("emb", self.rows, slots=(), old=True))

    def _increment(self) -> Image:
        lineage: dict[str, Any] | None = None
        if self.habits.mode != "none":
            lineage = {"version": 1, "base_step": self.root, "mode": self.habits.mode}
            lineage |= {"previous_step": self.previous, "previous_id": self.id}
            lineage |= {"id": self.rng.randbytes(16).hex(), "line": self.line}
            self._next = lineage["id"]
        own = {key: self.rows[key] for key in sorted(self.changed)}
        return increment(self.step, changes("emb", own, slots=()), lineage=lineage)


def copy_tree(source: Path, target: Path, at: float | None) -> None:
    """Copy a directory as `cp -r` does: every file is of now; None: with times, as `cp -a`."""
    shutil.copytree(source, target)
    if at is not None:
        for path in (target, *target.rglob("*")):
            os.utime(path, (at, at))


__all__ = ["DEATHS", "Clock", "Habits", "Rows", "Saver", "Trainer", "copy_tree"]
