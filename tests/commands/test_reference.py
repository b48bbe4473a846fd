"""The CLI reference in the docs is what the code says."""

from __future__ import annotations

from pathlib import Path

from ckptctl.commands import main, reference

PAGE = Path(__file__).parents[2] / "docs" / "cli-reference.md"


def test_the_page_is_current() -> None:
    expected = reference.render()
    assert PAGE.read_text() == expected, (
        "run: python -m ckptctl.commands.reference > docs/cli-reference.md"
    )


def test_the_page_names_the_variable_of_each_option() -> None:
    page = reference.render()
    for names in (
        "CKPTCTL_EXPORT_FORMAT",
        "CKPTCTL_EXPORT_TABLE",
        "CKPTCTL_GET_FORMAT",
        "CKPTCTL_GET_OUTPUT",
        "CKPTCTL_SHOW_FILTER",
        "CKPTCTL_COMPACT_MIN_AGE",
    ):
        assert f"`{names}`" in page


def test_the_page_names_the_arguments() -> None:
    page = reference.render()
    assert "`ckptctl diff [OPTIONS] A B`" in page
    assert "`ckptctl get [OPTIONS] TABLE [KEY]...`" in page
    assert "None" not in page


def test_the_page_holds_every_command_with_its_example() -> None:
    page = reference.render()
    for name in main.COMMANDS:
        assert f"\n## ckptctl {name}\n" in page
    assert page.count("\nExample:\n\n```\n") == len(main.COMMANDS)
    assert page.count("\nExit codes:\n\n```\n") == len(main.COMMANDS)
    assert "\b" not in page
    assert "\n    " not in page.replace("```", "")
