"""What may not be read or written: told by name and with 12, and nothing is half done.

Root may do everything, so all of it runs as somebody else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.merge.model import small_chain
from tests.merge.prunes import THEN, age, here, listed, points
from tests.oracle.chain import INCREMENTS, Chain, listing
from tests.torture.scenes import Said, as_nobody, ckptctl, mounted


@pytest.fixture(scope="module", autouse=True)
def imported(module_path: Path) -> None:
    """Python itself may lie where only root looks: whatever is imported late is imported now."""
    import email.parser  # noqa: F401 (of importlib.metadata)

    import prometheus_client.parser  # noqa: F401 (of the tests of metrics)

    chain = age(small_chain(module_path))
    for line in (*QUESTIONS, ["merge", "--upto", "30"], *CHANGES, ["compact", "--yes"]):
        ckptctl(*line, "-C", chain.directory)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    tmp_path.chmod(0o755)
    (tmp_path / "out").mkdir()
    return age(small_chain(tmp_path))


def run(chain: Chain, *args: object) -> Said:
    with as_nobody(chain.directory, chain.directory.parent / "out"):
        return ckptctl(*args, "-C", chain.directory)


def modes(chain: Chain, mode: int, *paths: Path) -> None:
    for path in paths or (chain.directory,):
        path.chmod(mode)


def same_files(chain: Chain) -> dict[str, tuple[int, ...]]:
    """All but the lock and owners, which are none of the model's."""
    return {name: info for name, info in listing(chain.directory).items() if info[3] & 0o100000}


@pytest.mark.parametrize("suffix", [".index", ".data-00001-of-00002"])
@pytest.mark.parametrize("step", [40, 50])
def test_no_permission_to_a_file_of_what_is_merged(chain: Chain, suffix: str, step: int) -> None:
    path = Path(f"{chain.prefix(step)}{suffix}")
    path.chmod(0)
    before = same_files(chain)
    assert run(chain, "ls").code == 0
    said = run(chain, "merge", "--upto", "50")
    assert said.code in (4, 12)  # an index that cannot be read makes a checkpoint incomplete
    assert chain.prefix(step).name in said.err
    assert same_files(chain) == before
    assert run(chain, "verify", "--data").code in (3, 4)
    path.chmod(0o644)
    assert run(chain, "merge", "--upto", "50").code == 0
    chain.check(40, 50)


def test_who_may_not_read_a_file_is_told_who_has_to(chain: Chain) -> None:
    path = Path(f"{chain.full_prefix(40)}.data-00001-of-00002")
    path.chmod(0)
    said = run(chain, "show", "40", "--stats")
    assert said.code == 12
    assert f"file: {path}" in said.err
    assert "next: let user " in said.err


def test_nothing_goes_under_a_full_that_may_not_be_read(chain: Chain) -> None:
    """One shard of it: whether it could stand in for what is older is not known."""
    shard = Path(f"{chain.full_prefix(40)}.data-00001-of-00002")
    shard.chmod(0)
    before = same_files(chain)
    said = run(chain, "prune", "--yes", "--keep-last", 1)
    assert said.code == 12
    assert shard.name in said.err
    assert same_files(chain) == before
    shard.chmod(0o644)
    assert run(chain, "prune", "--yes", "--keep-last", 1).code == 0
    assert here(chain) == {"F40", "I50"}


def test_what_goes_need_not_be_read(chain: Chain) -> None:
    Path(f"{chain.increment_prefix(20)}.data-00001-of-00002").chmod(0)
    assert run(chain, "prune", "--yes").code == 0
    assert here(chain) == {"F10", "F40", "I50"}


QUESTIONS = [
    ["ls"],
    ["show", "latest"],
    ["get", "emb", "1"],
    ["verify", "--data"],
    ["diff", "first", "latest"],
    ["merge", "-n"],
    ["prune", "-n"],
]
CHANGES = [["merge"], ["prune", "--yes"], ["prune", "--trash"], ["compact", "--yes"]]


def reads_and_refuses(chain: Chain) -> None:
    """Everything can be asked, nothing can be changed, and a merge goes elsewhere."""
    before = listing(chain.directory)
    for line in QUESTIONS:
        assert run(chain, *line).code == 0, line
    for line in CHANGES:
        said = run(chain, *line)
        assert said.code == 12, (line, said)
        assert str(chain.directory) in said.err
    output = chain.directory.parent / "out" / "x-50"
    if os.access(output.parent, os.W_OK):
        assert run(chain, "merge", "-o", output).code == 0
        chain.check(40, 50, prefix=output)
    assert listing(chain.directory) == before


def test_a_directory_that_may_only_be_read(chain: Chain) -> None:
    modes(chain, 0o555)
    reads_and_refuses(chain)
    assert not (chain.directory / ".ckptctl").exists()
    modes(chain, 0o755)


def test_a_filesystem_that_may_only_be_read(tmp_path: Path) -> None:
    """For root, too."""
    with mounted(tmp_path, "tmpfs") as disk:
        (tmp_path / "out").mkdir()
        chain = age(small_chain(disk))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = listing(disk)
        for line in QUESTIONS:
            assert ckptctl(*line, "-C", chain.directory).code == 0, line
        for line in CHANGES:
            said = ckptctl(*line, "-C", chain.directory)
            assert (said.code, "ead-only file system" in said.err) == (12, True), (line, said)
        assert ckptctl("merge", "-C", chain.directory, "-o", tmp_path / "out" / "x-50").code == 0
        chain.check(40, 50, prefix=tmp_path / "out" / "x-50")
        assert listing(disk) == before


@pytest.fixture
def increments(chain: Chain) -> Iterator[Path]:
    """The directory of the increments, which may be written to again afterwards."""
    path = chain.directory / INCREMENTS
    yield path
    path.chmod(0o755)


def test_increments_that_may_only_be_read(chain: Chain, increments: Path) -> None:
    """Their state file cannot be rewritten: none of them goes, and no full before them."""
    increments.chmod(0o555)
    before = same_files(chain)
    said = run(chain, "prune", "--yes", "--keep-last", 1)
    assert said.code == 12
    assert INCREMENTS in said.err
    assert same_files(chain) == before
    increments.chmod(0o755)
    assert run(chain, "prune", "--yes", "--keep-last", 1).code == 0
    assert (listed(chain), listed(chain, INCREMENTS)) == ([40], [50])


def told(chain: Chain, *args: object) -> tuple[dict, str]:
    """What a compact that ends with 12 says all the same: its result, and its metrics."""
    metrics = chain.directory.parent / "out" / "c.prom"
    line = ["compact", "--yes", "--keep-last", 1, "--min-age", "0s", "--metrics", metrics, *args]
    said = run(chain, *line, "--json")
    assert (said.code, json.loads(said.err)["exit_code"]) == (12, 12), said.err
    (found,) = said.document["directories"]
    assert found["error"]["message"] == "permission denied"
    return found["result"], metrics.read_text()


def test_a_compact_that_may_not_prune_says_what_it_merged(chain: Chain, increments: Path) -> None:
    increments.chmod(0o555)
    result, metrics = told(chain)
    assert (result["outcome"], result["prune"]) == ("merged", None)
    assert result["merge"]["prefix"] == str(chain.full_prefix(50))
    assert (result["holds"]["fulls"], listed(chain)) == (3, [10, 40, 50])
    assert f'written_bytes{{directory="{chain.directory}"}} 0.0' not in metrics


def test_a_compact_that_may_not_go_on_says_what_went(chain: Chain) -> None:
    (chain.directory / ".ckptctl").mkdir()
    modes(chain, 0o555)
    result, metrics = told(chain, "--min-increments", 9)
    modes(chain, 0o755)
    assert [item["name"][-2:] for item in result["prune"]["outcomes"]] == ["30", "20"]
    assert {item["outcome"] for item in result["prune"]["outcomes"]} == {"removed"}
    assert (result["outcome"], here(chain)) == ("pruned", {"F10", "F40", "I50"})
    freed = result["prune"]["bytes_freed"]
    assert f'freed_bytes{{directory="{chain.directory}"}} {freed}.0' in metrics


def test_a_prune_that_may_not_go_on_says_what_went(chain: Chain) -> None:
    (chain.directory / ".ckptctl").mkdir()
    modes(chain, 0o555)
    said = run(chain, "prune", "--yes", "--keep-last", 1, "--min-age", "0s", "--json")
    modes(chain, 0o755)
    assert (said.code, json.loads(said.err)["message"]) == (12, "permission denied")
    assert [item["name"][-2:] for item in said.document["result"]["outcomes"]] == ["30", "20"]
    assert here(chain) == {"F10", "F40", "I50"}


def test_increments_that_may_not_be_entered(chain: Chain, increments: Path) -> None:
    """What the fulls are needed for is not known: nothing goes."""
    increments.chmod(0)
    said = run(chain, "prune", "--yes", "--keep-last", 1)
    assert said.code == 12
    assert INCREMENTS in said.err
    assert run(chain, "ls").code == 0
    increments.chmod(0o755)
    assert len(here(chain)) == 5


def test_files_of_others_in_a_directory_for_all(chain: Chain) -> None:
    """Sticky, like /tmp: who may write there may still not remove what others own."""
    if os.getuid() != 0:
        pytest.skip("only root gives files away: run as root")
    for room in (chain.directory, chain.directory / INCREMENTS):
        room.chmod(0o1777)
    before = same_files(chain)
    with as_nobody():
        said = ckptctl("prune", chain.directory, "--yes", "--keep-last", 1)
    assert said.code == 12
    assert same_files(chain) == before
    assert points(chain) == {10, 20, 30, 40, 50}


def test_our_own_room_belongs_to_someone_else(chain: Chain) -> None:
    own = chain.directory / ".ckptctl"
    own.mkdir()
    own.chmod(0o555)
    before = same_files(chain)
    for line in CHANGES:
        assert run(chain, *line).code == 12
    assert same_files(chain) == before
    own.chmod(0o755)
    assert run(chain, "prune", "--yes").code == 0


def test_leftovers_that_may_not_be_looked_into(chain: Chain) -> None:
    """A temporary of another user: it stays, and nothing else is held up by it."""
    room = chain.directory / f"model.ckpt-50_temp_{'0' * 32}"
    room.mkdir()
    (room / "x").write_text("x")
    for path in (room / "x", room):
        os.utime(path, (THEN, THEN))
    room.chmod(0)
    said = run(chain, "prune", "--yes", "--leftovers")
    assert said.code == 0
    assert "may not be looked into" in said.out
    assert run(chain, "merge").code == 0
    room.chmod(0o755)
    assert (room / "x").exists()
    assert here(chain) == {"F10", "F40", "F50", "I50"}
