"""The committed corpus: seeds, and what a fuzzer found on the way, as little as can be.

`python -m tests.fuzz.make_corpus [ROOM]` makes seeds of the golden bundles and of small chains,
takes what is committed and what runs of `tests.fuzz.run --room ROOM` left, and keeps of all that
a few inputs that together go every way through ckptctl that all of them go. An input that once
was a finding is called `found-...` and always stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format

import ckptctl
from ckptctl.bundle import TensorSlice
from ckptctl.bundle.slices import encode_slice_key
from ckptctl.bundle.strings import encode_strings
from ckptctl.merge import Policy, PruneOptions, plan_prune
from ckptctl.merge.policy import KeepLast, KeepStep, KeepWithin
from ckptctl.merge.removed_log import log_removed
from ckptctl.storage import LOCAL
from tests.fuzz.indexes import entries_of, index_of
from tests.fuzz.rooms import pack
from tests.fuzz.targets import TARGETS
from tests.merge.model import small_chain
from tests.merge.prunes import age, chain_of
from tests.oracle.chain import Chain, build_chain, changes, full, increment, table, write_state

CORPUS = Path(__file__).parent / "corpus"
GOLDEN = Path(__file__).parent.parent / "golden"
_LONGEST = 6000


def _indexes() -> list[bytes]:
    found = (path.read_bytes() for path in sorted(GOLDEN.rglob("*.index")))
    return [data for data in found if len(data) <= _LONGEST]


def index() -> Iterator[bytes]:
    for data in _indexes():
        yield data
        pairs = entries_of(data)
        assert pairs is not None
        if len(pairs) > 4:
            yield index_of(pairs, 200)
    large = max(GOLDEN.rglob("many.index")).read_bytes()
    pairs = entries_of(large)
    assert pairs is not None
    yield index_of(pairs[:40])


def entry() -> Iterator[bytes]:
    kinds = {}
    for data in _indexes():
        for key, value in entries_of(data) or []:
            kinds.setdefault((len(value), value[:2], key[:1] == b"\0", not key), value)
    for value in list(kinds.values())[:60]:
        yield b"\x02" + value


def codes() -> Iterator[bytes]:
    for extents in ((), ((0, -1),), ((0, 2), (3, 1 << 40)), ((-5, 1 << 62), (0, 0), (1, 1))):
        yield encode_slice_key(b"part_0/a\x00b\xff", TensorSlice(extents))


def strings() -> Iterator[bytes]:
    for items in ([b"", b"ab"], [b"c" * 200] * 3, [b""] * 40, [b"{}"]):
        data, _ = encode_strings(items)
        yield bytes([len(items), 0]) + data
    for path in sorted(GOLDEN.rglob("variants.data-*")):
        yield b"\x02\x01" + path.read_bytes()[:900]
    yield b"\x04\x02" + b"\x01" * 60


def state() -> Iterator[bytes]:
    for path in sorted(GOLDEN.rglob("checkpoint")):
        yield path.read_bytes()
    yield b'model_checkpoint_path: "/a/model.ckpt-7"\nlast_preserved_timestamp: nan\n'


def facts() -> Iterator[bytes]:
    for mode in ("cumulative", "delta"):
        for previous in (None, 110):
            lineage = {"version": 1, "base_step": 100, "previous_step": previous, "mode": mode}
            yield json.dumps(lineage).encode()
    yield b'{"version":1,"base_step":100,"up_to":120,"mode":"delta"}'


def mark() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as home:
        chain = small_chain(Path(home))
        chain.merge(30)
        yield Path(f"{chain.full_prefix(30)}.ckptctl.json").read_bytes()
    name = "it.data-00000-of-00001"
    facts = {"schema": "ckptctl.merged/1", "temporary": "it_temp_0", "files": {name: [0, 1]}}
    yield json.dumps(facts).encode()


def removed() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as home:
        os.mkdir(f"{home}/.ckptctl")
        line = {"kind": "increment", "name": "incremental_model.ckpt-20", "step": 20}
        full = {"kind": "full", "name": "model.ckpt-10", "step": 10, "merged": True}
        files = {"files": {"model.ckpt-10.index": [1, 2]}, "directories": ["model.ckpt-10-x"]}
        log_removed(home, [line, {**full, **files}], LOCAL)
        yield Path(home, ".ckptctl", "removed.jsonl").read_bytes()
        yield b'{"kind":"full","name":"model.ckpt-10"}\n'


def plan() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as home:
        chain = chain_of(Path(home), "F10", "I20", "F30")
        policy = Policy((KeepLast(1), KeepStep(10), KeepWithin(60.0)))
        found = plan_prune(str(chain.directory), PruneOptions(policy), remember=False).to_save()
        text = json.dumps(found).replace(str(chain.directory), "/room")
        yield text.encode()


def names() -> Iterator[bytes]:
    for path in sorted(GOLDEN.rglob("model.ckpt-0.index")):
        every = [each.name for each in path.parent.iterdir()]
        every += [each.name for each in (path.parent / ".incremental_checkpoint").iterdir()]
        yield "\n".join(sorted(every)).encode()
    yield b"\n".join(
        [
            b"m-1.index",
            b"m-1.data-00000-of-00001",
            b"m-1.ckptctl.json",
            b"m-1_temp_0123456789abcdef",
            b"m-1.index.tempstate123",
            b"m-1.ckptctl.json.ckptctl-0123456789abcdef.tmp",
            b"m-1-emb-ssd_record.index",
            b"m-1-emb-emb_files",
            b"m-0000000000000000000000000012.meta",
            b"m-9223372036854775808.index",
        ]
    )
    yield b"emb/part_0/Adagrad-keys\npart_1\na/part_007/b\npart_3/part_4/Adam_1"


def directory() -> Iterator[bytes]:
    for make in (_cumulative, _delta, _merged, _rolled_back):
        with tempfile.TemporaryDirectory() as home:
            chain = make(Path(home))
            files = sorted(path for path in chain.directory.rglob("*") if path.is_file())
            yield pack(
                [
                    (os.fsencode(path.relative_to(chain.directory)), path.read_bytes())
                    for path in files
                ]
            )


def _chain(home: Path, *steps: str, mode: str = "") -> Chain:
    """F10, I20 ...: a table in the form without offsets, which take 4 kB each."""
    images = []
    base = 0
    for number, step in enumerate(steps):
        at, keys = int(step[1:]), range(1, number + 2)
        if step[0] == "F":
            images.append(full(at, table("emb", [1, 2], slots=(), old=True)))
            base = at
        else:
            lineage = {"version": 1, "base_step": base, "previous_step": None, "mode": mode}
            made = changes("emb", keys, slots=())
            images.append(increment(at, made, lineage=lineage if mode else None))
    return age(build_chain(home, *images))


def _cumulative(home: Path) -> Chain:
    return _chain(home, "F10", "I20", "I30", "F40")


def _delta(home: Path) -> Chain:
    return _chain(home, "F10", "I20", mode="delta")


def _merged(home: Path) -> Chain:
    chain = _chain(home, "F10", "I20", "I30")
    chain.merge(20)
    return chain


def _rolled_back(home: Path) -> Chain:
    chain = _chain(home, "F10", "I20", "F80", "F30")
    write_state(chain.directory, [f"model.ckpt-{n}" for n in (10, 80, 30)])
    return age(chain, 10, 80, 30)


SEEDS = (index, entry, codes, strings, state, facts, mark, removed, plan, names, directory)


#: (file, from line, to line)
Arcs = set[tuple[str, int, int]]
OURS = (os.path.dirname(ckptctl.__file__), text_format.__file__)
#: Bytes of one target's inputs.
MOST_BYTES = 150_000


def arcs_of(run: Callable[[bytes], None], data: bytes) -> Arcs:
    """Return from which line to which line an input takes us, in our own files."""
    found: Arcs = set()

    def trace(frame: Any, event: str, _: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(OURS):
            return None
        last = [0]

        def line(frame: Any, event: str, _: object) -> Any:
            if event == "line":
                found.add((name, last[0], frame.f_lineno))
                last[0] = frame.f_lineno
            return line

        return line

    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return found


def chosen(run: Callable[[bytes], None], inputs: Collection[bytes]) -> list[bytes]:
    """Return few inputs that together go every way, those that add most for their size first."""
    arcs = {data: arcs_of(run, data) for data in sorted(inputs)}
    kept: list[bytes] = []
    while arcs:
        best = max(arcs, key=lambda data: len(arcs[data]) / (len(data) + 200))
        known = arcs.pop(best)
        kept.append(best)
        arcs = {data: fresh for data, own in arcs.items() if (fresh := own - known)}
        if sum(map(len, kept)) > MOST_BYTES:
            break
    return kept


def main(room: str | None = None) -> None:
    for seeds in SEEDS:
        name = seeds.__name__
        home = CORPUS / name
        home.mkdir(parents=True, exist_ok=True)
        places = [home, *([Path(room, "corpus", name)] if room else [])]
        inputs = {path.read_bytes() for place in places for path in place.iterdir()}
        run = TARGETS[name].run
        list(map(run, seeds()))  # imports and caches are not what an input adds
        kept = {
            hashlib.sha1(data).hexdigest()[:16]: data for data in chosen(run, {*inputs, *seeds()})
        }
        for path in home.iterdir():
            if path.name not in kept and not path.name.startswith("found-"):
                path.unlink()
        for name, data in kept.items():
            (home / name).write_bytes(data)
        found = list(home.iterdir())
        print(f"{home.name}: {len(found)} files, {sum(f.stat().st_size for f in found)} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
