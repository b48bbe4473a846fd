"""`ckptctl get`: text, rows, JSON, files and exit codes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ckptctl.bundle import BundleReader
from ckptctl.commands.keys import read_keys
from tests.oracle.chain import (
    INCREMENTS,
    Tensor,
    build_chain,
    changes,
    flip,
    full,
    increment,
    table,
)
from tests.oracle.images import floats, scalar


def test_rows_for_programs(run, sharded: Path) -> None:
    done = run("get", "flt", "30317", "-C", sharded)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[2][:5] == ["30317", "admitted", "-", "3", "-"]
    assert rows[3][2] == "Adagrad"
    file, offset = rows[2][6:8]
    raw = Path(file).read_bytes()[int(offset) : int(offset) + 12]
    words = rows[2][5].split(" ")
    assert np.array(words, "<f4").tobytes() == raw
    digits = [word.replace(".", "").lstrip("-0") for word in words]
    assert all(len(each) <= 9 for each in digits)  # as many as a float32 has
    csv = ("get", "flt", "30317", "-C", sharded, "--format", "csv")
    lines = run(*csv).stdout.splitlines()
    assert run(*csv, "-q").stdout.splitlines() == lines  # as with --json: asked for by its form
    line = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert [line[f"value_{at}"] for at in range(len(words))] == words


def test_one_document(run, sharded: Path) -> None:
    for form in (["--json"], ["--format", "json"]):
        done = run("get", "wide", "3", "-C", sharded, "--upto", "latest~1", "--check", *form)
        document = json.loads(done.stdout)
        assert (document["schema"], document["checked"]) == ("ckptctl.get/1", True)
        assert document["rows"][0]["found"]
        assert len(document["rows"][0]["slots"]["Adagrad"]["value"]) == 4


def test_unknown_keys_come_last(run, sharded: Path) -> None:
    done = run("get", "flt", "30317", "5", "-C", sharded)
    assert done.returncode == 10
    assert "30317\tadmitted" in done.stdout
    assert "5\tunknown" in done.stdout
    assert "not there: key 5" in done.stderr


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["flt"], 2),
        (["flt", "x"], 2),
        (["nothing", "1"], 10),
        (["flt", "30317", "--upto", "170"], 10),
        (["flt", "30317", "--history", "--format", "csv"], 2),
        (["flt", "30317", "-o", "x"], 2),
        (["flt", "30317", "--history"], 0),
        (["flt", "5", "--history"], 10),
        (["flt", "9223372036854775808"], 2),
        (["flt", "30317", "--json", "--format", "csv"], 2),
        (["flt", "--keys-from", "{home}/nothing"], 10),
        (["flt", "--keys-from", "{home}/bytes"], 2),
        (["flt", "--keys-from", "{home}/bytes.npy"], 2),
        (["flt", "--keys-from", "{home}/empty.npy"], 2),
        (["flt", "--keys-from", "{home}/huge.npy"], 2),
        (["flt", "--keys-from", "{home}/word"], 2),
        (["flt", "--keys-from", "{home}/large"], 2),
        (["flt", "--keys-from", "{home}/bom"], 0),
        (["flt", "--", "-1000"], 10),
    ],
)
def test_exit_codes(run, sharded: Path, tmp_path: Path, args: list[str], code: int) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe1\n")
    (tmp_path / "bytes.npy").write_bytes(b"hello")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "huge.npy", np.array([2**64 - 1], np.uint64))
    (tmp_path / "word").write_text("1\n\nuser\n")
    (tmp_path / "large").write_text(f"{2**63}\n")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf30317\r\n")
    args = [arg.format(home=tmp_path) for arg in args]
    at = args.index("--") if "--" in args else len(args)
    done = run("get", *args[:at], "-C", sharded, *args[at:])
    assert done.returncode == code, done.stderr
    assert ("\n  next: " in done.stderr or '"remedy": ' in done.stderr) is (code != 0)
    if "--keys-from" in args and code:
        assert f"\n  file: {args[-1]}" in done.stderr


def _npy(path: Path, header: str, data: bytes = b"") -> None:
    text = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data)


_BROKEN = "no .npy file"
HEADERS = {
    "{'descr': '<i8', 'shape': (": _BROKEN,
    "{'descr': (), 'fortran_order': False, 'shape': (1,)}": _BROKEN,
    "-" * 9000 + "1": _BROKEN,
    "{'descr': '<i8', 'fortran_order': False, 'shape': (-5,)}": _BROKEN,
    f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({10**15},)}}": "found: 16",
    f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**70},)}}": "found: 16",
    f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**70}, 0)}}": "no key is given",
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}": "found: object",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}": "found: float32",
}


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_an_array_of_keys_with_a_broken_header(inside, tmp_path: Path, header: str) -> None:
    file = tmp_path / "keys.npy"
    _npy(file, header, b"\0" * 16)
    code, out, err = inside("get", "emb", "-C", tmp_path, "--keys-from", file)
    assert (code, out) == (2, "")
    assert HEADERS[header] in err


def test_an_array_of_keys_of_another_version(inside, tmp_path: Path) -> None:
    file = tmp_path / "keys.npy"
    np.save(file, [7])
    file.write_bytes(file.read_bytes().replace(b"NUMPY\1\0", b"NUMPY\2\1"))
    code, _, err = inside("get", "emb", "-C", tmp_path, "--keys-from", file)
    assert code == 2
    assert "found: no .npy file\n" in err


def test_keys_of_an_array_are_read_row_by_row(tmp_path: Path) -> None:
    keys = np.arange(6, dtype=">i4").reshape(2, 3)
    for each in (keys, np.asfortranarray(keys), keys[:, :0]):
        np.save(tmp_path / "keys.npy", each)
        assert [*read_keys(["7"], str(tmp_path / "keys.npy"))] == [7, *each.reshape(-1)]


def test_keys_from_a_file_and_from_stdin(run, bare_env, sharded: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ids\n30317\n\n5 # not there\n")
    np.save(tmp_path / "keys.npy", np.array([30317, 5]))
    for name in ("keys", "keys.npy"):
        done = run("get", "flt", "-C", sharded, "--keys-from", tmp_path / name, "--json")
        assert [row["key"] for row in json.loads(done.stdout)["rows"]] == [30317, 5]
    command = [sys.executable, "-m", "ckptctl", "get", "flt", "-C", str(sharded)]
    command += ["--keys-from", "-", "--format", "csv"]
    done = subprocess.run(command, input="30317\n", capture_output=True, text=True, env=bare_env)
    assert done.stdout.splitlines()[1].startswith("30317,admitted,3,")


def test_an_error_is_json_where_json_was_asked_for(run, sharded: Path) -> None:
    for form in (["--json"], ["--format", "json"], ["--format=json"]):
        done = run("get", "flt", "5", "-C", sharded, *form)
        assert done.returncode == 10
        assert json.loads(done.stdout)["rows"][0]["found"] is False
        assert json.loads(done.stderr)["error"] == "NotFoundError"


def test_what_a_history_has_not_is_said_with_what_to_do(run, sharded: Path) -> None:
    done = run("get", "emb", 999999, "--history", "-C", sharded)
    assert done.returncode == 10
    assert "error: not there: key 999999\n  next: ckptctl show " in done.stderr


def test_history_of_another_directory(run, sharded: Path, tmp_path: Path) -> None:
    done = run("get", "flt", "30317", "--history", "--upto", f"{sharded}@120", "--json")
    steps = [each["step"] for each in json.loads(done.stdout)["history"][0]["moments"]]
    assert steps == [100, 120, 120]


@pytest.mark.parametrize("form", ["npz", "parquet"])
def test_files(run, sharded: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"rows.{form}"
    done = run("get", "flt", "30317", "-C", sharded, "--format", form, "-o", path)
    assert (done.returncode, done.stdout) == (0, "")
    assert path.stat().st_size > 100


def test_tables_complete(run, sharded: Path) -> None:
    words = {"CKPTCTL_WORDS": f"ckptctl\nget\n-C\n{sharded}\ne", "CKPTCTL_CWORD": "4"}
    done = run(env={"_CKPTCTL_COMPLETE": "answer", **words})
    assert "emb" in done.stdout, done.stderr
    assert "empty_ev" in done.stdout


def test_what_has_no_rows_is_said_with_what_shows_it(inside, tmp_path: Path) -> None:
    words = Tensor("string", (2,), [b"a", b"b"])
    chain = build_chain(tmp_path, full(10, {"my words": words, "one": floats(1.5, shape=())}))
    prefix = chain.directory / "model.ckpt-10"
    for target in ("latest", prefix):
        asked = ("-C", chain.directory, "--upto", target)
        code, _, err = inside("get", "my words", 0, *asked)
        assert code == 10
        assert "error: 'my words' holds strings in the shape [2]\n" in err
        file = tmp_path / f"{target == prefix}.npz"
        command = err.partition("next: ")[2].partition(" writes")[0].replace("FILE.npz", str(file))
        assert inside(*shlex.split(command)[1:])[0] == 0
        assert np.load(file)["my words"].tolist() == [b"a", b"b"]
        code, _, err = inside("get", "one", 0, *asked)
        assert code == 10
        assert "error: 'one' is one float32, and has no rows\n" in err
        command = err.partition("next: ")[2].partition(" shows")[0]
        code, out, _ = inside(*shlex.split(command)[1:])
        assert code == 0
        assert "\tscalar\t-\t-\t-\t1.5\t" in out


SCALARS = {
    "step": (scalar("int64", 2**53 + 1), [2**53 + 1], str(2**53 + 1)),
    "big": (Tensor("uint64", (), np.uint64(2**64 - 1).tobytes()), [2**64 - 1], str(2**64 - 1)),
    "rate": (Tensor("float32", (), np.float32(0.1).tobytes()), [float(np.float32(0.1))], "0.1"),
    "none": (Tensor("float64", (), np.float64("nan").tobytes()), ["nan"], "nan"),
    "c": (Tensor("complex64", (), np.complex64(1 + 2j).tobytes()), [[1.0, 2.0]], "(1+2j)"),
    "flag": (Tensor("bool", (), b"\1"), [True], "True"),
    "word": (Tensor("string", (), [b"a\tb\xff"]), ["a\tb\udcff"], "a\\tb\\xff"),
}


@pytest.mark.parametrize("name", SCALARS)
def test_the_value_of_a_scalar(inside, tmp_path: Path, name: str) -> None:
    tensor, value, word = SCALARS[name]
    chain = build_chain(tmp_path, full(10, {name: tensor}))
    for target in ("latest", chain.full_prefix(10)):
        asked = ("get", name, "-C", chain.directory, "--upto", target)
        code, out, err = inside(*asked)
        assert (code, err) == (0, "")
        line = out.splitlines()[-1].split("\t")
        assert line[:6] == ["-", "scalar", "-", "-", "-", word]
        code, out, _ = inside(*asked, "--json", "--check")
        document = json.loads(out)
        assert (document["schema"], document["table"]) == ("ckptctl.get/1", name)
        assert document["dtype"] == tensor.dtype
        assert document["checked"]
        (row,) = document["rows"]
        assert (row["key"], row["found"], row["value"]) == (None, True, value)
        assert [row["file"], str(row["offset"])] == line[6:]
        if isinstance(tensor.data, bytes):
            raw = Path(row["file"]).read_bytes()
            assert raw[row["offset"] : row["offset"] + len(tensor.data)] == tensor.data


def test_what_is_no_scalar_needs_a_key(inside, tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(10, table("emb", [1]), {"var": floats(1.0, 2.0)}))
    prefix, home = chain.full_prefix(10), ("-C", chain.directory)
    for name in ("emb", "var"):
        code, _, err = inside("get", name, *home)
        assert code == 2
        assert "error: no key is given\n" in err
    assert inside("get", "global_stop", *home)[0] == 10
    code, _, err = inside("get", "global_step", *home, "--history")
    assert code == 2
    assert "error: --history is of rows, and 'global_step' is a scalar\n" in err
    assert "next: ckptctl get global_step --upto STEP shows it" in err
    assert "error: no key is given\n" in inside("get", "emb", *home, "--history")[2]
    code, out, err = inside("get", "global_step", *home, "--format", "csv")
    assert (code, out) == (2, "")
    with BundleReader(str(prefix)) as reader:
        entry = reader.tensors["global_step"]
        flip(Path(reader.shard_path(entry.shard)), entry.offset)
    assert "\tscalar\t-\t-\t-\t11\t" in inside("get", "global_step", *home)[1]
    assert inside("get", "global_step", *home, "--check")[0] == 4


def test_a_key_below_zero_that_is_taken_for_an_option(inside) -> None:
    for key in ("-5", "-17"):
        code, _, err = inside("get", "emb", key)
        assert code == 2
        assert "next: keys below zero go behind `--`: ckptctl get TABLE -- KEY..." in err
    code, _, err = inside("get", "emb", "--wrong")
    assert "next: ckptctl get --help" in err


def test_one_step_that_could_not_be_read_is_one(inside, tmp_path: Path) -> None:
    idle = increment(140, changes("emb"))
    chain = build_chain(tmp_path, full(100, table("emb", [7])), idle)
    code, out, err = inside("get", "emb", 7, "-C", chain.directory, "--history")
    assert code == 3
    assert "failed\t140\tstate\tincremental_model.ckpt-140 is idle: " in out
    assert "error: 1 step could not be read, 140: " in err


def test_damage_outranks_what_could_not_be_restored(inside, sharded: Path, tmp_path: Path) -> None:
    idle = increment(140, changes("emb"))
    chain = build_chain(tmp_path, full(100, table("emb", [7])), idle, full(200, table("emb", [7])))
    asked = ("get", "emb", 7, "-C", chain.directory, "--history", "--check")
    assert inside(*asked)[0] == 3
    with BundleReader(str(chain.full_prefix(200))) as reader:
        entry = reader.tensors["emb-values"]
        flip(Path(reader.shard_path(entry.shard)), entry.offset)
    code, out, err = inside(*asked)
    assert code == 4
    assert "failed\t200\tstate\ttensor does not match its checksum" in out
    assert "error: 2 steps could not be read, 200: tensor does not match its checksum" in err
    next(sharded.glob(".incremental_checkpoint/*-140.data-00000*")).unlink()
    assert inside("get", "flt", 30317, "-C", sharded, "--history")[0] == 4


def test_increments_that_cannot_be_read_are_no_answer(inside, tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(100, table("emb", [7])))
    room = chain.directory / INCREMENTS
    room.write_text("no directory")
    code, out, err = inside("get", "emb", 7, "-C", chain.directory, "--history")
    assert code == 4
    assert "7\t100\tstate\tappeared" in out
    assert "failed\t-\tincrements\t" in out
    assert f"error: increments could not be read: {room}: " in err


def test_a_history_is_of_the_directory_that_holds_the_bundle(
    run, sharded: Path, tmp_path: Path
) -> None:
    own = build_chain(tmp_path, full(100, table("emb", [7])), full(200, table("emb", [7, 8])))
    args = ("get", "emb", "7", "--history", "-C", sharded, "--json", "--upto")
    found = json.loads(run(*args, own.full_prefix(100)).stdout)
    assert found["directory"] == str(own.directory)
    (own.directory / "best.index").write_bytes(Path(f"{own.full_prefix(100)}.index").read_bytes())
    data = Path(f"{own.full_prefix(100)}.data-00000-of-00001")
    (own.directory / "best.data-00000-of-00001").write_bytes(data.read_bytes())
    done = run(*args, own.directory / "best")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--history is of steps" in done.stderr
