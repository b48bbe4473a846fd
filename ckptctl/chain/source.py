"""Reading the index of one checkpoint: its head at once, all of it when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptctl.chain.facts import (
    LINEAGE_TENSOR,
    MAX_FACT_BYTES,
    MERGED_TENSOR,
    Facts,
    parse_lineage,
    parse_merged,
)
from ckptctl.chain.model import Contents, Kind, SparseRows
from ckptctl.errors import (
    DamageError,
    IncompleteError,
    NotFoundError,
    RefusedError,
    UnreadableError,
)

if TYPE_CHECKING:
    from ckptctl.bundle import BundleReader, Entry
    from ckptctl.storage import Storage
    from ckptctl.tables import Catalogue, EvSet, RowSet

__all__ = ["IndexSource"]


_SEE = "give permission, or look at the disk; `ckptctl verify` says what else cannot be read"


class IndexSource(NamedTuple):
    """Reads what a checkpoint does not know at once from its index.

    `incremental` is whether it lies among the increments, also where it is an `other`; `away`
    the path of a file of it that is a link which leads nowhere.
    """

    prefix: str
    kind: Kind
    step: int
    incremental: bool
    storage: Storage
    away: str = ""

    def facts(self) -> Facts:
        """Return what the head of the index says; damage is one of the facts."""
        try:
            reader = self._open()
            shards = reader.header.num_shards
            if self.kind == "increment" and reader.get(LINEAGE_TENSOR) is not None:
                raw = self._read_fact(reader, LINEAGE_TENSOR)
                return Facts(shards, lineage=parse_lineage(raw, self.step, reader.index_path))
            if self.kind == "full" and reader.get(MERGED_TENSOR) is not None:
                raw = self._read_fact(reader, MERGED_TENSOR)
                return Facts(shards, merged=parse_merged(raw, self.step, reader.index_path))
        except DamageError as error:
            return Facts(damage=error, ours=self._is_ours())
        return Facts(shards)

    def contents(self) -> Contents:
        """Return what the whole index says; raise `DamageError`."""
        from ckptctl.tables import find_tables

        reader = self._open()
        catalogue = find_tables(reader.tensors, increment=self.incremental)
        sparse = {
            part.name: SparseRows(part.rows, part.keys.shard, member.name)
            for table in catalogue.tables
            for member in table.members
            for part in member.sets
        }
        for name, rows in catalogue.rows.items():
            sparse[name] = SparseRows(rows.rows, rows.keys.shard, name, normal=True)
        return Contents(
            tensors=len(reader.tensors),
            tables=len(catalogue.tables),
            keys=catalogue.keys,
            sparse=sparse,
            dense=_shards_of_slices(reader, catalogue.plain),
            needs=tuple(reader.shard_needs()),
            problem=_problem(catalogue),
        )

    def global_step(self) -> int | None:
        """Return the value of `global_step`, None without one; raise `DamageError`."""
        reader = self._open()
        entry = reader.get("global_step")
        if entry is None or entry.shape or entry.dtype.name not in ("int64", "int32"):
            return None
        return int.from_bytes(self._read_data(reader, entry), "little", signed=True)

    def mark(self) -> Mapping[str, Any]:
        """Return what the mark beside it says; nothing where there is none."""
        from ckptctl.bundle.commit import read_mark
        from ckptctl.bundle.names import MARK_SUFFIX

        try:
            return read_mark(self.prefix + MARK_SUFFIX, self.storage)
        except OSError:
            return {}

    def _is_ours(self) -> bool:
        """Return whether the mark of a finished merge names this very index, damaged or not.

        That a mark is there says nothing: a trainer that saves over a merged full leaves it.
        """
        from ckptctl.bundle.commit import file_identity
        from ckptctl.bundle.names import index_path

        if self.kind != "full":
            return False
        try:
            info = self.storage.stat(index_path(self.prefix))
        except OSError:
            return False
        return info is not None and self.mark().get("index") == file_identity(info)

    def _open(self) -> BundleReader:
        # A scan alone opens no index, and so loads nothing that reads one.
        from ckptctl.bundle import BundleReader

        path = f"{self.prefix}.index"
        if self.away:
            what = self.away[len(self.prefix) + 1 :]
            raise UnreadableError(f"{what} is a link that leads nowhere", file=self.away)
        try:
            return BundleReader(self.prefix, self.storage)
        except NotFoundError:
            raise IncompleteError("index gone while it was being read", file=path) from None
        except RefusedError as error:
            raise UnreadableError(f"index: {error.message}", file=path, remedy=_SEE) from None
        except OSError as error:
            raise UnreadableError(f"index: {error.strerror}", file=path, remedy=_SEE) from None

    def _read_fact(self, reader: BundleReader, name: str) -> bytes:
        try:
            return reader.read_scalar_string(name, MAX_FACT_BYTES)
        except (RefusedError, OSError) as error:
            raise UnreadableError(f"data shard: {error}", file=self.prefix) from None
        finally:
            reader.close()

    def _read_data(self, reader: BundleReader, entry: Entry) -> bytes:
        from ckptctl.bundle.checksum import crc32c

        try:
            file = reader.data_file("global_step", entry)
            data = file.pread(entry.offset, entry.size)
        except (RefusedError, OSError) as error:
            raise UnreadableError(f"data shard: {error}", file=self.prefix) from None
        finally:
            reader.close()
        reader.compare_crc("global_step", entry, crc32c(data))
        return data


def _problem(catalogue: Catalogue) -> str:
    sets: list[EvSet | RowSet] = [*catalogue.ev_sets.values(), *catalogue.rows.values()]
    return next((f"{own.name}: {own.problem}" for own in sets if own.problem), "")


def _shards_of_slices(reader: BundleReader, names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    tensors = reader.tensors
    found: dict[str, tuple[int, ...]] = {
        name: (tensors[name].shard,) for name in names if not tensors[name].slices
    }
    sliced: dict[str, list[tuple[tuple[int, ...], int]]] = {}
    for _, name, slice_, entry in reader.slice_keys():
        starts = tuple(start for start, _ in slice_.extents)
        sliced.setdefault(name, []).append((starts, entry.shard))
    # An entry lists its slices in the order of shards; parts go by offset.
    found.update((n, tuple(shard for _, shard in sorted(parts))) for n, parts in sliced.items())
    return found
