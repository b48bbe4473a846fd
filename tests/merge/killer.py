"""Merges copies of a chain, each killed ahead of another change; run as a program.

`killer.py ROOM OPTIONS`: for n = 0, 1, ... copies `ROOM/before` to `ROOM/n` and merges it in a
process of its own that kills itself, with SIGKILL, ahead of its nth change to the disk (or in
the middle of it, where it is two steps). Ends with the first merge that came through, and
prints for each n what the process was about to do, or null.
"""

from __future__ import annotations

import faulthandler
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from typing import Any

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

from ckptctl.merge import execute_merge, plan_merge
from ckptctl.restore import RestoreOptions
from tests.merge.storages import Once, Trapped

MOST = 200


class Torn(Trapped):
    """Writes half of a file, or makes a link and leaves the old name, and is then killed."""

    def write_new(self, path: str, data: bytes, *, not_before_ns: int = 0) -> None:
        self._half(
            f"half of {path}", lambda: super(Torn, self).write_new(path, data[: len(data) // 2])
        )
        super().write_new(path, data, not_before_ns=not_before_ns)

    def rename_new(self, source: str, destination: str) -> None:
        self._half(f"link {source} {destination}", lambda: os.link(source, destination))
        super().rename_new(source, destination)

    def _half(self, call: str, work: Callable[[], Any]) -> None:
        calls = self.trap.calls
        calls.append(call)
        if len(calls) == self.trap.at + 1:
            work()
            self.trap.sprung = call
            self.trap.do()


def run(chain: str, at: int, report: int, options: dict[str, Any]) -> None:
    def die() -> None:
        os.write(report, trap.sprung.encode())
        os.kill(os.getpid(), signal.SIGKILL)

    trap = Once(at, do=die)
    output = options.pop("output", None)
    plan = plan_merge(
        chain,
        options.pop("upto", None),
        output and os.path.join(chain, output),
        RestoreOptions(**options.pop("restore", {})),
        storage=Torn(trap),
        remember=False,
        **options,
    )
    execute_merge(plan, jobs=1)


def main(room: str, options: str) -> None:
    said: list[str | None] = []
    while (not said or said[-1] is not None) and len(said) < MOST:
        chain = os.path.join(room, str(len(said)))
        shutil.copytree(os.path.join(room, "before"), chain, symlinks=True)
        theirs, ours = os.pipe()
        child = os.fork()  # one thread so far: a fork copies all of us
        if child == 0:
            status = 1
            signal.alarm(60)  # one that hangs must not hang the suite
            faulthandler.dump_traceback_later(50)
            try:
                run(chain, len(said), ours, json.loads(options))
                status = 0
            finally:
                os._exit(status)
        os.close(ours)
        _, status = os.waitpid(child, 0)
        call = os.read(theirs, 4096).decode()
        os.close(theirs)
        if status != (signal.SIGKILL if os.WIFSIGNALED(status) else 0):
            raise SystemExit(f"the merge failed by itself at {len(said)}: {status}")
        said.append(call.replace(chain, "") if os.WIFSIGNALED(status) else None)
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
