"""Keys on the command line, in a file, or on stdin."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ckptctl.errors import UsageError

__all__ = ["no_key", "read_keys"]


def read_keys(words: Iterable[str], path: str | None) -> list[int]:
    """Return the keys given as arguments, then those of a file; see `ckptctl get --help`.

    Raises
    ------
    UsageError
        There is none, or something is no integer.
    """
    asked = [*_numbers(words, "argument"), *(_from_file(path) if path else [])]
    if not asked:
        raise no_key()
    return asked


def no_key() -> UsageError:
    """Return the error of a question that names no key."""
    return UsageError("no key is given", remedy="name keys, or a file of them by --keys-from")


def _numbers(words: Iterable[str], where: str) -> list[int]:
    found = []
    for word in words:
        text = word.strip().removeprefix("-")
        if not (text.isascii() and text.isdigit()) or len(text) > 40:
            raise UsageError(f"{word!r} ({where}) is no key", expected="an integer, such as 17")
        found.append(_in_range(int(word), word, where))
    return found


def _in_range(key: int, word: str, where: str) -> int:
    if not -(1 << 63) <= key < 1 << 63:
        raise UsageError(f"{word} ({where}) is no key", expected="-2^63 to 2^63 - 1")
    return key


def _from_file(path: str) -> list[int]:
    if path.endswith(".npy"):
        return _from_array(path)
    try:
        if path == "-":
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        else:
            with open(path, encoding="utf-8-sig") as file:
                text = file.read()
    except UnicodeDecodeError:
        raise UsageError(
            "a file of keys is text, or a .npy file of integers", file=path, found="other bytes"
        ) from None
    words = (
        (number, line.partition("#")[0].strip()) for number, line in enumerate(text.split("\n"), 1)
    )
    return [key for number, word in words if word for key in _numbers([word], f"line {number}")]


def _from_array(path: str) -> list[int]:
    import numpy as np

    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, SyntaxError):  # what NumPy says of bytes that are no array
        raise UsageError("no array of integers", file=path, found="no .npy file") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        found = str(getattr(array, "dtype", "an archive"))
        raise UsageError("a file of keys holds integers", file=path, found=found)
    return [_in_range(key, str(key), "array") for key in array.reshape(-1).tolist()]
