"""Types of options and arguments: durations, sizes, rates and steps."""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    IntType = click.ParamType[int]
    FloatType = click.ParamType[float]
    StrType = click.ParamType[str]
else:
    # Generic to the type checker only: click 8.1 does not let it be subscripted.
    IntType = FloatType = StrType = click.ParamType

__all__ = [
    "AMOUNT",
    "DIRECTORY",
    "DURATION",
    "FILE",
    "RATE",
    "SIZE",
    "STEP",
    "SUBSET",
    "TABLE",
    "TARGET",
    "Step",
    "directory_named",
]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
# Patterns are compiled where a value is given: most runs have none.
_NUMBER = r"(\d{1,15}(?:\.\d{1,9})?)"
#: TensorFlow's global_step is an int64.
_LAST_STEP = 2**63 - 1


class Duration(FloatType):
    """A duration with its unit, converted to seconds."""

    name = "duration"
    _form = rf"{_NUMBER}\s*([smhdw])"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds; a number alone is refused, since nobody agrees on its unit."""
        if isinstance(value, (int, float)):
            return float(value)
        match = re.fullmatch(self._form, str(value).strip(), re.ASCII)
        if match is None:
            self.fail(f"{value!r} is no duration: write 90s, 10m, 12h, 7d or 2w.", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Size(IntType):
    """A number of bytes with its unit; a rate may say `/s`."""

    name = "size"

    def __init__(self, *, rate: bool = False) -> None:
        self._form = rf"{_NUMBER}\s*([kmgt]?i?b){'(?:/s)?' if rate else ''}"
        self._examples = "50MB/s or 1GiB/s" if rate else "500MB or 2GiB"
        self._what = "rate" if rate else "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return bytes, at least 1."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(self._form, str(value).strip(), re.ASCII | re.IGNORECASE)
        unit = _BYTES.get(match[2].lower()) if match else None
        if match is None or unit is None:
            self.fail(f"{value!r} is no {self._what}: write {self._examples}.", param, ctx)
        number = int(float(match[1]) * unit)
        if number < 1:
            self.fail(f"{value!r} is less than a byte.", param, ctx)
        return number


class Amount(FloatType):
    """A number from 0 on; neither `nan`, to which nothing compares, nor `inf`, no JSON."""

    name = "number"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        try:
            number = float(value)  # type: ignore[arg-type]  # what is no number raises
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and number >= 0):
            self.fail(f"{value!r} is no number from 0 on: write 0.2 or 1e-6.", param, ctx)
        return number


class Directory(StrType):
    """A directory; that it exists is checked where it is read, with exit code 10."""

    name = "directory"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Leave it to the shell, which knows directories."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


class FileName(StrType):
    """The name of a file; an empty one is what an unset shell variable leaves behind."""

    name = "file"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Return the name."""
        if value == "":
            self.fail("the name of the file is empty.", param, ctx)
        return str(value)


class Step(IntType):
    """A global step; completes from the steps that lie in the directory.

    Parameters
    ----------
    fulls_only
        Offer only the steps of full checkpoints.
    """

    name = "step"

    def __init__(self, *, fulls_only: bool = False) -> None:
        self._fulls_only = fulls_only

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the step; zeros in front are the padding of file names."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if not (text.isascii() and text.isdigit()) or len(text) > 40 or int(text) > _LAST_STEP:
            self.fail(f"{value!r} is no step: write a number such as 1200.", param, ctx)
        return int(text)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Return the steps in the directory, the newest first; none if it cannot be read."""
        from click.shell_completion import CompletionItem

        # The option without its value stopped click before it looked at positionals.
        positional = ctx.params.get("directory") or next(iter(ctx.args), None)
        return [
            CompletionItem(str(step), help=kind)
            for step, kind in _steps_in(ctx.params.get("dir") or positional)
            if str(step).startswith(incomplete) and (kind == "full" or not self._fulls_only)
        ]


class TargetText(StrType):
    """A TARGET (`cli.md`); what it stands for is found by `find_target`, not here."""

    name = "target"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Return steps and words, and leave paths to the shell."""
        from click.shell_completion import CompletionItem

        words = [("latest", "the newest restore point"), ("first", "the oldest one")]
        steps = [(str(step), kind) for step, kind in _steps_in(ctx.params.get("dir"))]
        found = [
            CompletionItem(word, help=what)
            for word, what in (*steps, *words)
            if word.startswith(incomplete)
        ]
        return found or [CompletionItem(incomplete, type="file")]


class TableName(StrType):
    """Name of a table; completes from the newest checkpoint of the directory."""

    name = "table"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        """Return the tables and variables; none if they cannot be read."""
        from click.shell_completion import CompletionItem

        from ckptctl.errors import CkptctlError
        from ckptctl.inspect.listing import table_names

        directory = os.path.expanduser(directory_named(ctx.params.get("dir")))
        try:
            names = table_names(directory)
        except (CkptctlError, OSError):
            return []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class Subset(click.ParamType):  # type: ignore[type-arg]  # click 8.1 has no parameter
    """`n/t`: the n-th of t parts."""

    name = "n/t"
    _form = r"(\d{1,6})/(\d{1,6})"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (n, t), n from 1 to t."""
        if isinstance(value, tuple):
            return int(value[0]), int(value[1])
        match = re.fullmatch(self._form, str(value).strip(), re.ASCII)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is no part of a whole: write 1/7, 2/7, ... 7/7.", param, ctx)
        return int(match[1]), int(match[2])


def _steps_in(given: str | None) -> list[tuple[int, str]]:
    """Return the steps of a directory, the newest first; none if it cannot be read."""
    from ckptctl.errors import CkptctlError
    from ckptctl.inspect.listing import steps_by_name

    # The shell hands over `~/models` as it was typed.
    directory = os.path.expanduser(directory_named(given))
    try:
        return steps_by_name(directory)
    except (CkptctlError, OSError):
        return []


def directory_named(given: str | None) -> str:
    """Return the directory that was given, else $CKPTCTL_DIR, else `.`."""
    return given or os.environ.get("CKPTCTL_DIR") or "."


AMOUNT = Amount()
DIRECTORY = Directory()
DURATION = Duration()
FILE = FileName()
SIZE = Size()
RATE = Size(rate=True)
STEP = Step()
TARGET = TargetText()
SUBSET = Subset()
TABLE = TableName()
