"""What is fuzzed: one function a reader, which raises only for what must never happen.

An input may be refused with a `CkptctlError` and nothing else; what is decoded must encode
back to the same meaning where there is an encoder.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ckptctl.bundle import BundleReader
from ckptctl.bundle.coding import (
    decode_ordered_number,
    decode_ordered_string,
    decode_signed,
    decode_varint,
    encode_ordered_number,
    encode_ordered_string,
    encode_signed,
    encode_varint,
)
from ckptctl.bundle.dtypes import DTYPES
from ckptctl.bundle.entry import BundleHeader, Entry
from ckptctl.bundle.slices import decode_slice_key, encode_slice_key
from ckptctl.bundle.state_file import read_state, state_bytes
from ckptctl.bundle.strings import check_strings, check_variants, encode_strings, iter_strings
from ckptctl.bundle.table import IndexTable, build_table
from ckptctl.chain.facts import parse_lineage, parse_merged
from ckptctl.chain.names import choose_base_name, group_files, split_step
from ckptctl.errors import CkptctlError, UsageError
from ckptctl.merge.destination import own_files, own_temporaries
from ckptctl.merge.prune_plan import load_plan
from ckptctl.merge.relocate import relocate_paths
from ckptctl.merge.removed_log import read_identities
from ckptctl.merge.state_file import drop_checkpoints, insert_full
from ckptctl.tables import find_tables
from ckptctl.tables.names import is_slot_name, part_components
from tests.fuzz.files import Files
from tests.fuzz.indexes import entries_of, index_of, repaired, repaired_strings
from tests.fuzz.rooms import directory, pack, removed_log, unpack

__all__ = ["TARGETS", "Target"]

#: What libFuzzer changes an input with: bytes and the most that may come back.
Mutate = Callable[[bytes, int], bytes]
#: (input, most bytes, dice, libFuzzer's own) to another input.
Mutator = Callable[[bytes, int, random.Random, Mutate], bytes]


@dataclass(frozen=True)
class Target:
    """One reader under test.

    Attributes
    ----------
    run
        Reads an input; raises for what must never happen.
    longest
        Bytes of the longest input that is tried.
    share
        Of the time: one that does more for an input gets more of it.
    mutate
        Changes an input with some knowledge of its form; None leaves it to libFuzzer.
    """

    run: Callable[[bytes], None]
    longest: int = 4096
    mutate: Mutator | None = None
    share: int = 1


# The index and what stands in it


def index(data: bytes) -> None:
    """An index file, as it is and with its checksums put right."""
    for raw in {data, repaired(data)}:
        with suppress(CkptctlError):
            _table(raw)
        _bundle(raw)


def _table(raw: bytes) -> None:
    files = Files({"it": raw})
    items = list(IndexTable("it", files).items())
    again = IndexTable("it", files)
    for key, value in items[:: len(items) // 50 + 1]:
        assert again.get(key) == value, "a look-up and the list disagree"
    assert len(again) == len(items)
    rebuilt = IndexTable("it", Files({"it": build_table(items)}))
    assert list(rebuilt.items()) == items, "not the same when written again"


def _bundle(raw: bytes) -> None:
    shards = {f"it.data-{n:05d}-of-{count:05d}": b"\0" * 512 for count in (1, 2) for n in range(2)}
    try:
        reader = BundleReader("it", Files({"it.index": raw, **shards}))
        tensors = reader.tensors
    except CkptctlError:
        return
    for name, entry in list(tensors.items())[:20]:
        assert BundleReader("it", Files({"it.index": raw})).get(name) == entry
        with suppress(CkptctlError):
            reader.read(name)
        with suppress(CkptctlError):
            reader.check_tensor(name, entry)
        with suppress(CkptctlError):
            reader.read_scalar_string(name)
    for ask in (
        reader.check_shards,
        lambda: list(reader.data_entries()),
        lambda: find_tables(tensors),
        lambda: find_tables(tensors, increment=True),
    ):
        with suppress(CkptctlError):
            ask()


def _mutate_index(data: bytes, most: int, dice: random.Random, mutate: Mutate) -> bytes:
    pairs = entries_of(data) if dice.random() < 0.8 else None
    if not pairs:
        return mutate(data, most)
    at = dice.randrange(len(pairs))
    key, value = pairs[at]
    what = dice.random()
    if what < 0.6:
        pairs[at] = (key, mutate(value, max(64, 2 * len(value))))
    elif what < 0.85:
        pairs[at] = (mutate(key, max(64, 2 * len(key))), value)
    elif what < 0.95:
        pairs.append((mutate(key, max(64, 2 * len(key))), value))
    else:
        del pairs[at]
    return index_of(pairs, dice.choice([1, 100, 1 << 18]))[:most]


def entry(data: bytes) -> None:
    """A BundleHeaderProto and a BundleEntryProto; the first byte is the number of shards."""
    shards, raw = (data[0] or 1, data[1:]) if data else (1, b"")
    with suppress(CkptctlError):
        header = BundleHeader.decode(raw, "it.index")
        again = BundleHeader.decode(header.encode(), "it.index")
        assert again._replace(raw=b"") == header._replace(raw=b"")
    with suppress(CkptctlError):
        found = Entry.decode(raw, "it.index", "name", shards)
        again = Entry.decode(found.encode(), "it.index", "name", shards)
        assert replace(again, raw=b"") == replace(found, raw=b"")
        fresh = Entry.decode(replace(found, raw=b"").encode(), "it.index", "name", shards)
        assert replace(fresh, raw=b"") == replace(found, raw=b"")


def codes(data: bytes) -> None:
    """The varints and ordered codes that keys and lengths are made of, and the keys of slices."""
    for decode, encode in (
        (decode_ordered_number, encode_ordered_number),
        (decode_ordered_string, encode_ordered_string),
        (decode_signed, encode_signed),
        (decode_varint, encode_varint),
    ):
        try:
            value, end = decode(data, 0)
        except ValueError:
            continue
        assert 0 < end <= len(data)
        assert decode(encode(value), 0) == (value, len(encode(value)))
    try:
        name, slice_ = decode_slice_key(data)
    except ValueError:
        return
    assert decode_slice_key(encode_slice_key(name, slice_)) == (name, slice_)


def strings(data: bytes) -> None:
    """A tensor of strings or variants; two bytes say how many elements, and whether it lies."""
    if len(data) < 2:
        return
    elements, variant, raw = data[0], data[1] & 1, data[2:]
    crc = 0
    if data[1] & 2:
        elements <<= 50
    elif not variant:
        raw, crc = repaired_strings(raw, elements)
    dtype = next(t for t in DTYPES.values() if t.name == ("variant" if variant else "string"))
    found = Entry(dtype, (elements,), offset=3, size=len(raw), crc=crc)
    file = Files({"it": b"abc" + raw}).open("it")
    with suppress(CkptctlError):
        if variant:
            check_variants(file, found, "it", "name")
            return
        items = list(iter_strings(file, found, "it", "name"))
        check_strings(file, found, "it", "name")
        again, crc = encode_strings(items)
        back = replace(found, offset=0, size=len(again), crc=crc)
        assert not raw or list(iter_strings(Files({"it": again}).open("it"), back, "", "")) == items
        return
    if not variant:
        try:
            check_strings(file, found, "it", "name")
        except CkptctlError:
            return
        raise AssertionError("checked, and yet not read")


# The state file, and our own files of facts


def state(data: bytes) -> None:
    """A state file, and what a merge and a prune make of it."""
    try:
        found = read_state("room/checkpoint", Files({"room/checkpoint": data}))
    except CkptctlError:
        return
    assert found is not None
    changed = [found, relocate_paths(found), insert_full(found, "model.ckpt-7", 1e9, newest=True)]
    gone = {found.all_paths[0].rpartition("/")[2]}
    left = drop_checkpoints(found, gone, {path.rpartition("/")[2] for path in found.all_paths[1:]})
    for each in [*changed, left]:
        if each is None:
            continue
        if not each.latest:  # nothing is written that TensorFlow cannot read
            raise AssertionError(f"a state file that names nothing: {each}")
        again = read_state("room/checkpoint", Files({"room/checkpoint": state_bytes(each)}))
        # A file that lists nothing lists what it names.
        listed = each._replace(all_paths=each.all_paths or (each.latest,))
        assert repr(again) == repr(listed), "not the same when written again"
        each.resolve(each.latest)


def facts(data: bytes) -> None:
    """`ckptctl/lineage` and `ckptctl/merged`, as they stand in a scalar string tensor."""
    for parse in (parse_lineage, parse_merged):
        with suppress(CkptctlError):
            found = parse(data, 120, "it.index")
            assert 0 <= found.base_step < 2**63


def mark(data: bytes) -> None:
    """`<prefix>.ckptctl.json`, beside what it may claim as ours."""
    names = ["it.ckptctl.json", "it.data-00000-of-00001", "it.meta", "it-emb-emb_files"]
    paths = {f"room/{name}": data for name in names}
    files = Files({**paths, "room/stranger": b"not ours"})
    found = own_files("room/it", files)
    assert found <= set(paths) - {"room/it-emb-emb_files"} | {"room/it-emb-emb_files"}
    own_temporaries("room/it", files)


def removed(data: bytes) -> None:
    """`.ckptctl/removed.jsonl`, read by the scan, and read and written by a prune."""
    removed_log(data)
    read_identities("room", Files({"room/.ckptctl/removed.jsonl": data}))


def plan(data: bytes) -> None:
    """A plan that `prune --save-plan` wrote, or somebody else."""
    try:
        found = load_plan("plan", "/room", Files({"plan": data}))
    except UsageError:
        return
    saved = json.dumps(found.to_save())
    again = load_plan("plan", "/room", Files({"plan": saved.encode()}))
    assert json.dumps(again.to_save()) == saved, "not the same when saved again"
    assert math.isfinite(found.bytes_to_free)


def names(data: bytes) -> None:
    """File names of a directory, and tensor names of an index."""
    every = [line for line in data.split(b"\n") if line]
    texts = [name.decode("utf-8", "surrogateescape") for name in every]
    own = [name for name in texts if "/" not in name and "\0" not in name]
    files = Files({f"room/{name}": b"" for name in own})
    grouped = group_files(files.listdir("room") if own else [])
    for group in grouped.names.values():
        assert group.name
        assert all(each.name.startswith(group.name) for each in group.unindexed)
    choose_base_name(texts, grouped, "model.ckpt")
    for name in texts:
        parts = split_step(name)
        if parts is not None:
            digits = name[len(parts[0]) + 1 :]
            assert name == f"{parts[0]}-{digits}"
            assert int(digits) == parts[1] < 2**63
        for component in part_components(name):
            pieces = [component[0], f"part_{component.number}", component[2]]
            assert "/".join(filter(None, pieces)) == "/".join(filter(None, name.split("/"))) or (
                "//" in name or name[:1] == "/" or name[-1:] == "/"
            )
        is_slot_name(name)


def _mutate_room(data: bytes, most: int, dice: random.Random, mutate: Mutate) -> bytes:
    files = unpack(data)
    if not files or dice.random() < 0.05:
        return mutate(data, most)
    at = dice.randrange(len(files))
    name, content = files[at]
    if dice.random() < 0.1:
        files[at] = (mutate(name, 64), content)
    elif name.endswith(b".index"):
        files[at] = (name, _mutate_index(content, 4096, dice, mutate))
    else:
        files[at] = (name, mutate(content, max(64, 2 * len(content))))
    return pack(files)[:most]


TARGETS = {
    "index": Target(index, 8192, _mutate_index, share=3),
    "entry": Target(entry, 1024),
    "codes": Target(codes, 256),
    "strings": Target(strings, 1024),
    "state": Target(state, 2048, share=2),
    "facts": Target(facts, 512),
    "mark": Target(mark, 2048),
    "removed": Target(removed, 2048),
    "plan": Target(plan, 4096),
    "names": Target(names, 1024),
    "directory": Target(directory, 16384, _mutate_room, share=4),
}
