"""What a directory holds, as data: the library behind `ckptctl ls`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    NO_STEP,
    IndexMemory,
    Problem,
    ProvenPairs,
    check_read,
    find_chains,
    scan_directory,
)
from ckptctl.chain.names import split_step
from ckptctl.errors import NotFoundError, UnreadableError
from ckptctl.storage import LOCAL, Storage

if TYPE_CHECKING:
    from ckptctl.chain import Chain, Chains, Checkpoint, Leftover, Scan

__all__ = [
    "ListedChain",
    "ListedCheckpoint",
    "ListedLeftover",
    "Listing",
    "Order",
    "list_directory",
    "steps_by_name",
    "table_names",
]

Order = Literal["step", "bytes", "age"]

T = TypeVar("T")


class ListedCheckpoint(NamedTuple):
    """One line of a listing.

    Attributes
    ----------
    kind
        `full` or `increment`, by where it lies.
    step
        None where the name holds none.
    bytes
        Bytes of all its files.
    shards, tensors, tables, keys
        From the index; None where it cannot be read. `keys` are the admitted ones.
    mtime
        When the index was written, in seconds since 1970.
    in_state_file
        Whether the state file of its directory lists it.
    status
        One of the words of `Chains.status`.
    restorable
        Whether it is a restore point.
    """

    kind: Literal["full", "increment"]
    step: int | None
    prefix: str
    bytes: int
    shards: int | None
    tensors: int | None
    tables: int | None
    keys: int | None
    mtime: float
    in_state_file: bool
    status: str
    restorable: bool

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return self._asdict()


class ListedChain(NamedTuple):
    """A full and the increments based on it.

    Attributes
    ----------
    nested
        Whether each increment's keys contain those of the one before; None: not yet proven.
    restorable_to
        The newest restore point of the chain; None without one.
    """

    base: ListedCheckpoint
    increments: tuple[ListedCheckpoint, ...]
    nested: bool | None
    restorable_to: int | None
    problems: tuple[Problem, ...]

    @property
    def bytes(self) -> int:
        """Bytes of all files of the chain."""
        return self.base.bytes + sum(each.bytes for each in self.increments)

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "base": self.base.document(),
            "increments": [each.document() for each in self.increments],
            "nested": self.nested,
            "restorable_to": self.restorable_to,
            "problems": _problems(self.problems),
        }


class ListedLeftover(NamedTuple):
    """Files that belong to no checkpoint; `age_s` in seconds."""

    path: str
    bytes: int
    age_s: float
    reason: str

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return self._asdict()


class Listing:
    """A directory as `list_directory` found it.

    Names and sizes are known at once. What stands inside a checkpoint is read when its
    chain is asked for, so that the first of many can be shown before the last is read.
    """

    def __init__(
        self,
        chains: Chains,
        anew: Callable[[], Chains],
        shown: Iterable[Chain],
        older: float | None,
        newer: float | None,
        remember: Callable[[], None],
    ) -> None:
        #: Notes what was read in the user's cache directory, so that the next look need not.
        self.remember = remember
        self._chains = chains
        self._indexed: tuple[Chains | None, dict[str, Chain]] = None, {}
        self._anew = anew
        self._shown = tuple(chain.base.prefix for chain in shown)
        self._older = older
        self._newer = newer
        self.directory = chains.scan.directory
        #: When the directory was looked at, in seconds since 1970; ages count from here.
        self.taken = chains.scan.taken_ns / 1e9

    @property
    def empty(self) -> bool:
        """Whether nothing in the directory looks like a checkpoint."""
        scan = self._chains.scan
        return not (scan.fulls or scan.increments or scan.others or scan.leftovers)

    @property
    def found(self) -> tuple[int, int, int]:
        """Numbers of fulls and increments in the directory, and their bytes."""
        scan = self._chains.scan
        size = sum(each.bytes for each in (*scan.fulls, *scan.increments))
        return len(scan.fulls), len(scan.increments), size

    @property
    def widest(self) -> tuple[int, int]:
        """Characters of the longest step of all checkpoints, and the longest name of ours."""
        scan = self._chains.scan
        ours = [*scan.fulls, *scan.increments]
        steps = max((len(str(each.step)) for each in (*ours, *scan.others)), default=1)
        return steps, max((len(each.name) for each in ours), default=1)

    def chains(self) -> Iterator[ListedChain]:
        """Return the chains one by one; each is read when it is asked for."""
        for prefix in self._shown:
            yield self._ask(partial(self._chain, prefix))

    @property
    def orphans(self) -> tuple[ListedCheckpoint, ...]:
        """Increments without a full below them."""
        return self._ask(lambda chains: self._lines(chains.orphans))

    @property
    def others(self) -> tuple[ListedCheckpoint, ...]:
        """Checkpoints that belong to no chain and are never touched."""
        return self._ask(lambda chains: self._lines(chains.others))

    @property
    def leftovers(self) -> tuple[ListedLeftover, ...]:
        """What killed writers left behind."""
        return tuple(
            ListedLeftover(each.path, each.bytes, self._age(each), each.reason)
            for each in self._chains.leftovers
            if self._fits(each)
        )

    @cached_property
    def restore_points(self) -> tuple[int, ...]:
        """Steps that can be restored, ascending, of the chains shown and all others."""
        return self._ask(lambda chains: chains.restore_points)

    @property
    def latest(self) -> int | None:
        """The newest restore point of the directory."""
        return self._ask(lambda chains: chains.latest)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the directory itself, its state files for instance."""
        return self._ask(lambda chains: chains.problems)

    @cached_property
    def unread(self) -> str | None:
        """What could not be read, so that `latest` may not be the newest state; None: nothing."""
        return self._ask(_unread)

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed."""
        return self._ask(lambda chains: chains.notes)

    def document(self) -> Mapping[str, object]:
        """Return the whole listing as JSON; `unread` is a problem in it, of that code."""
        unread = () if self.unread is None else (Problem("unread", self.unread),)
        return {
            "directory": self.directory,
            "restore_points": list(self.restore_points),
            "latest": self.latest,
            "chains": [chain.document() for chain in self.chains()],
            "orphans": [each.document() for each in self.orphans],
            "others": [each.document() for each in self.others],
            "leftovers": [each.document() for each in self.leftovers],
            "problems": _problems((*self.problems, *unread)),
            "notes": list(self.notes),
        }

    def _ask(self, question: Callable[[Chains], T]) -> T:
        """Return what the chains say; without the memory where it does not do.

        What is remembered of an index is not all of it, and the index may not be read by now.
        """
        try:
            return question(self._chains)
        except UnreadableError:
            self._chains = self._anew()
            return question(self._chains)

    def _chain(self, base: str, chains: Chains) -> ListedChain:
        if chains is not self._indexed[0]:
            self._indexed = chains, {each.base.prefix: each for each in chains.chains}
        chain = self._indexed[1][base]
        return ListedChain(
            base=self._line(chain.base),
            increments=tuple(self._line(each) for each in chain.increments),
            nested=chain.nested,
            restorable_to=chain.restorable_to,
            problems=chain.problems,
        )

    def _lines(self, found: Iterable[Checkpoint]) -> tuple[ListedCheckpoint, ...]:
        return tuple(self._line(each) for each in found if self._fits(each))

    def _line(self, checkpoint: Checkpoint) -> ListedCheckpoint:
        contents = checkpoint.contents if checkpoint.damage is None else None
        scan = self._chains.scan
        inside = checkpoint.prefix.startswith(f"{scan.increment_directory}/")
        return ListedCheckpoint(
            kind="increment" if inside else "full",
            step=checkpoint.step if checkpoint.step >= 0 else None,
            prefix=checkpoint.prefix,
            bytes=checkpoint.bytes,
            shards=None if contents is None else checkpoint.facts.num_shards,
            tensors=None if contents is None else contents.tensors,
            tables=None if contents is None else contents.tables,
            keys=None if contents is None else contents.keys,
            mtime=checkpoint.mtime_ns / 1e9,
            in_state_file=scan.in_state_file(checkpoint),
            status=self._chains.status(checkpoint),
            restorable=self._chains.is_restore_point(checkpoint),
        )

    def _age(self, item: Checkpoint | Leftover) -> float:
        return (self._chains.scan.taken_ns - item.mtime_ns) / 1e9

    def _fits(self, item: Checkpoint | Leftover) -> bool:
        return _between(self._age(item), self._older, self._newer)


def list_directory(
    directory: str,
    *,
    sort: Order = "step",
    last: int | None = None,
    older: float | None = None,
    newer: float | None = None,
    assume_order: str | None = None,
    storage: Storage = LOCAL,
) -> Listing:
    """List the chains of a checkpoint directory.

    Parameters
    ----------
    directory
        The checkpoint directory.
    sort
        Order of the chains: by the step of the full, by the bytes of all their files, or
        by the age of the newest of them; ascending.
    last
        Only so many chains, from the end of that order.
    older, newer
        Only chains whose newest checkpoint is older, or newer, than so many seconds, and
        only such orphans, others and leftovers.
    assume_order
        "step": steps decide which checkpoint is newer, whatever the clocks say.
    storage
        Where the files lie.

    Raises
    ------
    NotFoundError
        There is no such directory.
    """
    bare = scan_directory(directory, storage=storage)
    memory = IndexMemory(bare)

    def judged(scan: Scan) -> Chains:
        return find_chains(scan, assume_order, proven_nested=ProvenPairs(scan))

    chains = judged(memory.scan)
    now = chains.scan.taken_ns

    def age(chain: Chain) -> float:
        return (now - max(each.mtime_ns for each in (chain.base, *chain.increments))) / 1e9

    def size(chain: Chain) -> int:
        return sum(each.bytes for each in (chain.base, *chain.increments))

    shown = [chain for chain in chains.chains if _between(age(chain), older, newer)]
    if sort != "step":
        shown.sort(key=age if sort == "age" else size)
    if last is not None:
        shown = shown[len(shown) - min(last, len(shown)) :]
    remember = partial(memory.remember, storage)
    return Listing(chains, lambda: judged(bare), shown, older, newer, remember)


def steps_by_name(directory: str, storage: Storage = LOCAL) -> list[tuple[int, str]]:
    """Return (step, "full" or "increment") of what the file names promise, newest first.

    For completion: no file is opened, so damaged checkpoints are among them.

    Raises
    ------
    NotFoundError
        There is no such directory.
    """
    steps: dict[int, str] = {}
    for place, kind in ((f"{directory}/{INCREMENT_DIRECTORY}", "increment"), (directory, "full")):
        try:
            entries = storage.listdir(place)
        except NotFoundError:
            if kind == "full":
                raise
            entries = []
        for entry in entries:
            parts = split_step(entry.name.removesuffix(".index"))
            if parts is not None and entry.name.endswith(".index"):
                steps[parts[1]] = kind
    return sorted(steps.items(), reverse=True)


def table_names(directory: str, storage: Storage = LOCAL) -> list[str]:
    """Return the tables and variables of the newest full, for completion: from its index.

    Raises
    ------
    NotFoundError
        There is no such directory.
    DamageError
        The index cannot be read.
    """
    from ckptctl.bundle import BundleReader
    from ckptctl.tables import find_tables

    fulls = scan_directory(directory, storage).fulls
    if not fulls:
        return []
    with BundleReader(fulls[-1].prefix, storage) as reader:
        catalogue = find_tables(reader.tensors)
        plain = [name for name in catalogue.plain if reader.tensors[name].shape]
        return sorted([*(table.name for table in catalogue.tables), *plain])


def _between(age: float, older: float | None, newer: float | None) -> bool:
    return (older is None or age > older) and (newer is None or age < newer)


def _unread(chains: Chains) -> str | None:
    latest = chains.latest  # not inside: where what is remembered does not do, it is asked anew
    try:
        check_read(chains, NO_STEP if latest is None else latest)
    except UnreadableError as error:
        return error.message
    return None


def _problems(problems: Iterable[Problem]) -> list[dict[str, str]]:
    return [{"code": each.code, "message": each.message} for each in problems]
