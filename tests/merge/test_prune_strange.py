"""Links, strangers, odd names and a log that lies: only what is ours goes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from ckptctl.errors import RefusedError
from ckptctl.merge import PruneOptions, execute_prune, plan_prune
from ckptctl.merge.policy import KeepDaily, KeepHourly, KeepLast, KeepWeekly, KeepWithin
from ckptctl.storage import FileInfo, LocalStorage
from ckptctl.storage.local import LocalFile
from tests.merge.model import small_chain
from tests.merge.prunes import (
    THEN,
    age,
    goes,
    here,
    plan,
    prune,
    stays,
    unmounted,
    with_side,
)
from tests.oracle.chain import (
    INCREMENTS,
    listing,
    write_state,
)

# --- strange files --------------------------------------------------------------------


def test_nothing_goes_through_a_link(tmp_path: Path) -> None:
    """Neither a link among the files nor the directory of the increments."""
    chain = age(small_chain(tmp_path))
    data = Path(f"{chain.increment_prefix(20)}.data-00000-of-00002")
    outside = tmp_path / "outside"
    shutil.move(data, outside)
    data.symlink_to(outside)
    found = plan(chain)
    assert stays(found)["I20"] == "untouchable"
    assert goes(found) == {"I30": "stale"}
    shutil.move(chain.directory / INCREMENTS, tmp_path / "increments")
    (chain.directory / INCREMENTS).symlink_to(tmp_path / "increments")
    found = plan(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True)
    assert goes(found) == {}
    assert stays(found)["I30"] == "untouchable"
    assert stays(found)["F10"] == "needed"


def test_increments_on_a_mount_that_is_gone(tmp_path: Path) -> None:
    """Who knows which full they need."""
    chain = age(small_chain(tmp_path))
    shutil.move(chain.directory / INCREMENTS, tmp_path / "increments")
    (chain.directory / INCREMENTS).symlink_to(tmp_path / "unmounted")
    with pytest.raises(RefusedError) as caught:
        plan(chain, KeepLast(1))
    assert "increments" in caught.value.message


@pytest.mark.parametrize("what", ["link", "empty link", "stranger", "directory"])
def test_a_side_directory_that_is_not_only_ours(tmp_path: Path, what: str) -> None:
    chain = with_side(tmp_path)
    room = Path(f"{chain.full_prefix(10)}-emb-emb_files")
    if what.endswith("link"):
        shutil.move(room, tmp_path / "away")
        room.symlink_to(tmp_path / "away")
        if what == "empty link":
            (tmp_path / "away" / "1.emb").unlink()
    else:
        stranger = room / "sub"
        stranger.mkdir() if what == "directory" else stranger.symlink_to(tmp_path)
        os.utime(room, (THEN, THEN))
    before = listing(tmp_path)
    assert stays(plan(chain, KeepLast(1)))["F10"] == "untouchable"
    prune(chain, KeepLast(1))
    gone = set(before) - set(listing(tmp_path))
    assert not any("model.ckpt-10" in name or "away" in name for name in gone)


def test_a_fifo_called_like_a_shard(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    fifo = Path(f"{chain.increment_prefix(20)}.data-00009-of-00010")
    os.mkfifo(fifo)
    os.utime(fifo, (THEN, THEN))
    found = plan(chain)
    assert stays(found)["I20"] == "untouchable"
    execute_prune(found)
    assert fifo.exists()


def test_names_that_are_not_matched_stay(tmp_path: Path) -> None:
    """`model.ckpt-1` is no part of `model.ckpt-10`, and a state file leads nowhere."""
    chain = with_side(tmp_path)
    precious = tmp_path / "precious.index"
    precious.write_bytes(b"x")
    strangers = ("model.ckpt-1.index.bak", "model.ckpt-100.txt", "model.ckpt-10.notes", "model")
    for name in strangers:
        (chain.directory / name).write_text("x")
    names = ["../precious", str(tmp_path / "precious"), "model.ckpt-10", "model.ckpt-40"]
    write_state(chain.directory, names)
    age(chain)
    prune(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True, relocate=True)
    assert here(chain) == {"F40", "I50"}
    assert precious.exists()
    assert all((chain.directory / name).exists() for name in strangers)


def test_what_is_only_called_like_a_temporary_stays(tmp_path: Path) -> None:
    """`eval_temp` is nobody's checkpoint, and no save writes a report into its temporary."""
    chain = small_chain(tmp_path)
    files = (
        "eval_temp/report.txt",
        "backup_temp_2024/index",
        f"model.ckpt-9_temp_{'0' * 32}/report.txt",
        "best.index.tempstate123",
        "notes.data-00000-of-00001.tempstate99",
        f"essay.meta.tmp{'0' * 32}",
    )
    for name in files:
        path = chain.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("precious")
    rest = (
        chain.directory / f"model.ckpt-9_temp_{'1' * 32}" / "part-00000-of-00002.index.tempstate1"
    )
    rest.parent.mkdir()
    rest.touch()
    for path in chain.directory.rglob("*"):
        os.utime(path, (THEN, THEN))
    age(chain)
    prune(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True)
    assert here(chain) == {"F40", "I50"}
    assert all((chain.directory / name).exists() for name in files)
    assert not rest.parent.exists()


def test_a_directory_is_listed_as_often_however_much_was_left_behind(tmp_path: Path) -> None:
    """By thousands of killed runs, say: a listing for each would take hours."""

    class Lists(LocalStorage):
        calls = 0

        def listdir(self, directory: str) -> list[FileInfo]:
            Lists.calls += 1
            return super().listdir(directory)

    chain = age(small_chain(tmp_path))
    counted = []
    for number in range(20):
        for suffix in (".data-00000-of-00001", ".index.tempstate1"):
            (chain.directory / f"model.ckpt-{1000 + number}{suffix}").write_bytes(b"x")
        if number in (0, 19):
            Lists.calls = 0
            plan(chain, leftovers=True, storage=Lists())
            counted.append(Lists.calls)
    assert counted[0] == counted[1]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    odd = os.fsencode(chain.directory) + b"/model\xff.ckpt-5.index"
    with open(odd, "wb"):
        pass
    found = plan(chain)
    execute_prune(type(found).from_saved(found.to_save()))
    assert os.path.exists(odd)
    assert here(chain) >= {"F10", "F40", "I50"}


@pytest.mark.parametrize("name", [".ckptctl", ".ckptctl-trash"])
def test_our_own_rooms_must_not_lead_elsewhere(tmp_path: Path, name: str) -> None:
    chain = age(small_chain(tmp_path))
    outside = tmp_path / "outside"
    outside.mkdir()
    (chain.directory / name).symlink_to(outside)
    with pytest.raises(RefusedError):
        prune(chain, trash=True)
    assert list(outside.iterdir()) == []
    assert len(here(chain)) == 5


def test_a_log_that_lies_makes_nothing_ours(tmp_path: Path) -> None:
    """It is believed file by file, and only of what has no index."""
    chain = age(small_chain(tmp_path))
    own = chain.directory / ".ckptctl"
    own.mkdir()
    lines = [
        '{"kind": "full", "name": "model.ckpt-40", "files": {"model.ckpt-40.index": [1, 2]}}',
        '{"kind": ["full"], "name": {}}',
        "[" * 200_000,
    ]
    (own / "removed.jsonl").write_text("\n".join([*lines, "[]", "nonsense", "{}"]) + "\n")
    data = chain.directory / "model.ckpt-7.data-00000-of-00001"
    data.write_bytes(b"x")
    os.utime(data, (THEN, THEN))
    assert stays(plan(chain))[data.name] == "leftover"
    prune(chain)
    assert here(chain) == {"F10", "F40", "I50"}
    assert time.time() > THEN


def test_a_mark_without_a_bottom_is_none(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    data = chain.directory / "model.ckpt-7.data-00000-of-00001"
    for path in (data, chain.directory / "model.ckpt-7.ckptctl.json"):
        path.write_text("[" * 200_000)
        os.utime(path, (THEN, THEN))
    assert stays(plan(chain))[data.name] == "leftover"
    prune(chain)
    assert data.exists()


@pytest.mark.parametrize("time", ["inf", "nan", "1e999", "-inf"])
def test_times_that_are_none(tmp_path: Path, time: str) -> None:
    """A text format has numbers that are no times: nothing is known then, and all is kept."""
    chain = age(small_chain(tmp_path))
    state = chain.directory / "checkpoint"
    with open(state, "a") as file:
        file.write(f"all_model_checkpoint_timestamps: {time}\n" * 2)
    os.utime(state, (THEN + 10**7, THEN + 10**7))
    for rule in (KeepHourly(1), KeepDaily(1), KeepWeekly(1), KeepWithin(60)):
        found = plan(chain, rule)
        assert "F40" in stays(found)
        json.dumps(found.to_save(), allow_nan=False)


class Failing(LocalStorage):
    """A disk that fails to read one file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def open(self, path: str) -> LocalFile:
        if path == self.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().open(path)


@pytest.mark.parametrize("files", [".*", ".index", ".data*"])
@pytest.mark.parametrize("step", [10, 20])
def test_what_is_behind_links_to_what_is_not_mounted_stays(
    tmp_path: Path, step: int, files: str
) -> None:
    """Nor does anything go that hangs on it, as an orphan or for the time of a link."""
    chain = age(small_chain(tmp_path))
    prefix = chain.prefix(step)
    mount = unmounted(tmp_path / "archive", *prefix.parent.glob(f"{prefix.name}{files}"))
    found = plan(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True, min_age_s=0)
    own = stays(found)
    assert own.pop("I20" if step == 20 else "F10") == "unreadable"
    assert goes(found) == ({"I30": "stale"} if step == 20 else {})
    assert any("leads nowhere" in told for told in found.damage)
    prune(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True, min_age_s=0)
    mount()
    assert {"F10", "I20", "F40", "I50"} <= here(chain)


@pytest.mark.parametrize("kind", ["full", "increment"])
def test_what_cannot_be_read_is_not_removed_for_it(tmp_path: Path, kind: str) -> None:
    """It may be as sound as any: a network disk that hiccups is no reason to lose a model."""
    chain = age(small_chain(tmp_path))
    prefix = str(chain.increment_prefix(20) if kind == "increment" else chain.full_prefix(10))
    storage = Failing(f"{prefix}.index")
    options = PruneOptions(leftovers=True, orphans=True, abandoned=True, min_age_s=0)
    found = plan_prune(str(chain.directory), options, storage=storage)
    assert prefix not in {item.path for item in found.removed}
    assert next(item for item in found.items if item.path == prefix).code == "unreadable"
    assert any("Input/output error" in told and prefix in told for told in found.damage)
