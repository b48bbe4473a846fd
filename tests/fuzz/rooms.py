"""Whole small directories out of one input, and what ckptctl says of them."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from ckptctl.chain import Scan, find_chains, scan_directory
from ckptctl.errors import CkptctlError
from ckptctl.inspect.listing import list_directory
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.merge import plan_merge, plan_prune
from ckptctl.merge.policy import KeepEvery, KeepHourly, KeepLast, KeepWeekly, KeepWithin, Policy
from ckptctl.merge.prune_plan import PruneOptions
from ckptctl.merge.removed_log import log_removed, read_identities
from ckptctl.output.document import dump
from ckptctl.storage import LOCAL
from tests.fuzz.indexes import repaired

__all__ = ["directory", "pack", "removed_log", "unpack"]

_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
_MOST_FILES = 24
_POLICY = Policy((KeepLast(1), KeepEvery(1000), KeepHourly(1), KeepWeekly(2), KeepWithin(60.0)))


def pack(files: list[tuple[bytes, bytes]]) -> bytes:
    """Return files as one input: length and bytes of each name, then of its content."""
    return b"".join(
        bytes([min(len(name), 255)]) + name[:255] + len(data).to_bytes(2, "little") + data
        for name, data in files
        if len(data) < 1 << 16
    )


def unpack(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the files of an input, however it was cut or changed."""
    found = []
    at = 0
    while at < len(data) and len(found) < _MOST_FILES:
        name_end = at + 1 + data[at]
        end = name_end + 2 + int.from_bytes(data[name_end : name_end + 2], "little")
        found.append((data[at + 1 : name_end], data[name_end + 2 : end]))
        at = end
    return found


def directory(data: bytes) -> None:
    """A checkpoint directory: every question and every plan, and nothing in it changes."""
    home = tempfile.mkdtemp(prefix="fuzz-", dir=_MEMORY)
    os.environ["XDG_CACHE_HOME"] = f"{home}/cache"
    room = Path(home, "room")
    try:
        for path, content in unpack(data):
            _write(room, path, content)
        room.mkdir(exist_ok=True)
        before = _listing(room)
        _ask(str(room))
        assert _listing(room) == before, "a question changed the directory"
    finally:
        shutil.rmtree(home)


def _write(room: Path, path: bytes, content: bytes) -> None:
    """Write a file of the directory, or of a room inside it; never outside of it."""
    inside = (piece for piece in path.split(b"\0")[0].split(b"/"))
    pieces = [piece for piece in inside if piece not in (b"", b".", b"..")]
    if not pieces:
        return
    target = room.joinpath(*map(os.fsdecode, pieces[-2:]))
    with suppress(OSError):  # a directory and a file of one name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(repaired(content) if path.endswith(b".index") else content)


def _listing(room: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path), info.st_size, info.st_mtime_ns)
        for path in room.rglob("*")
        if (info := path.lstat())
    )


def _ask(room: str) -> None:
    chains = find_chains(scan_directory(room))
    listing = list_directory(room)
    dump(listing.document(), io.StringIO())
    assert listing.latest == chains.latest
    verified = execute_verify(plan_verify(room))
    dump(verified.document(), io.StringIO())
    with suppress(CkptctlError):
        dump(plan_merge(room, remember=False).to_json(), io.StringIO())
    with suppress(CkptctlError):
        options = PruneOptions(_POLICY, orphans=True, abandoned=True, leftovers=True, min_age_s=0.0)
        pruning = plan_prune(room, options, remember=False)
        dump(pruning.to_save(), io.StringIO())
        goes = {item.path for item in pruning.removed}
        assert not any(item.prefix in goes for item in chains.scan.others), "what is not ours goes"
        if chains.latest is not None:
            kept = {item.step for item in pruning.items if not item.remove}
            assert chains.latest in kept, "the newest restore point goes"


def _names(scan: Scan) -> set[str]:
    return {item.name for item in scan.removed if item.kind == "full"}


def removed_log(data: bytes) -> None:
    """A log of removals: scanned, added to by a prune, and scanned again."""
    home = tempfile.mkdtemp(prefix="fuzz-", dir=_MEMORY)
    try:
        os.mkdir(f"{home}/.ckptctl")
        Path(home, ".ckptctl", "removed.jsonl").write_bytes(data)
        before = scan_directory(home)
        line = {"kind": "full", "name": "model.ckpt-77", "step": 77, "merged": False}
        files = {"files": {"model.ckpt-77.index": [1, 2]}, "directories": []}
        log_removed(home, [{**line, **files}], LOCAL)
        after = scan_directory(home)
        assert after.removed[-1].step == 77
        assert _names(after) >= _names(before), "a full that was removed is forgotten"
        assert f"{home}/model.ckpt-77.index" in read_identities(home, LOCAL)[0]
    finally:
        shutil.rmtree(home)
