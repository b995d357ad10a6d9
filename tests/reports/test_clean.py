"""What stays in a saved and in a committed notebook, and that cleaning twice is cleaning once."""

import copy
import json

import nbformat
import nbformat.v4 as nb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.reports.clean import before_save, lean, publish

PLOTLY = "application/vnd.plotly.v1+json"
FIGURE = {"data": [{"y": [1, 2]}], "layout": {}}


def show(metadata=None, **data):
    names = {
        "plotly": PLOTLY,
        "html": "text/html",
        "text": "text/plain",
        "script": "application/javascript",
        "load": "application/vnd.holoviews_load.v0+json",
        "panel": "application/vnd.holoviews_exec.v0+json",
        "widget": "application/vnd.jupyter.widget-view+json",
        "quiz": "application/vnd.spikes.quiz+json",
        "result": "application/vnd.spikes.result+json",
    }
    return nb.new_output("display_data", data={names[k]: v for k, v in data.items()}, metadata=metadata or {})


OUTPUTS = {
    # name: (output, what is left of it: its MIME types, or None)
    "explorer": (show(plotly=FIGURE, panel="", html="<script>live</script>", text="E"), {PLOTLY, "text/plain"}),
    "figure": (show(plotly=FIGURE, text="F"), {PLOTLY, "text/plain"}),
    "figure with html": (show(plotly=FIGURE, html="<b>"), {PLOTLY, "text/html"}),
    "panel's scripts": (show(load="", script="x"), None),
    "panel alone": (show(panel="", html="<div id='p1002'>", text="Column"), None),
    "progress bar": (show(widget={"model_id": "abc"}, text="0%"), None),
    "quiz": (
        show(quiz={"question": "?"}, widget={"model_id": "abc"}, html="<details>", text="?"),
        {"application/vnd.spikes.quiz+json", "text/html", "text/plain"},
    ),
    "table": (show(html="<table>", text="t"), {"text/html", "text/plain"}),
    "claim": (
        show(result={"a": 1}, html="<table>", text="t"),
        {"application/vnd.spikes.result+json", "text/html", "text/plain"},
    ),
    "empty": (show(), None),
    "text": (nb.new_output("execute_result", data={"text/plain": "1"}, execution_count=1), {"text/plain"}),
}


def notebook_with(*outputs, **metadata):
    cell = nb.new_code_cell("x", outputs=copy.deepcopy(list(outputs)), execution_count=1, metadata=metadata)
    return nb.new_notebook(cells=[nb.new_markdown_cell("# t"), cell])


@pytest.mark.parametrize(("output", "left"), OUTPUTS.values(), ids=OUTPUTS)
def test_what_needs_no_kernel_stays(output, left):
    cell = lean(notebook_with(output))["cells"][1]
    assert [set(out["data"]) for out in cell["outputs"]] == ([] if left is None else [left])


@pytest.mark.parametrize("output", [nb.new_output("stream", text="hi"), nb.new_output("error", ename="E", evalue="v")])
def test_streams_and_errors_stay(output):
    assert lean(notebook_with(output))["cells"][1]["outputs"] == [output]


def test_plotlys_figure_is_kept_as_it_was_and_panels_metadata_goes():
    panel = "application/vnd.holoviews_exec.v0+json"
    cell = lean(notebook_with(show(metadata={panel: {"id": "p1"}}, plotly=FIGURE, panel="")))["cells"][1]
    assert cell["outputs"][0]["data"][PLOTLY] == FIGURE and cell["outputs"][0]["metadata"] == {}


def test_run_times_and_widget_states_go_and_execution_counts_stay():
    times = {"papermill": {"duration": 1}, "execution": {"iopub.status.busy": "2026"}, "ExecuteTime": {}, "tags": []}
    notebook = notebook_with(**times)
    notebook["metadata"].update(papermill={}, widgets={}, kernelspec={"name": "python3", "display_name": "mine"})
    lean(notebook)
    assert notebook["cells"][1]["metadata"] == {} and notebook["cells"][1]["execution_count"] == 1
    assert set(notebook["metadata"]) == {"kernelspec"}


def test_tags_that_say_something_stay():
    assert lean(notebook_with(tags=["parameters"]))["cells"][1]["metadata"] == {"tags": ["parameters"]}


# For the repository


def full():
    notebook = notebook_with(*(output for output, _ in OUTPUTS.values()))
    notebook["cells"] += [
        nb.new_code_cell("seed = 3", metadata={"tags": ["injected-parameters"]}, execution_count=2),
        nb.new_code_cell(
            "slow()",
            metadata={"tags": ["volatile"]},
            execution_count=3,
            outputs=[nb.new_output("stream", text="3.2 s")],
        ),
        nb.new_code_cell(
            "noisy()",
            execution_count=4,
            outputs=[
                nb.new_output("stream", name="stderr", text="warning"),
                nb.new_output("stream", name="stdout", text="said"),
                nb.new_output("execute_result", data={"text/plain": "<Thing at 0x7f276e7ffcd0>"}, execution_count=4),
            ],
        ),
    ]
    kernel = {"name": "mine", "display_name": "Mine"}
    notebook["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python", "version": "3.9"}}
    return notebook


@pytest.mark.parametrize("clean", [lean, publish])
def test_cleaning_again_changes_nothing(clean):
    once = clean(full())
    assert clean(copy.deepcopy(once)) == once


@pytest.mark.parametrize("clean", [lean, publish])
def test_cleaned_notebook_is_valid(clean):
    nbformat.validate(nbformat.from_dict(clean(full())))


def test_cleaning_works_on_what_json_gives_too():
    # In a file, texts are lists of lines.
    notebook = json.loads(nbformat.writes(full()))
    texts = [
        "".join(out["data"]["text/plain"])
        for cell in publish(notebook)["cells"]
        for out in cell.get("outputs", [])
        if "text/plain" in out.get("data", {})
    ]
    assert "<Thing>" in texts


def test_publishing_drops_what_differs_from_run_to_run():
    cells = publish(full())["cells"]
    assert [cell["source"] for cell in cells] == ["# t", "x", "slow()", "noisy()"]
    assert [cell.get("execution_count") for cell in cells] == [None, 1, 3, 4]
    assert cells[2]["outputs"] == []
    said, thing = cells[3]["outputs"]
    assert said["text"] == "said" and thing["data"]["text/plain"] == "<Thing>"


def test_publishing_joins_what_was_printed_in_several_messages():
    said = [nb.new_output("stream", name="stdout", text=text) for text in ("one\n", "two\n", "three\n")]
    warned = nb.new_output("stream", name="stderr", text="careful\n")
    table = show(html="<table>", text="t")
    outputs = publish(notebook_with(said[0], warned, said[1], table, said[2]))["cells"][1]["outputs"]
    assert [output.get("text") for output in outputs] == ["one\ntwo\n", None, "three\n"]


def test_publishing_leaves_only_the_kernels_and_the_languages_name():
    assert publish(full())["metadata"] == {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


# On every save

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OUTPUT = st.fixed_dictionaries(
    {}, optional={"output_type": JUNK | st.just("display_data"), "data": JUNK, "metadata": JUNK, "name": JUNK}
)
WIDGET = st.fixed_dictionaries(
    {"output_type": st.just("display_data")},
    optional={
        "data": st.dictionaries(st.sampled_from(["application/vnd.jupyter.widget-view+json", PLOTLY, "x"]), JUNK),
        "metadata": JUNK,
    },
)
CELL = st.fixed_dictionaries(
    {},
    optional={
        "metadata": JUNK | st.fixed_dictionaries({"tags": JUNK}),
        "cell_type": JUNK | st.just("code"),
        "outputs": JUNK | st.lists(OUTPUT | WIDGET | JUNK, max_size=3),
    },
)
CONTENT = st.fixed_dictionaries(
    {}, optional={"nbformat": st.just(4) | JUNK, "cells": JUNK | st.lists(CELL | JUNK, max_size=3), "metadata": JUNK}
)
MODEL = JUNK | st.fixed_dictionaries({"type": st.just("notebook") | JUNK}, optional={"content": CONTENT | JUNK})


@settings(max_examples=300, deadline=None)
@given(MODEL)
def test_saving_never_fails_on_junk(model):
    before_save(model, path="x.ipynb", contents_manager=None)


def test_saving_cleans_a_notebook():
    notebook = full()
    model = {"type": "notebook", "content": copy.deepcopy(notebook)}
    before_save(model=model, path="x.ipynb", contents_manager=None)
    assert model["content"] == lean(notebook)


@pytest.mark.parametrize("model", [{"type": "file", "content": "text"}, {"type": "directory", "content": None}])
def test_saving_leaves_other_files_alone(model):
    before = copy.deepcopy(model)
    before_save(model=model, path="x", contents_manager=None)
    assert model == before


def test_saving_leaves_an_older_format_alone():
    model = {"type": "notebook", "content": {"nbformat": 3, "worksheets": [], "metadata": {"widgets": 1}}}
    before_save(model=model)
    assert model["content"]["metadata"] == {"widgets": 1}
