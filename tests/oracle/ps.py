"""A parameter server in plain Python dicts: it trains, and saves as DeepRec does."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.oracle.images import (
    Ev,
    Filtered,
    Image,
    Piece,
    Row,
    Rows,
    Sliced,
    Tensor,
    bucket_of,
    floats,
    ints,
    scalar,
    string,
)


@dataclass(frozen=True)
class TableSpec:
    """A table of the model. `incr_parts`: parts of the PS that writes its increments."""

    name: str
    dim: int = 2
    parts: int = 0  # 0: unpartitioned
    incr_parts: int | None = None
    slots: tuple[str, ...] = ("Adagrad",)
    key_type: str = "int64"
    filter_freq: int = 0
    versions: bool = False
    freqs: bool = False
    form: str = "offsets"  # old: no offset tensors; tail: rows behind offset[1000]

    @property
    def saves_freqs(self) -> bool:
        return self.freqs or self.filter_freq > 0


@dataclass(frozen=True)
class VarSpec:
    """A normal variable with its slots.

    `kind`: dense (whole in increments), rows (increments hold rows), growing (changes its
    length, as TensorFlow's hash tables do), text. `parts` 0 is unpartitioned, 1 a partitioner
    that made one part.
    """

    name: str
    kind: str = "dense"
    shape: tuple[int, int] = (4, 2)
    dtype: str = "float32"
    parts: int = 0
    axis: int = 0
    slots: tuple[str, ...] = ()
    key_type: str = "int64"


@dataclass
class _Table:
    spec: TableSpec
    rows: dict[str, dict[int, Row]] = field(default_factory=dict)  # by member
    seen: dict[int, tuple[int, int]] = field(default_factory=dict)  # filtered: version, freq
    touched: set[int] = field(default_factory=set)


@dataclass
class _Variable:
    spec: VarSpec
    rows: dict[str, list[bytes]] = field(default_factory=dict)  # by slot, "" the variable
    touched: set[int] = field(default_factory=set)


WIDTHS = {"float32": 4, "bfloat16": 2, "int64": 8}


class Ps:
    """All parameter servers of one training run.

    What a save holds is decided by its content alone; `rng` decides what DeepRec leaves
    open: values, the order inside buckets, the order of slices.
    """

    def __init__(
        self,
        tables: Iterable[TableSpec],
        variables: Iterable[VarSpec],
        *,
        shards: int = 1,
        seed: int = 0,
    ) -> None:
        self.rng = random.Random(seed)
        self.shards = shards
        self.step = 0
        self.tables = {
            spec.name: _Table(spec, {slot: {} for slot in ("", *spec.slots)}) for spec in tables
        }
        self.variables = {spec.name: self._variable(spec) for spec in variables}

    def _variable(self, spec: VarSpec) -> _Variable:
        made = _Variable(spec)
        for slot in ("", *spec.slots):
            made.rows[slot] = [self._row(spec) for _ in range(spec.shape[0])]
        return made

    def _row(self, spec: VarSpec) -> bytes:
        return self.rng.randbytes(spec.shape[1] * WIDTHS.get(spec.dtype, 4))

    # Training ----------------------------------------------------------------------------

    def train(self, keys: dict[str, Iterable[int]], steps: int = 10) -> None:
        """Train on keys of each table, and on some rows of each variable."""
        self.step += steps
        for name, wanted in keys.items():
            for key in wanted:
                self._see(self.tables[name], key)
        for variable in self.variables.values():
            self._move(variable)

    def _see(self, table: _Table, key: int) -> None:
        spec = table.spec
        old = table.rows[""].get(key)
        freq = (old.freq if old else table.seen.get(key, (0, 0))[1]) + 1
        version = self.step if spec.versions else 0
        if old is None and freq < spec.filter_freq:
            table.seen[key] = (version, freq)
            return
        table.seen.pop(key, None)
        table.touched.add(key)
        for rows in table.rows.values():
            value = struct.pack(f"<{spec.dim}f", *(self.rng.random() for _ in range(spec.dim)))
            rows[key] = Row(bucket_of(key), key, value, version, freq if spec.saves_freqs else 0)

    def _move(self, variable: _Variable) -> None:
        spec = variable.spec
        if spec.kind == "growing":
            count = self.rng.randrange(6)
            variable.rows[""] = [self._row(spec) for _ in range(count)]
            return
        wanted = range(spec.shape[0])
        if spec.kind == "rows":
            wanted = sorted(self.rng.sample(wanted, self.rng.randrange(spec.shape[0] + 1)))
        for row in wanted:
            variable.touched.add(row)
            for rows in variable.rows.values():
                rows[row] = self._row(spec)

    # Saving ------------------------------------------------------------------------------

    def full(self) -> Image:
        """Save a full, which empties the recorders."""
        image = Image(self.step, self.shards)
        for table in self.tables.values():
            image.evs += self._full_table(table)
        for variable in self.variables.values():
            image.plain |= self._whole(variable)
        image.plain["global_step"] = scalar("int64", self.step)
        self.clear()
        return image

    def increment(self, lineage: dict[str, object] | None = None) -> Image:
        """Save what was touched since the recorders were emptied."""
        image = Image(self.step, self.shards, lineage=lineage)
        for table in self.tables.values():
            image.evs += self._increment_table(table)
        for variable in self.variables.values():
            if variable.spec.kind == "rows":
                image.rows += self._touched_rows(variable)
            else:
                image.plain |= self._whole(variable)
        image.plain["global_step"] = scalar("int64", self.step)
        return image

    def clear(self) -> None:
        """Empty the recorders."""
        for table in self.tables.values():
            table.touched.clear()
        for variable in self.variables.values():
            variable.touched.clear()

    def _parts(self, spec: TableSpec, parts: int) -> Iterable[tuple[int | None, int, int]]:
        """Return (part of the name, parts, shard)."""
        for part in range(max(parts, 1)):
            yield (part if parts else None), max(parts, 1), part % self.shards

    def _full_table(self, table: _Table) -> Iterable[Ev]:
        spec = table.spec
        for part, parts, shard in self._parts(spec, spec.parts):
            for slot, rows in table.rows.items():
                mine = [row for row in rows.values() if row.place % parts == (part or 0)]
                away = [
                    Filtered(bucket_of(key), key, version, freq)
                    for key, (version, freq) in table.seen.items()
                    if bucket_of(key) % parts == (part or 0)
                ]
                self.rng.shuffle(mine)
                self.rng.shuffle(away)
                if spec.form != "offsets":
                    late = len(mine) if spec.form == "old" else len(mine) // 2
                    mine = [r._replace(place=None) if i < late else r for i, r in enumerate(mine)]
                yield Ev(
                    spec.name,
                    slot,
                    part,
                    parts,
                    spec.dim,
                    mine,
                    away,
                    versions=spec.versions,
                    freqs=spec.saves_freqs,
                    versions_filtered=spec.versions,
                    key_type=spec.key_type,
                    old=spec.form == "old",
                    shard=shard,
                ).ordered()

    def _increment_table(self, table: _Table) -> Iterable[Ev]:
        spec = table.spec
        count = spec.parts if spec.incr_parts is None else spec.incr_parts
        for part, parts, shard in self._parts(spec, count):
            for slot, rows in table.rows.items():
                mine = [rows[key] for key in sorted(table.touched) if key in rows]
                mine = [row for row in mine if row.place % parts == (part or 0)]
                yield Ev(
                    spec.name,
                    slot,
                    part,
                    parts,
                    spec.dim,
                    mine,
                    key_type=spec.key_type,
                    incremental=True,
                    shard=shard,
                ).ordered()

    def _whole(self, variable: _Variable) -> dict[str, Tensor | Sliced]:
        spec = variable.spec
        found: dict[str, Tensor | Sliced] = {}
        for slot, rows in variable.rows.items():
            name = f"{spec.name}/{slot}" if slot else spec.name
            shard = self.rng.randrange(self.shards)
            if spec.kind == "text":
                found[name] = Tensor("string", (len(rows),), list(rows), shard)
            elif spec.parts < 2:
                shape = (len(rows), spec.shape[1])
                found[name] = Tensor(spec.dtype, shape, b"".join(rows), shard)
            else:
                found[name] = self._sliced(spec, rows)
        return found

    def _sliced(self, spec: VarSpec, rows: list[bytes]) -> Sliced:
        pieces = []
        width = WIDTHS[spec.dtype]
        for number, (start, length) in enumerate(cuts(spec.shape[spec.axis], spec.parts)):
            if spec.axis == 0:
                extents = ((start, length), (0, spec.shape[1]))
                data = b"".join(rows[start : start + length])
            else:
                extents = ((0, spec.shape[0]), (start, length))
                data = b"".join(row[start * width : (start + length) * width] for row in rows)
            pieces.append(Piece(extents, data, number % self.shards))
        self.rng.shuffle(pieces)
        return Sliced(spec.dtype, spec.shape, pieces)

    def _touched_rows(self, variable: _Variable) -> Iterable[Rows]:
        spec = variable.spec
        ranges = cuts(spec.shape[0], spec.parts) if spec.parts else [(0, spec.shape[0])]
        for number, (start, length) in enumerate(ranges):
            part = f"/part_{number}" if spec.parts else ""
            for slot, rows in variable.rows.items():
                inside = [r for r in sorted(variable.touched) if start <= r < start + length]
                yield Rows(
                    f"{spec.name}{part}" + (f"/{slot}" if slot else ""),
                    spec.dtype,
                    spec.shape[1],
                    {row - start: rows[row] for row in inside},
                    spec.key_type,
                    number % self.shards,
                )


def cuts(size: int, parts: int) -> list[tuple[int, int]]:
    """Return (start, length) as TensorFlow's partitioners cut: the first ones are longer."""
    found, start = [], 0
    for part in range(parts):
        length = size // parts + (part < size % parts)
        found.append((start, length))
        start += length
    return found


__all__ = ["Ps", "TableSpec", "VarSpec", "cuts", "floats", "ints", "string"]
