"""File names of a checkpoint directory: which name is what.

Sources: `shared/spec/deeprec-format.md`, sections 0, 5.3 and 6 (basic_session_run_hooks.py,
incremental_saver.py, ssd_record_descriptor.h of DeepRec-AI/DeepRec; tensor_bundle.cc and
merge_v2_checkpoints of TensorFlow). Nothing here matches a prefix by substring: the name
`model.ckpt-1` is never found in `model.ckpt-10`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from ckptctl.bundle.names import INNER_MARK, MARK_SUFFIX

if TYPE_CHECKING:
    from ckptctl.storage import FileInfo

__all__ = [
    "MAX_STEP",
    "FileGroup",
    "Grouped",
    "choose_base_name",
    "group_files",
    "in_a_temporary",
    "in_our_temporary",
    "is_essential",
    "split_step",
]

#: `global_step` is an int64; a greater number in a name is no step of a trainer.
MAX_STEP = (1 << 63) - 1

# TensorFlow's BundleWriter: <file>.tempstate<random>, renamed when the shard is finished.
_TEMPSTATE = re.compile(r"(?P<stem>.+)\.(?:index|data-\d{5}-of-\d{5})\.tempstate\d+", re.DOTALL)
# A sharded Saver (TensorFlow 2 adds no hex), and our own PendingBundle.
_TEMP_DIR = re.compile(r"(?P<stem>.+)_temp(?:_[0-9a-f]+)?", re.DOTALL)
# What lies inside: PendingBundle's files, and a Saver's (its SSD files too).
_OURS_INSIDE = re.compile(
    r"data-\d{5}-of-\d{5}|extra-\d{5}|index|" + re.escape(INNER_MARK) + ".*", re.DOTALL
)
_THEIRS_INSIDE = re.compile(r"part-\d{5}-of-\d{5}.*", re.DOTALL)
# file_io.atomic_write_string_to_file: the state file and the graph.
_TF_ATOMIC = re.compile(r"(?P<stem>checkpoint|.+(?=\.meta))(?:\.meta)?\.tmp[0-9a-f]{32}", re.DOTALL)
# LocalStorage.write_atomic.
_OUR_TEMP = re.compile(r"(?P<stem>.+)\.ckptctl-[0-9a-f]{16}\.tmp", re.DOTALL)
_DATA = re.compile(r"(?P<stem>.+)\.data-\d{5}-of-\d{5}", re.DOTALL)
_NAME = re.compile(r"(?P<base>.+)-(?P<step>[0-9]+)", re.DOTALL)
_STEP_INSIDE = re.compile(r"-[0-9]+(?=-)")
_RECORD, _FILES = "-ssd_record", "-emb_files"


def split_step(name: str) -> tuple[str, int] | None:
    """Return (base name, step) of `<base name>-<step>`, or None if it is no such name.

    The step is plain decimal, zero-padded or not (`pad_step_number`). A number that no
    int64 holds is not a step: such a file is listed as `other` and never touched.
    """
    match = _NAME.fullmatch(name)
    # int() is quadratic in the digits: look at their number first.
    if match is None or len(match["step"].lstrip("0")) > 19:
        return None
    step = int(match["step"])
    return (match["base"], step) if step <= MAX_STEP else None


def is_essential(name: str) -> bool:
    """Return whether something is called like an index or data: no checkpoint is whole without."""
    return name.endswith(".index") or _DATA.fullmatch(name) is not None


def in_our_temporary(name: str) -> bool:
    """Return whether ckptctl calls a file so that it writes in a temporary directory."""
    return _OURS_INSIDE.fullmatch(name) is not None


def in_a_temporary(name: str) -> bool:
    """Return whether ckptctl or a sharded Saver does."""
    return in_our_temporary(name) or _THEIRS_INSIDE.fullmatch(name) is not None


class FileGroup:
    """The files of one checkpoint name; a checkpoint exists when `index` does."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.index: FileInfo | None = None
        self.shards: list[FileInfo] = []
        self.meta: FileInfo | None = None
        self.mark: FileInfo | None = None
        self.side: list[FileInfo] = []

    @property
    def unindexed(self) -> list[FileInfo]:
        """Everything of a name without an index; a `.meta` alone is TensorFlow's V1 format."""
        files = [*self.shards, *self.side, *([self.mark] if self.mark else [])]
        return [*files, *([self.meta] if self.meta else [])] if files else []


class Grouped:
    """A directory listing, sorted by what the names say.

    Attributes
    ----------
    names
        Checkpoint name to its files, with an index or without.
    temporaries
        (name that it belongs to, entry, whether only ckptctl names files so).
    misfits
        Directories that are called like files of a checkpoint, and links to nothing that are
        called like its `.meta` or mark.
    """

    def __init__(self) -> None:
        self.names: dict[str, FileGroup] = {}
        self.temporaries: list[tuple[str, FileInfo, bool]] = []
        self.misfits: list[FileInfo] = []

    def temporaries_of(self, *stems: str) -> list[tuple[str, FileInfo, bool]]:
        """Return those of `temporaries` that belong to these names."""
        return [each for stem in stems for each in self._by_stem.get(stem, ())]

    @cached_property
    def _by_stem(self) -> dict[str, list[tuple[str, FileInfo, bool]]]:
        found: dict[str, list[tuple[str, FileInfo, bool]]] = {}
        for each in self.temporaries:
            found.setdefault(each[0], []).append(each)
        return found


def group_files(entries: Iterable[FileInfo]) -> Grouped:
    """Sort the entries of one directory by the checkpoint that they belong to.

    A symlink must come with the size and mtime of what it points to; one that points at a
    directory, or nowhere and is not essential, comes with `is_dir`.
    """
    found = Grouped()
    side: list[tuple[str, FileInfo]] = []
    for info in sorted(entries, key=lambda item: item.name):
        if info.is_dir:
            _sort_directory(info, found, side)
        else:
            _sort_file(info, found, side)
    for stem, info in side:
        owner = _side_owner(stem, found.names)
        if owner is None:
            continue
        found.names.setdefault(owner, FileGroup(owner)).side.append(info)
    return found


def _sort_directory(info: FileInfo, found: Grouped, side: list[tuple[str, FileInfo]]) -> None:
    temporary = _TEMP_DIR.fullmatch(info.name)
    if info.name.endswith(_FILES):
        side.append((info.name, info))
    elif is_essential(info.name) or info.name.endswith((".meta", MARK_SUFFIX)):
        found.misfits.append(info)
    elif temporary and not info.is_symlink:
        found.temporaries.append((temporary["stem"], info, False))


def _sort_file(info: FileInfo, found: Grouped, side: list[tuple[str, FileInfo]]) -> None:
    name = info.name
    for pattern, ours in ((_OUR_TEMP, True), (_TEMPSTATE, False), (_TF_ATOMIC, False)):
        if match := pattern.fullmatch(name):
            found.temporaries.append((match["stem"], info, ours))
            return
    if match := _DATA.fullmatch(name):
        stem = match["stem"]
        if stem.endswith(_RECORD):
            side.append((stem, info))
        else:
            found.names.setdefault(stem, FileGroup(stem)).shards.append(info)
        return
    for suffix, slot in ((".index", "index"), (".meta", "meta"), (MARK_SUFFIX, "mark")):
        stem = name[: -len(suffix)]
        if name.endswith(suffix) and stem:
            if slot == "index" and stem.endswith(_RECORD):
                side.append((stem, info))
            else:
                setattr(found.names.setdefault(stem, FileGroup(stem)), slot, info)
            return


def _side_owner(stem: str, names: Mapping[str, FileGroup]) -> str | None:
    """Return the checkpoint name that a side file `<name>-<EV name>-ssd_record` belongs to.

    Without that checkpoint the first number counts, so that what a Saver of another
    version left behind (it deletes no side files) is found as a leftover.
    """
    end = len(stem) - len(_FILES if stem.endswith(_FILES) else _RECORD)
    cuts = [match.end() for match in _STEP_INSIDE.finditer(stem)]
    readings = [stem[:cut] for cut in cuts if cut + 1 < end and split_step(stem[:cut])]
    here = [name for name in readings if name in names and names[name].index is not None]
    if here:
        return here[-1]
    return readings[0] if readings else None


def choose_base_name(
    named: Iterable[str], grouped: Grouped, default: str
) -> tuple[str | None, str | None]:
    """Return the base name of a directory's checkpoints, and a note if it was a guess.

    Parameters
    ----------
    named
        Names that the state file lists, the one it names first. The first with a step
        decides (`restore.md`, "What is in a directory").
    grouped
        The directory. Without a state file the most frequent base name decides.
    default
        Of several equally frequent ones this one counts, or else the first in the
        alphabet: nothing is lost by the guess, since others are never touched.
    """
    for name in named:
        if parts := split_step(name):
            return parts[0], None
    counts: Counter[str] = Counter()
    for indexed in (True, False):
        for group in grouped.names.values():
            parts = split_step(group.name)
            if parts and (group.index is not None) == indexed:
                counts[parts[0]] += 1
        if counts:
            break
    if not counts:
        return None, None
    by_count: dict[int, list[str]] = defaultdict(list)
    for base, count in counts.items():
        by_count[count].append(base)
    best = sorted(by_count[max(by_count)])
    chosen = default if default in best else best[0]
    if len(best) == 1:
        return chosen, None
    rest = ", ".join(repr(base) for base in best if base != chosen)
    return chosen, f"no state file names the base name: {chosen!r} was taken, not {rest}"
