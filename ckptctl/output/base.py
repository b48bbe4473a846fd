"""The interface behind which text and JSON are siblings.

A command shows *views*. A view can describe itself as a document and can draw itself on
a page; which of the two happens is decided once, by `open_output`, and no command asks.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, TextIO, TypeAlias

from ckptctl.errors import NoSpaceError
from ckptctl.progress import NO_PROGRESS, Progress

__all__ = ["Column", "Output", "Page", "QuietOutput", "Rows", "Value", "View"]

#: What one cell holds; the column says how it is written.
Value: TypeAlias = "str | int | float | bool | None"

#: `word` and `text` (which may be wrapped) are ours, `name` is a stranger's, `age` is in
#: seconds, `share` is of 1, and people get four digits of a `real` number.
Kind: TypeAlias = Literal[
    "word", "text", "name", "number", "count", "bytes", "age", "flag", "real", "share"
]

#: Cells wide enough for what a column of the kind usually holds.
_WIDTHS: dict[str, int] = {"age": 4, "bytes": 7, "count": 11, "flag": 3}


class Column(NamedTuple):
    """One column of a table.

    Parameters
    ----------
    name
        Heading; off a terminal the first line of the table.
    kind
        How a value is written: people get `12.3 GB` and `47h`, programs whole numbers.
    width
        Cells to reserve on a terminal, so that tables of one listing line up although
        each is drawn before the next is known.
    spare
        Above 0: may be left out on a narrow terminal, the highest first.
    program
        For programs only: a terminal shows it by other means.
    missing
        What a terminal shows where there is no value.
    """

    name: str
    kind: Kind = "word"
    width: int = 0
    spare: int = 0
    program: bool = False
    missing: str = "-"

    @property
    def right(self) -> bool:
        """Whether values stand at the right edge."""
        return self.kind in ("number", "count", "bytes", "age", "real", "share")

    @property
    def folds(self) -> bool:
        """Whether a value may continue on the next line; a number cut in two misleads."""
        return self.kind in ("name", "text")

    @property
    def room(self) -> int:
        """Cells that the column needs on a terminal."""
        return max(self.width, _WIDTHS.get(self.kind, 0), len(self.name))


class Rows(ABC):
    """A table being written; a context manager that ends it."""

    @abstractmethod
    def add(self, *values: Value, styles: Mapping[int, str] | None = None) -> None:
        """Add a row; `styles` colours the cells of these columns on a terminal."""

    def end(self) -> None:  # noqa: B027 (pages that write at once have nothing to end)
        """Write what is not yet written."""

    def __enter__(self) -> Rows:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.end()


class Page(ABC):
    """Where a view draws its text: a terminal, or lines of tab-separated fields."""

    #: Whether a person is looking: prose is for people, rows are for programs.
    terminal: bool

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @abstractmethod
    def line(self, *fields: str, style: str = "", indent: int = 0) -> None:
        """Write a line of fields, wrapped to the terminal or separated by tabs."""

    @abstractmethod
    def table(self, columns: Sequence[Column], *, heading: bool = True) -> Rows:
        """Begin a table."""

    def verbatim(self, text: str) -> None:
        """Write text of ours as it is, such as a script to be sourced."""
        self._stream.write(text)

    def gap(self) -> None:  # noqa: B027 (rows for programs have no gaps)
        """Leave a line empty on a terminal."""

    def flush(self) -> None:
        """Let the reader see what was written until now."""
        self._stream.flush()


#: Why an answer finds no room: whoever makes room must not stop for it.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class View(Protocol):
    """What a command has to show."""

    def document(self) -> Mapping[str, object]:
        """Return the fields that it adds to the command's JSON document."""

    def text(self, page: Page) -> None:
        """Draw it."""


class Output(ABC):
    """Where a command's answer goes; a context manager that closes it on success.

    Where there is no room for the answer the work goes on: `prune` is called when the disk is
    full, and its log may lie there. That it is lost is the error at the end, if there is no other.

    Attributes
    ----------
    form
        What is printed is the same for all who ask the same in this form: `text` or `json`; ""
        where it depends on a terminal, or is nothing.
    """

    form: str = ""
    _lost: OSError | None = None

    @abstractmethod
    def show(self, view: View) -> None:
        """Show a view: at once as text, or as fields of the one document."""

    @abstractmethod
    def warn(self, *messages: str) -> None:
        """Say on stderr what the user should know although all went well."""

    def draw(self, view: View) -> str:
        """Return what `show` of this one view would print, in a `form`."""
        raise NotImplementedError

    def print(self, text: str) -> None:
        """Print what `draw` returned, as the whole answer."""
        raise NotImplementedError

    def progress(self) -> Progress:
        """Return the progress of one operation, to be finished by the caller."""
        return NO_PROGRESS

    def close(self) -> None:  # noqa: B027 (text is out when it is shown)
        """Write what was not yet written; a second call does nothing."""

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            self.check("all else is done")

    def check(self, rest: str = "nothing was done") -> None:
        """Raise `NoSpaceError` where there was no room for what was shown."""
        if self._lost is not None:
            raise NoSpaceError(
                f"{(self._lost.strerror or '').lower()}: no room for the answer; {rest}",
                file="standard output",
                remedy="make room where the output goes",
            ) from self._lost

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Keep the error of what finds no room."""
        try:
            yield
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._lost = self._lost or error


class QuietOutput(Output):
    """Shows nothing: under `-q` the exit code is the answer."""

    def show(self, view: View) -> None:
        """Drop the view."""

    def warn(self, *messages: str) -> None:
        """Drop the warnings."""
