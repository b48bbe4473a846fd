"""What is exported is what pyarrow, polars, numpy and safetensors load, or nothing at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from safetensors import safe_open

from ckptctl.commands.failures import describe
from ckptctl.errors import (
    AmbiguousError,
    ExistsError,
    NoSpaceError,
    NotFoundError,
    TensorChecksumError,
    UsageError,
)
from ckptctl.inspect import tensors, walk
from ckptctl.inspect.export import ExportPlan, execute_export, plan_export
from ckptctl.inspect.formats.names import FileNames, file_name
from ckptctl.running import Runner
from tests.inspect.model import Table, filtered_in, look, tables_in
from tests.merge.storages import Small
from tests.oracle.chain import (
    Chain,
    build_chain,
    changes,
    flip,
    full,
    increment,
    put,
    table,
)
from tests.oracle.histories import Histories
from tests.oracle.images import Image, Piece, Sliced, Tensor, scalar
from tests.oracle.test_histories import SETTINGS

FORMATS = {"parquet": "out", "npz": "out.npz", "safetensors": "out.safetensors"}
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=FORMATS)
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path to export to, its suffix the format."""
    return tmp_path / FORMATS[request.param]


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


# --- names ----------------------------------------------------------------------------


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


# --- nothing half done ----------------------------------------------------------------


def test_damage_leaves_nothing(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    shard = Path(f"{chain.full_prefix(10)}.data-00000-of-00001")
    with look(10, chain.directory) as view:
        member = view.table("user/emb").primary
        entry = view.reader.entry("user/emb/part_1-values")
        assert member.rows
    flip(shard, entry.offset + entry.size - 1)
    with pytest.raises(TensorChecksumError, match="user/emb/part_1-values"):
        export(chain, output)
    assert not output.exists()
    assert leavings(output) == set()


def test_too_little_space_is_refused_before_the_first_byte(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view, pytest.raises(NoSpaceError):
        plan_export(view, str(output), storage=Small(1000))
    assert leavings(output) == set()


def test_a_file_that_grows_too_large(tmp_path: Path, output: Path) -> None:
    chain = noisy_chain(tmp_path, 4000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            export(chain, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert describe(caught.value).code == 12
    assert not output.exists()
    assert leavings(output) == set()


@pytest.mark.parametrize("name", FORMATS.values())
def test_a_disk_that_fills_up_after_the_plan(tmp_path: Path, disk: Path, name: str) -> None:
    chain = noisy_chain(tmp_path, 30_000)
    with look(10, chain.directory) as view:
        plan = plan_export(view, str(disk / name))
        status = os.statvfs(disk)
        with open(disk / "filler", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - (1 << 20))
        with pytest.raises(OSError, match="No space left") as caught:
            execute_export(plan, Runner(2))
    assert describe(caught.value).code == 12
    assert {path.name for path in disk.iterdir()} == {"filler"}


KILLED = """
import os, signal, sys
from ckptctl.inspect import export
from ckptctl.inspect.target import find_target
from ckptctl.inspect.view import open_view
from ckptctl.storage import LocalStorage

class Mortal(LocalStorage):
    def fsync_dir(self, directory):
        os.kill(os.getpid(), signal.SIGKILL)
    def rename_new(self, source, destination):
        os.kill(os.getpid(), signal.SIGKILL)

with open_view(find_target("latest", sys.argv[1])) as view:
    plan = export.plan_export(view, sys.argv[2])
    export.execute_export(plan, storage=Mortal())
"""


def test_one_that_is_killed_leaves_a_temporary_alone(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(chain.directory), str(output)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    (left,) = leavings(output)
    assert left.startswith(f"{output.name}.ckptctl-")
    assert left.endswith(".tmp")
    assert not output.exists()
    with look("latest", chain.directory) as view:
        execute_export(plan_export(view, str(output)))
    assert_loaded(load(output), state)


class Interrupting:
    """Progress that ends like Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.left = after

    def start(self, phase: str, total: int | None = None) -> None:
        self.writing = phase == "writing"

    def advance(self, done: int) -> None:
        if self.writing:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    def finish(self) -> None: ...


def test_one_that_is_interrupted_leaves_nothing(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view:
        plan = plan_export(view, str(output))
        with pytest.raises(KeyboardInterrupt):
            execute_export(plan, Runner(2, progress=Interrupting(4)))  # type: ignore[arg-type]
    assert not output.exists()
    assert leavings(output) == set()


# --- what lies there already ----------------------------------------------------------


def test_what_exists_is_replaced_on_demand_alone(tmp_path: Path, output: Path) -> None:
    chain, state = rich_chain(tmp_path)
    export(chain, output, tables=["ids"])
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    with pytest.raises(ExistsError):
        export(chain, output)
    assert {path: path.stat().st_ino for path in output.rglob("*")} == before
    export(chain, output, overwrite=True)
    assert_loaded(load(output), state)


def strange(output: Path, kind: str) -> None:
    if kind == "a file of someone else's":
        (output / "notes.txt").write_text("mine")
    elif kind == "one among the tensors":
        (output / "tensors" / "notes.txt").write_text("mine")
    elif kind == "a link":
        (output / "ids.parquet").unlink()
        (output / "ids.parquet").symlink_to("/etc/passwd")
    elif kind == "no manifest":
        (output / "_ckptctl_export.json").unlink()
    elif kind == "another's manifest":
        (output / "_ckptctl_export.json").write_text('{"files": []}')
    elif kind == "a broken manifest":
        (output / "_ckptctl_export.json").write_text("[")


@pytest.mark.parametrize(
    "kind",
    [
        "a file of someone else's",
        "one among the tensors",
        "a link",
        "no manifest",
        "another's manifest",
        "a broken manifest",
    ],
)
def test_a_directory_that_is_not_ours_is_never_replaced(tmp_path: Path, kind: str) -> None:
    chain, _ = rich_chain(tmp_path)
    output = tmp_path / "out"
    export(chain, output, tables=["ids", "bias"])
    strange(output, kind)
    before = sorted(path.name for path in output.rglob("*"))
    with pytest.raises(ExistsError, match="only a former export"):
        export(chain, output, overwrite=True)
    assert sorted(path.name for path in output.rglob("*")) == before


def test_nothing_of_another_kind_is_replaced(tmp_path: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "room.npz").mkdir()
    (tmp_path / "link.npz").symlink_to("file")
    for name in ("file", "room.npz", "link.npz"):
        with pytest.raises(ExistsError, match="only a former export"):
            export(chain, tmp_path / name, overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("appears", ["file", "directory"])
def test_what_comes_to_lie_there_meanwhile_stays(
    tmp_path: Path, output: Path, appears: str
) -> None:
    chain, _ = rich_chain(tmp_path)
    with look("latest", chain.directory) as view:
        plan = plan_export(view, str(output))
        output.mkdir() if appears == "directory" else output.write_text("mine")
        with pytest.raises(ExistsError):
            execute_export(plan)
    assert output.is_dir() if appears == "directory" else output.read_text() == "mine"
    assert leavings(output) == set()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("checkpoint", UsageError),
        ("x.index", UsageError),
        ("x.data-00000-of-00001", UsageError),
        ("nowhere/x.npz", NotFoundError),
        ("..", UsageError),
    ],
)
def test_where_no_export_goes(tmp_path: Path, name: str, error: type[Exception]) -> None:
    chain, _ = rich_chain(tmp_path)
    with pytest.raises(error):
        export(chain, tmp_path / name, overwrite=True)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path, output: Path) -> None:
    chain, _ = rich_chain(tmp_path)
    export(chain, output, jobs=1)
    first = contents(output)
    export(chain, output, jobs=4, overwrite=True)
    assert contents(output) == first


def contents(output: Path) -> Mapping[str, bytes]:
    files = [output] if output.is_file() else [p for p in output.rglob("*") if p.is_file()]
    return {path.name: path.read_bytes() for path in files}
