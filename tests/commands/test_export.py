"""`ckptctl export`: text and JSON, exit codes, and what its manual shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.oracle.chain import Tensor, build_chain, flip, full, table

ROOT = Path(__file__).parents[2]
FIELDS = {
    "schema",
    "dry_run",
    "target",
    "output",
    "format",
    "replaces",
    "rows",
    "bytes_to_write",
    "contents",
    "skipped",
    "notes",
}


@pytest.fixture
def document(run) -> Callable[..., dict]:
    """Run `export --json` and return the document."""

    def ask(*args: object) -> dict:
        done = run("export", *args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return ask


def test_the_document_is_the_plan_and_the_result(document, sharded: Path, tmp_path: Path) -> None:
    found = document("latest", "-C", sharded, "-o", tmp_path / "out.npz")
    assert set(found) == FIELDS | {"result"}
    assert found["schema"] == "ckptctl.export/1"
    assert (found["format"], found["dry_run"], found["replaces"]) == ("npz", False, False)
    assert found["target"]["step"] == 180
    assert set(found["result"]) == {"output", "files", "bytes", "rows", "seconds"}
    assert found["result"]["bytes"] == found["bytes_to_write"]
    assert (tmp_path / "out.npz").stat().st_size == found["bytes_to_write"]
    with np.load(tmp_path / "out.npz") as loaded:
        for each in found["contents"]:
            for word, name in each["names"].items():
                assert list(loaded[name].shape) == each["arrays"][word]["shape"]


def test_text_says_the_same(run, document, sharded: Path, tmp_path: Path) -> None:
    plan = document(f"{sharded}@160", "-o", tmp_path / "out", "--dry-run")
    done = run("export", f"{sharded}@160", "-o", tmp_path / "out", "-j", 1)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["export", "the state at step 160: model.ckpt-160"]
    assert lines[1][:2] == ["to", str(tmp_path / "out")]
    listed = {
        (line[0], line[1]): line[-1]
        for line in lines
        if line[0] in ("member", "filtered", "tensor")
    }
    assert listed == {(each["kind"], each["name"]): each["file"] for each in plan["contents"]}
    assert lines[-1][:2] == ["exported", str(tmp_path / "out")]
    assert f"rows={plan['rows']}" in lines[-1]


@pytest.mark.parametrize("name", ["out", "out.npz", "out.safetensors"])
def test_a_dry_run_writes_nothing(run, untouched, sharded: Path, tmp_path: Path, name: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    env = {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    args = ("export", "140", "-C", sharded, "-o", tmp_path / name, "-n", "--json")
    with untouched(tmp_path):
        found = json.loads(run(*args, env=env).stdout)
    assert found["dry_run"] is True
    assert "result" not in found


def test_some_tables(document, sharded: Path, tmp_path: Path) -> None:
    found = document(
        "180", "-C", sharded, "-o", tmp_path / "x", "--format", "npz", "--table", "i32"
    )
    assert {each["table"] for each in found["contents"]} == {"i32"}


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("latest", "--table", "i23"), 10, "did you mean 'i32'?"),
        (("170",), 10, "170"),
        (("latest", "--format", "csv"), 2, "csv"),
        ((), 2, "TARGET"),
        (("latest", "-o", ""), 2, "is empty"),
    ],
)
def test_what_cannot_be(run, sharded: Path, tmp_path: Path, args, code: int, words: str) -> None:
    done = run("export", "-C", sharded, "-o", tmp_path / "out", *args)
    assert done.returncode == code
    assert "\n  next: " in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_exists_is_refused(run, sharded: Path, tmp_path: Path) -> None:
    args = ("export", "latest", "-C", sharded, "-o", tmp_path / "out")
    assert run(*args, "-q").stdout == ""
    done = run(*args)
    assert (done.returncode, "--overwrite" in done.stderr) == (12, True)
    assert run(*args, "--overwrite").returncode == 0


@pytest.mark.parametrize("name", ["out", "out.npz", "out.safetensors"])
def test_damage_is_4_and_nothing_lies_there(run, tmp_path: Path, name: str) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", range(50), slots=())))
    flip(Path(f"{chain.full_prefix(10)}.data-00000-of-00001"), 50 * 8 + 3)
    done = run("export", "10", "-C", chain.directory, "-o", tmp_path / name)
    assert done.returncode == 4
    assert "emb-values" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"chain"}


def test_what_was_left_out_is_3_and_still_told(run, tmp_path: Path) -> None:
    words = {"words": Tensor("string", (1,), [b"x"])}
    chain = build_chain(tmp_path, full(10, table("emb", range(3)), words))
    done = run("export", "10", "-C", chain.directory, "-o", tmp_path / "x.safetensors", "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["skipped"] == [{"name": "words", "reason": "safetensors has no string"}]
    assert json.loads(done.stderr)["error"] == "PartialFailure"
    assert (tmp_path / "x.safetensors").exists()


def test_without_pyarrow_it_says_what_to_install(run, sharded: Path, tmp_path: Path) -> None:
    room = tmp_path / "hidden"
    room.mkdir()
    (room / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'pyarrow' else find(name, *rest)\n"
    )
    env = {"PYTHONPATH": f"{room}:{ROOT}"}
    done = run("export", "latest", "-C", sharded, "-o", tmp_path / "out", env=env)
    assert done.returncode == 2
    assert "pip install 'ckptctl[parquet]'" in done.stderr
    done = run("export", "latest", "-C", sharded, "-o", tmp_path / "out.npz", env=env)
    assert done.returncode == 0


def manual() -> list[tuple[str, str]]:
    """Return the blocks of the manual: (language, code)."""
    text = (ROOT / "docs" / "export.md").read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_manual_run(run, bare_env, sharded: Path, tmp_path: Path) -> None:
    """Its commands first, in a directory with the chain, then each loader in turn."""
    shutil.copytree(sharded, tmp_path / "models" / "ctr")
    loaders = set()
    for language, code in manual():
        if language == "sh":
            for line in code.splitlines():
                done = run(*line.removeprefix("ckptctl ").split())
                assert (done.returncode, done.stderr) == (0, ""), line
        elif language == "python":
            loaders |= set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
            done = subprocess.run(
                [sys.executable, "-W", "error", "-c", code],
                cwd=tmp_path,
                env=bare_env,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
    assert loaders >= {"pyarrow", "polars", "numpy", "safetensors"}


def test_what_is_whole_of_a_damaged_bundle(run, sharded: Path, tmp_path: Path) -> None:
    prefix = sharded / "model.ckpt-160"
    whole = run("export", prefix, "--salvage", "-o", tmp_path / "whole.npz")
    assert (whole.returncode, whole.stderr) == (0, "")
    flip(sharded / "model.ckpt-160.data-00000-of-00002", 5000)
    refused = run("export", prefix, "-o", tmp_path / "out.npz")
    assert (refused.returncode, (tmp_path / "out.npz").exists()) == (4, False)
    would = run("export", prefix, "--salvage", "-o", tmp_path / "out.npz", "-n")
    assert (would.returncode, (tmp_path / "out.npz").exists()) == (3, False)
    assert would.stderr.startswith("ckptctl: error: 1 item would be left out: ")
    assert "\n  next: without --dry-run what is left is written\n" in would.stderr
    done = run("export", prefix, "--salvage", "-o", tmp_path / "out.npz", "--json")
    (left_out,) = json.loads(done.stdout)["skipped"]
    assert (done.returncode, left_out["reason"].split(" (")[0]) == (
        3,
        "tensor does not match its checksum",
    )
    error = json.loads(done.stderr)
    assert (error["message"][:15], error["tensor"]) == ("1 item left out", left_out["name"])
    assert error["remedy"].startswith("what is left is written, and")
    with np.load(tmp_path / "out.npz") as found, np.load(tmp_path / "whole.npz") as before:
        assert set(found) <= set(before)
        manifest = json.loads(found["_ckptctl_export"].tobytes())
    assert manifest["skipped"] == [left_out]


def test_a_state_is_not_salvaged(run, sharded: Path, tmp_path: Path) -> None:
    done = run("export", "180", "-C", sharded, "--salvage", "-o", tmp_path / "out.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"give the prefix of a bundle, such as {sharded}/model.ckpt-160" in done.stderr
