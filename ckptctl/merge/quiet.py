"""That a directory had nothing to do for `compact`, remembered until something changes.

Cron asks every few minutes, mostly in vain, and to judge a directory anew every index in it has
to be read. What is remembered is a no, known by device, inode, size and mtime of every file that
counts, and by the options: at worst something that could go stays until the memory is out of
date. Nothing is ever removed by it. A run that has something to tell (damage, what is newer and
cannot be restored) leaves none, so that the next one tells it too. A directory has one note for
each set of options, so that a trainer that saves for years does not fill the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

import ckptctl
from ckptctl.chain.memory import cache_path, recall, remember
from ckptctl.chain.scan import REMOVED_LOG
from ckptctl.merge.gate import Holdings
from ckptctl.merge.owned import fingerprint, owned

if TYPE_CHECKING:
    from ckptctl.chain import Scan
    from ckptctl.storage import Storage

__all__ = ["QuietNote", "quiet_note", "recall_quiet", "remember_quiet"]

#: Seconds after which everything is looked at again, whatever the files say.
_MOST_S = 86400.0
_MAX_BYTES = 1 << 16


class QuietNote(NamedTuple):
    """Where a note about a directory lies, and what the directory was when it was written."""

    path: str
    token: str


def quiet_note(scan: Scan, options: object, storage: Storage) -> QuietNote:
    """Return the note about a directory as it is; `options` by their `repr`."""
    files = owned(scan, storage).files
    log = storage.stat(os.path.join(scan.directory, REMOVED_LOG))
    facts = (
        ckptctl.__version__,
        scan.directory,
        fingerprint(scan, files, storage),
        None if log is None else log.identity,
    )
    path = cache_path("quiet", (scan.device, scan.inode, options))
    return QuietNote(
        path, hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
    )


def recall_quiet(note: QuietNote, now_s: float) -> tuple[str | None, Holdings] | None:
    """Return why there was no merge and what the directory holds; None where nothing is known."""
    try:
        facts = json.loads(recall(note.path, _MAX_BYTES) or b"{}")
        if facts["token"] != note.token or not 0 < float(facts["until"]) - now_s <= _MOST_S:
            return None
        holds = Holdings(**{name: facts["holds"][name] for name in Holdings._fields})
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return facts["waits"], holds


def remember_quiet(
    note: QuietNote,
    scan: Scan,
    waits: str | None,
    holds: Holdings,
    min_age_s: float,
    interval_s: float,
) -> None:
    """Remember that there is nothing to do, until something is old enough to be judged anew."""
    from ckptctl.chain.write_order import SAME_TIME_NS

    now_s = scan.taken_ns / 1e9
    items = [item.mtime_ns for item in scan.leftovers]
    for checkpoint in (*scan.fulls, *scan.increments):
        items += [info.mtime_ns for _, info in checkpoint.files]
    ages = [mtime_ns / 1e9 + min_age_s for mtime_ns in items]
    # What one that was written just now names, and is not here, is not told yet.
    states = (scan.full_state, scan.increment_state)
    ages += [((state.mtime_ns or 0) + SAME_TIME_NS) / 1e9 for state in states]
    if holds.last_merge_s is not None:
        ages.append(holds.last_merge_s + interval_s)
    until = min((when for when in ages if when > now_s), default=now_s + _MOST_S)
    facts = {
        "token": note.token,
        "until": min(until, now_s + _MOST_S),
        "waits": waits,
        "holds": holds.to_json(),
    }
    remember(note.path, json.dumps(facts).encode())
