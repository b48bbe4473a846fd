"""`ckptctl completion`: the completion script of a shell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import click

from ckptctl.commands import options
from ckptctl.output import Output, Page

__all__ = ["command"]


@dataclass(frozen=True)
class _Script:
    shell: str
    script: str

    def document(self) -> Mapping[str, object]:
        return {"shell": self.shell, "script": self.script}

    def text(self, page: Page) -> None:
        page.verbatim(self.script)


@click.command("completion", epilog=options.epilog())
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
@options.output
def command(shell: str, out: Output) -> None:
    """Print the completion script of a shell.

    The script completes commands and options, and steps from the directory that the
    command line names. It asks ckptctl itself, so it need not be renewed with it.

    \b
    Example:
      source <(ckptctl completion bash)
      ckptctl completion zsh > ~/.zfunc/_ckptctl
      ckptctl completion fish > ~/.config/fish/completions/ckptctl.fish
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.commands.shells import SCRIPTS

    out.show(_Script(shell, SCRIPTS[shell]))
