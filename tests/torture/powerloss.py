"""What a disk may hold after a power cut: an strace log replayed, and what was not flushed lost.

The model, a POSIX filesystem that promises no more than it must:

* The content of a file is safe once it was fsynced. Until then the file may hold all that was
  written, what it held when it was last fsynced (nothing, where it never was), as many zeros,
  or the first half.
* A name (create, link, unlink, mkdir, rmdir, rename) is safe once its directory was fsynced
  after it; an fsync of the file does not do it. Until then each of them may be there or not,
  whatever became of those before and after it: none, all, only one, all but one. A rename is
  one step, never half of it; one between two directories is safe when both were fsynced.
* So a rename may be safe while the bytes of what it renamed are not, an unlink while the link
  before it is not.

Not covered: sets of two or more steps beside none and all; files that are torn in different
ways at once (all that are not safe share a fate); bytes that were fsynced and are lost or
flipped (a disk that lies: `verify --data` finds these); modes, owners and times; filesystems on
which rename is no single step.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.torture.tracing import BY_NAME, READING, paths_of

_LINE = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)(.*)", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
#: By-name calls after which no byte and no name is another.
_NO_CHANGE = {"chmod", "chown", "fchmodat", "fchownat", "lchown", "utimensat"}
FATES = ("kept", "lost", "zeros", "half")


@dataclass
class File:
    """A file or directory; a name is an entry of a directory that leads to it."""

    number: int
    is_dir: bool = False
    data: bytes = b""
    safe: bytes = b""

    def after(self, fate: str) -> bytes:
        """Return what it may hold after a cut."""
        if fate == "kept" or self.data == self.safe:
            return self.data
        if fate == "lost":
            return self.safe
        return bytes(len(self.data)) if fate == "zeros" else self.data[: len(self.data) // 2]


#: (directory, name) and what it leads to, or that it leads there no more.
Entry = tuple[int, str]


@dataclass
class Step:
    """One change of names, that happens as a whole or not at all."""

    about: str
    put: dict[Entry, int] = field(default_factory=dict)
    take: dict[Entry, int] = field(default_factory=dict)
    unsafe: set[int] = field(default_factory=set)

    def apply(self, names: dict[Entry, int]) -> None:
        for entry, number in self.take.items():
            if names.get(entry) == number:
                del names[entry]
        names.update(self.put)


@dataclass(frozen=True)
class Cut:
    """What is there after a power cut: paths below the room, None for a directory."""

    number: int
    about: str
    tree: dict[str, tuple[int, bytes | None]]

    @property
    def facts(self) -> frozenset[tuple[str, bytes | None]]:
        """What tells it from other cuts."""
        return frozenset((name, data) for name, (_, data) in self.tree.items())

    def __str__(self) -> str:
        return f"cut {self.number}: {self.about}"


class Disk:
    """A room as it is while a log is replayed, and what of it is safe."""

    def __init__(self, room: str, before: Path) -> None:
        self.room = room
        self.numbers = count(1)
        self.files = {0: File(0, is_dir=True)}
        self.names: dict[Entry, int] = {}  # as the process sees them
        self.safe: dict[Entry, int] = {}
        self.steps: list[Step] = []  # not safe yet
        for path in sorted(before.rglob("*")):
            parent = self._find(str(path.parent.relative_to(before)))
            assert parent is not None
            data = b"" if path.is_dir() else path.read_bytes()
            number = self._new(path.is_dir(), data, data)
            self.names[parent, path.name] = self.safe[parent, path.name] = number

    def _new(self, is_dir: bool, data: bytes = b"", safe: bytes = b"") -> int:
        number = next(self.numbers)
        self.files[number] = File(number, is_dir, data, safe)
        return number

    def _find(self, path: str) -> int | None:
        at: int | None = 0
        for piece in path.split("/"):
            if piece not in ("", "."):
                at = self.names.get((at or 0, piece)) if at is not None else None
        return at

    def _inside(self, path: str) -> str | None:
        path = os.path.normpath(path)
        if path != self.room and not path.startswith(f"{self.room}/"):
            return None
        return path[len(self.room) :].lstrip("/")

    def _entry(self, path: str) -> Entry:
        parent = self._find(os.path.dirname(path))
        assert parent is not None, path
        return parent, os.path.basename(path)

    def _step(self, about: str, *, put: str = "", take: str = "", number: int = -1) -> None:
        step = Step(about)
        if take:
            entry = self._entry(take)
            step.take[entry] = self.names[entry]
            number = self.names[entry] if number < 0 else number
        if put:
            step.put[self._entry(put)] = number
        step.unsafe = {directory for directory, _ in (*step.put, *step.take)}
        step.apply(self.names)
        self.steps.append(step)

    def _exchange(self, about: str, one: str, other: str) -> None:
        a, b = self._entry(one), self._entry(other)
        step = Step(about, {a: self.names[b], b: self.names[a]}, {}, {a[0], b[0]})
        step.apply(self.names)
        self.steps.append(step)

    def play(self, line: str) -> bool:
        """Do what one line of a log did; return whether it changed anything here."""
        match = _LINE.match(line)
        if match is None or int(match[3]) < 0:
            return False
        name, args, done = match[1], match[2], int(match[3])
        if name in READING and not name.startswith("open"):
            return False
        paths = [self._inside(path.removesuffix(" (deleted)")) for path in paths_of(name, args)]
        known = [path for path in paths if path is not None]
        if not known or len(known) < len(paths):
            return False
        if name in BY_NAME:
            return self._by_name(name, known, args)
        if name not in ("write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync"):
            return False
        number = self._find(known[0])
        return number is not None and self._by_file(name, self.files[number], args, done)

    def _by_file(self, name: str, file: File, args: str, done: int) -> bool:
        if name in ("fsync", "fdatasync"):
            file.safe = file.data
            if file.is_dir:
                self._sync(file.number)
            return True
        if name in ("write", "pwrite64"):
            data = codecs.escape_decode(_STRING.findall(args)[0])[0][:done]
            at = int(args.rpartition(", ")[2]) if name == "pwrite64" else len(file.data)
            old = file.data.ljust(at, b"\0")
            file.data = old[:at] + data + old[at + len(data) :]
        elif name == "ftruncate":
            size = int(args.rpartition(", ")[2])
            file.data = file.data[:size].ljust(size, b"\0")
        else:
            _, _, at, length = args.split(", ")
            file.data = file.data.ljust(int(at) + int(length), b"\0")
        return True

    def _sync(self, directory: int) -> None:
        for step in self.steps:
            step.unsafe.discard(directory)
        for step in [step for step in self.steps if not step.unsafe]:
            step.apply(self.safe)
            self.steps.remove(step)

    def _by_name(self, name: str, paths: list[str], args: str) -> bool:
        about = f"{name} {' '.join(paths)}"
        if name == "openat":
            if self._find(paths[0]) is None and "O_CREAT" in args:
                self._step(about, put=paths[0], number=self._new(False))
            elif "O_TRUNC" in args:
                number = self._find(paths[0])
                assert number is not None
                self.files[number].data = b""
            else:
                return False
        elif name in ("mkdir", "mkdirat"):
            self._step(about, put=paths[0], number=self._new(True))
        elif name in ("link", "linkat"):
            number = self._find(paths[0])
            assert number is not None
            self._step(about, put=paths[1], number=number)
        elif "RENAME_EXCHANGE" in args:
            self._exchange(about, *paths)
        elif name in ("rename", "renameat", "renameat2"):
            self._step(about, take=paths[0], put=paths[1])
        elif name in ("unlink", "unlinkat", "rmdir"):
            self._step(about, take=paths[0])
        elif name not in _NO_CHANGE:
            raise AssertionError(f"the model does not know {about}")
        else:
            return False
        return True

    # ------------------------------------------------------------------------------------

    def cuts(self) -> Iterator[tuple[str, dict[str, tuple[int, bytes | None]]]]:
        """Return what may be there if the power goes now."""
        every = list(range(len(self.steps)))
        kept = {"all names": every, "only what is safe": []}
        for at in every:
            kept[f"of the names only: {self.steps[at].about}"] = [at]
            kept[f"all names but: {self.steps[at].about}"] = [i for i in every if i != at]
        for about, steps in kept.items():
            names = dict(self.safe)
            for at in steps:
                self.steps[at].apply(names)
            unsafe = any(self.files[n].data != self.files[n].safe for n in names.values())
            fates = FATES if unsafe and about in ("all names", "only what is safe") else FATES[:2]
            for fate in fates if unsafe else FATES[:1]:
                yield f"{about}; unflushed bytes: {fate}", dict(self._tree(names, 0, "", fate))

    def _tree(
        self, names: dict[Entry, int], directory: int, path: str, fate: str
    ) -> Iterator[tuple[str, tuple[int, bytes | None]]]:
        for (parent, name), number in names.items():
            if parent == directory:
                file = self.files[number]
                here = f"{path}/{name}" if path else name
                yield here, (number, None if file.is_dir else file.after(fate))
                if file.is_dir:
                    yield from self._tree(names, number, here, fate)

    def numbered(self) -> dict[int, str]:
        """Return file to path, as the process sees them."""
        return {number: path for path, (number, _) in self._tree(self.names, 0, "", "kept")}


@dataclass
class Recording:
    """All the cuts of one run, each different from all others."""

    cuts: list[Cut]
    before: Path
    after: Path
    numbers_before: dict[int, str]
    numbers_after: dict[int, str]

    def lay_out(self, cut: Cut, room: Path) -> None:
        """Make a room as it is after a cut; times as they were, where the file lived on."""
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        for name, (number, data) in sorted(cut.tree.items()):
            path = room / name
            if data is None:
                path.mkdir()
                continue
            path.write_bytes(data)
            for home, numbers in (
                (self.before, self.numbers_before),
                (self.after, self.numbers_after),
            ):
                if number in numbers:
                    shutil.copystat(home / numbers[number], path)
                    break


def record(log: str, room: Path, before: Path, after: Path) -> Recording:
    """Replay the log of a run that began with `before`, ran in `room` and ended with `after`."""
    disk = Disk(str(room), before)
    first = disk.numbered()
    found: dict[object, Cut] = {}
    last = "nothing"

    def look() -> None:
        for about, tree in disk.cuts():
            cut = Cut(len(found), f"after {last}: {about}", tree)
            found.setdefault(cut.facts, cut)

    # In the middle of writes a file is as it is half way through.
    for line in log.splitlines():
        if "sync(" in line.partition("<")[0]:
            look()
        steps = len(disk.steps)
        if disk.play(line):
            last = line.partition(" ")[2].lstrip()[:160]
            if len(disk.steps) > steps:
                look()
    look()
    final = {
        name: data
        for name, (_, data) in disk._tree(disk.names, 0, "", "kept")
        if not name.startswith("cache/")
    }
    for name, data in final.items():  # the model and the disk are of one mind
        assert data is None or (after / name).read_bytes() == data, name
    return Recording(list(found.values()), before, after, first, disk.numbered())
