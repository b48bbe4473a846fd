"""The `checkpoint` state file: which checkpoints a Saver remembers.

A text-format CheckpointState (tensorflow/python/training/checkpoint_state.proto), written
by `update_checkpoint_state_internal` (tensorflow/python/training/checkpoint_management.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from ckptctl.errors import NotFoundError, RefusedError, StateFileError
from ckptctl.storage import LOCAL, Storage

__all__ = ["WRITE_ANEW", "CheckpointState", "read_state", "state_bytes"]

#: What to do about a state file that says nothing. Without one TensorFlow begins at step 0.
WRITE_ANEW = (
    'write it anew: model_checkpoint_path: "NAME", NAME the newest beside it that ckptctl ls '
    "calls restorable; where it is removed, a trainer begins at step 0"
)

#: Longer than any state file: 100,000 paths of 160 characters.
MAX_STATE_BYTES = 16 << 20

# A line as TensorFlow writes it, where nothing is escaped and no number is odd.
_LINE = re.compile(
    rb'(?P<key>model_checkpoint_path|all_model_checkpoint_paths): "(?P<path>[ !#-\[\]-~]+)"'
    rb"|(?P<times>all_model_checkpoint_timestamps|last_preserved_timestamp): "
    rb"(?P<time>[1-9][0-9]{,17}(?:\.[0-9]{1,17})?(?:e\+?[0-9]{1,2})?)"
)


class CheckpointState(NamedTuple):
    """The content of a state file.

    Attributes
    ----------
    path
        Path of the state file.
    latest
        `model_checkpoint_path`, as written: absolute, or relative to the state file.
    all_paths
        `all_model_checkpoint_paths`, oldest first, as written.
    timestamps
        Seconds since the epoch, one for each of `all_paths`, or none at all.
    last_preserved
        Time of the last checkpoint that is kept for ever, or None.
    """

    path: str
    latest: str
    all_paths: tuple[str, ...] = ()
    timestamps: tuple[float, ...] = ()
    last_preserved: float | None = None

    def resolve(self, path: str) -> str:
        """Return a path of this file as TensorFlow resolves it."""
        return os.path.join(os.path.dirname(self.path), path)


def read_state(path: str, storage: Storage = LOCAL) -> CheckpointState | None:
    """Return the state file at `path`, or None if there is none.

    Raises
    ------
    StateFileError
        It does not parse, names no checkpoint, or is absurdly long.
    """
    info = storage.stat(path)
    if info is None or info.is_dir:
        return None
    if info.size > MAX_STATE_BYTES:
        raise StateFileError(
            "state file absurdly long",
            file=path,
            expected=f"<= {MAX_STATE_BYTES} bytes",
            found=info.size,
            remedy=WRITE_ANEW,
        )
    try:
        raw = storage.read_small(path, MAX_STATE_BYTES)
    except NotFoundError:
        return None
    return _read_plain(raw, path) or _read_text(raw, path)


def _read_plain(raw: bytes, path: str) -> CheckpointState | None:
    """Return a state file that holds only plain lines, or None: protobuf's text has many forms.

    Most do, and loading protobuf takes longer than all the rest of a listing.
    """
    found: dict[bytes, list[bytes]] = {}
    for line in raw.splitlines() if b"\r" not in raw else ():
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        value = match["path"] or match["time"]
        found.setdefault(match["key"] or match["times"], []).append(value)
    latest = found.get(b"model_checkpoint_path", [])
    preserved = found.get(b"last_preserved_timestamp", [])
    if len(latest) != 1 or len(preserved) > 1:
        return None
    paths = [each.decode() for each in found.get(b"all_model_checkpoint_paths", latest)]
    times = [float(each) for each in found.get(b"all_model_checkpoint_timestamps", ())]
    last = float(preserved[0]) if preserved else 0.0
    return _state(path, latest[0].decode(), paths, times, last)


def _read_text(raw: bytes, path: str) -> CheckpointState:
    import warnings

    from google.protobuf import text_format

    from ckptctl.bundle.proto import CheckpointStateProto

    try:
        with warnings.catch_warnings():
            # Of an escape that is none: protobuf's, not the user's, to put right.
            warnings.simplefilter("ignore", DeprecationWarning)
            message = text_format.Parse(raw.decode("utf-8"), CheckpointStateProto())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise StateFileError(
            f"state file does not parse: {error}",
            file=path,
            remedy=WRITE_ANEW,
        ) from None
    if not message.model_checkpoint_path:
        raise StateFileError(
            "state file names no checkpoint",
            file=path,
            expected="model_checkpoint_path",
            found=f"{len(raw)} bytes without it",
            remedy=WRITE_ANEW,
        )
    return _state(
        path,
        message.model_checkpoint_path,
        message.all_model_checkpoint_paths or [message.model_checkpoint_path],
        message.all_model_checkpoint_timestamps,
        message.last_preserved_timestamp,
    )


def _state(
    path: str, latest: str, paths: Sequence[str], times: Sequence[float], preserved: float
) -> CheckpointState:
    # TensorFlow ignores a list of times of another length.
    known = tuple(times) if len(times) == len(paths) else ()
    return CheckpointState(path, latest, tuple(paths), known, preserved or None)


def state_bytes(state: CheckpointState) -> bytes:
    """Return the content of a state file as TensorFlow writes it.

    Raises
    ------
    RefusedError
        A path that is no UTF-8: no state file can name it.
    """
    lines = [
        f'model_checkpoint_path: "{state.latest}"',
        *(f'all_model_checkpoint_paths: "{path}"' for path in state.all_paths),
        *(f"all_model_checkpoint_timestamps: {float(time)}" for time in state.timestamps),
    ]
    if state.last_preserved is not None:
        lines.append(f"last_preserved_timestamp: {float(state.last_preserved)}")
    raws = [line.encode("utf-8", "surrogateescape") for line in lines]
    # protobuf escapes an apostrophe too, which it need not.
    if all(_LINE.fullmatch(raw) and b"'" not in raw for raw in raws):
        return b"".join(raw + b"\n" for raw in raws)
    from google.protobuf import text_format

    from ckptctl.bundle.proto import CheckpointStateProto

    try:
        message = CheckpointStateProto(
            model_checkpoint_path=state.latest,
            all_model_checkpoint_paths=state.all_paths,
            all_model_checkpoint_timestamps=state.timestamps,
        )
    except ValueError:  # which one depends on how protobuf was built
        odd = (p for p in (state.latest, *state.all_paths) if not p.isprintable())
        raise RefusedError(
            "a state file cannot name a path that is not UTF-8",
            file=state.path,
            found=repr(next(odd, state.latest)),
        ) from None
    if state.last_preserved is not None:
        message.last_preserved_timestamp = state.last_preserved
    return text_format.MessageToString(message).encode("utf-8")
