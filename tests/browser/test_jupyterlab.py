"""JupyterLab in a real headless Chromium, started plainly and with no network: the lesson opens, runs and moves."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from helpers import ROOT
from helpers.lab import ledger

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# Every lesson runs twice elsewhere, and there all its sliders move in the kernel. In the browser a kind of control is tried
# once, and two whole lessons; COURSE_EVERY_LESSON=1 tries them all, which takes a minute for each.
NAMES = list(ledger.lessons())[: None if os.environ.get("COURSE_EVERY_LESSON") == "1" else 2]
KINDS = {
    "whole": "x=lab.Slider(3, 0, 9, 1)",
    "fraction": "x=lab.Slider(0.5, 0.0, 1.0, 0.1)",
    "powers": "x=lab.Slider(4, 1, 16, powers=True)",
    "player": "x=lab.Slider(3, 0, 9, 1, play=True)",
    "choice and slider": 'x=lab.Slider(3, 0, 9, 1), by=lab.Choice("a", ("a", "b"))',
    "switches": 'x=lab.Switches(("1",), ("1", "2", "3"))',
    "solid": "x=lab.Slider(3, 0, 9, 1), solid=lab.Choice('yes', ('yes', 'no'))",
}
DRAW = """import plotly.graph_objects as go

from helpers import lab


def draw(x, by="a", solid="no"):
    value = len(x) if isinstance(x, tuple) else x
    cloud = go.Figure().add_scatter3d(x=[0, 1], y=[0, value], z=[0, 1])
    figure = cloud if solid == "yes" else go.Figure().add_scatter(x=[0, 1, 2], y=[0, value, 1])
    return lab.titled(figure, "A figure", f"x is {x}.")
"""
# Style sheets that Panel asks for although it carries all it needs: their absence changes looks only.
SHEETS = ("maplibre-gl.css", "default.css", "native.css", "loading.css", "listpanel.css", "markdown.css", "alerts.css")
# What a reader could ask of each code cell, from the notebook itself: drawn or not, [count, whether it failed].
CELLS = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .filter(cell => cell.type === 'code' && cell.sharedModel.source.trim())
    .map(cell => [cell.executionCount, cell.executionState,
                  cell.outputs.toJSON().some(out => out.output_type === 'error')])"""
READY = """async () => {
    await window.jupyterapp.restored;
    const panel = window.jupyterapp.shell.currentWidget;
    await panel.context.ready;
    await panel.sessionContext.ready;
}"""
CLEAR = "() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A plain `jupyter lab` on copies of the lessons: its address and the folder that it serves."""
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    # The app object lets a test ask the notebook what the page has not drawn.
    options = ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    options += [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    clean = {k: v for k, v in os.environ.items() if k not in ("PANEL_INLINE", "COURSE_STATIC")}
    clean |= {"OMP_NUM_THREADS": "1", "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options],
            env=clean,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"JupyterLab did not start: {(folder / 'server.log').read_text()[-2000:]}")
        yield address, token, folder
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def page(chromium, lab):
    """A page that reaches only this machine; `page.refused` lists what it asked of others."""
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.refused = []

    def local_only(route):
        url = route.request.url
        if url.startswith((lab[0], "data:", "blob:")):
            route.continue_()
        else:
            page.refused.append(url)
            route.abort()

    page.route("**/*", local_only)
    yield page
    context.close()


def open_lesson(page, lab, lesson):
    address, token, _ = lab
    page.goto(f"{address}/lab/tree/notebooks/{lesson}.ipynb?token={token}&reset")
    ready(page)


def ready(page):
    """Wait until the notebook is there and its kernel listens."""
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=90_000)
    page.evaluate(READY)


def run_all(page):
    """Choose Run All Cells and wait until every code cell has run; none may have failed."""
    page.evaluate(CLEAR)
    for turn in range(600):
        # A menu that opens while the page still settles can swallow a click: choose again if nothing has begun.
        if turn % 30 == 0 and not any(count or state == "running" for count, state, _ in page.evaluate(CELLS)):
            page.keyboard.press("Escape")
            page.locator(".jp-Notebook").first.click(position={"x": 5, "y": 5})
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        cells = page.evaluate(CELLS)
        assert not any(failed for _, _, failed in cells)
        if all(count and state != "running" for count, state, _ in cells):
            return
        page.wait_for_timeout(500)
    pytest.fail(f"cells that did not run: {[i for i, cell in enumerate(page.evaluate(CELLS)) if not cell[0]]}")


def cell_of(page, lab, lesson, text):
    """The cell whose source holds a text, scrolled into view."""
    cells = json.loads((lab[2] / "notebooks" / f"{lesson}.ipynb").read_text())["cells"]
    index = next(i for i, c in enumerate(cells) if c["cell_type"] == "code" and text in "".join(c["source"]))
    cell = page.locator(f".jp-Cell[data-windowed-list-index='{index}']")
    for _ in range(60):
        if cell.count():
            break
        page.locator(".jp-WindowedPanel-outer").first.hover()
        page.mouse.wheel(0, 700)
        page.wait_for_timeout(150)
    cell.scroll_into_view_if_needed()
    return cell


def test_a_committed_lesson_shows_its_figures_before_anything_runs(page, lab):
    open_lesson(page, lab, "00_start_here")
    figure = cell_of(page, lab, "00_start_here", "lab.explore(").locator(".js-plotly-plot")
    figure.first.wait_for(timeout=30_000)
    assert figure.locator(".slider-group").count()


def every_explorer_moves(page, lab, lesson, sources):
    """Press a key on the first control of each explorer; its curves and its sentence must change."""
    for source in sources:
        cell = cell_of(page, lab, lesson, source)
        # A control that plays has a plain slider of its own; an explorer of switches may have no slider at all.
        handle = cell.locator(".noUi-handle, input[type='range'], input[type='checkbox']").first
        handle.wait_for(timeout=60_000)
        curves = cell.locator(".js-plotly-plot .cartesianlayer").first
        curves.wait_for(timeout=60_000, state="attached")
        solid = cell.locator(".js-plotly-plot .gl-container canvas").count() > 0  # a cloud is drawn on a canvas
        assert cell.locator(".js-plotly-plot").count() == 1, "an explorer shows once"
        before, sentence = curves.inner_html(), cell.locator("[role='status']").first.inner_text()
        switch = handle.get_attribute("type") == "checkbox"
        handle.focus()
        for key in ("Space",) if switch else ("ArrowLeft", "ArrowLeft"):
            page.keyboard.press(key)
            page.wait_for_timeout(200)
        for turn in range(120):
            # On a busy machine a key can come before the page listens to the kernel; and a slider may start at its
            # low end. Never as many steps back as forth: that would be no change.
            if turn in (30, 60):
                handle.focus()
                for key in ("Space",) if switch else ("ArrowRight",) if turn == 30 else ("ArrowLeft", "ArrowLeft"):
                    page.keyboard.press(key)
                    page.wait_for_timeout(200)
            if (solid or curves.inner_html() != before) and cell.locator(
                "[role='status']"
            ).first.inner_text() != sentence:
                break
            page.wait_for_timeout(100)
        else:
            pytest.fail(f"the slider of {source[:60]!r} changed nothing")
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    # Style sheets that Panel asks for although it carries all it needs; without them only looks differ.
    assert [url for url in page.refused if not url.split("?")[0].endswith(SHEETS)] == []


def explorers_of(path):
    """The sources of the cells that explore."""
    cells = json.loads(path.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [source for source in sources if "lab.explore(" in source]


@pytest.mark.parametrize("lesson", NAMES)
def test_a_lesson_runs_and_every_explorer_moves(page, lab, lesson):
    open_lesson(page, lab, lesson)
    run_all(page)
    explorers = explorers_of(ROOT / "notebooks" / f"{lesson}.ipynb")
    assert explorers
    every_explorer_moves(page, lab, lesson, explorers)


def test_every_kind_of_control_moves(page, lab):
    cells = [nbformat.v4.new_code_cell(DRAW)]
    cells += [nbformat.v4.new_code_cell(f"# {kind}\nlab.explore(draw, {controls})") for kind, controls in KINDS.items()]
    path = lab[2] / "notebooks" / "controls.ipynb"
    # Without a kernel's name JupyterLab would ask for one.
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    open_lesson(page, lab, "controls")
    run_all(page)
    every_explorer_moves(page, lab, "controls", explorers_of(path))


def test_a_saved_lesson_stays_small_and_keeps_its_figures(page, lab):
    lesson = "00_start_here"
    open_lesson(page, lab, lesson)
    run_all(page)
    cell_of(page, lab, lesson, "lab.explore(").locator(".noUi-handle").first.wait_for(timeout=60_000)
    path = lab[2] / "notebooks" / f"{lesson}.ipynb"
    before = path.stat().st_mtime_ns
    page.keyboard.press("Control+s")
    for _ in range(100):
        if path.stat().st_mtime_ns != before:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the notebook was not saved")
    page.wait_for_timeout(500)
    text = path.read_text()
    assert len(text) < 1_000_000 and "holoviews" not in text and '"frames"' in text


def test_an_explorer_is_live_again_after_a_reload_with_the_same_kernel(page, lab):
    lesson = "00_start_here"
    open_lesson(page, lab, lesson)
    run_all(page)
    page.keyboard.press("Control+s")
    page.wait_for_timeout(1500)
    page.reload()
    ready(page)
    run_all(page)
    cell_of(page, lab, lesson, "lab.explore(").locator(".noUi-handle").first.wait_for(timeout=60_000)
