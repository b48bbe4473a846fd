"""What a TARGET is taken for."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from ckptctl.errors import AmbiguousError, NotFoundError, RefusedError, UsageError
from ckptctl.inspect.target import find_target
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return build_chain(
        tmp_path,
        full(100, table("emb", [1, 2])),
        increment(120, changes("emb", [1])),
        increment(140, changes("emb", [1, 2])),
        full(200, table("emb", [1, 2, 3])),
    )


@pytest.mark.parametrize(
    ("text", "step"),
    [("100", 100), ("00140", 140), ("latest", 200), ("latest~1", 140), ("latest~3", 100),
     ("latest~0", 200), ("first", 100)],
)  # fmt: skip
def test_a_step_or_place_is_the_state_there(chain: Chain, text: str, step: int) -> None:
    target = find_target(text, str(chain.directory))
    assert (target.kind, target.step, target.text) == ("state", step, text)
    assert find_target(f"{chain.directory}@{text}").step == step


def test_latest_tells_what_is_newer_and_cannot_be_restored(chain: Chain) -> None:
    Path(f"{chain.full_prefix(200)}.data-00000-of-00001").unlink()
    notes = {
        text: find_target(text, str(chain.directory)).selection.notes
        for text in ("latest", "latest~0", "140")
    }
    assert [len(found) for found in notes.values()] == [1, 1, 0]
    (told,) = notes["latest"]
    assert "newer than step 140: model.ckpt-200: data shard model.ckpt-200.data-00000" in told


def test_a_state_names_what_it_is_made_of(chain: Chain) -> None:
    target = find_target("140", str(chain.directory))
    assert "model.ckpt-100 + incremental_model.ckpt-140" in target.words
    assert target.document()["base"] == str(chain.full_prefix(100))
    assert target.document()["increments"] == [str(chain.increment_prefix(140))]


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
@pytest.mark.parametrize(("step", "kind"), [(100, "full"), (120, "increment")])
def test_a_file_is_the_bundle_as_it_is(chain: Chain, ending: str, step: int, kind: str) -> None:
    prefix = str(chain.prefix(step))
    target = find_target(prefix + ending, "elsewhere")
    assert (target.kind, target.step, target.prefix) == (kind, step, prefix)
    assert target.selection is None


def test_a_name_is_looked_for_in_the_directory(chain: Chain) -> None:
    home = str(chain.directory)
    for name, kind in (("model.ckpt-100", "full"), ("incremental_model.ckpt-120", "increment")):
        assert find_target(name, home).kind == kind
        assert find_target(f"{home}@{name}").kind == kind


def test_a_prefix_with_an_at_sign_is_a_prefix(chain: Chain, tmp_path: Path) -> None:
    odd = tmp_path / "a@120"
    for ending in (".index", ".data-00000-of-00001"):
        Path(f"{odd}{ending}").write_bytes(Path(f"{chain.full_prefix(100)}{ending}").read_bytes())
    assert find_target(str(odd)).prefix == str(odd)
    assert find_target(str(odd)).step is None


@pytest.mark.parametrize(
    "text",
    ["", "latest~4", "latest~", "nothing", "120x", "latest~-1", "a@b", "@", "a\0b", "9" * 30],
)
def test_what_is_not_there(chain: Chain, text: str) -> None:
    with pytest.raises(NotFoundError):
        find_target(text, str(chain.directory))


def test_what_is_not_there_tells_where_it_was_looked_for_and_what_there_is(chain: Chain) -> None:
    path = f"{chain.directory}/model.ckpt-7"
    for text, file in ((path, None), ("model.ckpt-7", str(chain.directory))):
        with pytest.raises(NotFoundError, match="no such target") as caught:
            find_target(text, str(chain.directory))
        assert (caught.value.file, caught.value.expected) == (file, None)
        assert caught.value.remedy.startswith("write a step, latest, ")
    with pytest.raises(NotFoundError, match="no restore point latest~9") as caught:
        find_target("latest~9", str(chain.directory))
    assert caught.value.expected is None
    assert caught.value.found == "4 restore points, 100 to 200"


def test_a_directory_is_no_target(chain: Chain) -> None:
    with pytest.raises(UsageError, match="@latest"):
        find_target(str(chain.directory), ".")


def test_a_missing_file_is_named(chain: Chain) -> None:
    with pytest.raises(NotFoundError) as caught:
        find_target(f"{chain.full_prefix(150)}.index")
    assert str(caught.value.file).endswith("model.ckpt-150.index")


def test_a_step_that_cannot_be_restored_is_refused(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path, full(100, table("emb", [1, 2])), increment(120, changes("emb", []))
    )
    with pytest.raises(RefusedError, match="idle"):
        find_target("120", str(chain.directory))
    with pytest.raises(NotFoundError, match="no checkpoint at step 130"):
        find_target("130", str(chain.directory))


# --- from within another checkpoint directory -------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Chain:
    """Another chain with a full of the same name."""
    (tmp_path / "other").mkdir()
    return build_chain(tmp_path / "other", full(100, table("emb", [7])))


@pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001"])
def test_what_is_named_with_its_directory_is_not_of_this_one(
    chain: Chain, other: Chain, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other.directory)
    target = find_target(f"{chain.directory}@model.ckpt-100{ending}")
    assert (target.prefix, target.directory) == (
        str(chain.full_prefix(100)),
        str(chain.directory),
    )
    target = find_target(f"{chain.directory}@incremental_model.ckpt-120{ending}")
    assert (target.kind, target.directory) == ("increment", str(chain.directory))


@pytest.mark.parametrize("ending", ["", ".index"])
def test_a_name_that_is_here_and_there(
    chain: Chain, other: Chain, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain.directory = chain.directory.rename(chain.directory.with_name("of two words"))
    monkeypatch.chdir(other.directory)
    name = f"model.ckpt-100{ending}"
    with pytest.raises(AmbiguousError, match="two things") as caught:
        find_target(name, str(chain.directory))
    _, first, *_, second, _, _, _ = shlex.split(str(caught.value.remedy))
    here = find_target(first, str(chain.directory))
    there = find_target(second, str(chain.directory))
    assert (here.prefix, there.prefix) == ("./model.ckpt-100", str(chain.full_prefix(100)))
    # The same file under two names is one.
    assert find_target(name, str(other.directory)).prefix == "model.ckpt-100"
    monkeypatch.chdir(chain.directory.parent)
    assert find_target(name, str(chain.directory)).prefix == str(chain.full_prefix(100))


def test_a_bundle_tells_the_directory_that_holds_it(chain: Chain) -> None:
    for step in (100, 120):
        for place in (".", "/nowhere"):
            assert find_target(str(chain.prefix(step)), place).directory == str(chain.directory)


def test_a_path_is_taken_as_one(chain: Chain) -> None:
    index = Path(f"{chain.full_prefix(100)}.index")
    assert find_target(index) == find_target(str(index))
    assert find_target(index.with_suffix("")).step == 100
    assert find_target("latest", chain.directory).step == 200


@pytest.mark.parametrize("what", ["", "variables"])
def test_a_saved_model_is_told_with_where_its_variables_are(chain: Chain, what: str) -> None:
    model = chain.directory.parent / "model"
    variables = model / "variables"
    variables.mkdir(parents=True)
    for path in chain.directory.glob("model.ckpt-100.*"):
        path.rename(variables / path.name.replace("model.ckpt-100", "variables"))
    asked = model / what
    with pytest.raises(UsageError) as caught:
        find_target(str(asked))
    assert str(variables / "variables") in caught.value.remedy
    with pytest.raises(NotFoundError, match="SavedModel") as missing:
        find_target("latest", str(asked))
    assert str(variables / "variables") in missing.value.remedy
    assert find_target(str(variables / "variables")).kind == "full"
