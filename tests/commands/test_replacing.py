"""What is written to a name that the user gives overwrites nothing that is not ours."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ckptctl.commands.replacing import check_replaceable
from ckptctl.errors import RefusedError
from tests.inspect.spoils import as_nobody

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


@pytest.mark.parametrize("words", EACH)
def test_a_path_that_nothing_can_be_written_to_is_said_before_anything_is_read(
    run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "inside").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, code, said in (
        ("nowhere/x", 10, "the output's directory does not exist\n  file: nowhere\n"),
        ("file/x", 10, "the output's directory does not exist\n  file: file\n"),
        ("inside", 12, "would overwrite what is there\n  file: inside\n  found: a directory\n"),
        ("pipe", 12, "would overwrite what is there\n  file: pipe\n  found: no regular"),
    ):
        done = run(*words, name, cwd=tmp_path)  # where no checkpoint lies
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr


def test_a_directory_that_is_not_ours_to_write_to() -> None:
    with TemporaryDirectory(dir="/tmp") as home:
        room = Path(home) / "room"
        room.mkdir()
        with as_nobody(room), pytest.raises(RefusedError, match="may not write") as caught:
            check_replaceable("-o", str(room / "x"))
        assert caught.value.file == str(room)


@needs_plotly
@pytest.mark.parametrize("words", [WRITERS["show"], WRITERS["diff"]], ids=["show", "diff"])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_answer_is_given_before_the_page_is_written(
    run, sharded: Path, words: tuple[str, ...], form: list[str]
) -> None:
    done = run(*words, "x" * 250, *form, cwd=sharded)  # its temporary has too long a name
    assert done.returncode == 12
    assert done.stdout == run(*words[:-1], *form, cwd=sharded).stdout


@pytest.mark.parametrize("words", EACH)
@pytest.mark.parametrize("target", ["there", "gone", "/proc/self/fd/1"])
def test_no_link_is_replaced(
    run, sharded: Path, tmp_path: Path, words: tuple[str, ...], target: str
) -> None:
    """`/dev/stdout` is one: as root it would be a file from then on."""
    link = tmp_path / "link"
    (tmp_path / "there").write_text("")
    link.symlink_to(target)
    done = run(*words, link, cwd=sharded)
    assert (done.returncode, done.stdout) == (12, "")
    assert "found: a symbolic link" in done.stderr
    assert (os.readlink(link), (tmp_path / "there").read_text()) == (target, "")
