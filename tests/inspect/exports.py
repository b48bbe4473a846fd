"""Chains to export, exporting them, and what pyarrow, polars, numpy and safetensors load."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow.parquet as pq
from safetensors import safe_open

from ckptctl.inspect.export import ExportPlan, execute_export, plan_export
from ckptctl.running import Runner
from tests.inspect.model import Table, filtered_in, look, tables_in
from tests.oracle.chain import (
    Chain,
    build_chain,
    changes,
    full,
    increment,
    put,
    table,
)
from tests.oracle.images import Image, Piece, Sliced, Tensor, scalar

ROOT = Path(__file__).parents[2]


def rich_chain(tmp_path: Path) -> tuple[Chain, Image]:
    """Slots, parts, int32 keys, filtered keys, nothing at all, slices, odd types and names."""
    dense = {
        "bias": Tensor("float64", (3,), np.arange(3.0).tobytes()),
        "half": Tensor("float16", (2, 2), np.arange(4, dtype="<f2").tobytes()),
        "brain": Tensor("bfloat16", (2,), b"\x80\x3f\x00\x40"),
        "small": Tensor("float8_e5m2", (2,), b"\x3c\x40"),
        "flag": Tensor("bool", (), b"\1"),
        "none": Tensor("float32", (0, 4), b""),
        "rows": Sliced(
            "float32",
            (4, 2),
            [
                Piece(((2, 2), (0, 2)), np.arange(4, 8, dtype="<f4").tobytes()),
                Piece(((0, 2), (0, 2)), np.arange(4, dtype="<f4").tobytes()),
            ],
        ),
        "odd/../näme %": scalar("int64", 7),
    }
    base = full(
        10,
        table("user/emb", range(60), parts=2, slots=("Adam", "Adam_1"), freqs=3, versions=5),
        table("ids", range(30), dim=3, key_type="int32", slots=(), filtered={500: 2, 501: 1}),
        table("void", (), slots=("Adagrad",)),
        table("brains", range(9), dim=3, slots=(), value_type="bfloat16"),
        dense,
    )
    # Two bytes an element, not four.
    base.evs = [
        put([ev], rows=[row._replace(value=row.value[:6]) for row in ev.rows])[0]
        if ev.table == "brains"
        else ev
        for ev in base.evs
    ]
    news = increment(
        20,
        changes(
            "user/emb",
            dict.fromkeys(range(50, 70), 0.5),
            parts=2,
            slots=("Adam", "Adam_1"),
            freqs=9,
            versions=20,
        ),
        changes("ids", {}, dim=3, key_type="int32", slots=()),
        changes("void", {}, slots=("Adagrad",)),
        changes("brains", {}, dim=3, slots=(), value_type="bfloat16"),
        dense,
    )
    chain = build_chain(tmp_path, base, news)
    return chain, chain.expect(10, 20)


def noisy_chain(tmp_path: Path, rows: int) -> Chain:
    """A table that no compression makes smaller."""
    noise = np.random.default_rng(1)
    evs = [
        put([ev], rows=[row._replace(value=noise.bytes(64)) for row in ev.rows])[0]
        for ev in table("emb", range(rows), slots=(), dim=16)
    ]
    return build_chain(tmp_path, full(10, evs))


def export(chain: Chain, output: Path, target: object = "latest", **options: Any) -> ExportPlan:
    jobs = options.pop("jobs", 2)
    with look(target, chain.directory) as view:
        plan = plan_export(view, str(output), **options)
        result = execute_export(plan, Runner(jobs))
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    assert (
        result.bytes
        == sum(path.stat().st_size for path in files)
        <= plan.bytes_to_write + (1 << 16 if output.is_dir() else 0)
    )
    assert len(files) == result.files
    assert leavings(output) == set()
    return plan


def leavings(output: Path) -> set[str]:
    """Names beside an export that are neither it nor the chain."""
    return {path.name for path in output.parent.iterdir()} - {output.name, "chain", "disk"}


# --- the loaders ----------------------------------------------------------------------


def of_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
    with np.load(path, allow_pickle=False) as loaded:
        found = {name: loaded[name] for name in loaded.files}
    assert json.loads(found.pop("_ckptctl_export").tobytes())["format"] == "npz"
    return found


def of_safetensors(path: Path) -> dict[str, np.ndarray]:
    found = {}
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    with safe_open(path, "np") as loaded:
        assert json.loads(loaded.metadata()["_ckptctl_export"])["format"] == "safetensors"
        for name in loaded.keys():  # noqa: SIM118 (it is no mapping)
            if loaded.get_slice(name).get_dtype() in ("BF16", "F8_E5M2"):
                # NumPy has no such types; safetensors has checked the places.
                begin, end = header[name]["data_offsets"]
                raw = path.read_bytes()[8 + length :][begin:end]
                kind = "<u2" if header[name]["dtype"] == "BF16" else "u1"
                found[name] = np.frombuffer(raw, kind).reshape(header[name]["shape"])
            else:
                found[name] = loaded.get_tensor(name)
    return found


def of_pyarrow(path: Path) -> dict[str, np.ndarray]:
    found = {}
    words = {"key": "keys", "value": "values", "freq": "freqs", "version": "versions"}
    manifest = json.loads((path / "_ckptctl_export.json").read_text())
    for each in manifest["contents"]:
        if each["kind"] == "tensor":
            found[each["name"]] = np.load(path / each["file"], allow_pickle=False)
            continue
        read = pq.read_table(path / each["file"])
        said = each["table"].encode("utf-8", "backslashreplace")
        assert read.schema.metadata[b"ckptctl.table"] == said
        end = "_filtered" if each["kind"] == "filtered" else ""
        for name in read.column_names:
            column = read[name].combine_chunks()
            if name == "value":
                array = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
            else:
                array = column.to_numpy()
            found[f"{each['name']}/{words[name]}{end}"] = array
    return found


def of_polars(path: Path) -> dict[str, np.ndarray]:
    found = of_pyarrow(path)
    for each in json.loads((path / "_ckptctl_export.json").read_text())["contents"]:
        if each["kind"] == "member":
            read = polars.read_parquet(path / each["file"])
            assert read["key"].to_list() == found[f"{each['name']}/keys"].tolist()
            values = found[f"{each['name']}/values"]
            assert read["value"].dtype.shape == (values.shape[1],)
            assert read["value"].to_list() == values.tolist()
    return found


LOADERS = {"npz": of_npz, "safetensors": of_safetensors, "parquet": of_polars}


def assert_loaded(found: dict[str, np.ndarray], image: Image, dense: bool = True) -> None:
    """Fail unless the arrays are what an image says."""
    found = dict(found)
    keys = {ev.member: ev.key_type for ev in image.evs}
    for member, expected in tables_in(image).items():
        assert found[f"{member}/keys"].dtype == keys[member]
        assert rows_of(found, member) == expected
    for member, expected in filtered_in(image).items():
        if expected and all(ev.slot == "" for ev in image.evs if ev.member == member):
            away = found.pop(f"{member}/keys_filtered").tolist()
            freqs = found.pop(f"{member}/freqs_filtered").tolist()
            found.pop(f"{member}/versions_filtered", None)
            assert dict(zip(away, freqs, strict=True)) == expected
    if not dense:
        assert found == {}
        return
    for name, tensor in image.plain.items():
        array = found.pop(name)
        assert array.shape == tensor.shape
        if isinstance(tensor, Sliced):
            assert array.tolist() == np.arange(8).reshape(4, 2).tolist()
        else:
            assert array.tobytes() == tensor.data
    assert found == {}


def rows_of(found: dict[str, np.ndarray], member: str) -> Table:
    """Take the arrays of a member out, and return its rows."""
    keys, values = found.pop(f"{member}/keys"), found.pop(f"{member}/values")
    none = [None] * len(keys)
    freqs = found.pop(f"{member}/freqs", None)
    versions = found.pop(f"{member}/versions", None)
    rows = zip(
        keys.tolist(),
        values,
        none if freqs is None else freqs.tolist(),
        none if versions is None else versions.tolist(),
        strict=True,
    )
    read = {key: (row.tobytes(), freq, version) for key, row, freq, version in rows}
    assert len(read) == len(keys), "no key twice"
    return read


def load(output: Path) -> dict[str, np.ndarray]:
    return LOADERS["parquet" if output.is_dir() else output.suffix[1:]](output)
