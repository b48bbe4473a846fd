"""The tree of exceptions: drawn in the docstring, told apart by exit codes."""

from __future__ import annotations

import pickle
import re

import pytest

from ckptctl import errors

CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if isinstance(value, type) and issubclass(value, errors.CkptctlError)
}


def drawn() -> dict[str, tuple[int, str | None, int | None]]:
    """Return name -> (depth, parent, exit code) of the tree in the module's docstring."""
    found: dict[str, tuple[int, str | None, int | None]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^ {4}([|` -]*)([A-Z]\w+) +(\d+)?", line)
        if match is None:
            continue
        depth = len(match[1]) // 4
        path[depth:] = [match[2]]
        code = int(match[3]) if match[3] else None
        found[match[2]] = (depth, path[depth - 1] if depth else None, code)
    return found


def test_an_offset_that_is_none_is_a_word() -> None:
    """As a saved plan may have it, whoever wrote that."""
    assert str(errors.CkptctlError.from_text("damage\n  offset: abc").offset) == "abc"


def test_the_drawn_tree_holds_every_class_and_no_other() -> None:
    assert set(drawn()) == set(CLASSES) == set(errors.__all__)


def test_the_drawn_tree_is_the_real_one() -> None:
    for name, (_, parent, code) in drawn().items():
        if parent is not None:
            assert CLASSES[name].__bases__ == (CLASSES[parent],), name
        if code is not None:
            assert CLASSES[name].exit_code == code, name


def test_each_branch_has_an_exit_code_of_its_own() -> None:
    branches = errors.CkptctlError.__subclasses__()
    codes = [branch.exit_code for branch in branches]
    assert len(set(codes)) == len(codes)
    assert errors.CkptctlError.exit_code not in codes


def test_within_a_branch_the_exit_code_is_one() -> None:
    for branch in errors.CkptctlError.__subclasses__():
        for each in CLASSES.values():
            if issubclass(each, branch):
                assert each.exit_code == branch.exit_code, each


def test_an_error_is_had_back_from_its_words() -> None:
    told = errors.DamageError(
        "checksum does not match: x",
        file="a: b\nc",
        tensor="emb",
        offset=12,
        expected="1",
        found="2",
        remedy="restore the file: from a copy",
    )
    again = errors.DamageError.from_text(str(told))
    assert again.details() == told.details() | {"file": r"a: b\nc"}
    assert errors.DamageError.from_text("bad").details() == errors.DamageError("bad").details()


@pytest.mark.parametrize("kind", CLASSES.values(), ids=lambda kind: kind.__name__)
def test_an_error_survives_the_way_from_a_worker(kind: type[errors.CkptctlError]) -> None:
    error = kind("what", file="f", tensor="t", offset=3, expected=1, found=(2,), remedy="r")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert copy.details() == error.details()
    assert str(copy) == str(error)


def test_each_class_says_when_it_is_raised() -> None:
    for name, kind in CLASSES.items():
        assert kind.__doc__, name
        first = kind.__doc__.splitlines()[0]
        assert first.endswith("."), name
        assert len(first) <= 80, name
