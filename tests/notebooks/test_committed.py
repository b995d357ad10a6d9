"""What a committed notebook looks like as a file."""

import json
import re

import nbformat
import pytest

from helpers import ROOT
from helpers.lab import ledger, parameters
from helpers.reports.clean import publish
from helpers.reports.commit import LARGEST

NAMES = list(ledger.lessons())
PLOTLY = "application/vnd.plotly.v1+json"


def read(lesson: str) -> dict:
    return json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text(encoding="utf-8"))


def cells(lesson: str, kind: str) -> list[dict]:
    return [cell for cell in read(lesson)["cells"] if cell["cell_type"] == kind]


def test_every_notebook_is_in_the_ledger():
    files = {str(p.relative_to(ROOT / "notebooks").with_suffix("")) for p in (ROOT / "notebooks").rglob("*.ipynb")}
    assert {name for name in files if ".ipynb_checkpoints" not in name} == set(NAMES)


@pytest.mark.parametrize("lesson", NAMES)
def test_it_was_run_top_to_bottom_without_error(lesson):
    code = [cell for cell in cells(lesson, "code") if cell["source"]]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]


@pytest.mark.parametrize("lesson", NAMES)
def test_it_is_small_and_clean(lesson):
    path = ROOT / "notebooks" / f"{lesson}.ipynb"
    assert path.stat().st_size < LARGEST
    assert publish(nbformat.read(path, 4)) == nbformat.read(path, 4), (
        "run `make notebooks`: something only a kernel can show is in it"
    )
    assert not re.search(r"/(?:home|root|work|tmp|Users)/|site-packages", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("lesson", NAMES)
def test_its_cells_have_names_and_one_holds_the_parameters(lesson):
    ids = [cell["id"] for cell in read(lesson)["cells"]]
    assert len(ids) == len(set(ids))
    tagged = [cell for cell in cells(lesson, "code") if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1 and parameters.declared(lesson)
    second = dict(ledger.lessons()[lesson].second)
    assert second and parameters.check(lesson, second)


@pytest.mark.parametrize("lesson", NAMES)
def test_its_code_is_read_at_a_glance(lesson):
    for cell in cells(lesson, "code"):
        lines = "".join(cell["source"]).splitlines()
        assert len(lines) <= 25, cell["id"]
        assert max(map(len, lines), default=0) <= 115, cell["id"]
        assert not re.search(r"https?://|^[!%]", "".join(cell["source"]), re.M), cell["id"]


@pytest.mark.parametrize("lesson", NAMES)
def test_it_is_as_long_as_a_lesson(lesson):
    prose = " ".join("".join(cell["source"]) for cell in cells(lesson, "markdown"))
    if ledger.lessons()[lesson].paper:
        assert 1500 <= len(prose.split()) <= 3500
    without_code = re.sub(r"`[^`]*`|!\[", "", prose)
    assert "!" not in without_code, "a lesson does not shout"


@pytest.mark.parametrize("lesson", NAMES)
def test_its_figures_can_be_seen_without_a_kernel(lesson):
    shown = [out["data"] for cell in cells(lesson, "code") for out in cell["outputs"] if "data" in out]
    figures = [data[PLOTLY] for data in shown if PLOTLY in data]
    assert figures
    explorers = [cell for cell in cells(lesson, "code") if "lab.explore(" in "".join(cell["source"])]
    assert len([figure for figure in figures if figure.get("frames")]) == len(explorers)


@pytest.mark.parametrize("lesson", NAMES)
def test_every_axis_of_a_curve_says_what_it_shows(lesson):
    for cell in cells(lesson, "code"):
        for output in cell["outputs"]:
            layout = output.get("data", {}).get(PLOTLY, {}).get("layout")
            if layout is None:
                continue
            assert layout["title"]["text"] and layout["title"]["subtitle"]["text"], cell["id"]
            for trace in output["data"][PLOTLY]["data"]:
                if trace["type"] == "scatter3d":  # its axes stand in a scene
                    scene = layout[trace.get("scene", "scene")]
                    assert all(scene[f"{letter}axis"]["title"]["text"] for letter in "xyz"), cell["id"]
                    continue
                for letter in "xy":
                    axis = layout[trace.get(f"{letter}axis", letter).replace(letter, f"{letter}axis")]
                    # Axes that share a title, or a picture without ticks, hide their labels.
                    hidden = axis.get("showticklabels") is False or "matches" in axis
                    assert hidden or axis.get("title", {}).get("text") is not None, f"{cell['id']}: {letter} axis"


@pytest.mark.parametrize("lesson", NAMES)
def test_every_exercise_carries_an_answer_that_the_tests_run(lesson):
    exercises = [cell for cell in cells(lesson, "code") if "lab.check(" in "".join(cell["source"])]
    assert exercises and all("solution" in cell["metadata"] for cell in exercises)
