"""State files that a live trainer rewrote from its own memory, put right.

A Saver knows neither what ckptctl merged nor what it removed: its next save drops the one
from the state file and lists the other again.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ckptctl.bundle.names import MARK_SUFFIX
from ckptctl.chain import Chains, Checkpoint
from ckptctl.chain.timelines import names_below, set_back_since
from ckptctl.merge.destination import read_mark, saved_time
from ckptctl.merge.state_file import enter_fulls, unlist_checkpoints, update_state_file
from ckptctl.storage import Storage

__all__ = ["Unsettled", "find_unsettled", "is_unlisted", "settle"]


class Unsettled(NamedTuple):
    """What state files say that is not so.

    Attributes
    ----------
    unlisted
        Names of merged fulls that were listed once and are no more, by step.
    gone
        (kind, name) of what ckptctl removed and a state file lists.
    """

    unlisted: tuple[str, ...] = ()
    gone: tuple[tuple[Literal["full", "increment"], str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unlisted or self.gone)

    def to_json(self) -> dict[str, object]:
        """Return the names."""
        return {"list": list(self.unlisted), "unlist": [name for _, name in self.gone]}


def is_unlisted(full: Checkpoint, chains: Chains, storage: Storage, *, asked: bool = False) -> bool:
    """Return whether a merged full is to be in the state file, and is not in it.

    It was `asked` for, or its merge has listed it, or was killed before: the mark says so. A
    Saver that drops it names a step of its own above. A newer state file that names a lower
    step was set back by hand: to list the full would name it, and so undo the rollback.
    """
    scan = chains.scan
    state = scan.full_state
    since = set_back_since(full, state)
    return (
        full.merged is not None
        and state.state is not None
        and not scan.in_state_file(full)
        and not (names_below(state, full) and since is not None and since < (state.mtime_ns or 0))
        and (asked or read_mark(full.prefix + MARK_SUFFIX, storage).get("listed") is True)
        and (asked or enter_fulls(chains, {full.name: 0.0}) is not None)
    )


def find_unsettled(chains: Chains, storage: Storage) -> Unsettled:
    """Return what a trainer's Saver undid of what ckptctl did to the state files."""
    scan = chains.scan
    unlisted = [
        full.name
        for full in scan.fulls
        if is_unlisted(full, chains, storage) and chains.is_restore_point(full)
    ]
    here = {(item.kind, item.name) for item in (*scan.fulls, *scan.increments, *scan.others)}
    gone: list[tuple[Literal["full", "increment"], str]] = []
    for item in scan.removed:
        if item.kind == "increment" and scan.increment_link:
            continue  # their state file is another directory's
        state = scan.full_state if item.kind == "full" else scan.increment_state
        if item.name in state.order and (item.kind, item.name) not in here:
            gone.append(("full" if item.kind == "full" else "increment", item.name))
    return Unsettled(tuple(unlisted), tuple(gone))


def settle(
    directory: str, found: Unsettled, chains: Chains, storage: Storage, assume_order: str | None
) -> None:
    """Put right what `find_unsettled` found, under the directory's lock.

    Raises
    ------
    ChangedError
        A trainer kept rewriting a state file.
    """
    fulls = {full.name: full for full in chains.scan.fulls}
    for name in found.unlisted:
        # Of today is only its merge: keep rules count the time that the state file says.
        when = saved_time(fulls[name], storage) or fulls[name].mtime_ns / 1e9
        update_state_file(directory, name, when, storage, assume_order)
    for kind in ("increment", "full"):
        names = {name for each, name in found.gone if each == kind}
        if names:
            items = chains.scan.fulls if kind == "full" else chains.scan.increments
            here = {item.name for item in items if item.complete and chains.is_live(item)}
            unlist_checkpoints(
                directory,
                "full" if kind == "full" else "increment",
                names,
                here - names,
                storage,
                assume_order,
            )
