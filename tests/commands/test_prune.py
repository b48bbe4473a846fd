"""`ckptctl prune`: plan and result both ways, questions, saved plans, exit codes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from ckptctl.bundle import BundleReader
from ckptctl.chain import find_chains, scan_directory
from ckptctl.storage.lock import directory_lock
from tests.merge.prunes import chain_of
from tests.oracle.chain import flip

INCREMENTS = ".incremental_checkpoint"
PLAN = {
    "schema",
    "dry_run",
    "directory",
    "options",
    "items",
    "verify",
    "items_to_remove",
    "bytes_to_free",
    "fingerprint",
    "warnings",
    "damage",
    "relocated",
}
ITEM = {
    "kind",
    "name",
    "path",
    "step",
    "bytes",
    "status",
    "action",
    "code",
    "reason",
    "under",
    "merged",
}


@pytest.fixture
def old(sharded: Path) -> Path:
    """The chain of `sharded`, written long ago: fulls 100, 160; increments 120, 140, 180."""
    then = time.time() - 10**6
    steps = (100, 120, 140, 160, 180)
    for path in sharded.rglob("*"):
        step = path.name.split("ckpt-")[-1].split(".")[0]
        at = then + (60 * steps.index(int(step)) if step.isdigit() else 10**4)
        os.utime(path, (at, at))
    return sharded


@pytest.fixture
def document(run) -> Callable[..., dict]:
    """Run `prune --json` and return the document."""

    def ask(*args: object) -> dict:
        done = run("prune", *args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return ask


def goes(found: dict) -> dict[int, str]:
    return {each["step"]: each["code"] for each in found["items"] if each["action"] == "remove"}


def here(directory: Path) -> set[int]:
    return {int(path.stem.rpartition("-")[2]) for path in directory.rglob("*ckpt-*.index")}


def points(directory: Path) -> set[int]:
    return set(find_chains(scan_directory(str(directory))).restore_points)


# --- plan and result, both ways -------------------------------------------------------


def test_the_document_is_the_plan_and_the_result(document, old: Path) -> None:
    found = document(old, "--yes")
    assert set(found) >= PLAN | {"result"}
    assert found["schema"] == "ckptctl.prune/1"
    assert found["dry_run"] is False
    assert all(set(each) == ITEM for each in found["items"])
    assert {each["step"]: each["kind"] for each in found["items"]} == {
        100: "full",
        160: "full",
        120: "increment",
        140: "increment",
        180: "increment",
    }
    assert goes(found) == {120: "stale", 140: "stale"}
    assert found["verify"] == [str(old / "model.ckpt-160")]
    sizes = sum(each["bytes"] for each in found["items"] if each["action"] == "remove")
    assert found["bytes_to_free"] == sizes == found["result"]["bytes_freed"] > 0
    assert found["items_to_remove"] == 2
    assert {each["outcome"] for each in found["result"]["outcomes"]} == {"removed"}
    assert found["result"]["verified"] == found["verify"]
    assert here(old) == points(old) == {100, 160, 180}


def test_text_says_the_same(run, document, old: Path) -> None:
    plan = document(old, "-n")
    done = run("prune", old, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["kind", "step", "status", "bytes", "action", "name", "because"]
    rows = lines[1 : 1 + len(plan["items"])]
    assert rows == [
        [
            each["kind"],
            str(each["step"]),
            each["status"],
            str(each["bytes"]),
            each["action"],
            each["path"],
            each["reason"],
        ]
        for each in plan["items"]
    ]
    rest = {line[0]: line[1:] for line in lines[1 + len(plan["items"]) :]}
    assert rest["verify"][0] == str(old / "model.ckpt-160")
    assert rest["remove"] == ["2 items", str(plan["bytes_to_free"])]
    assert rest["freed"] == [str(plan["bytes_to_free"])]


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_dry_run_says_would_and_writes_nothing(
    run, old: Path, tmp_path: Path, untouched, form: tuple[str, ...]
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    env = {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    with untouched(old), untouched(cache):
        done = run("prune", old, "--keep-last", 1, "-n", *form, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    if form:
        found = json.loads(done.stdout)
        assert found["dry_run"] is True
        assert "result" not in found
    else:
        assert "would remove\t3 items\t" in done.stdout
        assert "would verify\t" in done.stdout
        assert "freed" not in done.stdout


def test_nothing_to_remove_is_zero_and_asks_nothing(run, old: Path, untouched) -> None:
    run("prune", old, "--yes")
    with untouched(old):
        done = run("prune", old)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing to remove" in done.stdout


def test_quiet_prints_nothing_and_removes(run, old: Path) -> None:
    done = run("prune", old, "-q", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert here(old) == {100, 160, 180}


# --- options --------------------------------------------------------------------------


def test_keep_rules_reach_the_plan(document, old: Path) -> None:
    assert goes(document(old, "--keep-last", 1, "-n")) == {
        100: "policy",
        120: "stale",
        140: "stale",
    }
    assert goes(document(old, "--keep-last", 1, "--keep-step", 120, "--keep-step", 140, "-n")) == {}
    found = document(
        old,
        *("--keep-last", 1, "--keep-every", 50, "--keep-within", "90s", "--keep-hourly", 2),
        *("--keep-daily", 3, "--keep-weekly", 4, "--keep-step", 100, "-n"),
    )
    assert [rule["rule"] for rule in found["options"]["policy"]] == [
        "keep-last",
        "keep-every",
        "keep-within",
        "keep-hourly",
        "keep-daily",
        "keep-weekly",
        "keep-step",
    ]
    assert [rule["value"] for rule in found["options"]["policy"]] == [1, 50, 90.0, 2, 3, 4, 100]
    assert goes(found) == {120: "stale", 140: "stale"}


def test_every_option_reaches_the_plan(document, run, old: Path) -> None:
    args = ("--orphans", "--abandoned", "--leftovers", "--trash", "--relocate")
    found = document(old, *args, "--min-age", "90s", "--assume-order", "step", "-n")
    assert found["options"] == {
        "policy": [],
        "orphans": True,
        "abandoned": True,
        "leftovers": True,
        "min_age_s": 90.0,
        "assume_order": "step",
        "relocate": True,
        "trash": True,
    }
    env = {"CKPTCTL_PRUNE_KEEP_LAST": "1", "CKPTCTL_PRUNE_KEEP_STEP": "120 100"}
    done = run("prune", old, "-n", "--json", env=env)
    assert [rule["value"] for rule in json.loads(done.stdout)["options"]["policy"]] == [1, 120, 100]


def test_what_relocate_rewrites_is_told(document, run, old: Path, tmp_path: Path) -> None:
    moved = old.rename(tmp_path / "moved")
    state = moved / "checkpoint"
    state.write_text(f'model_checkpoint_path: "{old}/model.ckpt-160"\n')
    assert document(moved, "--relocate", "-n")["relocated"] == [str(state)]
    assert document(moved, "-n")["relocated"] == []
    assert f"would relocate\t{state}\t" in run("prune", moved, "--relocate", "-n").stdout
    assert f"would relocate\t{state}\t" in run("compact", moved, "--relocate", "-n").stdout
    assert f"relocate\t{state}\t" in run("prune", moved, "--relocate", "--trash").stdout
    assert 'model_checkpoint_path: "model.ckpt-160"' in state.read_text()
    again = run("prune", moved, "--relocate", "--trash").stdout
    assert "\nrelocate\t" not in again


def test_the_default_age_is_ten_minutes(document, old: Path) -> None:
    recent = time.time() - 500
    for path in (old / INCREMENTS).glob("*-120.*"):
        os.utime(path, (recent, recent))
    assert document(old, "-n")["options"]["min_age_s"] == 600
    (item,) = (each for each in document(old, "-n")["items"] if each["step"] == 120)
    assert (item["action"], item["code"]) == ("keep", "young")


@pytest.mark.parametrize(
    "args",
    [
        ("--keep-last", "0"),
        ("--keep-within", "5"),
        ("--min-age", "-1s"),
        ("--keep-step", "latest"),
        ("--assume-order", "time"),
        ("--keep-every", "x"),
    ],
)
def test_what_cannot_be_meant_is_usage(run, old: Path, untouched, args) -> None:
    with untouched(old):
        done = run("prune", old, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


# --- questions and refusals -----------------------------------------------------------


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_nobody_to_ask_is_a_refusal(run, old: Path, untouched, form) -> None:
    with untouched(old):
        done = run("prune", old, *form)
    assert done.returncode == 12
    assert "--yes" in done.stderr
    if form:
        assert json.loads(done.stderr)["exit_code"] == 12
        assert done.stdout == ""
    else:
        assert done.stdout.count("\twould remove\t") == 2
        assert "would remove\t2 items\t" in done.stdout
        assert "\tremove\t" not in done.stdout


def at_a_terminal(
    env: dict[str, str], answer: str, *args: object, stdout: IO[str] | None = None
) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptctl", *map(str, args)],
        env=env,
        stdin=theirs,
        stdout=stdout or theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    return process.wait(timeout=30), said.decode()


def test_a_terminal_is_asked_once(bare_env, old: Path) -> None:
    code, said = at_a_terminal(bare_env, "n\n", "prune", old)
    assert code == 12
    assert "Remove 2 items" in said
    assert said.count("would remove") == 3
    assert here(old) == {100, 120, 140, 160, 180}
    code, said = at_a_terminal(bare_env, "y\n", "prune", old)
    assert code == 0
    assert here(old) == {100, 160, 180}
    assert "freed" in said


def test_what_can_be_had_back_needs_no_question(run, old: Path) -> None:
    before = {p.name for p in (old / INCREMENTS).iterdir()}
    done = run("prune", old, "--trash")
    assert done.returncode == 0, done.stderr
    facts = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    assert here(old / INCREMENTS) == {180}
    assert facts["freed"] == "0"
    subprocess.run(facts["to restore it"], shell=True, check=True)
    assert {p.name for p in (old / INCREMENTS).iterdir()} == before
    assert points(old) == {100, 120, 140, 160, 180}
    subprocess.run(facts["to empty it"], shell=True, check=True)
    assert list((old / ".ckptctl-trash").iterdir()) == []


def test_a_policy_that_would_remove_everything_is_refused_even_with_yes(
    run, old: Path, untouched
) -> None:
    with untouched(old):
        done = run("prune", old, "--keep-step", 7, "--yes")
    assert done.returncode == 12
    assert "every restore point" in done.stderr


def test_a_lock_is_eleven_and_may_be_waited_for(run, old: Path) -> None:
    with directory_lock(str(old)):
        done = run("prune", old, "--yes")
        assert done.returncode == 11
        began = time.monotonic()
        assert run("prune", old, "--yes", "--lock-wait", "1s").returncode == 11
        assert time.monotonic() - began > 1
        # A dry run takes none.
        assert run("prune", old, "-n").returncode == 0
    assert here(old) == {100, 120, 140, 160, 180}


def test_a_missing_directory_is_ten(run, tmp_path: Path) -> None:
    assert run("prune", tmp_path / "none", "--yes").returncode == 10


@pytest.mark.parametrize("how", ["-n", "--yes", "--save-plan", "-q", "--trash"])
def test_a_directory_without_anything_of_a_trainer_is_ten(
    run, tmp_path: Path, untouched, how: str
) -> None:
    """As a disk is that is not mounted."""
    room = tmp_path / "room"
    room.mkdir()
    (room / "notes.txt").write_text("not ours")
    plan = [tmp_path / "plan"] if how == "--save-plan" else []
    with untouched(tmp_path):
        done = run("prune", room, how, *plan)
    assert (done.returncode, done.stdout) == (10, "")
    assert f"\n  file: {room}\n" in done.stderr
    assert "mounted" in done.stderr
    (room / "model.ckpt-45_temp_0123456789abcdef").mkdir()
    assert run("prune", room, how, *plan).returncode == 0


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_damage_is_four_and_keeps_what_the_full_would_stand_in_for(run, old: Path, form) -> None:
    data = old / "model.ckpt-160.data-00000-of-00002"
    info = data.stat()
    raw = bytearray(data.read_bytes())
    raw[4] ^= 1
    data.write_bytes(raw)
    os.utime(data, ns=(info.st_mtime_ns, info.st_mtime_ns))
    done = run("prune", old, "--yes", *form)
    assert done.returncode == 4
    assert "checksum" in done.stderr
    assert "2 items kept for it" in done.stderr
    assert here(old) == {100, 120, 140, 160, 180}
    if form:
        found = json.loads(done.stdout)
        assert {each["outcome"] for each in found["result"]["outcomes"]} == {"unverified"}
        told = json.loads(done.stderr)
        assert (told["exit_code"], told["file"]) == (4, str(data))
        assert told["tensor"]
        assert told["offset"] == 4
        assert {"expected", "found", "remedy"} <= set(told)
    else:
        assert f"\n  file: {data}\n  tensor: " in done.stderr
        assert "\n  offset: 4\n  expected: " in done.stderr
        assert done.stdout.count("unverified\t") == 2


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize("how", ["-n", "--save-plan", "--yes"])
def test_damaged_keys_are_four_whether_anything_is_done_or_not(
    run, tmp_path: Path, how: str, form
) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30")
    prefix = chain.increment_prefix(20)
    with BundleReader(str(prefix)) as reader:
        keys = reader.tensors["emb-sparse_incr_keys"]
    flip(Path(f"{prefix}.data-00000-of-00001"), keys.offset)
    plan = tmp_path / "plan.json"
    done = run("prune", chain.directory, how, *([plan] if how == "--save-plan" else []), *form)
    assert done.returncode == 4
    assert "next" in done.stderr or "remedy" in done.stderr
    assert prefix.name in done.stdout  # the plan is shown all the same
    assert plan.exists() is (how == "--save-plan")
    if form:
        (found,) = json.loads(done.stdout)["damage"]
        assert json.loads(done.stderr)["message"] in found


# --- saved plans ----------------------------------------------------------------------


def test_a_saved_plan_is_carried_out_later(run, old: Path, tmp_path: Path, untouched) -> None:
    plan = tmp_path / "plan.json"
    with untouched(old):
        done = run("prune", ".", "--keep-last", 1, "--save-plan", plan, cwd=old)
    assert done.returncode == 0, done.stderr
    assert "would remove\t3 items" in done.stdout
    with untouched(old):
        assert run("prune", old, "--plan", plan, "-n").returncode == 0
    done = run("prune", old, "--plan", plan, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert goes(found) == {100: "policy", 120: "stale", 140: "stale"}
    assert here(old) == {160, 180}
    # A second time everything it knew is gone.
    assert run("prune", old, "--plan", plan, "--yes").returncode == 12


@pytest.mark.parametrize("what", ["touched", "new", "state file"])
def test_a_saved_plan_is_refused_once_the_directory_changed(
    run, old: Path, tmp_path: Path, what: str
) -> None:
    plan = tmp_path / "plan.json"
    assert run("prune", old, "--save-plan", plan).returncode == 0
    if what == "touched":
        os.utime(old / "model.ckpt-160.index")
    elif what == "new":
        for path in list(old.glob("model.ckpt-160.*")):
            shutil.copy2(path, path.with_name(path.name.replace("-160.", "-170.")))
    else:
        os.utime(old / "checkpoint")
    before = here(old)
    for how in ("--yes", "-n"):  # a dry run ends as the run would, and nothing is announced
        done = run("prune", old, "--plan", plan, how)
        assert (done.returncode, done.stdout) == (12, "")
        assert "changed since the plan" in done.stderr
        assert here(old) == before


def test_a_saved_plan_takes_no_other_options_and_no_other_directory(
    run, old: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    run("prune", old, "--save-plan", plan)
    for option in (("--keep-last", 1), ("--orphans",), ("--trash",), ("--min-age", "1s")):
        done = run("prune", old, "--plan", plan, "--yes", *option)
        assert done.returncode == 2
        assert option[0] in done.stderr
    assert run("prune", tmp_path, "--plan", plan, "--yes").returncode == 2
    assert run("prune", old, "--plan", tmp_path / "none", "--yes").returncode == 10
    facts = json.loads(plan.read_text())
    for broken in ("{}", "no json", json.dumps({**facts, "items": None})):
        plan.write_text(broken)
        done = run("prune", old, "--plan", plan, "--yes")
        assert done.returncode == 2
        assert f"\n  file: {plan}\n" in done.stderr
        assert "\n  next: " in done.stderr
    assert here(old) == {100, 120, 140, 160, 180}


def test_a_saved_plan_names_no_file_that_would_not_go_anyway(
    run, old: Path, tmp_path: Path
) -> None:
    """Whoever edits it gets nothing removed that the rules would keep."""
    precious = tmp_path / "precious"
    precious.write_text("x")
    plan = tmp_path / "plan.json"
    run("prune", old, "--save-plan", plan)
    facts = json.loads(plan.read_text())
    for item in facts["items"]:
        item["action"] = "remove"
    info = precious.stat()
    identity = [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]
    facts["items"][0]["files"] = [[str(precious), identity]]
    facts["items"].append({**facts["items"][0], "path": str(precious)})
    plan.write_text(json.dumps(facts))
    done = run("prune", old, "--plan", plan, "--yes")
    assert done.returncode == 3
    assert precious.exists()
    assert here(old) == {100, 160, 180}


# --- names ----------------------------------------------------------------------------


def test_a_name_sends_nothing_to_the_terminal(run, old: Path) -> None:
    for path in list(old.glob("model.ckpt-100.*")):
        shutil.copy2(path, path.with_name(path.name.replace("model", "mo\x1b[31m\ndel")))
    done = run("prune", old, "-n")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 1 + 6 + 2


# --- where there is no room for the answer ----------------------------------------------

full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="a system with /dev/full, as Linux has"
)


@full_device
@pytest.mark.parametrize("command", [["prune", "--min-age", "0s"], ["compact", "--min-age", "0s"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_room_is_made_though_there_is_none_for_the_answer(
    bare_env: dict[str, str], old: Path, command: list[str], form: list[str]
) -> None:
    """As cron calls it: the disk is full, and its log lies there."""
    args = [sys.executable, "-m", "ckptctl", *command, str(old), "--yes", *form]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            args, env=bare_env, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 12
    assert "no space left on device: no room for the answer; all else is done" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((old / INCREMENTS).glob("*-140.*"))


@full_device
def test_nobody_agrees_to_what_he_cannot_see(bare_env: dict[str, str], old: Path) -> None:
    before = sorted(path.name for path in old.rglob("*"))
    with open("/dev/full", "w") as full:
        code, said = at_a_terminal(bare_env, "y\n", "prune", old, stdout=full)
    assert code == 12
    assert "no room for the answer; nothing was done" in " ".join(said.split())
    assert "for good?" not in said
    assert sorted(path.name for path in old.rglob("*") if ".ckptctl" not in str(path)) == before
