"""The notebooks are the suite: each runs by papermill with a second parameter set, and those with marked outputs also by
nbval with their defaults."""

import copy
import os
import subprocess
import sys

import nbformat
import pytest

from helpers import ROOT
from helpers.lab import ledger
from helpers.lab.claims import results
from helpers.lab.run import Run
from helpers.reports.execute import execute

pytestmark = pytest.mark.slow
# Run in the lesson's own kernel, before it and after it: every control of every explorer, moved to both of its ends.
KEEP = """from helpers.lab import explorer as _explorer

_kept, _init = [], _explorer.Explorer.__init__


def _keep(self, *arguments, **more):
    _init(self, *arguments, **more)
    _kept.append(self)


_explorer.Explorer.__init__ = _keep
"""
MOVE = """import param as _param

from helpers.lab.explorer import Slider as _Slider
from helpers.lab.explorer import Switches as _Switches

_moves = 0
for _each in _kept:
    _text, _pane = _each.layout[1], _each.layout[2]
    _first = [trace.type for trace in _pane.object.data]
    for _name, _control in _each.controls.items():
        _widget, _seen = _each.widgets[_name], set()
        _ends = [[], list(_control.options)] if isinstance(_control, _Switches) else _control.grid()
        for _end in (_ends[0], _ends[-1]):
            _widget.value = _end
            if "value_throttled" in _widget.param:  # the mouse lets go
                with _param.edit_constant(_widget):
                    _widget.value_throttled = _end
            _seen.add(_text.object + _pane.object.to_json())
            assert [trace.type for trace in _pane.object.data] == _first, f"{_name} = {_end}: other traces"
            _moves += 1
        # A control may have no say where another one is as it is; a slider always has.
        assert len(_seen) == 2 or not isinstance(_control, _Slider), f"{_name} changes nothing"
        _start = list(_control.default) if isinstance(_control, _Switches) else _control.default
        _widget.value = _start
print(len(_kept), "explorers,", _moves, "moves")
"""
NAMES = list(ledger.lessons())


def marked(lesson: str) -> bool:
    """Whether a cell's committed output is to be met again by a run with the defaults."""
    cells = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", 4).cells
    return any("nbval-check-output" in cell.metadata.get("tags", ()) for cell in cells)


# Where nothing is marked, a run with the defaults would only repeat what `course notebooks` did for the committed outputs:
# two minutes and a half of two cores, which the suite does not have. COURSE_EVERY_LESSON=1 runs them all the same.
BY_NBVAL = [name for name in NAMES if os.environ.get("COURSE_EVERY_LESSON") == "1" or marked(name)]


def solved(notebook):
    """The notebook with every exercise answered: the answer in a cell's metadata replaces its dots."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if answer := cell.metadata.get("solution"):
            name = answer.split("(")[0].removeprefix("def ").split("=")[0].strip()
            head, check = cell.source.split("lab.check(", 1)
            # Definitions that the check needs stay; the reader's line, or the reader's empty function, goes.
            kept = [line for line in head.splitlines() if not line.startswith((f"{name} = ...", f"def {name}("))]
            kept = [line for line in kept if line != "    ..."]
            cell.source = "\n".join([*kept, answer, "", f"lab.check({check}"])
    return notebook


@pytest.mark.parametrize("lesson", BY_NBVAL)
def test_it_runs_with_its_defaults_by_nbval(lesson):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--nbval-lax",
        f"notebooks/{lesson}.ipynb",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    # A worker of pytest-xdist tells its children that they are workers; nbval's own pytest is none.
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "COURSE_STATIC"))}
    run = subprocess.run(
        [*command, "-o", "addopts=", "--nbval-cell-timeout=300"],
        cwd=ROOT,
        env={**clean, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    cells = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", 4).cells
    code = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert f"{len(code)} passed" in run.stdout, "a cell did not run: " + run.stdout[-500:]


@pytest.mark.parametrize("lesson", NAMES)
def test_it_runs_with_other_parameters_and_every_answer_is_right(lesson, tmp_path):
    source = ROOT / "notebooks" / f"{lesson}.ipynb"
    notebook = solved(nbformat.read(source, 4))
    explorers = sum("lab.explore(" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    before, behind = (nbformat.v4.new_code_cell(text) for text in (KEEP, MOVE))
    notebook.cells = [before, *notebook.cells, behind]
    nbformat.write(notebook, tmp_path / "solved.ipynb")
    second = dict(ledger.lessons()[lesson].second)
    done = execute(tmp_path / "solved.ipynb", tmp_path / "done.ipynb", second, cell_seconds=300)

    assert f"{explorers} explorers" in done.cells[-1].outputs[0]["text"]
    for cell in done.cells:
        if "solution" in cell.metadata:
            said = "".join(out.get("data", {}).get("text/plain", "") for out in cell.outputs)
            assert "✓" in said, f"{cell.id}: {said}"
    _check_claims(lesson, second, results(done))


def _check_claims(lesson: str, second: dict, measured: dict) -> None:
    """One live seed falls where the recorded seeds put it, for each claim that the second set leaves comparable."""
    from helpers.lab import parameters

    known = parameters.declared(lesson)
    run = Run(lesson, {name: p.default for name, p in known.items()} | second, known)
    compared = 0
    for claim in ledger.claims().values():
        if claim.lesson != lesson or not run.comparable(claim):
            continue
        values = ledger.recorded(lesson, claim.profile)["values"][claim.id]
        low, high = claim.band(values)
        assert low <= measured[claim.id] <= high, f"{claim.id}: {measured[claim.id]} outside {low} to {high}"
        compared += 1
    assert compared or not ledger.lessons()[lesson].paper, "no claim was checked live: see chapters.toml, second"
