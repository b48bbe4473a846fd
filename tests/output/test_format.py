"""Numbers, ages and names as people read them."""

from __future__ import annotations

import pytest

from ckptctl.output import format as fmt


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (12_345_678, "12.3 MB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (9_996_000, "10.0 MB"),
        (99_960_000, "100 MB"),
        (10**18, "1.00 EB"),
        (2**64, "18.4 EB"),
        (-1500, "-1.50 kB"),
    ],
)
def test_bytes_have_three_digits_and_never_four(number: int, text: str) -> None:
    assert fmt.bytes_(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (99.9, "99s"),
        (100, "1m"),
        (5999, "99m"),
        (6000, "1h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (100 * 86400, "14w"),
        (-300, "-5m"),
        (-0.5, "0s"),
    ],
)
def test_an_age_is_one_unit_and_keeps_its_sign(seconds: float, text: str) -> None:
    assert fmt.age(seconds) == text


def test_an_age_of_a_century_still_fits_its_column() -> None:
    assert len(fmt.age(100 * 365 * 86400)) <= 5
    assert all(len(fmt.age(n)) <= 4 for n in range(0, 10_000_000, 997))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.97, "10 s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3780, "1h 03m"),
        (90_000, "1d 01h"),
    ],
)
def test_a_duration_never_reads_sixty(seconds: float, text: str) -> None:
    assert fmt.duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("emb/part_0-keys", "emb/part_0-keys"),
        ("特征/表", "特征/表"),
        ("a\tb\nc\rd", r"a\tb\nc\rd"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("back\\slash", r"back\\slash"),
        ("\x85\x9b31m", r"\u0085\u009b31m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("line\u2028end", r"line\u2028end"),
        (b"half-\xe7\x89".decode("utf-8", "surrogateescape"), r"half-\xe7\x89"),
        ("\U000e0001", r"\U000e0001"),
    ],
)
def test_a_name_shows_no_control_character(name: str, text: str) -> None:
    assert fmt.escape(name) == text
    assert fmt.escape(name).isprintable()


def test_names_that_differ_stay_different() -> None:
    names = ["a\nb", "a\\nb", "a\\\\nb", "\x80", "\udc80", "\\x80", "\\u0080"]
    assert len({fmt.escape(name) for name in names}) == len(names)


def test_prose_keeps_its_lines_and_backslashes() -> None:
    assert fmt.safe_text("one\n  file: a\\b\x1b[0m") == "one\n  file: a\\b\\x1b[0m"
