"""Runs ckptctl in processes of its own, under strace; a program that has imported all once.

Each line of stdin is a request, each line of stdout the answer. A request forks a child that
stops, waits until strace holds it, and then is `ckptctl ARGS` from `console` on: its own
process, its own streams, directory and environment; what a fresh process would do before
(imports) it leaves out. Tasks of the Runner run on the thread that submits them: strace
counts the calls of each thread apart, and `when=N` then names one call and no other.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..")))

import ckptctl.running
from ckptctl.__main__ import console
from ckptctl.commands.main import main as run
from tests.merge.model import small_chain

_PR_SET_PTRACER = 0x59616D61
_ANYONE = ctypes.c_ulong(-1)


class Inline(Executor):
    """Runs a task when it is submitted, in the order in which one worker would."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 (as every executor does)
            future.set_exception(error)
        return future


def become(request: dict[str, Any]) -> None:
    """Be the command from here on."""
    for number, name, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    ):
        fd = os.open(name, flags, 0o644)
        os.dup2(fd, number)
        os.close(fd)
    os.closerange(3, 64)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    os.setpgid(0, 0)
    sys.argv = ["ckptctl", *request["args"]]
    if request["strace"]:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYONE, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    # One that hangs says where before it is killed.
    faulthandler.dump_traceback_later(request["timeout"] * 0.8)
    code = 1
    try:
        console()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve(request: dict[str, Any]) -> dict[str, Any]:
    child = os.fork()
    if child == 0:
        become(request)
    strace = None
    if request["strace"]:
        _, status = os.waitpid(child, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            return {"status": status, "hung": False, "strace": "it ended by itself"}
        command = [*request["strace"], "-p", str(child)]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = ""
        while "attached" not in said:
            line = strace.stderr.readline()
            if not line:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"status": None, "hung": False, "strace": said}
            said += line
        os.kill(child, signal.SIGCONT)
    hung = not ended_within(child, request["timeout"])
    if hung:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if strace is not None:
        strace.communicate(timeout=30)
    return {"status": os.waitstatus_to_exitcode(status), "hung": hung, "strace": ""}


def ended_within(child: int, seconds: float) -> bool:
    fd = os.pidfd_open(child)
    try:
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(seconds * 1000))
    finally:
        os.close(fd)


def warm_up() -> None:
    """Import whatever the commands do, and have it compiled.

    A child that still had modules to find would open more files or fewer, as others change
    the directories on its path, and the nth open would be another one.
    """
    with tempfile.TemporaryDirectory() as home:
        os.environ["XDG_CACHE_HOME"] = home
        chain = small_chain(Path(home)).directory
        age = ("--min-age", "0s")
        for args in (
            ("merge", chain, "-o", f"{home}/out-50", "-j", "1"),
            ("prune", chain, *age, "--keep-last", "9", "--trash"),
            ("compact", chain, *age, "--yes", "--keep-last", "1"),
            ("prune", chain, "--plan", f"{home}/none"),
            ("verify", chain, "--data"),
            ("ls", chain, "--json"),
        ):
            run([str(arg) for arg in args])
    gc.freeze()


def main() -> None:
    ckptctl.running.ThreadPoolExecutor = Inline  # type: ignore[misc,assignment]
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    warm_up()
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(serve(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
