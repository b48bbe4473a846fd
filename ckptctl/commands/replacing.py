"""Where a document of ours may be written: over nothing of a checkpoint, and nobody else's."""

from __future__ import annotations

import os
import re

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.errors import ExistsError, RefusedError
from ckptctl.storage import LOCAL
from ckptctl.storage.local import no_room_for_output

__all__ = ["PAGE", "PLAN", "check_replaceable"]

#: How a page of `--html` and a saved plan begin.
PAGE, PLAN = b"<!DOCTYPE html>", b'{"schema": "ckptctl.prune-plan/'

_OF_CHECKPOINT = re.compile(
    rf"checkpoint|.+(?:\.index|\.meta|\.data-\d{{5}}-of-\d{{5}}|{re.escape(MARK_SUFFIX)})",
    re.DOTALL,
)


def check_replaceable(option: str, path: str, head: bytes = b"") -> None:
    """Refuse a path at which nothing can be written, or what lies there may not go.

    That is said before hours of reading, not behind them.

    Parameters
    ----------
    option
        That named the path.
    head
        How such a document begins; empty: files of checkpoints alone are refused.

    Raises
    ------
    NotFoundError
        Its directory does not exist.
    RefusedError
        The directory may not be written to.
    ExistsError
        It is a link or no regular file, or one of a checkpoint, or begins otherwise.
    """
    found = None
    if os.path.islink(path):  # to /dev/stdout too: the link would be replaced, not what it leads to
        found = "a symbolic link"
    elif os.path.isdir(path):
        found = "a directory"
    elif os.path.exists(path) and not os.path.isfile(path):
        found = "no regular file"
    elif _OF_CHECKPOINT.fullmatch(os.path.basename(path)) and os.path.isfile(path):
        found = "a file of a checkpoint"
    elif head and os.path.isfile(path):
        with open(path, "rb") as file:
            begins = file.read(len(head))
        if begins not in (b"", head):
            found = "a file that ckptctl did not write there"
    if found is not None:
        raise ExistsError(
            f"{option} would overwrite what is there",
            file=path,
            found=found,
            remedy="name another file, or remove that one first",
        )
    _check_directory(os.path.dirname(path) or ".")


def _check_directory(directory: str) -> None:
    info = LOCAL.stat(directory)
    if info is None or not info.is_dir:
        raise no_room_for_output(directory)
    # Who runs us with the rights of another is asked as that other.
    effective = os.access in os.supports_effective_ids
    if not os.access(directory, os.W_OK | os.X_OK, effective_ids=effective):
        raise RefusedError(
            "may not write into the output's directory",
            file=directory,
            remedy="name another, or see to its permissions",
        )
