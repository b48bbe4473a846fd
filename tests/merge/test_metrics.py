"""Metrics of compactions: what they say, that they survive, and who may read them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ckptctl.chain import find_chains, scan_directory
from ckptctl.errors import DependencyError, UsageError
from ckptctl.merge.gate import Holdings, look_at_holdings
from ckptctl.merge.metrics import Measures, check_metrics, write_metrics

HELD = Holdings(
    fulls=3,
    full_bytes=3000,
    increments=5,
    increment_bytes=500,
    pending=2,
    pending_bytes=200,
    newest_full_step=160,
    newest_full_bytes=1000,
    latest=180,
    latest_time_s=1_700_000_000.5,
    last_merge_s=None,
    passed_over=4,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ckptctl.prom"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def measures(home: Path, **more: object) -> Measures:
    found = Measures(str(home), 0, 1_800_000_000.0, 12.5, 1000, 400, HELD)
    return replace(found, **more)  # type: ignore[arg-type]


def samples(file: Path) -> dict[str, float]:
    """Return what the file says: name, with the kind if there is one, to value."""
    found = {}
    for family in text_string_to_metric_families(file.read_text()):
        for each in family.samples:
            labels = [each.labels[name] for name in ("directory", "kind") if name in each.labels]
            key = " ".join([each.name.removeprefix("ckptctl_"), *labels])
            assert key not in found
            found[key] = each.value
    return found


def test_it_says_what_was_done_and_what_is_there(file: Path, home: Path) -> None:
    write_metrics(str(file), [measures(home)])
    found = samples(file)
    assert found.pop("build_info") == 1
    assert found == {
        f"compact_last_run_timestamp_seconds {home}": 1_800_000_000,
        f"compact_last_success_timestamp_seconds {home}": 1_800_000_000,
        f"compact_duration_seconds {home}": 12.5,
        f"compact_exit_code {home}": 0,
        f"compact_written_bytes {home}": 1000,
        f"compact_freed_bytes {home}": 400,
        f"checkpoints {home} full": 3,
        f"checkpoints {home} increment": 5,
        f"checkpoint_bytes {home} full": 3000,
        f"checkpoint_bytes {home} increment": 500,
        f"chain_increments {home}": 2,
        f"passed_over {home}": 4,
        f"newest_restore_point_step {home}": 180,
        f"newest_restore_point_timestamp_seconds {home}": 1_700_000_000.5,
    }
    assert 'ckptctl_build_info{version="' in file.read_text()


def test_the_last_success_survives_runs_that_fail(file: Path, home: Path) -> None:
    write_metrics(str(file), [measures(home)])
    for number in (1, 2):
        failed = measures(home, exit_code=4, ended_s=1_800_000_000.0 + number)
        write_metrics(str(file), [failed])
        found = samples(file)
        assert found[f"compact_last_success_timestamp_seconds {home}"] == 1_800_000_000
        assert found[f"compact_last_run_timestamp_seconds {home}"] == 1_800_000_000 + number
        assert found[f"compact_exit_code {home}"] == 4
    write_metrics(str(file), [measures(home, ended_s=1_900_000_000.0)])
    assert samples(file)[f"compact_last_success_timestamp_seconds {home}"] == 1_900_000_000


def test_before_the_first_success_it_is_zero_so_that_an_alert_sees_it(
    file: Path, home: Path
) -> None:
    write_metrics(str(file), [measures(home, exit_code=12)])
    assert samples(file)[f"compact_last_success_timestamp_seconds {home}"] == 0


def test_what_is_not_known_is_left_out_and_not_kept(file: Path, home: Path) -> None:
    write_metrics(str(file), [measures(home)])
    write_metrics(str(file), [measures(home, exit_code=10, holdings=None)])
    found = samples(file)
    assert f"compact_exit_code {home}" in found
    assert not [key for key in found if key.startswith(("checkpoint", "chain", "newest"))]
    nothing = HELD._replace(latest=None, latest_time_s=None)
    write_metrics(str(file), [measures(home, holdings=nothing)])
    assert not [key for key in samples(file) if key.startswith("newest")]


def test_directories_of_other_runs_stay_while_they_exist(file: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in "abc")
    for each in (first, second, third):
        each.mkdir()
    write_metrics(str(file), [measures(first), measures(second, exit_code=4)])
    before = samples(file)
    write_metrics(str(file), [measures(third)])
    after = samples(file)
    assert before.items() <= after.items()
    assert f"compact_exit_code {third}" in after
    second.rmdir()
    write_metrics(str(file), [measures(third)])
    assert not [key for key in samples(file) if str(second) in key]


def test_a_directory_that_is_away_keeps_what_its_alert_looks_at(file: Path, tmp_path: Path) -> None:
    """It may be one that is not mounted, or that this user may not see, until it is long ago."""
    away, other = tmp_path / "away", tmp_path / "other"
    month = 30 * 86400
    for ago, stays in ((month - 60, True), (month + 60, False)):
        write_metrics(str(file), [measures(away, ended_s=time.time() - ago)])
        write_metrics(str(file), [measures(other)])
        key = f"compact_last_success_timestamp_seconds {away}"
        assert (key in samples(file)) is stays


def test_one_directory_by_two_names_is_one(file: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    write_metrics(str(file), [measures(home), measures(tmp_path / "link", seconds=7.0)])
    assert samples(file)[f"compact_duration_seconds {home}"] == 7


@pytest.mark.parametrize("name", ['a"b\\c\nd', "naïve", os.fsdecode(b"\xff\xfe"), "a{b}c,d=e"])
def test_any_name_of_a_directory_is_read_back(file: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir()
    write_metrics(str(file), [measures(home)])
    write_metrics(str(file), [measures(home, exit_code=4)])
    label = os.fsencode(home).decode("utf-8", "backslashreplace")
    assert samples(file)[f"compact_last_success_timestamp_seconds {label}"] == 1_800_000_000


def test_names_end_in_units_and_all_have_help(file: Path, home: Path) -> None:
    write_metrics(str(file), [measures(home)])
    for family in text_string_to_metric_families(file.read_text()):
        assert re.fullmatch(r"ckptctl_[a-z_]+", family.name)
        assert family.type == "gauge"
        assert family.documentation.endswith(".")
        if "duration" in family.name or "timestamp" in family.name:
            assert family.name.endswith("_seconds")


# --- the file -------------------------------------------------------------------------


def test_anyone_may_read_it_whatever_the_umask(file: Path, home: Path) -> None:
    before = os.umask(0o077)
    try:
        for _ in range(2):
            write_metrics(str(file), [measures(home)])
            assert stat.S_IMODE(file.stat().st_mode) == 0o644
    finally:
        os.umask(before)
    assert set(os.listdir(file.parent)) == {home.name, file.name}


def test_a_reader_never_sees_half_of_it(file: Path, home: Path) -> None:
    """What is opened before a write stays whole: the file is replaced, not written into."""
    write_metrics(str(file), [measures(home)])
    with file.open() as reader:
        first = reader.read(100)
        write_metrics(str(file), [measures(home, exit_code=4)])
        text = first + reader.read()
    assert f'ckptctl_compact_exit_code{{directory="{home}"}} 0.0\n' in text


def test_where_it_is_a_link_the_target_is_written(file: Path, home: Path, tmp_path: Path) -> None:
    (tmp_path / "collector").mkdir()
    target = tmp_path / "collector" / "real.prom"
    file.symlink_to(target)
    check_metrics(str(file))
    write_metrics(str(file), [measures(home)])
    assert file.is_symlink()
    assert not target.is_symlink()
    assert f"compact_exit_code {home}" in samples(target)


def test_two_at_once_lose_nothing(file: Path, tmp_path: Path) -> None:
    homes = [tmp_path / f"m{number}" for number in range(8)]
    for home in homes:
        home.mkdir()
    start = threading.Barrier(len(homes))

    def write(home: Path) -> None:
        start.wait()
        write_metrics(str(file), [measures(home)])

    threads = [threading.Thread(target=write, args=(home,)) for home in homes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {f"compact_exit_code {home}" for home in homes} <= set(samples(file))


@pytest.mark.parametrize(
    "text",
    [
        "root:x:0:0:root:/root:/bin/bash\n",
        "node_load1 0.5\n",
        "# HELP up Up.\n# TYPE up gauge\nup 1\n",
        "ckptctl_x{ 1\n",
        '{"json": 1}',
        "\x00\x01",
    ],
)
def test_a_file_that_is_not_ours_is_never_replaced(file: Path, home: Path, text: str) -> None:
    file.write_text(text)
    for attempt in (check_metrics, lambda path: write_metrics(path, [measures(home)])):
        with pytest.raises(UsageError, match="holds no metrics of ckptctl") as caught:
            attempt(str(file))
        assert caught.value.file == str(file)
    assert file.read_text() == text


def test_an_empty_file_will_do(file: Path, home: Path) -> None:
    file.touch()
    check_metrics(str(file))
    write_metrics(str(file), [measures(home)])
    check_metrics(str(file))


def test_what_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.prom")
    (tmp_path / "null.prom").symlink_to("/dev/null")
    (tmp_path / "program").touch(0o755)
    for path, words in [
        ("", "name of a file"),
        ("-", "name of a file"),
        (f"{tmp_path}/", "name of a file"),
        (str(tmp_path / "ckptctl.txt"), "name of a file"),
        ("/dev/null", "name of a file"),
        (str(tmp_path / "fifo.prom"), "not a regular file"),
        (str(tmp_path / "null.prom"), "not a regular file"),
        (str(tmp_path / "nowhere" / "c.prom"), "cannot write into the directory"),
        (str(tmp_path / "program" / "c.prom"), "cannot write into the directory"),
    ]:
        with pytest.raises(UsageError, match=words):
            check_metrics(path)


def test_without_prometheus_client_it_says_what_to_install(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(DependencyError, match="prometheus_client") as caught:
        check_metrics(str(file))
    assert caught.value.remedy == "pip install 'ckptctl[metrics]'"


def test_only_metrics_import_prometheus_client() -> None:
    script = "import sys, ckptctl.merge.metrics; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- from a compaction ----------------------------------------------------------------


def test_a_run_that_failed_is_measured_by_what_is_there(golden: Path) -> None:
    directory = str(golden / "deeprec" / "sharded")
    found = Measures.of(directory, None, exit_code=12, ended_s=1.0, seconds=2.0)
    chains = find_chains(scan_directory(directory))
    assert found.holdings == look_at_holdings(chains)
    assert (found.bytes_written, found.bytes_freed) == (0, 0)
    nowhere = Measures.of(f"{directory}/nowhere", None, exit_code=10, ended_s=1.0, seconds=2.0)
    assert nowhere.holdings is None
