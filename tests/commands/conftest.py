"""Running ckptctl as a whole process, and directories for it to look at."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from ckptctl.commands.main import main
from tests.rooms import cache

__all__ = ["cache"]

ROOT = Path(__file__).parents[2]

#: Makes `ckptctl probe` a command that does what its body says.
PROBE = """
import sys, types, threading
import click
from ckptctl import errors
from ckptctl.__main__ import console
from ckptctl.commands import main, options
from ckptctl.output import Output

@click.command("probe")
@options.output
def command(out: Output) -> None:
    {body}

module = types.ModuleType("ckptctl.commands.probe")
module.command = command
sys.modules[module.__name__] = module
main.COMMANDS = {{**main.COMMANDS, "probe": "Probe."}}
console()
"""


class Run(Protocol):
    """Runs ckptctl to its end."""

    def __call__(
        self, *args: object, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def bare_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which nothing is set that ckptctl or rich would heed."""
    heeded = ("CKPTCTL", "_CKPTCTL", "PYTHON", "NO_COLOR", "FORCE_COLOR", "TERM", "COLUMNS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(heeded)}
    return env | {
        "PYTHONPATH": str(ROOT),
        # Compiled once for the whole session, and not into the source tree.
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode")),
        # Where ckptctl remembers which increments it has compared.
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        "TERM": "xterm-256color",
    }


@pytest.fixture
def run(bare_env: dict[str, str], tmp_path: Path) -> Run:
    """Run `ckptctl ARGS` and return what came of it."""

    def run_(
        *args: object, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ckptctl", *map(str, args)],
            env=bare_env | (env or {}),
            cwd=cwd or tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run_


@pytest.fixture
def inside(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `ckptctl ARGS` in this process, in a tenth of the time: code, stdout, stderr."""
    for name in os.environ:
        if name.startswith("CKPTCTL"):
            monkeypatch.delenv(name)

    def inside_(*args: object, env: dict[str, str] | None = None) -> tuple[int, str, str]:
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = main([*map(str, args)])
        return code, *capsys.readouterr()

    return inside_


@pytest.fixture
def probe(bare_env: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start `ckptctl probe` with a body of our own, and return the process."""

    def start(
        body: str, *args: str, env: dict[str, str] | None = None, **popen: object
    ) -> subprocess.Popen[str]:
        source = PROBE.format(body=body.strip().replace("\n", "\n    "))
        settings: dict[str, object] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        return subprocess.Popen(
            [sys.executable, "-c", source, "probe", *args],
            env=bare_env | (env or {}),
            text=True,
            **(settings | popen),  # type: ignore[call-overload]
        )

    return start


@pytest.fixture
def sharded(golden: Path, tmp_path: Path) -> Path:
    """A copy of a chain that DeepRec wrote: fulls 100, 160; increments 120, 140, 180."""
    target = tmp_path / "sharded"
    shutil.copytree(golden / "deeprec" / "sharded", target)
    (target / "expected.json").unlink()
    return target


@contextmanager
def untouched(directory: Path) -> Iterator[None]:
    """Fail when a file or directory below was written, renamed, made or removed."""

    def state() -> dict[str, tuple[int, int, int]]:
        found = {}
        for path in [directory, *directory.rglob("*")]:
            info = path.lstat()
            found[str(path)] = (info.st_mtime_ns, info.st_size, info.st_ino)
        return found

    before = state()
    yield
    assert state() == before


@pytest.fixture(name="untouched")
def untouched_fixture() -> Callable[[Path], object]:
    """Return the context manager."""
    return untouched
