"""One JSON document on stdout, and nothing else there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TextIO

from ckptctl.output.base import Output, View
from ckptctl.progress import Progress

__all__ = ["JsonOutput", "dump"]


def dump(document: object, stream: TextIO) -> None:
    """Write one document and a line break.

    ASCII only: no terminal, locale or log collector can spoil it, and a name that is no
    UTF-8 survives as an escape. Indented for a person, one line for a program.
    """
    stream.write(_dumped(document, indent=2 if stream.isatty() else None))


def _dumped(document: object, indent: int | None = None) -> str:
    return json.dumps(document, indent=indent, allow_nan=False) + "\n"


class _Notices(Progress):
    """Progress that nobody sees, but for its warnings."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def warn(self, message: str) -> None:
        """Keep it."""
        self._note(message)


class JsonOutput(Output):
    """Collects the fields of all views and writes them when the command succeeded."""

    def __init__(self, command: str, stdout: TextIO, stderr: TextIO, *, animate: bool) -> None:
        self._document: dict[str, object] | None = {"schema": f"ckptctl.{command}/1"}
        self._stdout = stdout
        self._stderr = stderr
        self._animate = animate
        self.form = "" if stdout.isatty() else "json"

    def draw(self, view: View) -> str:
        """Return the document with the fields of a view."""
        return _dumped({**(self._document or {}), **view.document()})

    def print(self, text: str) -> None:
        """Write the document."""
        self._document = None
        with self._losing():
            self._stdout.write(text)
            self._stdout.flush()

    def show(self, view: View) -> None:
        """Add the view's fields to the document."""
        if self._document is not None:
            self._document.update(view.document())

    def warn(self, *messages: str) -> None:
        """Drop the warnings: the document carries them."""

    def progress(self) -> Progress:
        """Return progress for a person at a terminal; warnings also go into the document."""
        if not self._animate:
            return _Notices(self._note)
        from ckptctl.output.animation import AnimatedProgress

        return AnimatedProgress(self._stderr, self._note)

    def _note(self, message: str) -> None:
        if self._document is not None:
            notices = self._document.setdefault("notices", [])
            assert isinstance(notices, list)
            notices.append(message)

    def close(self) -> None:
        """Write the document."""
        document, self._document = self._document, None
        if document is not None:
            with self._losing():
                dump(document, self._stdout)
                self._stdout.flush()
