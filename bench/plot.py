"""Plots with both axes logarithmic, as SVG: small, and the same bytes for the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

__all__ = ["Curve", "draw"]

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 30, 45
#: Told apart also by those who see few colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
STYLE = "font-family:sans-serif;font-size:12px;background:#fff"


@dataclass(frozen=True)
class Curve:
    """What is drawn: pairs of positive numbers, ascending."""

    name: str
    points: tuple[tuple[float, float], ...]
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: where a number lies, and the powers of ten on it."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> Iterator[float]:
        """Yield 1, 2 and 5 times each power of ten; the powers alone where there are many."""
        steps = (1, 2, 5) if self.high - self.low < 2.2 else (1,)
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for step in steps:
                if self.low <= math.log10(step * 10**power) <= self.high:
                    yield step * 10.0**power


def axis(values: list[float], start: float, end: float) -> Axis:
    low, high = math.log10(min(values)), math.log10(max(values))
    # A curve that is flat still needs some room; half a decade says that it is.
    room = max(0.05, (1.0 - (high - low)) / 2)
    return Axis(low - room, high + room, start, end)


def short(value: float) -> str:
    """Return a number for a tick: 20, 0.5, 10k."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def draw(title: str, across: str, up: str, curves: list[Curve]) -> str:
    """Return the SVG of some curves."""
    points = [point for curve in curves for point in curve.points]
    x = axis([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y = axis([point[1] for point in points], HEIGHT - BOTTOM, TOP)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" style="{STYLE}">',
        f"<title>{escape(title)}</title>",
        f'<text x="{LEFT}" y="18" font-weight="bold">{escape(title)}</text>',
        *grid(x, y),
        named(f'x="{(LEFT + WIDTH - RIGHT) // 2}" y="{HEIGHT - 8}"', across),
        named(f'transform="translate(14 {(TOP + HEIGHT - BOTTOM) // 2}) rotate(-90)"', up),
    ]
    for number, curve in enumerate(curves):
        colour = "#777" if curve.dashed else COLOURS[number % len(COLOURS)]
        lines += line(curve, colour, x, y, TOP + 12 + 18 * number)
    return "\n".join([*lines, "</svg>"]) + "\n"


def named(where: str, text: str) -> str:
    return f'<text {where} text-anchor="middle">{escape(text)}</text>'


def grid(x: Axis, y: Axis) -> Iterator[str]:
    for value in x.ticks():
        at = x(value)
        yield f'<path d="M{at} {y.start}V{y.end}" stroke="#ddd"/>'
        yield f'<text x="{at}" y="{y.start + 16}" text-anchor="middle">{short(value)}</text>'
    for value in y.ticks():
        at = y(value)
        yield f'<path d="M{x.start} {at}H{x.end}" stroke="#ddd"/>'
        yield f'<text x="{x.start - 5}" y="{at + 4}" text-anchor="end">{short(value)}</text>'


def line(curve: Curve, colour: str, x: Axis, y: Axis, label: int) -> Iterator[str]:
    """Draw a curve, its points, and its line in the legend."""
    places = [f"{x(a)} {y(b)}" for a, b in curve.points]
    dash = ' stroke-dasharray="5 4"' if curve.dashed else ""
    yield (f'<path d="M{"L".join(places)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    if not curve.dashed:
        for place in places:
            at, up = place.split()
            yield f'<circle cx="{at}" cy="{up}" r="3" fill="{colour}"/>'
    left = WIDTH - RIGHT + 12
    yield (f'<path d="M{left} {label - 4}h18" stroke="{colour}" stroke-width="2"{dash}/>')
    yield f'<text x="{left + 24}" y="{label}">{escape(curve.name)}</text>'
