"""How a bundle comes into being: the order of things, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ckptctl.bundle import BundleHeader, BundleReader, BundleWriter
from ckptctl.bundle.commit import PendingBundle
from ckptctl.bundle.writer import index_bytes
from ckptctl.errors import ExistsError, NotFoundError
from ckptctl.storage import LOCAL
from tests.bundle import builders as b
from tests.bundle.recording import RecordingStorage

ROOT = Path(__file__).parent.parent.parent
INDEX = index_bytes(BundleHeader(2), {})


def write(prefix: str, storage: RecordingStorage, **options: object) -> PendingBundle:
    """Write an empty bundle of two shards with a mark and two side files."""
    pending = PendingBundle(prefix, 2, storage, mark=b"{}", **options)
    try:
        pending.start([8, 0])
        for shard in range(2):
            file = storage.open_write(pending.shard_temporary(shard))
            file.fsync()
            file.close()
        storage.write_new(pending.extra(".meta"), b"graph")
        storage.write_new(pending.extra("-emb-emb_files/0.emb"), b"rows")
        pending.commit(INDEX)
    except BaseException:
        pending.abort()
        raise
    return pending


ORDER = """
write_new m-1.ckptctl.json
fsync_dir {0}
mkdir m-1_temp
create data-00000-of-00002
create data-00001-of-00002
fsync data-00000-of-00002
fsync data-00001-of-00002
write_new extra-00000
write_new extra-00001
write_new index
rename_new data-00000-of-00002 m-1.data-00000-of-00002
rename_new data-00001-of-00002 m-1.data-00001-of-00002
rename_new extra-00000 m-1.meta
mkdir m-1-emb-emb_files
rename_new extra-00001 0.emb
fsync_dir m-1-emb-emb_files
fsync_dir {0}
rename_new index m-1.index
fsync_dir {0}
rmdir m-1_temp
"""


def test_the_order_of_things(tmp_path: Path) -> None:
    """The mark before all, data flushed before it is renamed, the index last."""
    storage = RecordingStorage()
    write(str(tmp_path / "m-1"), storage)
    assert storage.calls == ORDER.format(tmp_path.name).strip().split("\n")
    assert BundleReader(str(tmp_path / "m-1")).header.num_shards == 2
    assert (tmp_path / "m-1-emb-emb_files" / "0.emb").read_bytes() == b"rows"


def test_a_late_mark(tmp_path: Path) -> None:
    """Until the first rename an older bundle of that name, with its mark, still stands."""
    storage = RecordingStorage()
    write(str(tmp_path / "m-1"), storage, late_mark=True)
    early = ["write_new m-1.ckptctl.json", f"fsync_dir {tmp_path.name}"]
    calls = ORDER.format(tmp_path.name).strip().split("\n")[2:]
    at = calls.index("rename_new data-00000-of-00002 m-1.data-00000-of-00002")
    assert storage.calls == [*calls[:at], *early, *calls[at:]]


def test_the_writer_flushes_its_data_first(tmp_path: Path) -> None:
    storage = RecordingStorage()
    with BundleWriter(str(tmp_path / "m-1"), 1, storage) as writer:
        writer.add("x", np.zeros(9, "f4"))
    assert storage.calls[2:] == [
        "pwrite data-00000-of-00001",
        "fsync data-00000-of-00001",
        "write_new index",
        "rename_new data-00000-of-00001 m-1.data-00000-of-00001",
        f"fsync_dir {tmp_path.name}",
        "rename_new index m-1.index",
        f"fsync_dir {tmp_path.name}",
        "rmdir m-1_temp",
    ]


# Stopped by an error


class Stop(Exception):
    pass


def stop_at(number: int) -> RecordingStorage:
    def count(_: str) -> None:
        if len(storage.calls) == number:
            raise Stop

    storage = RecordingStorage(count)
    return storage


@pytest.mark.parametrize("late_mark", [False, True])
def test_an_error_at_any_point_leaves_nothing(tmp_path: Path, late_mark: bool) -> None:
    """But for the last two steps: then the bundle is there, and stays."""
    steps = ORDER.strip().count("\n") + 1
    for number in range(1, steps + 1):
        directory = tmp_path / str(number)
        directory.mkdir()
        storage = stop_at(number)
        with pytest.raises(Stop):
            write(str(directory / "m-1"), storage, late_mark=late_mark)
        left = sorted(path.name for path in directory.rglob("*") if path.is_file())
        if number <= steps - 2:
            assert left == [], storage.calls
            assert list(directory.iterdir()) == []
        else:
            assert b.outcome(str(directory / "m-1")) == {"": BundleHeader(2, raw=b.header(2))}
            assert "m-1.ckptctl.json" in left
            assert list(directory.glob("*_temp_*")) == []


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    for number in range(1, 7):
        with pytest.raises(Stop), BundleWriter(str(tmp_path / "m"), 1, stop_at(number)) as writer:
            writer.add("x", np.zeros(9, "f4"))
        assert list(tmp_path.iterdir()) == [], number


def test_what_others_wrote_meanwhile_stays(tmp_path: Path) -> None:
    """Shard 1 is somebody else's: nothing of theirs goes, nothing of ours stays."""
    theirs = tmp_path / "m-1.data-00001-of-00002"
    theirs.write_bytes(b"theirs")
    with pytest.raises(ExistsError) as caught:
        write(str(tmp_path / "m-1"), RecordingStorage())
    assert caught.value.file == str(theirs)
    assert [path.name for path in tmp_path.iterdir()] == [theirs.name]
    assert theirs.read_bytes() == b"theirs"


def test_an_index_that_others_wrote_meanwhile(tmp_path: Path) -> None:
    def race(call: str) -> None:
        if call == "rename_new index m-1.index":
            (tmp_path / "m-1.index").write_bytes(b"theirs")

    with pytest.raises(ExistsError):
        write(str(tmp_path / "m-1"), RecordingStorage(race))
    assert [path.name for path in tmp_path.iterdir()] == ["m-1.index"]
    assert (tmp_path / "m-1.index").read_bytes() == b"theirs"


def test_shards_that_others_put_in_place_of_ours_stay(tmp_path: Path) -> None:
    """A trainer renames over what is there: what it wrote is not ours to remove."""
    shard = tmp_path / "m-1.data-00000-of-00002"

    def race(call: str) -> None:
        if call == "rename_new index m-1.index":
            (tmp_path / "new").write_bytes(b"theirs")
            os.rename(tmp_path / "new", shard)
            raise Stop

    with pytest.raises(Stop):
        write(str(tmp_path / "m-1"), RecordingStorage(race))
    assert [path.name for path in tmp_path.iterdir()] == [shard.name]


def test_a_mark_that_is_there(tmp_path: Path) -> None:
    mark = tmp_path / "m-1.ckptctl.json"
    mark.write_bytes(b"of a run that was killed")
    with pytest.raises(ExistsError) as caught:
        write(str(tmp_path / "m-1"), RecordingStorage())
    assert caught.value.file == str(mark)
    assert [path.name for path in tmp_path.iterdir()] == [mark.name]


def test_abort_after_a_commit_does_nothing(tmp_path: Path) -> None:
    pending = write(str(tmp_path / "m-1"), RecordingStorage())
    before = sorted(tmp_path.rglob("*"))
    pending.abort()
    assert sorted(tmp_path.rglob("*")) == before


def test_mode_and_owner_are_those_of_another_file(tmp_path: Path) -> None:
    model = tmp_path / "m-0.index"
    model.touch()
    os.chmod(model, 0o640)
    if os.geteuid() == 0:
        os.chown(model, 12, 34)
    like = LOCAL.stat(str(model))
    write(str(tmp_path / "m-1"), RecordingStorage(), like=like)
    files = [path for path in tmp_path.rglob("m-1*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        found = LOCAL.stat(str(path))
        assert (found.mode, found.uid, found.gid) == (like.mode, like.uid, like.gid), path


# Killed

KILLED = """
import json, os, signal, sys
from tests.bundle.test_commit import RecordingStorage, write

def run(number):
    def kill(_):
        if len(storage.calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    storage = RecordingStorage(kill)
    os.mkdir(f"{sys.argv[1]}/{number}")
    write(f"{sys.argv[1]}/{number}/m-1", storage)

statuses = []
for number in range(1, int(sys.argv[2]) + 2):
    child = os.fork()
    if child == 0:
        run(number)
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""


def test_a_kill_at_any_point(tmp_path: Path) -> None:
    """No index, or a whole bundle; and whatever lies about has a mark that says whose it is."""
    calls = ORDER.strip().split("\n")
    run = [sys.executable, "-c", KILLED, str(tmp_path), str(len(calls))]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [9] * len(calls) + [0]
    indexed = calls.index("rename_new index m-1.index") + 1
    for number in range(1, len(calls) + 2):
        directory = tmp_path / str(number)
        found = b.outcome(str(directory / "m-1"))
        if number > indexed:
            assert found == {"": BundleHeader(2, raw=b.header(2))}
        else:
            assert isinstance(found, NotFoundError)
        left = [path.name for path in directory.iterdir()]
        assert "m-1.ckptctl.json" in left or left == []
