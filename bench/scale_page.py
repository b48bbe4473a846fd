"""What `bench.scale` measured, as blocks of a page and as plots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.goals import number
from bench.plot import Curve, draw
from bench.results import Document
from bench.scale import DIMENSIONS, curves

__all__ = ["PLOTS", "scale_points", "scale_skipped"]


def measured(document: Document) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document["parts"].get("scale", {}).get("points", [])
    return found


def scale_points(document: Document) -> str:
    """Return a row for each point."""
    lines = ["| varied | | | chain | time | CPU | `cp`, `cat` | ratio | peak memory |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (dimension, curve), own in curves(measured(document)).items():
        for each in own:
            cpu = sorted(each["cpu_s"])[len(each["cpu_s"]) // 2]
            lines.append(
                f"| {dimension} | {each['at']:,g} | {curve} | {each['bytes'] / 1e9:.2f} GB "
                f"| {number(each['median_s'])} s | {number(cpu)} s | {number(each['cp_s'])} s "
                f"| {number(each['median_s'] / each['cp_s'])} | {each['peak_mb']:.0f} MB |"
            )
    return "\n".join(lines)


def scale_skipped(document: Document) -> str:
    """Return what could not be measured, and why."""
    skipped = [each for each in measured(document) if "skipped" in each]
    lines = [
        f"* {each['dimension']} {each['at']:,g}, {each['curve']}: {each['skipped']}"
        for each in skipped
    ]
    return "\n".join(lines) or "Nothing was skipped."


def plot(document: Document, dimension: str, field: str, up: str) -> str | None:
    """Return the plot of a dimension, or None where there is not enough to draw."""
    found: list[Curve] = []
    copied: list[Curve] = []
    for (own, curve), each in curves(measured(document)).items():
        if own == dimension and len(each) > 1:
            found.append(Curve(curve, tuple((e["at"], e[field]) for e in each)))
            copied.append(Curve("cp and cat", tuple((e["at"], e["cp_s"]) for e in each), True))
    if not found:
        return None
    found += copied[:1] if field == "median_s" else []
    what = "time" if field == "median_s" else "peak memory"
    return draw(f"merge: {what} against {dimension}", DIMENSIONS[dimension], up, found)


def _of(dimension: str, field: str, up: str) -> Callable[[Document], str | None]:
    return lambda document: plot(document, dimension, field, up)


#: The files beside the page.
PLOTS: dict[str, Callable[[Document], str | None]] = {
    f"scale-{dimension}-{name}.svg": _of(dimension, field, up)
    for dimension in DIMENSIONS
    for name, field, up in (("time", "median_s", "seconds"), ("memory", "peak_mb", "MB"))
}
