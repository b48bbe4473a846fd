"""`ckptctl show`: text, rows, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_rows_for_programs(run, sharded: Path) -> None:
    done = run("show", "-C", sharded)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == [
        "target", "the state at step 180: model.ckpt-160 + incremental_model.ckpt-180"
    ]  # fmt: skip
    assert ["total", "keys", "479"] in rows
    emb = next(row for row in rows if row[:2] == ["table", "emb"])
    assert emb[2:7] == ["float32", "5", "2", "116", "0"]
    assert any(row[:2] == ["slot", "emb/Adagrad"] for row in rows)
    assert any(row[:2] == ["part", "emb/part_1"] for row in rows)
    assert any(row[:2] == ["weights", "dense/kernel"] for row in rows)


def test_one_document(run, sharded: Path) -> None:
    done = run("show", f"{sharded}@latest~1", "--json", "--stats", "--tensors")
    document = json.loads(done.stdout)
    assert (document["schema"], document["target"]["step"]) == ("ckptctl.show/1", 160)
    assert {"tables", "tensors", "raw", "totals", "notes"} <= set(document)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["latest~9"], 10),
        (["--filter", "nothing"], 10),
        (["--sort", "size"], 2),
        (["170"], 10),
        (["."], 2),
    ],
)
def test_exit_codes(run, sharded: Path, args: list[str], code: int) -> None:
    done = run("show", *args, "-C", sharded)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(("ckptctl: error: ", "Usage"))


def test_the_environment_names_the_directory(run, sharded: Path) -> None:
    assert run("show", env={"CKPTCTL_DIR": str(sharded)}).returncode == 0
    assert run("show", "100", cwd=sharded).returncode == 0


def test_strange_names_cannot_reach_the_terminal(run, tmp_path: Path) -> None:
    import numpy as np

    from ckptctl.bundle import BundleWriter

    with BundleWriter(str(tmp_path / "odd")) as writer:
        writer.add("a\x1b[31m\nb", np.zeros(2, np.float32))
    done = run("show", tmp_path / "odd", "--tensors", "--stats")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "a\\x1b[31m\\nb" in done.stdout


def test_values_too_close_together_for_bars_are_said_to_be(run, tmp_path: Path) -> None:
    import numpy as np

    from ckptctl.bundle import BundleWriter

    with BundleWriter(str(tmp_path / "odd")) as writer:
        writer.add("gamma", np.random.default_rng(0).normal(1, 0.001, 4096).astype(np.float32))
        writer.add("large", np.array([1e308, -1e308, 1e308]))
        writer.add("steps", np.array([2**53 + 1]))
    done = run("show", tmp_path / "odd", "--stats")
    assert (done.returncode, done.stderr) == (0, "")
    rows = {row[1]: row for row in (line.split("\t") for line in done.stdout.splitlines())}
    assert rows["gamma"][-1] == "~█"
    assert rows["large"][-1] == f"▄{' ' * 18}█"
    assert rows["steps"][-9:-6] == [str(2**53 + 1), "9007199254740992.0", str(2**53 + 1)]
    found = json.loads(run("show", tmp_path / "odd", "--stats", "--json").stdout)
    gamma, large, steps = (each["stats"] for each in found["tensors"])
    assert (gamma["histogram"]["counts"], gamma["histogram"]["coarse"]) == ([4096], True)
    assert not large["histogram"]["coarse"]
    assert (steps["min"], steps["histogram"]["coarse"]) == (2**53 + 1, False)


def test_the_environment_may_hold_the_filter(run, sharded: Path) -> None:
    done = run("show", "-C", sharded, env={"CKPTCTL_SHOW_FILTER": "em*"})
    assert "\nslot\temb/Adagrad\t" in done.stdout
    assert "\nslot\tflt/Adagrad\t" not in done.stdout
    done = run("show", "-C", sharded, env={"CKPTCTL_SHOW_SORT": "size"})
    assert done.returncode == 2
    assert "(from $CKPTCTL_SHOW_SORT)" in done.stderr


def test_a_bundle_that_lost_a_shard(run, sharded: Path) -> None:
    sharded = sharded.rename(sharded.with_name("of two words"))
    shard = sharded / "model.ckpt-160.data-00001-of-00002"
    shard.unlink()
    done = run("show", sharded / "model.ckpt-160")
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        4,
        "ckptctl: error: data shard missing",
    )
    assert f"export '{sharded}/model.ckpt-160' --salvage" in done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    lost = next(row for row in rows if row[0] == "lost")
    assert lost[1] == str(shard)
    assert "emb/part_1" in lost
    assert any(row[:2] == ["table", "emb"] for row in rows)
    document = json.loads(run("show", sharded / "model.ckpt-160", "--json").stdout)
    assert [each["file"] for each in document["lost"]] == [str(shard)]
    assert run("show", "160", "-C", sharded).returncode == 4, "a PS restores no such state"


def test_a_whole_bundle_lost_nothing(run, sharded: Path) -> None:
    done = run("show", sharded / "model.ckpt-160", "--json")
    assert (done.returncode, json.loads(done.stdout)["lost"]) == (0, [])


@pytest.mark.parametrize("args", [(), ("--json",), ("--stats",)])
def test_a_table_that_does_not_fit_is_told_of_each_time(
    run, tmp_path: Path, args: tuple[str, ...]
) -> None:
    from tests.oracle.chain import build_chain, changes, full, increment, table
    from tests.oracle.images import ints

    odd = {"emb-sparse_incr_freqs": ints("int64", [7])}
    chain = build_chain(
        tmp_path, full(10, table("emb", [1, 2])), increment(20, changes("emb", [1, 2]), raw=odd)
    )
    for _ in range(2):  # nothing is remembered
        done = run("show", chain.increment_prefix(20), *args)
        assert done.returncode == 4
        assert "emb" in done.stdout
        assert "-sparse_incr_freqs is int64 [1]" in done.stderr
