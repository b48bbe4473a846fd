"""Reads bundles with TensorFlow and prints what it found as JSON.

Runs on TensorFlow 1.15 and 2.x: `python read_tf.py prefix...`. A whole tensor comes as
`[dtype, shape, content]`, the content as `make_tf.py` has it; slices are put together,
but for strings, where TensorFlow's reader refuses and the content is null.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def read(tf, np, prefix):
    """Return name -> [dtype, shape, content] of every tensor but variants."""
    reader = tf.compat.v1.train.NewCheckpointReader(prefix)
    found = {}
    for name, dtype in sorted(reader.get_variable_to_dtype_map().items()):
        if dtype == tf.variant:
            continue
        if dtype == tf.string and name == "sliced":
            found[name] = [dtype.name, reader.get_variable_to_shape_map()[name], None]
            continue
        value = np.asarray(reader.get_tensor(name))
        if dtype == tf.string:
            content = [
                s.hex() if len(s) < 200 else "sha256:" + hashlib.sha256(s).hexdigest()
                for s in value.ravel().tolist()
            ]
        else:
            content = value.tobytes().hex()
        found[name] = [dtype.name, list(value.shape), content]
    return found


if __name__ == "__main__":
    import numpy
    import tensorflow

    json.dump({path: read(tensorflow, numpy, path) for path in sys.argv[1:]}, sys.stdout)
