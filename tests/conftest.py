"""Fixtures and markers shared by the whole suite."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
# Where .ci/run puts it, so that a developer who ran it once keeps the tests.
TF115_VENV = ROOT / ".venv-tf115"

# TensorFlow reads these before its first Python line could set them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


def tf115_python() -> str | None:
    """Return the interpreter that has TensorFlow 1.15, or None."""
    named = os.environ.get("CKPTCTL_TF115_PYTHON")
    if named:
        return named
    cached = TF115_VENV / "bin" / "python"
    return str(cached) if cached.exists() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by fixture, and skip with the reason that ends the skip."""
    if "torture" not in config.getoption("markexpr"):  # hours, which nobody asked for
        long = [item for item in items if item.get_closest_marker("torture")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
    no_tensorflow = pytest.mark.skip(
        reason="no TensorFlow in this environment; `make test` makes one that has it"
    )
    no_tf115 = pytest.mark.skip(
        reason="no TensorFlow 1.15; `.ci/run` makes .venv-tf115 where Python 3.7 is at hand, "
        "or name an interpreter in CKPTCTL_TF115_PYTHON"
    )
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    has_tf115 = tf115_python() is not None
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "tf" in fixtures:
            item.add_marker("tensorflow")
        if "run_tf115" in fixtures:
            item.add_marker("tf115")
        if item.get_closest_marker("tensorflow") and not has_tensorflow:
            item.add_marker(no_tensorflow)
        if item.get_closest_marker("tf115") and not has_tf115:
            item.add_marker(no_tf115)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the directory of the golden bundles; nothing may write to it."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def tf() -> ModuleType:
    """Return TensorFlow 2, imported without its warnings about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow
    return tensorflow


@pytest.fixture(scope="session")
def run_tf115() -> Callable[..., str]:
    """Return a function that runs a script under TensorFlow 1.15.

    It takes the source, or the path of a file, and arguments; it returns stdout and
    fails with stderr if the script does.
    """

    def run(script: str | Path, *args: object) -> str:
        python = tf115_python()
        assert python is not None
        head = [python, str(script)] if isinstance(script, Path) else [python, "-c", script]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [*head, *map(str, args)],
            env=env | {"PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    return run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(path)]
    if os.getuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root mounts a disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
