"""Every case of timelines and bases in `restore.md`, with real files and the real commands.

Each run is told in one line (`timelines.py`) and knows what it held at each step; whatever is
restored or merged must hold just that. What the pure rules say of it is tested, rule by rule, in
tests/chain; here it is merged, pruned and compacted.

======================================================= ============================================
case of restore.md                                      test
======================================================= ============================================
Base name: that of the state file; others never touched test_another_base_name
Two fulls at one step: an error that names both         test_two_fulls_at_one_step
Write order: the list; followed by a lower step         test_rolled_back_to_an_older_full,
                                                        test_rolled_back_twice
Write order: mtimes, for what is not listed             test_a_rollback_that_no_list_tells
... 2 s count as equal                                  test_a_rollback_within_two_seconds
... only where they agree with the list                 test_a_copy_that_lost_its_times
Unlisted, above what the state file names: abandoned    test_left_over_above_the_state_file
... unless written after it (just committed)            test_just_committed
An increment written before its base                    test_an_increment_older_than_its_base
What a state file names is live                         test_what_the_state_file_names_is_live
Merged fulls take no part                               test_a_merged_full_takes_no_part
No list, no usable time: steps; --assume-order step     test_a_copy_that_lost_its_times
An abandoned full is no base and makes nothing stale    test_rolled_back_to_an_older_full
An abandoned full between F and S: lineage, or a lower onetest_an_abandoned_full_between
Incomplete: listed, no base, no restore point, 4        test_an_incomplete_full,
                                                        test_an_incomplete_increment
A copied directory with absolute paths                  test_a_copied_directory
A path that is gone is found by its name (moved)        test_a_moved_directory
State at S: a full; an increment; the nearest points    test_the_nearest_restore_points_are_named
Check 1: nested; --increments last, all                 test_a_recorder_that_was_lost
... never across a time inversion                       test_all_never_crosses_a_rollback
Check 2: idle; --increments last                        test_an_idle_increment
Check 3: a full between, listed and gone; --base        test_a_full_between_is_gone
Check 4: the base rotated away; --base                  test_a_rotated_base
... lineage names F                                     test_lineage_proves_a_base
... F lies above the oldest listed                      test_a_base_above_the_oldest_listed
... both state files list one (max_to_keep 0)           test_nothing_is_rotated
... no state file of fulls                              test_no_state_file
Check 5: half-saved; --keep-missing, --add-new          test_a_half_saved_increment
Lineage, delta: the whole series                        test_a_delta_series
... a missing predecessor                               test_a_delta_series_with_a_gap
Merged stands in for its base, and for previous steps   test_a_merged_full_stands_in
Existing prefix; --overwrite killed midway              test_overwrite_killed_midway
Step order; model_checkpoint_path (--upto below)        test_upto_below_the_newest_full
A state file replaced while we merge                    test_a_state_file_replaced_while_we_merge
A rollback while we merge                               test_rolled_back_while_we_merge
Never emptied: removed                                  test_a_state_file_that_names_nothing_goes
Prune: delta series whole until a full covers           test_a_delta_series_is_pruned_whole
Prune: superseded, stale; a full and its increments     test_a_long_run_is_pruned_and_compacted
Prune: orphans, abandoned, unproven                     test_what_goes_by_option
Prune: removed.jsonl, and a Saver that lists it again   test_a_full_that_we_removed_is_listed_again
Prune: the newest restore point stays                   test_the_newest_point_always_stays
======================================================= ============================================
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ckptctl.errors import ChangedError
from ckptctl.merge import execute_merge
from tests.merge.storages import Hooked
from tests.oracle.chain import INCREMENTS, changes, full, increment, table
from tests.oracle.images import floats
from tests.torture.scenes import environment
from tests.torture.timelines import HOUR, Run, date, train

ALL = ["--min-age", "0s", "--yes"]


# --- what is in a directory -----------------------------------------------------------


def test_another_base_name(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 F30 I40")
    for path in run.directory.glob("model.ckpt-10.*"):
        shutil.copy(path, path.with_name(path.name.replace("model", "best")))
    before = {path: path.read_bytes() for path in run.directory.glob("best*")}
    assert [item["status"] for item in run.ls()["others"]] == ["other"]
    run.must("compact", "--keep-last", 1, *ALL)
    assert run.here - {"best.ckpt-10"} == {"F40"}
    assert before == {path: path.read_bytes() for path in run.directory.glob("best*")}


def test_two_fulls_at_one_step(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 F30 I40")
    for path in run.directory.glob("model.ckpt-30.*"):
        shutil.copy(path, path.with_name(path.name.replace("-30", "-0030")))
    for line in (["merge", "--upto", 30, "-o", tmp_path / "x"], ["show", 30]):
        said = run.do(*line)
        assert said.code in (4, 12)
        assert "model.ckpt-30" in said.err
        assert "model.ckpt-0030" in said.err
    run.do("prune", "--keep-last", 1, "--leftovers", "--abandoned", *ALL)
    assert {"F30", "model.ckpt-0030"} & run.here


# --- timelines ------------------------------------------------------------------------


def test_rolled_back_to_an_older_full(tmp_path: Path) -> None:
    """The newer ones are still there: they are no base, and make nothing stale."""
    run = train(tmp_path, "F10 I20 F80 I90 <10 F30 I40")
    assert {k for k, v in run.statuses().items() if v == "abandoned"} == {"F80", "I90"}
    run.restores(10, 20, 30, 40)
    run.must("compact", *ALL)
    run.holds(40)
    assert run.here == {"F10", "F30", "F40", "F80", "I90"}
    assert run.state()[0] == "model.ckpt-40"
    run.must("prune", "--abandoned", *ALL)
    assert run.here == {"F10", "F30", "F40"}
    run.restores(10, 30, 40)


def test_rolled_back_twice(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 F50 I60 <10 F30 F40 I55 <30 F35 I38")
    run.restores(10, 30, 35, 38)
    run.must("compact", *ALL)
    run.holds(38)
    assert {"F50", "F40", "I60", "I55"} <= run.here


def test_a_rollback_that_no_list_tells(tmp_path: Path) -> None:
    """No state file: times do."""
    run = train(tmp_path, "F10 I20 F80 I90 <10 F30 I40", listed=False)
    run.restores(10, 20, 30, 40)
    assert run.statuses()["F80"] == "abandoned"
    run.must("merge")
    run.holds(40)


def test_a_rollback_within_two_seconds(tmp_path: Path) -> None:
    """Too quick for file times to tell: the lists do, and without them nothing is abandoned."""
    run = train(tmp_path, "F10 F80 <10 F30 I40")
    for number, word in enumerate(("10", "80", "30"), 1):
        for path in run.directory.glob(f"model.ckpt-{word}.*"):
            date(path, 3 + number / HOUR / 10)
    assert run.statuses()["F80"] == "abandoned"
    run.restores(10, 30, 40)
    (run.directory / "checkpoint").unlink()
    assert run.statuses()["F80"] == "ok"


def test_a_copy_that_lost_its_times(tmp_path: Path) -> None:
    """`cp -r`: every file is of today. The list still tells; without it steps do, as is said."""
    run = train(tmp_path, "F10 I20 F80 I90 <10 F30 I40")
    for path in run.directory.rglob("*"):
        date(path, 50)
    run.restores(10, 20, 30, 40)
    (run.directory / "checkpoint").unlink()
    said = run.must("ls")
    assert "steps decide" in said.out + said.err
    assert run.statuses()["F80"] == "ok"
    assert run.must("merge", "-n", "--assume-order", "step").code == 0


def test_left_over_above_the_state_file(tmp_path: Path) -> None:
    """A run that was rolled back, and died before its first save."""
    run = train(tmp_path, "F10 I20 F80= I90=")
    run.list("F10")
    run.list("I20", room=INCREMENTS)
    run.restores(10, 20)
    run.must("compact", *ALL)
    run.holds(20)
    assert run.state() == ("model.ckpt-20", ["model.ckpt-10", "model.ckpt-20"])
    assert {"F80", "I90"} <= run.here


def test_just_committed(tmp_path: Path) -> None:
    """The same, but written after the state file: the trainer was about to list it."""
    run = train(tmp_path, "F10 I20 F80= I90=")
    run.list("F10", at=2)
    run.list("I20", room=INCREMENTS, at=2)
    run.restores(10, 20, 80, 90)
    run.must("compact", *ALL)
    run.holds(90)
    assert run.state()[0] == "model.ckpt-90"
    assert "model.ckpt-80" in run.state()[1]


def test_an_increment_older_than_its_base(tmp_path: Path) -> None:
    """Rolled back below it; the same steps came again, and a full among them."""
    run = train(tmp_path, "F10 I60= <10 F50")
    assert run.statuses()["I60"] in ("abandoned", "orphan")
    run.restores(10, 50)
    run.must("compact", *ALL)
    assert run.here >= {"F10", "F50", "I60"}
    run.restores(10, 50)


def test_what_the_state_file_names_is_live(tmp_path: Path) -> None:
    """Somebody edited it to go back to 10: what is newer is dead, and stays until asked for.

    The increments' own file still names 60. It is live, but of 50, and 10 is not taken for its
    base only because a line names that now.
    """
    run = train(tmp_path, "F10 F30 F50 I60")
    run.list("F10", "F30", "F50", latest="F10")
    assert run.points() == {10}
    assert run.statuses()["I60"] == "unproven"
    run.must("prune", "--keep-last", 1, *ALL)
    assert run.here == {"F10", "F30", "F50", "I60"}
    run.must("prune", "--abandoned", *ALL)
    assert run.here == {"F10", "I60"}
    run.restores(10)


def test_a_merged_full_takes_no_part(tmp_path: Path) -> None:
    """Written last of all with a lower step, it makes nothing look rolled back."""
    run = train(tmp_path, "F10 I20 F30 I40")
    run.must("merge", "--upto", 20)
    assert set(run.statuses().values()) == {"ok", "stale"}
    run.restores(10, 20, 30, 40)


def test_an_abandoned_full_between(tmp_path: Path) -> None:
    """A lies between F and S, and was there first: S began at F, or at A."""
    run = train(tmp_path, "F10 F30 <10 I50")
    run.list("F10", "F30", latest="F10")
    assert run.points() == {10}
    said = run.do("merge", "--upto", 50, "-o", tmp_path / "x")
    assert said.code == 12
    assert not list(tmp_path.glob("x*"))
    run.merged(50, tmp_path / "x", "--base", "10")


@pytest.mark.parametrize("witness", ["lineage", "a lower one"])
def test_an_abandoned_full_between_that_is_told(tmp_path: Path, witness: str) -> None:
    lineage = witness == "lineage"
    story = "F10 F30 <10 I50" if lineage else "F10 F30 <10 I20 I50"
    run = train(tmp_path, story, mode="cumulative" if lineage else None)
    run.list("F10", "F30", latest="F10")
    run.restores(10, 50) if lineage else run.restores(10, 20, 50)
    run.must("compact", *ALL)
    run.holds(50)


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
def test_an_incomplete_full(tmp_path: Path, suffix: str) -> None:
    """What it was the base of cannot be restored, and what is older stays for it."""
    run = train(tmp_path, "F10 I20 F30 I40")
    path = Path(f"{run.chain.full_prefix(30)}{suffix}")
    path.unlink() if suffix != ".index" else os.truncate(path, 10)
    assert run.statuses()["F30"] in ("damaged", "incomplete")
    assert run.points() == {10, 20}
    run.must("merge", "--upto", 30, "-o", tmp_path / "x", code=4)
    run.must("prune", "--keep-last", 1, *ALL)
    run.restores(10, 20)


def test_an_incomplete_increment(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 I30 I40")
    path = Path(f"{run.chain.increment_prefix(30)}.data-00000-of-00001")
    os.truncate(path, path.stat().st_size - 1)
    assert run.points() == {10, 20, 40}
    run.must("merge", "--upto", 30, "-o", tmp_path / "x", code=4)
    run.merged(20, tmp_path / "x")
    run.merged(40, tmp_path / "x", "--increments", "last")


# --- copies and moves -----------------------------------------------------------------


def absolute(run: Run) -> None:
    for room in ("", INCREMENTS):
        path = run.directory / room / "checkpoint"
        home = run.directory / room
        path.write_text(path.read_text().replace(': "', f': "{home}/'))
        date(path, len(run.written) + 1)


def test_a_copied_directory(tmp_path: Path) -> None:
    """TensorFlow would restore from, and delete in, the old place."""
    run = train(tmp_path, "F10 I20 F30 I40")
    absolute(run)
    shutil.copytree(run.directory, tmp_path / "copy")
    before = {p: p.read_bytes() for p in run.directory.rglob("*") if p.is_file()}
    run.chain.directory = tmp_path / "copy"
    for line in (["merge"], ["prune", "--keep-last", 1, *ALL], ["compact", *ALL]):
        assert str(tmp_path / "chain") in run.must(*line, code=12).err
    run.must("compact", "--relocate", "--keep-last", 1, *ALL)
    run.holds(40)
    assert run.here == {"F40"}
    assert run.state() == ("model.ckpt-40", ["model.ckpt-40"])
    assert before == {p: p.read_bytes() for p in (tmp_path / "chain").rglob("*") if p.is_file()}


def test_a_moved_directory(tmp_path: Path) -> None:
    """The old place is gone: names are found where the state file lies."""
    run = train(tmp_path, "F10 I20 F30 I40")
    absolute(run)
    run.directory.rename(tmp_path / "moved")
    run.chain.directory = tmp_path / "moved"
    run.restores(10, 20, 30, 40)
    run.must("compact", "--keep-last", 1, *ALL)
    run.holds(40)
    assert run.here == {"F40"}
    assert os.path.basename(run.state()[0]) == "model.ckpt-40"


# --- bases ----------------------------------------------------------------------------


def test_the_nearest_restore_points_are_named(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 F30 I40")
    said = run.must("merge", "--upto", 25, "-o", tmp_path / "x", code=10)
    assert "20" in said.err
    assert "30" in said.err


def test_a_recorder_that_was_lost(tmp_path: Path) -> None:
    """The PS came back with its rows, and its recorder without: I30 lacks what I20 has."""
    run = train(tmp_path, "F10 I20")
    run.truth[30] = run.truth[20] | {1: 30.0, 30: 30.0}
    run.save("I30", run.truth[30], {1: 30.0, 30: 30.0})
    run.list("I20", "I30", room=INCREMENTS)
    said = run.must("merge", "--upto", 30, "-o", tmp_path / "x", code=12)
    assert "--increments all" in said.err
    run.merged(30, tmp_path / "x", "--increments", "all")
    lost = run.truth[30].pop(20)
    run.merged(30, tmp_path / "x", "--increments", "last")
    run.truth[30][20] = lost
    run.must("prune", "--keep-last", 1, *ALL)
    assert run.here == {"F10", "I20", "I30"}


def test_all_never_crosses_a_rollback(tmp_path: Path) -> None:
    """An increment of a dead timeline is never applied, whatever is asked for."""
    run = train(tmp_path, "F10 I20 I60 <10 I40")
    assert run.statuses()["I60"] == "abandoned"
    for step in (60, 40):  # 20 was before the rollback, and nobody knows on which side of it
        line = ["merge", "--upto", step, "-o", tmp_path / "x", "--increments", "all"]
        assert "abandoned" in run.must(*line, code=12).err
    assert "lacks keys" in run.must("merge", "--upto", 40, "-o", tmp_path / "x", code=12).err
    assert not list(tmp_path.glob("x*"))
    run.merged(40, tmp_path / "x", "--increments", "last")
    run.merged(20, tmp_path / "x")


def test_an_idle_increment(tmp_path: Path) -> None:
    """A recorder that was not yet switched on: 0 rows, although training went on."""
    run = train(tmp_path, "F10 I20")
    run.chain.add(increment(30, changes("emb", [])))
    for path in run.chain.increment_prefix(30).parent.glob("*-30.*"):
        date(path, 3)
    run.list("I20", "I30", room=INCREMENTS)
    assert run.statuses()["I30"] == "idle"
    run.must("merge", "--upto", 30, "-o", tmp_path / "x", code=12)
    run.truth[30] = run.truth[10]
    run.merged(30, tmp_path / "x", "--increments", "last")
    run.must("prune", "--keep-last", 1, *ALL)
    run.restores(10, 20)


def test_a_full_between_is_gone(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 ~F30 I40")
    run.must("merge", "--upto", 40, "-o", tmp_path / "x", code=12)
    run.restores(10, 20)
    run.must("prune", "--keep-last", 1, "--orphans", "--abandoned", *ALL)
    assert run.here == {"F10", "I20", "I40"}
    said = run.must("merge", "--upto", 40, "-o", tmp_path / "x", "--base", 10, code=12)
    assert "lacks keys" in said.err  # and check 1 sees it too: I40 holds what came after 30 only


@pytest.mark.parametrize("story", ["~~F10 I20 F30 I40", "~F10 I20 F30 I40"])
def test_a_rotated_base(tmp_path: Path, story: str) -> None:
    """max_to_keep took it, listed still or no more; the full above is not its base."""
    run = train(tmp_path, story)
    assert run.statuses()["I20"] == "orphan"
    run.restores(30, 40)
    run.must("merge", "--upto", 20, "-o", tmp_path / "x", code=12)
    run.must("compact", *ALL)
    run.holds(40)
    assert run.here >= {"F30", "F40", "I20"}
    run.must("prune", "--orphans", *ALL)
    assert "I20" not in run.here
    run.restores(30, 40)


def test_a_rotated_base_below_another(tmp_path: Path) -> None:
    """F10 is there and F20, the base, may be the one that is gone: both unlisted, who knows."""
    run = train(tmp_path, "F10= ~~F20 I30 F40 I50")
    assert run.statuses()["I30"] in ("unproven", "stale")
    assert 30 not in run.points()
    said = run.must("merge", "--upto", 30, "-o", tmp_path / "x", code=12)
    assert "--base" in said.err
    run.restores(10, 40, 50)


def test_lineage_proves_a_base(tmp_path: Path) -> None:
    """The same with lineage: the increment says that its base is 20, which is gone."""
    run = train(tmp_path, "F10= ~~F20 I30 F40 I50", mode="cumulative")
    assert 30 not in run.points()
    run.restores(10, 40, 50)
    run = train(_room(tmp_path, "other"), "F10= I30 F40 I50", mode="cumulative")
    run.restores(10, 30, 40, 50)


def _room(tmp_path: Path, name: str) -> Path:
    path = tmp_path / name
    path.mkdir()
    return path


def test_a_base_above_the_oldest_listed(tmp_path: Path) -> None:
    """Not listed, and still: what was rotated away is older than it."""
    run = train(tmp_path, "F10 F20= I30 F40 I50")
    run.restores(10, 20, 30, 40, 50)


def test_nothing_is_rotated(tmp_path: Path) -> None:
    """max_to_keep 0: both state files list one checkpoint each, and everything is there."""
    run = train(tmp_path, "F10= I20= F30= I40= F50 I60")
    run.restores(10, 20, 30, 40, 50, 60)
    run.must("compact", *ALL)
    run.holds(60)
    run.restores(10, 30, 50, 60)


def test_no_state_file(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 F30 I40", listed=False)
    run.restores(10, 20, 30, 40)
    run.must("compact", "--keep-last", 1, *ALL)
    run.holds(40)
    assert run.here == {"F40"}
    assert run.state() is None  # it would hide what it does not list


def test_a_half_saved_increment(tmp_path: Path) -> None:
    """A dense tensor of the full is missing, or one came that the full has not."""
    run = train(tmp_path, "~F10")
    rows = {1: 10.0, 10: 10.0}
    run.chain.add(full(10, table("emb", rows), {"w": floats(1, shape=(1,))}))
    run.chain.add(increment(20, changes("emb", {1: 20.0}), {"v": floats(2, shape=(1,))}))
    for number, prefix in enumerate((run.chain.full_prefix(10), run.chain.increment_prefix(20))):
        for path in prefix.parent.glob(f"{prefix.name}.*"):
            date(path, number + 1)
    run.list("F10", at=5)
    run.list("I20", room=INCREMENTS, at=5)
    run.truth[20] = {1: 20.0, 10: 10.0}
    said = run.must("merge", "--upto", 20, "-o", tmp_path / "x", code=12)
    assert "--keep-missing" in said.err
    said = run.must("merge", "--upto", 20, "-o", tmp_path / "x", "--keep-missing", code=12)
    assert "--add-new" in said.err
    run.merged(20, tmp_path / "x", "--keep-missing", "--add-new")


# --- lineage --------------------------------------------------------------------------


def test_a_delta_series(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 I30 I40 F50 I60 I70", mode="delta")
    run.restores(10, 20, 30, 40, 50, 60, 70)
    run.must("compact", *ALL)
    run.holds(70)
    assert run.here == {"F10", "F50", "F70"}


def test_a_delta_series_with_a_gap(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 ~~I30 I40", mode="delta")
    assert 40 not in run.points() or run.do("merge", "--upto", 40, "-o", tmp_path / "x").code == 12
    assert not list(tmp_path.glob("x*"))
    run.merged(20, tmp_path / "x")
    run.must("prune", "--keep-last", 1, *ALL)
    assert run.here == {"F10", "I20", "I40"}


@pytest.mark.parametrize("mode", [None, "cumulative", "delta"])
def test_a_merged_full_stands_in(tmp_path: Path, mode: str | None) -> None:
    """The base goes, the merged full stays; what is recorded on the base after it still holds."""
    run = train(tmp_path, "F10 I20 I30 I40", mode=mode)
    run.must("merge", "--upto", 30)
    run.holds(30)
    run.must("prune", "--keep-last", 1, *ALL)
    if mode == "delta":  # kept whole until a full covers all of it
        assert run.here == {"F10", "F30", "I20", "I30", "I40"}
    else:
        assert run.here == {"F30", "I40"}
    for word in run.here & {"F10", "I20", "I30"}:  # as a Saver would rotate them
        run.remove(word)
    run.list("F30", at=20)
    run.list("I40", room=INCREMENTS, at=20)
    run.restores(30, 40)
    run.must("compact", *ALL)
    run.holds(40)
    run.restores(30, 40)


# --- while we work --------------------------------------------------------------------


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from ckptctl.commands.main import main
at, seen = int(sys.argv[2]), 0
def die(event, arguments):
    global seen
    if event in ("os.rename", "os.link", "os.remove"):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(die)
sys.exit(main(sys.argv[3:]))
"""


def killed(at: int, *words: object) -> int:
    """Run a command that is killed ahead of its nth change, and return how it ended."""
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-c", KILLED, root, str(at), *map(str, words)],
        env=environment(),
        capture_output=True,
        check=False,
        timeout=60,
    ).returncode


@pytest.mark.parametrize(
    "at", [8, *(pytest.param(n, marks=pytest.mark.torture) for n in range(1, 30) if n != 8)]
)
def test_overwrite_killed_midway(tmp_path: Path, at: int) -> None:
    """The old full or the new one; never neither, and never half of each."""
    run = train(tmp_path, "F10 I20 F30 I40")
    run.must("merge", "--upto", 20)
    line = ["merge", "--upto", 20, "--base", 10, "-o", run.chain.full_prefix(20), "--overwrite"]
    code = killed(at, *line, "-C", run.directory)
    assert code in (0, -9)
    points = run.points()
    assert points >= {10, 30}
    if code:
        for step in points - {20}:
            run.merged(step, tmp_path / "x")
        run.must("prune", "-n", "--leftovers", *ALL)
        run.must(*line)
    assert run.state()[0] == "model.ckpt-30"
    run.holds(20)
    run.must("verify", "--data", code=run.do("verify").code)


def test_upto_below_the_newest_full(tmp_path: Path) -> None:
    """The result is inserted in step order; what a trainer restores stays the newest."""
    run = train(tmp_path, "F10 I20 F30 I40 F50 I60")
    run.must("merge", "--upto", 40)
    run.holds(40)
    names = [f"model.ckpt-{step}" for step in (10, 30, 40, 50)]
    assert run.state() == ("model.ckpt-50", names)
    run.must("merge", "--upto", 20)
    assert run.state()[1] == [f"model.ckpt-{step}" for step in (10, 20, 30, 40, 50)]
    run.restores(10, 20, 30, 40, 50, 60)


@pytest.mark.parametrize("when", ["data-00000", "checkpoint.ckptctl"])
def test_a_state_file_replaced_while_we_merge(tmp_path: Path, when: str) -> None:
    """A Saver commits 50 and lists what it knows, just as we write: both are listed."""
    run = train(tmp_path, "F10 I20 F30 I40")

    def save() -> None:
        run.commit("F50", run.truth[40] | {50: 50.0}, "F10", "F30", "F50")

    name = "rename" if when == "data-00000" else "write_atomic"
    part = f"{run.directory}/checkpoint" if name == "write_atomic" else when
    hooked = Hooked(part, before=save)
    execute_merge(run.chain.plan(40, storage=hooked), jobs=1)
    assert hooked.called == 1
    run.holds(40)
    run.holds(50)
    names = [f"model.ckpt-{step}" for step in (10, 30, 40, 50)]
    assert run.state() == ("model.ckpt-50", names)
    run.restores(10, 20, 30, 40, 50)


def test_rolled_back_while_we_merge(tmp_path: Path) -> None:
    """What we read is of a dead timeline by then: it must not become the newest full."""
    run = train(tmp_path, "F10 I20 F30 I40")

    def roll_back() -> None:
        run.commit("F15", run.truth[10] | {15: 15.0}, "F10", "F30", "F15")

    hooked = Hooked("fsync_dir", before=roll_back)
    with pytest.raises(ChangedError):
        execute_merge(run.chain.plan(40, storage=hooked), jobs=1)
    assert run.here == {"F10", "F15", "F30", "I20", "I40"}
    assert run.state()[0] == "model.ckpt-15"
    assert run.statuses()["F30"] == "abandoned"
    assert run.points() >= {10, 15}
    assert not run.points() & {30, 40}


# --- what goes ------------------------------------------------------------------------


def test_a_state_file_that_names_nothing_goes(tmp_path: Path) -> None:
    """TensorFlow raises on an empty one."""
    run = train(tmp_path, "F10 I20 F30")
    run.must("prune", *ALL)
    assert run.here == {"F10", "F30"}
    assert run.state(INCREMENTS) is None
    run.restores(10, 30)


def test_a_delta_series_is_pruned_whole(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 I30 I40", mode="delta")
    run.must("prune", "--keep-last", 1, *ALL)
    assert run.here == {"F10", "I20", "I30", "I40"}
    run.must("merge", "--upto", 30)
    run.must("prune", "--keep-last", 1, *ALL)
    assert run.here == {"F10", "F30", "I20", "I30", "I40"}
    run.must("compact", "--keep-last", 1, *ALL)
    assert run.here == {"F40"}
    run.restores(40)


def test_a_long_run_is_pruned_and_compacted(tmp_path: Path) -> None:
    run = train(tmp_path, "F10 I20 I30 F40 I50 I60 F70 I80 I90 I100")
    run.must("prune", *ALL)
    assert run.here == {"F10", "F40", "F70", "I100"}
    run.restores(10, 40, 70, 100)
    run.must("compact", "--keep-last", 2, *ALL)
    assert run.here == {"F70", "F100"}
    run.restores(70, 100)
    assert run.state() == ("model.ckpt-100", ["model.ckpt-70", "model.ckpt-100"])


def test_what_goes_by_option(tmp_path: Path) -> None:
    """An orphan, an abandoned full with its increment, and one that is unproven."""
    run = train(tmp_path, "~~F5 I8 F10 ~F12 I14 F80 I90 <10 F30 I40")
    before = run.points()
    run.must("prune", *ALL)
    assert run.here >= {"I8", "F80", "I90"}
    run.must("prune", "--orphans", *ALL)
    assert "I8" not in run.here
    run.must("prune", "--abandoned", *ALL)
    assert not run.here & {"F80", "I90"}
    assert run.points() == before - {14} >= {10, 30, 40}
    run.restores(*run.points())


def test_a_full_that_we_removed_is_listed_again(tmp_path: Path) -> None:
    """By a Saver that remembers it; for what lies above it counts as gone (check 3)."""
    run = train(tmp_path, "F10 I20 F30 I40 F50 I60")
    run.must("prune", "--keep-step", 10, "--keep-last", 1, *ALL)
    assert run.here == {"F10", "F50", "I60"}
    run.list("F10", "F30", "F50", at=20)
    run.restores(10, 50, 60)
    run.must("compact", *ALL)
    run.holds(60)
    assert run.state() == ("model.ckpt-60", [f"model.ckpt-{n}" for n in (10, 50, 60)])


@pytest.mark.parametrize("story", ["F10", "F10 I20", "F10 F80 <10 F30", "F10 I20 F30"])
def test_the_newest_point_always_stays(tmp_path: Path, story: str) -> None:
    run = train(tmp_path, story)
    newest = max(run.points())
    every = ["--orphans", "--abandoned", "--leftovers", "--keep-last", 1]
    run.must("prune", *every, *ALL)
    assert max(run.points()) == newest
    run.must("compact", *ALL)
    run.must("prune", *every, *ALL)
    run.restores(newest)
    assert run.do("prune", "--keep-step", 999, *ALL).code == 12
    run.restores(newest)
