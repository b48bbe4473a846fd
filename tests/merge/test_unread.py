"""What a failing disk hides is not passed over: nobody goes back in time in silence."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from ckptctl.errors import StateFileError, UnprovenError, UnreadableError
from ckptctl.inspect.target import find_target
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.merge import plan_compact, plan_merge
from ckptctl.merge.compact import run_compact
from ckptctl.merge.policy import KeepLast
from ckptctl.restore import RestoreOptions
from ckptctl.storage import LOCAL, LocalStorage
from ckptctl.storage.local import LocalFile
from tests.inspect.spoils import as_nobody
from tests.merge.model import small_chain
from tests.merge.prunes import age, chain_of, goes, plan, stays, unmounted
from tests.oracle.chain import INCREMENTS, Chain

#: Of a chain F10 I20 I30 F40 I50.
HIDDEN = {
    "the newest increment": f"{INCREMENTS}/incremental_model.ckpt-50.index",
    "its full": "model.ckpt-40.index",
    "the state file": "checkpoint",
    "that of the increments": f"{INCREMENTS}/checkpoint",
}


class Failing(LocalStorage):
    """A disk that fails to read one file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def open(self, path: str) -> LocalFile:
        if os.path.normpath(path) == self.path:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().open(path)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return small_chain(tmp_path)


WAYS = {
    "merge": lambda path, storage: plan_merge(path, storage=storage),
    "compact": lambda path, storage: plan_compact(path, storage=storage),
    "latest": lambda path, storage: find_target("latest", path, RestoreOptions(), storage),
}


@pytest.mark.parametrize("name", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("look", WAYS.values(), ids=WAYS)
def test_no_older_state_is_taken_for_the_newest(
    chain: Chain, name: str, look: Callable[[str, LocalStorage], object]
) -> None:
    storage = Failing(chain.directory / name)
    with pytest.raises(UnreadableError, match="Input/output error") as caught:
        look(str(chain.directory), storage)
    assert caught.value.exit_code == 4
    assert caught.value.file.startswith(str(chain.directory / name).removesuffix(".index"))
    assert "disk" in caught.value.remedy


@pytest.mark.parametrize("lost", [Path.touch, lambda path: path.symlink_to("unmounted")])
@pytest.mark.parametrize("look", WAYS.values(), ids=WAYS)
def test_increments_that_are_not_there_to_look_at(
    chain: Chain, lost: Callable[[Path], None], look: Callable[[str, LocalStorage], object]
) -> None:
    """A mount that is gone leaves a link, or what lies below its place."""
    within = chain.directory / INCREMENTS
    within.rename(chain.directory / "elsewhere")
    lost(within)
    with pytest.raises(UnreadableError, match="which state is the newest") as caught:
        look(str(chain.directory), LOCAL)
    assert caught.value.file == str(within)
    assert "mount" in caught.value.remedy
    # Who names a full needs no increments.
    assert plan_merge(str(chain.directory), 40).nothing_to_do is not None


#: Files of a checkpoint that may lie elsewhere, behind links.
AWAY = {"all": "*", "index": ".index", "data": ".data*", "side": "-emb-ssd_record.*"}


@pytest.mark.parametrize("files", AWAY.values(), ids=AWAY)
@pytest.mark.parametrize("step", [40, 50])
@pytest.mark.parametrize("look", WAYS.values(), ids=WAYS)
def test_a_checkpoint_behind_links_to_what_is_not_mounted(
    tmp_path: Path, step: int, files: str, look: Callable[[str, LocalStorage], object]
) -> None:
    chain = age(small_chain(tmp_path, side=True))
    prefix = chain.prefix(step)
    paths = [path for path in prefix.parent.glob(f"{prefix.name}{files}") if path.is_file()]
    if not paths:  # increments have no side files
        return
    mount = unmounted(tmp_path / "archive", *paths)
    with pytest.raises(UnreadableError, match="leads nowhere: so it is not known") as caught:
        look(str(chain.directory), LOCAL)
    assert (caught.value.exit_code, caught.value.file) == (4, str(prefix))
    found = execute_verify(plan_verify(str(chain.directory))).findings
    own = [each for each in found if each.file.startswith((f"{prefix}.index", f"{prefix}.data"))]
    assert {(each.code, each.severity) for each in own} <= {("CK090", "unread")}
    assert any(each.code == "CK090" for each in found)
    mount()
    look(str(chain.directory), LOCAL)
    assert find_target("latest", str(chain.directory)).step == 50


@pytest.mark.parametrize("listed", [True, False])
def test_the_base_may_be_behind_links(tmp_path: Path, listed: bool) -> None:
    """Not applied to the full below it, and not told as abandoned for the time of a link."""
    chain = chain_of(tmp_path, "F5", "F10", "I20", "I30")
    if not listed:
        (chain.directory / "checkpoint").unlink()
    mount = unmounted(tmp_path / "archive", *chain.directory.glob("model.ckpt-10.*"))
    with pytest.raises(UnprovenError, match=r"base model\.ckpt-10 cannot be read"):
        plan_merge(str(chain.directory), 30)
    with pytest.raises(UnreadableError):
        plan_compact(str(chain.directory))
    found = plan(chain, KeepLast(1), leftovers=True, orphans=True, abandoned=True, min_age_s=0)
    assert goes(found) == {}
    assert stays(found) == {
        "F5": "policy",
        "F10": "unreadable",
        "I20": "unproven",
        "I30": "unproven",
    }
    mount()
    assert plan_merge(str(chain.directory)).base.name == "model.ckpt-10"


@pytest.mark.parametrize("lineage", [None, {50: {"version": 1, "base_step": 40}}])
@pytest.mark.parametrize("way", ["unread", "shard", "cut", "index"])
def test_what_its_base_lacks_is_what_is_to_be_put_right(
    tmp_path: Path, way: str, lineage: dict[int, dict] | None
) -> None:
    """Not another base: which it was is known."""
    chain = chain_of(tmp_path, "F10", "I20", "F40", "I50", lineage=lineage)
    index, data = (next(chain.directory.glob(f"model.ckpt-40.{end}*")) for end in ("index", "data"))
    code, what = {
        "unread": ("CK090", "cannot be read"),
        "shard": ("CK008", "is incomplete"),
        "cut": ("CK009", "is incomplete"),
        "index": ("CK001", "is damaged"),
    }[way]
    storage = Failing(index) if way == "unread" else LOCAL
    if way == "shard":
        data.unlink()
    elif way in ("cut", "index"):
        os.truncate(data if way == "cut" else index, 20)
    age(chain)
    with pytest.raises(UnprovenError, match=rf"model\.ckpt-40,? (which )?{what}") as caught:
        plan_merge(str(chain.directory), 50, storage=storage)
    assert "--base" not in caught.value.remedy
    assert "verify" in caught.value.remedy
    found = execute_verify(plan_verify(str(chain.directory), storage=storage)).findings
    assert [each.code for each in found if each.file.startswith(str(index)[:-6])] == [code]
    (told,) = (each for each in found if each.code == "CK027")
    assert what in told.message
    assert "--base" not in told.remedy
    assert told.document()["remedy"] == told.remedy


def test_a_step_may_be_among_increments_that_cannot_be_looked_at(chain: Chain) -> None:
    increments = chain.directory / INCREMENTS
    increments.chmod(0o700)
    with as_nobody(chain.directory):
        for look in (
            lambda: plan_merge(str(chain.directory), 50),
            lambda: find_target("50", str(chain.directory)),
            lambda: run_compact(str(chain.directory)),
        ):
            with pytest.raises(UnreadableError, match="may not read the directory") as caught:
                look()
            assert (caught.value.exit_code, caught.value.file) == (4, str(increments))


@pytest.mark.parametrize("room", ["", INCREMENTS])
@pytest.mark.parametrize("way", ["mode", "disk", "link"])
def test_a_state_file_that_cannot_be_read_says_what_to_do(
    chain: Chain, way: str, room: str
) -> None:
    """It is not broken: to write it anew, as a broken one, would lose what it says."""
    path = chain.directory / room / "checkpoint"
    storage = Failing(path) if way == "disk" else LOCAL
    if way == "mode":
        path.chmod(0)
    elif way == "link":
        unmounted(chain.directory.parent / "archive", path)
    with as_nobody(chain.directory) if way == "mode" else nullcontext():
        with pytest.raises(StateFileError, match="state file cannot be read: ") as caught:
            plan(chain, storage=storage)
        with pytest.raises(UnreadableError, match="whether a run was rolled back"):
            plan_merge(str(chain.directory), storage=storage)
    assert caught.value.remedy.startswith("let user " if way == "mode" else "see to the disk")


def test_a_step_that_does_not_need_it_is_as_good_as_ever(chain: Chain) -> None:
    storage = Failing(chain.directory / HIDDEN["the newest increment"])
    assert plan_merge(str(chain.directory), 30, storage=storage).step == 30


def test_one_in_between_may_be_the_base(chain: Chain) -> None:
    """Unless who asks says which it is."""
    storage = Failing(chain.directory / HIDDEN["its full"])
    directory = str(chain.directory)
    with pytest.raises(UnprovenError, match=r"model\.ckpt-40"):
        plan_merge(directory, 50, storage=storage)
    given = RestoreOptions(base=10, increments="last")
    assert plan_merge(directory, 50, options=given, storage=storage).base.name == "model.ckpt-10"
