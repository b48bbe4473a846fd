"""What moves to the trash must find it there after a power cut: made and flushed before."""

from __future__ import annotations

import os
from pathlib import Path

from ckptctl.merge import execute_merge, execute_prune
from ckptctl.merge.policy import KeepLast
from ckptctl.storage import FileInfo
from tests.merge.model import small_chain
from tests.merge.prunes import age, plan
from tests.merge.storages import Watched


class Noting(Watched):
    """Notes each change, and checks each rename: no directory on the way may be unflushed."""

    def __init__(self) -> None:
        self.unflushed: dict[str, set[str]] = {}
        self.moved: list[str] = []

    def mkdir(self, path: str, like: FileInfo | None = None, *, new: bool = False) -> None:
        if not os.path.exists(path):
            self.unflushed.setdefault(os.path.dirname(path), set()).add(path)
        super().mkdir(path, like, new=new)

    def fsync_dir(self, directory: str) -> None:
        super().fsync_dir(directory)
        self.unflushed.pop(directory, None)

    def rename(self, source: str, destination: str, **more: int) -> None:
        fresh = set().union(*self.unflushed.values()) if self.unflushed else set()
        inside = {path for path in fresh if destination.startswith(f"{path}/")}
        assert not inside, f"{destination} moves into what was not flushed"
        self.moved.append(destination)
        super().rename(source, destination, **more)


def test_of_a_prune(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    storage = Noting()
    found = plan(chain, KeepLast(1), trash=True, storage=storage)
    execute_prune(found, jobs=1)
    assert any("/.incremental_checkpoint/" in path for path in storage.moved)


def test_of_an_overwritten_full(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(30, chain.directory / "x-50", update_state=False)
    storage = Noting()
    found = chain.plan(50, chain.directory / "x-50", overwrite=True, storage=storage)
    execute_merge(found, jobs=1)
    assert storage.moved
