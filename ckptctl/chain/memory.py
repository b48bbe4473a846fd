"""What was once proven, remembered in the user's cache directory by what the files are.

Everything here is known by device, inode, size and mtime of every index and data file, so a
proof is good until one of these is touched. Only proofs are remembered, no failures: what a
user repairs is looked at again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from functools import cached_property

from ckptctl.chain.model import Checkpoint, Scan

__all__ = ["ProvenPairs", "VerifiedCheckpoints", "cache_path", "note", "recall", "remember"]


class ProvenPairs:
    """The pairs of prefixes of a directory that are known to be nested.

    What is proven is known from then on; with `keep` to later runs too.
    """

    def __init__(self, scan: Scan, *, keep: bool = True) -> None:
        self._scan = scan
        self._keep = keep
        self._known: dict[object, bool] = {}

    @cached_property
    def _by_prefix(self) -> dict[str, Checkpoint]:
        return {increment.prefix: increment for increment in self._scan.increments}

    def __contains__(self, pair: object) -> bool:
        if pair not in self._known:
            found = isinstance(pair, tuple) and os.path.exists(self._path(pair))
            self._known[pair] = found
        return self._known[pair]

    def add(self, pair: tuple[str, str]) -> None:
        """Remember a pair; where the cache cannot be written, the next run proves it again."""
        if self._keep:
            remember(self._path(pair))
        self._known[pair] = True

    def _path(self, pair: tuple[str, ...]) -> str:
        return note("nested", (self._by_prefix[prefix] for prefix in pair))


class VerifiedCheckpoints:
    """Checkpoints that were once read as a whole, and found without damage."""

    def __contains__(self, checkpoint: object) -> bool:
        return isinstance(checkpoint, Checkpoint) and os.path.exists(note("sound", [checkpoint]))

    def add(self, checkpoint: Checkpoint) -> None:
        """Remember one; where the cache cannot be written, the next run reads it again."""
        remember(note("sound", [checkpoint]))


def note(room: str, checkpoints: Iterable[Checkpoint]) -> str:
    """Return the path of the empty file that says that something was proven."""
    facts = []
    for checkpoint in checkpoints:
        files = (checkpoint.index, *checkpoint.shards)
        facts.append([(info.name, info.identity) for info in files])
    return cache_path(room, facts)


def cache_path(room: str, facts: object) -> str:
    """Return the path of the file of a room that is about these facts, known by their `repr`."""
    import hashlib  # with OpenSSL: most runs that remember nothing need none of it

    token = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # as the XDG specification has it
        home = os.path.expanduser("~/.cache")
    if not os.path.isabs(home):  # nobody's home: nothing is kept, least of all where we stand
        home = os.devnull
    return os.path.join(home, "ckptctl", room, token)


def remember(path: str, data: bytes = b"") -> bool:
    """Write a file whose time is now, and return whether that could be done.

    Two may write at once, or be killed: what is said is led by its checksum.
    """
    import hashlib

    head = hashlib.sha256(data).hexdigest().encode() + b"\n" if data else b""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb", opener=_open) as file:
            file.write(head + data)
    except OSError:
        return False
    return True


def recall(path: str, most: int) -> bytes | None:
    """Return what `remember` wrote, or None: our own file, whole, and not absurdly long."""
    try:
        with open(path, "rb", opener=_open) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid():
                return None
            head, _, data = file.read(most).partition(b"\n")
    except OSError:
        return None
    import hashlib

    return data if hashlib.sha256(data).hexdigest().encode() == head else None


def _open(path: str, flags: int) -> int:
    # Whatever somebody put there: nothing is followed, and nobody waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
