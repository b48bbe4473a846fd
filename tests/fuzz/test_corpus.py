"""Every input that was ever worth keeping is read again, by the reader that it was made for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.builders import bounded
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
#: An input is a few kB: a reader that takes this long or so much memory for it is caught.
SECONDS, MEBIBYTES = 5.0, 256


def inputs(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_is_read_without_a_surprise(name: str) -> None:
    target = TARGETS[name]
    found = inputs(name)
    assert found
    for path in found:
        data = path.read_bytes()
        try:
            with bounded(SECONDS, MEBIBYTES):
                target.run(data)
        except Exception as error:
            raise AssertionError(f"{name}/{path.name}: {error!r}") from error


def test_the_corpus_is_small_and_of_our_targets() -> None:
    assert {room.name for room in CORPUS.iterdir()} == set(TARGETS)
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert len(sizes) < 1000
    assert sum(sizes) < 500_000
