"""Numbers, ages and names as people read them."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "age",
    "bytes_",
    "count",
    "duration",
    "escape",
    "one_line",
    "rate",
    "safe_text",
    "some",
    "sparkline",
]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_MINUTE, _HOUR, _DAY, _WEEK = 60, 3600, 86400, 604800
#: Size and name of a unit, and the age from which on the next one says enough.
_AGES = (
    (1, "s", 100),
    (_MINUTE, "m", 100 * _MINUTE),
    (_HOUR, "h", 48 * _HOUR),
    (_DAY, "d", 100 * _DAY),
)


def bytes_(number: int) -> str:
    """Return bytes in decimal units with three digits, such as `12.3 GB`.

    Decimal, because that is what `500MB` means on the way in and what disks are sold by.
    """
    if abs(number) < 1000:
        return f"{number} B"
    value, unit = float(number), 0
    # 999.5 kB would round to the four digits of 1000 kB.
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    # The same at the two steps of precision: 9.996 reads 10.0, and 99.96 reads 100.
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[unit]}"


def count(number: int) -> str:
    """Return a number with thousands separators: keys are compared digit by digit."""
    return f"{number:,}"


def some(number: int, what: str) -> str:
    """Return `1 key`, `2 keys`; for words that take an s."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def rate(bytes_per_second: float) -> str:
    """Return a rate such as `410 MB/s`."""
    return f"{bytes_(int(bytes_per_second))}/s"


def age(seconds: float) -> str:
    """Return an age in one unit that keeps two digits, such as `47h`; at most 4 wide.

    A time in the future, from a clock that is wrong somewhere, keeps its sign.
    """
    whole = int(abs(seconds))
    sign = "-" if seconds <= -1 else ""
    for size, unit, limit in _AGES:
        if whole < limit:
            return f"{sign}{whole // size}{unit}"
    return f"{sign}{whole // _WEEK}w"


def duration(seconds: float) -> str:
    """Return how long something took or will take, such as `2m 05s`."""
    # 9.97 must not read 10.0 s, nor 59.6 read 60 s.
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR:02d}h"


def sparkline(counts: Sequence[int], encoding: str = "utf-8") -> str:
    """Return a histogram as a word, one character a bar; ASCII where blocks are unknown."""
    bars = " ▁▂▃▄▅▆▇█"
    try:
        bars.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        bars = " .:-=+*#@"
    most = max(counts, default=0)
    # What is there at all has at least the lowest bar.
    return "".join(bars[-(-count * 8 // most)] if most else bars[0] for count in counts)


def escape(name: str) -> str:
    """Return a name with everything escaped that is not a visible character.

    Tensor and file names are bytes that a stranger chose: they may hold a newline, a
    tab, a terminal's control sequence, or half a character. The result is one field of
    one line, and distinct names stay distinct: a backslash is doubled.
    """
    if name.isprintable() and "\\" not in name:
        return name
    return "".join(_escaped(character) for character in name)


def safe_text(text: str) -> str:
    """Return prose with its control characters escaped; its line breaks stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else _escaped(character)
        for character in text
    )


def one_line(text: str) -> str:
    """Return prose on one line without tabs: a field among others."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else _escaped(character) for character in text
    )


_SHORT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


def _escaped(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if character.isprintable():
        return character
    code = ord(character)
    # Python's way to carry a byte of a file name that is no UTF-8.
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        # U+0080 to U+00FF as \u, so that they differ from a raw byte of that number.
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
