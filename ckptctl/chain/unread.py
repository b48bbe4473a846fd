"""What could not be read: a state is not chosen as if it were not there.

A disk or a network that fails for a moment hides the newest increment, or the state file that
says that a run was rolled back. Whoever restored what is left would go back in time in silence.
"""

from __future__ import annotations

from ckptctl.chain.chains import Chains
from ckptctl.chain.model import Scan
from ckptctl.errors import UnreadableError

__all__ = ["check_listed", "check_read"]


def check_read(chains: Chains, above: int, upto: int | None = None) -> None:
    """Raise where a file that could not be read might change which state is chosen.

    Parameters
    ----------
    chains
        The chains of a directory, judged.
    above, upto
        Steps between which a checkpoint matters: `above < step <= upto`; None for no end.

    Raises
    ------
    UnreadableError
        A live checkpoint there, a state file, or the directory of the increments could not be
        read.
    """
    scan = chains.scan
    if upto is None or upto > above:
        check_listed(scan)
    for state_file in (scan.full_state, scan.increment_state):
        error = state_file.error
        if error is not None and error.__cause__ is not None:  # not one that does not parse
            raise _unread(error.message, state_file.path, "whether a run was rolled back")
    for item in (*scan.fulls, *scan.increments):
        inside = item.step > above and (upto is None or item.step <= upto)
        if inside and item.unread is not None and chains.is_live(item):
            message = f"{item.name}: {item.unread.message}"
            raise _unread(message, item.prefix, "which state is the newest")


def check_listed(scan: Scan) -> None:
    """Raise `UnreadableError` where the directory of the increments could not be looked at."""
    for problem in scan.problems:
        if problem.code == "increment-directory":
            raise _unread(problem.message, scan.increment_directory, "which state is the newest")


def _unread(message: str, file: str, unknown: str) -> UnreadableError:
    return UnreadableError(
        f"{message}: so it is not known {unknown}",
        file=file,
        remedy="see to the disk, the mount or the permissions; if it is lost, move it away",
    )
