"""Names of what is exported: as files, and inside archives."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable

from ckptctl.errors import AmbiguousError

__all__ = ["FileNames", "archive_name", "check_distinct", "file_name"]

#: POSIX' portable file name characters.
_PORTABLE = frozenset((string.ascii_letters + string.digits + "._-").encode())
#: Most bytes of a name that a suffix may follow; file systems take 255.
_MOST = 200


def file_name(name: str) -> str:
    """Return a name as one portable file name, other bytes as %XX.

    A name that would be too long is cut, and a hash of all of it follows.
    """
    raw = name.encode("utf-8", "surrogateescape")
    escaped = "".join(
        # One in front would be hidden, or be taken for an option.
        chr(byte) if byte in _PORTABLE and (at or byte not in b".-") else f"%{byte:02X}"
        for at, byte in enumerate(raw)
    )
    if 0 < len(escaped) <= _MOST:
        return escaped
    return f"{escaped[: _MOST - 20]}-{hashlib.sha256(raw).hexdigest()[:16]}"


class FileNames:
    """Gives every name a file of its own, also where case makes no difference."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)

    def give(self, name: str, suffix: str) -> str:
        """Return the file of a name; a number follows where another has it."""
        stem = file_name(name)
        found, number = stem + suffix, 1
        while found.casefold() in self._taken:
            number += 1
            found = f"{stem}-{number}{suffix}"
        self._taken.add(found.casefold())
        return found


def archive_name(name: str) -> str:
    """Return a name as archives take it: no NUL and no bytes that are no UTF-8."""
    return "".join(
        f"%{ord(char) & 0xFF:02X}" if char == "\0" or "\ud800" <= char <= "\udfff" else char
        for char in name
    )


def check_distinct(names: Iterable[str], also: str = "") -> None:
    """Refuse two things of one name.

    Parameters
    ----------
    also
        A suffix that readers cut off: `x` and `x` with it are one name too.
    """
    seen: set[str] = set()
    for name in names:
        both = {name, name + also}
        if both & seen:
            raise AmbiguousError(
                "two things would have one name in the archive",
                tensor=name,
                remedy="export them apart with --table, or as parquet, which has a file for each",
            )
        seen |= both
