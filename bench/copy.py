"""The least that a merge has to do, on so many threads: `python -m bench.copy JOBS OUT FILE...`.

Files are read in pieces, checksummed, and written to preallocated files, nothing else. What a
second thread gains here is what the machine gives at that moment, whoever asks.
"""

from __future__ import annotations

import itertools
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ckptctl.bundle.checksum import crc32c

PIECE, PART = 1 << 18, 1 << 26


def create(out: Path, source: Path) -> Path:
    path = out / source.name
    size = source.stat().st_size
    with open(path, "xb") as file:
        if size:
            os.posix_fallocate(file.fileno(), 0, size)
    return path


def copy(source: Path, target: Path, first: int) -> int:
    """Copy a part of a file; return its checksum."""
    crc, buffer = 0, memoryview(bytearray(PIECE))
    with open(source, "rb", buffering=0) as old, open(target, "r+b", buffering=0) as new:
        for at in range(first, first + PART, PIECE):
            found = buffer[: os.preadv(old.fileno(), [buffer], at)]
            if not found:
                break
            crc = crc32c(found, crc)
            os.pwrite(new.fileno(), found, at)
    return crc


def flush(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def main() -> None:
    jobs, out, *names = sys.argv[1:]
    sources = list(map(Path, names))
    Path(out).mkdir(parents=True)
    with ThreadPoolExecutor(int(jobs)) as executor:
        targets = list(executor.map(create, itertools.repeat(Path(out)), sources))
        parts = [
            (source, target, first)
            for source, target in zip(sources, targets, strict=True)
            for first in range(0, source.stat().st_size, PART)
        ]
        parts.sort(key=lambda part: part[2])  # files take turns: one thread at a time writes to one
        list(executor.map(copy, *zip(*parts, strict=True)))
        list(executor.map(flush, targets))


if __name__ == "__main__":
    main()
