"""`ckptctl diff`: text, rows, JSON, JSON lines and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ckptctl.commands import cells
from tests.oracle.chain import build_chain, full, table
from tests.oracle.images import floats


def test_rows_for_programs(run, sharded: Path) -> None:
    done = run("diff", "160", "latest", "-C", sharded)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["a", "the state at step 160: model.ckpt-160"]
    emb = next(row for row in rows if row[:2] == ["table", "emb"])
    assert emb[2:7] == ["10", "0", "42", "64", "0"]
    flt = next(row for row in rows if row[:2] == ["table", "flt"])
    assert flt[6] == "21", "newly admitted"
    assert any(row[:2] == ["changed", "dense/bias"] for row in rows)


def test_what_differs_beside_the_rows(run, tmp_path: Path) -> None:
    a = table("emb", [9, 10], freqs=1, versions=1, filtered={1: 1, 2: 1, 3: 1})
    b = table("emb", [9], filtered={1: 1, 2: 8, 4: 1, 10: 1})
    chain = build_chain(tmp_path, full(1, a), full(2, b))
    done = run("diff", "1", "2", "-C", chain.directory, "--exit-code", "--table", "emb")
    assert done.returncode == 5, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[2][-1] == "newly_filtered"
    assert rows[3][:2] + rows[3][-1:] == ["table", "emb", "1"]
    assert [row[1] for row in rows if row[0] == "emb"] == [
        "column freqs only in a",
        "column versions only in a",
        "column versions_filtered only in a",
        "filtered keys: 1 new, 1 gone, 1 moved",
    ]
    assert not any(row[0] == "emb/Adagrad" for row in rows), "the same again"


def test_what_became_not_finite_is_told(run, tmp_path: Path) -> None:
    nan = float("nan")
    a = [table("emb", {1: 1.0, 2: 2.0}), {"x": floats(1, 2)}]
    b = [table("emb", {1: nan, 2: 2.0}), {"x": floats(nan, nan)}]
    chain = build_chain(tmp_path, full(1, *a), full(2, *b))
    done = run("diff", "1", "2", "-C", chain.directory)
    lines = done.stdout.splitlines()
    assert "emb\t1 row became NaN or infinite" in lines
    assert "emb/Adagrad\t1 row became NaN or infinite" in lines
    assert "x\t2 elements became NaN or infinite" in lines
    assert "warning: b: 2 rows became NaN or infinite" in done.stderr


def test_one_document(run, sharded: Path) -> None:
    done = run("diff", f"{sharded}@100", f"{sharded}@180", "--json")
    document = json.loads(done.stdout)
    assert (document["schema"], document["identical"]) == ("ckptctl.diff/1", False)
    assert [document[side]["step"] for side in "ab"] == [100, 180]
    norms = next(table["members"][0]["norms"] for table in document["tables"] if table["changed"])
    assert sum(norms["before"]) > 0


def test_a_line_for_each_key_and_then_the_summary(run, sharded: Path) -> None:
    done = run("diff", "160", "180", "-C", sharded, "--json-lines", "--table", "emb")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["schema"] for line in lines} == {"ckptctl.diff/1"}
    assert lines[-1]["kind"] == "summary"
    assert sum(lines[-1]["tables"][0]["members"][0]["norms"]["after"]) > 0
    primary = [line for line in lines if line.get("member") == "emb"]
    assert sorted(line["change"] for line in primary) == ["changed"] * 42 + ["new"] * 10
    assert {"key", "l2", "max"} <= set(next(x for x in primary if x["change"] == "changed"))


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["160", "160", "--exit-code"], 0),
        (["160", "180", "--exit-code"], 5),
        (["160", "180"], 0),
        (["160", "170"], 10),
        (["160"], 2),
        (["160", "180", "--json", "--json-lines"], 2),
        (["160", "180", "--table", "embb"], 10),
        (["160", "180", "--tolerance", "-1"], 2),
        (["160", "180", "--tolerance", "nan"], 2),
        (["160", "180", "--tolerance", "1e9", "--table", "emb", "--exit-code"], 5),
    ],
)
def test_exit_codes(run, sharded: Path, args: list[str], code: int) -> None:
    done = run("diff", *args, "-C", sharded)
    assert done.returncode == code, done.stderr


def test_lines_end_without_a_summary_when_damaged(run, sharded: Path) -> None:
    path = next(sharded.glob("model.ckpt-160.data-00001*"))
    raw = bytearray(path.read_bytes())
    for at in range(len(raw)):
        raw[at] ^= 1
    path.write_bytes(raw)
    done = run("diff", "100", "160", "-C", sharded, "--json-lines")
    assert done.returncode == 4
    assert json.loads(done.stderr)["exit_code"] == 4
    assert "summary" not in done.stdout


def test_quiet_leaves_it_to_the_exit_code(run, sharded: Path) -> None:
    done = run("diff", "160", "180", "-C", sharded, "--exit-code", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (5, "", "")
    done = run("diff", "160", "180", "-C", sharded, "--exit-code", "-q", "--json")
    assert (done.returncode, done.stderr) == (5, "")
    assert json.loads(done.stdout)["schema"] == "ckptctl.diff/1"
    loud, quiet = (
        run("diff", "160", "180", "-C", sharded, "--exit-code", "--json-lines", *q)
        for q in ([], ["-q"])
    )
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (5, loud.stdout, "")
    assert loud.stderr


def test_that_two_differ_is_said_beside_the_answer(run, sharded: Path) -> None:
    done = run("diff", "160", "180", "-C", sharded, "--exit-code")
    assert (done.returncode, done.stderr) == (5, "ckptctl: error: 160 and 180 differ\n")
    done = run("diff", "160", "180", "-C", sharded, "--exit-code", "--json")
    assert json.loads(done.stdout)["identical"] is False
    assert json.loads(done.stderr)["exit_code"] == 5


@pytest.mark.parametrize(("number", "words"), [(1, "1 other table is"), (2, "2 other tables are")])
def test_how_many_are_equal(number: int, words: str) -> None:
    assert cells.equal(number, "other table") == f"{words} equal"
