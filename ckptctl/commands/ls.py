"""`ckptctl ls`: the chains of a directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import click

from ckptctl.commands import options
from ckptctl.commands.params import DURATION
from ckptctl.output import Column, Output, Page, Rows
from ckptctl.output import format as fmt

if TYPE_CHECKING:
    from ckptctl.inspect.listing import (
        ListedChain,
        ListedCheckpoint,
        ListedLeftover,
        Listing,
        Order,
    )

__all__ = ["command"]

#: Readable on a dark and on a light terminal, so no yellow.
_STYLES = {
    "ok": "green",
    "damaged": "bold red",
    "incomplete": "red",
    "abandoned": "magenta",
    "orphan": "magenta",
    "unproven": "magenta",
    "idle": "magenta",
    "stale": "dim",
    "superseded": "dim",
    "other": "dim",
    "leftover": "dim",
}
_STATUS = 2  # place of the status in a row
_OF_OTHERS = ("age", "bytes", "name")


@click.command("ls", epilog=options.epilog(10, 12))
@options.directory
@click.option(
    "--sort",
    metavar="step|bytes|age",
    type=click.Choice(["step", "bytes", "age"]),
    default="step",
    help="Order of the chains, ascending: by the step of the full (the default), by bytes, or "
    "by the age of their newest checkpoint.",
)
@click.option(
    "--last",
    metavar="N",
    type=click.IntRange(min=1),
    help="Only the last N chains of that order.",
)
@click.option(
    "--older",
    metavar="D",
    type=DURATION,
    help="Only chains, and other files, whose newest file is older than this.",
)
@click.option(
    "--newer",
    metavar="D",
    type=DURATION,
    help="Only chains, and other files, whose newest file is newer than this.",
)
@options.assume_order
@options.output
def command(
    directory: str,
    out: Output,
    sort: Order,
    last: int | None,
    older: float | None,
    newer: float | None,
    assume_order: str | None,
) -> None:
    """List the chains, and the steps that can be restored.

    A chain is a full checkpoint and the increments recorded against it. The status of each
    checkpoint is the first that applies of: damaged, incomplete (files are missing),
    abandoned (left over from a run that was rolled back), orphan (no full below it),
    unproven (its full may be gone), idle (the recorder was not yet active, so it holds no
    rows), stale (at or below the step of a newer full), superseded (a later increment
    contains it), ok.

    Reads names, state files and indexes, no data; it exits with 0 whatever is wrong with them.
    Off a terminal the first field of a line says what it is: chain, full, increment,
    leftover, problem, note or latest.

    \b
    Example:
      ckptctl ls /models/ctr --last 1
      ckptctl ls -C /models/ctr --json | jq .latest
    """  # noqa: D301 (click leaves lines after this mark as they are)
    from ckptctl.inspect.listing import list_directory

    listing = list_directory(
        directory, sort=sort, last=last, older=older, newer=newer, assume_order=assume_order
    )
    out.show(_ListingView(listing))
    listing.remember()
    told = listing.unread or (f"no checkpoint in {directory!r}" if listing.empty else None)
    if told:
        out.warn(told)


class _ListingView(NamedTuple):
    listing: Listing

    def document(self) -> Mapping[str, object]:
        return self.listing.document()

    def text(self, page: Page) -> None:
        listing = self.listing
        columns = _columns(*listing.widest)
        if page.terminal:
            self._head(page)
        else:
            page.line(*(column.name for column in columns))
        page.flush()
        for chain in listing.chains():
            self._chain(page, columns, chain)
        # Strangers may lie at one step: it is the name that tells them apart.
        named = tuple(c._replace(spare=0) if c.name in _OF_OTHERS else c for c in columns)
        orphans = ("orphans", listing.orphans, columns)
        for title, checkpoints, own in (orphans, ("other checkpoints", listing.others, named)):
            if checkpoints:
                self._title(page, f"{title}, {_total(checkpoints)}")
                with page.table(own, heading=page.terminal) as rows:
                    for each in checkpoints:
                        self._add(rows, page, each, None)
        self._leftovers(page, columns)
        self._remarks(page)

    def _head(self, page: Page) -> None:
        # Known from the names alone: something to read while the first index is parsed.
        fulls, increments, size = self.listing.found
        numbers = f"{fmt.some(fulls, 'full')}, {fmt.some(increments, 'increment')}"
        page.line(f"{self.listing.directory}: {numbers}, {fmt.bytes_(size)}")
        page.gap()

    def _chain(self, page: Page, columns: tuple[Column, ...], chain: ListedChain) -> None:
        step = str(chain.base.step)
        words, style = f"restorable to step {chain.restorable_to}", "bold"
        if chain.restorable_to is None:
            words, style = "not restorable", "bold red"
        if page.terminal:
            facts = [words, fmt.some(len(chain.increments), "increment"), fmt.bytes_(chain.bytes)]
            if chain.nested is None:
                facts.append("increments not yet compared")
            page.line(f"chain {step}: {', '.join(facts)}", style=style)
        else:
            page.line("chain", step, words)
        with page.table(columns, heading=page.terminal) as rows:
            for each in (chain.base, *chain.increments):
                self._add(rows, page, each, chain.base.step)
        for problem in chain.problems:
            if page.terminal:
                page.line(f"! {problem.message} [{problem.code}]", style="red", indent=2)
            else:
                page.line("problem", step, problem.code, problem.message)
        page.gap()
        page.flush()

    def _add(self, rows: Rows, page: Page, each: ListedCheckpoint, chain: int | None) -> None:
        rows.add(
            each.kind,
            each.step,
            each.status,
            self.listing.taken - each.mtime,
            each.bytes,
            each.keys,
            each.restorable,
            each.in_state_file,
            each.tables,
            each.tensors,
            each.shards,
            chain,
            os.path.basename(each.prefix) if page.terminal else each.prefix,
            styles={_STATUS: _STYLES.get(each.status, "")},
        )

    def _leftovers(self, page: Page, columns: tuple[Column, ...]) -> None:
        found = self.listing.leftovers
        if not found:
            return
        if not page.terminal:
            with page.table(columns, heading=False) as rows:
                for each in found:
                    unknown = [None] * (len(columns) - 6)
                    size = ("leftover", None, "leftover", each.age_s, each.bytes)
                    rows.add(*size, *unknown, each.path)
            return
        self._title(page, f"leftovers of killed writers, {_total(found)}")
        form = (Column("age", "age"), Column("bytes", "bytes"), Column("path", "name"))
        with page.table(form) as rows:
            for each in found:
                path = os.path.relpath(each.path, self.listing.directory)
                rows.add(each.age_s, each.bytes, path)
        page.gap()

    def _remarks(self, page: Page) -> None:
        listing = self.listing
        for problem in listing.problems:
            if page.terminal:
                page.line(f"! {problem.message} [{problem.code}]", style="red")
            else:
                page.line("problem", "-", problem.code, problem.message)
        for note in listing.notes:
            page.line(*((f"note: {note}",) if page.terminal else ("note", note)))
        if not page.terminal:
            page.line("latest", "-" if listing.latest is None else str(listing.latest))
        elif listing.latest is None:
            page.line("nothing here can be restored", style="bold red")
        else:
            points = fmt.some(len(listing.restore_points), "restore point")
            page.line(f"restorable to step {listing.latest}, {points}", style="bold")

    def _title(self, page: Page, text: str) -> None:
        if page.terminal:
            page.line(text, style="bold")


def _columns(step: int, name: int) -> tuple[Column, ...]:
    return (
        Column("kind", width=9),
        Column("step", "number", width=step),
        Column("status", width=10),
        Column("age", "age", spare=1),
        Column("bytes", "bytes", spare=2),
        Column("keys", "count", spare=4),
        Column("restorable", "flag", spare=3),
        Column("listed", "flag", spare=5),
        Column("tables", "number", spare=7),
        Column("tensors", "number", spare=8),
        Column("shards", "number", spare=9),
        Column("chain", "number", program=True),
        Column("name", "name", width=name, spare=6),
    )


def _total(items: Iterable[ListedCheckpoint] | Iterable[ListedLeftover]) -> str:
    return fmt.bytes_(sum(each.bytes for each in items))
