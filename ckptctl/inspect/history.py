"""What became of some keys: their rows at each restore point and in each increment."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ckptctl.chain import ProvenPairs, find_chains, scan_directory
from ckptctl.errors import CkptctlError, NotFoundError
from ckptctl.inspect.lookup import Found, Lookup, look_up
from ckptctl.inspect.target import Target, find_target
from ckptctl.inspect.view import open_view
from ckptctl.restore.options import RestoreOptions
from ckptctl.running import Runner
from ckptctl.storage import LOCAL, Storage

__all__ = ["History", "Moment", "history"]


@dataclass(frozen=True)
class Moment:
    """A key at one restore point (`state`), or as one increment recorded it.

    Attributes
    ----------
    change
        Against the state before: appeared, gone, admitted, filtered, changed, unchanged,
        or absent in both.
    l2, max
        Of the change of the value, where both have one.
    freq, version
        By how much they moved.
    """

    step: int
    kind: str
    prefix: str
    row: Found
    change: str
    l2: float | None = None
    max: float | None = None
    freq: int | None = None
    version: int | None = None

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        moved = {"l2": self.l2, "max": self.max, "freq": self.freq, "version": self.version}
        return {
            "step": self.step,
            "kind": self.kind,
            "prefix": self.prefix,
            "change": self.change,
            "moved": moved,
            "row": self.row.document(),
        }


@dataclass
class History:
    """The moments of each key, by step; and the steps that could not be looked at, with why."""

    directory: str
    table: str
    keys: dict[int, list[Moment]]
    failed: dict[int, str] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "directory": self.directory,
            "table": self.table,
            "history": [
                {"key": key, "moments": [moment.document() for moment in moments]}
                for key, moments in self.keys.items()
            ],
            "failed": [{"step": step, "reason": why} for step, why in self.failed.items()],
        }


def history(
    directory: str,
    table: str,
    keys: list[int],
    options: RestoreOptions | None = None,
    runner: Runner | None = None,
    *,
    upto: int | None = None,
    storage: Storage = LOCAL,
) -> History:
    """Return what each restore point and each increment says of keys.

    A step that cannot be looked at is reported and does not stop the rest. A table that is
    not there yet at a step says nothing.

    Raises
    ------
    NotFoundError
        No such directory, or no step has the table.
    """
    options, runner = options or RestoreOptions(), runner or Runner()
    scan = scan_directory(directory, storage)
    chains = find_chains(scan, options.assume_order, proven_nested=ProvenPairs(scan))
    found = History(directory, table, {key: [] for key in keys})
    steps: list[tuple[int, int, Target | str]] = [
        (step, 1, str(step)) for step in chains.restore_points
    ]
    for increment in scan.increments:
        if increment.complete and chains.is_live(increment):
            name = increment.prefix
            steps.append(
                (increment.step, 0, Target(name, "increment", directory, name, increment.step))
            )
    seen = False
    missing: NotFoundError | None = None
    before: dict[int, Found] = {}
    for step, _, what in sorted(steps, key=lambda item: item[:2]):
        if upto is not None and step > upto:
            continue
        try:
            target = find_target(what, directory, options) if isinstance(what, str) else what
            with open_view(target, options, runner, storage) as view:
                looked = look_up(view, table, keys)
        except NotFoundError as error:
            missing = missing or error
            continue
        except CkptctlError as error:
            found.failed[step] = error.message
            continue
        seen = True
        _note(found, target, looked, before)
    if not seen and missing is not None and not found.failed:
        raise missing
    return found


def _note(found: History, target: Target, looked: Lookup, before: dict[int, Found]) -> None:
    step = target.step if target.step is not None else -1
    for row in looked.rows:
        if target.kind == "increment":
            if row.state != "unknown":
                moment = _moment(step, target, row, before.get(row.key))
                found.keys[row.key].append(moment)
            continue
        found.keys[row.key].append(_moment(step, target, row, before.get(row.key)))
        before[row.key] = row


def _moment(step: int, target: Target, row: Found, old: Found | None) -> Moment:
    was = old.state if old is not None else "unknown"
    a, b = (each.cells.get("") if each is not None else None for each in (old, row))
    l2 = most = None
    if a is not None and b is not None and a.value.shape == b.value.shape:
        with np.errstate(all="ignore"):
            gap = b.value.astype(np.float64) - a.value.astype(np.float64)
        l2, most = float(np.sqrt(gap @ gap)), float(np.abs(gap).max(initial=0.0))
    if row.state == was:
        same = a is None or (b is not None and a.value.tobytes() == b.value.tobytes())
        change = "unchanged" if same else "changed"
        if row.state == "unknown":
            change = "absent"
    elif row.state == "unknown":
        change = "gone"
    elif was == "unknown" and row.state == "admitted":
        change = "appeared"
    else:
        change = row.state  # admitted, or filtered again
    moved = [
        None if x is None or y is None else y - x
        for x, y in (
            (old.freq if old else None, row.freq),
            (old.version if old else None, row.version),
        )
    ]
    return Moment(step, target.kind, target.prefix, row, change, _finite(l2), _finite(most), *moved)


def _finite(number: float | None) -> float | None:
    return number if number is not None and np.isfinite(number) else None
