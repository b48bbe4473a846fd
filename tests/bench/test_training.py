"""The bench of what a training costs goes through, with what a Saver is today."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from bench.goals import GOALS

ROOT = Path(__file__).parents[2]


def test_every_figure_is_measured(tmp_path: Path, tf: ModuleType) -> None:
    found = tmp_path / "found.json"
    sizes = ["--rows", "4000", "--steps", "5", "--rounds", "1", "--json", str(found)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "bench.training", *sizes]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(found.read_text())["figures"]
    for goal in GOALS:
        if goal.pattern.startswith("training/"):
            assert any(goal.stars(name) is not None for name in figures), goal.pattern
