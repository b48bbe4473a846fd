"""What went with data shards that are missing or cut short."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckptctl.bundle import Entry
    from ckptctl.inspect.view import View

__all__ = ["is_lost", "lost_shards"]


def is_lost(view: View, entry: Entry) -> bool:
    """Return whether bytes of an entry went with a shard of a damaged bundle."""
    return any(shard.had(entry) for shard in view.lost)


def lost_shards(view: View) -> list[dict[str, Any]]:
    """Return the shards, and what went with each, as JSON: see `ckptctl.inspect.show`."""
    if not view.lost:
        return []
    part_of = {
        own.name + suffix: own.name
        for table in view.tables
        for _, _, sets in table.shapes
        for own in sets
        for suffix in own.entries
    }
    found = []
    entries = list(view.reader.data_entries())
    for shard in view.lost:
        gone = [(name, entry.size) for _, name, entry in entries if shard.had(entry)]
        found.append(
            {
                "shard": shard.shard,
                "file": shard.error.file,
                "message": shard.error.message,
                "found": shard.error.found,
                "tensors": len(gone),
                "bytes": sum(size for _, size in gone),
                "names": sorted({part_of.get(name, name) for name, _ in gone}),
            }
        )
    return found
