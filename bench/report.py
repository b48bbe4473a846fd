"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform

from bench.measure import Contender, free_gigabytes

MB = 1 << 20


def table(contenders: dict[str, Contender], reference: str) -> str:
    """Return a Markdown table with each contender's ratio to the reference."""
    base = contenders[reference].wall
    lines = [
        f"| | median | range | ratio to {reference} | peak memory |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for each in contenders.values():
        low, high = min(each.seconds), max(each.seconds)
        lines.append(
            f"| {each.name} | {each.wall:.2f} s | {low:.2f} to {high:.2f} s "
            f"| {each.wall / base:.2f} | {each.peak / MB:.0f} MB |"
        )
    return "\n".join(lines)


def document(groups: dict[str, dict[str, Contender]], options: dict[str, object]) -> dict:
    """Return everything that was measured."""
    return {
        "schema": "ckptctl.bench/1",
        "machine": {
            "cpus": os.cpu_count(),
            "available_gb": round(free_gigabytes(), 1),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "options": options,
        "results": {
            group: {
                each.name: {
                    "median_s": round(each.wall, 4),
                    "seconds": [round(s, 4) for s in each.seconds],
                    "peak_rss_bytes": each.peaks,
                }
                for each in contenders.values()
            }
            for group, contenders in groups.items()
        },
    }
