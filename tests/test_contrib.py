"""contrib/: each file's own command line runs, and the checker of its kind finds no fault."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
import yaml

from ckptctl.chain import find_chains, scan_directory
from ckptctl.commands.main import COMMANDS, cli
from ckptctl.commands.settings_file import OF_DIRECTORY, OF_RUN
from ckptctl.merge.metrics import Measures, write_metrics
from tests.rooms import tmp_path

__all__ = ["tmp_path"]  # in memory: every merge fsyncs a dozen times

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
CONTRIB = ROOT / "contrib"
ALERTS = CONTRIB / "prometheus" / "alerts.yml"


@pytest.fixture
def machine(golden: Path, tmp_path: Path) -> Path:
    """A root directory with a chain at /models/ctr and the settings in /etc/ckptctl."""
    (tmp_path / "models").mkdir()
    shutil.copytree(golden / "deeprec" / "sharded", tmp_path / "models" / "ctr")
    then = time.time() - 86400
    for path in (tmp_path / "models").rglob("*"):
        os.utime(path, (then, then))
    (tmp_path / "var" / "lib" / "node_exporter").mkdir(parents=True)
    (tmp_path / "etc" / "ckptctl").mkdir(parents=True)
    settings = below(tmp_path, (CONTRIB / "compact.toml").read_text())
    (tmp_path / "etc" / "ckptctl" / "compact.toml").write_text(settings)
    return tmp_path


def below(root: Path, text: str) -> str:
    """Return a text with the paths of a machine below another root."""
    return re.sub(r"(?<![\w.])/(?=(models|etc|var)\b)", f"{root}/", text)


def run(machine: Path, *args: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("CKPTCTL")}
    return subprocess.run(
        [sys.executable, "-m", "ckptctl", *(below(machine, arg) for arg in args)],
        env=env | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(machine / "cache")},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def compacted(machine: Path) -> bool:
    points = find_chains(scan_directory(str(machine / "models" / "ctr"))).restore_points
    return set(points) == {100, 160, 180}


def service() -> dict[str, str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(CONTRIB / "systemd" / "ckptctl-compact.service")
    return dict(unit["Service"])


def cron_line() -> list[str]:
    lines = (CONTRIB / "cron" / "ckptctl").read_text().splitlines()
    (line,) = [each for each in lines if re.match(r"[\d*]", each)]
    assert "%" not in line  # cron takes it for a line break
    return line.split(maxsplit=6)


def manifests() -> dict[str, dict]:
    text = (CONTRIB / "kubernetes" / "cronjob.yaml").read_text()
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def container() -> dict:
    pod = manifests()["CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (only,) = pod["containers"]
    return only


# --- the very command lines -----------------------------------------------------------


def command_line(name: str) -> list[str]:
    if name == "systemd":
        program, *args = shlex.split(service()["ExecStart"])
    elif name == "cron":
        program, *args = shlex.split(cron_line()[6])
    else:
        (program,), args = container()["command"], container()["args"]
    assert Path(program).name == "ckptctl"
    return args


@pytest.mark.parametrize("name", ["systemd", "cron", "kubernetes"])
def test_the_command_line_of_each_runs(name: str, machine: Path) -> None:
    if name == "kubernetes":
        settings = below(machine, manifests()["ConfigMap"]["data"]["compact.toml"])
        (machine / "etc" / "ckptctl" / "compact.toml").write_text(settings)
    done = run(machine, *command_line(name))
    assert (done.returncode, done.stderr) == (0, "")
    assert compacted(machine)
    # One line for each thing that was done, of fields; or, for cron's mail, none.
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[:1] == ([] if name == "cron" else [lines[0]])
    assert name == "cron" or lines[0][0] == "merged and pruned"
    metrics = machine / "var" / "lib" / "node_exporter" / "ckptctl.prom"
    assert metrics.exists() == (name != "kubernetes")
    # When something is wrong cron has something to mail.
    shutil.rmtree(machine / "models" / "ctr")
    done = run(machine, *command_line(name))
    assert done.returncode == 10
    assert done.stderr.startswith("ckptctl: error: ")


def commands() -> Iterator[tuple[str, str]]:
    """Return (file, command line) of each `ckptctl` that a reader may copy."""
    for path in sorted(CONTRIB.rglob("*")):
        if path.is_file():
            text = path.read_text()
            quoted = re.findall(r"`(ckptctl [a-z][^`]*)`", text)
            blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            lines = [line for block in blocks for line in block.splitlines()]
            for line in [*quoted, *(each for each in lines if each.startswith("ckptctl "))]:
                yield str(path.relative_to(CONTRIB)), line


@pytest.mark.parametrize(("file", "line"), sorted(set(commands())))
def test_every_command_that_is_named_exists(file: str, line: str) -> None:
    line = re.sub(r"{{.*?}}", "/models/ctr", line).partition(" > ")[0]
    _, name, *args = shlex.split(line)
    assert name in COMMANDS
    command: click.Command = import_module(f"ckptctl.commands.{name}").command
    command.make_context(name, args, parent=click.Context(cli, info_name="ckptctl"))


def test_readme_names_every_file() -> None:
    text = (CONTRIB / "README.md").read_text()
    linked = set(re.findall(r"\]\(([^)]*)\)", text))
    assert all((CONTRIB / name).exists() for name in linked)
    for path in CONTRIB.iterdir():
        assert path.name == "README.md" or any(name.startswith(path.name) for name in linked)


def test_readme_says_what_a_found_file_may_set() -> None:
    paragraphs = (CONTRIB / "README.md").read_text().split("\n\n")
    (told,) = [each for each in paragraphs if "may come from anyone" in each]
    may, may_not = told.split("It may not")
    assert set(re.findall(r"`([a-z-]+)`", may_not)) == set(OF_RUN)
    policies = {key for key, why in OF_DIRECTORY.items() if why in ("gate", "policy", "state")}
    assert set(re.findall(r"`([a-z-]+)`", may)) >= set(OF_DIRECTORY) - policies


# --- the checkers ---------------------------------------------------------------------


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze: apt-get install systemd"
)
def test_systemd_finds_no_fault_in_the_units(tmp_path: Path) -> None:
    for path in (CONTRIB / "systemd").iterdir():
        # It looks whether the program is there.
        text = path.read_text().replace("/usr/local/bin/ckptctl", "/bin/sh")
        (tmp_path / path.name).write_text(text)
    units = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_may_write_where_it_has_to() -> None:
    found = service()
    writable = [path.lstrip("-") for path in found["ReadWritePaths"].split()]
    settings = tomllib.loads((CONTRIB / "compact.toml").read_text())["compact"]
    for path in (*settings["directories"], settings["metrics"]):
        assert any(Path(path).is_relative_to(each) for each in writable)
    cache = Path("/var/cache") / found["CacheDirectory"]
    assert found["Environment"] == f"XDG_CACHE_HOME={cache}"
    assert found["SuccessExitStatus"].split() == ["11", "143"]


def test_cron_gets_a_schedule_and_a_user() -> None:
    minute, hour, day, month, weekday, user, _ = cron_line()
    assert minute.isdigit()
    assert (hour, day, month, weekday) == ("*",) * 4
    assert user == service()["User"]
    # Without a line break at its end cron passes over the last line.
    assert (CONTRIB / "cron" / "ckptctl").read_text().endswith("\n")


@pytest.mark.parametrize("kind", ["ConfigMap", "CronJob"])
def test_kubernetes_finds_no_fault_in_the_manifest(kind: str) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="no kubernetes-validate: pip install kubernetes-validate"
    )
    newest = kubernetes_validate.latest_version()
    kubernetes_validate.validate(manifests()[kind], newest, strict=True)


def test_the_pod_mounts_what_the_settings_name() -> None:
    mounts = [each["mountPath"] for each in container()["volumeMounts"]]
    settings = tomllib.loads(manifests()["ConfigMap"]["data"]["compact.toml"])["compact"]
    config = container()["args"][-1]
    cache = container()["env"][0]["value"]
    for path in (*settings["directories"], config, cache):
        assert any(Path(path).is_relative_to(each) for each in mounts)
    job = manifests()["CronJob"]["spec"]
    assert job["concurrencyPolicy"] == "Forbid"
    # It ends by itself, cleaned up, before Kubernetes ends it.
    waits = ("lock-wait", "writer-wait", "max-duration")
    given = sum(60 * int(settings[key].removesuffix("m")) for key in waits)
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] > given


def promtool() -> str | None:
    beside = Path(sys.executable).parent / "promtool"  # where .ci/run puts it
    return str(beside) if beside.exists() else shutil.which("promtool")


@pytest.mark.skipif(promtool() is None, reason="no promtool: apt-get install prometheus")
@pytest.mark.parametrize("what", [["check", "alerts.yml"], ["test", "alerts_test.yml"]])
def test_prometheus_finds_no_fault_in_the_alerts(what: list[str]) -> None:
    verb, file = what
    done = subprocess.run(
        [str(promtool()), verb, "rules", file], cwd=ALERTS.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_ask_for_metrics_that_are_written(golden: Path, tmp_path: Path) -> None:
    directory, file = str(golden / "deeprec" / "sharded"), tmp_path / "ckptctl.prom"
    found = Measures.of(directory, None, exit_code=0, ended_s=1.0, seconds=1.0)
    write_metrics(str(file), [found])
    text = file.read_text()
    written = set(re.findall(r"^# TYPE (\w+) gauge$", text, re.MULTILINE))
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    asked = {name for rule in rules for name in re.findall(r"ckptctl_\w+", rule["expr"])}
    assert asked <= written
    told = (CONTRIB / "README.md").read_text()
    for name in written:
        assert f"`{name.removeprefix('ckptctl_')}" in told
    tested = (ALERTS.parent / "alerts_test.yml").read_text()
    for rule in rules:
        assert tested.count(f"alertname: {rule['alert']}") >= 2
