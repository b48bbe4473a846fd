"""What the indexes of a directory said, remembered for who only looks.

To list a directory every index in it has to be parsed, and between two looks hardly any has
changed. Remembered is what a `Checkpoint` asks its source for, known by device, inode, size and
mtime of every index and data file, for a day. Commands that write or remove never ask here: at
worst a listing says what was so before somebody changed a file and hid that he did.

A directory has one file in the user's cache, so that the cache does not grow with the saves of
a trainer. Damage is not remembered: what a user repairs is looked at again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckptctl import __version__, knobs
from ckptctl.chain.facts import Ahead, Facts, Lineage, Merged, Mode
from ckptctl.chain.memory import cache_path, recall, remember
from ckptctl.chain.model import SETTLED_NS, Checkpoint, Contents, Scan, Source, SparseRows
from ckptctl.chain.vanished import find_changed

if TYPE_CHECKING:
    from ckptctl.storage import Storage

__all__ = ["IndexMemory"]

#: Seconds for which anything is believed.
_LONGEST_S = 86400.0
_MAX_BYTES = 16 << 20
#: TensorFlow writes their number in five digits.
_MOST_SHARDS = 99_999

#: Names and identities of files; shards, lineage, merged, and the rest of an index in numbers.
_Known = Mapping[str, Any]


class IndexMemory:
    """The indexes of one directory, as they were read before.

    Parameters
    ----------
    scan
        The directory.
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._path = cache_path("indexes", (scan.device, scan.inode))
        self._since, self._known = _read(self._path) if knobs.REMEMBER else (0.0, {})
        self._sources: list[tuple[Checkpoint, _Source]] = []

    @cached_property
    def scan(self) -> Scan:
        """The scan, its checkpoints answering from memory what is known."""
        return self._scan._replace(
            fulls=tuple(map(self._knowing, self._scan.fulls)),
            increments=tuple(map(self._knowing, self._scan.increments)),
            others=tuple(map(self._knowing, self._scan.others)),
        )

    def _knowing(self, checkpoint: Checkpoint) -> Checkpoint:
        known = self._known.get(_key(checkpoint))
        source = _Source(checkpoint.source)
        if known is not None and known.get("files") == _files(checkpoint):
            source = _decode(known, checkpoint.source) or source
        self._sources.append((checkpoint, source))
        return replace(checkpoint, source=source)

    def remember(self, storage: Storage) -> None:
        """Write down what was learned; where the cache cannot be written nobody is told."""
        learned = {
            _key(checkpoint): {"files": _files(checkpoint), **_encode(source)}
            for checkpoint, source in self._sources
            if source.learned and self._settled(checkpoint, storage)
        }
        if not learned or not knobs.REMEMBER:
            return
        here = {_key(checkpoint) for checkpoint, _ in self._sources}
        kept = {key: known for key, known in self._known.items() if key in here}
        facts = {
            "version": __version__,
            "since": self._since or time.time(),
            "checkpoints": {**kept, **learned},
        }
        data = json.dumps(facts).encode()
        if len(data) < _MAX_BYTES:
            remember(self._path, data)

    def _settled(self, checkpoint: Checkpoint, storage: Storage) -> bool:
        """Return whether what was read is what was scanned, and stays known by its mtime."""
        newest = max(info.mtime_ns for info in (checkpoint.index, *checkpoint.shards))
        settled = newest + SETTLED_NS < self._scan.taken_ns
        return settled and find_changed([checkpoint], storage) is None


class _Source:
    """Asks another source, or answers at once; keeps what it was told."""

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.head: Facts | None = None
        self.rest: Contents | None = None
        self.step: tuple[int | None, ...] = ()  # of one, once it was asked for
        self.learned = False

    def facts(self) -> Facts:
        """Return what the head of the index says."""
        if self.head is None:
            self.head = self.inner.facts()
        return self.head

    def contents(self) -> Contents:
        """Return what the whole index says; raise `DamageError`."""
        if self.rest is None:
            found = self.inner.contents()
            self.rest = found._replace(dense=_Dense(self, found.dense))
            self.learned = self.head is not None and self.head.damage is None
        return self.rest

    def global_step(self) -> int | None:
        """Return the value of `global_step`, None without one; raise `DamageError`."""
        if not self.step:
            self.step = (self.inner.global_step(),)
            self.learned = self.rest is not None
        return self.step[0]

    def mark(self) -> Mapping[str, Any]:
        """Return what the mark beside it says; nothing where there is none."""
        return self.inner.mark()


class _Dense(Mapping[str, tuple[int, ...]]):
    """The dense tensors of an index, of which only those are remembered that were asked for.

    Few are: those whose rows alone stand in an increment.
    """

    def __init__(self, source: _Source, known: Mapping[str, tuple[int, ...]] | None = None) -> None:
        self._source = source
        self._known = known
        #: Name to the shards of its slices, none where there is no such tensor.
        self.asked: dict[str, tuple[int, ...]] = {}

    @property
    def _all(self) -> Mapping[str, tuple[int, ...]]:
        if self._known is None:
            self._known = self._source.inner.contents().dense
        return self._known

    def __getitem__(self, name: str) -> tuple[int, ...]:
        if name not in self.asked:
            self.asked[name] = self._all.get(name, ())
            self._source.learned = True
        if not self.asked[name]:
            raise KeyError(name)
        return self.asked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def _key(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.kind} {checkpoint.prefix}"


def _files(checkpoint: Checkpoint) -> list[list[object]]:
    return [[info.name, *info.identity] for info in (checkpoint.index, *checkpoint.shards)]


def _encode(source: _Source) -> dict[str, Any]:
    head, rest = source.facts(), source.contents()
    return {
        "shards": head.num_shards,
        "lineage": None if head.lineage is None else head.lineage._asdict(),
        "merged": None if head.merged is None else head.merged._asdict(),
        "numbers": [rest.tensors, rest.tables, rest.keys],
        "needs": rest.needs,
        "problem": rest.problem,
        "step": source.step,
        "dense": rest.dense.asked if isinstance(rest.dense, _Dense) else {},
        "sparse": {name: [*rows] for name, rows in rest.sparse.items()},
    }


def _decode(known: _Known, inner: Source) -> _Source | None:
    """Return a source that knows all of it, or None where that makes no sense."""
    found = _Source(inner)
    try:
        lineage, merged = known["lineage"], known["merged"]
        found.step = tuple(None if step is None else _step(step) for step in known["step"])
        found.head = Facts(
            _number(known["shards"], _MOST_SHARDS),
            lineage=None if lineage is None else _lineage(lineage),
            merged=None if merged is None else _merged(merged),
        )
        dense = _Dense(found)
        dense.asked = {name: tuple(map(_number, of)) for name, of in known["dense"].items()}
        tensors, tables, keys = map(_number, known["numbers"])
        found.rest = Contents(
            tensors,
            tables,
            keys,
            {name: _rows(*rows) for name, rows in known["sparse"].items()},
            dense,
            tuple(map(_number, known["needs"])),
            _text(known["problem"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return found


def _number(value: object, most: int = (1 << 63) - 1) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(value)
    return value


def _step(value: object) -> int:
    if type(value) is not int:
        raise ValueError(value)
    return value


def _text(value: object) -> str:
    if type(value) is not str:
        raise ValueError(value)
    return value


def _mode(known: _Known) -> Mode:
    return "delta" if known["mode"] == "delta" else "cumulative"


def _lineage(known: _Known) -> Lineage:
    before, own, previous = known["previous_step"], known["id"], known["previous_id"]
    line = known["line"]
    return Lineage(
        _number(known["base_step"]),
        None if before is None else _number(before),
        _mode(known),
        None if own is None else _text(own),
        None if previous is None else _text(previous),
        None if line is None else _text(line),
    )


def _merged(known: _Known) -> Merged:
    ahead, rows, instead = known["ahead"], known["rows"], known["instead"]
    last_id, onto = known["last_id"], known["applied_to"]
    return Merged(
        _number(known["base_step"]),
        _number(known["up_to"]),
        _mode(known),
        Ahead(*map(_number, ahead)) if isinstance(ahead, list) else None,
        None if rows is None else {name: _number(count) for name, count in rows.items()},
        None if instead is None else _text(instead),
        None if last_id is None else _text(last_id),
        None if onto is None else _number(onto),
    )


def _rows(rows: object, shard: object, group: object, normal: object) -> SparseRows:
    return SparseRows(_number(rows), _number(shard), _text(group), normal is True)


def _read(path: str) -> tuple[float, Mapping[str, _Known]]:
    """Return since when something is remembered, and what; nothing where it makes no sense."""
    data = recall(path, _MAX_BYTES)
    try:
        facts = json.loads(data or b"{}")
        since, known = float(facts["since"]), facts["checkpoints"]
        fresh = facts["version"] == __version__ and 0 <= time.time() - since < _LONGEST_S
        if fresh and all(isinstance(each, dict) for each in known.values()):
            return since, known
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        pass
    return 0.0, {}
