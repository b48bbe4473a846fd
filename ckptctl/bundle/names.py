"""Names of the files that make a bundle, for those who only look at names."""

from __future__ import annotations

__all__ = ["INNER_MARK", "MARK_SUFFIX", "index_path", "key_of", "shard_path"]

MARK_SUFFIX = ".ckptctl.json"
#: The mark inside a temporary, where an older bundle stands at the prefix.
INNER_MARK = "ckptctl.json"


def key_of(name: str) -> bytes:
    """Return the key of a tensor in an index; bytes that are no UTF-8 are surrogates in names."""
    return name.encode("utf-8", "surrogateescape")


def index_path(prefix: str) -> str:
    """Return the path of a bundle's index."""
    return f"{prefix}.index"


def shard_path(prefix: str, shard: int, num_shards: int) -> str:
    """Return the path of one of a bundle's data shards."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"
