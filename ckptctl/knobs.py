"""Tunables, each with its default and its environment override (CKPTCTL_KNOB_*)."""

from __future__ import annotations

import os
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit


def _number(name: str, default: int) -> int:
    text = os.environ.get(f"CKPTCTL_KNOB_{name}")
    return int(text) if text and text.isdigit() and int(text) > 0 else default


def _seconds(name: str, default: float) -> float:
    text = os.environ.get(f"CKPTCTL_KNOB_{name}")
    try:
        value = float(text or default)
    except ValueError:
        return default
    return value if 0 < value < 1e6 else default


def _files() -> int:
    most, _ = getrlimit(RLIMIT_NOFILE)
    return 4096 if most == RLIM_INFINITY else min(most // 4, 4096) or 1


#: Whether commands that only look remember, in the user's cache, what indexes said; 0: no.
REMEMBER = os.environ.get("CKPTCTL_KNOB_REMEMBER") != "0"
#: Bytes of one streamed piece: small enough to stay in the L2 cache (bench.md).
PIECE_BYTES = _number("PIECE_BYTES", 1 << 20)
#: Bytes that one task moves: of a large tensor, or of many small ones.
TASK_BYTES = _number("TASK_BYTES", 64 << 20)
#: Bytes that are written to a file before the kernel is told to bring them to the disk.
FLUSH_BYTES = _number("FLUSH_BYTES", 8 << 20)
#: Keys that one step of a join looks at together: of fewer, threads wait for each other too often.
JOIN_KEYS = _number("JOIN_KEYS", 1 << 17)
#: Most bytes that the blocks of one index may take before we call it absurd.
MAX_INDEX_BYTES = _number("MAX_INDEX_BYTES", 1 << 31)
#: Seconds between two progress lines when stderr is no terminal.
PROGRESS_SECONDS = _number("PROGRESS_SECONDS", 30)
#: Data shards that are held open at a time, all bundles together: a quarter of what we may open.
MAX_OPEN_FILES = _number("MAX_OPEN_FILES", _files())
#: Seconds after its last write during which a temporary counts as a save that is under way.
WRITER_SECONDS = _number("WRITER_SECONDS", 10)
#: Seconds between two renewals of a lease.
LEASE_RENEW_SECONDS = _seconds("LEASE_RENEW_SECONDS", 30)
#: Seconds without a renewal after which a lease is taken over.
LEASE_DEAD_SECONDS = _seconds("LEASE_DEAD_SECONDS", 600)
#: Bytes that a run beside a parameter server may hold in the page cache of what it reads.
CACHE_BYTES = _number("CACHE_BYTES", 256 << 20)
