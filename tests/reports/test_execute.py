"""Runs in real kernels: each way to fail is judged rightly, named, and leaves nothing half-written."""

import json
import os

import nbformat
import pytest

from helpers.lab.parameters import ParameterError
from helpers.reports.execute import RunFailed, execute, report

# One kernel costs about a second; each test starts one.


def run(clone, *sources, values=None, **settings):
    target = clone.root / "out.ipynb"
    return execute(clone.lesson(*sources), target, values or {}, **settings)


def failure(clone, *sources, **settings) -> str:
    source = clone.lesson(*sources)
    before = source.read_bytes()
    with pytest.raises(RunFailed) as caught:
        execute(source, clone.root / "out.ipynb", {}, **settings)
    text = str(caught.value)
    assert "\n" not in text and caught.value.notebook == clone.root / "out.ipynb"
    # The cells that ran are there, with what they printed; the lesson is as it was.
    assert outputs(nbformat.read(clone.root / "out.ipynb", 4))[0] == "ran\n" and source.read_bytes() == before
    return text


def outputs(notebook):
    return [out["text"] for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "stream"]


def test_green_run_has_its_values_injected_and_every_cell_run(clone):
    notebook = run(clone, "print(seed, scale)", "", "# only a comment", values={"seed": 7})
    assert outputs(notebook) == ["7 2.0\n"]
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code" and cell.source)


def test_raising_cell_is_named_with_its_error(clone):
    # The parameters cell is the first, the injected one (there is none) would not count.
    text = failure(clone, "print('ran')", "# why\nx = 1 / 0", "print('never')")
    assert text == "code cell 3 (`x = 1 / 0`) failed: ZeroDivisionError: division by zero"
    assert outputs(nbformat.read(clone.root / "out.ipynb", 4)) == ["ran\n"]


def test_injected_cell_is_not_counted_and_a_long_message_is_its_last_line(clone):
    with pytest.raises(RunFailed, match=r"^code cell 2 \(`raise ValueError.*\) failed: ValueError: second$"):
        run(clone, "raise ValueError('first\\nsecond')", values={"seed": 1})


@pytest.mark.parametrize("leave", ["import sys; sys.exit()", "raise SystemExit(0)"])
def test_cell_that_exits_without_an_error_is_no_green_run(clone, leave):
    # papermill itself ends this one with exit code 0.
    text = failure(clone, "print('ran')", leave, "print('never')")
    assert text.startswith(f"code cell 3 (`{leave}`) failed: the kernel left before it ended")


@pytest.mark.slow
def test_cell_that_takes_too_long_is_named(clone):
    text = failure(clone, "print('ran')", "import time; time.sleep(60)", "print('never')", cell_seconds=2)
    assert text == "code cell 3 (`import time; time.sleep(60)`) failed: it took longer than 2 s"


@pytest.mark.parametrize("more", [["print('never')"], []], ids=["in the middle", "in the last cell"])
def test_dead_kernel_is_blamed_on_the_cell_that_ran(clone, more):
    # It dies some time after its cell began, as it does without memory: the cell has its number by then.
    die = "import os, time; time.sleep(0.3); os._exit(0)"
    text = failure(clone, "print('ran')", die, *more)
    assert text == f"code cell 3 (`{die}`) failed: the kernel died (out of memory, or it was killed)"


def test_lesson_knows_that_no_one_watches_and_only_it_does(clone, monkeypatch):
    monkeypatch.delenv("COURSE_STATIC", raising=False)
    notebook = run(clone, "import os; print(os.environ['COURSE_STATIC'])")
    assert outputs(notebook) == ["1\n"] and "COURSE_STATIC" not in os.environ


def test_an_environment_that_was_set_is_set_again(clone, monkeypatch):
    monkeypatch.setenv("COURSE_STATIC", "mine")
    with pytest.raises(RunFailed):
        run(clone, "1 / 0")
    assert os.environ["COURSE_STATIC"] == "mine"


# Reports


def test_report_leaves_a_whole_folder_and_nothing_hidden(clone):
    clone.lesson()
    folder = report(clone.LESSON, {"seed": "3", "scale": "1.5"})
    assert folder.parent == clone.root / "reports/01_part/01_lesson" and folder.name.endswith("_seed=3-scale=1.5")
    names = {"01_lesson.ipynb", "01_lesson.html", "claims.json", "run.json"}
    assert clone.files() == sorted(str(folder.relative_to(clone.root) / name) for name in names)
    assert json.loads((folder / "claims.json").read_text()) == {"a-claim": 0.5}
    kept = json.loads((folder / "run.json").read_text())
    assert kept["lesson"] == clone.LESSON and kept["seed"] == 3 and kept["seconds"] > 0
    assert kept["parameters"] == {"seed": 3, "scale": 1.5} and kept["figures"] == {"area": 6.0}
    assert {"python", "torch", "numpy"} <= set(kept["versions"])
    assert "A lesson" in (folder / "01_lesson.html").read_text(encoding="utf-8")


def test_report_without_parameters_keeps_the_defaults_in_its_record(clone):
    clone.lesson()
    folder = report("notebooks/01_part/01_lesson.ipynb", {})
    assert json.loads((folder / "run.json").read_text())["parameters"] == {"seed": 0, "scale": 2.0}


def test_failed_report_leaves_its_cells_in_a_failed_folder(clone):
    clone.lesson("print('ran')", "1 / 0")
    with pytest.raises(
        RunFailed, match="^01_part/01_lesson: code cell 3 .*; the cells that ran are in reports/"
    ) as caught:
        report(clone.LESSON, {})
    folder = caught.value.notebook
    assert folder.name.endswith(".failed") and clone.files() == [
        str(folder.relative_to(clone.root) / "01_lesson.ipynb")
    ]
    assert str(folder.relative_to(clone.root)) in str(caught.value)


def test_interrupted_report_leaves_nothing_under_a_final_name(clone, monkeypatch):
    clone.lesson()

    def interrupt(*_args, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("helpers.reports.execute.execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report(clone.LESSON, {})
    assert all(path.name.startswith(".") for path in (clone.root / "reports" / clone.LESSON).iterdir())


@pytest.mark.parametrize("given", [{"sed": "1"}, {"seed": "10"}, {"scale": "0"}, {"seed": "x"}], ids=str)
def test_refused_parameter_leaves_nothing(clone, given):
    clone.lesson()
    with pytest.raises(ParameterError):
        report(clone.LESSON, given)
    assert not (clone.root / "reports").exists()


def test_unknown_lesson_leaves_nothing(clone):
    with pytest.raises(ParameterError, match="no lesson"):
        report("nope", {})
    assert not (clone.root / "reports").exists()


def test_two_reports_of_one_second_have_two_folders(clone, monkeypatch):
    clone.lesson()
    made = []

    def fake(source, target, values, **_settings):
        target.write_bytes(source.read_bytes())
        made.append(target)
        if len(made) == 2:
            raise RunFailed("failed")
        return nbformat.read(source, 4)

    class Frozen:
        from datetime import datetime as _datetime

        @classmethod
        def now(cls):
            return cls._datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("helpers.reports.execute.execute", fake)
    monkeypatch.setattr("helpers.reports.execute.datetime.datetime", Frozen)
    report(clone.LESSON, {})
    with pytest.raises(RunFailed):
        report(clone.LESSON, {})
    report(clone.LESSON, {})
    stamp = "20260102-030405"
    names = sorted(path.name for path in (clone.root / "reports" / clone.LESSON).iterdir())
    assert names == [stamp, f"{stamp}~2.failed", f"{stamp}~3"]
