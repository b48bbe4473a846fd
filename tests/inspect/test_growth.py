"""What `growth` says of a directory."""

from __future__ import annotations

from pathlib import Path

from ckptctl.inspect.growth import grow, growth_around
from tests.oracle.chain import build_chain, changes, full, increment, table


def test_each_checkpoint_in_order_and_the_damaged_counted(tmp_path: Path) -> None:
    chain = build_chain(
        tmp_path,
        full(100, table("emb", range(10), parts=2)),
        increment(120, changes("emb", [1, 50], parts=2)),
        increment(140, changes("emb", [1, 50, 60], parts=2)),
    )
    Path(f"{chain.increment_prefix(140)}.index").write_bytes(b"no index")
    found = grow(str(chain.directory)).document()
    assert [(c["kind"], c["step"], c["keys"]) for c in found["checkpoints"]] == [
        ("full", 100, 10),
        ("increment", 120, 2),
    ]
    (emb,) = found["checkpoints"][0]["tables"]
    assert (emb["name"], emb["keys"]) == ("emb", 10)
    data = chain.directory.glob("model.ckpt-100.data*")
    assert 10 * 16 < emb["bytes"] <= sum(path.stat().st_size for path in data)
    assert found["damaged"] == 1


def test_the_directory_is_found_from_any_member(tmp_path: Path) -> None:
    chain = build_chain(tmp_path, full(100, table("emb", [1])), increment(120, changes("emb", [2])))
    for prefix in (chain.full_prefix(100), chain.increment_prefix(120)):
        found = growth_around(str(prefix))
        assert found is not None
        assert [each["step"] for each in found.checkpoints] == [100, 120]
    assert growth_around(str(chain.directory / "variables")) is None
