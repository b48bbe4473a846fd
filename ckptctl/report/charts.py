"""Figures for plotly.js, as plain data; colours come from the page, light or dark.

`meta` of a trace is the number of its colour. Names are made safe: plotly.js takes a few
tags and entities in text.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from ckptctl.report.page import clean

__all__ = ["bars", "columns", "label", "lines", "steps"]

COLOURS = 8
_LONG = 22

Series = tuple[str, Sequence[float | None]]


def label(name: object, long: int = _LONG) -> str:
    """Return a name short enough for an axis, with its end kept."""
    text = clean(name)
    if len(text) > long:
        text = f"{text[: long // 2 - 1]}…{text[-(long // 2) :]}"
    return html.escape(text, quote=False)


def bars(names: Sequence[str], series: Sequence[Series], unit: str) -> dict[str, Any]:
    """Return horizontal bars, stacked, the first name on top."""
    at = list(range(len(names)))
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(what),
            "y": at,
            "x": list(values),
            "meta": _colour(n),
            "hovertext": [label(name, 60) for name in names],
            "hovertemplate": f"%{{hovertext}}<br>%{{x:,}} {unit}<extra>%{{fullData.name}}</extra>",
        }
        for n, (what, values) in enumerate(series)
    ]
    axis = {"tickvals": at, "ticktext": [label(n) for n in names], "autorange": "reversed"}
    layout = _layout(max(180, 110 + 26 * len(names)), unit, len(series))
    layout["barmode"] = "stack"
    layout["yaxis"] |= axis
    return {"data": data, "layout": layout}


def columns(
    names: Sequence[str], series: Sequence[Series], unit: str, across: str, *, stack: bool = True
) -> dict[str, Any]:
    """Return upright bars over ordered names, such as ranges of buckets."""
    at = list(range(len(names)))
    data = [
        {
            "type": "bar",
            "name": label(what),
            "x": at,
            "y": list(values),
            "meta": _colour(n),
            "opacity": 1 if stack else 0.65,
            "hovertext": list(names),
            "hovertemplate": f"%{{hovertext}}<br>%{{y:,}} {unit}<extra>%{{fullData.name}}</extra>",
        }
        for n, (what, values) in enumerate(series)
    ]
    every = max(1, -(-len(names) // 6))  # as many labels as a phone has room for
    ticks = {"tickvals": at[::every], "ticktext": list(names)[::every], "tickangle": 0}
    layout = _layout(320, across, len(series))
    layout |= {"barmode": "stack" if stack else "overlay", "bargap": 0.1 if stack else 0}
    layout["xaxis"] |= ticks
    layout["yaxis"] |= {"title": {"text": unit}, "rangemode": "tozero"}
    return {"data": data, "layout": layout}


def lines(steps: Sequence[int], series: Sequence[Series], unit: str) -> dict[str, Any]:
    """Return a line for each name over steps."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": label(name),
            "x": list(steps),
            "y": list(values),
            "meta": _colour(n),
            "hovertemplate": f"step %{{x:,}}<br>%{{y:,}} {unit}<extra>%{{fullData.name}}</extra>",
        }
        for n, (name, values) in enumerate(series)
    ]
    layout = _layout(330 + 20 * (len(series) // 2), "step", len(series))
    layout["yaxis"] |= {"title": {"text": unit}, "rangemode": "tozero"}
    layout["xaxis"] |= {"tickformat": ",d", "nticks": 6}
    if len(set(steps)) == 1:
        layout["xaxis"] |= {"tickvals": [steps[0]]}
    return {"data": data, "layout": layout}


def steps(kinds: Sequence[tuple[str, Sequence[int], Sequence[str]]]) -> dict[str, Any]:
    """Return the points of a chain on the line of steps, a row for each kind."""
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": kind,
            "x": list(at),
            "y": [n] * len(at),
            "meta": _colour(n),
            "marker": {"size": 14, "symbol": "square" if n == 0 else "circle"},
            "hovertext": [label(each, 60) for each in words],
            "hovertemplate": "%{hovertext}<extra>%{fullData.name}</extra>",
        }
        for n, (kind, at, words) in enumerate(kinds)
    ]
    layout = _layout(200, "step", 1)
    layout["xaxis"] |= {"tickformat": ",d", "nticks": 6}
    every = {step for _, at, _ in kinds for step in at}
    if len(every) == 1:
        layout["xaxis"] |= {"tickvals": list(every)}
    layout["yaxis"] |= {
        "tickvals": list(range(len(kinds))),
        "ticktext": [kind for kind, _, _ in kinds],
        "range": [len(kinds) - 0.5, -0.5],
    }
    return {"data": data, "layout": layout}


def _colour(n: int) -> int:
    return n % COLOURS + 1


def _layout(height: int, across: str, count: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 10, "r": 15, "t": 40 if count > 1 else 10, "b": 10},
        "showlegend": count > 1,
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        "xaxis": {"automargin": True, "fixedrange": True, "title": {"text": across}},
        "yaxis": {"automargin": True, "fixedrange": True, "ticklabelstandoff": 4},
    }
