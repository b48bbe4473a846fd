"""What the README shows runs, on a chain that DeepRec wrote."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
QUESTIONS = TEXT[TEXT.index("## Questions") :]
COMMANDS = re.findall(r"^\$ ckptctl (.+?)(?: +#.*)?$", QUESTIONS, re.MULTILINE)
CODE = re.findall(r"```python\n(import ckptctl\n.+?)```", QUESTIONS, re.DOTALL)


@pytest.fixture
def home(golden: Path, tmp_path: Path) -> Path:
    shutil.copytree(golden / "deeprec" / "sharded", tmp_path / "ckpt")
    return tmp_path


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "CKPTCTL_DIR": str(home / "ckpt"),
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    return subprocess.run(
        [sys.executable, *command], cwd=home, env=env, capture_output=True, text=True
    )


def test_it_is_installed_from_a_clone_with_each_extra() -> None:
    """Nothing of that name is on PyPI yet."""
    block = re.search(r"## Install\n.+?```\n(.+?)```", TEXT, re.DOTALL)
    assert block is not None
    asked = [shlex.split(line, comments=True)[2:] for line in block[1].splitlines()]
    declared = re.search(r"optional-dependencies\]\n(.+?)\n\n", PROJECT, re.DOTALL)
    assert declared is not None
    extras = re.findall(r"^(\w+) = ", declared[1], re.MULTILINE)
    assert sorted(asked) == sorted([["."], *([f".[{extra}]"] for extra in extras)])


def test_an_extra_that_is_asked_for_is_one() -> None:
    files = [*ROOT.glob("ckptctl/**/*.py"), ROOT / "README.md", *ROOT.glob("docs/*.md")]
    asked = {extra for path in files for extra in re.findall(r"ckptctl\[(\w+)\]", path.read_text())}
    assert asked
    assert all(f"\n{extra} = [" in PROJECT for extra in asked)


def test_there_is_something_to_run() -> None:
    assert len(COMMANDS) == 15
    assert len(CODE) == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_question_of_the_readme(home: Path, command: str) -> None:
    if "--html" in command:
        pytest.importorskip("plotly", reason="install plotly: .ci/run has it in its main run")
    words = shlex.split(command.replace("/data/ckpt", str(home / "ckpt")))
    done = run(home, "-m", "ckptctl", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout or "-o" in words


def test_the_library(home: Path) -> None:
    done = run(home, "-c", CODE[0].replace("/data/ckpt", str(home / "ckpt")))
    assert done.returncode == 0, done.stderr
    assert "model.ckpt-180" in done.stdout
