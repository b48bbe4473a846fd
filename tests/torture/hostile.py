"""Directories that came from someone who means harm, and a canary that nobody may touch.

A scene is a small chain with something put into it, beside a directory `outside` with a chain of
its own and a secret. Whatever a command does here, `outside` stays as it is and is not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.merge.model import small_chain
from tests.merge.prunes import THEN, age
from tests.oracle.chain import INCREMENTS, Chain, build_chain, changes, full, increment, table

ESC = "\x1b[2J\x1b]0;owned\x07"
#: What a name may be made of: escapes, line breaks, formats, quotes, half a character.
ODD = [
    ESC,
    "\x9b31m",
    "\n",
    "\r",
    "\t",
    "%s%n%d",
    "'",
    '"',
    "`$(touch owned)`",
    "\\",
    "\udcff\udcfe",
    "\u202egpj",
    "[red]",
    "-o",
    " ",
]
SECRET = "do not read me"


@dataclass
class Scene:
    """A hostile directory, and what lies outside."""

    room: Path
    chain: Chain
    outside: Path

    @property
    def directory(self) -> Path:
        return self.chain.directory

    def path(self, name: str, *, inner: bool = False) -> Path:
        return self.directory / (INCREMENTS if inner else "") / name


def build(room: Path, put: Callable[[Scene], None]) -> Scene:
    """Return a small chain with something put into it, all of it old, and a canary beside."""
    outside = room / "outside"
    outside.mkdir()
    (outside / "secret").write_text(SECRET)
    (outside / "empty").mkdir()
    foreign = build_chain(
        outside,
        full(7, table("emb", [1, 2])),
        full(60, table("emb", [1, 2])),
        increment(65, changes("emb", [1])),
    )
    (foreign.directory / "checkpoint").chmod(0o640)
    scene = Scene(room, age(small_chain(room)), outside)
    put(scene)
    for path in room.rglob("*"):
        os.utime(path, (THEN, THEN), follow_symlinks=False)
    return scene


def canary(scene: Scene) -> dict[str, tuple[object, ...]]:
    """What lies outside: everything but the time of the last look, and the content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [scene.outside, *sorted(scene.outside.rglob("*"))]:
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        kept = (info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns)
        found[str(path.relative_to(scene.room))] = (*kept, content)
    return found


class Untouched:
    """Knows whether anything outside was changed, or read, since it was made."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.before = canary(scene)
        self.paths = [scene.outside, *scene.outside.rglob("*")]
        # All other names of a file of the scene are read when it is.
        inside = {path.lstat().st_ino for path in scene.directory.rglob("*")}
        self.paths = [path for path in self.paths if path.lstat().st_ino not in inside]
        for path in self.paths:  # older than the mtime: then a read shows
            when = path.lstat().st_mtime_ns
            os.utime(path, ns=(when - 10**9, when), follow_symlinks=False)

    def read(self) -> set[str]:
        """Return what was read or listed; a link is read when it is followed."""
        infos = {str(path.relative_to(self.scene.room)): path.lstat() for path in self.paths}
        return {name for name, info in infos.items() if info.st_atime_ns >= info.st_mtime_ns}

    def changed(self) -> set[str]:
        after = canary(self.scene)
        names = {*after, *self.before}
        return {name for name in names if after.get(name) != self.before.get(name)}


# --- scenes ---------------------------------------------------------------------------

SCENES: dict[str, Callable[[Scene], None]] = {}


def scene(put: Callable[[Scene], None]) -> Callable[[Scene], None]:
    SCENES[put.__name__] = put
    return put


def _state(*paths: str, latest: str | None = None) -> bytes:
    """A state file of any paths, as text that protobuf parses."""

    def quoted(path: str) -> bytes:
        raw = path.encode("utf-8", "surrogateescape")
        return b'"' + b"".join(b"\\%03o" % byte for byte in raw) + b'"'

    lines = [b"model_checkpoint_path: " + quoted(latest or paths[-1])]
    lines += [b"all_model_checkpoint_paths: " + quoted(path) for path in paths]
    return b"\n".join(lines) + b"\n"


@scene
def state_files_lead_elsewhere(at: Scene) -> None:
    outside = str(at.outside / "chain" / "model.ckpt-60")
    paths = [
        "../../../../../../etc/passwd",
        "../../etc/x",
        "/etc/passwd",
        outside,
        "../outside/chain/model.ckpt-7",
        "model.ckpt-10/../../outside/chain/model.ckpt-60",
        "/",
        ".",
        "..",
        "model.ckpt-10",
        "model.ckpt-40\0.index",
        "a" * 5000,
        "/dev/stdin",
        "/proc/self/mem",
        "model.ckpt-40",
    ]
    at.path("checkpoint").write_bytes(_state(*paths))
    others = ["../../outside/secret", "../../outside/chain/model.ckpt-60"]
    names = [f"incremental_model.ckpt-{step}" for step in (20, 30, 50)]
    at.path("checkpoint", inner=True).write_bytes(_state(*others, *names))


@scene
def state_files_name_outside(at: Scene) -> None:
    outside = at.outside / "chain"
    at.path("checkpoint").write_bytes(
        _state("model.ckpt-40", str(outside / "model.ckpt-60"), latest=str(outside / "secret"))
    )
    inner = str(outside / INCREMENTS / "incremental_model.ckpt-65")
    at.path("checkpoint", inner=True).write_bytes(_state(inner))


@scene
def state_files_with_odd_names(at: Scene) -> None:
    odd = [f"model{each}.ckpt-{n}" for n, each in enumerate(ODD) if each.isprintable() or n != 10]
    odd = [name for name in odd if "\udcff" not in name]
    at.path("checkpoint").write_bytes(_state(*odd, "model.ckpt-10", "model.ckpt-40"))
    at.path("checkpoint", inner=True).write_bytes(
        _state(*odd, *(f"incremental_model.ckpt-{step}" for step in (20, 30, 50)))
    )


@scene
def a_state_file_that_is_no_text(at: Scene) -> None:
    at.path("checkpoint").write_bytes(f'{ESC}: "x\udcff'.encode("utf-8", "surrogateescape"))
    at.path("checkpoint", inner=True).write_bytes(f"{ESC} {{ {ESC}".encode() + b"\xff")


@scene
def a_nested_state_file(at: Scene) -> None:
    at.path("checkpoint").write_bytes(b"unknown {" * 100_000)


@scene
def odd_names(at: Scene) -> None:
    sources = {suffix: Path(f"{at.chain.full_prefix(40)}{suffix}") for suffix in (".index",)}
    data = Path(f"{at.chain.full_prefix(40)}.data-00000-of-00002").read_bytes()
    for number, odd in enumerate(ODD, 100):
        for room in (False, True):
            for name in (f"model{odd}.ckpt-{number}", f"{odd}-{number}", f"model.ckpt-{odd}"):
                at.path(f"{name}.index", inner=room).write_bytes(sources[".index"].read_bytes())
                at.path(f"{name}.data-00000-of-00002", inner=room).write_bytes(data)
            at.path(f"model{odd}.ckpt-{number}.ckptctl.json", inner=room).write_text("{")
            at.path(f"model{odd}.ckpt-9_temp_ab", inner=room).mkdir()
            at.path(f"model.ckpt-4{odd}.data-00000-of-00001", inner=room).write_bytes(b"x")
            at.path(f"model.ckpt-40.index.tempstate{number}", inner=room).write_bytes(b"x")
            at.path(f"model{odd}.ckpt-7.index.tempstate{number}", inner=room).write_bytes(b"x")
    at.path("-rf").write_bytes(b"x")


@scene
def all_of_it_has_odd_names(at: Scene) -> None:
    """The names that are ours, too."""
    base = f"m{ESC}\n%s'\"[red]\u202e"
    for path in sorted(at.directory.rglob("*")):
        if path.name.startswith("model.ckpt"):
            path.rename(path.with_name(path.name.replace("model.ckpt", base)))
        elif path.name.startswith("incremental_model.ckpt"):
            path.rename(path.with_name(path.name.replace("incremental_model.ckpt", f"i_{base}")))
    at.path("checkpoint").write_bytes(_state(f"{base}-10", f"{base}-40"))
    names = [f"i_{base}-{step}" for step in (20, 30, 50)]
    at.path("checkpoint", inner=True).write_bytes(_state(*names))


@scene
def all_of_it_is_no_utf8(at: Scene) -> None:
    for path in sorted(at.directory.rglob("*")):
        if "model.ckpt" in path.name:
            path.rename(path.with_name(path.name.replace("model", "model\udcff\udc9b")))
    for inner in (False, True):
        at.path("checkpoint", inner=inner).unlink()


@scene
def directories_named_like_checkpoints(at: Scene) -> None:
    for inner in (False, True):
        head = "incremental_model.ckpt" if inner else "model.ckpt"
        for suffix in (".index", ".data-00000-of-00001", ".meta", ".ckptctl.json", ""):
            room = at.path(f"{head}-60{suffix}", inner=inner)
            room.mkdir()
            (room / "precious").write_text("x")
        for name in ("_temp_0123abcd", "_temp", "-emb-emb_files", "_temp_" + "0" * 32):
            room = at.path(f"{head}-61{name}", inner=inner)
            (room / "sub" / "deep").mkdir(parents=True)
            (room / "sub" / "precious").write_text("x")
            (room / "link").symlink_to(at.outside / "secret")
            (room / "rooms").symlink_to(at.outside / "chain")
            (room / "ckptctl.json").write_text('{"schema": "ckptctl.merged/1"}')
        at.path("model.ckpt-40.index.tempstate12", inner=inner).mkdir()


@scene
def a_temporary_that_holds_more_than_ours(at: Scene) -> None:
    """A mark inside says that all of it is ours; the merge to step 50 would clear it away."""
    room = at.path("model.ckpt-50_temp_" + "a" * 32)
    (room / "sub").mkdir(parents=True)
    (room / "sub" / "precious").write_text("x")
    (room / "secret").symlink_to(at.outside / "secret")
    (room / "chain").symlink_to(at.outside / "chain")
    (room / "ckptctl.json").write_text('{"schema": "ckptctl.merged/1"}')


def _state_is(at: Scene, make: Callable[[Path], None]) -> None:
    for inner in (False, True):
        path = at.path("checkpoint", inner=inner)
        path.unlink()
        make(path)


def _specials(at: Scene, make: Callable[[Path], None]) -> None:
    """Put something that is no file wherever ckptctl looks for one."""
    _own_specials(at, make)
    for inner in (False, True):
        head = "incremental_model.ckpt" if inner else "model.ckpt"
        for suffix in (".index", ".data-00000-of-00001", ".meta"):
            make(at.path(f"{head}-60{suffix}", inner=inner))
        make(at.path(f"{head}-40.data-00009-of-00010", inner=inner))
        make(at.path(f"{head}-40.index.tempstate7", inner=inner))
    side = at.path("model.ckpt-40-emb-emb_files")
    side.mkdir()
    make(side / "1.emb")


def _own_specials(at: Scene, make: Callable[[Path], None]) -> None:
    """The same, where only ckptctl writes."""
    own = at.path(".ckptctl")
    own.mkdir()
    for name in ("removed.jsonl", "lock"):
        make(own / name)
    for inner in (False, True):
        head = "incremental_model.ckpt" if inner else "model.ckpt"
        make(at.path(f"{head}-60.ckptctl.json", inner=inner))
        make(at.path(f"{head}-41.ckptctl.json", inner=inner))
        temporary = at.path(f"{head}-61_temp_" + "0" * 32, inner=inner)
        temporary.mkdir()
        make(temporary / "ckptctl.json")
    make(at.path("model.ckpt-50.ckptctl.json"))
    make(at.path("ckptctl.toml"))


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zero(path: Path) -> None:
    if os.getuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        os.mkfifo(path)


def _socket(path: Path) -> None:
    """A name for a socket: bound by its directory, since such paths are short."""
    home = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{home}/{path.name}")
    finally:
        os.close(home)


@scene
def fifos(at: Scene) -> None:
    _specials(at, _fifo)


@scene
def devices(at: Scene) -> None:
    _specials(at, _zero)


@scene
def sockets(at: Scene) -> None:
    _specials(at, _socket)


@scene
def state_files_that_are_fifos(at: Scene) -> None:
    _state_is(at, _fifo)


@scene
def state_files_that_are_devices(at: Scene) -> None:
    _state_is(at, _zero)


@scene
def links_to_files_outside(at: Scene) -> None:
    _specials(at, lambda path: path.symlink_to(at.outside / "secret"))


@scene
def our_own_files_are_links(at: Scene) -> None:
    """Nobody but ckptctl writes these, so a link is none of ours."""
    _own_specials(at, lambda path: path.symlink_to(at.outside / "secret"))


@scene
def links_to_directories_outside(at: Scene) -> None:
    _specials(at, lambda path: path.symlink_to(at.outside / "chain"))


@scene
def links_to_nowhere(at: Scene) -> None:
    _specials(at, lambda path: path.symlink_to(at.outside / "made"))


@scene
def links_to_themselves(at: Scene) -> None:
    _specials(at, lambda path: path.symlink_to(path))


@scene
def our_own_room_is_outside(at: Scene) -> None:
    (at.outside / "removed.jsonl").write_text('{"kind": "full", "name": "model.ckpt-40"}\n')
    at.path(".ckptctl").symlink_to(at.outside)


@scene
def the_trash_is_outside(at: Scene) -> None:
    at.path(".ckptctl-trash").symlink_to(at.outside / "empty")


@scene
def temporaries_are_outside(at: Scene) -> None:
    for inner in (False, True):
        head = "incremental_model.ckpt" if inner else "model.ckpt"
        for step in (9, 50):
            for name in ("0123abcd", "0" * 32):
                link = at.path(f"{head}-{step}_temp_{name}", inner=inner)
                link.symlink_to(at.outside / "chain")
        at.path(f"{head}-10-emb-emb_files", inner=inner).symlink_to(at.outside / "chain")


@scene
def increments_are_outside(at: Scene) -> None:
    shutil.move(at.path(INCREMENTS), at.outside / "increments")
    names = [f"incremental_model.ckpt-{step}" for step in (20, 30, 50)]
    paths = [str(at.outside / "chain" / INCREMENTS / name) for name in names]
    (at.outside / "increments" / "checkpoint").write_bytes(_state(*paths))
    at.path(INCREMENTS).symlink_to(at.outside / "increments")


@scene
def marks_that_lie(at: Scene) -> None:
    secret = at.outside / "secret"
    identity = [len(SECRET), THEN * 10**9]
    mark = {
        "schema": "ckptctl.merged/1",
        "temporary": "../outside",
        "files": {
            "../outside/secret": identity,
            str(secret): identity,
            "model.ckpt-40.index": [1, 2],
            ESC: [10**400, -1, None],
            "model.ckpt-10.index": "x",
            "..": {},
        },
        "replaces": {"../outside/secret": identity},
    }
    for name in ("model.ckpt-50", "model.ckpt-40", "model.ckpt-10", "model.ckpt-9"):
        at.path(f"{name}.ckptctl.json").write_text(json.dumps(mark))
    at.path("model.ckpt-8.ckptctl.json").write_text("[" * 200_000)
    at.path("model.ckpt-7.ckptctl.json").write_text('{"files": [1], "temporary": {"a": NaN}}')
    at.path("model.ckpt-6.ckptctl.json").write_text('{"schema": ' + "9" * 10_000 + "}")
    temporary = at.path("model.ckpt-50_temp_" + "a" * 32)
    temporary.mkdir()
    (temporary / "ckptctl.json").write_text(json.dumps(mark))


@scene
def a_mark_that_is_only_brackets(at: Scene) -> None:
    """Where the merge looks for its own."""
    at.path("model.ckpt-50.ckptctl.json").write_text("[" * 200_000)


@scene
def a_mark_of_another_shape(at: Scene) -> None:
    at.path("model.ckpt-50.ckptctl.json").write_text(
        json.dumps({"schema": ["ckptctl.merged/1"], "files": {"x": 1}, "temporary": [ESC]})
    )


@scene
def a_log_that_lies(at: Scene) -> None:
    own = at.path(".ckptctl")
    own.mkdir()
    identity = [len(SECRET), THEN * 10**9]
    lines = [
        json.dumps(
            {
                "kind": "full",
                "name": f"../outside/{ESC}model.ckpt-7",
                "step": 10**30,
                "files": {"../outside/secret": identity, str(at.outside / "secret"): identity},
                "directories": ["../outside/empty", str(at.outside / "empty"), {"a": 1}, None],
            }
        ),
        json.dumps({"kind": "increment", "name": ["x"], "step": -1, "files": {"x": [1, 2]}}),
        json.dumps({"kind": {"a": 1}, "name": {"b": 2}, "step": True, "files": []}),
        json.dumps({"kind": "increment", "name": "incremental_model.ckpt-50", "step": 50}),
        json.dumps({"kind": "full", "name": "model.ckpt-40", "step": 40, "merged": 1}),
        "[" * 100_000,
        '{"kind": "full", "name": "model.ckpt-3", "step": ' + "9" * 10_000 + "}",
        '{"kind": "full", "name": "model.ckpt-3", "step": 1e999}',
        '{"kind": "full", "name": "\\ud800", "step": 3, "files": {"\\ud800": [1, 2]}}',
        ESC,
        "null",
    ]
    raw = "\n".join(lines).encode() + b"\n\xff\xfe\n\0\n"
    (own / "removed.jsonl").write_bytes(raw)


@scene
def a_log_without_an_end(at: Scene) -> None:
    at.path(".ckptctl").mkdir()
    for path in (at.path(".ckptctl/removed.jsonl"), at.path("model.ckpt-50.ckptctl.json")):
        with open(path, "wb") as file:
            file.truncate(100 << 20)


def _settings(at: Scene, text: str | bytes) -> None:
    raw = text if isinstance(text, bytes) else text.encode()
    at.path("ckptctl.toml").write_bytes(raw)


@scene
def settings_with_odd_words(at: Scene) -> None:
    odd = "\\u001b[2J\\u009b\\u001b]0;owned\\u0007"
    _settings(at, f'[compact]\n"{odd}" = "{odd}"\nkeep-last = "{odd}"\n')


@scene
def settings_that_are_no_text(at: Scene) -> None:
    _settings(at, f"[compact]\n{ESC} = \xff".encode("latin-1"))


@scene
def settings_that_nest(at: Scene) -> None:
    _settings(at, "[compact]\nkeep-step = " + "[" * 100_000)


@scene
def settings_that_ask_for_more(at: Scene) -> None:
    """Who gives a directory away does not decide over what is outside of it."""
    metrics = at.outside / "metrics"
    _settings(at, f'[compact]\nmetrics = "{metrics}"\nyes = true\nconfig = "{metrics}"\n')


@scene
def settings_with_huge_numbers(at: Scene) -> None:
    huge = "9" * 5000
    _settings(at, f"[compact]\nkeep-last = {huge}\nmin-ratio = 1e999\nmin-interval = nan\n")


@scene
def a_lease_of_someone_else(at: Scene) -> None:
    lease = at.path(".ckptctl") / "lease"
    lease.mkdir(parents=True)
    (lease / f"held-{'0' * 32}-7").symlink_to(at.outside / "secret")
    (lease / f"{'0' * 32}.json").symlink_to(at.outside / "secret")
    (lease / f"held-{ESC}-1").write_text(ESC)


@scene
def a_lease_that_leads_outside(at: Scene) -> None:
    at.path(".ckptctl").mkdir()
    (at.outside / "lease").mkdir()
    (at.outside / "lease" / "free").write_text("")
    (at.path(".ckptctl") / "lease").symlink_to(at.outside / "lease")


@scene
def a_lease_whose_holder_has_an_odd_name(at: Scene) -> None:
    lease = at.path(".ckptctl") / "lease"
    lease.mkdir(parents=True)
    (lease / f"held-{'0' * 32}-7").write_text("")
    note = {"host": ESC, "pid": 7, "since": ESC, "boot": ESC, "namespaces": ESC, "renew_s": 0.1}
    (lease / f"{'0' * 32}.json").write_text(json.dumps(note))
    (at.path(".ckptctl") / "lock").write_text(json.dumps(note))


@scene
def a_lease_that_is_a_fifo(at: Scene) -> None:
    at.path(".ckptctl").mkdir()
    _fifo(at.path(".ckptctl") / "lease")


@scene
def a_lease_that_holds_fifos(at: Scene) -> None:
    lease = at.path(".ckptctl") / "lease"
    lease.mkdir(parents=True)
    _fifo(lease / f"held-{'0' * 32}-7")
    _fifo(lease / f"{'0' * 32}.json")


@scene
def our_own_room_is_a_file(at: Scene) -> None:
    at.path(".ckptctl").write_text("x")
    at.path(".ckptctl-trash").write_text("x")


@scene
def our_own_files_are_directories(at: Scene) -> None:
    (at.path(".ckptctl") / "removed.jsonl" / "x").mkdir(parents=True)
    (at.path(".ckptctl") / "lock").mkdir()


@scene
def names_as_long_as_can_be(at: Scene) -> None:
    """There is no room behind them for the suffix of a temporary."""
    long = "m" * (255 - len("-40.data-00000-of-00002"))
    for path in sorted(at.directory.glob("model.ckpt*")):
        path.rename(path.with_name(path.name.replace("model.ckpt", long)))
    at.path("checkpoint").write_bytes(_state(f"{long}-10", f"{long}-40"))
    at.path("n" * 255).write_bytes(b"x")


@scene
def steps_as_large_as_can_be(at: Scene) -> None:
    for step in ("9" * 18, str(2**63 - 1), str(2**63), "9" * 200, "0" * 100 + "40", "٣"):
        for inner in (False, True):
            head = "incremental_model.ckpt" if inner else "model.ckpt"
            at.path(f"{head}-{step}.index", inner=inner).write_bytes(b"x")
            at.path(f"{head}-{step}.data-00000-of-00001", inner=inner).write_bytes(b"x")


@scene
def hard_links(at: Scene) -> None:
    """A backup that shares every file: what is removed or rewritten here stays there."""
    for number, path in enumerate(sorted(at.directory.rglob("*"))):
        if path.is_file():
            os.link(path, at.outside / f"backup-{number}")


@scene
def trash_with_odd_names(at: Scene) -> None:
    trash = at.path(".ckptctl-trash") / f"prune.{ESC}"
    trash.mkdir(parents=True)
    (trash / "model.ckpt-3.index").symlink_to(at.outside / "secret")
    (at.path(".ckptctl-trash") / "outside").symlink_to(at.outside)


@scene
def tensors_with_odd_names(at: Scene) -> None:
    """Tables that are called like a path or an escape code: `show` prints, `export` writes them."""
    odd = [
        "../../outside/x",
        str(at.outside / "x"),
        f"a{ESC}",
        "\u202egpj",
        "%s\n[red]'\"",
        "..",
        "-o",
    ]
    for step in (10, 20, 30, 40, 50):
        inner = step in at.chain.increments
        prefix = at.chain.prefix(step)
        for path in prefix.parent.glob(f"{prefix.name}.*"):
            path.unlink()
        make = changes if inner else table
        keys = range(1, step)
        things = [make(name, keys, slots=()) for name in odd]
        at.chain.add((increment if inner else full)(step, *things))


def many_files(at: Scene) -> None:
    """10,000 of them, of every kind; not among the scenes, since it takes its time."""
    for number in range(1_000, 3_500):
        at.path(f"junk-{number}").write_bytes(b"")
        at.path(f"model.ckpt-{number}.data-00000-of-00001").write_bytes(b"")
        at.path(f"other{number}-{number}.index").write_bytes(b"")
        at.path(f"incremental_model.ckpt-{number}_temp_{number:08x}", inner=True).mkdir()
