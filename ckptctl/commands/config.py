"""`ckptctl config`: each setting of `compact`, and where it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from ckptctl.commands import options
from ckptctl.commands.params import FILE
from ckptctl.output import Column, Output, Page
from ckptctl.storage import LOCAL

if TYPE_CHECKING:
    from ckptctl.commands.settings import Setting
    from ckptctl.commands.settings_file import SettingsFile

__all__ = ["command"]


@click.command("config", epilog=options.epilog(10, 12))
@options.exclusive("json", "toml")
@options.directory
@click.option(
    "--config",
    metavar="F",
    type=FILE,
    help="Read this file instead of DIR/ckptctl.toml; default: as compact would.",
)
@click.option("--toml", is_flag=True, help="Print a settings file that says the same.")
@options.output
def command(directory: str, out: Output, config: str | None, toml: bool) -> None:
    """Show each setting of compact, and where it comes from.

    The command line of `ckptctl compact` outranks the environment (CKPTCTL_COMPACT_<OPTION>),
    which outranks DIR/ckptctl.toml or the file that --config names, which outranks the
    defaults. The file has one table, [compact]; its keys are the long options without their
    dashes, and its values what the command line would hold.

    A file that lies in a checkpoint directory may set when to merge, what to keep, how to
    restore, and how fast; not which directories, not what to answer, no path.

    \b
    Example:
      ckptctl config /models/ctr
      ckptctl config --toml > /models/ctr/ckptctl.toml
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from importlib import import_module

    from ckptctl.commands.settings import settings_of
    from ckptctl.commands.settings_file import find_settings, read_settings

    LOCAL.listdir(directory)  # raises where there is none
    # A run without options, as far as click can tell: only the environment speaks.
    root = click.get_current_context().find_root()
    compact = options.name_variables("compact", import_module("ckptctl.commands.compact").command)
    with compact.make_context("compact", [], parent=root) as context:
        named = config or context.params.get("config")
        file = read_settings(named, compact) if named else find_settings(directory, compact)
        settings = settings_of(context, file)
    out.show(_SettingsView(directory, file, tuple(settings.values()), toml))


@dataclass(frozen=True)
class _SettingsView:
    directory: str
    file: SettingsFile | None
    settings: tuple[Setting, ...]
    toml: bool

    def document(self) -> Mapping[str, object]:
        return {
            "directory": self.directory,
            "file": None if self.file is None else self.file.path,
            "settings": [
                {
                    "name": each.key,
                    "value": each.value,
                    "text": each.text,
                    "origin": each.origin,
                    "source": each.source,
                }
                for each in self.settings
            ],
        }

    def text(self, page: Page) -> None:
        if self.toml:
            page.verbatim("\n".join(self._lines()) + "\n")
            return
        columns = (
            Column("setting", missing=""),
            Column("value", "name"),
            Column("origin"),
            Column("source", "name", missing=""),
        )
        with page.table(columns) as rows:
            for each in self.settings:
                style = {2: "" if each.origin == "default" else "bold"}
                rows.add(each.key, _shown(each), each.origin, each.source, styles=style)

    def _lines(self) -> Iterator[str]:
        from ckptctl.commands.settings_file import NEVER, OF_RUN, TABLE

        yield f"[{TABLE}]"
        for each in self.settings:
            if each.key in NEVER or (each.origin != "file" and each.key in OF_RUN):
                continue
            # What is a default now may be another one some day: a comment does not fix it.
            off = "# " if each.origin == "default" else ""
            yield f"{off}{each.key} = {_toml(each)}"


def _shown(setting: Setting) -> str | None:
    text = setting.text
    if isinstance(text, bool):
        return "yes" if text else "no"
    return " ".join(text) if isinstance(text, list) else text


def _toml(setting: Setting) -> str:
    text = setting.text
    if isinstance(text, bool):
        return "true" if text else "false"
    if text is None:  # a place for a value
        param = setting.param
        several = param.multiple or param.nargs != 1
        return "[]" if several else _literal(str(param.metavar))
    return f"[{', '.join(map(_literal, text))}]" if isinstance(text, list) else _literal(text)


def _literal(text: str) -> str:
    if re.fullmatch(r"(0|[1-9][0-9]{0,17})(\.[0-9]+)?", text):
        return text
    # A TOML string is a JSON string, but that it spells out DEL too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
