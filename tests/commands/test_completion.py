"""Completion, asked by real shells, and the scripts that are committed."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.commands.main import COMMANDS
from ckptctl.commands.shells import SCRIPTS
from tests.oracle.chain import build_chain, full
from tests.oracle.images import floats

COMPLETIONS = Path(__file__).parents[2] / "completions"
FILES = {"bash": "ckptctl.bash", "zsh": "_ckptctl", "fish": "ckptctl.fish"}
#: As a shell has to be told: a clone may lie below a path with a space.
SOURCES = {shell: f"source {shlex.quote(str(COMPLETIONS / name))}" for shell, name in FILES.items()}

Ask = Callable[..., list[str]]


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(shell) is None, reason=f"no {shell} here: install it to run this test"
    )


@pytest.fixture
def shell_env(bare_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """An environment in which `ckptctl` is a program."""
    program = tmp_path / "bin" / "ckptctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ckptctl "$@"\n')
    program.chmod(0o755)
    return bare_env | {"PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}


@pytest.fixture
def ask(shell_env: dict[str, str], tmp_path: Path) -> Ask:
    """Return what bash would offer for the last of some words."""

    def ask_(*words: str, env: dict[str, str] | None = None) -> list[str]:
        script = (
            f"{SOURCES['bash']}\n"
            'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ckptctl ckptctl\n'
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", script, "bash", "ckptctl", *words],
            env=shell_env | (env or {}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert done.stderr.replace("compopt: not currently executing", "") == done.stderr
        return done.stdout.split()

    return ask_


class Terminal:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self, argv: list[str], env: dict[str, str], cwd: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv, env=env, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, text: str) -> None:
        """Read until `text` shows."""
        deadline = time.monotonic() + 30
        start = len(self.seen)
        while text not in self.seen[start:]:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} never came: {self.seen!r}"
            self.seen += os.read(self.master, 4096).decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


# --- the scripts ----------------------------------------------------------------------


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_committed_script_is_the_one_in_the_code(shell: str) -> None:
    committed = (COMPLETIONS / FILES[shell]).read_text()
    assert committed == SCRIPTS[shell], "run `make completions`"
    assert {path.name for path in COMPLETIONS.iterdir()} == set(FILES.values())


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_command_prints_it_as_text_and_json(run, shell: str) -> None:
    assert run("completion", shell).stdout == SCRIPTS[shell]
    assert json.loads(run("completion", shell, "--json").stdout) == {
        "schema": "ckptctl.completion/1",
        "shell": shell,
        "script": SCRIPTS[shell],
    }
    assert run("completion", shell, "-q").stdout == ""


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in SCRIPTS])
def test_the_shell_finds_no_fault_in_its_script(shell: str) -> None:
    done = subprocess.run(
        [shell, "-n", str(COMPLETIONS / FILES[shell])], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- bash, function by function -------------------------------------------------------


def test_commands_complete(ask: Ask) -> None:
    assert ask("") == list(COMMANDS)
    assert ask("me") == ["merge"]
    assert ask("--ver") == ["--version"]


def test_options_complete(ask: Ask) -> None:
    assert {"--upto", "--dry-run", "--json"} <= set(ask("merge", "--"))
    assert ask("ls", "--sort", "") == ["step", "bytes", "age"]
    assert ask("completion", "z") == ["zsh"]


def test_steps_complete_from_the_directory_newest_first(ask: Ask, sharded: Path) -> None:
    every = ["180", "160", "140", "120", "100"]
    assert ask("merge", str(sharded), "--upto", "") == every
    assert ask("merge", "-C", str(sharded), "--upto", "1") == every
    assert ask("merge", "--upto", "14", env={"CKPTCTL_DIR": str(sharded)}) == ["140"]
    assert ask("merge", str(sharded), "--upto", "=", "18") == ["180"]
    assert ask("merge", str(sharded), "--upto", "=") == every
    assert ask("merge", str(sharded), "--upto=18") == ["--upto=180"]


def test_a_base_completes_from_the_fulls(ask: Ask, sharded: Path) -> None:
    assert ask("merge", str(sharded), "--base", "") == ["160", "100"]


@pytest.mark.parametrize(
    "words",
    [["export", "--table"], ["diff", "100", "160", "--table"], ["show", "--filter"], ["get"]],
)
def test_tables_complete(ask: Ask, sharded: Path, words: list[str]) -> None:
    before = [words[0], "-C", str(sharded), *words[1:]]
    assert ask(*before, "e") == ["emb", "empty_ev"]


def test_quotes_spaces_and_tildes_are_understood(ask: Ask, sharded: Path, tmp_path: Path) -> None:
    sharded.rename(tmp_path / "a b")
    assert ask("merge", "-C", f'"{tmp_path}/a b"', "--upto", "18") == ["180"]
    assert ask("merge", "-C", f"{tmp_path}/a\\ b", "--upto", "18") == ["180"]
    (tmp_path / "a b").rename(tmp_path / "home")
    assert ask("merge", "-C", "~/home", "--upto", "18") == ["180"]


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "garbage"])
def test_a_broken_directory_completes_to_nothing(ask: Ask, tmp_path: Path, kind: str) -> None:
    place = tmp_path / kind
    if kind == "file":
        place.write_text("x")
    elif kind != "missing":
        place.mkdir()
    if kind == "garbage":
        (place / "checkpoint").write_bytes(b"\xff\x00")
        (place / "model.ckpt-x.index").write_bytes(b"")
        (place / ".incremental_checkpoint").write_text("no directory")
    assert ask("merge", str(place), "--upto", "") == []


def test_a_broken_directory_is_no_error_even_to_who_listens(
    shell_env: dict[str, str], tmp_path: Path
) -> None:
    words = {"CKPTCTL_WORDS": "ckptctl\nmerge\nnone\n--upto\n", "CKPTCTL_CWORD": "4"}
    done = subprocess.run(
        ["ckptctl"],
        env=shell_env | words | {"_CKPTCTL_COMPLETE": "answer"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_damaged_checkpoint_still_completes(ask: Ask, sharded: Path) -> None:
    (sharded / "model.ckpt-160.index").write_bytes(b"\x00")
    assert ask("merge", str(sharded), "--upto", "16") == ["160"]


def test_what_nobody_completes_is_silent(ask: Ask) -> None:
    assert ask("no-such-command", "--upto", "1") == []
    assert ask("merge", "--memory", "") == []


def test_completion_imports_neither_numpy_nor_rich(sharded: Path) -> None:
    code = (
        "import sys\nfrom ckptctl.commands.main import main\nassert main([]) == 0\n"
        "print([name for name in ('numpy', 'rich', 'tensorflow') if name in sys.modules])"
    )
    words = {"CKPTCTL_WORDS": f"ckptctl\nmerge\n{sharded}\n--upto\n1", "CKPTCTL_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | words | {"_CKPTCTL_COMPLETE": "answer"},
        capture_output=True,
        text=True,
        check=True,
    )
    *answers, imported = done.stdout.splitlines()
    assert answers[0] == "plain\t180\tincrement"
    assert imported == "[]"


#: Names of tensors, which a stranger chose; the last ones cannot stand in a line.
NAMES = ["a b", "back\\slash:1", "q'uo\"te", "x;touch${IFS}PWN;", "y$(touch PWN)", "~!*#", "特"]
NO_WORDS = ["new\nline", "esc\x1b[0m", "\udcff"]


@pytest.fixture
def named(tmp_path: Path) -> Path:
    tensors = {name: floats(1.0, 2.0) for name in NAMES + NO_WORDS}
    return build_chain(tmp_path, full(10, tensors)).directory


@needs("bash")
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_name_is_inserted_as_one_word_of_bash(
    shell_env: dict[str, str], named: Path, tmp_path: Path, quote: str
) -> None:
    script = (
        f"{SOURCES['bash']}\n"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ckptctl ckptctl; quote=${COMP_WORDS[-1]}\n'
        'for word in "${COMPREPLY[@]}"; do\n'
        "    eval \"printf '%s\\n' $quote$word$quote\"\n"
        "done"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", "ckptctl", "get", "-C", named, quote],
        env=shell_env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert not (tmp_path / "PWN").exists()
    possible = {
        "": NAMES,
        "'": [name for name in NAMES if "'" not in name],
        '"': ["a b", "特"],  # bash has no escape there that it takes away for each of the rest
    }
    offered = [name for name in done.stdout.splitlines() if name != "global_step"]
    assert (offered, done.stderr) == (sorted(possible[quote]), "")


# --- shells as people use them --------------------------------------------------------


@needs("bash")
def test_an_interactive_bash_completes_a_step(
    shell_env: dict[str, str], sharded: Path, tmp_path: Path
) -> None:
    shell = Terminal(["bash", "--norc", "--noprofile", "-i"], shell_env, tmp_path)
    try:
        shell.type(f"PS1='> '; {SOURCES['bash']}; echo rea''dy\n")
        shell.until("ready")
        shell.type(f"echo ckptctl; ckptctl merge {sharded} --upto 18\t")
        shell.until("--upto 180 ")
        shell.type("\x15ckptctl mer\t")
        shell.until("ckptctl merge ")
        shell.type(f"-C {tmp_path}/shar\t")
        shell.until("/sharded")
    finally:
        shell.close()


@pytest.mark.parametrize(
    ("argv", "set_up"),
    [
        pytest.param(["bash", "--norc", "--noprofile", "-i"], "", id="bash", marks=needs("bash")),
        pytest.param(
            ["zsh", "-f", "-i"],
            "unsetopt zle_bracketed_paste; setopt zle; autoload -U compinit; compinit -D\n",
            id="zsh",
            marks=needs("zsh"),
        ),
    ],
)
@pytest.mark.parametrize(("typed", "name"), [("x", NAMES[3]), ("b", NAMES[1]), ("'y", NAMES[4])])
def test_what_a_shell_inserts_is_the_name(
    shell_env: dict[str, str], named: Path, tmp_path: Path, argv, set_up, typed, name
) -> None:
    (tmp_path / "tell").write_text(
        f"#!{sys.executable}\nimport sys\nprint(f'told {{sys.argv[1:]}}')\n"
    )
    (tmp_path / "tell").chmod(0o755)
    shell = Terminal(argv, shell_env | {"TERM": "dumb"}, tmp_path)
    try:
        shell.type(f"PS1='> '\n{set_up}{SOURCES[argv[0]]}\necho rea''dy\n")
        shell.until("\nready")
        # Behind Tab the line is given to another program: a shell reads it, and not ckptctl.
        shell.type(f"ckptctl get -C {named} {typed}\t\x01./tell \n")
        shell.until(f"told {['ckptctl', 'get', '-C', str(named), name]}")
    finally:
        shell.close()
    assert not (tmp_path / "PWN").exists()


@needs("zsh")
def test_an_interactive_zsh_completes_a_step(
    shell_env: dict[str, str], sharded: Path, tmp_path: Path
) -> None:
    shell = Terminal(["zsh", "-f", "-i"], shell_env | {"TERM": "dumb"}, tmp_path)
    try:
        shell.type("PS1='> '; unsetopt zle_bracketed_paste 2>/dev/null; setopt zle\n")
        shell.type(f"autoload -U compinit; compinit -D; {SOURCES['zsh']}\n")
        shell.type("echo rea''dy\n")
        shell.until("\nready")
        shell.type(f"ckptctl merge {sharded} --upto 18\t")
        shell.until("--upto 180")
        shell.type("\x15ckptctl mer\t")
        shell.until("ckptctl merge")
    finally:
        shell.close()


@needs("fish")
def test_fish_completes_steps_with_their_kind(
    shell_env: dict[str, str], sharded: Path, tmp_path: Path
) -> None:
    code = (
        f"{SOURCES['fish']}\n"
        f"complete -C 'ckptctl merge {sharded} --upto 1'\n"
        f"complete -C 'ckptctl merge -C {tmp_path}/shar'\n"
        "complete -C 'ckptctl mer'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", code],
        env=shell_env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        "180\tincrement",
        "160\tfull",
        "140\tincrement",
        "120\tincrement",
        "100\tfull",
    ]
    assert any(line.startswith(f"{tmp_path}/sharded/") for line in lines)
    assert f"merge\t{COMMANDS['merge']}" in lines
