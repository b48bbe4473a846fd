"""What is written to a name that the user gives overwrites nothing that is not ours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

WRITERS = {
    "plan": ("prune", ".", "--save-plan"),
    "get": ("get", "emb", "62456", "--format", "csv", "-o"),
    "show": ("show", "--html"),
    "diff": ("diff", "100", "160", "--html"),
}
needs_plotly = pytest.mark.skipif(
    importlib.util.find_spec("plotly") is None, reason="pip install 'ckptctl[html]'"
)
EACH = [
    pytest.param(words, marks=needs_plotly if "--html" in words else (), id=name)
    for name, words in WRITERS.items()
]


@pytest.mark.parametrize("words", EACH)
@pytest.mark.parametrize(
    "name", ["model.ckpt-100.index", "model.ckpt-100.data-00000-of-00002", "checkpoint", "x.meta"]
)
def test_no_file_of_a_checkpoint_is_overwritten(
    run, sharded: Path, untouched: Callable, words: tuple[str, ...], name: str
) -> None:
    (sharded / "x.meta").write_bytes(b"graph")
    with untouched(sharded):
        done = run(*words, name, cwd=sharded)
    assert (done.returncode, done.stdout) == (12, "")
    assert f"would overwrite what is there\n  file: {name}\n" in done.stderr
    assert "next: name another file" in done.stderr


@pytest.mark.parametrize("words", [each for each in EACH if each.id != "get"])
def test_only_an_older_document_of_the_same_kind_is_replaced(
    run, sharded: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "there"
    file.write_text("thesis")
    assert run(*words, file, cwd=sharded).returncode == 12
    assert file.read_text() == "thesis"
    for content in ("", None):  # empty, as mktemp leaves it; then our own
        if content is not None:
            file.write_text(content)
        done = run(*words, file, cwd=sharded)
        assert done.returncode == 0, done.stderr
        assert file.stat().st_size > 100
