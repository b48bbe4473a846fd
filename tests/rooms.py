"""Fixtures of the rooms that write much: directories in memory, and a cache of their own."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@contextmanager
def _room() -> Iterator[Path]:
    """A directory in memory where there is one: every merge fsyncs a dozen times."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="ckptctl-", dir=memory))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory instead of pytest's own."""
    with _room() as path:
        yield path


@pytest.fixture(scope="module")
def module_path() -> Iterator[Path]:
    """The same for a whole module."""
    with _room() as path:
        yield path
