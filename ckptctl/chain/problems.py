"""What is wrong, in words: the findings that need no rule but a look."""

from __future__ import annotations

from collections.abc import Iterator

from ckptctl.chain.model import Checkpoint, Problem, Scan
from ckptctl.errors import UnreadableError

__all__ = ["incompleteness", "misnamed_reason", "state_problems", "unsoundness"]


def incompleteness(checkpoint: Checkpoint) -> list[Problem]:
    """Return what an incomplete checkpoint lacks, or an unfit one; nothing for a sound one."""
    if checkpoint.damage is not None:
        return [Problem("damaged", f"{checkpoint.name}: {checkpoint.damage.message}")]
    if checkpoint.unfit:
        return [Problem("damaged", f"{checkpoint.name}: {checkpoint.unfit}")]
    found = [
        Problem("incomplete", f"{checkpoint.name}: data shard {name} is missing")
        for name in checkpoint.missing[:3]
    ]
    return found + [
        Problem("incomplete", f"{checkpoint.name}: {name} has {has} bytes where {need} are needed")
        for name, need, has in checkpoint.short
    ]


def unsoundness(checkpoint: Checkpoint) -> str:
    """Return in a word or two why nothing can rest on a checkpoint that is not sound."""
    if isinstance(checkpoint.damage, UnreadableError):
        return "cannot be read"
    if checkpoint.unfit:
        return f"is damaged: {checkpoint.unfit}"
    return "is incomplete" if checkpoint.damage is None else "is damaged"


def misnamed_reason(full: Checkpoint) -> str:
    """Return what a full says that was merged under the name of another step."""
    up_to = full.merged.up_to if full.merged is not None else full.step
    return f"{full.name} holds the state at step {up_to}: it was merged under another name"


def state_problems(scan: Scan) -> Iterator[Problem]:
    """Return what the state files say that is not so in this directory."""
    for state, path in scan.copied:
        astray = {each.path: each.state for each in scan.astray}.get(state)
        what = "use --relocate"
        if astray is not None and path == astray.latest:
            what = "no checkpoint of that name is here, so set model_checkpoint_path by hand"
        message = f"{state} names {path}, which lies in another directory: {what}"
        yield Problem("copied", message)
    for state_file in (scan.full_state, scan.increment_state):
        if state_file.moved is not None:
            yield Problem(
                "moved",
                f"{state_file.path} names {state_file.moved}, where nothing is: "
                "TensorFlow finds no checkpoint; use --relocate",
            )
    silent = {(item.kind, item.name) for item in scan.removed}
    for kind, state_file, found in (
        ("full", scan.full_state, scan.fulls),
        ("increment", scan.increment_state, scan.increments),
    ):
        here = {item.name for item in (*found, *scan.others)}
        for name in state_file.order:
            if name in state_file.v1:
                yield Problem(
                    "v1",
                    f"{state_file.path} lists {name}, which is in TensorFlow's V1 format: "
                    "that is not read",
                )
            elif name not in here and (kind, name) not in silent:
                yield Problem("listed-gone", f"{state_file.path} lists {name}, which is not here")
