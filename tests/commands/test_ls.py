"""`ckptctl ls`: text, rows and JSON; in time, at any width."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.inspect.listing import list_directory

CHECKPOINT = {
    "kind",
    "step",
    "prefix",
    "bytes",
    "shards",
    "tensors",
    "tables",
    "keys",
    "mtime",
    "in_state_file",
    "status",
}
INCREMENTS = ".incremental_checkpoint"


@pytest.fixture
def document(run) -> Callable[..., dict]:
    """Run `ls --json` and return the document."""

    def ask(*args: object) -> dict:
        done = run("ls", *args, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout)

    return ask


@pytest.fixture
def on_terminal(bare_env: dict[str, str]) -> Callable[..., str]:
    """Run ckptctl on a terminal of some width and return what it wrote."""

    def draw(*args: object, width: int = 100, env: dict[str, str] | None = None) -> str:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "ckptctl", *map(str, args)],
            env=bare_env | (env or {}),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        written = b""
        # A terminal whose last program has gone answers with EIO.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 65536):
                written += piece
        os.close(master)
        assert process.wait(timeout=30) == 0, written
        return written.decode().replace("\r\n", "\n")

    return draw


def rows(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


# --- what scripts rely on -------------------------------------------------------------


def test_the_document_has_the_promised_fields(document, sharded: Path) -> None:
    found = document(sharded)
    assert next(iter(found)) == "schema"
    assert found["schema"] == "ckptctl.ls/1"
    assert found["directory"] == str(sharded)
    assert found["restore_points"] == [100, 120, 140, 160, 180]
    assert found["latest"] == 180
    assert [chain["base"]["step"] for chain in found["chains"]] == [100, 160]
    assert [[each["step"] for each in chain["increments"]] for chain in found["chains"]] == [
        [120, 140],
        [180],
    ]
    assert [chain["restorable_to"] for chain in found["chains"]] == [140, 180]
    assert [chain["problems"] for chain in found["chains"]] == [[], []]
    assert found["chains"][0]["nested"] is None, "nobody has compared 120 with 140 yet"
    assert found["orphans"] == found["others"] == found["leftovers"] == []
    base = found["chains"][1]["base"]
    assert set(base) >= CHECKPOINT
    assert base["prefix"] == str(sharded / "model.ckpt-160")
    files = [path for path in sharded.iterdir() if path.name.startswith("model.ckpt-160.")]
    assert base["bytes"] == sum(path.stat().st_size for path in files)
    assert base["mtime"] == pytest.approx((sharded / "model.ckpt-160.index").stat().st_mtime)
    known = {key: base[key] for key in ("kind", "step", "shards", "tensors", "tables", "status")}
    assert known == {
        "kind": "full",
        "step": 160,
        "shards": 2,
        "tensors": 144,
        "tables": 5,
        "status": "ok",
    }
    assert base["in_state_file"] is True
    assert base["keys"] > 0
    increment = found["chains"][0]["increments"][0]
    assert increment["kind"] == "increment"
    assert increment["status"] == "stale"


def test_text_says_the_same_as_the_document(run, document, sharded: Path) -> None:
    (sharded / "model.ckpt-200_temp_00ff").mkdir()
    found = document(sharded)
    done = run("ls", sharded)
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = rows(done.stdout)
    listed = [
        dict(zip(head, line, strict=True)) for line in lines if line[0] in ("full", "increment")
    ]
    expected = [each for c in found["chains"] for each in (c["base"], *c["increments"])]
    assert len(listed) == len(expected) == 5
    for line, each in zip(listed, expected, strict=True):
        assert line["kind"] == each["kind"]
        assert int(line["step"]) == each["step"]
        assert line["status"] == each["status"]
        assert int(line["bytes"]) == each["bytes"]
        assert int(line["keys"]) == each["keys"]
        assert int(line["tensors"]) == each["tensors"]
        assert int(line["tables"]) == each["tables"]
        assert int(line["shards"]) == each["shards"]
        assert line["name"] == each["prefix"]
        assert line["listed"] == ("yes" if each["in_state_file"] else "no")
        assert (line["restorable"] == "yes") == (each["step"] in found["restore_points"])
    chains = [line for line in lines if line[0] == "chain"]
    assert chains == [
        ["chain", "100", "restorable to step 140"],
        ["chain", "160", "restorable to step 180"],
    ]
    (leftover,) = (line for line in lines if line[0] == "leftover")
    assert leftover[-1] == found["leftovers"][0]["path"]
    assert lines[-1] == ["latest", "180"]


def test_quiet_says_nothing(run, sharded: Path) -> None:
    done = run("ls", sharded, "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_listing_writes_nothing(run, sharded: Path, untouched) -> None:
    with untouched(sharded):
        run("ls", sharded)
        run("ls", sharded, "--json")


def test_an_empty_directory_is_no_error_but_is_said(run, document, tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir()
    done = run("ls", place)
    assert done.returncode == 0
    assert rows(done.stdout)[-1] == ["latest", "-"]
    assert "no checkpoint in" in done.stderr
    found = document(place)
    assert (found["latest"], found["chains"]) == (None, [])


# --- what a chain can look like -------------------------------------------------------


def test_damage_is_a_status_and_a_problem_not_a_failure(run, document, sharded: Path) -> None:
    (sharded / INCREMENTS / "incremental_model.ckpt-180.index").write_bytes(b"short")
    (sharded / "model.ckpt-100.data-00001-of-00002").unlink()
    found = document(sharded)
    assert found["latest"] == 160
    old, new = found["chains"]
    assert (old["base"]["status"], new["increments"][0]["status"]) == ("incomplete", "damaged")
    assert new["increments"][0]["tensors"] is None
    assert [problem["code"] for problem in new["problems"]] == ["damaged"]
    assert "model.ckpt-100.data-00001-of-00002" in old["problems"][0]["message"]
    done = run("ls", sharded)
    assert done.returncode == 0
    problems = [line for line in rows(done.stdout) if line[0] == "problem"]
    assert problems[-1][:3] == ["problem", "160", "damaged"]
    (damaged,) = (
        line for line in rows(done.stdout) if "damaged" in line[:3] and line[0] != "problem"
    )
    assert damaged.count("-") == 4


@pytest.mark.parametrize("name", ["incremental_model.ckpt-180.index", ""], ids=["index", "room"])
def test_what_cannot_be_read_is_told_beside_the_newest_state(
    run, document, sharded: Path, name: str
) -> None:
    path = sharded / INCREMENTS / name
    path.rename(sharded.parent / "away")
    path.symlink_to("not-mounted")
    found = document(sharded)
    assert found["latest"] == 160
    (told,) = (each["message"] for each in found["problems"] if each["code"] == "unread")
    assert told.endswith(": so it is not known which state is the newest")
    done = run("ls", sharded)
    assert (done.returncode, done.stderr) == (0, f"ckptctl: warning: {told}\n")
    assert rows(done.stdout)[-1] == ["latest", "160"]
    assert run("ls", sharded, "-q").stderr == ""


def test_orphans_others_and_leftovers_are_listed(run, document, sharded: Path) -> None:
    for path in sharded.glob("model.ckpt-1*"):
        path.rename(path.with_name(path.name.replace("model.ckpt", "old")))
    (sharded / "model.ckpt-300.data-00000-of-00001").write_bytes(b"x" * 10)
    (sharded / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-400"\n')
    found = document(sharded)
    assert found["chains"] == []
    assert {each["step"] for each in found["orphans"]} == {120, 140, 180}
    assert {each["status"] for each in found["orphans"]} == {"orphan"}
    assert {each["status"] for each in found["others"]} == {"other"}
    assert {each["kind"] for each in found["others"]} == {"full"}
    (leftover,) = found["leftovers"]
    assert leftover["bytes"] == 10
    assert leftover["age_s"] >= 0
    kinds = [line[0] for line in rows(run("ls", sharded).stdout)]
    assert kinds.count("increment") == 3
    assert kinds.count("full") == 2
    assert kinds.count("leftover") == 1


def test_names_with_control_characters_are_escaped(run, document, sharded: Path) -> None:
    nasty = "bad\x1b[2J\tname\nnext-7"
    for path in sharded.glob("model.ckpt-100.*"):
        path.rename(path.with_name(path.name.replace("model.ckpt-100", nasty)))
    text = run("ls", sharded).stdout
    assert "\x1b" not in text
    assert all(len(line) in (2, 3, 4, 13) for line in rows(text))
    assert r"bad\x1b[2J\tname\nnext-7" in text
    (other,) = document(sharded)["others"]
    assert other["prefix"] == str(sharded / nasty)


def test_what_a_merge_has_compared_is_known_to_the_listing(
    run, document, sharded: Path, tmp_path: Path
) -> None:
    for path in [*sharded.glob("model.ckpt-160.*"), *sharded.glob(f"{INCREMENTS}/*-180.*")]:
        path.unlink()
    (sharded / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-100"\n')

    def seen() -> tuple[object, list[str]]:
        (chain,) = document(sharded)["chains"]
        return chain["nested"], [each["status"] for each in chain["increments"]]

    assert seen() == (None, ["ok", "ok"])
    assert run("merge", sharded, "-o", tmp_path / "model.ckpt-140").returncode == 0
    assert seen() == (True, ["superseded", "ok"])


# --- order and choice -----------------------------------------------------------------


@pytest.fixture
def three(sharded: Path) -> Path:
    """Chains 100 (two increments), 160 (one) and 200 (none), 200 the oldest and smallest."""
    for path in sharded.rglob("*"):
        os.utime(path)  # of now, however old the files are that they are copies of
    for path in sharded.glob("model.ckpt-100.*"):
        copy = path.with_name(path.name.replace("100", "200"))
        copy.write_bytes(path.read_bytes())
        os.utime(copy, (time.time() - 90_000, time.time() - 90_000))
    return sharded


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ((), [100, 160, 200]),
        (("--sort", "step"), [100, 160, 200]),
        (("--sort", "bytes"), [200, 160, 100]),
        (("--last", 1), [200]),
        (("--last", 2), [160, 200]),
        (("--last", 9), [100, 160, 200]),
        (("--sort", "bytes", "--last", 1), [100]),
        (("--older", "1d"), [200]),
        (("--newer", "1d"), [100, 160]),
        (("--newer", "1d", "--last", 1), [160]),
        (("--older", "2w"), []),
    ],
)
def test_order_and_choice_are_of_chains(document, three: Path, args, steps: list[int]) -> None:
    found = document(three, *args)
    assert [chain["base"]["step"] for chain in found["chains"]] == steps
    assert found["restore_points"] == document(three)["restore_points"]


def test_by_age_the_youngest_comes_first(document, three: Path) -> None:
    steps = [chain["base"]["step"] for chain in document(three, "--sort", "age")["chains"]]
    assert steps[-1] == 200


def test_options_can_be_set_by_the_environment(run, three: Path) -> None:
    done = run("ls", three, "--json", env={"CKPTCTL_LS_LAST": "1", "CKPTCTL_LS_SORT": "bytes"})
    (chain,) = json.loads(done.stdout)["chains"]
    assert chain["base"]["step"] == 100


def test_assumed_order_is_passed_on(document, sharded: Path) -> None:
    """By the clock 160 was rolled back; by its step it is the newest."""
    (sharded / "checkpoint").unlink()
    (sharded / INCREMENTS / "checkpoint").unlink()
    for number, name in enumerate(("model.ckpt-160", "model.ckpt-100")):
        os.utime(sharded / f"{name}.index", (1000.0 + 100 * number,) * 2)

    def statuses(*args: object) -> dict[int, str]:
        return {c["base"]["step"]: c["base"]["status"] for c in document(sharded, *args)["chains"]}

    assert statuses() == {100: "ok", 160: "abandoned"}
    assert statuses("--assume-order", "step") == {100: "ok", 160: "ok"}


# --- terminals ------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 50, 80, 100, 160])
def test_at_any_width_no_line_is_too_long_and_no_digit_lost(
    on_terminal, sharded: Path, width: int
) -> None:
    text = on_terminal("ls", width=width, env={"CKPTCTL_DIR": str(sharded), "NO_COLOR": "1"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    # The first line, a path, is written before its width matters: the terminal breaks it.
    head, *lines = plain.splitlines()
    assert head.startswith(f"{sharded}: 2 fulls, 3 increments, ")
    assert max(map(len, lines)) <= width
    assert "…" not in plain
    for step in ("100", "120", "140", "160", "180"):
        assert re.search(rf"^(full|increment) +{step} +(ok|stale)\b", plain, re.MULTILINE)
    assert "incremental_model.ckpt-180" in plain or width < 130
    assert "\t" not in plain


def test_a_terminal_gets_colour_unless_refused(on_terminal, sharded: Path) -> None:
    assert "\x1b[32mok" in on_terminal("ls", sharded)
    assert "\x1b[3" not in on_terminal("ls", sharded, env={"NO_COLOR": "1"})
    assert "\x1b" not in on_terminal("ls", sharded, env={"TERM": "dumb"})
    assert "\x1b[32mok" in on_terminal("ls", sharded, env={"NO_COLOR": ""})


def test_a_file_gets_no_colour_whatever_force_color_says(run, sharded: Path) -> None:
    plain, forced = run("ls", sharded), run("ls", sharded, env={"FORCE_COLOR": "1"})
    assert "\x1b" not in forced.stdout
    assert forced.stderr == ""
    assert [line[:3] for line in rows(forced.stdout)] == [line[:3] for line in rows(plain.stdout)]


# --- processes ------------------------------------------------------------------------


def test_head_takes_one_line_and_leaves_141(bare_env: dict[str, str], sharded: Path) -> None:
    for _ in range(200):
        (sharded / f"model.ckpt-{1000 + _}.index").write_bytes(
            (sharded / "model.ckpt-100.index").read_bytes()
        )
    script = '"$0" -m ckptctl ls "$1" | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable, str(sharded)],
        env=bare_env,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    first, code = done.stdout.splitlines()
    assert first.startswith("kind\tstep\tstatus")
    assert (code, done.stderr) == ("141", "")


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 fulls and 100 increments of 500 tensors each."""
    import numpy as np

    from ckptctl.bundle import BundleWriter

    place = tmp_path_factory.mktemp("large")
    (place / INCREMENTS).mkdir()
    for kind, template in (
        ("full", place / "model.ckpt-0"),
        ("increment", place / INCREMENTS / "incremental_model.ckpt-0"),
    ):
        suffixes = (
            ("keys", "values", "versions", "freqs", "keys_filtered", "versions_filtered",
             "freqs_filtered", "partition_offset", "partition_filter_offset")
            if kind == "full"
            else ("sparse_incr_keys", "sparse_incr_values", "sparse_incr_versions",
                  "sparse_incr_freqs", "incr_partition_offset")
        )  # fmt: skip
        with BundleWriter(str(template)) as writer:
            for table in range(55):
                for suffix in suffixes:
                    shape = (3, 4) if suffix.endswith("values") else (3,)
                    if suffix.endswith("filtered"):
                        shape = (0,)
                    dtype = np.float32 if suffix.endswith("values") else np.int64
                    array = np.zeros(shape, dtype)
                    if suffix.endswith("offset"):
                        array = np.full(1001, 0 if "filter" in suffix else 3, np.int32)
                        array[0] = 0
                    writer.add(f"table_{table}-{suffix}", array)
            writer.add("global_step", np.array(0, np.int64))
            for number in range(499 - 55 * len(suffixes)):
                writer.add(f"dense_{number}", np.zeros(2, np.float32))
    for number in range(1, 11):
        for step in range(1000 * number, 1000 * number + 101, 10):
            full = step == 1000 * number
            stem = "model.ckpt" if full else f"{INCREMENTS}/incremental_model.ckpt"
            for suffix in (".index", ".data-00000-of-00001"):
                os.link(f"{place}/{stem}-0{suffix}", f"{place}/{stem}-{step}{suffix}")
    for stem in ("model.ckpt", f"{INCREMENTS}/incremental_model.ckpt"):
        for suffix in (".index", ".data-00000-of-00001"):
            os.unlink(f"{place}/{stem}-0{suffix}")
    return place


def test_the_first_chain_is_listed_before_the_last_is_read(large: Path) -> None:
    """So that its lines stand on the terminal at once; how soon is measured, not tested."""
    listing = list_directory(str(large))
    first = next(listing.chains())
    assert len(first.increments) == 10
    last = listing._chains.chains[-1]
    assert not any("_read" in vars(each) for each in last.increments)
    assert "_read" in vars(listing._chains.chains[0].increments[0])


def test_the_large_one_is_listed_whole(document, large: Path) -> None:
    found = document(large)
    assert [len(chain["increments"]) for chain in found["chains"]] == [10] * 10
    assert {chain["base"]["tensors"] for chain in found["chains"]} == {499 + 1}


def test_listing_imports_neither_numpy_nor_tensorflow(sharded: Path) -> None:
    code = (
        "import sys\nfrom ckptctl.commands.main import main\n"
        f"assert main(['ls', {str(sharded)!r}]) == 0\n"
        "print([name for name in ('numpy', 'rich', 'tensorflow', 'asyncio', "
        "'concurrent.futures', 'multiprocessing') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("width", [50, 80, 100, 120])
def test_a_stranger_keeps_its_name_at_any_width(on_terminal, sharded: Path, width: int) -> None:
    name = "best_exporter_of_the_evaluation_run.ckpt-100"
    for path in sharded.glob("model.ckpt-100.*"):
        shutil.copy(path, sharded / path.name.replace("model.ckpt-100", name))
    chains, _, others = on_terminal("ls", sharded, width=width).partition("other checkpoints")
    assert name in re.sub(r"\s", "", others)[-400:] or width == 50
    assert "best_exporter_o" in others
    assert " kB" in others
    # And costs the others nothing of theirs.
    assert ("model.ckpt-160" in chains) == (width >= 120)
