"""What became of some keys: their rows at each restore point and in each increment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ckptctl.arguments import whole_number
from ckptctl.chain import NO_STEP, Chains, ProvenPairs, find_chains, scan_directory
from ckptctl.errors import CkptctlError, DamageError, NotFoundError
from ckptctl.inspect.lookup import Found, Lookup, int64_keys, look_up
from ckptctl.inspect.lookup_names import not_there, tables_of
from ckptctl.inspect.stats import finite, gaps
from ckptctl.inspect.target import Target, state_at
from ckptctl.inspect.view import open_view
from ckptctl.restore.options import RestoreOptions
from ckptctl.running import Runner
from ckptctl.storage import LOCAL, Storage

__all__ = ["History", "Missed", "Moment", "history"]


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


@dataclass(frozen=True)
class Missed:
    """A checkpoint or a state that could not be looked at, and why.

    Attributes
    ----------
    step, kind
        None and `increments` for the directory of all increments, which `prefix` names.
    damage
        Whether bytes contradict themselves or could not be read; else it is no restore point.
    """

    step: int | None
    kind: str
    prefix: str
    reason: str
    damage: bool

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return dict(vars(self))


@dataclass
class History:
    """The moments of each key, by step; what could not be looked at; what a user should know."""

    directory: str
    table: str
    keys: dict[int, list[Moment]]
    failed: list[Missed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unknown(self) -> list[int]:
        """Keys that no moment has."""
        return [
            key
            for key, moments in self.keys.items()
            if all(moment.row.state == "unknown" for moment in moments)
        ]

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "directory": self.directory,
            "table": self.table,
            "history": [
                {"key": key, "moments": [moment.document() for moment in moments]}
                for key, moments in self.keys.items()
            ],
            "failed": [missed.document() for missed in self.failed],
            "notes": self.notes,
        }


def history(
    directory: str,
    table: str,
    keys: Iterable[int] | np.ndarray,
    options: RestoreOptions | None = None,
    runner: Runner | None = None,
    *,
    upto: int | None = None,
    check: bool = False,
    storage: Storage = LOCAL,
) -> History:
    """Return what each restore point and each increment says of keys.

    What cannot be looked at is reported and does not stop the rest: damage, and live
    checkpoints that cannot be restored. A table that is not there yet at a step says nothing.
    Key columns and what increments bring are checked; the full's rows only with `check`.

    Raises
    ------
    NotFoundError
        No such directory, no restore point in it, or no step has the table.
    UsageError
        A key, or `upto`, is no whole number, or a key beyond int64.
    """
    options, runner = options or RestoreOptions(), runner or Runner()
    upto = None if upto is None else whole_number("upto", upto)
    scan = scan_directory(directory, storage)
    chains = find_chains(scan, options.assume_order, proven_nested=ProvenPairs(scan))
    found = History(directory, table, {key: [] for key in int64_keys(keys).tolist()})
    asked = list(found.keys)
    seen = False
    missing: NotFoundError | None = None
    before: dict[int, Found] = {}
    moments = _moments(chains, upto, found)
    if not moments and not found.failed:
        state_at(chains, upto, options)  # says why there is none
    for moment in moments:
        try:
            target = moment
            if isinstance(target, int):
                target = state_at(chains, target, options)
            with open_view(target, options, runner, storage) as view:
                if table not in tables_of(view):
                    missing = missing or not_there(view, table)
                    continue
                looked = look_up(view, table, asked, check=check, survey=True)
        except CkptctlError as error:
            found.failed.append(_missed(moment, error))
            continue
        seen = True
        found.notes += [note for note in looked.notes if note not in found.notes]
        _note(found, target, looked, before)
    found.failed.sort(key=lambda missed: NO_STEP if missed.step is None else missed.step)
    if not seen and missing is not None and not found.failed:
        raise missing
    return found


def _moments(chains: Chains, upto: int | None, found: History) -> list[int | Target]:
    """Return restore points by their steps, and increments as they are, ascending."""
    points = set(chains.restore_points)
    moments: list[tuple[int, int, int | Target]] = [(step, 1, step) for step in points]
    directory, room = chains.scan.directory, chains.scan.increment_directory
    for problem in chains.scan.problems:
        if problem.code == "increment-directory":
            found.failed.append(Missed(None, "increments", room, problem.message, True))
    for each in (*chains.scan.fulls, *chains.scan.increments):
        if not chains.is_live(each) or (upto is not None and each.step > upto):
            continue
        if each.step not in points:
            why = chains.why_not(each) or "it cannot be restored"
            found.failed.append(Missed(each.step, "state", each.prefix, why, not each.complete))
        if each.kind == "increment" and each.complete:
            target = Target(each.prefix, "increment", directory, each.prefix, each.step, chains)
            moments.append((each.step, 0, target))
    moments.sort(key=lambda moment: moment[:2])
    return [what for step, _, what in moments if upto is None or step <= upto]


def _missed(moment: int | Target, error: CkptctlError) -> Missed:
    damage = isinstance(error, DamageError)
    if isinstance(moment, Target):
        return Missed(moment.step, moment.kind, moment.prefix, error.message, damage)
    return Missed(moment, "state", error.file or "", error.message, damage)


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
            gap = gaps(a.value, b.value)
            l2, most = float(np.sqrt(gap @ gap)), float(gap.max(initial=0.0))
    if row.state == was:
        same = old is None or _same(old, row)
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
    return Moment(step, target.kind, target.prefix, row, change, finite(l2), finite(most), *moved)


def _same(old: Found, row: Found) -> bool:
    """Return whether the value and the rows of all slots are equal, bit for bit."""
    return old.cells.keys() == row.cells.keys() and all(
        old.cells[slot].value.tobytes() == cell.value.tobytes() for slot, cell in row.cells.items()
    )
