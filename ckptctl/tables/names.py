"""Tensor names of DeepRec's tables: suffixes, part components, slot names.

Sources: `shared/spec/deeprec-format.md` 1.1, 1.2 and 2 (embedding_var_ckpt_data.cc,
incr_save_restore_ops.h, slot_creator.py, saver.py of DeepRec-AI/DeepRec).
"""

from __future__ import annotations

import re

__all__ = ["BUCKETS", "PartComponent", "is_slot_name", "part_components", "without_parts"]

#: Rows of a part are grouped by `key % BUCKETS`.
BUCKETS = 1000

_PART = re.compile(r"part_(0|[1-9][0-9]*)")
_OPTIMIZERS = (
    *("Adagrad", "AdagradDecay", "AdagradDecayV2", "Adam", "AdamAsync", "AdamW"),
    *("Ftrl", "Momentum", "RMSProp"),
)


class PartComponent(tuple[str, int, str]):
    """One reading of a name as a part: (name before, part number, name after)."""

    __slots__ = ()

    @property
    def number(self) -> int:
        """Number of the part."""
        return self[1]

    @property
    def whole(self) -> str:
        """Name with the part component removed."""
        return "/".join(filter(None, (self[0], self[2])))


def part_components(name: str) -> list[PartComponent]:
    """Return every way to read a component of `name` as `part_<number>`, left to right."""
    if "part_" not in name:
        return []
    pieces = name.split("/")
    return [
        PartComponent(("/".join(pieces[:at]), int(match[1]), "/".join(pieces[at + 1 :])))
        for at, piece in enumerate(pieces)
        if piece.startswith("part_")
        and (match := _PART.fullmatch(piece))
        and len(pieces) > 1
        and len(match[1]) < 10
    ]


def without_parts(name: str) -> str:
    """Return a name without any component that may be its part."""
    if "part_" not in name:
        return name
    return "/".join(piece for piece in name.split("/") if not _PART.fullmatch(piece)) or name


def is_slot_name(component: str) -> bool:
    """Return whether a DeepRec optimizer names its slots so."""
    name, counted, number = component.partition("_")
    digits = number.isascii() and number.isdigit()
    return name in _OPTIMIZERS and (digits or not counted)
