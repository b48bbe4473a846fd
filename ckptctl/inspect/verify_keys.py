"""What the keys of a table mean: buckets, doubles, filters, slots, row numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ckptctl.bundle import BundleReader, Entry
from ckptctl.errors import CkptctlError, TableError, TensorChecksumError
from ckptctl.inspect.findings import Finding, of_error
from ckptctl.inspect.parts import ColumnName, RawPart
from ckptctl.inspect.verify_data import Told
from ckptctl.inspect.view import MemberView
from ckptctl.inspect.walk import Rows, walk_both, walk_pair
from ckptctl.restore.find import KeyTable
from ckptctl.restore.keys import (
    KeyReader,
    Narrow,
    again,
    bucket_of,
    digest_of,
    in_order,
    in_slice,
    is_in,
    read_keys,
)
from ckptctl.running import Report, ignore
from ckptctl.tables import BUCKETS, EvSet, RowSet

__all__ = ["PartTask", "RowNumbersTask"]

#: Row numbers of an increment that are held together.
_ROW_NUMBERS = 4 << 20


class PartTask:
    """Looks at the keys of one part of a table, of all its members.

    `sets` are the primary, then the slots.
    """

    def __init__(
        self, reader: BundleReader, sets: tuple[EvSet, ...], part: int, parts: int
    ) -> None:
        self.reader = reader
        self.sets = sets
        self.part = part
        self.parts = parts

    @property
    def nbytes(self) -> int:
        """Bytes that are read, about."""
        return sum(ev.keys.size for ev in self.sets)

    @cached_property
    def alike(self) -> bool:
        """Whether the keys of all slots are the very bytes of the primary's."""
        return all(_same_keys(ev, self.sets[0]) for ev in self.sets[1:])

    @cached_property
    def tensors(self) -> dict[str, Entry]:
        """What the keys mean rests on: all tensors of the part but the values."""
        return {
            ev.name + suffix: entry
            for ev in self.sets
            for suffix, entry in ev.entries.items()
            if not suffix.endswith("values")
        }

    def run(self, report: Report = ignore) -> Told:
        """Return what was found."""
        told = Told(rests_on=frozenset(self.tensors))
        members = [self._view(ev) for ev in self.sets]
        table = KeyTable()
        first = self._member(_Seen(self, self.sets[0], table), members[0], told, report)
        told.keys = self.sets[0].rows
        for ev, view in zip(self.sets[1:], members[1:], strict=True):
            if first is not None and not first.counts and _same_keys(ev, self.sets[0]):
                report(0)
                continue  # the very same bytes, and nothing is wrong with them
            own = self._member(_Seen(self, ev, table), view, told, report)
            if first is not None and own is not None and own.digest != first.digest:
                told.findings += self._unpaired(members[0], ev, view)
        if first is not None:
            told.findings += self._frequencies(first)
        return told

    def _view(self, ev: EvSet) -> MemberView:
        part = RawPart(self.reader, ev)
        return MemberView(ev.name, "", ev.dim, ev.values.dtype, (part,))

    def _member(self, seen: _Seen, view: MemberView, told: Told, report: Report) -> _Seen | None:
        ev = seen.ev
        part = view.parts[0]
        assert isinstance(part, RawPart)
        columns: tuple[ColumnName, ...] = ("freqs",) if ev is self.sets[0] else ()
        filtered: tuple[ColumnName, ...] = ("freqs_filtered",) if columns else ()
        try:
            offsets = part.offsets
            seen.behind = ev.rows - int(offsets[-1]) if offsets is not None else 0
            for rows, away in walk_both(view, columns, filtered):
                seen.look(rows, away)
                report(len(rows) * 8)
        except TensorChecksumError:
            return None  # told already; what flipped bits mean is nothing
        except TableError as error:
            told.findings.append(of_error(error, self.reader.index_path, "CK052"))
            return None
        except (CkptctlError, OSError) as error:
            told.findings.append(of_error(error, self.reader.index_path))
            return None
        told.findings += seen.findings()
        told.checked |= {
            part.name + part.head + name: part.entries[part.head + name]
            for rows, names in (
                (part.rows, ("keys", *columns)),
                (part.filtered, ("keys_filtered", *filtered)),
            )
            for name in names
            if rows and part.column(name) is not None
        }
        return seen

    def _unpaired(self, primary: MemberView, ev: EvSet, slot: MemberView) -> list[Finding]:
        """Compare the keys of a slot with the primary's."""
        counts = [0, 0]
        versions: list[list[int]] = [[], []]
        try:
            for pair in walk_pair(primary, slot, ("versions",)):
                own = [np.sort(rows.keys) for rows in pair]
                for side, rows in enumerate(pair):
                    lacking = ~is_in(rows.keys, own[1 - side])
                    counts[side] += int(np.count_nonzero(lacking))
                    column = rows.columns.get("versions")
                    if column is not None and lacking.any():
                        some = column[lacking]
                        versions[side] += [int(some.min()), int(some.max())]
        except (CkptctlError, OSError):
            return []  # told where each member was read
        if not any(counts):
            return []
        spans = [f", versions {min(v)} to {max(v)}" if v else "" for v in versions]
        found = (
            f"{counts[0]} keys without a row in the slot{spans[0]}; "
            f"{counts[1]} rows of the slot without one in the primary{spans[1]}"
        )
        message = "slot keys differ from the primary's"
        return [
            self._finding("CK059", ev, message, f"the {primary.rows} keys of the primary", found)
        ]

    def _frequencies(self, seen: _Seen) -> list[Finding]:
        if seen.least is None or seen.most_filtered is None or seen.most_filtered < seen.least:
            return []
        return [
            self._finding(
                "CK058",
                seen.ev,
                "a filtered key was seen as often as an admitted one",
                f"freqs of filtered keys below {seen.least}, the smallest admitted",
                str(seen.most_filtered),
                "-freqs_filtered",
            )
        ]

    def _finding(
        self, code: str, ev: EvSet, message: str, expected: str, found: str, suffix: str = ""
    ) -> Finding:
        entry = ev.entries.get(suffix, ev.keys)
        path = self.reader.shard_path(entry.shard)
        name = ev.name + (suffix or ("-sparse_incr_keys" if ev.incremental else "-keys"))
        return Finding(code, message, path, name, entry.offset, expected, found)


def _same_keys(ev: EvSet, other: EvSet) -> bool:
    """Return whether keys and buckets of two sets are the same bytes, by their checksums."""

    def facts(own: EvSet) -> list[tuple[object, ...]]:
        names = [s for s in own.entries if "keys" in s or "offset" in s]
        entries = [(name, own.entries[name]) for name in sorted(names)]
        return [(name, entry.dtype, entry.size, entry.crc) for name, entry in entries]

    return facts(ev) == facts(other)


class _Seen:
    """What is noticed about one member while its rows stream by."""

    def __init__(self, task: PartTask, ev: EvSet, table: KeyTable) -> None:
        self.task = task
        self.ev = ev
        self.digest = 0
        self.least: int | None = None
        self.most_filtered: int | None = None
        #: Rows behind the last bucket; where they are read by hash, only their number is known.
        self.behind = 0
        #: (code, suffix of the tensor) -> how many keys, and the first of them.
        self.counts: dict[tuple[str, str], int] = {}
        self.first: dict[tuple[str, str], int] = {}
        self._narrow = Narrow()
        self._table = table

    def look(self, rows: Rows, away: Rows) -> None:
        if not self.task.alike:
            self.digest = (self.digest + digest_of(rows.keys) + len(rows)) % (1 << 64)
        self._placed(rows, "", "-partition_offset")
        if len(away):
            self._note("CK056", away.keys[np.sort(self._table.find(away.keys)[0])])
            self._placed(away, "-keys_filtered", "-partition_filter_offset")
        for column, name in ((rows, "freqs"), (away, "freqs_filtered")):
            freqs = column.columns.get(name)  # type: ignore[call-overload]
            if freqs is not None and len(freqs):
                if name == "freqs":
                    least = int(freqs.min())
                    self.least = least if self.least is None else min(self.least, least)
                else:
                    most = int(freqs.max())
                    self.most_filtered = max(most, self.most_filtered or most)

    def _placed(self, rows: Rows, suffix: str, offsets: str) -> None:
        """Put the keys that a PS takes into the table; note the others, and those twice."""
        keys = rows.keys
        short = self._narrow(keys)
        # 16 bits hold any bucket, and are a quarter of what goes through the cache.
        bucket = bucket_of(keys).astype(np.int16) if short is None else short
        first, last = rows.buckets
        place = np.arange(first, last)
        if last == first + 1:
            wrong = bucket != first
        elif rows.segments is not None and (last <= BUCKETS or self._bucketed(offsets)):
            wrong = bucket != np.repeat(place.astype(bucket.dtype), rows.segments)
            place = place[rows.segments > 0]
        else:  # keys alone tell
            wrong = np.zeros(len(keys), bool)
        # Remainders are slow: of keys in their buckets the buckets tell the part.
        if (place % self.task.parts != self.task.part).any():
            wrong |= bucket.astype(np.int64) % self.task.parts != self.task.part
        illegal = bucket < 0 if short is None else np.zeros(len(keys), bool)
        if wrong.any() or illegal.any():
            self._note("CK055", keys[illegal], suffix)
            self._note("CK054", keys[wrong & ~illegal], suffix)
            keys = keys[~wrong]  # a PS skips the others
        self._note("CK053", np.sort(self._table.fill(keys)), suffix)

    def _bucketed(self, offsets: str) -> bool:
        return self.ev.incremental or offsets in self.ev.entries

    def _note(self, code: str, keys: np.ndarray, suffix: str = "") -> None:
        if len(keys):
            at = code, suffix
            self.counts[at] = self.counts.get(at, 0) + len(keys)
            self.first.setdefault(at, int(keys[0]))

    def findings(self) -> Iterator[Finding]:
        """Return one finding a code, with its count."""
        expected = {
            "CK053": "each key once",
            "CK054": f"keys of part {self.task.part} of {self.task.parts} in their buckets",
            "CK055": "keys >= 0, or multiples of 1000",
            "CK056": "admitted or filtered",
        }
        words = {
            "CK053": "keys twice or more",
            "CK054": "rows outside their part or bucket",
            "CK055": "keys that no PS can save",
            "CK056": "keys both admitted and filtered",
        }
        if self.behind and ("CK054", "") not in self.counts:
            message, found = "rows behind the last bucket", str(self.behind)
            yield self.task._finding("CK054", self.ev, message, expected["CK054"], found)
        for (code, suffix), count in self.counts.items():
            yield self.task._finding(
                code,
                self.ev,
                f"filtered: {words[code]}" if suffix else words[code],
                expected[code],
                f"{count}, the first {self.first[code, suffix]}",
                suffix,
            )


class RowNumbersTask(NamedTuple):
    """Looks at the row numbers of an increment's rows of a normal variable.

    `most` is how many rows their slice of the variable has in the base, if known.
    """

    reader: BundleReader
    rows: RowSet
    most: int | None

    @property
    def nbytes(self) -> int:
        """Bytes that are read."""
        return self.rows.keys.size

    def run(self, report: Report = ignore) -> Told:
        """Return what was found."""
        told = Told()
        entry: Entry = self.rows.keys
        name = f"{self.rows.name}-sparse_incr_keys"
        path = self.reader.shard_path(entry.shard)
        try:
            wrong = self._count(KeyReader(self.reader, name, entry), report)
        except (CkptctlError, OSError):
            return told  # told where the tensor was read
        for code, message, expected, (count, first) in (
            ("CK062", "negative row numbers", "rows >= 0", wrong[0]),
            ("CK062", "rows twice or more", "each row once", wrong[1]),
            ("CK063", "rows beyond their slice", f"< {self.most}", wrong[2]),
        ):
            if count:
                found = f"{count}, the first {first}"
                told.findings.append(
                    Finding(code, message, path, name, entry.offset, expected, found)
                )
        return told

    def _count(self, reader: KeyReader, report: Report) -> list[tuple[int, int]]:
        """Return how many row numbers are negative, twice, and too large; and one of each."""
        name, entry = f"{self.rows.name}-sparse_incr_keys", self.rows.keys
        total = entry.rows
        slices = max(1, -(-total // _ROW_NUMBERS))
        counts = [(0, 0)] * 3

        def note(which: int, keys: np.ndarray) -> None:
            if len(keys):
                count, first = counts[which]
                counts[which] = (count + len(keys), first if count else int(keys[0]))

        # A slice of their hashes at a time, so that memory does not grow with the variable.
        for number in range(slices):
            own = []
            for at in range(0, total, _ROW_NUMBERS // 8):
                stop = min(at + _ROW_NUMBERS // 8, total)
                if number:
                    keys = read_keys(self.reader, name, entry, at, stop)
                else:
                    keys = reader.read(stop - at).astype(np.int64, copy=False)
                    note(0, keys[keys < 0])
                    if self.most is not None:
                        note(2, keys[keys >= self.most])
                report(keys.nbytes)
                own.append(keys[in_slice(keys, number, slices)])
            if not number:
                reader.finish()
            if own:
                note(1, again(in_order(np.concatenate(own))))
        return counts


def parts_of(
    sets: Sequence[tuple[str, Sequence[EvSet | None]]],
) -> Mapping[int, tuple[EvSet, ...]]:
    """Return the sets of each part, the primary's first; parts whose primary is missing not."""
    found: dict[int, tuple[EvSet, ...]] = {}
    primary = sets[0][1]
    for part, ev in enumerate(primary):
        if ev is not None and not ev.problem:
            slots = [own[part] for _, own in sets[1:] if part < len(own)]
            found[part] = (ev, *(slot for slot in slots if slot is not None and not slot.problem))
    return found
