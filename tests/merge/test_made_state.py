"""A state file is made where `--update-state` asks for it, and hides nothing."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from ckptctl.bundle import read_state
from ckptctl.errors import RefusedError
from ckptctl.merge import execute_merge, plan_merge
from tests.merge.model import small_chain
from tests.merge.storages import Hooked, in_a_thread
from tests.oracle.chain import Chain, full, table, write_state
from tests.oracle.images import write_image


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return small_chain(tmp_path)


@pytest.fixture
def ship(tmp_path: Path) -> Path:
    """Where a model is shipped to: an empty directory."""
    (tmp_path / "ship").mkdir()
    return tmp_path / "ship"


def listed(directory: Path) -> list[str] | None:
    """The paths of a state file as written, what it names last; None without one."""
    found = read_state(str(directory / "checkpoint"))
    return None if found is None else [*found.all_paths, found.latest]


def write_full(directory: Path, name: str, step: int) -> None:
    write_image(full(step, table("emb", [1])), directory / name)


def test_it_names_the_result_alone(chain: Chain, ship: Path, tf: ModuleType) -> None:
    plan = chain.plan(50, ship / "model.ckpt-50", update_state=True)
    assert (plan.makes_state, plan.warnings) == (True, ())
    assert not (ship / "checkpoint").exists()
    result = execute_merge(plan)
    assert (result.state_file_updated, result.warnings) == (True, ())
    assert listed(ship) == ["model.ckpt-50", "model.ckpt-50"]
    assert (ship / "checkpoint").stat().st_mode == Path(f"{result.prefix}.index").stat().st_mode
    assert tf.train.latest_checkpoint(str(ship)) == result.prefix
    (last,) = tf.train.get_checkpoint_state(str(ship)).all_model_checkpoint_timestamps
    assert last == pytest.approx(plan.saved_s)
    assert not [path for path in ship.iterdir() if ".tmp" in path.name]


def test_the_next_one_is_entered_beside_it(chain: Chain, ship: Path) -> None:
    for step in (30, 50):
        plan = chain.plan(step, ship / f"model.ckpt-{step}", update_state=True)
        assert plan.makes_state == (step == 30)
        execute_merge(plan)
    assert listed(ship) == ["model.ckpt-30", "model.ckpt-50", "model.ckpt-50"]


def test_none_is_made_unasked(chain: Chain, ship: Path) -> None:
    plan = chain.plan(50, ship / "model.ckpt-50")
    assert not plan.makes_state
    execute_merge(plan)
    assert (listed(ship), plan_merge(str(ship)).unfinished) == (None, ())


@pytest.mark.parametrize("other", ["model.ckpt-1", "best.ckpt-1", "best.ckpt"])
def test_none_is_made_that_would_hide_another_full(chain: Chain, ship: Path, other: str) -> None:
    write_full(ship, other, 1)
    plan = chain.plan(50, ship / "model.ckpt-50", update_state=True)
    assert not plan.makes_state
    (told,) = plan.warnings
    assert f"would hide {other} (" in told
    assert 'model_checkpoint_path: "model.ckpt-50"' in told
    result = execute_merge(plan)
    assert (result.state_file_updated, result.warnings) == (False, plan.warnings)
    assert listed(ship) is None


def test_in_place_the_base_would_be_hidden(chain: Chain) -> None:
    (chain.directory / "checkpoint").unlink()
    result = chain.merge(update_state=True)
    assert "would hide model.ckpt-10, model.ckpt-40 (" in result.warnings[-1]
    assert listed(chain.directory) is None
    (told,) = plan_merge(str(chain.directory), update_state=True).warnings
    assert "model.ckpt-50 is not listed" in told


@pytest.mark.parametrize("moment", ["write_atomic", "rename_new"])
def test_killed_before_it_is_there_another_run_makes_it(
    chain: Chain, ship: Path, moment: str
) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    storage = Hooked(f"{moment} {ship}/checkpoint", before=die)
    with pytest.raises(Killed):
        chain.merge(50, ship / "model.ckpt-50", update_state=True, storage=storage)
    assert listed(ship) is None
    assert not plan_merge(str(ship)).unfinished
    plan = plan_merge(str(ship), update_state=True)
    assert plan.unfinished == ("model.ckpt-50 is entered into a new state file",)
    assert execute_merge(plan).state_file_updated
    assert listed(ship) == ["model.ckpt-50", "model.ckpt-50"]
    assert not plan_merge(str(ship), update_state=True).unfinished


@pytest.mark.parametrize("moment", ["write_atomic", "rename_new"])
def test_one_that_a_trainer_makes_meanwhile_stays(chain: Chain, ship: Path, moment: str) -> None:
    def save() -> None:
        write_full(ship, "model.ckpt-60", 60)
        write_state(ship, ["model.ckpt-60"])

    storage = Hooked(f"{moment} {ship}/checkpoint", before=in_a_thread(save))
    result = chain.merge(50, ship / "model.ckpt-50", update_state=True, storage=storage)
    assert storage.called == 1
    assert result.state_file_updated
    assert listed(ship) == ["model.ckpt-50", "model.ckpt-60", "model.ckpt-60"]


def test_a_full_that_comes_meanwhile_is_not_hidden(chain: Chain, ship: Path) -> None:
    save = in_a_thread(lambda: write_full(ship, "model.ckpt-60", 60))
    storage = Hooked("rename_new", before=save)
    result = chain.merge(50, ship / "model.ckpt-50", update_state=True, storage=storage)
    assert "would hide model.ckpt-60 (" in result.warnings[-1]
    assert (result.state_file_updated, listed(ship)) == (False, None)


def test_a_state_file_of_another_model_is_no_place_for_it(chain: Chain, ship: Path) -> None:
    """Told before it is written: behind it, it would seem to be gone."""
    write_full(ship, "best.ckpt-10", 10)
    write_state(ship, ["best.ckpt-10"])
    with pytest.raises(RefusedError, match="fulls of another name") as caught:
        plan_merge(str(chain.directory), 50, str(ship / "model.ckpt-50"), update_state=True)
    assert caught.value.found == "best.ckpt-10"
    plan_merge(str(chain.directory), 50, str(ship / "model.ckpt-50"))
