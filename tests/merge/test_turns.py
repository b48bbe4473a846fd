"""Threads write to shards of their own: the kernel lets one at a time write to a file."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from ckptctl import knobs
from ckptctl.merge import execute_merge
from ckptctl.merge.tasks import RangeTask
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table

_SHARDS = 3


class _Noting(Executor):
    """Does what it is given at once, and notes to which shard it writes."""

    def __init__(self) -> None:
        self.shards: list[int] = []

    def submit(self, function: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
        task = given[0]
        if isinstance(task, RangeTask):
            self.shards.append(task.place.shard)
        done: Future[Any] = Future()
        done.set_result(function(*given, **named))
        return done


def sharded(tmp_path: Path) -> Chain:
    rows = range(3000)
    return build_chain(
        tmp_path,
        full(10, table("emb", rows, parts=_SHARDS, shards=_SHARDS), shards=_SHARDS),
        increment(20, changes("emb", range(2900, 3100), parts=_SHARDS)),
    )


@pytest.mark.parametrize("jobs", [1, 2, 8])
def test_as_many_shards_take_turns_as_there_are_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    chain = sharded(tmp_path)
    monkeypatch.setattr(knobs, "TASK_BYTES", 512)
    noting = _Noting()
    execute_merge(chain.plan(20), jobs=jobs, executor=noting)
    chain.check(10, 20)
    assert set(noting.shards) == set(range(_SHARDS))
    runs = [len(list(run)) for _, run in groupby(noting.shards)]
    if jobs == 1:
        assert len(runs) == _SHARDS
        return
    # Shards are as good as equal: what is left of the last one is written without turns.
    assert set(runs[:-2]) == {1}
    assert len(runs) > len(noting.shards) * (0.6 if jobs == 2 else 0.9)
    started = [noting.shards.index(shard) for shard in range(_SHARDS)]
    assert (max(started) < jobs) == (jobs >= _SHARDS)
