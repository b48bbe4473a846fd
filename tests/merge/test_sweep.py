"""Small files that a killed run was about to rename: named, and removed by the next run."""

from __future__ import annotations

from pathlib import Path

from ckptctl.inspect.listing import list_directory
from ckptctl.merge import execute_merge
from tests.merge.model import small_chain
from tests.merge.prunes import age, prune
from tests.oracle.chain import INCREMENTS, Chain

TEMPORARY = ".ckptctl-0123456789abcdef.tmp"
OURS = (
    f"checkpoint{TEMPORARY}",
    f"{INCREMENTS}/checkpoint{TEMPORARY}",
    f".ckptctl/removed.jsonl{TEMPORARY}",
    f"model.ckpt-40.ckptctl.json{TEMPORARY}",
)
#: Written without the lock: its writer may live.
THEIRS = f"page.html{TEMPORARY}"


def littered(tmp_path: Path) -> Chain:
    chain = small_chain(tmp_path)
    (chain.directory / ".ckptctl").mkdir()
    for name in (*OURS, THEIRS):
        (chain.directory / name).write_bytes(b"half")
    return age(chain)


def here(chain: Chain) -> set[str]:
    found = chain.directory.rglob(f"*{TEMPORARY}")
    return {str(path.relative_to(chain.directory)) for path in found}


def test_the_next_merge_removes_them(tmp_path: Path) -> None:
    chain = littered(tmp_path)
    chain.merge()
    assert here(chain) == {THEIRS}


def test_a_merge_with_nothing_to_merge_removes_them_too(tmp_path: Path) -> None:
    """Killed when the new state file was in place, and the old one had its temporary's name."""
    chain = littered(tmp_path)
    plan = chain.plan(40)
    assert {line.partition(",")[0] for line in plan.unfinished} == set(OURS)
    execute_merge(plan)
    assert here(chain) == {THEIRS}


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    chain = littered(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    (chain.directory / INCREMENTS).rename(elsewhere)
    (chain.directory / INCREMENTS).symlink_to(elsewhere)
    chain.merge()
    assert here(chain) | {THEIRS} == {THEIRS}
    assert (elsewhere / f"checkpoint{TEMPORARY}").exists()


def test_ls_names_all_of_them_and_prune_removes_them(tmp_path: Path) -> None:
    chain = littered(tmp_path)
    named = {each.path for each in list_directory(str(chain.directory)).leftovers}
    assert named == {str(chain.directory / name) for name in (*OURS, THEIRS)}
    prune(chain, min_age_s=0)
    assert here(chain) == set()
