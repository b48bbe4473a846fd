"""`ckptctl unlock`: removes a lease that is known to be dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptctl.commands import options
from ckptctl.output import Output, Page
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.storage.unlock import UnlockResult

__all__ = ["command"]


@click.command("unlock", epilog=options.epilog(10, 11, 12))
@options.directory
@options.lock_wait
@options.output
def command(directory: str, out: Output, lock_wait: float | None) -> None:
    """Remove a lease that is known to be dead.

    Where a filesystem keeps no locks that can be trusted (NFS, FUSE), whoever changes a
    directory holds a lease there and renews it every 30 s. It is dead when its process is
    known to have ended, or when it was not renewed for 10 minutes; the next run then takes
    it over by itself. One that may be alive is never removed (12): --lock-wait waits until
    it is known. Elsewhere the kernel holds the lock, and releases it with the process that
    took it: there is nothing to remove, and 11 says whose it is.

    $CKPTCTL_LOCK, set to flock or lease for every command, forces one where the type of the
    filesystem misleads.

    \b
    Example:
      ckptctl unlock /models/ctr
      ckptctl unlock /models/ctr --lock-wait 11m
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.storage.unlock import unlock_directory

    progress = out.progress()
    try:
        result = unlock_directory(directory, lock_wait or 0.0, progress)
    finally:
        progress.finish()
    out.show(_ResultView(result))


@dataclass(frozen=True)
class _ResultView:
    result: UnlockResult

    def document(self) -> Mapping[str, object]:
        return self.result.to_json()

    def text(self, page: Page) -> None:
        result = self.result
        directory = fmt.escape(result.directory)
        if not result.removed:
            page.line("nothing to unlock", directory, result.reason)
            return
        whose = "an unknown process" if result.owner is None else str(result.owner)
        page.line("removed the lease", directory, whose, result.reason)
