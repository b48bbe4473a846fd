"""`show` gives an answer again without reading, until a file that it rests on is touched."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.chain.memory import recall, remember
from ckptctl.commands.main import main
from ckptctl.inspect.answers import Answers
from ckptctl.inspect.target import find_target
from ckptctl.storage import LOCAL

Show = Callable[..., tuple[int, str, str]]


@pytest.fixture
def chain(golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    room = shutil.copytree(golden / "deeprec" / "sharded", tmp_path / "chain")
    for number, path in enumerate(sorted(room.rglob("*"))):
        os.utime(path, (1_700_000_000 + number,) * 2)
    return room


@pytest.fixture
def show(chain: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    def shown(*args: object) -> tuple[int, str, str]:
        code = main(["show", "-C", str(chain), *map(str, args)])
        return (code, *capsys.readouterr())

    return shown


def no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*args: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("ckptctl.inspect.view.open_view", opened)


QUESTIONS = [
    [],
    ["--json"],
    ["--tensors", "--sort", "bytes", "--top", "3"],
    ["160", "--filter", "emb*"],
    [".incremental_checkpoint/incremental_model.ckpt-180"],
    ["model.ckpt-160.index"],
]


@pytest.mark.parametrize("asked", QUESTIONS, ids=" ".join)
def test_an_answer_is_given_again(
    chain: Path, show: Show, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    asked = [str(chain / word) if "ckpt" in word else word for word in asked]
    first = show(*asked)
    assert first[0] == 0
    assert first[1]
    others = [show(*other) for other in ([], ["--json"], ["160"])]
    no_view(monkeypatch)
    assert show(*asked) == first
    assert first not in others or asked in ([], ["--json"])


def answers(chain: Path, text: str = "latest") -> Answers:
    return Answers(find_target(text, str(chain)), "question", LOCAL)


@pytest.mark.parametrize("text", ["latest", "model.ckpt-160"])
@pytest.mark.parametrize("name", ["model.ckpt-160.index", "model.ckpt-160.data-00001-of-00002"])
def test_until_a_file_is_touched(chain: Path, text: str, name: str) -> None:
    answers(chain, text).remember("text\n", ["note"])
    assert answers(chain, text).recall() == ("text\n", ("note",))
    os.utime(chain / name, (1_700_000_000, 1_700_000_500))
    assert answers(chain, text).recall() is None


def test_another_question_has_another_answer(chain: Path) -> None:
    answers(chain).remember("text\n", [])
    assert answers(chain, "160").recall() is None
    assert Answers(find_target("latest", str(chain)), "other", LOCAL).recall() is None


def test_what_was_just_written_is_not_remembered(chain: Path) -> None:
    os.utime(chain / "model.ckpt-160.index")
    answers(chain).remember("text\n", [])
    assert answers(chain).recall() is None


def test_what_a_user_was_told_he_is_told_again(
    chain: Path, show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    show()
    (note,) = (Path(os.environ["XDG_CACHE_HOME"]) / "ckptctl" / "answers").iterdir()
    head = {"since": time.time(), "notes": ["mind this"]}
    remember(str(note), json.dumps(head).encode() + b"\nan answer\n")
    no_view(monkeypatch)
    assert show() == (0, "an answer\n", "ckptctl: warning: mind this\n")


@pytest.mark.parametrize("asked", [["--stats"], ["--html", "page.html"]], ids=" ".join)
def test_what_reads_the_data_reads_it(
    chain: Path, show: Show, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    if "--html" in asked:
        pytest.importorskip("plotly", reason="plotly is missing: pip install 'ckptctl[html]'")
    monkeypatch.chdir(chain)
    show(*asked)
    no_view(monkeypatch)
    assert show(*asked)[0] == 1


HEADS = {
    "nothing": b"",
    "no JSON": b"\xff\n",
    "a list": b"[]\ntext",
    "no notes": b'{"since": %d}\ntext',
    "old": b'{"since": 1, "notes": []}\ntext',
    "a number": b'{"since": %d, "notes": 5}\ntext',
    "no text": b'{"since": %d, "notes": []}\n\xff',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("head", HEADS)
def test_a_note_that_makes_no_sense_is_none(chain: Path, head: str) -> None:
    asked = answers(chain)
    asked.remember("text\n", [])
    remember(asked._path, HEADS[head].replace(b"%d", b"%d" % time.time()))
    assert answers(chain).recall() is None


def test_so_many_are_kept_and_no_more(chain: Path) -> None:
    target = find_target("latest", str(chain))
    for number in range(20):
        Answers(target, number, LOCAL).remember("text\n", [])
    kept = [Answers(target, number, LOCAL).recall() is not None for number in range(20)]
    assert kept == [False] * 4 + [True] * 16


def test_nobody_has_to_remember(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.knobs.REMEMBER", False)
    asked = answers(chain)
    asked.remember("text\n", [])
    assert asked.recall() is None
    assert recall(asked._path, 100) is None


def test_an_answer_for_the_newest_tells_what_is_newer_now(chain: Path, show: Show) -> None:
    """Also where what was asked for is the same, in the same files."""
    (chain / ".incremental_checkpoint" / "checkpoint").unlink()  # it would be told of what it names
    shards = sorted((chain / ".incremental_checkpoint").glob("*-180.*"))
    aside = [path.rename(chain.parent / path.name) for path in shards]
    assert [show()[2], show()[2]] == ["", ""]
    for path, away in zip(shards[1:], aside[1:], strict=True):  # all but one
        away.rename(path)
    for _ in range(2):
        assert "newer than step 160: incremental_model.ckpt-180: " in show()[2]
    for path in shards[1:]:
        path.unlink()
    assert show()[2] == ""
