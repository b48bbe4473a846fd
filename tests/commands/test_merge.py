"""`ckptctl merge`: options, plan, result, and what it leaves behind when it is stopped."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.bundle import BundleReader

INCREMENTS = ".incremental_checkpoint"

#: What a merge may leave behind, however it ended.
LOCK = {".ckptctl", ".ckptctl/lock"}
PLAN = {
    "schema",
    "dry_run",
    "directory",
    "step",
    "nothing_to_do",
    "base",
    "increments",
    "destination",
    "shards",
    "tensors",
    "bytes_to_read",
    "bytes_to_write",
    "memory_bytes",
    "tables",
    "warnings",
    "overrides",
    "state_file",
}
RESULT = {
    "prefix",
    "step",
    "bytes",
    "keys",
    "keys_new",
    "keys_replaced",
    "seconds",
    "peak_rss_bytes",
    "verified",
}


@pytest.fixture
def document(run) -> Callable[..., dict]:
    """Run `merge --json` and return the document."""

    def ask(*args: object) -> dict:
        done = run("merge", *args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return ask


def names(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


# --- plan and result, both ways -------------------------------------------------------


def test_the_document_is_the_plan_and_the_result(document, sharded: Path) -> None:
    found = document(sharded)
    assert set(found) >= PLAN | {"result"}
    assert found["schema"] == "ckptctl.merge/1"
    assert found["dry_run"] is False
    assert (found["step"], found["nothing_to_do"]) == (180, None)
    assert found["base"]["step"] == 160
    assert [each["step"] for each in found["increments"]] == [180]
    assert found["destination"] == str(sharded / "model.ckpt-180")
    assert found["state_file"] == str(sharded / "checkpoint")
    result = found["result"]
    assert set(result) >= RESULT
    assert result["prefix"] == found["destination"]
    assert result["verified"] is True
    assert result["keys_new"] + result["keys_replaced"] == sum(
        table["incoming"] for table in found["tables"]
    )
    assert result["bytes"] <= found["bytes_to_write"]
    assert BundleReader(result["prefix"]).read("global_step") == 180
    assert 'model_checkpoint_path: "model.ckpt-180"' in (sharded / "checkpoint").read_text()


def test_text_says_the_same(run, document, sharded: Path) -> None:
    plan = document(sharded, "--dry-run")
    done = run("merge", sharded)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["merge", str(sharded), "to step 180"]
    facts = {line[0]: line[1:] for line in lines}
    assert facts["base"][:2] == [plan["base"]["prefix"], str(plan["base"]["bytes"])]
    assert facts["increment"][:2] == [
        plan["increments"][0]["prefix"],
        str(plan["increments"][0]["bytes"]),
    ]
    assert facts["result"][:2] == [plan["destination"], str(plan["bytes_to_write"])]
    assert facts["state file"] == [plan["state_file"], "-", "is updated, if there is one"]
    tables = [line[1:] for line in lines if line[0] == "table"]
    assert [(line[0], int(line[-2]), int(line[-1])) for line in tables] == [
        (table["name"], table["rows"], table["incoming"]) for table in plan["tables"]
    ]
    prefix, *numbers = facts["merged"]
    assert prefix == plan["destination"]
    assert {"step=180", "verified=yes", "state_file=updated"} <= set(numbers)


def test_both_forms_write_the_same_bytes(run, sharded: Path, tmp_path: Path) -> None:
    assert run("merge", sharded, "-o", tmp_path / "a-180").returncode == 0
    assert run("merge", sharded, "-o", tmp_path / "b-180", "--json", "-j", 1).returncode == 0
    for suffix in (".index", ".data-00000-of-00002", ".data-00001-of-00002"):
        assert (tmp_path / f"a-180{suffix}").read_bytes() == (
            tmp_path / f"b-180{suffix}"
        ).read_bytes()


def test_quiet_prints_nothing_and_merges(run, sharded: Path) -> None:
    done = run("merge", sharded, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (sharded / "model.ckpt-180.index").exists()


def test_quiet_still_tells_an_error(run, tmp_path: Path) -> None:
    done = run("merge", tmp_path, "-q")
    assert done.returncode == 10
    assert done.stderr.startswith("ckptctl: error: ")


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_dry_run_says_would_and_writes_nothing(
    run, sharded: Path, tmp_path: Path, untouched, form: tuple[str, ...]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    env = {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    with untouched(sharded), untouched(cache):
        done = run("merge", sharded, "--upto", 140, "-n", *form, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    if form:
        found = json.loads(done.stdout)
        assert found["dry_run"] is True
        assert "result" not in found
    else:
        assert done.stdout.startswith("would merge\t")
        assert "would be updated" in done.stdout
        assert "merged" not in done.stdout


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_nothing_to_merge_is_zero_and_says_why(
    run, sharded: Path, untouched, form: tuple[str, ...]
) -> None:
    with untouched(sharded):
        done = run("merge", sharded, "--upto", 160, *form)
    assert (done.returncode, done.stderr) == (0, "")
    if form:
        found = json.loads(done.stdout)
        assert "model.ckpt-160" in found["nothing_to_do"]
        assert "result" not in found
    else:
        assert done.stdout == "nothing to merge\tmodel.ckpt-160 is already a full\n"


def test_what_is_passed_over_is_a_warning(run, sharded: Path) -> None:
    for shard in (sharded / INCREMENTS).glob("*-180.data-00000-*"):
        os.truncate(shard, 100)
    done = run("merge", sharded)
    assert (done.returncode, done.stdout.split("\t")[0]) == (0, "nothing to merge")
    assert done.stderr.startswith("ckptctl: warning: passed over, though newer than step 160: ")
    assert "has 100 bytes where 39704 are needed" in done.stderr


# --- options --------------------------------------------------------------------------


def test_a_full_with_an_output_is_a_verified_copy(
    run, document, sharded: Path, tmp_path: Path
) -> None:
    text = run("merge", sharded, "--upto", 160, "-o", tmp_path / "copy-160", "-n").stdout
    assert text.startswith("would copy\t")
    found = document(sharded, "--upto", 160, "-o", tmp_path / "copy-160")
    assert found["increments"] == []
    assert found["result"]["verified"] is True
    for suffix in (".data-00000-of-00002", ".data-00001-of-00002", ".index"):
        copy = tmp_path / f"copy-160{suffix}"
        assert copy.read_bytes() == (sharded / f"model.ckpt-160{suffix}").read_bytes()


def test_an_output_elsewhere_leaves_the_source_alone(
    document, sharded: Path, tmp_path: Path, untouched
) -> None:
    with untouched(sharded):
        found = document(sharded, "-o", tmp_path / "model.ckpt-180")
    assert found["state_file"] is None
    assert not (tmp_path / "checkpoint").exists()


def test_the_state_file_is_updated_or_not_as_asked(document, sharded: Path, tmp_path: Path) -> None:
    before = (sharded / "checkpoint").read_text()
    document(sharded, "--upto", 140, "--no-update-state")
    assert (sharded / "checkpoint").read_text() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    document(sharded, "-o", other / "model.ckpt-180")
    assert "model.ckpt-180" not in (other / "checkpoint").read_text()
    document(sharded, "-o", other / "model.ckpt-160", "--upto", 160, "--update-state")
    assert "model.ckpt-160" in (other / "checkpoint").read_text()


def test_without_a_state_file_none_is_made_and_it_is_said(run, document, sharded: Path) -> None:
    (sharded / "checkpoint").unlink()
    done = run("merge", sharded)
    assert done.returncode == 0
    assert "state_file=none" in done.stdout.splitlines()[-1].split("\t")
    assert not (sharded / "checkpoint").exists()


def test_a_state_file_that_is_made_is_said(run, document, sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "ship").mkdir()
    asked = (sharded, "-o", tmp_path / "ship" / "model.ckpt-180", "--update-state")
    found = document(*asked, "--dry-run")
    assert (found["makes_state_file"], found["warnings"]) == (True, [])
    assert f"{found['state_file']}\t-\twould be made" in run("merge", *asked, "-n").stdout
    done = run("merge", *asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert "state_file=made" in done.stdout.splitlines()[-1].split("\t")
    assert (tmp_path / "ship" / "checkpoint").exists()


def test_no_verify_is_said(run, document, sharded: Path, tmp_path: Path) -> None:
    found = document(sharded, "--no-verify", "-o", tmp_path / "a-180")
    assert found["result"]["verified"] is False
    done = run("merge", sharded, "--no-verify", "-o", tmp_path / "b-180")
    assert "verified=no" in done.stdout.splitlines()[-1].split("\t")


def test_an_existing_output_is_refused_and_overwritten_on_demand(
    run, document, sharded: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.ckpt-140"
    document(sharded, "--upto", 120, "-o", target)
    refused = run("merge", sharded, "--upto", 140, "-o", target)
    assert refused.returncode == 12
    assert "--overwrite" in refused.stderr
    assert BundleReader(str(target)).read("global_step") == 120
    plan = run("merge", sharded, "--upto", 140, "-o", target, "--overwrite", "-n")
    assert "would replace\t" in plan.stdout
    done = document(sharded, "--upto", 140, "-o", target, "--overwrite", "--yes")
    assert BundleReader(str(target)).read("global_step") == 140
    assert len(done["replaces"]) >= 3
    (kept,) = (tmp_path / ".ckptctl-trash").iterdir()
    assert {path.name for path in kept.iterdir()} == set(done["replaces"])


def test_a_copied_directory_is_refused_until_its_paths_are_rewritten(
    run, document, sharded: Path, tmp_path: Path
) -> None:
    """Its state file leads to the directory that it was copied from."""
    original = tmp_path / "original"
    shutil.copytree(sharded, original)
    (sharded / "checkpoint").write_text(
        f'model_checkpoint_path: "{original}/model.ckpt-160"\n'
        f'all_model_checkpoint_paths: "{original}/model.ckpt-100"\n'
        f'all_model_checkpoint_paths: "{original}/model.ckpt-160"\n'
    )
    refused = run("merge", sharded)
    assert refused.returncode == 12
    assert "--relocate" in refused.stderr
    assert "problem\t-\tcopied\t" in run("ls", sharded).stdout
    told = f"would relocate\t{sharded / 'checkpoint'}\t"
    assert told in run("merge", sharded, "--relocate", "-n").stdout
    found = document(sharded, "--relocate")
    assert (found["relocate"], found["relocated"]) == (True, [str(sharded / "checkpoint")])
    assert str(original) not in (sharded / "checkpoint").read_text()


@pytest.mark.parametrize("room", [".", ".incremental_checkpoint"])
def test_a_state_file_that_says_nothing_is_told_by_who_goes_on_without(
    run, sharded: Path, room: str
) -> None:
    state = sharded / room / "checkpoint"
    state.write_text("")
    told = f"warning: {state}: state file names no checkpoint"
    for asked in (
        ("merge", sharded, "-n"),
        ("get", "global_step", "-C", sharded),
        ("get", "global_step", "-C", sharded, "--upto", "160"),
        ("show", "latest", "-C", sharded),
    ):
        done = run(*asked)
        assert done.returncode == 0
        assert told in done.stderr
    assert "remove it" not in run("compact", sharded, "--yes").stderr


def test_overrides_are_shown(document, sharded: Path) -> None:
    found = document(sharded, "--upto", 140, "--increments", "all", "--base", 100, "-n")
    assert found["overrides"] == ["--increments all", "--base 100"]
    assert [each["step"] for each in found["increments"]] == [120, 140]


def test_every_state_option_reaches_the_plan(document, sharded: Path) -> None:
    args = ("--assume-order", "step", "--keep-missing", "--add-new", "--drop-unpaired")
    assert document(sharded, *args, "-n")["overrides"] == [
        "--assume-order step",
        "--keep-missing",
        "--add-new",
        "--drop-unpaired",
    ]


def test_options_can_be_set_by_the_environment(run, sharded: Path, tmp_path: Path) -> None:
    env = {
        "CKPTCTL_MERGE_UPTO": "140",
        "CKPTCTL_MERGE_OUTPUT": str(tmp_path / "env-140"),
        "CKPTCTL_MERGE_VERIFY": "0",
        "CKPTCTL_MERGE_INCREMENTS": "last",
        "CKPTCTL_MERGE_JOBS": "1",
        "CKPTCTL_MERGE_MEMORY": "1GiB",
        "CKPTCTL_MERGE_BWLIMIT": "1GB/s",
        "CKPTCTL_MERGE_LOCK_WAIT": "5s",
        "CKPTCTL_MERGE_UPDATE_STATE": "false",
        "CKPTCTL_MERGE_JSON": "1",
    }
    done = run("merge", sharded, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["step"], found["verify"], found["state_file"]) == (140, False, None)
    assert found["overrides"] == ["--increments last"]
    assert found["result"]["prefix"] == str(tmp_path / "env-140")


def test_too_little_memory_is_refused_before_the_first_byte(run, sharded: Path, untouched) -> None:
    with untouched(sharded):
        done = run("merge", sharded, "--memory", "1MB")
    assert done.returncode == 12
    assert "--memory" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("-o", ""),
        ("-o", "model.ckpt-180.index"),
        ("-o", "somewhere/"),
        ("-j", "0"),
        ("--memory", "500"),
        ("--bwlimit", "fast"),
        ("--lock-wait", "5"),
        ("--upto", "latest"),
        ("--increments", "some"),
        ("--assume-order", "time"),
    ],
)
def test_what_cannot_be_meant_is_usage(run, sharded: Path, untouched, args) -> None:
    with untouched(sharded):
        done = run("merge", sharded, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_help_tells_the_deviations_an_example_and_the_exit_codes(run) -> None:
    text = " ".join(run("merge", "--help").stdout.split())
    assert "DeepRec #999" in text
    assert "A filtered key that an increment admits takes the increment's value" in text
    assert "ckptctl merge /models/ctr --dry-run" in text
    assert "12 refused for safety" in text


# --- exit codes -----------------------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    ("args", "code", "error"),
    [
        (("--upto", 130), 10, "NotFoundError"),
        (("-o", "none/model.ckpt-1"), 10, "NotFoundError"),
        (("--upto", 120, "-o", "{sharded}/model.ckpt-160"), 12, "RefusedError"),
    ],
)
def test_errors_have_their_code_in_both_forms(
    run, sharded: Path, untouched, args, code: int, error: str, form: tuple[str, ...]
) -> None:
    args = tuple(str(arg).format(sharded=sharded) for arg in args)
    with untouched(sharded):
        done = run("merge", sharded, *args, *form)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if form:
        facts = json.loads(done.stderr)
        assert (facts["error"], facts["exit_code"]) == (error, code)
        assert facts["remedy"]
    else:
        assert "\n  next: " in done.stderr


def test_a_missing_directory_is_ten(run, tmp_path: Path) -> None:
    assert run("merge", tmp_path / "none").returncode == 10


def test_nothing_to_restore_is_ten(run, tmp_path: Path) -> None:
    assert run("merge", tmp_path).returncode == 10


def test_an_incomplete_step_is_damage(run, golden: Path) -> None:
    done = run("merge", golden / "deeprec" / "emptyshard", "--upto", 60, "-n")
    assert done.returncode == 4
    assert "incremental_model.ckpt-60.data-00000-of-00002" in done.stderr


def test_an_idle_step_is_refused(run, golden: Path) -> None:
    done = run("merge", golden / "deeprec" / "inactive", "--upto", 20, "-n")
    assert done.returncode == 12
    assert "--increments last" in done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_flipped_byte_is_damage_that_names_its_tensor(
    run, sharded: Path, form: tuple[str, ...]
) -> None:
    path = sharded / "model.ckpt-160.data-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    before = names(sharded)
    done = run("merge", sharded, *form)
    assert done.returncode == 4
    assert names(sharded) - before <= LOCK
    if form:
        facts = json.loads(done.stderr)
        assert facts["file"] == str(path)
        assert facts["tensor"]
        assert {"offset", "expected", "found"} <= set(facts)
        assert done.stdout == ""
    else:
        assert f"file: {path}" in done.stderr
        assert "tensor: " in done.stderr


def test_a_limit_of_the_machine_is_refused_and_leaves_nothing(
    bare_env: dict[str, str], sharded: Path
) -> None:
    before = names(sharded)
    done = subprocess.run(
        [sys.executable, "-m", "ckptctl", "merge", str(sharded)],
        env=bare_env | {"PYTHONDONTWRITEBYTECODE": "1"},  # a .pyc would be cut short too
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == 12
    assert done.stderr.startswith("ckptctl: error: file too large\n")
    assert "  next: raise the limit on file sizes" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(sharded) - before <= LOCK


def test_a_locked_directory_is_eleven_at_once_unless_one_waits(
    bare_env, run, sharded: Path
) -> None:
    code = (
        "import sys\nfrom ckptctl.storage.lock import directory_lock\n"
        f"with directory_lock({str(sharded)!r}, 0.0):\n"
        "    print('held', flush=True)\n    sys.stdin.readline()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        env=bare_env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    before = names(sharded)
    done = run("merge", sharded)
    assert done.returncode == 11
    assert names(sharded) == before
    assert run("merge", sharded, "-n").returncode == 0, "a dry run needs no lock"
    waiting = subprocess.Popen(
        [sys.executable, "-m", "ckptctl", "merge", str(sharded), "--lock-wait", "30s", "-q"],
        env=bare_env,
    )
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(timeout=2)
    holder.communicate("\n", timeout=30)
    assert waiting.wait(timeout=30) == 0


# --- stopped on the way ---------------------------------------------------------------

#: Stops at the first progress of a phase, says so, and waits for the signal there.
STOPPING = """
import sys, threading
from ckptctl.__main__ import console
from ckptctl.output import text
from ckptctl.progress import Progress

class Stopping(Progress):
    def start(self, phase, total=None):
        if phase == {phase!r}:
            print("in", phase, flush=True)
            threading.Event().wait()

text.TextOutput.progress = lambda self: Stopping()
console()
"""


@pytest.mark.parametrize("phase", ["reading keys", "writing", "flushing", "verifying"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_any_phase_it_leaves_nothing_behind(
    bare_env: dict[str, str], run, sharded: Path, phase: str, number: signal.Signals, code: int
) -> None:
    before = names(sharded)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPING.format(phase=phase), "merge", str(sharded)],
        env=bare_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == f"in {phase}\n":
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in err
    assert names(sharded) - before <= LOCK
    assert run("merge", sharded).returncode == 0


def test_a_reader_that_goes_away_ends_it_before_it_writes(
    bare_env: dict[str, str], sharded: Path, untouched
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with untouched(sharded):
        done = subprocess.run(
            [sys.executable, "-m", "ckptctl", "merge", str(sharded)],
            env=bare_env,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_log_gets_progress_lines_and_json_gets_none(run, sharded: Path, tmp_path: Path) -> None:
    env = {"CKPTCTL_KNOB_PROGRESS_SECONDS": "1", "FORCE_COLOR": "1"}
    slow = ("--bwlimit", "150kB/s", "-j", 1)
    done = run("merge", sharded, "-o", tmp_path / "a-180", *slow, env=env)
    assert done.returncode == 0
    assert done.stderr.startswith("ckptctl: ")
    assert " of " in done.stderr
    assert "\x1b" not in done.stderr
    done = run("merge", sharded, "-o", tmp_path / "b-180", *slow, "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
