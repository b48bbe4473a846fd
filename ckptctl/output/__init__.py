"""Text and JSON siblings behind one interface, and progress; nothing of what they show."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ckptctl.output.base import Column, Output, Page, QuietOutput, Rows, Value, View

__all__ = ["Column", "Output", "Page", "Rows", "Value", "View", "is_terminal", "open_output"]


def is_terminal(stream: TextIO) -> bool:
    """Return whether a stream is a terminal, whatever FORCE_COLOR says."""
    return stream.isatty()


def open_output(
    command: str,
    *,
    json: bool = False,
    quiet: bool = False,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> Output:
    """Choose, once for a command, how its answer is shown.

    Parameters
    ----------
    command
        Name of the command; the document says `"schema": "ckptctl.<command>/1"`.
    json
        One JSON document on stdout. stderr is then left to an error, so that whoever
        collects it can parse it; only a person at a terminal still sees progress.
    quiet
        Nothing on success; with `json` only stderr is silenced.
    stdout, stderr
        Default: those of the process.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    if json:
        from ckptctl.output.document import JsonOutput

        return JsonOutput(command, out, err, animate=not quiet and _animates(err))
    if quiet:
        return QuietOutput()
    from ckptctl.output.text import TextOutput

    return TextOutput(out, err, terminal=is_terminal(out), animate=_animates(err))


def _animates(stream: TextIO) -> bool:
    # A dumb terminal cannot move its cursor: it gets the lines that a file gets.
    return is_terminal(stream) and os.environ.get("TERM", "dumb") != "dumb"
