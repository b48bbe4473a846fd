"""What a graph does to its variables: which updates touch rows that are known beforehand.

The rule errs on the safe side. A variable is sparse when every op that takes its handle is
known: a read, a sparse update whose row numbers are an input, a load of the whole, its
initialiser, or our own. Anything else (a function call, control flow, `assign`) can change
any row, so the variable is dense and is saved whole.

Op names and inputs: tensorflow/core/ops/{state,resource_variable,training}_ops.cc.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from ckptctl.training.places import cpu_of

__all__ = [
    "SparseUpdate",
    "Uses",
    "groups_of",
    "initialisers_of",
    "obstacle",
    "row_count",
    "successors",
    "unfit",
    "uses_of",
]

_READS = frozenset(
    {
        "DisableCopyOnRead",
        "IsVariableInitialized",
        "ReadVariableOp",
        "ResourceGather",
        "ResourceGatherNd",
        "VarIsInitializedOp",
        "VariableShape",
        "_ReadVariablesOp",
    }
)
_SPARSE = ("ResourceSparseApply", "SparseApply", "ResourceScatter", "Scatter")
_ASSIGNS = frozenset({"Assign", "AssignVariableOp"})
# What stands between a RestoreV2 and the assignment of what it read.
_PASSING = frozenset({"Cast", "Identity", "Reshape"})


@dataclass(frozen=True)
class SparseUpdate:
    """An op that changes some rows of one or more variables.

    Attributes
    ----------
    op
        The op.
    rows
        Row numbers: the op's `indices`, int32 or int64, of any shape.
    variables
        The ops that own the variables it changes: `VarHandleOp`, or `VariableV2`.
    nested
        An index is a vector (`ScatterNd*`), whose first number is the row.
    """

    op: Any
    rows: Any
    variables: tuple[Any, ...]
    nested: bool = False


@dataclass
class Uses:
    """What a graph does to one variable.

    Attributes
    ----------
    sparse
        Sparse updates.
    loads
        Ops that assign the whole from a checkpoint, of another Saver than ours.
    initialisers
        Ops that assign the initial value; `Variable.load` feeds them.
    dense
        Ops that may change any row.
    """

    sparse: list[SparseUpdate] = field(default_factory=list)
    loads: list[Any] = field(default_factory=list)
    initialisers: list[Any] = field(default_factory=list)
    dense: list[Any] = field(default_factory=list)


def uses_of(variable: Any, initialisers: Collection[str], own: Collection[str]) -> Uses:
    """Return what the graph does to the variable that an op owns.

    Parameters
    ----------
    variable
        A `VarHandleOp`, or a `VariableV2` for a variable without a resource.
    initialisers
        Names of ops that initialise variables.
    own
        Names of ops of ours, which record by themselves.
    """
    found = Uses()
    for op in _takers(variable, own):
        update = _sparse_update(op)
        if update is not None:
            found.sparse.append(update)
        elif op.type in _ASSIGNS and _initialises(op, variable, initialisers):
            found.initialisers.append(op)
        elif op.type in _ASSIGNS and _from_checkpoint(op.inputs[1]):
            found.loads.append(op)
        else:
            found.dense.append(op)
    return found


def initialisers_of(graph: Any) -> set[str]:
    """Return the names of the ops that initialise the variables of a graph."""
    keys = tf.compat.v1.GraphKeys
    found = set()
    for key in (keys.GLOBAL_VARIABLES, keys.LOCAL_VARIABLES, keys.TRAINABLE_VARIABLES):
        for variable in graph.get_collection(key):
            initializer = getattr(variable, "initializer", None)
            if initializer is not None:
                found.add(initializer.name)
    return found


def obstacle(uses: Uses) -> str | None:
    """Return why the rows of a variable cannot be recorded, or None where they can."""
    if uses.dense:
        op = uses.dense[0]
        hint = "updates inside functions and control flow can't be seen"
        if "Adam" in op.name:
            hint = "ckptctl.training.LazyAdam writes rows only"
        return f"{op.name} ({op.type}) may change any row; {hint}"
    alone = [update.op for update in uses.sparse if not successors(update.op)]
    if alone:
        return (
            f"nothing follows {alone[0].name}, so it can't be recorded after it ran; wrap it in "
            "tf.group()"
        )
    return None


def unfit(owner: Any) -> str | None:
    """Return why increments have no rows of a variable, or None: theirs are DeepRec's."""
    dtype, shape = tf.as_dtype(owner.get_attr("dtype")), tf.TensorShape(owner.get_attr("shape"))
    if dtype != tf.float32:
        return f"it is of {dtype.name}, and increments hold rows of float32 alone"
    if shape.rank != 2 or not shape.is_fully_defined():
        rank = f"rank {shape.rank}" if shape.is_fully_defined() else "a shape that is not known"
        return f"it is of {rank}, and increments hold rows of variables of rank 2 alone"
    if int(shape[0]) >= 1 << 31:
        return "it has 2^31 rows or more"
    return None


def row_count(owner: Any) -> int:
    """Return the number of rows of the variable that an op owns."""
    shape = tf.TensorShape(owner.get_attr("shape"))
    return int(shape[0])


def groups_of(updates: Iterable[SparseUpdate], owners: dict[str, Any]) -> list[list[str]]:
    """Return names of variables that are updated together: same rows, same device."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    together: dict[str, list[str]] = {}
    for update in updates:
        names = [owner.name for owner in update.variables if owner.name in owners]
        together.setdefault(update.rows.name, []).extend(names)
    for names in together.values():
        for name in names:
            first = next(n for n in names if _alike(owners[n], owners[name]))
            leader[find(name)] = find(first)
    groups: dict[str, list[str]] = {}
    for name in leader:
        groups.setdefault(find(name), []).append(name)
    return list(groups.values())


def _alike(one: Any, other: Any) -> bool:
    return row_count(one) == row_count(other) and cpu_of(one.device) == cpu_of(other.device)


def successors(op: Any) -> list[Any]:
    """Return the ops that run after `op`: consumers of its outputs, and control successors."""
    found = {after.name: after for out in op.outputs for after in out.consumers()}
    found |= {after.name: after for after in op._control_outputs}
    return list(found.values())


def _takers(variable: Any, own: Collection[str]) -> Iterable[Any]:
    """Return the ops that may change a variable.

    One without a resource is passed on by what changes it: `scatter_add` returns the variable.
    """
    found: dict[str, Any] = {}
    handles = [variable.outputs[0]]
    for handle in handles:
        for op in handle.consumers():
            known = op.name in found or op.name in own or op.type in _READS
            if not known and _changes(op, handle):
                found[op.name] = op
                handles += [out for out in op.outputs if _is_ref(out)]
    return found.values()


def _is_ref(tensor: Any) -> bool:
    return bool(tensor.dtype._is_ref_dtype)


def _owner(tensor: Any) -> Any:
    """Return the op that owns the variable that a tensor is, if it came by known ops."""
    while _is_ref(tensor) and tensor.op.type.startswith((*_SPARSE, *_ASSIGNS)):
        tensor = tensor.op.inputs[0]
    return tensor.op


def _changes(op: Any, handle: Any) -> bool:
    """Return whether `op` takes the variable itself; a plain input of a ref is a read."""
    if not _is_ref(handle):
        return True
    arguments = _arguments(op)
    if not arguments:  # one of them is a list: which input is which cannot be told
        return any(argument.is_ref for argument in op.op_def.input_arg)
    return any(
        argument.is_ref
        for tensor, argument in zip(op.inputs, arguments, strict=True)
        if tensor is handle
    )


def _arguments(op: Any) -> list[Any]:
    """Return the input arguments of an op; none if one of them is a list of tensors."""
    arguments = list(op.op_def.input_arg)
    if any(argument.number_attr or argument.type_list_attr for argument in arguments):
        return []
    return arguments


def _sparse_update(op: Any) -> SparseUpdate | None:
    if not op.type.startswith(_SPARSE):
        return None
    arguments = _arguments(op)
    names = [argument.name for argument in arguments]
    if "indices" not in names:
        return None
    rows = op.inputs[names.index("indices")]
    variables = tuple(
        _owner(tensor)
        for tensor, argument in zip(op.inputs, arguments, strict=True)
        if argument.is_ref or tensor.dtype.base_dtype == tf.resource
    )
    if not all(owner.type in ("VarHandleOp", "VariableV2", "Variable") for owner in variables):
        return None
    nested = "ScatterNd" in op.type
    if nested and not rows.shape.rank:
        return None
    return SparseUpdate(op, rows, variables, nested)


def _initialises(op: Any, variable: Any, initialisers: Collection[str]) -> bool:
    # init_from_checkpoint gives a variable another initialiser; the first one stays.
    return op.name in initialisers or op.name == f"{variable.name}/Assign"


def _from_checkpoint(value: Any) -> bool:
    while value.op.type in _PASSING:
        value = value.op.inputs[0]
    return bool(value.op.type == "RestoreV2")
