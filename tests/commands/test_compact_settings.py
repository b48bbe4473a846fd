"""`ckptctl compact` with settings from files, and the metrics that it writes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ckptctl.chain import find_chains, scan_directory
from ckptctl.storage.lock import directory_lock
from tests.oracle.chain import flip
from tests.rooms import tmp_path

__all__ = ["tmp_path"]  # in memory: every merge fsyncs a dozen times


@pytest.fixture
def models(golden: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Two copies of a chain, an hour old: fulls 100, 160; increments 120, 140, 180."""
    then = time.time() - 3600
    for name in ("ctr", "cvr"):
        shutil.copytree(golden / "deeprec" / "sharded", tmp_path / name)
        (tmp_path / name / "expected.json").unlink()
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (then, then))
    return tmp_path / "ctr", tmp_path / "cvr"


@pytest.fixture
def compact(
    inside, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, dict, str]]:
    """Run `compact --json` in this process; return code, document and stderr."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def compact_(*args: object, env: dict[str, str] | None = None) -> tuple[int, dict, str]:
        code, out, err = inside("compact", *args, "--json", env=env)
        return code, json.loads(out) if out else {}, err

    return compact_


def fulls(directory: Path) -> set[int]:
    return {full.step for full in find_chains(scan_directory(str(directory))).scan.fulls}


def samples(file: Path) -> dict[tuple[str, str], float]:
    """Return (name, base name of the directory) to value."""
    return {
        (each.name.removeprefix("ckptctl_"), Path(each.labels["directory"]).name): each.value
        for family in text_string_to_metric_families(file.read_text())
        for each in family.samples
        if each.labels.keys() == {"directory"}
    }


# --- settings -------------------------------------------------------------------------


def test_each_directory_is_treated_as_its_own_file_says(compact, models) -> None:
    first, second = models
    (first / "ckptctl.toml").write_text("[compact]\nkeep-last = 1\n")
    (second / "ckptctl.toml").write_text("[compact]\nmin-increments = 2\n")
    code, found, err = compact(first, second, "--yes")
    assert (code, err) == (0, "")
    assert [each["settings_file"] for each in found["directories"]] == [
        str(each / "ckptctl.toml") for each in models
    ]
    assert fulls(first) == {180}
    assert fulls(second) == {100, 160}
    assert found["directories"][1]["waits"] == "not yet: 1 increments, below --min-increments 2"
    # It lies there still: no file of ours, and none of the trainer's.
    assert (first / "ckptctl.toml").exists()


def test_the_command_line_outranks_the_environment_and_that_the_file(compact, models) -> None:
    directory = models[0]
    (directory / "ckptctl.toml").write_text("[compact]\nmin-increments = 2\n")
    asks = [((), None, 2), ((), "3", 3), (("--min-increments", 4), "3", 4)]
    for args, variable, least in asks:
        env = {} if variable is None else {"CKPTCTL_COMPACT_MIN_INCREMENTS": variable}
        _, found, _ = compact(directory, "-n", *args, env=env)
        said = f"not yet: 1 increments, below --min-increments {least}"
        assert found["directories"][0]["waits"] == said
    _, found, _ = compact(directory, "-n", "--min-increments", 1)
    assert found["directories"][0]["waits"] is None


def test_a_dry_run_says_where_its_options_come_from(inside, models) -> None:
    directory = models[0]
    (directory / "ckptctl.toml").write_text("[compact]\nmin-increments = 2\n")
    code, out, _ = inside("compact", directory, "-n")
    assert code == 0
    assert out.splitlines()[0] == f"settings\t{directory / 'ckptctl.toml'}"


def test_state_options_of_a_file_reach_the_merge(compact, models) -> None:
    directory = models[0]
    (directory / "ckptctl.toml").write_text('[compact]\nincrements = "last"\nadd-new = true\n')
    _, found, _ = compact(directory, "-n")
    assert found["directories"][0]["merge"]["overrides"] == ["--increments last", "--add-new"]


def test_a_named_file_says_what_is_done_and_where(compact, models, tmp_path: Path) -> None:
    first, second = models
    (first / "ckptctl.toml").write_text("[compact]\nmin-increments = 9\n")
    named = tmp_path / "mine.toml"
    named.write_text(
        '[compact]\ndirectories = ["ctr", "cvr"]\nyes = true\nkeep-last = 1\n'
        'metrics = "mine.prom"\nlock-wait = "1s"\nmax-duration = "1h"\n'
    )
    code, found, err = compact("--config", named, env={"CKPTCTL_DIR": "/nowhere"})
    assert (code, err) == (0, "")
    assert [each["directory"] for each in found["directories"]] == list(map(str, models))
    assert {each["settings_file"] for each in found["directories"]} == {str(named)}
    assert fulls(first) == fulls(second) == {180}
    assert samples(tmp_path / "mine.prom")["compact_exit_code", "cvr"] == 0


@pytest.mark.parametrize("form", ["positional", "option", "variable"])
def test_directories_that_are_given_outrank_those_of_the_file(
    compact, models, tmp_path: Path, form: str
) -> None:
    named = tmp_path / "mine.toml"
    named.write_text(f'[compact]\ndirectories = ["{models[0]}"]\n')
    args = {"positional": (models[1],), "option": ("-C", models[1]), "variable": ()}[form]
    env = {"CKPTCTL_COMPACT_DIR": str(models[1])} if form == "variable" else {}
    _, found, _ = compact(*args, "--config", named, "-n", env=env)
    assert [each["directory"] for each in found["directories"]] == [str(models[1])]


def test_a_file_that_is_refused_stops_its_directory_alone(compact, models) -> None:
    first, second = models
    (first / "ckptctl.toml").write_text("[compact]\nyes = true\n")
    code, found, _ = compact(first, second, "--yes")
    assert code == 3
    assert [(each["error"] or {}).get("exit_code") for each in found["directories"]] == [2, None]
    assert fulls(first) == {100, 160}
    assert fulls(second) == {100, 160, 180}
    assert compact(first, "--yes")[0] == 2


# --- metrics --------------------------------------------------------------------------


def test_metrics_tell_of_each_directory(compact, models, tmp_path: Path) -> None:
    second = models[1]
    flip(second / "model.ckpt-160.data-00000-of-00002", 100)
    file, began = tmp_path / "c.prom", time.time()
    code, found, _ = compact(*models, "--yes", "--metrics", file)
    assert code == 4
    said = samples(file)
    result = found["directories"][0]["result"]
    assert said["compact_exit_code", "ctr"] == 0
    assert said["compact_written_bytes", "ctr"] == result["merge"]["bytes"] > 0
    assert said["compact_freed_bytes", "ctr"] == result["prune"]["bytes_freed"] > 0
    assert said["chain_increments", "ctr"] == 0
    assert said["newest_restore_point_step", "ctr"] == 180
    # What was merged is as old as what it was merged from.
    assert said["newest_restore_point_timestamp_seconds", "ctr"] < began - 3000
    assert began <= said["compact_last_success_timestamp_seconds", "ctr"] <= time.time()
    assert said["compact_exit_code", "cvr"] == 4
    assert said["compact_last_success_timestamp_seconds", "cvr"] == 0
    assert said["chain_increments", "cvr"] == 1
    assert said["newest_restore_point_step", "cvr"] == 180


def test_the_last_success_outlives_a_run_that_was_locked_out(
    compact, models, tmp_path: Path
) -> None:
    file = tmp_path / "c.prom"
    assert compact(models[0], "--yes", "--metrics", file)[0] == 0
    before = samples(file)
    with directory_lock(str(models[0])):
        assert compact(models[0], "--yes", "--metrics", file)[0] == 11
    after = samples(file)
    key = "compact_last_success_timestamp_seconds", "ctr"
    assert after["compact_exit_code", "ctr"] == 11
    assert after[key] == before[key] < after["compact_last_run_timestamp_seconds", "ctr"]


def test_a_run_with_nothing_to_do_is_a_success(compact, models, tmp_path: Path) -> None:
    file = tmp_path / "c.prom"
    compact(models[0], "--yes", "--metrics", file)
    before = samples(file)
    assert compact(models[0], "--metrics", file)[0] == 0
    after = samples(file)
    key = "compact_last_success_timestamp_seconds", "ctr"
    assert after[key] > before[key]
    assert after["compact_written_bytes", "ctr"] == 0


def test_a_dry_run_writes_no_metrics(compact, models, tmp_path: Path) -> None:
    file = tmp_path / "c.prom"
    assert compact(models[0], "-n", "--metrics", file)[0] == 0
    assert not file.exists()


def test_metrics_that_cannot_be_written_are_said_before_any_work(
    compact, models, tmp_path: Path, untouched
) -> None:
    with untouched(models[0]):
        code, _, err = compact(models[0], "--yes", "--metrics", tmp_path / "nowhere" / "c.prom")
    assert code == 2
    assert json.loads(err)["error"] == "UsageError"


def test_metrics_that_fail_at_the_end_do_not_hide_the_work(
    compact, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptctl.merge import metrics

    file = tmp_path / "c.prom"
    monkeypatch.setattr(metrics, "check_metrics", lambda path: None)
    file.write_text("node_load1 0.5\n")
    code, found, err = compact(models[0], "--yes", "--metrics", file)
    assert code == 3
    assert "metrics were not written" in json.loads(err)["message"]
    assert found["directories"][0]["result"]["outcome"] == "merged and pruned"
    code, _, err = compact(models[0] / "nowhere", "--metrics", file)
    assert code == 10


def test_a_run_that_is_terminated_is_told_with_its_code(
    compact, models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ckptctl.merge import execute as room

    file = tmp_path / "c.prom"

    def terminated(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr(room, "execute_merge", terminated)
    code, _, _ = compact(*models, "--yes", "--metrics", file)
    assert code == 143
    said = samples(file)
    assert said["compact_exit_code", "ctr"] == 143
    assert said["compact_last_success_timestamp_seconds", "ctr"] == 0
    assert ("compact_exit_code", "cvr") not in said  # it was not begun
