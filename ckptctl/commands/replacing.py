"""What a document of ours may be written over: nothing of a checkpoint, and nobody else's."""

from __future__ import annotations

import os
import re

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.errors import ExistsError

__all__ = ["PAGE", "PLAN", "check_replaceable"]

#: How a page of `--html` and a saved plan begin.
PAGE, PLAN = b"<!DOCTYPE html>", b'{"schema": "ckptctl.prune-plan/'

_OF_CHECKPOINT = re.compile(
    rf"checkpoint|.+(?:\.index|\.meta|\.data-\d{{5}}-of-\d{{5}}|{re.escape(MARK_SUFFIX)})",
    re.DOTALL,
)


def check_replaceable(option: str, path: str, head: bytes = b"") -> None:
    """Refuse a path at which a file lies that is no older document of the same kind.

    Parameters
    ----------
    option
        That named the path.
    head
        How such a document begins; empty: files of checkpoints alone are refused.

    Raises
    ------
    ExistsError
        It is a file of a checkpoint, or begins otherwise.
    """
    if not os.path.isfile(path):
        return
    found = None
    if _OF_CHECKPOINT.fullmatch(os.path.basename(path)):
        found = "a file of a checkpoint"
    elif head:
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
