"""The TF V2 bundle, read and written."""

from ckptctl.bundle.data import BundleData, shard_path
from ckptctl.bundle.dtypes import DTYPES, DType, dtype_by_name
from ckptctl.bundle.entry import BundleHeader, Entry
from ckptctl.bundle.reader import BundleReader, index_path
from ckptctl.bundle.slices import TensorSlice
from ckptctl.bundle.state_file import CheckpointState, read_state, state_bytes
from ckptctl.bundle.writer import BundleWriter

__all__ = [
    "DTYPES",
    "BundleData",
    "BundleHeader",
    "BundleReader",
    "BundleWriter",
    "CheckpointState",
    "DType",
    "Entry",
    "TensorSlice",
    "dtype_by_name",
    "index_path",
    "read_state",
    "shard_path",
    "state_bytes",
]
