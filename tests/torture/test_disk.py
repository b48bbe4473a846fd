"""A disk that is full, for real: blocks or inodes, in memory or on ext4.

That is when people prune. So a prune works without a free block and without a free inode, also
where ckptctl never ran before; a merge is refused before its first byte.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import pytest

from ckptctl.errors import LockedError, NoSpaceError
from ckptctl.merge import execute_merge, execute_prune
from ckptctl.storage.lock import directory_lock
from tests.merge.model import names, small_chain
from tests.merge.prunes import THEN, age, here, listed, plan, points
from tests.merge.storages import Hooked, Watched
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    increment,
    listing,
    table,
    write_state,
)
from tests.oracle.chain import full as full_at
from tests.torture.scenes import DISKS, Filled, ckptctl, mounted


@pytest.fixture(params=DISKS)
def full(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Filled]:
    """A disk that is not yet full."""
    with mounted(tmp_path, request.param) as disk:
        yield Filled(disk, request.param)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Filled]:
    with mounted(tmp_path, "tmpfs") as disk:
        yield Filled(disk, "tmpfs")


def remembered(chain: Chain) -> int:
    return len((chain.directory / ".ckptctl" / "removed.jsonl").read_text().splitlines())


def files(chain: Chain) -> dict[str, tuple[int, ...]]:
    """All files; directories know that a temporary came and went."""
    return {name: info for name, info in listing(chain.directory).items() if S_ISREG(info[3])}


@pytest.mark.parametrize("before", [False, True], ids=["first run", "ran before"])
def test_a_prune_works_on_a_full_disk(full: Filled, before: bool) -> None:
    """The log, both state files, and the lock of a directory that never had one."""
    chain = age(small_chain(full.disk))
    if before:
        with directory_lock(str(chain.directory)):
            pass
    full.fill()
    said = ckptctl("prune", chain.directory, "--keep-last", 1, "--yes")
    assert (said.code, said.err) == (0, "")
    assert here(chain) == {"F40", "I50"}
    assert (listed(chain), listed(chain, INCREMENTS)) == ([40], [50])
    assert points(chain) == {40, 50}
    assert remembered(chain) == 3
    assert not [name for name in names(chain.directory) if "tmp" in name]
    full.empty()
    assert ckptctl("prune", chain.directory, "--keep-last", 1, "--yes").code == 0
    chain.merge(50, full.disk / "x-50")
    chain.check(40, 50, prefix=full.disk / "x-50")


def test_no_more_than_it_takes_goes_before_the_state_file(tmpfs: Filled) -> None:
    """One increment, whole; the other waits until its state file no longer lists it."""
    chain = age(small_chain(tmpfs.disk))
    calls: list[str] = []

    class Noted(Watched):
        def after(self, call: str) -> None:
            calls.append(call.replace(str(chain.directory), ""))

    found = plan(chain, storage=Noted())
    tmpfs.fill()
    assert len(execute_prune(found).outcomes) == 2
    rewritten = next(n for n, call in enumerate(calls) if call.endswith("/checkpoint"))
    gone = [call for call in calls[:rewritten] if call.startswith("remove")]
    assert gone
    assert all("incremental_model.ckpt-30" in call or ".tmp" in call for call in gone)
    noted = next(n for n, call in enumerate(calls) if call.endswith("/removed.jsonl"))
    assert noted < calls.index("remove /.incremental_checkpoint/incremental_model.ckpt-20.index")


def test_leftovers_make_the_room(tmpfs: Filled) -> None:
    """No state file lists them: nothing that one lists goes before it is rewritten."""
    chain = age(small_chain(tmpfs.disk))
    temporary = chain.directory / "model.ckpt-9_temp_0123abcd"
    temporary.mkdir()
    (temporary / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x" * 5000)
    for path in (temporary / "part-00000-of-00001.data-00000-of-00001", temporary):
        os.utime(path, (THEN, THEN))
    gone: list[str] = []

    class Noted(Watched):
        def after(self, call: str) -> None:
            gone.append(call)

    found = plan(chain, storage=Noted())
    tmpfs.fill()
    assert len(execute_prune(found).outcomes) == 3
    rewritten = next(n for n, call in enumerate(gone) if call.endswith("/checkpoint"))
    indexes = [n for n, call in enumerate(gone) if call.endswith(".index")]
    assert len(indexes) == 2
    assert min(indexes) > rewritten
    assert not temporary.exists()


@pytest.mark.parametrize("how", ["--trash", "links"])
def test_what_frees_nothing_is_refused(full: Filled, how: str) -> None:
    """The trash, and files of which a backup holds another link: nothing is touched."""
    chain = age(small_chain(full.disk))
    option = "--trash"
    if how == "links":
        option = "--yes"
        (full.disk / "backup").mkdir()
        for path in (chain.directory / INCREMENTS).glob("*.index"):
            os.link(path, full.disk / "backup" / path.name)
    full.fill()
    before = files(chain)
    said = ckptctl("prune", chain.directory, option)
    assert said.code == 12
    assert "full" in said.err
    assert files(chain) == before
    full.empty()
    assert ckptctl("prune", chain.directory, option).code == 0
    assert points(chain) == {10, 40, 50}


@pytest.mark.parametrize("full", ["tmpfs inodes", "ext4", "ext4 inodes"], indirect=True)
def test_a_lock_without_a_file_is_a_lock(full: Filled) -> None:
    """Whoever began on a full disk keeps out who comes when there is room again."""
    chain = small_chain(full.disk)
    full.fill()
    with directory_lock(str(chain.directory)):
        assert not (chain.directory / ".ckptctl" / "lock").exists()
        with pytest.raises(LockedError, match="full disk"), directory_lock(str(chain.directory)):
            pass
        full.empty()
        said = ckptctl("merge", chain.directory, "--upto", "50")
        assert (said.code, "full disk" in said.err) == (11, True)
        with pytest.raises(LockedError, match="full disk"), directory_lock(str(chain.directory)):
            pass
    with directory_lock(str(chain.directory)):
        pass


def test_a_merge_is_refused_before_its_first_byte(full: Filled) -> None:
    chain = small_chain(full.disk)
    full.fill()
    before = listing(full.disk)
    said = ckptctl("merge", chain.directory)
    assert said.code == 12
    assert listing(full.disk) == before
    assert not (chain.directory / ".ckptctl").exists()


def test_a_state_file_for_which_no_block_is_left(tmpfs: Filled) -> None:
    """The merged full is there, and the next run lists it."""
    chain = small_chain(tmpfs.disk)
    hooked = Hooked("write_atomic", before=lambda: _when_done(chain, tmpfs), always=True)
    with pytest.raises(OSError, match="No space left"):
        execute_merge(chain.plan(storage=hooked), jobs=1)
    assert points(chain) >= {10, 40, 50}
    assert listed(chain) == [10, 40]
    chain.check(40, 50)
    tmpfs.empty()
    found = chain.plan()
    assert found.nothing_to_do
    assert found.unfinished
    execute_merge(found)
    assert listed(chain) == [10, 40, 50]


def _when_done(chain: Chain, disk: Filled) -> None:
    if Path(f"{chain.full_prefix(50)}.index").exists():
        disk.fill()


def test_a_merge_that_filled_the_disk_is_cleared_away_by_a_prune(tmpfs: Filled) -> None:
    """Killed in the middle it leaves a temporary of our mark, on a disk that it filled."""
    chain = age(small_chain(tmpfs.disk))

    class Killed(BaseException):
        pass

    def die() -> None:
        tmpfs.fill()
        raise Killed

    hooked = Hooked("rename_new", before=die)
    hooked.remove = lambda path, **more: None  # a process that is killed cleans nothing up
    hooked.rmdir = lambda path, **more: None
    with pytest.raises(Killed):
        execute_merge(chain.plan(storage=hooked), jobs=1)
    for path in chain.directory.glob("model.ckpt-50*"):
        for each in (*path.rglob("*"), path):
            os.utime(each, (THEN, THEN))
    assert list(chain.directory.glob("*_temp_*"))
    assert ckptctl("prune", chain.directory, "--yes").code == 0
    assert not list(chain.directory.glob("*_temp_*"))
    assert here(chain) == {"F10", "F40", "I50"}
    tmpfs.empty()
    chain.merge()
    chain.check(40, 50)


def test_the_error_says_what_to_do(tmpfs: Filled) -> None:
    chain = age(small_chain(tmpfs.disk))
    found = plan(chain, trash=True)
    tmpfs.fill()
    with pytest.raises(NoSpaceError) as caught:
        execute_prune(found)
    assert "df -i" in str(caught.value)
    assert caught.value.exit_code == 12


def large(disk: Filled) -> Chain:
    """Fulls of more than 1 MB, and an increment as large that the second of them covers."""
    rows = range(9_000)
    return age(
        build_chain(
            disk.disk,
            full_at(10, table("emb", rows, dim=16)),
            increment(20, changes("emb", range(9_100), dim=16)),
            full_at(30, table("emb", rows, dim=16)),
            increment(40, changes("emb", range(8_900, 9_100), dim=16)),
        )
    )


def test_compact_makes_the_room_that_its_merge_needs(tmpfs: Filled) -> None:
    """Every night it would be refused, and the disk stay full, though much of it may go."""
    chain = large(tmpfs)
    line = ["compact", chain.directory, "--yes", "--min-age", "0s", "--json"]
    status = os.statvfs(tmpfs.disk)
    with open(tmpfs.disk / "ballast", "wb") as file:  # 17 of 18 MB that the merge wants
        size = status.f_bavail * status.f_frsize - (17 << 20)
        os.posix_fallocate(file.fileno(), 0, size)
    assert "not enough space" in ckptctl("merge", chain.directory).err
    document = ckptctl(*line, "--keep-last", 1).document
    result = document["directories"][0]["result"]
    names = [item["name"] for item in result["prune"]["outcomes"]]
    assert result["outcome"] == "merged and pruned"
    assert len(names) == len(set(names)) == 4
    assert here(chain) == {"F40"}


def test_compact_on_a_full_disk_prunes_and_says_that_it_could_not_merge(tmpfs: Filled) -> None:
    chain = age(small_chain(tmpfs.disk))
    tmpfs.fill()
    line = ["compact", chain.directory, "--keep-last", 1, "--yes", "--min-age", "0s"]
    said = ckptctl(*line)
    assert (said.code, "not enough space" in said.err) == (12, True)
    assert "or give ckptctl merge -o on another disk" in said.err
    assert here(chain) == {"F40", "I50"}
    assert points(chain) == {40, 50}
    outcome, *lines = said.out.splitlines()
    assert outcome.startswith(f"pruned\t{chain.directory}\tstep=50\twritten=0\tfreed=")
    gone = {each.split("\t")[1].rpartition(".")[2] for each in lines if each[:7] == "removed"}
    assert gone == {"ckpt-10", "ckpt-20", "ckpt-30"}
    assert (ckptctl(*line).code, ckptctl(*line, "--json").out) == (12, "")  # nothing was done
    tmpfs.empty()
    assert ckptctl(*line).code == 0
    assert here(chain) == {"F50"}


def test_compact_makes_the_inodes_that_its_merge_needs(tmp_path: Path) -> None:
    """Of those, and of quotas, the plan knows nothing: the merge itself meets the end."""
    with mounted(tmp_path, "tmpfs inodes") as disk:
        chain = age(small_chain(disk))
        with directory_lock(str(chain.directory)):
            pass
        Filled(disk, "tmpfs inodes").fill()
        line = ["compact", chain.directory, "--keep-last", 1, "--yes", "--min-age", "0s"]
        said = ckptctl(*line)
        assert (said.code, said.err) == (0, "")
        assert here(chain) == {"F50"}
        assert points(chain) == {50}


def test_compact_makes_the_room_to_put_a_state_file_right(full: Filled) -> None:
    """A Saver dropped the merge from it; each night it could not be rewritten, and nothing went."""
    chain = age(small_chain(full.disk))
    chain.merge(50)
    chain.add(full_at(60, table("emb", [1, 2])))
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 40, 60)])
    full.fill()
    line = ["compact", chain.directory, "--yes", "--min-age", "0s"]
    said = ckptctl(*line)
    assert (said.code, said.err) == (0, "")
    assert here(chain) == {"F10", "F40", "F50", "F60"}
    assert listed(chain) == [10, 40, 50, 60]
