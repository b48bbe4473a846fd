"""The program: exit codes, signals, pipes, and what it does not import."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import pytest

from ckptctl.commands import main as program

Popen = subprocess.Popen
Probe = Callable[..., "Popen[str]"]


def told(process: Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


# --- every command keeps the house rules ---------------------------------------------


@pytest.mark.parametrize("name", program.COMMANDS)
def test_each_command_says_in_its_help_what_the_house_asks(name: str) -> None:
    command: click.Command = import_module(f"ckptctl.commands.{name}").command
    assert command.name == name
    assert command.get_short_help_str(200) == program.COMMANDS[name]
    assert "Example:\n  " in (command.help or "")
    assert "Exit codes:" in (command.epilog or "")
    options = {name for param in command.params for name in param.opts}
    assert {"--json", "--quiet", "-q"} <= options
    for param in command.params:
        assert not isinstance(param, click.Option) or param.help, param.name


@pytest.mark.parametrize("name", program.COMMANDS)
def test_each_option_is_set_by_the_variable_that_its_name_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = program.cli.get_command(click.Context(program.cli), name)
    assert command is not None
    context = click.Context(command, info_name=name, auto_envvar_prefix=f"CKPTCTL_{name.upper()}")
    for param in command.params:
        if isinstance(param, click.Option):
            (long,) = (each for each in param.opts if each.startswith("--"))
            named = long.removeprefix("--").replace("-", "_").upper()
            monkeypatch.setenv(f"CKPTCTL_{name.upper()}_{named}", "this")
            assert param.resolve_envvar_value(context) == "this", long
            monkeypatch.delenv(f"CKPTCTL_{name.upper()}_{named}")
            # What it is called in Python is nobody's business.
            monkeypatch.setenv(f"CKPTCTL_{name.upper()}_{(param.name or '').upper()}", "that")
            if (param.name or "").upper() != named:
                assert param.resolve_envvar_value(context) is None, long


@pytest.mark.parametrize("name", program.COMMANDS)
def test_each_command_lives_in_one_file_of_bearable_length(name: str) -> None:
    source = Path(str(import_module(f"ckptctl.commands.{name}").__file__))
    assert len(source.read_text().splitlines()) <= 250


def test_help_is_quick_because_it_imports_no_command(run: Callable[..., object]) -> None:
    heavy = ("numpy", "rich", "google", "fastcrc", "concurrent.futures", "asyncio", "tensorflow")
    code = (
        "import sys\nfrom ckptctl.commands.main import main\n"
        "assert main(['--help']) == 0\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
        "print([name for name in sys.modules if name.startswith('ckptctl.commands.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert done[-2] == "[]"
    assert set(json.loads(done[-1].replace("'", '"'))) == {
        "ckptctl.commands.main",
        "ckptctl.commands.failures",
    }
    for name, line in program.COMMANDS.items():
        assert any(name in text and line in text for text in done)


# --- usage ----------------------------------------------------------------------------


def test_no_command_is_usage_with_the_help_on_stderr(run) -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr


def test_a_slip_of_the_pen_gets_a_suggestion(run) -> None:
    done = run("megre")
    assert done.returncode == 2
    assert "did you mean `ckptctl merge`?" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "args",
    [
        ("ls", "--no-such-option"),
        ("ls", "--last", "0"),
        ("ls", "--older", "soon"),
        ("ls", "a", "b"),
        ("ls", "--sort", "colour"),
        ("ls", "-C", "a", "b"),
        ("ls", ""),
        ("ls", "-C", ""),
        ("completion", "tcsh"),
        ("completion",),
        ("--no-such-option",),
    ],
)
def test_usage_is_two_words_and_no_traceback(run, args: tuple[str, ...]) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("ckptctl: error: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("get", "flt", "30317", "--keys-from", ""),
        ("get", "flt", "30317", "--format", "csv", "-o", ""),
        ("prune", "--save-plan", ""),
        ("prune", "--plan", ""),
        ("config", "--config", ""),
    ],
)
def test_what_an_unset_variable_leaves_behind_is_no_file(
    inside, sharded: Path, untouched: Callable[[Path], object], args: tuple[str, ...]
) -> None:
    with untouched(sharded):
        code, out, err = inside(*args, env={"CKPTCTL_DIR": str(sharded)})
    assert (code, out) == (2, "")
    option = next(each for each in args if each.startswith("-") and each != "--format")
    assert err.startswith(f"ckptctl: error: Invalid value for '{option}'")
    assert "the name of the file is empty" in err


def test_usage_under_json_is_one_object_on_stderr(run) -> None:
    done = run("ls", "--json", "--last", "many")
    assert done.returncode == 2
    assert done.stdout == ""
    error = json.loads(done.stderr)
    assert error["schema"] == "ckptctl.error/1"
    assert error["error"] == "UsageError"
    assert error["exit_code"] == 2
    assert "--last" in error["message"]


def test_json_may_be_asked_for_by_the_environment(run, tmp_path: Path) -> None:
    done = run("ls", tmp_path / "none", env={"CKPTCTL_LS_JSON": "true"})
    assert done.returncode == 10
    assert json.loads(done.stderr)["error"] == "NotFoundError"


def test_a_bad_value_from_the_environment_names_its_variable(run) -> None:
    done = run("ls", env={"CKPTCTL_LS_LAST": "many"})
    assert done.returncode == 2
    assert "$CKPTCTL_LS_LAST" in done.stderr


def test_a_variable_that_a_container_sets_is_no_option_of_the_group(run, tmp_path: Path) -> None:
    done = run("ls", tmp_path, env={"CKPTCTL_VERSION": "1"})
    assert done.stdout.splitlines()[-1] == "latest\t-"


GET, JSON, FORMAT = ["get", "flt", "30317"], "CKPTCTL_GET_JSON", "CKPTCTL_GET_FORMAT"
EXCLUSIVE = [
    (GET, "GET_FORMAT=csv", ["--json"], '{"schema": "ckptctl.get/1"'),
    (GET, "GET_FORMAT=json", ["--format", "csv"], "key,state,"),
    (GET, "GET_FORMAT=json", [], '{"schema": "ckptctl.get/1"'),
    (["get", "global_step"], "GET_FORMAT=json", [], '{"schema": "ckptctl.get/1"'),
    (GET, "GET_JSON=1", ["--format", "csv"], "key,state,"),
    (GET, "GET_JSON=1", ["--format", "text"], "target\t"),
    (GET, "GET_JSON=1", [], '{"schema": "ckptctl.get/1"'),
    (["diff", "160", "180"], "DIFF_JSON_LINES=1", ["--json"], '{"schema": "ckptctl.diff/1", "a"'),
    (
        ["diff", "160", "180"],
        "DIFF_JSON=1",
        ["--json-lines"],
        '{"schema": "ckptctl.diff/1", "kind"',
    ),
    (["config"], "CONFIG_TOML=1", ["--json"], '{"schema": "ckptctl.config/1"'),
    (["config"], "CONFIG_JSON=1", ["--toml"], "[compact]"),
]


@pytest.mark.parametrize(("args", "variable", "more", "head"), EXCLUSIVE)
def test_the_command_line_outranks_a_variable_that_it_excludes(
    inside, sharded: Path, args: list[str], variable: str, more: list[str], head: str
) -> None:
    env = dict([f"CKPTCTL_{variable}".split("=")])
    code, out, err = inside(*args, "-C", sharded, *more, env=env)
    assert (code, err) == (0, "")
    assert out.startswith(head)
    assert "\n{" not in out or "lines" in str(more)


@pytest.mark.parametrize(
    ("args", "env", "words"),
    [
        ([*GET, "--json", "--format", "csv"], {}, "--json and --format csv exclude each other"),
        (
            GET,
            {JSON: "1", FORMAT: "npz"},
            f"--json and --format npz exclude each other (from ${JSON} and ${FORMAT})",
        ),
        (["config", "--json", "--toml"], {}, "--json and --toml exclude each other"),
    ],
)
def test_what_excludes_each_other_in_one_place_is_usage(
    inside, sharded: Path, args: list[str], env: dict[str, str], words: str
) -> None:
    code, out, err = inside(*args, "-C", sharded, env=env)
    assert (code, out) == (2, "")
    assert json.loads(err)["message"] == words


# --- the directory --------------------------------------------------------------------


def test_the_directory_is_the_positional_or_c_or_the_variable_or_here(run, sharded: Path) -> None:
    elsewhere = {"CKPTCTL_DIR": "/nowhere", "CKPTCTL_LS_DIR": "/nowhere/else"}
    expected = run("ls", sharded, "--json").stdout
    latest = json.loads(expected)["latest"]
    assert latest is not None
    for args, env, cwd in (
        (("-C", sharded), elsewhere, None),
        ((sharded,), elsewhere, None),
        ((), {"CKPTCTL_DIR": str(sharded)}, None),
        ((), {"CKPTCTL_DIR": "/nowhere", "CKPTCTL_LS_DIR": str(sharded)}, None),
        ((), {"CKPTCTL_DIR": ""}, sharded),
        ((), {}, sharded),
    ):
        done = run("ls", *args, "--json", env=env, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["latest"] == latest


def test_a_missing_directory_is_ten_in_both_forms(run, tmp_path: Path) -> None:
    for place in (tmp_path / "none", Path(__file__)):
        text = run("ls", place)
        assert (text.returncode, text.stdout) == (10, "")
        assert str(place) in text.stderr
        as_json = run("ls", place, "--json")
        assert (as_json.returncode, as_json.stdout) == (10, "")
        assert json.loads(as_json.stderr)["exit_code"] == 10


# --- signals --------------------------------------------------------------------------

WAITING = """
try:
    print("ready", flush=True)
    threading.Event().wait()
finally:
    print("cleaned up", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated by SIGTERM"),
        (signal.SIGHUP, 129, "terminated by SIGHUP"),
    ],
)
def test_a_signal_lets_clean_up_run_and_has_its_exit_code(
    probe: Probe, number: signal.Signals, code: int, word: str
) -> None:
    process = probe(WAITING)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert told(process) == (code, "cleaned up\n", f"ckptctl: {word}\n")


def test_an_interruption_under_json_is_an_object_too(probe: Probe) -> None:
    process = probe(WAITING, "--json")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    code, _, err = told(process)
    assert code == 130
    assert json.loads(err)["error"] == "Interrupted"


def test_a_second_sigterm_does_not_cut_the_clean_up_short(probe: Probe) -> None:
    process = probe(
        """
try:
    print("ready", flush=True)
    threading.Event().wait()
finally:
    print("cleaning", flush=True)
    sys.stdin.readline()
    print("cleaned up", flush=True)
"""
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline() == "cleaning\n"
    process.terminate()
    code, out, _ = told(process)
    assert (code, out) == (143, "cleaned up\n")


def test_nohup_is_respected(probe: Probe) -> None:
    process = probe(
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)".replace(
            "print", "import signal; print"
        ),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert told(process)[:2] == (0, "True\n")


def test_main_leaves_the_signal_handlers_as_it_found_them(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    program.main(["ls", str(tmp_path), "-q"])
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert before == after


# --- pipes and full disks -------------------------------------------------------------


def test_a_reader_that_goes_away_is_141_and_silent(probe: Probe) -> None:
    process = probe(
        """
print("first", flush=True)
sys.stdin.readline()
for _ in range(100_000):
    print("x" * 100)
"""
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "first\n"
    process.stdout.close()
    process.stdin.write("\n")
    process.stdin.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 141


def test_a_reader_that_was_never_there_is_141_however_short_the_answer(probe: Probe) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = probe('print("short")', stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (141, "")


def test_another_broken_pipe_is_no_reader_that_went_away(probe: Probe) -> None:
    process = probe(
        """
import os
reader, writer = os.pipe()
os.close(reader)
os.write(writer, b"x")
"""
    )
    code, _, err = told(process)
    assert code == 1
    assert "BrokenPipeError" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("args", [["--help"], ["completion", "bash"]])
def test_an_answer_that_does_not_fit_on_the_disk_is_no_success(
    bare_env: dict[str, str], args: list[str]
) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ckptctl", *args],
            env=bare_env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 12
    assert done.stderr.startswith("ckptctl: error: no space left on device")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_closed_stdout_cannot_become_a_checkpoint_file(bare_env: dict[str, str]) -> None:
    code = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    inner = (
        "from ckptctl.commands.main import main; import os\n"
        "code = main(['completion', 'bash'])\n"
        "number = os.open('/dev/null', os.O_RDONLY)\n"
        "os._exit(code if number > 2 else 99)"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, code, inner],
        env=bare_env,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["prune", "-C", "{home}", "--min-age", "0s"], 12, "nobody is here to ask"),
        (["compact", "-C", "{home}"], 12, "nobody is here to ask"),
        (["get", "emb", "-C", "{home}", "--keys-from", "-"], 2, "no key is given"),
    ],
)
def test_a_closed_stdin_is_an_empty_one(
    bare_env: dict[str, str], sharded: Path, args: list[str], code: int, words: str
) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m ckptctl "$@" <&-', sys.executable]
        + [arg.format(home=sharded) for arg in args],
        env=bare_env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert words in done.stderr.splitlines()[0]


def test_a_terminal_without_the_letters_gets_escapes_not_a_traceback(probe: Probe) -> None:
    process = probe('print("特")', env={"PYTHONIOENCODING": "ascii"})
    assert told(process)[:2] == (0, "\\u7279\n")


# --- bugs -----------------------------------------------------------------------------


def test_a_bug_is_one_with_a_traceback_and_where_to_report_it(probe: Probe) -> None:
    code, out, err = told(probe('raise KeyError("gone")'))
    assert (code, out) == (1, "")
    assert "Traceback (most recent call last)" in err
    assert "Please report it" in err.splitlines()[-1]


def test_a_bug_under_json_is_one_object(probe: Probe) -> None:
    code, out, err = told(probe('raise KeyError("gone")', "--json"))
    assert (code, out) == (1, "")
    assert "Traceback" in json.loads(err)["traceback"]


def test_an_error_shows_no_control_character_of_a_name(probe: Probe) -> None:
    body = 'raise errors.DamageError("bad tensor", tensor="x\\x1b[2Jy", remedy="look")'
    code, _, err = told(probe(body))
    assert code == 4
    assert err == "ckptctl: error: bad tensor\n  tensor: x\\x1b[2Jy\n  next: look\n"


def test_damage_leads_to_verify_where_nothing_better_is_known(probe: Probe) -> None:
    _, _, err = told(probe('raise errors.HeaderError("bundle header does not parse")'))
    assert err.endswith("next: ckptctl verify --data says what is wrong, and what to do\n")


def test_version_is_one_line(run) -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("ckptctl ")
    assert done.stdout.count("\n") == 1


DIRECTORY_COMMANDS = ("ls", "verify", "prune", "merge", "compact", "unlock", "config")


@pytest.mark.parametrize("name", DIRECTORY_COMMANDS)
def test_what_is_no_directory_is_ten_and_says_which_of_both(inside, tmp_path: Path, name) -> None:
    file = tmp_path / "model.ckpt-100.meta"
    file.write_bytes(b"")
    code, out, err = inside(name, file)
    assert (code, out) == (10, "")
    assert err.startswith(f"ckptctl: error: not a directory\n  file: {file}\n  next: ")
    code, out, err = inside(name, tmp_path / "none")
    assert (code, out) == (10, "")
    assert err.startswith("ckptctl: error: no such directory\n")
    assert err.endswith(f": {tmp_path} is the nearest that is there\n")
