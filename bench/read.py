"""Our own checked read, the yardstick of a question: `python -m bench.read JOBS PREFIX...`.

Every tensor of every bundle is read once, front to back, and compared with its checksum. A
bundle that is named twice is read twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack

from ckptctl.bundle import BundleReader
from ckptctl.restore.survey import CheckTask
from ckptctl.running import Runner, batches


def tasks(reader: BundleReader) -> Iterator[tuple[str, CheckTask]]:
    whole = [(name, entry) for name, entry in reader.tensors.items() if entry.has_data]
    slices = [(name, entry) for _, name, _, entry in reader.slice_keys()]
    for batch in batches([*whole, *slices], lambda item: item[1].size):
        yield reader.prefix, CheckTask(reader, batch)


def main() -> None:
    jobs, *prefixes = sys.argv[1:]
    with ExitStack() as stack:
        readers = [stack.enter_context(BundleReader(prefix)) for prefix in prefixes]
        todo = (each for reader in readers for each in tasks(reader))
        total = sum(nbytes for _, nbytes in Runner(int(jobs)).map(todo))
    print(f"{total} bytes read and checked")


if __name__ == "__main__":
    main()
