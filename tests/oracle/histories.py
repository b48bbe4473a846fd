"""Histories of a training run: what may happen to a checkpoint directory, and what must follow."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from ckptctl import knobs
from ckptctl.bundle import BundleReader
from ckptctl.errors import UnprovenError
from tests.oracle.chain import INCREMENTS, Chain, Full, Increment, write_state
from tests.oracle.images import Ev, Image, Row, Tensor, assert_bundle
from tests.oracle.ps import Ps, TableSpec, VarSpec
from tests.oracle.rules import Counts, Refused, apply

SMALL_KEYS = [0, 1, 2, 5, 6, 999, 1000, 1001, 1005, 2000, 7001, -1000, -3000]
KEYS = {
    "int64": [*SMALL_KEYS, 2**40 + 5, 2**63 - 1, -(2**63) // 1000 * 1000 + 1000],
    "int32": [*SMALL_KEYS, 2**31 - 1],
}
#: Files that are fsynced all the time had better lie in memory.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
#: (bytes of a piece, keys of a join): tiny ones force the edges of pieces everywhere.
KNOBS = [(1 << 20, 1 << 16), (64, 7), (1, 1), (8, 2), (4096, 3)]


@dataclass(frozen=True)
class Spec:
    """A model, and how its checkpoints are saved."""

    tables: tuple[TableSpec, ...]
    variables: tuple[VarSpec, ...]
    shards: int
    mode: str  # none, cumulative or delta: what increments say of their lineage
    pad: int
    seed: int


@st.composite
def tables(draw: st.DrawFn, name: str) -> TableSpec:
    parts = draw(st.sampled_from([0, 0, 1, 2, 3, 11]))
    filter_freq = draw(st.sampled_from([0, 0, 2]))
    # An unpartitioned EV in a scope called part_0 reads as part 0 of 1; see test_parts.py.
    others = [None] if name.startswith("part_") else [None, None, 0, 1, 2, 3, 5]
    return TableSpec(
        name,
        dim=draw(st.sampled_from([1, 2, 5])),
        parts=parts,
        incr_parts=draw(st.sampled_from(others)),
        # Slots of names that we do not know are known by their rows: see test_catalogue.py.
        slots=draw(st.sampled_from([(), ("Adagrad",), ("Adam", "Adam_1"), ("Ftrl", "Ftrl_1")])),
        key_type=draw(st.sampled_from(["int64", "int64", "int32"])),
        filter_freq=filter_freq,
        versions=draw(st.booleans()),
        freqs=draw(st.booleans()),
        form=draw(st.sampled_from(["offsets", "offsets", "offsets", "old", "tail"])),
    )


@st.composite
def variables(draw: st.DrawFn, name: str) -> VarSpec:
    kind = draw(st.sampled_from(["dense", "rows", "rows", "growing", "text"]))
    shape = (draw(st.sampled_from([1, 4, 13])), draw(st.sampled_from([1, 3])))
    if kind in ("growing", "text"):
        return VarSpec(name, kind, shape)
    axis = draw(st.sampled_from([0, 0, 1])) if kind == "dense" else 0
    most = shape[axis]
    parts = draw(st.sampled_from([p for p in (0, 1, 2, 3, 12) if p <= most]))
    return VarSpec(
        name,
        kind,
        shape,
        dtype="float32" if kind == "rows" else draw(st.sampled_from(["float32", "bfloat16"])),
        parts=parts,
        axis=axis,
        slots=draw(st.sampled_from([(), ("Adagrad",)])),
        key_type=draw(st.sampled_from(["int64", "int32"])),
    )


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = draw(st.sampled_from([["emb"], ["part_0/x"], ["a/b", "emb"], ["emb", "part_0/x"], []]))
    own = draw(st.sampled_from([[], ["w"], ["t-keys", "v/u"], ["w", "w/u"]]))
    shards = draw(st.integers(1, 3))
    made = [draw(tables(name)) for name in sorted(names)]
    if shards > 1:
        # Fewer parts of the same names look like sets that are missing: partly idle.
        made = [
            replace(t, incr_parts=None) if 0 < (t.incr_parts or 0) < t.parts else t for t in made
        ]
    return Spec(
        tuple(made),
        tuple(draw(variables(name)) for name in own),
        shards=shards,
        mode=draw(st.sampled_from(["none", "none", "cumulative", "delta"])),
        pad=draw(st.sampled_from([0, 0, 8])),
        seed=draw(st.integers(0, 2**16)),
    )


def _sparse_rows(image: Image) -> dict[str, set[object]]:
    """Keys by member of a table, and row numbers by variable."""
    found: dict[str, set[object]] = {}
    for ev in image.evs:
        keys = found.setdefault(ev.member, set())
        keys |= {row.key for row in ev.rows if _in_place(ev, row)}
    for rows in image.rows:
        found[rows.name] = set(rows.rows)
    return found


def _in_place(ev: Ev, row: Row) -> bool:
    """Whether a row of an increment is looked at by anyone."""
    return row.place == (row.key % 1000 if row.key >= 0 else 0)


def is_idle(base: Image, image: Image, earlier: list[Image]) -> bool:
    """Idle or partly idle: a shard of the full whose sparse tensors have no rows."""
    shards: dict[int, list[str]] = {}
    for ev in base.evs:
        shards.setdefault(ev.shard, []).append(ev.name)
    for name in dict.fromkeys(rows.name for item in (image, *earlier) for rows in item.rows):
        shards.setdefault(_shard_of(base, name), []).append(name)
    silent = {
        s: names for s, names in shards.items() if not any(_count(base, image, n) for n in names)
    }
    if len(silent) == len(shards):
        return bool(shards)
    delta = image.lineage is not None and image.lineage["mode"] == "delta"
    return any(
        _count(base, image, name) is None
        or (not delta and any(_count(base, item, name) for item in earlier))
        for names in silent.values()
        for name in names
    )


def _count(base: Image, image: Image, name: str) -> int | None:
    """Rows of one sparse tensor; of all parts where some of them are none of the full's."""
    members = {ev.name: ev.member for ev in base.evs}
    parts = [ev for ev in image.evs if ev.member == members.get(name)]
    if any(ev.name not in members for ev in parts):
        return sum(len(ev.rows) for ev in parts)
    own = {ev.name: len(ev.rows) for ev in image.evs} | {r.name: len(r.rows) for r in image.rows}
    return own.get(name)


def _shard_of(base: Image, name: str) -> int:
    pieces = name.split("/")
    part = next((at for at, piece in enumerate(pieces) if piece.startswith("part_")), None)
    number = int(pieces.pop(part)[5:]) if part is not None else 0
    tensor = base.plain["/".join(pieces)]
    if isinstance(tensor, Tensor):
        return tensor.shard
    return sorted(tensor.pieces, key=lambda piece: piece.extents)[number].shard


def is_nested(series: list[Image]) -> bool:
    for before, after in pairwise(series):
        keys = _sparse_rows(after)
        if any(own - keys.get(name, set()) for name, own in _sparse_rows(before).items()):
            return False
    return True


@dataclass
class _Saved:
    """A full with the run's truth of it, and the full that its increments began at."""

    image: Image
    root: int
    merged: bool = False


@dataclass
class _Truth:
    """What the PS held: rows by member, and whether a save left some out on purpose."""

    rows: dict[tuple[str, str], dict[int, bytes]] = field(default_factory=dict)
    whole: bool = True


class Histories(RuleBasedStateMachine):
    """Train, save, lose a recorder, merge; every merged full must be what the rules say."""

    check_with_tensorflow = None

    @initialize(spec=specs(), sizes=st.sampled_from(KNOBS), ragged=st.booleans())
    def start(self, spec: Spec, sizes: tuple[int, int], ragged: bool) -> None:
        self.saved_knobs = knobs.PIECE_BYTES, knobs.JOIN_KEYS
        knobs.PIECE_BYTES, knobs.JOIN_KEYS = sizes
        self.home = Path(tempfile.mkdtemp(prefix="histories-", dir=MEMORY))
        self.spec = spec
        self.rng = random.Random(spec.seed)
        self.ps = Ps(spec.tables, spec.variables, shards=spec.shards, seed=spec.seed)
        self.chain = Chain(self.home / "chain", pad=spec.pad)
        self.chain.directory.mkdir()
        self.fulls: dict[int, _Saved] = {}
        self.truth: dict[int, _Truth] = {}
        self.ours: list[int] = []  # fulls that the trainer's Saver knows of
        self.root = 0
        self.previous: int | None = None
        self.lost = False
        self.merges = 0
        self._train(4)
        self.save_full(ragged)

    def teardown(self) -> None:
        knobs.PIECE_BYTES, knobs.JOIN_KEYS = self.saved_knobs
        shutil.rmtree(self.home)

    def _train(self, most: int) -> None:
        wanted = {}
        for table in self.spec.tables:
            pool = KEYS[table.key_type]
            wanted[table.name] = [self.rng.choice(pool) for _ in range(self.rng.randrange(most))]
        self.ps.train(wanted, steps=self.rng.choice([1, 10]))

    @rule(most=st.sampled_from([1, 3, 12]))
    def train(self, most: int) -> None:
        self._train(most)

    @rule(ragged=st.sampled_from([False, False, False, True]))
    def save_full(self, ragged: bool) -> None:
        if self.ps.step in (*self.fulls, *self.chain.increments):
            self._train(4)
        image = Full(**vars(self.ps.full()))
        whole = not ragged or not self._disturb(image)
        self.chain.add(image)
        self.fulls[image.step] = _Saved(image, image.step)
        self._remember(image.step, whole)
        self.root, self.previous = image.step, None
        self.lost = False
        self.ours.append(image.step)
        names = [self.chain.full_prefix(step).name for step in self.ours]
        write_state(self.chain.directory, names)

    @rule(ragged=st.sampled_from([False, False, False, True]))
    def save_increment(self, ragged: bool) -> None:
        if self.ps.step in (*self.fulls, *self.chain.increments):
            self._train(4)
        lineage = None
        if self.spec.mode != "none":
            lineage = {
                "version": 1,
                "base_step": self.root,
                "previous_step": self.previous,
                "mode": self.spec.mode,
            }
        image = Increment(**vars(self.ps.increment(lineage)))
        if self.spec.mode == "delta":
            self.ps.clear()
        whole = not ragged or not self._disturb(image)
        self.chain.add(image)
        self._remember(image.step, whole and not self.lost and self._base_is_whole())
        self.previous = image.step
        names = [self.chain.increment_prefix(step).name for step in self.chain.increments]
        write_state(self.chain.directory / INCREMENTS, names)

    @rule(
        most=st.sampled_from([3, 12]),
        ragged=st.sampled_from([False, False, False, True]),
        saves=st.integers(1, 3),
        jobs=st.sampled_from([1, 2]),
        in_place=st.booleans(),
    )
    def go_on(self, most: int, ragged: bool, saves: int, jobs: int, in_place: bool) -> None:
        """What most runs do most of the time."""
        for _ in range(saves):
            self._train(most)
            self.save_increment(ragged)
        self.merge(0, jobs, in_place, "auto", ragged)

    @precondition(lambda self: self.chain.increments)
    @rule()
    def lose_recorder(self) -> None:
        """A PS came back with what it had, but its recorder did not."""
        self.ps.clear()
        self.lost = True

    @precondition(lambda self: self.chain.increments)
    @rule(
        back=st.integers(0, 3),
        jobs=st.sampled_from([1, 2]),
        in_place=st.booleans(),
        increments=st.sampled_from(["auto", "auto", "last", "all"]),
        drop=st.booleans(),
    )
    def merge(self, back: int, jobs: int, in_place: bool, increments: str, drop: bool) -> None:
        steps = sorted(self.chain.increments)
        step = steps[max(0, len(steps) - 1 - back)]
        if step in self.fulls:
            return
        base = max(below for below in self.fulls if below < step)
        between = [s for s in steps if base < s <= step]
        delta = self.spec.mode == "delta"
        series = between if increments == "all" or delta else [step]
        counts = Counts()
        try:
            state = self._expect(base, step, between, series, increments, drop, counts)
        except Refused:
            with_error = {"increments": increments, "drop_unpaired": drop}
            self._refused(step, **with_error)
            return
        output = None if in_place else self.home / f"out{self.merges}-{step}"
        self.merges += 1
        options = {"increments": increments, "drop_unpaired": drop}
        if delta and increments == "last":
            options["increments"] = "auto"
        plan = self.chain.plan(step, output, **options)
        assert plan.base.step == base
        assert [source.step for source in plan.increments] == series
        self.look_at(step, state, options)
        result = self.chain.merge(step, output, jobs=jobs, **options)
        self.look_at_merged(result.prefix, state)
        assert_bundle(result.prefix, state, like=self.chain.full_prefix(base))
        self._check_counts(result, state, counts)
        self._check_truth(step, state)
        if self.check_with_tensorflow:
            self.check_with_tensorflow(result.prefix, state)
        if in_place:
            assert result.prefix == str(self.chain.full_prefix(step))
            self.fulls[step] = _Saved(state, self.fulls[base].root, merged=True)
            self.chain.fulls[step] = state

    # -------------------------------------------------------------------------------------

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        """Look at a state that is about to be merged."""

    def look_at_merged(self, prefix: str, state: Image) -> None:
        """Look at the merged full."""

    def _expect(
        self,
        base: int,
        step: int,
        between: list[int],
        series: list[int],
        increments: str,
        drop: bool,
        counts: Counts,
    ) -> Image:
        images = self.chain.increments
        if increments != "last" or self.spec.mode == "delta":
            earlier = [images[s] for s in between[:-1]]
            if is_idle(self.fulls[base].image, images[step], earlier):
                raise Refused("2")
        proven = increments != "auto" or self.spec.mode == "delta"
        folded = [base] if self.fulls[base].merged else []
        if not proven and not is_nested([images[s] for s in (*folded, *between)]):
            raise Refused("1")
        own = [images[s] for s in series]
        return apply(self.fulls[base].image, own, drop_unpaired=drop, counts=counts)

    def _refused(self, step: int, **options: object) -> None:
        if self.spec.mode == "delta" and options["increments"] == "last":
            options["increments"] = "auto"
        output = self.home / f"refused-{step}"
        try:
            self.chain.merge(step, output, **options)
        except UnprovenError:
            assert not list(self.home.glob("refused-*"))
            return
        raise AssertionError(f"step {step} was merged")

    def _check_counts(self, result: object, state: Image, counts: Counts) -> None:
        primaries = [ev for ev in state.evs if not ev.slot]
        assert result.keys == sum(len(ev.rows) for ev in primaries)
        assert result.keys_new == sum(counts.new.values())
        assert result.keys_replaced == sum(counts.replaced.values())
        said = " ".join(result.warnings)
        assert ("dropped" in said) == bool(counts.dropped)
        assert ("incoming rows outside" in said) == bool(counts.skipped)
        assert ("of the full outside" in said) == bool(counts.misplaced)

    def _base_is_whole(self) -> bool:
        return self.truth[self.root].whole

    def _remember(self, step: int, whole: bool) -> None:
        rows = {
            (name, slot): {key: row.value for key, row in own.items()}
            for name, table in self.ps.tables.items()
            for slot, own in table.rows.items()
        }
        self.truth[step] = _Truth(rows, whole)

    def _check_truth(self, step: int, state: Image) -> None:
        """The merged full holds what the PS held, where no save left anything out."""
        inside = [s for s in self.truth if s <= step]
        truth = self.truth[step]
        if not all(self.truth[s].whole for s in inside):
            return
        found: dict[tuple[str, str], dict[int, bytes]] = {key: {} for key in truth.rows}
        for ev in state.evs:
            found[ev.table, ev.slot] |= {row.key: row.value for row in ev.rows}
        assert found == truth.rows

    def _disturb(self, image: Image) -> bool:
        """Leave out a row of a slot (DeepRec #1023), or put one into a wrong bucket."""
        filled = [at for at, ev in enumerate(image.evs) if ev.rows]
        if not filled:
            return False
        at = self.rng.choice(filled)
        ev = image.evs[at]
        which = self.rng.randrange(len(ev.rows))
        row = ev.rows[which]
        others = list(ev.rows[:which] + ev.rows[which + 1 :])
        if self.rng.random() < 0.5 and row.place is not None:
            place = (row.place + ev.parts) % 1000
            if place % ev.parts != ev.number:
                return False
            others.append(row._replace(place=place))
        image.evs[at] = replace(ev, rows=others).ordered()
        return True


def tensorflow_reads(tf: object, prefix: str, state: Image) -> None:
    """TensorFlow reads every tensor of a merged full, and finds the same bytes."""
    reader = tf.train.load_checkpoint(prefix)
    ours = BundleReader(prefix)
    assert set(reader.get_variable_to_shape_map()) == set(ours.tensors)
    for name, entry in ours.tensors.items():
        found = reader.get_tensor(name)
        if entry.dtype.name == "string":
            assert np.ravel(found).tolist() == ours.read(name).ravel().tolist()
        else:
            assert np.asarray(found).tobytes() == ours.read(name).tobytes()
            assert np.shape(found) == entry.shape
