"""Directories to prune, aged so that nothing in them is young, and what a plan says of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ckptctl.bundle import read_state
from ckptctl.chain import find_chains, scan_directory
from ckptctl.merge import Policy, PruneOptions, PrunePlan, PruneResult, execute_prune, plan_prune
from ckptctl.merge.policy import Rule
from tests.merge.model import SIDE, small_chain
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    full,
    increment,
    table,
    write_state,
)

#: When the first file of an aged directory was written.
THEN = 1_700_000_000


def age(chain: Chain, *order: int, increments: tuple[int, ...] | None = None) -> Chain:
    """Date all files to long ago, an hour for each step, state files last.

    `order` gives the write order of fulls where it is not that of steps; `increments` that
    of increments, after which those that are not named come by step.
    """
    steps = [*order, *sorted(set(chain.fulls) - set(order))]
    for number, step in enumerate(steps):
        _date(chain.full_prefix(step), THEN + (3600 * (number + 1) if order else 60 * step))
    for step in chain.increments:
        _date(chain.increment_prefix(step), THEN + 60 * step)
    for number, step in enumerate(increments or ()):
        _date(chain.increment_prefix(step), THEN + 3600 * (number + 1))
    for room in (chain.directory, chain.directory / INCREMENTS):
        if (room / "checkpoint").exists():
            os.utime(room / "checkpoint", (THEN + 10**7, THEN + 10**7))
    return chain


def _date(prefix: Path, at: float) -> None:
    for path in prefix.parent.glob(f"{prefix.name}*"):
        rest = path.name[len(prefix.name) :]
        if rest[:1] in (".", "-", "_"):
            for each in (path, *path.rglob("*")):
                os.utime(each, (at, at))


def chain_of(tmp_path: Path, *steps: str, lineage: dict[int, dict] | None = None) -> Chain:
    """F10, I20 ...: fulls with keys 1 and 2, increments whose keys grow with their step."""
    images = []
    for number, step in enumerate(steps):
        at = int(step[1:])
        if step[0] == "F":
            images.append(full(at, table("emb", [1, 2])))
        else:
            facts = (lineage or {}).get(at)
            keys = range(1, number + 2)
            images.append(increment(at, changes("emb", keys), lineage=facts))
    return age(build_chain(tmp_path, *images))


def rolled_back(tmp_path: Path) -> Chain:
    """Trained to 90, rolled back to 20, and trained to 100 on another way."""
    chain = chain_of(tmp_path, "F10", "I20", "F80", "I90", "F30", "I40", "F100", "I110")
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 80, 30, 100)])
    names = [f"incremental_model.ckpt-{n}" for n in (20, 90, 40, 110)]
    write_state(chain.directory / INCREMENTS, names)
    return age(chain, 10, 80, 30, 100, increments=(20, 90, 40, 110))


def date(path: Path, ago_s: float) -> Path:
    """Date one file to so many seconds ago."""
    at = time.time() - ago_s
    os.utime(path, (at, at))
    return path


def plan(chain: Chain, *rules: Rule, **options: Any) -> PrunePlan:
    own = {key: options.pop(key) for key in ("remember", "storage") if key in options}
    return plan_prune(str(chain.directory), PruneOptions(Policy(tuple(rules)), **options), **own)


def prune(chain: Chain, *rules: Rule, **options: Any) -> PruneResult:
    return execute_prune(plan(chain, *rules, **options), jobs=1)


def label(name: str) -> str:
    """F40 for `model.ckpt-40`, I50 for `incremental_model.ckpt-50`; else the name."""
    for head, letter in (("incremental_model.ckpt-", "I"), ("model.ckpt-", "F")):
        if name.startswith(head) and name[len(head) :].isdigit():
            return f"{letter}{name[len(head) :]}"
    return name


def goes(found: PrunePlan) -> dict[str, str]:
    """Label to code of what goes."""
    return {label(item.name): item.code for item in found.removed}


def stays(found: PrunePlan) -> dict[str, str]:
    """Label to code of what stays."""
    return {label(item.name): item.code for item in found.items if not item.remove}


def here(chain: Chain) -> set[str]:
    """Labels of the checkpoints whose index is there."""
    found = {
        path.name[:-6]
        for room in (chain.directory, chain.directory / INCREMENTS)
        for path in room.glob("*.index")
    }
    return {label(name) for name in found if "ssd_record" not in name}


def outcomes(result: PruneResult) -> dict[str, str]:
    return {label(outcome.name): outcome.outcome for outcome in result.outcomes}


def points(chain: Chain) -> set[int]:
    return set(find_chains(scan_directory(str(chain.directory))).restore_points)


def listed(chain: Chain, room: str = "") -> list[int] | None:
    found = read_state(str(chain.directory / room / "checkpoint"))
    if found is None:
        return None
    assert os.path.basename(found.latest) in map(os.path.basename, found.all_paths)
    return [int(path.rpartition("-")[2]) for path in found.all_paths]


def unmounted(archive: Path, *paths: Path) -> Callable[[], None]:
    """Put files behind links to an archive that is gone; return what brings it back."""
    archive.mkdir()
    gone = archive.with_name(f"{archive.name}.gone")
    for path in paths:
        path.rename(archive / path.name)
        path.symlink_to(archive / path.name)
    archive.rename(gone)
    return lambda: gone.rename(archive) and None


def with_side(tmp_path: Path) -> Chain:
    """The small chain, the old full with side files."""
    chain = small_chain(tmp_path)
    for suffix, data in SIDE.items():
        path = Path(f"{chain.full_prefix(10)}{suffix}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return age(chain)
