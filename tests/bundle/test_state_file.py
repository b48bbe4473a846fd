"""State files: what TensorFlow writes we read, and it reads what we write."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from google.protobuf import text_format
from hypothesis import example, given
from hypothesis import strategies as st

from ckptctl.bundle import CheckpointState, read_state, state_bytes, state_file
from ckptctl.bundle.proto import CheckpointStateProto
from ckptctl.errors import RefusedError, StateFileError
from tests.bundle import builders as b

PATHS = {
    "plain": ["model.ckpt-10", "model.ckpt-20"],
    "absolute": ["/data/run/model.ckpt-10", "/data/run/model.ckpt-20"],
    "not ascii": ["/dät/mödel.ckpt-10", "/dät/模型.ckpt-20"],
    "escapes": ["a\"b\\c'd-10", "tab\tnew\nline\x01\x7f-20"],
    "spaces": ["  model ckpt -10", "model.ckpt-20  "],
    "one": ["model.ckpt-20"],
}


def state(path: Path, paths: list[str], times: tuple[float, ...] = ()) -> CheckpointState:
    kept = times[0] - 1 if times else None
    return CheckpointState(str(path), paths[-1], tuple(paths), times, kept)


@pytest.mark.parametrize("case", PATHS)
@pytest.mark.parametrize("times", [(), (1700000000.123456, 1700000001.0)], ids=["", "times"])
def test_tensorflow_reads_what_we_write(
    tf: ModuleType, tmp_path: Path, case: str, times: tuple[float, ...]
) -> None:
    ours = state(tmp_path / "checkpoint", PATHS[case], times[-len(PATHS[case]) :])
    Path(ours.path).write_bytes(state_bytes(ours))
    theirs = tf.train.get_checkpoint_state(str(tmp_path))
    assert theirs.model_checkpoint_path == ours.resolve(ours.latest)
    assert list(theirs.all_model_checkpoint_paths) == [ours.resolve(p) for p in ours.all_paths]
    assert tuple(theirs.all_model_checkpoint_timestamps) == ours.timestamps
    assert theirs.last_preserved_timestamp == (ours.last_preserved or 0)
    assert read_state(ours.path) == ours


@pytest.mark.parametrize("case", PATHS)
def test_we_read_what_tensorflow_writes(tf: ModuleType, tmp_path: Path, case: str) -> None:
    from tensorflow.python.checkpoint import checkpoint_management

    times = [1700000000.123456, 1700000001.0][-len(PATHS[case]) :]
    checkpoint_management.update_checkpoint_state_internal(
        str(tmp_path),
        PATHS[case][-1],
        all_model_checkpoint_paths=list(PATHS[case]),
        all_model_checkpoint_timestamps=times,
        last_preserved_timestamp=times[0] - 1,
    )
    path = tmp_path / "checkpoint"
    found = read_state(str(path))
    assert found == state(path, PATHS[case], tuple(times))
    assert state_bytes(found) == path.read_bytes()


def test_tensorflow_1_reads_what_we_write(run_tf115: Callable[..., str], tmp_path: Path) -> None:
    script = """
import sys, json
import tensorflow as tf
states = [tf.train.get_checkpoint_state(path) for path in sys.argv[1:]]
times = [list(state.all_model_checkpoint_timestamps) for state in states]
print(json.dumps(list(zip([state.model_checkpoint_path for state in states], times))))
"""
    wanted = []
    for case, paths in PATHS.items():
        ours = state(tmp_path / case / "checkpoint", paths, (1.5, 2.25)[-len(paths) :])
        (tmp_path / case).mkdir()
        Path(ours.path).write_bytes(state_bytes(ours))
        wanted.append([ours.resolve(ours.latest), list(ours.timestamps)])
    assert json.loads(run_tf115(script, *(tmp_path / case for case in PATHS))) == wanted


def test_times_that_fit_no_paths_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text('model_checkpoint_path: "a-1"\nall_model_checkpoint_timestamps: 5\n')
    assert read_state(str(path)) == CheckpointState(str(path), "a-1", ("a-1",), (5.0,))
    with open(path, "a") as file:
        file.write("all_model_checkpoint_timestamps: 6\n")
    assert read_state(str(path)) == CheckpointState(str(path), "a-1", ("a-1",))


def test_no_state_file(tmp_path: Path) -> None:
    assert read_state(str(tmp_path / "checkpoint")) is None
    (tmp_path / "checkpoint").mkdir()
    assert read_state(str(tmp_path / "checkpoint")) is None


def test_comments_and_other_spellings(tmp_path: Path) -> None:
    """People edit it: text format allows more than TensorFlow writes."""
    path = tmp_path / "checkpoint"
    path.write_text(
        "# restored by hand\n"
        "model_checkpoint_path:'a' 'b'  # joined\n"
        'all_model_checkpoint_paths: ["x", "ab"];\n'
        "last_preserved_timestamp: 1e9\n"
    )
    assert read_state(str(path)) == CheckpointState(str(path), "ab", ("x", "ab"), (), 1e9)


def test_paths_join_as_tensorflow_joins_them() -> None:
    relative = CheckpointState("run/checkpoint", "m-1")
    assert relative.resolve("m-1") == "run/m-1"
    assert relative.resolve("/other/m-1") == "/other/m-1"


@pytest.mark.parametrize("name", [b"m\xff-1", b"\x80"])
def test_names_that_no_state_file_can_hold(name: bytes) -> None:
    path = os.fsdecode(name)
    with pytest.raises(RefusedError, match="UTF-8") as caught:
        state_bytes(CheckpointState("dir/checkpoint", path, (path,)))
    assert caught.value.file == "dir/checkpoint"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(paths=st.lists(TEXT, min_size=1, max_size=5), data=st.data())
def test_any_state_comes_back(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], data: st.DataObject
) -> None:
    times = st.floats(1e-9, 1e12)
    stamps = data.draw(st.lists(times, min_size=len(paths), max_size=len(paths)) | st.just([]))
    path = tmp_path_factory.getbasetemp() / "any-state"
    kept = data.draw(st.none() | times)
    ours = CheckpointState(str(path), paths[-1], tuple(paths), tuple(stamps), kept)
    path.write_bytes(state_bytes(ours))
    assert read_state(str(path)) == ours


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes"
    path.write_bytes(data)
    with b.bounded(), pytest.raises(StateFileError):
        read_state(str(path))


FIELDS = ("model_checkpoint_path", "all_model_checkpoint_paths", "last_preserved_timestamp")
VALUES = ('"a"', '"\\377"', '"\\u00e9"', "'", '"', "1e999", "nan", "-1")
WORDS = st.sampled_from([*FIELDS, *VALUES, *":{[],#\n\\"])


@given(words=st.lists(WORDS, max_size=25))
def test_any_words(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "any-words"
    path.write_text('model_checkpoint_path: "m-1" ' + " ".join(words))
    try:
        found = read_state(str(path))
    except StateFileError:
        return
    assert found is not None
    assert found.latest


def test_ten_thousand_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    ours = state(path, [f"/some/where/model.ckpt-{at}" for at in range(10_000)])
    path.write_bytes(state_bytes(ours))
    with b.bounded():
        assert read_state(str(path)) == ours


# --- the plain form, read without protobuf ---

_PATHS = st.text("ab/-09 \\\"'é#\t", max_size=4).map(lambda text: f'"{text}"')
_TIMES = st.one_of(
    st.floats(0, 1e10).map(repr),
    st.sampled_from(["1", "017", "0x1f", "1e9", "1E9", "1e+09", "inf", "-1", "1.", ".5", "1f"]),
)
_LINES = st.one_of(
    st.just('model_checkpoint_path: "a-1"'),
    _PATHS.map("model_checkpoint_path: {}".format),
    _PATHS.map("all_model_checkpoint_paths: {}".format),
    _TIMES.map("all_model_checkpoint_timestamps: {}".format),
    _TIMES.map("last_preserved_timestamp: {}".format),
    st.sampled_from(["", "# a", "stranger: 1", 'model_checkpoint_path : "a"']),
)


@given(st.lists(_LINES, max_size=3), st.sampled_from(["\n", "", "\r\n", "\n\n"]))
@example(['model_checkpoint_path: "a-1"', "all_model_checkpoint_timestamps: 1700000000.5"], "\n")
def test_the_plain_form_is_read_as_protobuf_reads_it(lines: list[str], end: str) -> None:
    raw = "".join(line + end for line in lines).encode()
    plain = state_file._read_plain(raw, "checkpoint")
    if plain is not None:
        assert plain == state_file._read_text(raw, "checkpoint")


@given(
    st.lists(st.text("ab/-09 \\\"'é#\t", max_size=4), min_size=1, max_size=3),
    st.floats(0, 1e25) | st.floats(1e9, 2e9).map(round),
    st.none() | st.floats(0, 1e10),
)
def test_the_plain_form_is_written_as_protobuf_writes_it(
    paths: list[str], time: float, last: float | None
) -> None:
    message = CheckpointStateProto(
        model_checkpoint_path=paths[0],
        all_model_checkpoint_paths=paths,
        all_model_checkpoint_timestamps=[time],
    )
    if last is not None:
        message.last_preserved_timestamp = last
    ours = CheckpointState("checkpoint", paths[0], tuple(paths), (time,), last)
    assert state_bytes(ours).decode() == text_format.MessageToString(message)


@pytest.mark.parametrize("times", [(), (1700000000.123456, 1.7e9)], ids=["", "times"])
@pytest.mark.parametrize("case", ["plain", "absolute", "spaces", "one"])
def test_what_trainers_write_is_plain(tmp_path: Path, case: str, times: tuple[float, ...]) -> None:
    ours = state(tmp_path / "checkpoint", PATHS[case], times[-len(PATHS[case]) :])
    assert state_file._read_plain(state_bytes(ours), ours.path) == ours
