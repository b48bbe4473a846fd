"""What is exported is what pyarrow, polars, numpy and safetensors load, or nothing at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from safetensors import safe_open

from ckptctl.errors import (
    AmbiguousError,
    NotFoundError,
)
from ckptctl.inspect import tensors, walk
from ckptctl.inspect.export import execute_export, plan_export
from ckptctl.inspect.formats.names import FileNames, file_name
from ckptctl.inspect.formats.npz import LONGEST_NAME
from ckptctl.inspect.lookup import look_up
from ckptctl.running import Runner
from tests.inspect.exports import (
    assert_loaded,
    export,
    load,
    of_npz,
    rich_chain,
    rows_of,
)
from tests.inspect.model import look, tables_in
from tests.oracle.chain import (
    build_chain,
    full,
    table,
)
from tests.oracle.histories import Histories
from tests.oracle.images import Image, Piece, Sliced, Tensor, scalar
from tests.oracle.test_histories import SETTINGS


def test_what_is_loaded_is_the_state(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    plan = export(chain, output)
    assert (plan.skipped, plan.rows) == ((), 70 + 30 + 9)
    assert_loaded(load(output), state)


def test_so_it_is_in_tiny_pieces(
    tmp_path: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walk, "MOST_ROWS", 3)
    chain, state = rich_chain(tmp_path)
    export(chain, output, jobs=1)
    assert_loaded(load(output), state)


class Exporting(Histories):
    """Exports the state at each step."""

    def look_at(self, step: int, state: Image, options: dict[str, object]) -> None:
        output = self.chain.directory.parent / f"{os.urandom(8).hex()}.npz"
        with look(step, self.chain.directory, **options) as view:
            plan = plan_export(view, str(output))
            execute_export(plan, Runner(1))
        found = of_npz(output)
        assert {name: rows_of(found, name) for name in tables_in(state)} == tables_in(state)
        for name, tensor in state.plain.items():
            if not isinstance(tensor, Sliced) and tensor.dtype != "string":
                assert found[name].tobytes() == tensor.data
        output.unlink()


def test_every_history_is_exported_as_the_rules_say() -> None:
    some = settings(SETTINGS, max_examples=max(5, SETTINGS.max_examples // 10))
    run_state_machine_as_test(Exporting, settings=some)


def test_a_bundle_as_it_is(tmp_path: Path, output: Path) -> None:
    """A full, an increment: what lies in the files, nothing applied."""
    chain, _ = rich_chain(tmp_path)
    export(chain, output, chain.full_prefix(10))
    assert_loaded(load(output), chain.fulls[10])
    export(chain, output, chain.increment_prefix(20), tables=["user/emb"], overwrite=True)
    assert sorted(load(output)["user/emb/keys"].tolist()) == list(range(50, 70))


def test_some_tables_and_tensors(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    export(chain, output, tables=["ids", "bias"])
    found = load(output)
    assert found.pop("bias").tolist() == [0, 1, 2]
    state.evs = [ev for ev in state.evs if ev.table == "ids"]
    assert_loaded(found, state, dense=False)
    with pytest.raises(NotFoundError, match="did you mean 'user/emb'"):
        export(chain, tmp_path / "other", tables=["user_emb"])


def test_members_with_keys_of_their_own(tmp_path: Path, output: Path) -> None:
    """DeepRec #1023: a slot lacks keys that the primary has."""
    chain = build_chain(tmp_path, full(10, table("emb", range(9), lacking={"Adagrad": [3, 4]})))
    export(chain, output)
    found = load(output)
    assert sorted(found["emb/keys"].tolist()) == list(range(9))
    assert sorted(found["emb/Adagrad/keys"].tolist()) == [0, 1, 2, 5, 6, 7, 8]


def test_a_row_group_is_a_range_of_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "MOST_ROWS", 10)
    chain = build_chain(tmp_path, full(10, table("emb", range(100), slots=())))
    export(chain, tmp_path / "out")
    file = pq.ParquetFile(tmp_path / "out" / "emb.parquet")
    assert file.num_row_groups == 10
    metadata = {key.decode(): text.decode() for key, text in file.schema_arrow.metadata.items()}
    assert metadata["ckptctl.member"] == "emb"
    assert metadata["ckptctl.step"] == "10"
    assert metadata["ckptctl.version"]


def test_bfloat16_is_a_type_of_safetensors_and_bits_elsewhere(tmp_path: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    assert export(chain, tmp_path / "a.safetensors", tables=["brain"]).notes == ()
    with safe_open(tmp_path / "a.safetensors", "np") as loaded:
        assert loaded.get_slice("brain").get_dtype() == "BF16"
    (tmp_path / "a.safetensors").unlink()
    plan = export(chain, tmp_path / "a.npz", tables=["brain"])
    assert plan.notes == ("brain: the bits of bfloat16 as uint16",)


# --- strings, and what a format has no place for --------------------------------------


def strings(*values: bytes) -> dict[str, Tensor]:
    return {"words": Tensor("string", (len(values),), list(values))}


def test_strings_are_bytes_in_numpy(tmp_path: Path) -> None:
    words = [b"", b"a", "ä\0b".encode()]
    chain = build_chain(tmp_path, full(10, strings(*words)))
    for output in (tmp_path / "out.npz", tmp_path / "out"):
        export(chain, output)
        assert load(output)["words"].tolist() == words
        output.rename(tmp_path / "chain" / output.name)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(
            10,
            strings(b"ends with\0"),
            {"wide": Tensor("complex128", (1,), bytes(16))},
        ),
    )
    plan = export(chain, tmp_path / "out.npz")
    assert [each.name for each in plan.skipped] == ["words"]
    assert "NUL" in plan.skipped[0].reason
    (tmp_path / "out.npz").unlink()
    plan = export(chain, tmp_path / "out.safetensors")
    assert [each.name for each in plan.skipped] == ["wide", "words"]
    assert set(load(tmp_path / "out.safetensors")) == {"global_step"}


@pytest.mark.parametrize("output", ["out", "out.npz", "out.safetensors"])
def test_nothing_takes_no_room_however_long_it_would_be(tmp_path: Path, output: str) -> None:
    shapes = {"a": (1 << 60, 0), "b": (1 << 30, 0, 1 << 30), "c": (0, 1 << 60)}
    chain = build_chain(
        tmp_path, full(10, {n: Tensor("float32", s, b"") for n, s in shapes.items()})
    )
    plan = export(chain, tmp_path / output)
    assert plan.skipped == ()
    assert plan.bytes_to_write < 1 << 20
    assert {each["name"] for each in plan.contents()} == {*shapes, "global_step"}


# --- names ----------------------------------------------------------------------------


def test_a_name_that_a_zip_has_no_room_for_is_left_out(tmp_path: Path) -> None:
    longest, longer = "x" * LONGEST_NAME, "y" * (LONGEST_NAME + 1)
    one = scalar("int64", 1)
    chain = build_chain(tmp_path, full(10, {longest: one, longer: one}))
    plan = export(chain, tmp_path / "out.npz")
    (skipped,) = plan.skipped
    assert skipped.name == longer
    assert f"{LONGEST_NAME + 1} bytes" in skipped.reason
    assert set(load(tmp_path / "out.npz")) == {longest, "global_step"}
    (tmp_path / "out.npz").unlink()
    assert export(chain, tmp_path / "out.safetensors").skipped == ()


def test_names_of_files_are_portable_and_one_each() -> None:
    assert file_name("a/b c_D.é") == "a%2Fb%20c_D.%C3%A9"
    assert file_name("..") == "%2E."
    assert file_name("-x") == "%2Dx"
    long = [file_name("x" * 300 + end) for end in "ab"]
    assert long[0] != long[1]
    assert all(len(name) <= 200 for name in long)


def test_case_makes_no_difference_to_some_disks() -> None:
    names = FileNames(["taken.npy"])
    given = [names.give(name, ".npy") for name in ("a", "A", "TAKEN", "a")]
    assert given == ["a.npy", "A-2.npy", "TAKEN-2.npy", "a-3.npy"]


def test_names_that_differ_by_case_or_look_like_ours(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(
            10,
            table("emb", range(3), slots=(), filtered=[7]),
            table("EMB", range(4), slots=()),
            table("emb.filtered", range(5), slots=()),
        ),
    )
    plan = export(chain, tmp_path / "out")
    assert len({name.casefold() for name in plan.files}) == len(plan.files)
    found = load(tmp_path / "out")
    for name, rows in (("emb", 3), ("EMB", 4), ("emb.filtered", 5)):
        assert len(found[f"{name}/keys"]) == rows
    assert found["emb/keys_filtered"].tolist() == [7]


def test_names_that_are_no_text(tmp_path: Path, output: Path) -> None:
    chain = build_chain(
        tmp_path, full(10, table("t\udcff", range(3), slots=()), {"x\udcfe": scalar("int64", 1)})
    )
    export(chain, output)
    names = ("t\udcff/keys", "x\udcfe") if output.is_dir() else ("t%FF/keys", "x%FE")
    assert [load(output)[name].tolist() for name in names] == [[0, 1, 2], 1]


@pytest.mark.parametrize("name", ["x\udcfe", "x\0y", "x"])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_the_manifest_names_what_is_in_the_file(tmp_path: Path, name: str, suffix: str) -> None:
    things = [table(f"t{name}", range(3), filtered={7: 1}), {name: scalar("int64", 1)}]
    output = tmp_path / f"out.{suffix}"
    plan = export(build_chain(tmp_path, full(10, *things)), output)
    contents: Any = plan.manifest()["contents"]
    assert {own for each in contents for own in each["names"].values()} == set(load(output))


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "uint2"])
def test_integers_of_less_than_a_byte_have_their_values(
    tmp_path: Path, output: Path, dtype: str
) -> None:
    """TensorFlow's int4 has 0x0f for -1, and reads the lower bits of any byte."""
    codes = bytes([0, 1, 2, 3, 7, 8, 0x0F, 0xFF, 0xF7])
    bits, signed = int(dtype[-1]), dtype[0] == "i"
    low = [code % (1 << bits) for code in codes]
    values = [code - (1 << bits) if signed and code >> (bits - 1) else code for code in low]
    own = [
        row._replace(value=codes[at : at + 1])
        for at, row in enumerate(table("emb", range(9), dim=1, slots=())[0].rows)
    ]
    emb = replace(table("emb", range(9), dim=1, slots=())[0], rows=own, value_type=dtype)
    chain = build_chain(tmp_path, full(10, [emb], {"x": Tensor(dtype, (9,), codes)}))
    export(chain, output)
    found = load(output)
    assert found["x"].dtype == found["emb/values"].dtype == ("int8" if signed else "uint8")
    assert found["x"].tolist() == values
    with look(10, chain.directory) as view:
        for name, keys in (("emb", found["emb/keys"]), ("x", range(9))):
            rows = look_up(view, name, keys).cells[""].values.reshape(-1).tolist()
            assert found["x" if name == "x" else "emb/values"].reshape(-1).tolist() == rows


def test_a_tensor_too_large_to_be_put_together_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [Piece(((0, 2), (at, 1)), np.arange(2, dtype="<f4").tobytes()) for at in (0, 1)]
    chain = build_chain(tmp_path, full(10, {"cut": Sliced("float32", (2, 2), columns)}))
    export(chain, tmp_path / "out.npz")
    assert load(tmp_path / "out.npz")["cut"].tolist() == [[0, 0], [1, 1]]
    monkeypatch.setattr(tensors, "_MOST_BYTES", 8)
    plan = export(chain, tmp_path / "out.npz", overwrite=True)
    assert [each.name for each in plan.skipped] == ["cut"]


@pytest.mark.parametrize("names", [("emb/keys",), ("x", "x.npy")])
def test_two_arrays_of_one_name_are_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    things = {name: scalar("int64", 1) for name in names}
    chain = build_chain(tmp_path, full(10, table("emb", range(3)), things))
    with pytest.raises(AmbiguousError):
        export(chain, tmp_path / "out.npz")
    export(chain, tmp_path / "out")


def test_the_same_state_gives_the_same_bytes(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    export(chain, output, jobs=1)
    first = contents(output)
    export(chain, output, jobs=4, overwrite=True)
    assert contents(output) == first


def contents(output: Path) -> Mapping[str, bytes]:
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    return {path.name: path.read_bytes() for path in files}
