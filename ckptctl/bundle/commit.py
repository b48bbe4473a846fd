"""How a bundle comes into being: everything under temporaries, the index renamed last.

`restore.md`, "Writing a checkpoint": a prefix exists when its `.index` does. The mark
`<prefix>.ckptctl.json` is written first, with the name of the temporary, and again right
before the first rename, with size and mtime of every file that is renamed: whatever a
killed run leaves behind is then known to be ours, file by file. Where an older bundle with a
mark of its own stands until then, the first form lies inside the temporary. At the end it
says no more than where the bundle comes from, and which index is its own: a trainer may save
over the bundle and leave the mark.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from ckptctl.bundle.names import INNER_MARK, MARK_SUFFIX, index_path, shard_path
from ckptctl.bundle.table import IndexTable
from ckptctl.errors import ChangedError, CkptctlError, DamageError, NotFoundError, RefusedError
from ckptctl.storage import FileInfo, Storage
from ckptctl.storage.own import check_no_link, make_new

__all__ = ["Mark", "PendingBundle", "file_identity", "read_mark"]

_MAX_MARK_BYTES = 64 << 20
#: What a mark says beside the names of files: JSON.
Mark = Mapping[str, Any]


def file_identity(info: FileInfo) -> list[int]:
    """Return what tells a file from another of its name, also when both were copied."""
    return [info.size, info.mtime_ns]


def read_mark(path: str, storage: Storage) -> dict[str, Any]:
    """Return a mark, or {} where there is none that could be one of ours."""
    try:
        check_no_link(path, storage)
        facts = json.loads(storage.read_small(path, _MAX_MARK_BYTES))
    except (NotFoundError, RefusedError, DamageError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


class PendingBundle:
    """A bundle that is being written; it exists once `commit` returns.

    Parameters
    ----------
    prefix
        Where it will be.
    num_shards
        Number of data shards.
    storage
        Where the files lie.
    like
        A file whose mode, owner and group the result takes.
    like_files
        Suffix behind the prefix to path of the file whose attributes that file of the result
        takes, its access control list too: parameter servers may save as different users.
    mark
        Facts for the mark; None leaves none (a trainer's own saves).
    not_before_ns
        The index is dated so at least: it is no older than what the bundle is made from, of
        which another machine's clock may tell a later time.
    replaces
        Files of an older bundle at `prefix`, the index first. They move to `trash` when all
        is written, and back if something fails then.
    trash
        Directory for these; where there is one of that name, a number is put behind it.
    """

    def __init__(
        self,
        prefix: str,
        num_shards: int,
        storage: Storage,
        like: FileInfo | None = None,
        mark: Mark | None = None,
        *,
        like_files: Mapping[str, str] = MappingProxyType({}),
        not_before_ns: int = 0,
        replaces: Sequence[FileInfo] = (),
        trash: str = "",
    ) -> None:
        self.prefix = prefix
        self.num_shards = num_shards
        self.storage = storage
        self.like = like
        self.like_files = like_files
        self.not_before_ns = not_before_ns
        self.mark = mark
        self.replaces = replaces
        self.trash = trash
        self.temporary = f"{prefix}_temp_{os.urandom(16).hex()}"
        self._extra: list[tuple[str, str]] = []
        self._marked = False
        self._placed: list[tuple[str, FileInfo | None]] = []  # final path, file that went there
        self._directories: list[str] = []
        self._moved: list[tuple[str, str]] = []  # from the prefix, to the trash

    @property
    def _directory(self) -> str:
        return os.path.dirname(self.prefix)

    def start(self) -> None:
        """Write the mark and make the temporary, in which the data shards are created next."""
        if self.mark is not None and not self.replaces:
            self._marked = True
            self._write_mark(self.prefix + MARK_SUFFIX, {})
        self.storage.mkdir(self.temporary, self._home())
        if self.mark is not None and self.replaces:
            older = {info.name: file_identity(info) for info in self.replaces}
            self._write_mark(os.path.join(self.temporary, INNER_MARK), {"replaces": older})

    def _write_mark(self, path: str, more: Mark, *, finished: bool = False) -> None:
        facts = {**(self.mark or {}), **more}
        if not finished:
            facts["temporary"] = os.path.basename(self.temporary)
        data = json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"
        self.storage.write_atomic(path, data, self.like)

    def shard_temporary(self, shard: int) -> str:
        """Return the path under which a data shard is written."""
        return os.path.join(self.temporary, f"data-{shard:05d}-of-{self.num_shards:05d}")

    @property
    def index_temporary(self) -> str:
        """Path under which the index is written."""
        return os.path.join(self.temporary, "index")

    def extra(self, suffix: str) -> str:
        """Return where to write a side file that will be `<prefix><suffix>`."""
        path = os.path.join(self.temporary, f"extra-{len(self._extra):05d}")
        self._extra.append((path, suffix))
        return path

    def commit(self, index: bytes, still_ours: Callable[[], None] = lambda: None) -> None:
        """Rename everything into place, the index last. Data must be fsynced before.

        Once the index is in place nothing raises any more: the bundle exists, and a
        temporary that does not go is a leftover.

        Parameters
        ----------
        index
            The index.
        still_ours
            Called right before the index is renamed; may raise to give up.

        Raises
        ------
        ExistsError
            Someone else wrote a file of that name meanwhile; nothing was replaced.
        ChangedError
            A file that was to be replaced is no longer what it was; nothing was moved. Or
            somebody has replaced a file of ours before the index was there.
        """
        storage = self.storage
        storage.write_new(self.index_temporary, index, not_before_ns=self.not_before_ns)
        IndexTable(self.index_temporary, storage).pairs()  # read back before aught depends on it
        moves = [
            (self.shard_temporary(shard), shard_path(self.prefix, shard, self.num_shards))
            for shard in range(self.num_shards)
        ]
        moves += [(path, self.prefix + suffix) for path, suffix in self._extra]
        for path, final in (*moves, (self.index_temporary, index_path(self.prefix))):
            self._attributes(path, final)
        storage.fsync_dir(self.temporary)
        info = storage.stat(self.index_temporary)
        own = {"index": file_identity(info)} if info is not None else {}
        self._make_way()
        if self.mark is not None:
            self._marked = True
            self._write_mark(self.prefix + MARK_SUFFIX, {"files": self._identities(moves), **own})
        for path, final in moves:
            parent = os.path.dirname(final)
            if parent != self._directory:  # SSDHASH: <prefix>-<name>-emb_files/
                self._make_directory(parent)
            self._place(path, final)
        for parent in self._directories:
            storage.fsync_dir(parent)
        storage.fsync_dir(self._directory)
        still_ours()
        self._check_in_place()
        self._place(self.index_temporary, index_path(self.prefix))
        storage.fsync_dir(self._directory)
        with suppress(OSError):
            self._remove_temporary()
            if self.mark is not None:  # from here on it only says where the bundle is from
                storage.fsync_dir(self._directory)  # what it no longer names is gone for good
                self._write_mark(self.prefix + MARK_SUFFIX, own, finished=True)

    def _identities(self, moves: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
        found = {}
        for path, final in moves:
            info = self.storage.stat(path, follow=False)
            if info is not None:
                found[os.path.relpath(final, self._directory or ".")] = file_identity(info)
        return found

    def _make_way(self) -> None:
        """Move what is replaced to the trash, its index first."""
        if not self.replaces:
            return
        for info in self.replaces:
            path = os.path.join(self._directory, info.name)
            now = self.storage.stat(path, follow=False)
            same = now is not None and (info.is_dir or now.identity == info.identity)
            if not same:
                raise ChangedError(
                    "what was to be replaced is no longer what it was",
                    file=path,
                    remedy="a trainer may have saved there: look at it, and run the merge again",
                )
        check_no_link(os.path.dirname(self.trash), self.storage)
        self.storage.mkdir(os.path.dirname(self.trash), self._home())
        # New: a run before this one, within its second, may have called it so.
        self.trash = make_new(self.trash, self._home(), self.storage)
        # A power cut must not leave what moves in a directory that never came to be.
        for directory in (self._directory, os.path.dirname(self.trash)):
            self.storage.fsync_dir(directory)
        for number, info in enumerate(self.replaces):
            path = os.path.join(self._directory, info.name)
            place = os.path.join(self.trash, info.name)
            self._moved.append((path, place))
            self.storage.rename(path, place)
            if number == 0:  # the index: no power cut may bring it back without its data
                self._flush_moves()
        self._flush_moves()

    def _flush_moves(self) -> None:
        for directory in (self.trash, self._directory):
            self.storage.fsync_dir(directory)

    def _make_directory(self, path: str) -> None:
        check_no_link(path, self.storage)  # files would be written where it leads
        if self.storage.stat(path, follow=False) is None:
            self._directories.append(path)  # first: it may be made and not get its owner
            self.storage.mkdir(path, self._home())

    def _place(self, path: str, final: str) -> None:
        self._placed.append((final, self.storage.stat(path, follow=False)))
        self.storage.rename_new(path, final)

    def _check_in_place(self) -> None:
        """Check that no shard was replaced: with our index it would make a damaged bundle."""
        here = set(self._in_place(touched=True))
        for final, _ in self._placed:
            if final not in here:
                raise ChangedError(
                    "somebody else has put a file in the place of ours",
                    file=final,
                    remedy="a trainer may be saving there: look at it, and run the merge again",
                )

    def abort(self) -> None:
        """Remove what was written, the mark last; a bundle whose index is in place stays."""
        storage = self.storage
        if index_path(self.prefix) in self._in_place(touched=True):
            with suppress(OSError):
                self._remove_temporary()
            return
        for final in reversed(list(self._in_place())):
            storage.remove(final)
        for directory in self._directories:
            with suppress(OSError):  # not empty: someone else's files
                storage.rmdir(directory)
        self._remove_temporary()
        if self._marked:
            self._remove_mark()
            self._marked = False
        self._move_back()

    def _remove_mark(self) -> None:
        """Remove our mark, not that of a run that took our lease over and began anew."""
        path = self.prefix + MARK_SUFFIX
        with suppress(CkptctlError, ValueError, KeyError, TypeError):
            facts = json.loads(self.storage.read_small(path, _MAX_MARK_BYTES))
            if facts["temporary"] == os.path.basename(self.temporary):
                self.storage.remove(path)

    def _move_back(self) -> None:
        storage = self.storage
        back = [
            (path, place)
            for path, place in reversed(self._moved)  # the index of the older bundle last
            if storage.stat(place, follow=False) is not None
        ]
        self._moved.clear()
        # A trainer that saved there meanwhile is newer: no file of the two may mix.
        if back and not any(storage.stat(path, follow=False) for path, _ in back):
            for path, place in back[:-1]:
                storage.rename_new(place, path)
            storage.fsync_dir(self._directory)
            for path, place in back[-1:]:  # the index, once its data are there for good
                storage.rename_new(place, path)
            storage.fsync_dir(self._directory)

    def _remove_temporary(self) -> None:
        storage = self.storage
        if storage.stat(self.temporary, follow=False) is not None:
            for info in storage.listdir(self.temporary):
                path = os.path.join(self.temporary, info.name)
                storage.remove(path, within=self._directory)
            storage.rmdir(self.temporary)

    def _in_place(self, *, touched: bool = False) -> Iterator[str]:
        """Return the final paths under which our own files now lie.

        If `touched`, also what somebody has written into since, as `cp` does, or what has
        another number by now, as some network filesystems give.
        """
        for final, ours in self._placed:
            now = self.storage.stat(final, follow=False)
            if ours and now:
                here, known = now.identity, ours.identity
                alike = here[:2] == known[:2], here[2:] == known[2:]
                if all(alike) or (touched and any(alike)):
                    yield final

    def _attributes(self, path: str, final: str) -> None:
        source = self.like_files.get(final[len(self.prefix) :])
        like = self.storage.stat(source) if source is not None else None
        if like is not None:
            self.storage.copy_attributes(path, like, source)
        elif self.like is not None:
            self.storage.copy_attributes(path, self.like)

    def _home(self) -> FileInfo | None:
        """Return what directories of ours are like: that of the bundle.

        Where nothing is to be like anything else (a save), what is usual for the process.
        """
        return None if self.like is None else self.storage.stat(self._directory or ".")
