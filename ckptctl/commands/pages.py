"""The page of `--html`: written behind the answer, which a page that fails does not take along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptctl.output import Output
from ckptctl.storage import LOCAL

__all__ = ["write_page"]


def write_page(
    out: Output,
    path: str,
    draw: Callable[[dict[str, Any], dict[str, Any] | None], str],
    document: dict[str, Any],
    prefix: str,
) -> None:
    """End the answer, then draw its document and the growth of its directory, and write that."""
    from ckptctl.inspect.growth import growth_around

    out.close()
    progress = out.progress()
    try:
        growth = growth_around(prefix, progress)
        page = draw(document, growth.document() if growth else None)
        LOCAL.write_atomic(path, page.encode())
    finally:
        progress.finish()
