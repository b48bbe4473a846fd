"""A trainer that starts again from a merged full saves over it; the mark beside it stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.chain import Chains, find_chains, scan_directory
from ckptctl.errors import UnprovenError
from ckptctl.merge import execute_merge, plan_merge
from ckptctl.merge.compact import run_compact
from ckptctl.merge.policy import KeepLast, KeepStep
from tests.merge.prunes import chain_of, here, prune
from tests.oracle.chain import INCREMENTS, Chain, changes, full, increment, table, write_state

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "zeroed": lambda data: bytes(len(data)),
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: data[:5] + bytes([data[5] ^ 1]) + data[6:],
}


def chains_of(chain: Chain) -> Chains:
    return find_chains(scan_directory(str(chain.directory)))


def spoil(prefix: Path, damage: Callable[[bytes], bytes]) -> None:
    """Damage an index and keep its time, as a disk does by itself."""
    path = Path(f"{prefix}.index")
    when = path.stat()
    path.write_bytes(damage(path.read_bytes()))
    os.utime(path, ns=(when.st_atime_ns, when.st_mtime_ns))


@pytest.fixture
def merged(tmp_path: Path) -> Chain:
    """F10 and I20, merged to a full at 20."""
    chain = chain_of(tmp_path, "F10", "I20")
    execute_merge(plan_merge(str(chain.directory)), jobs=1)
    assert Path(f"{chain.full_prefix(20)}.ckptctl.json").exists()
    return chain


def save_over(chain: Chain) -> None:
    """Save 20 anew, as a trainer does that starts from it, and an increment at 30."""
    for path in chain.directory.glob("model.ckpt-20.*"):
        if path.suffix != ".json":
            path.unlink()
    chain.add(full(20, table("emb", [1, 2, 3])))
    chain.add(increment(30, changes("emb", [3])))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-20"])
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-30"])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_full_is_not_taken_for_the_merge_that_it_replaced(
    merged: Chain, damage: Callable[[bytes], bytes]
) -> None:
    """What was recorded on it holds none of the rows that an older full would lack."""
    save_over(merged)
    assert chains_of(merged).restore_points == (10, 20, 30)
    spoil(merged.full_prefix(20), damage)
    chains = chains_of(merged)
    assert chains.restore_points == (10, 20)  # the increment at 20 is there yet
    assert chains.base_of(chains.scan.increments[-1]).code == "base-incomplete"
    with pytest.raises(UnprovenError, match=r"base model\.ckpt-20 is damaged"):
        plan_merge(str(merged.directory), 30)


def test_a_damaged_merge_is_known_by_its_mark(merged: Chain) -> None:
    """It never emptied a recorder: what comes after it was recorded on its base."""
    merged.add(increment(30, changes("emb", [1, 2, 3])))
    names = [f"incremental_model.ckpt-{step}" for step in (20, 30)]
    write_state(merged.directory / INCREMENTS, names)
    spoil(merged.full_prefix(20), DAMAGE["flipped"])
    assert chains_of(merged).restore_points == (10, 20, 30)
    # One of an older release, which names no index, proves nothing.
    Path(f"{merged.full_prefix(20)}.ckptctl.json").write_text('{"schema": "ckptctl.merged/1"}')
    chains = chains_of(merged)
    assert chains.base_of(chains.scan.increments[-1]).code == "base-incomplete"
    assert all(chains.is_live(increment) for increment in chains.scan.increments)


def test_a_lost_full_is_not_taken_for_a_removed_merge_of_its_name(tmp_path: Path) -> None:
    """After a rollback a trainer saves the steps anew that ckptctl merged to before."""
    chain = chain_of(tmp_path, "F10", "I20", "I30")
    for step in (20, 30):
        execute_merge(plan_merge(str(chain.directory), step), jobs=1)
    prune(chain, KeepLast(1), KeepStep(10), min_age_s=0)
    assert here(chain) == {"F10", "F30"}
    for path in chain.directory.glob("model.ckpt-30.*"):
        path.unlink()
    chain.add(full(20, table("emb", [1, 2])), increment(40, changes("emb", [3])))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-20"])
    write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-40"])
    assert chains_of(chain).restore_points == (10, 20, 40)
    for path in chain.directory.glob("model.ckpt-20.*"):
        path.unlink()
    for _ in range(2):  # nor is the trace of it lost
        chains = chains_of(chain)
        assert chains.restore_points == (10,)
        assert chains.base_of(chains.scan.increments[-1]).code == "full-gone"
        run_compact(str(chain.directory))
    with pytest.raises(UnprovenError, match=r"model\.ckpt-20 was saved between"):
        plan_merge(str(chain.directory), 40)
