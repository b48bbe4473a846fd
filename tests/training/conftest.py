"""The training room needs TensorFlow; without it nothing here is collected."""

from __future__ import annotations

import importlib.util
import warnings

import pytest

if importlib.util.find_spec("tensorflow") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TensorFlow's own imports
        import tensorflow as tf

        tf.compat.v1.train.Saver  # noqa: B018 - loaded lazily


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/training/" in str(item.path):
            item.add_marker("tensorflow")
            # TensorFlow warns of its own deprecated functions.
            item.add_marker(pytest.mark.filterwarnings("default"))
