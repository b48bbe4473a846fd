"""What a caller of the library may give for a step, a key, or how many there are."""

from __future__ import annotations

import operator
from typing import Any

from ckptctl.errors import UsageError

__all__ = ["whole_number"]


def whole_number(what: str, value: Any) -> int:
    """Return a whole number as Python's own, also one of NumPy or of an array without axes.

    Raises
    ------
    UsageError
        It is none: 180.0 would get into names and documents, and 17.9 is nobody's key.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    try:
        if kind == "b":  # older versions of NumPy would take it, with a warning
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UsageError(f"{what}: a whole number, not {repr(value)[:80]}") from None
