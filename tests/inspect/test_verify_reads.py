"""What `verify --data` reads, and that it says the same in whatever pieces it reads."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ckptctl.bundle import BundleReader
from ckptctl.inspect.verify import Verified, execute_verify, plan_verify
from tests.inspect.spoils import SPOILS, as_nobody, codes, look, of_byte, whole
from tests.merge.storages import Counting
from tests.oracle.chain import build_chain, full, table
from tests.oracle.images import Tensor

#: Keys that outweigh the offsets, and some that do not fit into 32 bits.
KEYS = [*range(20000), -1000, 2**32 - 1, 2**32, 2**63 - 1]


def in_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptctl.knobs.TASK_BYTES", 32)


@pytest.mark.parametrize("code", SPOILS)
def test_tensors_in_spans_say_what_whole_ones_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    chain = whole(tmp_path)
    SPOILS[code](chain)
    with as_nobody(chain.directory) if code == "CK090" else nullcontext():
        expected = look(chain.directory)
        in_spans(monkeypatch)
        found = look(chain.directory, jobs=3)
    assert found.findings == expected.findings
    assert _facts(found) == _facts(expected)


def _facts(found: Verified) -> tuple[int, ...]:
    return found.checkpoints, found.tensors, found.keys, found.nbytes


def test_odd_values_are_counted_over_all_spans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.zeros((30, 2), "<f4")
    values[[4, 11, 25], 1] = np.nan, 2e30, -np.inf
    build_chain(tmp_path, full(1, {"x": Tensor("float32", (30, 2), values.tobytes())}))
    in_spans(monkeypatch)
    found = {each.code: each for each in look(tmp_path / "chain", jobs=2).findings}
    assert "2 of 60 elements are NaN or infinite, the first in row 4" in found["CK060"].message
    assert "1 of 60 elements are beyond 1e+30, the first in row 11" in found["CK061"].message


@pytest.mark.parametrize("at", [0, 40, 200])
def test_a_flipped_bit_in_any_span_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    in_spans(monkeypatch)
    chain = whole(tmp_path)
    of_byte("emb/part_0-values", at)(chain)
    assert codes(look(chain.directory, jobs=2)) == ["CK050"]


def test_each_byte_is_read_once(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(1, table("emb", KEYS, parts=2, slots=("Adagrad",))))
    storage = Counting()
    plan = plan_verify(str(chain.directory), data=True, storage=storage)
    found = execute_verify(plan)
    assert codes(found) == []
    assert found.keys == len(KEYS)
    with BundleReader(str(chain.full_prefix(1))) as reader:
        tensors = list(reader.tensors.items())
    offsets = sum(entry.size for name, entry in tensors if name.endswith("_offset"))
    read = sum(count for path, count in storage.read.items() if ".data-" in path)
    assert found.nbytes == sum(entry.size for _, entry in tensors)
    assert found.nbytes <= read <= found.nbytes + 2 * offsets


@pytest.mark.parametrize("member", ["emb/part_0", "emb/part_0/Adagrad"])
@pytest.mark.parametrize("column", ["-keys", "-freqs", "-versions"])
def test_damaged_keys_say_nothing_else(tmp_path: Path, member: str, column: str) -> None:
    chain = whole(tmp_path)
    SPOILS["CK059"](chain)
    of_byte(member + column)(chain)
    found = look(chain.directory)
    assert [(each.code, each.tensor) for each in found.findings] == [("CK050", member + column)]
