"""Quantiles of a sketch against those of the numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest

from ckptctl.inspect.sketch import Sketch


@pytest.mark.parametrize("seed", range(4))
def test_quantiles_are_off_by_less_than_a_percent(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = np.concatenate([random.normal(size=5000), 10.0 ** random.uniform(-30, 30, 5000)])
    sketch, first = Sketch(), Sketch()
    first.add(values[:4000])
    sketch.add(values[4000:].reshape(2, -1))
    sketch.merge(first)
    for q in (0.0, 0.01, 0.25, 0.5, 0.9, 0.999, 1.0):
        exact = np.quantile(values, q, method="lower")
        assert sketch.quantile(q) == pytest.approx(exact, rel=0.01)
    assert (sketch.min, sketch.max, sketch.count) == (values.min(), values.max(), 10000)
    assert sum(sketch.histogram(8)[1]) == 10000


def test_small_integers_are_exact() -> None:
    values = np.repeat(np.arange(-5, 200), 3)
    sketch = Sketch()
    sketch.add(values)
    for q in (0.1, 0.3, 0.5, 0.77):
        assert sketch.quantile(q) == np.quantile(values, q, method="lower")


def test_what_is_not_finite_is_counted_apart() -> None:
    sketch = Sketch()
    sketch.add(np.array([np.nan, np.inf, -np.inf, 0, -0.0, 5e-324, -2], np.float64))
    assert (sketch.nans, sketch.infinities, sketch.count) == (1, 2, 4)
    assert (sketch.min, sketch.max) == (-2, 5e-324)


def test_nothing_has_no_quantile() -> None:
    assert Sketch().quantile(0.5) is None
    assert Sketch().histogram(3) == ([], [])
    assert Sketch().histogram_of([0.0, 1.0]) == [0]


@pytest.mark.parametrize("middle", [0.0, 0.01, 0.1])
def test_a_histogram_has_the_shape_of_the_numbers(middle: float) -> None:
    values = np.random.default_rng(0).normal(middle, 0.01, size=50000)
    edges, counts = _sketch(values).histogram(20)
    assert len(counts) == (20 if middle < 0.1 else len(counts))
    assert sum(counts) == 50000
    assert counts == pytest.approx(np.histogram(values, edges)[0], abs=1500)


def test_numbers_close_together_have_fewer_bars_and_no_peaks() -> None:
    values = np.random.default_rng(0).normal(1, 0.001, size=4096).astype(np.float32)
    edges, counts = _sketch(values).histogram(20)
    assert counts == [4096]
    assert edges == [values.min(), values.max()]
    wider = np.random.default_rng(0).uniform(1, 1.1, size=4096)
    edges, counts = _sketch(wider).histogram(20)
    assert len(counts) == 12
    assert counts == pytest.approx(np.histogram(wider, edges)[0], abs=60)


@pytest.mark.parametrize("middle", [1e6, -1e9])
def test_numbers_of_one_bin_are_not_all_at_an_end(middle: float) -> None:
    values = middle + np.random.default_rng(0).normal(size=5000)
    sketch = _sketch(values)
    assert sketch.histogram(20) == ([values.min(), values.max()], [5000])
    counts = sketch.histogram_of(np.linspace(values.min(), values.max(), 4).tolist())
    assert sum(counts) == 5000
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_a_histogram_of_small_integers_is_exact(kind: type) -> None:
    values = np.random.default_rng(0).integers(0, 256, 5000).astype(kind)
    edges, counts = _sketch(values).histogram(20)
    assert counts == np.histogram(values, edges)[0].tolist()


def test_equal_numbers_are_one_bar() -> None:
    assert _sketch(np.full(9, 7.25)).histogram(20) == ([7.25, 7.25], [9])


def test_a_range_beyond_float64_has_a_histogram() -> None:
    edges, counts = _sketch(np.array([1e308, -1e308, 1e308])).histogram(20)
    assert (edges[0], edges[10], edges[20]) == (-1e308, 0, 1e308)
    assert counts == [1, *[0] * 18, 2]


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_the_ends_of_integers_are_exact(kind: type) -> None:
    most = int(np.iinfo(kind).max)
    sketch, other = _sketch(np.array([most, most - 2], kind)), _sketch(np.array([2**53 + 1], kind))
    sketch.merge(other)
    assert (sketch.min, sketch.max) == (2**53 + 1, most)
    assert type(sketch.max) is int
    assert sum(sketch.histogram(20)[1]) == 3


def _sketch(values: np.ndarray) -> Sketch:
    sketch = Sketch()
    sketch.add(values)
    return sketch
