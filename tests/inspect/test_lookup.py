"""`get` equals the dict model at every step, and says where each row stands."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis.stateful import run_state_machine_as_test

from ckptctl.bundle import BundleReader
from ckptctl.errors import AmbiguousError, NotFoundError, TensorChecksumError
from ckptctl.inspect.history import history
from ckptctl.inspect.lookup import Cell, look_up
from ckptctl.inspect.lookup_files import FileFormat, write_lookup
from ckptctl.inspect.lookup_rows import in_words
from tests.inspect.model import filtered_in, look, tables_in
from tests.inspect.test_views import SOME
from tests.oracle.chain import Chain, build_chain, changes, flip, full, increment, table
from tests.oracle.histories import Histories
from tests.oracle.images import Image, Rows, floats


def stands_there(cell: Cell) -> bool:
    """Return whether the file holds the value where the answer says."""
    with open(cell.file, "rb") as file:
        file.seek(cell.offset)
        return file.read(cell.value.nbytes) == cell.value.tobytes()


class Asking(Histories):
    """Before each merge, asks for keys that are there and keys that are not."""

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        rows, away = tables_in(state), filtered_in(state)
        with look(step, self.chain.directory, **options) as view:
            for own in view.tables:
                members = {slot: name for name, slot, _ in own.shapes}
                keys = [*rows[own.name], *away[own.name], 4, 123456, -2000]
                answer = look_up(view, own.name, keys, check=True)
                assert look_up(view, own.name, keys).document()["rows"] == answer.document()["rows"]
                for found in answer.rows:
                    key = found.key
                    if key in rows[own.name]:
                        value, freq, version = rows[own.name][key]
                        assert found.state == "admitted"
                        assert (found.freq, found.version) == (freq, version)
                        assert found.cells[""].value.tobytes() == value
                    else:
                        assert found.state == ("filtered" if key in away[own.name] else "unknown")
                    for slot, cell in found.cells.items():
                        assert cell.value.tobytes() == rows[members[slot]][key][0]
                        assert stands_there(cell)
                    has = {slot for slot, name in members.items() if key in rows[name]}
                    assert set(found.cells) == has


def test_rows_are_what_the_rules_say() -> None:
    run_state_machine_as_test(Asking, settings=SOME)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    var = {"var": floats(*range(12), shape=(6, 2)), "var/Adagrad": floats(*range(12), shape=(6, 2))}
    one = {n: np.full(2, 50 + n, "<f4").tobytes() for n in (1, 4)}
    keep = {"var/Adagrad": var["var/Adagrad"]}
    return build_chain(
        tmp_path,
        full(100, table("emb", {1: 1.0, 7: 7.0}, freqs=2, versions=9, filtered={5: 1}), var),
        increment(120, changes("emb", {7: 8.0}, freqs=3, versions=11), keep,
                  Rows("var", "float32", 2, one)),
        increment(140, changes("emb", {5: 5.0, 7: 8.0}, freqs=4, versions=12), keep,
                  Rows("var", "float32", 2, one)),
    )  # fmt: skip


def test_rows_of_a_variable_and_its_slot(chain: Chain) -> None:
    with look(140, chain.directory) as view:
        found = look_up(view, "var", [1, 2, 9], check=True)
    first, second, beyond = found.rows
    assert first.cells[""].value.tolist() == [51, 51]
    assert first.cells[""].checkpoint == str(chain.increment_prefix(140))
    assert second.cells["Adagrad"].value.tolist() == [4, 5]
    assert all(stands_there(cell) for row in (first, second) for cell in row.cells.values())
    assert (beyond.state, found.unknown) == ("unknown", [9])


def test_an_increment_as_it_is(chain: Chain) -> None:
    with look(chain.increment_prefix(120)) as view:
        emb = look_up(view, "emb", [7, 1], check=True)
        var = look_up(view, "var", [4, 5])
    assert [row.state for row in emb.rows] == ["admitted", "unknown"]
    assert (emb.rows[0].freq, emb.rows[0].version) == (3, 11)
    assert emb.rows[0].cells["Adagrad"].value.tolist() == [8.25, 8.25]
    assert var.rows[0].cells[""].value.tolist() == [54, 54]


def test_the_history_of_keys(chain: Chain) -> None:
    found = history(str(chain.directory), "emb", [7, 5, 3])
    told = {key: [(m.step, m.kind, m.change) for m in own] for key, own in found.keys.items()}
    assert told == {
        7: [(100, "state", "appeared"), (120, "increment", "changed"), (120, "state", "changed"),
            (140, "increment", "unchanged"), (140, "state", "unchanged")],
        5: [(100, "state", "filtered"), (120, "state", "unchanged"),
            (140, "increment", "admitted"), (140, "state", "admitted")],
        3: [(100, "state", "absent"), (120, "state", "absent"), (140, "state", "absent")],
    }  # fmt: skip
    moment = found.keys[7][2]
    assert (moment.l2, moment.max, moment.freq, moment.version) == (2**0.5, 1.0, 1, 2)
    json.dumps(found.document(), allow_nan=False)
    assert [m.step for m in history(str(chain.directory), "emb", [7], upto=100).keys[7]] == [100]


def test_a_step_that_is_damaged_does_not_stop_the_history(chain: Chain) -> None:
    flip(next(chain.directory.glob(".incremental_checkpoint/*-120.data*")), 4004)
    found = history(str(chain.directory), "emb", [7])
    assert {each.step for each in found.failed} == {120, 140}
    assert [moment.step for moment in found.keys[7]] == [100, 140]


def test_damage_in_the_keys_of_a_full_does_not_stop_the_history(tmp_path: Path) -> None:
    fulls = full(100, table("emb", [1, 7])), full(200, table("emb", [7]))
    chain = build_chain(tmp_path, fulls[0], increment(120, changes("emb", [7])), fulls[1])
    with BundleReader(str(chain.full_prefix(100))) as reader:
        keys = reader.tensors["emb-keys"]
        flip(Path(reader.shard_path(keys.shard)), keys.offset)
    found = history(str(chain.directory), "emb", [7])
    assert {(each.step, each.damage) for each in found.failed} == {(100, True), (120, True)}
    assert [(moment.step, moment.kind) for moment in found.keys[7]] == [
        (120, "increment"), (200, "state"),
    ]  # fmt: skip


def test_only_what_is_checked_is_vouched_for(chain: Chain) -> None:
    with look(100, chain.directory) as view:
        cell = look_up(view, "emb", [1]).rows[0].cells[""]
    flip(Path(cell.file), cell.offset + 8)  # the row of another key
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [1])
        assert not found.checked
        with pytest.raises(TensorChecksumError):
            look_up(view, "emb", [1], check=True)


def test_deeprecs_own_chain(golden: Path) -> None:
    with look(180, golden / "deeprec" / "sharded") as view:
        for own in view.tables:
            keys = [key for part in own.primary.parts for key in _keys(part)]
            found = look_up(view, own.name, keys, check=True)
            assert found.unknown == []
            assert all(stands_there(c) for row in found.rows for c in row.cells.values())


def _keys(part: Any) -> list[int]:
    column = part.column("keys")
    raw = column.read(0, column.rows)
    return raw.view(column.entry.dtype.numpy).reshape(-1).tolist()


def test_names_that_are_not_there(chain: Chain) -> None:
    with look(100, chain.directory) as view:
        with pytest.raises(NotFoundError, match="did you mean emb"):
            look_up(view, "embb", [1])
        with pytest.raises(NotFoundError, match="'global_step' is one int64") as caught:
            look_up(view, "global_step", [1])
    assert caught.value.remedy == f"ckptctl get global_step --upto {chain.directory}@100 shows it"


def test_files_hold_what_was_found(chain: Chain) -> None:
    with look(100, chain.directory) as view:
        found = look_up(view, "emb", [7, 5, 3])
    text = io.BytesIO()
    write_lookup(found, text, "csv")
    lines = list(csv.DictReader(io.StringIO(text.getvalue().decode())))
    assert [line["state"] for line in lines] == ["admitted", "filtered", "unknown"]
    assert (lines[0]["value_1"], lines[0]["Adagrad_0"], lines[2]["freq"]) == ("7.0", "7.25", "")
    packed = io.BytesIO()
    write_lookup(found, packed, "npz")
    packed.seek(0)
    arrays = np.load(packed, allow_pickle=False)
    assert arrays["keys"].tolist() == [7, 5, 3]
    assert arrays["freqs"].tolist() == [2, 1, -1]
    assert arrays["values"][0].tolist() == [7, 7]
    columns = io.BytesIO()
    write_lookup(found, columns, "parquet")
    columns.seek(0)
    rows = pyarrow.parquet.read_table(columns).to_pylist()
    assert [row["value"] for row in rows] == [[7, 7], None, None]
    assert [row["version"] for row in rows] == [9, 9, None]


@pytest.mark.parametrize(
    ("slot", "name"), [("Ada\udcff", "Ada%FF"), ("A\0da", "A%00da"), ("file", "file")]
)
def test_a_slot_whose_name_is_no_text(tmp_path: Path, slot: str, name: str) -> None:
    chain = build_chain(tmp_path, full(1, table("emb", [2, 3], slots=(slot,))))
    packed = io.BytesIO()
    with look(1, chain.directory) as view:
        write_lookup(look_up(view, "emb", [3]), packed, "npz")
    packed.seek(0)
    arrays = np.load(packed, allow_pickle=False)
    assert {name, f"{name}_files", f"{name}_offsets"} <= set(arrays.files)
    assert arrays[name].tolist() == [[3.25, 3.25]]


def test_two_slots_that_an_archive_cannot_tell_apart(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(1, table("emb", [2], slots=("A\udcff", "A%FF"))))
    with look(1, chain.directory) as view, pytest.raises(AmbiguousError, match="'A%FF'"):
        write_lookup(look_up(view, "emb", [2]), io.BytesIO(), "npz")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "<c8", "<i8", "?"])
def test_words_give_numbers_back(dtype: str) -> None:
    raw = np.random.default_rng(1).integers(0, 256, 64 * np.dtype(dtype).itemsize, np.uint8)
    values = np.frombuffer(raw.tobytes(), dtype) if dtype != "?" else raw.astype(bool)
    values = values[np.isfinite(values)]
    words = in_words(values)
    if dtype == "?":
        assert set(words) == {"True", "False"} or set(words) == {"True"}
    else:
        assert np.array(words, dtype).tobytes() == values.tobytes()
    if values.dtype.kind == "f":
        longest = {2: 5, 4: 9, 8: 17}[values.dtype.itemsize]
        digits = (word.partition("e")[0].replace(".", "").strip("-0") for word in words)
        assert max(map(len, digits)) <= longest


@pytest.mark.parametrize("kind", ["csv", "npz", "parquet"])
@pytest.mark.parametrize("slot", ["key", "value", "file", "keys", "values", "state", "value_0"])
def test_a_slot_with_the_name_of_a_column(tmp_path: Path, slot: str, kind: FileFormat) -> None:
    """No column takes the place of another."""
    chain = build_chain(tmp_path, full(1, table("emb", [2, 3], slots=(slot,), freqs=1)))
    buffer = io.BytesIO()
    with look(1, chain.directory) as view:
        found = look_up(view, "emb", [2, 3])
    fixed = {"csv": ["value"], "npz": ["keys", "values", "state"]}
    if slot in fixed.get(kind, ["key", "value", "state", "file"]):
        with pytest.raises(AmbiguousError, match=f"would be called '{slot}"):
            write_lookup(found, buffer, kind)
        assert not buffer.getvalue()
        return
    write_lookup(found, buffer, kind)
    buffer.seek(0)
    if kind == "csv":
        names = buffer.read().decode().splitlines()[0].split(",")
        assert len(names) == len(set(names)) == 12
    elif kind == "npz":
        arrays = np.load(buffer)
        assert len(arrays.files) == 10
        assert (arrays["keys"].tolist(), arrays["values"].tolist()) == ([2, 3], [[2, 2], [3, 3]])
    else:
        read = pyarrow.parquet.read_table(buffer).to_pydict()
        assert len(read) == 10
        assert (read["key"], read["value"]) == ([2, 3], [[2, 2], [3, 3]])
