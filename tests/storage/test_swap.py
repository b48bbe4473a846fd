"""A file that is replaced or removed only if it is still the one that was read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptctl.errors import ChangedError
from ckptctl.storage import LOCAL, swap
from tests.storage import displaced
from tests.storage.displaced import killed_behind

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
    displaced.saved(path, text.encode())


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


MOMENTS = [("first",), ("first", "second"), ("first", "second", "third")]


@pytest.mark.parametrize("moments", MOMENTS)
def test_whenever_somebody_writes_the_newest_of_theirs_stays(
    state: Path, monkeypatch: pytest.MonkeyPatch, moments: tuple[str, ...]
) -> None:
    """Between the last look and the exchange, and while it is given back."""
    seen = LOCAL.stat(str(state))
    written = {each: lambda each=each: saved(state, f"theirs at {each}") for each in moments}
    around(monkeypatch, **written)
    with pytest.raises(ChangedError):
        LOCAL.write_atomic(str(state), b"ours", expect=seen)
    assert there(state) == {"checkpoint": f"theirs at {moments[-1]}"}


def test_the_newest_stays_where_one_comes_while_ours_is_taken_away(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = LOCAL.stat(str(state))
    rename = os.rename

    def renamed(a: str, b: str) -> None:
        saved(state, "theirs")
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


class Killed(BaseException):
    """SIGTERM, as it arrives between two calls."""


@pytest.mark.parametrize("moment", [1, 2])
def test_a_signal_behind_an_exchange_gives_back_what_was_displaced(
    state: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    seen = LOCAL.stat(str(state))
    count = iter(range(1, 10))

    def interrupted(a: str, b: str) -> bool:
        now = next(count)
        if now == 1:
            saved(state, "theirs")
        done = exchange(a, b)
        if now == moment:
            raise Killed
        return done

    monkeypatch.setattr(swap, "_exchange", interrupted)
    with pytest.raises((Killed, ChangedError)):
        LOCAL.write_atomic(str(state), b"ours", expect=seen)
    assert state.read_text() == "theirs"


def test_a_signal_behind_the_rename_gives_back_what_was_to_be_removed(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = LOCAL.stat(str(state))
    rename = os.rename

    def interrupted(a: str, b: str) -> None:
        saved(state, "theirs")
        rename(a, b)
        raise Killed

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(Killed):
        LOCAL.remove(str(state), expect=seen)
    assert there(state) == {"checkpoint": "theirs"}


@pytest.mark.parametrize("ours", [b"ours", None])
def test_what_a_killed_run_displaced_is_known_and_put_back(state: Path, ours: bytes | None) -> None:
    aside = killed_behind(state, ours, lambda: saved(state, "theirs"))
    assert LOCAL.is_displaced(str(aside))
    assert LOCAL.give_back(str(aside))
    assert there(state) == {"checkpoint": "theirs"}


@pytest.mark.parametrize("ours", [b"ours", None])
def test_what_a_killed_run_was_to_replace_is_not_put_back(state: Path, ours: bytes | None) -> None:
    aside = killed_behind(state, ours)
    assert not LOCAL.is_displaced(str(aside))
    assert not LOCAL.give_back(str(aside))
    assert aside.read_text() == "as read"


@pytest.mark.parametrize("ours", [b"ours", None])
@pytest.mark.parametrize("save", [True, False])
@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile])
def test_what_lies_aside_is_known_in_a_copy_too(
    state: Path, ours: bytes | None, save: bool, copy: Callable[[str, str], str]
) -> None:
    """With other inodes, and where times are not copied other times."""
    aside = killed_behind(state, ours, (lambda: saved(state, "theirs")) if save else None)
    restored = state.parent / "restored"
    shutil.copytree(state.parent, restored, copy_function=copy)
    assert LOCAL.is_displaced(str(restored / aside.name)) == save
    assert LOCAL.give_back(str(restored / aside.name)) == save
    if save:
        assert there(restored / "checkpoint") == {"checkpoint": "theirs"}


@pytest.mark.parametrize("ours", [b"ours", None])
def test_what_a_killed_run_displaced_goes_where_a_newer_one_is(
    state: Path, ours: bytes | None
) -> None:
    aside = killed_behind(state, ours, lambda: saved(state, "theirs"))
    saved(state, "theirs, newer")
    assert not LOCAL.is_displaced(str(aside))
    assert not LOCAL.give_back(str(aside))
    assert there(state) == {"checkpoint": "theirs, newer"}


def test_it_is_put_back_where_files_cannot_change_places(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed on a server's disk, and looked at by a client of it."""
    aside = killed_behind(state, b"ours", lambda: saved(state, "theirs"))
    monkeypatch.setattr(swap, "_exchange", lambda a, b: False)
    assert LOCAL.give_back(str(aside))
    assert there(state) == {"checkpoint": "theirs"}


@pytest.mark.parametrize("name", ["0123456789abcdef.tmp", "half"])
def test_what_was_never_in_place_is_not_put_back(state: Path, name: str) -> None:
    """Half of what we were about to write, or what an earlier version left."""
    aside = state.with_name(f"checkpoint.ckptctl-{name}")
    aside.write_text("our")
    assert not LOCAL.give_back(str(aside))
    assert state.read_text() == "as read"


@pytest.mark.parametrize("kind", ["huge", "pipe"])
def test_what_no_state_file_can_be_is_neither_read_nor_put_back(state: Path, kind: str) -> None:
    """Somebody else made it, by a name of ours."""
    state.unlink()
    aside = state.with_name("checkpoint.ckptctl-000000000badcafe.tmp")
    if kind == "pipe":
        os.mkfifo(aside)
    else:
        with aside.open("wb") as file:
            file.truncate(1 << 40)
    assert not LOCAL.is_displaced(str(aside))
    assert not state.exists()
