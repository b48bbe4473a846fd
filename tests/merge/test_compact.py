"""Compacting: when it merges, what it removes, and what it puts right."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from ckptctl.bundle import read_state
from ckptctl.chain import find_chains, scan_directory, writer
from ckptctl.errors import (
    ExistsError,
    LockedError,
    NotFoundError,
    RefusedError,
    TensorChecksumError,
    TimeUpError,
    UnprovenError,
)
from ckptctl.merge import (
    CompactOptions,
    CompactResult,
    Gate,
    Policy,
    PruneOptions,
    plan_compact,
    plan_merge,
    plan_prune,
    run_compact,
)
from ckptctl.merge.gate import Holdings, look_at_holdings
from ckptctl.merge.policy import KeepLast, KeepStep, KeepWithin
from ckptctl.merge.quiet import QuietNote, quiet_note, recall_quiet
from ckptctl.merge.removed_log import log_removed
from ckptctl.merge.state_file import unlist_checkpoints
from ckptctl.progress import Deadline, Progress
from ckptctl.restore import RestoreOptions
from ckptctl.storage import LOCAL
from ckptctl.storage.lock import directory_lock
from tests.merge.prunes import THEN, age, chain_of, date, here, listed, points, prune
from tests.merge.storages import Hooked
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    flip,
    full,
    increment,
    listing,
    rows_of,
    table,
    write_state,
)
from tests.oracle.images import write_image

AT_ONCE = PruneOptions(min_age_s=0.0)
#: What a run may leave behind.
OWN = {".ckptctl", ".ckptctl/lock"}


def compact(chain: Chain, gate: Gate | None = None, **more: Any) -> CompactResult:
    prune = PruneOptions(
        Policy(tuple(more.pop("keep", ()))),
        min_age_s=more.pop("min_age_s", 0.0),
        relocate=more.pop("relocate", False),
    )
    restore = RestoreOptions(**more.pop("restore", {}))
    options = CompactOptions(gate or Gate(), restore, prune)
    return run_compact(str(chain.directory), options, jobs=1, **more)


def grown(tmp_path: Path) -> Chain:
    return chain_of(tmp_path, "F10", "I20", "I30")


# --- what it does ---------------------------------------------------------------------


def test_it_merges_to_the_newest_point_and_removes_what_that_covers(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    was = rows_of(chain.increment_prefix(30), "emb")
    result = compact(chain)
    assert result.outcome == "merged and pruned"
    assert here(chain) == {"F10", "F30"}
    assert rows_of(chain.full_prefix(30), "emb").items() >= was.items()
    assert (listed(chain), listed(chain, INCREMENTS)) == ([10, 30], None)
    assert points(chain) == {10, 30}
    assert result.merge is not None
    assert result.merge.verified
    assert (result.plan.holdings.pending, result.holdings.pending) == (2, 0)
    assert (result.holdings.fulls, result.holdings.latest) == (2, 30)


def test_a_second_run_has_nothing_to_do_and_changes_nothing(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain)
    before = listing(chain.directory)
    result = compact(chain)
    assert (result.outcome, result.plan.nothing_to_do) == ("nothing", True)
    assert "is a full" in (result.waits or "")
    assert {**listing(chain.directory), ".ckptctl/lock": 0} == {**before, ".ckptctl/lock": 0}


def test_a_save_that_is_under_way_stays_though_the_merge_is_newer(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    saving = chain.directory / f"model.ckpt-40_temp_{'0' * 32}"
    saving.mkdir()
    part = saving / "part-00000-of-00002.data-00000-of-00001"
    part.write_bytes(b"so far")
    for path in (part, saving):
        date(path, 4000)
    assert compact(chain).merged
    assert part.exists()


@pytest.mark.parametrize("ahead_s", [300, 3 * 86400])
def test_where_the_trainers_clock_is_ahead_a_merge_is_not_abandoned(
    tmp_path: Path, ahead_s: int
) -> None:
    """Its sources seem to be written after it, as by a run that was set back."""
    chain = grown(tmp_path)
    ahead_s += time.time() - THEN - 60 * 30
    for path in chain.directory.rglob("*"):
        at = min(path.stat().st_mtime, THEN + 60 * 30) + ahead_s
        os.utime(path, (at, at))
    for _ in range(2):
        compact(chain)
        assert listed(chain) == [10, 30]
        assert points(chain) >= {10, 30}
        assert find_chains(scan_directory(str(chain.directory))).notes == ()


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_was_set_back_by_the_right_clock_stays_so(tmp_path: Path, killed: bool) -> None:
    """The merge has the date of the trainer, whose clock is ahead; the state file one before it."""
    chain = grown(tmp_path)
    for path in chain.directory.rglob("*"):
        at = path.stat().st_mtime - THEN - 10**7 + time.time() + 3600
        os.utime(path, (at, at))
    before = (chain.directory / "checkpoint").read_bytes()
    info = (chain.directory / "checkpoint").stat()
    compact(chain)
    assert listed(chain) == [10, 30]
    state = chain.directory / "checkpoint"
    state.write_bytes(before)
    if killed:  # before it had entered the merge: the state file is the one of then
        os.utime(state, ns=(info.st_mtime_ns, info.st_mtime_ns))
    else:
        os.utime(state, (time.time() + 5, time.time() + 5))
    compact(chain)
    assert listed(chain) == ([10, 30] if killed else [10])


def test_a_directory_with_more_slashes_is_the_same(tmp_path: Path) -> None:
    """`for d in /models/*/; do ckptctl compact $d/`: no file is taken for another's."""
    chain = grown(tmp_path)
    run_compact(f"{chain.directory}//", CompactOptions(prune=AT_ONCE), jobs=1)
    assert here(chain) == {"F10", "F30"}
    scan = scan_directory(str(chain.directory))
    known = {path for each in scan.fulls for path, _ in each.files}
    inside = {str(path) for path in chain.directory.iterdir() if path.is_file()}
    assert inside == known | {f"{chain.directory}/checkpoint"}
    assert scan_directory("/").directory == "/"


@pytest.mark.parametrize("how", ["by name", "through a link", "where a link leads"])
def test_the_increments_are_no_directory_to_compact(tmp_path: Path, how: str) -> None:
    """Whoever finds directories by their state files gives them too."""
    chain = grown(tmp_path)
    within = chain.directory / INCREMENTS
    named = f"{within}/"
    if how == "through a link":
        (tmp_path / "link").symlink_to(within)
        named = str(tmp_path / "link")
    elif how == "where a link leads":
        named = str(within.rename(tmp_path / "elsewhere"))
        within.symlink_to(named)
    before = listing(within)
    options = CompactOptions(prune=PruneOptions(Policy((KeepLast(1),)), min_age_s=0.0))
    for refused in (
        lambda: run_compact(named, options),
        lambda: plan_compact(named, options),
        lambda: plan_prune(named, options.prune),
        lambda: plan_merge(named),
    ):
        with pytest.raises(RefusedError, match="these are the increments"):
            refused()
    assert listing(within) == before


def test_old_fulls_go_by_keep_rules(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F20", "I30")
    result = compact(chain, keep=[KeepLast(1)])
    assert here(chain) == {"F30"}
    assert result.prune is not None
    assert result.prune.verified == ()  # the merge has read it back
    assert listed(chain) == [30]


def test_what_is_young_stays(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    os.utime(f"{chain.increment_prefix(30)}.index")
    compact(chain, min_age_s=600.0)
    assert here(chain) == {"F10", "F30", "I30"}


def test_the_time_of_a_merged_full_is_that_of_its_newest_source(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])), listed=False
    )
    age(chain)
    write_state(chain.directory, ["model.ckpt-10"])  # as TensorFlow 1.12 did, without times
    result = compact(chain, keep=[KeepWithin(3600)])
    assert result.holdings.latest_time_s == THEN + 60 * 20
    # Merged today, yet all of them hold what was trained within minutes.
    assert here(chain) == {"F10", "F20", "I20"}


# --- the gate -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "why"),
    [
        (Gate(min_increments=3), "2 increments, below --min-increments 3"),
        (Gate(min_bytes=10**9), "below --min-bytes 1e+09"),
        (Gate(min_ratio=50.0), "below --min-ratio 50"),
    ],
)
def test_a_gate_that_is_not_reached_says_so(tmp_path: Path, gate: Gate, why: str) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30")
    result = compact(chain, gate)
    assert why in (result.waits or "")
    # Its keys are proven to be in the later one: pruned, also where nothing is merged.
    assert (result.outcome, here(chain)) == ("pruned", {"F10", "I30"})


def test_increments_count_though_the_prune_of_an_earlier_run_removed_them(tmp_path: Path) -> None:
    """Else a gate of 3 never opens: of what a later one contains nothing is left to count."""
    chain = chain_of(tmp_path, "F10", "I20")
    merged = []
    for step in range(30, 110, 10):
        chain.add(increment(step, changes("emb", range(step))))
        write_state(chain.directory / INCREMENTS, [f"incremental_model.ckpt-{step}"])
        age(chain)
        merged.append(compact(chain, Gate(min_increments=3)).merged)
    assert merged == [False, True, False, False, True, False, False, True]
    # Where the log of what was removed is lost, a merge only comes later.
    (chain.directory / ".ckptctl" / "removed.jsonl").unlink()
    assert look(chain).pending_removed == 0


def look(chain: Chain) -> Holdings:
    return look_at_holdings(find_chains(scan_directory(str(chain.directory))))


def test_bytes_are_those_that_a_merge_would_read(tmp_path: Path) -> None:
    """Not of what is removed: each increment has all rows of those before it."""
    chain = chain_of(tmp_path, "F10", "I20", "I30", "I40")
    before = look(chain).pending_bytes
    gate = Gate(min_bytes=before + 1)
    assert not compact(chain, gate).merged
    now = look(chain)
    assert (now.pending, now.pending_removed) == (1, 2)
    assert now.pending_bytes < before
    assert "below --min-bytes" in (gate.why_not(now, 0.0) or "")


def test_every_gate_has_to_be_reached(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    reached = Gate(2, 1, 0.001, 10.0)
    plan = plan_compact(str(chain.directory), CompactOptions(reached, prune=AT_ONCE))
    assert plan.waits is None
    assert plan.merge is not None


def test_the_interval_counts_from_the_last_merge(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain, Gate(min_interval_s=3600))  # the first one has nothing to wait for
    assert "F30" in here(chain)
    chain.add(increment(40, changes("emb", [1, 2, 3, 9])))
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-40"])
    later = Gate(min_interval_s=3600)
    restore = {"base": 30}
    assert "seconds since the last merge" in (compact(chain, later).waits or "")
    ago = time.time() - 4000
    os.utime(f"{chain.full_prefix(30)}.index", (ago, ago))
    assert compact(chain, later, restore=restore).merged
    # A clock that was set back stops nothing.
    ahead = time.time() + 10**6
    assert later.why_not(plan_holdings(chain, ahead), time.time()) is None


def plan_holdings(chain: Chain, last_merge_s: float) -> Any:
    found = plan_compact(str(chain.directory)).holdings
    return found._replace(pending=1, last_merge_s=last_merge_s)


def test_increments_at_or_below_the_newest_full_do_not_count(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    plan = plan_compact(str(chain.directory))
    assert plan.holdings.pending == 1
    assert plan.holdings.newest_full_step == 30


@pytest.mark.parametrize("what", ["relocate", "base"])
def test_options_of_a_first_run_may_stay_in_the_crontab(tmp_path: Path, what: str) -> None:
    chain = grown(tmp_path)
    more: dict[str, Any] = {"restore": {"base": 10}} if what == "base" else {"relocate": True}
    if what == "relocate":
        write_state(chain.directory, [str(chain.full_prefix(10))])
        age(chain)
    assert compact(chain, **more).outcome == "merged and pruned"
    assert [compact(chain, **more).outcome for _ in range(2)] == ["nothing", "nothing"]
    assert str(chain.directory) not in (chain.directory / "checkpoint").read_text()


# --- what stops it --------------------------------------------------------------------


def test_what_is_refused_removes_nothing(tmp_path: Path) -> None:
    chain = age(
        build_chain(
            tmp_path,
            full(10, table("emb", [1])),
            increment(20, changes("emb", [1, 2])),
            increment(30, changes("emb", [3])),
        )
    )
    before = listing(chain.directory)
    with pytest.raises(UnprovenError):
        compact(chain)
    assert set(listing(chain.directory)) - set(before) <= OWN


def test_a_base_that_contradicts_what_is_proven_is_refused(tmp_path: Path) -> None:
    """Left in a crontab, it would merge onto an old full what was recorded on the newest."""
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    with pytest.raises(RefusedError, match="step 10 is not the base") as caught:
        compact(chain, keep=[KeepLast(1)], restore={"base": 10})
    assert caught.value.expected == "model.ckpt-30"
    assert here(chain) == {"F10", "I20", "F30", "I40"}
    assert compact(chain, restore={"base": 30}).merged


def test_a_base_goes_on_when_its_merged_full_stands_in(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    assert compact(chain, restore={"base": 10}).merged
    chain.add(increment(40, changes("emb", range(1, 9))))
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-40"])
    assert compact(chain, restore={"base": 10}).merged


def test_a_base_that_would_be_of_no_use_is_refused(tmp_path: Path) -> None:
    """What it speaks for has to be merged by hand: it is no restore point."""
    chain = chain_of(tmp_path, "F10", "I40")
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-35"])
    age(chain)
    with pytest.raises(RefusedError, match="step 10 is a full") as caught:
        compact(chain, restore={"base": 10})
    assert "merge --upto 40" in (caught.value.remedy or "")
    assert compact(chain).outcome == "nothing"


def test_damage_in_a_source_stops_it_before_anything_goes(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    flip(Path(f"{chain.full_prefix(30)}.data-00000-of-00001"), 3)
    age(chain)
    with pytest.raises(TensorChecksumError):
        compact(chain)
    assert here(chain) == {"F10", "I20", "F30", "I40"}


def test_a_directory_without_a_restore_point_is_refused(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, increment(20, changes("emb", [1])), listed=False)
    with pytest.raises(NotFoundError, match="nothing that could be kept"):
        compact(chain)
    with pytest.raises(NotFoundError, match="no such directory"):
        run_compact(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


def test_why_nothing_can_be_restored_is_told(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10")
    Path(f"{chain.full_prefix(10)}.data-00000-of-00001").unlink()
    with pytest.raises(NotFoundError) as caught:
        compact(chain)
    assert "data shard model.ckpt-10.data-00000-of-00001 is missing" in str(caught.value.found)


def test_the_lock_is_held_from_the_plan_to_the_end(tmp_path: Path) -> None:
    chain = grown(tmp_path)

    def taken() -> None:
        with pytest.raises(LockedError), directory_lock(str(chain.directory)):
            pass

    storage = Hooked("model.ckpt-30.index", before=taken, always=True)
    options = CompactOptions(prune=AT_ONCE)
    run_compact(str(chain.directory), options, agree=lambda _: taken(), jobs=1, storage=storage)
    assert storage.called
    with directory_lock(str(chain.directory)), pytest.raises(LockedError):
        compact(chain)


def test_whoever_does_not_agree_changes_nothing(tmp_path: Path) -> None:
    chain = grown(tmp_path)

    def no(plan: object) -> None:
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        compact(chain, agree=no)
    assert here(chain) == {"F10", "I20", "I30"}


@pytest.mark.parametrize("phase", ["comparing increments", "reading keys", "writing", "verifying"])
def test_when_the_time_is_up_nothing_is_half_done(tmp_path: Path, phase: str) -> None:
    chain = grown(tmp_path)

    class UpIn(Deadline):
        def start(self, name: str, total: int | None = None) -> None:
            if name.startswith(phase):
                self._until = 0.0
            super().start(name, total)

    before = set(listing(chain.directory))
    with pytest.raises(TimeUpError, match="100 seconds"):
        compact(chain, progress=UpIn(100))
    assert set(listing(chain.directory)) - before <= OWN
    assert compact(chain).outcome == "merged and pruned"


def test_what_is_committed_is_listed_though_the_time_is_up(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    deadline = Deadline(100)

    def up() -> None:
        deadline._until = 0.0
        (chain.directory / "model.ckpt-40_temp_00").mkdir()  # a save is waited for

    storage = Hooked("rmdir", after=up)  # of the temporary, behind the commit
    with pytest.raises(RefusedError, match="a trainer is writing"):
        compact(chain, progress=deadline, storage=storage, writer_wait_s=0.0)
    assert "F30" in here(chain)


def test_a_deadline_passes_on_what_it_is_told() -> None:
    told: list[object] = []

    class Told(Progress):
        def start(self, phase: str, total: int | None = None) -> None:
            told.append((phase, total))

        def advance(self, done: int) -> None:
            told.append(done)

        def finish(self) -> None:
            told.append("end")

    deadline = Deadline(1000, Told())
    deadline.start("writing", 5)
    deadline.advance(5)
    deadline.finish()
    assert told == [("writing", 5), 5, "end"]
    late = Deadline(5, Told(), began=time.monotonic() - 6)
    with pytest.raises(TimeUpError):
        late.advance(1)


# --- what a trainer's Saver undid -----------------------------------------------------


def test_a_merged_full_that_a_saver_dropped_is_listed_again(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain)
    chain.add(full(40, table("emb", [1, 2, 3])))
    names = [f"model.ckpt-{step}" for step in (10, 40)]  # as its memory has it
    write_state(chain.directory, names, times=[THEN + 600, THEN + 2400])
    assert plan_compact(str(chain.directory)).unsettled.unlisted == ("model.ckpt-30",)
    assert compact(chain).outcome == "put right"
    assert listed(chain) == [10, 30, 40]
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    assert state.latest == "model.ckpt-40"
    # When its newest source was saved, not when it was merged: keep rules count that.
    assert state.timestamps[1] == THEN + 1800
    assert compact(chain).outcome == "nothing"


def test_one_that_was_never_listed_stays_unlisted(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    chain.merge(update_state=False)
    assert plan_compact(str(chain.directory)).unsettled.unlisted == ()
    assert compact(chain).outcome == "pruned"
    assert listed(chain) == [10]


def set_back(tmp_path: Path) -> Chain:
    """Merged up to 30, then somebody set the run back to 10 by hand."""
    chain = grown(tmp_path)
    compact(chain)
    _ago(chain.full_prefix(30), 100)
    write_state(chain.directory, ["model.ckpt-10"])
    date(chain.directory / "checkpoint", 50)
    assert here(chain) == {"F10", "F30"}
    return chain


def _ago(prefix: Path, seconds: float) -> None:
    for path in prefix.parent.glob(f"{prefix.name}.*"):
        date(path, seconds)


def test_a_run_that_was_set_back_by_hand_stays_set_back(tmp_path: Path) -> None:
    """The merged full would be named again, and make all that the new run saves stale."""
    chain = set_back(tmp_path)
    assert compact(chain).outcome == "nothing"
    assert chain.plan().unfinished == ()
    assert listed(chain) == [10]
    for step in (15, 18):
        chain.add(increment(step, changes("emb", {1: 0.5, step: 1.0} if step == 15 else [1, 15])))
        _ago(chain.increment_prefix(step), 20)
    names = [f"incremental_model.ckpt-{step}" for step in (15, 18)]
    write_state(chain.directory / INCREMENTS, names)
    assert points(chain) == {10, 15, 18}
    result = compact(chain, keep=[KeepLast(1)])
    assert result.merged
    assert listed(chain) == [10, 18]
    assert {10, 18} <= points(chain)
    assert 3 not in rows_of(chain.full_prefix(18), "emb")  # of the run that was given up


@pytest.mark.parametrize("dropped", [False, True], ids=["listed", "dropped by a Saver"])
def test_a_run_set_back_by_the_runbook_does_not_begin_at_a_merged_full(
    tmp_path: Path, dropped: bool
) -> None:
    chain = grown(tmp_path)
    compact(chain)
    _ago(chain.full_prefix(30), 100)
    names = ["model.ckpt-10", *([] if dropped else ["model.ckpt-30"])]
    write_state(chain.directory, names, latest="model.ckpt-10")
    date(chain.directory / "checkpoint", 50)
    increments = [f"incremental_model.ckpt-{step}" for step in (20, 30)]
    write_state(chain.directory / INCREMENTS, increments, latest=increments[0])
    assert max(points(chain)) == 10
    chains = find_chains(scan_directory(str(chain.directory)))
    assert "the run was set back" in (chains.timelines.why_abandoned(chains.scan.fulls[-1]) or "")
    compact(chain)  # takes out of the list what it had removed
    assert compact(chain).outcome == "nothing"
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    assert state.latest == "model.ckpt-10"
    assert max(points(chain)) == 10
    prune(chain, abandoned=True, min_age_s=0.0)
    assert here(chain) == {"F10"}


def test_what_was_merged_of_a_run_that_was_set_back_is_abandoned_with_it(tmp_path: Path) -> None:
    """No state file of fulls ever told of the merge, nor of the rollback."""
    chain = grown(tmp_path)
    chain.merge(update_state=False)
    _ago(chain.full_prefix(30), 100)
    increments = [f"incremental_model.ckpt-{step}" for step in (20, 30)]
    write_state(chain.directory / INCREMENTS, increments, latest="incremental_model.ckpt-10")
    assert max(points(chain)) == 10
    assert compact(chain).outcome == "nothing"
    assert listed(chain) == [10]


def test_an_abandoned_full_in_the_way_says_how_to_remove_it(tmp_path: Path) -> None:
    chain = set_back(tmp_path)
    for step in (20, 30):
        chain.add(increment(step, changes("emb", range(1, step))))
        _ago(chain.increment_prefix(step), 20)
    names = [f"incremental_model.ckpt-{step}" for step in (20, 30)]
    write_state(chain.directory / INCREMENTS, names)
    with pytest.raises(ExistsError, match="prune --abandoned removes it"):
        compact(chain)
    prune(chain, abandoned=True, min_age_s=0.0)
    assert compact(chain).merged


@pytest.mark.parametrize("how", ["incomplete", "damaged", "without an index"])
def test_a_broken_full_in_the_way_keeps_no_prune_from_running(tmp_path: Path, how: str) -> None:
    """The trainer's save of the newest increment's step was cut short."""
    chain = grown(tmp_path)
    chain.add(full(30, table("emb", [1, 2])))
    files = {path.suffix: path for path in chain.directory.glob("model.ckpt-30.*")}
    if how == "damaged":
        flip(files[".index"], 30)
    elif how == "incomplete":
        os.truncate(files[".data-00000-of-00001"], 20)
    else:
        files[".index"].unlink()
    age(chain)
    planned = plan_compact(str(chain.directory), CompactOptions(prune=AT_ONCE))
    assert "what goes anyway is pruned first" in (planned.waits or "")
    for pruned in ("; items pruned all the same: 1", ""):
        with pytest.raises(ExistsError, match="prune --leftovers removes it") as caught:
            compact(chain)
        assert caught.value.exit_code == 12
        assert caught.value.message.partition(";")[1:] == pruned.partition(";")[1:]
        assert {"incomplete": "20 bytes where", "damaged": "model.ckpt-30: "}.get(
            how, "a file that ckptctl did not write"
        ) in str(caught.value.found)
        assert here(chain) - {"F30"} == {"F10", "I30"}
    prune(chain, leftovers=True, min_age_s=0.0)
    assert compact(chain).merged


def test_a_full_that_somebody_breaks_while_it_is_listed_says_so(tmp_path: Path) -> None:
    """A trainer that saves the same step, and ends behind the rename of its data."""
    chain = grown(tmp_path)
    data = chain.directory / "model.ckpt-30.data-00000-of-00001"

    def save() -> None:
        if data.exists():
            os.truncate(data, 20)

    result = compact(chain, storage=Hooked("/index", after=save, always=True))
    assert result.merge is not None
    (told,) = result.merge.warnings
    assert told.startswith("model.ckpt-30 is not listed: somebody else wrote there too: ")


def test_where_a_run_that_was_set_back_goes_on_above_it_nothing_is_guessed(tmp_path: Path) -> None:
    chain = set_back(tmp_path)
    chain.add(increment(35, changes("emb", [1, 7])))
    _ago(chain.increment_prefix(35), 20)
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-35"])
    with pytest.raises(UnprovenError, match=r"model\.ckpt-30 is abandoned"):
        chain.merge(35)
    assert compact(chain, keep=[KeepLast(1)]).outcome == "nothing"
    assert here(chain) == {"F10", "F30", "I35"}
    chain.merge(35, base=10)
    chain.check(10, 35)


def test_a_merge_that_was_killed_is_listed_with_the_time_of_its_source(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    write_state(chain.directory, ["model.ckpt-10"], times=[THEN + 600.0])
    age(chain)
    chain.merge()
    write_state(chain.directory, ["model.ckpt-10"], times=[THEN + 600.0])
    age(chain)  # the state file is older than the merged full
    os.utime(f"{chain.full_prefix(30)}.index", (THEN + 2e7,) * 2)
    assert compact(chain).outcome == "pruned"
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    assert state.timestamps == (THEN + 600, THEN + 1800)


def test_what_was_removed_and_is_listed_again_is_left_out(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain, keep=[KeepLast(1)])
    assert here(chain) == {"F30"}
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-30"])
    found = plan_compact(str(chain.directory))
    assert found.unsettled.gone == (("full", "model.ckpt-10"),)
    assert compact(chain).outcome == "put right"
    assert listed(chain) == [30]


def test_a_run_that_was_set_back_to_what_was_removed_stays_set_back(tmp_path: Path) -> None:
    """By the runbook: the last increment that is listed at or below, which is gone by now."""
    chain = grown(tmp_path)
    compact(chain)
    for each in (
        full(40, table("emb", [1, 2, 3])),
        increment(50, changes("emb", [1])),
        increment(60, changes("emb", [1, 2])),
    ):
        chain.add(each)
    names = [f"incremental_model.ckpt-{step}" for step in (20, 30, 50, 60)]
    write_state(chain.directory / INCREMENTS, names, latest=names[1])
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"])
    age(chain)
    assert max(points(chain)) == 40
    for outcome in ("put right", "nothing"):
        assert compact(chain).outcome == outcome
        assert max(points(chain)) == 40
        assert {"I50", "I60"} <= here(chain)
        assert listed(chain, INCREMENTS) == [30, 50, 60]


def test_a_full_that_is_named_is_no_savers_memory(tmp_path: Path) -> None:
    """Somebody who sets the run back names it, and brings it back from a copy."""
    chain = chain_of(tmp_path, "F10", "F20", "F30")
    prune(chain, KeepLast(1), KeepStep(10))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-30"], latest="model.ckpt-20")
    assert compact(chain).outcome == "nothing"
    write_image(chain.fulls[20], chain.full_prefix(20))
    age(chain)
    assert points(chain) == {10, 20}


def test_what_is_brought_back_while_a_save_is_waited_for_stays_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_PAUSE_S", 0.01)
    chain = chain_of(tmp_path, "F10", "F20", "F30")
    prune(chain, KeepLast(1), KeepStep(10))
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 20, 30)])
    copying = chain.directory / f"model.ckpt-20_temp_{'0' * 32}"
    copying.mkdir()

    class Told(Progress):
        def start(self, phase: str, total: int | None = None) -> None:
            if phase.startswith("waiting") and copying.exists():
                copying.rmdir()
                write_image(chain.fulls[20], chain.full_prefix(20))
                age(chain)

    compact(chain, progress=Told())
    assert not copying.exists()
    assert listed(chain) == [10, 20, 30]
    assert points(chain) == {10, 20, 30}


def test_what_shows_that_another_is_abandoned_stays_listed_though_it_is_gone(
    tmp_path: Path,
) -> None:
    chain = chain_of(tmp_path, "F10", "F60", "F70")
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 60, 30, 70)])
    gone = {"kind": "full", "name": "model.ckpt-30", "step": 30}
    log_removed(str(chain.directory), [gone], LOCAL)
    age(chain)
    assert points(chain) == {10, 70}
    assert compact(chain).outcome == "nothing"
    assert points(chain) == {10, 70}


def test_no_state_file_is_rewritten_through_a_link(tmp_path: Path) -> None:
    """It belongs to another directory, whatever the log here says was removed."""
    chain = grown(tmp_path)
    compact(chain)
    away = tmp_path / "away"
    (chain.directory / INCREMENTS).rename(away)
    write_state(away, ["incremental_model.ckpt-30"])
    (chain.directory / INCREMENTS).symlink_to(away)
    before = listing(away)
    assert compact(chain).outcome == "nothing"
    gone = {"incremental_model.ckpt-30": None}
    with pytest.raises(RefusedError, match="symbolic link"):
        unlist_checkpoints(str(chain.directory), "increment", gone, set(), LOCAL)
    assert listing(away) == before


def test_killed_behind_the_commit_the_next_run_lists_it(tmp_path: Path) -> None:
    """The merged full is there, the state file does not know it yet."""

    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    chain = grown(tmp_path)
    storage = Hooked(f"write_atomic {chain.directory}/checkpoint", before=die)
    with pytest.raises(Killed):
        compact(chain, storage=storage)
    assert (here(chain), listed(chain)) == ({"F10", "F30", "I20", "I30"}, [10])
    assert compact(chain).outcome == "pruned"
    assert (here(chain), listed(chain)) == ({"F10", "F30"}, [10, 30])


# --- what is remembered ---------------------------------------------------------------


def quiet(chain: Chain, **more: Any) -> bool:
    """Whether a run knew without a look at the indexes that there is nothing to do."""
    result = compact(chain, **more)
    assert result.outcome == "nothing"
    return result.plan is None


def test_that_there_is_nothing_to_do_is_remembered(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain)
    assert [quiet(chain) for _ in range(3)] == [False, True, True]
    first, second = compact(chain, keep=[KeepLast(5)]), compact(chain, keep=[KeepLast(5)])
    assert (second.plan, second.waits) == (None, first.waits)
    assert second.holdings == first.holdings
    assert second.to_json()["outcome"] == "nothing"


def test_what_is_passed_over_is_told_each_time(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    Path(f"{chain.increment_prefix(40)}.index").write_bytes(b"")
    compact(chain)
    for _ in range(2):
        assert not quiet(chain)
        (warning,) = compact(chain).plan.warnings
        assert "newer than step 30: incremental_model.ckpt-40: " in warning


def test_what_is_named_and_gone_is_told_each_time(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F30")
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 30, 40)])
    age(chain)
    for _ in range(3):
        result = compact(chain)
        assert result.plan is not None
        (warning,) = result.plan.warnings
        assert "newer than step 30: model.ckpt-40: " in warning
        assert result.holdings.passed_over == 1


def test_what_is_named_just_now_and_not_here_is_looked_for_again(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "F30")
    write_state(chain.directory, [f"model.ckpt-{step}" for step in (10, 30, 40)])
    result = compact(chain)
    assert result.plan is not None
    assert result.plan.warnings == ()
    note = quiet_note(result.plan.chains.scan, CompactOptions(Gate(), prune=AT_ONCE), LOCAL)
    now = time.time()
    assert recall_quiet(note, now) is not None
    assert recall_quiet(note, now + 3) is None


def test_what_a_deeprec_trainer_would_mix_is_told(tmp_path: Path) -> None:
    """It applies the increment that is named to the full that is named, whatever they are."""
    chain = chain_of(tmp_path, "F100", "I120", "I140", "F160", "I180")
    for path in chain.directory.glob("model.ckpt-160.*"):
        path.unlink()
    result = compact(chain)
    assert result.merge is not None
    told = (
        "a DeepRec trainer would apply incremental_model.ckpt-180 to model.ckpt-140",
        f"in {chain.directory / INCREMENTS / 'checkpoint'} to incremental_model.ckpt-140 ",
    )
    assert all(part in result.merge.warnings[-1] for part in told)
    for _ in range(2):
        again = compact(chain)
        assert again.plan is not None
        assert [each for each in again.plan.warnings if all(part in each for part in told)]
        assert all(part in chain.plan().warnings[-1] for part in told)
    for path in chain.increment_prefix(180).parent.glob("*-180.*"):
        path.unlink()
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-140"])
    assert not [each for each in chain.plan().warnings if "DeepRec" in each]


@pytest.mark.parametrize("listed", [True, False])
def test_what_goes_on_from_a_merge_is_no_mixture(tmp_path: Path, listed: bool) -> None:
    """Of the full that a merge was made from, or of the merged one, whichever is named."""
    chain = grown(tmp_path)
    chain.merge(update_state=listed)
    chain.add(increment(40, changes("emb", [1, 2, 3, 4])))
    before = [each for each in chain.plan().warnings if "DeepRec" in each]
    assert before == []
    assert not [each for each in chain.merge(update_state=False).warnings if "DeepRec" in each]


def test_what_is_damaged_below_is_told_each_time(tmp_path: Path) -> None:
    """It keeps its full, whatever the keep rules say."""
    chain = chain_of(tmp_path, "F10", "I20", "F30", "I40")
    Path(f"{chain.increment_prefix(20)}.index").write_bytes(b"x" * 100)
    for _ in range(3):
        result = compact(chain, keep=[KeepLast(1)])
        assert result.plan is not None
        (warning,) = result.plan.warnings
        assert warning.startswith("incremental_model.ckpt-20: ")
        assert "--leftovers removes it" in warning
    assert here(chain) == {"F10", "I20", "F40"}


def test_increments_that_are_idle_are_nothing_to_tell(tmp_path: Path) -> None:
    """DeepRec writes them after each start, until it writes a full."""
    idle = (increment(step, changes("emb", [])) for step in (20, 30))
    chain = age(build_chain(tmp_path, full(10, table("emb", [1])), *idle))
    assert [quiet(chain), quiet(chain)] == [False, True]
    assert "though newer than step 10" in chain.plan().warnings[0]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_merge_below_idle_increments_tells_of_others_alone(tmp_path: Path, damaged: bool) -> None:
    images = (increment(step, changes("emb", keys)) for step, keys in ((20, [1]), (30, [1])))
    idle = increment(40, changes("emb", []))
    chain = age(build_chain(tmp_path, full(10, table("emb", [1])), *images, idle))
    if damaged:
        Path(f"{chain.increment_prefix(30)}.index").write_bytes(b"")
    result = compact(chain)
    assert result.merge is not None
    assert result.merge.step == (20 if damaged else 30)
    told = (*result.merge.warnings, *result.plan.warnings)
    assert [("incremental_model.ckpt-30: " in each) for each in told] == [True] * damaged


@pytest.mark.parametrize("what", ["full", "state file", "leftover", "log", "options", "age"])
def test_whatever_changes_is_looked_at_again(tmp_path: Path, what: str) -> None:
    chain = grown(tmp_path)
    compact(chain)
    assert [quiet(chain), quiet(chain)] == [False, True]
    if what == "full":
        os.utime(f"{chain.full_prefix(10)}.index")
    elif what == "state file":
        (chain.directory / "checkpoint").write_bytes((chain.directory / "checkpoint").read_bytes())
    elif what == "leftover":
        (chain.directory / "model.ckpt-30_temp_00").mkdir()
    elif what == "log":
        os.utime(chain.directory / ".ckptctl" / "removed.jsonl")
    more: dict[str, Any] = {}
    if what == "options":
        more["gate"] = Gate(min_increments=2)
    elif what == "age":
        more["min_age_s"] = 0.5
        os.utime(f"{chain.full_prefix(10)}.index", (time.time() + 5000,) * 2)
        assert not quiet(chain, **more)
        # In the future, so it is never old enough: what is young is asked about again.
        os.utime(f"{chain.full_prefix(10)}.index", (time.time() - 1,) * 2)
    assert not quiet(chain, **more)


def test_what_is_young_is_looked_at_when_it_is_old_enough(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "F30")
    index = Path(f"{chain.increment_prefix(20)}.index")
    os.utime(index)
    assert [quiet(chain, min_age_s=600.0), quiet(chain, min_age_s=600.0)] == [False, True]
    now = index.stat().st_mtime
    scan = scan_directory(str(chain.directory))
    options = CompactOptions(prune=PruneOptions(min_age_s=600.0))
    note = quiet_note(scan, options, LOCAL)
    assert recall_quiet(note, now + 599) is not None
    assert recall_quiet(note, now + 601) is None
    assert recall_quiet(note, now - 90_000) is None  # a clock that was set back


def test_a_note_that_does_not_parse_is_no_note(tmp_path: Path) -> None:
    note = tmp_path / "note"
    for text in ("", "[", "[]", "{}", '{"until": "x"}', '{"until": 1e999, "holds": 1}', "[" * 9999):
        note.write_text(text)
        assert recall_quiet(QuietNote(str(note), "x"), 0.0) is None


def test_what_changes_while_it_is_judged_is_not_remembered(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain)
    state = chain.directory / "checkpoint"
    again = state.read_bytes()
    # A Saver, after the names were read and before the plan was made.
    assert not quiet(chain, agree=lambda plan: state.write_bytes(again))
    assert [quiet(chain), quiet(chain)] == [False, True]


def test_a_directory_has_one_note_for_each_set_of_options(tmp_path: Path) -> None:
    chain = grown(tmp_path)
    compact(chain)
    room = Path(os.environ["XDG_CACHE_HOME"]) / "ckptctl" / "quiet"
    quiet(chain)
    before = set(room.iterdir())
    for _ in range(3):
        os.utime(chain.directory / "checkpoint")
        assert [quiet(chain), quiet(chain)] == [False, True]
    assert set(room.iterdir()) == before


def test_nothing_is_written_where_there_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(NotFoundError):
            run_compact(str(path))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
