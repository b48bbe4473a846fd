"""File names: which is a step, whose file is it, and which base name counts."""

from __future__ import annotations

import pytest

from ckptctl.chain import MAX_STEP, split_step
from ckptctl.chain.names import choose_base_name, group_files
from tests.chain.builder import info

HEX = "0123456789abcdef" * 2

STEPS = [
    ("model.ckpt-100", ("model.ckpt", 100)),
    ("model.ckpt-0", ("model.ckpt", 0)),
    ("model.ckpt-00000120", ("model.ckpt", 120)),
    ("a-b-7", ("a-b", 7)),
    ("a--7", ("a-", 7)),
    (" with space\nand line-5", (" with space\nand line", 5)),
    (f"m-{MAX_STEP}", ("m", MAX_STEP)),
    (f"m-{MAX_STEP + 1}", None),
    ("m-9223372036854775807", ("m", 9223372036854775807)),
    ("m-9223372036854775808", None),
    (f"m-{10**30}", None),
    ("m-" + "0" * 200 + "5", ("m", 5)),
    ("m-" + "9" * 100_000, None),
    ("model.ckpt", None),
    ("model.ckpt-", None),
    ("-5", None),
    ("m-5 ", None),
    ("m-5\n", None),
    ("m--5", ("m-", 5)),
    ("m-+5", None),
    ("m-5e3", None),
    ("m-٣", None),
    ("m-1_000", None),
    ("model.ckpt-100-emb-ssd_record", None),
    ("", None),
]


@pytest.mark.parametrize(("name", "expected"), STEPS, ids=[repr(name)[:40] for name, _ in STEPS])
def test_split_step(name, expected):
    assert split_step(name) == expected


def grouped(*names, **dirs):
    """Return the groups of files; names that end with `/` are directories."""
    entries = [info(name.rstrip("/"), is_dir=name.endswith("/")) for name in names]
    return group_files(entries)


def test_files_of_a_checkpoint():
    found = grouped(
        "m-1.index",
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
        "m-1.meta",
        "m-1.ckptctl.json",
        "m-10.index",
        "m-10.data-00000-of-00001",
        "checkpoint",
        "graph.pbtxt",
        "events.out.tfevents.1",
    )
    assert set(found.names) == {"m-1", "m-10"}
    one = found.names["m-1"]
    assert one.index.name == "m-1.index"
    assert [shard.name for shard in one.shards] == [
        "m-1.data-00000-of-00002",
        "m-1.data-00001-of-00002",
    ]
    assert (one.meta.name, one.mark.name) == ("m-1.meta", "m-1.ckptctl.json")
    assert found.temporaries == []
    assert found.misfits == []


SIDE = [
    pytest.param(
        ["m-1.index", "m-10.index", "m-10-emb-ssd_record.index"], {"m-10": 1}, id="1 is not 10"
    ),
    pytest.param(["m-1.index", "m-1-emb-ssd_record.index"], {"m-1": 1}, id="index"),
    pytest.param(
        ["m-1.index", "m-1-emb-ssd_record.data-00000-of-00001"], {"m-1": 1}, id="data of the record"
    ),
    pytest.param(["m-1.index", "m-1-a_part_0-emb_files/"], {"m-1": 1}, id="directory of records"),
    pytest.param(
        ["m-1.index", "m-1-2-x-ssd_record.index"], {"m-1": 1}, id="an EV whose name starts so"
    ),
    pytest.param(
        ["m-1.index", "m-1-2.index", "m-1-2-x-ssd_record.index"],
        {"m-1-2": 1},
        id="the longest name that exists",
    ),
    pytest.param(
        ["m-1.index", "m-1-2.data-00000-of-00001", "m-1-2-x-ssd_record.index"],
        {"m-1": 1},
        id="a longer name without an index",
    ),
    pytest.param(["m-7-emb-ssd_record.index"], {"m-7": 1}, id="its checkpoint is gone"),
    pytest.param([f"m-{10**30}-emb-ssd_record.index"], {}, id="a number that is no step"),
    pytest.param(["emb-ssd_record.index"], {}, id="of no checkpoint"),
    pytest.param(["m-1.index", "m-1-ssd_record.index"], {}, id="without an EV"),
]


@pytest.mark.parametrize(("names", "expected"), SIDE)
def test_side_files_are_no_checkpoints(names, expected):
    found = grouped(*names)
    assert {name: len(g.side) for name, g in found.names.items() if g.side} == expected
    assert not any(name.endswith("ssd_record") for name in found.names)


TEMPORARIES = [
    pytest.param(f"m-1_temp_{HEX}/", [("m-1", False)], id="sharded save"),
    pytest.param(f"m-1_temp_{HEX}", [], id="a file of that name"),
    pytest.param("m-1_temp_xyz/", [], id="no hexadecimal number"),
    pytest.param("m-1.index.tempstate12345", [("m-1", False)], id="index being written"),
    pytest.param("m-1.data-00000-of-00001.tempstate9", [("m-1", False)], id="data being written"),
    pytest.param("m-1.index.tempstate", [], id="no number"),
    pytest.param("checkpoint.ckptctl-0123456789abcdef.tmp", [("checkpoint", True)], id="our own"),
    pytest.param("notes.tmp", [], id="somebody's file"),
]


@pytest.mark.parametrize(("name", "expected"), TEMPORARIES)
def test_temporaries(name, expected):
    found = grouped(name)
    assert [(stem, ours) for stem, _, ours in found.temporaries] == expected
    assert found.names == {}


def test_a_link_to_a_directory_is_no_temporary():
    entry = info(f"m-1_temp_{HEX}", is_dir=True, is_symlink=True)
    assert group_files([entry]).temporaries == []


@pytest.mark.parametrize(
    "name", ["m-1.index/", "m-1.meta/", "m-1.data-00000-of-00001/", "m-1.ckptctl.json/"]
)
def test_directories_called_like_files(name):
    found = grouped(name)
    assert [entry.name for entry in found.misfits] == [name.rstrip("/")]
    assert found.names == {}


@pytest.mark.parametrize(
    "name", [".index", ".meta", ".data-00000-of-00001", "m.data-0-of-1", "m.data-00000-of-000001"]
)
def test_names_that_are_nothing(name):
    assert grouped(name).names == {}


BASES = [
    pytest.param(["a-1"], ["b-1.index", "b-2.index"], "a", None, id="the state file names it"),
    pytest.param(["a", "b-1"], ["c-1.index"], "b", None, id="the first that has a step"),
    pytest.param([], ["a-1.index", "b-1.index", "b-2.index"], "b", None, id="the most frequent"),
    pytest.param([], ["z-1.index", "a-1.index"], "a", "'a' was taken, not 'z'", id="a tie"),
    pytest.param(
        [],
        ["a-1.index", "model.ckpt-1.index"],
        "model.ckpt",
        "'model.ckpt' was taken, not 'a'",
        id="a tie with the usual one",
    ),
    pytest.param(
        [],
        ["a-1.index", "b-1.data-00000-of-00001", "b-2.data-00000-of-00001"],
        "a",
        None,
        id="an index counts before any data without one",
    ),
    pytest.param([], ["b-2.data-00000-of-00001"], "b", None, id="data alone"),
    pytest.param([], ["best.index", "a-1.index"], "a", None, id="names without a step"),
    pytest.param([], [], None, None, id="nothing"),
]


@pytest.mark.parametrize(("named", "names", "base", "note"), BASES)
def test_choose_base_name(named, names, base, note):
    found, said = choose_base_name(named, grouped(*names), "model.ckpt")
    assert found == base
    assert (said is None) if note is None else (note in said)
