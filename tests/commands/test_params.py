"""Durations, sizes, rates and steps as people write them."""

from __future__ import annotations

import click
import pytest

from ckptctl.commands.params import AMOUNT, DURATION, RATE, SIZE, STEP


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("12h", 43200), ("7d", 604800), ("2w", 1209600), ("1.5h", 5400)],
)
def test_a_duration_is_in_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "90", "s", "-5m", "5 minutes", "1e3s", "10M", "٣s", "1h30m", "9" * 400 + "s", "nan"],
)
def test_a_bad_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 90s, 10m, 12h, 7d or 2w"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500MB", 500_000_000),
        ("2GiB", 2 << 30),
        ("1.5gb", 1_500_000_000),
        ("64 KiB", 65536),
        ("1000B", 1000),
        ("1TiB", 1 << 40),
    ],
)
def test_a_size_is_in_bytes(text: str, number: int) -> None:
    assert SIZE.convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "500", "MB", "-1MB", "2G", "2iB", "1e9B", "50MB/s", "1XB"])
def test_a_bad_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write 500MB or 2GiB"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("text", ["0MB", "0.5B"])
def test_a_size_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="less than a byte"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("text", ["50MB", "50MB/s", "50mb/S"])
def test_a_rate_may_say_a_second(text: str) -> None:
    assert RATE.convert(text, None, None) == 50_000_000


def test_a_bad_rate_is_refused_with_examples() -> None:
    with pytest.raises(click.BadParameter, match="write 50MB/s or 1GiB/s"):
        RATE.convert("50MB/m", None, None)


@pytest.mark.parametrize(
    ("text", "step"), [("0", 0), ("00000120", 120), (" 7 ", 7), (str(2**63 - 1), 2**63 - 1)]
)
def test_a_step_may_be_padded(text: str, step: int) -> None:
    assert STEP.convert(text, None, None) == step


@pytest.mark.parametrize("text", ["", "-1", "1.0", "1_000", "latest", "²", str(2**63), "1" * 5000])
def test_a_bad_step_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no step"):
        STEP.convert(text, None, None)


@pytest.mark.parametrize(("text", "number"), [("0", 0.0), ("0.2", 0.2), ("1e-6", 1e-6), (3, 3.0)])
def test_an_amount_is_a_number_from_0_on(text: object, number: float) -> None:
    assert AMOUNT.convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "-1", "-0.1", "nan", "inf", "-inf", "1e999", "a", None])
def test_a_bad_amount_is_refused(text: object) -> None:
    with pytest.raises(click.BadParameter, match="is no number from 0 on"):
        AMOUNT.convert(text, None, None)
