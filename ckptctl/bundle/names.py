"""Names of the files that make a bundle, for those who only look at names."""

from __future__ import annotations

__all__ = ["INNER_MARK", "MARK_SUFFIX", "index_path", "shard_path"]

MARK_SUFFIX = ".ckptctl.json"
#: The mark inside a temporary, where an older bundle stands at the prefix.
INNER_MARK = "ckptctl.json"


def index_path(prefix: str) -> str:
    """Return the path of a bundle's index."""
    return f"{prefix}.index"


def shard_path(prefix: str, shard: int, num_shards: int) -> str:
    """Return the path of one of a bundle's data shards."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"
