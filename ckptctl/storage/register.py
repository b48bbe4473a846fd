"""The register of a lease: a file whose *name* is the state.

`.ckptctl/lease/` holds one file, `free` or `held-TOKEN-RENEWALS`, and beside it `TOKEN.json` of
each holder, and of each who looks at a held lease: who it is (`Owner`), and as its mtime when
the lease was renewed, by the filesystem's clock. `held-TOKEN-RENEWALS.json` is of one who saw
that state and could not tell its age: its mtime is when. States never come back.

Every change is one rename from the name that was seen, so it fails unless that is the name
still: a compare-and-swap that NFS servers and FUSE filesystems have. The file is never made
anew: it comes with its directory, by a rename that only one can win.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ckptctl import knobs
from ckptctl.errors import RefusedError
from ckptctl.storage.attributes import share
from ckptctl.storage.own import OWN_DIRECTORY, open_directory, open_own
from ckptctl.storage.owner import MOST_BYTES, Owner
from ckptctl.storage.space import is_no_room

__all__ = ["LOOKS", "Note", "Register", "Seen"]

_NAME = "lease"
_FREE = "free"
# Compiled where there is a lease, and there seldom is.
_HELD = r"held-([0-9a-f]{32})-([0-9]{1,18})"
_NOTE = r"([0-9a-f]{32})\.json"
_SEEN = _HELD + r"\.json"
_PENDING = r"lease-[0-9a-f]{32}\.tmp"

#: Times that we look again at what changes under us: a listing that runs while a file is
#: renamed may show both of its names, or neither.
LOOKS = 50


class Seen(NamedTuple):
    """The state of a lease: `token` is "" where it is free."""

    token: str = ""
    renewals: int = 0

    @property
    def name(self) -> str:
        """The name that says so."""
        return f"held-{self.token}-{self.renewals}" if self.token else _FREE


class Note(NamedTuple):
    """What lies beside a lease: its holder, and the mtime, each None if unknown."""

    owner: Owner | None = None
    mtime_ns: int | None = None


class Register:
    """The lease of a checkpoint directory, held or free.

    Everything goes through directories that are opened anew and by no link, so that a lease
    that someone moved or removed is not taken for one that is there.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, OWN_DIRECTORY, _NAME)

    @contextmanager
    def open(self) -> Iterator[int]:
        """Open the lease's directory."""
        with open_own(self.directory) as own, open_directory(_NAME, own) as fd:
            yield fd

    def exists(self) -> bool:
        """Return whether there is, or ever was, a lease here."""
        return os.path.lexists(self.path)

    def make(self) -> None:
        """Make it, free, unless there is one."""
        with open_own(self.directory, make=True) as own:
            with suppress(FileNotFoundError), open_directory(_NAME, own) as fd:
                if os.listdir(fd):  # empty: someone emptied it by hand
                    return
            pending = f"lease-{os.urandom(16).hex()}.tmp"
            os.mkdir(pending, dir_fd=own)
            try:
                with open_directory(pending, own) as fd:
                    # A rename needs no more than its directory, if that is not sticky.
                    share(fd, self.directory)
                    os.fchmod(fd, stat.S_IMODE(os.fstat(fd).st_mode) & ~stat.S_ISVTX)
                    free = os.open(_FREE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=fd)
                    try:
                        share(free, self.directory)  # nobody reads it but `cp -a`
                    finally:
                        os.close(free)
                os.rename(pending, _NAME, src_dir_fd=own, dst_dir_fd=own)
            except OSError as error:
                _remove_pending(own, pending)
                # ENOENT: the holder of the day swept it away with what killed runs leave.
                if error.errno != errno.ENOENT and not self.exists():
                    raise
            except BaseException:
                _remove_pending(own, pending)
                raise

    def look(self) -> Seen:
        """Return the state; what someone emptied by hand is free, as for `make`.

        Raises
        ------
        RefusedError
            What lies there is no lease.
        """
        names: list[str] = []
        for _ in range(LOOKS):
            with self.open() as fd:
                names = os.listdir(fd)
            found: dict[str, int] = {}
            for name in names:
                if name == _FREE:
                    found[""] = 0
                elif match := re.fullmatch(_HELD, name):
                    found[match[1]] = max(int(match[2]), found.get(match[1], 0))
            if len(found) == 1:
                return Seen(*found.popitem())
            time.sleep(0.01)
        if not names:
            return Seen()
        raise RefusedError(
            "what stands for the lease makes no sense",
            file=self.path,
            expected=f"one file: {_FREE}, or held-TOKEN-RENEWALS",
            found=", ".join(sorted(names)[:5]),
            remedy="when no ckptctl works on the directory, remove this one",
        )

    def change(self, before: Seen, after: Seen) -> bool:
        """Go from one state to another; return False if it was not in the first."""
        with self.open() as fd:
            try:
                os.rename(before.name, after.name, src_dir_fd=fd, dst_dir_fd=fd)
            except FileNotFoundError:
                # A request that was sent twice finds its own work done.
                try:
                    os.stat(after.name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    return False
        return True

    def release(self, seen: Seen) -> bool:
        """Free a lease, unless it is no longer as it was seen; what is noted of it goes too."""
        if not self.change(seen, Seen()):
            return False
        self.remove_note(seen.token)
        self.remove_note(seen.name)
        return True

    def note(self, name: str) -> Note:
        """Return what is noted under a name; whatever lies there, this neither waits nor fails."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            with self.open() as fd:
                # Opened, since network filesystems remember for a while what they knew before.
                file = os.open(f"{name}.json", flags, dir_fd=fd)
            try:
                status = os.fstat(file)
                if not stat.S_ISREG(status.st_mode):
                    return Note()
                return Note(Owner.parse(os.read(file, MOST_BYTES)), status.st_mtime_ns)
            finally:
                os.close(file)
        except OSError:
            return Note()

    def write_seen(self, seen: Seen, owner: Owner) -> None:
        """Note that a lease is in a state, from now on, instead of what was noted of others."""
        with suppress(OSError), self.open() as fd:
            for name in os.listdir(fd):
                if re.fullmatch(_SEEN, name):
                    os.unlink(name, dir_fd=fd)
        with suppress(FileExistsError):  # someone else did
            self.write_note(seen.name, owner)

    def write_note(self, name: str, owner: Owner) -> None:
        """Say who we are; on a full disk less, or nothing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with self.open() as fd:
                file = os.open(f"{name}.json", flags, 0o666, dir_fd=fd)
            try:
                share(file, self.directory)  # whoever may take a lease may know whose it is
                os.write(file, owner.note())
                os.fsync(file)  # the mtime is then the server's
            finally:
                os.close(file)
        except OSError as error:
            if not is_no_room(error):
                raise

    def touch_note(self, token: str, owner: Owner) -> None:
        """Say that we are alive."""
        try:
            with self.open() as fd:
                os.utime(f"{token}.json", dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            self.write_note(token, owner)

    def remove_note(self, name: str) -> None:
        """Leave no note behind."""
        with suppress(OSError), self.open() as fd:
            os.unlink(f"{name}.json", dir_fd=fd)

    def sweep(self, token: str) -> None:
        """Remove what killed runs left: by now nobody but `token` needs it."""
        now_ns = self.note(token).mtime_ns
        if now_ns is None:
            return
        with suppress(OSError), open_own(self.directory) as own:
            with open_directory(_NAME, own) as fd:
                for name in os.listdir(fd):
                    past = re.fullmatch(_SEEN, name)
                    match = past or re.fullmatch(_NOTE, name)
                    if match and match[1] != token and (past or _older(name, fd, now_ns)):
                        os.unlink(name, dir_fd=fd)
            for name in os.listdir(own):
                if re.fullmatch(_PENDING, name) and _older(name, own, now_ns):
                    _remove_pending(own, name)


def _older(name: str, within: int, now_ns: int) -> bool:
    status = os.stat(name, dir_fd=within, follow_symlinks=False)
    return now_ns - status.st_mtime_ns > knobs.LEASE_DEAD_SECONDS * 1e9


def _remove_pending(own: int, name: str) -> None:
    with suppress(OSError), open_directory(name, own) as fd:
        os.unlink(_FREE, dir_fd=fd)
    with suppress(OSError):
        os.rmdir(name, dir_fd=own)
