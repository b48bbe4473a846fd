"""The names of which `look_up` finds rows, and what is said of any other."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ckptctl.errors import NotFoundError, RefusedError
from ckptctl.inspect.tensors import TensorView
from ckptctl.inspect.view import View
from ckptctl.tables import is_slot_name, part_components

__all__ = ["cut_inside", "has_rows", "in_slices", "not_there", "slots_of", "tables_of"]


def tables_of(view: View) -> list[str]:
    """Return the names that `look_up` takes: tables, and variables that have rows."""
    names = {table.name for table in view.tables}
    return sorted(names.union((t.name for t in view.tensors if has_rows(t)), in_slices(view)))


def in_slices(view: View) -> set[str]:
    """Return the variables of which an increment as it is brings rows slice by slice."""
    return {
        component.whole
        for table in view.tables
        if table.kind == "rows"
        for component in part_components(table.name)
    }


def slots_of(name: str, tensors: dict[str, TensorView]) -> Iterator[tuple[str, str]]:
    """Return the names of the slots of a normal variable, whole and as slots."""
    for other in sorted(tensors):
        variable, _, last = other.rpartition("/")
        if variable == name and is_slot_name(last) and has_rows(tensors[other]):
            yield other, last


def has_rows(tensor: TensorView) -> bool:
    """Return whether a tensor has rows of numbers."""
    return tensor.numeric and len(tensor.shape) >= 1 and bool(tensor.pieces)


def not_there(view: View, name: str) -> NotFoundError:
    """Return the error of a table that is not there, with what may have been meant."""
    from difflib import get_close_matches

    tensor = next((each for each in view.tensors if each.name == name), None)
    if tensor is not None:
        return _no_rows(view, tensor)
    owner = next(
        (t.name for t in view.tables for member, slot, _ in t.shapes if slot and member == name),
        None,
    )
    near = get_close_matches(name, tables_of(view), n=3)
    remedy = f"did you mean {' or '.join(near)}?" if near else "ckptctl show lists them"
    if owner is not None:
        remedy = f"it is a slot of {owner}, which shows it with its own rows"
    return NotFoundError(f"no table {name!r}", file=view.target.prefix, remedy=remedy)


def _no_rows(view: View, tensor: TensorView) -> NotFoundError:
    """Return the error of a tensor without rows of numbers, with what shows its values."""
    own, shape, where = shlex.quote(tensor.name), list(tensor.shape), _where(view)
    if tensor.is_hash_table:
        what, remedy = "is a hash table of DeepRec", f"ckptctl show {where} --tensors lists it"
    elif tensor.is_scalar:
        what = f"is one {tensor.dtype.name}, and has no rows"
        remedy = f"ckptctl get {own} --upto {where} shows it"
    elif not tensor.numeric:
        what = f"holds {tensor.dtype.name}s in the shape {shape}"
        remedy = f"{_export(view, tensor, 'them')}ckptctl show {where} --tensors lists them"
    else:
        what, remedy = "has no rows", "ckptctl show lists what has"
    return NotFoundError(
        f"{tensor.name!r} {what}", file=view.target.prefix, tensor=tensor.name, remedy=remedy
    )


def cut_inside(view: View, tensor: TensorView) -> RefusedError:
    """Return the error of a variable whose rows are cut, with what shows its values."""
    own, where = shlex.quote(tensor.name), _where(view)
    return RefusedError(
        "a variable that is cut inside its rows",
        file=view.target.prefix,
        tensor=tensor.name,
        remedy=f"{_export(view, tensor, 'it')}"
        f"ckptctl show {where} --stats --filter {own} sums it up",
    )


def _export(view: View, tensor: TensorView, what: str) -> str:
    """Return what writes a tensor, or that no export does and why; reads strings."""
    from ckptctl.inspect.export import format_of, why_left_out

    command = f"ckptctl export {_where(view)} --table {shlex.quote(tensor.name)} -o"
    for output in ("FILE.npz", "FILE.safetensors", "DIR"):
        reason = why_left_out(tensor, format_of(output))
        if reason is None:
            return f"{command} {output} writes {what}, "
    return f"no export writes {what} ({reason}), "


def _where(view: View) -> str:
    at = view.target
    return shlex.quote(f"{at.directory}@{at.step}" if at.kind == "state" else at.prefix)
