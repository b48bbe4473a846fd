"""Free space and memory: refused before the first byte, and nothing left when it runs out."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptctl.commands.failures import describe
from ckptctl.errors import NoSpaceError, RefusedError
from ckptctl.merge import execute_merge
from tests.merge.large import large_full
from tests.merge.model import names, small_chain
from tests.merge.storages import Small, Sparse
from tests.oracle.chain import Chain, build_chain, changes, full, increment, listing, table

MB = 1 << 20


def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    need = chain.plan().bytes_to_write
    before = listing(chain.directory)
    with pytest.raises(NoSpaceError) as caught:
        chain.plan(storage=Small(need))
    assert caught.value.exit_code == 12
    assert str(need) in str(caught.value.found)
    assert listing(chain.directory) == before
    assert not (chain.directory / ".ckptctl").exists()
    chain.plan(storage=Small(need + 17 * MB))


def test_nothing_to_do_needs_no_space(tmp_path: Path) -> None:
    assert small_chain(tmp_path).plan(40, storage=Small(0)).nothing_to_do


def large_chain(tmp_path: Path) -> Chain:
    """A full of 3 MB."""
    return build_chain(
        tmp_path,
        full(10, table("emb", range(20_000), dim=16)),
        increment(20, changes("emb", range(19_900, 20_100), dim=16)),
    )


def fill(disk: Path, left: int) -> None:
    status = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - left)


def test_a_small_disk_is_refused_before_the_first_byte(tmp_path: Path, disk: Path) -> None:
    chain = large_chain(tmp_path)
    chain.plan(20, disk / "x-20")
    fill(disk, 10 * MB)
    with pytest.raises(NoSpaceError):
        chain.plan(20, disk / "x-20")
    assert names(disk) == {"filler"}


@pytest.mark.parametrize("storage", [None, Sparse()], ids=["preallocated", "sparse"])
@pytest.mark.parametrize("left", [0, 4096, 8192, 100_000, 2 * MB, None])
def test_a_disk_that_fills_up_after_the_plan(
    tmp_path: Path, disk: Path, storage: Sparse | None, left: int | None
) -> None:
    """The shards, the mark, the index or a side file: whatever did not fit, nothing stays."""
    chain = large_chain(tmp_path)
    Path(f"{chain.full_prefix(10)}.meta").write_bytes(bytes(200_000))
    more = {} if storage is None else {"storage": storage}
    plan = chain.plan(20, disk / "x-20", **more)
    # None: room for the data, not for the side file and the index.
    fill(disk, plan.bytes_to_write - 200_000 + 20_000 if left is None else left)
    with pytest.raises(OSError, match="No space left") as caught:
        execute_merge(plan, jobs=2)
    assert caught.value.errno == errno.ENOSPC
    assert describe(caught.value).code == 12
    assert names(disk) - {"filler"} <= {"x-20.ckptctl.json"}
    (disk / "filler").unlink()
    left_over = set(chain.plan(20, disk / "x-20").leftovers)
    assert left_over == names(disk)
    chain.merge(20, disk / "x-20")
    chain.check(10, 20, prefix=disk / "x-20")


# --- memory ---------------------------------------------------------------------------


def test_too_little_memory_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    with pytest.raises(RefusedError) as caught:
        chain.plan(memory=10 * MB)
    assert "--memory" in str(caught.value.found)


def test_memory_decides_how_many_tasks_run_at_a_time(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    one = chain.plan(memory=62 * MB, jobs=8)
    assert one.jobs == 1
    assert one.memory_bytes <= 62 * MB
    assert chain.plan(memory=2000 * MB, jobs=8).jobs == 8
    assert chain.plan(jobs=8).jobs is None


MEASURE = """
import json, resource, sys
limit = int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from ckptctl.merge import execute_merge, plan_merge
memory = int(sys.argv[4]) or None
plan = plan_merge(sys.argv[1], None, sys.argv[2], memory=memory, jobs=2)
result = execute_merge(plan, jobs=2)
print(json.dumps([result.peak_rss_bytes, plan.memory_bytes, result.keys, result.bytes]))
"""


def measured(chain: Chain, output: Path, *, limit: int = 0, memory: int = 0) -> list[int]:
    root = Path(__file__).parents[2]
    # One thread for BLAS, which nobody calls: each would take address space of its own.
    env = os.environ | {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}
    arguments = [str(chain.directory), str(output), str(limit), str(memory)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[int] = json.loads(done.stdout)
    return found


def test_the_memory_that_is_asked_for_is_enough(tmp_path: Path) -> None:
    """A full of 200 MB, an increment of 300,000 keys in two parts."""
    chain = large_full(tmp_path, rows=400_000, dim=128, incoming=300_000)
    for memory in (100 * MB, 160 * MB):
        peak, planned, keys, _ = measured(chain, tmp_path / f"x{memory}-20", memory=memory)
        assert planned <= memory
        assert peak <= memory
        assert keys == 400_000 + 150_000


def test_a_full_ten_times_larger_than_the_memory_allowed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """3.5 GB of rows; address space for 320 MB, of which Python and NumPy take 110.

    On a disk, not in memory: 3.5 GB are written, and removed at once.
    """
    limit, rows = 320 * MB, 3_400_000
    room = tmp_path_factory.mktemp("large")
    status = os.statvfs(room)
    if status.f_bavail * status.f_frsize < 4 << 30:
        pytest.skip("needs 4 GB of disk for a moment")
    chain = large_full(room, rows=rows, dim=256, incoming=20_000)
    size = sum(path.stat().st_size for path in chain.directory.glob("model.ckpt-10.data*"))
    try:
        peak, _, keys, written = measured(chain, room / "x-20", limit=limit)
    finally:
        shutil.rmtree(room)
    assert size > 10 * limit
    assert peak < limit
    assert keys == rows + 10_000
    assert written > size
