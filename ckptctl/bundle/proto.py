"""The protocol messages of a bundle, in a package and a pool of our own.

TensorFlow registers its own classes for the same wire format in the default pool, with
whichever protobuf release it brings; a private pool keeps both usable in one process. The
descriptors are built at run time, so that one source serves protobuf 4 to 7.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, framework/tensor_shape.proto,
framework/tensor_slice.proto, framework/versions.proto,
tensorflow/python/training/checkpoint_state.proto; DeepRec's additions (fields 100 to 102)
from the same files of DeepRec-AI/DeepRec.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["BundleEntryProto", "BundleHeaderProto", "CheckpointStateProto"]

_F = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "int32": _F.TYPE_INT32,
    "int64": _F.TYPE_INT64,
    "bool": _F.TYPE_BOOL,
    "fixed32": _F.TYPE_FIXED32,
    "double": _F.TYPE_DOUBLE,
    "string": _F.TYPE_STRING,
}

# message: its fields as "[repeated ]type name number"; "oneof" marks a field whose
# presence is known, as in a oneof of its own.
_MESSAGES = {
    "VersionDef": ("int32 producer 1", "int32 min_consumer 2", "repeated int32 bad_consumers 3"),
    "BundleHeader": ("int32 num_shards 1", "int32 endianness 2", "VersionDef version 3"),
    "Dim": ("int64 size 1", "string name 2"),
    "TensorShape": ("repeated Dim dim 2", "bool unknown_rank 3"),
    "Extent": ("int64 start 1", "oneof int64 length 2"),
    "TensorSlice": (
        "repeated Extent extent 1",
        "int64 hash_slice_begin 100",
        "int64 hash_slice_length 101",
        "int64 hash_slice_size 102",
    ),
    "BundleEntry": (
        "int32 dtype 1",
        "TensorShape shape 2",
        "int32 shard_id 3",
        "int64 offset 4",
        "int64 size 5",
        "fixed32 crc32c 6",
        "repeated TensorSlice slices 7",
        "bool is_hash_table 100",
    ),
    "CheckpointState": (
        "string model_checkpoint_path 1",
        "repeated string all_model_checkpoint_paths 2",
        "repeated double all_model_checkpoint_timestamps 3",
        "double last_preserved_timestamp 4",
    ),
}


def _add_field(message: descriptor_pb2.DescriptorProto, text: str) -> None:
    words = text.split()
    kind, name, number = words[-3:]
    field = message.field.add(name=name, number=int(number), label=_F.LABEL_OPTIONAL)
    if "repeated" in words:
        field.label = _F.LABEL_REPEATED
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _F.TYPE_MESSAGE
        field.type_name = f".ckptctl.bundle.{kind}"
    if "oneof" in words:
        field.oneof_index = len(message.oneof_decl)
        message.oneof_decl.add(name=f"has_{name}")


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="ckptctl/bundle.proto", package="ckptctl.bundle", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields:
            _add_field(message, text)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ckptctl.bundle.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _build()

# Built at run time, so there is nothing that a type checker could know of their fields.
BundleHeaderProto: Any = _CLASSES["BundleHeader"]
BundleEntryProto: Any = _CLASSES["BundleEntry"]
CheckpointStateProto: Any = _CLASSES["CheckpointState"]
