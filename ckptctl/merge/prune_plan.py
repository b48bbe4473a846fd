"""What a prune would do, as data: options, items and the plan; nothing is decided here."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ckptctl.errors import UsageError
from ckptctl.merge.policy import Policy
from ckptctl.storage import LOCAL, Storage

if TYPE_CHECKING:
    from ckptctl.chain import Scan

__all__ = [
    "DEFAULT_MIN_AGE_S",
    "PruneFile",
    "PruneItem",
    "PruneOptions",
    "PrunePlan",
    "load_plan",
    "save_plan_to",
]

#: What is younger may be something that a trainer is writing.
DEFAULT_MIN_AGE_S = 600.0
_MAX_PLAN_BYTES = 1 << 30
_SCHEMA = "ckptctl.prune-plan/1"


class PruneFile(NamedTuple):
    """A file of an item, and which one it is: device, inode, size and mtime."""

    path: str
    identity: tuple[int, int, int, int]


@dataclass(frozen=True)
class PruneOptions:
    """What goes, beside what goes by default.

    Attributes
    ----------
    policy
        Keep rules for fulls; an empty one changes no full.
    orphans, abandoned, leftovers
        Whether these go too.
    min_age_s
        Nothing younger goes, in seconds.
    assume_order
        "step": steps decide which checkpoint is newer, whatever the clocks say.
    relocate
        Rewrite paths in state files as relative first.
    trash
        Rename into `.ckptctl-trash/` instead of removing.
    """

    policy: Policy = field(default_factory=Policy)
    orphans: bool = False
    abandoned: bool = False
    leftovers: bool = False
    min_age_s: float = DEFAULT_MIN_AGE_S
    assume_order: str | None = None
    relocate: bool = False
    trash: bool = False

    def __post_init__(self) -> None:
        if self.assume_order not in (None, "step"):
            raise UsageError("assume-order: only step", found=self.assume_order)

    def to_json(self) -> dict[str, Any]:
        """Return the options as JSON."""
        return {**self.__dict__, "policy": self.policy.to_json()}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> PruneOptions:
        """Return the options that `to_json` described; raise `TypeError` for a wrong type."""
        own = _fields(facts, _OPTION_TYPES)
        if not 0 <= own["min_age_s"] < math.inf:
            raise ValueError(f"min_age_s is {own['min_age_s']}")
        return cls(**{**own, "policy": Policy.from_json(facts["policy"])})


class PruneItem(NamedTuple):
    """One checkpoint or leftover, and what becomes of it.

    Attributes
    ----------
    kind
        `full`, `increment`, `other` or `leftover`.
    name, path, step
        Which one; `path` is the prefix of a checkpoint; `step` None where there is none.
    bytes
        Of all its files.
    status
        The word of `ls`.
    remove
        Whether it goes.
    code, reason
        Why it goes or stays, for scripts and in words.
    under
        Prefix of the full or increment, once verified, that stands in for what goes.
    merged
        Whether ckptctl merged it.
    written_ns
        mtime of its index, None where that is not known.
    files, directories
        What is removed, in this order; the directories when they are empty.
    """

    kind: Literal["full", "increment", "other", "leftover"]
    name: str
    path: str
    step: int | None
    bytes: int
    status: str
    remove: bool
    code: str
    reason: str
    under: str | None = None
    merged: bool = False
    written_ns: int | None = None
    files: tuple[PruneFile, ...] = ()
    directories: tuple[str, ...] = ()

    def to_json(self, *, files: bool = False) -> dict[str, Any]:
        """Return the item as JSON, with the identity of its files where a plan is saved."""
        found = self._asdict()
        del found["remove"], found["files"], found["directories"], found["written_ns"]
        found["action"] = "remove" if self.remove else "keep"
        if files:
            found["written_ns"] = self.written_ns
            found["files"] = [[path, list(identity)] for path, identity in self.files]
            found["directories"] = list(self.directories)
        return found

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> PruneItem:
        """Return the item that `to_json(files=True)` described; else raise `TypeError`."""
        own = _fields(facts, _ITEM_TYPES)
        if own["bytes"] < 0:
            raise ValueError(f"bytes is {own['bytes']}")
        del own["action"]
        files = (PruneFile(_of(path, str), _identity(item)) for path, item in facts["files"])
        return cls(
            **{**own, "files": tuple(files), "directories": _texts(facts["directories"])},
            remove=facts["action"] == "remove",
        )


# --- a saved plan may come from anyone ---------------------------------------------------

_NONE = type(None)
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "policy": (list,),
    "orphans": (bool,),
    "abandoned": (bool,),
    "leftovers": (bool,),
    "min_age_s": (int, float),
    "assume_order": (str, _NONE),
    "relocate": (bool,),
    "trash": (bool,),
}
_ITEM_TYPES: dict[str, tuple[type, ...]] = {
    "kind": (str,),
    "name": (str,),
    "path": (str,),
    "step": (int, _NONE),
    "bytes": (int,),
    "status": (str,),
    "action": (str,),
    "code": (str,),
    "reason": (str,),
    "under": (str, _NONE),
    "merged": (bool,),
    "written_ns": (int, _NONE),
    "files": (list,),
    "directories": (list,),
}


def _fields(facts: Mapping[str, Any], types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """Return the fields of an object that has these and no others, each of its type."""
    if not isinstance(facts, dict) or facts.keys() != types.keys():
        raise TypeError(f"expected an object of {', '.join(types)}")
    return {name: _of(facts[name], *kinds) for name, kinds in types.items()}


def _of(value: Any, *kinds: type) -> Any:
    # bool is an int to Python and not to JSON, and no size or time needs more than 64 bits.
    odd = isinstance(value, bool) and bool not in kinds
    if odd or not isinstance(value, kinds) or (isinstance(value, int) and abs(value) >> 64):
        raise TypeError(f"not of the right type: {value!r:.80}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_of(value, str) for value in _of(values, list))


def _identity(numbers: Any) -> tuple[int, int, int, int]:
    device, inode, size, mtime_ns = (_of(number, int) for number in numbers)
    return device, inode, size, mtime_ns


@dataclass(frozen=True)
class PrunePlan:
    """Every checkpoint and leftover of a directory, and what becomes of it.

    Attributes
    ----------
    directory
        The checkpoint directory.
    options
        What was asked for.
    items
        By kind, then by step: fulls, increments, others, leftovers.
    verify
        Prefixes of what stands in for something and is verified, all of it, before that goes.
    fingerprint
        Changes with every file that counts.
    warnings
        What a user should know.
    damage
        What was found to be damaged while the increments were compared.
    relocated
        State files whose paths become relative.
    scan
        The directory as it was; None of a plan that was saved.
    """

    directory: str
    options: PruneOptions
    items: tuple[PruneItem, ...]
    verify: tuple[str, ...] = ()
    fingerprint: str = ""
    warnings: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()
    relocated: tuple[str, ...] = ()
    storage: Storage = field(default=LOCAL, repr=False, compare=False)
    scan: Scan | None = field(default=None, repr=False, compare=False)

    @cached_property
    def removed(self) -> tuple[PruneItem, ...]:
        """What goes."""
        return tuple(item for item in self.items if item.remove)

    @property
    def bytes_to_free(self) -> int:
        """Bytes of what goes."""
        return sum(item.bytes for item in self.removed)

    def to_json(self, *, files: bool = False) -> dict[str, Any]:
        """Return the plan as one JSON object, with the files' identities to save it."""
        return {
            "directory": self.directory,
            "options": self.options.to_json(),
            "items": [item.to_json(files=files) for item in self.items],
            "verify": list(self.verify),
            "items_to_remove": len(self.removed),
            "bytes_to_free": self.bytes_to_free,
            "fingerprint": self.fingerprint,
            "warnings": list(self.warnings),
            "damage": list(self.damage),
            "relocated": list(self.relocated),
        }

    def to_save(self) -> dict[str, Any]:
        """Return what `--save-plan` writes."""
        return {"schema": _SCHEMA, **self.to_json(files=True)}

    @classmethod
    def from_saved(cls, facts: object, storage: Storage = LOCAL) -> PrunePlan:
        """Return the plan that `to_save` described.

        Raises
        ------
        UsageError
            It is no plan of ours.
        """
        if not isinstance(facts, dict) or facts.get("schema") != _SCHEMA:
            raise UsageError("no saved plan of `ckptctl prune`", expected=_SCHEMA)
        try:
            return cls(
                directory=_of(facts["directory"], str),
                options=PruneOptions.from_json(facts["options"]),
                items=tuple(PruneItem.from_json(item) for item in facts["items"]),
                verify=_texts(facts["verify"]),
                fingerprint=_of(facts["fingerprint"], str),
                warnings=_texts(facts["warnings"]),
                damage=_texts(facts["damage"]),
                relocated=_texts(facts.get("relocated", [])),
                storage=storage,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the saved plan does not parse: {error}") from None


def save_plan_to(plan: PrunePlan, path: str) -> None:
    """Write a plan to a file, in place of an older one."""
    plan.storage.write_atomic(path, json.dumps(plan.to_save()).encode() + b"\n")


def load_plan(path: str, directory: str, storage: Storage = LOCAL) -> PrunePlan:
    """Read a plan that `save_plan_to` wrote for a directory.

    Raises
    ------
    NotFoundError
        There is no such file.
    UsageError
        It is no plan of ours, or of another directory.
    """
    again = "make another: ckptctl prune --save-plan FILE"
    try:
        plan = PrunePlan.from_saved(json.loads(storage.read_small(path, _MAX_PLAN_BYTES)), storage)
        there = os.path.realpath(plan.directory)  # a ValueError where no path can be called so
    except UsageError as error:
        error.file, error.remedy = path, again
        raise
    except (ValueError, RecursionError) as error:
        message = f"the saved plan does not parse: {error}"
        raise UsageError(message, file=path, remedy=again) from None
    if there != os.path.realpath(directory):
        raise UsageError(
            "the plan is of another directory",
            file=path,
            expected=plan.directory,
            found=directory,
            remedy=f"-C {shlex.quote(plan.directory)}",
        )
    return plan
