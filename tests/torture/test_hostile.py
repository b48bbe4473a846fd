"""Hostile directories: nothing outside is read as ours or removed, and no terminal is written to.

Every command over every scene of `hostile.py`: it ends, with a code of `cli.md` and no traceback;
what lies outside is as it was and nobody read it; no name puts an escape code into the output.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain as joined
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from ckptctl import knobs
from ckptctl.commands.main import COMMANDS
from ckptctl.errors import RefusedError
from ckptctl.merge import execute_merge, execute_prune
from ckptctl.storage.lock import directory_lock
from tests.merge.prunes import here, plan, points
from tests.merge.storages import Hooked
from tests.oracle.chain import INCREMENTS, listing
from tests.torture.hostile import ESC, SCENES, SECRET, Scene, Untouched, build, many_files
from tests.torture.scenes import Said, ckptctl, environment

EXITS = {0, 2, 3, 4, 5, 10, 11, 12}
#: Anything but text: C0 and C1 controls, DEL, and what turns the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: What a terminal gets from ckptctl itself: colour, and lines that are drawn again.
DRAWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[[0-9]*[AK]|\r")

EVERYTHING = ["--orphans", "--abandoned", "--leftovers", "--min-age", "0s", "--keep-last", "1"]
QUESTIONS = [
    ["ls"],
    ["show", "latest"],
    ["show", "first", "--tensors"],
    ["diff", "first", "latest"],
    ["get", "emb", "1"],
    ["get", "emb", "1", "--history"],
    ["verify"],
    ["verify", "--data"],
    ["merge", "-n"],
    ["prune", "-n", *EVERYTHING],
    ["merge", "-o", "{room}/out/x-1", "--relocate"],
    ["export", "latest", "-o", "{room}/out/e", "--format", "npz"],
    ["export", "latest", "-o", "{room}/out/p", "--format", "parquet"],
]
CHANGES = [
    ["merge"],
    ["merge", "--upto", "30"],
    ["merge", "--upto", "30", "--base", "10", "-o", "{dir}/model.ckpt-30", "--overwrite"],
    ["merge", "--relocate", "--increments", "last"],
    ["prune", "--yes"],
    ["prune", "--trash"],
    ["prune", "--yes", *EVERYTHING],
    ["prune", "--trash", *EVERYTHING],
    ["prune", "--yes", "--relocate", *EVERYTHING],
    ["prune", "--save-plan", "{room}/out/plan", *EVERYTHING],
    *([["compact", "--yes", "--min-age", "0s"]] if "compact" in COMMANDS else []),
    *([["unlock"]] if "unlock" in COMMANDS else []),
    *([["config"]] if "config" in COMMANDS else []),
]
#: Where a link to data is followed, as TensorFlow does; nothing is removed through it.
FOLLOWED = {
    "links_to_files_outside": {"outside/secret"},
    "increments_are_outside": {
        "outside/increments",
        "outside/increments/checkpoint",
        *(
            f"outside/increments/incremental_model.ckpt-{step}{suffix}"
            for step in (20, 30, 50)
            for suffix in (".index", ".data-00000-of-00002", ".data-00001-of-00002")
        ),
    },
}


@contextmanager
def in_time(seconds: int = 90) -> Iterator[None]:
    """Fail where a FIFO is waited for; nothing else here takes seconds."""

    def late(number: int, frame: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(scene: Scene, line: list[str]) -> Said:
    words = [word.format(room=scene.room, dir=scene.directory) for word in line]
    with in_time():
        return ckptctl(*words, "-C", scene.directory)


def survives(scene: Scene, name: str, *lines: list[str]) -> None:
    """Run commands, and look at what they say, and outside."""
    for words in lines:
        outside = Untouched(scene)
        said = run(scene, words)
        assert outside.read() <= FOLLOWED.get(name, set()), (words, said)
        assert said.code in EXITS, (words, said)
        for text in (said.out, said.err):
            found = CONTROL.search(text)
            assert found is None, (words, text[max(0, found.start() - 60) : found.end() + 60])
            assert SECRET not in text
        if "--json" in words:
            for each in said.out.splitlines():
                json.loads(each)
        assert outside.changed() == set(), (words, said)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that looks dead is watched for one and a half renewals."""
    monkeypatch.setattr(knobs, "LEASE_RENEW_SECONDS", 0.1)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[str], Scene]:
    rooms = iter(range(1000))

    def build_(name: str) -> Scene:
        room = tmp_path / f"{next(rooms)}"
        (room / "out").mkdir(parents=True)
        return build(room, SCENES[name])

    return build_


#: Those of the suite; `make torture` takes all of them.
QUICK = [
    "all_of_it_has_odd_names",
    "fifos",
    "a_lease_whose_holder_has_an_odd_name",
    "settings_with_odd_words",
    "tensors_with_odd_names",
    "a_log_that_lies",
    "devices",
    "increments_are_outside",
    "marks_that_lie",
    "our_own_files_are_links",
    "our_own_room_is_outside",
    "state_files_lead_elsewhere",
    "the_trash_is_outside",
]


def in_short(names: Sequence[str]) -> list[ParameterSet]:
    """Every scene, all but these for `make torture` alone."""
    late = pytest.mark.torture
    return [pytest.param(name, marks=[] if name in names else [late]) for name in SCENES]


def both(*lines: list[str]) -> Iterator[list[str]]:
    """Each for people and for programs."""
    return joined.from_iterable((line, [*line, "--json"]) for line in lines)


@pytest.mark.parametrize("name", in_short(QUICK))
def test_one_command_of_each_kind(make: Callable[[str], Scene], name: str) -> None:
    scene = make(name)
    lines = [["ls"], ["merge", "--json"], ["verify", "--json"], ["prune", "--yes", *EVERYTHING]]
    survives(scene, name, *lines, *(line for line in CHANGES if line[0] == "compact"))


@pytest.mark.torture
@pytest.mark.parametrize("name", SCENES)
def test_every_question(make: Callable[[str], Scene], name: str) -> None:
    survives(make(name), name, *both(*QUESTIONS))


@pytest.mark.torture
@pytest.mark.parametrize("name", SCENES)
def test_every_change(make: Callable[[str], Scene], name: str) -> None:
    for line in CHANGES:
        survives(make(name), name, *both(line))


@pytest.mark.torture
def test_ten_thousand_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    scene = build(tmp_path, many_files)
    survives(scene, "many_files", *QUESTIONS, ["merge", "--json"], ["prune", "--yes", *EVERYTHING])
    assert points(scene.chain) == {50}


@pytest.mark.parametrize("name", in_short(QUICK[:3]))
def test_completion(
    make: Callable[[str], Scene], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make(name)
    home = str(scene.directory)
    monkeypatch.setenv("_CKPTCTL_COMPLETE", "answer")
    outside = Untouched(scene)
    for words in (
        ["merge", "-C", home, "--upto", ""],
        ["show", "-C", home, ""],
        ["get", "-C", home, ""],
        ["prune", "-C", home, "--keep-step", ""],
    ):
        monkeypatch.setenv("CKPTCTL_WORDS", "\n".join(["ckptctl", *words]))
        monkeypatch.setenv("CKPTCTL_CWORD", str(len(words)))
        with in_time():
            said = ckptctl()
        assert (said.code, said.err) == (0, "")
        assert CONTROL.search(said.out) is None
        for line in said.out.splitlines():
            kind, value, _ = line.split("\t")
            assert kind in ("plain", "dir", "file")
            assert value or kind != "plain"
    assert outside.read() <= FOLLOWED.get(name, set())
    assert outside.changed() == set()


# --- terminals ------------------------------------------------------------------------

EACH_IN_TURN = """
import sys
from ckptctl.commands.main import main
directory, *lines = sys.argv[1:]
for line in lines:
    main([*line.split(), "-C", directory])
"""


def on_a_terminal(scene: Scene, *lines: str) -> str:
    """Return what a terminal is sent, stdout and stderr alike."""
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-c", EACH_IN_TURN, str(scene.directory), *lines]
    child = subprocess.Popen(
        arguments,
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": "400", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    with suppress_end():
        while piece := os.read(ours, 1 << 16):
            pieces.append(piece)
    os.close(ours)
    child.wait(60)
    return b"".join(pieces).decode()


@contextmanager
def suppress_end() -> Iterator[None]:
    """The end of what a pseudo-terminal says is an error."""
    try:
        yield
    except OSError as error:
        if error.errno != 5:
            raise


ON_TERMINALS = [
    "all_of_it_has_odd_names",
    *(
        pytest.param(name, marks=pytest.mark.torture)
        for name in (
            "odd_names",
            "state_files_with_odd_names",
            "a_state_file_that_is_no_text",
            "a_log_that_lies",
            "marks_that_lie",
            "tensors_with_odd_names",
            "all_of_it_is_no_utf8",
            "trash_with_odd_names",
        )
    ),
]


@pytest.mark.parametrize("name", ON_TERMINALS)
def test_a_terminal_gets_no_escape_codes_from_names(
    make: Callable[[str], Scene], name: str
) -> None:
    lines = ["ls", "ls --json", "show latest --tensors", "verify", "verify --json"]
    lines += ["diff first latest", "get emb 1", "merge -n", "prune -n --leftovers --min-age 0s"]
    lines += ["merge", "prune --trash --leftovers --min-age 0s --keep-last 1"]
    said = on_a_terminal(make(name), *lines)
    assert "Traceback" not in said
    assert len(DRAWN.findall(said)) > 10  # colour: it did take it for a terminal
    plain = DRAWN.sub("", said)
    found = CONTROL.search(plain)
    assert found is None, plain[max(0, found.start() - 100) : found.end() + 100]
    assert SECRET not in said


# --- what may not be removed ----------------------------------------------------------


def test_nothing_of_a_temporary_goes_that_we_never_put_there(
    make: Callable[[str], Scene],
) -> None:
    """Its mark says that it is ours, but it holds a directory."""
    scene = make("a_temporary_that_holds_more_than_ours")
    room = scene.path("model.ckpt-50_temp_" + "a" * 32)
    before = listing(room)
    assert run(scene, ["merge"]).code == 0
    assert run(scene, ["prune", "--yes", *EVERYTHING]).code == 0
    assert listing(room) == before
    assert points(scene.chain) == {50}


def test_hard_links_of_a_backup_keep_their_content(make: Callable[[str], Scene]) -> None:
    scene = make("hard_links")
    outside = Untouched(scene)
    assert run(scene, ["merge", "--upto", "30"]).code == 0
    assert run(scene, ["merge"]).code == 0
    assert run(scene, ["prune", "--yes", *EVERYTHING]).code == 0
    assert here(scene.chain) == {"F50"}
    assert outside.changed() == set()


def test_names_without_room_for_a_temporary(make: Callable[[str], Scene]) -> None:
    scene = make("names_as_long_as_can_be")
    before = listing(scene.directory)
    said = run(scene, ["merge"])
    assert (said.code, "too long" in said.err) == (12, True)
    assert {name: info[:3] for name, info in listing(scene.directory).items() if name != "."} == {
        name: info[:3] for name, info in before.items()
    }


def test_a_trash_that_leads_elsewhere_takes_nothing(make: Callable[[str], Scene]) -> None:
    scene = make("the_trash_is_outside")
    assert run(scene, ["merge", "--upto", "30"]).code == 0
    outside = Untouched(scene)
    before = listing(scene.directory)
    line = ["merge", "-o", "{dir}/model.ckpt-30", "--upto", "30", "--base", "10", "--overwrite"]
    said = run(scene, line)
    assert (said.code, "symbolic link" in said.err) == (12, True)
    assert outside.changed() == set()
    assert listing(scene.directory) == before


@pytest.mark.parametrize("trash", [False, True])
def test_a_directory_that_becomes_a_link_while_we_prune(
    make: Callable[[str], Scene], trash: bool
) -> None:
    """The very files that were looked at, by now behind a link: they are not removed through it."""
    scene = make("trash_with_odd_names")
    away = scene.outside / "increments"

    def swap() -> None:
        shutil.move(scene.path(INCREMENTS), away)
        scene.path(INCREMENTS).symlink_to(away)
        swapped.append(set(away.iterdir()))

    swapped: list[set[Path]] = []
    name = "rename /" if trash else "remove /"
    found = plan(scene.chain, trash=trash, storage=Hooked(name, before=swap))
    with pytest.raises(RefusedError, match="on the way"):
        execute_prune(found)
    assert swapped == [set(away.iterdir())]
    assert here(scene.chain) == {"F10", "F40", "I20", "I30", "I50"}


def test_a_temporary_that_becomes_a_link_while_we_merge(make: Callable[[str], Scene]) -> None:
    """What a killed run left is cleared away by the next one, but not through a link."""
    scene = make("trash_with_odd_names")
    temporary = scene.path("model.ckpt-50_temp_" + "a" * 32)
    temporary.mkdir()
    for name in ("ckptctl.json", "data-00000-of-00002"):
        (temporary / name).write_text("{}")

    def swap() -> None:
        temporary.rename(scene.outside / "temporary")
        temporary.symlink_to(scene.outside / "temporary")

    found = scene.chain.plan(storage=Hooked("remove", before=swap))
    assert temporary.name in found.leftovers
    with pytest.raises(RefusedError, match="on the way"):
        execute_merge(found, jobs=1)
    assert len(list((scene.outside / "temporary").iterdir())) == 2


@pytest.mark.parametrize("name", ["fifos", "devices"])
def test_a_lock_that_is_no_file(make: Callable[[str], Scene], name: str) -> None:
    lock = directory_lock(str(make(name).directory))
    with pytest.raises(RefusedError, match="no regular file"), lock:
        pass


# --- saved plans ----------------------------------------------------------------------


def saved(scene: Scene) -> tuple[Path, dict]:
    path = scene.room / "out" / "plan"
    words = ["prune", "--save-plan", str(path), "--min-age", "0s"]
    assert run(scene, words).code == 0
    return path, json.loads(path.read_text())


def _identity(path: Path) -> list[int]:
    info = path.lstat()
    return [info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]


def test_a_saved_plan_that_names_what_lies_outside(make: Callable[[str], Scene]) -> None:
    """By its very identity: a plan is agreed to, and never says where to remove something."""
    scene = make("trash_with_odd_names")
    path, facts = saved(scene)
    secret, empty = scene.outside / "secret", scene.outside / "empty"
    theirs = [[str(secret), _identity(secret)]]
    head = {"status": "stale", "action": "remove", "code": "stale", "reason": ESC, "bytes": 1}
    head |= {"under": None, "merged": False, "step": None, "written_ns": None}
    for kind in ("leftover", "full", "increment"):
        own = {"kind": kind, "name": f"{ESC}{kind}", "path": str(secret), "files": theirs}
        facts["items"].append({**head, **own, "directories": [str(empty)]})
    for item in facts["items"]:
        if item["name"].endswith("-20"):
            item["files"] += theirs
            item["directories"] = [str(empty), "..", "/"]
    path.write_text(json.dumps(facts))
    survives(scene, "", ["prune", "--plan", str(path), "--yes"])
    assert here(scene.chain) == {"F10", "F40", "I20", "I50"}


@pytest.mark.parametrize(
    "change",
    [
        {"items": [[]]},
        {"items": "x"},
        {"options": {"policy": {"a": [[]]}}},
        {"options": None},
        {"directory": [ESC]},
        {"verify": [1, ESC, None]},
        {"fingerprint": {"a": ESC}},
        {"items": [{"action": "remove", "files": [["x", [10**400, "a"]]], "directories": []}]},
        {"schema": ESC},
        {"bytes of an item": 10**400},
        {"min_age_s of the options": "x"},
    ],
    ids=str,
)
def test_a_saved_plan_of_another_shape(make: Callable[[str], Scene], change: dict) -> None:
    scene = make("trash_with_odd_names")
    path, facts = saved(scene)
    ((key, value),) = change.items()
    name, _, home = key.partition(" of ")
    where = {"": facts, "an item": facts["items"][0], "the options": facts["options"]}[home]
    where[name] = value
    path.write_text(json.dumps(facts))
    survives(scene, "", *both(["prune", "--plan", str(path), "--yes"]))
    assert here(scene.chain) == {"F10", "F40", "I20", "I30", "I50"}


@pytest.mark.parametrize("what", ["fifo", "device", "brackets", "long", "directory"])
def test_a_saved_plan_that_is_none(make: Callable[[str], Scene], what: str) -> None:
    scene = make("trash_with_odd_names")
    path = scene.room / "out" / "plan"
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    elif what == "device":
        path = Path("/dev/zero")
    else:
        path.write_text("[" * 200_000 if what == "brackets" else '{"schema": "x' + "9" * 10**6)
    survives(scene, "", ["prune", "--plan", str(path), "--yes"])
    assert here(scene.chain) == {"F10", "F40", "I20", "I30", "I50"}
