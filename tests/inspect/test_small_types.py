"""Values of bytes, against those of a library that TensorFlow brings."""

from __future__ import annotations

import numpy as np
import pytest

from ckptctl.bundle.dtypes import DTYPES
from ckptctl.inspect.small_types import values_of_bytes

_STARTS = ("float8", "float4", "int4", "uint4", "int2", "uint2")
SMALL = [dtype.name for dtype in DTYPES.values() if dtype.name.startswith(_STARTS)]


@pytest.mark.parametrize("name", SMALL)
def test_each_byte_has_the_value_that_ml_dtypes_gives_it(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="TensorFlow brings it: make test has it")
    found = values_of_bytes(name)
    assert found is not None
    bits = 8 if "8" in name else int(name.split("_")[0][-1])
    codes = np.arange(1 << bits, dtype=np.uint8)
    expected = codes.view(getattr(ml_dtypes, name)).astype(np.float32)
    own = found[: len(codes)].astype(np.float32)
    np.testing.assert_array_equal(own, expected)
    some = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(own[some]), np.signbit(expected[some]))


@pytest.mark.parametrize(
    ("name", "code", "value"),
    [
        ("float8_e4m3fn", 0x38, 1.0), ("float8_e4m3fn", 0x7E, 448.0), ("float8_e5m2", 0xBC, -1.0),
        ("float8_e4m3fnuz", 0x40, 1.0), ("float8_e5m2fnuz", 0x01, 2.0**-17), ("int4", 0x0F, -1),
        ("float8_e4m3b11fnuz", 0x01, 2.0**-13), ("float4_e2m1fn", 0x07, 6.0), ("uint2", 0x03, 3),
    ],
)  # fmt: skip
def test_some_that_are_known(name: str, code: int, value: float) -> None:
    found = values_of_bytes(name)
    assert found is not None
    assert found[code] == value


def test_other_types_are_not_small() -> None:
    found = [d.name for d in DTYPES.values() if values_of_bytes(d.name) is not None]
    assert found == SMALL
