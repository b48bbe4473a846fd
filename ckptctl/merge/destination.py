"""Where a merge writes: the prefix, what lies there already, and whether it may go."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from ckptctl.bundle import index_path
from ckptctl.bundle.commit import file_identity, read_mark
from ckptctl.bundle.names import INNER_MARK, MARK_SUFFIX
from ckptctl.chain import Chains, Scan, find_chains, scan_directory
from ckptctl.chain.names import FileGroup, Grouped, group_files, split_step
from ckptctl.chain.problems import incompleteness
from ckptctl.chain.scan import check_no_increments
from ckptctl.errors import ExistsError, NotFoundError, RefusedError, UsageError
from ckptctl.merge.relocate import check_copied, check_relocatable
from ckptctl.restore.select import Selection
from ckptctl.storage import FileInfo, Storage
from ckptctl.storage.local import no_room_for_output
from ckptctl.storage.own import OWN_DIRECTORY, TRASH_DIRECTORY

__all__ = [
    "Found",
    "choose_destination",
    "look_at_destination",
    "own_files",
    "own_temporaries",
    "scan_listable",
]

_ELSEWHERE = "give another -o PREFIX"


class Found(NamedTuple):
    """What lies at a destination.

    Attributes
    ----------
    leftovers
        Names of what runs of ours that were killed left behind: their temporaries, then the
        files that they renamed into place, known by size and mtime; the mark, which
        says so, is the last of them.
    replaces
        Files of an older bundle that is to be replaced, its index first.
    """

    leftovers: tuple[str, ...] = ()
    replaces: tuple[FileInfo, ...] = ()


def choose_destination(chosen: Selection, output: str | None, storage: Storage) -> str:
    """Return the prefix of the result: as given, or beside the base, padded like it.

    Raises
    ------
    UsageError
        What was given is no prefix, or a directory.
    RefusedError
        It lies among increments, or where ckptctl keeps things of its own.
    """
    base = chosen.base
    if output is None:
        digits = base.name[len(base.base_name) + 1 :]
        width = len(digits) if digits.startswith("0") and len(digits) > 1 else 0
        name = f"{base.base_name}-{chosen.step:0{width}d}" if width else None
        name = name or f"{base.base_name}-{chosen.step}"
        return os.path.join(os.path.dirname(base.prefix), name)
    if os.path.basename(output) in ("", ".", "..") or output.endswith((".index", MARK_SUFFIX)):
        raise UsageError(
            f"-o {output!r} is no checkpoint prefix",
            remedy="write it like DIR/model.ckpt-120, without .index",
        )
    parts = split_step(os.path.basename(output))
    check_no_increments(os.path.dirname(output) or ".", (parts[0] if parts else None,))
    if not {OWN_DIRECTORY, TRASH_DIRECTORY}.isdisjoint(os.path.realpath(output).split(os.sep)):
        raise RefusedError(
            "ckptctl keeps things of its own there, and removes them",
            file=output,
            remedy="give a directory of yours",
        )
    info = storage.stat(output)
    if info is not None and info.is_dir:  # files called after it would lie beside it
        inside = os.path.join(output, f"{base.base_name}-{chosen.step}")
        raise UsageError(
            f"-o {output!r} is a directory, and no checkpoint prefix", remedy=f"-o {inside}"
        )
    return output


def scan_listable(destination: str, chosen: Selection, relocate: bool, storage: Storage) -> Scan:
    """Return another directory where a full is to be listed, or refuse to list it there.

    Raises
    ------
    RefusedError
        Its name says another step than it is of, the state file there is another model's, or that
        of a copy.
    StateFileError
        One that is to be relocated does not parse.
    """
    name = os.path.basename(destination)
    if split_step(name) != (chosen.base.base_name, chosen.step):
        raise RefusedError(
            "a state file lists fulls by their step",
            file=destination,
            expected=f"{chosen.base.base_name}-{chosen.step}",
            found=name,
            remedy="leave --update-state out, or name the result by its step",
        )
    there = scan_directory(os.path.dirname(destination) or ".", storage)
    named = split_step(there.full_state.latest or "")
    if named is not None and named[0] != chosen.base.base_name:
        raise RefusedError(
            "the state file lists fulls of another name",
            file=there.full_state.path,
            expected=f"{chosen.base.base_name}-...",
            found=there.full_state.latest,
            remedy="leave --update-state out, or give a directory of its own",
        )
    check_copied(find_chains(there), True, relocate)
    if relocate:
        check_relocatable(there, storage)
    return there


def look_at_destination(
    destination: str, overwrite: bool, chains: Chains, chosen: Selection, storage: Storage
) -> Found:
    """Return what lies at a destination and may go.

    Raises
    ------
    NotFoundError
        The directory does not exist.
    ExistsError
        There is a bundle and no `overwrite`, or files that are not known to be ours.
    RefusedError
        What would be replaced is a source, the only restore point, or a full that increments
        were recorded against; or it would be taken for another step than it is.
    """
    directory, name = os.path.split(destination)
    try:
        grouped = group_files(storage.listdir(directory or "."))
    except NotFoundError:
        raise no_room_for_output(directory) from None
    there = _chains_at(directory or ".", chains, storage)
    _check_step(destination, there, chosen)
    own = grouped.names.get(name) or FileGroup(name)
    mark = read_mark(destination + MARK_SUFFIX, storage) if own.mark else {}
    inner = _own_temporaries(directory, name, grouped, mark, storage)
    files = [*own.shards, *([own.meta] if own.meta else []), *own.side]
    if own.index is not None:
        if not overwrite:
            raise _taken(destination, chains if there is None else there)
        prefixes = {os.path.realpath(c.prefix) for c in (chosen.base, *chosen.increments)}
        if os.path.realpath(destination) in prefixes:
            raise RefusedError(
                "would overwrite what it is made from", file=destination, remedy=_ELSEWHERE
            )
        if there is not None:
            _check_expendable(destination, there)
        older = (own.index, *files, *([own.mark] if own.mark else []))
        return Found(tuple(inner), older)
    ours = _identities(mark.get("files"))
    older_ids: dict[str, list[int]] = {}
    for facts in inner.values():
        older_ids |= _identities(facts.get("replaces"))
    leftovers, replaces = list(inner), []
    for info in files:
        names = _inside(directory, info, storage) if info.is_dir else {info.name: info}
        if all(ours.get(path) == file_identity(each) for path, each in names.items()):
            leftovers += [*names, *([info.name] if info.is_dir else [])]
        elif older_ids.get(info.name) == file_identity(info) or (
            info.is_dir and info.name in older_ids
        ):
            replaces.append(info)
        else:
            raise ExistsError(
                "files of that name lie there without an index",
                file=os.path.join(directory, info.name),
                expected="a free name",
                found="a file that ckptctl did not write, or that was changed since",
                remedy="a save may be under way, or was cut short: remove it or give another -o"
                if there is None
                else "a save may be under way; of one that was cut short, ckptctl prune "
                "--leftovers removes it",
            )
    if own.mark is not None:
        leftovers.append(own.mark.name)
    return Found(tuple(leftovers), tuple(replaces))


def own_temporaries(
    prefix: str, storage: Storage, grouped: Grouped | None = None
) -> tuple[str, ...]:
    """Return the names of the temporaries that merges to `prefix` left behind.

    `grouped` is the listing of the directory, where the caller has it already.
    """
    directory, name = os.path.split(prefix)
    mark = read_mark(prefix + MARK_SUFFIX, storage)
    grouped = grouped or group_files(storage.listdir(directory or "."))
    return tuple(_own_temporaries(directory, name, grouped, mark, storage))


def own_files(prefix: str, storage: Storage) -> frozenset[str]:
    """Return the paths that a mark beside them says are ours, the mark's among them.

    For a name without an index: what a killed merge had renamed by then, known by size and
    mtime, or the mark alone that is left of a merged full which someone else deleted.
    """
    mark = read_mark(prefix + MARK_SUFFIX, storage)
    if not str(mark.get("schema")).startswith("ckptctl.merged/"):
        return frozenset()
    found = {prefix + MARK_SUFFIX}
    for name, identity in _identities(mark.get("files")).items():
        path = os.path.join(os.path.dirname(prefix), name)
        info = storage.stat(path, follow=False)
        if info is not None and file_identity(info) == identity:
            found.add(path)
    return frozenset(found)


def _own_temporaries(
    directory: str, name: str, grouped: Grouped, mark: dict[str, Any], storage: Storage
) -> dict[str, dict[str, Any]]:
    """Return the temporaries that a mark beside or inside them says are ours.

    An empty one without a mark may be a trainer's that has just begun, and is left alone.
    """
    pattern = re.compile(re.escape(name) + "_temp_[0-9a-f]{32}")
    found: dict[str, dict[str, Any]] = {}
    for stem, info, ours in grouped.temporaries_of(name, name + MARK_SUFFIX):
        if ours and stem == name + MARK_SUFFIX:  # a mark that was being replaced
            found[info.name] = {}
        elif info.is_dir and pattern.fullmatch(info.name):
            path = os.path.join(directory, info.name)
            try:
                inside = storage.listdir(path)
            except (NotFoundError, RefusedError):  # gone meanwhile, or somebody else's
                continue
            if any(each.is_dir or each.is_symlink for each in inside):
                continue  # whatever a mark says: we put only files there
            marked = any(each.name.startswith(INNER_MARK) for each in inside)
            if marked or mark.get("temporary") == info.name:
                found[info.name] = read_mark(os.path.join(path, INNER_MARK), storage)
    return found


def _inside(directory: str, info: FileInfo, storage: Storage) -> dict[str, FileInfo]:
    entries = storage.listdir(os.path.join(directory, info.name))
    return {os.path.join(info.name, each.name): each for each in entries}


def _identities(facts: object) -> dict[str, list[int]]:
    return (
        {str(name): identity for name, identity in facts.items()} if isinstance(facts, dict) else {}
    )


def _taken(destination: str, chains: Chains) -> ExistsError:
    """Return the error of a destination that exists: what is wrong with it, and what helps."""
    here = os.path.realpath(destination)
    found, remedy = None, "give another -o PREFIX, or --overwrite"
    for full in chains.scan.fulls:
        if os.path.realpath(full.prefix) != here:
            continue
        dead = chains.timelines.why_abandoned(full)
        if not full.sound:
            found = incompleteness(full)[0].message
            kept = full.complete or full.unread is not None  # prune removes neither
            remedy = "" if kept else "ckptctl prune --leftovers removes it, "
            remedy += "ckptctl merge --overwrite replaces it"
        elif dead is not None:
            found = f"abandoned: {dead}"
            remedy = "ckptctl prune --abandoned removes it, ckptctl merge --overwrite replaces it"
    return ExistsError(
        "the destination exists", file=index_path(destination), found=found, remedy=remedy
    )


def _chains_at(directory: str, known: Chains, storage: Storage) -> Chains | None:
    """Return the chains of a destination's directory; None where no trainer is at home."""
    if os.path.realpath(directory) == os.path.realpath(known.scan.directory):
        return known
    scan = scan_directory(directory, storage)
    if not (scan.full_state.present or scan.increments):
        return None
    return find_chains(scan, known.assume_order)


def _check_step(destination: str, there: Chains | None, chosen: Selection) -> None:
    """Refuse a name by which a full would be taken for that of another step."""
    parts = split_step(os.path.basename(destination))
    if there is None or parts is None or parts[1] == chosen.step:
        return
    if parts[0] in {chosen.base.base_name, *(full.base_name for full in there.scan.fulls)}:
        raise RefusedError(
            "the result would be taken for a full of another step",
            file=destination,
            expected=f"{parts[0]}-{chosen.step}",
            found=os.path.basename(destination),
            remedy="name it by its step, or write it to a directory where no trainer saves",
        )


def _check_expendable(destination: str, there: Chains) -> None:
    """Refuse to overwrite a restore point that nothing can stand in for."""
    here = os.path.realpath(destination)
    points = {full for full in there.scan.fulls if there.is_restore_point(full)}
    found = next((full for full in points if os.path.realpath(full.prefix) == here), None)
    if found is None:
        return
    if len(points) == 1:  # increments hang on a full
        raise RefusedError(
            "would overwrite the only restore point", file=destination, remedy=_ELSEWHERE
        )
    above = [
        increment.name
        for increment in there.scan.increments
        if there.base_of(increment).base == found and not there.timelines.why_abandoned(increment)
    ]
    if above:
        raise RefusedError(
            "would overwrite a full that increments were recorded against",
            file=destination,
            found=", ".join(above[:3]),
            remedy="give another -o PREFIX, or remove these first: ckptctl prune",
        )
