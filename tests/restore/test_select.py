"""Rules 1 to 3: which full, which increments, and what is refused until someone says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptctl import knobs
from ckptctl.errors import (
    AmbiguousError,
    CkptctlError,
    IncompleteError,
    NotFoundError,
    RefusedError,
    TableError,
    TensorChecksumError,
    UnprovenError,
)
from ckptctl.inspect.listing import list_directory
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.progress import Progress
from ckptctl.restore import nested
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    Full,
    Increment,
    build_chain,
    changes,
    flip,
    full,
    increment,
    read,
    rows_of,
    table,
    value,
    write_state,
)
from tests.oracle.images import Image, Piece, Rows, Sliced, Tensor, floats, ints, write_image

W = {"w": floats(1, 2)}


def refused(chain, kind: type[CkptctlError], step: int | None, **options) -> CkptctlError:
    """Return the error; fail if anything but a refusal before the first byte comes."""
    before = sorted(chain.directory.rglob("*"))
    with pytest.raises(kind) as caught:
        chain.plan(step, **options)
    assert type(caught.value) is kind
    assert sorted(chain.directory.rglob("*")) == before
    return caught.value


def dated(chain, **seconds: float) -> None:
    """Set the mtimes of checkpoints, `full_10=0`, in seconds from a fixed day."""
    for name, at in seconds.items():
        kind, _, step = name.partition("_")
        prefix = chain.full_prefix if kind == "full" else chain.increment_prefix
        when = 1_700_000_000 + at
        for path in prefix(int(step)).parent.glob(f"{prefix(int(step)).name}.*"):
            os.utime(path, (when, when))


# --- 1: a full ------------------------------------------------------------------------


def test_a_live_full_is_the_state(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1]), W), full(20, table("emb", [2]), W))
    assert chain.plan(20).nothing_to_do
    assert chain.merge(20, tmp_path / "copy-20").step == 20
    chain.check(20, prefix=tmp_path / "copy-20", merged=False)


def test_at_equal_steps_the_full_is_the_state(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", {1: 7.0})),
        full(20, table("emb", [2])),
    )
    chain.merge(20, tmp_path / "copy-20")
    chain.check(20, prefix=tmp_path / "copy-20", merged=False)


def test_the_newest_restore_point_is_the_default(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1])),
        increment(30, changes("emb", [1, 2])),
        increment(40, changes("emb", [])),  # idle
    )
    assert chain.plan().step == 30


def three_increments(tmp_path: Path) -> Chain:
    return build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        *(increment(step, changes("emb", range(1, step // 10))) for step in (20, 30, 40)),
    )


def lose_shard(chain: Chain, step: int) -> None:
    Path(f"{chain.prefix(step)}.data-00000-of-00001").unlink()


def test_what_is_newer_than_the_newest_restore_point_is_told(tmp_path: Path) -> None:
    chain = three_increments(tmp_path)
    lose_shard(chain, 40)
    shard = "incremental_model.ckpt-40.data-00000-of-00001"
    why = f"incremental_model.ckpt-40: data shard {shard} is missing"
    assert chain.plan().warnings == (f"passed over, though newer than step 30: {why}",)
    assert chain.plan(30).warnings == ()  # it was asked for
    for step in (20, 30):
        lose_shard(chain, step)
    plan = chain.plan()
    assert plan.nothing_to_do
    assert plan.warnings == (
        f"3 passed over, though newer than step 10; the last: {why} (ckptctl ls shows all)",
    )
    lose_shard(chain, 10)
    assert why in str(refused(chain, NotFoundError, None).found)


def test_a_merged_full_under_another_name_is_not_passed_over(tmp_path: Path) -> None:
    chain = three_increments(tmp_path)
    chain.merge(40, tmp_path / "copy-40", update_state=False)
    for file in tmp_path.glob("copy-40*"):
        file.rename(chain.directory / file.name.replace("copy-40", "model.ckpt-999"))
    assert chain.plan().step == 40
    assert chain.plan().warnings == ()


def named(chain: Chain, name: str, room: str = "", *listed: str) -> None:
    """Set the line of a state file long ago: one of just now is a writer at work."""
    path = write_state(chain.directory / room, [*listed, name])
    os.utime(path, (1_700_000_000, 1_700_000_000))


@pytest.mark.parametrize("what", ["gone", "without its index", "increment", "without a step"])
def test_what_a_state_file_names_in_vain_is_told(tmp_path: Path, what: str) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), full(40, table("emb", [1])))
    room, name, why = "", "model.ckpt-40", "it is not here"
    for path in chain.directory.glob("model.ckpt-40.*"):
        if what == "without a step":
            path.rename(path.with_name(path.name.replace("model.ckpt-40", "best")))
        elif path.suffix == ".index" or what != "without its index":
            path.unlink()
    if what == "without its index":
        why = "its index is missing"
    elif what == "without a step":
        name, why = "best", "it has no step"
    elif what == "increment":
        named(chain, "model.ckpt-10")
        room, name = INCREMENTS, "incremental_model.ckpt-20"
        (chain.directory / room).mkdir(exist_ok=True)
    named(chain, name, room, *([] if room else ["model.ckpt-10"]))
    than = " for step 10" if name == "best" else ", though newer than step 10"
    state = chain.directory / room / "checkpoint"
    assert chain.plan().warnings == (f"passed over{than}: {name}: {state} names it, and {why}",)
    assert chain.plan(10).warnings == ()


def test_what_a_state_file_names_and_another_full_covers_is_not_told(tmp_path: Path) -> None:
    """A merged full of its step; and what was removed, or is just being saved."""
    chain = three_increments(tmp_path)
    chain.merge(40)
    for path in chain.increment_prefix(40).parent.glob("*-40.*"):
        path.unlink()
    named(chain, "incremental_model.ckpt-40", INCREMENTS)
    assert chain.plan().warnings == ()
    state = write_state(chain.directory / INCREMENTS, ["incremental_model.ckpt-50"])  # just now
    assert chain.plan().warnings == ()
    os.utime(state, (2**32, 2**32))  # by a clock that is ahead
    assert len(chain.plan().warnings) == 1
    named(chain, "incremental_model.ckpt-50", INCREMENTS)
    assert len(chain.plan().warnings) == 1
    log = chain.directory / ".ckptctl" / "removed.jsonl"
    log.parent.mkdir(exist_ok=True)
    log.write_text('{"kind": "increment", "name": "incremental_model.ckpt-50", "step": 50}\n')
    assert chain.plan().warnings == ()


def test_what_is_named_and_damaged_is_told_once(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), full(40, table("emb", [1])))
    lose_shard(chain, 40)
    named(chain, "model.ckpt-40", "", "model.ckpt-10")
    (told,) = chain.plan().warnings
    assert told.startswith("passed over, though newer than step 10: model.ckpt-40: data shard")


# --- 2: an increment and its base -----------------------------------------------------


def test_a_step_that_is_not_there_names_its_neighbours(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])), full(40, W)
    )
    error = refused(chain, NotFoundError, 30)
    assert error.exit_code == 10
    assert error.expected is None
    assert error.remedy.startswith("use another step: 20 or 40 can be restored; ")


def test_an_empty_directory_has_no_restore_point(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, listed=False)
    assert refused(chain, NotFoundError, None).exit_code == 10


def test_an_incomplete_step_is_damage(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])))
    Path(f"{chain.increment_prefix(20)}.data-00000-of-00001").unlink()
    error = refused(chain, IncompleteError, 20)
    assert error.exit_code == 4
    assert error.expected is None
    assert error.remedy == "use another step: 10 can be restored"


def test_an_incomplete_full_is_damage(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), full(20, table("emb", [1])))
    os.truncate(f"{chain.full_prefix(20)}.data-00000-of-00001", 100)
    assert refused(chain, IncompleteError, 20).exit_code == 4


def test_two_fulls_at_one_step_are_both_named(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])))
    write_image(full(10, table("emb", [1])), chain.directory / "model.ckpt-0010")
    error = refused(chain, AmbiguousError, 10)
    assert "model.ckpt-0010" in str(error.found)
    assert "model.ckpt-10" in str(error.found)


def test_an_abandoned_increment_is_refused(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(30, changes("emb", [1])),
        increment(20, changes("emb", [1])),
    )
    names = [chain.increment_prefix(step).name for step in (30, 20)]
    write_state(chain.directory / INCREMENTS, names)
    error = refused(chain, RefusedError, 30)
    assert "abandoned" in error.message


@pytest.mark.parametrize(
    ("base", "kind", "code"), [(15, NotFoundError, 10), (20, RefusedError, 12)]
)
def test_a_base_that_cannot_be_one(tmp_path: Path, base: int, kind: type, code: int) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1])),
        full(20, table("emb", [1])),
    )
    assert refused(chain, kind, 20, base=base).exit_code == code


def test_an_incomplete_base_is_damage(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(5, table("emb", [1])),
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1])),
    )
    Path(f"{chain.full_prefix(5)}.data-00000-of-00001").unlink()
    assert refused(chain, IncompleteError, 20, base=5).exit_code == 4


# --- 3, check 1: nested ---------------------------------------------------------------


def lost(tmp_path: Path):
    """A chain whose recorder was lost between steps 20 and 30."""
    return build_chain(
        tmp_path,
        full(10, table("emb", [1, 2, 3]), W),
        increment(20, changes("emb", {1: 21.0, 2: 22.0}), W),
        increment(30, changes("emb", {2: 32.0, 3: 33.0}), W),
    )


def test_keys_that_were_lost_are_refused(tmp_path: Path) -> None:
    error = refused(lost(tmp_path), UnprovenError, 30)
    assert error.exit_code == 12
    assert error.file.endswith("incremental_model.ckpt-30")
    assert (error.tensor, error.found) == ("emb", "missing: 1")  # of two members
    assert error.remedy.startswith("use a step below: 20 can be restored; or, knowing that rows")
    assert "--increments last" in error.remedy
    assert "--increments all" in error.remedy


def test_increments_last_is_what_a_ps_would_hold(tmp_path: Path) -> None:
    chain = lost(tmp_path)
    chain.merge(30, increments="last")
    chain.check(10, 30)
    assert rows_of(chain.full_prefix(30), "emb") == {1: 1.0, 2: 32.0, 3: 33.0}


def test_increments_all_is_the_newest_row_of_each_key(tmp_path: Path) -> None:
    chain = lost(tmp_path)
    chain.merge(30, increments="all")
    chain.check(10, 20, 30)
    assert rows_of(chain.full_prefix(30), "emb") == {1: 21.0, 2: 32.0, 3: 33.0}


def test_increments_all_says_what_it_leaves_out(tmp_path: Path) -> None:
    """The shard of one was cut short: its rows are lost unless a later one has them."""
    chain = lost(tmp_path)
    [shard] = (chain.directory / INCREMENTS).glob("*-20.data-*")
    os.truncate(shard, shard.stat().st_size - 1)
    plan = chain.plan(30, increments="all")
    assert [source.step for source in plan.increments] == [30]
    assert [note for note in plan.warnings if "-20 is incomplete and left out" in note]
    chain.merge(30, increments="all")
    chain.check(10, 30)


def test_increments_all_never_crosses_a_time_inversion(tmp_path: Path) -> None:
    """Not listed, so that times decide: the newer step is of another run."""
    chain = lost(tmp_path)
    (chain.directory / INCREMENTS / "checkpoint").unlink()
    dated(chain, full_10=0, incr_20=100, incr_30=60)
    refused(chain, RefusedError, 30, increments="all")
    chain.merge(30, increments="all", assume_order="step")
    chain.check(10, 20, 30)


def test_increments_all_never_crosses_a_rollback(tmp_path: Path) -> None:
    images = [increment(step, changes("emb", [step])) for step in (20, 40, 30)]
    chain = build_chain(tmp_path, full(10, table("emb", [1])), *images)
    write_state(chain.directory / INCREMENTS, [f"incremental_model.ckpt-{n}" for n in (20, 40, 30)])
    error = refused(chain, UnprovenError, 30, increments="all")
    assert "the run was rolled back between" in error.message
    assert error.remedy.startswith("use a step below: 20 can be restored; or, knowing that rows")


def test_the_list_decides_what_was_written_first(tmp_path: Path) -> None:
    """Listed in order: the times are a copy's."""
    chain = lost(tmp_path)
    dated(chain, full_10=0, incr_20=100, incr_30=60)
    chain.merge(30, increments="all")
    chain.check(10, 20, 30)


def test_a_base_for_a_full_is_refused(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, W), full(20, W), increment(30, W))
    error = refused(chain, RefusedError, 20, base=10)
    assert error.message == "step 20 is a full; --base applies to increments"
    assert error.remedy == "leave --base out"


def test_an_idle_increment_of_a_delta_series_has_no_override(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", []), lineage=lineage(10, None, "delta")),
    )
    error = refused(chain, UnprovenError, 20)
    assert error.remedy == "use another step: 10 can be restored"


@pytest.mark.parametrize("parts", [1, 2])
def test_rows_alone_are_less_than_the_whole_variable(tmp_path: Path, parts: int) -> None:
    """A PS would have the full's rows again, where the earlier increment has newer ones."""

    def var(x: float) -> dict[str, Tensor | Sliced]:
        whole = floats(*[x] * 8, shape=(4, 2))
        cut = [Piece(((at, 2), (0, 2)), whole.data[:16]) for at in (0, 2)]
        return {"v": whole if parts == 1 else Sliced("float32", (4, 2), cut)}

    def rows(part: int, *numbers: int) -> Rows:
        name = f"v/part_{part}" if parts > 1 else "v"
        return Rows(name, "float32", 2, dict.fromkeys(numbers, value(30.0)))

    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1]), var(1.0)),
        increment(20, changes("emb", [1]), var(2.0)),
        increment(30, changes("emb", [1]), *(rows(part, 0) for part in range(parts))),
    )
    error = refused(chain, UnprovenError, 30)
    assert error.exit_code == 12
    assert (error.tensor, error.found) == ("v", f"missing: {4 - parts}")
    chain.merge(30, tmp_path / "last-30", increments="last")
    chain.check(10, 30, prefix=tmp_path / "last-30")
    chain.merge(30, tmp_path / "all-30", increments="all")
    chain.check(10, 20, 30, prefix=tmp_path / "all-30")


def test_all_rows_are_the_whole_variable(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1]), {"v": floats(*[1.0] * 4, shape=(2, 2))}),
        increment(20, changes("emb", [1]), {"v": floats(*[2.0] * 4, shape=(2, 2))}),
        increment(
            30, changes("emb", [1]), Rows("v", "float32", 2, dict.fromkeys((0, 1), value(3)))
        ),
    )
    chain.merge(30)
    chain.check(10, 30)


def test_scopes_called_like_parts_are_compared_each_for_itself(tmp_path: Path) -> None:
    """Key 1 of `part_0/emb` is lost: as part 0 of 2 nobody would look for it there."""
    tables = ("part_0/emb", "part_1/emb")
    chain = build_chain(
        tmp_path,
        full(10, *(table(name, range(9)) for name in tables)),
        increment(20, *(changes(name, range(9)) for name in tables)),
        increment(30, changes("part_0/emb", [0, *range(2, 9)]), changes("part_1/emb", range(9))),
    )
    error = refused(chain, UnprovenError, 30)
    assert (error.tensor, error.found) == ("part_0/emb", "missing: 1")


@pytest.mark.parametrize("keys", [1, 3, 1 << 20])
def test_lost_keys_are_counted_whatever_is_compared_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: int
) -> None:
    """Also where all keys lie in one bucket, or the parts are others."""
    monkeypatch.setattr(nested, "_KEYS", keys)
    monkeypatch.setattr(nested, "_BUCKET_KEYS", keys)
    monkeypatch.setattr(knobs, "JOIN_KEYS", 2)
    ours = [*range(20), *range(7, 20_000, 1000)]
    lacking = {3, 5007, 19_007}
    chain = build_chain(
        tmp_path,
        full(10, table("emb", ours, parts=3, slots=())),
        increment(20, changes("emb", ours, parts=3, slots=())),
        increment(30, changes("emb", [k for k in ours if k not in lacking], parts=2, slots=())),
    )
    assert refused(chain, UnprovenError, 30).found == "missing: 3"


def test_progress_of_the_nested_check_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nested, "_KEYS", 8)
    monkeypatch.setattr(nested, "_BUCKET_KEYS", 8)
    monkeypatch.setattr(knobs, "JOIN_KEYS", 4)
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(50))),
        increment(20, changes("emb", range(50))),
        increment(30, changes("emb", range(90))),
    )
    told: list[int] = []
    totals: list[int | None] = []

    class Watch(Progress):
        def start(self, phase: str, total: int | None = None) -> None:
            totals.append(total)

        def advance(self, done: int) -> None:
            told.append(done)

    chain.plan(30, progress=Watch())
    assert totals == [2 * 8 * 2 * (50 + 90)]
    assert sum(told) == totals[0]
    assert len(told) > 50


def test_a_lost_row_of_one_slot_is_enough(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [1, 2])),
        increment(30, changes("emb", [1, 2], lacking={"Adagrad": [2]})),
    )
    error = refused(chain, UnprovenError, 30)
    assert (error.tensor, error.found) == ("emb/Adagrad", "missing: 1")


def test_a_lost_row_of_a_normal_variable_is_enough(tmp_path: Path) -> None:
    def rows(*keys: int) -> Rows:
        return Rows("w", "float32", 1, dict.fromkeys(keys, b"abcd"))

    w = {"w": floats(1, 2, 3, shape=(3, 1))}
    chain = build_chain(tmp_path, full(10, w), increment(20, rows(0, 2)), increment(30, rows(0, 1)))
    error = refused(chain, UnprovenError, 30)
    assert (error.tensor, error.found) == ("w", "missing: 1")


def test_a_table_that_went_is_a_lost_recorder(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("a", [1]), table("b", [2])),
        increment(20, changes("a", [1]), changes("b", [2])),
        increment(30, changes("a", [1])),
    )
    assert refused(chain, UnprovenError, 30).tensor == "b"


def test_every_pair_up_to_the_step_counts(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [1, 2])),
        increment(30, changes("emb", [1])),
        increment(40, changes("emb", [1, 2])),
    )
    refused(chain, UnprovenError, 40)
    chain.merge(20)  # before what was lost


def test_keys_are_nested_whatever_their_parts(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", range(9), parts=2)),
        increment(20, changes("emb", range(5), parts=3)),
        increment(30, changes("emb", range(8))),
    )
    chain.merge(30)
    chain.check(10, 30)


def test_a_proven_pair_is_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [1])),
        increment(30, changes("emb", [1, 2])),
    )
    chain.plan(30, remember=False)
    assert not cache.exists()
    chain.plan(30)
    (token,) = (path for path in cache.rglob("*") if path.is_file())
    monkeypatch.setattr("ckptctl.restore.nested._missing_keys", lambda *_: (1, "asked again"))
    chain.plan(30)  # not asked
    os.utime(f"{chain.increment_prefix(20)}.index", (1, 1))
    os.utime(f"{chain.full_prefix(10)}.index", (0, 0))
    with pytest.raises(UnprovenError):
        chain.plan(30, assume_order="step")
    assert token.exists()


# --- 3, check 2: idle -----------------------------------------------------------------


def idle(tmp_path: Path):
    return build_chain(
        tmp_path,
        full(10, table("emb", [1]), {"w": floats(1)}),
        increment(20, changes("emb", []), {"w": floats(2)}),
    )


def test_an_idle_recorder_is_refused(tmp_path: Path) -> None:
    error = refused(idle(tmp_path), UnprovenError, 20)
    assert error.exit_code == 12
    assert "idle" in error.message


def test_increments_last_takes_the_tables_of_the_full(tmp_path: Path) -> None:
    chain = idle(tmp_path)
    chain.merge(20, increments="last")
    assert rows_of(chain.full_prefix(20), "emb") == {1: 1.0}
    assert read(chain.full_prefix(20), "w") == [2.0]


def test_increments_all_does_not_override_idleness(tmp_path: Path) -> None:
    refused(idle(tmp_path), UnprovenError, 20, increments="all")


def test_a_given_base_does_not_override_idleness(tmp_path: Path) -> None:
    refused(idle(tmp_path), UnprovenError, 20, base=10)


def test_a_given_base_is_what_idleness_is_judged_by(tmp_path: Path) -> None:
    lineage = {"version": 1, "base_step": 15, "previous_step": None, "mode": "cumulative"}
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1]), {"w": floats(1)}),
        increment(20, changes("emb", []), {"w": floats(2)}, lineage=lineage),
    )
    refused(chain, UnprovenError, 20, base=10)


# --- 3, checks 3 and 4: the base ------------------------------------------------------


def test_a_full_that_is_listed_and_gone_is_refused(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1])), increment(20, changes("emb", [1])))
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-15"])
    error = refused(chain, UnprovenError, 20)
    assert "check 3" in str(error.found)
    assert "keys in it: 1" in str(error.found)
    assert "model.ckpt-15" in error.message
    chain.merge(20, base=10)
    chain.check(10, 20)


def test_a_base_without_a_step_names_the_increment_to_give(tmp_path: Path) -> None:
    chain = three_increments(tmp_path)
    write_state(chain.directory, ["model.ckpt-10", "model.ckpt-35"])  # lost before the one at 40
    assert chain.plan(base=10).step == 30
    lose_shard(chain, 20)
    lose_shard(chain, 30)
    error = refused(chain, RefusedError, None, base=10)
    assert error.message == "step 10 is a full; --base applies to increments"
    assert "step 40 is the newest without a proven base" in error.remedy
    assert chain.merge(40, base=10).step == 40


def test_a_base_that_nothing_proves_is_refused(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1])),
        full(30, table("emb", [1])),
    )
    write_state(chain.directory, ["model.ckpt-30"])
    error = refused(chain, UnprovenError, 20)
    assert "check 4" in str(error.found)
    assert "--base" in error.remedy
    chain.merge(20, base=10)
    chain.check(10, 20)


def test_without_a_state_file_steps_prove_the_base(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", [1])),
        listed=False,
    )
    chain.merge(20)
    chain.check(10, 20)


# --- lineage --------------------------------------------------------------------------


def lineage(base: int, previous: int | None = None, mode: str = "cumulative") -> dict:
    return {"version": 1, "base_step": base, "previous_step": previous, "mode": mode}


def series(tmp_path: Path):
    """A delta series: 20 changes key 1, 30 key 2, 40 key 3."""
    return build_chain(
        tmp_path,
        full(10, table("emb", [1, 2, 3]), {"w": floats(1)}),
        increment(
            20,
            changes("emb", {1: 21.0, 9: 29.0}),
            {"w": floats(2)},
            lineage=lineage(10, None, "delta"),
        ),
        increment(
            30, changes("emb", {2: 32.0}), {"w": floats(3)}, lineage=lineage(10, 20, "delta")
        ),
        increment(
            40,
            changes("emb", {3: 43.0, 1: 41.0}),
            {"w": floats(4)},
            lineage=lineage(10, 30, "delta"),
        ),
    )


def test_lineage_proves_what_the_state_file_does_not(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1])),
        increment(20, changes("emb", {1: 9.0}), lineage=lineage(10)),
        full(30, table("emb", [1])),
    )
    write_state(chain.directory, ["model.ckpt-30"])
    chain.merge(20)
    chain.check(10, 20)


def test_lineage_names_the_base_whatever_lies_between(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        full(15, table("emb", [1])),
        increment(20, changes("emb", {1: 9.0}), lineage=lineage(10)),
    )
    chain.merge(20)
    chain.check(10, 20)


def test_a_delta_series_is_applied_in_order(tmp_path: Path) -> None:
    chain = series(tmp_path)
    chain.merge(40)
    chain.check(10, 20, 30, 40)
    rows = rows_of(chain.full_prefix(40), "emb")
    assert rows == {1: 41.0, 2: 32.0, 3: 43.0, 9: 29.0}


def test_a_hole_in_a_delta_series_is_refused(tmp_path: Path) -> None:
    chain = series(tmp_path)
    for path in chain.increment_prefix(30).parent.glob("*-30.*"):
        path.unlink()
    for options in ({}, {"increments": "all"}, {"base": 10}):
        assert refused(chain, UnprovenError, 40, **options).exit_code == 12
    chain.merge(20)
    chain.check(10, 20)


F10, F15 = (full(step, table("emb", [1]), W) for step in (10, 15))


def delta(step: int, previous: int | None, mode: str = "delta"):
    return increment(step, changes("emb", [1]), W, lineage=lineage(10, previous, mode))


@pytest.mark.parametrize(
    ("images", "twin", "what", "helps"),
    [
        ([F10, delta(20, None), delta(40, 30)], False, "restore the increments", False),
        ([F15, delta(20, None)], False, "restore the full", False),
        ([F10, delta(20, None)], True, "move one of the two", False),
        ([F10, increment(20, changes("emb", [1]), W)], True, "move one of the two", False),
        ([increment(20, changes("emb", [1]), W), full(50, W)], False, "restore the full", False),
        ([F15, delta(20, None, "cumulative")], False, "--base STEP", True),
    ],
    ids=["hole", "delta", "twin of a delta", "twin", "orphan", "cumulative"],
)
def test_a_base_is_advised_where_one_would_do(
    tmp_path: Path, images: list[Image], twin: bool, what: str, helps: bool
) -> None:
    """`verify` says the same."""
    chain = build_chain(tmp_path, *images)
    if twin:
        write_image(F10, chain.directory / "model.ckpt-0010")
    step = max(each.step for each in images if isinstance(each, Increment))
    advice = refused(chain, UnprovenError, step).remedy
    assert what in advice
    assert ("--base" in advice) is helps
    found = execute_verify(plan_verify(str(chain.directory))).findings
    told = [each.remedy for each in found if each.code == "CK027"]
    assert all(each in advice for each in told)
    assert told or isinstance(images[0], Increment)  # which is an orphan
    for base in (each.step for each in images if isinstance(each, Full)):
        if helps:
            assert chain.plan(step, base=base).base.step == base
        else:
            with pytest.raises(RefusedError):
                chain.plan(step, base=base)


def test_the_last_of_a_delta_series_alone_is_refused(tmp_path: Path) -> None:
    error = refused(series(tmp_path), RefusedError, 40, increments="last")
    assert "since the increment before it" in error.message


def test_a_merged_full_stands_in_for_its_base(tmp_path: Path) -> None:
    chain = series(tmp_path)
    chain.merge(30)
    for step in (20, 30):
        for path in chain.increment_prefix(step).parent.glob(f"*-{step}.*"):
            path.unlink()
    for path in chain.directory.glob("model.ckpt-10.*"):
        path.unlink()
    plan = chain.plan(40)
    assert (plan.base.step, [s.step for s in plan.increments]) == (30, [40])
    chain.merge(40)
    assert rows_of(chain.full_prefix(40), "emb") == {1: 41.0, 2: 32.0, 3: 43.0, 9: 29.0}


def test_what_a_merge_says_of_its_origin(tmp_path: Path) -> None:
    chain = series(tmp_path)
    chain.merge(30)
    chain.merge(40)
    (mark,) = [read(chain.full_prefix(40), "ckptctl/merged")]
    assert mark == (
        b'{"applied_to": 30, "base_step": 10, "mode": "delta", "up_to": 40, "version": 1}'
    )


def test_a_merged_full_is_no_base_for_another_way_over_its_step(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [1, 2])),
        increment(20, changes("emb", [1]), lineage=lineage(10, None, "delta") | {"id": "a"}),
    )
    chain.merge(20)
    for prefix in (chain.increment_prefix(20), chain.full_prefix(10)):
        for path in prefix.parent.glob(f"{prefix.name}.*"):
            path.unlink()
    (chain.directory / INCREMENTS / "checkpoint").unlink()
    facts = lineage(10, 20, "delta")
    for step, previous in ((30, "a"), (40, "rolled back, and saved anew")):
        told = facts | {"id": f"of {step}", "previous_id": previous}
        chain.add(increment(step, changes("emb", [2]), lineage=told))
    assert chain.plan(30).base.step == 20
    error = refused(chain, UnprovenError, 40)
    assert "follows increment 20, which cannot be used" in error.message


# --- an increment whose columns do not fit --------------------------------------------


def unfit(tmp_path: Path, *steps: int) -> Chain:
    """Increments at 20, 30 and 40; those of `steps` have no versions where there are rows."""
    none = {"emb-sparse_incr_versions": ints("int64", [])}
    images = [
        increment(at, changes("emb", range(at // 10)), raw=none if at in steps else {})
        for at in (20, 30, 40)
    ]
    return build_chain(tmp_path, full(10, table("emb", [1])), *images)


def test_columns_that_do_not_fit_make_no_restore_point(tmp_path: Path) -> None:
    chain = unfit(tmp_path, 30, 40)
    words = "emb: -sparse_incr_versions is int64 [0] where -sparse_incr_keys has"
    for _ in range(2):  # read, and remembered
        found = list_directory(str(chain.directory))
        assert (found.restore_points, found.latest) == ((10, 20), 20)
        lines = [each for one in found.chains() for each in one.increments]
        assert [each.status for each in lines] == ["ok", "damaged", "damaged"]
        found.remember()
    assert f"incremental_model.ckpt-40: {words} 4 rows" in chain.plan(None).warnings[0]
    assert "columns of a table do not fit" in refused(chain, TableError, 40).message
    assert refused(chain, TableError, 40, increments="last").tensor == "emb"


def test_nothing_is_proven_past_columns_that_do_not_fit(tmp_path: Path) -> None:
    chain = unfit(tmp_path, 30)
    assert list_directory(str(chain.directory)).restore_points == (10, 20, 40)
    for increments in ("auto", "all"):
        error = refused(chain, TableError, 40, increments=increments)
        assert error.file == f"{chain.increment_prefix(30)}.index"
        assert ("--increments last" in (error.remedy or "")) == (increments == "auto")
    chain.merge(40, increments="last")
    chain.check(10, 40)


def test_a_damaged_increment_in_between_has_a_way_around(tmp_path: Path) -> None:
    images = [increment(at, changes("emb", range(at // 10))) for at in (20, 30, 40)]
    chain = build_chain(tmp_path, full(10, table("emb", [1])), *images)
    flip(next(chain.increment_prefix(30).parent.glob("*-30.data*")), 4004)
    error = refused(chain, TensorChecksumError, 40)
    assert "--increments last" in (error.remedy or "")
    chain.merge(40, increments="last")
    chain.check(10, 40)
    assert "--increments" not in (refused(chain, TensorChecksumError, 30).remedy or "")
