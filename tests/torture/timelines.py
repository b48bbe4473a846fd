"""A training run told in one line, written to real files, and what it knew at each step.

`train(room, "F10 I20 F80 I90 <10 F30 I40")`: a full at 10, an increment at 20, a full at 80 ...,
then the run is rolled back to 10 and saves a full at 30. Words in the order of writing, an
hour apart, all of it long ago. `F100=` is what the state file no longer lists, `~F30` what the
trainer rotated away: written, listed, and gone; `~~F30` is gone and no longer listed.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.merge.prunes import THEN, here
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    changes,
    full,
    increment,
    read,
    rows_of,
    table,
    write_state,
)
from tests.torture.scenes import Said, ckptctl

HOUR = 3600
_WORD = re.compile(r"(~{0,2})([FI])(\d+)(=?)")
Rows = dict[int, float]


@dataclass
class Run:
    """A directory, and the model that was in memory when each step was saved."""

    chain: Chain
    truth: dict[int, Rows] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.chain.directory

    def do(self, *args: object) -> Said:
        return ckptctl(*args, "-C", self.directory)

    def must(self, *args: object, code: int = 0) -> Said:
        """Run a command that ends with this code."""
        said = self.do(*args)
        assert said.code == code, (args, said)
        return said

    def ls(self) -> dict[str, Any]:
        return self.must("ls", "--json").document

    def statuses(self) -> dict[str, str]:
        """Label to status, such as F10 to ok."""
        found = self.ls()
        items = [
            item for chain in found["chains"] for item in (chain["base"], *chain["increments"])
        ]
        items += found["orphans"]
        return {
            f"{item['kind'][0].upper()}{item['step']}": item["status"] for item in items if item
        }

    def points(self) -> set[int]:
        return set(self.ls()["restore_points"])

    def restores(self, *steps: int) -> None:
        """Fail unless these are all restore points, and each holds what the run knew there."""
        assert self.points() == set(steps)
        for step in steps:
            self.merged(step, self.directory.parent / f"restored-{step}")

    def merged(self, step: int, output: Path, *options: str) -> None:
        """Merge up to a step to a place outside, which must hold the truth, and clear it away."""
        self.must("merge", "--upto", step, "-o", output, *options)
        self.holds(step, output)
        for path in output.parent.glob(f"{output.name}.*"):
            path.unlink()

    def holds(self, step: int, prefix: Path | None = None) -> None:
        """Fail unless a full holds what the run knew at a step."""
        prefix = prefix or self.chain.full_prefix(step)
        assert rows_of(prefix, "emb") == self.truth[step]
        slots = {key: value + 0.25 for key, value in self.truth[step].items()}
        assert rows_of(prefix, "emb:Adagrad") == slots
        assert read(prefix, "global_step") == step

    @property
    def here(self) -> set[str]:
        return here(self.chain)

    def state(self, room: str = "") -> tuple[str, list[str]] | None:
        """What a state file names, and what it lists; as written."""
        path = self.directory / room / "checkpoint"
        if not path.exists():
            return None
        found = re.findall(r'^(\w+): "(.*)"$', path.read_text(), re.MULTILINE)
        (latest,) = (value for name, value in found if name == "model_checkpoint_path")
        return latest, [value for name, value in found if name == "all_model_checkpoint_paths"]

    def list(self, *words: str, room: str = "", latest: str | None = None, at: int = 0) -> None:
        """Write a state file that lists these, as the trainer would, at an hour of the run."""
        names = [self._name(word) for word in words]
        named = self._name(latest) if latest else None
        path = write_state(self.directory / room, names, latest=named)
        date(path, at or len(self.written) + 1)

    def save(
        self,
        word: str,
        rows: Rows,
        changed: Rows | None = None,
        lineage: dict[str, Any] | None = None,
    ) -> None:
        """Let the trainer save once more, an hour later, without listing it."""
        step = int(word[1:])
        if word[0] == "F":
            self.chain.add(full(step, table("emb", rows)))
        else:
            self.chain.add(increment(step, changes("emb", changed or rows), lineage=lineage))
        self.truth[step] = rows
        self.written.append(word)
        for path in self._files(word):
            date(path, len(self.written))

    def commit(self, word: str, rows: Rows, *listed: str) -> None:
        """Save a full and list these, now."""
        self.save(word, rows)
        self.list(*listed)
        for path in (*self._files(word), self.directory / "checkpoint"):
            os.utime(path)

    def _files(self, word: str) -> list[Path]:
        room = self.directory / (INCREMENTS if word[0] == "I" else "")
        return list(room.glob(f"{self._name(word)}.*"))

    def _name(self, word: str) -> str:
        step = int(word[1:])
        prefix = self.chain.full_prefix if word[0] == "F" else self.chain.increment_prefix
        return prefix(step).name

    def remove(self, word: str) -> None:
        for path in self._files(word):
            path.unlink()


def date(path: Path, hour: float) -> None:
    os.utime(path, (THEN + hour * HOUR,) * 2)


def train(room: Path, story: str, *, mode: str | None = None, listed: bool = True) -> Run:
    """Play a story; with `mode` every increment says where it comes from."""
    home = room / "chain"
    home.mkdir()
    (home / INCREMENTS).mkdir()
    run = Run(Chain(home))
    rows: Rows = {}
    changed: Rows = {}
    lists: dict[str, list[str]] = {"F": [], "I": []}
    base, previous, gone = 0, None, []
    for word in story.split():
        if word[0] == "<":
            base, previous = int(word[1:]), None
            rows, changed = dict(run.truth[base]), {}
            continue
        match = _WORD.fullmatch(word)
        assert match is not None, word
        away, kind, step, unlisted = match[1], match[2], int(match[3]), match[4]
        name = f"{kind}{step}"
        new = {1: float(step), step: float(step)}
        rows |= new
        changed |= new
        lineage = None
        if kind == "I" and mode is not None:
            facts = {"version": 1, "base_step": base, "previous_step": previous, "mode": mode}
            lineage = facts
        run.save(name, dict(rows), dict(new if mode == "delta" else changed), lineage)
        if kind == "F":
            base, previous, changed = step, None, {}
        else:
            previous = step
        if away:
            gone.append(name)
        if not unlisted and away != "~~":
            lists[kind].append(name)
    for name in gone:
        run.remove(name)
        del (run.chain.fulls if name[0] == "F" else run.chain.increments)[int(name[1:])]
    if listed:
        run.list(*lists["F"])
        if lists["I"]:
            run.list(*lists["I"], room=INCREMENTS)
    return run
