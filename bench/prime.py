"""Brings the machine into the same state before each step: `python -m bench.prime GB FILE...`.

Virtual machines give freed memory and idle page cache back to their host within seconds, and
the first touch of what was returned is many times slower. So the files are read again and some
memory is touched and freed. In a process of its own, since a child's peak memory as the kernel
counts it includes what its parent had before the exec. With `--cold` before the files they are
put out of the page cache instead.
"""

from __future__ import annotations

import mmap
import os
import sys


def read_again(paths: list[str]) -> None:
    buffer = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def put_out(paths: list[str]) -> None:
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def touch(size: int) -> None:
    with mmap.mmap(-1, size) as memory:
        for page in range(0, size, mmap.PAGESIZE):
            memory[page] = 1


if __name__ == "__main__":
    gigabytes, *files = sys.argv[1:]
    if files[:1] != ["--cold"]:
        read_again(files)
    touch(int(float(gigabytes) * (1 << 30)) or mmap.PAGESIZE)
    if files[:1] == ["--cold"]:
        put_out(files[1:])
