"""What must never go, whatever happens in the middle: kills, trainers, links, strange files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader, read_state
from ckptctl.chain import scan_directory
from ckptctl.errors import ChangedError, LockedError
from ckptctl.merge import execute_prune
from ckptctl.merge.policy import KeepLast
from ckptctl.storage.lock import directory_lock
from tests.merge.killer import Torn
from tests.merge.model import small_chain
from tests.merge.prunes import (
    THEN,
    age,
    chain_of,
    date,
    goes,
    here,
    listed,
    outcomes,
    plan,
    points,
    prune,
    rolled_back,
    stays,
    with_side,
)
from tests.merge.storages import Hooked, Once, Trapped, in_a_thread
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    full,
    increment,
    listing,
    table,
    write_state,
)
from tests.oracle.images import ints, write_image


class Killed(BaseException):
    """The process is gone; nothing catches it."""


class Dying(Torn):
    """Storage of a process that is killed ahead of its nth change, or in the middle of it."""

    def before(self, call: str) -> None:
        if self.trap.sprung:  # no clean-up either
            raise Killed
        super().before(call)


def killed_at(at: int) -> Dying:
    def die() -> None:
        raise Killed

    return Dying(Once(at, do=die))


def files(chain: Chain) -> set[str]:
    """All names but those of the trash."""
    return {name for name in listing(chain.directory) if not name.startswith(".ckptctl-trash")}


@pytest.mark.parametrize("trash", [False, True])
def test_killed_at_any_change_the_next_run_completes(tmp_path: Path, trash: bool) -> None:
    room = tmp_path / "whole"
    room.mkdir()
    first = with_side(room)
    prune(first, KeepLast(1), trash=trash)
    finished = files(first)
    assert here(first) == {"F40", "I50"}
    at = 0
    while True:
        room = tmp_path / str(at)
        room.mkdir()
        chain = with_side(room)
        storage = killed_at(at)
        try:
            execute_prune(plan(chain, KeepLast(1), trash=trash, storage=storage), jobs=1)
        except Killed:
            what = storage.trap.sprung
        else:
            assert storage.trap.sprung == ""
            break
        assert points(chain) >= {40, 50}, what
        for home in (chain.directory, chain.directory / INCREMENTS):
            state = read_state(str(home / "checkpoint"))
            with BundleReader(str(home / os.path.basename(state.latest))) as reader:
                reader.check_shards()
        again = plan(chain, KeepLast(1), trash=trash, min_age_s=0)
        execute_prune(again)
        assert files(chain) == finished, what
        assert plan(chain, KeepLast(1), min_age_s=0).removed == (), what
        shutil.rmtree(room)
        at += 1
    assert at > 20


def test_killed_at_any_change_nothing_dead_comes_to_life(tmp_path: Path) -> None:
    """Abandoned checkpoints go before what shows that they are."""
    at = 0
    while True:
        room = tmp_path / str(at)
        room.mkdir()
        chain = rolled_back(room)
        storage = killed_at(at)
        found = plan(chain, KeepLast(1), abandoned=True, storage=storage)
        assert goes(found).keys() == {"F10", "F30", "F80", "I20", "I40", "I90"}
        try:
            execute_prune(found, jobs=1)
        except Killed:
            pass
        else:
            break
        assert not {80, 90} & points(chain), storage.trap.sprung
        assert points(chain) >= {100, 110}, storage.trap.sprung
        shutil.rmtree(room)
        at += 1
    assert here(chain) == {"F100", "I110"}


def test_the_order_in_which_things_go(tmp_path: Path) -> None:
    """State file first, index before data, increments before their base, flushed between."""
    chain = with_side(tmp_path)
    trap = Once(-1)
    execute_prune(plan(chain, KeepLast(1), storage=Trapped(trap)), jobs=1)
    home = f"{chain.directory}/"
    calls = [call.replace(home, "") for call in trap.calls]
    where = {call: number for number, call in reversed(list(enumerate(calls)))}
    assert calls[0] == "write_atomic .ckptctl/removed.jsonl"
    states = [where[f"write_atomic {room}checkpoint"] for room in (f"{INCREMENTS}/", "")]
    indexes, data = [], []
    for step in (30, 20):
        prefix = f"remove {INCREMENTS}/incremental_model.ckpt-{step}"
        indexes.append(where[f"{prefix}.index"])
        data += [where[f"{prefix}.data-0000{n}-of-00002"] for n in (0, 1)]
    assert states[0] < indexes[0] < indexes[1], "a series loses its end first"
    assert any(
        call == f"fsync_dir {home}{INCREMENTS}" or call == f"fsync_dir {INCREMENTS}"
        for call in calls[max(indexes) : min(data)]
    )
    assert max(data) < states[1] < where["remove model.ckpt-10.index"]
    after = ("meta", "data-00000-of-00002", "data-00001-of-00002")
    last = [where[f"remove model.ckpt-10.{name}"] for name in after]
    side = where["remove model.ckpt-10-emb-emb_files/1.emb"]
    assert where["remove model.ckpt-10.index"] < last[0] < last[1] < last[2] < side
    assert side < where["rmdir model.ckpt-10-emb-emb_files"]


# --- what a killed merge left ---------------------------------------------------------


def test_what_a_killed_merge_left_goes_by_default(tmp_path: Path) -> None:
    """Its temporary, the files that it had renamed, and the mark that says so."""
    count = 0
    for at in range(4, 60, 5):
        room = tmp_path / str(at)
        room.mkdir()
        chain = age(small_chain(room))
        before = files(chain)
        try:
            chain.merge(50, storage=killed_at(at), remember=False)
        except Killed:
            pass
        else:
            break
        if (chain.directory / "model.ckpt-50.index").exists():
            continue
        count += 1
        left = files(chain) - before
        found = plan(chain, min_age_s=0)
        execute_prune(found)
        assert files(chain) - before == set(), (at, left)
        assert points(chain) >= {10, 40, 50}
    assert count > 3


def test_a_trainers_files_beside_an_old_mark_are_not_ours(tmp_path: Path) -> None:
    """The trainer's Saver deleted our merged full, left the mark, and saves there again."""
    chain = age(small_chain(tmp_path))
    chain.merge(50)
    prefix = chain.full_prefix(50)
    for path in chain.directory.glob("model.ckpt-50.*"):
        if not path.name.endswith(".json"):
            path.unlink()
    data = Path(f"{prefix}.data-00000-of-00002")
    data.write_bytes(b"new")
    temporary = Path(f"{prefix}_temp_{'0' * 32}")
    temporary.mkdir()
    os.utime(data, (THEN + 10**7, THEN + 10**7))
    found = plan(chain, min_age_s=0)
    assert stays(found)[data.name] == "leftover"
    assert stays(found)[temporary.name] == "leftover"
    assert stays(found)[f"{prefix.name}.ckptctl.json"] == "mark"


# --- others at work -------------------------------------------------------------------


def test_what_changed_since_the_plan_is_skipped(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    for path in (chain.directory / INCREMENTS).glob("*-20.*"):
        path.unlink()
    write_image(chain.increments[20], chain.increment_prefix(20))
    for path in (chain.directory / INCREMENTS).glob("*-20.*"):
        os.utime(path, (THEN, THEN))
    result = execute_prune(found)
    assert outcomes(result) == {"I20": "changed", "I30": "removed"}
    assert [outcome.name for outcome in result.skipped] == ["incremental_model.ckpt-20"]
    assert here(chain) == {"F10", "F40", "I20", "I50"}
    assert "incremental_model.ckpt-20" in (chain.directory / INCREMENTS / "checkpoint").read_text()


def test_what_vanished_since_the_plan_is_no_failure(tmp_path: Path) -> None:
    """The trainer's own clean-up was faster."""
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    for path in (chain.directory / INCREMENTS).glob("*-20.*"):
        path.unlink()
    result = execute_prune(found)
    assert outcomes(result) == {"I20": "vanished", "I30": "removed"}
    assert result.skipped == ()


def test_what_is_needed_by_now_stays(tmp_path: Path) -> None:
    """The full that made them stale went meanwhile."""
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    for path in chain.directory.glob("model.ckpt-40*"):
        path.unlink()
    result = execute_prune(found)
    # I30, which is needed now, holds all of I20, but it was not read: the next run does that.
    assert outcomes(result) == {"I20": "unverified", "I30": "kept"}
    assert outcomes(execute_prune(plan(chain))) == {"I20": "removed"}
    assert here(chain) == {"F10", "I30", "I50"}


def test_what_a_later_look_would_add_was_not_agreed_to(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    chain.add(full(60, table("emb", [1], parts=2), shards=2))
    chain.list_all()
    age(chain)
    assert goes(plan(chain)).keys() == {"I20", "I30", "I50"}
    execute_prune(found)
    assert here(chain) == {"F10", "F40", "F60", "I50"}


def test_a_rollback_since_the_plan(tmp_path: Path) -> None:
    """The trainer went back to 10: what is above it is no longer what it was taken for."""
    chain = age(small_chain(tmp_path))
    found = plan(chain, KeepLast(1))
    assert goes(found).keys() == {"F10", "I20", "I30"}
    write_state(chain.directory, ["model.ckpt-40", "model.ckpt-10"])
    os.utime(chain.directory / "checkpoint", (THEN + 10**7, THEN + 10**7))
    execute_prune(found)
    assert "F10" in here(chain)
    assert points(chain) >= {10}


@pytest.mark.parametrize("kind", ["full", "increment"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_save_while_the_state_file_is_rewritten(tmp_path: Path, when: str, kind: str) -> None:
    """Committed between our look and our rename, or right after: it is listed, and named."""
    chain = age(small_chain(tmp_path))

    def save() -> None:
        if kind == "full":
            write_image(full(60, table("emb", [1], parts=2), shards=2), chain.full_prefix(60))
            write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 40, 60)])
        else:
            item = increment(60, changes("emb", [1, 3, 4], parts=2, shards=2), shards=2)
            write_image(item, chain.increment_prefix(60))
            names = [f"incremental_model.ckpt-{n}" for n in (20, 30, 50, 60)]
            write_state(chain.directory / INCREMENTS, names)

    home = chain.directory if kind == "full" else chain.directory / INCREMENTS
    hooked = Hooked(f"write_atomic {home}/checkpoint", **{when: in_a_thread(save)})
    execute_prune(plan(chain, KeepLast(1), storage=hooked), jobs=1)
    assert hooked.called == 1
    name = chain.full_prefix(60).name if kind == "full" else chain.increment_prefix(60).name
    state = read_state(str(home / "checkpoint"))
    assert os.path.basename(state.latest) == name
    assert name in map(os.path.basename, state.all_paths)
    assert 60 in points(chain)
    assert not {"F10", "I20", "I30"} & here(chain)
    assert "-10" not in (home / "checkpoint").read_text()


def test_a_trainer_that_lists_again_what_goes(tmp_path: Path) -> None:
    """It rewrites the file from its own memory: once is put right, for ever is given up."""
    chain = age(small_chain(tmp_path))
    again = in_a_thread(lambda: write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"]))
    name = f"write_atomic {chain.directory}/checkpoint"
    execute_prune(plan(chain, KeepLast(1), storage=Hooked(name, after=again)), jobs=1)
    assert here(chain) == {"F40", "I50"}
    assert "model.ckpt-10" not in (chain.directory / "checkpoint").read_text()
    room = tmp_path / "other"
    room.mkdir()
    chain = age(small_chain(room))
    name = f"write_atomic {chain.directory}/checkpoint"
    found = plan(chain, KeepLast(1), storage=Hooked(name, after=again_for(chain), always=True))
    with pytest.raises(ChangedError):
        execute_prune(found, jobs=1)
    assert "F10" in here(chain)


def again_for(chain: Chain) -> Callable[[], None]:
    return in_a_thread(lambda: write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"]))


@pytest.mark.parametrize(
    ("when", "call", "stays_here"),
    [
        ("before", "write_atomic {}/.ckptctl/removed.jsonl", {"F10", "F20"}),
        ("before", "write_atomic {}/checkpoint", {"F10", "F20"}),
        ("after", "write_atomic {}/checkpoint", {"F10", "F20"}),
        ("after", "remove {}/model.ckpt-10.index", {"F20"}),
    ],
)
def test_a_run_that_is_set_back_while_we_prune(
    tmp_path: Path, when: str, call: str, stays_here: set[str]
) -> None:
    """Once it was judged: what is named goes not, nor what nobody knows to be needed then."""
    chain = chain_of(tmp_path, "F10", "F20", "F30")
    to = "model.ckpt-20" if "F10" not in stays_here else "model.ckpt-10"
    names = [f"model.ckpt-{step}" for step in (10, 20, 30)]
    back = in_a_thread(lambda: write_state(chain.directory, names, latest=to))
    hooked = Hooked(call.format(chain.directory), **{when: back})
    result = execute_prune(plan(chain, KeepLast(1), storage=hooked), jobs=1)
    assert hooked.called == 1
    assert here(chain) == {*stays_here, "F30"}
    assert {name for name, word in outcomes(result).items() if word == "kept"} == stays_here
    assert len(result.skipped) == len(stays_here)
    state = read_state(str(chain.directory / "checkpoint"))
    assert state.latest == to
    assert max(points(chain)) == int(to[-2:])
    kept = {item.name for item in scan_directory(str(chain.directory)).removed}
    assert not kept & {f"model.ckpt-{name[1:]}" for name in stays_here}


def test_a_run_that_begins_anew_below_what_was_just_committed(tmp_path: Path) -> None:
    """A trainer died before it listed the full at 40, and goes on from 30 while we prune."""
    chain = chain_of(tmp_path, "F10", "F20", "F30", "F40")
    date(write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 20, 30)]), 300)
    for path in chain.directory.glob("model.ckpt-40.*"):
        date(path, 200)

    def begin() -> None:
        for path in chain.directory.glob("model.ckpt-30.*"):
            path.unlink()
        write_image(full(30, table("emb", [1, 2, 3])), chain.full_prefix(30))
        write_state(chain.directory, ["model.ckpt-30"])

    hooked = Hooked(f"write_atomic {chain.directory}/checkpoint", after=in_a_thread(begin))
    execute_prune(plan(chain, KeepLast(3), storage=hooked), jobs=1)
    assert hooked.called == 1
    assert read_state(str(chain.directory / "checkpoint")).latest == "model.ckpt-30"
    assert max(points(chain)) == 30


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_step_that_is_saved_anew_while_its_old_save_goes(tmp_path: Path, when: str) -> None:
    """The trainer comes by again, after a rollback: its new save is not what was judged."""
    chain = chain_of(tmp_path, "F10", "F20", "F30", "F40")
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 30, 40, 20)])
    age(chain, 10, 30, 40, 20)

    def save() -> None:
        for path in chain.directory.glob("model.ckpt-30.*"):
            path.unlink()
        write_image(full(30, table("emb", [1, 2, 3])), chain.full_prefix(30))
        write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 40, 20, 30)])

    hooked = Hooked(f"write_atomic {chain.directory}/checkpoint", **{when: in_a_thread(save)})
    result = execute_prune(plan(chain, abandoned=True, storage=hooked), jobs=1)
    assert hooked.called == 1
    assert outcomes(result) == {"F30": "changed", "F40": "removed"}
    assert listed(chain) == [10, 20, 30]
    assert points(chain) == {10, 20, 30}


def test_a_step_that_is_saved_anew_and_not_yet_listed(tmp_path: Path) -> None:
    """Our own, newer state file would make it look abandoned."""
    chain = chain_of(tmp_path, "F10", "F20", "F30")
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 30, 20)])
    age(chain, 10, 30, 20)

    def save() -> None:
        for path in chain.directory.glob("model.ckpt-30.*"):
            path.unlink()
        write_image(full(30, table("emb", [1, 2, 3])), chain.full_prefix(30))

    hooked = Hooked(f"write_atomic {chain.directory}/checkpoint", before=in_a_thread(save))
    result = execute_prune(plan(chain, abandoned=True, storage=hooked), jobs=1)
    assert outcomes(result) == {"F30": "changed"}
    assert points(chain) == {10, 20, 30}


def test_a_file_that_is_replaced_right_before_it_goes(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    data = Path(f"{chain.increment_prefix(20)}.data-00001-of-00002")

    def replace() -> None:
        copy = data.with_name("copy")
        shutil.copy2(data, copy)
        os.replace(copy, data)

    index = f"{chain.increment_prefix(20)}.index"
    found = plan(chain, storage=Hooked(f"remove {index}", after=replace))
    result = execute_prune(found, jobs=1)
    assert outcomes(result)["I20"] == "changed"
    assert data.exists()


def test_one_at_a_time(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    found = plan(chain)
    with directory_lock(str(chain.directory)), pytest.raises(LockedError):
        execute_prune(found)
    assert len(here(chain)) == 5


# --- what we refuse and a PS may take -------------------------------------------------


def test_an_increment_whose_columns_do_not_fit_stays(tmp_path: Path) -> None:
    """A PS reads versions that are not there as -1: to it this is no leftover."""
    none = {"emb-sparse_incr_versions": ints("int64", [])}
    chain = age(
        build_chain(
            tmp_path,
            full(10, table("emb", [1])),
            increment(20, changes("emb", [1])),
            increment(30, changes("emb", [1, 2]), raw=none),
        )
    )
    found = plan(chain, leftovers=True, orphans=True, abandoned=True)
    assert goes(found) == {}
    assert stays(found) == {"F10": "policy", "I20": "ok", "I30": "unfit"}
    assert points(chain) == {10, 20}


def test_a_full_whose_columns_do_not_fit_covers_nothing(tmp_path: Path) -> None:
    """All of its bytes match their checksums, and yet we refuse it: what lies below stays."""
    chain = age(
        build_chain(
            tmp_path,
            full(10, table("emb", [1], freqs=1)),
            increment(20, changes("emb", [1, 2], freqs=1)),
            full(30, table("emb", [1, 2], freqs=1), raw={"emb-freqs": ints("int64", [1])}),
        )
    )
    assert points(chain) == {10, 20}
    found = plan(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True)
    assert goes(found) == {}
    assert stays(found)["F30"] == "unfit"
    assert chain.plan().step == 20, "what can be restored is merged"
