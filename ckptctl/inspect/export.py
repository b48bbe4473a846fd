"""A state, or some of its tables and tensors, as Parquet, `.npz` or safetensors.

Rows are streamed: memory is that of some 64 Ki rows for each task, whatever the tables.
Everything is written beside its destination and renamed into place when all that was read
has matched its checksums.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, get_args

import ckptctl
from ckptctl.errors import NotFoundError
from ckptctl.inspect.formats.flat import Layout, write_flat
from ckptctl.inspect.formats.names import FileNames, archive_name
from ckptctl.inspect.formats.npz import LONGEST_NAME, NpyLayout, NpzLayout
from ckptctl.inspect.formats.parquet import ParquetTask, need_pyarrow
from ckptctl.inspect.formats.place import MANIFEST, TENSORS, check_destination, writing
from ckptctl.inspect.formats.safetensors import SAFETENSORS_DTYPES, SafetensorsLayout
from ckptctl.inspect.formats.sources import (
    OPTIONAL,
    BytesSource,
    FilteredSource,
    MemberSource,
    Skipped,
    Source,
    StringSource,
    TensorSource,
)
from ckptctl.inspect.target import Target
from ckptctl.inspect.tensors import TensorView, skipped_rows
from ckptctl.inspect.view import TableView, View
from ckptctl.running import Report, Runner, ignore
from ckptctl.storage import LOCAL, Storage, check_space

__all__ = [
    "ExportPlan",
    "ExportResult",
    "Format",
    "execute_export",
    "format_of",
    "plan_export",
    "why_left_out",
]

Format = Literal["parquet", "npz", "safetensors"]

#: Name of the manifest in a `.npz` file, and in the metadata of safetensors.
_INSIDE = "_ckptctl_export"
#: Bytes beside its columns that a Parquet file may take, and that of a row group.
_FILE_BYTES, _GROUP_ROWS = 1 << 14, 1 << 14
#: Most bytes of a string tensor whose elements all take the bytes of the longest.
_STRING_BYTES = 1 << 30


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write; good as long as the view it was made from is open.

    Attributes
    ----------
    target
        What is exported.
    output, format
        Where to, and as what.
    overwrite, replaces
        Whether something may lie there, and does.
    sources
        What is written.
    names
        Of each source: the name of each of its arrays in the archive; of Parquet the file
        that holds them all, under "".
    skipped
        What the format cannot hold.
    notes
        What a user should know.
    bytes_to_write
        Exact for `.npz` and safetensors, at most for Parquet.
    """

    target: Target
    output: str
    format: Format
    overwrite: bool
    replaces: bool
    sources: tuple[Source, ...]
    names: tuple[Mapping[str, str], ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    bytes_to_write: int

    @property
    def rows(self) -> int:
        """Keys of all tables."""
        return sum(
            each.rows for each in self.sources if isinstance(each, MemberSource) and not each.slot
        )

    @property
    def files(self) -> tuple[str, ...]:
        """Files in the directory; none for an archive."""
        if self.format != "parquet":
            return ()
        return tuple(own[""] for own in self.names)

    def contents(self) -> list[dict[str, object]]:
        """Return what is written, as JSON: each source and its names."""
        found = []
        for source, own in zip(self.sources, self.names, strict=True):
            place: dict[str, object] = {"file": own[""]} if self.format == "parquet" else {}
            if self.format != "parquet":
                place["names"] = dict(own)
            found.append(source.document() | place)
        return found

    def manifest(self) -> dict[str, object]:
        """Return what the export says of itself."""
        return {
            "schema": "ckptctl.exported/1",
            "version": ckptctl.__version__,
            "format": self.format,
            "step": self.target.step,
            "source": self.target.document(),
            "contents": self.contents(),
            "skipped": [each.document() for each in self.skipped],
            "notes": list(self.notes),
            "files": list(self.files),
        }

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {
            "target": self.target.document(),
            "output": self.output,
            "format": self.format,
            "replaces": self.replaces,
            "rows": self.rows,
            "bytes_to_write": self.bytes_to_write,
            "contents": self.contents(),
            "skipped": [each.document() for each in self.skipped],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class ExportResult:
    """What was written.

    Attributes
    ----------
    output
        The file or directory.
    files
        Number of files.
    bytes
        Of all files.
    rows
        Keys of all tables.
    seconds
        How long it took.
    """

    output: str
    files: int
    bytes: int
    rows: int
    seconds: float

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {**vars(self), "seconds": round(self.seconds, 3)}


def format_of(path: str) -> Format:
    """Return the format that a path means: by its suffix, else Parquet."""
    suffixes: dict[str, Format] = {".npz": "npz", ".safetensors": "safetensors"}
    return suffixes.get(os.path.splitext(path)[1].lower(), "parquet")


def plan_export(
    view: View,
    output: str,
    format: Format | None = None,  # noqa: A002 (the word of the option)
    *,
    tables: Sequence[str] = (),
    overwrite: bool = False,
    salvage: bool = False,
    storage: Storage = LOCAL,
) -> ExportPlan:
    """Return what an export would write; reads keys and strings, writes nothing.

    Keys that stand twice, or that no PS can save, are damage to it as to a merge.

    Parameters
    ----------
    view
        What to export, from `open_view`.
    output
        A directory for Parquet, else a file; it does not exist, or `overwrite` is given.
    format
        Default: by the suffix of `output`.
    tables
        Names of the tables and tensors to export; none: all.
    overwrite
        Replace a former export, and of other things a regular file.
    salvage
        Read all first, and leave out what is damaged: the view was opened as `damaged`.

    Raises
    ------
    NotFoundError
        No table or tensor has such a name, or the output's directory does not exist.
    ExistsError
        The destination exists.
    NoSpaceError
        The result would not fit.
    AmbiguousError
        Two arrays of an archive would have one name.
    DependencyError
        Parquet without pyarrow.
    TableError, TensorChecksumError
        Keys are damaged.
    """
    output = output.rstrip("/") or output
    chosen = format or format_of(output)
    if chosen not in get_args(Format):
        raise ValueError(f"no such format: {chosen!r}")
    if chosen == "parquet":
        need_pyarrow()
    view.validate = True
    replaces = check_destination(output, chosen == "parquet", overwrite, storage)
    _check_names(view, tables)
    sources: list[Source] = []
    skipped: list[Skipped] = []
    found_tables = tuple(each for each in view.tables if not tables or each.name in tables)
    tensors = tuple(each for each in view.tensors if not tables or each.name in tables)
    if salvage:
        from ckptctl.inspect.salvage import leave_out_damaged

        found_tables, tensors, left_out = leave_out_damaged(view, found_tables, tensors)
        skipped += left_out
    notes: list[str] = []
    for each in _found(found_tables, tensors, chosen, notes):
        reason = None if isinstance(each, Skipped) else _unfit(each, chosen)
        if isinstance(each, Skipped):
            skipped.append(each)
        elif reason is not None:
            skipped.append(Skipped(each.name, reason))
        else:
            sources.append(each)
            notes += _remarks(each, chosen)
    plan = ExportPlan(
        view.target,
        output,
        chosen,
        overwrite,
        replaces,
        tuple(sources),
        tuple(_names(sources, chosen)),
        tuple(skipped),
        (*view.notes, *notes),
        0,
    )
    plan = replace(plan, bytes_to_write=_size(plan))
    check_space(output, plan.bytes_to_write, storage)
    return plan


def why_left_out(tensor: TensorView, chosen: Format) -> str | None:
    """Return why a format does not write a tensor, None where it does; reads strings."""
    found = _tensor(tensor, chosen)
    return found.reason if isinstance(found, Skipped) else _unfit(found, chosen)


def execute_export(
    plan: ExportPlan, runner: Runner | None = None, storage: Storage = LOCAL
) -> ExportResult:
    """Write what was planned; an error or an interruption leaves nothing at the destination.

    Parameters
    ----------
    plan
        From `plan_export`; its view is still open.
    runner
        Runs a task for each member and tensor; its progress is told of the bytes.

    Raises
    ------
    TensorChecksumError, TableError, EntryBoundsError
        Bytes that were read are damaged.
    ExistsError
        The destination came into being meanwhile.
    """
    begin = time.monotonic()
    runner = runner or Runner()
    directory = plan.format == "parquet"
    with writing(plan.output, directory, plan.overwrite, storage) as temporary:
        runner.progress.start("writing", sum(source.nbytes for source in plan.sources))
        if directory:
            written = _write_directory(plan, temporary, runner, storage)
        else:
            layout, sources = _archive(plan)
            written = write_flat(temporary, layout, sources, storage, runner.map)
    count = len(plan.sources) + 1 if directory else 1
    return ExportResult(plan.output, count, written, plan.rows, time.monotonic() - begin)


def _check_names(view: View, wanted: Sequence[str]) -> None:
    known = [table.name for table in view.tables] + [each.name for each in view.tensors]
    for name in wanted:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, n=3)
            raise NotFoundError(
                f"no table or tensor is called {name!r}",
                file=view.target.prefix,
                remedy=f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else "ckptctl show lists the tables, show --tensors all names",
            )


def _found(
    tables: Iterable[TableView], tensors: Iterable[TensorView], chosen: Format, notes: list[str]
) -> Iterator[Source | Skipped]:
    """Return what can be exported of what was asked for; surveys the tables."""
    for table in tables:
        for member in table.members:
            source = MemberSource(table, member)
            notes += [
                f"{member.name}: only some parts have {name}: left out"
                for name in OPTIONAL
                if name not in source.arrays and member.has(name)
            ]
            yield source
        if table.primary.filtered:
            yield FilteredSource(table)
    for tensor in tensors:
        found = _tensor(tensor, chosen)
        if isinstance(found, TensorSource):
            tensor.count_skipped()
            notes += skipped_rows([tensor])
        yield found


def _tensor(tensor: TensorView, chosen: Format) -> Source | Skipped:
    if tensor.is_hash_table:
        return Skipped(tensor.name, "a hash table of DeepRec is carried, never decoded")
    if not tensor.covered:
        return Skipped(tensor.name, "slices of it are missing; --salvage exports the others")
    if tensor.numeric and tensor.too_large:
        return Skipped(tensor.name, "it is cut along several axes, too large to be put together")
    if tensor.numeric:
        return TensorSource(tensor)
    if tensor.dtype.name != "string" or chosen == "safetensors":
        return Skipped(tensor.name, f"{chosen} has no {tensor.dtype.name}")
    if len(tensor.pieces) != 1:
        return Skipped(tensor.name, "strings in slices")
    longest = 0
    for text in tensor.strings():
        if text.endswith(b"\0"):
            return Skipped(tensor.name, "a string ends with NUL, which NumPy would cut off")
        longest = max(longest, len(text))
    if longest * tensor.elements > _STRING_BYTES:
        return Skipped(tensor.name, "each string would take the bytes of the longest: too many")
    return StringSource(tensor, longest)


def _unfit(source: Source, chosen: Format) -> str | None:
    """Return why a format cannot hold a source, None when it can."""
    for word, array in source.arrays.items():
        length = len(_inner_name(source, word).encode())
        if chosen == "npz" and length > LONGEST_NAME:
            return f"a name of {length} bytes in the archive, where npz has room for {LONGEST_NAME}"
        name = array.dtype.name
        if chosen == "safetensors" and name not in SAFETENSORS_DTYPES:
            return f"safetensors has no {name}"
        if chosen == "parquet" and source.kind != "tensor" and array.kind.kind == "c":
            return f"Parquet has no {name}"
    return None


def _remarks(source: Source, chosen: Format) -> Iterator[str]:
    for array in source.arrays.values():
        raw = array.dtype.name.startswith(("bfloat", "float")) and array.kind.kind == "u"
        if raw and chosen != "safetensors":
            yield f"{source.name}: the bits of {array.dtype.name} as {array.kind.name}"


def _names(sources: Sequence[Source], chosen: Format) -> Iterator[dict[str, str]]:
    tops, tensors = FileNames([MANIFEST, TENSORS]), FileNames()
    for source in sources:
        if chosen != "parquet":
            yield {word: _inner_name(source, word) for word in source.arrays}
        elif source.kind == "tensor":
            yield {"": f"{TENSORS}/{tensors.give(source.name, '.npy')}"}
        else:
            suffix = ".filtered.parquet" if source.kind == "filtered" else ".parquet"
            yield {"": tops.give(source.name, suffix)}


def _inner_name(source: Source, word: str) -> str:
    end = "_filtered" if source.kind == "filtered" else ""
    return archive_name(source.name) + (f"/{word}{end}" if word else "")


def _archive(plan: ExportPlan) -> tuple[Layout, Sequence[Source]]:
    text = json.dumps(plan.manifest())
    if plan.format == "safetensors":
        return SafetensorsLayout(plan.sources, plan.names, {_INSIDE: text}), plan.sources
    sources = [BytesSource(_INSIDE, text.encode()), *plan.sources]
    return NpzLayout(sources, [{"": _INSIDE}, *plan.names]), sources


def _size(plan: ExportPlan) -> int:
    if plan.format != "parquet":
        return _archive(plan)[0].size
    # Where nothing can be compressed: the columns, two bits of an element for where lists
    # begin, and a few words for each page.
    columns = sum(source.nbytes for source in plan.sources)
    tables = [source for source in plan.sources if source.kind != "tensor"]  # the others are .npy
    elements = sum(prod(array.shape) for each in tables for array in each.arrays.values())
    groups = sum(source.rows // _GROUP_ROWS for source in tables)
    around = columns // 64 + (len(plan.sources) + groups) * _FILE_BYTES
    return columns + elements // 4 + around


@dataclass(frozen=True)
class _NpyTask:
    """Writes the array of a tensor to a file that must not exist, and fsyncs it."""

    path: str
    source: Source
    storage: Storage

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def run(self, report: Report = ignore) -> int:
        return write_flat(
            self.path,
            NpyLayout(self.source),
            [self.source],
            self.storage,
            lambda tasks: [(number, task.run(report)) for number, task in tasks],
        )


def _write_directory(plan: ExportPlan, room: str, runner: Runner, storage: Storage) -> int:
    """Write all files into `room`; return their bytes."""
    inner = os.path.join(room, TENSORS)
    if any(source.kind == "tensor" for source in plan.sources):
        storage.mkdir(inner)
    written = sum(size for _, size in runner.map(_tasks(plan, room, storage)))
    manifest = json.dumps(plan.manifest(), indent=1).encode() + b"\n"
    storage.write_new(os.path.join(room, MANIFEST), manifest)
    if storage.stat(inner) is not None:
        storage.fsync_dir(inner)
    storage.fsync_dir(room)
    return written + len(manifest)


def _tasks(
    plan: ExportPlan, room: str, storage: Storage
) -> Iterator[tuple[str, ParquetTask | _NpyTask]]:
    for source, own in zip(plan.sources, plan.names, strict=True):
        path = os.path.join(room, own[""])
        if source.kind == "tensor":
            yield own[""], _NpyTask(path, source, storage)
            continue
        facts = {
            "kind": source.kind,
            "table": source.table,
            "member": source.name,
            "slot": source.slot,
            "step": plan.target.step,
            "source": plan.target.prefix,
            "version": ckptctl.__version__,
            **{f"{word}.dtype": array.dtype.name for word, array in source.arrays.items()},
        }
        texts = {
            key: str(fact).encode("utf-8", "backslashreplace").decode()
            for key, fact in facts.items()
            if fact is not None
        }
        yield own[""], ParquetTask(path, source, texts, storage)
