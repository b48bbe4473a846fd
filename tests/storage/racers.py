"""Processes that race for a lease, round after round; run as a program.

`racers.py DIRECTORY dead RACERS ROUNDS`: in each round a dead lease is left, and all racers
want it at once. Who gets it holds it until all have had their answer, and checks it then.
`racers.py DIRECTORY count RACERS ROUNDS`: each adds 1 to a number, so many times, under the
lease; one is killed in some turn while it holds it, and another takes its place, five times.

Prints as JSON what came of it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from ckptctl.errors import LockedError
from ckptctl.storage.lock import directory_lock
from ckptctl.storage.owner import Owner
from tests.storage.leases import Loud, leave, note


def tell(fd: int, said: object) -> None:
    os.write(fd, json.dumps(said).encode() + b"\n")


def race(directory: str, orders: int, answers: int) -> None:
    """Try once for each line of orders; a second line ends the holding."""
    lines = os.fdopen(orders)
    for _ in lines:
        loud = Loud()
        try:
            with directory_lock(directory, 0.0, loud) as lock:
                tell(answers, "won")
                lines.readline()
                lock.check()
            tell(answers, loud.heard)
        except LockedError:
            tell(answers, "locked")
            lines.readline()
            tell(answers, None)


def dead(directory: Path, racers: int, rounds: int) -> dict[str, object]:
    started = []
    for _ in range(racers):
        (their_orders, orders), (answers, their_answers) = os.pipe(), os.pipe()
        if os.fork() == 0:
            signal.alarm(120)
            os.close(orders)
            for _, other, _ in started:  # or a racer would live as long as its brothers
                os.close(other)
            race(str(directory), their_orders, their_answers)
            os._exit(0)
        started.append((os.fdopen(answers), orders, their_answers))
        os.close(their_orders)
        os.close(their_answers)
    won, loud = [], []
    for number in range(rounds):
        # By turns: a process of this machine that has ended, and one that renews no more.
        gone = os.fork()
        if gone == 0:
            os._exit(0)
        os.waitpid(gone, 0)
        here = json.loads(Owner.of_this_process(0.1).note())
        leave(directory, {**here, "pid": gone} if number % 2 else note(), idle_s=3600)
        for _, orders, _ in started:
            os.write(orders, b"go\n")
        said = [json.loads(answers.readline()) for answers, _, _ in started]
        for _, orders, _ in started:
            os.write(orders, b"end\n")
        heard = [json.loads(answers.readline()) for answers, _, _ in started]
        won.append(said.count("won"))
        loud.append(sum(len(each) for each in heard if each is not None))
    for answers, orders, _ in started:
        os.close(orders)
        answers.close()
    return {"won": won, "loud": loud}


def add(directory: str, times: int, killed: bool) -> None:
    path = os.path.join(directory, "number")
    for left in range(times, 0, -1):
        with directory_lock(directory, 60.0) as lock:
            with open(path) as file:
                number = int(file.read())
            if killed and random.random() < 1 / left:  # in any of its turns, at the latest the last
                os.kill(os.getpid(), signal.SIGKILL)
            lock.check()
            with open(path, "w") as file:  # not atomic: two at once would tear it
                file.write(str(number + 1))
            with open(path + ".log", "a") as file:
                file.write("added\n")


def count(directory: Path, racers: int, rounds: int) -> dict[str, object]:
    (directory / "number").write_text("0")

    def start(times: int, killed: bool) -> int:
        child = os.fork()
        if child == 0:
            signal.alarm(120)
            random.seed(os.getpid())
            add(str(directory), times, killed)
            os._exit(0)
        return child

    running = {start(rounds, number == 0) for number in range(racers)}
    kills = 0
    while running:
        child, status = os.wait()
        running.discard(child)
        if os.WIFSIGNALED(status):
            kills += 1
            if kills < 5:
                running.add(start(rounds, True))
        elif status:
            raise SystemExit(status)
    added = len((directory / "number.log").read_text().splitlines())
    return {"number": int((directory / "number").read_text()), "added": added, "kills": kills}


if __name__ == "__main__":
    what = {"dead": dead, "count": count}[sys.argv[2]]
    print(json.dumps(what(Path(sys.argv[1]), *map(int, sys.argv[3:]))))
