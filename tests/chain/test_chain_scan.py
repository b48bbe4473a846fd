"""Scans of real directories: state files, hostile names, leftovers, copies, real times."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    Lineage,
    Merged,
    find_chains,
    scan_again,
    scan_directory,
)
from ckptctl.errors import NotFoundError, RefusedError
from ckptctl.storage import LOCAL, LocalStorage
from tests.chain.builder import label, statuses
from tests.chain.real import write_full, write_increment, write_state

HEX = "0123456789abcdef" * 2
GOLDEN = Path(__file__).parent.parent / "golden" / "deeprec"


def look(directory, **options):
    return find_chains(scan_directory(str(directory)), **options)


def codes(chains):
    found = [*chains.problems, *(p for chain in chains.chains for p in chain.problems)]
    return [problem.code for problem in found]


@pytest.fixture
def small(tmp_path):
    """A full and two increments, listed, with the times of a real run."""
    write_full(tmp_path, 100, at=1000)
    write_increment(tmp_path, 120, at=1020, rows=1)
    write_increment(tmp_path, 140, at=1040)
    write_state(tmp_path, "model.ckpt-100", at=1001)
    room = tmp_path / INCREMENT_DIRECTORY
    write_state(room, "incremental_model.ckpt-120", "incremental_model.ckpt-140", at=1041)
    return tmp_path


def test_a_small_directory(small):
    chains = look(small)
    assert statuses(chains) == {"F100": "ok", "I120": "ok", "I140": "ok"}
    assert chains.restore_points == (100, 120, 140)
    assert codes(chains) == []
    assert chains.notes == ()
    full = chains.full_at(100)
    assert (full.contents.tables, full.contents.keys, full.contents.tensors) == (1, 3, 20)
    assert full.facts.num_shards == 1
    assert full.contents.dense == {"bias": (0,), "global_step": (0,)}
    assert full.global_step == 100
    increment = chains.increment_at(140)
    assert increment.contents.keys == 2
    assert increment.contents.sparse["emb0/part_0/Adagrad"].group == "emb0/Adagrad"
    assert increment.bytes == sum(
        file.stat().st_size for file in increment_files(small, "incremental_model.ckpt-140")
    )
    assert chains.scan.in_state_file(increment)


def increment_files(directory, name):
    return list((directory / INCREMENT_DIRECTORY).glob(f"{name}.*"))


def test_scanning_opens_no_index(small, monkeypatch):
    monkeypatch.setattr("ckptctl.bundle.BundleReader", None)
    assert len(scan_directory(str(small)).increments) == 2


def test_a_checkpoint_can_be_sent_to_another_process(small):
    chains = look(small)
    again = pickle.loads(pickle.dumps(chains.scan.increments[0]))
    assert again == chains.scan.increments[0]
    assert again.contents.keys == 1


# --- golden chains, written by DeepRec's own code ---

GOLDEN_WORDS = {
    "sharded": {"F100": "ok", "F160": "ok", "I120": "stale", "I140": "stale", "I180": "ok"},
    "inactive": {"F0": "ok", "F40": "ok", "I20": "idle", "I60": "ok"},
    "negative": {"F0": "ok", "F40": "ok", "I20": "idle", "I60": "ok"},
    "emptyshard": {"F0": "ok", "F40": "ok", "I20": "incomplete", "I60": "incomplete"},
}


@pytest.mark.parametrize("name", GOLDEN_WORDS)
@pytest.mark.parametrize("dated", [True, False], ids=["real times", "copied"])
def test_golden(name, dated, tmp_path):
    directory = tmp_path / name
    shutil.copytree(GOLDEN / name, directory)
    if dated:
        _date_like_a_run(directory)
    chains = look(directory)
    assert statuses(chains) == GOLDEN_WORDS[name]
    good = [s for s, word in GOLDEN_WORDS[name].items() if word in ("ok", "stale")]
    assert chains.restore_points == tuple(sorted(int(s[1:]) for s in good))
    assert chains.scan.copied == ()
    temporaries = [Path(item.path).name for item in chains.leftovers]
    assert len(temporaries) == (2 if name == "emptyshard" else 0)
    assert all("_temp_" in item for item in temporaries)


def _date_like_a_run(directory):
    for room in (directory, directory / INCREMENT_DIRECTORY):
        newest = 0
        for index in room.glob("*.index"):
            at = 1000 + int(index.stem.rpartition("-")[2]) * 10
            for file in room.glob(f"{index.stem}.*"):
                os.utime(file, (at, at))
            newest = max(newest, at)
        os.utime(room / "checkpoint", (newest + 1, newest + 1))


def test_golden_contents():
    chains = look(GOLDEN / "sharded")
    full, increment = chains.full_at(100), chains.increment_at(120)
    assert full.contents.tables == 5
    assert {rows.shard for rows in full.contents.sparse.values()} == {0, 1}
    assert full.contents.dense["wide"] == (1, 0)
    assert full.contents.sparse["emb/part_1/Adagrad"].group == "emb/Adagrad"
    normal = {name for name, rows in increment.contents.sparse.items() if rows.normal}
    assert {"wide/part_0", "wide/part_1", "wide/part_0/Adagrad", "tab"} <= normal
    assert "wide" not in increment.contents.dense


# --- facts inside the bundles ---


def test_lineage_and_merged(tmp_path):
    write_full(tmp_path, 140, merged={"version": 1, "base_step": 100, "up_to": 140})
    lineage = {"version": 1, "base_step": 100, "previous_step": None, "mode": "cumulative"}
    write_increment(tmp_path, 160, lineage=lineage)
    write_increment(tmp_path, 180)
    chains = look(tmp_path)
    assert chains.full_at(140).merged == Merged(100, 140)
    assert chains.increment_at(160).lineage == Lineage(100)
    assert chains.increment_at(180).lineage is None
    assert chains.base_of(chains.increment_at(160)).code == "lineage"


@pytest.mark.parametrize("raw", [b"garbage", b'{"version": 1, "base_step": 200}', b"x" * 70_000])
def test_a_lineage_that_makes_no_sense_is_damage(tmp_path, raw):
    write_full(tmp_path, 100)
    write_increment(tmp_path, 160, lineage=raw)
    chains = look(tmp_path)
    assert statuses(chains) == {"F100": "ok", "I160": "damaged"}
    assert codes(chains) == ["damaged"]
    assert chains.increment_at(160).damage.tensor == "ckptctl/lineage"


def test_a_flipped_byte_of_the_lineage_is_damage(tmp_path):
    write_full(tmp_path, 100)
    prefix = write_increment(tmp_path, 160, lineage={"version": 1, "base_step": 100})
    data = Path(f"{prefix}.data-00000-of-00001")
    raw = bytearray(data.read_bytes())
    raw[raw.index(b"base_step") + 12] ^= 1
    data.write_bytes(raw)
    assert statuses(look(tmp_path))["I160"] == "damaged"


def test_only_increments_have_a_lineage_and_only_fulls_were_merged(tmp_path):
    note = np.array(b"somebody's own", dtype=object)
    write_full(tmp_path, 100, extra={"ckptctl/lineage": note})
    write_increment(tmp_path, 120, extra={"ckptctl/merged": note})
    assert statuses(look(tmp_path)) == {"F100": "ok", "I120": "ok"}


STEPS = [
    pytest.param(np.array(7, np.int64), 7, id="int64"),
    pytest.param(np.array(-7, np.int32), -7, id="int32"),
    pytest.param(np.array(7.0, np.float32), None, id="no integer"),
    pytest.param(np.array([7], np.int64), None, id="no scalar"),
    pytest.param(np.array([], np.int64), None, id="missing"),
]


@pytest.mark.parametrize(("value", "expected"), STEPS)
def test_global_step(tmp_path, value, expected):
    write_full(tmp_path, 100, global_step=value)
    assert look(tmp_path).full_at(100).global_step == expected


# --- incomplete and damaged ---


def _cut(path, size):
    with Path(path).open("r+b") as file:
        file.truncate(size)


BREAK = [
    pytest.param(lambda p: Path(f"{p}.index").write_bytes(b""), "damaged", id="empty index"),
    pytest.param(lambda p: _cut(f"{p}.index", 100), "damaged", id="index cut short"),
    pytest.param(lambda p: Path(f"{p}.index").write_bytes(b"x" * 500), "damaged", id="garbage"),
    pytest.param(lambda p: _cut(f"{p}.data-00000-of-00001", 10), "incomplete", id="shard short"),
    pytest.param(
        lambda p: Path(f"{p}.data-00000-of-00001").unlink(), "incomplete", id="shard missing"
    ),
    pytest.param(
        lambda p: Path(f"{p}.data-00000-of-00001").rename(f"{p}.data-00000-of-00002"),
        "incomplete",
        id="shard of another number of shards",
    ),
]


@pytest.mark.parametrize(("spoil", "word"), BREAK)
def test_broken_checkpoints(small, spoil, word):
    prefix = small / INCREMENT_DIRECTORY / "incremental_model.ckpt-140"
    spoil(prefix)
    chains = look(small)
    assert statuses(chains)["I140"] == word
    assert chains.restore_points == (100, 120)
    assert word in codes(chains)
    assert chains.increment_at(140).global_step in (None, 140)


def test_damage_behind_the_first_block_of_a_large_index(tmp_path):
    write_full(tmp_path, 100)
    prefix = write_increment(tmp_path, 120, tables=1200)
    path = Path(f"{prefix}.index")
    raw = bytearray(path.read_bytes())
    raw[300_000] ^= 0xFF
    path.write_bytes(raw)
    chains = look(tmp_path)
    increment = chains.increment_at(120)
    assert increment.facts.damage is None
    assert statuses(chains)["I120"] == "damaged"


def test_an_index_that_vanishes_after_the_scan(small):
    scan = scan_directory(str(small))
    for file in increment_files(small, "incremental_model.ckpt-140"):
        file.unlink()
    chains = find_chains(scan)
    assert statuses(chains)["I140"] == "damaged"
    assert "gone while it was being read" in chains.why_not(chains.increment_at(140))


class Failing(LocalStorage):
    """A storage that fails at one path."""

    def __init__(self, path, error):
        self.path, self.error = str(path), error

    def open(self, path):
        if path == self.path:
            raise self.error
        return super().open(path)

    def listdir(self, directory):
        if directory == self.path:
            raise self.error
        return super().listdir(directory)

    def stat(self, path, *, follow=True):
        if path == self.path:
            raise self.error
        return super().stat(path, follow=follow)


FAILURES = [
    pytest.param(RefusedError("may not read the file"), id="no permission"),
    pytest.param(OSError(5, "Input/output error"), id="bad disk"),
]


@pytest.mark.parametrize("error", FAILURES)
def test_an_index_that_cannot_be_read(small, error):
    path = small / INCREMENT_DIRECTORY / "incremental_model.ckpt-140.index"
    chains = find_chains(scan_directory(str(small), Failing(path, error)))
    assert statuses(chains) == {"F100": "ok", "I120": "ok", "I140": "damaged"}
    reason = chains.why_not(chains.increment_at(140))
    assert "may not read" in reason or "Input/output" in reason


@pytest.mark.parametrize("error", FAILURES)
def test_data_of_a_fact_that_cannot_be_read(tmp_path, error):
    write_full(tmp_path, 100)
    prefix = write_increment(tmp_path, 120, lineage={"version": 1, "base_step": 100}, rows=0)
    storage = Failing(f"{prefix}.data-00000-of-00001", error)
    increment = find_chains(scan_directory(str(tmp_path), storage)).increment_at(120)
    assert increment.damage is not None
    assert increment.global_step is None


@pytest.mark.parametrize("error", FAILURES[:1])
def test_an_increment_directory_that_may_not_be_read(small, error):
    storage = Failing(small / INCREMENT_DIRECTORY, error)
    # `stat` of it works: only its names are hidden.
    storage.stat = LOCAL.stat
    chains = find_chains(scan_directory(str(small), storage))
    assert codes(chains) == ["increment-directory"]
    assert chains.restore_points == (100,)


@pytest.mark.parametrize("error", FAILURES[:1])
def test_a_directory_that_may_not_be_read(small, error):
    with pytest.raises(RefusedError):
        scan_directory(str(small), Failing(small, error))


@pytest.mark.parametrize("error", FAILURES)
def test_a_state_file_that_cannot_be_read(small, error):
    storage = Failing(small / "checkpoint", error)
    chains = find_chains(scan_directory(str(small), storage))
    assert codes(chains)[0] == "state-file"
    assert statuses(chains)["I120"] == "unproven"


# --- names ---


def test_any_base_name_padded_steps_and_shards(tmp_path):
    write_full(tmp_path, 0, name="my model-00000100", shards=3)
    write_increment(tmp_path, 0, name="d\nelta-00000120", shards=3)
    chains = look(tmp_path)
    assert statuses(chains) == {"F100": "ok", "I120": "ok"}
    assert chains.full_at(100).facts.num_shards == 3
    assert chains.restore_points == (100, 120)


def test_the_state_file_names_the_base_name(tmp_path):
    write_full(tmp_path, 100)
    for step in (50, 60):
        write_full(tmp_path, step, name=f"best-{step}")
    assert [item.name for item in look(tmp_path).scan.fulls] == ["best-50", "best-60"]
    write_state(tmp_path, "model.ckpt-100")
    chains = look(tmp_path)
    assert [item.name for item in chains.scan.fulls] == ["model.ckpt-100"]
    assert [item.name for item in chains.others] == ["best-50", "best-60"]
    assert [chains.status(item) for item in chains.others] == ["other", "other"]
    assert chains.others[0].contents.keys == 3
    assert chains.others[0].step == 50
    assert chains.restore_points == (100,)


def test_padded_twins_are_ambiguous(tmp_path):
    write_full(tmp_path, 100)
    write_full(tmp_path, 100, name="model.ckpt-00000100")
    write_increment(tmp_path, 120)
    chains = look(tmp_path)
    assert chains.restore_points == ()
    assert codes(chains) == ["ambiguous", "unproven"]


def test_an_enormous_step_is_another_s(tmp_path):
    write_full(tmp_path, 100)
    write_full(tmp_path, 0, name=f"model.ckpt-{10**30}")
    chains = look(tmp_path)
    assert [item.name for item in chains.others] == [f"model.ckpt-{10**30}"]
    assert chains.others[0].step == -1
    assert chains.restore_points == (100,)


def test_side_files_belong_to_their_own_checkpoint(tmp_path):
    for step in (1, 10):
        write_full(tmp_path, step)
    (tmp_path / "model.ckpt-10-emb-ssd_record.index").write_bytes(b"i" * 5)
    (tmp_path / "model.ckpt-10-emb-ssd_record.data-00000-of-00001").write_bytes(b"d" * 7)
    records = tmp_path / "model.ckpt-10-emb-emb_files"
    records.mkdir()
    (records / "3.emb").write_bytes(b"r" * 11)
    one, ten = look(tmp_path).scan.fulls
    assert (one.side, one.side_dirs) == ((), ())
    assert sum(info.size for _, info in ten.side) == 5 + 7 + 11
    assert ten.side_dirs == (str(records),)
    assert str(records / "3.emb") in [path for path, _ in ten.files]
    assert ten.bytes == sum(info.size for _, info in ten.files)


def test_nothing_is_counted_through_a_link(tmp_path):
    write_full(tmp_path, 10)
    records = tmp_path / "records"
    records.mkdir()
    (records / "3.emb").write_bytes(b"r" * 11)
    (tmp_path / "model.ckpt-10-emb-emb_files").symlink_to(records)
    (full,) = look(tmp_path).scan.fulls
    assert full.side == ()
    assert full.side_dirs == (str(tmp_path / "model.ckpt-10-emb-emb_files"),)


# --- what is called like a file and is none ---


def test_directories_and_links(tmp_path):
    write_full(tmp_path, 100)
    (tmp_path / "model.ckpt-200.index").mkdir()
    (tmp_path / "model.ckpt-300.index").symlink_to(tmp_path / "nowhere")
    (tmp_path / "model.ckpt-300.data-00000-of-00001").write_bytes(b"x")
    chains = look(tmp_path)
    assert codes(chains) == ["misfit", "damaged"]
    # Its index may come back with the disk that the link leads to.
    assert statuses(chains) == {"F100": "ok", "F300": "damaged"}
    assert chains.full_at(300).unread is not None
    assert chains.leftovers == ()


def test_linked_files_are_read_and_marked(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write_full(elsewhere, 100, at=5000)
    room = tmp_path / "room"
    room.mkdir()
    for file in elsewhere.iterdir():
        (room / file.name).symlink_to(file)
    full = look(room).full_at(100)
    assert full.complete
    assert full.mtime_ns == 5000 * 10**9
    assert all(info.is_symlink for _, info in full.files)
    assert full.bytes == sum(file.stat().st_size for file in elsewhere.iterdir())


def test_a_linked_increment_directory(small):
    real = small / "elsewhere"
    (small / INCREMENT_DIRECTORY).rename(real)
    (small / INCREMENT_DIRECTORY).symlink_to(real)
    scan = scan_directory(str(small))
    assert scan.increment_link
    assert len(scan.increments) == 2
    assert not scan_directory(str(small / "elsewhere")).increment_link


@pytest.mark.parametrize("make", [Path.touch, lambda p: p.symlink_to("nowhere")])
def test_an_increment_directory_that_is_none(tmp_path, make):
    write_full(tmp_path, 100)
    make(tmp_path / INCREMENT_DIRECTORY)
    chains = look(tmp_path)
    assert codes(chains) == ["increment-directory"]
    assert chains.restore_points == (100,)


def test_no_directory(tmp_path):
    with pytest.raises(NotFoundError):
        scan_directory(str(tmp_path / "none"))
    (tmp_path / "file").touch()
    with pytest.raises(NotFoundError):
        scan_directory(str(tmp_path / "file"))


def test_an_empty_directory(tmp_path):
    chains = look(tmp_path)
    assert (chains.chains, chains.latest, chains.problems) == ((), None, ())


# --- state files ---

GARBAGE = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\xff\xfe\x00", id="binary"),
    pytest.param(b"no such field: 1", id="another message"),
    pytest.param(b'all_model_checkpoint_paths: "a-1"', id="names nothing"),
    pytest.param(b"x" * (17 << 20), id="absurdly long"),
]


@pytest.mark.parametrize("raw", GARBAGE)
def test_a_state_file_that_does_not_parse(small, raw):
    (small / "checkpoint").write_bytes(raw)
    chains = look(small)
    assert chains.scan.full_state.present
    assert chains.scan.full_state.error is not None
    assert codes(chains)[0] == "state-file"
    # Fulls are fulls, but what rotated away is not known.
    assert statuses(chains) == {"F100": "ok", "I120": "unproven", "I140": "unproven"}


@pytest.mark.parametrize("make", [Path.mkdir, lambda p: p.symlink_to("nowhere")])
def test_a_state_file_that_is_no_file(small, make):
    (small / "checkpoint").unlink()
    make(small / "checkpoint")
    chains = look(small)
    assert codes(chains)[0] == "state-file"
    assert chains.restore_points == (100,)


def test_no_state_file(small):
    (small / "checkpoint").unlink()
    (small / INCREMENT_DIRECTORY / "checkpoint").unlink()
    chains = look(small)
    assert chains.restore_points == (100, 120, 140)
    assert chains.base_of(chains.increment_at(120)).code == "no-state-file"


def test_absolute_paths_of_this_directory(small):
    write_state(small, str(small / "model.ckpt-100"), at=1001)
    other_name = small.parent / "link"
    other_name.symlink_to(small)
    room = small / INCREMENT_DIRECTORY
    write_state(
        room,
        str(other_name / INCREMENT_DIRECTORY / "incremental_model.ckpt-120"),
        str(room / ".." / INCREMENT_DIRECTORY / "incremental_model.ckpt-140"),
        at=1041,
    )
    chains = look(small)
    assert chains.scan.copied == ()
    assert codes(chains) == []
    assert chains.base_of(chains.increment_at(120)).code == "listed"


def test_a_copied_directory_with_absolute_paths(small):
    room = small / INCREMENT_DIRECTORY
    write_state(small, str(small / "model.ckpt-100"), at=1001)
    write_state(room, *(str(room / f"incremental_model.ckpt-{s}") for s in (120, 140)), at=1041)
    copy = small.parent / "copy"
    shutil.copytree(small, copy)
    chains = look(copy)
    assert chains.scan.copied == (
        (str(copy / "checkpoint"), str(small / "model.ckpt-100")),
        (str(copy / INCREMENT_DIRECTORY / "checkpoint"), str(room / "incremental_model.ckpt-140")),
        (str(copy / INCREMENT_DIRECTORY / "checkpoint"), str(room / "incremental_model.ckpt-120")),
    )
    assert codes(chains) == ["copied"] * 3
    assert chains.restore_points == (100, 120, 140)


def test_a_moved_directory_with_absolute_paths(small):
    write_state(small, str(small / "model.ckpt-100"), at=1001)
    moved = small.parent / "moved"
    small.rename(moved)
    chains = look(moved)
    assert chains.scan.copied == ()
    assert chains.scan.full_state.moved == str(small / "model.ckpt-100")
    assert codes(chains) == ["moved"]
    write_state(moved, "/gone/model.ckpt-999", at=1001)  # of that name nothing is here either
    assert "moved" not in codes(look(moved))
    assert chains.base_of(chains.increment_at(120)).code == "listed"


def test_a_relative_path_into_another_directory(small):
    other = small / "sub"
    other.mkdir()
    write_full(other, 100)
    write_state(small, "sub/model.ckpt-100", at=1001)
    chains = look(small)
    assert [path for _, path in chains.scan.copied] == ["sub/model.ckpt-100"]


@pytest.mark.parametrize("path", ["/\\000/x-1", "/" + "a" * 5000 + "/x-1", "loop/x-1", "/", "a/"])
def test_hostile_paths_in_a_state_file(small, path):
    (small / "loop").symlink_to("loop")
    write_state(small, path, "model.ckpt-100", at=1001)
    chains = look(small)
    assert chains.scan.copied == ()
    assert chains.full_at(100) is not None


# --- timelines with real times ---


def test_a_run_that_was_rolled_back(tmp_path):
    room = tmp_path / INCREMENT_DIRECTORY
    for step, at in ((100, 1000), (200, 1100), (150, 1300)):
        write_full(tmp_path, step, at=at)
    for step, at in ((220, 1120), (170, 1320), (230, 1340)):
        write_increment(tmp_path, step, at=at)
    write_state(tmp_path, *(f"model.ckpt-{s}" for s in (100, 200, 150)), at=1301)
    names = [f"incremental_model.ckpt-{s}" for s in (220, 170, 230)]
    write_state(room, *names, at=1341)
    chains = look(tmp_path)
    assert statuses(chains) == {
        "F100": "ok",
        "F150": "ok",
        "F200": "abandoned",
        "I170": "ok",
        "I220": "abandoned",
        "I230": "ok",
    }
    assert label(chains.base_of(chains.increment_at(230)).base) == "F150"


def test_an_unlisted_full_just_committed_or_abandoned(tmp_path):
    write_full(tmp_path, 100, at=1000)
    write_full(tmp_path, 200, at=1100)
    write_state(tmp_path, "model.ckpt-100", at=1001)
    assert statuses(look(tmp_path)) == {"F100": "ok", "F200": "ok"}
    write_state(tmp_path, "model.ckpt-100", at=1200)
    assert statuses(look(tmp_path)) == {"F100": "ok", "F200": "abandoned"}
    assert statuses(look(tmp_path, assume_order="step")) == {"F100": "ok", "F200": "ok"}


def test_a_checkpoint_in_the_v1_format_is_there_and_not_read(small):
    (small / "model.ckpt-90").write_bytes(b"V1 is one file")
    write_state(small, "model.ckpt-90", "model.ckpt-100", at=1001)
    chains = look(small)
    assert chains.scan.full_state.v1 == ("model.ckpt-90",)
    assert [problem.code for problem in chains.problems] == ["v1"]


# --- leftovers ---


def test_leftovers(small):
    room = small / INCREMENT_DIRECTORY
    temporary = room / f"incremental_model.ckpt-160_temp_{HEX}"
    temporary.mkdir()
    (temporary / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x" * 30)
    (small / "model.ckpt-200.index.tempstate77").write_bytes(b"x" * 3)
    (small / "model.ckpt-200.data-00000-of-00001").write_bytes(b"x" * 5)
    (small / "model.ckpt-200.meta").write_bytes(b"x" * 6)
    (small / "model.ckpt-300.ckptctl.json").write_bytes(b"{}")
    (small / f"model.ckpt-300_temp_{HEX}").mkdir()
    (small / "checkpoint.ckptctl-0123456789abcdef.tmp").write_bytes(b"x")
    (small / "model.ckpt-400.meta").write_bytes(b"V1 has those")
    (small / "other-7.data-00000-of-00001").write_bytes(b"not ours")
    (small / f"other-7_temp_{HEX}").mkdir()
    (small / "model.ckpt-500-emb-ssd_record.index").write_bytes(b"x" * 8)
    chains = look(small)
    found = {
        Path(item.path).name: (item.reason, item.bytes, item.marked, item.foreign)
        for item in chains.leftovers
    }
    assert found == {
        temporary.name: ("temporary", 30, False, False),
        "model.ckpt-200.index.tempstate77": ("tempstate", 3, False, False),
        "model.ckpt-200.data-00000-of-00001": ("unindexed", 5, False, False),
        "model.ckpt-200.meta": ("unindexed", 6, False, False),
        "model.ckpt-300.ckptctl.json": ("unindexed", 2, True, False),
        f"model.ckpt-300_temp_{HEX}": ("temporary", 0, True, False),
        "checkpoint.ckptctl-0123456789abcdef.tmp": ("atomic", 1, True, False),
        f"other-7_temp_{HEX}": ("temporary", 0, False, True),
        "model.ckpt-500-emb-ssd_record.index": ("unindexed", 8, False, False),
    }
    assert chains.restore_points == (100, 120, 140)


def test_the_age_of_a_temporary_is_that_of_the_newest_inside(small):
    temporary = small / f"model.ckpt-160_temp_{HEX}"
    temporary.mkdir()
    inside = temporary / "part-00000-of-00001.data-00000-of-00001"
    inside.touch()
    os.utime(inside, (5000, 5000))
    os.utime(temporary, (4000, 4000))
    scan = scan_directory(str(small))
    assert scan.leftovers[0].mtime_ns == 5000 * 10**9
    assert abs(scan.taken_ns - time.time_ns()) < 60 * 10**9


# --- what ckptctl removed ---


def test_removed_log(small):
    log = small / ".ckptctl" / "removed.jsonl"
    log.parent.mkdir()
    log.write_text(
        '{"kind": "full", "name": "model.ckpt-110", "step": 110}\n'
        '{"kind": "full", "name": "model.ckpt-115", "merged": true}\n'
        '{"kind": "trash"}\n'
        '{"kind": "trash", "name": "model.ckpt-116"}\n'
        '{"kind": "full", "name": "model.ckpt-117", "step": "x"}\n'
        '[{"kind'
    )
    chains = look(small)
    assert [(item.name, item.step, item.merged) for item in chains.scan.removed] == [
        ("model.ckpt-110", 110, False),
        ("model.ckpt-115", 115, True),
    ]
    assert codes(chains) == [*["removed-log"] * 4, "unproven", "unproven"]
    assert chains.base_of(chains.increment_at(120)).code == "full-gone"


def test_a_removed_log_that_is_none(small):
    (small / ".ckptctl" / "removed.jsonl").mkdir(parents=True)
    assert codes(look(small)) == ["removed-log"]


# --- speed ---


def test_the_first_chain_of_many_comes_at_once(tmp_path):
    """10 fulls and 100 increments of 500 tensors: `ls` owes its first line within 150 ms."""
    first = write_full(tmp_path, 0, at=1000, tables=28)
    increment = write_increment(tmp_path, 10, at=1010, tables=50)
    for step in range(0, 1100, 10):
        source = first if step % 110 == 0 else increment
        room = tmp_path if step % 110 == 0 else tmp_path / INCREMENT_DIRECTORY
        base = source.name.rpartition("-")[0]
        for suffix in (".index", ".data-00000-of-00001"):
            target = room / f"{base}-{step}{suffix}"
            if not target.exists():
                os.link(f"{source}{suffix}", target)
    started = time.perf_counter()
    chains = find_chains(scan_directory(str(tmp_path), LOCAL))
    base = chains.chains[0].base
    assert chains.status(base) == "ok"
    assert base.contents.tensors > 500
    elapsed = time.perf_counter() - started
    assert len(chains.chains) == 10
    assert len(chains.scan.increments) == 100
    # Ten times what it takes here, so that only a change of kind fails.
    assert elapsed < 1.0


# --- once more ---

LONG_AGO = (1_700_000_000, 1_700_000_000)
TOUCHES = {
    "mode": lambda prefix: os.chmod(f"{prefix}.index", 0o600),
    "data": lambda prefix: os.utime(f"{prefix}.data-00000-of-00001", (1, 1)),
    "another file": lambda prefix: shutil.copy2(f"{prefix}.index", f"{prefix}.meta"),
    "another link": lambda prefix: os.link(f"{prefix}.index", f"{prefix}.copy"),
    "gone": lambda prefix: os.unlink(f"{prefix}.data-00000-of-00001"),
}


def date(room):
    for path in room.rglob("*"):
        os.utime(path, LONG_AGO)


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_second_scan_keeps_what_was_read_of_what_is_the_same(small, touch):
    date(small)
    before = scan_directory(str(small))
    assert all(each.complete for each in (*before.fulls, *before.increments))
    TOUCHES[touch](before.increments[0].prefix)
    again = scan_again(before)
    assert again.fulls[0] is before.fulls[0]
    assert again.increments[1] is before.increments[1]
    assert again.increments[0] is not before.increments[0]
    assert again.increments[0].complete == (touch != "gone")


def test_a_second_scan_reads_again_what_is_young_or_damaged_or_was_not_read(small):
    os.utime(small / "model.ckpt-100.index")
    before = scan_directory(str(small))
    assert all(each.complete for each in before.fulls)
    assert scan_again(before).fulls[0] is not before.fulls[0]
    os.truncate(f"{before.fulls[0].prefix}.index", 20)
    date(small)
    before = scan_directory(str(small))
    assert before.fulls[0].damage is not None
    again = scan_again(before)
    assert again.fulls[0] is not before.fulls[0]
    assert again.increments[0] is not before.increments[0]
