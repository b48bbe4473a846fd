"""The page of `ckptctl diff --html`, drawn from its document."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ckptctl.inspect.diff_words import not_finite, remarks
from ckptctl.report import charts
from ckptctl.report.page import Part, Section, Table, render
from ckptctl.report.parts import chain, notes, target_words

__all__ = ["draw"]

#: What charts have room for; the tables below them name all.
_BARS = 20
_SECTIONS = 8
_CHANGES = ("new", "gone", "changed")


def draw(document: dict[str, Any], growth: dict[str, Any] | None = None) -> str:
    """Return the page as HTML.

    Parameters
    ----------
    document
        Of `Diff.document`.
    growth
        Of `Growth.document`, for the directory of b; None: no timeline.
    """
    tables = document["tables"]
    changed = [each for each in tables if each["changed"]]
    tensors = sum(len(v) for k, v in document["tensors"].items() if k != "unchanged")
    facts = [
        ("a", target_words(document["a"])),
        ("b", target_words(document["b"])),
        ("Differ", f"{len(changed)} of {len(tables)} tables, {tensors} tensors of no table"),
    ]
    order = sorted(changed, key=lambda each: -_count(each))
    drawn = [each for each in order if each["members"]][:_SECTIONS]
    sections = [
        Section("What differs", _overview(document, order, len(drawn))),
        *chain(growth),
        *(Section(f"Table {each['name']}", _table(each)) for each in drawn),
        *_tensors(document["tensors"]),
        *notes(document["notes"]),
    ]
    title = f"ckptctl diff {document['a']['text']} {document['b']['text']}"
    return render(title, facts, sections)


def _count(table: dict[str, Any]) -> int:
    members = table["members"][:1]
    return sum(int(member[what]) for member in members for what in _CHANGES)


def _overview(document: dict[str, Any], order: list[dict[str, Any]], drawn: int) -> list[Part]:
    if not document["tables"]:
        return [Part("Tables", "Neither has any table.")]
    keys = ("new", "gone", "changed", "unchanged", "newly_admitted", "newly_filtered")
    rows: list[tuple[object, ...]] = []
    for each in document["tables"]:
        words = {name: "; ".join(own) for name, own in remarks(each).items()}
        for member in each["members"]:
            l2 = member["l2"]
            spread = (l2["0.5"], l2["0.99"], l2["max"], member["max"]["max"])
            numbers = (member["cosine"]["0.5"], member["freqs"]["moved"])
            moved = (*numbers, member["versions"]["moved"])
            rows.append(
                (
                    member["name"],
                    *(member[k] for k in keys),
                    *spread,
                    *moved,
                    words.pop(member["name"], ""),
                )
            )
        rows += [(name, *[None] * 13, own) for name, own in words.items()]
    columns = ("table or slot", *(key.replace("_", " ") for key in keys))
    columns += ("L2 median", "L2 99%", "L2 max", "largest", "cosine median")
    columns += ("freqs moved", "versions moved", "differs in")
    table = Table("Tables and slots", columns, rows)
    if not order:
        return [Part("Tables", "The tables are equal.", table=table)]
    shown = [each for each in order if each["members"]][:_BARS]
    more = f"; the {len(shown)} that changed most" if len(order) > len(shown) else ""
    words_ = f"New, gone and changed keys of each table that differs{more}."
    if drawn < len([each for each in order if each["members"]]):
        words_ += f" The {drawn} that changed most follow below; --table NAME draws another."
    series: list[charts.Series] = [
        (what, [each["members"][0][what] for each in shown]) for what in _CHANGES
    ]
    figure = charts.bars([e["name"] for e in shown], series, "keys") if shown else None
    return [Part("Change by table", words_, figure, table)]


def _table(table: dict[str, Any]) -> list[Part]:
    member = table["members"][0]
    name = table["name"]
    parts = []
    buckets = member.get("by_bucket") or []
    if buckets:
        names = ["{} to {}".format(*each["buckets"]) for each in buckets]
        series: list[charts.Series] = [(k, [each[k] for each in buckets]) for k in _CHANGES]
        most = max(buckets, key=lambda each: sum(each[k] for k in _CHANGES))
        words = "Keys by key modulo 1000; most lie in {} to {}.".format(*most["buckets"])
        starts = [str(each["buckets"][0]) for each in buckets]
        rows = [(n, *(each[k] for k in _CHANGES)) for n, each in zip(names, buckets, strict=True)]
        own = Table(f"Change by bucket of {name}", ("buckets", *_CHANGES), rows)
        figure = charts.columns(starts, series, "keys", "from bucket")
        parts.append(Part("Change by bucket", words, figure, own))
    freqs = member.get("by_freq") or []
    if freqs:
        names = [_freqs(each["freq"]) for each in freqs]
        counts = [each["changed"] for each in freqs]
        figure = charts.columns(names, [("changed", counts)], "keys", "freq in b")
        own = Table(
            f"Change by freq of {name}", ("freq", "changed"), list(zip(names, counts, strict=True))
        )
        words = "How often the changed keys were seen, in powers of two."
        parts.append(Part("Change by freq", words, figure, own))
    norms = member.get("norms")
    if norms and norms["edges"]:
        edges, before, after = norms["edges"], norms["before"], norms["after"]
        names = [f"{edge:.3g}" for edge in edges[:-1]]
        figure = charts.columns(
            names, [("before", before), ("after", after)], "rows", "norm from", stack=False
        )
        spans = [f"{a:.4g} to {b:.4g}" for a, b in pairwise(edges)]
        own = Table(
            f"Norms of the rows of {name}",
            ("norm", "before", "after"),
            list(zip(spans, before, after, strict=True)),
        )
        words = "L2 norms of all rows."
        if norms["coarse"]:
            words += " They are too close together for more bars."
        parts.append(Part("Norms before and after", words, figure, own))
    if member["top"]:
        top = member["top"]
        figure = charts.bars([str(e["key"]) for e in top], [("L2", [e["l2"] for e in top])], "L2")
        own = Table(
            f"Top keys of {name}",
            ("key", "L2 of the change", "norm before", "norm after"),
            [(str(each["key"]), each["l2"], *each["norm"]) for each in top],
        )
        words = f"The {len(top)} keys whose rows moved furthest."
        parts.append(Part("Top keys", words, figure, own))
    return parts or [Part("Rows", "No row differs.")]


def _freqs(found: object) -> str:
    if isinstance(found, (list, tuple)):
        low, high = found
        return str(low) if low == high else f"{low} to {high}"
    return str(found)


def _what(tensor: dict[str, Any]) -> str:
    if "a" in tensor:
        return f"{tensor['a']} becomes {tensor['b']}"
    return str(tensor.get("dtype"))


def _tensors(found: dict[str, Any]) -> list[Section]:
    rows = [
        (
            each["name"],
            what,
            "; ".join([_what(each), *not_finite([each], "element")]),
            *(each.get(key) for key in ("elements", "l2", "relative", "max")),
        )
        for what in found
        if what != "unchanged"
        for each in found[what]
    ]
    if not rows:
        return []
    columns = ("tensor", "change", "what", "elements", "L2", "relative", "largest")
    words = f"{len(rows)} differ, {found['unchanged']} are equal."
    part = Part("Added, removed, changed", words, table=Table("Tensors", columns, rows))
    return [Section("Tensors of no table", [part])]
