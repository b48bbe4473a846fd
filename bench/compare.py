"""Checks by checksums that two bundles hold the same tensors: `python -m bench.compare A B`."""

from __future__ import annotations

import sys

from ckptctl.bundle import BundleReader, Entry


def facts(prefix: str) -> dict[str, tuple[object, ...]]:
    def of(entry: Entry) -> tuple[object, ...]:
        return entry.dtype.name, entry.shape, entry.size, entry.crc

    with BundleReader(prefix) as reader:
        return {n: of(e) for n, e in reader.tensors.items() if not n.startswith("ckptctl/")}


if __name__ == "__main__":
    ours, theirs = map(facts, sys.argv[1:])
    wrong = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if wrong:
        sys.exit(f"results differ: {', '.join(wrong[:5])}")
