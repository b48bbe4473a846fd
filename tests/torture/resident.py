"""TensorFlow that was imported once and then answers what it restores from a directory.

As a program: each line of stdin names a checkpoint directory, each line of stdout says
what `tf.train.latest_checkpoint` finds, and for each prefix asked for every tensor's digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.oracle.images import Image, Tensor

#: Seconds after which an answer is not awaited any more.
PATIENCE = 120.0


def digest(dtype: str, shape: Sequence[int], data: bytes) -> str:
    return hashlib.sha256(repr((dtype, tuple(shape))).encode() + data).hexdigest()[:16]


def digests(image: Image) -> dict[str, str]:
    """What TensorFlow must find of an image."""
    found = {}
    for name, tensor in image.tensors().items():
        assert isinstance(tensor, Tensor), "no slices in these chains"
        data = tensor.data
        if isinstance(data, list):
            data = b"".join(len(item).to_bytes(4, "little") + item for item in data)
        found[name] = digest(tensor.dtype, tensor.shape, data)
    return found


class Resident:
    """The process; starts when it is first asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def ask(self, directory: Path, prefixes: Sequence[Path]) -> dict[str, Any]:
        """Return {"latest": path or None, "found": {prefix: {name: digest}}}."""
        if self._process is None:
            env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=env,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        question = {"directory": str(directory), "prefixes": [str(item) for item in prefixes]}
        process.stdin.write(json.dumps(question) + "\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert ready, "TensorFlow does not answer"
        answer: dict[str, Any] = json.loads(process.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(60)
            assert self._process.stdout is not None
            self._process.stdout.close()


def serve() -> None:
    import numpy as np
    import tensorflow as tf

    def read(prefix: str) -> dict[str, str]:
        reader = tf.train.load_checkpoint(prefix)
        found = {}
        for name, shape in reader.get_variable_to_shape_map().items():
            value = np.asarray(reader.get_tensor(name))
            if value.dtype == object:
                dtype = "string"
                data = b"".join(
                    len(item).to_bytes(4, "little") + item for item in value.ravel().tolist()
                )
            else:
                dtype, data = value.dtype.name, value.tobytes()
            found[name] = digest(dtype, shape, data)
        return found

    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer: dict[str, Any] = {
                "latest": tf.train.latest_checkpoint(question["directory"]),
                "found": {prefix: read(prefix) for prefix in question["prefixes"]},
            }
        except Exception as error:  # noqa: BLE001 (the other side of the pipe raises it)
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
