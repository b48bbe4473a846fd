"""The CLI reference in the docs, generated from the commands.

``python -m ckptctl.commands.reference > docs/cli-reference.md``; a test keeps it current.
It is built from the parameters, not from click's help text, whose form changes with click.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc

import click

from ckptctl.commands.main import COMMANDS, cli
from ckptctl.commands.options import EXIT_CODES

__all__ = ["render"]

_HEAD = """\
# Command line reference

<!-- Generated: python -m ckptctl.commands.reference > docs/cli-reference.md -->

Every command takes `-h/--help`. Every option can be set by the environment variable beside
it; the command line outranks the environment. Durations are written `90s`, `10m`, `12h`,
`7d`, `2w`; sizes `500MB`, `2GiB`; rates like sizes, `50MB/s`. NO_COLOR is honoured.

stdout carries the answer and stderr everything else. On a terminal the answer is tables; off
a terminal it is lines of tab-separated fields, sizes in bytes, ages in seconds, `-` for what
is not known, and control characters in names escaped (`\\n`, `\\x1b`, and `\\\\` for a backslash).
"""


def render() -> str:
    """Return the reference as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD
    yield "| command | |"
    yield "| --- | --- |"
    for name, line in COMMANDS.items():
        yield f"| [`ckptctl {name}`](#ckptctl-{name}) | {line} |"
    context = click.Context(cli, info_name="ckptctl")
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if command is not None:
            yield from _command(name, command)
    yield ""
    yield "## Exit codes"
    yield ""
    yield "| code | meaning |"
    yield "| --- | --- |"
    for code, words in EXIT_CODES.items():
        yield f"| {code} | {words} |"


def _command(name: str, command: click.Command) -> Iterator[str]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    usage = " ".join(each.metavar or str(each.name).upper() for each in arguments)
    yield ""
    yield f"## ckptctl {name}"
    yield ""
    yield f"`ckptctl {name} [OPTIONS] {usage}`"
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        yield ""
        yield from _paragraph(paragraph)
    yield ""
    yield "| option | meaning | environment |"
    yield "| --- | --- | --- |"
    for param in command.params:
        if isinstance(param, click.Option):
            yield _option(param)
    for paragraph in (command.epilog or "").split("\n\n"):
        yield ""
        yield from _paragraph(paragraph)


def _paragraph(text: str) -> Iterator[str]:
    if not text.startswith("\b"):
        yield text
        return
    # What click must not rewrap is a title and lines to be copied as they are.
    title, *lines = text.removeprefix("\b").strip("\n").split("\n")
    yield title
    yield ""
    yield "```"
    yield from (line.removeprefix("  ") for line in lines)
    yield "```"


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if option.secondary_opts:
        names += " / " + ", ".join(f"`{name}`" for name in option.secondary_opts)
    if option.metavar:
        names += f" {option.metavar}"
    names = names.replace("|", "\\|")
    meaning = (option.help or "").replace("|", "\\|").replace("<", "\\<")
    return f"| {names} | {meaning} | `{option.envvar}` |"


if __name__ == "__main__":
    sys.stdout.write(render())
