"""Asking before anything goes for good."""

from __future__ import annotations

import sys

import click

from ckptctl.errors import RefusedError
from ckptctl.output import Output, View

__all__ = ["ask"]


def ask(
    out: Output, question: str, *, would: str, ways: str, directory: str, view: View | None = None
) -> None:
    """Ask whoever sits at a terminal.

    Parameters
    ----------
    would, ways
        What would be done, and the options that say so without being asked.
    view
        What is shown to him first.

    Raises
    ------
    RefusedError
        Nobody is here to ask, or does not agree.
    NoSpaceError
        There was no room for what he has to agree to.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        message = f"{would}, and nobody is here to ask"
        raise RefusedError(message, file=directory, remedy=ways)
    if view is not None:
        out.show(view)
    out.check()
    if not click.confirm(question, err=True):
        raise RefusedError("not confirmed: nothing was done", file=directory, remedy=ways)
