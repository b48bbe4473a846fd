"""Pairs of increments whose nested check held, remembered in the user's cache directory."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property

from ckptctl.chain.model import Checkpoint, Scan

__all__ = ["ProvenPairs"]


class ProvenPairs:
    """The pairs of prefixes of a directory that are known to be nested.

    A pair is known by device, inode, size and mtime of every index and data file, so a proof
    is good until one of these is touched. Only proofs are remembered, no failures: what a
    user repairs is looked at again.
    """

    def __init__(self, scan: Scan) -> None:
        self._scan = scan

    @cached_property
    def _by_prefix(self) -> dict[str, Checkpoint]:
        return {increment.prefix: increment for increment in self._scan.increments}

    def __contains__(self, pair: object) -> bool:
        return os.path.exists(self._path(pair)) if isinstance(pair, tuple) else False

    def add(self, pair: tuple[str, str]) -> None:
        """Remember a pair; where the cache cannot be written, the next run proves it again."""
        path = self._path(pair)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
        except OSError:
            return

    def _path(self, pair: tuple[str, ...]) -> str:
        facts = []
        for prefix in pair:
            checkpoint = self._by_prefix[prefix]
            files = (checkpoint.index, *checkpoint.shards)
            facts.append([(info.name, info.identity) for info in files])
        token = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        return os.path.join(home, "ckptctl", "nested", token)
