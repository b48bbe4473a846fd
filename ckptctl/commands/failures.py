"""What every exception means to the shell: an exit code and words on stderr."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import click
from click.core import ParameterSource

from ckptctl import __version__
from ckptctl.errors import CkptctlError, DamageError
from ckptctl.output.format import one_line, safe_text

__all__ = ["Failure", "Terminated", "describe", "report"]


class Terminated(BaseException):
    """Raised where a SIGTERM or SIGHUP arrives, so that clean-up runs.

    No `Exception`: nothing but `main` may catch it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Failure(NamedTuple):
    """How one exception is told: its exit code, the text, and the JSON object."""

    code: int
    text: str = ""
    facts: Mapping[str, object] = MappingProxyType({})


#: The machine says no: nothing is wrong with ckptctl or the checkpoint, and trying again
#: unchanged fails again. `restore.md`: what was asked for is not there 10, else 12.
_GONE = {errno.ENOENT, errno.ENOTDIR}
_REMEDIES = {
    errno.ENOENT: "look whether the path is right; if it was removed meanwhile, run it again",
    errno.ENOTDIR: "look whether the path is right: a part of it is no directory",
    errno.ENOSPC: "free some space, or write elsewhere with -o",
    errno.EDQUOT: "free some space or raise the quota, or write elsewhere with -o",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "check the owner and mode of the file and its directory",
    errno.EPERM: "check the owner, mode and attributes of the file and its directory",
    errno.EROFS: "the filesystem is mounted read-only: write elsewhere with -o",
    errno.EMFILE: "raise the limit on open files (ulimit -n), or use a smaller -j",
    errno.ENFILE: "the machine has too many files open: try again later",
    errno.ENOMEM: "use a smaller --memory or -j",
    errno.EAGAIN: "the machine is out of processes or memory: try again later",
    errno.EIO: "the disk failed to answer: look at the kernel's log",
    errno.ESTALE: "the network filesystem lost the file: try again",
    errno.ETIMEDOUT: "the filesystem did not answer in time: try again",
    errno.EBUSY: "something else uses the file: try again later",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "a symbolic link points at itself: look at the path",
    errno.EISDIR: "a directory stands where a file should be",
    errno.EXDEV: "source and destination must be on one filesystem",
}
_DAMAGED = "ckptctl verify --data says what is wrong, and what to do"
#: All that Python says of EAGAIN for a thread.
_NO_THREAD = "can't start new thread"


def report(error: BaseException, *, args: Sequence[str]) -> int:
    """Say on stderr what went wrong and return the exit code.

    Parameters
    ----------
    error
        Whatever ended the command.
    args
        The command line: it may ask for JSON although it could not be parsed.
    """
    failure = describe(error)
    if not failure.text:
        return failure.code
    # In a log that takes both, the answer so far stands before the error.
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    # Where nobody listens the exit code still says it.
    with suppress(OSError):
        if _wants_json(args):
            from ckptctl.output.document import dump

            dump({"schema": "ckptctl.error/1", **failure.facts}, sys.stderr)
        else:
            sys.stderr.write(f"ckptctl: {safe_text(failure.text)}\n")
        sys.stderr.flush()
    return failure.code


def describe(error: BaseException) -> Failure:
    """Return what an exception means; every exception means something."""
    if isinstance(error, CkptctlError):
        if isinstance(error, DamageError):
            error.remedy = error.remedy or _DAMAGED
        return Failure(error.exit_code, f"error: {error}", error.details())
    if isinstance(error, click.exceptions.Exit):
        return Failure(error.exit_code)
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return _told("Interrupted", 130, "interrupted")
    if isinstance(error, Terminated):
        name = signal.Signals(error.number).name
        return _told("Terminated", 128 + error.number, f"terminated by {name}")
    if isinstance(error, SystemExit):
        return Failure(error.code if isinstance(error.code, int) else int(bool(error.code)))
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return Failure(141)
    if isinstance(error, MemoryError):
        return _told("MemoryError", 12, "out of memory", remedy="use a smaller --memory or -j")
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return _told("RuntimeError", 12, _NO_THREAD, remedy=_REMEDIES[errno.EAGAIN])
    if _is_broken_executor(error):
        return _told(
            "WorkerDied",
            12,
            "a worker process died, killed or out of memory",
            remedy="look for the out-of-memory killer in the kernel's log; use a smaller -j",
        )
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return _system(error)
    return _bug(error)


def _told(name: str, code: int, message: str, **more: str | None) -> Failure:
    facts: dict[str, object] = {"error": name, "exit_code": code, "message": message}
    facts.update((key, value) for key, value in more.items() if value)
    text = message if code > 128 else f"error: {message}"
    for key, word in (("file", "file"), ("remedy", "next")):
        if facts.get(key):
            text += f"\n  {word}: {one_line(str(facts[key]))}"
    return Failure(code, text, facts)


def _usage(error: click.ClickException) -> Failure:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ckptctl"
    message = error.format_message()
    param = getattr(error, "param", None)
    if context is not None and param is not None and param.name:
        # A variable that was set months ago is the last thing one would look at.
        source = context.get_parameter_source(param.name)
        if source is ParameterSource.ENVIRONMENT and param.envvar:
            message += f" (from ${param.envvar})"
    remedy = f"{path} --help"
    option = getattr(error, "option_name", "") if isinstance(error, click.NoSuchOption) else ""
    if option[1:].isdigit() and path.endswith(" get"):  # -17 is read as options 1 and 7
        remedy = f"keys below zero go behind `--`: {path} TABLE -- KEY..."
    return _told("UsageError", 2, message, remedy=remedy)


def _system(error: OSError) -> Failure:
    number = error.errno or 0
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return _told(
        type(error).__name__,
        10 if number in _GONE else 12,
        (error.strerror or os.strerror(number)).lower(),
        file=" -> ".join(names) or None,
        remedy=_REMEDIES.get(number),
    )


def _bug(error: BaseException) -> Failure:
    import traceback

    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    where = (
        f"This is a bug in ckptctl {__version__}. Please report it in its issue tracker "
        f"({_tracker()}) with the lines above and the command that you gave."
    )
    message = f"unexpected {type(error).__name__}: {error}"
    facts = {
        "error": type(error).__name__,
        "exit_code": 1,
        "message": message,
        "remedy": where,
        "traceback": trace,
    }
    return Failure(1, f"error: {message}\n{trace}{where}", facts)


def _is_broken_executor(error: BaseException) -> bool:
    # Importing it costs what a listing has no time for; whoever raised it has paid.
    futures = sys.modules.get("concurrent.futures")
    return futures is not None and isinstance(error, futures.BrokenExecutor)


def _nobody_reads() -> bool:
    """Return whether it is our own stdout or stderr that broke, not some other pipe."""
    poller = select.poll()
    for stream in (1, 2):
        poller.register(stream, select.POLLOUT)
    broken = select.POLLERR | select.POLLHUP
    return any(events & broken for _, events in poller.poll(0))


def _wants_json(args: Sequence[str]) -> bool:
    options = list(args)
    if "--" in options:
        options = options[: options.index("--")]
    if {"--json", "--json-lines", "--format=json"} & set(options):
        return True
    if ("--format", "json") in pairwise(options):  # of `get`
        return True
    command = next((word for word in options if not word.startswith("-")), "")
    value = os.environ.get(f"CKPTCTL_{command.upper()}_JSON", "")
    return value.strip().lower() in {"1", "true", "t", "yes", "y", "on"}


def _tracker() -> str:
    import importlib.metadata

    try:
        links = importlib.metadata.metadata("ckptctl").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        links = []
    for link in links:
        label, _, url = str(link).partition(", ")
        if label == "Issues":
            return url
    return "`pip show ckptctl` says where"
