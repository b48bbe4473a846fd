"""The pages of `--html`: what stands in them, and what a browser makes of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("plotly", reason="plotly is missing: pip install 'ckptctl[html]'")

from click.testing import CliRunner

from ckptctl.bundle import BundleWriter
from ckptctl.commands.main import cli
from ckptctl.errors import DependencyError, MissingShardError
from ckptctl.report.parts import size, when
from tests.oracle.chain import build_chain, changes, full, increment, table

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
STRANGE = "a</script><script>alert(1)</script><b>\"'&amp;\u2028\u202e" + "x" * 200


class Reader(HTMLParser):
    """Collects start tags and text outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def draw(*args: object) -> str:
    path = Path(str(args[-1]))
    done = CliRunner().invoke(cli, [*map(str, args[:-1]), "--html", str(path)])
    assert done.exit_code == 0, done.output
    return path.read_text("utf-8")


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def browse(path: Path, tmp_path: Path) -> str:
    """Return the DOM after scripts ran; fail on any word on the console."""
    if CHROMIUM is None:
        pytest.skip("no chromium: apt-get install -y chromium")
    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --enable-logging=stderr "
        "--virtual-time-budget=8000 --window-size=390,800 --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *flags.split(), profile, f"file://{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A chain of 40 tables, one with a name that tries to break out."""
    names = [STRANGE, *(f"table_{n}" for n in range(39))]
    fulls = [ev for n in names for ev in table(n, range(5), freqs=3)]
    news = [ev for n in names for ev in changes(n, [1, 7], freqs=5)]
    return build_chain(tmp_path, full(100, fulls), increment(120, news)).directory


@pytest.fixture
def sharded(golden: Path) -> Path:
    return golden / "deeprec" / "sharded"


def check(page: str) -> Reader:
    """Hold a page to what every page owes."""
    reader = read(page)
    assert reader.of("html")[0]["lang"] == "en"
    assert len(reader.of("script")) == 3, "a name opened a script"
    links = [a.get(what) for _, a in reader.tags for what in ("src", "href") if what in a]
    assert all(link and link.startswith(("#", "data:")) for link in links)
    assert len(reader.of("caption")) == len(reader.of("table")) > 0
    assert all(a.get("scope") in ("row", "col") for a in reader.of("th"))
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    named = {
        a[what] for _, a in reader.tags for what in a if what.startswith("aria-") and "by" in what
    }
    assert named <= set(ids)
    assert all(link.removeprefix("#") in ids for link in links if link and link.startswith("#"))
    return reader


def check_drawn(path: Path, page: str, tmp_path: Path) -> None:
    charts = len([a for a in read(page).of("div") if a.get("class") == "chart"])
    dom = browse(path, tmp_path)
    assert charts > 0
    assert len(re.findall(r'class="chart js-plotly-plot"', dom)) == charts


def test_a_diff_page_is_drawn_in_a_browser(sharded: Path, tmp_path: Path) -> None:
    path = tmp_path / "diff.html"
    page = draw("diff", "160", "latest", "-C", sharded, path)
    for heading in ("Timeline", "Change by table", "Change by bucket", "Change by freq"):
        assert f">{heading}</h3>" in page
    for heading in ("Norms before and after", "Top keys", "Keys per table in the fulls"):
        assert f">{heading}</h3>" in page
    check(page)
    check_drawn(path, page, tmp_path)


def test_a_show_page_is_drawn_in_a_browser(sharded: Path, tmp_path: Path) -> None:
    path = tmp_path / "show.html"
    page = draw("show", "-C", sharded, "--stats", path)
    assert '<td class="n">116</td>' in page
    check(page)
    check_drawn(path, page, tmp_path)


@pytest.mark.parametrize("args", [("show", "--stats"), ("diff", "100", "120")])
def test_names_stay_names(strange: Path, tmp_path: Path, args: tuple[str, ...]) -> None:
    path = tmp_path / "page.html"
    page = draw(*args, "-C", strange, path)
    check(page)
    assert "\u2028" not in page
    assert "\u202e" not in page
    check_drawn(path, page, tmp_path)


def test_a_bundle_outside_a_chain_has_no_timeline(tmp_path: Path) -> None:
    with BundleWriter(str(tmp_path / "variables")) as writer:
        writer.add("dense", np.ones(3, np.float32))
    path = tmp_path / "page.html"
    page = draw("show", tmp_path / "variables.index", path)
    check(page)
    assert "Timeline" not in page
    page = draw("diff", tmp_path / "variables", tmp_path / "variables", path)
    assert "Neither has any table" in page


def test_a_page_says_what_is_lost(sharded: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(sharded, tmp_path / "ckpt")
    shard = copy / "model.ckpt-160.data-00001-of-00002"
    shard.unlink()
    path = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["show", str(copy / "model.ckpt-160"), "--html", str(path)])
    assert isinstance(done.exception, MissingShardError)
    page = path.read_text()
    check(page)
    assert f"tensors with {shard}" in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "1970-01-01 00:00:00 UTC"),
        (-1, "1969-12-31 23:59:59 UTC"),
        (300_000_000_000, "300000000000 s after 1970"),
        (2**62, f"{2**62} s after 1970"),
    ],
)
def test_a_time_beyond_the_calendar_is_one(seconds: int, words: str) -> None:
    assert when(seconds) == words


@pytest.mark.parametrize("name", ["-", ""])
def test_a_page_is_a_file(sharded: Path, name: str) -> None:
    done = CliRunner().invoke(cli, ["show", "-C", str(sharded), "--html", name])
    assert done.exit_code != 0
    assert done.stdout == ""


def test_without_plotly_it_says_what_to_install(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    path = tmp_path / "page.html"
    done = CliRunner().invoke(cli, ["show", "-C", str(sharded), "--html", str(path)])
    assert isinstance(done.exception, DependencyError) or "ckptctl[html]" in done.output
    assert not path.exists()


def test_data_of_a_figure_cannot_end_its_script() -> None:
    from ckptctl.report.page import Part, Section, render

    figure = {"data": [{"name": STRANGE}], "layout": {"height": 100}}
    page = render("t", [], [Section("s", [Part("h", "d", figure)])])
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    assert found is not None
    assert json.loads(found[1]) == [figure]
    assert not set(found[1]) & set("<>&\u2028")


def test_sizes_have_the_units_of_the_command_line() -> None:
    assert [size(n) for n in (7, 1500, 2.5e6)] == ["7 B", "1.5 kB", "2.5 MB"]
