"""The tests that docs/safety.md names are there, and each promise has one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("safety.md", "live-trainers.md")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@pytest.mark.parametrize("page", PAGES)
def test_each_test_that_is_named_is_there(page: str) -> None:
    found = NAMED.findall((ROOT / "docs" / page).read_text())
    assert found
    for path, name in found:
        source = (ROOT / path).read_text()
        assert re.search(rf"^(def|class|    def) {name}\b|^{name} = ", source, re.MULTILINE), name


def test_each_promise_names_a_test() -> None:
    text = (ROOT / "docs" / "safety.md").read_text()
    promises = text[: text.index("## What is not promised")]
    for promise in re.split(r"\n\n(?=\*\*)", promises)[1:]:
        assert NAMED.search(promise), promise
