"""`restore.md`, "The state at step S", rules 4 to 9, over images: lists, dicts and loops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.oracle.images import Ev, Image, Piece, Row, Rows, Sliced, Tensor, bucket_of


class Refused(Exception):
    """What the rules refuse; says which rule."""


@dataclass
class Counts:
    """What a merge must report."""

    skipped: int = 0
    misplaced: int = 0
    dropped: int = 0
    beyond: int = 0
    new: dict[str, int] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)


def apply(
    full: Image,
    increments: Sequence[Image],
    *,
    drop_unpaired: bool = False,
    keep_missing: bool = False,
    counts: Counts | None = None,
) -> Image:
    """Return the state of a full with increments applied, oldest first."""
    counts = counts if counts is not None else Counts()
    evs: dict[str, Ev] = {}
    for table in _tables(full):
        for ev in _table(full, increments, table, drop_unpaired, counts):
            evs[ev.name] = ev
    plain = {
        name: _plain(name, tensor, increments, keep_missing, counts)
        for name, tensor in full.plain.items()
    }
    unknown = {name for image in increments for name in image.plain} - set(plain)
    if unknown:
        raise Refused("5")
    return replace(
        full,
        step=increments[-1].step if increments else full.step,
        evs=[evs[ev.name] for ev in full.evs],
        plain=plain,
        lineage=None,
    )


def _tables(image: Image) -> list[str]:
    return list(dict.fromkeys(ev.table for ev in image.evs))


def _own(image: Image, table: str, slot: str) -> list[Ev]:
    return [ev for ev in image.evs if (ev.table, ev.slot) == (table, slot)]


# --- tables ---------------------------------------------------------------------------


def _table(
    full: Image, increments: Sequence[Image], table: str, drop: bool, counts: Counts
) -> list[Ev]:
    slots = list(dict.fromkeys(ev.slot for ev in full.evs if ev.table == table))
    incoming = {slot: _incoming(increments, table, slot, counts) for slot in slots}
    has = {slot: _legal_keys(_own(full, table, slot)) for slot in slots}
    dropped = _unpaired(slots, incoming, has, drop)
    counts.dropped += len(dropped)
    counts.new[table] = len(set(incoming[slots[0]]) - has[slots[0]] - dropped)
    counts.replaced[table] = len(set(incoming[slots[0]]) & has[slots[0]])
    admitted = {key for slot in slots for key in incoming[slot]} - dropped
    versions, freqs = _columns(full, increments, table)
    done = []
    for slot in slots:
        fresh = {k: row for k, row in incoming[slot].items() if k not in has[slot] | dropped}
        for ev in _own(full, table, slot):
            rows = _rows(ev, incoming[slot], fresh, counts)
            filtered = [item for item in ev.filtered if item.key not in admitted]
            made = replace(ev, rows=rows, filtered=filtered, versions=versions, freqs=freqs)
            done.append(made.ordered())
    return done


def _legal(ev: Ev, row: Row) -> bool:
    """Whether a PS takes a row: its key lies in its bucket, and the bucket in its part."""
    if row.place is None or ev.old:  # scanned whole
        return bucket_of(row.key) % ev.parts == ev.number
    return bucket_of(row.key) == row.place and row.place % ev.parts == ev.number


def _legal_keys(evs: Sequence[Ev]) -> set[int]:
    return {row.key for ev in evs for row in ev.rows if _legal(ev, row)}


def _incoming(increments: Sequence[Image], table: str, slot: str, counts: Counts) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for image in increments:
        for ev in _own(image, table, slot):
            for row in ev.rows:
                if row.place is not None and _legal(ev, row):
                    found[row.key] = row
                else:
                    counts.skipped += 1
    return found


def _unpaired(
    slots: Sequence[str],
    incoming: dict[str, dict[int, Row]],
    has: dict[str, set[int]],
    drop: bool,
) -> set[int]:
    new = {key for slot in slots for key in incoming[slot] if key not in has[slot]}
    lacking = {
        key
        for key in new
        if any(key not in incoming[slot] and key not in has[slot] for slot in slots)
    }
    if len(lacking) * 100 > len(new) and not drop:
        raise Refused("9")
    return lacking


def _columns(full: Image, increments: Sequence[Image], table: str) -> tuple[bool, bool]:
    own = [ev for ev in full.evs if ev.table == table]
    filled = [ev for ev in own if ev.rows]
    if filled:
        return filled[0].versions, filled[0].freqs
    slots = {ev.slot for ev in own}
    rows = [
        row
        for image in increments
        for ev in image.evs
        if ev.table == table and ev.slot in slots
        for row in ev.rows
    ]
    return any(row.version for row in rows), any(row.freq for row in rows)


def _rows(ev: Ev, incoming: dict[int, Row], fresh: dict[int, Row], counts: Counts) -> list[Row]:
    """Rows in place, then new keys: ascending, at the end of their bucket."""
    kept = []
    for row in ev.rows:
        if not _legal(ev, row):
            counts.misplaced += 1
            continue
        kept.append(incoming[row.key]._replace(place=row.place) if row.key in incoming else row)
    own = sorted(key for key in fresh if bucket_of(key) % ev.parts == ev.number)
    if ev.old:
        return kept + [fresh[key]._replace(place=None) for key in own]
    buckets: dict[int, list[Row]] = {}
    for row in kept:
        if row.place is not None:
            buckets.setdefault(row.place, []).append(row)
    for key in own:
        buckets.setdefault(bucket_of(key), []).append(fresh[key]._replace(place=bucket_of(key)))
    done = [row for bucket in sorted(buckets) for row in buckets[bucket]]
    return done + [row for row in kept if row.place is None]


# --- normal variables -----------------------------------------------------------------


def _plain(
    name: str,
    ours: Tensor | Sliced,
    increments: Sequence[Image],
    keep_missing: bool,
    counts: Counts,
) -> Tensor | Sliced:
    state = ours
    rows: dict[int, Rows] = {}
    for image in increments:
        theirs, rows = image.plain.get(name), _rows_of(image, name)
        if theirs is not None:
            state = _taken(ours, theirs)
        elif rows:
            state = _patched(state, rows, counts)
    last = increments[-1] if increments else None
    if last is not None and name not in last.plain and not rows and not keep_missing:
        raise Refused("5")
    return state


def _taken(ours: Tensor | Sliced, theirs: Tensor | Sliced) -> Tensor | Sliced:
    """The increment's bytes in the full's shards and order."""
    if isinstance(ours, Tensor):
        assert isinstance(theirs, Tensor)
        return replace(theirs, shard=ours.shard)
    assert isinstance(theirs, Sliced)
    data = {piece.extents: piece.data for piece in theirs.pieces}
    return replace(ours, pieces=[replace(p, data=data[p.extents]) for p in ours.pieces])


def _rows_of(image: Image, name: str) -> dict[int, Rows]:
    """Rows by part: `w`, `w/part_1`, `w/part_1/Adagrad` for the slot `w/Adagrad`."""
    found = {}
    for rows in image.rows:
        pieces = rows.name.split("/")
        parts = [at for at, piece in enumerate(pieces) if piece.startswith("part_")]
        if rows.name == name:
            found[0] = rows
        for at in parts:
            if "/".join(pieces[:at] + pieces[at + 1 :]) == name:
                found[int(pieces[at][5:])] = rows
    return found


def _patched(state: Tensor | Sliced, rows: dict[int, Rows], counts: Counts) -> Tensor | Sliced:
    if isinstance(state, Tensor):
        assert isinstance(state.data, bytes)
        return replace(state, data=_patch(state.data, state.shape[0], rows[0], counts))
    axis = next(
        axis
        for axis, size in enumerate(state.shape)
        if any(piece.extents[axis] != (0, size) for piece in state.pieces)
    )
    by_offset = sorted(state.pieces, key=lambda piece: piece.extents[axis])
    pieces: list[Piece] = []
    for piece in state.pieces:
        number = by_offset.index(piece)
        own = rows.get(number)
        data = _patch(piece.data, piece.shape[0], own, counts) if own else piece.data
        pieces.append(replace(piece, data=data))
    return replace(state, pieces=pieces)


def _patch(data: bytes, length: int, rows: Rows, counts: Counts) -> bytes:
    width = len(data) // length if length else 0
    out = [data[at * width : at * width + width] for at in range(length)]
    for key, value in rows.rows.items():
        if key < length:
            out[key] = value
        else:
            counts.beyond += 1
    return b"".join(out)
