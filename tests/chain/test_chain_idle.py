"""Idle and partly idle increments: "Words" and check 2 of restore.md."""

from __future__ import annotations

import pytest

from tests.chain.builder import chains_of, full, incr, merged, normal, only, rows

TWO_SHARDS = rows(emb__part_0=(10, 0), emb__part_1=(12, 1))


def both(first: int | None, second: int | None) -> dict:
    """Return an increment's rows of the two parts, None leaving the set out."""
    found = {}
    if first is not None:
        found |= rows(emb__part_0=(first, 0))
    if second is not None:
        found |= rows(emb__part_1=(second, 1))
    return found


def two(*increments):
    return chains_of(full(100, sparse=TWO_SHARDS), *increments)


CASES = [
    pytest.param(chains_of(full(100), incr(120, sparse=rows(emb=3))), 120, "no", id="has rows"),
    pytest.param(chains_of(full(100), incr(120, sparse=rows(emb=0))), 120, "all", id="0 rows"),
    pytest.param(chains_of(full(100), incr(120, sparse={})), 120, "all", id="sets missing"),
    pytest.param(
        chains_of(full(100, sparse={}), incr(120, sparse={})), 120, "no", id="no sparse tensors"
    ),
    pytest.param(
        chains_of(full(100, sparse=rows(emb=0)), incr(120, sparse=rows(emb=0))),
        120,
        "all",
        id="tables of the full are empty: the first chain",
    ),
    pytest.param(
        chains_of(full(100, global_step=7), incr(120, sparse=rows(emb=0), global_step=7)),
        120,
        "no",
        id="nothing was trained since",
    ),
    pytest.param(
        chains_of(full(100, global_step=7), incr(120, sparse=rows(emb=0), global_step=8)),
        120,
        "all",
        id="one step was trained",
    ),
    pytest.param(
        chains_of(full(100, global_step=None), incr(120, sparse=rows(emb=0), global_step=3)),
        120,
        "all",
        id="no global_step: the names count",
    ),
    pytest.param(
        chains_of(full(100, global_step=300), incr(120, sparse=rows(emb=0), global_step=None)),
        120,
        "all",
        id="no global_step in the increment: the names count",
    ),
    pytest.param(
        chains_of(full(100), incr(120, sparse=rows(new=9))),
        120,
        "all",
        id="missing, and rows of a table that the full lacks",
    ),
    pytest.param(
        chains_of(full(100, sparse=rows(a=5, b=5)), incr(120, sparse=rows(a=0, b=1))),
        120,
        "no",
        id="one table of a shard has rows",
    ),
    pytest.param(
        chains_of(full(100, sparse=rows(a=5)), incr(120, sparse=rows(a=0, new=9))),
        120,
        "all",
        id="rows of a table that the full lacks say nothing of its own",
    ),
    pytest.param(
        chains_of(full(100), incr(120, sparse=rows(emb=0), base=100, delta=True)),
        120,
        "all",
        id="delta mode too",
    ),
    pytest.param(
        chains_of(full(100), incr(120, sparse=rows(emb=0), base=100, ids=("a", None))),
        120,
        "no",
        id="of our own recorder, which is never idle",
    ),
    pytest.param(
        chains_of(full(100), incr(120, sparse=rows(new=9), base=100, ids=("a", None))),
        120,
        "all",
        id="of our own recorder, with a set missing",
    ),
    pytest.param(
        chains_of(full(100), merged(140, 100), incr(160, sparse=rows(emb=0))),
        160,
        "all",
        id="on a merged full",
    ),
    # Partly idle.
    pytest.param(two(incr(120, sparse=both(3, 4))), 120, "no", id="both shards have rows"),
    pytest.param(two(incr(120, sparse=both(3, None))), 120, "part", id="sets of a shard missing"),
    pytest.param(two(incr(120, sparse=both(3, 0))), 120, "no", id="0 rows without evidence"),
    pytest.param(two(incr(120, sparse=both(0, 0))), 120, "all", id="0 rows in both"),
    pytest.param(two(incr(120, sparse=both(0, None))), 120, "all", id="0 rows and missing"),
    pytest.param(
        two(incr(120, sparse=both(3, 4)), incr(140, sparse=both(5, 0))),
        140,
        "part",
        id="0 rows where the preceding one had some",
    ),
    pytest.param(
        two(
            incr(120, sparse=both(3, 4)), incr(140, sparse=both(5, 0)), incr(160, sparse=both(6, 0))
        ),
        160,
        "part",
        id="0 rows where an earlier one had some",
    ),
    pytest.param(
        two(incr(120, sparse=both(3, 0)), incr(140, sparse=both(5, 4))),
        120,
        "no",
        id="a later one with rows is no evidence",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=TWO_SHARDS),
            incr(120, sparse=both(3, 4)),
            full(130, sparse=TWO_SHARDS),
            incr(140, sparse=both(5, 0)),
        ),
        140,
        "no",
        id="one of another chain is no evidence",
    ),
    pytest.param(
        two(
            incr(120, sparse=both(3, 4), at=130),
            incr(110, sparse=both(3, 0), at=140),
            incr(150, sparse=both(5, 0)),
        ),
        150,
        "part",
        id="one that is live is, listed by step",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=TWO_SHARDS),
            incr(120, sparse=both(3, 4)),
            incr(110, sparse=both(3, 0), at=140),
            incr(150, sparse=both(5, 0)),
            increments=[120, 110, 150],
        ),
        150,
        "no",
        id="an abandoned one is no evidence",
    ),
    pytest.param(
        two(incr(120, sparse=both(3, 4), missing=True), incr(140, sparse=both(5, 0))),
        140,
        "no",
        id="an incomplete one is no evidence",
    ),
    pytest.param(
        two(
            incr(120, sparse=both(3, 4), base=100, delta=True),
            incr(140, sparse=both(5, 0), base=100, previous=120, delta=True),
        ),
        140,
        "no",
        id="delta mode: a set may be empty where the one before had rows",
    ),
    pytest.param(
        two(incr(120, sparse=both(3, 4)), incr(140, sparse=both(5, 0), base=100)),
        140,
        "part",
        id="cumulative by lineage: it may not be empty",
    ),
    pytest.param(
        two(
            incr(120, sparse=both(3, 4), base=100, delta=True),
            incr(140, sparse=both(5, None), base=100, previous=120, delta=True),
        ),
        140,
        "part",
        id="delta mode: it may not be missing",
    ),
    pytest.param(
        chains_of(full(100, sparse=TWO_SHARDS, dense={"bias": (2,)}), incr(120, sparse=both(3, 4))),
        120,
        "no",
        id="a shard without sparse tensors never counts",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(a=(5, 0), b=(5, 1), c=(5, 1))),
            incr(120, sparse=rows(a=(1, 0), b=(0, 1))),
        ),
        120,
        "part",
        id="one of a shard's sets is missing, the other has 0 rows",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(a=(5, 0), b=(5, 1), c=(5, 1))),
            incr(120, sparse=rows(a=(1, 0), b=(1, 1))),
        ),
        120,
        "no",
        id="one of a shard's sets is missing, the other has rows",
    ),
    # Parts that changed in number.
    pytest.param(
        two(incr(120, sparse=rows(emb__part_0=(3, 0), emb__part_1=(3, 1), emb__part_2=(2, 2)))),
        120,
        "no",
        id="more parts than the full has",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb__part_0=4, emb__part_1=4)),
            incr(120, sparse=rows(emb__part_0=0, emb__part_1=0, emb__part_2=1, emb__part_3=1)),
        ),
        120,
        "no",
        id="more parts than the full has, and rows in these alone",
    ),
    pytest.param(
        two(incr(120, sparse=rows(emb__part_0=(3, 0), emb__part_1=(0, 1), emb__part_2=(0, 0)))),
        120,
        "no",
        id="more parts than the full has, and rows in one alone",
    ),
    pytest.param(
        two(incr(120, sparse=rows(emb__part_0=(0, 0), emb__part_1=(0, 1), emb__part_2=(0, 0)))),
        120,
        "all",
        id="more parts than the full has, and no rows",
    ),
    pytest.param(
        two(
            incr(110, sparse=rows(emb__part_0=(0, 0), emb__part_1=(0, 1), emb__part_2=(2, 0))),
            incr(120, sparse=both(3, 0)),
        ),
        120,
        "part",
        id="0 rows where an earlier one of more parts had some",
    ),
    pytest.param(
        two(incr(120, sparse=rows(emb=(3, 0)))), 120, "no", id="no parts where the full has two"
    ),
    pytest.param(two(incr(120, sparse=rows(emb=(0, 0)))), 120, "all", id="no parts and no rows"),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(3, 0), other=(3, 1))),
            incr(120, sparse=rows(emb__part_0=(3, 0), emb__part_1=(3, 1), other=(2, 1))),
        ),
        120,
        "no",
        id="two parts where the full has none",
    ),
    # Rows of normal variables.
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"wide": (0, 1)}),
            incr(110, sparse=rows(emb=(1, 0)) | {"wide/part_2": normal(3, 1)}),
            incr(120, sparse=rows(emb=(2, 0))),
        ),
        120,
        "no",
        id="a part beyond the slices of the full says nothing of a shard",
    ),
    pytest.param(
        chains_of(
            full(100, sparse={}, dense={"wide": (0, 1)}),
            incr(120, sparse={"wide/part_0": normal(0), "wide/part_1": normal(0, 1)}),
        ),
        120,
        "all",
        id="normal variables saved by rows, none there",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"wide/Adagrad": (0, 1)}),
            incr(120, sparse=rows(emb=(0, 0)) | {"wide/part_1/Adagrad": normal(3, 1)}),
        ),
        120,
        "no",
        id="a slot of a normal variable has rows on another shard",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"wide": (0, 1)}),
            incr(110, sparse=rows(emb=(1, 0)) | {"wide/part_1": normal(3, 1)}),
            incr(120, sparse=rows(emb=(2, 0))),
        ),
        120,
        "part",
        id="rows of a normal variable that an earlier increment had are missing",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"tab": (1,)}),
            incr(110, sparse=rows(emb=(1, 0)) | {"tab": normal(3, 1)}),
            incr(120, sparse=rows(emb=(2, 0)) | {"tab": normal(0, 1)}),
        ),
        120,
        "part",
        id="an unpartitioned one has 0 rows where it had some",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={}),
            incr(110, sparse=rows(emb=(1, 0)) | {"tab": normal(3, 1)}),
            incr(120, sparse=rows(emb=(2, 0))),
        ),
        120,
        "no",
        id="a normal variable that the full lacks says nothing of a shard",
    ),
    pytest.param(
        chains_of(
            full(100, sparse={}, dense={"tab": (0,), "wide/Adam": (0, 1)}),
            incr(110, sparse={"tab": normal(3), "wide/part_1/Adam": normal(3, 1)}),
            incr(120, sparse={}, dense={"tab": (0,), "wide/Adam": (0, 1)}),
        ),
        120,
        "no",
        id="whole, where an earlier one had rows",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"tab": (1,), "wide": (1, 2)}),
            incr(110, sparse=rows(emb=1) | {"tab": normal(3, 1), "wide/part_1": normal(3, 2)}),
            incr(120, sparse=rows(emb=1), dense={"tab": (1,)}),
        ),
        120,
        "part",
        id="one is there whole, another is missing",
    ),
    pytest.param(
        chains_of(
            full(100, sparse=rows(emb=(4, 0)), dense={"tab": (1,)}),
            incr(110, sparse=rows(emb=1) | {"tab": normal(3, 1)}),
            incr(120, sparse=rows(emb=0), dense={"tab": (1,)}),
        ),
        120,
        "all",
        id="what is whole says nothing of the tables",
    ),
]


@pytest.mark.parametrize(("chains", "step", "expected"), CASES)
def test_idle(chains, step, expected):
    increment = only(chains, step)
    idle = chains.idle_of(increment)
    assert idle.kind == expected
    assert bool(idle) is (expected != "no")
    assert (chains.status(increment) == "idle") is bool(idle)
    assert (step in chains.restore_points) is not bool(idle)
    assert bool(idle.reason) is bool(idle)


def test_zero_rows_without_evidence_is_a_warning():
    chains = two(incr(120, sparse=both(3, 0)))
    found = [item for item in chains.chains[0].problems if item.code == "zero-rows"]
    assert len(found) == 1
    assert "emb/part_1" in found[0].message
    assert "shard 1" in found[0].message


def test_the_reason_names_the_tables_but_not_all_of_them():
    tables = {f"t{i}": (5, 1) for i in range(7)}
    chains = chains_of(
        full(100, sparse=rows(emb=(4, 0), **tables)), incr(120, sparse=rows(emb=(1, 0)))
    )
    reason = chains.idle_of(only(chains, 120)).reason
    assert "t0, t1, t2 and 4 more" in reason
    tables = {f"t{i}": (5, 1) for i in range(3)}
    chains = chains_of(
        full(100, sparse=rows(emb=(4, 0), **tables)), incr(120, sparse=rows(emb=(1, 0)))
    )
    assert "t0, t1, t2 is missing" in chains.idle_of(only(chains, 120)).reason


def test_global_step_is_read_only_where_a_shard_is_silent():
    chains = two(incr(120, sparse=both(3, 4)), incr(140, sparse=both(3, 0)))
    chains.idle_of(only(chains, 120))
    assert "global_step" not in only(chains, 120).source.asked
    chains.idle_of(only(chains, 140))
    assert "global_step" in only(chains, 140).source.asked


def test_without_a_base_nothing_is_idle():
    chains = chains_of(full(200), incr(120, sparse={}))
    assert not chains.idle_of(only(chains, 120))


def test_idle_against_a_given_base():
    chains = chains_of(full(100), full(150, missing=True), incr(180, sparse={}))
    increment = only(chains, 180)
    assert not chains.idle_of(increment)
    assert chains.idle_of(increment, chains.full_at(100)).kind == "all"
    assert not chains.idle_of(increment)


def test_an_incomplete_increment_is_not_said_to_be_idle():
    chains = chains_of(full(100), incr(120, sparse={}, short=True))
    assert not chains.idle_of(only(chains, 120))
    assert chains.status(only(chains, 120)) == "incomplete"


def test_a_full_is_never_idle():
    chains = chains_of(full(100, sparse=rows(emb=0)))
    assert not chains.idle_of(chains.full_at(100))


def test_what_came_before_is_looked_at_once_however_many_follow() -> None:
    looks = 0

    class Sets(dict):
        def items(self):
            nonlocal looks
            looks += 1
            return super().items()

    steps = range(101, 201)
    increments = [incr(step, sparse=Sets(rows(emb=step % 2))) for step in steps]
    chains = chains_of(full(100, sparse=rows(emb=3)), *increments)
    wanted = ["no" if step % 2 else "all" for step in steps]
    assert [chains.idle_of(each).kind for each in reversed(increments)] == wanted[::-1]
    assert looks <= 3 * len(steps)
