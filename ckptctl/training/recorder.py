"""Which rows changed since the last full: an epoch a row, beside the variable.

Each parameter server has a clock, an int32 that counts saves, and for each group of
variables that are updated together an int32 a row, `seen`: the clock when the row was last
changed. Rows with `seen` above the clock at a full are the ones that changed since. All of
it are TensorFlow ops on the variable's own device: no Python runs on a parameter server and
no variable is copied.

The order is what keeps rows from being lost while workers update without locks. An update
records *after* it changed the row (and before, for a worker that dies in between); a save
moves the clock and *then* reads. A row that a save may have missed is thus recorded with
the new clock. `docs/design/0004-training.md` says why, and what was tried.

What counts as base is decided by the process that saves, once the full is durable on disk,
and never before: a full that failed leaves everything as it was.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import device as tf_device
from tensorflow.python.training.saving.saveable_object_util import set_cpu0

from ckptctl.training.updates import SparseUpdate, Uses, successors, uses_of

__all__ = ["Base", "Clock", "Recorder", "Track", "cpu_of"]

_LOG = logging.getLogger("ckptctl.training")
_SCOPE = "ckptctl/recorder"
_HOME = "_ckptctl_recorder"


@dataclass(frozen=True)
class Base:
    """The full that increments are recorded against, known to be durable.

    Attributes
    ----------
    directory
        Directory of the full.
    step
        Step of the full.
    clocks
        Device to its clock: rows seen later changed since.
    """

    directory: str
    step: int
    clocks: dict[str, int]


@dataclass(frozen=True)
class Clock:
    """The clock of one device, and whether its variables may be used."""

    device: str
    epoch: Any
    ready: Any


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
    base
        The last durable full, or None before there is one.
    previous
        Step of the last increment on it, and the clocks when it was taken.
    """

    graph: Any
    clocks: dict[str, Clock] = field(default_factory=dict)
    tracks: dict[str, Track] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)
    base: Base | None = None
    previous: tuple[int, dict[str, int]] | None = None
    # Those of variables that are saved whole too, but updated together with others.
    _beside: dict[str, Track] = field(default_factory=dict)
    _recorded: set[str] = field(default_factory=set)
    _watched: dict[str, Any] = field(default_factory=dict)
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
            number = len(self.clocks)
            with _room(self.graph, device):
                self.clocks[device] = Clock(
                    device,
                    _variable(1, tf.int32, f"{_SCOPE}/epoch_{number}"),
                    _variable(False, tf.bool, f"{_SCOPE}/ready_{number}"),
                )
        return self.clocks[device]

    def record(self, variables: Iterable[Any]) -> None:
        """Find the updates of some variables and record the rows that they change.

        Parameters
        ----------
        variables
            The ops that own the variables, float32 of rank 2. Those that turn out to be
            dense get no track, with a warning if rows of them are updated at all.

        Raises
        ------
        RuntimeError
            A session of this graph is open: what is added to it now would be ignored.
        """
        owners = {owner.name: owner for owner in variables}
        initialisers = _initialisers(self.graph)
        found = {name: uses_of(op, initialisers, self.own) for name, op in owners.items()}
        self._watched |= owners
        sparse = {name: uses for name, uses in found.items() if _is_sparse(name, uses)}
        updates = {
            update.op.name: update
            for uses in sparse.values()
            for update in uses.sparse
            if update.op.name not in self._recorded
        }
        if updates:
            self._refuse_open_sessions()
        for group in _groups(updates.values(), owners):
            self._track(group, owners, sparse)
        for name, uses in sparse.items():
            if name in self.tracks:
                self._record_wholes(uses, self.tracks[name])
        for update in updates.values():
            tracks = {id(t): t for t in map(self._track_of, update.variables) if t is not None}
            for track in tracks.values():
                self._around(update.op, lambda rows=update.rows, t=track: self.mark(t, rows))
            self._recorded.add(update.op.name)
        self._version = self.graph.version

    def check(self) -> None:
        """Record updates that were added since; raise where that is too late.

        Raises
        ------
        RuntimeError
            A variable whose rows are recorded got an update that cannot be recorded.
        """
        if self.graph.version == self._version:
            return
        initialisers = _initialisers(self.graph)
        late = []
        for name, owner in self._watched.items():
            uses = uses_of(owner, initialisers, self.own)
            unknown = [u for u in uses.sparse if u.op.name not in self._recorded]
            if name in self.tracks and uses.dense:
                raise RuntimeError(
                    f"{uses.dense[0].name} ({uses.dense[0].type}) was added after the Saver "
                    f"was built and may change any row of {name}, whose rows are recorded. "
                    "Build the Saver last."
                )
            if unknown and name in self.tracks:
                late.append(owner)
            elif unknown:
                _LOG.warning(
                    "%s is saved whole in increments: the Saver was built before %s. "
                    "Build it after the optimizer.",
                    name,
                    unknown[0].op.name,
                )
        if late and self.graph.finalized:
            raise RuntimeError(f"an update of {late[0].name} is not recorded; build the Saver last")
        if late:
            self.record(late)
        self._version = self.graph.version

    def mark(self, track: Track, rows: Any) -> Any:
        """Return an op that records rows as changed now."""
        with tf.device(track.clock.device):
            now = track.clock.epoch.read_value()
            return tf.raw_ops.ResourceScatterUpdate(
                resource=track.seen.handle, indices=rows, updates=now
            )

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
        with tf.device(clock.device), tf.control_dependencies([_started(clock.epoch)]):
            return clock.epoch.assign_add(1, read_value=False)

    def begin_restore(self) -> Any:
        """Return an op that closes the gate, then forgets all rows and restarts the clocks."""
        shut = []
        for clock in self.clocks.values():
            with tf.device(clock.device):
                shut.append(clock.ready.assign(False, read_value=False))
        with tf.control_dependencies(shut):
            forget = [clock.epoch.assign(1, read_value=False) for clock in self.clocks.values()]
            for track in self._all_tracks():
                with tf.device(track.clock.device):
                    zeros = tf.zeros([track.rows], tf.int32)
                    forget.append(track.seen.assign(zeros, read_value=False))
        return tf.group(*shut, *forget, name="ckptctl/begin_restore")

    def open_gate(self) -> Any:
        """Return an op that says that the variables may be used."""
        opened = []
        for clock in self.clocks.values():
            with tf.device(clock.device):
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
                    there = tf.compat.v1.is_variable_initialized(clock.ready)
                    is_open = tf.cond(there, clock.ready.read_value, lambda: tf.constant(False))
                names.append(clock.ready.op.name)
                shut.append(tf.logical_not(is_open))
            waiting = tf.boolean_mask(tf.constant(names, tf.string), tf.stack(shut))
        return tf.concat([after, missing, waiting], 0, name="ckptctl/not_ready")

    # --- what the saving process knows ---

    def now(self, session: Any) -> dict[str, int]:
        """Return the clock of each device, minus one: rows seen later changed after a save."""
        epochs = session.run([clock.epoch for clock in self.clocks.values()])
        return {device: int(epoch) - 1 for device, epoch in zip(self.clocks, epochs, strict=True)}

    # --- details ---

    def _all_tracks(self) -> list[Track]:
        return list({id(track): track for track in self.tracks.values()}.values())

    def _track_of(self, owner: Any) -> Track | None:
        return self._beside.get(owner.name)

    def _track(self, group: list[str], owners: dict[str, Any], sparse: Container[str]) -> None:
        known = [self._beside[name] for name in group if name in self._beside]
        if known:
            track = known[0]
        else:
            name = min(group, key=lambda item: (len(item), item))
            clock = self.clock_of(owners[name].device)
            rows = _rows(owners[name])
            with _room(self.graph, clock.device):
                seen = _variable(tf.zeros([rows], tf.int32), tf.int32, f"{_SCOPE}/{name}")
            track = Track(clock, seen, rows)
        for name in group:
            self._beside.setdefault(name, track)
            if name in sparse:
                self.tracks.setdefault(name, track)

    def _record_wholes(self, uses: Uses, track: Track) -> None:
        for op in uses.initialisers:
            if op.name in self._recorded:
                continue
            self._recorded.add(op.name)
            with (
                _room(self.graph, track.clock.device),
                tf.control_dependencies([_started(track.clock.epoch)]),
            ):
                mark = self.mark_all(track)
            op._add_control_input(mark)
        for op in uses.loads:
            if op.name not in self._recorded:
                self._recorded.add(op.name)
                self._around(op, lambda: self.mark_all(track))

    def _around(self, op: Any, mark: Any) -> None:
        """Let `mark` run before `op`, and after it before whatever follows."""
        following = successors(op)
        with _room(self.graph, op.device):
            before = mark()
            with tf.control_dependencies([op]):
                after = mark()
        op._add_control_input(before)
        for successor in following:
            successor._add_control_input(after)

    def _refuse_open_sessions(self) -> None:
        for found in gc.get_objects():
            if not issubclass(type(found), tf.compat.v1.Session):
                continue
            if found.graph is self.graph and not found._closed:
                raise RuntimeError(
                    "a session of this graph is open: TensorFlow ignores what is added to ops "
                    "that it has run, so rows would be lost. Build the Saver before the session."
                )


@contextmanager
def _room(graph: Any, device: str) -> Iterator[None]:
    """A place of our own in a graph: a device, and nothing of what surrounds us."""
    with (
        graph.as_default(),
        tf.control_dependencies(None),
        tf.device(None),
        tf.device(cpu_of(device)),
        tf.compat.v1.name_scope(None),
    ):
        yield


def cpu_of(device: str) -> str:
    """Return the first CPU of the task that a device belongs to, in one spelling."""
    return str(tf_device.canonical_name(set_cpu0(device or "")))


def _started(epoch: Any) -> Any:
    """Return a tensor that makes sure that a clock runs; a running one goes on."""

    def start() -> Any:
        with tf.control_dependencies([epoch.assign(1, read_value=False)]):
            return tf.constant(True)

    there = tf.compat.v1.is_variable_initialized(epoch)
    return tf.cond(there, lambda: tf.constant(True), start)


def _variable(value: Any, dtype: Any, name: str) -> Any:
    return tf.compat.v1.Variable(
        value, trainable=False, collections=[], name=name, dtype=dtype, use_resource=True
    )


def _rows(owner: Any) -> int:
    shape = tf.TensorShape(owner.get_attr("shape"))
    return int(shape[0])


def _initialisers(graph: Any) -> set[str]:
    keys = tf.compat.v1.GraphKeys
    found = set()
    for key in (keys.GLOBAL_VARIABLES, keys.LOCAL_VARIABLES, keys.TRAINABLE_VARIABLES):
        for variable in graph.get_collection(key):
            initializer = getattr(variable, "initializer", None)
            if initializer is not None:
                found.add(initializer.name)
    return found


def _is_sparse(name: str, uses: Uses) -> bool:
    if not uses.sparse:
        return False
    if uses.dense:
        op = uses.dense[0]
        hint = (
            "ckptctl.training.LazyAdam writes rows only"
            if "Adam" in op.name
            else ("updates inside functions and control flow can't be seen")
        )
        _LOG.warning(
            "%s is saved whole in increments: %s (%s) may change any row; %s",
            name,
            op.name,
            op.type,
            hint,
        )
        return False
    alone = [update.op for update in uses.sparse if not successors(update.op)]
    if alone:
        _LOG.warning(
            "%s is saved whole in increments: nothing follows %s, so it can't be recorded after "
            "it ran; wrap it in tf.group()",
            name,
            alone[0].name,
        )
        return False
    return True


def _groups(updates: Iterable[SparseUpdate], owners: dict[str, Any]) -> list[list[str]]:
    """Return names of variables that are updated together: same rows, same device."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for update in updates:
        names = [owner.name for owner in update.variables if owner.name in owners]
        for name in names:
            first = next(n for n in names if _alike(owners[n], owners[name]))
            leader[find(name)] = find(first)
    groups: dict[str, list[str]] = {}
    for name in leader:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def _alike(one: Any, other: Any) -> bool:
    return _rows(one) == _rows(other) and cpu_of(one.device) == cpu_of(other.device)
