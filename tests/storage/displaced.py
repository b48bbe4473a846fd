"""A run that is killed right behind the instant in which it displaced somebody else's file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from ckptctl.storage import LOCAL, swap

__all__ = ["killed_behind", "saved"]


def saved(path: Path, data: bytes) -> None:
    """Replace a file as TensorFlow does."""
    other = path.with_name(f"{path.name}.tmp")
    other.write_bytes(data)
    os.replace(other, path)


def killed_behind(path: Path, ours: bytes | None, save: Callable[[], None] | None = None) -> Path:
    """Replace a file (None: remove it) in a process that is killed, SIGKILL, when it is aside.

    Between its look and that, the trainer does `save`; None: nothing. Returns what lies aside.
    """
    expect = LOCAL.stat(str(path))
    exchange, rename = swap._exchange, os.rename

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def exchanged(a: str, b: str) -> bool:
        if save is not None:
            save()
        assert exchange(a, b)
        die()
        return True

    def renamed(a: str, b: str) -> None:
        if a == str(path):
            if save is not None:
                save()
            rename(a, b)
            die()
        rename(a, b)

    child = os.fork()
    if child == 0:
        swap._exchange, os.rename = exchanged, renamed  # type: ignore[assignment]
        try:
            if ours is None:
                LOCAL.remove(str(path), expect=expect)
            else:
                LOCAL.write_atomic(str(path), ours, expect=expect)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    (aside,) = path.parent.glob(f"{path.name}.ckptctl-*.tmp")
    return aside
