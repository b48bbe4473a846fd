"""Where a merge writes, what it leaves alone, and what it replaces."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from ckptctl.bundle import read_state
from ckptctl.bundle.commit import file_identity
from ckptctl.errors import (
    ChangedError,
    CkptctlError,
    DamageError,
    ExistsError,
    NotFoundError,
    RefusedError,
    UsageError,
)
from ckptctl.merge import execute_merge
from ckptctl.storage import LOCAL
from tests.merge.model import SIDE, names, small_chain
from tests.merge.prunes import date
from tests.merge.storages import Counting, Hooked
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    flip,
    full,
    increment,
    listing,
    mark_of,
    read,
    table,
    write_state,
)


def refused(chain: Chain, kind: type[CkptctlError], *args, **options) -> CkptctlError:
    before = listing(chain.directory.parent)
    with pytest.raises(kind) as caught:
        chain.plan(*args, **options)
    assert listing(chain.directory.parent) == before
    return caught.value


# --- in place and elsewhere -----------------------------------------------------------


def test_in_place_lies_beside_the_base(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    before = names(chain.directory)
    result = chain.merge()
    assert result.prefix == str(chain.full_prefix(50))
    chain.check(40, 50)
    new = {f"model.ckpt-50{s}" for s in (".index", ".ckptctl.json")}
    new |= {f"model.ckpt-50.data-0000{n}-of-00002" for n in range(2)}
    assert names(chain.directory) - before == new


@pytest.mark.parametrize(("pad", "name"), [(8, "model.ckpt-00000020"), (2, "model.ckpt-20")])
def test_the_step_is_padded_like_the_bases(tmp_path: Path, pad: int, name: str) -> None:
    chain = build_chain(
        tmp_path, full(9, table("emb", [1])), increment(20, changes("emb", [1])), pad=pad
    )
    assert Path(chain.merge().prefix).name == name


def test_elsewhere_leaves_the_source_alone(tmp_path: Path) -> None:
    chain = small_chain(tmp_path, side=True)
    before = listing(chain.directory)
    times = [
        path.stat().st_mtime_ns for path in (chain.directory, chain.directory / ".ckptctl")[:1]
    ]
    (tmp_path / "out").mkdir()
    result = chain.merge(50, tmp_path / "out" / "any-name")
    assert not result.state_file_updated
    chain.check(40, 50, prefix=tmp_path / "out" / "any-name")
    assert listing(chain.directory) == before
    assert not (chain.directory / ".ckptctl").exists()
    assert [chain.directory.stat().st_mtime_ns] == times
    made = {Path(name).name for name in names(tmp_path / "out")}
    assert made == {
        "any-name.index",
        "any-name.data-00000-of-00002",
        "any-name.data-00001-of-00002",
        "any-name.ckptctl.json",
        "any-name.meta",
        "any-name-emb-ssd_record.index",
        "any-name-emb-ssd_record.data-00000-of-00001",
        "any-name-emb-emb_files",
        "1.emb",
    }


def test_nothing_is_written_among_increments(tmp_path: Path) -> None:
    """It would be listed as one of them, and an idle one."""
    chain = small_chain(tmp_path)
    for where in (
        chain.directory / INCREMENTS / "incremental_model.ckpt-55",
        chain.directory / INCREMENTS / "model.ckpt-50",
        chain.directory / "incremental_model.ckpt-50",
    ):
        for overwrite in (False, True):
            error = refused(chain, RefusedError, 50, where, overwrite=overwrite)
            assert "these are the increments" in error.message


@pytest.mark.parametrize("room", [".ckptctl", ".ckptctl-trash/20261127"])
def test_nothing_is_written_into_our_own_rooms(tmp_path: Path, room: str) -> None:
    """`prune --trash` says to remove them."""
    chain = small_chain(tmp_path)
    (chain.directory / room).mkdir(parents=True)
    error = refused(chain, RefusedError, 50, chain.directory / room / "x-50")
    assert "of its own" in error.message


def test_the_only_restore_point_of_another_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    chain = small_chain(tmp_path / "ours")
    changed = increment(55, changes("emb", [1]))
    other = build_chain(tmp_path / "theirs", full(50, table("emb", [1])), changed)
    only = other.full_prefix(50)
    error = refused(chain, RefusedError, 50, only, overwrite=True, update_state=False)
    assert "only restore point" in error.message
    other.add(full(60, table("emb", [1])))
    other.list_all()
    error = refused(chain, RefusedError, 50, only, overwrite=True, update_state=False)
    assert (error.message, error.found) == (
        "would overwrite a full that increments were recorded against",
        "incremental_model.ckpt-55",
    )
    for file in other.increment_prefix(55).parent.glob("incremental_model*"):
        file.unlink()
    assert chain.plan(50, only, overwrite=True, update_state=False).replaces


@pytest.mark.parametrize("overwrite", [False, True])
def test_no_result_is_called_by_the_step_of_another(tmp_path: Path, overwrite: bool) -> None:
    """A trainer would go on from it, and prune would keep it in place of what it is not."""
    (tmp_path / "theirs").mkdir()
    chain = small_chain(tmp_path)
    other = build_chain(tmp_path / "theirs", full(10, table("emb", [1])))
    for file in other.directory.glob("model.ckpt-10.*"):
        file.rename(file.with_name(file.name.replace("model.ckpt", "best")))
    write_state(other.directory, ["best-10"])
    for where in (
        chain.full_prefix(70),
        chain.full_prefix(40),
        chain.directory / "model.ckpt-10",
        other.directory / "model.ckpt-70",
        other.directory / "best-70",
    ):
        error = refused(chain, RefusedError, 50, where, overwrite=overwrite, update_state=False)
        assert "another step" in error.message
    for where in (tmp_path / "model.ckpt-70", chain.directory / "serving-1"):
        assert chain.plan(50, where, overwrite=overwrite, update_state=False)


def test_side_files_are_not_written_through_a_link(tmp_path: Path) -> None:
    """Whoever may write to the directory would choose where ours go."""
    chain = small_chain(tmp_path, side=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (chain.directory / "model.ckpt-50-emb-emb_files").symlink_to(elsewhere)
    before = listing(chain.directory)
    with pytest.raises(RefusedError, match="symbolic link"):
        chain.merge(50)
    assert not list(elsewhere.iterdir())
    after = listing(chain.directory)
    assert {name for name in after if not name.startswith(".ckptctl")} == set(before)


def test_what_a_trainer_saved_over_a_leftover_is_not_removed(tmp_path: Path) -> None:
    """Between the plan and the lock."""
    chain = small_chain(tmp_path)
    chain.merge(50)
    Path(f"{chain.full_prefix(50)}.index").unlink()
    mark = Path(f"{chain.full_prefix(50)}.ckptctl.json")
    facts = json.loads(mark.read_bytes())
    shards = sorted(chain.directory.glob("model.ckpt-50.data-*"))
    facts["files"] = {shard.name: file_identity(LOCAL.stat(str(shard))) for shard in shards}
    mark.write_text(json.dumps(facts))
    found = chain.plan(50)
    assert set(found.leftovers) == {*(shard.name for shard in shards), mark.name}
    fresh = tmp_path / "fresh"
    fresh.write_bytes(b"a trainer's")
    fresh.rename(shards[0])
    with pytest.raises(ChangedError, match="was replaced"):
        execute_merge(found, jobs=1)
    assert shards[0].read_bytes() == b"a trainer's"


def test_a_source_that_may_only_be_read_is_enough(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    for path in [*chain.directory.rglob("*"), chain.directory]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    chain.merge(50, tmp_path / "out-50")
    chain.check(40, 50, prefix=tmp_path / "out-50")
    for path in [chain.directory, *chain.directory.rglob("*")]:
        path.chmod(0o755)


def test_a_relative_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = small_chain(tmp_path)
    monkeypatch.chdir(tmp_path)
    chain.merge(50, "here-50")
    chain.check(40, 50, prefix=tmp_path / "here-50")


def test_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = small_chain(tmp_path)
    monkeypatch.chdir(chain.directory)
    chain.directory = Path(".")
    chain.merge()
    chain.check(40, 50)


def test_the_outputs_directory_must_exist(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    assert refused(chain, NotFoundError, 50, tmp_path / "none" / "x-50").exit_code == 10


@pytest.mark.parametrize("name", ["x.index", "x.ckptctl.json", ""])
def test_an_output_that_is_no_prefix(tmp_path: Path, name: str) -> None:
    refused(small_chain(tmp_path), UsageError, 50, f"{tmp_path}/{name}")


def test_an_output_that_is_a_directory(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    (tmp_path / "there").mkdir()
    error = refused(chain, UsageError, 50, tmp_path / "there")
    assert error.exit_code == 2
    assert error.remedy == f"-o {tmp_path}/there/model.ckpt-50"
    assert not (tmp_path / "there.index").exists()


# --- what lies there already ----------------------------------------------------------


def test_an_existing_prefix_is_refused(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(50, tmp_path / "x-50")
    error = refused(chain, ExistsError, 30, tmp_path / "x-50")
    assert error.exit_code == 12
    assert "--overwrite" in error.remedy


def test_a_merge_in_place_is_done_once(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge()
    before = listing(chain.directory)
    plan = chain.plan()
    assert "already a full" in plan.nothing_to_do
    assert execute_merge(plan).bytes == 0
    assert listing(chain.directory) == before


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".data-00007-of-00009", ".meta"])
def test_files_of_someone_else_are_refused(tmp_path: Path, suffix: str) -> None:
    """A trainer may be saving there."""
    chain = small_chain(tmp_path)
    (tmp_path / f"x-50{suffix}").write_bytes(b"a trainer's")
    for options in ({}, {"overwrite": True}):
        refused(chain, ExistsError, 50, tmp_path / "x-50", **options)


@pytest.mark.parametrize("other", ["x-500.index", "x-5.index", "x-50x.index", "x-50.indexes"])
def test_files_of_another_name_do_not_matter(tmp_path: Path, other: str) -> None:
    chain = small_chain(tmp_path)
    (tmp_path / other).write_bytes(b"another's")
    chain.merge(50, tmp_path / "x-50")
    assert (tmp_path / other).read_bytes() == b"another's"


# --- overwriting ----------------------------------------------------------------------


def test_a_trash_is_new_also_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was replaced first is not replaced in the trash by what is replaced next."""
    monkeypatch.setattr(time, "strftime", lambda *_: "20261127T120000Z")
    chain = small_chain(tmp_path)
    for step in (20, 30, 50):
        chain.merge(step, tmp_path / "best", overwrite=True)
    prefixes = [path / "best" for path in (tmp_path / ".ckptctl-trash").iterdir()]
    assert sorted(read(prefix, "global_step") for prefix in prefixes) == [20, 30]
    chain.check(40, 50, prefix=tmp_path / "best")


def test_overwriting_moves_the_old_one_to_the_trash(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(30, tmp_path / "x-50")
    old = {path.name: path.read_bytes() for path in tmp_path.glob("x-50*")}
    plan = chain.plan(50, tmp_path / "x-50", overwrite=True)
    replaced = [info.name for info in plan.replaces]
    assert set(replaced) == set(old)
    assert replaced[0] == "x-50.index"
    execute_merge(plan)
    chain.check(40, 50, prefix=tmp_path / "x-50")
    (place,) = (tmp_path / ".ckptctl-trash").iterdir()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == old
    assert mark_of(tmp_path / "x-50")["step"] == 50


def test_overwriting_where_nothing_is(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(50, tmp_path / "x-50", overwrite=True)
    chain.check(40, 50, prefix=tmp_path / "x-50")
    assert not (tmp_path / ".ckptctl-trash").exists()


def test_overwriting_takes_the_side_files_too(tmp_path: Path) -> None:
    chain = small_chain(tmp_path, side=True)
    chain.merge(50, tmp_path / "x-50")
    (tmp_path / "x-50-emb-emb_files" / "1.emb").write_bytes(b"the old one")
    chain.merge(50, tmp_path / "x-50", overwrite=True)
    chain.check(40, 50, prefix=tmp_path / "x-50")
    for suffix, data in SIDE.items():
        assert Path(f"{tmp_path / 'x-50'}{suffix}").read_bytes() == data
    (place,) = (tmp_path / ".ckptctl-trash").iterdir()
    assert (place / "x-50-emb-emb_files" / "1.emb").read_bytes() == b"the old one"


def test_the_base_is_never_overwritten(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(chain.directory)
    for where in (chain.full_prefix(40), chain.increment_prefix(50), link / "model.ckpt-40"):
        error = refused(chain, RefusedError, 50, where, overwrite=True)
        assert error.exit_code == 12


def test_the_only_restore_point_is_never_overwritten(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [])))
    refused(chain, RefusedError, 20, chain.full_prefix(10), overwrite=True, increments="last")


def test_a_merge_that_fails_overwrites_nothing(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(30, tmp_path / "x-50")
    flip(Path(f"{chain.full_prefix(40)}.data-00001-of-00002"), 100)
    before = listing(tmp_path)
    with pytest.raises(DamageError):
        chain.merge(50, tmp_path / "x-50", overwrite=True)
    assert listing(tmp_path) == before


def test_the_old_one_stays_until_the_new_one_is_finished(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(30, tmp_path / "x-50")
    seen = []

    def look() -> None:
        temporary = next(tmp_path.glob("x-50_temp_*"))
        seen.append(sorted(path.name for path in temporary.iterdir()))
        assert read(tmp_path / "x-50", "global_step") == 30

    storage = Hooked("mkdir " + str(tmp_path / ".ckptctl-trash"), before=look)
    chain.merge(50, tmp_path / "x-50", overwrite=True, storage=storage)
    assert seen == [["ckptctl.json", "data-00000-of-00002", "data-00001-of-00002", "index"]]


# --- modes and owners -----------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o664])
def test_files_get_the_mode_of_the_fulls(tmp_path: Path, mode: int) -> None:
    chain = small_chain(tmp_path, side=True)
    for path in chain.directory.glob("model.ckpt-40*"):
        path.chmod(mode if path.is_file() else 0o755)
    old = os.umask(0o027)
    try:
        chain.merge()
    finally:
        os.umask(old)
    found = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in chain.directory.glob("model.ckpt-50*")
        if path.is_file()
    }
    assert set(found.values()) == {mode}, found


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_files_get_the_owner_of_the_fulls(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    for path in [chain.directory / "checkpoint", *chain.directory.glob("model.ckpt-40.*")]:
        os.chown(path, 1234, 4321)
    (chain.directory / "checkpoint").chmod(0o640)
    chain.merge()
    made = [chain.directory / "checkpoint", *chain.directory.glob("model.ckpt-50.*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(1234, 4321)}
    assert stat.S_IMODE((chain.directory / "checkpoint").stat().st_mode) == 0o640


# --- provenance -----------------------------------------------------------------------


def test_the_provenance_says_what_it_was_made_from(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    chain.merge(30, increments="all")
    mark = mark_of(chain.full_prefix(30))
    assert (mark["base"]["name"], mark["base_step"], mark["step"]) == ("model.ckpt-10", 10, 30)
    assert [each["step"] for each in mark["increments"]] == [20, 30]
    assert mark["options"] == ["--increments all"]
    assert mark["version"]
    for source in (mark["base"], *mark["increments"]):
        assert source["bytes"] > 0
        assert len(source["index_crc32c"]) == 8


def test_the_mark_names_its_temporaries(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    seen = []

    def look() -> None:
        (temporary,) = chain.directory.glob("model.ckpt-50_temp_*")
        mark = json.loads((chain.directory / "model.ckpt-50.ckptctl.json").read_text())
        seen.append(temporary.name == mark["temporary"])

    chain.merge(storage=Hooked("rename_new", before=look))
    assert seen == [True]


def test_a_trainers_temporary_is_not_ours(tmp_path: Path) -> None:
    """A run of ours was killed there; now a trainer saves a full of that step in shards."""
    chain = small_chain(tmp_path)
    (chain.directory / "model.ckpt-50.ckptctl.json").write_text("{}")
    theirs = chain.directory / f"model.ckpt-50_temp_{'0123456789abcdef' * 2}"
    theirs.mkdir()
    part = theirs / "part-00000-of-00002.data-00000-of-00001"
    part.write_bytes(b"a trainer's")
    for path in (part, theirs):  # and dies: a live one would be waited for
        date(path, 60)
    chain.merge()
    assert theirs.exists()


# --- two runs -------------------------------------------------------------------------


def test_a_slower_run_finds_the_result_of_a_faster_one(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    slow, fast = chain.plan(), chain.plan()
    execute_merge(fast)
    before = listing(chain.directory)
    with pytest.raises(RefusedError) as caught:
        execute_merge(slow)
    assert caught.value.exit_code == 12
    assert listing(chain.directory) == before
    chain.check(40, 50)


def test_leftovers_that_another_run_cleared_away(tmp_path: Path) -> None:
    """What was a leftover when this run was planned is now part of a good full."""
    chain = small_chain(tmp_path)
    data = chain.directory / "model.ckpt-50.data-00000-of-00002"
    data.write_bytes(b"of a killed run")
    files = {data.name: [data.stat().st_size, data.stat().st_mtime_ns]}
    mark = {"schema": "ckptctl.merged/1", "files": files}
    (chain.directory / "model.ckpt-50.ckptctl.json").write_text(json.dumps(mark))
    slow, fast = chain.plan(), chain.plan()
    assert slow.leftovers
    execute_merge(fast)
    before = listing(chain.directory)
    with pytest.raises(ChangedError):
        execute_merge(slow)
    assert listing(chain.directory) == before
    chain.check(40, 50)


def test_a_trainer_saves_the_same_step_meanwhile(tmp_path: Path) -> None:
    """Nothing of theirs is replaced, nothing of ours stays."""
    chain = small_chain(tmp_path)
    theirs = chain.directory / "model.ckpt-50.data-00001-of-00002"
    storage = Hooked("copy_attributes", before=lambda: theirs.write_bytes(b"a trainer's"))
    before = names(chain.directory)
    state = (chain.directory / "checkpoint").read_bytes()
    with pytest.raises(ExistsError):
        chain.merge(storage=storage)
    assert theirs.read_bytes() == b"a trainer's"
    assert names(chain.directory) - before <= {theirs.name}
    assert (chain.directory / "checkpoint").read_bytes() == state


# --- what a plan reads ----------------------------------------------------------------


def test_a_plan_reads_no_keys_and_no_rows_of_the_full(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(20_000))),
        increment(20, changes("emb", range(100))),
        increment(30, changes("emb", range(200))),
    )
    storage = Counting()
    plan = chain.plan(storage=storage)
    read_of = storage.read
    shard = f"{chain.full_prefix(10)}.data-00000-of-00001"
    assert read_of.get(shard, 0) < 20_000  # offsets and the step
    assert plan.bytes_to_write > 500_000


def test_a_plan_bounds_what_the_merge_writes(tmp_path: Path) -> None:
    chain = small_chain(tmp_path, side=True)
    plan = chain.plan()
    result = execute_merge(plan)
    assert result.bytes - 200 <= plan.bytes_to_write
    assert json.loads(json.dumps(plan.to_json()))["state_file"] == str(
        chain.directory / "checkpoint"
    )


def test_a_plan_changes_nothing(tmp_path: Path) -> None:
    chain = small_chain(tmp_path)
    before = listing(chain.directory)
    chain.plan()
    assert listing(chain.directory) == before
    assert not (chain.directory / ".ckptctl").exists()
    assert read_state(str(chain.directory / "checkpoint")).latest == "model.ckpt-40"
