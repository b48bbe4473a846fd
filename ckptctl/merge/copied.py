"""Copied directories: whether a command may write there, and make the paths relative."""

from __future__ import annotations

import os

from ckptctl.chain import Chains, Scan
from ckptctl.chain.scan import check_no_increments
from ckptctl.errors import RefusedError

__all__ = ["check_copied", "check_relocatable"]

_MOST = 5
_BY_HAND = (
    'write the line by hand: model_checkpoint_path: "NAME", NAME the newest that ckptctl ls calls '
    "restorable; or work in the directory that the path leads to"
)


def check_copied(chains: Chains, writes: bool, relocate: bool) -> None:
    """Refuse to write among increments, or where a state file leads to another directory."""
    scan = chains.scan
    if writes:
        check_no_increments(scan.directory, (full.base_name for full in scan.fulls))
    if writes and scan.copied and not relocate:
        state, path = scan.copied[0]
        raise RefusedError(
            "the directory is a copy: its state file leads to another directory",
            file=state,
            expected="paths into this directory",
            found=path,
            remedy=_BY_HAND
            if scan.astray
            else "--relocate rewrites the paths as relative; "
            "else TensorFlow restores from there, and deletes there",
        )


def check_relocatable(scan: Scan) -> None:
    """Refuse to make the paths of a state file relative where what it names is not here.

    It may lead TensorFlow to a checkpoint by now: in a directory below, or in the original.
    """
    for state in scan.astray:
        assert state.state is not None
        home = os.path.dirname(state.path)
        here = [
            each.name
            for each in (*scan.fulls, *scan.increments, *scan.others)
            if os.path.dirname(each.prefix) == home
        ]
        left = f", and {len(here) - _MOST} more" if len(here) > _MOST else ""
        raise RefusedError(
            f"what the state file names is not here: {state.latest}",
            file=state.path,
            expected="a checkpoint of that name beside it",
            found=f"{state.state.latest}; here: {', '.join(here[-_MOST:]) or 'none'}{left}",
            remedy=_BY_HAND,
        )
