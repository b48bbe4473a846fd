"""Which rows changed since the last full: an epoch a row, beside the variable.

Each parameter server has a clock, an int32 that counts saves, and for each group of
variables that are updated together an int32 a row, `seen`: the clock when the row was last
changed. Rows with `seen` above the clock at a full are the ones that changed since. All of
it are TensorFlow ops on the variable's own device: no Python runs on a parameter server and
no variable is copied.

The order is what keeps rows from being lost while workers update without locks. A save
moves the clock and *then* reads. An update records its rows before it changes them, and
again *after* it if the clock has moved meanwhile: a row that a save may have missed is thus
recorded with the new clock. `docs/design/0004-training.md` says why, and what was tried.

What counts as base is decided by the process that saves, once the full is durable on disk,
and never before: a full that failed leaves everything as it was.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from ckptctl.errors import RefusedError
from ckptctl.training.bases import Bases
from ckptctl.training.places import cpu_of, held_or, refuse_open_sessions, room, started, variable
from ckptctl.training.updates import (
    SparseUpdate,
    Uses,
    groups_of,
    initialisers_of,
    obstacle,
    row_count,
    successors,
    unfit,
    uses_of,
)

__all__ = ["RECORDS", "Clock", "Recorder", "Track"]

_LOG = logging.getLogger("ckptctl.training")
_SCOPE = "ckptctl/recorder"
_HOME = "_ckptctl_recorder"
#: Scope of the ops that record what an op of the user's changes.
RECORDS = "ckptctl/record"


@dataclass(frozen=True)
class Clock:
    """The clock of one device, and whether its variables may be used.

    Attributes
    ----------
    device
        The device.
    epoch, ready
        Variables int32[] and bool[].
    reading
        The clock, 0 before it runs.
    """

    device: str
    epoch: Any
    ready: Any
    reading: Any


@dataclass
class Track:
    """Rows of variables that are updated together, on one device.

    Attributes
    ----------
    clock
        Clock of that device.
    seen
        Variable int32[rows]: the clock when a row was last changed.
    rows
        Number of rows.
    """

    clock: Clock
    seen: Any
    rows: int


@dataclass
class Recorder:
    """Records the rows that a graph changes; one a graph, see `Recorder.of`.

    Attributes
    ----------
    graph
        The graph.
    clocks, tracks
        By device; by name of the op that owns a variable whose rows are saved.
    own
        Names of ops of ours that change the user's variables, and record by themselves.
    bases
        The last durable full of each directory.
    """

    graph: Any
    clocks: dict[str, Clock] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    bases: Bases = field(default_factory=Bases)
    # Those of variables that are saved whole too, but updated together with others.
    _beside: dict[str, Track] = field(default_factory=dict)
    # By name of an op that changes rows: the op, and what records it afterwards, by track.
    _recorded: dict[str, tuple[Any, dict[int, Any]]] = field(default_factory=dict)
    # By track, rows and whether they are nested: the clock that was read, the rows, what
    # recorded them.
    _befores: dict[tuple[int, str, bool], tuple[Any, Any, Any]] = field(default_factory=dict)
    # Updates that were seen, recorded or not.
    _judged: set[str] = field(default_factory=set)
    _watched: dict[str, Any] = field(default_factory=dict)
    # Those that have no rows for an increment; None once that was said.
    _unfit: dict[str, Any] = field(default_factory=dict)
    _version: int = -1

    @staticmethod
    def of(graph: Any) -> Recorder:
        """Return the recorder of a graph."""
        found: Recorder | None = getattr(graph, _HOME, None)
        if found is None:
            found = Recorder(graph)
            setattr(graph, _HOME, found)  # lives and dies with the graph
        return found

    # --- building ---

    def clock_of(self, device: str) -> Clock:
        """Return the clock of a device, made when first asked for."""
        device = cpu_of(device)
        if device not in self.clocks:
            # By device: the processes of a training find a clock by its name, and one of them
            # may have variables on more devices than others.
            place = re.sub(r"\W+", "_", device).strip("_")
            with room(self.graph, device):
                epoch = variable(1, tf.int32, f"{_SCOPE}/epoch/{place}")
                ready = variable(False, tf.bool, f"{_SCOPE}/ready/{place}")
                self.clocks[device] = Clock(device, epoch, ready, held_or(0, epoch))
        return self.clocks[device]

    def record(self, variables: Iterable[Any]) -> None:
        """Find the updates of some variables and record the rows that they change.

        Parameters
        ----------
        variables
            The ops that own the variables. Those of which increments have no rows, and those
            that turn out to be dense, get no track, with a warning if rows of them are updated
            at all.

        Raises
        ------
        ckptctl.errors.RefusedError
            A session of this graph is open: what is added to it now would be ignored. Or a
            variable whose rows are recorded got an update that cannot be recorded.
        """
        everything = {owner.name: owner for owner in variables}
        owners = {name: owner for name, owner in everything.items() if unfit(owner) is None}
        for name, owner in everything.items():
            if name not in owners:
                self._unfit.setdefault(name, owner)
        initialisers = initialisers_of(self.graph)
        self._tell_unfit(initialisers)
        found = {name: uses_of(op, initialisers, self.own) for name, op in owners.items()}
        self._watched |= owners
        self._judged |= {update.op.name for uses in found.values() for update in uses.sparse}
        sparse = {name: uses for name, uses in found.items() if self._recordable(name, uses)}
        updates = {update.op.name: update for uses in sparse.values() for update in uses.sparse}
        if any(name not in self.tracks or self._unrecorded(uses) for name, uses in sparse.items()):
            refuse_open_sessions(self.graph)
        for group in groups_of(updates.values(), self._watched):
            self._track(group, sparse)
        for name, uses in sparse.items():
            self._record_wholes(uses, self.tracks[name])
        for update in updates.values():
            self._record_rows(update)
        self._version = self.graph.version

    def check(self) -> None:
        """Record what was added since; raise where that is too late.

        Raises
        ------
        ckptctl.errors.RefusedError
            A variable whose rows are recorded got an update that cannot be recorded.
        """
        if self.graph.version == self._version:
            return
        initialisers = initialisers_of(self.graph)
        self._tell_unfit(initialisers)
        late, added = [], []
        for name, owner in self._watched.items():
            uses = uses_of(owner, initialisers, self.own)
            unknown = [u.op for u in uses.sparse if u.op.name not in self._judged]
            if name in self.tracks:
                if self._recordable(name, uses) and (new := self._unrecorded(uses)):
                    late.append(owner)
                    added += new
            elif unknown:
                self._judged.update(op.name for op in unknown)
                _LOG.warning(
                    "%s is saved whole in increments: the Saver was built before %s. "
                    "Build it after the optimizer.",
                    name,
                    unknown[0].name,
                )
        hurried = self._hurried()
        added += [successor for successor, _ in hurried]
        if added and self.graph.finalized:
            raise RefusedError(
                f"{added[0].name} was added after the Saver was built, and the graph is finalized: "
                "the rows that it changes are not recorded",
                remedy="build the Saver last, also after TensorFlow's own Savers",
            )
        if added:
            refuse_open_sessions(self.graph, added[0])
        for successor, after in hurried:
            successor._add_control_input(after)
        if late:
            self.record(late)
        self._version = self.graph.version

    def mark(self, track: Track, rows: Any) -> Any:
        """Return an op that records rows as changed now."""
        with tf.device(track.clock.device):
            return _write(track, rows, tf.shape(rows), track.clock.epoch.read_value())

    def mark_all(self, track: Track) -> Any:
        """Return an op that records every row as changed now."""
        with tf.device(track.clock.device):
            now = tf.fill([track.rows], track.clock.epoch.read_value())
            return track.seen.assign(now, read_value=False)

    def changed(self, track: Track, since: Any) -> Any:
        """Return the rows changed since a clock, int64[K] ascending."""
        with tf.device(track.clock.device):
            return tf.reshape(tf.where(track.seen.read_value() > since), [-1])

    def tick(self, device: str) -> Any:
        """Return an op that moves the clock of a device."""
        clock = self.clock_of(device)
        with tf.device(clock.device), tf.control_dependencies([started(clock.epoch)]):
            return clock.epoch.assign_add(1, read_value=False)

    def begin_restore(self) -> Any:
        """Return an op that closes the gate, then forgets all rows, then moves the clocks."""
        shut, forget = [], []
        for clock in self.clocks.values():
            with tf.device(clock.device):
                shut.append(clock.ready.assign(False, read_value=False))
        with tf.control_dependencies(shut):
            for track in self._all_tracks():
                with tf.device(track.clock.device):
                    # Zeros that TensorFlow can't make a constant of: it would keep that beside
                    # the variable, and copy it at the first record.
                    zeros = tf.raw_ops.Empty(shape=[track.rows], dtype=tf.int32, init=True)
                    forget.append(track.seen.assign(zeros, read_value=False))
        # In this order, and never backwards: a worker whose update is under way sees that the
        # clock moved, and records it again.
        with tf.control_dependencies([*shut, *forget]):
            moved = [self.tick(device) for device in self.clocks]
        return tf.group(*shut, *forget, *moved, name="ckptctl/begin_restore")

    def open_gate(self) -> Any:
        """Return an op that says that the variables may be used."""
        opened = []
        for clock in self.clocks.values():
            # Where nothing is recorded, no initialiser has started the clock.
            moved = self.tick(clock.device)
            with tf.device(clock.device), tf.control_dependencies([moved]):
                opened.append(clock.ready.assign(True, read_value=False))
        return tf.group(*opened, name="ckptctl/open_gate")

    def not_ready(self, after: Any) -> Any:
        """Return the names of what is not restored yet, string[N], read after `after`."""
        own = [t.seen for t in self._all_tracks()]
        own += [v for clock in self.clocks.values() for v in (clock.epoch, clock.ready)]
        with tf.control_dependencies([after]):
            missing = tf.compat.v1.report_uninitialized_variables(own)
            names, shut = [], []
            for clock in self.clocks.values():
                with tf.device(clock.device):
                    shut.append(tf.logical_not(held_or(False, clock.ready)))
                names.append(clock.ready.op.name)
            waiting = tf.boolean_mask(tf.constant(names, tf.string), tf.stack(shut))
        return tf.concat([after, missing, waiting], 0, name="ckptctl/not_ready")

    # --- what the saving process knows ---

    def now(self, session: Any) -> dict[str, int]:
        """Return the clock of each device: rows seen later changed after the next save."""
        epochs = session.run([clock.reading for clock in self.clocks.values()])
        return {device: int(epoch) for device, epoch in zip(self.clocks, epochs, strict=True)}

    # --- details ---

    def _all_tracks(self) -> list[Track]:
        return list({id(track): track for track in self.tracks.values()}.values())

    def _recordable(self, name: str, uses: Uses) -> bool:
        """Return whether rows of a variable can be recorded; raise where they are already."""
        if not uses.sparse:
            return False
        reason = obstacle(uses)
        if reason is not None and name in self.tracks:
            raise RefusedError(
                f"the rows of {name} are recorded, and it was changed after the Saver was built: "
                f"{reason}",
                remedy="build the Saver last",
            )
        if reason is not None:
            _LOG.warning("%s is saved whole in increments: %s", name, reason)
        return reason is None

    def _tell_unfit(self, initialisers: Collection[str]) -> None:
        """Warn of variables that have no rows for an increment, where rows are updated."""
        for name, owner in self._unfit.items():
            if owner is not None and uses_of(owner, initialisers, self.own).sparse:
                _LOG.warning("%s is saved whole in increments: %s", name, unfit(owner))
                self._unfit[name] = None

    def _unrecorded(self, uses: Uses) -> list[Any]:
        ops = [*(update.op for update in uses.sparse), *uses.loads, *uses.initialisers]
        return [op for op in ops if op.name not in self._recorded]

    def _track(self, group: list[str], sparse: Container[str]) -> None:
        known = [self._beside[name] for name in group if name in self._beside]
        if known:
            track = known[0]
        else:
            name = min(group, key=lambda item: (len(item), item))
            clock = self.clock_of(self._watched[name].device)
            rows = row_count(self._watched[name])
            with room(self.graph, clock.device):
                seen = variable(tf.zeros([rows], tf.int32), tf.int32, f"{_SCOPE}/{name}")
            track = Track(clock, seen, rows)
        for name in group:
            self._beside.setdefault(name, track)
            if name in sparse:
                self.tracks.setdefault(name, track)

    def _record_wholes(self, uses: Uses, track: Track) -> None:
        for op in uses.initialisers:
            if op.name in self._recorded:
                continue
            self._recorded[op.name] = (op, {})
            with room(self.graph, track.clock.device):
                mark = self._mark_first(track)
            op._add_control_input(mark)
        for op in uses.loads:
            if op.name not in self._recorded:
                self._around(op, track)

    def _mark_first(self, track: Track) -> Any:
        """Return an op that marks all rows, where nothing may have been initialised yet."""
        with tf.control_dependencies([started(track.clock.epoch)]):
            return self.mark_all(track)

    def _record_rows(self, update: SparseUpdate) -> None:
        """Record the rows of an update before it, and after it if the clock has moved."""
        op = update.op
        _, done = self._recorded.get(op.name, (op, {}))
        found = (self._beside.get(owner.name) for owner in update.variables)
        tracks = {id(track): track for track in found if track is not None}
        following, afters = successors(op), {}
        for number, track in tracks.items():
            if number in done:
                continue
            key = (number, update.rows.name, update.nested)
            with self._place(track.clock.device):
                if key not in self._befores:
                    rows = tf.gather(update.rows, 0, axis=-1) if update.nested else update.rows
                    if rows.shape.rank != 1:
                        rows = tf.reshape(rows, [-1])
                    read = _read(track.clock.epoch)
                    before = _write(track, rows, tf.shape(rows), read)
                    self._befores[key] = tf.reshape(read, [1]), rows, before
                then, rows, before = self._befores[key]
                with tf.control_dependencies([op]):
                    now = _read(track.clock.epoch)
                # All that waits for `op` waits for these, so they are few, and without control
                # flow: the rows as many times as the clock moved, most often none.
                afters[number] = _scatter(track, tf.tile(rows, now - then), now)
            op._add_control_input(before)
        self._follow(op, following, afters)

    def _around(self, op: Any, track: Track) -> None:
        """Mark all rows before `op`, and after it before whatever follows."""
        following = successors(op)
        with self._place(op.device):
            before = self._mark_first(track)
            with tf.control_dependencies([op]):
                after = self._mark_first(track)
        op._add_control_input(before)
        self._follow(op, following, {id(track): after})

    def _follow(self, op: Any, following: list[Any], afters: dict[int, Any]) -> None:
        for successor in following:
            if not successor.name.startswith(f"{RECORDS}/"):
                for after in afters.values():
                    successor._add_control_input(after)
        _, done = self._recorded.get(op.name, (op, {}))
        self._recorded[op.name] = (op, done | afters)

    def _hurried(self) -> list[tuple[Any, Any]]:
        """Return what was added behind a recorded op and does not wait for its record."""
        found = []
        for op, afters in self._recorded.values():
            if not afters:
                continue
            for successor in successors(op):
                if not successor.name.startswith(f"{RECORDS}/"):
                    waits = {before.name for before in successor.control_inputs}
                    late = [after for after in afters.values() if after.name not in waits]
                    found += [(successor, after) for after in late]
        return found

    @contextmanager
    def _place(self, device: str) -> Iterator[None]:
        with room(self.graph, device), tf.compat.v1.name_scope(f"{RECORDS}/"):
            yield


def _read(variable: Any) -> Any:
    """Return what a variable holds: one op, where `read_value` makes two."""
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def _write(track: Track, rows: Any, shape: Any, now: Any) -> Any:
    # A number for each row: TensorFlow is slower where one number goes to all of them.
    return _scatter(track, rows, tf.fill(shape, now))


def _scatter(track: Track, rows: Any, now: Any) -> Any:
    return tf.raw_ops.ResourceScatterUpdate(resource=track.seen.handle, indices=rows, updates=now)
