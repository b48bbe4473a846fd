"""What a plan says of memory, against what a survey then looks at and keeps."""

from __future__ import annotations

import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptctl import knobs
from ckptctl.bundle import BundleReader, BundleWriter
from ckptctl.merge import estimate
from ckptctl.restore import State, open_state, survey_part
from ckptctl.restore.incoming import IncomingKeys, IncomingReader
from ckptctl.restore.rows_brought import FileRows
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table
from tests.oracle.images import Ev, Row
from tests.restore.test_join import MEMORY

MANY = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
SLOTS = ("Adam", "Adam_1")
KEYS = [*range(12), 1000, 1001, 1002, 2001, 3001, 4001]


def opened(chain: Chain) -> State:
    return open_state(str(chain.full_prefix(10)), [str(chain.increment_prefix(20))])


def looked_at(state: State) -> tuple[int, int]:
    """Return the most keys that a survey looks at together, and those that it keeps of."""
    together, kept = [0], 0
    real = IncomingReader.read
    groups: dict[tuple[int, int], int] = {}

    def read(self: IncomingReader, first: int, last: int) -> IncomingKeys:
        found = real(self, first, last)
        groups[first, last] = groups.get((first, last), 0) + len(found.keys)
        return found

    with patch.object(IncomingReader, "read", read):
        for number, plan in enumerate(state.tables):
            for part in range(plan.num_parts):
                groups.clear()
                survey = survey_part(state.part_job(number, part))
                own = {id(each.arrivals): len(each.arrivals.row_of) for each in survey.kept}
                together += groups.values()
                kept += sum(own.values())
    return max(together), kept


def behind(evs: list[Ev], keys: list[int]) -> list[Ev]:
    """Return EVs with the rows of some keys behind the last bucket."""
    return [
        replace(ev, rows=[Row(None if row.key in keys else row.place, *row[1:]) for row in ev.rows])
        for ev in evs
    ]


@MANY
@given(
    old=st.lists(st.sampled_from(KEYS), unique=True, min_size=1),
    new=st.lists(st.sampled_from(KEYS), unique=True, min_size=1),
    lacking=st.sampled_from([{}, {"Adam": [1, 1001]}, {"Adam": [1], "Adam_1": [2]}]),
    lost=st.sampled_from([{}, {"Adam_1": [1]}, {"Adam": [3], "Adam_1": [1, 1001]}]),
    tail=st.lists(st.sampled_from(KEYS), max_size=2),
    parts=st.sampled_from([None, 2, 3]),
    theirs=st.sampled_from([None, 2]),
    form=st.booleans(),
    step=st.sampled_from([1, 2, 1 << 16]),
)
def test_a_plan_has_no_less_keys_than_the_survey(
    old: list[int],
    new: list[int],
    lacking: dict[str, list[int]],
    lost: dict[str, list[int]],
    tail: list[int],
    parts: int | None,
    theirs: int | None,
    form: bool,
    step: int,
) -> None:
    """Whatever the members lack, the parts are and the buckets."""
    with (
        tempfile.TemporaryDirectory(dir=MEMORY) as room,
        patch.object(knobs, "JOIN_KEYS", step),
    ):
        evs = table("emb", old, slots=SLOTS, lacking=lacking, parts=parts, old=form)
        chain = build_chain(
            Path(room),
            full(10, evs if form else [ev.ordered() for ev in behind(evs, tail)]),
            increment(20, changes("emb", new, slots=SLOTS, lacking=lost, parts=theirs)),
        )
        state = opened(chain)
        together, kept = looked_at(state)
        assert estimate._most_looked(state) >= together * estimate._KEY_MEMORY
        assert estimate._all_keys(state) >= kept
        state.close()


def lopsided(tmp_path: Path, **more: object) -> State:
    """Return 40 incoming keys, 20 of them in bucket 7."""
    keys = [*(7 + 1000 * at for at in range(20)), *range(100, 120)]
    chain = build_chain(
        tmp_path,
        full(10, table("emb", [7, 100, 101], slots=SLOTS, **more)),
        increment(20, changes("emb", keys, slots=SLOTS)),
    )
    return opened(chain)


@pytest.mark.parametrize(
    ("lacking", "held"),
    [({}, 40), ({"Adam": [7]}, 80), ({"Adam": [7], "Adam_1": [100]}, 120)],
)
def test_members_with_other_keys_hold_their_own(
    tmp_path: Path, lacking: dict[str, list[int]], held: int
) -> None:
    state = lopsided(tmp_path, lacking=lacking)
    assert estimate._all_keys(state) == held == looked_at(state)[1]
    state.close()


@pytest.mark.parametrize(
    ("step", "more", "together"),
    [
        (20, {}, 40),  # twice as many are a group
        (16, {}, 32),
        (1, {}, 20),  # a bucket is never split
        (1, {"old": True}, 40),
        (1, {"lacking": {"Adam": [7]}}, 40),  # two members' keys of that bucket
    ],
)
def test_a_bucket_is_looked_at_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
    more: dict[str, object],
    together: int,
) -> None:
    monkeypatch.setattr(knobs, "JOIN_KEYS", step)
    state = lopsided(tmp_path, **more)
    assert looked_at(state)[0] == together
    assert estimate._most_looked(state) == together * estimate._KEY_MEMORY
    state.close()


@pytest.mark.parametrize("member", range(3))
def test_one_row_behind_the_last_bucket_makes_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: int
) -> None:
    monkeypatch.setattr(knobs, "JOIN_KEYS", 1)
    evs = table("emb", [7, 100, 101], slots=SLOTS)
    evs[member : member + 1] = [ev.ordered() for ev in behind(evs[member : member + 1], [100])]
    keys = [*(7 + 1000 * at for at in range(20)), *range(100, 120)]
    chain = build_chain(tmp_path, full(10, evs), increment(20, changes("emb", keys, slots=SLOTS)))
    state = opened(chain)
    most = looked_at(state)[0]
    assert most == 80  # of that member, and of the two others
    assert estimate._most_looked(state) >= most * estimate._KEY_MEMORY
    state.close()


@pytest.mark.parametrize("parts", [1, 2])
def test_keys_that_may_be_admitted_are_held(tmp_path: Path, parts: int) -> None:
    """All that are incoming to a part of a full with filtered keys, until it was looked at."""
    states = []
    for filtered in ([], [5]):
        room = tmp_path / f"{len(filtered)}"
        room.mkdir()
        chain = build_chain(
            room,
            full(10, table("emb", [7, 100], filtered=filtered, parts=parts)),
            increment(20, changes("emb", range(40), parts=parts)),
        )
        states.append(opened(chain))
    without, beside = (estimate._most_looked(state) for state in states)
    for state in states:
        state.close()
    assert beside - without >= 40 // parts * 3 * 8


@pytest.mark.parametrize("width", [4, 24, 32, 64, 2000])
@pytest.mark.parametrize("sources", [1, 2])
def test_rows_that_are_gathered_take_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, sources: int
) -> None:
    """They lie as far apart as makes most of them: a quarter of all."""
    monkeypatch.setattr(knobs, "PIECE_BYTES", 1 << 16)
    monkeypatch.setattr(knobs, "JOIN_KEYS", 1 << 13)
    count = min(8 * knobs.PIECE_BYTES // width, 2 * knobs.JOIN_KEYS)
    with BundleWriter(str(tmp_path / "b")) as writer:
        writer.add("rows", np.zeros((4 * count, width), np.uint8))
    row_of = np.random.default_rng(1).permutation(4 * count)[:count].astype(np.uint32)
    with BundleReader(str(tmp_path / "b")) as reader:
        tensors = [(reader, "rows", reader.entry("rows"))] * sources
        tensor_of = np.zeros(count, np.uint8) if sources > 1 else None
        rows = FileRows(tensors, tensor_of, row_of, width)
        tracemalloc.start()
        try:
            assert len(rows.gather(0, count)) == count
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak <= estimate._GATHERED * knobs.PIECE_BYTES
    assert sources == 1 or width != 32 or peak > 19 * knobs.PIECE_BYTES, "it may be less"
