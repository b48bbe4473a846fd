"""An export is whole or not there, and replaces nothing but a former one."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ckptctl.commands.failures import describe
from ckptctl.errors import (
    ExistsError,
    NoSpaceError,
    NotFoundError,
    TableError,
    TensorChecksumError,
    UsageError,
)
from ckptctl.inspect.export import execute_export, plan_export
from ckptctl.running import Runner
from tests.inspect.exports import (
    ROOT,
    assert_loaded,
    export,
    leavings,
    load,
    noisy_chain,
    rich_chain,
)
from tests.inspect.model import look
from tests.merge.storages import Small
from tests.oracle.chain import (
    build_chain,
    changes,
    flip,
    full,
    increment,
    put,
    table,
)

# --- nothing half done ----------------------------------------------------------------


def test_damage_leaves_nothing(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    shard = Path(f"{chain.full_prefix(10)}.data-00000-of-00001")
    with look(10, chain.directory) as view:
        member = view.table("user/emb").primary
        entry = view.reader.entry("user/emb/part_1-values")
        assert member.rows
    flip(shard, entry.offset + entry.size - 1)
    with pytest.raises(TensorChecksumError, match="user/emb/part_1-values"):
        export(chain, output)
    assert not output.exists()
    assert leavings(output) == set()


@pytest.mark.parametrize("more", [[1], [-3]])
@pytest.mark.parametrize("step", [10, 20])
def test_keys_that_no_ps_can_save_are_not_exported(
    tmp_path: Path, output: Path, step: int, more: list[int]
) -> None:
    ev = table("emb", [1, 2, 5], slots=())[0]
    rows = [ev.rows[0], *(ev.rows[0]._replace(key=key) for key in more), *ev.rows[1:]]
    news = increment(20, changes("emb", [2, 7], slots=()))
    chain = build_chain(tmp_path, full(10, put([ev], rows=rows)), news)
    with pytest.raises(TableError, match="key"):
        export(chain, output, step)
    assert not output.exists()


def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view, pytest.raises(NoSpaceError):
        plan_export(view, str(output), storage=Small(1000))
    assert leavings(output) == set()


def test_a_file_that_grows_too_large(tmp_path: Path, output: Path) -> None:
    chain = noisy_chain(tmp_path, 4000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            export(chain, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert describe(caught.value).code == 12
    assert not output.exists()
    assert leavings(output) == set()


@pytest.mark.parametrize("name", ["out", "out.npz", "out.safetensors"])
def test_a_disk_that_fills_up_after_the_plan(tmp_path: Path, disk: Path, name: str) -> None:
    chain = noisy_chain(tmp_path, 30_000)
    with look(10, chain.directory) as view:
        plan = plan_export(view, str(disk / name))
        status = os.statvfs(disk)
        with open(disk / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - (1 << 20))
        with pytest.raises(OSError, match="No space left") as caught:
            execute_export(plan, Runner(2))
    assert describe(caught.value).code == 12
    assert {path.name for path in disk.iterdir()} == {"filler"}


KILLED = """
import os, signal, sys
from ckptctl.inspect import export
from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import open_view
from ckptctl.storage import LocalStorage

class Mortal(LocalStorage):
    def fsync_dir(self, directory):
        os.kill(os.getpid(), signal.SIGKILL)
    def rename_new(self, source, destination):
        os.kill(os.getpid(), signal.SIGKILL)

with open_view(find_target("latest", sys.argv[1])) as view:
    plan = export.plan_export(view, sys.argv[2])
    export.execute_export(plan, storage=Mortal())
"""


def test_one_that_is_killed_leaves_a_temporary_alone(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(chain.directory), str(output)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = leavings(output)
    assert left.startswith(f"{output.name}.ckptctl-")
    assert left.endswith(".tmp")
    assert not output.exists()
    with look("latest", chain.directory) as view:
        execute_export(plan_export(view, str(output)))
    assert_loaded(load(output), state)


class Interrupting:
    """Progress that ends like Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, phase: str, total: int | None = None) -> None:
        self.writing = phase == "writing"

    def advance(self, done: int) -> None:
        if self.writing:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def finish(self) -> None: ...


def test_one_that_is_interrupted_leaves_nothing(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view:
        plan = plan_export(view, str(output))
        with pytest.raises(KeyboardInterrupt):
            execute_export(plan, Runner(2, progress=Interrupting(4)))  # type: ignore[arg-type]
    assert not output.exists()
    assert leavings(output) == set()


# --- what lies there already ----------------------------------------------------------


def test_what_exists_is_replaced_on_demand_alone(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    export(chain, output, tables=["ids"])
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    with pytest.raises(ExistsError):
        export(chain, output)
    assert {path: path.stat().st_ino for path in output.rglob("*")} == before
    export(chain, output, overwrite=True)
    assert_loaded(load(output), state)


def strange(output: Path, kind: str) -> None:
    if kind == "a file of someone else's":
        (output / "notes.txt").write_text("mine")
    elif kind == "one among the tensors":
        (output / "tensors" / "notes.txt").write_text("mine")
    elif kind == "a link":
        (output / "ids.parquet").unlink()
        (output / "ids.parquet").symlink_to("/etc/passwd")
    elif kind == "no manifest":
        (output / "_ckptctl_export.json").unlink()
    elif kind == "another's manifest":
        (output / "_ckptctl_export.json").write_text('{"files": []}')
    elif kind == "a broken manifest":
        (output / "_ckptctl_export.json").write_text("[")
    elif kind == "a bottomless manifest":
        (output / "_ckptctl_export.json").write_text("[" * 200_000)


@pytest.mark.parametrize(
    "kind",
    [
        "a file of someone else's",
        "one among the tensors",
        "a link",
        "no manifest",
        "another's manifest",
        "a broken manifest",
        "a bottomless manifest",
    ],
)
def test_a_directory_that_is_not_ours_is_never_replaced(tmp_path: Path, kind: str) -> None:
    chain, _ = rich_chain(tmp_path)
    output = tmp_path / "out"
    export(chain, output, tables=["ids", "bias"])
    strange(output, kind)
    before = sorted(path.name for path in output.rglob("*"))
    with pytest.raises(ExistsError, match="only a former export"):
        export(chain, output, overwrite=True)
    assert sorted(path.name for path in output.rglob("*")) == before


def test_nothing_of_another_kind_is_replaced(tmp_path: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "room.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("file")
    for name in ("file", "room.npz", "link.npz"):
        with pytest.raises(ExistsError, match="only a former export"):
            export(chain, tmp_path / name, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("appears", ["file", "directory"])
def test_what_comes_to_lie_there_meanwhile_stays(
    tmp_path: Path, output: Path, appears: str
) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view:
        plan = plan_export(view, str(output))
        output.mkdir() if appears == "directory" else output.write_text("mine")
        with pytest.raises(ExistsError):
            execute_export(plan)
    assert output.is_dir() if appears == "directory" else output.read_text() == "mine"
    assert leavings(output) == set()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("checkpoint", UsageError),
        ("x.index", UsageError),
        ("x.data-00000-of-00001", UsageError),
        ("nowhere/x.npz", NotFoundError),
        ("..", UsageError),
    ],
)
def test_where_no_export_goes(tmp_path: Path, name: str, error: type[Exception]) -> None:
    chain, _ = rich_chain(tmp_path)
    with pytest.raises(error):
        export(chain, tmp_path / name, overwrite=True)
