"""The page of `ckptctl show --html`, drawn from its document."""

from __future__ import annotations

from typing import Any

from ckptctl.report import charts
from ckptctl.report.page import Part, Section, Table, render
from ckptctl.report.parts import chain, notes, size, target_words

__all__ = ["draw"]

#: What charts have room for; the tables below them name all.
_BARS = 20
_HISTOGRAMS = 8


def draw(document: dict[str, Any], growth: dict[str, Any] | None = None) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    document
        Of `Shown.document`.
    growth
        Of `Growth.document`; None: no timeline.
    """
    target, totals = document["target"], document["totals"]
    facts = [
        ("Taken for", target_words(target)),
        ("Size", f"{size(totals['bytes'])} in {totals['tensors']:,} tensors"),
        ("Keys", f"{totals['keys']:,} admitted, {totals['filtered']:,} filtered"),
    ]
    facts += [
        ("Lost", f"{size(each['bytes'])} in {each['tensors']:,} tensors with {each['file']}")
        for each in document["lost"]
    ]
    sections = [
        Section("What it holds", _holds(document)),
        *chain(growth),
        *_histograms(document),
        *_tensors(document),
        *notes(document["notes"]),
    ]
    return render(f"ckptctl show {target['text']}", facts, sections)


def _holds(document: dict[str, Any]) -> list[Part]:
    kinds, tables = document["totals"]["kinds"], document["tables"]
    rows = [(kind, own["bytes"], own["tensors"]) for kind, own in kinds.items()]
    figure = charts.bars(list(kinds), [("bytes", [row[1] for row in rows])], "bytes")
    table = Table("Bytes and tensors by kind", ("kind", "bytes", "tensors"), rows)
    parts = [Part("Bytes by kind", "What the bytes are for.", figure, table)]
    if not tables:
        return parts
    shown = sorted(tables, key=lambda each: -each["bytes"])[:_BARS]
    names = [each["name"] for each in shown]
    words = f" of the {len(shown)} largest of {len(tables)} tables" if len(tables) > _BARS else ""
    values = [each["members"][0]["bytes"] for each in shown]
    slots = [sum(member["bytes"] for member in each["members"][1:]) for each in shown]
    figure = charts.bars(names, [("weights", values), ("slots", slots)], "bytes")
    rows_ = [
        (m["name"], m["slot"] or "weights", m["bytes"], m["keys"], m["filtered"])
        for each in tables
        for m in each["members"]
    ]
    columns = ("member", "slot", "bytes", "keys", "filtered")
    table = Table("Members of the tables", columns, rows_)
    parts.append(Part("Bytes per table", f"Weights and slots{words}.", figure, table))
    series: list[charts.Series] = [
        (what, [each[key] for each in shown])
        for what, key in (("admitted", "keys"), ("filtered", "filtered"))
    ]
    table = Table(
        "Tables",
        ("table", "keys", "filtered", "dim", "dtype", "parts", "balance", "freq", "version"),
        [
            (
                each["name"],
                *(each[key] for key in ("keys", "filtered", "dim", "dtype", "parts", "balance")),
                *(_range(each[key]) for key in ("freq", "version")),
            )
            for each in tables
        ],
    )
    figure = charts.bars(names, series, "keys")
    sentence = f"Keys{words}; freqs and versions are in the numbers."
    return [*parts, Part("Keys per table", sentence, figure, table)]


def _range(found: dict[str, Any] | None) -> str | None:
    if found is None:
        return None
    return f"{found['min']} to {found['max']}, median {found['quantiles']['0.5']}"


def _histograms(document: dict[str, Any]) -> list[Section]:
    measured = [
        (member["name"], member["stats"])
        for table in document["tables"]
        for member in table["members"]
        if member.get("stats")
    ]
    measured += [(t["name"], t["stats"]) for t in document["tensors"] if t.get("stats")]
    measured = [(name, stats) for name, stats in measured if "min" in stats]
    if not measured:
        return []
    keys = ("min", "mean", "max", "std", "l2", "count", "zeros", "nan", "inf")
    table = Table("Values", ("tensor", *keys), [(n, *(s[k] for k in keys)) for n, s in measured])
    parts = [Part("All of them", "Of every table and tensor measured.", table=table)]
    drawn = [(n, s) for n, s in measured if s["histogram"]["counts"] and s["count"] > 1]
    for name, stats in sorted(drawn, key=lambda item: -item[1]["count"])[:_HISTOGRAMS]:
        edges, counts = stats["histogram"]["edges"], stats["histogram"]["counts"]
        names = [f"{edge:.3g}" for edge in edges[: len(counts)]]
        figure = charts.columns(names, [("values", counts)], "values", "from")
        rows = [
            (f"{a:.4g} to {b:.4g}", n) for a, b, n in zip(edges, edges[1:], counts, strict=False)
        ]
        own = Table(f"Histogram of {name}", ("values", "how many"), rows)
        words = f"How its {stats['count']:,} values lie."
        if stats["histogram"]["coarse"]:
            words += " They are too close together for more bars."
        parts.append(Part(name, words, figure, own))
    return [Section("Values", parts)]


def _tensors(document: dict[str, Any]) -> list[Section]:
    found = document.get("raw") or document["tensors"]
    if not found:
        return []
    shown = sorted(found, key=lambda each: -each["bytes"])[:_BARS]
    figure = charts.bars(
        [each["name"] for each in shown], [("bytes", [each["bytes"] for each in shown])], "bytes"
    )
    rows = [(e["name"], e["dtype"], str(e["shape"]), e["bytes"], e.get("kind")) for e in found]
    table = Table("Tensors", ("tensor", "dtype", "shape", "bytes", "kind"), rows)
    words = "Tensors by size" if document.get("raw") else "Tensors of no table, by size"
    words += f": the {len(shown)} largest of {len(found)}." if len(found) > len(shown) else "."
    return [Section("Tensors", [Part("Bytes per tensor", words, figure, table)])]
