"""A trainer that is saving is waited for, or refused; what a dead one left is neither."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.bundle import read_state
from ckptctl.chain import wait_for_writer, writer
from ckptctl.errors import RefusedError
from ckptctl.merge import execute_merge, execute_prune
from ckptctl.storage import FileInfo
from ckptctl.storage.local import LocalStorage
from tests.merge.model import small_chain
from tests.merge.prunes import age, here, plan
from tests.oracle.chain import INCREMENTS, Chain, full, listing, table, write_state
from tests.oracle.images import write_image

HEX = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks follow each other at once: what differs between them is what counts."""
    monkeypatch.setattr(writer, "_PAUSE_S", 0.01)
    monkeypatch.setattr(writer, "_MOST_PAUSE_S", 0.01)


class Looked(LocalStorage):
    """Counts the looks at a directory, and lets something happen ahead of one of them."""

    def __init__(self, directory: Path, at: int = 0, do: Callable[[], object] = int) -> None:
        self.directory, self.at, self.do, self.looks = str(directory), at, do, 0

    def listdir(self, directory: str) -> list[FileInfo]:
        if directory == self.directory:
            self.looks += 1
            if self.looks == self.at:
                self.do()
        return super().listdir(directory)


def put(path: Path, ago_s: float = 0.0) -> Path:
    """Write a file, and date it and the directory it lies in, if that is a temporary."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * 100)
    when = time.time() - ago_s
    os.utime(path, (when, when))
    if "_temp" in path.parent.name:
        os.utime(path.parent, (when, when))
    return path


def grow(path: Path) -> None:
    """Append, and keep the time: clocks may be those of a file server."""
    when = path.stat()
    with open(path, "ab") as file:
        file.write(b"more")
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))


#: What TensorFlow and DeepRec write while they save, below the directory.
TEMPORARIES = {
    "sharded": "model.ckpt-60_temp/part-00000-of-00002.data-00000-of-00001",
    "sharded, older": f"model.ckpt-60_temp_{HEX}/part-00000-of-00002.data-00000-of-00001",
    "increment": f"{INCREMENTS}/incremental_model.ckpt-60_temp/part-00001-of-00002.index",
    "one shard": "model.ckpt-60.data-00000-of-00001.tempstate123456",
    "index": f"{INCREMENTS}/incremental_model.ckpt-60.index.tempstate7",
    "state file": f"checkpoint.tmp{HEX}",
    "graph": f"model.ckpt-60.meta.tmp{HEX}",
}
#: What a copy writes, and a trainer for a moment.
UNFINISHED = {
    "no index": "model.ckpt-60.data-00000-of-00002",
    "damaged": f"{INCREMENTS}/incremental_model.ckpt-60.index",
}


def found(chain: Chain, **storage: object) -> str | None:
    """Return what a writer was found by, below the directory."""
    try:
        wait_for_writer(str(chain.directory), 0, storage=Looked(chain.directory, **storage))
    except RefusedError as error:
        return os.path.relpath(str(error.file), chain.directory)
    return None


def test_where_nothing_is_written_one_look_is_enough(tmp_path: Path) -> None:
    chain = small_chain(tmp_path, side=True)
    storage = Looked(chain.directory)
    wait_for_writer(str(chain.directory), storage=storage)
    assert storage.looks == 1


@pytest.mark.parametrize("what", TEMPORARIES)
def test_a_fresh_temporary_is_a_save(tmp_path: Path, what: str) -> None:
    chain = small_chain(tmp_path)
    path = put(chain.directory / TEMPORARIES[what])
    seen = found(chain)
    assert seen is not None
    assert TEMPORARIES[what].startswith(seen)
    put(path, ago_s=30)
    assert found(chain) is None


@pytest.mark.parametrize("name", ["eval_temp/report.txt", "best.index.tempstate7"])
def test_what_another_program_writes_is_not_waited_for(tmp_path: Path, name: str) -> None:
    chain = small_chain(tmp_path)
    storage = Looked(chain.directory)
    put(chain.directory / name)
    wait_for_writer(str(chain.directory), storage=storage)
    assert storage.looks == 1


def test_a_save_without_a_step_is_waited_for(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    put(chain.directory / f"model.ckpt_temp_{HEX}" / "part-00000-of-00001.index")
    assert found(chain) == f"model.ckpt_temp_{HEX}"


@pytest.mark.parametrize("ago_s", [30, 3000, -30, -10_000])
@pytest.mark.parametrize("what", [*TEMPORARIES, *UNFINISHED])
def test_what_changes_between_two_looks_is_a_save_whatever_the_clock(
    tmp_path: Path, what: str, ago_s: float
) -> None:
    if what in UNFINISHED and ago_s > 60:
        ago_s = 50
    chain = small_chain(tmp_path)
    path = put(chain.directory / (TEMPORARIES | UNFINISHED)[what], ago_s)
    assert found(chain) is None
    assert found(chain, at=2, do=lambda: grow(path)) is not None


@pytest.mark.parametrize("what", UNFINISHED)
def test_what_is_unfinished_and_stays_so_is_no_save(tmp_path: Path, what: str) -> None:
    chain = small_chain(tmp_path)
    put(chain.directory / UNFINISHED[what])
    assert found(chain) is None


def test_a_shard_that_grows_is_a_save(tmp_path: Path) -> None:
    """`cp` copies the index first, and a shard for as long as it takes."""
    chain = small_chain(tmp_path)
    shard = Path(f"{chain.full_prefix(40)}.data-00001-of-00002")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:10])
    assert found(chain) is None
    assert found(chain, at=2, do=lambda: grow(shard)) == "model.ckpt-40"
    assert found(chain, at=2, do=lambda: shard.write_bytes(whole)) is None


def test_temporaries_of_ours_are_no_save(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    put(chain.directory / f"model.ckpt-50_temp_{HEX}" / "data-00000-of-00002")
    put(chain.directory / f"model.ckpt-50_temp_{HEX}" / "ckptctl.json")
    put(chain.directory / "checkpoint.ckptctl-0123456789abcdef.tmp")
    begun = chain.directory / f"model.ckpt-50_temp_{HEX[::-1]}"
    begun.mkdir()
    mark = chain.directory / "model.ckpt-50.ckptctl.json"
    mark.write_text(json.dumps({"temporary": begun.name}))
    put(chain.directory / "model.ckpt-50.data-00000-of-00002")
    assert found(chain) is None
    (chain.directory / f"model.ckpt-60_temp_{HEX}").mkdir()  # nobody's yet
    assert found(chain) == f"model.ckpt-60_temp_{HEX}"


@pytest.mark.parametrize(
    "name",
    [
        "model.ckpt-50.data-00000-of-00001.tempstate123456",
        "model.ckpt-50_temp/part-00000-of-00002.data-00000-of-00001",
        f"model.ckpt-50.meta.tmp{HEX}",
        f"model.ckpt-50_temp_{HEX}",
    ],
)
def test_a_save_over_a_merged_full_is_waited_for(tmp_path: Path, name: str) -> None:
    """The mark of the merge stays beside it, and hides none of it."""
    chain = small_chain(tmp_path)
    execute_merge(chain.plan(), jobs=1)
    assert (chain.directory / "model.ckpt-50.ckptctl.json").exists()
    assert found(chain) is None
    path = chain.directory / name
    path.mkdir() if name.endswith(f"_temp_{HEX}") else put(path)
    assert name.startswith(found(chain) or "nobody")


def test_data_of_a_save_over_a_merged_full_are_waited_for(tmp_path: Path) -> None:
    """A Saver that rotated it away leaves the mark, too."""
    chain = small_chain(tmp_path)
    execute_merge(chain.plan(), jobs=1)
    for path in chain.directory.glob("model.ckpt-50.*"):
        if path.suffix != ".json":
            path.unlink()
    data = put(chain.directory / "model.ckpt-50.data-00000-of-00001")
    assert found(chain) is None
    assert found(chain, at=2, do=lambda: grow(data)) == data.name


# --- waited for, or refused -----------------------------------------------------------


def saving(chain: Chain) -> tuple[Path, Callable[[], None]]:
    """Begin a save of a full at 60, and return what ends it."""
    part = put(chain.directory / TEMPORARIES["sharded"])

    def end() -> None:
        shutil.rmtree(part.parent)
        write_image(full(60, table("emb", [1], parts=2), shards=2), chain.full_prefix(60))
        write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 40, 60)])

    return part, end


def steps(chain: Chain) -> list[int]:
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    return [int(path.rpartition("-")[2]) for path in state.all_paths]


def test_a_merge_lists_its_result_when_the_save_is_over(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    todo = chain.plan(storage=(storage := Looked(chain.directory)))
    _, end = saving(chain)
    storage.do = end
    storage.at = -1

    def soon() -> None:
        storage.at = storage.looks + 4

    assert execute_merge(todo, jobs=1, progress=Told("waiting", soon)).state_file_updated
    assert steps(chain) == [10, 40, 50, 60]


class Told(writer.Progress):
    """Calls a function when a phase begins."""

    def __init__(self, phase: str, do: Callable[[], None]) -> None:
        self.phase, self.do, self.began = phase, do, 0

    def start(self, phase: str, total: int | None = None) -> None:
        if phase.startswith(self.phase):
            self.began += 1
            self.do()


def test_a_merge_beside_a_save_without_an_end_lists_nothing(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    part, _ = saving(chain)
    before = (chain.directory / "checkpoint").read_bytes()
    with pytest.raises(RefusedError) as caught:
        execute_merge(chain.plan(), jobs=1, writer_wait_s=0.05)
    assert caught.value.exit_code == 12
    assert caught.value.file == str(part.parent)
    assert (chain.directory / "checkpoint").read_bytes() == before
    chain.check(40, 50)
    put(part, ago_s=60)  # the trainer died
    assert chain.merge().state_file_updated
    assert steps(chain) == [10, 40, 50]


def test_a_prune_waits_before_it_changes_anything(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    todo = plan(chain, storage=(storage := Looked(chain.directory)))
    assert {item.step for item in todo.removed} == {20, 30}
    part, end = saving(chain)
    before = listing(chain.directory)
    with pytest.raises(RefusedError) as caught:
        execute_prune(todo, jobs=1, writer_wait_s=0.0)
    assert caught.value.file == str(part.parent)
    assert listing(chain.directory) == before
    storage.do, storage.at = end, storage.looks + 5
    execute_prune(todo, jobs=1)
    assert here(chain) == {"F10", "F40", "F60", "I50"}
    assert steps(chain) == [10, 40, 60]
