"""What is inside one checkpoint or state: the library behind `ckptctl show`.

The document
------------
``target``
    What was looked at (`Target.document`).
``tables``
    A list: name, kind (`table`, or `rows` of a normal variable in an increment), dim, dtype,
    key_dtype, parts, slots, keys, filtered, bytes, share (of all bytes), freq and version
    (min, max, quantiles; null where the table keeps none), balance (keys of the largest part
    over the mean), members: name, slot, keys, filtered, bytes, shards, stats, parts: name,
    keys, filtered, bytes.
``tensors``
    Those of no table: name, kind, dtype, shape, bytes, share, shards, slices, stats.
``raw``
    With `tensors=True` every tensor, a table's too: name, dtype, shape, bytes, shards, offset.
``stats``
    Of a tensor or member, with `stats=True`: min and max (exact, of integers as integers),
    mean, std, l2, count, zeros, nan, inf, histogram: edges, counts (a bin of the sketch that
    an edge cuts is shared out), coarse (the values lie too close together for the usual
    number of bars). Of strings: count, bytes, longest; else null.
``totals``
    bytes, tensors, keys, filtered, and kinds: weights, optimizer, bookkeeping, each with
    bytes and tensors.
``lost``
    Of a damaged bundle the shards that are missing or cut short, and what went with them:
    shard, file, message, found, tensors and bytes that are gone, and names: of parts of tables
    and of other tensors. All else counts them too, as the index does.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from ckptctl.errors import NotFoundError
from ckptctl.inspect.lost import is_lost, lost_shards
from ckptctl.tables import is_slot_name

if TYPE_CHECKING:
    import numpy as np

    from ckptctl.bundle import DType
    from ckptctl.errors import TableError
    from ckptctl.inspect.parts import ColumnName
    from ckptctl.inspect.tensors import TensorView
    from ckptctl.inspect.view import TableTensor, TableView, View
    from ckptctl.restore.column import Column

__all__ = ["KINDS", "Shown", "SortKey", "kind_of", "show"]

SortKey = Literal["name", "bytes", "keys"]
#: What bytes are for, in the order shown.
KINDS = ("weights", "optimizer", "bookkeeping")
_QUANTILES = (0.5, 0.9, 0.99)
_FLOATS = ("float", "bfloat", "complex")
_BETA = ("beta1_power", "beta2_power")
_ROOMS = ("optimizer", "optimizer_weights")


@dataclass
class Shown:
    """What `show` found; see the module for the fields.

    Attributes
    ----------
    problems
        Why the rows of tables could not be read; a note tells of each.
    """

    target: dict[str, object]
    words: str
    tables: list[dict[str, Any]] = field(default_factory=list)
    tensors: list[dict[str, Any]] = field(default_factory=list)
    raw: list[dict[str, Any]] | None = None
    totals: dict[str, Any] = field(default_factory=dict)
    lost: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[TableError] = field(default_factory=list)

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        found: dict[str, object] = {
            "target": self.target,
            "tables": self.tables,
            "tensors": self.tensors,
            "totals": self.totals,
            "lost": self.lost,
            "notes": self.notes,
        }
        if self.raw is not None:
            found["raw"] = self.raw
        return found


def show(
    view: View,
    *,
    tensors: bool = False,
    stats: bool = False,
    pattern: str | None = None,
    sort: SortKey = "name",
    top: int | None = None,
) -> Shown:
    """Say what is inside a view.

    Reads indexes; freqs and versions of tables that keep them; with increments applied the
    keys of their tables, since only these tell how many rows there are. Of a bundle as it
    is, and of a full, shapes tell: rows that a PS would skip are then counted too.

    Parameters
    ----------
    tensors
        Also list every tensor, those of tables too.
    stats
        Read all values and say minimum, maximum, mean, deviation, norm and histogram.
    pattern
        Only tables and tensors of which a name, a slot's and a part's too, is this one or
        matches it as a shell pattern; totals are of all.
    sort, top
        Order of tables and of tensors (by bytes and keys descending), and how many of each.

    Raises
    ------
    NotFoundError
        Nothing matches the pattern.
    DamageError
        Something that was read contradicts itself.
    """
    shown = Shown(view.target.document(), view.target.words)
    totals: dict[str, Any] = {"bytes": 0, "tensors": 0, "keys": 0, "filtered": 0}
    kinds = {kind: {"bytes": 0, "tensors": 0} for kind in KINDS}
    names = {tensor.name for tensor in view.tensors}
    raw: list[dict[str, Any]] = []

    def count(kind: str, size: int) -> None:
        own = kinds[kind]
        own["bytes"] += size
        own["tensors"] += 1

    chosen = [
        table
        for table in view.tables
        if any(
            _matches(name, pattern)
            for member, _, sets in table.shapes
            for name in (member, *(own.name for own in sets))
        )
    ]
    for table in view.tables:
        for tensor in table.tensors():
            member, slot, sets = table.shapes[tensor.member]
            own = (table.name, member, sets[tensor.part].name, tensor.name)
            values = tensor.suffix.endswith("values")
            count(("optimizer" if slot else "weights") if values else "bookkeeping", tensor.nbytes)
            if tensors and any(_matches(name, pattern) for name in own):
                raw.append(
                    _raw(tensor, tensor.entry.dtype, [tensor.entry.shard], tensor.entry.offset)
                )
    plain: list[tuple[TensorView, str]] = []
    for each in view.tensors:
        kind = kind_of(each, names)
        count(kind, each.nbytes)
        if pattern is None or _matches(each.name, pattern):
            plain.append((each, kind))
    if pattern is not None and not (chosen or plain or raw):
        raise NotFoundError(
            f"no table and no tensor matches {pattern!r}",
            file=view.target.prefix,
            remedy="ckptctl show without --filter lists all",
        )
    for what in ("bytes", "tensors"):
        totals[what] = sum(own[what] for own in kinds.values())
    total = totals["bytes"]
    described = [_table(table, total) for table in view.tables]
    totals["keys"] = sum(item["keys"] for item in described if item["kind"] == "table")
    totals["filtered"] = sum(item["filtered"] for item in described)
    wanted = {table.name for table in chosen}
    shown.tables = _first((item for item in described if item["name"] in wanted), sort, top)
    shown.tensors = _first((_tensor(*each, total) for each in plain), sort, top)
    kept = {item["name"] for item in (*shown.tables, *shown.tensors)}
    _read(view, [t for t in view.tables if t.name in kept], shown, stats=stats)
    if stats:
        _measure_tensors(view, [each for each, _ in plain if each.name in kept], shown)
    if tensors:
        raw += [_raw(each, each.dtype, each.shards, each.offset) for each, _ in plain]
        shown.raw = _first(raw, sort, top)
    shown.totals = {**totals, "kinds": kinds}
    shown.lost = lost_shards(view)
    shown.problems = [problem for t in view.tables if (problem := t.problem) is not None]
    odd = [f"{each.file}: {each.tensor}: {each.message}" for each in shown.problems]
    shown.notes = [*view.notes, *odd, *shown.notes]
    return shown


def kind_of(tensor: TensorView, names: Container[str]) -> str:
    """Return what a tensor of no table is for: one of `KINDS`.

    A slot is called `<variable>/<Optimizer>[_n]`, beside the variable, or stands below
    `.OPTIMIZER_SLOT` or `optimizer`, as Keras saves it; what is no floating-point number
    is bookkeeping (steps, iterators, lookup tables).
    """
    name = tensor.name
    variable, _, last = name.rpartition("/")
    if tensor.is_hash_table or not tensor.dtype.name.startswith(_FLOATS):
        return "bookkeeping"
    if (
        (variable in names and is_slot_name(last))
        or last.startswith(_BETA)
        or (name.startswith("optimizer") and name.split("/")[0] in _ROOMS)
        or (".OPTIMIZER_SLOT" in name and ".OPTIMIZER_SLOT" in name.split("/"))
    ):
        return "optimizer"
    return "weights"


def _matches(name: str, pattern: str | None) -> bool:
    return pattern is None or name == pattern or fnmatchcase(name, pattern)


def _first(items: Iterable[dict[str, Any]], sort: SortKey, top: int | None) -> list[dict[str, Any]]:
    found = sorted(items, key=itemgetter("name"))
    if sort != "name":
        found.sort(key=lambda item: -int(item.get(sort, 0)))
    return found[:top]


def _raw(
    tensor: TensorView | TableTensor, dtype: DType, shards: Iterable[int], offset: int | None
) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": dtype.name,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
        "shards": list(shards),
        "offset": offset,
    }


def _tensor(tensor: TensorView, kind: str, total: int) -> dict[str, Any]:
    size = tensor.nbytes
    return {
        "name": tensor.name,
        "kind": kind,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "bytes": size,
        "share": size / total if total else 0.0,
        "shards": list(tensor.shards),
        "slices": tensor.slices,
    }


def _table(table: TableView, total: int) -> dict[str, Any]:
    members: list[dict[str, Any]] = []
    for name, slot, sets in table.shapes:
        parts = [{"name": own.name, "keys": 0, "filtered": 0, "bytes": 0} for own in sets]
        members.append({"name": name, "slot": slot, "parts": parts, "shards": set()})
    for tensor in table.tensors():
        member = members[tensor.member]
        part = member["parts"][tensor.part]
        part["bytes"] += tensor.nbytes
        member["shards"].add(tensor.entry.shard)
        if tensor.suffix in ("-keys", "-sparse_incr_keys"):
            part["keys"] = tensor.shape[0]
        elif tensor.suffix == "-keys_filtered":
            part["filtered"] = tensor.shape[0]
    for member in members:
        member["shards"] = sorted(member["shards"])
        for what in ("keys", "filtered", "bytes"):
            member[what] = sum(part[what] for part in member["parts"])
    keys = [part["keys"] for part in members[0]["parts"]]
    size = sum(member["bytes"] for member in members)
    return {
        "name": table.name,
        "kind": table.kind,
        "dim": table.dim,
        "dtype": table.shapes[0][2][0].values.dtype.name,
        "key_dtype": table.key_dtype.name,
        "parts": table.num_parts,
        "slots": list(table.slots),
        "keys": members[0]["keys"],
        "filtered": members[0]["filtered"],
        "bytes": size,
        "share": size / total if total else 0.0,
        "freq": None,
        "version": None,
        "balance": max(keys) * len(keys) / sum(keys) if sum(keys) else None,
        "members": members,
    }


def _read(view: View, tables: list[TableView], shown: Shown, *, stats: bool) -> None:
    """Read freqs and versions, and with `stats` the values, of the tables shown."""
    by_name = {item["name"]: item for item in shown.tables}
    progress = view.runner.progress
    for table in tables:
        item = by_name[table.name]
        if table.problem is not None:
            for at in range(len(table.shapes) if stats else 0):
                item["members"][at]["stats"] = None
            continue
        numbers: dict[str, ColumnName] = {"freq": "freqs", "version": "versions"}
        for what, column in numbers.items():
            found = _there(view, table.columns(0, column))
            if found:
                progress.start(f"reading {column} of {table.name}", sum(c.nbytes for c in found))
                item[what] = _quantiles(found, progress.advance)
        for at in range(len(table.shapes) if stats else 0):
            columns = _there(view, table.columns(at, "values"))
            progress.start(f"reading {table.shapes[at][0]}", sum(c.nbytes for c in columns))
            chunks = (chunk for column in columns for chunk in _numbers(column, progress.advance))
            item["members"][at]["stats"] = _measured(table.shapes[at][2][0].values.dtype, chunks)


def _there(view: View, columns: Iterable[Column]) -> list[Column]:
    return [column for column in columns if not is_lost(view, column.entry)]


def _quantiles(columns: list[Column], report: Any) -> dict[str, object] | None:
    from ckptctl.inspect.sketch import Sketch

    sketch = Sketch()
    for column in columns:
        for chunk in _numbers(column, report):
            sketch.add(chunk)
    if not sketch.count:
        return None
    found = {str(q): _whole(sketch.quantile(q)) for q in _QUANTILES}
    return {"min": _whole(sketch.min), "max": _whole(sketch.max), "quantiles": found}


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _numbers(column: Column, report: Any) -> Iterator[np.ndarray]:
    """Return the elements of a column in flat chunks of whole elements."""
    import numpy as np

    kind = column.entry.dtype.numpy
    rest = b""
    for piece in column.pieces():
        raw = rest + bytes(piece) if rest else piece
        whole = len(raw) // kind.itemsize * kind.itemsize
        rest = bytes(raw[whole:])
        report(len(piece))
        yield np.frombuffer(raw[:whole], kind)


def _measured(dtype: DType, chunks: Iterator[np.ndarray]) -> dict[str, object] | None:
    from ckptctl.inspect.stats import measure

    return measure(dtype, chunks)


def _measure_tensors(view: View, tensors: list[TensorView], shown: Shown) -> None:
    from ckptctl.inspect.tensors import lacking_slices, skipped_rows

    by_name = {item["name"]: item for item in shown.tensors}
    progress = view.runner.progress
    progress.start("reading tensors", sum(each.nbytes for each in tensors))
    for each in tensors:
        found: dict[str, object] | None = None
        if any(is_lost(view, piece.entry) for piece in each.pieces):
            pass
        elif each.numeric:
            found = _measured(each.dtype, each.present())
        elif each.dtype.name == "string" and not each.is_hash_table:
            count = total = longest = 0
            for item in each.strings():
                count += 1
                total += len(item)
                longest = max(longest, len(item))
            found = {"count": count, "bytes": total, "longest": longest}
        by_name[each.name]["stats"] = found
        progress.advance(each.nbytes)
    shown.notes = [*lacking_slices(tensors), *skipped_rows(tensors)]
