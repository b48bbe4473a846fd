"""Settings of `compact`, and where each value comes from.

The command line outranks the environment, which outranks the file, which outranks the
defaults; click knows of each option where its value came from. What the file says is
handed to the options' own types as the text that the command line would have held: nothing
is parsed in two ways.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Literal, NamedTuple

import click
from click.core import ParameterSource

from ckptctl.commands.options import Callback, key_of
from ckptctl.commands.settings_file import (
    TABLE,
    SettingsFile,
    Text,
    find_settings,
    read_settings,
)
from ckptctl.errors import UsageError

__all__ = ["Setting", "Settings", "configured", "settings_of"]

Origin = Literal["command line", "environment", "file", "default"]

_ORIGINS: Mapping[ParameterSource, Origin] = {
    ParameterSource.COMMANDLINE: "command line",
    ParameterSource.ENVIRONMENT: "environment",
}


class Setting(NamedTuple):
    """One option with the value that holds.

    Attributes
    ----------
    key
        As in a file: the long option without its dashes.
    param
        The option.
    value
        As the command gets it; None, False or empty where nothing is set.
    text
        The same as it was written, or None where nothing is set.
    origin, source
        Where it comes from: `file` with its path, `environment` with the variable's name.
    """

    key: str
    param: click.Parameter
    value: object
    text: Text | None
    origin: Origin
    source: str | None = None


class Settings:
    """What holds for a run, and for each directory of it.

    Parameters
    ----------
    context
        That of the command, its command line parsed.
    named
        The file that --config names; None: each directory may have one of its own.

    Raises
    ------
    UsageError
        The file cannot be meant.
    """

    def __init__(self, context: click.Context, named: str | None) -> None:
        self._context = context
        self._named = None if named is None else read_settings(named, context.command)

    def of(self, directory: str) -> tuple[dict[str, object], str | None]:
        """Return the values for a directory by parameter, and the file that they come from.

        Raises
        ------
        RefusedError, UsageError
            As for `find_settings`.
        """
        file = self._named or find_settings(directory, self._context.command)
        found = settings_of(self._context, file)
        values = {name: each.value for name, each in found.items()}
        return values, None if file is None else file.path

    def of_run(self) -> dict[str, object]:
        """Return the values for the run as a whole by parameter."""
        values = {
            name: each.value for name, each in settings_of(self._context, self._named).items()
        }
        if values.get("dir") is not None:  # -C outranks the directories in a file
            values["directories"] = self._context.params["directories"]
        return values


def configured(function: Callback) -> Callback:
    """Add `--config F`; the command receives what holds for the run, and `settings`."""

    @functools.wraps(function)
    def applied(*, config: str | None, **values: object) -> None:
        settings = Settings(click.get_current_context(), config)
        of_run = settings.of_run()
        function(settings=settings, **{name: of_run[name] for name in values})

    return click.option(
        "--config",
        metavar="F",
        help="Take settings from this file instead of from DIR/ckptctl.toml.",
    )(applied)


def settings_of(context: click.Context, file: SettingsFile | None) -> dict[str, Setting]:
    """Return what holds for a run of a command, by the name of the parameter.

    Parameters
    ----------
    context
        That of the command, its command line parsed.
    file
        The file that holds, or None.

    Raises
    ------
    UsageError
        A value in the file is none that the option takes.
    """
    found = {}
    for param in context.command.params:
        name, key = param.name or "", key_of(param)
        origin = _ORIGINS.get(context.get_parameter_source(name) or ParameterSource.DEFAULT)
        if context.params.get(name) == ():  # which click 8.1 takes for given
            origin = None
        if origin is None and file is not None and key in file.values:
            text = file.values[key]
            value = _converted(context, param, text, file.path)
            found[name] = Setting(key, param, value, text, "file", file.path)
        else:
            found[name] = _without_file(context, param, origin or "default")
    return found


def _without_file(context: click.Context, param: click.Parameter, origin: Origin) -> Setting:
    value = context.params.get(param.name or "")
    variable = param.envvar if origin == "environment" else None
    written = os.environ.get(variable) if isinstance(variable, str) else None
    text: Text | None
    if value is None or value == ():
        text = None
    elif isinstance(value, bool):
        text = value
    elif isinstance(value, (list, tuple)):
        text = [str(each) for each in value]
    elif origin == "default":
        text = str(param.default)
    else:
        text = str(value) if written is None else written
    return Setting(key_of(param), param, value, text, origin, str(variable) if written else None)


def _converted(context: click.Context, param: click.Parameter, text: Text, path: str) -> object:
    try:
        return param.type_cast_value(context, text)
    except click.BadParameter as error:
        raise UsageError(f"{TABLE}.{key_of(param)}: {error.message}", file=path) from None
