"""Where a merge writes: the prefix, what lies there already, and whether it may go."""

from __future__ import annotations

import os

from ckptctl.bundle import index_path
from ckptctl.bundle.commit import MARK_SUFFIX
from ckptctl.chain import Chains
from ckptctl.errors import ExistsError, NotFoundError, RefusedError, UsageError
from ckptctl.restore.select import Selection
from ckptctl.storage import FileInfo, Storage

__all__ = ["choose_destination", "look_at_destination"]


def choose_destination(chosen: Selection, output: str | None) -> str:
    """Return the prefix of the result: as given, or beside the base, padded like it."""
    base = chosen.base
    if output is None:
        digits = base.name[len(base.base_name) + 1 :]
        width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
        name = f"{base.base_name}-{chosen.step:0{width}d}" if width else None
        name = name or f"{base.base_name}-{chosen.step}"
        return os.path.join(os.path.dirname(base.prefix), name)
    if not os.path.basename(output) or output.endswith((".index", MARK_SUFFIX)):
        raise UsageError(
            f"-o {output!r} is no checkpoint prefix",
            remedy="write it like DIR/model.ckpt-120, without .index",
        )
    return output


def look_at_destination(
    destination: str, overwrite: bool, chains: Chains, chosen: Selection, storage: Storage
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what an earlier run left there, and the files of a bundle to be replaced."""
    directory, name = os.path.split(destination)
    try:
        found = storage.listdir(directory or ".")
    except NotFoundError:
        raise NotFoundError(
            "the output's directory does not exist", file=directory, remedy="make it first"
        ) from None
    own = [
        info.name for info in found if info.name.startswith((name + ".", name + "-", name + "_"))
    ]
    files = [other for other in own if _belongs(other, name)]
    if f"{name}.index" in files:
        if not overwrite:
            raise ExistsError(
                "the destination exists",
                file=index_path(destination),
                remedy="give another -o PREFIX, or --overwrite",
            )
        prefixes = {os.path.realpath(c.prefix) for c in (chosen.base, *chosen.increments)}
        if os.path.realpath(destination) in prefixes:
            raise RefusedError("would overwrite what it is made from", file=destination)
        if _is_only_point(destination, chains):
            raise RefusedError("would overwrite the only restore point", file=destination)
        return (), tuple(sorted(files, key=lambda item: (not item.endswith(".index"), item)))
    if name + MARK_SUFFIX in files:
        temporaries = [info.name for info in found if info.is_dir and _is_temporary(info, name)]
        return (*temporaries, *sorted(set(files) - {name + MARK_SUFFIX}), name + MARK_SUFFIX), ()
    if files:
        raise ExistsError(
            "files of that name lie there without an index",
            file=os.path.join(directory, files[0]),
            expected="a free name",
            found=f"{len(files)} files that ckptctl did not write",
            remedy="a save may be under way, or was cut short: remove them or give another -o",
        )
    return (), ()


def _belongs(other: str, name: str) -> bool:
    """Return whether a file is of the checkpoint `name` and of no other."""
    if other in (f"{name}.index", f"{name}.meta", name + MARK_SUFFIX):
        return True
    if other.startswith(f"{name}-"):  # SSDHASH side files
        return other.endswith("-emb_files") or "-ssd_record." in other
    rest = other.removeprefix(f"{name}.data-")
    numbers = rest.split("-of-")
    return rest != other and len(numbers) == 2 and all(n.isdigit() for n in numbers)


def _is_temporary(info: FileInfo, name: str) -> bool:
    rest = info.name.removeprefix(f"{name}_temp_")
    return len(rest) == 32 and rest != info.name and not set(rest) - set("0123456789abcdef")


def _is_only_point(destination: str, chains: Chains) -> bool:
    here = os.path.realpath(destination)
    points = {
        os.path.realpath(full.prefix) for full in chains.scan.fulls if chains.is_restore_point(full)
    }
    return points == {here} and len(chains.restore_points) == 1
