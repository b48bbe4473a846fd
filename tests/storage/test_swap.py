"""A file that is replaced or removed only if it is still the one that was read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.errors import ChangedError
from ckptctl.storage import LOCAL, swap

exchange = swap._exchange


@pytest.fixture(params=["exchange", "no exchange"])
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lets two files change places, and one that cannot."""
    if request.param == "no exchange":
        monkeypatch.setattr(swap, "_exchange", lambda a, b: False)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    path.write_text("as read")
    return path


def saved(path: Path, text: str) -> None:
    """Replace the file as TensorFlow does."""
    other = path.with_name(f"{path.name}.tmp")
    other.write_text(text)
    os.replace(other, path)


def there(path: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in path.parent.iterdir()}


@pytest.mark.usefixtures("filesystem")
def test_what_was_read_is_replaced(state: Path) -> None:
    LOCAL.write_atomic(str(state), b"ours", expect=LOCAL.stat(str(state)))
    assert there(state) == {"checkpoint": "ours"}


@pytest.mark.usefixtures("filesystem")
def test_what_was_written_since_stays(state: Path) -> None:
    seen = LOCAL.stat(str(state))
    saved(state, "theirs")
    with pytest.raises(ChangedError) as caught:
        LOCAL.write_atomic(str(state), b"ours", expect=seen)
    assert caught.value.file == str(state)
    assert there(state) == {"checkpoint": "theirs"}
    with pytest.raises(ChangedError):
        LOCAL.remove(str(state), expect=seen)
    assert there(state) == {"checkpoint": "theirs"}


@pytest.mark.usefixtures("filesystem")
def test_what_was_removed_since_is_not_made_anew(state: Path) -> None:
    seen = LOCAL.stat(str(state))
    state.unlink()
    with pytest.raises(ChangedError):
        LOCAL.write_atomic(str(state), b"ours", expect=seen)
    LOCAL.remove(str(state), expect=seen)
    assert there(state) == {}


def test_what_was_read_is_removed(state: Path) -> None:
    LOCAL.remove(str(state), expect=LOCAL.stat(str(state)))
    assert there(state) == {}


def around(monkeypatch: pytest.MonkeyPatch, **moments: Callable[[], object]) -> None:
    """Let something happen ahead of the nth exchange: `first`, `second`, `third`."""
    count = iter(("first", "second", "third", "fourth"))

    def watched(a: str, b: str) -> bool:
        moments.get(next(count), int)()
        return exchange(a, b)

    monkeypatch.setattr(swap, "_exchange", watched)


MOMENTS = [("first",), ("second",), ("first", "second"), ("first", "second", "third")]


@pytest.mark.parametrize("moments", MOMENTS)
def test_whenever_somebody_writes_the_newest_of_theirs_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch, moments: tuple[str, ...]
) -> None:
    """Between the last look and the exchange, and while it is given back."""
    seen = LOCAL.stat(str(state))
    if moments == ("second",):
        saved(state, "theirs at first")
    written = {each: lambda each=each: saved(state, f"theirs at {each}") for each in moments}
    around(monkeypatch, **written)
    with pytest.raises(ChangedError):
        LOCAL.write_atomic(str(state), b"ours", expect=seen)
    assert there(state) == {"checkpoint": f"theirs at {moments[-1]}"}


def test_the_newest_stays_where_one_comes_while_ours_is_taken_away(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = LOCAL.stat(str(state))
    saved(state, "theirs")
    rename = os.rename

    def renamed(a: str, b: str) -> None:
        rename(a, b)
        saved(state, "theirs, newer")

    monkeypatch.setattr(os, "rename", renamed)
    with pytest.raises(ChangedError):
        LOCAL.remove(str(state), expect=seen)
    assert there(state) == {"checkpoint": "theirs, newer"}


def test_a_link_is_replaced_by_what_it_would_lead_to(state: Path) -> None:
    state.rename(state.with_name("elsewhere"))
    state.symlink_to("elsewhere")
    LOCAL.write_atomic(str(state), b"ours", expect=LOCAL.stat(str(state)))
    assert there(state) == {"checkpoint": "ours", "elsewhere": "as read"}
    assert not state.is_symlink()
