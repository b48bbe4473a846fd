"""The TF V2 bundle, read and written."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ckptctl.bundle.data import BundleData
    from ckptctl.bundle.dtypes import DTYPES, DType, dtype_by_name
    from ckptctl.bundle.entry import BundleHeader, Entry
    from ckptctl.bundle.names import index_path, shard_path
    from ckptctl.bundle.reader import BundleReader
    from ckptctl.bundle.slices import TensorSlice
    from ckptctl.bundle.state_file import CheckpointState, read_state, state_bytes
    from ckptctl.bundle.writer import BundleWriter
else:
    from ckptctl.lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "data": "BundleData",
            "dtypes": "DTYPES DType dtype_by_name",
            "entry": "BundleHeader Entry",
            "names": "index_path shard_path",
            "reader": "BundleReader",
            "slices": "TensorSlice",
            "state_file": "CheckpointState read_state state_bytes",
            "writer": "BundleWriter",
        },
    )

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
