"""The HTML report, opened from disk with the network blocked: figures drawn, formulas shown, its slider moved."""

import shutil
import subprocess
import sys

import nbformat
import pytest

from helpers import ROOT
from helpers.lab import ledger
from helpers.reports.html import write_html

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def opened(chromium, path):
    """The page, what it asked the network for, and the errors of its scripts."""
    context = chromium.new_context(offline=True, viewport={"width": 1200, "height": 1400})
    page = context.new_page()
    asked, errors = [], []
    page.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else asked.append(request.url),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    return page, asked, errors


def move_sliders(page) -> int:
    """Drag every figure's own slider to its end; every figure must change. Returns how many were moved."""
    moved = 0
    figures = page.locator(".js-plotly-plot")
    for index in range(figures.count()):
        figure = figures.nth(index)
        rail = figure.locator("rect.slider-rail-touch-rect")
        if not rail.count():
            continue
        rail.scroll_into_view_if_needed()
        state = "element => [element._fullLayout.sliders[0].active, element._fullLayout.title.subtitle.text]"
        before = figure.evaluate(state)
        box = rail.bounding_box()
        page.mouse.click(box["x"] + box["width"] * (0.02 if before[0] else 0.98), box["y"] + box["height"] / 2)
        page.wait_for_timeout(800)
        after = figure.evaluate(state)
        assert before[0] != after[0] and before[1] != after[1], f"figure {index}: {before} → {after}"
        moved += 1
    return moved


LESSONS = list(ledger.lessons())


# The themes differ in a style sheet: every lesson is opened in one of them, two in both.
@pytest.mark.parametrize(
    ("lesson", "theme"), [*((name, "light") for name in LESSONS), *((name, "dark") for name in LESSONS[:2])]
)
def test_the_page_of_a_lesson_needs_no_network_and_moves(chromium, tmp_path, lesson, theme):
    page_file = tmp_path / "page.html"
    notebook = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", 4)
    write_html(notebook, page_file, theme)
    page, asked, errors = opened(chromium, page_file)
    explorers = sum("lab.explore(" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert move_sliders(page) == explorers
    assert asked == [] and errors == []
    formulas = any("$" in cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert bool(page.locator("math").count()) == formulas


def test_a_report_made_by_the_command_moves_offline(chromium, tmp_path):
    made = subprocess.run(
        [sys.executable, "-m", "helpers.reports.cli", "report", "00_start_here", "looks=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    path = ROOT / made.stdout.strip().splitlines()[-1].removeprefix("report: ")
    try:
        page, asked, _ = opened(chromium, path)
        assert move_sliders(page) == 1 and asked == []
        assert "looks = 2.0" in page.content()
    finally:
        shutil.rmtree(path.parent)
