"""The scripts under `examples/`, run as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from ckptctl import find_chains, scan_directory

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_monitored_session_goes_on_where_it_stopped(tmp_path: Path) -> None:
    arguments = ["--dir", str(tmp_path), "--steps", "20", "--pause", "0.1", "--increment-secs", "1"]
    assert first_step(run("monitored_session.py", *arguments)) in (0, 1)
    assert find_chains(scan_directory(str(tmp_path))).scan.increments
    assert first_step(run("monitored_session.py", *arguments)) in (20, 21)


def first_step(said: str) -> int:
    """Return the first step that the seed's loop fetches, beside the op that moves it."""
    return int(said.split()[1])


@pytest.mark.skipif(
    not hasattr(tf, "estimator"), reason="no tf.estimator here; .ci/run has TensorFlow 2.15"
)
def test_estimator(tmp_path: Path) -> None:
    assert "loaded:" in run("estimator.py")
