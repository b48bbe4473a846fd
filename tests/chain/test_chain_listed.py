"""What indexes said is remembered for listings: the same answers, and no index read."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ckptctl import knobs
from ckptctl.bundle import BundleWriter
from ckptctl.chain import IndexMemory, Scan, scan_directory
from ckptctl.chain.memory import cache_path, recall, remember
from ckptctl.inspect.listing import list_directory
from ckptctl.storage import LOCAL
from ckptctl.storage.local import LocalFile, LocalStorage
from tests.chain.real import write_full, write_increment

GOLDEN = Path(__file__).parents[1] / "golden" / "deeprec" / "sharded"
HOUR_AGO = 1_700_000_000


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A chain with lineage, a merged full and rows of a normal variable, an hour old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room = tmp_path / "ckpt"
    room.mkdir()
    write_full(room, 100)
    told = {"version": 1, "base_step": 100, "up_to": 160, "last_id": "c", "applied_to": 140}
    write_full(room, 160, merged=told)
    write_increment(room, 170, lineage={"version": 1, "base_step": 160, "line": "01234567"})
    write_increment(room, 180, rows=3)
    age(room)
    return room


def age(room: Path) -> None:
    for number, path in enumerate(sorted(room.rglob("*"))):
        os.utime(path, (HOUR_AGO + number, HOUR_AGO + number))


def looked(directory: Path) -> Scan:
    """Look at everything, remember it, and return what a second look finds."""
    memory = IndexMemory(scan_directory(str(directory)))
    for each in (*memory.scan.fulls, *memory.scan.increments, *memory.scan.others):
        assert each.complete or each.damage is not None
    memory.remember(LOCAL)
    return IndexMemory(scan_directory(str(directory))).scan


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.bundle.BundleReader", None)


def note_of(directory: Path) -> str:
    scan = scan_directory(str(directory))
    return cache_path("indexes", (scan.device, scan.inode))


def test_the_same_is_known_without_reading(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = looked(directory)
    truth = scan_directory(str(directory))
    pairs = list(
        zip((*scan.fulls, *scan.increments), (*truth.fulls, *truth.increments), strict=True)
    )
    for _, true in pairs:
        assert true.contents.tensors
        assert true.facts.damage is None
    with monkeypatch.context() as patch:
        no_reading(patch)
        for known, true in pairs:
            assert known.facts == true.facts
            assert (known.complete, known.missing, known.short) == (True, (), ())
            for what in ("tensors", "tables", "keys", "sparse", "needs"):
                assert getattr(known.contents, what) == getattr(true.contents, what)
    for known, true in pairs:  # these are asked for seldom, and read then
        assert dict(known.contents.dense) == true.contents.dense
        assert known.global_step == true.global_step == true.step
        assert pickle.loads(pickle.dumps(known)).contents.keys == true.contents.keys


def test_a_global_step_is_remembered_once_it_was_asked_for(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(directory)
    memory = IndexMemory(scan_directory(str(directory)))
    assert memory.scan.fulls[0].global_step == 100
    memory.remember(LOCAL)
    no_reading(monkeypatch)
    assert IndexMemory(scan_directory(str(directory))).scan.fulls[0].global_step == 100


def test_of_dense_tensors_what_was_asked_for_is_remembered(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked(directory)
    memory = IndexMemory(scan_directory(str(directory)))
    dense = memory.scan.fulls[0].contents.dense
    assert (dense["bias"], dense.get("nobody"), "bias" in dense) == ((0,), None, True)
    memory.remember(LOCAL)
    no_reading(monkeypatch)
    again = IndexMemory(scan_directory(str(directory))).scan.fulls[0].contents.dense
    assert (again["bias"], again.get("nobody"), "nobody" in again) == ((0,), None, False)


def test_a_listing_from_memory_is_the_same(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list_directory(str(directory))
    found = first.document()
    first.remember()
    no_reading(monkeypatch)
    assert list_directory(str(directory)).document() == found


@pytest.mark.parametrize("suffix", [".index", ".data-00000-of-00001"])
def test_until_a_file_is_touched(directory: Path, suffix: str) -> None:
    full = looked(directory).fulls[0]
    file = f"{full.prefix}{suffix}"
    os.truncate(file, 30)
    os.utime(file, (HOUR_AGO, HOUR_AGO))
    again = IndexMemory(scan_directory(str(directory))).scan.fulls[0]
    assert full.complete
    assert not again.complete


def test_what_is_young_or_damaged_is_not_remembered(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(directory / "model.ckpt-100.index")
    os.truncate(directory / "model.ckpt-160.index", 30)
    os.utime(directory / "model.ckpt-160.index", (HOUR_AGO, HOUR_AGO))
    looked(directory)
    known = json.loads(recall(note_of(directory), 1 << 20) or b"")["checkpoints"]
    assert sorted(Path(key).name for key in known) == [
        "incremental_model.ckpt-170",
        "incremental_model.ckpt-180",
    ]


def test_what_changed_while_it_was_read_is_not_remembered(directory: Path) -> None:
    memory = IndexMemory(scan_directory(str(directory)))
    os.utime(directory / "model.ckpt-100.index", (HOUR_AGO + 99, HOUR_AGO))
    assert all(full.complete for full in memory.scan.fulls)
    memory.remember(LOCAL)
    known = json.loads(recall(note_of(directory), 1 << 20) or b"")["checkpoints"]
    assert [Path(key).name for key in known] == ["model.ckpt-160"]


def test_what_is_gone_is_forgotten(directory: Path) -> None:
    looked(directory)
    before = os.path.getsize(note_of(directory))
    for path in directory.glob("model.ckpt-100*"):
        path.unlink()
    write_full(directory, 200)
    age(directory)
    looked(directory)
    assert os.path.getsize(note_of(directory)) < before * 1.2
    assert b"ckpt-100" not in Path(note_of(directory)).read_bytes()


LIES: dict[str, Callable[[dict], object]] = {
    "no JSON": lambda facts: None,
    "no object": lambda facts: [],
    "deep": lambda facts: ...,
    "another version": lambda facts: facts | {"version": "0"},
    "old": lambda facts: facts | {"since": facts["since"] - 90_000},
    "from the future": lambda facts: facts | {"since": facts["since"] + 3600},
    "a time that is none": lambda facts: facts | {"since": "x"},
    "a list": lambda facts: facts | {"checkpoints": []},
    "a number": lambda facts: facts | {"checkpoints": dict.fromkeys(facts["checkpoints"], 5)},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_memory_that_makes_no_sense_is_none(directory: Path, lie: str) -> None:
    looked(directory)
    note = note_of(directory)
    changed = LIES[lie](json.loads(recall(note, 1 << 20) or b""))
    data = {None: b"\xff{", ...: b"[" * 200_000}.get(changed if changed in (None, ...) else 0)
    remember(note, data or json.dumps(changed).encode())
    memory = IndexMemory(scan_directory(str(directory)))
    assert not memory._known
    assert all(each.complete for each in (*memory.scan.fulls, *memory.scan.increments))


WHATS = ("shards", "lineage", "merged", "numbers", "needs", "step", "dense", "sparse")
VALUES = [None, -1, 1.5, 10**12, "x", [], [-1, True, 2], {"emb": [1, "0", 2, 3]}]


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("value", VALUES)
def test_a_fact_that_makes_no_sense_is_read_anew(directory: Path, what: str, value: object) -> None:
    scan = looked(directory)
    wanted = [each.contents.keys for each in (*scan.fulls, *scan.increments)]
    note = note_of(directory)
    facts = json.loads(recall(note, 1 << 20) or b"")
    for known in facts["checkpoints"].values():
        known[what] = value
    remember(note, json.dumps(facts).encode())
    again = IndexMemory(scan_directory(str(directory))).scan
    for each in (*again.fulls, *again.increments):
        assert each.source.facts()
        assert each.source.contents()  # neither raises
        assert each.global_step == each.step or what == "step"
    if value not in ([], None):
        assert [each.contents.keys for each in (*again.fulls, *again.increments)] == wanted


@pytest.mark.parametrize("what", ["fifo", "directory", "link", "torn", "empty"])
def test_whatever_lies_in_the_cache_nobody_waits_for_it(directory: Path, what: str) -> None:
    looked(directory)
    note = Path(note_of(directory))
    whole = note.read_bytes()
    if what != "torn":
        note.unlink()
    if what == "fifo":
        os.mkfifo(note)
    elif what == "directory":
        note.mkdir()
    elif what == "link":
        (note.parent / "elsewhere").write_bytes(whole)
        note.symlink_to("elsewhere")
    else:
        note.write_bytes(whole[:-9] if what == "torn" else b"")
    assert not IndexMemory(scan_directory(str(directory)))._known
    looked(directory)
    assert what != "link" or (note.parent / "elsewhere").read_bytes() == whole


def test_nobody_has_to_remember(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs, "REMEMBER", False)
    looked(directory)
    assert not os.path.exists(note_of(directory))


def test_names_that_are_no_text(tmp_path: Path, directory: Path) -> None:
    with BundleWriter(str(directory / "model.ckpt-300")) as writer:
        writer.add("a\udcff", np.zeros(2, np.float32))
    os.rename(directory / "model.ckpt-300.index", directory / "o\udcff.index")
    os.rename(
        directory / "model.ckpt-300.data-00000-of-00001", directory / "o\udcff.data-00000-of-00001"
    )
    age(directory)
    (other,) = looked(directory).others
    assert other.contents.tensors == 1
    assert other.source.learned is False


def test_what_is_known_of_an_index_that_cannot_be_read_by_now_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all of an index is remembered: what increments ask of their full is read then."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room = tmp_path / "ckpt"
    shutil.copytree(GOLDEN, room)
    age(room)
    increments, aside = room / ".incremental_checkpoint", tmp_path / "aside"
    increments.rename(aside)
    listing = list_directory(str(room))
    listing.document()
    listing.remember()
    aside.rename(increments)
    read = LocalStorage.open

    def fails(storage: LocalStorage, path: str) -> LocalFile:
        if path.endswith("/model.ckpt-160.index"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(storage, path)

    monkeypatch.setattr(LocalStorage, "open", fails)
    known = list_directory(str(room))
    first = next(known.chains())  # is shown before the other is asked for
    found = known.document()
    assert found["chains"][0]["base"] == first.base.document()
    assert [chain["base"]["status"] for chain in found["chains"]] == ["ok", "damaged"]
    assert known.latest == found["latest"] == 140
    monkeypatch.setattr(knobs, "REMEMBER", False)
    assert found == list_directory(str(room)).document()
