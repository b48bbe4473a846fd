"""What restores the variables of a graph from increments: its ops, and which of them to run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ckptctl.bundle import BundleReader
from ckptctl.errors import NotFoundError
from ckptctl.training.slices import NO_OTHERS, OtherRows, OtherSlices, Span

__all__ = ["Application", "Restore", "Restores"]


@dataclass(frozen=True)
class Restore:
    """How a variable, or a slice of one, is restored.

    Attributes
    ----------
    name
        Its name in increments where rows are saved: `<full name>/part_<i>`, slot behind.
    specs
        Name and slice, "" for the whole, of what it is in fulls, and in increments that have it
        whole.
    whole
        The op that restores the whole.
    rows
        The op that restores rows, or None where it can have none.
    read
        The keys and the values that `rows` reads from an increment, unless they are fed.
    span
        Its rows of the variable, or None where rows of others can't be written to it.
    """

    name: str
    specs: tuple[tuple[str, str], ...]
    whole: Any
    rows: Any = None
    read: tuple[Any, ...] = ()
    span: Span | None = None

    @property
    def keys(self) -> str:
        """What increments call its keys."""
        return f"{self.name}-sparse_incr_keys"

    @property
    def variable(self) -> str:
        """The variable, whose slices share that name."""
        return self.specs[0][0]


class Restores:
    """All of them in a graph."""

    def __init__(self, restores: Iterable[Restore] = ()) -> None:
        self.all = list(restores)

    def other_slices(self, full: str) -> OtherSlices:
        """Return the variables that a full has in other slices than the graph."""
        return OtherSlices.of(full, (spec for restore in self.all for spec in restore.specs))

    def application(self, prefix: str, others: OtherSlices = NO_OTHERS) -> Application:
        """Return what applies an increment; `others` are in other slices than the graph's.

        Raises
        ------
        ckptctl.errors.NotFoundError
            The increment lacks a variable.
        ckptctl.errors.CkptctlError
            It cannot be read, or not all of its rows can be counted anew.
        """
        spans: dict[str, list[Span | None]] = {}
        for restore in self.all:
            spans.setdefault(restore.variable, []).append(restore.span)
        rows = others.rows(prefix, spans)
        with BundleReader(prefix) as reader:
            return Application(prefix, self._chosen(reader, rows), self, rows)

    def _chosen(self, reader: BundleReader, others: OtherRows) -> list[Any]:
        found, missing = [], []
        for restore in self.all:
            if restore.variable in others:
                continue
            if restore.rows is not None and reader.get(restore.keys) is not None:
                found.append(restore.rows)
            elif all(reader.get(name) is not None for name, _ in restore.specs):
                found.append(restore.whole)
            else:
                missing.append(restore.name)
        if missing:
            raise NotFoundError(
                "the increment lacks variables of this graph",
                file=reader.prefix,
                expected=missing[0],
                found=f"{len(missing)} missing",
                remedy="ckptctl merge --keep-missing, then restore the merged full",
            )
        return found


@dataclass(frozen=True)
class Application:
    """Applies an increment to what a session holds: all checks of names were made.

    Attributes
    ----------
    prefix
        Of the increment.
    ops
        Restore what is read as it is.
    restores
        Of the graph.
    others
        Rows of variables that the full has in other slices than the graph.
    """

    prefix: str
    ops: list[Any]
    restores: Restores
    others: OtherRows

    def run(self, sess: Any, filenames: Iterable[Any]) -> None:
        """Apply it, on the parameter servers; `filenames` are what its prefix is fed to."""
        sess.run(self.ops, dict.fromkeys(filenames, self.prefix))
        for op, fed in self._scatters():
            sess.run(op, fed)

    def _scatters(self) -> Iterator[tuple[Any, dict[Any, np.ndarray]]]:
        for variable in self.others:
            restores = [each for each in self.restores.all if each.variable == variable]
            for rows, values in self.others.of(variable):
                for restore in restores:
                    assert restore.span is not None
                    own = restore.span.own(rows, values)
                    if len(own[0]):
                        yield restore.rows, dict(zip(restore.read, own, strict=True))
