"""How the rows of two members differ: what is counted while both stream by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np

from ckptctl.bundle import DType
from ckptctl.inspect.diff_lines import lines_of_filtered, lines_of_rows
from ckptctl.inspect.sketch import Sketch
from ckptctl.inspect.stats import decode, finite, gaps
from ckptctl.inspect.walk import Rows
from ckptctl.restore.keys import bucket_of, is_in
from ckptctl.tables import BUCKETS

__all__ = ["Lines", "RowsDiff", "rows_differ"]

#: Buckets of a range in which changes are counted, and powers of two of freqs.
_RANGE, _FREQS = 50, 64
_BARS = 40
_QUANTILES = (0.5, 0.9, 0.99)
_COUNTS = (
    *("new", "gone", "changed", "unchanged", "not_finite", "admitted", "filtered"),
    *("filtered_new", "filtered_gone", "filtered_moved", "squares"),
)

#: Complex types, and that of their parts; types of which float64 does not hold each number.
_PARTS = {"complex64": np.float32, "complex128": np.float64}
_EXACT = {"int64", "uint64", *_PARTS}

#: Bytes of numbers that are worked on together, of each side.
_CACHED = 1 << 18

#: Receives key, change, L2, largest change, freqs and versions of rows that differ.
Lines = Callable[[Iterator[dict[str, object]]], None]


class RowsDiff:
    """What differs between two members, in memory of a fixed size.

    Attributes
    ----------
    dtype
        Of the values.
    tolerance
        A row whose elements all differ by at most this is unchanged.
    top
        How many of the keys that changed most are kept.
    norms
        Whether norms of all rows are counted, not only of those that changed.
    lines
        Told of each row that differs.
    """

    def __init__(
        self,
        dtype: DType,
        tolerance: float = 0.0,
        top: int = 10,
        norms: bool = True,
        lines: Lines | None = None,
    ) -> None:
        self.dtype = dtype
        self.tolerance = tolerance
        self.top = top
        self.norms = norms
        self.lines = lines
        self.new = 0
        self.gone = 0
        self.changed = 0
        self.unchanged = 0
        self.not_finite = 0
        self.admitted = 0
        self.filtered = 0
        self.filtered_new = 0
        self.filtered_gone = 0
        self.filtered_moved = 0
        self.l2 = Sketch()
        self.most = Sketch()
        self.cosine = Sketch()
        self.moved: dict[str, Sketch] = {}
        self.before = Sketch()
        self.after = Sketch()
        self.squares = 0.0
        self._both = Sketch()
        self._buckets = np.zeros((3, BUCKETS // _RANGE), np.int64)
        self._freqs = np.zeros(_FREQS, np.int64)
        #: L2, key, norm before, norm after of the keys that changed most.
        self._top = np.empty((0, 3))
        self._top_keys = np.empty(0, np.int64)

    def add(self, a: Rows, b: Rows, away_a: Rows | None = None, away_b: Rows | None = None) -> None:
        """Compare rows of the same buckets; `away` are the filtered keys of each side."""
        in_a, in_b, lost, fresh = _match(a, b)
        keys = b.keys[in_b]
        self._count(0, b.keys[fresh])
        self._count(1, a.keys[lost])
        self.new += len(fresh)
        self.gone += len(lost)
        admitted = np.zeros(len(fresh), bool)
        if away_a is not None and away_b is not None:
            admitted = self._add_filtered(away_a, away_b, b.keys[fresh], a.keys[lost])
        if self.norms:
            for sketch, rows in ((self.before, a), (self.after, b)):
                values = rows.columns.get("values")
                norms = None if values is None else self.norms_of(values)
                if norms is not None:
                    sketch.add(norms)
        moved = self._move(a, b, in_a, in_b)
        which, measured = self._compare(a, b, in_a, in_b)
        self.changed += len(which)
        self.unchanged += len(keys) - len(which)
        self._count(2, keys[which])
        if len(which):
            self._change(keys[which], measured)
            freqs = b.columns.get("freqs")
            if freqs is not None:
                own = np.maximum(freqs[in_b][which], 0)
                power = np.ceil(np.log2(own + 1.0)).astype(np.intp)
                self._freqs += np.bincount(power, minlength=_FREQS)[:_FREQS]
        if self.lines is not None:
            apart = fresh, admitted, lost
            self.lines(lines_of_rows(a, b, apart, keys, (which, measured), moved))

    def _add_filtered(self, a: Rows, b: Rows, fresh: np.ndarray, lost: np.ndarray) -> np.ndarray:
        """Compare filtered keys; return which of the new keys were among those of a.

        What was admitted meanwhile, or is filtered again, is told once: as that.
        """
        in_a, in_b, gone, new = _match(a, b)
        gone = gone[~_among(a.keys[gone], fresh)]
        new = new[~_among(b.keys[new], lost)]
        moved = np.zeros(len(a.keys[in_a]), bool)
        for name in a.columns.keys() & b.columns.keys():
            moved |= a.columns[name][in_a] != b.columns[name][in_b]
        which = np.flatnonzero(moved)
        self.filtered_new += len(new)
        self.filtered_gone += len(gone)
        self.filtered_moved += len(which)
        admitted = _among(fresh, a.keys)
        self.admitted += int(np.count_nonzero(admitted))
        self.filtered += int(np.count_nonzero(_among(lost, b.keys)))
        if self.lines is not None:
            at_a, at_b = (np.arange(len(rows))[own] for rows, own in ((a, in_a), (b, in_b)))
            self.lines(lines_of_filtered(a, b, new, gone, (at_a[which], at_b[which])))
        return admitted

    def _compare(
        self, a: Rows, b: Rows, in_a: slice | np.ndarray, in_b: slice | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which common rows changed, and their L2, largest change, and both norms."""
        none = np.empty(0, np.intp), np.empty((0, 5))
        if "values" not in a.columns or "values" not in b.columns:
            return none
        old, new = a.columns["values"], b.columns["values"]
        if not old.size or not new.size:
            return none
        # Bits, so that a NaN equals itself.
        which = np.flatnonzero(_common_differ(old, new, in_a, in_b))
        if not len(which):
            return none
        most_did = False
        if isinstance(in_a, slice) or isinstance(in_b, slice):
            # As a rule, where only touched rows are compared: five numbers of each are less to
            # choose from than its values.
            most_did = len(which) * 8 >= len(old) * 7
            old, new = (old, new) if most_did else (old[which], new[which])
        else:
            old, new = old[in_a[which]], new[in_b[which]]
        first, second = self._numbers(old), self._numbers(new)
        measured = _measure(first, second)
        odd = np.flatnonzero(~np.isfinite(measured[:, 3]))  # norms: NaN, Inf, or a large one
        if len(odd):
            was, now = (np.isfinite(rows[odd]).all(axis=1) for rows in (first, second))
            self.not_finite += int(np.count_nonzero(was & ~now))
        if self.dtype.name in _EXACT:
            _measure_again(old.reshape(len(old), -1), new.reshape(len(new), -1), measured)
        if most_did and len(which) < len(old):
            measured = measured.T.take(which, axis=1).T
        if self.tolerance:
            kept = ~(measured[:, 1] <= self.tolerance)  # NaN is a change
            return which[kept], measured[kept]
        return which, measured

    def _change(self, keys: np.ndarray, measured: np.ndarray) -> None:
        l2 = measured[:, 0]
        self.l2.add(l2)
        self.most.add(measured[:, 1])
        self.cosine.add(measured[:, 4])
        with np.errstate(over="ignore"):
            self.squares += float(np.square(l2[np.isfinite(l2)]).sum())
        if len(l2) > self.top > 0:  # to sort all would take longer than all else here
            rank = _rank(l2)
            kept = np.flatnonzero(rank >= _least(rank, self.top))
            keys, measured = keys[kept], measured[kept]
        self._keep(keys, measured[:, [0, 2, 3]])

    def _keep(self, keys: np.ndarray, facts: np.ndarray) -> None:
        """Keep the keys that changed most of those that were kept and of these."""
        facts = np.concatenate([self._top, facts])
        keys = np.concatenate([self._top_keys, keys])
        order = np.lexsort((keys, -_rank(facts[:, 0])))[: self.top]
        self._top, self._top_keys = facts[order], keys[order]

    def _move(
        self, a: Rows, b: Rows, in_a: slice | np.ndarray, in_b: slice | np.ndarray
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        found = {}
        for name in ("freqs", "versions"):
            old, new = a.columns.get(name), b.columns.get(name)
            if old is not None and new is not None:
                found[name] = (old[in_a], new[in_b])
                change = found[name][1] - found[name][0]
                self.moved.setdefault(name, Sketch()).add(change[change != 0])
        return found

    def norms_of(self, values: np.ndarray) -> np.ndarray | None:
        """Return the norm of each row; None where rows have no elements."""
        if not values.size:
            return None
        flat = self._numbers(values)
        if flat.dtype.kind != "f" or flat.dtype.itemsize < 4:
            flat = flat.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray(np.sqrt(np.einsum("ij,ij->i", flat, flat)))

    def _numbers(self, values: np.ndarray) -> np.ndarray:
        """Return rows of real numbers, a complex one being two."""
        real = _PARTS.get(self.dtype.name)
        numbers = decode(self.dtype, values) if real is None else values.view(real)
        return numbers.reshape(len(values), -1)

    def add_norms(self, norms: np.ndarray) -> None:
        """Count the norms of rows that both sides have, unchanged."""
        self._both.add(norms)

    def _count(self, what: int, keys: np.ndarray) -> None:
        if len(keys):
            place = np.abs(bucket_of(keys)) // _RANGE
            self._buckets[what] += np.bincount(place, minlength=BUCKETS // _RANGE)

    def merge(self, other: RowsDiff) -> None:
        """Take over what was counted of another part."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("l2", "most", "cosine", "before", "after", "_both"):
            getattr(self, name).merge(getattr(other, name))
        for name, sketch in other.moved.items():
            self.moved.setdefault(name, Sketch()).merge(sketch)
        self._buckets += other._buckets
        self._freqs += other._freqs
        self._keep(other._top_keys, other._top)

    @property
    def differs(self) -> bool:
        """Whether any row is new, gone or changed, any filtered key is, or any number moved."""
        moved = any(sketch.count for sketch in self.moved.values())
        filtered = self.filtered_new or self.filtered_gone or self.filtered_moved
        return bool(self.new or self.gone or self.changed or filtered or moved)

    def document(self) -> dict[str, object]:
        """Return it as JSON; see `ckptctl.inspect.diff`."""
        used = np.flatnonzero(self._freqs)
        known = self.l2.count or not self.changed
        total = float(np.sqrt(self.squares)) if known else np.nan
        powers = range(int(used[-1]) + 1 if len(used) else 0)
        return {
            "new": self.new,
            "gone": self.gone,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "not_finite": self.not_finite,
            "newly_admitted": self.admitted,
            "newly_filtered": self.filtered,
            "filtered": {
                "new": self.filtered_new,
                "gone": self.filtered_gone,
                "moved": self.filtered_moved,
            },
            "l2": _quantiles(self.l2) | {"total": finite(total)},
            "max": _quantiles(self.most),
            "cosine": _quantiles(self.cosine),
            **{
                name: {
                    "moved": self.moved[name].count if name in self.moved else 0,
                    **_quantiles(self.moved.get(name, Sketch())),
                }
                for name in ("freqs", "versions")
            },
            "top": [
                {"key": int(key), "l2": finite(fact[0]), "norm": [finite(x) for x in fact[1:]]}
                for key, fact in zip(self._top_keys, self._top.tolist(), strict=True)
            ],
            "by_bucket": [
                {
                    "buckets": [at * _RANGE, at * _RANGE + _RANGE - 1],
                    "new": int(n),
                    "gone": int(g),
                    "changed": int(c),
                }
                for at, (n, g, c) in enumerate(self._buckets.T)
            ],
            "by_freq": [
                {"freq": [2 ** (at - 1) if at else 0, 2**at - 1], "changed": int(self._freqs[at])}
                for at in powers
            ],
            "norms": self._norms() if self.norms else None,
        }

    def _norms(self) -> dict[str, object]:
        """Return histograms of norms over the same edges."""
        before, after, every = Sketch(), Sketch(), Sketch()
        for sketch, own in ((before, self.before), (after, self.after)):
            sketch.merge(own)
            sketch.merge(self._both)
            every.merge(sketch)
        edges, counts = every.histogram(_BARS)
        return {
            "edges": edges,
            "before": before.histogram_of(edges),
            "after": after.histogram_of(edges),
            "coarse": len(counts) < _BARS and every.min != every.max,
        }


def _measure(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return L2 and largest element of the change, both norms, and the cosine, of each row."""
    rows, width = old.shape
    measured: np.ndarray = np.empty((5, rows))
    l2, most, before, after, cosine = measured
    # Some rows at a time, in memory that is used again: what is asked for anew is slow (bench.md).
    step = min(max(1, _CACHED // (8 * width)), rows)
    numbers = np.empty((3, step, width))
    turned = np.empty(width * step)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        for at in range(0, rows, step):
            own = slice(at, min(at + step, rows))
            count = own.stop - at
            x, y, change = numbers[:, :count]
            x[:], y[:] = old[own], new[own]
            np.subtract(y, x, out=change)
            for one, other, found in ((change, change, l2), (x, x, before), (y, y, after)):
                np.einsum("ij,ij->i", one, other, out=found[own])
            np.einsum("ij,ij->i", x, y, out=cosine[own])
            # Element by element: along short rows `max` is slow.
            size = turned[: width * count].reshape(width, count)
            np.abs(change.T, out=size)
            np.maximum.reduce(size, axis=0, out=most[own])
        for found in (l2, before, after):
            np.sqrt(found, out=found)
        cosine /= before * after
    return np.asarray(measured.T)


def _measure_again(old: np.ndarray, new: np.ndarray, measured: np.ndarray) -> None:
    """Put in L2 and largest element of the change of what float64 does not hold."""
    with np.errstate(invalid="ignore", over="ignore"):
        change = gaps(old, new)
        measured[:, 0] = np.sqrt(np.einsum("ij,ij->i", change, change))
    measured[:, 1] = change.max(axis=1)


def _rank(l2: np.ndarray) -> np.ndarray:
    """Return what orders changes by size: NaN before all numbers."""
    return np.where(np.isnan(l2), np.inf, l2)


def _least(rank: np.ndarray, top: int) -> float:
    """Return a number that at least `top` of more numbers reach, and few that need not.

    Of as many groups the largest: to part all of them takes five times as long.
    """
    width = len(rank) // (8 * top)
    if width > 1:
        rank = rank[: width * 8 * top].reshape(-1, width).max(axis=1)
    return float(np.partition(rank, -top)[-top])


def _match(
    a: Rows, b: Rows
) -> tuple[slice | np.ndarray, slice | np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of keys that both have, in a and in b, and those that only one has.

    Two fulls of one run have most keys at the same place of the same bucket, the newer one
    others behind them: those are found without sorting.
    """
    none = np.empty(0, np.intp)
    if len(a) == len(b) and np.array_equal(a.keys, b.keys):
        return slice(None), slice(None), none, none
    at_a = at_b = none
    if a.segments is not None and b.segments is not None and len(a.segments) == len(b.segments):
        both = np.minimum(a.segments, b.segments)
        place = np.arange(int(both.sum())) - np.repeat(np.cumsum(both) - both, both)
        at_a = place + np.repeat(np.cumsum(a.segments) - a.segments, both)
        at_b = place + np.repeat(np.cumsum(b.segments) - b.segments, both)
        equal = a.keys[at_a] == b.keys[at_b]
        if not equal.all():
            at_a, at_b = at_a[equal], at_b[equal]
    rest_a, rest_b = _rest(len(a), at_a), _rest(len(b), at_b)
    if not len(rest_a) or not len(rest_b):
        return at_a, at_b, rest_a, rest_b
    order = np.argsort(a.keys[rest_a], kind="stable")
    ascending = a.keys[rest_a][order]
    found = np.minimum(np.searchsorted(ascending, b.keys[rest_b]), len(ascending) - 1)
    common = ascending[found] == b.keys[rest_b]
    more_a, more_b = rest_a[order[found[common]]], rest_b[common]
    lost = np.ones(len(a), bool)
    lost[at_a] = lost[more_a] = False
    in_a, in_b = np.concatenate([at_a, more_a]), np.concatenate([at_b, more_b])
    return in_a, in_b, np.flatnonzero(lost), rest_b[~common]


def _among(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which keys stand among others, in any order; these are sorted only for some."""
    return is_in(keys, np.sort(others)) if len(keys) else np.zeros(0, bool)


def _rest(rows: int, taken: np.ndarray) -> np.ndarray:
    free = np.ones(rows, bool)
    free[taken] = False
    return np.flatnonzero(free)


def _common_differ(
    old: np.ndarray, new: np.ndarray, in_a: slice | np.ndarray, in_b: slice | np.ndarray
) -> np.ndarray:
    """Return which of the common rows are not the same bits; runs of them are not copied."""
    if isinstance(in_a, slice) or isinstance(in_b, slice):
        return rows_differ(old, new)
    if not len(in_a):
        return np.zeros(0, bool)
    ends = np.flatnonzero((np.diff(in_a) != 1) | (np.diff(in_b) != 1)) + 1
    if len(ends) * 64 > len(in_a):
        return rows_differ(old[in_a], new[in_b])
    found = []
    for begin, end in pairwise([0, *ends.tolist(), len(in_a)]):
        x, y = int(in_a[begin]), int(in_b[begin])
        found.append(rows_differ(old[x : x + end - begin], new[y : y + end - begin]))
    return np.concatenate(found)


def rows_differ(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return which rows are not the same bits."""
    width = old.dtype.itemsize * old.shape[1]
    word = next(size for size in (8, 4, 2, 1) if width % size == 0)
    bits = np.dtype(f"u{word}")
    differs = np.ascontiguousarray(old).view(bits) != np.ascontiguousarray(new).view(bits)
    # Eight answers are one number: a short reduction over bytes is slow.
    wide = differs.view(np.uint64) if differs.shape[1] % 8 == 0 else differs
    return np.asarray(wide[:, 0] != 0) if wide.shape[1] == 1 else wide.any(axis=1)


def _quantiles(sketch: Sketch) -> dict[str, object]:
    found: dict[str, object] = {str(q): sketch.quantile(q) for q in _QUANTILES}
    return {"min": sketch.min, **found, "max": sketch.max}
