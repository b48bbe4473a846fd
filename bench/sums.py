"""Sums that never leave a core, on so many threads: `python -m bench.sums JOBS`.

What a second thread gains here is what a second processor of this machine is: a core of its own, or
half of one that is there already. A step is long: threads that take the interpreter's lock every
few microseconds wait for each other, and what is measured then is the lock.
"""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor

STEP, STEPS = bytes(1 << 18), 1 << 12  # bytes


def work(steps: int) -> None:
    own = hashlib.sha256()
    for _ in range(steps):
        own.update(STEP)


def main() -> None:
    jobs = int(sys.argv[1])
    with ThreadPoolExecutor(jobs) as executor:
        list(executor.map(work, [STEPS // jobs] * jobs))


if __name__ == "__main__":
    main()
