"""Which calls of a command change something, and the command again with one of them spoilt."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

#: Calls that change files, names, sizes, modes or locks. Which of them touch the room in
#: which a case plays, the log says.
CHANGING = (
    *("open", "openat", "openat2", "creat", "write", "writev", "pwrite64", "pwritev", "pwritev2"),
    *("fallocate", "ftruncate", "truncate", "copy_file_range", "sendfile", "splice"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat"),
    *("fsync", "fdatasync", "sync_file_range", "syncfs", "msync"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat"),
    *("utimensat", "futimesat", "utimes", "setxattr", "fsetxattr", "removexattr", "ioctl"),
    *("flock", "fcntl"),
)
#: Calls that read: names of files come with the open.
READING = ("open", "openat", "openat2", "read", "pread64", "preadv", "preadv2", "getdents64")
READING = (*READING, "newfstatat", "stat", "lstat", "fstat", "statx", "statfs", "mmap")

_LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<rest>.*)")
_NAMED = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<home>[^>]*)>, )?"(?P<path>(?:[^"\\]|\\.)*)"')
_OF_FD = re.compile(r"\d+<(.*?)>")
_HARMLESS = {"fcntl": "F_SETLK", "ioctl": "FICLONE"}


@dataclass(frozen=True)
class Call:
    """One system call: the `when`th of its name, and what it was about, chance taken out."""

    name: str
    when: int
    about: str
    line: str = field(compare=False, default="")

    def __str__(self) -> str:
        return f"{self.name}#{self.when} {self.about}"


def parse(log: str, room: str) -> list[Call]:
    """Return the calls of a log that touch the room, each with its number among its name."""
    counts: dict[tuple[str, str], int] = {}
    found = []
    for line in log.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        name, rest = match["name"], match["rest"]
        key = (match["pid"], name)
        counts[key] = counts.get(key, 0) + 1
        paths = paths_of(name, rest)
        if any(path == room or path.startswith(f"{room}/") for path in paths):
            about = " ".join(plain(path.removeprefix(room).lstrip("/")) for path in paths)
            found.append(Call(name, counts[key], about.strip(), line))
    return found


def paths_of(name: str, rest: str) -> list[str]:
    """Return the paths that a call names, by name (below a directory or not) or by open file."""
    if name in BY_NAME:
        found = _NAMED.finditer(rest.partition(") = ")[0])
        return [os.path.normpath(os.path.join(each["home"] or "", each["path"])) for each in found]
    match = _OF_FD.match(rest)
    return [match[1]] if match else []


BY_NAME = {
    *("open", "openat", "openat2", "creat", "truncate", "rename", "renameat", "renameat2"),
    *("link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"),
    *("mknod", "mknodat", "chmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchownat"),
    *("utimensat", "futimesat", "utimes", "setxattr", "removexattr"),
    *("newfstatat", "stat", "lstat", "statx", "statfs"),
}


def plain(path: str) -> str:
    """Return a path without what chance, time and process put into it."""
    path = re.sub(r"\.ckptctl-[0-9a-f]{16}\.tmp", ".ckptctl-HEX.tmp", path)
    path = re.sub(r"_temp_[0-9a-f]{32}", "_temp_HEX", path)
    path = re.sub(r"\.\d{8}T\d{6}Z\.\d+", ".STAMP", path)
    return re.sub(r"\b[0-9a-f]{64}\b", "HASH", path)


def changes(calls: Sequence[Call]) -> list[Call]:
    """Return those that change something."""
    return [call for call in calls if _is_change(call)]


def _is_change(call: Call) -> bool:
    if call.name in ("open", "openat", "openat2"):
        return any(flag in call.line for flag in ("O_CREAT", "O_TRUNC", "O_TMPFILE"))
    wanted = _HARMLESS.get(call.name)
    return call.name in CHANGING and (wanted is None or wanted in call.line)


@dataclass
class Ended:
    """How a command ended: its exit code (negative: the signal), words, and its calls."""

    code: int | None
    stdout: str
    stderr: str
    calls: list[Call]
    log: str
    hung: bool
    command: str


class Server:
    """The program that runs commands; one a session."""

    def __init__(self, cache: Path) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("CKPTCTL", "PYTEST"))}
        self.env = env | {
            "PYTHONPATH": str(ROOT),
            "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not fork
            "PYTHONHASHSEED": "0",
            # What a cut leaves half written looks like a save under way, and is waited for.
            "CKPTCTL_KNOB_WRITER_SECONDS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPYCACHEPREFIX": str(cache),
        }
        self._process: subprocess.Popen[str] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "server.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=self.env,
            )
            assert self._process.stdout is not None
            assert self._process.stdout.readline() == "ready\n"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def run(
        self,
        room: Path,
        args: Sequence[str],
        *,
        trace: Sequence[str] = (),
        inject: str = "",
        strings: int = 32,
        timeout: float = 60.0,
    ) -> Ended:
        """Run `ckptctl ARGS` to its end; with `trace` or `inject` under strace.

        The room holds the directory, and beside it what is the process's own: cache and logs.
        """
        own = Path(f"{room}.own")
        own.mkdir(exist_ok=True)
        strace: list[str] = []
        if trace or inject:
            strace = [*STRACE, "-s", str(strings), "-o", str(own / "log")]
            strace += ["-e", f"trace={','.join(dict.fromkeys(trace))}"]
            strace += ["-e", f"inject={inject}"] if inject else []
        answer = self.ask(
            {
                "args": [str(arg) for arg in args],
                "env": {"XDG_CACHE_HOME": str(room / "cache")},
                "cwd": str(room),
                "strace": strace,
                "stdout": str(own / "stdout"),
                "stderr": str(own / "stderr"),
                "timeout": timeout,
            }
        )
        if answer["strace"]:
            raise RuntimeError(f"strace: {answer['strace']}")
        log = (own / "log").read_text(errors="surrogateescape") if strace else ""
        return Ended(
            answer["status"],
            (own / "stdout").read_text(errors="replace"),
            (own / "stderr").read_text(errors="replace"),
            parse(log, str(room)),
            log,
            answer["hung"],
            shlex.join([*strace, "--", "ckptctl", *map(str, args)]),
        )


#: `?` before a name: a machine that lacks the call (arm64 has no rename) does not mind.
STRACE = ["strace", "-f", "-y", "--signal=none"]


def why_no_strace() -> str:
    """Return why commands cannot be traced here, or an empty string."""
    if shutil.which("strace") is None:
        return "no strace: `apt-get install strace`"
    probe = ["strace", "-e", "trace=none", "-o", os.devnull, "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"strace may not trace here (docker: --cap-add SYS_PTRACE): {done.stderr.strip()}"
    return ""
