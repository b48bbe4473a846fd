"""TensorFlow's element types, by the number that an entry stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy

__all__ = ["DTYPES", "DType", "dtype_by_name", "dtype_of"]


class DType(NamedTuple):
    """One of TensorFlow's element types (tensorflow/core/framework/types.proto).

    `size` is in bytes an element, 0 for strings and variants. `numpy_name` is the NumPy
    type that holds the bytes unchanged: bfloat16 and smaller floats are held as unsigned
    integers, since NumPy has no type of their own.
    """

    number: int
    name: str
    size: int
    numpy_name: str

    @property
    def numpy(self) -> numpy.dtype:
        """Return the little-endian NumPy type that holds the bytes unchanged."""
        import numpy as np

        dtype: numpy.dtype = np.dtype(self.numpy_name).newbyteorder("<")
        return dtype


_TABLE = """
1 float32 4 f4;   2 float64 8 f8;   3 int32 4 i4;     4 uint8 1 u1;      5 int16 2 i2
6 int8 1 i1;      7 string 0 O;     8 complex64 8 c8; 9 int64 8 i8;      10 bool 1 ?
11 qint8 1 i1;    12 quint8 1 u1;   13 qint32 4 i4;   14 bfloat16 2 u2;  15 qint16 2 i2
16 quint16 2 u2;  17 uint16 2 u2;   18 complex128 16 c16; 19 float16 2 f2; 21 variant 0 O
22 uint32 4 u4;   23 uint64 8 u8;   24 float8_e5m2 1 u1; 25 float8_e4m3fn 1 u1
26 float8_e4m3fnuz 1 u1; 27 float8_e4m3b11fnuz 1 u1; 28 float8_e5m2fnuz 1 u1
29 int4 1 i1;     30 uint4 1 u1;    31 int2 1 i1;     32 uint2 1 u1
33 float4_e2m1fn 1 u1
"""


def _parse(text: str) -> dict[int, DType]:
    rows = (row.split() for line in text.strip().splitlines() for row in line.split(";"))
    return {int(row[0]): DType(int(row[0]), row[1], int(row[2]), row[3]) for row in rows}


#: Number -> type. Resources are never stored and so not listed.
DTYPES = _parse(_TABLE)
_BY_NAME = {dtype.name: dtype for dtype in DTYPES.values()}


def dtype_by_name(name: str) -> DType:
    """Return the type called `name`, as in `tf.dtypes.DType.name`."""
    return _BY_NAME[name]


def dtype_of(array: numpy.ndarray) -> DType:
    """Return the plain TensorFlow type of a NumPy array; raise `TypeError` if none fits."""
    name = {"object": "string", "bytes": "string"}.get(array.dtype.name, array.dtype.name)
    if array.dtype.kind in "SU":
        name = "string"
    if name not in _BY_NAME:
        raise TypeError(f"TensorFlow has no type for NumPy's {array.dtype}")
    return _BY_NAME[name]
