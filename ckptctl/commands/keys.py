"""Keys on the command line, in a file, or on stdin."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

from ckptctl.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["no_key", "read_keys"]

_NUMBERS = "keys are whole numbers of 64 bits; the step to look at is given by --upto"
_FILES = "give a text file with one whole number a line, or a .npy file of integers"


def read_keys(words: Iterable[str], path: str | None) -> list[int]:
    """Return the keys given as arguments, then those of a file; see `ckptctl get --help`.

    Raises
    ------
    UsageError
        There is none, or something is no integer.
    """
    asked = _numbers(words, "argument")
    try:
        asked += _from_file(path) if path else []
    except UsageError as error:
        error.file, error.remedy = "standard input" if path == "-" else path, _FILES
        raise
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
            expected = "an integer, such as 17"
            raise UsageError(f"{word!r} ({where}) is no key", expected=expected, remedy=_NUMBERS)
        found.append(_in_range(int(word), word, where))
    return found


def _in_range(key: int, word: str, where: str) -> int:
    if not -(1 << 63) <= key < 1 << 63:
        expected = "-2^63 to 2^63 - 1"
        raise UsageError(f"{word} ({where}) is no key", expected=expected, remedy=_NUMBERS)
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
            "a file of keys is text, or a .npy file of integers", found="other bytes"
        ) from None
    words = (
        (number, line.partition("#")[0].strip()) for number, line in enumerate(text.split("\n"), 1)
    )
    return [key for number, word in words if word for key in _numbers([word], f"line {number}")]


def _from_array(path: str) -> list[int]:
    import numpy as np

    with open(path, "rb") as file:
        dtype, size = _header(file)
        if dtype.kind not in "iu":
            raise UsageError("a file of keys holds integers", found=str(dtype))
        # NumPy asks for the memory first, and only then looks what there is.
        there = os.fstat(file.fileno()).st_size - file.tell()
        if there < size:
            expected = f"{size} bytes behind its header"
            raise UsageError("an array cut short", expected=expected, found=str(there))
        file.seek(0)
        keys = np.lib.format.read_array(file).reshape(-1).tolist() if size else []
    return [_in_range(key, str(key), "array") for key in keys]


def _header(file: BinaryIO) -> tuple[np.dtype[Any], int]:
    """Return the type of an array, and the bytes that it claims to have."""
    import numpy as np

    form = np.lib.format
    # 3.0 is 2.0 with names of fields in UTF-8.
    read = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    read[3, 0] = read[2, 0]
    try:
        shape, _, dtype = read[form.read_magic(file)](file)
        if any(length < 0 for length in shape):
            raise ValueError(shape)
    except OSError:
        raise
    except Exception:  # noqa: BLE001 (the header is parsed as Python: whatever that may raise)
        raise UsageError("no array of integers", found="no .npy file") from None
    return dtype, math.prod(shape) * dtype.itemsize
