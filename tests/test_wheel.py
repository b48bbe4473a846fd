"""The built wheel, without extras, in an environment that has nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: object, **kwargs: object) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CKPTCTL"))}
    done = subprocess.run(
        list(map(str, command)),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        **kwargs,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` of an environment that holds the wheel and what it requires."""
    base = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", base, ROOT)
    (wheel,) = base.glob("*.whl")
    binaries = base / "env" / "bin"
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if uv:
        run(uv, "venv", "--quiet", "--python", sys.executable, base / "env")
        run(uv, "pip", "install", "--quiet", "--python", binaries / "python", wheel)
    else:
        run(sys.executable, "-m", "venv", base / "env")
        run(binaries / "python", "-m", "pip", "install", "--quiet", wheel)
    return binaries


def test_the_wheel_is_typed_and_alone(bare: Path) -> None:
    script = """
import importlib.metadata, importlib.util, pathlib, ckptctl
assert (pathlib.Path(ckptctl.__file__).parent / "py.typed").exists()
assert ckptctl.__version__ == importlib.metadata.version("ckptctl")
for absent in ("tensorflow", "pytest", "cramjam"):
    assert importlib.util.find_spec(absent) is None, absent
"""
    run(bare / "python", "-c", script, cwd="/")


def test_every_public_name_loads_without_tensorflow(bare: Path) -> None:
    script = "import ckptctl; [getattr(ckptctl, name) for name in ckptctl.__all__]"
    run(bare / "python", "-W", "error", "-c", script, cwd="/")


def test_importing_the_package_imports_no_numpy(bare: Path) -> None:
    script = "import sys, ckptctl; assert not {'numpy', 'google.protobuf'} & set(sys.modules)"
    run(bare / "python", "-c", script, cwd="/")


def test_help(bare: Path) -> None:
    assert "merge" in run(bare / "ckptctl", "--help")
    assert run(bare / "ckptctl", "--help") == run(bare / "python", "-m", "ckptctl", "--help")


def test_ls_and_merge(bare: Path, golden: Path, tmp_path: Path) -> None:
    directory = tmp_path / "chain"
    shutil.copytree(golden / "deeprec" / "sharded", directory)
    listing = json.loads(run(bare / "ckptctl", "ls", directory, "--json"))
    assert listing["schema"] == "ckptctl.ls/1"
    assert listing["latest"] == 180
    merged = json.loads(run(bare / "ckptctl", "merge", directory, "--json"))
    assert merged["result"]["step"] == 180
    assert (directory / "model.ckpt-180.index").exists()
    assert 180 in [
        chain["base"]["step"]
        for chain in json.loads(run(bare / "ckptctl", "ls", directory, "--json"))["chains"]
    ]


def test_compact_with_settings_and_without_prometheus(
    bare: Path, golden: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "chain"
    shutil.copytree(golden / "deeprec" / "sharded", directory)
    (directory / "ckptctl.toml").write_text("[compact]\nmin-increments = 2\n")
    assert "\tfile\t" in run(bare / "ckptctl", "config", directory)
    assert "below --min-increments 2" in run(bare / "ckptctl", "compact", directory, "-n")
    asked = [bare / "ckptctl", "compact", directory, "--metrics", tmp_path / "c.prom"]
    done = subprocess.run([*map(str, asked)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'ckptctl[metrics]'" in done.stderr
