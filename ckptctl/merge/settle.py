"""State files that a live trainer rewrote from its own memory, put right.

A Saver knows neither what ckptctl merged nor what it removed: its next save drops the one
from the state file and lists the other again.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from ckptctl.chain import Chains, Checkpoint, Scan, find_chains, scan_again
from ckptctl.chain.write_order import names_below, set_back_since
from ckptctl.merge.state_file import (
    drop_checkpoints,
    enter_fulls,
    fresh_checkpoints,
    is_judged_alike,
    unlist_checkpoints,
    update_state_file,
)
from ckptctl.storage import Storage

__all__ = ["Unsettled", "find_unsettled", "is_unlisted", "settle"]

_KINDS: tuple[Literal["increment", "full"], ...] = ("increment", "full")


class Unsettled(NamedTuple):
    """What state files say that is not so.

    Attributes
    ----------
    unlisted
        Names of merged fulls that were listed once and are no more, by step.
    gone
        (kind, name) of what ckptctl removed and a state file lists; no merged full, since a
        trainer may have saved its step anew and lost it: the list alone shows that (check 3).
    """

    unlisted: tuple[str, ...] = ()
    gone: tuple[tuple[Literal["full", "increment"], str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.unlisted or self.gone)

    def to_json(self) -> dict[str, object]:
        """Return the names."""
        return {"list": list(self.unlisted), "unlist": [name for _, name in self.gone]}


def is_unlisted(full: Checkpoint, chains: Chains, *, asked: bool = False) -> bool:
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
        and (asked or full.entered)
        and (asked or _may_enter(chains, full.name))
    )


def _may_enter(chains: Chains, name: str) -> bool:
    new = {**fresh_checkpoints(chains, "full"), name: 0.0}
    return enter_fulls(chains, new) is not None


def find_unsettled(chains: Chains) -> Unsettled:
    """Return what a trainer's Saver undid of what ckptctl did to the state files."""
    scan = chains.scan
    unlisted = [
        full.name
        for full in scan.fulls
        if is_unlisted(full, chains) and chains.is_restore_point(full)
    ]
    gone = [(kind, name) for kind in _KINDS for name in sorted(_gone(chains, kind))]
    return Unsettled(tuple(unlisted), tuple(gone))


def _gone(chains: Chains, kind: Literal["full", "increment"]) -> set[str]:
    """Return names of what we removed and a Saver lists again, if nothing rests on them.

    Never what is named: a Saver names what it has just saved. That is the line of somebody who
    sets the run back.
    """
    scan = chains.scan
    if kind == "increment" and scan.increment_link:
        return set()  # their state file is another directory's
    found = scan.full_state if kind == "full" else scan.increment_state
    here = {each.name for each in (*scan.fulls, *scan.increments) if each.kind == kind}
    removed = {each.name for each in scan.removed if each.kind == kind and not each.merged}
    names = (removed & {*found.listed}) - here - {found.latest}
    if not names or found.state is None:
        return set()
    after = drop_checkpoints(found.state, names, (), fresh_checkpoints(chains, kind))
    return names if after is not None and is_judged_alike(chains, kind, after) else set()


def settle(before: Scan, storage: Storage, assume_order: str | None) -> Unsettled:
    """Put right what `find_unsettled` finds in the directory of a scan, and return what was.

    It is looked at again. Under its lock, and when nothing is being saved any more.

    Raises
    ------
    ChangedError
        A trainer kept rewriting a state file.
    """
    directory = before.directory
    chains = find_chains(scan_again(before, storage), assume_order)
    found = find_unsettled(chains)
    fulls = {full.name: full for full in chains.scan.fulls}
    listed = []
    for name in found.unlisted:
        # Of today is only its merge: keep rules count the time that the state file says.
        when = fulls[name].saved_s or fulls[name].mtime_ns / 1e9
        if update_state_file(directory, name, when, storage, assume_order) is None:
            listed.append(name)
    for kind in _KINDS:
        gone = dict.fromkeys(name for each, name in found.gone if each == kind)
        if gone:
            unlist_checkpoints(directory, kind, gone, (), storage, assume_order)
    return found._replace(unlisted=tuple(listed))
