"""The `ckptctl` program: its commands, and the one `main` around them.

click's own `main` is not used: it turns Ctrl-C and a broken pipe into exit 1. Whatever
ends a command arrives here and becomes an exit code in `failures`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import click

from ckptctl import __version__
from ckptctl.commands.failures import Terminated, report
from ckptctl.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "cli", "main"]

#: Each command's one line. They stand here so that `--help` imports no command; a test
#: keeps them equal to what the commands say of themselves.
COMMANDS: Mapping[str, str] = {
    "ls": "List the chains, and the steps that can be restored.",
    "show": "Show what is inside a checkpoint or a state.",
    "diff": "Compare two checkpoints or states.",
    "get": "Show the rows of keys, and where they come from.",
    "merge": "Write a full and its increments as a new full.",
    "prune": "Remove increments and temporaries that are no longer needed.",
    "verify": "Check that a directory is whole and makes sense.",
    "compact": "Merge and prune in one go, for cron.",
    "export": "Write a state or some tables as Parquet, npz or safetensors.",
    "unlock": "Remove a lease that is known to be dead.",
    "config": "Show each setting of compact, and where it comes from.",
    "completion": "Print the completion script of a shell.",
}

#: Signals that end a command after its clean-up.
_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LazyGroup(click.Group):
    """A group that imports a command when it is called, and no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"ckptctl.commands.{cmd_name}")
        from ckptctl.commands.options import name_variables

        return name_variables(cmd_name, module.command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments name, and guess at a slip."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(name, COMMANDS, n=1)
            raise UsageError(
                f"there is no command {name!r}",
                remedy=f"did you mean `ckptctl {near[0]}`?" if near else "ckptctl --help",
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the one line of each command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Complete the name of a command."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [
            CompletionItem(name, help=line)
            for name, line in COMMANDS.items()
            if name.startswith(incomplete)
        ]


def _print_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    click.echo(f"ckptctl {__version__}")
    ctx.exit()


@click.group(
    cls=LazyGroup,
    name="ckptctl",
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    # A container that sets CKPTCTL_VERSION would turn every command into this one.
    allow_from_autoenv=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """List, check and merge the incremental checkpoints of DeepRec-style training.

    Every command takes -C DIR (default: $CKPTCTL_DIR, then the current directory),
    --json and -q; every option can be set as CKPTCTL_<COMMAND>_<OPTION>.

    \b
    Example:
      ckptctl ls /models/ctr
      ckptctl merge /models/ctr --dry-run
    """  # noqa: D301 (click leaves lines after this mark as they are)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        The arguments without the program's name; default: those of the process.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    _prepare_streams()
    code = 0
    try:
        with _signals_as_exceptions():
            try:
                _run(args)
            except click.exceptions.Exit as ended:
                code = ended.exit_code
            sys.stdout.flush()
    except BaseException as error:  # noqa: BLE001 (the one place where all of them end)
        code = report(error, args=args)
    return code


def _run(args: list[str]) -> None:
    instruction = os.environ.get("_CKPTCTL_COMPLETE")
    if instruction:
        from ckptctl.commands.shells import complete

        complete(cli, instruction)
        return
    with cli.make_context("ckptctl", args, auto_envvar_prefix="CKPTCTL") as context:
        if not args:
            click.echo(context.get_help(), err=True)
            context.exit(2)
        cli.invoke(context)


def _prepare_streams() -> None:
    # Without this a checkpoint opened by us could become file 1, and a print its bytes.
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)
    # None where the file was closed; they live as long as we do.
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    # A name that the terminal's encoding lacks is escaped, not a traceback.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        # A second one must not cut the clean-up of the first one short.
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    # Under nohup SIGHUP is ignored, and stays so.
    usual = {number: signal.getsignal(number) for number in _CAUGHT}
    caught = [
        number
        for number, handler in usual.items()
        if handler in (signal.SIG_DFL, signal.default_int_handler)
    ]
    for number in caught:
        signal.signal(number, terminate)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, usual[number])
