"""Directories in memory, a cache of the suite's own for proven pairs, and places to export to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rooms import cache, module_path, tmp_path

__all__ = ["cache", "module_path", "output", "tmp_path"]

#: Format of an export -> a name that means it.
FORMATS = {"parquet": "out", "npz": "out.npz", "safetensors": "out.safetensors"}


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path to export to, its suffix the format."""
    return tmp_path / FORMATS[request.param]
