"""Sets of tensors that belong together, recognised by exact suffixes and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ckptctl.bundle import Entry
from ckptctl.tables.names import BUCKETS

__all__ = ["EvSet", "RowSet", "find_full_sets", "find_increment_sets"]

_KEY_TYPES = ("int32", "int64")

FULL_SUFFIXES = (
    "-keys",
    "-values",
    "-versions",
    "-freqs",
    "-keys_filtered",
    "-versions_filtered",
    "-freqs_filtered",
    "-partition_offset",
    "-partition_filter_offset",
)
INCREMENT_SUFFIXES = (
    "-incr_partition_offset",
    "-sparse_incr_keys",
    "-sparse_incr_values",
    "-sparse_incr_versions",
    "-sparse_incr_freqs",
)


class EvSet(NamedTuple):
    """The tensors of one EV: one member of one part of a table, in one checkpoint.

    Attributes
    ----------
    name
        Name of the EV: the common part of its tensors' names.
    entries
        Suffix to entry, of the suffixes that are there.
    incremental
        Whether these are an increment's five tensors or a full's nine.
    problem
        What is wrong with the shapes, or "".
    """

    name: str
    entries: Mapping[str, Entry]
    incremental: bool
    problem: str = ""

    @property
    def keys(self) -> Entry:
        """Entry of the admitted keys: int32 or int64 [rows]."""
        return self.entries["-sparse_incr_keys" if self.incremental else "-keys"]

    @property
    def values(self) -> Entry:
        """Entry of the values: [rows, dim]."""
        return self.entries["-sparse_incr_values" if self.incremental else "-values"]

    @property
    def rows(self) -> int:
        """Number of admitted keys."""
        return self.keys.rows

    @property
    def filtered(self) -> int:
        """Number of filtered keys."""
        entry = self.entries.get("-keys_filtered")
        return entry.rows if entry else 0

    @property
    def dim(self) -> int:
        """Elements of one row of values."""
        return self.values.shape[1] if len(self.values.shape) == 2 else 0

    @property
    def kind(self) -> dict[str, object]:
        """What all parts of a member have in common, by its name in words."""
        return {
            "key type": self.keys.dtype.name,
            "dtype": self.values.dtype.name,
            "dim": self.dim,
        }


class RowSet(NamedTuple):
    """Rows of a normal variable in an increment: `-sparse_incr_keys` and `-values`."""

    name: str
    keys: Entry
    values: Entry
    problem: str = ""

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Suffix to entry."""
        return {"-sparse_incr_keys": self.keys, "-sparse_incr_values": self.values}

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self.keys.rows


def find_full_sets(entries: Mapping[str, Entry]) -> dict[str, EvSet]:
    """Return the EVs of a full by name.

    An EV has `-keys` [N] of an integer type, `-values` and either `-partition_offset`
    int32[1001] or, in the old form, `-versions` of N or 0 rows. So TensorFlow's own hash
    tables (`-keys` and `-values` alone) and a variable that merely is called `x-keys` stay
    plain tensors.
    """
    found = {}
    for full_name, keys in entries.items():
        if not full_name.endswith("-keys") or not _is_key_column(keys):
            continue
        name = full_name[: -len("-keys")]
        values = entries.get(f"{name}-values")
        if not name or values is None or not values.has_data:
            continue
        offsets = entries.get(f"{name}-partition_offset")
        if not (_is_offsets(offsets) or (offsets is None and _is_old_form(name, entries))):
            continue
        own = {s: entries[name + s] for s in FULL_SUFFIXES if name + s in entries}
        found[name] = EvSet(name, own, False, _full_problem(own))
    return found


def find_increment_sets(
    entries: Mapping[str, Entry],
) -> tuple[dict[str, EvSet], dict[str, RowSet]]:
    """Return the EVs and the rows of normal variables of an increment, by name.

    Rows that come with an offset tensor, versions or freqs are an EV's; keys and values
    alone are a normal variable's.
    """
    tables: dict[str, EvSet] = {}
    rows: dict[str, RowSet] = {}
    for full_name, keys in entries.items():
        if not full_name.endswith("-sparse_incr_keys") or not _is_key_column(keys):
            continue
        name = full_name[: -len("-sparse_incr_keys")]
        values = entries.get(f"{name}-sparse_incr_values")
        if not name or values is None or not values.has_data:
            continue
        own = {s: entries[name + s] for s in INCREMENT_SUFFIXES if name + s in entries}
        if len(own) > 2:
            tables[name] = EvSet(name, own, True, _increment_problem(own))
        else:
            fits = len(values.shape) == 2 and values.shape[0] == keys.rows
            rows[name] = RowSet(
                name, keys, values, "" if fits else _mismatch("-sparse_incr_values", own)
            )
    return tables, rows


def _is_key_column(entry: Entry) -> bool:
    return entry.has_data and len(entry.shape) == 1 and entry.dtype.name in _KEY_TYPES


def _is_offsets(entry: Entry | None) -> bool:
    return entry is not None and entry.dtype.name == "int32" and entry.shape == (BUCKETS + 1,)


def _is_old_form(name: str, entries: Mapping[str, Entry]) -> bool:
    versions = entries.get(f"{name}-versions")
    rows = entries[f"{name}-keys"].rows
    return (
        versions is not None
        and versions.dtype.name == "int64"
        and len(versions.shape) == 1
        and versions.rows in (0, rows)
        and len(entries[f"{name}-values"].shape) == 2
        and entries[f"{name}-values"].rows == rows
    )


def _full_problem(own: Mapping[str, Entry]) -> str:
    keys = own["-keys"]
    values = own["-values"]
    if len(values.shape) != 2 or values.rows != keys.rows:
        return _mismatch("-values", own)
    filtered = own.get("-keys_filtered")
    columns = [("-versions", keys), ("-freqs", keys)]
    if filtered is not None:
        if not _is_key_column(filtered) or filtered.dtype != keys.dtype:
            return "-keys_filtered is no column of keys of the same type"
        columns += [("-versions_filtered", filtered), ("-freqs_filtered", filtered)]
        if filtered.rows and "-freqs_filtered" not in own:
            return "-keys_filtered without -freqs_filtered"
    for suffix, base in columns:
        column = own.get(suffix)
        if column is not None and (
            column.dtype.name != "int64"
            or len(column.shape) != 1
            or column.rows not in (0, base.rows)
        ):
            return _mismatch(suffix, own)
    offsets = own.get("-partition_filter_offset")
    if offsets is not None and not _is_offsets(offsets):
        return "-partition_filter_offset is not int32[1001]"
    return ""


def _increment_problem(own: Mapping[str, Entry]) -> str:
    missing = [suffix for suffix in INCREMENT_SUFFIXES if suffix not in own]
    if missing:
        return f"{', '.join(missing)} missing"
    if not _is_offsets(own["-incr_partition_offset"]):
        return "-incr_partition_offset is not int32[1001]"
    keys = own["-sparse_incr_keys"]
    values = own["-sparse_incr_values"]
    if len(values.shape) != 2 or values.rows != keys.rows:
        return _mismatch("-sparse_incr_values", own)
    for suffix in ("-sparse_incr_versions", "-sparse_incr_freqs"):
        column = own[suffix]
        if column.dtype.name != "int64" or column.shape != (keys.rows,):
            return _mismatch(suffix, own)
    return ""


def _mismatch(suffix: str, own: Mapping[str, Entry]) -> str:
    ends = "keys_filtered" if suffix.endswith("_filtered") else "keys"
    key_suffix = next(s for s in own if s.endswith(ends))
    entry = own[suffix]
    shape = f"{entry.dtype.name} {list(entry.shape)}"
    return f"{suffix} is {shape} where {key_suffix} has {own[key_suffix].rows} rows"
