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
