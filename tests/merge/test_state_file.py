"""The state file: the new full in its place, nothing else lost, whoever writes meanwhile."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ckptctl.bundle import CheckpointState, read_state
from ckptctl.chain import find_chains, scan_directory
from ckptctl.errors import ChangedError, RefusedError, StateFileError
from ckptctl.merge import (
    CompactOptions,
    PruneOptions,
    execute_merge,
    plan_merge,
    plan_prune,
    run_compact,
)
from ckptctl.merge.policy import KeepLast, Policy
from ckptctl.merge.relocate import relocate_paths, relocate_state_files
from ckptctl.merge.settle import find_unsettled, settle
from ckptctl.merge.state_file import insert_full
from ckptctl.restore import RestoreOptions
from ckptctl.storage import LOCAL
from tests.merge.model import small_chain
from tests.merge.prunes import age, chain_of, date, label, points, prune
from tests.merge.storages import Hooked, in_a_thread
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    full,
    increment,
    listing,
    rows_of,
    table,
    write_state,
)
from tests.oracle.images import write_image


def state_of(directory: Path) -> CheckpointState:
    found = read_state(str(directory / "checkpoint"))
    assert found is not None
    return found


def names(state: CheckpointState) -> list[str]:
    return [os.path.basename(path) for path in state.all_paths]


# --- the new full in its place --------------------------------------------------------

CASES = {
    # paths, latest, new -> paths, latest
    "newest": (["m-1", "m-5"], "m-5", "m-9", ["m-1", "m-5", "m-9"], "m-9"),
    "between": (["m-1", "m-9"], "m-9", "m-5", ["m-1", "m-5", "m-9"], "m-9"),
    "oldest": (["m-5", "m-9"], "m-9", "m-1", ["m-1", "m-5", "m-9"], "m-9"),
    "listed": (["m-5", "m-9"], "m-9", "m-5", ["m-5", "m-9"], "m-9"),
    "by number": (["m-5", "m-10"], "m-10", "m-7", ["m-5", "m-7", "m-10"], "m-10"),
    "padded": (["m-0005", "m-0010"], "m-0010", "m-0007", ["m-0005", "m-0007", "m-0010"], "m-0010"),
    "absolute": (["/d/m-1"], "/d/m-1", "m-5", ["/d/m-1", "/d/m-5"], "/d/m-5"),
    "moved": (["/gone/m-1"], "/gone/m-1", "m-5", ["/gone/m-1", "m-5"], "m-5"),
    "no path": (["/d\0/m-1"], "/d\0/m-1", "m-5", ["/d\0/m-1", "m-5"], "m-5"),
    "latest is not listed last": (["m-1", "m-9"], "m-1", "m-5", ["m-1", "m-5", "m-9"], "m-1"),
    "one": (["m-1"], "m-1", "m-5", ["m-1", "m-5"], "m-5"),
}


@pytest.mark.parametrize("what", CASES)
def test_a_full_is_inserted_in_step_order(what: str) -> None:
    paths, latest, new, expected, newest = CASES[what]
    state = CheckpointState("/d/checkpoint", latest, tuple(paths))
    after = insert_full(state, new, 100.0, newest=os.path.basename(newest) == new)
    assert (list(after.all_paths), after.latest) == (expected, newest)
    assert after.timestamps == ()


@pytest.mark.parametrize(
    ("when", "new", "expected"),
    [
        (15.0, "m-5", [10.0, 15.0, 20.0]),
        (5.0, "m-5", [10.0, 10.0, 20.0]),
        (50.0, "m-5", [10.0, 20.0, 20.0]),
        (50.0, "m-10", [10.0, 20.0, 50.0]),
        (5.0, "m-10", [10.0, 20.0, 20.0]),
        (5.0, "m-0", [5.0, 10.0, 20.0]),
        (50.0, "m-0", [10.0, 10.0, 20.0]),
    ],
)
def test_timestamps_stay_one_a_path_and_ascending(when: float, new: str, expected: list) -> None:
    state = CheckpointState("/d/checkpoint", "m-9", ("m-1", "m-9"), (10.0, 20.0), 7.0)
    after = insert_full(state, new, when, newest=new == "m-10")
    assert list(after.timestamps) == expected
    assert after.last_preserved == 7.0


def test_tensorflow_finds_the_result_in_a_directory_that_was_moved(
    tmp_path: Path, tf: ModuleType
) -> None:
    chain = small_chain(tmp_path)
    write_state(chain.directory, [f"{chain.directory}/model.ckpt-{step}" for step in (10, 40)])
    moved = chain.directory.rename(tmp_path / "moved")
    execute_merge(plan_merge(str(moved)))
    assert tf.train.latest_checkpoint(str(moved)) == str(moved / "model.ckpt-50")


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(("step", "newest"), [(50, True), (30, False)])
def test_a_merge_lists_its_result(tmp_path: Path, absolute: bool, step: int, newest: bool) -> None:
    chain = small_chain(tmp_path)
    head = f"{chain.directory}/" if absolute else ""
    times = [1000.5, 1_700_000_000.25]
    write_state(chain.directory, [f"{head}model.ckpt-10", f"{head}model.ckpt-40"], times=times)
    result = chain.merge(step)
    assert result.state_file_updated
    after = state_of(chain.directory)
    order = [10, 40, 50] if newest else [10, 30, 40]
    assert list(after.all_paths) == [f"{head}model.ckpt-{n}" for n in order]
    assert after.latest == f"{head}model.ckpt-{50 if newest else 40}"
    assert len(after.timestamps) == 3
    assert list(after.timestamps) == sorted(after.timestamps)
    others = [t for t, n in zip(after.timestamps, order, strict=True) if n != step]
    assert others == times


def test_the_time_of_the_result_is_its_increments(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    for at, prefix in ((1000, chain.full_prefix(40)), (2000, chain.increment_prefix(50))):
        for path in prefix.parent.glob(f"{prefix.name}.*"):
            os.utime(path, (at, at))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"], times=[1.0, 1000.0])
    os.utime(chain.directory / "checkpoint", (3000, 3000))
    chain.merge(50, assume_order="step")
    assert state_of(chain.directory).timestamps == (1.0, 1000.0, 2000.0)


def test_without_a_state_file_none_is_made(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    (chain.directory / "checkpoint").unlink()
    assert not chain.merge().state_file_updated
    assert not (chain.directory / "checkpoint").exists()


def test_it_is_left_alone_when_asked_to(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    before = (chain.directory / "checkpoint").stat()
    assert not chain.merge(update_state=False).state_file_updated
    after = (chain.directory / "checkpoint").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_full_that_was_left_out_is_entered_when_that_is_asked_for(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(update_state=False)
    plan = plan_merge(str(chain.directory))
    assert "--update-state enters it" in str(plan.nothing_to_do)
    assert not execute_merge(plan).state_file_updated
    plan = plan_merge(str(chain.directory), update_state=True)
    assert plan.unfinished == ("model.ckpt-50 is entered into the state file",)
    assert execute_merge(plan).state_file_updated
    assert names(state_of(chain.directory))[-1] == "model.ckpt-50"
    assert not plan_merge(str(chain.directory), update_state=True).unfinished


def test_elsewhere_it_is_updated_when_asked_to(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    (tmp_path / "other").mkdir()
    other = build_chain(tmp_path / "other", full(1))
    target = other.directory / "model.ckpt-50"
    before = (chain.directory / "checkpoint").read_bytes()
    assert chain.merge(50, target, update_state=True).state_file_updated
    assert names(state_of(other.directory)) == ["model.ckpt-1", "model.ckpt-50"]
    assert (chain.directory / "checkpoint").read_bytes() == before


def test_the_increments_state_file_is_left_alone(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    before = (chain.directory / INCREMENTS / "checkpoint").stat().st_mtime_ns
    chain.merge()
    assert (chain.directory / INCREMENTS / "checkpoint").stat().st_mtime_ns == before


def test_no_temporary_stays(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge()
    assert not [path for path in chain.directory.iterdir() if ".tmp" in path.name]


def test_a_newer_full_that_is_not_listed_yet(tmp_path: Path) -> None:
    """The trainer has committed step 60, and is about to write its state file."""
    chain = small_chain(tmp_path)
    old = time.time() - 1000
    for path in [*chain.directory.rglob("*")]:
        os.utime(path, (old, old))
    chain.add(full(60, table("emb", [1], parts=2), shards=2))
    assert find_chains(scan_directory(str(chain.directory))).latest == 60
    chain.merge(50)
    assert state_of(chain.directory).latest != "model.ckpt-50"
    assert find_chains(scan_directory(str(chain.directory))).latest == 60


def test_an_abandoned_full_of_a_greater_step(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        full(90, table("emb", [1])),
        full(40, table("emb", [1])),
        increment(50, changes("emb", [1])),
    )
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-90", "model.ckpt-40"])
    assert find_chains(scan_directory(str(chain.directory))).latest == 50
    chain.merge(50)
    assert state_of(chain.directory).latest == "model.ckpt-50"


# --- a trainer that writes meanwhile --------------------------------------------------


def saves(chain: Chain, step: int, *listed: int) -> Callable[[], None]:
    """A trainer that saves a full and writes the state file from its own memory."""

    def work() -> None:
        write_image(full(step, table("emb", [1], parts=2), shards=2), chain.full_prefix(step))
        write_state(chain.directory, [f"model.ckpt-{n}" for n in (*listed, step)])

    return in_a_thread(work)


STATE = "write_atomic"


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_that_is_saved_while_we_write(tmp_path: Path, when: str) -> None:
    """Between our read and our rename, or right after: neither full gets lost."""
    chain = small_chain(tmp_path)
    state = f"{STATE} {chain.directory}/checkpoint"  # not the mark, which is written so too
    storage = Hooked(state, **{when: saves(chain, 60, 10, 40)})
    chain.merge(storage=storage)
    assert storage.called == 1
    after = state_of(chain.directory)
    assert names(after) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-50", "model.ckpt-60"]
    assert after.latest == "model.ckpt-60"


def test_a_full_that_the_trainer_lists_only_now(tmp_path: Path) -> None:
    """Its index was there when we looked at the directory; its line came while we wrote."""
    chain = small_chain(tmp_path)
    old = time.time() - 1000
    for path in [*chain.directory.rglob("*")]:
        os.utime(path, (old, old))
    write_image(full(60, table("emb", [1], parts=2), shards=2), chain.full_prefix(60))
    listed = [f"model.ckpt-{n}" for n in (10, 40, 60)]
    lists = in_a_thread(lambda: write_state(chain.directory, listed))
    chain.merge(50, storage=Hooked(STATE, before=lists))
    assert "model.ckpt-60" in names(state_of(chain.directory))


def test_a_trainer_that_rewrites_it_from_its_memory(tmp_path: Path) -> None:
    """It knows nothing of ours: we put it in again."""
    chain = small_chain(tmp_path)
    rewrite = in_a_thread(lambda: write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"]))
    storage = Hooked(STATE, after=rewrite)
    chain.merge(storage=storage)
    assert names(state_of(chain.directory)) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-50"]


def test_a_trainer_that_is_rolled_back_right_before_our_rename(tmp_path: Path) -> None:
    """What it wrote is what we find: to replace it would bring the dead timeline back."""
    chain = small_chain(tmp_path)
    state = f"{STATE} {chain.directory}/checkpoint"
    storage = Hooked(state, before=saves(chain, 30, 10, 40))
    assert not chain.merge(50, storage=storage).state_file_updated
    after = state_of(chain.directory)
    assert names(after) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-30"]
    assert after.latest == "model.ckpt-30"


def test_a_full_that_was_never_listed_stays_unlisted(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    write_state(chain.directory, ["model.ckpt-40"])
    chain.merge(50)
    assert names(state_of(chain.directory)) == ["model.ckpt-40", "model.ckpt-50"]


def test_an_incomplete_full_is_not_listed(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)

    def torn() -> None:
        saves(chain, 60)()
        Path(f"{chain.full_prefix(60)}.data-00000-of-00002").unlink()
        write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"])

    chain.merge(storage=Hooked(STATE, before=torn))
    assert names(state_of(chain.directory)) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-50"]


def test_one_that_keeps_changing_is_given_up_and_told(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    count = [60]

    def again() -> None:
        write_state(chain.directory, ["model.ckpt-10", f"model.ckpt-{count[0]}"])
        count[0] += 1

    with pytest.raises(ChangedError) as caught:
        chain.merge(storage=Hooked(STATE, after=again, always=True))
    assert "complete" in caught.value.remedy
    chain.check(40, 50)


def test_a_state_file_that_goes_is_not_made_anew(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    remove = in_a_thread((chain.directory / "checkpoint").unlink)
    # `rmdir` of the temporary: the last change before the state file.
    assert not chain.merge(storage=Hooked("rmdir", after=remove)).state_file_updated
    assert not (chain.directory / "checkpoint").exists()


# --- a run that was set back ----------------------------------------------------------


def set_back(chain: Chain, *listed: str, to: str, increments: tuple[int, ...], on: int) -> Chain:
    """As docs/runbook.md says: by the line that names the newest one, in both state files."""
    write_state(chain.directory, [f"model.ckpt-{name}" for name in listed], latest=to)
    own = [f"incremental_model.ckpt-{step}" for step in increments]
    write_state(chain.directory / INCREMENTS, own, latest=f"incremental_model.ckpt-{on}")
    return age(chain)


def dead(chain: Chain) -> set[str]:
    chains = find_chains(scan_directory(str(chain.directory)))
    found = (*chains.scan.fulls, *chains.scan.increments)
    return {label(item.name) for item in found if not chains.is_live(item)}


def test_a_merge_leaves_a_run_that_was_set_back_where_it_is(tmp_path: Path) -> None:
    """All that shows it is the line that the merge rewrites."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    after = (120, 140, 180)
    set_back(chain, "100", "160", to="model.ckpt-100", increments=after, on=120)
    was = {"I140", "F160", "I180"}
    assert dead(chain) == was
    assert chain.merge().state_file_updated
    listed = [f"model.ckpt-{step}" for step in (100, 120, 160)]
    assert names(state_of(chain.directory)) == listed
    assert state_of(chain.directory).latest == "model.ckpt-120"
    assert (dead(chain), points(chain)) == (was, {100, 120})
    assert chain.plan().nothing_to_do == "model.ckpt-120 is already a full"
    prune(chain, KeepLast(1))
    assert dead(chain) == was
    # The trainer goes on from there, and past what was left.
    chain.add(full(150, table("emb", [1, 2])))
    for before in (listed, listed[:2]):
        write_state(chain.directory, [*before, "model.ckpt-150"])
        assert "F160" in dead(chain)


def test_an_abandoned_step_that_is_saved_anew_while_we_write(tmp_path: Path) -> None:
    """The trainer's newest save, which it has not listed yet, is not what we left out."""
    chain = chain_of(tmp_path, "F100", "I120", "F160")
    set_back(chain, "100", "160", to="model.ckpt-100", increments=(120,), on=120)

    def save() -> None:
        for path in chain.directory.glob("model.ckpt-160.*"):
            path.unlink()
        write_image(full(160, table("emb", [1, 2, 3])), chain.full_prefix(160))

    state = f"{STATE} {chain.directory}/checkpoint"
    assert chain.merge(storage=Hooked(state, before=in_a_thread(save))).state_file_updated
    assert names(state_of(chain.directory)) == [f"model.ckpt-{n}" for n in (100, 120, 160)]
    assert state_of(chain.directory).latest == "model.ckpt-160"
    assert max(points(chain)) == 160


def test_what_was_named_alone_is_listed_when_another_is_named(tmp_path: Path) -> None:
    """Check 4 rests on it: I11 is proven by nothing else."""
    chain = chain_of(tmp_path, "F10", "I11", "I12", "F20", "F30")
    set_back(chain, "20", "30", to="model.ckpt-10", increments=(11, 12), on=12)
    assert points(chain) == {10, 11, 12}
    chain.merge()
    assert names(state_of(chain.directory))[:2] == ["model.ckpt-10", "model.ckpt-12"]
    assert points(chain) == {10, 11, 12}


def test_what_was_named_alone_is_listed_though_it_is_gone(tmp_path: Path) -> None:
    """Check 3 rests on it: nothing else says that I12 was recorded on it."""
    chain = chain_of(tmp_path, "F5", "I7", "F10", "I12")
    write_state(chain.directory, ["model.ckpt-5"], latest="model.ckpt-10")
    for path in chain.directory.glob("model.ckpt-10.*"):
        path.unlink()
    age(chain)
    assert points(chain) == {5, 7}
    chain.merge(7)
    assert names(state_of(chain.directory)) == [f"model.ckpt-{n}" for n in (5, 7, 10)]
    assert points(chain) == {5, 7}


@pytest.mark.parametrize("listed", [("10", "30", "40"), ("10",)])
def test_a_full_that_would_bring_back_a_dead_one_stays_unlisted(
    tmp_path: Path, listed: tuple[str, ...]
) -> None:
    """They lie below it: unlisted they would count as live as well."""
    own = {50: {"version": 1, "base_step": 10, "previous_step": None, "mode": "cumulative"}}
    chain = chain_of(tmp_path, "F10", "F30", "F40", "I50", lineage=own)
    set_back(chain, *listed, to="model.ckpt-10", increments=(50,), on=50)
    assert dead(chain) == {"F30", "F40"}
    before = (chain.directory / "checkpoint").read_bytes()
    result = chain.merge()
    assert not result.state_file_updated
    assert "model.ckpt-50 is not listed: what a rollback left behind" in result.warnings[-1]
    assert (chain.directory / "checkpoint").read_bytes() == before
    assert (dead(chain), points(chain)) == ({"F30", "F40"}, {10, 50})
    # Nor does the next run try again for ever.
    assert chain.plan().unfinished == ()
    assert not find_unsettled(find_chains(scan_directory(str(chain.directory))))


# --- directories that were copied or moved --------------------------------------------


def copied(tmp_path: Path) -> tuple[Chain, Chain]:
    """A chain with absolute paths, and a copy of it."""
    chain = small_chain(tmp_path)
    write_state(chain.directory, [str(chain.full_prefix(n)) for n in (10, 40)])
    own = [str(chain.increment_prefix(n)) for n in (20, 30, 50)]
    write_state(chain.directory / INCREMENTS, own)
    copy = Chain(tmp_path / "copy", chain.fulls, chain.increments)
    shutil.copytree(chain.directory, copy.directory)
    return chain, copy


def test_a_path_without_a_name_is_not_made_an_empty_one() -> None:
    odd = CheckpointState("d/checkpoint", "/old/m-1/", ("/old/m-1/", "/old/m-2"))
    assert relocate_paths(odd).all_paths == ("/old/m-1/", "m-2")
    assert relocate_paths(odd).latest == "/old/m-1/"


def test_a_copy_is_refused_until_it_is_relocated(tmp_path: Path) -> None:
    chain, copy = copied(tmp_path)
    with pytest.raises(RefusedError) as caught:
        copy.plan(50)
    error = caught.value
    assert error.exit_code == 12
    assert error.file == str(copy.directory / "checkpoint")
    assert str(chain.directory) in str(error.found)
    assert "--relocate" in error.remedy
    copy.merge(50, relocate=True)
    after = state_of(copy.directory)
    assert after.all_paths == ("model.ckpt-10", "model.ckpt-40", "model.ckpt-50")
    assert after.latest == "model.ckpt-50"
    own = state_of(copy.directory / INCREMENTS)
    assert own.all_paths == tuple(f"incremental_model.ckpt-{n}" for n in (20, 30, 50))
    assert own.latest == "incremental_model.ckpt-50"
    assert names(state_of(chain.directory)) == ["model.ckpt-10", "model.ckpt-40"]
    copy.plan(30)


def test_a_copy_that_a_merge_is_written_to_is_relocated_too(tmp_path: Path) -> None:
    chain, copy = copied(tmp_path)
    output = str(copy.full_prefix(50))
    with pytest.raises(RefusedError, match="is a copy") as caught:
        plan_merge(str(chain.directory), 50, output, update_state=True)
    assert "--relocate" in caught.value.remedy
    plan = plan_merge(str(chain.directory), 50, output, update_state=True, relocate=True)
    rooms = (chain.directory, copy.directory)
    states = [str(d / room / "checkpoint") for d in rooms for room in ("", INCREMENTS)]
    assert list(plan.relocated) == states
    execute_merge(plan)
    assert state_of(copy.directory).latest == "model.ckpt-50"
    assert not any(str(chain.directory) in Path(path).read_text() for path in states)


def test_a_state_file_that_does_not_parse_is_told_before_anything_is_written(
    tmp_path: Path,
) -> None:
    chain = small_chain(tmp_path)
    (chain.directory / "checkpoint").write_text("half of")
    before = listing(chain.directory)
    for options in ({}, {"output": str(chain.full_prefix(50)), "update_state": True}):
        with pytest.raises(StateFileError) as caught:
            plan_merge(str(chain.directory), 50, options=RestoreOptions(base=40), **options)
        assert "model_checkpoint_path" in caught.value.remedy
    assert listing(chain.directory) == before
    plan = plan_merge(str(chain.directory), 50, options=RestoreOptions(base=40), update_state=False)
    execute_merge(plan)
    assert rows_of(chain.full_prefix(50), "emb")


@pytest.mark.parametrize("named", ["model.ckpt-10", "/elsewhere/model.ckpt-99", None])
def test_a_directory_whose_state_file_is_not_updated_is_not_relocated(
    tmp_path: Path, named: str | None
) -> None:
    """Nobody asked for it, and the plan does not tell of it."""
    chain, copy = copied(tmp_path)
    state = copy.directory / "checkpoint"
    state.write_text("half of")
    if named is not None:
        write_state(copy.directory, [os.path.join(copy.directory, named)])
    before = {path: path.read_bytes() for path in copy.directory.rglob("checkpoint")}
    plan = chain.plan(50, copy.directory / "mine", relocate=True)
    assert list(plan.relocated) == [
        str(chain.directory / room / "checkpoint") for room in ("", INCREMENTS)
    ]
    execute_merge(plan)
    assert {path: path.read_bytes() for path in copy.directory.rglob("checkpoint")} == before
    assert state_of(chain.directory).latest == "model.ckpt-40"


@pytest.mark.parametrize("what", ["increments", "fulls", "other increments", "link"])
def test_what_cannot_be_relocated_is_told_before_anything_is_written(
    tmp_path: Path, what: str
) -> None:
    chain, copy = copied(tmp_path)
    own, options = chain.directory / INCREMENTS, {"output": str(tmp_path / "out")}
    expected: type[Exception] = StateFileError
    if what == "increments":
        (own / "checkpoint").write_text("half of")
        options = {}
    elif what == "fulls":
        (chain.directory / "checkpoint").write_text("half of")
        options |= {"options": RestoreOptions(base=40)}
    elif what == "other increments":
        (copy.directory / INCREMENTS / "checkpoint").write_text("half of")
        options = {"output": str(copy.full_prefix(50)), "update_state": True}
    else:
        own.symlink_to(own.rename(tmp_path / "real"))
        options, expected = {}, RefusedError
    before = listing(tmp_path)
    with pytest.raises(expected):
        plan_merge(str(chain.directory), 50, relocate=True, **options)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("room", ["", INCREMENTS])
def test_what_is_named_and_not_here_is_not_made_relative(tmp_path: Path, room: str) -> None:
    """TensorFlow finds it in the original, and would find nothing at all."""
    _, copy = copied(tmp_path)
    name = read_state(str(copy.directory / room / "checkpoint")).latest
    for path in (copy.directory / room).glob(f"{os.path.basename(name)}.*"):
        path.unlink()
    age(copy)
    before = (copy.directory / room / "checkpoint").read_bytes()
    for refused in (
        lambda: copy.merge(30, relocate=True),
        lambda: prune(copy, relocate=True, min_age_s=0),
        lambda: run_compact(
            str(copy.directory), CompactOptions(prune=PruneOptions(relocate=True, min_age_s=0))
        ),
    ):
        with pytest.raises(RefusedError, match=f"not here: {os.path.basename(name)}") as caught:
            refused()
        assert name in str(caught.value.found)
        assert f"here: {'incremental_model.ckpt-20' if room else 'model.ckpt-10'}" in str(
            caught.value.found
        )
        assert "model_checkpoint_path" in caught.value.remedy
    assert (copy.directory / room / "checkpoint").read_bytes() == before
    with pytest.raises(RefusedError) as caught:
        prune(copy)
    assert "--relocate" not in caught.value.remedy
    told = [each.message for each in find_chains(scan_directory(str(copy.directory))).problems]
    assert any(f"names {name}" in each and "by hand" in each for each in told)


def test_increments_that_a_run_was_set_back_from_may_be_named_in_vain(tmp_path: Path) -> None:
    """As `docs/runbook.md` has it: of a step that only a full is at."""
    chain, copy = copied(tmp_path)
    own = [str(chain.increment_prefix(n)) for n in (20, 30, 50)]
    line = str(chain.increment_prefix(40))
    write_state(copy.directory / INCREMENTS, own, latest=line)
    prune(age(copy), relocate=True, min_age_s=0)
    assert state_of(copy.directory / INCREMENTS).latest == os.path.basename(line)


def test_a_state_file_above_its_checkpoints_stays(tmp_path: Path) -> None:
    """TensorFlow reads `x/model.ckpt-40`."""
    below = small_chain(tmp_path)
    state = below.directory.parent / "checkpoint"
    where = os.path.relpath(below.full_prefix(40), state.parent)
    write_state(state.parent, [where])
    before = state.read_bytes()
    with pytest.raises(RefusedError, match="not here"):
        plan_prune(str(state.parent), PruneOptions(relocate=True))
    with pytest.raises(RefusedError, match="not here"):
        relocate_state_files(str(state.parent), LOCAL)  # the trainer has come to this since
    assert state.read_bytes() == before


def test_the_line_set_by_hand_lets_the_rest_become_relative(tmp_path: Path) -> None:
    chain, copy = copied(tmp_path)
    for path in copy.directory.glob("model.ckpt-40.*"):
        path.unlink()
    state = copy.directory / "checkpoint"
    line = f'model_checkpoint_path: "{chain.full_prefix(40)}"'
    state.write_text(state.read_text().replace(line, 'model_checkpoint_path: "model.ckpt-10"'))
    prune(age(copy), relocate=True, min_age_s=0)
    assert state_of(copy.directory).latest == "model.ckpt-10"
    assert str(chain.directory) not in state.read_text()


def test_a_path_of_its_own_directory_is_made_relative_also_where_it_is_lost(tmp_path: Path) -> None:
    chain = age(small_chain(tmp_path))
    write_state(chain.directory, [str(chain.full_prefix(n)) for n in (10, 40)])
    for path in chain.directory.glob("model.ckpt-40.*"):
        path.unlink()
    prune(chain, relocate=True, min_age_s=0)
    assert state_of(chain.directory).latest == "model.ckpt-40"


def test_a_copy_may_be_read(tmp_path: Path) -> None:
    _, copy = copied(tmp_path)
    before = (copy.directory / "checkpoint").read_bytes()
    copy.merge(50, tmp_path / "out-50")
    assert (copy.directory / "checkpoint").read_bytes() == before


def test_a_directory_that_was_moved_is_no_copy(tmp_path: Path) -> None:
    chain, copy = copied(tmp_path)
    shutil.rmtree(chain.directory)
    copy.merge(50)
    after = state_of(copy.directory)
    assert names(after) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-50"]


def test_a_link_to_the_directory_is_no_copy(tmp_path: Path) -> None:
    chain, copy = copied(tmp_path)
    shutil.rmtree(copy.directory)
    copy.directory.symlink_to(chain.directory)
    copy.merge(50)
    assert state_of(chain.directory).latest == str(chain.full_prefix(50))


def test_a_path_that_ends_in_a_slash_names_nothing_new(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    lines = ['model_checkpoint_path: "model.ckpt-40/"']
    lines += [f'all_model_checkpoint_paths: "model.ckpt-{step}"' for step in (10, 40)]
    (chain.directory / "checkpoint").write_text("\n".join(lines) + "\n")
    chain.merge()
    assert names(state_of(chain.directory)) == ["model.ckpt-10", "model.ckpt-40", "model.ckpt-50"]


def test_it_is_listed_though_our_working_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory of a job that cleaned up behind itself; ours is given by an absolute path."""
    chain = age(small_chain(tmp_path))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    options = CompactOptions(prune=PruneOptions(Policy((KeepLast(1),)), min_age_s=0))
    run_compact(str(chain.directory), options)
    assert state_of(chain.directory).latest == "model.ckpt-50"
    assert names(state_of(chain.directory)) == ["model.ckpt-50"]


# --- a line that names what has no step -----------------------------------------------


def ends_without_a_step(chain: Chain, *listed: str, name: str = "model.ckpt") -> Chain:
    """As `saver.save(sess, DIR/model.ckpt)` leaves it, or who sets the run back to a copy."""
    for path in chain.directory.glob("model.ckpt-40.*"):
        shutil.copy(path, path.with_name(path.name.replace("model.ckpt-40", name)))
    write_state(chain.directory, listed, latest=name)
    return age(chain)


def test_what_a_saver_undid_is_put_right_behind_one_that_died_before_it_listed(
    tmp_path: Path,
) -> None:
    """Its full at 40 is whole, and was saved behind the state file."""
    chain = chain_of(tmp_path, "F10", "I15")
    chain.merge(15)
    for step in (25, 40):
        chain.add(full(step, table("emb", [1, 2])))
    age(chain)
    state = write_state(chain.directory, ["model.ckpt-10", "model.ckpt-25"])
    date(state, 100)
    for path in chain.directory.glob("model.ckpt-40.*"):
        date(path, 50)
    assert settle(scan_directory(str(chain.directory)), LOCAL, None).unlisted == ("model.ckpt-15",)
    after = state_of(chain.directory)
    assert names(after) == [f"model.ckpt-{n}" for n in (10, 15, 25, 40)]
    assert after.latest == "model.ckpt-40"


@pytest.mark.parametrize("name", ["model.ckpt", "best"])
def test_a_line_that_names_what_has_no_step_stays(tmp_path: Path, name: str) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F40", "I50")
    fulls = ["model.ckpt-10", "model.ckpt-40"]
    ends_without_a_step(chain, *fulls, *(["model.ckpt"] if name == "model.ckpt" else []), name=name)
    was = dead(chain)
    told = f"model.ckpt-50 is listed and not named: {chain.directory}/checkpoint goes on naming"
    assert [warning for warning in chain.plan().warnings if warning.startswith(f"{told} {name}, ")]
    result = chain.merge()
    assert result.state_file_updated
    assert len([each for each in result.warnings if each.startswith(told)]) == 1
    assert state_of(chain.directory).latest == name
    assert "model.ckpt-50" in names(state_of(chain.directory))
    assert dead(chain) == was
    # A Saver that drops it, and what goes by policy: nothing leads away from there either.
    write_state(chain.directory, fulls, latest=name)
    age(chain)
    settled = settle(scan_directory(str(chain.directory)), LOCAL, None)
    assert settled.unlisted == ("model.ckpt-50",)
    assert state_of(chain.directory).latest == name
    prune(chain, KeepLast(1))
    assert (state_of(chain.directory).latest, names(state_of(chain.directory))) == (
        name,
        ["model.ckpt-50"],
    )


def test_a_line_without_a_step_that_is_written_while_we_merge(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F40", "I50")
    work = in_a_thread(lambda: ends_without_a_step(chain, "model.ckpt-10", "model.ckpt-40"))
    result = chain.merge(storage=Hooked(f"{STATE} {chain.directory}/checkpoint", before=work))
    assert "model.ckpt-50 is listed and not named" in result.warnings[-1]
    assert state_of(chain.directory).latest == "model.ckpt"


def test_a_line_without_a_step_stays_while_a_trainer_saves_and_we_prune(tmp_path: Path) -> None:
    chain = ends_without_a_step(chain_of(tmp_path, "F10", "F40"), "model.ckpt-10", "model.ckpt-40")
    save = in_a_thread(
        lambda: write_image(full(60, table("emb", [1, 2])), chain.full_prefix(60)) and None
    )
    storage = Hooked(f"{STATE} {chain.directory}/checkpoint", before=save)
    prune(chain, KeepLast(1), storage=storage)
    assert storage.called
    assert state_of(chain.directory).latest == "model.ckpt"


def test_a_line_without_a_step_whose_files_are_gone_is_changed(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20")
    write_state(chain.directory, ["model.ckpt-10"], latest="best")
    age(chain)
    chain.merge()
    assert state_of(chain.directory).latest == "model.ckpt-20"
