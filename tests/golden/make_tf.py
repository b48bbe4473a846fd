"""Writes the golden bundles of tests/golden/tf/<release> with TensorFlow's own ops.

Runs on TensorFlow 1.15 (Python 3.7) and on 2.x: `make golden`, or
`python tests/golden/make_tf.py [directory]`. All values come from fixed seeds, the
clock is stopped, and every path in a state file is relative, so a second run writes the
same bytes. Beside each bundle `<bundle>.expected.json` says what must be read:

    tensors: name -> {dtype, shape, and one of
        hex       the little-endian bytes, row-major
        sha256    of them, where they are many
        strings   each element in hex, or sha256:<hex> of a long one
        slices    [{start, length, hex or strings}], in the order of the entry
        opaque    true: the bytes mean something to TensorFlow alone (variant)}
    digest: instead of tensors, sha256 of their canonical JSON, where names are many
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
warnings.simplefilter("ignore")
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf1 = tf.compat.v1
raw = tf.raw_ops

PLAIN = ["float16", "float32", "float64", "complex64", "complex128", "bool"]
PLAIN += ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
# Kinds that NumPy lacks, and the NumPy kind that has their bytes. The last ones are one
# element to a byte in a bundle, whatever they are in memory.
FOREIGN = {
    "bfloat16": "uint16",
    "qint8": "int8",
    "quint8": "uint8",
    "qint16": "int16",
    "quint16": "uint16",
    "qint32": "int32",
    "float8_e5m2": "uint8",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e4m3b11fnuz": "uint8",
    "float8_e5m2fnuz": "uint8",
    "int4": "int8",
    "uint4": "uint8",
    "int2": "int8",
    "uint2": "uint8",
}
BITS = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
SHAPES = {"scalar": (), "vector": (7,), "matrix": (3, 5), "none": (0,), "no_rows": (0, 5)}


def word(string):
    """Return one element of a string tensor as `expected.json` has it."""
    return string.hex() if len(string) < 200 else "sha256:" + hashlib.sha256(string).hexdigest()


class Recorder:
    """Tensors on their way into a bundle, and what a reader must find."""

    def __init__(self, seed):
        self.random = np.random.RandomState(seed)
        self.calls = []
        self.expected = {}

    def bytes_of(self, dtype, shape):
        """Return random values of a NumPy dtype, any bit pattern where that is allowed."""
        if dtype == "bool":
            return self.random.randint(0, 2, shape).astype(bool)
        count = int(np.prod(shape, dtype=np.int64))
        raw_bytes = self.random.bytes(count * np.dtype(dtype).itemsize)
        return np.frombuffer(raw_bytes, dtype).reshape(shape)

    def add(self, name, tensor, content, dtype, full_shape=None, start=None):
        """Add a tensor, or with `start` one slice of a tensor of `full_shape`."""
        length = list(tensor.shape.as_list())
        spec = ""
        if start is None:
            self.expected[name] = dict(dtype=dtype, shape=length, **content)
        else:
            full = self.expected.setdefault(
                name, {"dtype": dtype, "shape": list(full_shape), "slices": []}
            )
            full["slices"].append(dict(start=list(start), length=length, **content))
            pairs = [f"{start[i]},{length[i]}" for i in range(len(length))]
            spec = " ".join(map(str, full_shape)) + " " + ":".join(pairs)
        self.calls.append((name, spec, tensor))

    def add_array(self, name, array, **kwargs):
        """Add a NumPy array of numbers."""
        content = {"hex": array.tobytes().hex()}
        self.add(name, tf.constant(array), content, array.dtype.name, **kwargs)

    def add_strings(self, name, strings, shape, **kwargs):
        """Add byte strings."""
        tensor = tf.constant(np.array(strings, object).reshape(shape), tf.string, shape)
        self.add(name, tensor, {"strings": list(map(word, strings))}, "string", **kwargs)

    def take(self):
        """Return the tensors added since the last call."""
        calls, self.calls = self.calls, []
        return calls


def save(prefix, calls):
    """Write one bundle with SaveV2."""
    raw.SaveV2(
        prefix=tf.constant(prefix),
        tensor_names=tf.constant([name for name, _, _ in calls]),
        shape_and_slices=tf.constant([spec for _, spec, _ in calls]),
        tensors=[tensor for _, _, tensor in calls],
    )


def save_sharded(prefix, shards):
    """Write one bundle a shard and merge them, as a sharded Saver does."""
    count = len(shards)
    parts = [f"{prefix}_temp/part-{i:05d}-of-{count:05d}" for i in range(count)]
    for i in range(count):
        save(parts[i], shards[i])
    raw.MergeV2Checkpoints(
        checkpoint_prefixes=tf.constant(parts),
        destination_prefix=tf.constant(prefix),
        delete_old_dirs=True,
    )


def expect(prefix, expected, digest=False):
    """Write what a reader must find beside the bundle."""
    text = json.dumps(expected, sort_keys=True, separators=(",", ":"))
    if digest:
        sha = hashlib.sha256(text.encode()).hexdigest()
        body = json.dumps({"tensors_count": len(expected), "digest": sha}, indent=1)
    else:
        lines = [f"{json.dumps(k)}:{json.dumps(expected[k])}" for k in sorted(expected)]
        body = '{"tensors": {\n' + ",\n".join(lines) + "\n}}"
    with open(prefix + ".expected.json", "w") as file:
        file.write(body + "\n")


def foreign(array, kind):
    """Return a tensor of a kind that NumPy lacks, from its bytes."""
    try:
        return tf.bitcast(tf.constant(array), kind)
    except tf.errors.InvalidArgumentError:
        return tf.constant(array.astype("uint8").view(kind.as_numpy_dtype))


def make_dtypes(prefix):
    """Every dtype that this release stores, in every shape that matters."""
    out = Recorder(1)
    for dtype in PLAIN:
        for shape_name, shape in SHAPES.items():
            out.add_array(f"{dtype}/{shape_name}", out.bytes_of(dtype, shape))
    for dtype, carrier in FOREIGN.items():
        kind = getattr(tf.dtypes, dtype, None)
        kind = kind or getattr(getattr(tf.dtypes, "experimental", None), dtype, None)
        if kind is None:
            continue
        for shape_name, shape in SHAPES.items():
            array = out.bytes_of(carrier, shape)
            if dtype in BITS:
                array = array >> (8 - BITS[dtype])
            content = {"hex": array.tobytes().hex()}
            tensor = foreign(array, kind)
            out.add(f"{dtype}/{shape_name}", tensor, content, dtype)
    save(prefix, out.take())
    expect(prefix, out.expected)


def make_variants(prefix):
    """Tensor lists, which TensorFlow alone can decode."""
    out = Recorder(7)
    scalar = tf.constant([], tf.int32)
    handles = [
        raw.TensorListFromTensor(tensor=tf.constant([1.0, 2.0, 3.0]), element_shape=scalar),
        raw.EmptyTensorList(element_shape=scalar, max_num_elements=-1, element_dtype=tf.int32),
    ]
    out.add("scalar", handles[0], {"opaque": True}, "variant")
    out.add("vector", tf.stack(handles), {"opaque": True}, "variant")
    out.add_array("beside", np.arange(3))
    save(prefix, out.take())
    expect(prefix, out.expected)


def make_strings(prefix):
    """Strings of rank 0 to 2: empty, long ones, and lengths at the edges of a varint."""
    out = Recorder(2)
    some = [b"", b"a", b"\x00\xff", "\u00e9\u00e8".encode(), out.random.bytes(127)]
    some += [out.random.bytes(128), b"x" * 16383, b"y" * 16384, b""]
    out.add_strings("rank0", [b"just one"], ())
    out.add_strings("rank0_empty", [b""], ())
    out.add_strings("rank1", some, (9,))
    out.add_strings("rank2", [b"%d" % (10**i) for i in range(6)], (2, 3))
    out.add_strings("none", [], (0,))
    out.add_strings("no_rows", [], (0, 4))
    for i in range(3):
        strings = [b"slice %d row %d" % (i, j) for j in range(2)]
        out.add_strings("sliced", strings, (2,), full_shape=(6,), start=(2 * i,))
    save(prefix, out.take())
    expect(prefix, out.expected)


def make_slices(prefix):
    """Sliced variables in one shard: 12 parts, uneven ones, parts out of order, a grid."""
    out = Recorder(3)
    for i in range(12):
        rows = out.bytes_of("float32", (2, 3))
        out.add_array("twelve", rows, full_shape=(24, 3), start=(2 * i, 0))
    for start, rows in ((5, 3), (0, 5), (8, 2)):
        part = out.bytes_of("int64", (rows,))
        out.add_array("out_of_order", part, full_shape=(10,), start=(start,))
    for row in (0, 2):
        for column in (0, 3):
            part = out.bytes_of("float64", (2, 3))
            out.add_array("grid", part, full_shape=(4, 6), start=(row, column))
    part = out.bytes_of("int32", (4, 2))
    out.add_array("whole_as_slice", part, full_shape=(4, 2), start=(0, 0))
    # BundleWriter::AddSlice stores a slice that covers everything as a plain tensor.
    content = {"hex": part.tobytes().hex()}
    out.expected["whole_as_slice"] = {"dtype": "int32", "shape": [4, 2], **content}
    out.add_array("beside", out.bytes_of("float32", (4,)))
    save(prefix, out.take())
    expect(prefix, out.expected)


def make_sharded(prefix):
    """Three shards merged: slices over all of them, a shard of its own for a scalar."""
    out = Recorder(4)
    shards = []
    for shard in range(3):
        for i in range(shard, 12, 3):
            rows = out.bytes_of("float32", (2, 4))
            out.add_array("emb", rows, full_shape=(24, 4), start=(2 * i, 0))
        out.add_array(f"only_{shard}", out.bytes_of("int64", (shard, 2)))
        if shard == 1:
            out.add_array("global_step", np.int64(1234).reshape(()))
            out.add_strings("names", [b"a", b"", b"ccc"], (3,))
        shards.append(out.take())
    save_sharded(prefix, shards)
    expect(prefix, out.expected)


def make_many(prefix):
    """Enough long names that the index takes more than one block of 256 KiB."""
    out = Recorder(5)
    for i in range(3400):
        name = f"scope/{hashlib.sha256(str(i).encode()).hexdigest()}/v{i}"
        out.add_array(name, np.float32(i).reshape(()))
    save(prefix, out.take())
    expect(prefix, out.expected, digest=True)


def make_saver(directory):
    """A session's Saver, three steps kept of five, a variable in three uneven parts."""
    with tf.Graph().as_default(), tf1.Session() as session:
        partitioner = tf1.fixed_size_partitioner(3)
        with tf1.variable_scope("model", partitioner=partitioner):
            tf1.get_variable(
                "emb", [10, 4], initializer=tf1.zeros_initializer(), use_resource=False
            )
        step = tf1.train.get_or_create_global_step()
        bump = tf1.assign_add(step, 10)
        variables = [v for v in tf1.global_variables() if v is not step]
        values = tf1.placeholder(tf.float32, [10, 4])
        split = tf.split(values, [4, 3, 3])
        feed = tf.group(*[v.assign(split[i]) for i, v in enumerate(variables)])
        saver = tf1.train.Saver(max_to_keep=3, save_relative_paths=True)
        session.run(tf1.global_variables_initializer())
        random = np.random.RandomState(6)
        for _ in range(5):
            now = random.standard_normal((10, 4)).astype("float32")
            session.run([feed, bump], {values: now})
            prefix = saver.save(
                session, directory + "/model.ckpt", global_step=step, write_meta_graph=False
            )
            sizes = ((0, 4), (4, 3), (7, 3))
            slices = [
                {"start": [a, 0], "length": [n, 4], "hex": now[a : a + n].tobytes().hex()}
                for a, n in sizes
            ]
            number = np.int64(session.run(step))
            expected = {
                "model/emb": {"dtype": "float32", "shape": [10, 4], "slices": slices},
                "global_step": {"dtype": "int64", "shape": [], "hex": number.tobytes().hex()},
            }
            if number >= 30:
                expect(prefix, expected)


def make_objects(directory):
    """A CheckpointManager: an object graph as a string, and timestamps in the state file."""
    weights = tf.Variable(np.arange(6, dtype="float32").reshape(2, 3))
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(weights=weights), directory, 2)
    for _ in range(3):
        prefix = manager.save()
    expected = {}
    reader = tf.train.load_checkpoint(prefix)
    for name, dtype in reader.get_variable_to_dtype_map().items():
        value = np.asarray(reader.get_tensor(name))
        if dtype == tf.string:
            content = {"strings": [word(value.item())]}
        else:
            content = {"hex": value.tobytes().hex()}
        expected[name] = dict(dtype=dtype.name, shape=list(value.shape), **content)
    expect(prefix, expected)


def stop_the_clock():
    """Make `time.time` count whole seconds from a fixed one."""
    ticks = iter(range(1600000000, 1700000000))
    time.time = lambda: float(next(ticks))


def main(root):
    """Write all bundles below `root`/<release>."""
    tf1.enable_eager_execution()
    here = os.path.join(root, tf.__version__)
    shutil.rmtree(here, ignore_errors=True)
    for directory in ("", "saver", "objects"):
        os.makedirs(os.path.join(here, directory))
    stop_the_clock()
    flat = (make_dtypes, make_variants, make_strings, make_slices, make_sharded, make_many)
    for make in flat:
        make(os.path.join(here, make.__name__[len("make_") :]))
    make_saver(os.path.join(here, "saver"))
    make_objects(os.path.join(here, "objects"))
    print("wrote", here)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "tf"))
