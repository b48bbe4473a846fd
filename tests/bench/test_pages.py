"""Pages: what they quote is what the committed document says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.goals import goal_of
from bench.pages import BLOCK, BLOCKS, PAGES, filled
from bench.results import COMMITTED, collect, figures, load
from bench.scale_page import PLOTS

DOCUMENT = load()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "/".join(page.parts[-2:]))
def test_a_page_is_not_stale(page: Path) -> None:
    text = page.read_text()
    if filled(text, DOCUMENT) != text:
        pytest.fail(f"{page.name} quotes other figures: python -m bench.pages writes it anew")


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_is_not_stale(name: str) -> None:
    drawn, path = PLOTS[name](DOCUMENT), COMMITTED.parent / name
    if drawn is not None and (not path.exists() or path.read_text() != drawn):
        pytest.fail(f"{name} shows other figures: python -m bench.pages writes it anew")


def test_the_readme_quotes_the_goals() -> None:
    readme = PAGES[0].read_text()
    assert "summary" in [match[2] for match in BLOCK.finditer(readme)]


def test_every_block_is_on_a_page() -> None:
    used = {match[2] for page in PAGES for match in BLOCK.finditer(page.read_text())}
    assert used == set(BLOCKS)


def test_every_committed_figure_has_a_goal() -> None:
    for name in figures(DOCUMENT):
        goal_of(name)


def test_a_changed_figure_changes_the_page() -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["parts"]["merge"] = {"figures": {"merge/1.5 GB/5%/verified": 123.4}}
    text = "before\n<!-- bench: summary -->\nold\n<!-- end -->\nafter\n"
    new = filled(text, document)
    assert "| 123 x | at most 1 x | missed |" in new
    assert new.startswith("before\n<!-- bench: summary -->\n|")
    assert new.endswith("|\n<!-- end -->\nafter\n")


def test_a_part_is_taken_over_and_the_others_stay(tmp_path: Path) -> None:
    into = tmp_path / "results.json"
    into.write_text(json.dumps({"parts": {"merge": {"figures": {"seconds/a": 1}}, "cron": {}}}))
    (tmp_path / "results-cron.json").write_text(json.dumps({"figures": {"seconds/b": 2}}))
    assert collect(tmp_path, into) == ["cron"]
    assert figures(load(into)) == {"seconds/a": 1, "seconds/b": 2}
