"""A trainer deletes or saves anew what is being read, at every moment: never a half answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptctl.errors import ChangedError, CkptctlError, NotFoundError
from ckptctl.inspect.diff import diff
from ckptctl.inspect.export import execute_export, plan_export
from ckptctl.inspect.history import history
from ckptctl.inspect.lookup import look_up
from ckptctl.inspect.show import show
from ckptctl.inspect.target import find_target
from ckptctl.inspect.verify import execute_verify, plan_verify
from ckptctl.inspect.view import View, open_view
from ckptctl.merge import execute_merge, execute_prune, plan_merge, plan_prune
from ckptctl.merge.prune_plan import PruneOptions
from ckptctl.restore import RestoreOptions
from ckptctl.running import Runner
from ckptctl.storage import FileInfo
from ckptctl.storage.local import LocalFile, LocalStorage
from tests.merge.model import small_chain
from tests.merge.prunes import age, chain_of
from tests.oracle.chain import Chain, changes, full, increment, table
from tests.oracle.images import Rows, write_image


class Reading(LocalStorage):
    """Lets something happen ahead of the nth call that reads."""

    def __init__(self, at: int, do: Callable[[], None]) -> None:
        self.at, self.do, self.calls = at, do, 0

    def tick(self) -> None:
        self.calls += 1
        if self.calls == self.at:
            self.do()

    def listdir(self, directory: str) -> list[FileInfo]:
        self.tick()
        return super().listdir(directory)

    def stat(self, path: str, *, follow: bool = True) -> FileInfo | None:
        self.tick()
        return super().stat(path, follow=follow)

    def open(self, path: str) -> LocalFile:
        self.tick()
        file = super().open(path)
        storage = self

        class Read(LocalFile):
            def pread(self, offset: int, length: int) -> bytes:
                storage.tick()
                return super().pread(offset, length)

            def readv(self, offset: int, buffers: Sequence[memoryview]) -> int:
                storage.tick()
                return super().readv(offset, buffers)

        file.__class__ = Read
        return file


# --- what reads -----------------------------------------------------------------------


def view(chain: Chain, storage: Reading, target: object = 50) -> View:
    options = RestoreOptions()
    found = find_target(str(target), str(chain.directory), options, storage)
    return open_view(found, options, Runner(1), storage)


def shown(chain: Chain, storage: Reading) -> object:
    with view(chain, storage) as seen:
        return show(seen, tensors=True, stats=True).document()


def shown_alone(chain: Chain, storage: Reading) -> object:
    with view(chain, storage, chain.increment_prefix(50)) as seen:
        return show(seen, tensors=True, stats=True).document()


def got(chain: Chain, storage: Reading) -> object:
    with view(chain, storage) as seen:
        found = look_up(seen, "emb", [1, 3, 2, 5, 77])
    return [(item.key, item.state, str(item)) for item in found.rows]


def compared(chain: Chain, storage: Reading) -> object:
    with view(chain, storage, 10) as a, view(chain, storage) as b:
        return diff(a, b).document()


def exported(chain: Chain, storage: Reading) -> object:
    output = chain.directory.parent / "out.npz"
    output.unlink(missing_ok=True)
    with view(chain, storage) as seen:
        execute_export(plan_export(seen, str(output), storage=storage), Runner(1), storage)
    return output.read_bytes()


def told(chain: Chain, storage: Reading) -> object:
    found = history(str(chain.directory), "emb", [1, 3], None, Runner(1), storage=storage)
    if found.failed:
        raise ChangedError(str(found.failed))
    return found.document()["history"]


READERS = [shown, shown_alone, got, compared, exported, told]


# --- what a trainer does --------------------------------------------------------------


def deleted(chain: Chain, *prefixes: Path) -> None:
    """Delete checkpoints as `remove_checkpoint` does: the index first."""
    for prefix in prefixes:
        for path in sorted(prefix.parent.glob(f"{prefix.name}.*"), reverse=True):
            path.unlink()


def both(chain: Chain) -> None:
    deleted(chain, chain.full_prefix(40), chain.increment_prefix(50))


def newest(chain: Chain) -> None:
    deleted(chain, chain.increment_prefix(50))


def saved_again(chain: Chain) -> None:
    """A run that was rolled back comes to the same steps with other values."""
    both(chain)
    dense = {name: chain.fulls[40].plain[name] for name in ("w", "s")}
    rows = {"rows": chain.fulls[40].plain["rows"]}
    ev = table("emb", dict.fromkeys((1, 2, 5, 1001), -1.0), parts=2, shards=2, freqs=3)
    write_image(full(40, ev, dense, rows, shards=2), chain.full_prefix(40))
    change = changes("emb", {1: -2.0, 3: -2.0}, parts=2, shards=2, freqs=4)
    image = increment(50, change, dense, Rows("rows", "float32", 2, {1: b"hgfedcba"}), shards=2)
    write_image(image, chain.increment_prefix(50))


TRAINERS = [newest, both, saved_again]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return age(small_chain(tmp_path))


#: Moments of a run that the short form looks at; they are spread over all of it.
FEW = 12
Ended = list[tuple[Any, CkptctlError | None]]


def at_moments(
    chain: Chain,
    work: Callable[[Chain, Reading], Any],
    trainer: Callable[[Chain], None],
    moments: int,
) -> Ended:
    """Let a trainer do something ahead of a read, of as many as told; return how each run ended."""
    keep = chain.directory.with_name("keep")
    shutil.copytree(chain.directory, keep)

    def run(at: int) -> tuple[int, tuple[Any, CkptctlError | None]]:
        storage = Reading(at, lambda: trainer(chain))
        try:
            return storage.calls, (work(chain, storage), None)
        except CkptctlError as error:
            return storage.calls, (None, error)
        finally:
            shutil.rmtree(chain.directory)
            shutil.copytree(keep, chain.directory)
            count[0] = storage.calls

    count = [0]
    whole = run(0)[1]
    stride = max(1, count[0] // moments)
    return [*(run(at)[1] for at in range(1, count[0] + 1, stride)), whole]


def check_answers(
    chain: Chain, work: Callable[..., Any], trainer: Callable[[Chain], None], moments: int
) -> None:
    """Fail unless each answer is that of before or of after, or a clear error."""
    keep = chain.directory.with_name("before")
    shutil.copytree(chain.directory, keep)
    after = []
    trainer(chain)
    with suppress(CkptctlError):
        after.append(work(chain, Reading(0, int)))
    shutil.rmtree(chain.directory)
    shutil.move(keep, chain.directory)
    *ended, whole = at_moments(chain, work, trainer, moments)
    assert whole[1] is None
    for answer, error in ended:
        if error is None:
            assert answer in [whole[0], *after]
        else:
            assert isinstance(error, (ChangedError, NotFoundError)), repr(error)
    assert any(isinstance(error, ChangedError) for _, error in ended)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("work", READERS)
def test_an_answer_is_whole_or_a_clear_error(
    chain: Chain, work: Callable[..., Any], trainer: Callable[[Chain], None]
) -> None:
    check_answers(chain, work, trainer, FEW)


@pytest.mark.torture
@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("work", READERS)
def test_an_answer_is_whole_or_a_clear_error_at_every_read(
    chain: Chain, work: Callable[..., Any], trainer: Callable[[Chain], None]
) -> None:
    check_answers(chain, work, trainer, 1 << 30)


# --- verify, merge and prune ----------------------------------------------------------


def verified(chain: Chain, storage: Reading) -> list[str]:
    found = execute_verify(plan_verify(str(chain.directory), data=True, storage=storage), jobs=1)
    return [finding.code for finding in found.findings if finding.severity == "damage"]


def merged(chain: Chain, storage: Reading) -> object:
    plan = plan_merge(str(chain.directory), remember=False, storage=storage)
    result = execute_merge(plan, jobs=1)
    return result.step, result.keys


def pruned(chain: Chain, storage: Reading) -> object:
    options = PruneOptions(min_age_s=0.0)
    plan = plan_prune(str(chain.directory), options, remember=False, storage=storage)
    result = execute_prune(plan, jobs=1)
    assert not result.damage
    return None


@pytest.mark.parametrize("moments", [2 * FEW, pytest.param(1 << 30, marks=pytest.mark.torture)])
@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("work", [verified, merged, pruned])
def test_what_vanishes_is_never_called_damage(
    chain: Chain, work: Callable[..., Any], trainer: Callable[[Chain], None], moments: int
) -> None:
    for answer, error in at_moments(chain, work, trainer, moments):
        assert not (work is verified and answer), answer
        assert error is None or isinstance(error, (ChangedError, NotFoundError)), repr(error)


def test_increments_that_vanish_while_they_are_compared_are_not_damaged(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "F10", "I20", "I30")

    def planned(chain: Chain, storage: Reading) -> tuple[str, ...]:
        return plan_prune(str(chain.directory), remember=False, storage=storage).damage

    def rotated(chain: Chain) -> None:
        deleted(chain, chain.increment_prefix(20))

    assert {answer for answer, _ in at_moments(chain, planned, rotated, 1 << 30)} == {()}
