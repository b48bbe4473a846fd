"""`.ckptctl/removed.jsonl`: what ckptctl removed from a directory.

A line is written before its files go, with their sizes and mtimes, so that what a killed run
left is known to be ours; and once more when they are gone, without them. The scan reads the
rest of a line: a live Saver that lists what we removed is then no finding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from typing import Any

from ckptctl.chain.scan import MAX_LOG_BYTES, REMOVED_LOG
from ckptctl.errors import DamageError
from ckptctl.storage import FileInfo, Storage
from ckptctl.storage.own import check_no_link

__all__ = ["Logged", "check_own_room", "log_removed", "read_identities"]

#: Increments that are remembered; of fulls every one, since check 3 needs to know them.
_MOST_INCREMENTS = 20_000

_KEY = ("kind", "name")

#: One line: kind, name, step, merged, time, of a full written_ns; and while they are there `files`
#: and `directories`.
Logged = dict[str, Any]


def check_own_room(directory: str, storage: Storage) -> None:
    """Refuse a `.ckptctl` that leads elsewhere: we write there, and believe what it says."""
    for name in (os.path.dirname(REMOVED_LOG), REMOVED_LOG):
        check_no_link(os.path.join(directory, name), storage)


def log_removed(
    directory: str,
    lines: Iterable[Logged],
    storage: Storage,
    forget: Collection[tuple[str, str]] = (),
) -> None:
    """Add lines, each in place of an earlier one of its kind and name.

    `forget` names (kind, name) of what stayed after all.
    """
    path = os.path.join(directory, REMOVED_LOG)
    known = {(line["kind"], line["name"]): line for line in _read(directory, storage)}
    for line in lines:
        known.pop((line["kind"], line["name"]), None)
        known[line["kind"], line["name"]] = line
    kept = [line for key, line in known.items() if key not in forget]
    spare = sum(line.get("kind") == "increment" for line in kept) - _MOST_INCREMENTS
    out = []
    for line in kept:  # the oldest first
        if line.get("kind") == "increment" and spare > 0:
            spare -= 1
            continue
        out.append(json.dumps(line, sort_keys=True))
    data = "".join(f"{line}\n" for line in out).encode()
    home = _shared(directory, storage)
    if storage.stat(os.path.dirname(path)) is None:  # the lock had no room for it
        storage.mkdir(os.path.dirname(path), storage.stat(directory))
    storage.write_atomic(path, data, storage.stat(path) or home)


def _shared(directory: str, storage: Storage) -> FileInfo | None:
    """Return what a new log is like: open to whoever may write to the directory."""
    home = storage.stat(directory)
    return None if home is None else home._replace(mode=home.mode & 0o666)


def read_identities(
    directory: str, storage: Storage
) -> tuple[dict[str, tuple[int, int]], frozenset[str]]:
    """Return path to size and mtime of files that a removal was about to remove.

    And the directories that it would have removed when they were empty.
    """
    found: dict[str, tuple[int, int]] = {}
    rooms: set[str] = set()
    for line in _read(directory, storage):
        files, directories = line.get("files"), line.get("directories")
        if not isinstance(files, dict) or not isinstance(directories, list):
            continue
        rooms |= {os.path.join(directory, str(name)) for name in directories}
        for name, identity in files.items():
            if isinstance(identity, list) and len(identity) == 2:
                found[os.path.join(directory, name)] = (identity[0], identity[1])
    return found, frozenset(rooms)


def _read(directory: str, storage: Storage) -> list[Logged]:
    """Return the lines that parse; the scan reports the others."""
    path = os.path.join(directory, REMOVED_LOG)
    check_own_room(directory, storage)
    if storage.stat(path) is None:
        return []
    try:
        raw = storage.read_small(path, MAX_LOG_BYTES)
    except DamageError as error:
        error.remedy = "remove it: it only remembers what ckptctl removed"
        raise
    found = []
    for line in raw.splitlines():
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            continue
        # Ours have both; anything else could not even be told from another line.
        if isinstance(item, dict) and all(isinstance(item.get(key), str) for key in _KEY):
            found.append(item)
    return found
