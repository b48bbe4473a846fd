"""What a command loads: what answers from names or a note must not wait for a library."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

import pytest

#: Libraries, and our own modules that load one or read data.
NUMPY = ("numpy", "ckptctl.restore.state")
PROTOBUF = ("google.protobuf", "ckptctl.bundle.proto")
LOOKS = ("rich", "rich.table", "tomllib", "importlib.metadata")
POOLS = ("concurrent.futures", "multiprocessing", "asyncio", "tensorflow")
LAZY = ("", ".bundle", ".chain", ".merge", ".restore", ".tables")


def loaded(*command: str, cache: Path) -> set[str]:
    """Return the modules that a command has loaded when it ends."""
    code = (
        "import sys\nfrom ckptctl.commands.main import main\n"
        f"assert main({list(command)!r}) == 0\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    env = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    )
    return set(ast.literal_eval(done.stderr.splitlines()[-1]))


def test_compact_with_nothing_to_do_loads_no_library(sharded: Path, tmp_path: Path) -> None:
    chain = shutil.copytree(sharded, tmp_path / "chain")
    command = ("compact", str(chain), "--yes", "--min-increments", "1000")
    first = loaded(*command, cache=tmp_path / "cache")
    assert "numpy" in first  # it has compared keys
    loaded(*command, cache=tmp_path / "cache")  # where the first has removed something
    again = loaded(*command, cache=tmp_path / "cache")
    assert not again & {*NUMPY, *PROTOBUF, *LOOKS, *POOLS}
    assert not again & {"ckptctl.merge.plan", "ckptctl.merge.prune", "ckptctl.bundle.reader"}


def test_a_second_look_loads_no_library(sharded: Path, tmp_path: Path) -> None:
    chain = shutil.copytree(sharded, tmp_path / "chain")
    for number, path in enumerate(sorted(chain.rglob("*"))):
        os.utime(path, (1_700_000_000 + number,) * 2)
    for command in (
        ("ls", str(chain)),
        ("show", "-C", str(chain)),
        ("show", "-C", str(chain), "160"),
    ):
        loaded(*command, cache=tmp_path / "cache")
        again = loaded(*command, cache=tmp_path / "cache")
        assert not again & {*NUMPY, *PROTOBUF, *LOOKS, *POOLS}
        assert not again & {"ckptctl.bundle.reader", "ckptctl.tables.catalogue"}


@pytest.mark.parametrize("command", [(), ("ls",), ("show",), ("compact",), ("merge",)])
def test_help_loads_nothing_that_works(command: tuple[str, ...], tmp_path: Path) -> None:
    found = loaded(*command, "--help", cache=tmp_path)
    assert not found & {*NUMPY, *PROTOBUF, *LOOKS, *POOLS}
    assert not found & {"ckptctl.chain.scan", "ckptctl.bundle.reader", "ckptctl.merge.compact"}


def test_as_many_files_are_open_as_may_be() -> None:
    """The limit is raised before the first module reads it."""
    code = (
        "import sys\nfrom resource import RLIMIT_NOFILE, getrlimit, setrlimit\n"
        "setrlimit(RLIMIT_NOFILE, (256, getrlimit(RLIMIT_NOFILE)[1]))\n"
        "from ckptctl.__main__ import console\n"
        "sys.argv = ['ckptctl', '--version']\n"
        "try:\n    console()\nexcept SystemExit:\n    pass\n"
        "from ckptctl import knobs\n"
        "print(getrlimit(RLIMIT_NOFILE)[0], knobs.MAX_OPEN_FILES, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    limit, held = map(int, done.stderr.split())
    hard = getrlimit(RLIMIT_NOFILE)[1]
    assert limit == (1 << 14 if hard == RLIM_INFINITY else min(hard, 1 << 14))
    assert held == limit // 4


@pytest.mark.parametrize("room", LAZY)
def test_every_name_of_a_room_is_there(room: str) -> None:
    package = import_module(f"ckptctl{room}")
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nobody'"):
        package.nobody  # noqa: B018 (the look itself raises)


@pytest.mark.parametrize("command", ["merge", "prune", "compact", "verify"])
def test_what_writes_or_judges_believes_no_memory_of_indexes(
    command: str, sharded: Path, tmp_path: Path
) -> None:
    chain = shutil.copytree(sharded, tmp_path / "chain")
    more = () if command == "verify" else ("--dry-run",)
    found = loaded(command, str(chain), *more, cache=tmp_path / "cache")
    assert "ckptctl.chain.chains" in found
    assert "ckptctl.chain.listed" not in found
