"""What must hold of a directory whatever was done to the command that worked on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptctl.bundle import read_state
from ckptctl.chain import Checkpoint, find_chains, scan_directory
from ckptctl.inspect.listing import list_directory
from tests.inspect.model import assert_view, look
from tests.oracle.chain import INCREMENTS
from tests.oracle.images import assert_bundle, contents
from tests.torture.resident import Resident, digests
from tests.torture.scenarios import Stage

#: What ckptctl keeps in a directory and documents: the lock, the log of removals, the trash.
OWN = {".ckptctl", ".ckptctl/lock", ".ckptctl/removed.jsonl", ".ckptctl-trash"}
_STEP = "model.ckpt-"


@dataclass
class Claims:
    """The claims on the directories of one scenario."""

    stage: Stage
    resident: Resident | None = None

    def __post_init__(self) -> None:
        scenario = self.stage.scenario
        self.states = self.stage.states()
        self.points = set(_points(self.stage.home / "chain"))
        self.must = self.points - scenario.goes
        self.checked: set[object] = set()  # what was read once, byte for byte
        self.before = _files(self.stage.home / "chain")
        self.merged = {
            step: self.stage.chain.expect(base, *rest)
            for step, (base, *rest) in scenario.merged.items()
        }
        self.states |= self.merged
        self.old = {
            name: contents(self.stage.home / "out" / name)
            for name in scenario.outputs
            if (self.stage.home / "out" / f"{name}.index").exists()
        }

    def hold(self, room: Path) -> None:
        """Fail unless everything that should be can be restored, and nothing is silent."""
        chain = room / "chain"
        self._restores(chain)
        self._state_files(chain)
        self._outputs(room)
        self._kept(chain)
        for directory in (chain, room / "out"):
            left = silent(directory)
            assert not left, f"leftovers that nobody names: {left}"

    def done(self, room: Path, *, tidy: bool = True) -> None:
        """Fail unless all of the work is done; if `tidy`, nothing of ours may be left over."""
        self.hold(room)
        scenario = self.stage.scenario
        chain = room / "chain"
        wanted = (self.points | set(scenario.merged)) - scenario.goes
        assert set(_points(chain)) == wanted
        state = read_state(str(chain / "checkpoint"))
        assert state is not None
        assert os.path.basename(state.latest) == f"{_STEP}{scenario.latest[1]}"
        for step in scenario.merged:
            assert f"{_STEP}{step}" in map(os.path.basename, state.all_paths)
        for name, (base, *rest) in scenario.outputs.items():
            image = self.stage.chain.expect(base, *rest)
            assert_bundle(room / "out" / name, image)
        for directory in (chain, room / "out"):
            left = _ours(directory) if tidy else None
            assert not left, f"leftovers of ours: {left}"

    # ------------------------------------------------------------------------------------

    def _restores(self, chain: Path) -> None:
        found = find_chains(scan_directory(str(chain)))
        points = set(found.restore_points)
        assert self.must <= points, f"no restore points any more: {self.must - points}"
        assert points <= set(self.states), f"restore points from nowhere: {points}"
        fulls = {full.step: full for full in found.scan.fulls if found.is_restore_point(full)}
        facts = {item.prefix: _facts(item) for item in (*found.scan.fulls, *found.scan.increments)}
        unread = {}
        for step in points:
            # A full is its files; any other state, all files that its choice depends on.
            full = fulls.get(step)
            known = (step, facts[full.prefix] if full else (sorted(facts.items()), _lists(chain)))
            if repr(known) in self.checked:
                continue
            if full is not None:
                merged = full.merged is not None
                assert merged == (step in self.merged)
                assert_bundle(full.prefix, self.states[step], merged=merged)
                unread[step] = Path(full.prefix)
            else:
                view = look(step, chain)
                try:
                    assert_view(view, self.states[step])
                finally:
                    view.close()
            self.checked.add(repr(known))
        if self.resident is not None:
            self._tensorflow(chain, unread)

    def _tensorflow(self, chain: Path, unread: Mapping[int, Path]) -> None:
        """TensorFlow would restore from there, and reads of each full what its image says."""
        assert self.resident is not None
        answer = self.resident.ask(chain, list(unread.values()))
        allowed = [str(chain / f"{_STEP}{step}") for step in self.stage.scenario.latest]
        assert answer["latest"] in allowed
        for step, prefix in unread.items():
            wanted = digests(self.states[step])
            own = {k: v for k, v in answer["found"][str(prefix)].items() if k in wanted}
            assert own == wanted, f"TensorFlow reads something else from {prefix}"

    def _state_files(self, chain: Path) -> None:
        scenario = self.stage.scenario
        for home in (chain, chain / INCREMENTS):
            state = read_state(str(home / "checkpoint"))
            if state is None:
                # Only where nothing of what it listed stays; it goes before the first of these.
                assert not (self.stage.home / "chain" / INCREMENTS / "checkpoint").exists() or (
                    home != chain and _steps_in(home) <= scenario.goes | set(scenario.merged)
                ), f"{home} has lost its state file"
                continue
            for path in {state.latest, *state.all_paths}:
                assert (home / f"{os.path.basename(path)}.index").exists() or (
                    f"{os.path.relpath(home / os.path.basename(path), chain)}.index"
                    not in self.before
                ), f"{path} is listed and gone"
        state = read_state(str(chain / "checkpoint"))
        assert state is not None
        allowed = {f"{_STEP}{step}" for step in self.stage.scenario.latest}
        assert os.path.basename(state.latest) in allowed

    def _outputs(self, room: Path) -> None:
        for name, (base, *rest) in self.stage.scenario.outputs.items():
            prefix = room / "out" / name
            if not Path(f"{prefix}.index").exists():
                if name in self.old:  # on its way to the trash, its index first
                    places = [*(room / "out").glob(f".ckptctl-trash/*/{name}.index")]
                    assert places, f"{name} is gone"
                continue
            if name in self.old and contents(prefix) == self.old[name]:
                continue
            assert_bundle(prefix, self.stage.chain.expect(base, *rest))

    def _kept(self, chain: Path) -> None:
        """What was moved lies somewhere in the trash, under its name."""
        if not self.stage.scenario.kept:
            return
        found = _files(chain)
        trashed = {
            os.path.join(*Path(name).parts[2:]): data
            for name, data in found.items()
            if name.startswith(".ckptctl-trash/")
        }
        for name, data in self.before.items():
            if not name.endswith("checkpoint"):
                assert data in (found.get(name), trashed.get(name)), f"{name} is lost"


def _points(chain: Path) -> tuple[int, ...]:
    return tuple(find_chains(scan_directory(str(chain))).restore_points)


def _facts(checkpoint: Checkpoint) -> list[object]:
    """What a checkpoint is: the names, times and bytes of its files."""
    return [
        (os.path.basename(path), info.mtime_ns, hash(Path(path).read_bytes()))
        for path, info in checkpoint.files
        if not path.endswith(".ckptctl.json")
    ]


def _lists(chain: Path) -> list[bytes]:
    homes = (chain, chain / INCREMENTS)
    return [path.read_bytes() for home in homes for path in home.glob("checkpoint")]


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def silent(directory: Path) -> set[str]:
    """Return what lies in a directory and `ls` does not tell of."""
    document = list_directory(str(directory)).document()
    named = {os.path.relpath(each["path"], directory) for each in document["leftovers"]}
    checkpoints = [*document["orphans"], *document["others"]]
    for each in document["chains"]:
        checkpoints += [each["base"], *each["increments"]]
    prefixes = {os.path.relpath(each["prefix"], directory) for each in checkpoints}
    return {
        name
        for name in _tree(directory)
        if name not in OWN
        and name not in ("checkpoint", INCREMENTS, f"{INCREMENTS}/checkpoint")
        and not name.startswith(".ckptctl-trash/")
        and name not in named
        and os.path.dirname(name) not in named
        and not any(_belongs(name, prefix) for prefix in prefixes)
    }


def _belongs(name: str, prefix: str) -> bool:
    rest = name.removeprefix(prefix)
    return name != rest and (
        rest.startswith((".index", ".data-", ".meta", ".ckptctl.json", "-emb-"))
        and "_temp_" not in rest
        and ".ckptctl-" not in rest
    )


def _steps_in(home: Path) -> set[int]:
    return {int(path.stem.rpartition("-")[2]) for path in home.glob("*.index")}


def _ours(directory: Path) -> set[str]:
    """Return the temporaries in a directory that only ckptctl makes.

    An empty one whose mark was not yet written inside could be a trainer's that has just begun:
    `ls` names it, and `prune` removes it when a newer full is there.
    """
    return {
        name
        for name in _tree(directory)
        if ("_temp_" in name or ".ckptctl-" in os.path.basename(name))
        and not name.startswith(".ckptctl-trash")
        and (not (directory / name).is_dir() or any((directory / name).iterdir()))
    }


def _tree(directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in sorted(directory.rglob("*"))]
