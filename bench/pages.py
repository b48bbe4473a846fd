"""Writes the figures into the pages that quote them: `python -m bench.pages [--collect]`.

A page has blocks between `<!-- bench: NAME -->` and `<!-- end -->`; what stands there is
generated from the committed document, and a test says when it is not what would be.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.arithmetic import arithmetic, constants
from bench.goals import GOALS, Goal, case_of, goal_of, met, number
from bench.results import COMMITTED, PARTS, Document, collect, figures, load
from bench.scale_page import PLOTS, scale_points, scale_skipped

__all__ = ["BLOCK", "BLOCKS", "PAGES", "filled", "main"]

ROOT = COMMITTED.parents[2]
PAGES = (ROOT / "README.md", *sorted(COMMITTED.parent.glob("*.md")))
BLOCK = re.compile(r"(<!-- bench: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def by_goal(document: Document) -> list[tuple[Goal, list[tuple[str, float]]]]:
    """Return the goals that something was measured for, with the figures of each."""
    found: dict[Goal, list[tuple[str, float]]] = {}
    for name, value in figures(document).items():
        found.setdefault(goal_of(name), []).append((name, value))
    return [(goal, found[goal]) for goal in GOALS if goal in found]


def summary(document: Document) -> str:
    """Return a row for each goal that there is a bound for: the range of its figures."""
    lines = ["| what | measured | goal | |", "| --- | ---: | --- | --- |"]
    for goal, own in by_goal(document):
        if goal.bound is None:
            continue
        values = sorted(value for _, value in own)
        span = " to ".join(dict.fromkeys(number(value) for value in (values[0], values[-1])))
        reached = sum(goal.meets(value) is True for value in values)
        verdict = "met" if reached == len(own) else f"missed in {len(own) - reached} of {len(own)}"
        if len(own) == 1 and not reached:
            verdict = "missed"
        measured = f"{span} {goal.unit}".rstrip()
        lines.append(f"| {goal.what} | {measured} | {goal.owed} | {verdict} |")
    return "\n".join(lines)


def everything(document: Document) -> str:
    """Return a row for each figure."""
    return rows(document, GOALS)


def growth(document: Document) -> str:
    """Return a row for each figure that says how something grows."""
    return rows(document, [goal for goal in GOALS if goal.pattern.startswith(("growth", "flat"))])


def rows(document: Document, goals: Sequence[Goal]) -> str:
    lines = ["| what | case | figure | goal | |", "| --- | --- | ---: | --- | --- |"]
    for goal, own in by_goal(document):
        for name, value in own if goal in goals else ():
            figure = f"{number(value)} {goal.unit}".rstrip()
            verdict = met(name, value)
            lines.append(f"| {goal.what} | {case_of(name)} | {figure} | {goal.owed} | {verdict} |")
    return "\n".join(lines)


def machines(document: Document) -> str:
    """Return when, where and with what each part was measured."""
    lines = ["| part | date | cores | load | memory free | Python | ckptctl, with |"]
    lines.append("| --- | --- | ---: | ---: | ---: | --- | --- |")
    for part in PARTS:
        if part not in document["parts"]:
            continue
        own = document["parts"][part]
        machine = own["machine"]
        versions = dict(machine["versions"])
        ours = f"{versions.pop('ckptctl')} {own['commit']}"
        others = ", ".join(f"{name} {version}" for name, version in versions.items())
        lines.append(
            f"| {part} | {own['date']} | {machine['cpus']} | {machine['load']} "
            f"| {machine['available_gb']:.0f} GB | {machine['python']} | {ours}, {others} |"
        )
    return "\n".join(lines)


def timings(document: Document) -> str:
    """Return the medians, ranges and peaks of every contender."""
    lines = []
    for part in PARTS:
        for group, own in document["parts"].get(part, {}).get("results", {}).items():
            lines += [f"**{group}**", "", "| | median | range | peak memory |"]
            lines += ["| --- | ---: | ---: | ---: |"]
            for name, each in own.items():
                seconds, peaks = each["seconds"], sorted(each["peak_rss_bytes"])
                peak = peaks[len(peaks) // 2] / (1 << 20)
                lines.append(
                    f"| {name} | {each['median_s']:.2f} s "
                    f"| {min(seconds):.2f} to {max(seconds):.2f} s | {peak:.0f} MB |"
                )
            lines.append("")
    return "\n".join(lines).rstrip()


BLOCKS: dict[str, Callable[[Document], str]] = {
    "summary": summary,
    "everything": everything,
    "machines": machines,
    "timings": timings,
    "growth": growth,
    "scale points": scale_points,
    "scale skipped": scale_skipped,
    "constants": constants,
    "arithmetic": arithmetic,
}


def filled(text: str, document: Document) -> str:
    """Return a page with its blocks as the document has them."""

    def block(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        return f"{begin}{BLOCKS[name](document)}\n{end}"

    return BLOCK.sub(block, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect", action="store_true", help="take over what was measured")
    parser.add_argument("--from", dest="source", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    if chosen.collect:
        print("measured:", ", ".join(collect(chosen.source)) or "nothing", file=sys.stderr)
    document = load()
    for page in PAGES:
        text = page.read_text()
        new = filled(text, document)
        if new != text:
            page.write_text(new)
            print(f"written: {page.relative_to(ROOT)}", file=sys.stderr)
    for name, plot in PLOTS.items():
        drawn = plot(document)
        if drawn is not None:
            (COMMITTED.parent / name).write_text(drawn)


if __name__ == "__main__":
    main()
