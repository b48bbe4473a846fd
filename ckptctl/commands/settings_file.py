"""A TOML file with settings of `compact`: one that was named, or one that was found.

A file that was named may set what a run needs. One that was found in a checkpoint directory
came with it, perhaps from a stranger: it may only say how that directory is treated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple, NoReturn, TypeAlias

import click

from ckptctl.commands.options import key_of
from ckptctl.errors import DamageError, NotFoundError, RefusedError, UsageError
from ckptctl.storage import LOCAL, Storage

__all__ = [
    "FILE_NAME",
    "NEVER",
    "OF_DIRECTORY",
    "OF_RUN",
    "TABLE",
    "SettingsFile",
    "Text",
    "find_settings",
    "read_settings",
]

#: The file in a checkpoint directory.
FILE_NAME = "ckptctl.toml"
#: Its one table.
TABLE = "compact"
_MAX_BYTES = 1 << 16

#: What a file that was found in a checkpoint directory may set, and why: it says how this
#: directory is treated, each time anew, and nothing outside it is read or written for it.
OF_DIRECTORY: Mapping[str, str] = {
    **dict.fromkeys(("min-increments", "min-bytes", "min-ratio", "min-interval"), "gate"),
    **dict.fromkeys(
        (
            "keep-last",
            "keep-every",
            "keep-within",
            "keep-hourly",
            "keep-daily",
            "keep-weekly",
            "keep-step",
            "min-age",
        ),
        "policy",
    ),
    **dict.fromkeys(
        ("increments", "assume-order", "keep-missing", "add-new", "drop-unpaired"), "state"
    ),
    **dict.fromkeys(("bwlimit", "jobs"), "pace"),
}
#: What only a file given with --config may set, and why not one that was found.
OF_RUN: Mapping[str, str] = {
    "directories": "it would send a run into other directories",
    "metrics": "it names a file elsewhere that is replaced",
    "nice": "it holds for the whole run",
    "lock-wait": "it holds up the whole run",
    "writer-wait": "it holds up the whole run",
    "max-duration": "it holds for the whole run",
    "yes": "the answer to a question is not for the directory to give",
    "base": "it names one step, and what is saved later would be merged onto it too",
    "relocate": "it came along with the copy and cannot know that there is one",
}
#: What no file may set, and why.
NEVER: Mapping[str, str] = {
    "dir": "write directories = [...]",
    "config": "one file does not name another",
    "dry-run": "a run that does nothing must be seen on its command line",
    "json": "how the answer is written is for whoever reads it to say",
    "quiet": "how the answer is written is for whoever reads it to say",
}

#: What a command line would hold: a flag, a word, or the words of an option given again.
Text: TypeAlias = "bool | str | list[str]"


class SettingsFile(NamedTuple):
    """A file that was read.

    Attributes
    ----------
    path
        Where it lies.
    values
        What it sets: key to a bool, a text, or a list of texts.
    """

    path: str
    values: Mapping[str, Text]


def find_settings(
    directory: str, command: click.Command, storage: Storage = LOCAL
) -> SettingsFile | None:
    """Return the settings that lie in a checkpoint directory, or None.

    Raises
    ------
    RefusedError
        The file is a symbolic link, no regular file, or absurdly long.
    UsageError
        It does not parse, or sets what it may not set.
    """
    path = os.path.join(directory, FILE_NAME)
    info = storage.stat(path, follow=False)
    if info is None:
        return None
    if info.is_symlink:
        raise RefusedError(
            "settings in a checkpoint directory are not read through a symbolic link",
            file=path,
            remedy="put the file itself there, or name it with --config",
        )
    try:
        data = storage.read_small(path, _MAX_BYTES)
    except NotFoundError:  # gone since
        return None
    except DamageError as error:
        raise RefusedError(
            error.message, file=path, expected=error.expected, found=error.found
        ) from None
    return _parse(path, data, command, found=True)


def read_settings(path: str, command: click.Command) -> SettingsFile:
    """Read the settings that --config names; a pipe or an empty device will do.

    Raises
    ------
    UsageError
        There is no such file, it does not parse, or sets what no file may set.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the settings: {(error.strerror or str(error)).lower()}",
            file=path,
            remedy="--config names a TOML file; ckptctl config --toml prints one",
        ) from None
    if len(data) > _MAX_BYTES:
        raise UsageError("settings absurdly long", file=path, expected=f"<= {_MAX_BYTES} bytes")
    return _parse(path, data, command, found=False)


def _parse(path: str, data: bytes, command: click.Command, *, found: bool) -> SettingsFile:
    params = {key_of(param): param for param in command.params}
    values: dict[str, Text] = {}
    for key, value in _table(path, data).items():
        if key not in params:
            _unknown("key", key, f" in [{TABLE}]", _allowed(params, found=found), path)
        _check_scope(key, path, found=found)
        values[key] = _text(params[key], value, path)
    for key in ("directories", "metrics"):
        if key in values:
            values[key] = _from_home(path, values[key])
    if values.get("directories") == []:
        raise UsageError(f"{TABLE}.directories names none", file=path)
    return SettingsFile(path, values)


def _table(path: str, data: bytes) -> Mapping[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError among them
        raise UsageError(
            f"the settings do not parse: {error}", file=path, remedy="it has to be TOML in UTF-8"
        ) from None
    for name, value in document.items():
        if name != TABLE:
            kind = "table" if isinstance(value, dict) else "key"
            _unknown(kind, name, f": settings stand below [{TABLE}]", [TABLE], path)
    table = document.get(TABLE, {})
    if not isinstance(table, dict):
        raise UsageError(f"{TABLE} is no table", file=path, expected=f"[{TABLE}]")
    return table


def _allowed(keys: Mapping[str, object], *, found: bool) -> list[str]:
    known = OF_DIRECTORY if found else {**OF_DIRECTORY, **OF_RUN}
    return [key for key in keys if key in known]


def _check_scope(key: str, path: str, *, found: bool) -> None:
    if key in OF_DIRECTORY or (key in OF_RUN and not found):
        return
    if key in OF_RUN:
        raise UsageError(
            f"{TABLE}.{key} may not stand in a checkpoint directory: {OF_RUN[key]}",
            file=path,
            remedy=f"give --{key}, or a file of your own with --config",
        )
    raise UsageError(
        f"{TABLE}.{key} may not stand in a file: {NEVER.get(key, 'it is not classified')}",
        file=path,
        remedy=f"give --{key}",
    )


def _text(param: click.Parameter, value: object, path: str) -> Text:
    """Return a value as the command line would hold it; only there is it understood."""
    key = key_of(param)
    if getattr(param, "is_flag", False):
        if not isinstance(value, bool):
            raise UsageError(f"{TABLE}.{key} is a flag", file=path, expected="true or false")
        return value
    if param.multiple or param.nargs != 1:
        if not isinstance(value, list):
            raise UsageError(f"{TABLE}.{key} takes a list", file=path, expected=f"{key} = [...]")
        return [_word(key, each, path) for each in value]
    return _word(key, value, path)


def _word(key: str, value: object, path: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(
            f"{TABLE}.{key} is neither a text nor a number",
            file=path,
            found=type(value).__name__,
        )
    try:
        return str(value)
    except ValueError:  # a number of thousands of digits
        raise UsageError(f"{TABLE}.{key} is no number of use", file=path) from None


def _from_home(path: str, value: Text) -> Text:
    """Return paths as seen from the file: cron runs where nobody would expect."""
    home = os.path.dirname(os.path.abspath(path))
    if isinstance(value, list):
        return [os.path.join(home, each) if each else each for each in value]
    return os.path.join(home, value) if isinstance(value, str) and value else value


def _unknown(kind: str, name: str, where: str, known: list[str], path: str) -> NoReturn:
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    raise UsageError(
        f"there is no {kind} {name!r}{where}",
        file=path,
        expected=None if near else ", ".join(known),
        remedy=f"did you mean {near[0]}?" if near else None,
    )
