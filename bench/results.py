"""What was measured, of all parts, in one document: `docs/performance/results.json`.

Each part of `make bench` leaves `bench/results-PART.json`, as the machine of the moment gave
it. The committed document has the parts of the run that the pages quote: it takes over each
part that was measured anew and keeps the others, each with its own date, machine and versions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["COMMITTED", "HERE", "PARTS", "collect", "figures", "load"]

HERE = Path(__file__).parent
COMMITTED = HERE.parent / "docs" / "performance" / "results.json"
PARTS = ("merge", "reads", "questions", "start", "cron", "training", "scale")

Document = dict[str, Any]


def load(path: Path = COMMITTED) -> Document:
    """Return the committed document; one without parts where there is none."""
    if not path.exists():
        return {"schema": "ckptctl.bench/2", "parts": {}}
    found: Document = json.loads(path.read_text())
    return found


def collect(directory: Path = HERE, into: Path = COMMITTED) -> list[str]:
    """Take over what the parts left in a directory; return which there were."""
    document = load(into)
    found = [part for part in PARTS if (directory / f"results-{part}.json").exists()]
    for part in found:
        document["parts"][part] = json.loads((directory / f"results-{part}.json").read_text())
    into.write_text(json.dumps(document, indent=1) + "\n")
    return found


def figures(document: Document) -> dict[str, float]:
    """Return the figures of all parts, in the order of the parts."""
    own: dict[str, float] = {}
    for part in PARTS:
        own |= document["parts"].get(part, {}).get("figures", {})
    return own
