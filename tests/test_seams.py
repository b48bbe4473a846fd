"""What docs/design/0001 calls the contract is what the code has."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from ckptctl.bundle import Entry
from ckptctl.merge import MergeResult, PruneResult
from ckptctl.storage import FileInfo

PAGE = Path(__file__).parents[1] / "docs" / "design" / "0001-rooms-and-seams.md"
FIELDS = dict(re.findall(r"^([A-Z]\w+)\(([\w,\s]+)\)$", PAGE.read_text(), re.MULTILINE))


def test_the_page_names_these_classes_with_their_fields() -> None:
    assert set(FIELDS) == {"FileInfo", "Entry", "MergeResult", "PruneResult"}


@pytest.mark.parametrize("named", [FileInfo, Entry, MergeResult, PruneResult])
def test_the_fields_are_those_of_the_code(named: type) -> None:
    assert re.findall(r"\w+", FIELDS[named.__name__]) == [*inspect.signature(named).parameters]
