"""A lease: what stands in for a lock where the filesystem keeps none that can be trusted.

Of several who want it one succeeds; whoever takes over a lease that was renewed a moment ago
fails; and a holder whose lease was taken fails at its next renewal (`register`).

A lease is dead when its process is known to have ended, or was not renewed for too long: by
the mtimes of two files of one filesystem, never of a file and a clock of ours, or by our own
clock while we watched it. Clocks may be wrong all the same (some filesystems take the
client's), so a lease that looks dead is watched for one and a half renewals before it is
taken over, and the rename has the last word.

Where its time says nothing (no note, or one of the future) whoever looks notes which state he
saw, and the mtime of that note says since when the lease is as it is, to later runs too.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ckptctl import knobs
from ckptctl.errors import ChangedError, CkptctlError, LockedError, RefusedError
from ckptctl.progress import Progress
from ckptctl.storage.owner import Owner
from ckptctl.storage.register import LOOKS, Note, Register, Seen
from ckptctl.storage.waiting import Waiting

__all__ = ["Judgement", "Lease", "Watch", "acquire_lease", "remedy"]

#: Filesystems round times, some to two seconds.
_ROUNDING_S = 2.0


class Judgement(NamedTuple):
    """Whether a held lease is dead, and how that is known.

    Attributes
    ----------
    dead
        Why it is known to be dead; None if it may be alive.
    watch_s
        Where it looks dead and is not known to be: seconds after which it will be.
    owner
        Who holds it, or None.
    idle_s
        Seconds since it was renewed, as far as known.
    limit_s
        Seconds without a renewal after which it is dead.
    seen_s
        Where its time says nothing: seconds since a run first saw it in this state; None
        where no note of that could be left.
    """

    dead: str | None
    watch_s: float
    owner: Owner | None
    idle_s: float | None
    limit_s: float
    seen_s: float | None = None

    @property
    def whose(self) -> str:
        """The holder in words."""
        return str(self.owner) if self.owner is not None else "an unknown process"

    @property
    def facts(self) -> str:
        """The holder and the last renewal in words."""
        if self.idle_s is None:
            return f"{self.whose}; it is not known when it was renewed"
        if not _tells(self.idle_s):
            return f"{self.whose}, renewed in the future: a clock is wrong"
        return f"{self.whose}, renewed {_seconds(self.idle_s)} ago"


def remedy(judged: Judgement) -> str:
    """Return what can be done about a lease that may be alive."""
    limit = _seconds(judged.limit_s)
    if not _tells(judged.idle_s):
        watch = f"give --lock-wait more than {limit}, to see for ourselves whether it is renewed"
        if judged.seen_s is None:
            return f"its time says nothing, and no note of what we saw could be left: {watch}"
        return (
            f"its time says nothing: it was first seen like this {_seconds(judged.seen_s)} ago, "
            f"and a run that finds it so after {limit} takes it over (ckptctl unlock removes it); "
            f"or {watch}"
        )
    return (
        f"wait for it, or give --lock-wait a duration; a lease that is not renewed for {limit} "
        "is dead, and the next run takes it over (ckptctl unlock removes it)"
    )


class Watch:
    """What one process has seen of a lease, by its own clock and by the filesystem's.

    Parameters
    ----------
    register
        The lease.
    token
        Our own, under which a note is left to learn the filesystem's time.
    """

    def __init__(self, register: Register, token: str, owner: Owner) -> None:
        self.register = register
        self.token = token
        self.owner = owner
        self._written: float | None = None
        self._zero_ns: int | None = None
        self._key: tuple[str, int | None] | None = None
        self._since = 0.0

    def write_note(self) -> None:
        """Leave our note, once."""
        if self._written is None:
            self.register.write_note(self.token, self.owner)
            self._written = time.monotonic()
            self._zero_ns = self.register.note(self.token).mtime_ns

    def remove_note(self) -> None:
        """Remove our note, if there is one."""
        if self._written is not None:
            self.register.remove_note(self.token)

    def judge(self, seen: Seen) -> Judgement:
        """Judge a held lease, by all that was seen of it until now."""
        note = self.register.note(seen.token)
        key, now = (seen.name, note.mtime_ns), time.monotonic()
        if key != self._key:
            self._key, self._since = key, now
        watched = now - self._since
        owner = note.owner
        # Whoever holds it may have been told other times than we were.
        theirs = min(owner.renew_s, knobs.LEASE_DEAD_SECONDS) if owner is not None else 0.0
        renew = max(knobs.LEASE_RENEW_SECONDS, theirs)
        limit = max(knobs.LEASE_DEAD_SECONDS, 4 * theirs)
        self.write_note()
        idle = since = self._age(note)
        known = Judgement(None, 0.0, owner, idle, limit)
        if owner is not None and owner.is_gone():
            return known._replace(dead="that process has ended")
        if not _tells(idle):
            since = self._seen_since(seen)
            known = known._replace(seen_s=since)
        unrenewed = f"it was not renewed for {_seconds(limit)}"
        if watched >= limit:
            return known._replace(dead=unrenewed)
        if since is not None and since >= limit:
            left = 1.5 * renew - watched
            return known._replace(dead=unrenewed if left <= 0 else None, watch_s=max(left, 0.0))
        return known

    def _age(self, note: Note) -> float | None:
        """Return the seconds since a note was touched, by the filesystem's clock, if known."""
        if note.mtime_ns is None or self._zero_ns is None or self._written is None:
            return None
        return (self._zero_ns - note.mtime_ns) / 1e9 + time.monotonic() - self._written

    def _seen_since(self, seen: Seen) -> float | None:
        """Return the seconds since a state was first seen, by us if by nobody else, if known."""
        age = self._age(self.register.note(seen.name))
        if not _tells(age) and self._zero_ns is not None:  # else we could not tell its age
            self.register.write_seen(seen, self.owner)
            age = self._age(self.register.note(seen.name))
        return age if _tells(age) else None


def _tells(age: float | None) -> bool:
    """Return whether an age says something: one of the future does not."""
    return age is not None and age >= -_ROUNDING_S


def acquire_lease(register: Register, waiting: Waiting) -> Lease:
    """Take the lease of a directory, from a dead holder too, and say so.

    Raises
    ------
    LockedError
        Someone holds it who may be alive.
    RefusedError
        What lies there is no lease.
    OSError
        There can be none.
    """
    token = os.urandom(16).hex()
    owner = Owner.of_this_process(knobs.LEASE_RENEW_SECONDS)
    watch = Watch(register, token, owner)
    mine = Seen(token)
    try:
        beaten = 0
        while beaten < LOOKS:
            register.make()
            seen = register.look()
            judged = watch.judge(seen) if seen.token else None
            if judged is None or judged.dead is not None:
                watch.write_note()
                if register.change(seen, mine):
                    register.touch_note(token, owner)  # it may be as old as our waiting
                    if judged is not None:
                        register.remove_note(seen.token)
                        waiting.progress.warn(
                            f"{register.directory}: took over the lease of {judged.whose}: "
                            f"{judged.dead}"
                        )
                    register.sweep(token)
                    return Lease(register, token, owner, waiting.progress)
                beaten += 1  # by someone who was faster: who is it?
            elif not waiting.pause(f"waiting for {judged.whose}", judged.watch_s):
                raise _locked(register, judged)
        raise RefusedError(
            "the lease cannot be had: it changes whenever we look",
            file=register.path,
            remedy="try again; if that does not help, this filesystem cannot rename a file",
        )
    except BaseException:
        with suppress(OSError):
            register.change(mine, Seen())
        watch.remove_note()
        raise


def _locked(register: Register, judged: Judgement) -> LockedError:
    return LockedError(
        "another ckptctl works on this directory",
        file=register.path,
        found=judged.facts,
        remedy=remedy(judged),
    )


class Lease:
    """A lease that is held, and renewed by a thread until it is released."""

    def __init__(self, register: Register, token: str, owner: Owner, progress: Progress) -> None:
        self._register = register
        self._seen = Seen(token)
        self._owner = owner
        self._progress = progress
        self._renewed = time.monotonic()
        self._lost: CkptctlError | None = None
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="ckptctl-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Renew it; raise if that cannot be done, for the reasons that `DirectoryLock` names."""
        with self._mutex:
            self._check()

    def _check(self) -> None:
        if self._lost is None:
            try:
                self._renew()
            except OSError as error:
                raise RefusedError(
                    f"the lease could not be renewed: {error.strerror}",
                    file=self._register.path,
                    remedy="run it again",
                ) from None
        if self._lost is not None:
            raise self._lost.with_traceback(None)

    def _renew(self) -> None:
        if not self._go(lambda seen: Seen(seen.token, seen.renewals + 1)):
            self._lost = self._find_out()
            return
        self._renewed = time.monotonic()
        with suppress(OSError):  # the name has changed, and that is what counts
            self._register.touch_note(self._seen.token, self._owner)

    def _go(self, to: Callable[[Seen], Seen]) -> bool:
        """Go from our state to another; return False if it is no longer ours."""
        try:
            after = to(self._seen)
            if not self._register.change(self._seen, after):
                now = self._register.look()
                if now.token != self._seen.token:
                    return False
                # Ours: a change that failed was done all the same. The count never falls, so
                # that what a waiter saw of it never comes back.
                self._seen, after = now, to(now)
                if not self._register.change(now, after):
                    return False
        except (FileNotFoundError, NotADirectoryError, RefusedError):
            return False
        self._seen = after if after.token else self._seen
        return True

    def _find_out(self) -> CkptctlError:
        path = self._register.path
        since = _seconds(time.monotonic() - self._renewed)
        try:
            now = self._register.look()
        except (OSError, RefusedError):
            now = Seen()
        if not now.token:
            return ChangedError(
                "the lease was taken from us while we worked: nothing more is changed",
                file=path,
                found=f"renewed {since} ago, and free or gone by now",
                remedy="run it again; a process that is stopped for long loses its lease",
            )
        owner = self._register.note(now.token).owner
        return LockedError(
            "another ckptctl took the lease over while we worked: nothing more is changed",
            file=path,
            found=str(owner) if owner is not None else "an unknown process",
            remedy=f"ours was renewed {since} ago: if this process was stopped, that is why; "
            "run it again",
        )

    def _keep(self) -> None:
        pause = knobs.LEASE_RENEW_SECONDS
        while not self._stop.wait(pause):
            try:
                with self._mutex:
                    if self._stop.is_set():  # given back since we woke up: it is not lost
                        return
                    self._check()
            except RefusedError as error:
                if self._lost is None:  # the server may come back
                    pause = knobs.LEASE_RENEW_SECONDS / 6
                    continue
                self._progress.warn(str(error).partition("\n")[0])
                return
            except LockedError as error:
                self._progress.warn(f"{error.message}: {error.found}")
                return
            pause = knobs.LEASE_RENEW_SECONDS

    def release(self) -> None:
        """Give it back."""
        if os.getpid() != self._owner.pid:  # a fork of the holder: it is not ours to give
            return
        self._stop.set()
        with self._mutex:
            if self._lost is None:
                with suppress(OSError):
                    self._go(lambda _: Seen())
            self._register.remove_note(self._seen.token)
        self._thread.join()


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 0.0):.3g} s"
    return f"{seconds / 60:.0f} min"
