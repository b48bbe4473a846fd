"""What a scan of a checkpoint directory consists of: data, no reading and no rules."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ckptctl.bundle.names import shard_path
from ckptctl.chain.facts import Facts, Lineage, Merged
from ckptctl.chain.names import split_step
from ckptctl.errors import DamageError, StateFileError, UnreadableError

if TYPE_CHECKING:
    from ckptctl.bundle import CheckpointState
    from ckptctl.storage import FileInfo

__all__ = [
    "NO_STEP",
    "SETTLED_NS",
    "Checkpoint",
    "Contents",
    "Kind",
    "Leftover",
    "Problem",
    "Removed",
    "Scan",
    "Source",
    "SparseRows",
    "StateFile",
]

Kind = Literal["full", "increment", "other"]
#: Step of an `other` whose name holds none.
NO_STEP = -1
#: A file that was written so shortly before it was read may change without a new mtime.
SETTLED_NS = 2_000_000_000

_NONE: Mapping[str, Any] = MappingProxyType({})


class Problem(NamedTuple):
    """One finding: a word for scripts and a sentence for people."""

    code: str
    message: str


class SparseRows(NamedTuple):
    """The rows of one sparse tensor: an EV of one part, or rows of a normal variable.

    Attributes
    ----------
    rows
        Number of keys.
    shard
        Data shard that holds the keys: the PS that wrote them.
    group
        Name without the part, equal for all parts of one member.
    normal
        Whether these are rows of a normal variable (increments only).
    """

    rows: int
    shard: int = 0
    group: str = ""
    normal: bool = False


class Contents(NamedTuple):
    """What the whole index of a checkpoint says.

    Attributes
    ----------
    tensors, tables, keys
        Number of tensors, of tables, and of admitted keys of all primaries.
    sparse
        Sparse tensors by name: part and slot included, suffix not.
    dense
        All other tensors: name to the data shards of its slices, in order of their offset.
    needs
        Bytes that the entries need of each data shard.
    problem
        Why its rows are refused as damage, by names and shapes alone, or "".
    """

    tensors: int = 0
    tables: int = 0
    keys: int = 0
    sparse: Mapping[str, SparseRows] = _NONE
    dense: Mapping[str, tuple[int, ...]] = _NONE
    needs: tuple[int, ...] = ()
    problem: str = ""


class Source(Protocol):
    """Where a `Checkpoint` takes what it does not know at once."""

    def facts(self) -> Facts:
        """Return what the head of the index says; damage is one of the facts."""

    def contents(self) -> Contents:
        """Return what the whole index says; raise `DamageError`."""

    def global_step(self) -> int | None:
        """Return the value of `global_step`, None without one; raise `DamageError`."""

    def mark(self) -> Mapping[str, Any]:
        """Return what the mark beside it says; nothing where there is none."""


@dataclass(frozen=True)
class Checkpoint:
    """One full, increment, or other bundle of a directory.

    Its files, bytes and mtime are known at once; `facts` reads the head of the index, and
    `contents` all of it, when first asked. Both are remembered; asked by two threads at
    once they may be read twice, with the same result.

    Attributes
    ----------
    kind
        `full`, `increment`, or `other`: not of the base name, or without a step.
    step, base_name, name
        The file name, taken apart; `NO_STEP` where it holds none.
    prefix
        Path without `.index`.
    index, shards, meta, mark
        Files of the checkpoint; `shards` holds every data file of the name.
    side
        Path to info of SSDHASH side files, those inside `-emb_files` directories included.
    side_dirs
        Paths of `-emb_files` directories.
    """

    kind: Kind
    step: int
    base_name: str
    name: str
    prefix: str
    index: FileInfo
    source: Source = field(repr=False, compare=False)
    shards: tuple[FileInfo, ...] = ()
    meta: FileInfo | None = None
    mark: FileInfo | None = None
    side: tuple[tuple[str, FileInfo], ...] = ()
    side_dirs: tuple[str, ...] = ()

    @property
    def mtime_ns(self) -> int:
        """When `.index` was written: the last file of a checkpoint."""
        return self.index.mtime_ns

    @property
    def is_dated(self) -> bool:
        """Whether that is known: a link that leads nowhere has a time of its own."""
        return not self.index.is_unfollowed

    @cached_property
    def files(self) -> tuple[tuple[str, FileInfo], ...]:
        """Path and info of every file, in the order in which they may be deleted."""
        directory = os.path.dirname(self.prefix)
        own = [self.index, *self.shards, *([self.meta] if self.meta else [])]
        named = [(os.path.join(directory, info.name), info) for info in own]
        mark = [(os.path.join(directory, self.mark.name), self.mark)] if self.mark else []
        return (*named, *self.side, *mark)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(info.size for _, info in self.files)

    @cached_property
    def facts(self) -> Facts:
        """What the head of the index says."""
        return self.source.facts()

    @property
    def lineage(self) -> Lineage | None:
        """Where the writer said that it comes from."""
        return self.facts.lineage

    @property
    def merged(self) -> Merged | None:
        """What ckptctl merged it from."""
        return self.facts.merged

    @property
    def ours(self) -> bool:
        """Whether ckptctl merged it: it says so, or where it is damaged its mark does."""
        return self.merged is not None or self.facts.ours

    @property
    def may_be_ours(self) -> bool:
        """Whether it may be: beside a damaged index a mark may be that of an earlier full."""
        return self.ours or (self.facts.damage is not None and self.mark is not None)

    @cached_property
    def _provenance(self) -> Mapping[str, Any]:
        # A trainer that saves over a merged full leaves the mark.
        return self.source.mark() if self.merged is not None and self.mark is not None else {}

    @property
    def entered(self) -> bool:
        """Whether ckptctl merged it and put it into the state file, also where it is not now."""
        return self._provenance.get("listed") is True

    @property
    def saved_s(self) -> float | None:
        """When the newest source of a merged full was saved, in seconds since 1970."""
        saved = self._provenance.get("saved")
        return saved if isinstance(saved, float) and 0 < saved <= self.mtime_ns / 1e9 else None

    @cached_property
    def _read(self) -> Contents | DamageError:
        if self.facts.damage is not None:
            return self.facts.damage
        try:
            return self.source.contents()
        except DamageError as error:
            return error

    def was_read_before(self, time_ns: int) -> bool:
        """Return whether its index was read, and all its files are older than a time."""
        return isinstance(vars(self).get("_read"), Contents) and all(
            info.mtime_ns < time_ns for _, info in self.files
        )

    @property
    def contents(self) -> Contents:
        """What the whole index says; raises the `DamageError` that made it unreadable."""
        if isinstance(self._read, DamageError):
            raise self._read
        return self._read

    @property
    def damage(self) -> DamageError | None:
        """Why the index cannot be read, or None."""
        return self._read if isinstance(self._read, DamageError) else None

    @property
    def unread(self) -> UnreadableError | None:
        """What kept us from reading it, as far as that was tried."""
        found = vars(self).get("_read") or self.facts.damage
        return found if isinstance(found, UnreadableError) else None

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Names of the data shards that the header counts and nobody finds."""
        here = {info.name for info in self.shards}
        return tuple(name for name in self.shard_names if name not in here)

    @cached_property
    def short(self) -> tuple[tuple[str, int, int], ...]:
        """(name, bytes needed, bytes found) of the data shards that were cut short."""
        if self.damage is not None:
            return ()
        sizes = {info.name: info.size for info in self.shards}
        needs = zip(self.shard_names, self.contents.needs, strict=False)
        return tuple(
            (name, need, sizes[name]) for name, need in needs if sizes.get(name, need) < need
        )

    @property
    def shard_names(self) -> list[str]:
        """Names of the data shards that the header counts."""
        count = 0 if self.facts.damage is not None else self.facts.num_shards
        return [shard_path(self.name, shard, count) for shard in range(count)]

    @property
    def complete(self) -> bool:
        """Index readable, and every data shard there with the bytes that entries need."""
        # In this order: the first two need the head of the index only.
        return (
            self.facts.damage is None
            and not self.missing
            and self.damage is None
            and not self.short
        )

    @property
    def unfit(self) -> str:
        """Why a complete checkpoint is refused as damage all the same, or "".

        It is no restore point. But a PS may restore it, so it is no leftover either; no later
        increment is proven without it, and a full covers nothing that is older.
        """
        return self.contents.problem if self.complete else ""

    @property
    def sound(self) -> bool:
        """Whether it is complete, and nothing in it is refused."""
        return self.complete and not self.unfit

    @cached_property
    def global_step(self) -> int | None:
        """Value of the tensor `global_step`; None without one, or where it is damaged."""
        try:
            return self.source.global_step()
        except DamageError:
            return None


@dataclass(frozen=True)
class StateFile:
    """A `checkpoint` state file, its paths found by their base names.

    Attributes
    ----------
    path
        Where it is, or would be.
    present
        Whether there is something of that name.
    mtime_ns
        When it was written; None if it is not there.
    listed
        Names of all checkpoints that it lists, as listed.
    latest
        Name of the checkpoint that it names, None without a readable file.
    copied
        Paths in it that exist but lie in another directory, by device and inode.
    moved
        The path that it names, where nothing lies there although its name is here.
    astray
        Whether it names what leads to another directory, and no checkpoint of that name is here:
        relative, the path would lead to nothing.
    v1
        Names that it lists of which a file of just that name is here: TensorFlow's V1 format.
    state
        The file as read; None if it is not there or does not parse.
    error
        Why it does not parse.
    """

    path: str
    present: bool = False
    mtime_ns: int | None = None
    listed: tuple[str, ...] = ()
    latest: str | None = None
    copied: tuple[str, ...] = ()
    moved: str | None = None
    astray: bool = False
    v1: tuple[str, ...] = ()
    state: CheckpointState | None = None
    error: StateFileError | None = None

    @cached_property
    def places(self) -> Mapping[str, int]:
        """Name to its place in the list, the last where it is listed twice."""
        return {name: place for place, name in enumerate(self.listed)}

    @cached_property
    def order(self) -> Mapping[str, int]:
        """Name to its place in write order.

        A name that is listed twice counts where it is listed last. The one that the file
        names counts as the newest, as TensorFlow takes it (`generate_checkpoint_state_proto`
        appends it where it is not the last), also where someone edited that one line to
        roll a run back: what is listed above it is then no longer the present timeline.
        """
        newest = {} if self.latest is None else {self.latest: len(self.listed)}
        return {**self.places, **newest}

    @cached_property
    def steps(self) -> Mapping[str, int]:
        """Name to step of all that it lists, in the order listed; names without one left out."""
        parts = ((name, split_step(name)) for name in (*self.listed, *self.order))
        return {name: found[1] for name, found in parts if found is not None}


class Leftover(NamedTuple):
    """Files that belong to no checkpoint: what a killed writer left behind.

    Attributes
    ----------
    path
        The file, or the directory `*_temp_<hex>`.
    bytes
        Bytes of the file, or of all files inside.
    mtime_ns
        Newest mtime of it and of what is inside.
    reason
        `temporary` (a directory), `tempstate`, `unindexed` (data without an index) or
        `atomic` (our own replacement of a small file).
    name
        Name of the checkpoint, or of the file, that it would have become.
    marked
        Whether it is ours: the mark `<prefix>.ckptctl.json` lies beside it.
    foreign
        Whether it belongs to another base name: never to be touched.
    displaced
        Whether it is a state file that somebody else wrote, and that a run of ours was about to
        put back when it was killed.
    """

    path: str
    bytes: int
    mtime_ns: int
    reason: Literal["temporary", "tempstate", "unindexed", "atomic"]
    name: str
    marked: bool = False
    foreign: bool = False
    displaced: bool = False


class Removed(NamedTuple):
    """A checkpoint that ckptctl removed: one line of `.ckptctl/removed.jsonl`."""

    kind: Kind
    name: str
    step: int
    merged: bool = False
    #: When it was written, where that is known.
    written_ns: int | None = None


class Scan(NamedTuple):
    """What lies in a checkpoint directory.

    Attributes
    ----------
    directory, device, inode
        The directory, and which one it really is.
    taken_ns
        When the scan was made.
    fulls, increments
        By step, then by name.
    others
        Bundles of another base name, or without a step we accept: never touched.
    leftovers
        By path.
    full_state, increment_state
        The two state files.
    increment_directory
        Path of `.incremental_checkpoint`.
    increment_link
        Whether that is a symlink: nothing may be deleted through one.
    removed
        What ckptctl removed from here.
    problems
        What the scan itself found wrong.
    notes
        What it had to assume.
    """

    directory: str
    device: int = 0
    inode: int = 0
    taken_ns: int = 0
    fulls: tuple[Checkpoint, ...] = ()
    increments: tuple[Checkpoint, ...] = ()
    others: tuple[Checkpoint, ...] = ()
    leftovers: tuple[Leftover, ...] = ()
    full_state: StateFile = StateFile("checkpoint")
    increment_state: StateFile = StateFile(".incremental_checkpoint/checkpoint")
    increment_directory: str = ".incremental_checkpoint"
    increment_link: bool = False
    removed: tuple[Removed, ...] = ()
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def state_of(self, checkpoint: Checkpoint) -> StateFile:
        """Return the state file of the directory that it lies in."""
        inside = os.path.dirname(checkpoint.prefix) == self.increment_directory
        return self.increment_state if inside else self.full_state

    def in_state_file(self, checkpoint: Checkpoint) -> bool:
        """Return whether its state file lists it."""
        return checkpoint.name in self.state_of(checkpoint).order

    def other_named_in(self, state: StateFile) -> Checkpoint | None:
        """Return what a state file names that is here and is no checkpoint of this model."""
        named = (other for other in self.others if other.name == state.latest)
        return next((other for other in named if self.state_of(other).path == state.path), None)

    @property
    def astray(self) -> tuple[StateFile, ...]:
        """The state files that must not be made relative: what they name is not here.

        That of the increments may, where nothing lies there either: so does somebody write it who
        sets a run back to a full alone.
        """
        state = self.increment_state.state
        leads = state is not None and state.latest in self.increment_state.copied
        rooms = (self.full_state, self.increment_state) if leads else (self.full_state,)
        return tuple(each for each in rooms if each.astray)

    @property
    def copied(self) -> tuple[tuple[str, str], ...]:
        """(state file, path) of each path that leads to another directory.

        TensorFlow would restore from there, and delete there: commands that write refuse
        until the paths are rewritten.
        """
        states = (self.full_state, self.increment_state)
        return tuple((state.path, path) for state in states for path in state.copied)
