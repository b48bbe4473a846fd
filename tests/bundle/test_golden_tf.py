"""Bundles that TensorFlow 1.15 and 2.21 wrote: read, and written again byte for byte."""

from __future__ import annotations

import hashlib
import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ckptctl.bundle import BundleReader, BundleWriter, Entry, TensorSlice, read_state, state_bytes

GOLDEN = Path(__file__).parent.parent / "golden"
PREFIXES = sorted(
    str(path).removesuffix(".expected.json") for path in GOLDEN.glob("tf/**/*.expected.json")
)


def short(prefix: str) -> str:
    return str(Path(prefix).relative_to(GOLDEN / "tf"))


def word(string: bytes) -> str:
    """Return one string as `expected.json` has it; see make_tf.py."""
    return string.hex() if len(string) < 200 else f"sha256:{hashlib.sha256(string).hexdigest()}"


def content(array: np.ndarray) -> dict[str, object]:
    if array.dtype == object:
        return {"strings": [word(item) for item in array.ravel().tolist()]}
    return {"hex": array.tobytes().hex()}


def found(reader: BundleReader, name: str, entry: Entry) -> dict[str, object]:
    """Return a tensor in the form of `expected.json`."""
    head = {"dtype": entry.dtype.name, "shape": list(entry.shape)}
    if entry.dtype.name == "variant":
        reader.check_tensor(name, entry)
        return {**head, "opaque": True}
    if not entry.slices:
        return head | content(reader.read(name))
    slices = []
    for slice_ in entry.slices:
        box = slice_.resolve(entry.shape)
        data = reader.read_entry(name, reader.slice_entry(name, slice_))
        place = {"start": [start for start, _ in box], "length": [size for _, size in box]}
        slices.append(place | content(data))
    return {**head, "slices": slices}


def pieces(reader: BundleReader) -> Iterator[tuple[str, TensorSlice | None, Entry]]:
    """Return all that owns bytes, in the order in which it lies in the shards."""
    plain = [(name, None, entry) for name, entry in reader.tensors.items() if entry.has_data]
    sliced = [
        (name, slice_, reader.slice_entry(name, slice_))
        for name, entry in reader.tensors.items()
        for slice_ in entry.slices
    ]
    # What is empty shares its offset with what comes next.
    return iter(sorted(plain + sliced, key=lambda p: (p[2].shard, p[2].offset, p[2].size)))


def rewrite(prefix: str, destination: Path) -> str:
    """Write a bundle again, tensor by tensor, and return its prefix."""
    target = str(destination / short(prefix).replace("/", "_"))
    with BundleReader(prefix) as reader, BundleWriter(target, reader.header.num_shards) as writer:
        for name, slice_, entry in pieces(reader):
            array = reader.read_entry(name, entry)
            how = {"dtype": entry.dtype.name, "shard": entry.shard}
            if slice_ is None:
                writer.add(name, array, **how)
            else:
                writer.add_slice(name, reader.entry(name).shape, slice_, array, **how)
    return target


def whole(tensor: dict) -> list[object]:
    """Return an expected tensor as read_tf.py prints it, slices put together."""
    if tensor["dtype"] == "string" and "slices" in tensor:
        return [tensor["dtype"], tensor["shape"], None]
    if "slices" not in tensor:
        body = tensor["hex"] if "hex" in tensor else tensor["strings"]
        return [tensor["dtype"], tensor["shape"], body]
    array = np.empty(tensor["shape"], tensor["dtype"])
    for part in tensor["slices"]:
        box = tuple(slice(a, a + n) for a, n in zip(part["start"], part["length"], strict=True))
        data = np.frombuffer(bytes.fromhex(part["hex"]), tensor["dtype"])
        array[box] = data.reshape(part["length"])
    return [tensor["dtype"], tensor["shape"], array.tobytes().hex()]


def expected(prefix: str) -> dict:
    return json.loads(Path(f"{prefix}.expected.json").read_text())


def check_read_back(prefix: str, tensors: dict[str, list[object]]) -> None:
    """Compare what TensorFlow read with `expected.json`."""
    wanted = expected(prefix)
    if "digest" in wanted:
        assert len(tensors) == wanted["tensors_count"]
    else:
        assert tensors == {name: whole(tensor) for name, tensor in wanted["tensors"].items()}


def readable(prefix: str, newest: bool) -> bool:
    """Return whether TensorFlow itself reads all of a bundle whole."""
    # Variants have no NumPy form; 1.15 knows no float8 or int4.
    return "variants" not in prefix and (newest or not prefix.endswith("2.21.0/dtypes"))


@pytest.mark.parametrize("prefix", PREFIXES, ids=short)
def test_read(prefix: str) -> None:
    with BundleReader(prefix) as reader:
        reader.check_shards()
        tensors = {name: found(reader, name, entry) for name, entry in reader.tensors.items()}
    wanted = expected(prefix)
    if "digest" in wanted:
        text = json.dumps(tensors, sort_keys=True, separators=(",", ":"))
        assert len(tensors) == wanted["tensors_count"]
        assert hashlib.sha256(text.encode()).hexdigest() == wanted["digest"]
    else:
        assert tensors == wanted["tensors"]


def test_one_tensor_is_found_without_the_rest() -> None:
    prefix = next(prefix for prefix in PREFIXES if prefix.endswith("many"))
    with BundleReader(prefix) as reader:
        names = list(reader.tensors)
    assert len(names) == len(set(names))
    with BundleReader(prefix) as reader:
        assert all(reader.get(name) is not None for name in names[::97])
        assert reader.get(names[5] + "x") is None


# Nobody but TensorFlow can make a variant, so BundleWriter does not take one.
@pytest.mark.parametrize("prefix", [p for p in PREFIXES if "variants" not in p], ids=short)
def test_written_again_byte_for_byte(prefix: str, tmp_path: Path) -> None:
    target = rewrite(prefix, tmp_path)
    files = sorted(Path(prefix).parent.glob(f"{Path(prefix).name}.[di][an]*"))
    assert len(files) >= 2
    for file in files:
        again = Path(target + file.name.removeprefix(Path(prefix).name))
        assert again.read_bytes() == file.read_bytes(), file.name


def test_read_back_by_tensorflow_2(tf: ModuleType, tmp_path: Path) -> None:
    read = runpy.run_path(str(GOLDEN / "read_tf.py"))["read"]
    for prefix in PREFIXES:
        if readable(prefix, newest=True):
            check_read_back(prefix, read(tf, np, rewrite(prefix, tmp_path)))


def test_read_back_by_tensorflow_1(run_tf115: Callable[..., str], tmp_path: Path) -> None:
    known = [prefix for prefix in PREFIXES if readable(prefix, newest=False)]
    targets = {rewrite(prefix, tmp_path): prefix for prefix in known}
    for target, tensors in json.loads(run_tf115(GOLDEN / "read_tf.py", *targets)).items():
        check_read_back(targets[target], tensors)


@pytest.mark.parametrize("path", sorted(map(str, GOLDEN.glob("tf/*/*/checkpoint"))), ids=short)
def test_state_file_byte_for_byte(path: str) -> None:
    state = read_state(path)
    assert state is not None
    assert state_bytes(state) == Path(path).read_bytes()
