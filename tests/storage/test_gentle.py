"""What is read once does not stay in the page cache; what others read does."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.merge import execute_merge, plan_merge
from ckptctl.storage import LOCAL, gentle
from ckptctl.storage.gentle import GentleStorage
from ckptctl.storage.pace import Pace
from tests.descriptors import held
from tests.oracle.chain import build_chain, changes, full, increment, table

MIB = 1 << 20


def cached(*paths: Path) -> int:
    """Bytes of files that are in the page cache."""
    command = ["fincore", "--bytes", "--noheadings", "--output", "RES", *map(str, paths)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sum(map(int, found.split()))


def forgotten(*paths: Path) -> None:
    """Take files out of the page cache."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose filesystem says what it has in the cache; small limits."""
    if shutil.which("fincore") is None:
        pytest.skip("no fincore: util-linux ends this skip")
    monkeypatch.setattr(gentle, "_CHUNK", MIB)
    monkeypatch.setattr(knobs, "CACHE_BYTES", 3 * MIB)
    probe = tmp_path / "probe"
    probe.write_bytes(bytes(MIB))
    forgotten(probe)
    if cached(probe):
        pytest.skip("pages of this filesystem cannot be dropped: another TMPDIR ends this skip")
    return tmp_path


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that the kernel reads ahead: none, so that what we do is seen."""
    opened = gentle._GentleFile.__init__

    def init(self: object, path: str, flags: int) -> None:
        opened(self, path, flags)  # type: ignore[arg-type]
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # type: ignore[attr-defined]

    monkeypatch.setattr(gentle._GentleFile, "__init__", init)
    return MIB // 2


@pytest.fixture
def path(place: Path) -> Path:
    """A file of 16 MiB that is not in the cache."""
    path = place / "file"
    path.write_bytes(os.urandom(16 * MIB))
    forgotten(path)
    return path


def read(path: Path, begin: int = 0, end: int = 16 * MIB, storage: object = None) -> list[int]:
    """Read front to back; return what was cached after each MiB, and at the end."""
    file = (storage or GentleStorage()).open(str(path))
    seen = []
    buffer = memoryview(bytearray(MIB // 4))
    for at in range(begin, end, len(buffer)):
        assert file.readinto(at, buffer) == len(buffer)
        seen.append(cached(path))
    file.close()
    return [*seen, cached(path)]


def test_what_is_read_once_does_not_stay(path: Path, ahead: int) -> None:
    *seen, left = read(path)
    assert left == 0
    assert max(seen) <= 3 * MIB + ahead


def test_what_others_read_stays(path: Path) -> None:
    path.read_bytes()
    assert set(read(path)) == {16 * MIB}


def test_it_is_told_apart_piece_by_piece(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        file.read(8 * MIB)
    assert cached(path) == 8 * MIB
    assert read(path)[-1] == 8 * MIB


def test_what_is_read_again_goes_again(path: Path, ahead: int) -> None:
    file = GentleStorage().open(str(path))
    for _ in range(2):
        for at in range(0, 16 * MIB, MIB):
            assert len(file.pread(at, MIB)) == MIB
    assert cached(path) <= 3 * MIB + ahead
    file.close()
    assert cached(path) == 0


def test_all_files_together_stay_below_the_limit(path: Path, ahead: int) -> None:
    other = path.with_name("other")
    shutil.copyfile(path, other)
    forgotten(path, other)
    storage = GentleStorage()
    files = [storage.open(str(each)) for each in (path, other)]
    for at in range(0, 16 * MIB, MIB):
        for file in files:
            file.pread(at, MIB)
    assert cached(path, other) <= 3 * MIB + 2 * ahead
    del files, file  # nobody closes what nobody holds any more
    assert cached(path, other) == 0


def test_threads_read_the_right_bytes(path: Path) -> None:
    expected = path.read_bytes()
    forgotten(path)
    file = GentleStorage().open(str(path))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda at: file.pread(at, MIB // 2), range(0, 16 * MIB, MIB // 2)))
    assert b"".join(found) == expected
    file.close()
    assert cached(path) == 0


def test_one_that_cannot_be_looked_at_is_closed_in_silence(
    path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a finaliser raises is printed, and nobody can catch it."""

    def failing(fd: int) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", failing)
        with pytest.raises(OSError, match="Input/output"):
            GentleStorage().open(str(path))
    gc.collect()
    assert capfd.readouterr().err == ""
    assert held(path) == []


def test_what_was_written_goes_when_it_is_flushed(path: Path) -> None:
    file = GentleStorage().open_write(str(path))
    file.pwrite(0, bytes(8 * MIB))
    file.fsync()
    file.close()
    assert cached(path) == 0


def test_a_merge_leaves_the_cache_as_it_was(place: Path) -> None:
    chain = build_chain(
        place,
        full(10, table("emb", range(60_000), dim=16)),
        increment(20, changes("emb", range(3000), dim=16)),
    )
    sources = list(chain.directory.rglob("*.data-*"))
    shard = Path(f"{chain.full_prefix(10)}.data-00000-of-00001")
    result = Path(f"{chain.full_prefix(20)}.data-00000-of-00001")
    forgotten(*sources)
    plan = plan_merge(str(chain.directory), storage=GentleStorage(), remember=False)
    execute_merge(plan, jobs=2)
    assert cached(shard, result) == 0
    chain.check(10, 20)
    for path in chain.directory.glob("model.ckpt-20.*"):
        path.unlink()
    shard.read_bytes()
    execute_merge(plan_merge(str(chain.directory), storage=GentleStorage()), jobs=2)
    assert cached(shard) >= shard.stat().st_size
    assert cached(result) == 0


def test_the_result_takes_the_place_of_the_full(place: Path) -> None:
    """Where nothing else is asked for: of both in the cache, only one is needed."""
    chain = build_chain(
        place,
        full(10, table("emb", range(60_000), dim=16)),
        increment(20, changes("emb", range(3000), dim=16)),
    )
    shard = Path(f"{chain.full_prefix(10)}.data-00000-of-00001")
    result = Path(f"{chain.full_prefix(20)}.data-00000-of-00001")
    forgotten(shard)
    shard.read_bytes()
    assert cached(shard) >= shard.stat().st_size
    execute_merge(plan_merge(str(chain.directory)), jobs=2)
    assert cached(shard) < MIB
    assert cached(result) >= result.stat().st_size
    chain.check(10, 20)


def test_a_hint_of_no_bytes_is_of_none(path: Path) -> None:
    """The kernel takes a length of 0 for all that follows."""
    file = LOCAL.open(str(path))
    path.read_bytes()
    file.let_go(MIB, 0)
    assert cached(path) == 16 * MIB
    file.let_go(0, MIB)
    assert cached(path) == 15 * MIB
    file.close()


def test_where_nothing_tells_it_is_read_as_ever() -> None:
    """tmpfs, and a network filesystem."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no /dev/shm: a filesystem in memory ends this skip")
    path = Path("/dev/shm") / f"ckptctl-gentle-{os.getpid()}"
    try:
        path.write_bytes(os.urandom(3 * MIB))
        file = GentleStorage().open(str(path))
        assert file.pread(1, 2 * MIB) == path.read_bytes()[1 : 1 + 2 * MIB]
        file.close()
    finally:
        path.unlink()


# --- the rate -------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("ckptctl.storage.pace.time", clock)
    monkeypatch.setattr("ckptctl.storage.gentle.time", clock)
    return clock


def test_a_pace_counts_the_time_that_the_work_took(clock: Clock) -> None:
    pace = Pace(1000)
    assert pace.pause(500) == 0.0
    clock.now += 0.2
    assert pace.pause(500) == pytest.approx(0.3)
    clock.now += 10.0
    assert pace.pause(500) == 0.0  # what was not used is not saved up
    assert pace.pause(2000) == pytest.approx(2.0)
    assert pickle.loads(pickle.dumps(pace)).bwlimit == 1000


def test_every_byte_that_a_merge_reads_counts(tmp_path: Path, clock: Clock) -> None:
    """Also while it is planned, and keys that are looked for twice."""
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(4000), dim=16)),
        increment(15, changes("emb", range(100), dim=16)),
        increment(20, changes("emb", range(2000), dim=16)),
    )
    counted: list[int] = []

    class Counting(Pace):
        def pause(self, done: int) -> float:
            counted.append(done)
            return super().pause(done)

    storage = GentleStorage(1_000_000)
    storage.pace = Counting(1_000_000)
    plan = plan_merge(str(chain.directory), storage=storage, remember=False)
    planned = sum(counted)
    assert planned >= 2 * 8 * 2100  # keys of both increments, twice
    result = execute_merge(plan, jobs=1)
    assert sum(counted) - planned >= 2 * result.bytes  # sources, and the result read back
    assert clock.now - 100.0 == pytest.approx(sum(counted) / 1e6, rel=0.02)
