"""Looks for a readable newest state file while `compact` runs: `python -m bench.watch DIR`.

As one who starts to restore does: it reads the file and looks for the index that it names, over
and over, while `compact` merges, lists and removes. Prints the longest time without, in
milliseconds, and how often it looked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from bench.room import CKPTCTL
from ckptctl.bundle import read_state


def readable(room: Path) -> bool:
    state = read_state(str(room / "checkpoint"))
    return state is not None and (room / f"{Path(state.latest).name}.index").exists()


def main() -> None:
    room = Path(sys.argv[1])
    command = [*CKPTCTL, "compact", str(room), "--yes", "-q", "--keep-last", "1", "--min-age", "0s"]
    child = subprocess.Popen(command)
    longest, looks, since = 0.0, 0, 0.0
    while child.poll() is None:
        now = time.perf_counter()
        since = 0.0 if readable(room) else since or now
        longest = max(longest, time.perf_counter() - since if since else 0.0)
        looks += 1
    if child.returncode:
        sys.exit(f"compact failed: {child.returncode}")
    print(json.dumps([round(longest * 1e3, 3), looks]))


if __name__ == "__main__":
    main()
