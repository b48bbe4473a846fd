"""Modes, owners and groups: root's cron, a trainer and a serving process share a directory."""

from __future__ import annotations

import codecs
import os
import stat
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptctl.merge.policy import KeepLast
from ckptctl.storage import LOCAL
from ckptctl.storage.lock import directory_lock
from tests.merge.model import small_chain
from tests.merge.prunes import age, chain_of, here, points, prune
from tests.oracle.chain import Chain, changes, increment
from tests.storage.leases import Loud, room

TRAINER, SERVING, GROUP = 61234, 61235, 65678

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away: run as root")


@contextmanager
def umask(mode: int) -> Iterator[None]:
    before = os.umask(mode)
    try:
        yield
    finally:
        os.umask(before)


def owned(chain: Chain, name: str = "*", mode: int = 0o2775) -> Chain:
    """Give a directory to a trainer, and its group to whoever else works with it."""
    for path in [chain.directory, *chain.directory.rglob(name)]:
        os.chown(path, TRAINER, GROUP)
        path.chmod(mode if path.is_dir() else mode & 0o666)
    return chain


def attributes(path: Path) -> tuple[int, int, int]:
    info = path.lstat()
    return info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)


def as_user(user: int, work: Callable[[], object], *, mask: int = 0o022) -> None:
    """Do something in a process of another user of the group."""
    codecs.lookup("ascii")  # the other user may not be able to read this Python's library
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.umask(mask)
            os.setgroups([GROUP])
            os.setgid(user)
            os.setuid(user)
            work()
            status = 0
        except Exception:  # noqa: BLE001 (there is nobody above who could tell it)
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def test_a_merge_by_root_is_like_the_full_file_by_file(tmp_path: Path) -> None:
    """Parameter servers may save their shards as different users."""
    chain = owned(small_chain(tmp_path, side=True))
    base = chain.full_prefix(40)
    for suffix, uid, mode in (
        (".index", TRAINER, 0o640),
        (".data-00000-of-00002", TRAINER, 0o644),
        (".data-00001-of-00002", SERVING, 0o660),
        (".meta", TRAINER, 0o600),
        ("-emb-emb_files/1.emb", SERVING, 0o664),
    ):
        os.chown(f"{base}{suffix}", uid, GROUP)
        os.chmod(f"{base}{suffix}", mode)
    state = attributes(chain.directory / "checkpoint")
    with umask(0o077):
        chain.merge()
    made = chain.full_prefix(50)
    suffixes = [str(path)[len(str(base)) :] for path in base.parent.glob(f"{base.name}*")]
    suffixes.append("-emb-emb_files/1.emb")
    assert len(suffixes) == 8
    for suffix in suffixes:
        assert attributes(Path(f"{made}{suffix}")) == attributes(Path(f"{base}{suffix}")), suffix
    assert attributes(chain.directory / "checkpoint") == state == (TRAINER, GROUP, 0o664)
    mark = attributes(Path(f"{made}.ckptctl.json"))
    assert mark == attributes(Path(f"{base}.index"))


def test_what_root_keeps_for_itself_is_open_to_the_others(tmp_path: Path) -> None:
    chain = age(owned(small_chain(tmp_path)))
    with umask(0o077):
        prune(chain, trash=True)
    home = attributes(chain.directory)
    trash = chain.directory / ".ckptctl-trash"
    rooms = [trash, *(path for path in trash.rglob("*") if path.is_dir())]
    assert len(rooms) == 3
    for path in (chain.directory / ".ckptctl", *rooms):
        assert attributes(path) == home, path
    for name in ("lock", "removed.jsonl"):
        assert attributes(chain.directory / ".ckptctl" / name) == (TRAINER, GROUP, 0o664), name


def test_a_lease_of_root_is_read_by_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTCTL_LOCK", "lease")
    chain = owned(small_chain(tmp_path))
    with umask(0o077), directory_lock(str(chain.directory)):
        files = [*(chain.directory / ".ckptctl" / "lease").iterdir()]
        assert len(files) == 2
        for path in files:
            assert attributes(path) == (TRAINER, GROUP, 0o664), path


@pytest.mark.parametrize("mask", [0o022, 0o077])
@pytest.mark.parametrize("users", [(0, SERVING), (TRAINER, 0, SERVING), (SERVING, TRAINER)])
def test_users_of_a_group_work_on_one_directory_in_turn(
    tmp_path: Path, users: tuple[int, ...], mask: int
) -> None:
    tmp_path.chmod(0o755)
    chain = owned(chain_of(tmp_path, "F10", "I20"))
    step = 20
    for user in users:
        as_user(user, chain.merge, mask=mask)
        as_user(user, lambda: prune(chain, KeepLast(1), min_age_s=0.0), mask=mask)
        assert here(chain) == {f"F{step}"}
        step += 10
        chain.add(increment(step, changes("emb", [1, step])))
        owned(chain, f"*{step}.*")
        assert max(points(chain)) == step


def test_access_control_lists_are_kept(tmp_path: Path) -> None:
    """A serving process reads by one; the mode alone does not say so."""
    chain = small_chain(tmp_path)
    entries = [(1, 6, -1), (2, 4, SERVING), (4, 4, -1), (16, 4, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    name = "system.posix_acl_access"
    state = chain.directory / "checkpoint"
    try:
        for path in (state, *chain.directory.glob("model.ckpt-40.*")):
            os.setxattr(path, name, acl)
    except OSError as error:
        pytest.skip(f"{error.strerror}: a filesystem with access control lists ends this skip")
    chain.merge()
    files = [path for path in chain.directory.glob("model.ckpt-50.*") if path.suffix != ".json"]
    assert len(files) == 3
    for path in (state, *files):
        assert os.getxattr(path, name) == acl, path


def test_attributes_do_not_follow_a_link(tmp_path: Path) -> None:
    """Who owns the directory could put one there while root works in it."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(mode=0o600)
    link.symlink_to(target)
    like = LOCAL.stat(str(target))
    assert like is not None
    like = like._replace(mode=0o777)
    with pytest.raises(OSError, match="symbolic links"):
        LOCAL.copy_attributes(str(link), like)
    assert attributes(target)[2] == 0o600


@pytest.mark.parametrize("mode", [0o2775, 0o1777])
def test_users_of_a_group_take_one_lease_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    """And the last one that of root, which was killed with it."""
    monkeypatch.setenv("CKPTCTL_LOCK", "lease")
    tmp_path.chmod(0o755)
    chain = owned(small_chain(tmp_path), mode=mode)
    heard = Loud()

    def take() -> None:
        with directory_lock(str(chain.directory), 0.0, heard) as lock:
            lock.check()

    def die() -> None:
        with directory_lock(str(chain.directory)):
            os._exit(0)

    for user in (0, SERVING, TRAINER):
        as_user(user, take, mask=0o077)
        assert os.listdir(room(chain.directory)) == ["free"]
    as_user(0, die, mask=0o077)

    def take_over() -> None:
        take()
        assert "took over the lease of process" in heard.heard[0]
        assert os.uname().nodename in heard.heard[0]

    as_user(SERVING, take_over)
    assert os.listdir(room(chain.directory)) == ["free"]
