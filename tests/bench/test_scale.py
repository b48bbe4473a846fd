"""Scale: growth, what is skipped, the plots, and the arithmetic, on numbers made up here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.arithmetic import Constants, Setting, constants_of, hours
from bench.plot import Curve, draw
from bench.results import Document
from bench.room import copies
from bench.scale import Point, figures, growth, points
from bench.scale_page import PLOTS, scale_points, scale_skipped


def point(gb: float, seconds: float, peak: float = 100.0) -> dict[str, object]:
    took = {"median_s": seconds, "merge_s": [seconds], "cpu_s": [2 * seconds], "cp_s": gb}
    return asdict(Point("size", "even", gb, gb)) | took | {"peak_mb": peak, "bytes": gb * 1e9}


def documented(*found: dict[str, object]) -> Document:
    return {"parts": {"scale": {"points": list(found)}}}


THREE = (point(25.0, 30.0), point(1.0, 2.0), point(6.0, 7.0, 110.0))


def test_growth_is_that_of_the_steepest_step() -> None:
    assert growth([(1, 1), (10, 10), (100, 100)]) == pytest.approx(1.0)
    assert growth([(100, 1000), (1, 1), (10, 10)]) == pytest.approx(2.0)


def test_figures_of_a_curve() -> None:
    own = figures([*THREE, asdict(Point("size", "even", 9.0, 9.0)) | {"skipped": "no disk"}])
    assert own["growth with cp/even"] == pytest.approx(0.8413, rel=1e-3)
    assert own["flat/even"] == 0.0


def test_every_point_is_asked_for_once() -> None:
    asked = list(points([1.0, 6.0, 25.0], 1.0, 1))
    assert len(asked) == len(set(asked)) == 9 + 4 + 5 + 8
    assert {each.parts for each in asked} == {1, 2, 4, 16, 64}
    assert max(each.needs() for each in asked) < 60e9


def test_a_table_of_points() -> None:
    rows = scale_points(documented(*THREE)).splitlines()
    assert [row.split(" | ")[1] for row in rows[2:]] == ["1", "6", "25"]
    skipped = asdict(Point("size", "even", 25.0, 25.0)) | {"skipped": "needs 53 GB"}
    assert scale_skipped(documented(skipped)) == "* size 25, even: needs 53 GB"


def test_plots_are_svg_and_the_same_twice() -> None:
    drawn = [plot(documented(*THREE)) for plot in PLOTS.values()]
    assert drawn == [plot(documented(*THREE)) for plot in PLOTS.values()]
    svg = [each for each in drawn if each is not None]
    assert len(svg) == 2
    for each in svg:
        ElementTree.fromstring(each)
        assert len(each) < 8000


def test_a_straight_line_is_linear_growth() -> None:
    svg = draw("a & b", "x", "y", [Curve("one", ((1, 10), (10, 100), (100, 1000)))])
    places = [
        (float(circle.get("cx", "")), float(circle.get("cy", "")))
        for circle in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}circle")
    ]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)


def test_constants_come_from_the_two_largest_fulls() -> None:
    own = constants_of(documented(*THREE))
    assert own is not None
    assert own.cpu_s_per_gb == pytest.approx((60 - 14) / (25 - 6))
    assert own.peak_mb == 100.0
    assert constants_of(documented()) is None


def test_a_merge_waits_for_the_slowest() -> None:
    own = Constants(cpu_s_per_gb=2.0, start_s=0.0, peak_mb=100.0)
    disk = Setting("", read=1.0, write=0.5, cores=8)
    assert hours(own, disk, 3600.0, False) == (pytest.approx(2.0), "writing")
    assert hours(own, disk, 3600.0, True) == (pytest.approx(2.05), "reading")
    shared = Setting("", read=1.0, write=0.5, cores=8, machines=100, shared=1.0)
    assert hours(own, shared, 3600.0, False) == (pytest.approx(2.05), "store")


def test_a_thousand_increments_are_no_argument_too_long(tmp_path: Path) -> None:
    """What cp and cat are given has to fit into one argument of a shell: 128 KiB."""
    chain, out = tmp_path / "chain", tmp_path / "out"
    recent = chain / ".incremental_checkpoint"
    recent.mkdir(parents=True)
    out.mkdir()
    (chain / "model.ckpt-1000.index").write_bytes(b"full")
    for number in range(1000):
        (recent / f"incremental_model.ckpt-{1100 + number}.data-00000-of-00001").touch()
    copies(chain, out)["cp+cat"].run(tmp_path)
    assert (out / "model.ckpt-1000.index").read_bytes() == b"full"
