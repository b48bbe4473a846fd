"""Who holds a lock: for people, and to tell a dead process of this machine from a living one."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from typing import NamedTuple

__all__ = ["MOST_BYTES", "Owner"]

#: More than this of a note is not read: anyone may have written it.
MOST_BYTES = 4096
_MOST_PID = 2**31 - 1


class Owner(NamedTuple):
    """What a process writes of itself beside a lock that it holds.

    Attributes
    ----------
    host, pid, since
        Its host, its number there, and when it took the lock (ISO 8601, UTC).
    boot
        The kernel's name for the time since the machine was started.
    namespaces
        Where `pid` and `started` mean what they say: two containers count their own.
    started
        When the process started, in the kernel's ticks; numbers are used again.
    renew_s
        Seconds between two renewals of its lease.
    """

    host: str
    pid: int
    since: str
    boot: str = ""
    namespaces: str = ""
    started: int = 0
    renew_s: float = 0.0

    @classmethod
    def of_this_process(cls, renew_s: float = 0.0) -> Owner:
        """Return what there is to say of this process, now."""
        pid = os.getpid()
        status = _status(pid)
        return cls(
            os.uname().nodename,
            pid,
            datetime.now(timezone.utc).isoformat(timespec="seconds"),
            _read("/proc/sys/kernel/random/boot_id").strip(),
            _namespaces(),
            status[0] if status is not None else 0,
            float(renew_s),
        )

    @classmethod
    def parse(cls, data: bytes) -> Owner | None:
        """Return what a note says, or None if it is none of ours or torn."""
        try:
            facts = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(facts, dict):
            return None
        pid = facts.get("pid")
        if type(pid) is not int or not 0 < pid <= _MOST_PID:
            return None
        started, renew_s = facts.get("started"), facts.get("renew_s")
        return cls(
            _word(facts.get("host")),
            pid,
            _word(facts.get("since")),
            _word(facts.get("boot")),
            _word(facts.get("namespaces")),
            started if type(started) is int else 0,
            renew_s if isinstance(renew_s, float) and 0 < renew_s < 1e6 else 0.0,
        )

    def note(self) -> bytes:
        """Return the content of the note."""
        return json.dumps(self._asdict()).encode() + b"\n"

    def is_gone(self) -> bool:
        """Return whether it is known that the process has ended.

        False where that cannot be known: it ran on another machine, in another container,
        or before the machine was started anew.
        """
        here = Owner.of_this_process()
        place = (self.host, self.boot, self.namespaces)
        if not all(place) or place != (here.host, here.boot, here.namespaces):
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # it is there, and someone else's
        status = _status(self.pid)
        if status is None:  # /proc may hide it
            return False
        started, ended = status
        return ended or bool(self.started and started != self.started)

    def __str__(self) -> str:
        since = f", since {self.since}" if self.since else ""
        return f"process {self.pid} on {self.host or 'an unknown host'}{since}"


def _word(value: object) -> str:
    """Return a fact of a stranger's as a short word that no terminal takes for a command."""
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in value[:100])


def _namespaces() -> str:
    """Return the names of our namespaces of PIDs and times; "" where /proc is not ours."""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return ""
        found = [os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    try:
        found.append(os.readlink("/proc/self/ns/time"))
    except OSError:
        found.append("")  # before Linux 5.6 there is but one
    return " ".join(found)


def _status(pid: int) -> tuple[int, bool] | None:
    """Return when a process started, and whether it has ended and only its parent has not looked.

    The fields are those of proc(5), `/proc/PID/stat`: 3 state, 20 threads, 22 start.
    """
    # The name in parentheses may hold anything.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    try:
        return int(fields[19]), fields[0] in ("Z", "X") and int(fields[17]) <= 1
    except (IndexError, ValueError):
        return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MOST_BYTES)
    except OSError:
        return ""
