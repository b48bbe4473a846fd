"""How the tensors that are no part of a table differ."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from math import isfinite, sqrt
from typing import Any

import numpy as np

from ckptctl.bundle import DType
from ckptctl.inspect.stats import decode, finite, gaps
from ckptctl.inspect.tensors import TensorView
from ckptctl.restore import CopyJob

__all__ = ["compare_tensors", "compare_values"]


def compare_tensors(
    a: dict[str, TensorView], b: dict[str, TensorView], tolerance: float = 0.0
) -> dict[str, Any]:
    """Return what was added, removed, retyped, reshaped, uncovered and changed, by name.

    How a tensor is cut into slices, and in which shard it lies, is no difference. That other
    slices of it are missing is one, and then its elements are not compared.

    Raises
    ------
    TensorChecksumError, StringTensorError, EntryBoundsError
        What was compared is damaged.
    """
    found: dict[str, Any] = {
        "added": [_facts(b[name]) for name in sorted(b.keys() - a.keys())],
        "removed": [_facts(a[name]) for name in sorted(a.keys() - b.keys())],
        "retyped": [],
        "reshaped": [],
        "uncovered": [],
        "changed": [],
        "unchanged": 0,
    }
    for name in sorted(a.keys() & b.keys()):
        old, new = a[name], b[name]
        if old.dtype != new.dtype:
            found["retyped"].append({"name": name, "a": old.dtype.name, "b": new.dtype.name})
        elif old.shape != new.shape:
            found["reshaped"].append({"name": name, "a": list(old.shape), "b": list(new.shape)})
        elif old.held != new.held:
            words = [f"without {each.missing}" if each.missing else "whole" for each in (old, new)]
            found["uncovered"].append({"name": name, "a": words[0], "b": words[1]})
        else:
            change = compare_values(old, new, tolerance)
            if change is None:
                found["unchanged"] += 1
            else:
                found["changed"].append(_facts(new) | change)
    return found


def compare_values(a: TensorView, b: TensorView, tolerance: float = 0.0) -> dict[str, Any] | None:
    """Return how the elements of two tensors of one type and shape differ; None if not.

    Slices that are missing are missing in both.

    Returns
    -------
    dict or None
        elements (that changed), not_finite (that were finite in `a` and are not in `b`), l2 and
        max of the difference, norm (l2 of both), and relative (l2 of the difference over that
        of `a`): these are null for what has no numbers. Strings have none but elements.
    """
    if not a.numeric or not b.numeric:
        if a.dtype.name == "string" and not a.is_hash_table:
            count = sum(x != y for x, y in zip_longest(a.strings(), b.strings()))
        else:
            count = int(_stored(a) != _stored(b))
        return {"elements": count} if count else None
    changed = odd = 0
    squares = [0.0, 0.0, 0.0]
    most = 0.0
    for x, y in _side_by_side(a.flat(), b.flat()):
        own = _compare(a.dtype, x, y, tolerance)
        changed += own[0]
        most = max(most, own[1]) if own[1] == own[1] else own[1]
        squares = [before + now for before, now in zip(squares, own[2], strict=True)]
        odd += own[3]
    if not changed:
        return None
    l2, old, new = (sqrt(each) if isfinite(each) else None for each in squares)
    return {
        "elements": changed,
        "not_finite": odd,
        "l2": l2,
        "max": finite(most),
        "norm": [old, new],
        "relative": finite(l2 / old) if l2 is not None and old else None,
    }


def _compare(
    dtype: DType, x: np.ndarray, y: np.ndarray, tolerance: float
) -> tuple[int, float, list[float], int]:
    """Return elements changed, largest change, squares, and elements not finite any more.

    Squares are those of the change and of both sides.
    """
    differs = x.view(np.uint8) != y.view(np.uint8)
    x, y = decode(dtype, x), decode(dtype, y)
    kind = np.complex128 if x.dtype.kind == "c" else np.float64
    with np.errstate(over="ignore", invalid="ignore"):
        wide = x.astype(kind)
        old = float(np.vdot(wide, wide).real)
        if not differs.any():
            return 0, 0.0, [0.0, old, old], 0
        other = y.astype(kind)
        step = gaps(x, y) if x.dtype.kind in "iu" else np.abs(other - wide)
        elements = differs.reshape(len(x), -1).any(axis=1)
        if tolerance:
            elements &= ~(step <= tolerance)  # NaN is a change
        real = step[elements]
        largest = float(real.max()) if len(real) else 0.0
        squares = [float(real @ real), old, float(np.vdot(other, other).real)]
        odd = 0
        if not isfinite(squares[2]):
            odd = int(np.count_nonzero(np.isfinite(x) & ~np.isfinite(y)))
        return int(np.count_nonzero(elements)), largest, squares, odd


def _side_by_side(
    a: Iterator[np.ndarray], b: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Return chunks of equal length of two streams of as many elements."""
    x = y = np.empty(0)
    while True:
        if not len(x):
            x = next(a, x)
        if not len(y):
            y = next(b, y)
        size = min(len(x), len(y))
        if not size:
            # Both are at their end, where they are checked.
            for rest in (a, b):
                for _ in rest:
                    pass
            return
        yield x[:size], y[:size]
        x, y = x[size:], y[size:]


def _stored(tensor: TensorView) -> list[tuple[object, ...]]:
    """Return what tells the bytes of a tensor that is not decoded, checked."""
    found: list[tuple[object, ...]] = []
    for piece in tensor.pieces:
        if isinstance(piece.made, CopyJob):
            piece.made.data.check_tensor(tensor.name, piece.entry)
        where = piece.slice.extents if piece.slice is not None else None
        hashed = piece.slice.hash_slice if piece.slice is not None else None
        found.append((where, hashed, piece.entry.shape, piece.entry.size, piece.entry.crc))
    return found


def _facts(tensor: TensorView) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "bytes": tensor.nbytes,
    }
