"""The value of a tensor without dimensions, such as `global_step`, and where it stands."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ckptctl.inspect.lookup import Cell
from ckptctl.inspect.lookup_names import not_there, tables_of
from ckptctl.inspect.lookup_rows import Reading
from ckptctl.inspect.view import View
from ckptctl.restore import CopyJob

__all__ = ["Scalar", "find_scalar"]


class Scalar(NamedTuple):
    """A value, and where it was found.

    Attributes
    ----------
    target, words
        What was looked at, and that in a line.
    dtype
        Name of its type.
    cell
        Its value as an array of one; a string is one of Python's, other bytes as surrogates,
        and its offset is the tensor's, which begins with the length.
    checked
        Whether it was compared with its checksum.
    """

    target: dict[str, object]
    words: str
    name: str
    dtype: str
    cell: Cell
    checked: bool
    notes: list[str]

    def document(self) -> dict[str, object]:
        """Return it as JSON: the document of `Lookup`, with one row that has no key."""
        row = {"key": None, "found": True, "state": "scalar", "freq": None, "version": None}
        return {
            "target": self.target,
            "table": self.name,
            "dtype": self.dtype,
            "checked": self.checked,
            "rows": [{**row, **self.cell.document(), "slots": {}}],
            "notes": self.notes,
        }


def find_scalar(view: View, name: str, *, check: bool = False) -> Scalar | None:
    """Return the value of a scalar tensor; None for what has rows.

    Parameters
    ----------
    check
        Compare its checksum; a string is always compared.

    Raises
    ------
    NotFoundError
        There is no such tensor, or it is neither a number nor a string.
    TensorChecksumError, EntryBoundsError
        Damage.
    """
    if name in tables_of(view):
        return None
    tensor = next((each for each in view.tensors if each.name == name), None)
    if tensor is None or not tensor.is_scalar:
        raise not_there(view, name)
    (piece,) = tensor.pieces
    made, entry = piece.made, piece.entry
    assert isinstance(made, CopyJob)
    if tensor.numeric:
        reading = Reading()
        value = reading.rows(made.data, made.name, entry, np.zeros(1, np.int64))
        if check:
            reading.check(view.runner)
    else:
        (text,) = tensor.strings()
        value = np.array([text.decode("utf-8", "surrogateescape")], object)
    cell = Cell(value.reshape(-1), piece.file, entry.offset, made.data.prefix)
    target = view.target
    checked = check or not tensor.numeric
    notes = list(dict.fromkeys(view.notes))
    return Scalar(target.document(), target.words, name, tensor.dtype.name, cell, checked, notes)
