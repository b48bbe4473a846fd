"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.measure import Contender, free_gigabytes

MB = 1 << 20


def table(contenders: dict[str, Contender], reference: str) -> str:
    """Return a Markdown table with each contender's ratio to the reference."""
    base = contenders[reference].wall
    lines = [
        f"| | median | range | CPU | ratio to {reference} | peak memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for each in contenders.values():
        low, high = min(each.seconds), max(each.seconds)
        lines.append(
            f"| {each.name} | {each.wall:.2f} s | {low:.2f} to {high:.2f} s "
            f"| {median(each.cpu):.2f} s | {each.wall / base:.2f} | {each.peak / MB:.0f} MB |"
        )
    return "\n".join(lines)


def document(
    groups: dict[str, dict[str, Contender]],
    options: dict[str, object],
    figures: dict[str, float] | None = None,
) -> dict[str, object]:
    """Return everything that was measured, and the figures that `bench.goals` judges."""
    return {
        "schema": "ckptctl.bench/2",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(),
        "options": options,
        "figures": {name: round(value, 4) for name, value in (figures or {}).items()},
        "results": {
            group: {
                each.name: {
                    "median_s": round(each.wall, 4),
                    "seconds": [round(s, 4) for s in each.seconds],
                    "cpu_s": [round(s, 4) for s in each.cpu],
                    "peak_rss_bytes": each.peaks,
                }
                for each in contenders.values()
            }
            for group, contenders in groups.items()
        },
    }


def commit() -> str:
    """Return which commit was measured, if this is a clone."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip()


def machine() -> dict[str, object]:
    """Return what the figures depend on; nothing that names the machine."""
    return {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[2], 1),
        "available_gb": round(free_gigabytes(), 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ckptctl", "numpy", "fastcrc", "click")},
    }
