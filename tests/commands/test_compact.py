"""`ckptctl compact`: one line for cron, many directories, questions, exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.chain import find_chains, scan_directory
from ckptctl.commands.compact_views import CompactResultView
from ckptctl.merge import CompactOptions, plan_compact, run_compact
from ckptctl.output.text import PlainPage
from ckptctl.storage.lock import directory_lock
from tests.merge.prunes import age, chain_of, here
from tests.merge.storages import Hooked
from tests.oracle.chain import build_chain, changes, flip, full, increment, table, write_state


@pytest.fixture
def old(sharded: Path) -> Path:
    """The chain of `sharded`, all of it written an hour ago."""
    then = time.time() - 3600
    for path in sharded.rglob("*"):
        os.utime(path, (then, then))
    return sharded


@pytest.fixture
def two(old: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(old, tmp_path / "other")
    return old, tmp_path / "other"


def points(directory: Path) -> set[int]:
    return set(find_chains(scan_directory(str(directory))).restore_points)


def test_it_merges_and_prunes_and_then_has_nothing_to_do(run, old: Path) -> None:
    done = run("compact", old, "--yes", "--keep-last", 1)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["merged and pruned", str(old), "step=180"]
    assert lines[1] == ["new full", str(old / "model.ckpt-180"), "in the state file"]
    assert {tuple(line[:2]) for line in lines[2:]} == {
        ("removed", f"incremental_model.ckpt-{step}") for step in (120, 140, 180)
    } | {("removed", f"model.ckpt-{step}") for step in (100, 160)}
    assert all(len(line) == 3 and line[2] for line in lines[2:])
    assert points(old) == {180}
    again = run("compact", old, "--keep-last", 1)  # nothing that --yes would have to say
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.count("\n") == 1
    assert again.stdout.startswith(f"nothing to do\t{old}\tnothing to merge")


def test_what_is_passed_over_is_a_warning(run, old: Path) -> None:
    for shard in (old / ".incremental_checkpoint").glob("*-180.data-00000-*"):
        os.truncate(shard, 100)
    for _ in range(3):  # also where the run before found nothing to do
        done = run("compact", old, "--yes")
        assert done.returncode == 0
        assert f"warning: {old}: passed over, though newer than step 160: " in done.stderr
    for more in ((), ("--dry-run",)):
        (found,) = json.loads(run("compact", old, "--yes", "--json", *more).stdout)["directories"]
        assert "though newer than step 160: " in found["warnings"][0]


def test_a_merge_without_the_nested_check_is_told_before_anything_goes(run, tmp_path: Path) -> None:
    images = [increment(step, changes("emb", [step])) for step in (20, 30)]
    chain = age(build_chain(tmp_path, full(10, table("emb", [1])), *images))
    asked = ("compact", chain.directory, "--increments", "last")
    why = "--increments last: it is not proven that all rows are in the state at step 30"
    refused = run(*asked)
    assert refused.returncode == 12
    assert refused.stderr.startswith(f"ckptctl: warning: {chain.directory}: {why}")
    assert points(chain.directory) == {10, 20, 30}
    done = run(*asked, "--yes")
    assert (done.returncode, done.stderr.count(why)) == (0, 1)
    (found,) = json.loads(run(*asked, "--yes", "--json", "-n").stdout)["directories"]
    assert found["merge"] is None  # it is a full by now


def test_a_dry_run_shows_it_all_and_writes_nothing(run, old: Path, untouched) -> None:
    with untouched(old):
        done = run("compact", old, "-n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("would merge\t")
    assert "would remove\t2 items" in done.stdout
    assert "would verify\t" in done.stdout
    assert not (old / ".ckptctl").exists()


def test_the_document_has_each_directory(run, two: tuple[Path, Path]) -> None:
    done = run("compact", *two, "--json", "--yes", "--min-increments", 2)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["schema"], found["dry_run"]) == ("ckptctl.compact/1", False)
    assert [each["directory"] for each in found["directories"]] == [str(path) for path in two]
    for each in found["directories"]:
        assert each["waits"] == "not yet: 1 increments, below --min-increments 2"
        assert each["merge"] is None
        assert each["error"] is None
        assert each["result"]["outcome"] == "pruned"
        assert each["result"]["holds"]["pending"] == 1
    plan = json.loads(run("compact", two[0], "--json", "-n").stdout)["directories"][0]
    assert plan["merge"]["step"] == 180
    assert plan["result"] is None


def test_one_that_fails_does_not_stop_the_others(run, two: tuple[Path, Path]) -> None:
    first, second = two
    flip(first / "model.ckpt-160.data-00000-of-00002", 100)
    done = run("compact", first, second, second / "nowhere", "--yes")
    assert done.returncode == 4
    assert "2 of 3 directories failed" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[0].startswith(f"failed\t{first}\texit code 4\t")
    assert f"merged and pruned\t{second}\t" in done.stdout
    assert f"failed\t{second / 'nowhere'}\texit code 10\t" in done.stdout
    assert points(second) == {100, 160, 180}
    found = json.loads(run("compact", second, second / "nowhere", "--json").stdout)
    assert [(each["error"] or {}).get("exit_code") for each in found["directories"]] == [None, 10]


def test_damage_under_which_nothing_goes_does_not_stop_the_others(run, tmp_path: Path) -> None:
    rooms = tmp_path / "bad", tmp_path / "good"
    for room in rooms:
        room.mkdir()
    bad, good = (chain_of(room, "F10", "I20", "F40", "I50", "I60") for room in rooms)
    flip(Path(f"{bad.full_prefix(40)}.data-00000-of-00001"), 8)
    age(bad)
    args = ("--yes", "--min-increments", 5)
    done = run("compact", bad.directory, good.directory, *args)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("failed\t"))
    assert " tensor: emb" in told
    assert " offset: " in told
    assert here(bad) == {"F10", "I20", "F40", "I60"}
    assert here(good) == {"F10", "F40", "I60"}
    alone = run("compact", bad.directory, *args)
    assert alone.returncode == 4
    assert "  tensor: " in alone.stderr
    assert "  offset: " in alone.stderr


def test_alone_it_fails_with_its_own_code(run, old: Path, tmp_path: Path) -> None:
    assert run("compact", tmp_path / "nowhere", "--yes").returncode == 10
    with directory_lock(str(old)):
        done = run("compact", old, "--yes", "--json")
        assert (done.returncode, done.stdout) == (11, "")
        assert json.loads(done.stderr)["exit_code"] == 11
    flip(old / "model.ckpt-160.data-00000-of-00002", 100)
    done = run("compact", old, "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    assert points(old) == {100, 120, 140, 160, 180}


def test_off_a_terminal_it_needs_yes(run, old: Path, untouched) -> None:
    run("compact", old, "-n")
    done = run("compact", old)
    assert (done.returncode, done.stdout) == (12, "")
    assert "--yes" in done.stderr
    assert points(old) == {100, 120, 140, 160, 180}


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 12)])
def test_on_a_terminal_it_asks(bare_env, old: Path, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptctl", "compact", str(old)],
        env=bare_env,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 4096)
    os.write(ours, answer)
    text, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == code
    assert b"would remove\t" in text
    assert (b"\nremoved\t" in text) == (code == 0)
    assert b"\nremove\t" not in text
    assert (points(old) == {100, 160, 180}) == (code == 0)


def test_its_time_is_up(run, two: tuple[Path, Path]) -> None:
    done = run("compact", *two, "--yes", "--max-duration", "0s")
    assert done.returncode == 3
    assert done.stdout.count("exit code 3") == 2
    assert "0 seconds were given" in done.stdout
    assert points(two[0]) == {100, 120, 140, 160, 180}
    assert run("compact", two[0], "--yes", "--max-duration", "0s").returncode == 3
    assert run("compact", two[0], "--yes", "--max-duration", "1h", "--nice", 5).returncode == 0


def test_the_directory_is_given_once(run, old: Path) -> None:
    assert run("compact", old, "-C", old).returncode == 2
    assert run("compact", "").returncode == 2
    assert run("compact", "-n", cwd=old).returncode == 0
    assert run("compact", "-n", env={"CKPTCTL_DIR": str(old)}).returncode == 0
    assert run("compact", "-n", "-C", old).returncode == 0


def test_on_a_terminal_a_line_says_what_was_done(bare_env, old: Path) -> None:
    command = shlex.join([sys.executable, "-m", "ckptctl", "compact", str(old), "--yes"])
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],
        env=bare_env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    said = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout).split())
    assert "to step 180" in said
    assert "freed" in said


def test_where_all_fail_each_is_reported(run, tmp_path: Path) -> None:
    gone = [tmp_path / "a", tmp_path / "b"]
    done = run("compact", *gone, "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)["directories"]
    assert [each["error"]["exit_code"] for each in found] == [10, 10]
    for said in (json.loads(done.stderr)["found"], run("compact", *gone, "-q").stderr):
        assert all(f"{path}: no such directory (exit code 10)" in said for path in gone)


def test_damage_is_told_where_nothing_is_to_do(run, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30")
    prefix = chain.increment_prefix(20)
    with BundleReader(str(prefix)) as reader:
        keys = reader.tensors["emb-sparse_incr_keys"]
    flip(Path(f"{prefix}.data-00000-of-00001"), keys.offset)
    age(chain)
    for how in ("--yes", "--yes", "-n"):  # once more from memory, if it had been remembered
        done = run("compact", chain.directory, how, "--min-increments", 5)
        assert done.returncode == 4
        assert "next: " in done.stderr
        assert "does not match its checksum" in done.stderr
        assert "nothing to do\t" in done.stdout


def test_what_a_state_file_put_right_lets_go_is_asked_for_too(run, tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20")
    run_compact(str(chain.directory), CompactOptions(), jobs=1)
    chain.add(full(40, table("emb", [1, 2, 3])))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"])  # a Saver dropped 20
    before = (chain.directory / "checkpoint").read_bytes()
    assert plan_compact(str(chain.directory)).prune.removed == ()
    assert run("compact", chain.directory).returncode == 12
    assert (chain.directory / "checkpoint").read_bytes() == before
    done = run("compact", chain.directory, "--yes")
    assert (done.returncode, done.stdout.partition("\t")[0]) == (0, "put right")
    assert "state file\tmodel.ckpt-20\tlisted again\n" in done.stdout


def test_the_step_that_is_told_is_the_one_it_merged_to(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20")

    def save() -> None:
        chain.add(full(40, table("emb", [1, 2, 3])))
        write_state(chain.directory, ["model.ckpt-10", "model.ckpt-40"])

    storage = Hooked("rmdir", after=save)  # of the temporary, behind the commit
    result = run_compact(str(chain.directory), CompactOptions(), jobs=1, storage=storage)
    assert (result.merged, result.holdings.latest) == (True, 40)
    told = StringIO()
    CompactResultView(result).text(PlainPage(told))
    assert told.getvalue().split("\t")[2] == "step=20"


def test_the_document_says_what_went_and_why(run, old: Path) -> None:
    """As judged under the new full, not as planned before it was there."""
    line = ["compact", old, "--keep-last", 1, "--json"]
    (planned,) = json.loads(run(*line, "--dry-run").stdout)["directories"]
    assert planned["rejudged"]
    (done,) = json.loads(run(*line, "--yes").stdout)["directories"]
    went = {item["name"]: item["reason"] for item in done["result"]["prune"]["outcomes"]}
    judged = {i["name"]: i["reason"] for i in done["prune"]["items"] if i["action"] == "remove"}
    assert went == judged
    assert set(went) >= {"model.ckpt-100", "model.ckpt-160", "incremental_model.ckpt-180"}
    assert all(went.values())
