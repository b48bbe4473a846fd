"""What a user may say about how a state is put together."""

from __future__ import annotations

from dataclasses import dataclass

from ckptctl.arguments import whole_number
from ckptctl.errors import UsageError

__all__ = ["RestoreOptions"]


@dataclass(frozen=True)
class RestoreOptions:
    """Overrides of the restore rules (`restore.md`, "The state at step S").

    Attributes
    ----------
    increments
        "auto": what is proven, else refuse. "last": the last increment alone, as a DeepRec
        PS does. "all": each key's newest recorded row of all increments of the base.
    base
        Step of the full to apply increments to, instead of the one that the rules find.
    assume_order
        "step": steps decide which checkpoint is newer, whatever the clocks say.
    keep_missing
        Tensors of the full that the increment lacks keep the full's values.
    add_new
        Tensors of the increment that the full lacks are added.
    drop_unpaired
        New keys without a row in every member are dropped, however many there are.
    """

    increments: str = "auto"
    base: int | None = None
    assume_order: str | None = None
    keep_missing: bool = False
    add_new: bool = False
    drop_unpaired: bool = False

    def __post_init__(self) -> None:
        if self.increments not in ("auto", "last", "all"):
            raise UsageError("increments: auto, last or all", found=self.increments)
        if self.assume_order not in (None, "step"):
            raise UsageError("assume-order: only step", found=self.assume_order)
        if self.base is not None:
            object.__setattr__(self, "base", whole_number("base", self.base))

    def overrides(self) -> list[str]:
        """Return the options that were given, as a user would type them."""
        given = [] if self.increments == "auto" else [f"--increments {self.increments}"]
        given += [] if self.base is None else [f"--base {self.base}"]
        given += [] if self.assume_order is None else [f"--assume-order {self.assume_order}"]
        names = ("keep_missing", "add_new", "drop_unpaired")
        return given + [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]
