"""`ckptctl get`: the rows of keys, and where they come from."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ckptctl.commands import options
from ckptctl.commands.get_views import HistoryView, RowsView, ScalarView
from ckptctl.commands.keys import no_key, read_keys
from ckptctl.commands.params import FILE, TABLE, TARGET
from ckptctl.commands.replacing import check_replaceable
from ckptctl.errors import DamageError, NotFoundError, PartialFailure, UsageError
from ckptctl.output import Output, is_terminal
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.inspect.history import History
    from ckptctl.inspect.lookup import Lookup
    from ckptctl.inspect.lookup_files import FileFormat
    from ckptctl.inspect.scalar import Scalar
    from ckptctl.restore import RestoreOptions

__all__ = ["command"]


@click.command("get", epilog=options.epilog(3, 4, 10, 12))
@options.exclusive("json", "form", same="json")
@click.argument("table", type=TABLE)
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@options.directory_option
@click.option(
    "--upto",
    metavar="STEP",
    type=TARGET,
    default="latest",
    help="The step, or any target of `ckptctl show`; default: the newest restore point.",
)
@click.option(
    "--history",
    is_flag=True,
    help="The row at each restore point and in each increment, and what changed.",
)
@click.option(
    "--keys-from",
    metavar="FILE",
    type=FILE,
    help="Also the keys in FILE, one a line, `-` for stdin; or a .npy file of integers.",
)
@click.option("--check", is_flag=True, help="Also check the tensors that rows come from, whole.")
@click.option(
    "--format",
    "form",
    metavar="text|json|csv|npz|parquet",
    type=click.Choice(["text", "json", "csv", "npz", "parquet"]),
    default="text",
    help="Form of the answer; any but text comes with -q too. --json is short for json; "
    "parquet needs ckptctl[parquet].",
)
@click.option(
    "-o",
    "--output",
    "path",
    metavar="FILE",
    type=FILE,
    help="Write csv, npz or parquet to FILE, not stdout.",
)
@options.state
@options.output
def command(
    table: str,
    keys: tuple[str, ...],
    directory: str,
    out: Output,
    restore: RestoreOptions,
    upto: str,
    history: bool,
    keys_from: str | None,
    check: bool,
    form: str,
    path: str | None,
) -> None:
    """Show the rows of keys, and where they come from.

    TABLE is a table or a variable; KEY is a key of the table, or a row number of the variable.
    Of each key: value, freq, version and slots, and the file and the offset in bytes of each.
    A key that is not there is filtered (seen, but not often enough to own a row) or unknown;
    an unknown one makes the command exit with 10 after the others were shown. A scalar, such as
    global_step, is shown without a KEY, at one step: --history is of rows.

    A checksum covers a whole tensor, so without --check rows are shown as they are read;
    --history checks keys, and what increments bring, all the same.

    \b
    Example:
      ckptctl get emb 17 42 -C /models/ctr --upto 1200
      ckptctl get global_step -C /models/ctr
      ckptctl get emb -C /models/ctr --history -- -1000
      cut -f1 ids.tsv | ckptctl get emb --keys-from - --format parquet -o rows.parquet
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.lookup import Lookup
    from ckptctl.running import Runner

    asked = read_keys(keys, keys_from) if keys or keys_from else []
    if path is not None:
        check_replaceable("-o", path)
    if form not in ("csv", "npz", "parquet") and path is not None:
        raise UsageError("-o goes with --format csv, npz or parquet", remedy="give one of them")
    if history and form not in ("text", "json"):
        raise UsageError(f"--history has no form {form}", remedy="use --format json")
    progress = out.progress()
    runner = Runner(progress=progress)
    try:
        if history and not asked:
            _look(table, asked, directory, restore, runner, upto, check)  # or no key is given
            raise UsageError(
                f"--history is of rows, and {table!r} is a scalar",
                remedy=f"ckptctl get {shlex.quote(table)} --upto STEP shows it at a step",
            )
        if history:
            moments = _history(table, asked, directory, restore, runner, upto, check)
        else:
            found = _look(table, asked, directory, restore, runner, upto, check)
    finally:
        progress.finish()
    if history:
        _show_history(out, table, moments)
    elif not isinstance(found, Lookup):
        _show_scalar(out, found, form)
    else:
        _show_rows(out, table, found, path, form)


def _show_rows(out: Output, table: str, found: Lookup, path: str | None, form: str) -> None:
    if form in ("csv", "npz", "parquet"):
        _write(found, path, form)  # type: ignore[arg-type]
    else:
        out.show(RowsView(found))
    out.warn(*found.notes)
    out.close()
    if found.unknown:
        raise NotFoundError(
            _not_there(table, found.unknown), remedy="--history shows whether it ever was"
        )


def _show_scalar(out: Output, found: Scalar, form: str) -> None:
    if form not in ("text", "json"):
        raise UsageError(f"a scalar has no form {form}", remedy="use --format json")
    out.show(ScalarView(found))
    out.warn(*found.notes)


def _look(
    table: str,
    keys: list[int],
    directory: str,
    restore: RestoreOptions,
    runner: Any,
    upto: str,
    check: bool,
) -> Lookup | Scalar:
    from ckptctl.inspect.lookup import look_up
    from ckptctl.inspect.scalar import find_scalar
    from ckptctl.inspect.target import find_target
    from ckptctl.inspect.view import open_view

    with open_view(find_target(upto, directory, restore), restore, runner) as view:
        if keys:
            return look_up(view, table, keys, check=check)
        scalar = find_scalar(view, table, check=check)
        if scalar is None:
            raise no_key()
        return scalar


def _history(
    table: str,
    keys: list[int],
    directory: str,
    restore: RestoreOptions,
    runner: Any,
    upto: str,
    check: bool,
) -> History:
    from ckptctl.inspect.history import history
    from ckptctl.inspect.target import find_target

    last = None
    if upto != "latest":  # the newest restore point may be damaged, and the rest still told
        target = find_target(upto, directory, restore)
        last, directory = target.step, target.directory
        if last is None:
            raise UsageError(
                f"--history is of steps, and {target.prefix} has none",
                remedy=f"leave out --history, or give a step with -C {shlex.quote(directory)}",
            )
    return history(directory, table, keys, restore, runner, upto=last, check=check)


def _show_history(out: Output, table: str, found: History) -> None:
    out.show(HistoryView(found))
    out.warn(*found.notes)
    out.close()
    if found.failed:
        damaged = [missed for missed in found.failed if missed.damage]
        first = (damaged or found.failed)[0]
        steps = fmt.some(len(found.failed), "step")
        words = f"{steps} could not be read, {first.step}: {first.reason}"
        kind = DamageError if damaged else PartialFailure
        raise kind(
            words if first.step is not None else f"increments could not be read: {first.reason}",
            file=first.prefix or None,
            remedy="ckptctl verify says what is wrong",
        )
    if found.unknown:
        raise NotFoundError(
            _not_there(table, found.unknown),
            remedy="ckptctl show says how many keys a table has, ckptctl export which",
        )


def _not_there(table: str, unknown: list[int]) -> str:
    if len(unknown) == 1:
        return f"not there: key {unknown[0]}"
    return f"{len(unknown)} keys of {table!r} are not there, the first {unknown[0]}"


def _write(found: Lookup, path: str | None, form: FileFormat) -> None:
    from io import BytesIO

    from ckptctl.inspect.lookup_files import write_lookup

    if path is None and form != "csv" and is_terminal(sys.stdout):
        raise UsageError(f"{form} is nothing for a terminal", remedy="-o FILE, or a pipe")
    buffer = BytesIO()  # a half-written file would pass for a whole one
    write_lookup(found, buffer, form)
    if path is None:
        stream: BinaryIO = sys.stdout.buffer
        stream.write(buffer.getvalue())
        return
    from ckptctl.storage import LOCAL

    LOCAL.write_atomic(path, buffer.getvalue())
