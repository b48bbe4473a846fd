"""The commands that are tortured: a directory, a command line, and what must survive it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ckptctl.merge import PruneOptions, plan_prune
from ckptctl.merge.policy import KeepLast, Policy
from ckptctl.merge.prune_plan import save_plan_to
from tests.merge.model import small_chain
from tests.merge.prunes import THEN, age, chain_of, rolled_back
from tests.oracle.chain import Chain
from tests.oracle.images import Image

#: Names in a command line that a room fills in.
CHAIN, OUT, PLAN = "{chain}", "{out}", "{plan}"


@dataclass(frozen=True)
class Scenario:
    """One command on one directory.

    Attributes
    ----------
    name
        What it is called on the command line of pytest.
    make
        Makes the chain in a directory.
    args
        The command.
    latest
        Step that the state file names before, and after.
    goes
        Steps that may be no restore points any more.
    before
        What else is laid out in a room.
    again
        What ends the work where the command itself may be refused (12) when it is run again,
        since some of its work is done: a destination that exists, a saved plan of a directory
        that changed.
    kept
        Whether what goes must be found in the trash.
    merged
        Steps at which a merged full may stand, made of (base, increment).
    outputs
        Names of fulls beside the directory, made of the same.
    """

    name: str
    make: Callable[[Path], Chain]
    args: tuple[str, ...]
    latest: tuple[int, int]
    goes: frozenset[int] = frozenset()
    before: Callable[[Path, Chain], None] | None = None
    again: tuple[str, ...] = ()
    kept: bool = False
    merged: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    outputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Stage:
    """A scenario's directory as it is before, to be copied for each case."""

    scenario: Scenario
    home: Path
    chain: Chain

    def copy(self, room: Path) -> None:
        """Lay a fresh copy of everything out in a room."""
        for old in (room, Path(f"{room}.own")):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.home, room, symlinks=True)
        if PLAN in self.scenario.args:  # it knows the files by inode
            options = PruneOptions(Policy((KeepLast(1),)), min_age_s=0)
            plan = plan_prune(str(room / "chain"), options, remember=False)
            save_plan_to(plan, str(room / "plan"))

    def states(self) -> dict[int, Image]:
        """Step to the model there, of every checkpoint that the directory began with."""
        found: dict[int, Image] = dict(self.chain.fulls)
        for step in self.chain.increments:
            base = max(full for full in self.chain.fulls if full < step)
            found.setdefault(step, self.chain.expect(base, step))
        return found


def stage(scenario: Scenario, home: Path) -> Stage:
    """Make a scenario's directory."""
    home.mkdir(parents=True)
    chain = scenario.make(home)
    if scenario.before is not None:
        scenario.before(home, chain)
    (home / "out").mkdir(exist_ok=True)
    return Stage(scenario, home, chain)


def command(args: tuple[str, ...], room: Path) -> list[str]:
    """Return a command line in a room."""
    places = {CHAIN: room / "chain", OUT: room / "out", PLAN: room / "plan"}
    found = []
    for arg in args:
        for name, path in places.items():
            arg = arg.replace(name, str(path))
        found.append(arg)
    return found


# --- directories ----------------------------------------------------------------------


def _small(home: Path) -> Chain:
    return age(small_chain(home, side=True))


def _superseded(home: Path) -> Chain:
    return chain_of(home, "F10", "I20", "I30", "I50")


def _rotating(home: Path) -> Chain:
    return chain_of(home, "F10", "I20", "F30", "I40", "F50", "I60")


def _older_output(home: Path, chain: Chain) -> None:
    (home / "out").mkdir()
    chain.merge(30, home / "out" / "model.ckpt-7", update_state=False)
    shutil.rmtree(home / "out" / ".ckptctl")


def _leftovers(home: Path, chain: Chain) -> None:
    room = chain.directory
    for name in ("model.ckpt-60_temp_0456", "model.ckpt-33_temp_0123"):
        (room / name).mkdir()
        (room / name / "part-00000-of-00001.data").write_bytes(b"12345")
    (room / "model.ckpt-35.data-00000-of-00001").write_bytes(b"123")
    (room / "model.ckpt-60.index.tempstate1234").write_bytes(b"123")
    for path in room.rglob("*"):
        if "_temp_" in str(path) or (path.is_file() and path.read_bytes() == b"123"):
            os.utime(path, (THEN, THEN))


PRUNE = ("prune", CHAIN, "--yes", "--min-age", "0s")
SCENARIOS = (
    Scenario(
        "merge-in-place", _small, ("merge", CHAIN, "-j", "1"), (40, 50), merged={50: (40, 50)}
    ),
    Scenario(
        "merge-elsewhere",
        _small,
        ("merge", CHAIN, "-o", f"{OUT}/model.ckpt-50", "-j", "1"),
        (40, 40),
        again=("prune", OUT, "--yes", "--min-age", "0s"),  # there but for the clean-up
        outputs={"model.ckpt-50": (40, 50)},
    ),
    Scenario(
        "merge-overwrite",
        _small,
        ("merge", CHAIN, "-o", f"{OUT}/model.ckpt-7", "--overwrite", "-j", "1"),
        (40, 40),
        before=_older_output,
        outputs={"model.ckpt-7": (40, 50)},
    ),
    Scenario("prune-stale", _small, PRUNE, (40, 40), frozenset({20, 30})),
    Scenario("prune-superseded", _superseded, PRUNE, (10, 10), frozenset({20, 30})),
    Scenario(
        "prune-keep-last",
        _rotating,
        (*PRUNE, "--keep-last", "1"),
        (50, 50),
        frozenset({10, 20, 30, 40}),
    ),
    Scenario(
        "prune-trash",
        _rotating,
        ("prune", CHAIN, "--min-age", "0s", "--keep-last", "1", "--trash"),
        (50, 50),
        frozenset({10, 20, 30, 40}),
        kept=True,
    ),
    Scenario(
        "prune-leftovers",
        _small,
        (*PRUNE, "--leftovers"),
        (40, 40),
        frozenset({20, 30}),
        before=_leftovers,
    ),
    Scenario(
        "prune-abandoned",
        rolled_back,
        (*PRUNE, "--abandoned", "--keep-last", "1"),
        (100, 100),
        frozenset({10, 20, 30, 40, 80, 90}),
    ),
    Scenario(
        "prune-plan",
        _rotating,
        ("prune", CHAIN, "--plan", PLAN, "--yes"),
        (50, 50),
        frozenset({10, 20, 30, 40}),
        again=(*PRUNE, "--keep-last", "1"),
    ),
    Scenario(
        "compact",
        _small,
        ("compact", CHAIN, "--yes", "--min-age", "0s", "--keep-last", "1"),
        (40, 50),
        frozenset({10, 20, 30, 40}),
        merged={50: (40, 50)},
    ),
)
