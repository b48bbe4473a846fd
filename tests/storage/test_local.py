"""Local files: what is read, written, renamed and refused."""

from __future__ import annotations

import errno
import os
import pickle
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ckptctl.bundle import BundleWriter, dtype_by_name
from ckptctl.errors import CkptctlError, DamageError, ExistsError, NotFoundError, RefusedError
from ckptctl.storage import LOCAL, LocalStorage
from ckptctl.storage.local import LocalFile
from tests.bundle import builders as b
from tests.descriptors import held


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


# Looking


def test_a_listing_follows_no_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "dir").mkdir()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dead").symlink_to("nowhere")
    (tmp_path / os.fsdecode(b"\xff")).touch()
    found = {info.name: info for info in LOCAL.listdir(str(tmp_path))}
    assert sorted(found) == sorted(["file", "dir", "link", "dead", "\udcff"])
    assert (found["file"].size, found["file"].is_dir, found["file"].is_symlink) == (5, False, False)
    assert found["dir"].is_dir
    assert found["link"].is_symlink
    assert found["dead"].is_symlink


def test_what_is_known_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    (tmp_path / "link").symlink_to(path)
    info, real = LOCAL.stat(str(path)), path.stat()
    assert info == next(i for i in LOCAL.listdir(str(tmp_path)) if i.name == "file")
    assert info.identity == (real.st_dev, real.st_ino, 5, 1_700_000_000_123_456_789)
    assert (info.mode, info.uid, info.gid) == (real.st_mode, real.st_uid, real.st_gid)
    followed = LOCAL.stat(str(tmp_path / "link"))
    assert (followed.name, followed.identity, followed.is_symlink) == ("link", info.identity, False)
    assert LOCAL.stat(str(tmp_path / "link"), follow=False).is_symlink


@pytest.mark.parametrize("name", ["none", "file/below", "a\0b", "x" * 300, "loop"])
def test_what_is_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    path = f"{tmp_path}/{name}"
    assert LOCAL.stat(path) is None
    with pytest.raises(NotFoundError) as caught:
        LOCAL.listdir(path)
    assert caught.value.file == path
    with pytest.raises(RefusedError if name == "loop" else NotFoundError) as caught:
        LOCAL.open(path)
    assert caught.value.file == path
    assert held(tmp_path) == []


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    null = Path("/dev/null")
    before = held(null)
    for path in (str(tmp_path), str(tmp_path / "pipe"), "/dev/null"):
        with b.bounded(), pytest.raises(RefusedError, match="not a regular file"):
            LOCAL.open(path)
        with b.bounded(), pytest.raises(CkptctlError):
            LOCAL.read_small(path, 9)
    assert held(tmp_path) == []
    assert held(null) == before


def test_a_storage_travels(tmp_path: Path) -> None:
    again = pickle.loads(pickle.dumps(LOCAL))
    assert type(again) is LocalStorage
    assert again.listdir(str(tmp_path)) == []
    assert again.free_bytes(str(tmp_path)) > 0


# Reading


@pytest.fixture
def file(tmp_path: Path) -> Iterator[LocalFile]:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    file = LOCAL.open(str(tmp_path / "file"))
    yield file
    file.close()


@pytest.mark.parametrize(
    ("offset", "length", "found"),
    [(0, 100, 100), (0, 0, 0), (10, 20, 20), (90, 20, 10), (100, 5, 0), (1 << 40, 5, 0)],
)
def test_ranges(file: LocalFile, offset: int, length: int, found: int) -> None:
    wanted = bytes(range(100))[offset : offset + length]
    assert len(wanted) == found
    assert file.pread(offset, length) == wanted
    buffer = bytearray(length)
    assert file.readinto(offset, memoryview(buffer)) == found
    assert buffer[:found] == wanted


def test_a_range_in_several_calls(file: LocalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call moves at most 2 GB, and may move less than was asked for."""
    monkeypatch.setattr("ckptctl.storage.local._MAX_CALL", 7)
    assert file.pread(3, 90) == bytes(range(3, 93))
    buffer = bytearray(90)
    assert file.readinto(3, memoryview(buffer)) == 90
    assert buffer == bytes(range(3, 93))


def test_a_file_that_became_shorter(file: LocalFile) -> None:
    os.truncate(file.path, 40)
    assert file.pread(30, 20) == bytes(range(30, 40))
    assert file.readinto(30, memoryview(bytearray(20))) == 10
    assert file.pread(50, 20) == b""


def test_threads_read_their_own_ranges(file: LocalFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert (
            b"".join(pool.map(lambda at: file.pread(at % 100, 1), range(1000)))
            == bytes(range(100)) * 10
        )


def test_closing_twice_closes_nobody_elses(tmp_path: Path, file: LocalFile) -> None:
    file.close()
    other = LOCAL.open(file.path)  # takes the number that became free
    file.close()
    assert other.pread(0, 1) == b"\0"
    other.close()


def test_small_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert LOCAL.read_small(str(tmp_path / "file"), 5) == b"12345"
    with pytest.raises(DamageError, match="absurdly long") as caught:
        LOCAL.read_small(str(tmp_path / "file"), 4)
    assert (caught.value.expected, caught.value.found) == ("<= 4 bytes", 5)


# Writing


@pytest.mark.parametrize("size", [0, 1, 4097, 1 << 20])
def test_files_are_preallocated(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    LOCAL.create(str(path), size)
    assert path.stat().st_size == size
    assert path.stat().st_blocks * 512 >= size  # no hole: a full disk is noticed now
    with pytest.raises(ExistsError) as caught:
        LOCAL.create(str(path), 5)
    assert caught.value.file == str(path)
    assert path.stat().st_size == size


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_where_nothing_can_be_preallocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", raiser(number))
    LOCAL.create(str(tmp_path / "file"), 4097)
    assert (tmp_path / "file").stat().st_size == 4097


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EFBIG])
def test_an_error_while_preallocating(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", raiser(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        LOCAL.create(str(tmp_path / "file"), 4097)
    assert names(tmp_path) == []
    assert held(tmp_path) == []


def raiser(number: int):
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_ranges_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.storage.local._MAX_CALL", 7)
    path = tmp_path / "file"
    LOCAL.create(str(path), 30)
    file = LOCAL.open_write(str(path))
    file.pwrite(20, b"0123456789")
    file.pwrite(0, memoryview(b"abcdefghij"))
    file.pwrite(15, bytearray(b"xyz"))
    file.pwrite(3, b"")
    file.fsync()
    file.close()
    assert path.read_bytes() == b"abcdefghij" + b"\0" * 5 + b"xyz\0\0" + b"0123456789"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    (tmp_path / "link").symlink_to("file")
    for write in (LOCAL.create, LOCAL.write_new):
        with pytest.raises(ExistsError):
            write(str(tmp_path / "link"), 0 if write == LOCAL.create else b"")
    with pytest.raises(OSError, match="symbolic link"):
        LOCAL.open_write(str(tmp_path / "link"))
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))  # as a pipe may do
    LOCAL.write_new(str(path), b"0123456789")
    assert path.read_bytes() == b"0123456789"
    with pytest.raises(ExistsError):
        LOCAL.write_new(str(path), b"other")
    assert path.read_bytes() == b"0123456789"


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
def test_a_file_is_replaced_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, raiser(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            LOCAL.write_atomic(str(path), b"new")
    assert (names(tmp_path), path.read_bytes()) == (["checkpoint"], b"old")
    LOCAL.write_atomic(str(path), b"new")
    assert (names(tmp_path), path.read_bytes()) == (["checkpoint"], b"new")


def test_a_replaced_file_keeps_its_attributes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old")
    os.chmod(path, 0o604)
    before = LOCAL.stat(str(path))
    monkeypatch.chdir(tmp_path)
    LOCAL.write_atomic("checkpoint", b"new", before)  # a name without a directory
    after = LOCAL.stat(str(path))
    assert after.inode != before.inode
    assert (after.mode, after.uid, after.gid) == (before.mode, before.uid, before.gid)


def test_the_order_of_an_atomic_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for name in ("write", "fsync", "rename"):
        real = getattr(os, name)
        record = lambda *a, name=name, real=real: (seen.append(name), real(*a))[1]  # noqa: E731
        monkeypatch.setattr(os, name, record)
    LOCAL.write_atomic(str(tmp_path / "checkpoint"), b"new")
    assert seen == ["write", "fsync", "rename", "fsync"]


def test_an_atomic_write_that_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    LOCAL.write_atomic(str(path), b"new", LOCAL.stat(str(tmp_path)), new=True)
    with pytest.raises(ExistsError):
        LOCAL.write_atomic(str(path), b"newer", new=True)
    assert (names(tmp_path), path.read_bytes()) == (["checkpoint"], b"new")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away; run the suite as root")
def test_owners_are_copied(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    (tmp_path / "file").touch()
    os.chown(tmp_path / "model", 1234, 5678)
    os.chmod(tmp_path / "model", 0o2751)
    LOCAL.copy_attributes(str(tmp_path / "file"), LOCAL.stat(str(tmp_path / "model")))
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)
    assert stat.S_IMODE(status.st_mode) == 0o2751


def test_a_group_is_copied_where_the_owner_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fchown(fd: int, uid: int, gid: int) -> None:
        calls.append((uid, gid))
        if uid != -1:
            raise PermissionError(errno.EPERM, "not yours to give")

    (tmp_path / "file").touch()
    like = LOCAL.stat(str(tmp_path / "file"))
    monkeypatch.setattr(os, "fchown", fchown)
    LOCAL.copy_attributes(str(tmp_path / "file"), like)
    assert calls == [(-1, like.gid), (like.uid, -1)]


# Renaming and removing


NO_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS]


@pytest.mark.parametrize("number", [None, *NO_LINKS])
def test_a_rename_that_never_replaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """By a hard link; on filesystems without them by a look first."""
    if number is not None:
        monkeypatch.setattr(os, "link", raiser(number))
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    LOCAL.rename_new(str(source), str(target))
    assert (names(tmp_path), target.read_bytes()) == (["target"], b"new")
    source.write_bytes(b"newer")
    with pytest.raises(ExistsError) as caught:
        LOCAL.rename_new(str(source), str(target))
    assert caught.value.file == str(target)
    assert (source.read_bytes(), target.read_bytes()) == (b"newer", b"new")


@pytest.mark.parametrize("number", [None, errno.EPERM])
def test_a_rename_does_not_replace_a_dead_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    if number is not None:
        monkeypatch.setattr(os, "link", raiser(number))
    (tmp_path / "source").touch()
    (tmp_path / "target").symlink_to("nowhere")
    with pytest.raises(ExistsError):
        LOCAL.rename_new(str(tmp_path / "source"), str(tmp_path / "target"))
    assert (tmp_path / "target").is_symlink()


def test_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raiser(errno.EIO))
    (tmp_path / "source").touch()
    with pytest.raises(OSError, match="Input/output"):
        LOCAL.rename_new(str(tmp_path / "source"), str(tmp_path / "target"))
    assert names(tmp_path) == ["source"]


def test_what_is_done_already(tmp_path: Path) -> None:
    path = str(tmp_path / "x")
    LOCAL.remove(path)
    LOCAL.rmdir(path)
    LOCAL.mkdir(path)
    LOCAL.mkdir(path)
    LOCAL.fsync_dir(path)
    LOCAL.rmdir(path)
    assert names(tmp_path) == []


def test_a_directory_with_files_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "file").touch()
    with pytest.raises(OSError, match="not empty"):
        LOCAL.rmdir(str(tmp_path / "x"))
    with pytest.raises(OSError, match="directory"):
        LOCAL.remove(str(tmp_path / "x"))
    assert names(tmp_path / "x") == ["file"]


# A disk that is full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a filesystem of 1 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("cannot mount a small filesystem; run the suite as root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"cannot mount a small filesystem ({done.stderr.strip()}); allow root to")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    full = pytest.raises(OSError, match=os.strerror(errno.ENOSPC))
    assert 0 < LOCAL.free_bytes(str(small_disk)) <= 1 << 20
    with full:
        LOCAL.create(str(small_disk / "file"), 2 << 20)
    with full:
        LOCAL.write_new(str(small_disk / "file"), bytes(2 << 20))
    LOCAL.write_atomic(str(small_disk / "checkpoint"), b"old")
    with full:
        LOCAL.write_atomic(str(small_disk / "checkpoint"), bytes(2 << 20))
    assert names(small_disk) == ["checkpoint"]
    assert (small_disk / "checkpoint").read_bytes() == b"old"


def test_a_bundle_on_a_full_disk(small_disk: Path) -> None:
    def write() -> None:
        kind = dtype_by_name("float32")
        prefix = str(small_disk / "m")
        with BundleWriter(prefix) as writer, writer.stream("x", kind, (1 << 20,)) as sink:
            for _ in range(64):
                sink.write(bytes(1 << 16))

    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write()
    assert names(small_disk) == []


def test_an_error_of_an_open_file_names_it(tmp_path: Path) -> None:
    """The kernel knows descriptors only; whoever looks for the disk that fails needs the path."""
    path = str(tmp_path / "file")
    Path(path).write_bytes(b"data")
    buffer = memoryview(bytearray(4))
    reader, writer = LocalFile(path, os.O_RDONLY), LocalFile(path, os.O_WRONLY)
    piped = LocalFile(path, os.O_RDWR)
    for number in os.pipe():
        os.dup2(number, piped._fd)  # no disk is behind it
        os.close(number)
    for call in (
        lambda: reader.pwrite(0, b"x"),
        lambda: writer.pread(0, 4),
        lambda: writer.readinto(0, buffer),
        piped.fsync,
    ):
        with pytest.raises(OSError, match=re.escape(repr(path))) as caught:
            call()
        assert caught.value.filename == path


def test_an_error_of_attributes_names_the_file(tmp_path: Path) -> None:
    path = "/proc/self/status"  # whose mode even root may not change
    like = LOCAL.stat(str(tmp_path))
    assert like is not None
    with pytest.raises(PermissionError) as caught:
        LOCAL.copy_attributes(path, like)
    assert caught.value.filename == path


def test_an_error_below_a_directory_names_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "room" / "full").mkdir(parents=True)
    (tmp_path / "room" / "full" / "file").touch()
    path = str(tmp_path / "room" / "full")
    for call in (LOCAL.rmdir, LOCAL.remove):
        with pytest.raises(OSError, match=re.escape(repr(path))) as caught:
            call(path, within=str(tmp_path))
        assert caught.value.filename == path


def test_an_error_while_a_file_is_made_names_it(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    with pytest.raises(OSError, match=r"large|space") as caught:
        LOCAL.create(path, 1 << 62)
    assert caught.value.filename == path
    assert not os.path.exists(path)
