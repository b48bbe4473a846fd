"""Sums that never leave a core's cache, on so many threads: `python -m bench.sums JOBS`.

What a second thread gains here is what a second processor of this machine is: a core of its own, or
half of one that is there already.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

NUMBERS, TIMES = 1 << 14, 1 << 18


def work(times: int) -> None:
    own = np.arange(NUMBERS)
    for _ in range(times):
        np.multiply(own, 3, out=own)


def main() -> None:
    jobs = int(sys.argv[1])
    with ThreadPoolExecutor(jobs) as executor:
        list(executor.map(work, [TIMES // jobs] * jobs))


if __name__ == "__main__":
    main()
