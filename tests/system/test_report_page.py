"""The page about runs, in a real browser: curves, legend, filter, differences, by day and by night, and no network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import main
from browser import Chromium
from core import cli
from tracking.folder import RunFolder
from tracking.journal import Journal

WON, LOSS = "test_battle_won_mean", "q_loss"


def run(where: Path, name: str, seed: int, status: str = "COMPLETED", **changes: object) -> RunFolder:
    words = [f"--config={name}", "--env-config=sc2", "with", "t_max=300", "test_interval=100", f"seed={seed}"]
    config = cli.compose(cli.parse([*words, f"results_dir={where}"])).plain() | changes
    config["env_args"] |= {"engine": "skirmish", "map_name": "3m"}
    folder = RunFolder.create(config, "sc2-skirmish/3m")
    folder.config.write_text(yaml.safe_dump(config))
    folder.update(status=status, git={"commit": "0123456789abcdef", "dirty": False}, versions={"torch": "2.13.0"})
    folder.update(
        host_facts={"hostname": "<here & there>", "cpus": 2}, error=None if status == "COMPLETED" else "it fell"
    )
    journal = Journal(folder.journal)
    for step in range(0, 301, 100):
        values = {WON: step / 300 * (0.5 if name == "vdn" else 1.0)}
        journal.write({"kind": "test", "t_env": step, "values": values, "mark": step, "episodes": {}})
        journal.write(
            {"kind": "train", "t_env": step, "values": {LOSS: float("nan") if step == 100 else 1.0 - step / 400}}
        )
    journal.close()
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("results")
    first = run(where, "qmix", 0)
    (first.path / "replay.html").write_text("<p>a replay</p>")
    run(where, "qmix", 1)
    run(where, "vdn", 0, status="FAILED", batch_size_run=8)
    assert main.main(["report", str(where), "--out", str(where / "report.html")]) == 0
    return where / "report.html"


@pytest.fixture
def shown(browser: Chromium, page: Path) -> Iterator[Chromium]:
    browser.problems.clear()
    browser.size(1280, 900)
    browser.open(page)
    yield browser
    assert browser.problems == []


def rows(browser: Chromium, section: str) -> list[list[str]]:
    cells = f"[...document.querySelectorAll('#{section} tr')].map((row) => [...row.cells].map((x) => x.textContent))"
    return browser.value(cells)


def charts(browser: Chromium) -> list[str]:
    return browser.value("[...document.querySelectorAll('figcaption')].map((x) => x.textContent)")


def test_the_data_are_the_journals(page: Path):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL).group(1))
    assert data["groups"] == ["qmix", "vdn"] and data["tasks"] == ["sc2/3m"] and data["metrics"] == [WON, LOSS]
    vdn = next(one for one in data["runs"] if one["group"] == "vdn")
    assert vdn["curves"][WON] == [[0, 0.0], [100, 0.16667], [200, 0.33333], [300, 0.5]]
    assert [step for step, _ in vdn["curves"][LOSS]] == [0, 200, 300]  # NaN is left out


def test_text_from_runs_is_text(page: Path):
    assert "&lt;here &amp; there&gt;" in page.read_text() and "<here" not in page.read_text()


def test_tables_say_what_there_is(shown: Chromium):
    runs = rows(shown, "runs")
    assert [row[:4] for row in runs[1:]] == [
        ["qmix", "sc2/3m", "0", "completed"],
        ["qmix", "sc2/3m", "1", "completed"],
        ["vdn", "sc2/3m", "0", "failed"],
    ]
    assert [row[5] for row in runs[1:]] == ["1", "1", "0.5"] and runs[0][5] == f"last {WON}"
    differences = {row[0]: row[1:] for row in rows(shown, "differences")[1:]}
    assert differences["batch_size_run"] == ["1", "1", "8"] and differences["name"] == ["qmix", "qmix", "vdn"]
    assert "gamma" not in differences
    warned = shown.text("warnings")
    assert "vdn seed 0" in warned and "FAILED: it fell" in warned and "'batch_size_run' differs" in warned


def test_the_replay_is_linked(shown: Chromium, page: Path):
    links = shown.value("[...document.querySelectorAll('#runs a')].map((x) => x.getAttribute('href'))")
    assert len(links) == 1 and (page.parent / links[0]).read_text() == "<p>a replay</p>"


def test_charts_follow_legend_and_filter(shown: Chromium):
    assert charts(shown) == [WON, LOSS]
    lines = "document.querySelectorAll('figure:first-child path.run').length"
    assert (
        shown.value(lines) == 3 and shown.value("document.querySelectorAll('figure:first-child path.mean').length") == 2
    )
    shown.value("document.querySelector('#legend button').click()")
    assert shown.value(lines) == 1
    shown.value("document.querySelector('#legend button').click()")
    shown.value("(find('filter').value = 'LOSS', find('filter').dispatchEvent(new Event('input')))")
    assert charts(shown) == [LOSS]


def test_a_curve_can_be_read(shown: Chromium):
    box = shown.value("document.querySelector('figure svg').getBoundingClientRect().toJSON()")
    x = box["x"] + box["width"] * (46 + (400 - 56) / 2) / 400
    shown.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=box["y"] + box["height"] / 2)
    shown.settle()
    told = shown.value("[...document.querySelectorAll('figure:first-child .readout div')].map((x) => x.textContent)")
    assert told == ["step 150", "qmix: 0.5", "vdn: 0.25"]


@pytest.mark.parametrize("dark", [False, True])
def test_day_and_night(browser: Chromium, page: Path, dark: bool):
    browser.size(390, 844, dark=dark)
    browser.open(page)
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth"), "a phone would scroll sideways"
    stroke = browser.value("document.querySelector('path.mean').getAttribute('stroke')")
    assert stroke == ("#4aa8e0" if dark else "#0072b2")


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main.main(["report"]) == 2
    assert "report needs runs" in capsys.readouterr().err
    assert main.main(["report", "x", "--out", str(tmp_path / "no" / "page.html")]) == 2
    assert "is not a file in a folder that exists" in capsys.readouterr().err
