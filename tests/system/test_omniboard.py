"""Omniboard as a person uses it: three real runs, looked at in a browser."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import browser
import main
from tracking.folder import RunFolder
from tracking.journal import series

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "images"
HOME = Path(os.environ.get("COFACTOR_OMNIBOARD", ROOT / "docker"))
"""Where ``npm install omniboard@2.16.1`` was called."""
PROGRAM = HOME / "node_modules" / ".bin" / "omniboard"
ALGORITHMS = ("qmix", "vdn", "iql")
SMALL = ["batch_size_run=8", "batch_size=16", "buffer_size=200", "device=cpu"]
RHYTHM = ["t_max=1600", "log_interval=40", "test_interval=80", "test_nepisode=8"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(browser.find() is None, reason="there is no Chromium"),
    pytest.mark.skipif(
        not PROGRAM.exists(),
        reason="Omniboard is not installed: npm install --prefix docker omniboard@2.16.1, or set COFACTOR_OMNIBOARD",
    ),
]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    path = str(tmp_path_factory.mktemp("mongo"))
    with secantus.SecantusDBServer(storage_path=path, replica_set_name=None, cache_size="128M") as server:
        yield server.uri.rstrip("/")


@pytest.fixture(scope="module")
def runs(url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunFolder]:
    """Three trained runs by their numbers in the database."""
    results = tmp_path_factory.mktemp("results")
    for seed, algorithm in enumerate(ALGORITHMS, start=1):
        keys = [*SMALL, *RHYTHM, "env_args.preset=four", f"seed={seed}", f"results_dir={results}"]
        assert main.main([f"--config={algorithm}", "--env-config=matrix_game", "-m", url, "with", *keys]) == 0
    folders = [RunFolder(record.parent) for record in results.rglob("record.json")]
    return {folder.record["sacred"]["mongo"]["id"]: folder for folder in folders}


@pytest.fixture(scope="module")
def address(url: str, runs: dict[int, RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Omniboard, started as docs/tracking.md says."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "NODE_OPTIONS": f"-r {ROOT / 'docker' / 'omniboard_preload.js'}"}
    with (tmp_path_factory.mktemp("omniboard") / "output").open("w+") as output:
        process = subprocess.Popen(
            ["node", str(PROGRAM), "--mu", f"{url}/cofactor"], env=environment, stdout=output, stderr=output
        )
        address = f"http://127.0.0.1:{port}/sacred"
        try:
            until_it_answers(address, process, Path(output.name))
            yield address
        finally:
            process.terminate()
            process.wait(30)


def until_it_answers(address: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=5).read()
            return
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def page(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Chromium]:
    program = browser.find()
    assert program is not None
    chromium = browser.Chromium(program, tmp_path_factory.mktemp("profile"))
    chromium.size(1720, 720)
    chromium.call("Page.navigate", url=address)
    yield chromium
    chromium.close()


def texts(selector: str) -> str:
    """JavaScript for the texts of elements."""
    return f"[...document.querySelectorAll({json.dumps(selector)})].map((each) => each.innerText.trim())"


def press(page: browser.Chromium, selector: str, text: str = "") -> None:
    """A click of the mouse on the first element that fits, once it is there."""
    found = (
        f"[...document.querySelectorAll({json.dumps(selector)})].find((e) => e.innerText.includes({json.dumps(text)}))"
    )
    page.until(f"Boolean({found})")
    place = f"(({found}).scrollIntoView({{block: 'nearest'}}), ({found}).getBoundingClientRect())"
    box = page.value(f"(({place}).toJSON())")
    page.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def keep(page: browser.Chromium, name: str, tmp_path: Path) -> None:
    """A picture; with COFACTOR_PICTURES it replaces the one in the documentation."""
    page.until("document.getAnimations().every((each) => each.playState !== 'running')")
    page.settle()
    data = page.screenshot()
    assert 10_000 < len(data) < 300_000
    (PICTURES if os.environ.get("COFACTOR_PICTURES") else tmp_path).joinpath(f"omniboard_{name}.png").write_bytes(data)


ROWS = ".public_fixedDataTableRow_main"


def test_a_person_sees_the_runs_their_curves_configuration_and_artifacts(
    page: browser.Chromium, runs: dict[int, RunFolder], tmp_path: Path
) -> None:
    page.until(f"{texts(ROWS)}.filter((text) => text.includes('COMPLETED')).length === 3")
    see_the_list(page, runs)
    keep(page, "runs", tmp_path)
    newest = max(runs)
    press(page, "[test-attr='cell-row_expander-0']")
    see_the_curves(page, runs[newest])
    keep(page, "curves", tmp_path)
    press(page, "#sidebar a", "Config")
    page.until(f"{texts('#config')}.join().includes('learner')")
    shown = page.value(f"{texts('#config')}.join()")
    for key in ("env_args", "batch_size_run", "t_max", "seed"):
        assert key in shown
    keep(page, "config", tmp_path)
    press(page, "#sidebar a", "Captured Out")
    page.until(f"{texts('#captured_out')}.join().includes('test_return_mean')")
    press(page, "#sidebar a", "Artifacts")
    press(page, "#artifacts h5", "config.yaml")
    page.until(f"{texts('#artifacts')}.join().includes('buffer_size: 200')")
    names = page.value(texts("#artifacts h5"))
    assert sorted(names) == ["checkpoint.pt", "config.yaml", "metrics.jsonl"]
    keep(page, "artifact", tmp_path)


def see_the_list(page: browser.Chromium, runs: dict[int, RunFolder]) -> None:
    """One row per run, the newest first, no column of it empty."""
    rows = [[cell.strip() for cell in row.split("\n")] for row in page.value(texts(ROWS)) if "COMPLETED" in row]
    assert [int(next(cell for cell in row if cell.strip().isdecimal())) for row in rows] == sorted(runs, reverse=True)
    for row, number in zip(rows, sorted(runs, reverse=True), strict=True):
        record = runs[number].record
        assert {record["name"], record["host"], "train", "COMPLETED"} <= set(row)
        assert f"{record['summary']['test_return_mean']:g}" in row, "\n".join(row)


def see_the_curves(page: browser.Chromium, folder: RunFolder) -> None:
    """The plot has every point of the journal and nothing else."""
    page.until("document.querySelector('.js-plotly-plot')?.data?.length > 0")
    plotted = page.value(
        "[...document.querySelector('.js-plotly-plot').data].filter((t) => t.name.endsWith('.unsmoothed'))"
        ".map((t) => [t.name, t.x.map(Number), t.y.map(Number)])"
    )
    curves = {
        name.removesuffix(".unsmoothed"): list(zip(steps, values, strict=True)) for name, steps, values in plotted
    }
    assert curves == series(folder.journal)
