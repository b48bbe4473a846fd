"""A step, a key, or how many fulls a rule keeps: whole numbers, NumPy's too, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ckptctl
from ckptctl.errors import UsageError
from ckptctl.merge.policy import KeepDaily, KeepEvery, KeepLast, KeepStep
from tests.rooms import cache, tmp_path

__all__ = ["cache", "tmp_path"]

WHOLE = [np.int64(180), np.uint16(180), np.array(180)]
NONE = [180.0, np.float32(180), "0x", None, np.array([180, 181]), np.bool_(True)]


@pytest.fixture
def chain(golden: Path, tmp_path: Path) -> str:
    directory = tmp_path / "ckpt"
    shutil.copytree(golden / "deeprec" / "sharded", directory)
    return str(directory)


def rows(chain: str, keys: object) -> object:
    with ckptctl.open_view(ckptctl.find_target("180", chain)) as view:
        return ckptctl.look_up(view, "emb", keys).document()["rows"]


def histories(chain: str, keys: object, upto: object = None) -> object:
    return ckptctl.history(chain, "emb", keys, upto=upto).document()


#: What is asked with a number, as a document.
DOORS: dict[str, Callable[[str, object], object]] = {
    "find_target": lambda chain, step: ckptctl.find_target(step, chain).document(),
    "plan_merge": lambda chain, step: ckptctl.plan_merge(chain, step).to_json(),
    "base": lambda _, step: ckptctl.RestoreOptions(base=step).overrides(),
    "verify": lambda chain, step: sorted(
        each.prefix for each in ckptctl.plan_verify(chain, step=step).checkpoints
    ),
    "look_up": lambda chain, key: rows(chain, [key]),
    "history": lambda chain, key: histories(chain, [key]),
    "history upto": lambda chain, step: histories(chain, [17], step),
    **{
        kind.name: lambda _, number, kind=kind: ckptctl.Policy((kind(number),)).to_json()
        for kind in (KeepLast, KeepEvery, KeepDaily, KeepStep)
    },
}
#: None is the newest step, and all of them.
WITHOUT = {"plan_merge", "base", "verify", "history upto"}


@pytest.mark.parametrize("number", WHOLE, ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_a_whole_number_is_one_whoever_made_it(chain: str, door: str, number: object) -> None:
    assert json.dumps(DOORS[door](chain, number)) == json.dumps(DOORS[door](chain, 180))


@pytest.mark.parametrize("number", NONE, ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_nothing_else_is_taken_for_one(chain: str, door: str, number: object) -> None:
    if (number is None and door in WITHOUT) or (isinstance(number, str) and door == "find_target"):
        return
    with pytest.raises(UsageError, match="a whole number, not "):
        DOORS[door](chain, number)


def test_a_merge_to_a_step_of_numpy(chain: str) -> None:
    step = ckptctl.BundleReader(f"{chain}/.incremental_checkpoint/incremental_model.ckpt-180").read(
        "global_step"
    )
    done = ckptctl.execute_merge(ckptctl.plan_merge(chain, step))
    assert done.prefix == f"{chain}/model.ckpt-180"
    assert ckptctl.find_chains(ckptctl.scan_directory(chain)).restore_points[-1] == 180


def test_keys_of_an_array(chain: str) -> None:
    for kind in (np.int32, np.uint64, object):
        assert rows(chain, np.array([17, 135], kind)) == rows(chain, [17, 135])
        assert histories(chain, np.array([17, 135], kind)) == histories(chain, [17, 135])
    with pytest.raises(UsageError, match=r"key: a whole number, not .*17\.0"):
        rows(chain, np.array([17, 17.9]))
