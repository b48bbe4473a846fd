"""Varints and the ordered code of slice keys: encode beside decode."""

from __future__ import annotations

import re

__all__ = [
    "decode_ordered_number",
    "decode_ordered_string",
    "decode_signed",
    "decode_varint",
    "encode_ordered_number",
    "encode_ordered_string",
    "encode_signed",
    "encode_varint",
]


def encode_varint(value: int) -> bytes:
    """Return the base-128 varint of an unsigned number below 2^64."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return the varint at `at` and where it ends; raise `ValueError` if there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("varint runs past the end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
    raise ValueError("varint longer than 64 bits")


# TensorFlow's OrderedCode (tensorflow/core/lib/strings/ordered_code.cc): encodings whose
# order as bytes is the order of the values.


def encode_ordered_number(value: int) -> bytes:
    """Return the code of an unsigned number: its length, then its big-endian bytes."""
    length = (value.bit_length() + 7) // 8
    return bytes([length]) + value.to_bytes(length, "big")


def decode_ordered_number(data: bytes, at: int) -> tuple[int, int]:
    """Return the unsigned number at `at` and where it ends; raise `ValueError`."""
    if at >= len(data) or data[at] > 8 or at + 1 + data[at] > len(data):
        raise ValueError("number runs past the end")
    end = at + 1 + data[at]
    return int.from_bytes(data[at + 1 : end], "big"), end


_ESCAPES = {b"\x00": b"\x00\xff", b"\xff": b"\xff\x00"}


def encode_ordered_string(value: bytes) -> bytes:
    """Return the code of a string: 00 and ff escaped, ended by 00 01."""
    escaped = re.sub(b"[\x00\xff]", lambda match: _ESCAPES[match[0]], value)
    return escaped + b"\x00\x01"


def decode_ordered_string(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the string at `at` and where it ends; raise `ValueError`."""
    out = bytearray()
    while at + 1 < len(data):
        byte, following = data[at], data[at + 1]
        if byte == 0x00:
            if following == 0x01:
                return bytes(out), at + 2
            if following != 0xFF:
                break
            out.append(0x00)
            at += 2
        elif byte == 0xFF:
            if following != 0x00:
                break
            out.append(0xFF)
            at += 2
        else:
            out.append(byte)
            at += 1
    raise ValueError("string without its end")


def encode_signed(value: int) -> bytes:
    """Return the code of a signed 64-bit number: 1 to 10 bytes, unary length in front."""
    length = (value if value >= 0 else ~value).bit_length() // 7 + 1
    raw = bytearray(value.to_bytes(10, "big", signed=True)[10 - length :])
    header = _signed_header(length)
    raw[0] ^= header[0]
    if length > 1:
        raw[1] ^= header[1]
    return bytes(raw)


def decode_signed(data: bytes, at: int) -> tuple[int, int]:
    """Return the signed number at `at` and where it ends; raise `ValueError`."""
    if at >= len(data):
        raise ValueError("number runs past the end")
    negative = data[at] < 0x80
    flip = 0xFF if negative else 0x00
    first = data[at] ^ flip
    length = 8 - (~first & 0xFF).bit_length()
    if length == 8:  # the unary length goes on in the second byte
        if at + 1 >= len(data):
            raise ValueError("number runs past the end")
        length += 8 - (~(data[at + 1] ^ flip) & 0xFF).bit_length()
    if length > 10 or at + length > len(data):
        raise ValueError("number runs past the end")
    raw = bytearray(data[at : at + length])
    header = _signed_header(length)
    raw[0] ^= header[0]
    if length > 1:
        raw[1] ^= header[1]
    value = int.from_bytes((b"\xff" if negative else b"\x00") + bytes(raw), "big", signed=True)
    if encode_signed(value) != data[at : at + length]:
        raise ValueError("number in a form that nobody writes")
    return value, at + length


def _signed_header(length: int) -> tuple[int, int]:
    bits = (0xFFFF << (16 - length)) & 0xFFFF
    return bits >> 8, bits & 0xFF
