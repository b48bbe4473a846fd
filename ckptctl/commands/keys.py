"""Keys on the command line, in a file, or on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ckptctl.errors import UsageError

__all__ = ["read_keys"]


def read_keys(words: Iterable[str], path: str | None) -> list[int]:
    """Return the keys given as arguments, then those of a file; see `ckptctl get --help`.

    Raises
    ------
    UsageError
        There is none, or something is no integer.
    """
    asked = [*_numbers(words, "argument"), *(_from_file(path) if path else [])]
    if not asked:
        raise UsageError("no key is given", remedy="name keys, or a file of them by --keys-from")
    return asked


def _numbers(words: Iterable[str], where: str) -> list[int]:
    found = []
    for word in words:
        text = word.strip().removeprefix("-")
        if not (text.isascii() and text.isdigit()) or len(text) > 40:
            raise UsageError(f"{word!r} ({where}) is no key", expected="an integer, such as 17")
        found.append(int(word))
    return found


def _from_file(path: str) -> list[int]:
    if path.endswith(".npy"):
        import numpy as np

        array = np.load(path, allow_pickle=False)
        if array.dtype.kind not in "iu":
            raise UsageError("a file of keys holds integers", file=path, found=str(array.dtype))
        return [int(key) for key in array.reshape(-1)]
    if path == "-":
        lines = sys.stdin.read().splitlines()
    else:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    words = ((number, line.partition("#")[0].strip()) for number, line in enumerate(lines, 1))
    return [key for number, word in words if word for key in _numbers([word], f"line {number}")]
