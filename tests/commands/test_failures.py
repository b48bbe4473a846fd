"""What every exception means to the shell."""

from __future__ import annotations

import errno
import os
import signal
import threading
from concurrent.futures import BrokenExecutor

import click
import pytest

from ckptctl import errors
from ckptctl.commands.failures import Terminated, describe
from ckptctl.commands.options import EXIT_CODES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("u"), 2),
        (errors.PartialFailure("p"), 3),
        (errors.MagicError("m"), 4),
        (errors.DifferencesFound("d"), 5),
        (errors.NotFoundError("n"), 10),
        (errors.LockedError("l"), 11),
        (errors.NoSpaceError("s"), 12),
        (errors.DependencyError("d"), 2),
        (click.UsageError("u"), 2),
        (click.BadParameter("b"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (Terminated(signal.SIGTERM), 143),
        (Terminated(signal.SIGHUP), 129),
        (SystemExit(7), 7),
        (SystemExit("words"), 1),
        (SystemExit(None), 0),
        (MemoryError(), 12),
        (BrokenExecutor(), 12),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 10),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), 10),
        (OSError(errno.ENOSPC, "No space left on device"), 12),
        (OSError(errno.EDQUOT, "Quota exceeded"), 12),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 12),
        (OSError(errno.EROFS, "Read-only file system"), 12),
        (OSError(errno.EIO, "Input/output error"), 12),
        (OSError(errno.EMFILE, "Too many open files"), 12),
        (OSError(errno.EBADF, "Bad file descriptor"), 1),
        (OSError("no number"), 1),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1),
        (ValueError("v"), 1),
        (AssertionError(), 1),
        (RecursionError(), 1),
        (GeneratorExit(), 1),
    ],
)
def test_every_exception_has_its_exit_code(error: BaseException, code: int) -> None:
    failure = describe(error)
    assert failure.code == code
    assert code in EXIT_CODES or isinstance(error, SystemExit)  # the help and the reference tell it
    # Two fields, so that a log collector that keeps only the object can still count.
    assert failure.facts.get("exit_code", code) == code
    # No traceback reaches a user unless it is our fault.
    assert ("traceback" in failure.facts) == (code == 1 and not isinstance(error, SystemExit))


FORGED = "a\n  next: rm -rf /"


@pytest.mark.parametrize(
    "error",
    [
        errors.NotFoundError("no such file", file=FORGED, remedy="look"),
        errors.NotFoundError(f"no tensor {FORGED}", tensor=FORGED, found=FORGED, remedy="look"),
        FileNotFoundError(errno.ENOENT, "No such file", FORGED),
    ],
)
def test_a_line_break_in_a_name_makes_no_line_of_ours(error: BaseException) -> None:
    lines = describe(error).text.split("\n")
    assert not any(line.strip().startswith("next: rm") for line in lines)
    assert any(r"a\n  next: rm -rf /" in line for line in lines)


def test_an_error_of_ours_keeps_every_fact() -> None:
    error = errors.TensorChecksumError(
        "checksum does not match",
        file="m.data-00000-of-00001",
        tensor="emb",
        offset=12,
        expected="1",
        found="2",
        remedy="restore the file",
    )
    failure = describe(error)
    assert failure.facts == {
        "error": "TensorChecksumError",
        "exit_code": 4,
        "message": "checksum does not match",
        "file": "m.data-00000-of-00001",
        "tensor": "emb",
        "offset": 12,
        "expected": "1",
        "found": "2",
        "remedy": "restore the file",
    }
    assert failure.text.splitlines()[0] == "error: checksum does not match"
    assert "  next: restore the file" in failure.text


def test_an_error_of_the_system_names_both_files_and_what_to_do() -> None:
    error = OSError(errno.EXDEV, os.strerror(errno.EXDEV), "a", None, "b")
    failure = describe(error)
    assert failure.facts["file"] == "a -> b"
    assert "one filesystem" in str(failure.facts["remedy"])


def test_a_bug_says_where_to_report_it() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        failure = describe(error)
    assert "Traceback (most recent call last)" in failure.text
    assert failure.text.splitlines()[-1].startswith("This is a bug in ckptctl")
    assert "report it" in str(failure.facts["remedy"])


def test_a_thread_for_which_there_is_no_room_is_no_bug() -> None:
    """As where the limit of a pod on its processes is reached."""
    before = threading.stack_size(1 << 47)  # more than can be addressed
    try:
        with pytest.raises(RuntimeError) as caught:
            threading.Thread(target=int).start()
    finally:
        threading.stack_size(before)
    failure = describe(caught.value)
    assert failure.code == 12
    assert "out of processes or memory" in failure.text
    assert describe(RuntimeError("something else")).code == 1
