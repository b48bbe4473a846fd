"""Small files that a killed run was about to rename: named, and removed by the next run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ckptctl.bundle import read_state
from ckptctl.chain import find_chains, scan_directory
from ckptctl.inspect.listing import list_directory
from ckptctl.merge import (
    CompactOptions,
    PruneOptions,
    execute_merge,
    execute_prune,
    plan_prune,
    run_compact,
)
from tests.merge.model import small_chain
from tests.merge.prunes import age, prune
from tests.oracle.chain import INCREMENTS, Chain, full, table, write_state
from tests.storage.displaced import killed_behind, saved

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


def here(chain: Chain, temporary: str = TEMPORARY) -> set[str]:
    found = chain.directory.rglob(f"*{temporary}")
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


def displaced(tmp_path: Path) -> Chain:
    """The trainer saved 60 while a merge to 50 replaced the state file, and was killed for it."""
    chain = age(small_chain(tmp_path))
    names = [chain.full_prefix(step).name for step in chain.fulls]
    chain.merge(update_state=False)

    def save() -> None:
        chain.add(full(60, table("emb", [1, 2, 3])))
        state = chain.directory / "saving"
        state.mkdir()
        write_state(state, [*names, "model.ckpt-60"])
        os.replace(state / "checkpoint", chain.directory / "checkpoint")
        state.rmdir()

    write_state(chain.directory / ".ckptctl", [*names, "model.ckpt-50"])
    ours = chain.directory / ".ckptctl" / "checkpoint"
    data = ours.read_bytes()
    ours.unlink()
    killed_behind(chain.directory / "checkpoint", data, save)
    assert named(chain) == "model.ckpt-50"
    return chain


def named(chain: Chain) -> str:
    state = read_state(str(chain.directory / "checkpoint"))
    assert state is not None
    return state.latest


def abandoned(chain: Chain) -> list[str]:
    chains = find_chains(scan_directory(str(chain.directory)))
    return [full.name for full in chains.scan.fulls if not chains.is_live(full)]


def test_a_state_file_that_a_killed_run_displaced_is_what_counts(tmp_path: Path) -> None:
    chain = displaced(tmp_path)
    assert abandoned(chain) == []
    listed = list_directory(str(chain.directory))
    assert listed.latest == 60
    assert [note for note in listed.notes if "puts it back" in note]
    assert here(chain, ".ckptctl-*.tmp") == {
        each.name for each in chain.directory.glob("checkpoint.*")
    }


@pytest.mark.parametrize("command", ["merge", "prune", "compact"])
def test_the_next_run_puts_it_back_before_it_judges(tmp_path: Path, command: str) -> None:
    chain = displaced(tmp_path)
    directory = str(chain.directory)
    told: tuple[str, ...] = ()
    if command == "merge":
        told = chain.merge().warnings
    elif command == "prune":
        told = prune(chain, abandoned=True, min_age_s=0).warnings
    else:
        done = run_compact(directory, CompactOptions(prune=PruneOptions(min_age_s=0)))
        assert done.plan is not None
        told = done.plan.warnings
    assert [line for line in told if line.startswith(f"{directory}/checkpoint is that of")]
    assert named(chain) == "model.ckpt-60"
    assert (chain.directory / "model.ckpt-60.index").exists()
    assert abandoned(chain) == []
    assert here(chain, ".ckptctl-*.tmp") == set()


def test_a_prune_that_has_nothing_to_remove_puts_it_back(tmp_path: Path) -> None:
    chain = displaced(tmp_path)
    young = 10.0**9
    assert not plan_prune(str(chain.directory), PruneOptions(min_age_s=young)).removed
    assert prune(chain, min_age_s=young).outcomes == ()
    assert named(chain) == "model.ckpt-60"


def test_a_state_file_that_was_about_to_be_removed_is_put_back(tmp_path: Path) -> None:
    """That of the increments, when all of them go; the trainer has just saved another one."""
    chain = age(small_chain(tmp_path))
    state = chain.directory / INCREMENTS / "checkpoint"
    more = state.read_bytes() + b'all_model_checkpoint_paths: "incremental_model.ckpt-60"\n'
    killed_behind(state, None, lambda: saved(state, more))
    assert not state.exists()
    assert (
        "incremental_model.ckpt-60" in scan_directory(str(chain.directory)).increment_state.listed
    )
    prune(chain, min_age_s=10.0**9)
    assert state.read_bytes() == more
    assert here(chain, ".ckptctl-*.tmp") == set()


def test_what_the_killed_run_was_to_replace_is_removed(tmp_path: Path) -> None:
    """The same instant, and no trainer."""
    chain = age(small_chain(tmp_path))
    before = (chain.directory / "checkpoint").read_bytes()
    ours = before + b"# ours\n"
    killed_behind(chain.directory / "checkpoint", ours)
    chain.merge(update_state=False)
    assert (chain.directory / "checkpoint").read_bytes() == ours
    assert here(chain, ".ckptctl-*.tmp") == set()


def test_it_is_removed_in_a_copy_too(tmp_path: Path) -> None:
    """Restored from a backup: what was to go is not a trainer's for its other inode."""
    chain = age(small_chain(tmp_path))
    before = (chain.directory / "checkpoint").read_bytes()
    ours = before + b"# ours\n"
    killed_behind(chain.directory / "checkpoint", ours)
    copy = shutil.copytree(chain.directory, tmp_path / "copy")
    assert not [note for note in list_directory(str(copy)).notes if "puts it back" in note]
    execute_prune(plan_prune(str(copy), PruneOptions(min_age_s=0)))
    assert (copy / "checkpoint").read_bytes() == ours
    assert not [*copy.glob("*.tmp")]


@pytest.mark.parametrize("command", ["merge", "prune"])
def test_what_leads_nowhere_is_not_put_back_over_what_leads_here(
    tmp_path: Path, command: str
) -> None:
    """The trainer saved 60, and by now somebody has removed that."""
    chain = displaced(tmp_path)
    for path in chain.directory.glob("model.ckpt-60.*"):
        path.unlink()
    listed = list_directory(str(chain.directory))
    assert listed.latest == 50
    assert not [note for note in listed.notes if "puts it back" in note]
    told = chain.merge().warnings if command == "merge" else prune(chain, min_age_s=0).warnings
    assert not [line for line in told if "of the trainer again" in line]
    assert named(chain) == "model.ckpt-50"
    assert here(chain, ".ckptctl-*.tmp") == set()


def test_what_leads_nowhere_is_put_back_over_what_leads_nowhere(tmp_path: Path) -> None:
    chain = displaced(tmp_path)
    for step in (50, 60):
        for path in chain.directory.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    prune(chain, min_age_s=10.0**9)
    assert named(chain) == "model.ckpt-60"
