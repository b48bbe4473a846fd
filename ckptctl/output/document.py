"""One JSON document on stdout, and nothing else there."""

from __future__ import annotations

import json
from typing import TextIO

from ckptctl.output.base import Output, View
from ckptctl.progress import NO_PROGRESS, Progress

__all__ = ["JsonOutput", "dump"]


def dump(document: object, stream: TextIO) -> None:
    """Write one document and a line break.

    ASCII only: no terminal, locale or log collector can spoil it, and a name that is no
    UTF-8 survives as an escape. Indented for a person, one line for a program.
    """
    text = json.dumps(document, indent=2 if stream.isatty() else None, allow_nan=False)
    stream.write(text + "\n")


class JsonOutput(Output):
    """Collects the fields of all views and writes them when the command succeeded."""

    def __init__(self, command: str, stdout: TextIO, stderr: TextIO, *, animate: bool) -> None:
        self._document: dict[str, object] | None = {"schema": f"ckptctl.{command}/1"}
        self._stdout = stdout
        self._stderr = stderr
        self._animate = animate

    def show(self, view: View) -> None:
        """Add the view's fields to the document."""
        if self._document is not None:
            self._document.update(view.document())

    def warn(self, message: str) -> None:
        """Drop the warning: the document carries it."""

    def progress(self) -> Progress:
        """Return progress for a person at a terminal, else none."""
        if not self._animate:
            return NO_PROGRESS
        from ckptctl.output.animation import AnimatedProgress

        return AnimatedProgress(self._stderr)

    def close(self) -> None:
        """Write the document."""
        document, self._document = self._document, None
        if document is not None:
            dump(document, self._stdout)
            self._stdout.flush()
