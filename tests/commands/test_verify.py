"""`ckptctl verify`: text, rows, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest

from ckptctl.commands.verify import VerifiedView
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.output.terminal import TerminalPage
from tests.oracle.chain import flip


def spoil(directory: Path) -> Path:
    path = next(directory.glob("model.ckpt-160.data-00001*"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    return path


def test_a_clean_directory(run, sharded: Path, untouched: Callable) -> None:
    with untouched(sharded):
        done = run("verify", sharded, "--data")
    assert (done.returncode, done.stderr) == (0, "")
    checked = done.stdout.splitlines()[-1].split("\t")
    assert checked[:3] == ["checked", "5", "573"]


def test_damage_is_named_on_both_streams(run, sharded: Path) -> None:
    path = spoil(sharded)
    assert run("verify", sharded).returncode == 0
    done = run("verify", sharded, "--data")
    assert done.returncode == 4
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0][:4] == ["code", "severity", "file", "tensor"]
    assert rows[1][:3] == ["CK050", "damage", str(path)]
    assert "1 finding of damage, the first CK050" in done.stderr
    assert str(path) in done.stderr


def test_one_document(run, sharded: Path) -> None:
    spoil(sharded)
    done = run("verify", sharded, "--data", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["schema"]) == (4, "ckptctl.verify/1")
    assert set(document["findings"][0]) == {
        "code", "severity", "file", "tensor", "offset", "expected", "found", "message", "remedy",
    }  # fmt: skip
    assert document["checked"]["checkpoints"] == 5
    assert json.loads(done.stderr)["exit_code"] == 4


@pytest.mark.parametrize(
    ("args", "code"),
    [
        ([], 0),
        (["--step", "140", "--data"], 0),
        (["--step", "150"], 10),
        (["--subset", "0/3"], 2),
        (["--subset", "4/3"], 2),
        (["--subset", "1/3"], 2),
        (["--max-age", "1d"], 2),
        (["--data", "--subset", "2/3", "--max-duration", "1h", "--max-age", "1d"], 0),
    ],
)
def test_exit_codes(run, sharded: Path, args: list[str], code: int) -> None:
    done = run("verify", sharded, *args)
    assert done.returncode == code
    assert ("\n  next: " in done.stderr) is (code != 0)


def test_what_could_not_be_read_is_named_with_what_to_do(run, sharded: Path) -> None:
    (sharded / "checkpoint").unlink()
    (sharded / "checkpoint").symlink_to("unmounted")
    for option in ([], ["--data"], ["--strict"]):
        done = run("verify", sharded, *option)
        assert done.returncode == 3
        assert "1 file could not be read" in done.stderr
        assert f"\n  file: {sharded}/checkpoint\n" in done.stderr
        assert "\n  next: " in done.stderr


def test_the_environment_may_say_what_counts_with_data(run, sharded: Path) -> None:
    env = {"CKPTCTL_VERIFY_MAX_AGE": "1d", "CKPTCTL_VERIFY_SUBSET": "1/2"}
    assert run("verify", sharded, env=env).returncode == 0


def test_warnings_count_with_strict(run, sharded: Path) -> None:
    (sharded / "checkpoint").unlink()
    assert run("verify", sharded).returncode == 0
    done = run("verify", sharded, "--strict")
    assert done.returncode == 3
    assert "CK020" in done.stdout
    assert "1 warning with --strict, the first CK020" in done.stderr
    assert f"\n  file: {sharded}/checkpoint\n" in done.stderr
    assert "\n  next: " in done.stderr


@pytest.mark.parametrize("option", [[], ["--data"], ["--strict"]])
def test_what_there_was_no_time_for_counts(run, sharded: Path, option: list[str]) -> None:
    done = run("verify", sharded, *option, "--max-duration", "0s")
    assert done.returncode == 3
    assert "no time for 5 checkpoints, first " in done.stderr
    assert sum(line.startswith("left\t") for line in done.stdout.splitlines()) == 5


def test_damage_outranks_what_there_was_no_time_for(run, sharded: Path) -> None:
    (sharded / "checkpoint").write_text("no state file")
    done = run("verify", sharded, "--max-duration", "0s", "--json")
    assert done.returncode == 4
    assert len(json.loads(done.stdout)["checked"]["left"]) == 5


def test_nothing_to_verify(run, tmp_path: Path) -> None:
    for option in ([], ["--data"], ["--strict"], ["-q"]):
        done = run("verify", tmp_path, *option)
        assert done.returncode == 10
        assert "nothing to verify" in done.stderr
    assert run("verify", tmp_path / "none").returncode == 10


def test_what_is_no_checkpoint_directory_is_told_with_what_it_is(
    run, sharded: Path, tmp_path: Path
) -> None:
    variables = tmp_path / "model" / "variables"
    variables.mkdir(parents=True)
    for path in sharded.glob("model.ckpt-160.*"):
        path.rename(variables / path.name.replace("model.ckpt-160", "variables"))
    for directory in (variables, variables.parent):
        done = run("verify", directory)
        assert done.returncode == 10
        assert f"next: ckptctl verify {variables}/variables looks at that bundle" in done.stderr
    old = tmp_path / "old"
    old.mkdir()
    (old / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1"\n')
    (old / "model.ckpt-1").write_bytes(b"a table, and no bundle")
    done = run("verify", old)
    assert done.returncode == 10
    assert done.stdout.splitlines()[1].startswith("CK037\twarning\t")
    assert "CK021" not in done.stdout
    assert "V1 format" in done.stderr


def test_a_person_sees_how_many_findings_there_are(sharded: Path) -> None:
    for path in sharded.glob("model.ckpt-*.data-00001*"):
        path.unlink()
    plan = plan_verify(str(sharded))
    found = execute_verify(plan)
    assert found.count("damage") > 1
    text = StringIO()
    VerifiedView(plan, found).text(TerminalPage(text))
    assert f"{found.count('damage')} findings of damage" in " ".join(text.getvalue().split())


def test_a_person_sees_what_was_found(sharded: Path) -> None:
    spoil(sharded)
    plan = plan_verify(str(sharded), data=True)
    text = StringIO()
    page = TerminalPage(text)
    VerifiedView(plan, execute_verify(plan)).text(page)
    page.flush()
    assert "(found" in text.getvalue()
    assert "CK050: restore the file from a copy" in text.getvalue()


def test_checkpoints_of_another_name_are_told_and_not_looked_at(run, sharded: Path) -> None:
    for path in sharded.glob("model.ckpt-160.*"):
        shutil.copy(path, sharded / path.name.replace("model.ckpt-160", "best"))
    flip(next(sharded.glob("best.data-*")), 8)
    done = run("verify", sharded, "--data")
    assert done.returncode == 0
    assert "other\tbest\n" in done.stdout
    assert json.loads(run("verify", sharded, "--json").stdout)["others"] == ["best"]


@pytest.mark.parametrize("name", ["variables", "variables.index", "variables.data-00000-of-00002"])
def test_one_bundle_is_looked_at_alone(run, sharded: Path, tmp_path: Path, name: str) -> None:
    """As a SavedModel's, which has no step and no state file."""
    room = tmp_path / "saved_model" / "variables"
    room.mkdir(parents=True)
    for path in sharded.glob("model.ckpt-160.*"):
        shutil.copy(path, room / path.name.replace("model.ckpt-160", "variables"))
    done = run("verify", room / name, "--data")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("checked\t1\t")
    flip(room / "variables.data-00001-of-00002", 8)
    done = run("verify", room / name, "--data")
    assert done.returncode == 4
    assert "does not match its checksum" in done.stderr
    assert run("verify", room / name, "--step", 1).returncode == 2


def test_one_increment_is_looked_at_alone(run, sharded: Path) -> None:
    """With the directory of its full, and not that of increments taken for fulls."""
    done = run(
        "verify", sharded / ".incremental_checkpoint" / "incremental_model.ckpt-180", "--data"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("checked\t1\t")
    assert run("verify", sharded / "model.ckpt-7").returncode == 10


def test_a_cache_that_cannot_be_written(run, sharded: Path, tmp_path: Path) -> None:
    """Where nothing is remembered no run gets further than the one before."""
    (tmp_path / "file").touch()
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "file")}
    done = run("verify", sharded, "--data", "--max-age", "1d", env=nowhere)
    assert done.returncode == 0
    assert done.stderr.startswith("ckptctl: warning: what was found clean cannot be remembered: ")
    done = run("verify", sharded, "--data", "--json", env=nowhere)
    assert json.loads(done.stdout)["checked"]["remembered"] is False
    done = run("verify", sharded, "--data", "--json")
    assert json.loads(done.stdout)["checked"]["remembered"] is True
    assert run("verify", sharded, "--data", env=nowhere).stderr == "", "who asked for no memory"
