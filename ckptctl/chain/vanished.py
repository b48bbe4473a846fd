"""What vanished under us, told from what is damaged and from what never was.

A trainer deletes what its `max_to_keep` no longer covers, and may save a step once more,
while we read. A file that is then missing looks like damage, and one that was replaced may
be read as the wrong rows where nothing is checked. So who reads remembers which files he
meant, and looks at them again when something is wrong, or when he is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from ckptctl.chain.model import Checkpoint, Scan
from ckptctl.errors import ChangedError, CkptctlError, DamageError, NotFoundError, RefusedError
from ckptctl.storage import FileInfo, Storage

__all__ = ["Meant", "find_changed", "telling_what_vanished"]

_REMEDY = "a trainer may have cleaned up or saved again: run it again"


class Meant(Protocol):
    """A checkpoint as it was when somebody decided to read it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def files(self) -> tuple[tuple[str, FileInfo], ...]:
        """(path, info) of its files."""


def find_changed(
    meant: Iterable[Meant], storage: Storage, *, gone: bool = True, since: str = "it was looked at"
) -> ChangedError | None:
    """Return the error that a file is another one by now, or None.

    Parameters
    ----------
    gone
        Whether a file that is gone counts too.
    since
        Since when, in words.
    """
    for checkpoint in meant:
        for path, info in checkpoint.files:
            now = storage.stat(path, follow=info.is_symlink and not info.is_unfollowed)
            if gone if now is None else now.identity != info.identity:
                what = "is gone" if now is None else "changed"
                return ChangedError(
                    f"{checkpoint.name} {what} since {since}", file=path, remedy=_REMEDY
                )
    return None


@contextmanager
def telling_what_vanished(scan: Scan, storage: Storage) -> Iterator[None]:
    """Turn an error about a file of a scan into `ChangedError` where the file changed since.

    Of the checkpoint that the error names only: that a trainer removes others says nothing.
    """
    try:
        yield
    except (DamageError, NotFoundError, RefusedError) as error:
        changed = None
        if not isinstance(error, ChangedError):
            changed = find_changed(_concerned(scan, error), storage)
        if changed is None:
            raise
        raise changed from error


def _concerned(scan: Scan, error: CkptctlError) -> Sequence[Checkpoint]:
    file = error.file or ""
    return [
        checkpoint
        for checkpoint in (*scan.fulls, *scan.increments, *scan.others)
        if file == checkpoint.prefix
        or file.startswith((f"{checkpoint.prefix}.", f"{checkpoint.prefix}-"))
    ]
