"""Removing a lease that is known to be dead, and no other lock."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ckptctl import knobs
from ckptctl.errors import LockedError, RefusedError
from ckptctl.progress import NO_PROGRESS, Progress
from ckptctl.storage.lease import Watch, remedy
from ckptctl.storage.local import no_directory
from ckptctl.storage.lock import flock_holder, lock_kinds, refused
from ckptctl.storage.own import OWN_DIRECTORY, open_directory, open_own
from ckptctl.storage.owner import Owner
from ckptctl.storage.register import Register
from ckptctl.storage.waiting import Waiting

__all__ = ["UnlockResult", "unlock_directory"]

_LOOKING = "cannot look at the lock"


@dataclass(frozen=True)
class UnlockResult:
    """What there was to unlock.

    Attributes
    ----------
    directory
        The checkpoint directory.
    removed
        Whether a dead lease was removed.
    reason
        Why it was known to be dead, or why there is nothing to do.
    owner
        Whose it was, as far as known.
    """

    directory: str
    removed: bool
    reason: str
    owner: Owner | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields by name."""
        owner = None if self.owner is None else self.owner._asdict()
        return {**self.__dict__, "owner": owner}


def unlock_directory(
    directory: str, wait_s: float = 0.0, progress: Progress = NO_PROGRESS
) -> UnlockResult:
    """Remove the lease of a directory if it is known to be dead.

    A lease that may be alive is never removed, whoever asks: within 10 minutes it is either
    renewed or known to be dead. The kernel's lock has nothing to remove.

    Parameters
    ----------
    directory
        The checkpoint directory.
    wait_s
        Seconds to wait for it to be known.
    progress
        Told of the waiting.

    Raises
    ------
    NotFoundError
        No such directory.
    LockedError
        A process of this machine holds the kernel's lock.
    RefusedError
        The lease may be alive, or there is something else in its place.
    """
    directory = os.path.realpath(directory)
    if not os.path.isdir(directory):
        raise no_directory(directory)
    register = Register(directory)
    path = os.path.join(directory, OWN_DIRECTORY)
    with refused(os.path.join(path, "lock"), _LOOKING):
        own = open_own(directory) if os.path.lexists(path) else open_directory(directory)
        with own as fd:
            flock = lock_kinds(fd)[0]
        holder = flock_holder(directory) if flock else None
        if holder is not None:
            raise LockedError(
                "a process holds the lock: there is nothing to remove",
                file=os.path.join(path, "lock"),
                found=holder,
                remedy="wait for that process or end it: the kernel releases the lock with it, "
                "however it ends",
            )
    if not register.exists():
        return UnlockResult(directory, False, "nothing locks it")
    with refused(register.path, _LOOKING):
        return _unlock(register, Waiting(wait_s, progress))


def _unlock(register: Register, waiting: Waiting) -> UnlockResult:
    directory = register.directory
    token = os.urandom(16).hex()
    owner = Owner.of_this_process(knobs.LEASE_RENEW_SECONDS)
    watch = Watch(register, token, owner)
    try:
        while True:
            seen = register.look()
            if not seen.token:
                return UnlockResult(directory, False, "its lease is free")
            judged = watch.judge(seen)
            # A holder that renewed it since it was seen keeps it.
            if judged.dead is not None and register.release(seen):
                return UnlockResult(directory, True, judged.dead, judged.owner)
            if not waiting.pause(f"watching the lease of {judged.whose}", judged.watch_s):
                raise RefusedError(
                    "the lease may be alive: only one that is known to be dead is removed",
                    file=register.path,
                    found=judged.facts,
                    remedy=remedy(judged),
                )
    finally:
        watch.remove_note()
