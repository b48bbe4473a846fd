"""What this process holds open: only files of the test's own are looked at.

How many descriptors there are in all says nothing: what an earlier test left to the
garbage collector may be closed at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["held"]


def held(path: Path) -> list[str]:
    """Return where the open descriptors of a file, or of what is below a directory, lead to."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if target == str(path) or target.startswith((f"{path}/", f"{path} (")):
            found.append(target)
    return sorted(found)
