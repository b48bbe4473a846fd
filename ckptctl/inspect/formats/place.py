"""Where an export goes: beside its destination first, renamed into place last.

A directory is replaced only when a manifest of ours lists every file in it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Set
from contextlib import contextmanager

from ckptctl.errors import DamageError, ExistsError, NotFoundError, RefusedError, UsageError
from ckptctl.storage import FileInfo, Storage
from ckptctl.storage.local import no_room_for_output

__all__ = ["MANIFEST", "TENSORS", "check_destination", "writing"]

#: File of a directory that says what each of its files is.
MANIFEST = "_ckptctl_export.json"
#: Directory in it for tensors that are no part of a table.
TENSORS = "tensors"
_MAX_MANIFEST_BYTES = 1 << 30
_CHECKPOINT_FILE = re.compile(
    r"checkpoint|.*\.(?:index|meta|data-\d{5}-of-\d{5})", re.ASCII | re.DOTALL
)


def check_destination(path: str, directory: bool, overwrite: bool, storage: Storage) -> bool:
    """Return whether something lies there that will be replaced.

    Raises
    ------
    UsageError
        It is named like a file of a checkpoint.
    NotFoundError
        The directory around it does not exist.
    ExistsError
        It exists, without `overwrite` or as what we never replace.
    """
    if os.path.basename(path) in ("", ".", ".."):
        raise UsageError(f"-o {path!r} names no file or directory")
    if _CHECKPOINT_FILE.fullmatch(os.path.basename(path)):
        raise UsageError(
            f"-o {path!r} is named like a file of a checkpoint", remedy="give another name"
        )
    around = os.path.dirname(path) or "."
    room = storage.stat(around)
    if room is None or not room.is_dir:
        raise no_room_for_output(around)
    info = storage.stat(path, follow=False)
    if info is None:
        return False
    if not overwrite:
        raise ExistsError(
            "the destination exists", file=path, remedy="give another -o PATH, or --overwrite"
        )
    what = _not_ours(path, info, directory, storage)
    if what:
        raise ExistsError(
            "only a former export is replaced",
            file=path,
            found=what,
            remedy="give another -o PATH, or remove it yourself",
        )
    return True


def _not_ours(path: str, info: FileInfo, directory: bool, storage: Storage) -> str:
    """Return what is found there when it may not be replaced, else nothing."""
    if info.is_symlink:
        return "a symbolic link"
    if info.is_dir != directory:
        return "a directory" if info.is_dir else "a file"
    if not directory:
        return "" if _is_regular(info) else "no regular file"
    try:
        facts = json.loads(storage.read_small(os.path.join(path, MANIFEST), _MAX_MANIFEST_BYTES))
        ours = str(facts["schema"]).startswith("ckptctl.exported/")
        known = {str(name) for name in facts["files"]}
    except (
        *(NotFoundError, RefusedError, DamageError),
        *(ValueError, RecursionError, KeyError, TypeError),
    ):
        return f"a directory without a {MANIFEST} of ours"
    if not ours:
        return f"a directory without a {MANIFEST} of ours"
    return _stranger(path, known | {MANIFEST}, storage)


def _stranger(path: str, known: Set[str], storage: Storage) -> str:
    for name, info in _entries(path, storage):
        if name == TENSORS and info.is_dir:
            continue
        if name not in known or not _is_regular(info):
            return f"{name!r}, which no export wrote"
    return ""


def _is_regular(info: FileInfo) -> bool:
    return (info.mode & 0o170000) == 0o100000


def _entries(path: str, storage: Storage) -> Iterator[tuple[str, FileInfo]]:
    """Return what lies in an export and in its room for tensors."""
    for info in storage.listdir(path):
        if info.name == TENSORS and info.is_dir:
            for inner in storage.listdir(os.path.join(path, TENSORS)):
                yield f"{TENSORS}/{inner.name}", inner
        yield info.name, info


@contextmanager
def writing(path: str, directory: bool, overwrite: bool, storage: Storage) -> Iterator[str]:
    """Give a temporary to be filled, and put it at `path` when the block ends well.

    Whatever ends it otherwise removes the temporary. A process that is killed leaves it:
    `PATH.ckptctl-<hex>.tmp`, or, killed between two renames while a directory is replaced,
    the former export as `PATH.ckptctl-<hex>.old`.
    """
    name = f"{path}.ckptctl-{os.urandom(8).hex()}"
    temporary = f"{name}.tmp"
    try:
        if directory:
            storage.mkdir(temporary)
        yield temporary
        replaces = check_destination(path, directory, overwrite, storage)
        if not replaces:
            _put(temporary, path, directory, storage)
        elif directory:
            _exchange(temporary, path, f"{name}.old", storage)
        else:
            storage.rename(temporary, path)
    except BaseException:
        _remove(temporary, storage)
        raise
    storage.fsync_dir(os.path.dirname(path))
    if directory:
        _remove(f"{name}.old", storage)


def _put(temporary: str, path: str, directory: bool, storage: Storage) -> None:
    if directory:
        storage.rename(temporary, path)
    else:
        storage.rename_new(temporary, path)


def _exchange(temporary: str, path: str, aside: str, storage: Storage) -> None:
    storage.rename(path, aside)
    try:
        storage.rename(temporary, path)
    except BaseException:
        storage.rename(aside, path)
        raise


def _remove(path: str, storage: Storage) -> None:
    info = storage.stat(path, follow=False)
    if info is None:
        return
    if not info.is_dir:
        storage.remove(path)
        return
    for name, inner in _entries(path, storage):
        if not inner.is_dir:
            storage.remove(os.path.join(path, name))
    storage.rmdir(os.path.join(path, TENSORS))
    storage.rmdir(path)
