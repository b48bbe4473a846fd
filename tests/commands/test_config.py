"""`ckptctl config` and settings files: what outranks what, and what a file may say."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest

from ckptctl.commands import settings_file
from ckptctl.commands.options import key_of
from ckptctl.commands.settings_file import NEVER, OF_DIRECTORY, OF_RUN

FIELDS = {"name", "value", "text", "origin", "source"}


@pytest.fixture
def compact() -> click.Command:
    command: click.Command = import_module("ckptctl.commands.compact").command
    return command


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a settings file into a checkpoint directory, or elsewhere."""

    def write_(text: str, place: str = "models/ckptctl.toml") -> Path:
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write_


@pytest.fixture
def ask(inside) -> Callable[..., tuple[int, str, str]]:
    """Run `config` in this process."""
    return functools.partial(inside, "config")


@pytest.fixture
def shown(ask, tmp_path: Path) -> Callable[..., dict[str, tuple[object, str, str | None]]]:
    """Return name to (value, origin, source) as `config --json` says."""

    def shown_(*args: object, env: dict[str, str] | None = None) -> dict:
        code, out, err = ask(*(args or (tmp_path / "models",)), "--json", env=env)
        assert (code, err) == (0, "")
        document = json.loads(out)
        assert document["schema"] == "ckptctl.config/1"
        assert all(set(each) == FIELDS for each in document["settings"])
        rows = document["settings"]
        return {each["name"]: (each["value"], each["origin"], each["source"]) for each in rows}

    return shown_


@pytest.fixture
def refused(ask, tmp_path: Path) -> Callable[..., str]:
    """Return what `config` says of a file that it refuses."""

    def refused_(*args: object, code: int = 2) -> str:
        found, out, err = ask(*(args or (tmp_path / "models",)))
        assert (found, out) == (code, ""), err
        return err

    return refused_


# --- what outranks what ---------------------------------------------------------------


def test_each_value_comes_with_its_origin(write, shown) -> None:
    path = write('[compact]\nkeep-last = 3\nmin-bytes = "2GiB"\nmin-interval = "6h"\n')
    found = shown(env={"CKPTCTL_COMPACT_MIN_BYTES": "5MB", "CKPTCTL_COMPACT_ADD_NEW": "1"})
    assert found["keep-last"] == (3, "file", str(path))
    assert found["min-interval"] == (21600, "file", str(path))
    assert found["min-bytes"] == (5_000_000, "environment", "CKPTCTL_COMPACT_MIN_BYTES")
    assert found["add-new"] == (True, "environment", "CKPTCTL_COMPACT_ADD_NEW")
    assert found["min-age"] == (600, "default", None)
    assert found["keep-daily"] == (None, "default", None)


def test_every_option_of_compact_is_shown(shown, write, compact: click.Command) -> None:
    write("")
    assert set(shown()) == {key_of(param) for param in compact.params}


def test_an_empty_variable_sets_nothing(write, shown) -> None:
    path = write("[compact]\nkeep-last = 3\n")
    assert shown(env={"CKPTCTL_COMPACT_KEEP_LAST": ""})["keep-last"] == (3, "file", str(path))


def test_a_named_file_stands_instead_of_the_found_one(write, shown, tmp_path: Path) -> None:
    write("[compact]\nkeep-last = 3\nkeep-daily = 7\n")
    named = write("[compact]\nkeep-last = 5\n", "mine.toml")
    found = shown(tmp_path / "models", "--config", named)
    assert found["keep-last"] == (5, "file", str(named))
    assert found["keep-daily"] == (None, "default", None)
    by_variable = shown(env={"CKPTCTL_COMPACT_CONFIG": str(named)})
    assert by_variable["keep-last"] == found["keep-last"]
    assert shown("--config", "/dev/null", tmp_path / "models")["keep-last"][1] == "default"


def test_options_that_may_be_given_again_are_lists(write, shown) -> None:
    write('[compact]\nkeep-step = [100, "0120"]\n')
    assert shown()["keep-step"][0] == [100, 120]
    by_variable = shown(env={"CKPTCTL_COMPACT_KEEP_STEP": "5 6"})["keep-step"]
    assert by_variable == ([5, 6], "environment", "CKPTCTL_COMPACT_KEEP_STEP")


def test_paths_in_a_named_file_count_from_the_file(write, shown, tmp_path: Path) -> None:
    named = write('[compact]\ndirectories = ["a", "/b"]\nmetrics = "c.prom"\n', "etc/f.toml")
    found = shown("--config", named)
    assert found["directories"][0] == [str(tmp_path / "etc" / "a"), "/b"]
    assert found["metrics"][0] == str(tmp_path / "etc" / "c.prom")


def test_a_list_of_no_directories_is_not_the_current_one(write, refused) -> None:
    named = write("[compact]\ndirectories = []\n", "mine.toml")
    assert "names none" in refused("--config", named)


def test_text_says_the_same(run, write, tmp_path: Path) -> None:
    path = write('[compact]\nkeep-step = [100, 120]\nmin-interval = "6h"\nadd-new = true\n')
    env = {"CKPTCTL_COMPACT_MIN_BYTES": "5MB"}
    done = run("config", tmp_path / "models", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["setting", "value", "origin", "source"]
    rows = {line[0]: line[1:] for line in lines[1:]}
    assert rows["keep-step"] == ["100 120", "file", str(path)]
    assert rows["min-interval"] == ["6h", "file", str(path)]
    assert rows["add-new"] == ["yes", "file", str(path)]
    assert rows["min-bytes"] == ["5MB", "environment", "CKPTCTL_COMPACT_MIN_BYTES"]
    assert rows["min-age"] == ["10m", "default", "-"]
    assert rows["keep-last"] == ["-", "default", "-"]
    assert rows["keep-missing"] == ["no", "default", "-"]


def test_the_toml_that_it_prints_says_the_same(ask, write, shown, tmp_path: Path) -> None:
    write('[compact]\nkeep-step = [100]\nmin-ratio = 0.25\nadd-new = true\nincrements = "all"\n')
    env = {"CKPTCTL_COMPACT_MIN_INTERVAL": "1.5h", "CKPTCTL_COMPACT_KEEP_LAST": "4"}
    before = shown(env=env)
    code, printed, err = ask(tmp_path / "models", "--toml", env=env)
    assert (code, err) == (0, "")
    write(printed)
    after = shown()
    assert {key: each[0] for key, each in after.items()} == {
        key: each[0] for key, each in before.items()
    }
    assert {after[key][1] for key, each in before.items() if each[1] != "default"} == {"file"}
    # Every other setting that may stand there stands there as a comment.
    for key in OF_DIRECTORY:
        assert any(line.lstrip("# ").startswith(f"{key} = ") for line in printed.splitlines())


def test_any_name_comes_back_from_the_toml(ask, write, shown) -> None:
    names = ["/naïve 🙂", '/a"b\\c', "/tab\t", "/del\x7f", "/line\nbreak"]
    words = ", ".join(json.dumps(each, ensure_ascii=False) for each in names)
    named = write(f"[compact]\ndirectories = [{words}]".replace("\x7f", "\\u007f"), "mine.toml")
    code, printed, _ = ask("--config", named, "--toml")
    assert code == 0
    assert printed.count("\n") == len(printed.splitlines())
    assert shown("--config", write(printed, "again.toml"))["directories"][0] == names


def test_what_is_commented_out_is_toml_as_well(ask, write, tmp_path: Path, refused) -> None:
    write("")
    printed = ask(tmp_path / "models", "--toml")[1]
    write("\n".join(line.removeprefix("# ") for line in printed.splitlines()))
    assert "compact.keep-last: 'N'" in refused()  # and not that it does not parse


def test_toml_and_json_exclude_each_other(ask) -> None:
    code, out, err = ask("--toml", "--json")
    assert (code, out, json.loads(err)["exit_code"]) == (2, "", 2)


def test_a_bad_variable_is_named(ask) -> None:
    code, _, err = ask(env={"CKPTCTL_COMPACT_MIN_AGE": "5"})
    assert code == 2
    assert "$CKPTCTL_COMPACT_MIN_AGE" in err


# --- files that are refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[compact]\nkeep_last = 3", ["'keep_last'", "did you mean keep-last?"]),
        ("[compact]\nkep-last = 3", ["'kep-last'", "did you mean keep-last?"]),
        ("[compact]\nzzz = 3", ["'zzz'", "keep-last", "min-increments"]),
        ("[compct]\nkeep-last = 3", ["no table 'compct'", "did you mean compact?"]),
        ("[merge]\n[compact]\n", ["no table 'merge'", "[compact]"]),
        ("keep-last = 3", ["no key 'keep-last'", "[compact]"]),
        ("compact = 3", ["compact is no table"]),
        ("[[compact]]\nkeep-last = 3", ["compact is no table"]),
        ("[compact]\nkeep-last = true", ["compact.keep-last", "bool"]),
        ("[compact]\nkeep-last = 3.7", ["compact.keep-last", "'3.7'"]),
        ("[compact]\nkeep-last = 0", ["compact.keep-last", "x>=1"]),
        ("[compact]\nkeep-last = [3]", ["compact.keep-last", "list"]),
        ("[compact]\nkeep-last = 2026-01-01", ["compact.keep-last", "date"]),
        ("[compact]\nkeep-last = {a = 1}", ["compact.keep-last", "dict"]),
        ("[compact]\nkeep-step = 100", ["compact.keep-step", "keep-step = [...]"]),
        ("[compact]\nkeep-step = [true]", ["compact.keep-step", "bool"]),
        ("[compact]\nmin-interval = 6", ["compact.min-interval", "90s, 10m"]),
        ("[compact]\nmin-bytes = 5", ["compact.min-bytes", "500MB"]),
        ("[compact]\nmin-ratio = nan", ["compact.min-ratio", "'nan'"]),
        ("[compact]\nmin-ratio = inf", ["compact.min-ratio", "'inf'"]),
        ("[compact]\nadd-new = 1", ["compact.add-new", "true or false"]),
        ('[compact]\nadd-new = "true"', ["compact.add-new", "true or false"]),
        ('[compact]\nincrements = "some"', ["compact.increments", "'auto'"]),
        ("[compact\nkeep-last = 3", ["do not parse", "line 1"]),
        ("[compact]\nkeep-last = 3\nkeep-last = 4", ["do not parse"]),
        ("[compact]\nkeep-last = " + "[" * 5000, ["do not parse"]),
        ("[compact]\nkeep-last = 0x" + "f" * 5000, ["compact.keep-last"]),
    ],
)
def test_a_file_that_cannot_be_meant_is_usage(write, refused, text: str, said: list[str]) -> None:
    path = write(text)
    answer = refused()
    for words in [str(path), *said]:
        assert words in answer
    named = write(text, "mine.toml")
    assert str(named) in refused("--config", named)


def test_what_is_no_text_is_usage(write, refused) -> None:
    write("").write_bytes(b"[compact]\n# \xff\n")
    assert "UTF-8" in refused()


def test_escapes_in_a_key_do_not_reach_a_terminal(write, refused) -> None:
    write('[compact]\n"\\u001b[31mred" = 3\n')
    assert "\x1b" not in refused()


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_named_file_that_is_none_is_usage(refused, tmp_path: Path, name: str) -> None:
    assert str(tmp_path / name) in refused("--config", tmp_path / name)


def test_an_absurdly_long_file_is_refused(write, refused) -> None:
    long = "#" * 70_000
    write(long)
    assert "absurdly long" in refused(code=12)
    assert "absurdly long" in refused("--config", write(long, "mine.toml"))


def test_a_link_in_a_checkpoint_directory_is_not_followed(write, refused, shown) -> None:
    elsewhere = write("[compact]\nkeep-last = 3\n", "elsewhere.toml")
    link = write("")
    link.unlink()
    link.symlink_to(elsewhere)
    assert "symbolic link" in refused(code=12)
    # Whoever names it means it: Kubernetes mounts a ConfigMap as links.
    assert shown("--config", link)["keep-last"][0] == 3


def test_what_is_no_regular_file_is_refused(write, refused) -> None:
    path = write("")
    path.unlink()
    os.mkfifo(path)
    assert "not a regular file" in refused(code=12)
    path.unlink()
    path.mkdir()
    assert "not a regular file" in refused(code=12)


# --- who may set what -----------------------------------------------------------------


def test_each_option_of_compact_is_classified(compact: click.Command) -> None:
    """A new option has to say whether a file in a checkpoint directory may set it."""
    keys = [key_of(param) for param in compact.params]
    assert sorted(keys) == sorted([*OF_DIRECTORY, *OF_RUN, *NEVER])
    assert not set(OF_DIRECTORY) & set(OF_RUN) | set(OF_RUN) & set(NEVER)
    assert all([*OF_DIRECTORY.values(), *OF_RUN.values(), *NEVER.values()])


def _sample(param: click.Parameter) -> str:
    if getattr(param, "is_flag", False):
        return "true"
    word = {"duration": '"1h"', "size": '"1MB"', "choice": '"step"'}.get(param.type.name, '"1"')
    return f"[{word}]" if param.multiple or param.nargs != 1 else word


@pytest.mark.parametrize("key", [*OF_RUN, *NEVER])
def test_a_found_file_may_not_set_what_concerns_more_than_its_directory(
    write, refused, compact: click.Command, key: str
) -> None:
    param = next(param for param in compact.params if key_of(param) == key)
    path = write(f"[compact]\n{key} = {_sample(param)}\n")
    answer = refused()
    assert str(path) in answer
    assert f"compact.{key}" in answer
    assert {**OF_RUN, **NEVER}[key] in answer


@pytest.mark.parametrize("key", [*OF_DIRECTORY, *OF_RUN, *NEVER])
def test_a_named_file_may_set_the_rest(
    write, shown, refused, compact: click.Command, key: str
) -> None:
    param = next(param for param in compact.params if key_of(param) == key)
    sample = '"auto"' if key == "increments" else _sample(param)
    named = write(f"[compact]\n{key} = {sample}\n", "mine.toml")
    if key in NEVER:
        assert NEVER[key] in refused("--config", named)
    else:
        assert shown("--config", named)[key][1] == "file"


def test_an_option_that_nobody_classified_is_refused(
    write, monkeypatch: pytest.MonkeyPatch, compact: click.Command
) -> None:
    path = write("[compact]\nbwlimit = '1MB'\n")
    less = {key: why for key, why in OF_DIRECTORY.items() if key != "bwlimit"}
    monkeypatch.setattr(settings_file, "OF_DIRECTORY", less)
    with pytest.raises(settings_file.UsageError, match="bwlimit"):
        settings_file.find_settings(str(path.parent), compact)
