"""Checksums of pieces that are put together without their bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptctl.bundle.checksum import combine, crc32c


@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_two_checksums_make_that_of_both(first: bytes, second: bytes) -> None:
    assert combine(crc32c(first), crc32c(second), len(second)) == crc32c(first + second)


@pytest.mark.parametrize("length", [1 << 20, (1 << 22) + 13])
def test_of_large_pieces_too(length: int) -> None:
    zeros = bytes(length)
    assert combine(crc32c(b"abc"), crc32c(zeros), length) == crc32c(zeros, crc32c(b"abc"))


def test_lengths_that_no_memory_holds() -> None:
    """2^40 zero bytes, put together by doubling."""
    crc, length = crc32c(b"\0"), 1
    while length < 1 << 40:
        crc, length = combine(crc, crc, length), length * 2
    half = combine(crc32c(b"ckptctl"), crc, length)
    assert combine(half, crc, length) == combine(
        crc32c(b"ckptctl"), combine(crc, crc, length), 2 * length
    )
