"""Options that several commands share, each a decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource

from ckptctl.commands.params import DIRECTORY, DURATION, RATE, STEP, Step, directory_named
from ckptctl.errors import UsageError
from ckptctl.output import open_output

if TYPE_CHECKING:
    from ckptctl.restore import RestoreOptions
    from ckptctl.storage import Storage

__all__ = [
    "EXIT_CODES",
    "Callback",
    "assume_order",
    "bwlimit",
    "directories",
    "directory",
    "directory_option",
    "dry_run",
    "epilog",
    "exclusive",
    "html",
    "jobs",
    "key_of",
    "lock_wait",
    "min_age",
    "name_variables",
    "output",
    "policy",
    "policy_options",
    "relocate",
    "restore_of",
    "rules_of",
    "state",
    "state_options",
    "storage_of",
    "waits",
    "waits_of",
    "writer_wait",
]

#: What click decorates: a command's function, called with keywords only.
Callback: TypeAlias = Callable[..., None]

#: The words of the exit codes, as every help text and the reference print them.
EXIT_CODES = {
    0: "done, nothing wrong (also: nothing to do)",
    1: "unexpected failure: a bug, with a traceback and where to report it",
    2: "usage",
    3: "finished, but some items failed or were skipped",
    4: "damage found",
    5: "differences found",
    10: "no such directory, chain, step, table",
    11: "locked by another ckptctl",
    12: "refused for safety, or for want of space or permission",
    129: "the terminal went away (SIGHUP)",
    130: "interrupted (Ctrl-C)",
    141: "whoever read the output went away",
    143: "terminated",
}


#: Where somebody gave a value, and none is a default.
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def epilog(*codes: int) -> str:
    """Return the end of a help text: the exit codes that a command knows."""
    known = sorted({0, 1, 2, *codes, 129, 130, 141, 143})
    lines = "\n".join(f"  {code:3}  {EXIT_CODES[code]}" for code in known)
    return f"\b\nExit codes:\n{lines}"


def key_of(param: click.Parameter) -> str:
    """Return what a parameter is called: its long option without the dashes."""
    if isinstance(param, click.Option):
        return max(param.opts, key=len).lstrip("-")
    return (param.name or "").replace("_", "-")


def name_variables(name: str, command: click.Command) -> click.Command:
    """Give each option of a command its CKPTCTL_<COMMAND>_<OPTION>, and return the command.

    click would name it after the parameter in Python, which differs from the option where
    that is a word of Python or taken.
    """
    for param in command.params:
        if isinstance(param, click.Option):
            param.envvar = f"CKPTCTL_{name}_{key_of(param)}".replace("-", "_").upper()
            param.allow_from_autoenv = False
    return command


def directory(function: Callback) -> Callback:
    """Add `[DIR]` and `-C/--dir DIR`; the command receives `directory`."""

    @functools.wraps(function)
    def chosen(**values: object) -> None:
        option, positional = values.pop("dir"), values.pop("directory")
        if positional is not None and option is not None:
            source = click.get_current_context().get_parameter_source("dir")
            # From the environment it is a default, and the command line outranks it.
            if source is ParameterSource.COMMANDLINE:
                raise UsageError(
                    f"the directory is given twice: {positional!r} and -C {option!r}",
                    remedy="leave one of them out",
                )
        given = option if positional is None else positional
        # What an unset shell variable leaves behind must not become `.`.
        if given == "":
            raise UsageError("the name of the directory is empty")
        function(directory=directory_named(None if given is None else str(given)), **values)

    return _directory_option(
        click.argument("directory", metavar="[DIR]", required=False, type=DIRECTORY)(chosen)
    )


def directories(function: Callback) -> Callback:
    """Add `[DIR]...` and `-C/--dir DIR`; the command receives `directories`, at least one."""

    @functools.wraps(function)
    def chosen(*, dir: str | None, directories: tuple[str, ...], **values: object) -> None:  # noqa: A002 (click's name)
        source = click.get_current_context().get_parameter_source("dir")
        if directories and dir is not None and source is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"directories are given twice: {directories[0]!r} and -C {dir!r}",
                remedy="leave one of them out",
            )
        if dir == "" or "" in directories:
            raise UsageError("the name of the directory is empty")
        function(directories=directories or (directory_named(dir),), **values)

    return _directory_option(
        click.argument("directories", metavar="[DIR]...", nargs=-1, type=DIRECTORY)(chosen)
    )


def _directory_option(function: Callback) -> Callback:
    return click.option(
        "-C",
        "--dir",
        "dir",
        metavar="DIR",
        type=DIRECTORY,
        help="The checkpoint directory; default: $CKPTCTL_DIR, then the current one.",
    )(function)


def directory_option(function: Callback) -> Callback:
    """Add `-C/--dir DIR` alone, for commands with other positionals: `directory`."""

    @functools.wraps(function)
    def chosen(*, dir: str | None, **values: object) -> None:  # noqa: A002 (click's name)
        if dir == "":
            raise UsageError("the name of the directory is empty")
        function(directory=directory_named(dir), **values)

    return _directory_option(chosen)


def output(function: Callback) -> Callback:
    """Add `--json` and `-q`; the command receives `out`, closed when it succeeds."""

    @functools.wraps(function)
    def opened(*, json: bool, quiet: bool, **others: object) -> None:
        name = click.get_current_context().command.name or ""
        with open_output(name, json=json, quiet=quiet) as out:
            function(out=out, **others)

    opened = click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="Print nothing on success; with --json nothing on stderr.",
    )(opened)
    return click.option(
        "--json", is_flag=True, help="Print one JSON document; an error is one on stderr."
    )(opened)


def exclusive(first: str, second: str, *, same: str = "") -> Callable[[Callback], Callback]:
    """Let two options exclude each other; stands above them, and so decides first.

    The command line outranks the environment here too: what the latter set gives way.

    Parameters
    ----------
    first, second
        Names of the parameters.
    same
        A value of the second one that says what the first one says, a flag.

    Raises
    ------
    UsageError
        Both stand on the command line, or both in the environment.
    """

    def decorate(function: Callback) -> Callback:
        @functools.wraps(function)
        def decided(**values: object) -> None:
            context = click.get_current_context()
            if same and values[second] == same:
                values[first] = True
            elif values[first] and values[second]:
                given_up = _weaker(context, first, second)
                values |= {param.name or "": param.get_default(context) for param in given_up}
            context.params |= values
            function(**values)

        return decided

    return decorate


def _weaker(context: click.Context, *names: str) -> list[click.Parameter]:
    params = {param.name: param for param in context.command.params}
    places = {name: context.get_parameter_source(name) for name in names}
    given = [params[name] for name in names if places[name] in _GIVEN]
    ours = [param for param in given if places[param.name or ""] is ParameterSource.ENVIRONMENT]
    if len(given) < 2:
        return []
    if len(ours) == 1:
        return ours
    words = []
    for param in given:
        value = context.params[param.name or ""]
        words.append(f"--{key_of(param)}" if value is True else f"--{key_of(param)} {value}")
    where = f" (from {' and '.join(f'${param.envvar}' for param in ours)})" if ours else ""
    raise UsageError(
        f"{' and '.join(words)} exclude each other{where}", remedy="leave one of them out"
    )


def assume_order(function: Callback) -> Callback:
    """Add `--assume-order step`; the command receives `assume_order`."""
    return click.option(
        "--assume-order",
        metavar="step",
        type=click.Choice(["step"]),
        help="Order checkpoints by step where state files and times say nothing reliable.",
    )(function)


jobs = click.option(
    "-j",
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Tasks at a time; default: the number of cores.",
)
bwlimit = click.option(
    "--bwlimit",
    metavar="RATE",
    type=RATE,
    help="Bytes a second to stay below, such as 50MB/s; what is read then leaves the page cache.",
)
lock_wait = click.option(
    "--lock-wait",
    metavar="D",
    type=DURATION,
    help="Wait so long for another ckptctl to release the directory; default: do not wait.",
)
writer_wait = click.option(
    "--writer-wait",
    metavar="D",
    type=DURATION,
    default="2m",
    help="Wait so long for the end of a trainer's save, then refuse; default: 2m.",
)
min_age = click.option(
    "--min-age",
    metavar="D",
    type=DURATION,
    default="10m",
    help="Keep what is younger, since a trainer may be writing it; default: 10m.",
)
relocate = click.option(
    "--relocate", is_flag=True, help="In a copied directory: make paths in state files relative."
)
dry_run = click.option(
    "-n", "--dry-run", is_flag=True, help="Show what would be done; ask and write nothing."
)


def storage_of(bwlimit: int | None) -> Storage:
    """Return where files lie: with a limit read no faster, and gently on the page cache."""
    from ckptctl.storage import LOCAL
    from ckptctl.storage.gentle import GentleStorage

    return GentleStorage(bwlimit) if bwlimit else LOCAL


def waits(function: Callback) -> Callback:
    """Add `--lock-wait` and `--writer-wait`; the command receives `waits` for `execute_x`."""

    @functools.wraps(function)
    def waiting(*, lock_wait: float | None, writer_wait: float, **values: object) -> None:
        function(waits=waits_of({"lock_wait": lock_wait, "writer_wait": writer_wait}), **values)

    return lock_wait(writer_wait(waiting))


def waits_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `--lock-wait` and `--writer-wait` as `execute_x` takes them."""
    return {
        "lock_wait_s": values["lock_wait"] or 0.0,
        "writer_wait_s": values["writer_wait"],
    }


def policy(function: Callback) -> Callback:
    """Add the POLICY options; the command receives `policy`, option name to value."""

    @functools.wraps(function)
    def composed(**values: object) -> None:
        others = {name: value for name, value in values.items() if not _of_policy(name)}
        function(policy=rules_of(values), **others)

    return policy_options(composed)


def policy_options(function: Callback) -> Callback:
    """Add the POLICY options, each for itself; `rules_of` puts them together."""
    return _with(_POLICY, function)


def rules_of(values: Mapping[str, object]) -> dict[str, object]:
    """Return the POLICY options among values by parameter: option name to value."""
    return {name.replace("_", "-"): value for name, value in values.items() if _of_policy(name)}


def _of_policy(name: str) -> bool:
    return name.startswith("keep_") and name not in _OF_STATE


def _with(parameters: Sequence[Callable[[Callback], Callback]], function: Callback) -> Callback:
    for parameter in reversed(parameters):
        function = parameter(function)
    return function


_COUNT = click.IntRange(min=1)
_POLICY = (
    click.option("--keep-last", metavar="N", type=_COUNT, help="Keep the N newest fulls."),
    click.option(
        "--keep-every",
        metavar="STEPS",
        type=_COUNT,
        help="Keep the first full at or above each multiple of STEPS.",
    ),
    click.option(
        "--keep-within",
        metavar="D",
        type=DURATION,
        help="Keep what was saved within D of the newest, increments too.",
    ),
    click.option(
        "--keep-hourly",
        metavar="N",
        type=_COUNT,
        help="Keep the newest full of each of the last N hours in which one was saved.",
    ),
    click.option(
        "--keep-daily",
        metavar="N",
        type=_COUNT,
        help="Keep the newest full of each of the last N days (UTC) on which one was saved.",
    ),
    click.option(
        "--keep-weekly",
        metavar="N",
        type=_COUNT,
        help="Keep the newest full of each of the last N weeks (from Monday, UTC).",
    ),
    click.option(
        "--keep-step",
        metavar="STEP",
        type=STEP,
        multiple=True,
        help="Keep what lies at this step, an increment too; may be given again.",
    ),
)


def state(function: Callback) -> Callback:
    """Add the STATE options; the command receives them as `restore: RestoreOptions`."""

    @functools.wraps(function)
    def composed(**values: object) -> None:
        others = {name: value for name, value in values.items() if name not in _OF_STATE}
        function(restore=restore_of(values), **others)

    return state_options(composed)


def state_options(function: Callback) -> Callback:
    """Add the STATE options, each for itself; `restore_of` puts them together."""
    return _with(_STATE, function)


def restore_of(values: Mapping[str, object]) -> RestoreOptions:
    """Return the STATE options among values by parameter."""
    from ckptctl.restore import RestoreOptions

    chosen = {name: values[name] for name in _OF_STATE}
    return RestoreOptions(**chosen)  # type: ignore[arg-type]  # click has checked them


def html(function: Callback) -> Callback:
    """Add `--html FILE`; the command receives `html`, a path or None.

    That plotly is missing, or another file in the way, is said before anything is read.
    """

    @functools.wraps(function)
    def checked(*, html: str | None, **values: object) -> None:
        if html in ("", "-"):
            raise UsageError(
                f"--html needs the name of a file, not {html!r}",
                remedy="name one, such as --html report.html",
            )
        if html is not None:
            from ckptctl.commands.replacing import PAGE, check_replaceable

            check_replaceable("--html", html, PAGE)
            from ckptctl.report.page import plotly_script

            plotly_script()
        function(html=html, **values)

    return click.option(
        "--html",
        metavar="FILE",
        help="Also draw a page that needs no network; an older page of that name is replaced.",
    )(checked)


#: Parameters of the STATE options.
_OF_STATE = ("increments", "base", "assume_order", "keep_missing", "add_new", "drop_unpaired")
_STATE = (
    click.option(
        "--increments",
        metavar="auto|last|all",
        type=click.Choice(["auto", "last", "all"]),
        default="auto",
        help="auto (the default): the last one, once it is proven to contain the others; last: "
        "what a DeepRec PS would hold, proven or not; all: each key's newest recorded row.",
    ),
    click.option(
        "--base",
        metavar="STEP",
        type=Step(fulls_only=True),
        help="The full that the increments were recorded against, where it cannot be proven.",
    ),
    assume_order,
    click.option(
        "--keep-missing",
        is_flag=True,
        help="Keep the full's value of a tensor that the increment lacks.",
    ),
    click.option("--add-new", is_flag=True, help="Take over tensors that the full does not have."),
    click.option(
        "--drop-unpaired",
        is_flag=True,
        help="Leave out new keys that have no row in some slot, however many they are.",
    ),
)
