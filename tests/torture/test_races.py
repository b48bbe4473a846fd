"""Two ckptctl at once on one directory, twenty times: one works, one exits 11, nothing is torn.

Both begin at the same moment. Whoever gets the lock is held ahead of another one of its changes
each time, until the other has ended: whatever is half done then, nobody else works on it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from ckptctl.commands.main import main
from tests.merge.model import small_chain
from tests.merge.prunes import age, here, listed, points
from tests.oracle.chain import INCREMENTS, Chain
from tests.torture.scenes import ckptctl

ROUNDS = 20
#: What changes a directory, as Python tells its audit hooks.
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir"}

MERGE = ["merge", "--upto", "50"]
PRUNE = ["prune", "--yes", "--keep-last", "1", "--min-age", "0s"]
COMPACT = ["compact", "--yes", "--keep-last", "1", "--min-age", "0s"]
PAIRS = {
    "merge, merge": (MERGE, MERGE),
    "merge, prune": (MERGE, PRUNE),
    "prune, prune": (PRUNE, PRUNE),
    "compact, compact": (COMPACT, COMPACT),
    "compact, merge": (COMPACT, MERGE),
    "compact, prune": (COMPACT, PRUNE),
}


@dataclass
class Racer:
    """A ckptctl in a process of its own, held ahead of its nth change under the lock."""

    pid: int
    said: int
    told: int

    def hears(self) -> str:
        return os.read(self.said, 1).decode()

    def go(self) -> None:
        os.write(self.told, b"go")

    def ended(self) -> int:
        os.close(self.said)
        os.close(self.told)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def race(line: list[str], chain: Chain, output: Path, at: int) -> Racer:
    ours, said = os.pipe()
    told, theirs = os.pipe()
    pid = os.fork()
    if pid:
        os.close(said)
        os.close(told)
        return Racer(pid, ours, theirs)
    code = 1
    try:
        signal.alarm(60)
        lock = str(chain.directory / ".ckptctl")
        seen = 0

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal seen
            if event in CHANGES and str(arguments[0]) != lock:
                seen += 1
                if seen == at + 1:
                    os.write(said, b"in")
                    os.read(told, 2)

        os.write(said, b"r")
        os.read(told, 2)
        sys.addaudithook(watch)
        with open(output, "w") as file, redirect_stdout(file), redirect_stderr(file):
            code = main([*line, "-C", str(chain.directory)])
    finally:
        os._exit(code)


def turns() -> list[ParameterSet]:
    """Each pair twenty times; once in the suite, at another moment for each."""
    return [
        pytest.param(pair, turn, marks=[] if turn == number else [pytest.mark.torture])
        for number, pair in enumerate(PAIRS)
        for turn in range(ROUNDS)
    ]


@pytest.mark.parametrize(("pair", "turn"), turns())
def test_one_works_and_one_exits_11(tmp_path: Path, pair: str, turn: int) -> None:
    chain = age(small_chain(tmp_path))
    racers = [
        race(line, chain, tmp_path / f"said-{number}", turn % 8)
        for number, line in enumerate(PAIRS[pair])
    ]
    assert [racer.hears() for racer in racers] == ["r", "r"]
    for racer in racers:
        racer.go()
    # One is held and says so; the other can only end.
    firsts = [racer.hears() for racer in racers]
    assert sorted(firsts) == ["", "i"]
    loser, winner = (racers[firsts.index("")], racers[firsts.index("i")])
    said = (tmp_path / f"said-{firsts.index('')}").read_text()
    assert loser.ended() == 11, said
    assert str(winner.pid) in said
    winner.go()
    assert winner.ended() == 0, (tmp_path / f"said-{firsts.index('i')}").read_text()
    whole(chain)
    for line in PAIRS[pair]:
        assert ckptctl(*line, "-C", chain.directory).code == 0
    whole(chain)


def whole(chain: Chain) -> None:
    """Nothing is torn: all that is listed is there and sound, and nothing is left over."""
    assert 50 in points(chain)
    assert ckptctl("verify", chain.directory, "--data").code == 0
    fulls, increments = listed(chain), listed(chain, INCREMENTS)
    found = here(chain)
    assert {f"F{step}" for step in fulls} == {name for name in found if name[0] == "F"}
    assert {f"I{step}" for step in increments or ()} == {name for name in found if name[0] == "I"}
    assert not list(chain.directory.rglob("*tmp*"))
    assert not list(chain.directory.rglob("*_temp_*"))
    if {"F40", "F50"} <= found:
        chain.check(40, 50)
