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
from ckptctl.bundle.commit import PendingBundle, file_identity
from ckptctl.bundle.writer import index_bytes
from ckptctl.errors import ChangedError, ExistsError, NotFoundError
from ckptctl.storage import LOCAL, FileInfo
from tests.bundle import builders as b
from tests.bundle.recording import RecordingStorage
from tests.rooms import tmp_path

__all__ = ["tmp_path"]  # in memory, where a thousand fsyncs take no time

ROOT = Path(__file__).parent.parent.parent
INDEX = index_bytes(BundleHeader(2), {})
EMPTY = {"": BundleHeader(2, raw=b.header(2))}


def write(
    prefix: str, storage: RecordingStorage, graph: bytes = b"graph", **options: object
) -> PendingBundle:
    """Write a bundle of two shards without tensors, with a mark and two side files."""
    pending = PendingBundle(prefix, 2, storage, mark={"step": 1}, **options)
    try:
        pending.start()
        for shard, size in enumerate((8, 0)):
            storage.create(pending.shard_temporary(shard), size)
        for shard in range(2):
            file = storage.open_write(pending.shard_temporary(shard))
            file.fsync()
            file.close()
        storage.write_new(pending.extra(".meta"), graph)
        storage.write_new(pending.extra("-emb-emb_files/0.emb"), b"rows")
        pending.commit(INDEX)
    except BaseException:
        pending.abort()
        raise
    return pending


def replacing(directory: Path) -> dict[str, object]:
    """Return the options that replace the bundle `m-1` of a directory, its index first."""
    older = [info for info in LOCAL.listdir(str(directory)) if info.name.startswith("m-1")]
    older.sort(key=lambda info: not info.name.endswith(".index"))
    return {"replaces": older, "trash": str(directory / ".trash" / "m-1")}


def files_in(directory: Path) -> dict[str, bytes]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(found)}


ORDER = """
write_atomic m-1.ckptctl.json
write_new m-1.ckptctl.json.ckptctl.tmp
fsync_dir {0}
mkdir m-1_temp
create data-00000-of-00002
create data-00001-of-00002
fsync data-00000-of-00002
fsync data-00001-of-00002
write_new extra-00000
write_new extra-00001
write_new index
fsync_dir m-1_temp
write_atomic m-1.ckptctl.json
write_new m-1.ckptctl.json.ckptctl.tmp
fsync_dir {0}
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
fsync_dir {0}
write_atomic m-1.ckptctl.json
write_new m-1.ckptctl.json.ckptctl.tmp
fsync_dir {0}
"""
STEPS = ORDER.strip().split("\n")
INDEX_LAST = "rename_new index m-1.index"
#: Up to this step, and during it, there is no bundle.
INDEXED = STEPS.index(INDEX_LAST) + 1


def test_the_order_of_things(tmp_path: Path) -> None:
    """The mark before all, data flushed before it is renamed, the index last."""
    storage = RecordingStorage()
    write(str(tmp_path / "m-1"), storage)
    assert storage.calls == ORDER.format(tmp_path.name).strip().split("\n")
    assert BundleReader(str(tmp_path / "m-1")).header.num_shards == 2
    assert (tmp_path / "m-1-emb-emb_files" / "0.emb").read_bytes() == b"rows"


def test_the_mark_names_every_file_that_is_renamed(tmp_path: Path) -> None:
    """While these are renamed; afterwards it says where the bundle is from, and which it is."""
    path = tmp_path / "m-1.ckptctl.json"
    seen = []

    def look(call: str) -> None:
        if call.startswith("rename_new"):
            seen.append(json.loads(path.read_text()))

    write(str(tmp_path / "m-1"), RecordingStorage(look))
    assert len(seen) == 5
    assert all(mark == seen[0] for mark in seen)
    assert seen[0]["step"] == 1
    assert seen[0]["temporary"].startswith("m-1_temp_")
    files = {name for name in files_in(tmp_path) if not name.endswith((".json", ".index"))}
    assert set(seen[0]["files"]) == files
    for name, identity in seen[0]["files"].items():
        assert identity == file_identity(LOCAL.stat(str(tmp_path / name)))
    index = file_identity(LOCAL.stat(str(tmp_path / "m-1.index")))
    assert json.loads(path.read_text()) == {"step": 1, "index": index}


def test_the_mark_of_what_replaces_lies_apart(tmp_path: Path) -> None:
    """The older bundle keeps its own until it goes; the new one says what it is to replace."""
    write(str(tmp_path / "m-1"), RecordingStorage(), b"old graph")
    options = replacing(tmp_path)

    def look(call: str) -> None:
        if call == "write_new index":
            [inner] = tmp_path.glob("m-1_temp_*/ckptctl.json")
            older = {info.name: file_identity(info) for info in options["replaces"]}
            assert json.loads(inner.read_text())["replaces"] == older
            mark = json.loads((tmp_path / "m-1.ckptctl.json").read_text())
            assert mark == {"step": 1, "index": older["m-1.index"]}

    write(str(tmp_path / "m-1"), RecordingStorage(look), **options)


def test_the_order_where_a_bundle_is_replaced(tmp_path: Path) -> None:
    """It stands until all is written, and goes index first."""
    write(str(tmp_path / "m-1"), RecordingStorage(), b"old graph")
    old = files_in(tmp_path)
    storage = RecordingStorage()
    options = replacing(tmp_path)
    write(str(tmp_path / "m-1"), storage, **options)
    calls = storage.calls
    assert calls[0] == "mkdir m-1_temp"
    assert calls[1] == "write_atomic ckptctl.json"
    moved = [at for at, call in enumerate(calls) if call.startswith("rename ")]
    assert [calls[at].split()[1] for at in moved] == [info.name for info in options["replaces"]]
    assert calls[moved[0]] == "rename m-1.index m-1.index"
    # Flushed: no power cut brings it back without its data.
    assert calls[moved[0] + 1 : moved[0] + 3] == ["fsync_dir m-1", f"fsync_dir {tmp_path.name}"]
    assert calls.index("write_new index") < moved[0]
    assert moved[-1] < calls.index("rename_new data-00000-of-00002 m-1.data-00000-of-00002")
    assert files_in(tmp_path / ".trash" / "m-1") == old
    assert (tmp_path / "m-1.meta").read_bytes() == b"graph"
    assert b.outcome(str(tmp_path / "m-1")) == EMPTY


def test_the_writer_flushes_its_data_first(tmp_path: Path) -> None:
    storage = RecordingStorage()
    with BundleWriter(str(tmp_path / "m-1"), 1, storage) as writer:
        writer.add("x", np.zeros(9, "f4"))
    assert storage.calls[2:] == [
        "pwrite data-00000-of-00001",
        "fsync data-00000-of-00001",
        "write_new index",
        "fsync_dir m-1_temp",
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


@pytest.mark.parametrize("number", range(1, len(STEPS) + 1))
def test_an_error_at_any_point_leaves_nothing(tmp_path: Path, number: int) -> None:
    """Until the index is in place: then the bundle is there, and stays."""
    with pytest.raises(Stop):
        write(str(tmp_path / "m-1"), stop_at(number))
    if number <= INDEXED:
        assert list(tmp_path.iterdir()) == []
    else:
        assert b.outcome(str(tmp_path / "m-1")) == EMPTY
        assert "m-1.ckptctl.json" in files_in(tmp_path)
        assert list(tmp_path.glob("*_temp_*")) == []


def test_an_error_at_any_point_leaves_what_was_to_be_replaced(tmp_path: Path) -> None:
    """Or the new one, whole, and the old one in the trash: never neither."""
    seen = set()
    for number in range(1, 99):
        directory = tmp_path / str(number)
        directory.mkdir()
        write(str(directory / "m-1"), RecordingStorage(), b"old graph")
        old = files_in(directory)
        storage = stop_at(number)
        try:
            write(str(directory / "m-1"), storage, **replacing(directory))
        except Stop:
            pass
        else:
            break
        found = files_in(directory)
        if found == old:
            seen.add("old")
        else:
            assert {n: c for n, c in found.items() if n.startswith(".trash")} == {
                f".trash/m-1/{name}": content for name, content in old.items()
            }, storage.calls[-1]
            assert b.outcome(str(directory / "m-1")) == EMPTY
            assert found["m-1.meta"] == b"graph"
            seen.add("new")
    assert seen == {"old", "new"}
    assert 30 < number < 98


def test_what_was_to_be_replaced_comes_back_index_last(tmp_path: Path) -> None:
    write(str(tmp_path / "m-1"), RecordingStorage(), b"old graph")
    options = replacing(tmp_path)

    def stop(call: str) -> None:
        if call == "rename_new index m-1.index" and len(back()) == 5:
            raise Stop

    def back() -> list[str]:
        return [call.split()[2] for call in storage.calls if call.startswith("rename_new")]

    storage = RecordingStorage(stop)
    with pytest.raises(Stop):
        write(str(tmp_path / "m-1"), storage, **options)
    names = [info.name for info in options["replaces"]]
    assert names[0] == "m-1.index"
    assert back()[5:] == names[::-1]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    for number in range(1, 8):
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
    assert files_in(tmp_path) == {theirs.name: b"theirs"}


def race(path: Path, when: str, *, then: type[Exception] | None = None) -> RecordingStorage:
    """Return a storage before whose call `when` a trainer renames a file to `path`."""

    def act(call: str) -> None:
        if call == when:
            new = path.with_name("new")
            new.write_bytes(b"theirs")
            os.rename(new, path)
            if then is not None:
                raise then

    return RecordingStorage(act)


def test_an_index_that_others_wrote_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(ExistsError):
        write(str(tmp_path / "m-1"), race(tmp_path / "m-1.index", INDEX_LAST))
    assert files_in(tmp_path) == {"m-1.index": b"theirs"}


def test_shards_that_others_put_in_place_of_ours_stay(tmp_path: Path) -> None:
    """A trainer renames over what is there: what it wrote is not ours to remove."""
    shard = tmp_path / "m-1.data-00000-of-00002"
    with pytest.raises(Stop):
        write(str(tmp_path / "m-1"), race(shard, INDEX_LAST, then=Stop))
    assert files_in(tmp_path) == {shard.name: b"theirs"}


def test_shards_that_others_wrote_into_stay(tmp_path: Path) -> None:
    """As `cp` does, which keeps the file that is there."""
    shard = tmp_path / "m-1.data-00000-of-00002"

    def act(call: str) -> None:
        if call == INDEX_LAST:
            shard.write_bytes(b"theirs")
            raise Stop

    with pytest.raises(Stop):
        write(str(tmp_path / "m-1"), RecordingStorage(act))
    assert files_in(tmp_path) == {shard.name: b"theirs"}


def test_no_index_is_put_to_shards_that_others_put_in_place_of_ours(tmp_path: Path) -> None:
    shard = tmp_path / "m-1.data-00000-of-00002"
    with pytest.raises(ChangedError) as caught:
        write(str(tmp_path / "m-1"), race(shard, "fsync_dir m-1-emb-emb_files"))
    assert caught.value.file == str(shard)
    assert files_in(tmp_path) == {shard.name: b"theirs"}


def test_what_others_wrote_meanwhile_is_not_replaced_by_the_old(tmp_path: Path) -> None:
    """The old bundle was in the trash when a trainer saved that step again; there it stays."""
    write(str(tmp_path / "m-1"), RecordingStorage(), b"old graph")
    options = replacing(tmp_path)
    with pytest.raises(ExistsError):
        write(str(tmp_path / "m-1"), race(tmp_path / "m-1.index", INDEX_LAST), **options)
    found = files_in(tmp_path)
    assert [name for name in found if not name.startswith(".trash")] == ["m-1.index"]
    assert found["m-1.index"] == b"theirs"
    assert found[".trash/m-1/m-1.index"] == INDEX
    assert len(found) == 1 + len(options["replaces"])


def test_what_is_to_be_replaced_must_be_what_it_was(tmp_path: Path) -> None:
    write(str(tmp_path / "m-1"), RecordingStorage(), b"old graph")
    options = replacing(tmp_path)
    shard = tmp_path / "m-1.data-00000-of-00002"
    storage = race(shard, "write_new index")
    with pytest.raises(ChangedError) as caught:
        write(str(tmp_path / "m-1"), storage, **options)
    assert caught.value.file == str(shard)
    assert shard.read_bytes() == b"theirs"
    assert (tmp_path / "m-1.index").read_bytes() == INDEX
    assert not any(call.startswith("rename") for call in storage.calls)


def test_abort_after_a_commit_does_nothing(tmp_path: Path) -> None:
    pending = write(str(tmp_path / "m-1"), RecordingStorage())
    before = files_in(tmp_path)
    pending.abort()
    assert files_in(tmp_path) == before


def test_mode_and_owner_are_those_of_another_file(tmp_path: Path) -> None:
    model = tmp_path / "m-0.index"
    model.touch()
    os.chmod(model, 0o640)
    if os.geteuid() == 0:
        os.chown(model, 12, 34)
    like: FileInfo | None = LOCAL.stat(str(model))
    write(str(tmp_path / "m-1"), RecordingStorage(), like=like)
    files = [path for path in tmp_path.rglob("m-1*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        found = LOCAL.stat(str(path))
        assert (found.mode, found.uid, found.gid) == (like.mode, like.uid, like.gid), path


# Killed

KILLED = """
import json, os, signal, sys
from pathlib import Path
from tests.bundle.test_commit import RecordingStorage, replacing, write

def run(directory, number):
    def kill(_):
        if len(storage.calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
    directory.mkdir()
    options = {}
    if sys.argv[2] == "replace":
        write(str(directory / "m-1"), RecordingStorage(), b"old graph")
        options = replacing(directory)
    storage = RecordingStorage(kill)
    write(str(directory / "m-1"), storage, **options)

statuses = []
while not statuses or statuses[-1]:
    child = os.fork()
    if child == 0:
        run(Path(sys.argv[1], str(len(statuses) + 1)), len(statuses) + 1)
        os._exit(0)
    statuses.append(os.waitpid(child, 0)[1])
print(json.dumps(statuses))
"""


def killed_at_each_step(tmp_path: Path, how: str) -> int:
    """Write in a process that is killed at step 1, 2, ...; return the number of steps."""
    run = [sys.executable, "-c", KILLED, str(tmp_path), how]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    *statuses, last = json.loads(done.stdout)
    assert set(statuses) == {9}
    assert last == 0
    return len(statuses)


def test_a_kill_at_any_point(tmp_path: Path) -> None:
    """No index, or a whole bundle; and whatever lies about has a mark that says whose it is."""
    steps = killed_at_each_step(tmp_path, "write")
    assert steps == len(STEPS)
    for number in range(1, steps + 2):
        directory = tmp_path / str(number)
        found = b.outcome(str(directory / "m-1"))
        if number > INDEXED:
            assert found == EMPTY
        else:
            assert isinstance(found, NotFoundError)
        left = [path.name for path in directory.iterdir()]
        marks = [name for name in left if name.startswith("m-1.ckptctl.json")]
        assert marks or left == []


def test_a_kill_at_any_point_while_a_bundle_is_replaced(tmp_path: Path) -> None:
    """The old one stands, or the new one; or the old one lies whole in the trash."""
    steps = killed_at_each_step(tmp_path, "replace")
    old = {name: data for name, data in files_in(tmp_path / "1").items() if "_temp" not in name}
    seen = []
    for number in range(1, steps + 2):
        found = files_in(tmp_path / str(number))
        index = found.get("m-1.index")
        trash = {name.removeprefix(".trash/m-1/"): data for name, data in found.items()}
        if index is None:
            assert trash["m-1.index"] == INDEX
            # Each file is at the prefix or in the trash, as it was.
            assert all(trash[name] is not None for name in old)
            seen.append("neither")
        else:
            assert b.outcome(str(tmp_path / str(number) / "m-1")) == EMPTY
            seen.append("new" if found["m-1.meta"] == b"graph" else "old")
    assert list(dict.fromkeys(seen)) == ["old", "neither", "new"]
