"""The server that runs commands, TensorFlow that stays, and a cache of the suite's own."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rooms import cache, module_path, tmp_path
from tests.torture.resident import Resident
from tests.torture.tracing import Server, why_no_strace

__all__ = ["cache", "module_path", "tmp_path"]


@pytest.fixture(scope="session", autouse=True)
def one_clock() -> None:
    """Times of copies are compared with those that files have: in one zone."""
    time.tzset()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands in processes of their own, traced."""
    why_not = why_no_strace()
    if why_not:
        pytest.skip(why_not)
    found = Server(tmp_path_factory.mktemp("bytecode"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def resident() -> Iterator[Resident | None]:
    """TensorFlow in a process of its own that reads what it is told to; None without one."""
    if importlib.util.find_spec("tensorflow") is None:
        yield None
        return
    found = Resident()
    yield found
    found.close()


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Where a case plays: the directory, the user's cache, and an output beside it."""
    path = tmp_path / "room"
    path.mkdir()
    return path
