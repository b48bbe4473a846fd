"""What a question is about: a step, a restore point by its place, or the files of a bundle."""

from __future__ import annotations

import os
import re
import shlex
from typing import Literal, NamedTuple

from ckptctl.arguments import whole_number
from ckptctl.bundle import index_path
from ckptctl.chain import (
    INCREMENT_DIRECTORY,
    NO_STEP,
    Chains,
    ProvenPairs,
    check_read,
    find_chains,
    scan_directory,
    split_step,
    telling_what_vanished,
)
from ckptctl.errors import AmbiguousError, NotFoundError, UsageError
from ckptctl.restore.options import RestoreOptions
from ckptctl.restore.select import Selection, select
from ckptctl.storage import LOCAL, Storage

__all__ = ["Target", "find_target", "state_at"]

_STEP = re.compile(r"\d{1,19}", re.ASCII)
_PLACE = re.compile(r"latest(?:~(\d{1,9}))?|first", re.ASCII)
_FILE = re.compile(r"(.+?)(?:\.index|\.data-\d{5}-of-\d{5})", re.DOTALL)


class Target(NamedTuple):
    """What was asked for, and what it was taken for.

    Attributes
    ----------
    text
        As it was written.
    kind
        `state` (a model at a step, by the restore rules), or one bundle as it is: `full`
        (also any bundle that is none of a chain) or `increment`.
    directory
        The checkpoint directory that holds it.
    prefix
        Of the bundle; of a state, that of its newest member.
    step
        None for a bundle whose name has none.
    chains
        Those of the directory, where they are known.
    selection
        Of a state.
    remember
        Whether the user's cache takes down what is proven of it.
    """

    text: str
    kind: Literal["state", "full", "increment"]
    directory: str
    prefix: str
    step: int | None
    chains: Chains | None = None
    selection: Selection | None = None
    remember: bool = True

    @property
    def words(self) -> str:
        """What it was taken for, in a line."""
        if self.selection is None:
            return f"{self.kind} {self.prefix}"
        names = [self.selection.base, *self.selection.increments]
        return f"the state at step {self.step}: {' + '.join(each.name for each in names)}"

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        chosen = self.selection
        return {
            "text": self.text,
            "taken_for": self.words,
            "kind": self.kind,
            "directory": self.directory,
            "prefix": self.prefix,
            "step": self.step,
            "base": None if chosen is None else chosen.base.prefix,
            "base_reason": None if chosen is None else chosen.base_reason,
            "increments": [] if chosen is None else [each.prefix for each in chosen.increments],
        }


def find_target(
    text: str | int | os.PathLike[str],
    directory: str | os.PathLike[str] = ".",
    options: RestoreOptions | None = None,
    storage: Storage = LOCAL,
    *,
    remember: bool = True,
) -> Target:
    """Return what a TARGET stands for.

    Parameters
    ----------
    text
        A step, also as a number; `latest`, `latest~N`, `first`, a prefix, the path of an index
        or a data shard (a `Path` too), the name of a checkpoint in `directory`, or `DIR@` and
        one of these.
    directory
        The checkpoint directory, for all but paths.
    options
        Overrides of the restore rules, for a step.
    remember
        Note what is read of indexes, and what is proven, in the user's cache directory.

    Raises
    ------
    NotFoundError
        There is no such thing.
    UsageError
        It is a directory, or no target at all.
    AmbiguousError
        A relative path leads to one bundle from here, and to another from `directory`.
    IncompleteError, UnprovenError, RefusedError, AmbiguousError
        The step cannot be restored; see `select`.
    """
    directory = os.fspath(directory)
    if isinstance(text, os.PathLike):
        text = os.fspath(text)
    if not isinstance(text, str):
        text = str(whole_number("step", text))
    return _find(text, directory, options or RestoreOptions(), storage, remember)


def _find(
    text: str,
    directory: str,
    options: RestoreOptions,
    storage: Storage,
    remember: bool,
    *,
    inside: bool = False,
) -> Target:
    """Return what a target stands for; `inside`: in the directory, and nowhere else."""
    if _STEP.fullmatch(text) or _PLACE.fullmatch(text):
        return _state(text, directory, options, storage, remember)
    named = _FILE.fullmatch(text)
    found = _bundles(text if named is None else named[1], directory, storage, inside=inside)
    if len(found) > 1:
        raise AmbiguousError(
            f"{text!r} is two things",
            found=" and ".join(found),
            remedy=f"write {shlex.quote(f'./{text}')} for the first, "
            f"{shlex.quote(f'{directory}@{text}')} for the other",
        )
    if found:
        return _bundle(text, found[0])
    before, at, after = text.rpartition("@")
    if at and before and not inside and _is_directory(before, storage):
        within = _find(after, before, options, storage, remember, inside=True)
        return within._replace(text=text)
    if named is not None:
        raise NotFoundError(
            "no index of that bundle",
            file=index_path(named[1]),
            found="no such file",
            remedy="check the name: ckptctl ls DIR lists what is there",
        )
    if text and not inside and _is_directory(text, storage):
        model = saved_model(text, storage)
        raise UsageError(
            f"{text!r} is a directory, and a target is something inside",
            remedy=f"write {text}@latest, {text}@STEP, or -C {text} STEP"
            if model is None
            else f"write {model}, the variables of a SavedModel",
        )
    raise NotFoundError(
        f"no such target: {text!r}",
        file=None if os.path.isabs(text) else directory,
        remedy="write a step, latest, latest~N, first, a prefix, an index or data file, or "
        "DIR@TARGET; ckptctl ls shows what is there",
    )


def _bundles(prefix: str, directory: str, storage: Storage, *, inside: bool) -> list[str]:
    """Return the bundle of a path, and the one that a directory has by that name."""
    found = [prefix] if prefix and not inside and _is_bundle(prefix, storage) else []
    if not prefix or prefix.startswith(("/", "./", "../")):  # a path, whatever the directory
        return found
    for place in (directory, os.path.join(directory, INCREMENT_DIRECTORY)):
        own = os.path.join(place, prefix)
        if _is_bundle(own, storage):
            both = [*found, own]
            files = {os.path.realpath(index_path(each)) for each in both}
            return both if len(files) > 1 else both[:1]
    return found


def bundle_at(path: str, storage: Storage = LOCAL) -> str | None:
    """Return the prefix of the bundle that a path names, by it or by one of its files, or None."""
    named = _FILE.fullmatch(path)
    prefix = path if named is None else named[1]
    return prefix if not _is_directory(path, storage) and _is_bundle(prefix, storage) else None


def saved_model(directory: str, storage: Storage = LOCAL) -> str | None:
    """Return the prefix of a SavedModel's variables, of its directory or the one inside."""
    places = (os.path.join(directory, *names) for names in (["variables"] * 2, ["variables"]))
    return next((place for place in places if _is_bundle(place, storage)), None)


def _state(
    text: str, directory: str, options: RestoreOptions, storage: Storage, remember: bool
) -> Target:
    from ckptctl.chain.listed import IndexMemory  # verify must not have it at hand

    memory = IndexMemory(scan_directory(directory, storage))
    scan = memory.scan
    model = saved_model(directory, storage) if not scan.fulls else None
    if model is not None:
        raise NotFoundError(
            "no checkpoint directory but a SavedModel", file=directory, remedy=f"write {model}"
        )
    chains = find_chains(scan, options.assume_order, proven_nested=ProvenPairs(scan))
    with telling_what_vanished(scan, storage):
        found = state_at(chains, _step(text, chains), options, text)
    if remember:
        memory.remember(storage)
    return found._replace(remember=remember)


def state_at(chains: Chains, step: int | None, options: RestoreOptions, text: str = "") -> Target:
    """Return the state at a step of chains that are known already; errors as `find_target`.

    None is the newest restore point.
    """
    chosen = select(chains, step, options)
    last = chosen.increments[-1] if chosen.increments else chosen.base
    directory = chains.scan.directory
    step = chosen.step
    return Target(text or str(step), "state", directory, last.prefix, step, chains, chosen)


def _step(text: str, chains: Chains) -> int | None:
    place = _PLACE.fullmatch(text)
    if place is None:
        return int(text)
    back = int(place[1] or 0) + 1
    if text != "first" and back == 1:
        return None  # the newest
    points = chains.restore_points
    if text == "first":
        back = len(points)
    else:
        check_read(chains, points[-1] if points else NO_STEP)
    if not points or back > len(points):
        raise NotFoundError(
            f"no restore point {text}",
            file=chains.scan.directory,
            found=f"{len(points)} restore points"
            + (f", {points[0]} to {points[-1]}" if points else ""),
            remedy="ckptctl ls shows what can be restored",
        )
    return points[-back]


def _bundle(text: str, prefix: str) -> Target:
    parts = split_step(os.path.basename(prefix))
    home = os.path.dirname(prefix)
    inside = os.path.basename(os.path.abspath(home)) == INCREMENT_DIRECTORY
    directory = os.path.normpath(os.path.join(home, os.pardir if inside else os.curdir))
    step = None if parts is None else parts[1]
    return Target(text, "increment" if inside else "full", directory, prefix, step)


def _is_bundle(prefix: str, storage: Storage) -> bool:
    try:
        info = storage.stat(index_path(prefix))
    except ValueError:  # a null byte
        return False
    return info is not None and not info.is_dir


def _is_directory(path: str, storage: Storage) -> bool:
    try:
        info = storage.stat(path)
    except ValueError:
        return False
    return info is not None and info.is_dir
