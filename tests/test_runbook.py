"""What docs/runbook.md says happens, happens, on a chain that DeepRec wrote."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import pytest

from ckptctl.storage.lock import directory_lock
from tests.oracle.chain import flip

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "runbook.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
STEPS = (100, 120, 140, 160, 180)
TEMPORARY = "model.ckpt-200_temp_" + "0123456789abcdef" * 2
LEFT = ".incremental_checkpoint/incremental_model.ckpt-190.data-00000-of-00002"


@pytest.fixture
def chain(golden: Path, tmp_path: Path) -> Path:
    """The chain of the runbook, written two hours ago in the order of its steps."""
    directory = tmp_path / "ckpt"
    shutil.copytree(golden / "deeprec" / "sharded", directory)
    (directory / "expected.json").unlink()
    return dated(directory)


def dated(directory: Path) -> Path:
    for path in directory.rglob("*"):
        step = path.name.split("ckpt-")[-1].split(".")[0].split("_")[0]
        minutes = STEPS.index(int(step)) if step.isdigit() and int(step) in STEPS else 60
        os.utime(path, (time.time() - 7200 + 60 * minutes,) * 2)
    return directory


# --- how it comes to that ---------------------------------------------------------------


@contextmanager
def full_disk(chain: Path) -> Iterator[None]:
    """Lie on a disk of its own that has no byte left."""
    if os.geteuid():
        pytest.skip("run as root to mount a small disk")
    away = chain.rename(chain.with_name("away"))
    chain.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(chain)], check=True)
    try:
        shutil.copytree(away, chain, dirs_exist_ok=True)
        fill = ["dd", "if=/dev/zero", f"of={chain / 'core'}", "bs=4k", "status=none"]
        assert subprocess.run(fill, stderr=subprocess.PIPE, check=False).returncode == 1
        yield
    finally:
        subprocess.run(["umount", str(chain)], check=True)


def corrupt(chain: Path) -> AbstractContextManager[None]:
    flip(chain / "model.ckpt-160.data-00000-of-00002", 5000)
    dated(chain)
    return nullcontext()


def lost(chain: Path) -> AbstractContextManager[None]:
    """It is in a copy, which is found when the rest is done."""
    copy = chain.with_name("copy")
    copy.mkdir()
    for path in chain.glob("model.ckpt-160.*"):
        path.rename(copy / path.name)
    return nullcontext()


def died(chain: Path) -> AbstractContextManager[None]:
    (chain / TEMPORARY).mkdir()
    (chain / TEMPORARY / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x" * 5000)
    (chain / LEFT).write_bytes(b"x" * 900)
    dated(chain)
    return nullcontext()


def rolled_back(chain: Path) -> AbstractContextManager[None]:
    for room, name in ((".", "model.ckpt-100"), (".incremental_checkpoint", INCREMENT)):
        lines = f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
        (chain / room / "checkpoint").write_text(lines)
    dated(chain)
    return nullcontext()


INCREMENT = "incremental_model.ckpt-120"


def emptied(chain: Path) -> AbstractContextManager[None]:
    (chain / "checkpoint").write_text("")
    dated(chain)
    return nullcontext()


def moved(chain: Path) -> AbstractContextManager[None]:
    for path in chain.rglob("checkpoint"):
        room = "/old/place/" if path.parent == chain else "/old/place/.incremental_checkpoint/"
        path.write_text(re.sub('"(.+)"', rf'"{room}\1"', path.read_text()))
    dated(chain)
    return nullcontext()


@contextmanager
def held(chain: Path) -> Iterator[None]:
    with directory_lock(str(chain)):
        yield


SCENES: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "The disk is full": full_disk,
    "A shard is corrupt": corrupt,
    "The base of the increments is lost": lost,
    "The trainer died": died,
    "The run was rolled back": rolled_back,
    "The state file is empty, broken or gone": emptied,
    "The directory was moved or copied": moved,
    "Another ckptctl holds the directory": held,
}


# --- and what then happens ----------------------------------------------------------------


def test_every_section_has_its_scene() -> None:
    assert list(SECTIONS) == list(SCENES)
    assert all("$ ckptctl " in section for section in SECTIONS.values())


@pytest.mark.parametrize("title", SCENES)
def test_the_runbook(chain: Path, tmp_path: Path, title: str) -> None:
    blocks = re.findall(r"```\n(.+?)```", SECTIONS[title], re.DOTALL)
    with SCENES[title](chain):
        said = ""
        for line in "".join(blocks).splitlines():
            if line.startswith("$ "):
                said = do(line[2:], chain, tmp_path)
            else:
                assert any(in_order(line, each) for each in said.splitlines()), (line, said)


def test_the_run_is_rolled_back_while_cron_is_kept_out(chain: Path, tmp_path: Path) -> None:
    (edits,) = re.findall(r"\$ (flock .+)", SECTIONS["The run was rolled back"])
    lock, compact = shlex.split(edits)[:2], "-m ckptctl compact /data/ckpt --keep-last 1 --yes"
    do(f"{shlex.join(lock)} {sys.executable} {compact}    # exit 11", chain, tmp_path)
    do(edits, chain, tmp_path)
    for _ in range(2):
        assert "latest\t120" in do("ckptctl ls /data/ckpt", chain, tmp_path)
        do("ckptctl compact /data/ckpt --keep-last 1 --yes", chain, tmp_path)


def do(line: str, chain: Path, tmp_path: Path) -> str:
    """Run a command of the runbook and return what it said."""
    command, _, code = line.partition("    # exit ")
    words = [
        word.replace("/data/ckpt", str(chain)).replace("/data/", f"{tmp_path}/")
        for word in shlex.split(command)
    ]
    if words[0] == "ckptctl":
        words[:1] = [sys.executable, "-m", "ckptctl"]
    if words[-2] == ">":
        Path(words.pop()).write_text(f"{words[1]}\n")
        words = ["true"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == int(code or 0), (line, done)
    text = f"{done.stdout}{done.stderr}"
    return text.replace(str(chain), "/data/ckpt").replace(f"{tmp_path}/", "/data/")


def in_order(words: str, line: str) -> bool:
    """Return whether the words of one line stand in another in this order."""
    at = 0
    for word in words.split():
        at = line.find(word, at) + len(word)
        if at < len(word):
            return False
    return True
