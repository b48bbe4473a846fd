"""`look_up` and `history` where rows, names or numbers are unusual."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from ckptctl.commands.get_views import RowsView
from ckptctl.errors import NotFoundError, RefusedError, TensorChecksumError, UsageError
from ckptctl.inspect.history import history
from ckptctl.inspect.lookup import STATES, look_up
from ckptctl.inspect.lookup_files import write_lookup
from ckptctl.output import open_output
from ckptctl.restore import asked
from tests.inspect.model import filtered_of, look, tables_of
from tests.inspect.spoils import as_nobody
from tests.oracle.chain import (
    INCREMENTS,
    Chain,
    build_chain,
    changes,
    flip,
    full,
    increment,
    put,
    table,
)
from tests.oracle.images import Piece, Row, Rows, Sliced, Tensor


def test_a_dropped_key_is_what_the_state_holds(tmp_path: Path) -> None:
    """Key 7 is new in a slot only and dropped there; the primary's row is replaced."""
    slots = {"slots": ("Adam", "Adam_1")}
    chain = build_chain(
        tmp_path,
        full(100, table("emb", [1, 7], lacking={"Adam": [7], "Adam_1": [7]}, **slots)),
        increment(120, changes("emb", {1: 5.0, 7: 8.0}, lacking={"Adam_1": [7]}, **slots)),
    )
    with look(120, chain.directory, drop_unpaired=True) as view:
        held = tables_of(view)
        found = look_up(view, "emb", [7]).rows[0]
    cells = {f"emb/{slot}".rstrip("/"): cell.value.tobytes() for slot, cell in found.cells.items()}
    assert cells == {name: rows[7][0] for name, rows in held.items() if 7 in rows}
    assert found.cells[""].value.tolist() == [8, 8]


def test_what_is_filtered_is_checked_too(tmp_path: Path) -> None:
    rows = table("emb", [1], freqs=2, versions=9, filtered={5: 3})
    chain = build_chain(tmp_path, full(100, rows))
    with look(100, chain.directory) as view:
        part = view.reader.tensors["emb-freqs_filtered"]
        path = view.reader.shard_path(part.shard)
    flip(Path(path), part.offset + 1)
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [5]).rows[0]
        assert (found.state, found.freq) == ("filtered", 259)  # as it is read
        with pytest.raises(TensorChecksumError):
            look_up(view, "emb", [5], check=True)


def test_keys_are_looked_for_in_their_bucket_and_behind_the_last(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(100, table("emb", range(-6000, 6000, 1000), parts=2)))
    keys = [-6000, 5000, 0, 7, 999, 2**63 - 1, -(2**63), -3, 5000]
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", keys)
        assert found.rows[0].key == -6000
        assert [STATES[state] for state in found.state] == [
            "admitted", "admitted", "admitted", *["unknown"] * 5, "admitted",
        ]  # fmt: skip
        assert found.cells[""].values[:3, 0].tolist() == [-6000, 5000, 0]
        with pytest.raises(UsageError, match="beyond int64"):
            look_up(view, "emb", [2**63])
        assert look_up(view, "emb", []).document()["rows"] == []


def test_whole_numbers_stay_whole_in_files(tmp_path: Path) -> None:
    count = Tensor("int64", (2,), np.array([2**53 + 1, -1], "<i8").tobytes())
    chain = build_chain(tmp_path, full(100, {"count": count}))
    with look(100, chain.directory) as view:
        found = look_up(view, "count", [0, 5])
    columns = io.BytesIO()
    write_lookup(found, columns, "parquet")
    rows = pyarrow.parquet.read_table(columns).to_pylist()
    assert [row["value"] for row in rows] == [[2**53 + 1], None]
    assert rows[0]["offset"] == found.rows[0].cells[""].offset
    assert rows[1]["file"] is None


def test_names_that_are_no_utf8_go_into_parquet_as_export_writes_them(tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"r\xff m")
    place.mkdir()
    chain = build_chain(place, full(100, table("emb", [1], slots=("S\udcfe",))))
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1, 2])
    columns = io.BytesIO()
    write_lookup(found, columns, "parquet")
    row, unknown = pyarrow.parquet.read_table(columns).to_pylist()
    assert row["file"] == found.rows[0].cells[""].file.replace("\udcff", r"\udcff")
    assert row[r"S\udcfe"] == [1.25, 1.25]
    assert r"r\udcff m" in row[r"S\udcfe_file"]
    assert unknown["file"] is None


def test_a_slot_of_any_name_goes_into_an_archive(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(100, table("emb", [1])))
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1, 2])
    found.cells["file"] = found.cells.pop("Adagrad")  # np.savez(file, **arrays) refuses this
    packed = io.BytesIO()
    write_lookup(found, packed, "npz")
    packed.seek(0)
    arrays = np.load(packed)
    assert arrays["file"][0].tolist() == [1.25, 1.25]
    assert arrays["offsets"].tolist() == [found.rows[0].cells[""].offset, -1]
    assert arrays["files"].tolist() == [found.rows[0].cells[""].file, ""]


def test_the_history_of_a_key_asked_twice_and_of_a_slot(tmp_path: Path) -> None:
    slow = table("emb", [7]), changes("emb", [7])
    slow[1][1].rows[0] = slow[1][1].rows[0]._replace(value=b"\0" * 8)
    chain = build_chain(tmp_path, full(100, slow[0]), increment(120, slow[1]))
    found = history(str(chain.directory), "emb", [7, 7, 8])
    assert [(m.step, m.kind, m.change) for m in found.keys[7]] == [
        (100, "state", "appeared"), (120, "increment", "changed"), (120, "state", "changed"),
    ]  # fmt: skip
    assert found.keys[7][2].l2 == 0  # it is the slot that changed
    assert found.unknown == [8]


def test_the_history_of_numbers_that_doubles_cannot_tell_apart(tmp_path: Path) -> None:
    emb = table("emb", dim=1, slots=())
    rows = [Row(7, 7, np.array([x], "<i8").tobytes()) for x in (2**60, 2**60 + 100)]
    a, b = (put(emb, value_type="int64", rows=[row]) for row in rows)
    chain = build_chain(tmp_path, full(1, a), full(2, b))
    moment = history(str(chain.directory), "emb", [7]).keys[7][1]
    assert (moment.change, moment.l2, moment.max) == ("changed", 100, 100)


def test_history_names_what_cannot_be_restored(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(100, table("emb", [7])), full(200, table("emb", [7])),
        increment(220, changes("emb", [7])),
    )  # fmt: skip
    next(chain.directory.glob("model.ckpt-200.data*")).unlink()
    found = history(str(chain.directory), "emb", [7])
    missed = {(each.step, each.kind) for each in found.failed}
    assert {(200, "state"), (220, "state")} <= missed
    assert (100, "state") in {(m.step, m.kind) for m in found.keys[7]}


def test_history_names_increments_that_it_may_not_read(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(100, table("emb", [7])), increment(120, changes("emb", [7]))
    )  # fmt: skip
    room = chain.directory / INCREMENTS
    room.chmod(0)
    with as_nobody(chain.directory):
        found = history(str(chain.directory), "emb", [7], upto=100)
    room.chmod(0o755)
    assert [m.step for m in found.keys[7]] == [100]
    assert [(m.step, m.kind, m.prefix, m.damage) for m in found.failed] == [
        (None, "increments", str(room), True)
    ]
    assert "may not read the directory" in found.failed[0].reason
    json.dumps(found.document())


def test_history_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no restore point"):
        history(str(tmp_path), "emb", [7])
    chain = build_chain(tmp_path, full(100, table("emb", [7])))
    with pytest.raises(NotFoundError, match="no checkpoint at step 5") as caught:
        history(str(chain.directory), "emb", [7], upto=5)
    assert "100 can be restored" in caught.value.remedy


@pytest.mark.parametrize("name", ["emb", "flt", "user_f", "i32"])
def test_the_history_of_deeprecs_chain_is_what_deeprec_says(golden: Path, name: str) -> None:
    directory = golden / "deeprec" / "sharded"
    steps = json.loads((directory / "expected.json").read_text())["steps"]
    rows: dict[int, dict[int, list[object]]] = {}
    away: dict[int, dict[int, list[object]]] = {}
    for step, said in steps.items():
        for ev, state in said.get("merged", said["evs"]).items():
            if ev.split("/part_")[0] == name and not ev.rpartition("/")[2].startswith("Ada"):
                own = rows.setdefault(int(step), {}), away.setdefault(int(step), {})
                own[0].update({int(key): row for key, row in state["rows"].items()})
                own[1].update({int(key): row for key, row in state["filtered"].items()})
    keys = sorted({key for own in (*rows.values(), *away.values()) for key in own})
    assert len(keys) > 5
    found = history(str(directory), name, keys)
    assert not found.failed
    for key, moments in found.keys.items():
        told = {each.step: each.row for each in moments if each.kind == "state"}
        assert sorted(told) == sorted(rows)
        for step, row in told.items():
            if key in rows[step]:
                value = row.cells[""].value.tobytes().hex()
                assert [value, row.version, row.freq] == rows[step][key]
            else:
                assert (row.state == "filtered") == (key in away[step])
                assert key not in away[step] or [row.version, row.freq] == away[step][key]


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_each_path_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    chain = build_chain(tmp_path, full(100, table("emb", [1, 2])))
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1, 2, 3])
    screen = _Screen()
    with open_output("get", stdout=screen) as out:
        out.show(RowsView(found))
    text = screen.getvalue()
    assert text.count("model.ckpt-100.data") == 1
    assert f"1:{found.rows[1].cells['Adagrad'].offset}" in text
    assert "not checked against checksums" in text


def test_a_key_that_only_a_slot_brings_is_filtered_no_more(tmp_path: Path) -> None:
    rows = table("emb", [1, 7], lacking={"": [7]}, freqs=1, filtered={7: 1, 8: 1})
    brought = changes("emb", [1, 7], lacking={"": [7]}, freqs=1)
    chain = build_chain(tmp_path, full(100, rows), increment(120, brought))
    with look(120, chain.directory) as view:
        assert filtered_of(view)["emb"] == {8: 1}
        found = look_up(view, "emb", [7, 8]).rows
    assert [row.state for row in found] == ["unknown", "filtered"]
    assert list(found[0].cells) == ["Adagrad"]


def test_a_key_that_is_not_found_is_told_of_with_the_rows_that_a_ps_skips(tmp_path: Path) -> None:
    even, odd = evs = table("emb", range(20), parts=2, slots=())
    pairs = list(zip(even.rows, odd.rows, strict=True))
    even.rows = [row._replace(key=other.key) for row, other in pairs]
    odd.rows = [row._replace(key=other.key) for other, row in pairs]
    chain = build_chain(tmp_path, full(100, evs, table("other", [1])))
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1, 19])
        assert found.unknown == [1, 19]
        assert found.notes == ["emb: 20 rows of the full outside their part or bucket were skipped"]
        assert look_up(view, "other", [1]).unknown == []


def test_a_slot_without_a_row_is_named(tmp_path: Path) -> None:
    evs = table("emb", [1, 7, 8], slots=("Adam", "Adam_1"), lacking={"Adam": [7]})
    chain = build_chain(tmp_path, full(100, evs))
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1])
        assert found.rows[0].document()["slots"].keys() == {"Adam", "Adam_1"}
        assert found.notes == []  # nothing is missing, so no more than the row was read
        found = look_up(view, "emb", [7, 9])
    row, unknown = found.rows
    assert row.document()["slots"]["Adam"] is None
    assert row.document()["slots"]["Adam_1"]["value"] == [7.5, 7.5]
    assert unknown.document()["slots"] == {}
    assert [note for note in found.notes if "#1023" in note]
    text = io.StringIO()
    with open_output("get", stdout=text) as out:
        out.show(RowsView(found))
    lines = [line.split("\t")[:7] for line in text.getvalue().splitlines()]
    assert ["7", "admitted", "Adam", "-", "-", "-", "-"] in lines
    moments = history(str(chain.directory), "emb", [7]).document()["history"]
    assert json.loads(json.dumps(moments))[0]["moments"][0]["row"]["slots"]["Adam"] is None


def sliced(scale: float = 1.0) -> Sliced:
    """Twenty-three rows of one number in twelve slices, listed as names sort: 0, 1, 10, 11, 2."""
    pieces = [
        Piece(((2 * at, min(2, 23 - 2 * at)), (0, 1)), b"".join(
            np.float32(scale * row).tobytes() for row in range(2 * at, min(2 * at + 2, 23))))
        for at in range(12)
    ]  # fmt: skip
    return Sliced("float32", (23, 1), sorted(pieces, key=lambda piece: str(piece.extents)))


def brought(step: int, slot: str, rows: dict[int, list[int]]) -> list[Rows]:
    """Rows of all slices; each number is the step."""
    one = np.float32(step).tobytes()
    return [
        Rows(f"W/part_{at}{slot}", "float32", 1, dict.fromkeys(rows.get(at, ()), one))
        for at in range(12)
    ]


def sliced_chain(home: Path) -> Chain:
    rows = {2: [0], 10: [1], 11: [0, 9]}  # rows 4, 21 and 22, and one that a PS skips
    own = brought(120, "", {2: [0]}), brought(120, "/Adagrad", {2: [0]})
    later = brought(140, "", rows), brought(140, "/Adagrad", rows)
    return build_chain(
        home,
        full(100, {"W": sliced(), "W/Adagrad": sliced(10.0)}),
        increment(120, *own),
        increment(140, *later),
    )


def test_the_history_of_a_variable_in_slices(tmp_path: Path) -> None:
    chain = sliced_chain(tmp_path)
    found = history(str(chain.directory), "W", [4, 21, 22, 5])
    assert not found.failed
    told = {
        key: [(m.step, m.row.cells[""].value.tolist()) for m in own if m.kind == "increment"]
        for key, own in found.keys.items()
    }
    assert told == {4: [(120, [120.0]), (140, [140.0])], 21: [(140, [140.0])],
                    22: [(140, [140.0])], 5: []}  # fmt: skip
    assert list(found.keys[4][1].row.cells) == ["", "Adagrad"]
    assert [m.change for m in found.keys[4]] == ["appeared", *["changed"] * 2, *["changed"] * 2]
    with pytest.raises(NotFoundError):
        history(str(chain.directory), "X", [4])


def test_rows_of_a_slice_in_an_increment_as_it_is(tmp_path: Path) -> None:
    chain = sliced_chain(tmp_path)
    with look(chain.increment_prefix(140)) as view:
        found = look_up(view, "W", [22, 4, 5, 23], check=True)
        assert look_up(view, "W/part_11", [9]).unknown == []
        with pytest.raises(NotFoundError, match="no table 'V'"):
            look_up(view, "V", [1])
    assert found.unknown == [5, 23]
    cell = found.rows[0].cells["Adagrad"]
    assert cell.checkpoint == str(chain.increment_prefix(140))
    with open(cell.file, "rb") as file:
        file.seek(cell.offset)
        assert file.read(4) == np.float32(140).tobytes()


def test_slices_that_no_full_places(tmp_path: Path) -> None:
    chain = sliced_chain(tmp_path)
    for path in chain.directory.glob("model.ckpt-100.*"):
        path.unlink()
    (chain.directory / "checkpoint").unlink()
    with look(chain.increment_prefix(140)) as view:
        with pytest.raises(RefusedError, match="no full") as caught:
            look_up(view, "W", [4])
        assert "W/part_0" in str(caught.value.remedy)


def test_a_variable_that_is_cut_along_columns_is_told_with_what_shows_it(tmp_path: Path) -> None:
    pieces = [Piece(((0, 2), (at, 1)), bytes(8)) for at in range(2)]
    chain = build_chain(tmp_path, full(10, {"cut": Sliced("float32", (2, 2), pieces)}))
    cut = pytest.raises(RefusedError, match="cut inside its rows")
    with look(10, chain.directory) as view, cut as caught:
        look_up(view, "cut", [0])
    assert caught.value.file == str(chain.full_prefix(10))
    assert caught.value.remedy == (
        f"ckptctl export {chain.directory}@10 --table cut -o FILE.npz writes it, "
        f"ckptctl show {chain.directory}@10 --stats --filter cut sums it up"
    )


def test_what_no_export_writes_is_not_sent_to_one(tmp_path: Path) -> None:
    odd = {
        "nul": Tensor("string", (1,), [b"ends with\0"]),
        "text": Tensor("string", (1,), [b"does not"]),
        "x" * 65532: Tensor("string", (1,), [b"a name that no ZIP has room for"]),
    }
    chain = build_chain(tmp_path, full(10, odd))
    told = {}
    with look(10, chain.directory) as view:
        for name in odd:
            with pytest.raises(NotFoundError) as caught:
                look_up(view, name, [0])
            told[name[:4]] = caught.value.remedy
    assert "-o FILE.npz writes them" in told["text"]
    assert "-o DIR writes them" in told["xxxx"]
    assert told["nul"].startswith("no export writes them (a string ends with NUL")


@pytest.mark.parametrize("few", [0, 64])
def test_only_the_buckets_of_the_keys_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(asked, "_GAP", 0)
    monkeypatch.setattr(asked, "_FEW", few)
    evs = table("emb", [5, 1005, 3, 2003, 999, 8])
    for ev in evs:  # behind the last bucket, as older releases put what is new
        ev.rows[-1] = ev.rows[-1]._replace(place=None)
    chain = build_chain(tmp_path, full(100, evs))
    tail = evs[0].rows[-1].key
    with look(100, chain.directory) as view:
        for key in (5, 1005, 2003, 8, 999, tail):
            assert look_up(view, "emb", [key]).rows[0].cells[""].value[0] == key
        assert look_up(view, "emb", [2005, 4, 1999]).unknown == [2005, 4, 1999]


def test_rows_of_no_elements_and_complex_numbers_that_are_none(tmp_path: Path) -> None:
    nan = np.array([complex(np.nan, -np.inf), 1 + 2j], "<c8")
    rows = table("d0", [1, 7], dim=0)
    thin = Tensor("float32", (4, 0), b"")
    wide = {"c": Tensor("complex64", (2,), nan.tobytes()), "thin": thin}
    chain = build_chain(tmp_path, full(100, rows, wide))
    with look(100, chain.directory) as view:
        for name, keys in (("d0", [1, 7]), ("thin", [0, 3])):
            found = look_up(view, name, keys, check=True)
            assert found.unknown == []
            assert [row["value"] for row in found.document()["rows"]] == [[], []]
            write_lookup(found, io.BytesIO(), "csv")
            text = io.StringIO()
            with open_output("get", stdout=text) as out:
                out.show(RowsView(found))
            assert "\t\t" not in text.getvalue()  # which a shell takes for one
        found = look_up(view, "c", [0, 1])
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [row["value"] for row in document["rows"]] == [[["nan", "-inf"]], [[1.0, 2.0]]]
