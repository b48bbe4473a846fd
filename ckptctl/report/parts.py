"""What both pages show: the chain of the directory, and words for numbers."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from ckptctl.report import charts
from ckptctl.report.page import Part, Section, Table

__all__ = ["chain", "notes", "size", "target_words", "when"]

_LINES = charts.COLOURS


def when(seconds: float) -> str:
    """Return a moment in UTC; one beyond the calendar, of a broken clock, in seconds."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def size(number: float) -> str:
    """Return bytes in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def target_words(target: dict[str, Any]) -> str:
    """Return what a target was taken for, and where it lies."""
    return f"{target['taken_for']} in {target['directory']}"


def notes(found: list[str]) -> list[Section]:
    """Return the notes of a document as a section, if it has any."""
    if not found:
        return []
    return [Section("Notes", [Part(f"Note {n}", text) for n, text in enumerate(found, 1)])]


def chain(growth: dict[str, Any] | None) -> list[Section]:
    """Return timeline and growth; nothing for a bundle outside a chain."""
    if growth is None or not growth["checkpoints"]:
        return []
    points = growth["checkpoints"]
    damaged = growth["damaged"]
    fulls = [each for each in points if each["kind"] == "full"]
    increments = [each for each in points if each["kind"] == "increment"]
    kinds = [
        (kind, [p["step"] for p in own], [f"{p['name']}, {when(p['mtime'])}" for p in own])
        for kind, own in (("full", fulls), ("increment", increments))
        if own
    ]
    words = f"{_some(fulls, 'full')} and {_some(increments, 'increment')} by step"
    words += f"; {damaged} damaged ones are left out." if damaged else "."
    table = Table(
        "Checkpoints of the directory, by step",
        ("checkpoint", "kind", "step", "written", "bytes", "keys"),
        [
            (p["name"], p["kind"], str(p["step"]), when(p["mtime"]), p["bytes"], p["keys"])
            for p in points
        ],
    )
    parts = [Part("Timeline", words, charts.steps(kinds), table)]
    for own, kind in ((fulls, "fulls"), (increments, "increments")):
        if any(each["tables"] for each in own):
            parts += [_growth(own, kind, what) for what in ("keys", "bytes")]
    return [Section("The chain", parts)]


def _some(found: list[dict[str, Any]], what: str) -> str:
    return f"{len(found)} {what}" if len(found) == 1 else f"{len(found)} {what}s"


def _growth(points: list[dict[str, Any]], kind: str, what: str) -> Part:
    steps = [each["step"] for each in points]
    rows = [{table["name"]: table[what] for table in each["tables"]} for each in points]
    names = {name for row in rows for name in row}
    largest = sorted(names, key=lambda name: (-max(row.get(name, 0) for row in rows), name))
    shown = largest if len(largest) <= _LINES else largest[: _LINES - 1]
    series: list[charts.Series] = [(name, [row.get(name) for row in rows]) for name in shown]
    if len(shown) < len(largest):
        rest = largest[len(shown) :]
        total = [sum(row.get(name, 0) for name in rest) for row in rows]
        series.append((f"{len(rest)} other tables", total))
    verb = "hold" if kind == "fulls" else "record"
    heading = f"{what.capitalize()} per table in the {kind}"
    sums = [sum(row.values()) for row in rows]
    sentence = f"What the {kind} {verb}, table by table: {sums[0]:,} {what} at step {steps[0]:,}"
    sentence += f", {sums[-1]:,} at step {steps[-1]:,}." if len(steps) > 1 else "."
    table = Table(
        heading,
        ("table", *(f"step {step}" for step in steps)),
        [(name, *(row.get(name) for row in rows)) for name in largest],
    )
    if len(steps) > 1:
        return Part(heading, sentence, charts.lines(steps, series, what), table)
    # A line through one point says nothing.
    lengths = [values[0] for _, values in series]
    figure = charts.bars([name for name, _ in series], [(what, lengths)], what)
    return Part(heading, sentence, figure, table)
