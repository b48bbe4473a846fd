"""How a bundle comes into being: everything under temporaries, the index renamed last.

`restore.md`, "Writing a checkpoint": a prefix exists when its `.index` does. The mark
`<prefix>.ckptctl.json` is written before anything else, so that whatever a killed run left
behind is known to be ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from ckptctl.bundle.data import shard_path
from ckptctl.bundle.reader import index_path
from ckptctl.storage import FileInfo, Storage

__all__ = ["MARK_SUFFIX", "PendingBundle"]

MARK_SUFFIX = ".ckptctl.json"


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
    mark
        Content of the mark; None leaves none (a trainer's own saves).
    late_mark
        Write the mark with the first rename instead of at the start: an older bundle of
        that name, with a mark of its own, still stands until then.
    """

    def __init__(
        self,
        prefix: str,
        num_shards: int,
        storage: Storage,
        like: FileInfo | None = None,
        mark: bytes | None = None,
        *,
        late_mark: bool = False,
    ) -> None:
        self.prefix = prefix
        self.num_shards = num_shards
        self.storage = storage
        self.like = like
        self.mark = mark
        self.late_mark = late_mark
        self.temporary = f"{prefix}_temp_{os.urandom(16).hex()}"
        self._extra: list[tuple[str, str]] = []
        self._marked = False
        self._placed: list[tuple[str, FileInfo | None]] = []  # final path, file that went there
        self._directories: list[str] = []

    def start(self, sizes: list[int]) -> None:
        """Write the mark and create the data shards under the temporary, preallocated."""
        if not self.late_mark:
            self._write_mark()
        self.storage.mkdir(self.temporary)
        for shard, size in enumerate(sizes):
            self.storage.create(self.shard_temporary(shard), size)

    def _write_mark(self) -> None:
        if self.mark is not None:
            self.storage.write_new(self.prefix + MARK_SUFFIX, self.mark)
            self._marked = True
            self._attributes(self.prefix + MARK_SUFFIX)
            self.storage.fsync_dir(os.path.dirname(self.prefix))

    def shard_temporary(self, shard: int) -> str:
        """Return the path under which a data shard is written."""
        return os.path.join(self.temporary, f"data-{shard:05d}-of-{self.num_shards:05d}")

    def extra(self, suffix: str) -> str:
        """Return where to write a side file that will be `<prefix><suffix>`."""
        path = os.path.join(self.temporary, f"extra-{len(self._extra):05d}")
        self._extra.append((path, suffix))
        return path

    def commit(self, index: bytes) -> None:
        """Rename everything into place, the index last. Data must be fsynced before.

        Raises
        ------
        ExistsError
            Someone else wrote a file of that name meanwhile; nothing was replaced.
        """
        storage = self.storage
        directory = os.path.dirname(self.prefix)
        index_temporary = os.path.join(self.temporary, "index")
        storage.write_new(index_temporary, index)
        moves = [
            (self.shard_temporary(shard), shard_path(self.prefix, shard, self.num_shards))
            for shard in range(self.num_shards)
        ]
        moves += [(path, self.prefix + suffix) for path, suffix in self._extra]
        for path, _ in [*moves, (index_temporary, "")]:
            self._attributes(path)
        if self.late_mark:
            self._write_mark()
        for path, final in moves:
            parent = os.path.dirname(final)
            if parent != directory:  # SSDHASH: <prefix>-<name>-emb_files/
                self._make_directory(parent)
            self._place(path, final)
            if parent != directory:
                storage.fsync_dir(parent)
        storage.fsync_dir(directory)
        self._place(index_temporary, index_path(self.prefix))
        storage.fsync_dir(directory)
        storage.rmdir(self.temporary)

    def _make_directory(self, path: str) -> None:
        if self.storage.stat(path, follow=False) is None:
            self.storage.mkdir(path)
            self._directories.append(path)

    def _place(self, path: str, final: str) -> None:
        self._placed.append((final, self.storage.stat(path, follow=False)))
        self.storage.rename_new(path, final)

    def abort(self) -> None:
        """Remove what was written, the mark last; a bundle whose index is in place stays."""
        storage = self.storage
        exists = any(final == index_path(self.prefix) for final in self._in_place())
        if not exists:
            for final in reversed(list(self._in_place())):
                storage.remove(final)
            for directory in self._directories:
                with suppress(OSError):  # not empty: someone else's files
                    storage.rmdir(directory)
        if storage.stat(self.temporary, follow=False) is not None:
            for info in storage.listdir(self.temporary):
                storage.remove(os.path.join(self.temporary, info.name))
            storage.rmdir(self.temporary)
        if self._marked and not exists:
            storage.remove(self.prefix + MARK_SUFFIX)
            self._marked = False

    def _in_place(self) -> Iterator[str]:
        """Return the final paths under which our own files now lie."""
        for final, ours in self._placed:
            now = self.storage.stat(final, follow=False)
            if ours and now and (now.device, now.inode) == (ours.device, ours.inode):
                yield final

    def _attributes(self, path: str) -> None:
        if self.like is not None:
            self.storage.copy_attributes(path, self.like)
